//! The bottom of a fiber's stack: runs the program's closure and hands the outcome on.
//!
//! Nothing unwinds out of here, neither when the fiber runs nor when it is dropped before it did: above is the loop,
//! which every other fiber needs.

use super::join::Completion;
use crate::event_loop::try_with_loop;
use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A fiber that has not started: its closure, and where the result goes.
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

    /// Called on the fiber's stack.
    #[inline]
    pub(super) fn run(mut self) {
        if let Some(work) = self.work.take() {
            let result = catch_unwind(AssertUnwindSafe(work));
            crate::sync::drop_fiber_locals();
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

/// Runs foreign code that must not stop the loop: its panic is counted and reported, and goes no further.
pub(crate) fn guarded(what: &str, callback: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(callback)) {
        note(what, payload);
    }
}

#[cold]
fn note(what: &str, payload: Box<dyn Any + Send>) {
    try_with_loop(|l| l.count_panic());
    let text = panic_text(&*payload);
    crate::say(format_args!("{what} panicked: {text}; the loop goes on"));
    drop_payload(payload);
}

/// Drops a panic's payload. If that panics, what the second panic carries is leaked rather than let the loop die of it.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(another);
    }
}

/// The words of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
