//! Calls of the program's code that must not stop the loop.

use crate::event_loop::seam::try_with_loop;
use crate::panics::{drop_payload, panic_text};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    crate::log(
        crate::LogLevel::Error,
        format_args!("{what} panicked: {text}; the loop continues"),
    );
    drop_payload(payload);
}
