//! The guard of a node: a plain thread that ends the process when its owner is gone, whatever the node's loops do.
//!
//! It watches two things: the lifeline, a pipe that only the owner holds open and that no ring touches, so that the
//! kernel reports the owner's death at once; and the lease, which the node's session renews. A node on its owner's
//! machine has a lifeline and no lease, every other node a lease; one that an agent started has both, as its lifeline
//! leads to the agent.
//!
//! Invariant: once [`Guard::end`] has begun, the process ends after the grace at the latest, with all its descendants.
//! The node is a subreaper, so orphans of its children are its own children, and are found.

use super::lease::clock;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use yue_scheduler::{lock, spawn_with_signals_blocked};

/// The exit code of a process that its guard ends: that of a killed one.
const KILLED: i32 = 128 + libc::SIGKILL;

/// Descendants that start others while they are killed: so many rounds are tried.
const ROUNDS_MAX: usize = 100;

/// Requests the end of the node's program.
type Stop = Box<dyn Fn() + Send>;

/// A handle of the guard.
#[derive(Clone)]
pub(crate) struct Guard(Arc<State>);

struct State {
    /// The time, by the lease's clock in nanoseconds, until which the node may live. `u64::MAX`: no limit.
    until: AtomicU64,
    /// The grace, in nanoseconds.
    grace: AtomicU64,
    /// Set when the process must end now.
    must_end: AtomicBool,
    bell: OwnedFd,
    stop: Mutex<Option<Stop>>,
}

impl Guard {
    /// Starts the guard. Without a lifeline the node lives until the lease's time `until`.
    ///
    /// # Errors
    /// If the thread, or its bell, cannot be made.
    pub(crate) fn start(lifeline: Option<OwnedFd>, until: Option<Duration>) -> io::Result<Guard> {
        // SAFETY: no memory is passed.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if bell < 0 {
            return Err(io::Error::last_os_error());
        }
        let state = Arc::new(State {
            until: AtomicU64::new(until.map_or(u64::MAX, nanoseconds)),
            grace: AtomicU64::new(0),
            must_end: AtomicBool::new(false),
            // SAFETY: a new descriptor that nobody else owns.
            bell: unsafe { OwnedFd::from_raw_fd(bell) },
            stop: Mutex::new(None),
        });
        let watching = state.clone();
        spawn_with_signals_blocked("yue-guard", move || watching.watch(lifeline))?;
        Ok(Guard(state))
    }

    /// Sets the function that requests the end of the program. It is called on the guard's thread.
    pub(crate) fn on_end(&self, stop: impl Fn() + Send + 'static) {
        *lock(&self.0.stop) = Some(Box::new(stop));
    }

    /// The node may live until that time of the lease's clock.
    pub(crate) fn live_until(&self, until: Duration) {
        // Release: pairs with the Acquire in `watch`; nothing else is published.
        self.0.until.store(nanoseconds(until), Ordering::Release);
        self.0.ring();
    }

    pub(crate) fn set_grace(&self, grace: Duration) {
        self.0.grace.store(nanoseconds(grace), Ordering::Release);
        self.0.ring();
    }

    /// The owner is gone: the process ends after the grace.
    pub(crate) fn end(&self) {
        self.0.must_end.store(true, Ordering::Release);
        self.0.ring();
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl State {
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer outlives the call. A full counter has rung already.
        let _ = unsafe { libc::write(self.bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn grace(&self) -> Duration {
        Duration::from_nanos(self.grace.load(Ordering::Acquire))
    }

    /// The body of the thread.
    fn watch(&self, lifeline: Option<OwnedFd>) {
        loop {
            if self.must_end.load(Ordering::Acquire) {
                return self.end();
            }
            let until = self.until.load(Ordering::Acquire);
            let wait_ms = if until == u64::MAX {
                -1
            } else {
                // The grace is part of the lease.
                let at = Duration::from_nanos(until).saturating_sub(self.grace());
                let left = at.saturating_sub(clock());
                if left.is_zero() {
                    return self.end();
                }
                i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
            };
            let entry = |fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // A negative descriptor is ignored.
            let line = lifeline.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let mut entries = [entry(line), entry(self.bell.as_raw_fd())];
            // SAFETY: the entries outlive the call.
            let ready = unsafe { libc::poll(entries.as_mut_ptr(), 2, wait_ms) };
            if ready > 0 && entries[0].revents != 0 {
                return self.end();
            }
            if ready > 0 {
                let mut count = [0; 8];
                // SAFETY: the buffer outlives the call.
                let _ = unsafe {
                    libc::read(
                        self.bell.as_raw_fd(),
                        count.as_mut_ptr().cast(),
                        count.len(),
                    )
                };
            }
        }
    }

    /// Ends the process after the grace.
    fn end(&self) {
        let grace = self.grace();
        if !grace.is_zero() {
            if let Some(stop) = &*lock(&self.stop) {
                stop();
            }
            thread::sleep(grace);
        }
        kill_descendants();
        // SAFETY: no memory is passed. The first call ends this process, too, except as the first one of a container.
        unsafe {
            libc::kill(0, libc::SIGKILL);
            libc::_exit(KILLED);
        }
    }
}

/// Kills all descendants of the process, which is a subreaper.
pub(crate) fn kill_descendants() {
    for _ in 0..ROUNDS_MAX {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            // SAFETY: no memory is passed. A child that nobody has reaped keeps its number.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// The children of all threads of the process.
fn children() -> Vec<libc::pid_t> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .map(|thread| fs::read_to_string(thread.path().join("children")));
    let lists: io::Result<Vec<String>> = lists.collect();
    match lists {
        Ok(lists) => {
            let words = lists.iter().flat_map(|list| list.split_whitespace());
            words.filter_map(|word| word.parse().ok()).collect()
        }
        // A kernel without these files.
        Err(_) => children_by_status(),
    }
}

fn children_by_status() -> Vec<libc::pid_t> {
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &libc::pid_t| {
        // `pid (name) state parent …`; the name may contain anything.
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = status.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1) == Some(&own)
    };
    pids.filter(is_child).collect()
}
