//! A point in time on a loop's clock, and the clock itself.

use crate::simulation;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A point in time on the loop's clock, in nanoseconds. The system's clock counts from a fixed moment before the
/// program's start (`CLOCK_MONOTONIC`).
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::Instant;
///
/// let start = Instant::from_nanos(1_000);
/// let end = start.saturating_add(Duration::from_micros(2));
/// assert_eq!(end.as_nanos(), 3_000);
/// assert_eq!(end.saturating_since(start), Duration::from_micros(2));
/// assert_eq!(start.saturating_since(end), Duration::ZERO);
/// assert!(Instant::system() < Instant::NEVER);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Later than any deadline.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The instant `ns` nanoseconds after the clock's origin.
    pub const fn from_nanos(ns: u64) -> Self {
        Instant(ns)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant plus `duration`, at most [`Instant::NEVER`].
    pub fn saturating_add(self, duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(ns))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Reads the system's monotonic clock (`CLOCK_MONOTONIC`); on a thread of a [simulation](crate::simulation), its
    /// host's virtual clock.
    pub fn system() -> Self {
        read_clock(libc::CLOCK_MONOTONIC)
    }
}

/// Reads the coarse clock, which the kernel advances once per kernel tick (`CLOCK_MONOTONIC_COARSE`).
fn coarse() -> Instant {
    read_clock(libc::CLOCK_MONOTONIC_COARSE)
}

fn read_clock(clock: libc::clockid_t) -> Instant {
    if let Some(ns) = simulation::monotonic_ns() {
        return Instant(ns);
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec; both clocks exist on every supported Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The maximum lag of the kernel's coarse clock behind the exact one: one kernel tick, of which a second has at least
/// 100.
const COARSE_LAG: Duration = Duration::from_millis(10);

/// From this length on, a time limit may be off by [`COARSE_LAG`], at most a hundredth of it.
const LONG: Duration = Duration::from_secs(1);

/// The source of a loop's time.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use yue_scheduler::{Clock, Config, Instant, Loop, now};
///
/// let time = Rc::new(Cell::new(5));
/// let config = Config { clock: Clock::Manual(time.clone()), ..Config::default() };
/// let l = Loop::new(config).unwrap();
/// assert_eq!(l.enter(now), Instant::from_nanos(5));
/// time.set(7);
/// l.tick().unwrap();
/// assert_eq!(l.enter(now), Instant::from_nanos(7));
/// ```
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's monotonic clock.
    #[default]
    System,
    /// A value that the program advances: virtual time in nanoseconds.
    Manual(Rc<Cell<u64>>),
}

impl Clock {
    pub(crate) fn read(&self) -> Instant {
        match self {
            Clock::System => Instant::system(),
            Clock::Manual(ns) => Instant(ns.get()),
        }
    }

    /// Returns the instant `duration` from now: never earlier, and up to 10 ms later if `duration` is a second or more.
    ///
    /// Every remote call computes one of these. The coarse clock takes 4 ns where the exact one takes 17.
    #[inline]
    pub(crate) fn deadline_after(&self, duration: Duration) -> Instant {
        let now = match self {
            Clock::System if duration >= LONG => coarse().saturating_add(COARSE_LAG),
            _ => self.read(),
        };
        now.saturating_add(duration)
    }

    /// Returns the time until `at`: never more than is left, and up to 10 ms less if a second or more is left.
    #[inline]
    pub(crate) fn time_left(&self, at: Instant) -> Duration {
        if matches!(self, Clock::System) {
            let left = at.saturating_since(coarse().saturating_add(COARSE_LAG));
            if left >= LONG {
                return left;
            }
        }
        at.saturating_since(self.read())
    }

    /// Returns whether `at` has passed. Reads the exact clock only if the coarse one cannot tell.
    #[inline]
    pub(crate) fn is_past(&self, at: Instant) -> bool {
        match self {
            Clock::System if at > coarse().saturating_add(COARSE_LAG) => false,
            _ => at <= self.read(),
        }
    }
}
