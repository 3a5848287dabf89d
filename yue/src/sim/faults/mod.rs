//! Faults as data: what happens to a system, and when.
//!
//! ```text
//!   chaos.rs   seed, level, hosts ──▶ Schedule ◀──▶ text.rs      one line for each fault
//!                                        │            options.rs   name=value at its end
//!                                        │            values.rs    times and probabilities
//!                                        ▼
//!                                   player.rs   a thread of the scenario's host ──▶ control.rs   begins
//! ```
//!
//! A new kind of fault is a variant of [`Fault`], a line in `text.rs`, a begin in `control.rs`, and an end in
//! `player.rs`. The level from which a schedule contains it is in `chaos.rs`, the simpler forms that shrinking tries
//! are in `simpler.rs`.

mod chaos;
mod control;
mod options;
mod player;
mod simpler;
mod text;
mod values;

pub use chaos::Chaos;
pub use text::ScheduleError;

pub(super) use player::play;
pub(super) use simpler::simpler_forms;

use super::{DiskFaults, DiskLatency, Link, NetworkFaults};
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
    /// A host's wall clock jumps by this many milliseconds, once; back if they are negative.
    ClockJump(String, i64),
    /// Calls on a host's sockets fail for want of resources, with these probabilities.
    NetworkFaults(String, NetworkFaults),
    /// Operations of a host's disk fail, or transfer fewer bytes, with these probabilities.
    DiskFaults(String, DiskFaults),
    /// Operations of a host's disk take another time.
    DiskLatency(String, DiskLatency),
    /// A host's disk is full: writes that take space fail with `ENOSPC`.
    DiskFull(String),
    /// All operations of a host's disk hang. The host itself continues.
    FreezeDisk(String),
    /// A host crashes at this operation of its disk, counted from the fault's begin; 1 is the next one. At the fault's
    /// end it starts again. If it has not come so far by then, it does not crash.
    CrashAtOperation(String, u64),
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
            | Fault::ClockDrift(host, _)
            | Fault::ClockJump(host, _)
            | Fault::NetworkFaults(host, _)
            | Fault::DiskFaults(host, _)
            | Fault::DiskLatency(host, _)
            | Fault::DiskFull(host)
            | Fault::FreezeDisk(host)
            | Fault::CrashAtOperation(host, _) => vec![host],
        }
    }

    /// Whether it happens at one instant, so that it has no end.
    pub fn is_instant(&self) -> bool {
        matches!(self, Fault::ResetConnections(..) | Fault::ClockJump(..))
    }

    /// Whether it stops a host for a time. The scenario's own cannot be stopped.
    pub(super) fn stops_host(&self) -> bool {
        matches!(
            self,
            Fault::Crash(_) | Fault::Freeze(_) | Fault::CrashAtOperation(..)
        )
    }

    /// Whether the other fault changes the same: the same kind for the same hosts, in any order.
    pub(super) fn is_about_same(&self, other: &Fault) -> bool {
        let (mut one, mut two) = (self.hosts(), other.hosts());
        one.sort_unstable();
        two.sort_unstable();
        std::mem::discriminant(self) == std::mem::discriminant(other) && one == two
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
/// 1s jump-clock A -3600s              a wall clock that is set back
/// 1s network-faults A socket=0.1 accept=0.1 send=0.1 until 9s
/// 1s disk-faults A open=0.1 read=0.1 write=0.1 sync=0.1 inspect=0.1 change=0.1 no-space=0.1 short-read=0.1
///    short-write=0.1 until 9s         (one line) operations fail, or transfer fewer bytes
/// 1s disk-latency A operation=20ms jitter=10ms sync=100ms until 9s
/// 1s disk-full A until 9s             writes fail for want of space
/// 1s freeze-disk A until 4s           operations hang
/// 1s crash-at-operation A 17 until 5s the 17th operation of the disk from now is the last; started again
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
