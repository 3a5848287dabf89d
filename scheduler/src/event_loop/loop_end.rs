//! Waits of fibers for the end of a fiber on another loop of the same thread.
//!
//! A fiber that ends wakes the fibers that wait for it. An abandoned fiber never ends. So its loop, when it is dropped,
//! wakes all fibers of other loops that wait for its fibers, and they find the fiber gone. Fibers of the loop itself
//! are abandoned too and need no wake-up. A wait from another thread is ended by other means (see `handle.rs`).

use crate::fiber::LocalWaker;
use std::cell::RefCell;

thread_local! {
    /// The wakers to use at the end of a loop, each with that loop's number.
    static WAITING: RefCell<Vec<(u32, LocalWaker)>> = const { RefCell::new(Vec::new()) };
}

/// Registers `waker` for the end of that loop, unless the waiting fiber runs on that loop itself.
#[inline]
pub(crate) fn wake_at_end_of(loop_id: u32, waker: LocalWaker) {
    if waker.fiber().loop_id() != loop_id {
        register(loop_id, waker);
    }
}

#[cold]
fn register(loop_id: u32, waker: LocalWaker) {
    // Fails while the thread's locals are being destroyed; no fiber runs then.
    let _ = WAITING.try_with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        // A fiber is only ever in one wait.
        waiting.retain(|(_, other)| other.fiber() != waker.fiber());
        waiting.push((loop_id, waker));
    });
}

/// Wakes all fibers that wait for this loop. Called when the loop has ended and been withdrawn from the registry.
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
