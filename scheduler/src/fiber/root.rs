//! The bottom of a fiber's stack, which runs the program's closure and delivers the outcome.
//!
//! Nothing unwinds out of here, neither when the fiber runs nor when it is dropped before it ran: the caller is the
//! loop, which every other fiber needs.

use super::guarded::guarded;
use super::join::Completion;
use super::locals::drop_locals;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A fiber that has not started: its closure, and the receiver of its result.
pub(super) struct Root<T, F: FnOnce() -> T> {
    work: Option<F>,
    completion: Completion<T>,
}

impl<T, F: FnOnce() -> T> Root<T, F> {
    pub(super) fn new(work: F, completion: Completion<T>) -> Self {
        Root {
            work: Some(work),
            completion,
        }
    }

    /// Runs the closure. Called on the fiber's stack.
    #[inline]
    pub(super) fn run(mut self) {
        if let Some(work) = self.work.take() {
            let result = catch_unwind(AssertUnwindSafe(work));
            drop_locals();
            self.completion.complete(result);
        }
    }
}

impl<T, F: FnOnce() -> T> Drop for Root<T, F> {
    #[inline]
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            guarded("dropping a fiber that never ran", || drop(work));
        }
    }
}
