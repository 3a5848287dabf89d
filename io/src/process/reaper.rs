//! Reaps processes whose [`Child`](super::Child) was dropped before they ended, so that no zombie remains. One thread
//! waits for them. It starts with the first such process and ends with the last.
//!
//! Loops do not reap them, because a child may outlive the loop that started it.

use super::child::Process;
use crate::sys;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use yue_scheduler::spawn_with_signals_blocked;

struct Reaper {
    /// Processes that the thread does not know yet.
    fresh: Vec<Process>,
    /// Whether the thread runs.
    running: bool,
    /// Wakes the thread, if a descriptor for the eventfd was available.
    bell: Option<Arc<OwnedFd>>,
}

static REAPER: Mutex<Reaper> = Mutex::new(Reaper {
    fresh: Vec::new(),
    running: false,
    bell: None,
});

/// The polling interval of a thread without a bell, or without the memory to wait.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Locks the table. None of the program's code runs under the lock, so a poisoned lock still holds a consistent value.
fn lock() -> MutexGuard<'static, Reaper> {
    yue_scheduler::lock(&REAPER)
}

/// Ensures that a process is reaped when it ends.
pub(super) fn reap_when_ended(process: Process) {
    let mut reaper = lock();
    reaper.fresh.push(process);
    if reaper.running {
        if let Some(bell) = &reaper.bell {
            sys::ring_event_fd(bell);
        }
        return;
    }
    let bell = sys::event_fd().ok().map(Arc::new);
    let thread_bell = bell.clone();
    // If the thread cannot start, the next dropped child tries again.
    if spawn_with_signals_blocked("yue-reaper", move || run_reaper(thread_bell.as_deref())).is_ok()
    {
        reaper.running = true;
        reaper.bell = bell;
    }
}

/// Runs the thread: waits for all processes at once until none is left.
fn run_reaper(bell: Option<&OwnedFd>) {
    let mut known = Vec::new();
    loop {
        {
            let mut reaper = lock();
            known.append(&mut reaper.fresh);
            // An error means that other code has reaped the process.
            known.retain_mut(|process: &mut Process| matches!(process.child.try_wait(), Ok(None)));
            if known.is_empty() {
                reaper.running = false;
                reaper.bell = None;
                return;
            }
        }
        let Some(bell) = bell else {
            thread::sleep(POLL_INTERVAL);
            continue;
        };
        let pidfds = known.iter().map(|process| process.pidfd.raw());
        let all = std::iter::once(bell.as_raw_fd()).chain(pidfds);
        if sys::block_until_any_readable(all).is_err() {
            // For example too little memory for the call: try again later.
            thread::sleep(POLL_INTERVAL);
        }
        sys::clear_event_fd(bell);
    }
}
