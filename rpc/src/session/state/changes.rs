//! Changes of a loop's sessions: for fibers that wait until sessions have finished their work.
//!
//! A change is a new phase of a session, or the end of its last request. Nothing is recorded while no fiber waits, so a
//! change costs one check.

use std::cell::RefCell;
use yue_scheduler::{Instant, LocalWaker, Stopped, Wakeup, park_until, prepare_park};

thread_local! {
    /// The fibers that wait for the next change on this thread. Empty nearly always.
    static WAITING: RefCell<Vec<LocalWaker>> = const { RefCell::new(Vec::new()) };
}

/// Waits until a session of this loop has changed: a link is up or has ended, or the last request of a session has
/// ended; or until `at`. `reason` names the wait in reports.
///
/// Between the check of a condition and this call the fiber must not wait, or a change may be missed.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::session;
/// use yue_rpc::typed::{Client, Server};
///
/// # yue_io::run(|| {
/// let listener = Server::new().handler("ping", |()| Ok("pong")).listen("tcp://127.0.0.1:0").unwrap();
/// let client = Client::open(&listener.address().to_string()).unwrap();
/// client.notify("ping", ()).unwrap();
/// while !client.session().connected() {
///     session::wait_for_change("a connection", None).unwrap();
/// }
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// If the fiber is stopped.
///
/// # Panics
/// Outside a fiber.
pub fn wait_for_change(reason: &'static str, at: Option<Instant>) -> Result<Wakeup, Stopped> {
    let waker = prepare_park();
    WAITING.with_borrow_mut(|waiting| waiting.push(waker));
    park_until(reason, at)
}

/// Wakes the fibers that [wait for a change](wait_for_change): of a session, or of something that their own condition
/// asks for as well. Wakes of fibers that have stopped waiting do nothing.
#[inline]
pub fn note_change() {
    if WAITING.with_borrow(|waiting| !waiting.is_empty()) {
        wake_all();
    }
}

#[cold]
fn wake_all() {
    for waker in WAITING.take() {
        // A fiber that has stopped waiting is not there.
        let _ = waker.wake();
    }
}
