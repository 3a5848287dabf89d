//! The bottom of a fiber's stack, which runs the program's closure and delivers the outcome.
//!
//! Nothing unwinds out of here, neither when the fiber runs nor when it is dropped before it ran: the caller is the
//! loop, which every other fiber needs.

use super::join::Completion;
use crate::event_loop::try_with_loop;
use std::any::Any;
use std::mem;
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

/// Runs foreign code that must not stop the loop. A panic is counted and reported, and does not propagate.
pub(crate) fn guarded(what: &str, callback: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(callback)) {
        report_panic(what, payload);
    }
}

#[cold]
fn report_panic(what: &str, payload: Box<dyn Any + Send>) {
    try_with_loop(|l| l.count_panic());
    let text = panic_text(&*payload);
    crate::say(format_args!("{what} panicked: {text}; the loop continues"));
    drop_payload(payload);
}

/// Drops a panic's payload. If that panics too, the second payload is leaked, so that it cannot end the loop.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(another);
    }
}

/// Returns the message of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
