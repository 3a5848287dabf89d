//! Processes whose [`Child`](super::Child) was dropped before they were over: a thread waits for them, so that no
//! zombie stays. It is started with the first, and ends with the last.
//!
//! Loops do not do it: a child may outlive the loop that started it.

use super::child::Process;
use crate::sys;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use yue_scheduler::spawn_with_signals_blocked;

struct Orphans {
    /// Those that the thread does not know yet.
    fresh: Vec<Process>,
    /// Whether the thread is there.
    awaited: bool,
    /// Rings the thread, if there was a descriptor for it.
    bell: Option<Arc<OwnedFd>>,
}

static ORPHANS: Mutex<Orphans> = Mutex::new(Orphans {
    fresh: Vec::new(),
    awaited: false,
    bell: None,
});

/// How often a thread without a bell, or without the memory to wait, looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// No code of the program's runs under the lock, so a poisoned one still holds a whole value.
fn lock() -> MutexGuard<'static, Orphans> {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees to it that a process is reaped when it is over.
pub(super) fn adopt(process: Process) {
    let mut orphans = lock();
    orphans.fresh.push(process);
    if orphans.awaited {
        if let Some(bell) = &orphans.bell {
            sys::ring_event_fd(bell);
        }
        return;
    }
    let bell = sys::event_fd().ok().map(Arc::new);
    let own = bell.clone();
    // Without a thread, they wait for the next child that is dropped.
    if spawn_with_signals_blocked("yue-reaper", move || reap(own.as_deref())).is_ok() {
        orphans.awaited = true;
        orphans.bell = bell;
    }
}

/// The thread: waits for all of them at once, until there is none.
fn reap(bell: Option<&OwnedFd>) {
    let mut known = Vec::new();
    loop {
        {
            let mut orphans = lock();
            known.append(&mut orphans.fresh);
            // An error means that somebody else has reaped it.
            known.retain_mut(|process: &mut Process| matches!(process.child.try_wait(), Ok(None)));
            if known.is_empty() {
                orphans.awaited = false;
                orphans.bell = None;
                return;
            }
        }
        let Some(bell) = bell else {
            thread::sleep(LOOK_EVERY);
            continue;
        };
        let pidfds = known.iter().map(|process| process.pidfd.raw());
        let all = std::iter::once(bell.as_raw_fd()).chain(pidfds);
        if sys::block_until_any_readable(all).is_err() {
            // Too little memory for the call, say: try again later.
            thread::sleep(LOOK_EVERY);
        }
        sys::clear_event_fd(bell);
    }
}
