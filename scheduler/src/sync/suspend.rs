//! Suspension of a waiter, which is a fiber or a plain thread.

use crate::atomic::{park_thread, park_thread_until, thread_time_is_up};
use crate::event_loop::this_loop;
use crate::fiber::{Stopped, Wakeup, in_fiber, may_suspend, park_uninterruptible, park_unrefused};
use crate::time::Instant;

/// Panics if the caller cannot wait. Called before it enters any queue.
///
/// # Panics
/// Like [`park`](crate::park); in a callback of a loop; and on a plain thread, if only fibers can wait for it.
#[track_caller]
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
            "not in a fiber: only a fiber can wait for something that belongs to a loop, such as sync::local; call \
             this inside `Runtime::run` or `Loop::run`, or use sync"
        );
    }
}

/// Suspends until a signal, until `at`, or until the fiber is stopped. A refusal is not recorded yet, because the
/// caller may find that its request was granted. A plain thread may return spuriously.
#[inline(always)]
#[track_caller]
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
#[track_caller]
pub(super) fn suspend_uninterruptibly(reason: &'static str) {
    if in_fiber() {
        park_uninterruptible(reason);
    } else {
        park_thread();
    }
}
