//! The fibers of a loop that wait for its shutdown.
//!
//! Every idle connection of a server may be among them, and leaves with each request. So adding and removing take
//! constant time.

use crate::fiber::LocalWaker;
use slab::Slab;
use std::cell::RefCell;

/// A slot is empty between the wake-up of its fiber and its removal.
#[derive(Default)]
pub(crate) struct ShutdownWaiters(RefCell<Slab<Option<LocalWaker>>>);

impl ShutdownWaiters {
    /// Adds a waker. The caller must free the slot with [`ShutdownWaiters::remove`], woken or not.
    pub(crate) fn add(&self, waker: LocalWaker) -> usize {
        self.0.borrow_mut().insert(Some(waker))
    }

    pub(crate) fn remove(&self, slot: usize) {
        self.0.borrow_mut().remove(slot);
    }

    pub(super) fn wake_all(&self) {
        for (_, slot) in self.0.borrow_mut().iter_mut() {
            if let Some(waker) = slot.take() {
                waker.wake();
            }
        }
    }
}
