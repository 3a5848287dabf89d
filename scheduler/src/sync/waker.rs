//! Suspending and waking a waiter, which is a fiber or a plain thread.

use super::atomic::{Thread, current_thread, park_thread, park_thread_until, thread_time_is_up};
use crate::event_loop::this_loop;
use crate::fiber::{
    LocalWaker, RemoteWaker, Stopped, Wakeup, begin_wait_number, in_fiber, may_suspend,
    park_uninterruptible, park_unrefused, prepare_park, wake_from_here,
};
use crate::time::Instant;
use std::cell::Cell;
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
            Target::Fiber(waker) => wake_from_here(*waker),
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

/// Returns a pseudo-random number below `count`. In a fiber it is a function of the fiber's number and of its count of
/// waits, which this call increments.
pub(super) fn shuffle(count: usize) -> usize {
    let number = if in_fiber() {
        mix(begin_wait_number())
    } else if cfg!(loom) {
        // A model must not depend on what ran before it.
        0
    } else {
        THREAD_SELECTS.set(THREAD_SELECTS.get().wrapping_add(1));
        mix(THREAD_SELECTS.get())
    };
    // The upper half, as a fraction of one, times the count. This needs no division.
    (((number >> 32) * count as u64) >> 32) as usize
}

thread_local! {
    /// Number of selects of this plain thread.
    static THREAD_SELECTS: Cell<u64> = const { Cell::new(0) };
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(mut number: u64) -> u64 {
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Panics if the caller cannot wait. Called before it enters any queue.
///
/// # Panics
/// As [`park`](crate::park) would; in a callback of a loop; on a plain thread if only fibers can wait for it.
pub(super) fn assert_may_wait(between_threads: bool) {
    if in_fiber() {
        if let Err(reason) = may_suspend() {
            panic!("{reason}");
        }
        return;
    }
    // The loop would stop, although other waiters may need it; most likely it is the loop that would end the wait, too.
    this_loop::assert_not_in_callback();
    if !between_threads {
        panic!(
            "not in a fiber: only a fiber can wait for something that belongs to a loop, such as sync::local; use \
             spawn, or sync"
        );
    }
}

/// Suspends until a signal, until `at`, or until the fiber is stopped. A refusal is not recorded yet, because the
/// caller may find that its request was granted. A plain thread may return spuriously.
#[inline(always)]
pub(super) fn suspend(reason: &'static str, at: Instant) -> Result<Wakeup, Stopped> {
    if in_fiber() {
        return park_unrefused(reason, at);
    }
    if at == Instant::NEVER {
        park_thread();
        return Ok(Wakeup::Woken);
    }
    park_thread_until(at);
    Ok(if thread_time_is_up(at) {
        Wakeup::TimedOut
    } else {
        Wakeup::Woken
    })
}

/// Suspends uninterruptibly until a signal.
pub(super) fn suspend_uninterruptibly(reason: &'static str) {
    if in_fiber() {
        park_uninterruptible(reason);
    } else {
        park_thread();
    }
}
