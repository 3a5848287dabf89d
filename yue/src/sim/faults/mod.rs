//! Faults as data: what happens to a system, and when.
//!
//! ```text
//!   chaos.rs   seed, level, hosts ──▶ Schedule ◀──▶ text.rs   one line for each fault
//!                                        │
//!                                        ▼
//!                                   player.rs   a thread of the scenario's host: Control
//! ```
//!
//! A new kind of fault is a variant of [`Fault`], a line in `text.rs`, and a begin and an end in `player.rs`. The level
//! from which a schedule contains it is in `chaos.rs`.

mod chaos;
mod player;
mod text;

pub use chaos::Chaos;
pub use text::ScheduleError;

pub(super) use player::play;
pub(super) use text::link_text;

use super::Link;
use std::time::Duration;

/// Something that goes wrong. Hosts are named.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// No packet passes between two hosts.
    Partition(String, String),
    /// No packet passes from the first host to the second.
    PartitionOneWay(String, String),
    /// The connections between two hosts are reset, once.
    ResetConnections(String, String),
    /// A host is switched off. At the fault's end it starts again.
    Crash(String),
    /// A host is paused.
    Freeze(String),
    /// The link between two hosts is another one.
    Link(String, String, Link),
    /// Reads and writes of a host's streams transfer fewer bytes than they could, with these probabilities.
    ShortTransfers(String, f64, f64),
    /// A host's clock is too fast by this many millionths, or too slow if it is negative.
    ClockDrift(String, i64),
}

impl Fault {
    /// The hosts that it concerns: one or two.
    pub fn hosts(&self) -> Vec<&str> {
        match self {
            Fault::Partition(one, other)
            | Fault::PartitionOneWay(one, other)
            | Fault::ResetConnections(one, other)
            | Fault::Link(one, other, _) => vec![one, other],
            Fault::Crash(host)
            | Fault::Freeze(host)
            | Fault::ShortTransfers(host, ..)
            | Fault::ClockDrift(host, _) => vec![host],
        }
    }

    /// Whether it happens at one instant, so that it has no end.
    pub fn is_instant(&self) -> bool {
        matches!(self, Fault::ResetConnections(..))
    }
}

/// A fault and its time, since the beginning of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduled {
    /// The time at which it begins.
    pub at: Duration,
    /// The fault.
    pub fault: Fault,
    /// The time at which it ends: the partition heals, the host starts again. `None` if it does not, or has no end.
    pub until: Option<Duration>,
}

/// The faults of a run, in the order of their times.
///
/// It is written as text, one fault a line, and read back from it. A semicolon is as good as a new line, and `#` begins
/// a comment:
///
/// ```
/// use yue::sim::Schedule;
///
/// let schedule: Schedule = "1.203s partition bank customer until 4.5s; 5s crash bank until 5.4s".parse()?;
/// assert_eq!(schedule.len(), 2);
/// assert_eq!(
///     schedule.to_string(),
///     "1.203s partition bank customer until 4.5s\n5s crash bank until 5.4s\n"
/// );
/// # Ok::<(), yue::sim::ScheduleError>(())
/// ```
///
/// The lines, in which `A` and `B` are hosts:
///
/// ```text
/// 1s partition A B until 4s           no packet passes
/// 1s partition A -> B until 4s        no packet passes from A to B
/// 1s reset A B                        connections are reset
/// 1s crash A until 1.5s               switched off, and started again
/// 1s freeze A until 2s                paused
/// 1s link A B latency=50ms jitter=10ms loss=0.1 duplicate=0.01 reorder=0.1 bandwidth=100000 until 9s
/// 1s short-transfers A read=0.3 write=0.3 until 9s
/// 1s drift A 200ppm until 9s          a clock that is too fast
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule {
    faults: Vec<Scheduled>,
}

impl Schedule {
    /// A schedule without faults.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// Adds a fault that begins at `at` and ends at `until`.
    pub fn fault(mut self, at: Duration, fault: Fault, until: impl Into<Option<Duration>>) -> Self {
        let until = until.into();
        self.extend([Scheduled { at, fault, until }]);
        self
    }

    /// The faults, in the order of their times.
    pub fn faults(&self) -> &[Scheduled] {
        &self.faults
    }

    /// The number of faults.
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    /// Whether there is no fault.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Extend<Scheduled> for Schedule {
    fn extend<I: IntoIterator<Item = Scheduled>>(&mut self, faults: I) {
        self.faults.extend(faults);
        // Stable: faults of one instant happen in the order in which they were added.
        self.faults.sort_by_key(|scheduled| scheduled.at);
    }
}

impl FromIterator<Scheduled> for Schedule {
    fn from_iter<I: IntoIterator<Item = Scheduled>>(faults: I) -> Schedule {
        let mut schedule = Schedule::new();
        schedule.extend(faults);
        schedule
    }
}
