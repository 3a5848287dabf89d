//! The disks of the simulation to which the calling thread belongs, and the time that their operations take.
//!
//! An operation runs where its real counterpart would block: on a thread of the pool, while its fiber waits. It takes
//! its time first and has its effect afterwards, at one instant. So a crash finds it either not begun or done.

use super::disk::Disk;
use super::faults::{CrashState, Operation, Verdict};
use super::inode::OpenId;
use crate::simulated::errors::os;
use crate::simulated::with_network;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use yue_scheduler::{Wait, simulation};

#[derive(Default)]
struct Layer {
    disks: BTreeMap<u32, Disk>,
    last_open: OpenId,
}

/// Passes a host's disk to `f`.
pub(super) fn with_disk<R>(host: u32, f: impl FnOnce(&mut Disk) -> R) -> R {
    // Before the lock of the layer, which the clock and the seed do not need.
    let now = simulation::wall_clock();
    let is_new = simulation::layer(|layer: &mut Layer| !layer.disks.contains_key(&host));
    let seed = if is_new { simulation::random() } else { 0 };
    simulation::layer(|layer: &mut Layer| {
        let new = || Disk::new(host, seed, now);
        let disk = layer.disks.entry(host).or_insert_with(new);
        disk.set_now(now);
        f(disk)
    })
}

/// A new number for an open file.
pub(super) fn next_open() -> OpenId {
    simulation::layer(|layer: &mut Layer| {
        layer.last_open += 1;
        layer.last_open
    })
}

/// Performs an operation on a host's disk: it takes its time, and may fail.
///
/// # Errors
/// Those of `f`; those of the disk's faults; `EIO` when the host is down.
pub(super) fn perform<R>(
    host: u32,
    operation: Operation,
    f: impl FnOnce(&mut Disk) -> io::Result<R>,
) -> io::Result<R> {
    let takes_space = matches!(operation, Operation::Write | Operation::Change);
    perform_judged(
        host,
        operation,
        takes_space,
        |disk, failure| match failure {
            Some(errno) => Err(os(errno)),
            None => f(disk),
        },
    )
}

/// Like [`perform`], for an operation that has an effect even when it fails: `f` gets the error number.
pub(super) fn perform_judged<R>(
    host: u32,
    operation: Operation,
    takes_space: bool,
    f: impl FnOnce(&mut Disk, Option<i32>) -> io::Result<R>,
) -> io::Result<R> {
    let (delay, gate) = with_disk(host, |disk| {
        (disk.delay(operation), disk.script.gate.clone())
    });
    wait_for(delay)?;
    simulation::wait_until("a disk that is frozen", move || gate.is_open())?;
    let verdict = with_disk(host, |disk| disk.judge(operation, takes_space))?;
    match verdict {
        Verdict::Proceed => with_disk(host, |disk| f(disk, None)),
        Verdict::Fail(errno) => with_disk(host, |disk| f(disk, Some(errno))),
        Verdict::Crash => {
            with_disk(host, |disk| {
                if disk.random.chance(0.5) {
                    // Nobody learns of the outcome.
                    let _ = f(disk, None);
                }
            });
            crash_here(host)
        }
    }
}

fn wait_for(delay: Duration) -> io::Result<()> {
    if delay.is_zero() {
        return Ok(());
    }
    let until = yue_scheduler::Instant::system().saturating_add(delay);
    simulation::turn(&simulation::Bell::new(), Wait::Block(Some(until)))
}

/// Crashes a host from one of its own threads, which does not continue before it is told that it has been stopped.
fn crash_here<R>(host: u32) -> io::Result<R> {
    let state = with_disk(host, |disk| {
        disk.switch_off();
        disk.script.crashing.clone()
    });
    with_network(|network| network.crash_host(host));
    simulation::freeze(host);
    if let Some(state) = state {
        state.reached.store(true, Ordering::Relaxed);
        simulation::wait_until("the end of its host, which has crashed", move || {
            state.ended.load(Ordering::Relaxed)
        })?;
    }
    Err(os(libc::EIO))
}

/// A planned crash of a host; see [`crash_at_operation`](crate::simulation::crash_at_operation).
#[derive(Debug, Clone)]
pub struct PlannedCrash(pub(super) Arc<CrashState>);

impl PlannedCrash {
    /// Blocks a thread of another host until the host has crashed. Its threads are frozen then, and should be ended
    /// with [`crash`](crate::simulation::crash). Returns false if it has crashed otherwise meanwhile, or the
    /// crash was [cancelled](PlannedCrash::cancel).
    ///
    /// # Errors
    /// When the simulation has ended.
    pub fn wait(&self) -> io::Result<bool> {
        let state = self.0.clone();
        simulation::wait_until("an operation at which a host crashes", move || {
            state.reached.load(Ordering::Relaxed) || state.ended.load(Ordering::Relaxed)
        })?;
        Ok(!self.0.ended.load(Ordering::Relaxed))
    }

    /// Whether the host has reached the operation.
    pub fn is_reached(&self) -> bool {
        self.0.reached.load(Ordering::Relaxed)
    }

    /// Lets the host pass the operation, unless it has reached it.
    pub fn cancel(&self) {
        if !self.is_reached() {
            self.0.ended.store(true, Ordering::Relaxed);
        }
    }
}
