//! Faults of a disk: by probability, by script, and by its speed.

use super::disk::Disk;
use crate::simulated::errors::os;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use yue_scheduler::simulation::Random;

/// The probabilities that an operation of a disk fails. All are zero at the beginning.
///
/// ```
/// use yue_io::simulation::DiskFaults;
///
/// let faults = DiskFaults { write: 0.01, sync: 0.05, ..DiskFaults::default() };
/// assert_eq!(faults.read, 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DiskFaults {
    /// To open or create a file fails with `EIO`.
    pub open: f64,
    /// A read fails with `EIO`.
    pub read: f64,
    /// A write fails with `EIO` and writes nothing.
    pub write: f64,
    /// A sync fails with `EIO`. Some of the file's pending writes are then done and the others lost, although processes
    /// still read them, and the next sync succeeds: as on Linux.
    pub sync: f64,
    /// A question for metadata, or for the names in a directory, fails with `EIO`.
    pub inspect: f64,
    /// A change of names or of metadata fails with `EIO`.
    pub change: f64,
    /// An operation that may take space fails with `ENOSPC`: a write, a new name.
    pub no_space: f64,
    /// A read returns fewer bytes than there are.
    pub short_read: f64,
    /// A write takes fewer bytes than it was given.
    pub short_write: f64,
}

/// The time that operations of a disk take, besides the wait for a thread of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLatency {
    /// The time of every operation.
    pub operation: Duration,
    /// The additional time, chosen for each operation from zero to this.
    pub jitter: Duration,
    /// The additional time of a sync.
    pub sync: Duration,
}

impl Default for DiskLatency {
    /// A solid-state disk.
    fn default() -> Self {
        DiskLatency {
            operation: Duration::from_micros(20),
            jitter: Duration::from_micros(80),
            sync: Duration::from_millis(1),
        }
    }
}

/// The kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Open,
    Read,
    Write,
    Sync,
    Inspect,
    Change,
}

/// The fate of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    Fail(i32),
    Crash,
}

#[derive(Debug, Clone)]
enum Planned {
    Fail,
    Crash(Arc<CrashState>),
}

/// The state that the threads of a host wait for.
#[derive(Debug, Default)]
pub(super) struct Gate {
    frozen: AtomicBool,
    down: AtomicBool,
}

/// Relaxed accesses: the baton orders them.
impl Gate {
    pub(super) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Whether an operation may continue: to its result, or to its error.
    pub(super) fn is_open(&self) -> bool {
        !self.frozen.load(Ordering::Relaxed) || self.down.load(Ordering::Relaxed)
    }
}

/// A planned crash: whether the operation was reached, and whether the host has been ended since.
#[derive(Debug, Default)]
pub(super) struct CrashState {
    pub(super) reached: AtomicBool,
    pub(super) ended: AtomicBool,
}

/// The faults of a disk, and what is planned.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) faults: DiskFaults,
    pub(crate) latency: DiskLatency,
    pub(super) gate: Arc<Gate>,
    /// Operations so far.
    count: u64,
    planned: BTreeMap<u64, Planned>,
    /// A crash that was reached and whose host has not been ended yet.
    pub(super) crashing: Option<Arc<CrashState>>,
}

impl Script {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Lets the `nth` operation from now fail with `EIO`; 1 is the next one.
    pub(super) fn plan_failure(&mut self, nth: u64) {
        self.planned.insert(self.count + nth, Planned::Fail);
    }

    /// Lets the host crash at its `nth` operation from now.
    pub(super) fn plan_crash(&mut self, nth: u64) -> Arc<CrashState> {
        let state = Arc::new(CrashState::default());
        let planned = Planned::Crash(state.clone());
        if let Some(Planned::Crash(other)) = self.planned.insert(self.count + nth, planned) {
            // The thread that waits for it learns that it will not happen.
            other.ended.store(true, Ordering::Relaxed);
        }
        state
    }

    /// The time that an operation takes.
    pub(super) fn delay(&self, operation: Operation, random: &mut Random) -> Duration {
        let DiskLatency {
            operation: base,
            jitter,
            sync,
        } = self.latency;
        let extra = match operation {
            Operation::Sync => sync,
            _ => Duration::ZERO,
        };
        base.saturating_add(extra)
            .saturating_add(random.up_to(jitter))
    }

    fn probability(&self, operation: Operation) -> f64 {
        let faults = &self.faults;
        match operation {
            Operation::Open => faults.open,
            Operation::Read => faults.read,
            Operation::Write => faults.write,
            Operation::Sync => faults.sync,
            Operation::Inspect => faults.inspect,
            Operation::Change => faults.change,
        }
    }

    fn judge(&mut self, operation: Operation, takes_space: bool, random: &mut Random) -> Verdict {
        self.count += 1;
        match self.planned.remove(&self.count) {
            Some(Planned::Fail) => return Verdict::Fail(libc::EIO),
            // One that has ended was cancelled.
            Some(Planned::Crash(state)) if !state.ended.load(Ordering::Relaxed) => {
                self.crashing = Some(state);
                return Verdict::Crash;
            }
            _ => {}
        }
        if random.chance(self.probability(operation)) {
            return Verdict::Fail(libc::EIO);
        }
        if takes_space && random.chance(self.faults.no_space) {
            return Verdict::Fail(libc::ENOSPC);
        }
        Verdict::Proceed
    }

    /// Forgets what was planned: the host has crashed.
    fn forget_plans(&mut self) {
        for planned in std::mem::take(&mut self.planned).into_values() {
            // The thread that waits for a planned crash learns that it will not happen.
            if let Planned::Crash(state) = planned {
                state.ended.store(true, Ordering::Relaxed);
            }
        }
        if let Some(state) = self.crashing.take() {
            state.ended.store(true, Ordering::Relaxed);
        }
    }
}

impl Disk {
    /// Decides on the next operation.
    ///
    /// # Errors
    /// `EIO` when the host is down.
    pub(super) fn judge(&mut self, operation: Operation, takes_space: bool) -> io::Result<Verdict> {
        match self.is_down() {
            true => Err(os(libc::EIO)),
            false => Ok(self.script.judge(operation, takes_space, &mut self.random)),
        }
    }

    pub(super) fn delay(&mut self, operation: Operation) -> Duration {
        self.script.delay(operation, &mut self.random)
    }

    /// Switches the power off, if it is on.
    pub(super) fn switch_off(&mut self) {
        if !self.is_down() {
            self.set_down(true);
            self.crash();
        }
    }

    /// Ends the wait of operations: their host's threads are about to end.
    pub(super) fn end_waits(&mut self) {
        self.script.gate.set_down(true);
        self.script.forget_plans();
    }

    pub(super) fn switch_on(&mut self) {
        self.set_down(false);
        self.script.gate.set_down(false);
    }

    pub(super) fn shortened_read(&mut self, length: usize) -> usize {
        let probability = self.script.faults.short_read;
        shortened(&mut self.random, probability, length)
    }

    pub(super) fn shortened_write(&mut self, length: usize) -> usize {
        let probability = self.script.faults.short_write;
        shortened(&mut self.random, probability, length)
    }
}

/// Sometimes a smaller length than the given one, but not zero.
fn shortened(random: &mut Random, probability: f64, length: usize) -> usize {
    match length > 1 && random.chance(probability) {
        true => 1 + random.below(length as u64 - 1) as usize,
        false => length,
    }
}
