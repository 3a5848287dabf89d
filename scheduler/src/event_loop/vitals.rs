//! The vitals of a loop: the counters and the heartbeat that other threads can read.
//!
//! The loop counts in plain cells and copies them here once a tick. So counting costs the hot paths one addition
//! without a lock, and any thread may read at any time, even when the loop is stuck. The values are as old as the
//! loop's last tick.
//!
//! All atomics here are relaxed: one thread writes each, each is meaningful by itself, and they publish nothing else.

use super::histogram::Histogram;
use crate::stack::StackCounted;
use crate::time::{Instant, TickTime};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Whether loops also measure times, which is not free.
static TIMING: AtomicBool = AtomicBool::new(false);

/// Turns timing on or off in all loops of the process: the histograms of [`metrics_text`](crate::inspect::metrics_text)
/// and the run time of each fiber.
///
/// Timing is off by default. While it is on, each run of a fiber reads the clock once, which takes about 20 ns.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect, spawn, this_loop, yield_now};
///
/// inspect::set_timing(true);
/// Loop::new(Config::default()).unwrap().run(|| {
///     yield_now().unwrap(); // the current tick began without timing
///     let worker = spawn(|| loop {
///         std::hint::black_box((0..1000).sum::<u64>());
///         if yield_now().is_err() {
///             break;
///         }
///     });
///     yue_scheduler::sleep(Duration::from_millis(5)).unwrap();
///     let all = this_loop::fibers();
///     let found = all.iter().find(|fiber| fiber.id == worker.id()).unwrap();
///     assert!(found.run_time.unwrap() > Duration::ZERO);
///     worker.cancel();
/// });
/// ```
pub fn set_timing(on: bool) {
    TIMING.store(on, Ordering::Relaxed);
}

/// Returns whether [`set_timing`] is on.
pub fn timing() -> bool {
    TIMING.load(Ordering::Relaxed)
}

/// The counters of a loop, in the order of [`Vitals::values`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) live: u64,
    pub(crate) parked: u64,
    pub(crate) timers: u64,
    pub(crate) operations: u64,
    pub(crate) spawned: u64,
    pub(crate) panics: u64,
    pub(crate) ticks: u64,
    pub(crate) switches: u64,
    pub(crate) wakes_local: u64,
    pub(crate) wakes_remote: u64,
    pub(crate) messages: u64,
    pub(crate) stacks_small: StackCounted,
    pub(crate) stacks_deep: StackCounted,
}

const VALUES: usize = size_of::<Counted>() / size_of::<u64>();

/// The part of a loop that any thread may read.
pub(crate) struct Vitals {
    values: [AtomicU64; VALUES],
    /// Twice the number of ticks, plus one while the loop is inside a tick and does not wait for the kernel.
    beat: AtomicU64,
    /// The loop's clock as the last tick read it, and the number of that tick.
    clock: AtomicU64,
    clock_tick: AtomicU64,
    /// The number of times that the watchdog found the loop held.
    pub(crate) held: AtomicU64,
    pub(crate) tick_duration: Histogram,
    pub(crate) run_latency: Histogram,
    pub(crate) timer_lateness: Histogram,
    pub(crate) driver: &'static str,
    pub(crate) thread: OwnThread,
    pub(crate) created: Instant,
    /// The processor time that the thread had used before.
    pub(crate) cpu_before: Duration,
}

/// The thread that created a loop, on which it runs.
#[derive(Debug, Clone)]
pub(crate) struct OwnThread {
    pub(crate) name: Box<str>,
    /// The kernel's thread id.
    pub(crate) number: libc::pid_t,
    pub(crate) stack: Range<usize>,
}

impl OwnThread {
    fn current() -> Self {
        OwnThread {
            name: std::thread::current().name().unwrap_or("unnamed").into(),
            number: crate::thread_id(),
            stack: own_stack(),
        }
    }
}

/// Returns the processor time that the calling thread has used.
fn own_cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours; the clock exists on every supported Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the range of the calling thread's stack; empty if it is not known.
fn own_stack() -> Range<usize> {
    // SAFETY: the attributes are filled by the call, read, and destroyed.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return 0..0;
        }
        let (mut lowest, mut bytes) = (std::ptr::null_mut(), 0);
        let known = libc::pthread_attr_getstack(&attributes, &mut lowest, &mut bytes) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        let lowest = lowest as usize;
        if known { lowest..lowest + bytes } else { 0..0 }
    }
}

impl Vitals {
    /// Creates the vitals of a loop for the calling thread.
    pub(crate) fn new(driver: &'static str) -> Self {
        Vitals {
            values: [const { AtomicU64::new(0) }; VALUES],
            beat: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            clock_tick: AtomicU64::new(0),
            held: AtomicU64::new(0),
            tick_duration: Histogram::new(),
            run_latency: Histogram::new(),
            timer_lateness: Histogram::new(),
            driver,
            thread: OwnThread::current(),
            created: Instant::system(),
            cpu_before: own_cpu_time(),
        }
    }

    /// Publishes the time at which a tick begins. Called by the loop when it has read its clock.
    #[inline]
    pub(crate) fn read_clock(&self, tick: u64, now: TickTime) {
        self.clock.store(now.as_nanos(), Ordering::Relaxed);
        self.clock_tick.store(tick, Ordering::Relaxed);
    }

    /// Returns the loop's clock as the last tick read it, and the number of that tick.
    pub(crate) fn last_tick(&self) -> (Instant, u64) {
        let tick = self.clock_tick.load(Ordering::Relaxed);
        (
            Instant::from_nanos(self.clock.load(Ordering::Relaxed)),
            tick,
        )
    }

    /// Publishes the counters. Called by the loop once a tick.
    #[inline]
    pub(crate) fn publish(&self, counted: &Counted) {
        // SAFETY: both are arrays of the same number of words; `Counted` consists of words only (see `VALUES`).
        let words = unsafe { &*std::ptr::from_ref(counted).cast::<[u64; VALUES]>() };
        for (value, word) in self.values.iter().zip(words) {
            value.store(*word, Ordering::Relaxed);
        }
    }

    /// Returns the counters that the loop last published.
    pub(crate) fn counted(&self) -> Counted {
        let words: [u64; VALUES] =
            std::array::from_fn(|index| self.values[index].load(Ordering::Relaxed));
        // SAFETY: as in `publish`.
        unsafe { std::mem::transmute(words) }
    }

    /// Updates the heartbeat. Called by the loop when it begins to work, and when it begins to wait or is left.
    #[inline]
    pub(crate) fn beat(&self, tick: u64, working: bool) {
        self.beat
            .store(tick << 1 | u64::from(working), Ordering::Relaxed);
    }

    /// Returns the number of the tick that the loop is working on, if it is.
    pub(crate) fn working_on(&self) -> Option<u64> {
        let beat = self.beat.load(Ordering::Relaxed);
        (beat & 1 == 1).then_some(beat >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_counters_are_read_back() {
        let vitals = Vitals::new("none");
        let counted = Counted {
            live: 1,
            messages: 2,
            stacks_deep: StackCounted {
                trimmed_bytes: 3,
                ..StackCounted::default()
            },
            ..Counted::default()
        };
        vitals.publish(&counted);
        assert_eq!(format!("{:?}", vitals.counted()), format!("{counted:?}"));
    }

    #[test]
    fn only_a_working_loop_reports_a_tick() {
        let vitals = Vitals::new("none");
        assert_eq!(vitals.working_on(), None);
        vitals.beat(7, true);
        assert_eq!(vitals.working_on(), Some(7));
        vitals.beat(7, false);
        assert_eq!(vitals.working_on(), None);
    }
}
