//! Wakers: plain values that end one wait of one fiber.
//!
//! A waker names its loop and its fiber's header by number. It names its wait by the header's count of waits, which is
//! unique to that wait (64 bits, not reset for the next fiber). A late waker (the fiber resumed for another reason, or
//! has ended) does not match and does nothing. So wakers need no reference counts, are used at most once, and may be
//! dropped. A wake never runs its target: it puts it into the run queue.

use super::current::here;
use super::header::{Header, State, WOKEN};
use super::id::FiberId;
use crate::event_loop::seam::{Inner, Message, registry, try_with_loop};
use std::marker::PhantomData;

/// Ends one wait of one fiber of this thread.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, park, prepare_park, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let waker = prepare_park();
///     assert_eq!(waker.fiber(), current_id());
///     let other = spawn(move || (waker.wake(), waker.wake()));
///     park("the other fiber").unwrap();
///     assert_eq!(other.join().unwrap(), (true, false)); // only one ends the wait
/// });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LocalWaker {
    wait: RemoteWaker,
    generation: u32,
    _this_thread: PhantomData<*const ()>,
}

/// Ends one wait of one fiber, from any thread.
///
/// ```
/// use yue_scheduler::{Config, Loop, park, prepare_park};
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
/// use std::thread;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let answer = Arc::new(AtomicU32::new(0));
///     let (waker, slot) = (prepare_park().remote(), answer.clone());
///     thread::spawn(move || {
///         slot.store(42, Ordering::Release);
///         waker.wake();
///     });
///     park("the thread's answer").unwrap();
///     assert_eq!(answer.load(Ordering::Acquire), 42);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteWaker {
    loop_id: u32,
    index: u32,
    sequence: u64,
}

impl LocalWaker {
    /// Makes the fiber runnable if it is still in this wait. Returns whether this waker ended the wait.
    ///
    /// While the thread is not in the fiber's loop (between two ticks, or in another loop) the wake is sent as
    /// [`RemoteWaker::wake`] would send it, and the result is `false`.
    #[inline]
    pub fn wake(self) -> bool {
        self.wait.wake_from_here()
    }

    /// Returns a waker of the same wait for use on other threads.
    #[inline]
    pub fn remote(self) -> RemoteWaker {
        self.wait
    }

    /// Returns the fiber that waits.
    pub fn fiber(self) -> FiberId {
        FiberId {
            loop_id: self.wait.loop_id,
            index: self.wait.index,
            generation: self.generation,
        }
    }

    /// Returns the waker of the header's current wait.
    #[inline]
    pub(super) fn of_current_wait(l: &Inner, header: &Header) -> LocalWaker {
        LocalWaker {
            wait: RemoteWaker {
                loop_id: l.id(),
                index: header.index.get(),
                sequence: header.sequence.get(),
            },
            generation: header.generation.get(),
            _this_thread: PhantomData,
        }
    }

    /// Returns the waker of the calling fiber's current wait, if `wait` names that wait.
    pub(crate) fn of_this_fiber(wait: RemoteWaker) -> Option<LocalWaker> {
        let (l, header) = here();
        let current = LocalWaker::of_current_wait(l, header);
        (current.wait == wait).then_some(current)
    }
}

impl RemoteWaker {
    /// Makes the fiber runnable if it is still in this wait. Does nothing if the loop has ended. Never blocks.
    pub fn wake(self) {
        registry::send(self.loop_id, Message::Wake(self));
    }

    /// Like [`LocalWaker::wake`], but on any thread.
    #[inline]
    pub(super) fn wake_from_here(self) -> bool {
        match try_with_loop(|l| (l.id() == self.loop_id).then(|| wake_in(l, self))) {
            Some(Some(woken)) => woken,
            _ => {
                self.wake();
                false
            }
        }
    }

    /// Returns the number of the wait among all waits of its fiber's header; never 0.
    pub(super) fn sequence(self) -> u64 {
        self.sequence
    }

    /// Returns the waker of another wait of the same fiber.
    pub(super) fn of_wait(self, sequence: u64) -> RemoteWaker {
        RemoteWaker { sequence, ..self }
    }
}

const _: () = assert!(
    size_of::<RemoteWaker>() == 16,
    "a waker is passed in two registers"
);

/// Ends the wait on the loop's thread. Returns whether it did.
#[inline]
pub(crate) fn wake_in(l: &Inner, wait: RemoteWaker) -> bool {
    let Some(header) = l.slab.at(wait.index) else {
        return false;
    };
    let is_stale =
        header.sequence.get() != wait.sequence && !crate::planted!("stale waker accepted");
    if is_stale || header.has(WOKEN) {
        return false;
    }
    debug_assert!(wait.sequence != 0, "a header's first wait has the number 1");
    debug_assert!(
        header.state.get() != State::Free,
        "freeing a header voids the waker of its last wait"
    );
    match header.state.get() {
        State::Parked => {
            // The flag first: the run queue prefetches more of a woken fiber's stack.
            header.set(WOKEN);
            l.unpark_soon(header);
            l.count_wake();
            true
        }
        // Not parked yet, or already runnable for another reason: the next park returns at once.
        State::Running | State::Ready => {
            header.set(WOKEN);
            l.count_wake();
            true
        }
        State::Free | State::Abandoned => false,
    }
}
