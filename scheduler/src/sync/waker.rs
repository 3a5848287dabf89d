//! Whoever waits, fiber or thread: how it suspends, and how it is woken.

use super::atomic::{Thread, current_thread, park_thread, park_thread_until, thread_time_is_up};
use crate::event_loop::this_loop;
use crate::fiber::{
    LocalWaker, RemoteWaker, Stopped, Wakeup, begin_wait_number, in_fiber, may_suspend,
    park_uninterruptible, park_unrefused, prepare_park, wake_from_here,
};
use crate::time::Instant;
use std::cell::Cell;
use std::fmt;

/// Ends the wait of a fiber or of a plain thread, from any thread. Used late, it does nothing (a thread may see one
/// spurious unpark).
#[derive(Clone)]
pub struct Signal(Target);

#[derive(Clone)]
enum Target {
    Fiber(RemoteWaker),
    Thread(Thread),
}

impl Signal {
    /// Begins a wait of the calling fiber or thread; earlier signals of the fiber are void from here on.
    pub(crate) fn new() -> Signal {
        Signal(if in_fiber() {
            Target::Fiber(prepare_park().remote())
        } else {
            Target::Thread(current_thread())
        })
    }

    /// The same as a [`LocalWaker`], for who keeps those. `None` if a plain thread waits, or another fiber than the
    /// calling one.
    pub fn local_waker(&self) -> Option<LocalWaker> {
        match &self.0 {
            Target::Fiber(waker) if in_fiber() => LocalWaker::of_this_fiber(*waker),
            _ => None,
        }
    }

    /// Whether the calling fiber has begun no other wait since. Always so for a plain thread: its waits have no number.
    pub(crate) fn is_current(&self) -> bool {
        match &self.0 {
            Target::Fiber(waker) => LocalWaker::of_this_fiber(*waker).is_some(),
            Target::Thread(_) => true,
        }
    }

    /// Wakes whoever waits: its select looks at its branches again.
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

/// A pseudo-random number below `count`: for a fiber a function of its number and of the waits that it has begun, this
/// being one.
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
    // Its upper half, as a fraction of one, times the count: no division.
    (((number >> 32) * count as u64) >> 32) as usize
}

thread_local! {
    /// Selects of this plain thread.
    static THREAD_SELECTS: Cell<u64> = const { Cell::new(0) };
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(mut number: u64) -> u64 {
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Panics where the caller could not wait: before it is in any queue.
///
/// # Panics
/// As [`park`](crate::park) would; in a callback of a loop; for what only fibers can wait for, on a plain thread too.
pub(super) fn assert_may_wait(between_threads: bool) {
    if in_fiber() {
        if let Err(reason) = may_suspend() {
            panic!("{reason}");
        }
        return;
    }
    // Its loop, for which others may be waiting, would stand still; most likely the one that could end the wait, too.
    this_loop::assert_not_in_callback();
    if !between_threads {
        panic!(
            "not in a fiber: only a fiber can wait for what belongs to a loop, such as what is in sync::local; use \
             spawn, or sync"
        );
    }
}

/// Suspends until a signal, until `at`, or until the fiber is told to stop. A refusal is not noted yet: the caller may
/// find that it was given what it waited for. Threads may come back for no reason.
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

/// Suspends until a signal, whatever else happens.
pub(super) fn suspend_hard(reason: &'static str) {
    if in_fiber() {
        park_uninterruptible(reason);
    } else {
        park_thread();
    }
}
