//! The loop's shutdown as a branch of a select.

use super::{Readiness, Ready, Signal, ready};
use crate::event_loop::{this_loop, with_loop};
use std::fmt;

/// The readiness of the loop's shutdown; used in the branch that [`shutdown`] returns.
pub struct Shutdown {
    slot: Option<usize>,
}

/// Returns a branch that is ready once a shutdown of this loop was requested, and stays ready.
///
/// A fiber that waits for a request, and has begun nothing, ends at once through this branch, and does not delay the
/// shutdown by the grace period. Only fibers can wait for it.
///
/// ```
/// use yue_scheduler::sync::local::channel;
/// use yue_scheduler::{Config, Loop, select, spawn, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (_requests, requests_in) = channel::<u32>(1);
///     let idle = spawn(move || {
///         select! {
///             request = recv(requests_in) => request.ok(),
///             _ = shutdown() => None,
///         }
///     });
///     this_loop::request_shutdown();
///     assert_eq!(idle.join().unwrap(), Ok(None));
/// });
/// ```
///
/// # Panics
/// The wait panics outside a fiber.
pub fn shutdown() -> Ready<Shutdown> {
    ready(Shutdown { slot: None }).on_this_loop()
}

impl Readiness for Shutdown {
    type Output = ();

    fn poll(&mut self) -> Option<()> {
        this_loop::shutdown_requested().then_some(())
    }

    fn watch(&mut self, signal: Signal) {
        self.unwatch();
        match signal.local_waker() {
            Some(waker) => self.slot = Some(with_loop(|l| l.shutdown_waiters.add(waker))),
            // The select polls again.
            None => signal.raise(),
        }
    }

    fn unwatch(&mut self) {
        if let Some(slot) = self.slot.take() {
            with_loop(|l| l.shutdown_waiters.remove(slot));
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}
