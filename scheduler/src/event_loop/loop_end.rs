//! Fibers that wait for the end of a fiber of another loop of their thread.
//!
//! The fiber that ends wakes who waits for it. One that is abandoned never ends: so its loop, when it is dropped, wakes
//! all who wait for fibers of it, and they find it gone. On the loop itself there is nobody left to be woken then, and
//! a wait from another thread is told by other means (see `handle.rs`).

use crate::fiber::LocalWaker;
use std::cell::RefCell;

thread_local! {
    /// The loop whose end they are to be told of, and the waits.
    static WAITING: RefCell<Vec<(u32, LocalWaker)>> = const { RefCell::new(Vec::new()) };
}

/// Has `waker` used when that loop ends, unless it is the waiting fiber's own.
#[inline]
pub(crate) fn wake_at_end_of(loop_id: u32, waker: LocalWaker) {
    if waker.fiber().loop_id() != loop_id {
        note(loop_id, waker);
    }
}

#[cold]
fn note(loop_id: u32, waker: LocalWaker) {
    // Not while the thread's locals are being destroyed: no fiber runs then.
    let _ = WAITING.try_with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        // A fiber is in one wait at a time.
        waiting.retain(|(_, other)| other.fiber() != waker.fiber());
        waiting.push((loop_id, waker));
    });
}

/// The loop has ended, and is not to be found any more.
pub(super) fn wake_waiting_for(loop_id: u32) {
    let _ = WAITING.try_with(|waiting| {
        let waiting = &mut *waiting.borrow_mut();
        waiting
            .extract_if(.., |(other, _)| *other == loop_id)
            .for_each(|(_, waker)| {
                waker.wake();
            });
    });
}
