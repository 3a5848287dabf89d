//! The fibers of a loop that wait for its shutdown.
//!
//! Every idle connection of a server may be among them, and leaves with each request. So adding and removing take
//! constant time.

use crate::fiber::LocalWaker;
use std::cell::RefCell;

#[derive(Default)]
pub(crate) struct ShutdownWaiters(RefCell<Slots>);

#[derive(Default)]
struct Slots {
    wakers: Vec<Option<LocalWaker>>,
    free: Vec<usize>,
}

impl ShutdownWaiters {
    /// Adds a waker. The caller must free the slot with [`ShutdownWaiters::remove`], woken or not.
    pub(crate) fn add(&self, waker: LocalWaker) -> usize {
        let mut slots = self.0.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        slots.wakers[slot] = Some(waker);
        slot
    }

    pub(crate) fn remove(&self, slot: usize) {
        let mut slots = self.0.borrow_mut();
        slots.wakers[slot] = None;
        slots.free.push(slot);
    }

    pub(super) fn wake_all(&self) {
        for waker in self.0.borrow_mut().wakers.iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}
