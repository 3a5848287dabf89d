//! The waker of a waiter that may be a fiber or a plain thread.

use super::current::in_fiber;
use super::park::prepare_park;
use super::waker::{LocalWaker, RemoteWaker};
use crate::atomic::{Thread, current_thread};
use std::fmt;

/// Ends the wait of a fiber or of a plain thread, from any thread. If it is raised late, it does nothing (a thread may
/// see one spurious unpark).
#[derive(Clone)]
pub struct Signal(Target);

#[derive(Clone)]
enum Target {
    Fiber(RemoteWaker),
    Thread(Thread),
}

impl Signal {
    /// Begins a wait of the calling fiber or thread. Earlier signals of the fiber are void from here on.
    #[track_caller]
    pub(crate) fn new() -> Signal {
        Signal(if in_fiber() {
            Target::Fiber(prepare_park().remote())
        } else {
            Target::Thread(current_thread())
        })
    }

    /// Returns the signal as a [`LocalWaker`]. `None` if the waiter is a plain thread, or a fiber other than the
    /// calling one.
    pub fn local_waker(&self) -> Option<LocalWaker> {
        match &self.0 {
            Target::Fiber(waker) if in_fiber() => LocalWaker::of_this_fiber(*waker),
            _ => None,
        }
    }

    /// Returns whether the calling fiber has begun no other wait since. Always true for a plain thread, whose waits
    /// have no number.
    pub(crate) fn is_current(&self) -> bool {
        match &self.0 {
            Target::Fiber(waker) => LocalWaker::of_this_fiber(*waker).is_some(),
            Target::Thread(_) => true,
        }
    }

    /// Wakes the waiter: its select polls its branches again.
    pub fn raise(&self) {
        match &self.0 {
            Target::Fiber(waker) => drop(waker.wake_from_here()),
            Target::Thread(thread) => thread.unpark(),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Fiber(waker) => waker.fmt(f),
            Target::Thread(_) => f.write_str("Thread"),
        }
    }
}
