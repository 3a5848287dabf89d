//! Connections that come through the ring: a multishot accept, for a fiber that takes one after the other, or an accept
//! of one.
//!
//! ```text
//!   kernel ──▶ completion each ──▶ taken ──▶ the fiber, now or at its next call; or another that waits
//!
//!   operation:  none ──fiber waits──▶ running ──last completion──▶ none
//!                                        └─ nobody waits at the next turn (cancel submitted) ─┘
//! ```
//!
//! The kernel takes connections as they come, whether or not somebody wants them. So the operation runs only while the
//! fiber waits, and on to the next turn: a fiber that comes back within the tick finds it running, and one that does
//! something else leaves the connections where they are, for other loops and processes.
//!
//! The kernel wakes one accept for a connection. If that one ends before it looks, because it is cancelled, or is a
//! multishot one that ends for a reason of its own, the connection is left where it is, and the other accepts sleep on.
//! So an accept whose end may have swallowed a wake looks once more, if others wait.
//!
//! What was taken belongs to the listener, not to the operation: whoever accepts next gets it, and one that waits
//! already is woken for it (`taken.rs`). For that, an accept of one connection is an operation of this kind as well:
//! the fiber's wait can end by a connection that another fiber's operation took.

use super::{Completed, Core, OperationId, demand_suspension};
use crate::errors::was_cancelled;
use crate::shared::Member;
use crate::sys;
use crate::taken::Taken;
use io_uring::{opcode, types};
use std::cell::Cell;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use yue_scheduler::{
    Instant, LocalWaker, Stopped, in_fiber, is_cancelled, park_unrefused, prepare_park,
    refuse_call, unrefused, yield_if_allowed,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    None,
    Running(OperationId),
    /// Its cancel is submitted.
    Ending(OperationId),
}

/// The operation of one fiber on one listener.
pub(crate) struct Accepting {
    core: Rc<Core>,
    listener: RawFd,
    taken: Arc<Taken>,
    operation: Cell<Operation>,
    /// The fiber, while it waits.
    waiter: Cell<Option<LocalWaker>>,
    /// What ended the operation while the fiber waited.
    error: Cell<Option<i32>>,
    /// Whether operations take all that come, or one.
    multishot: Cell<bool>,
    /// Whether there may be connections whose wakes the operation has got, besides the one that it ends with.
    may_swallow: Cell<bool>,
    /// The ring does not wait on a non-blocking descriptor: wait by a poll, and try again.
    refused: Cell<bool>,
    deferred: Cell<bool>,
    place: Cell<usize>,
    /// The loop is being shut down: no operation is started any more.
    aborted: Cell<bool>,
}

impl Accepting {
    /// For a listener that outlives the operation: [`Accepting::end`] comes before its end. `many` says that the fiber
    /// will take one connection after the other.
    pub(crate) fn new(
        core: Rc<Core>,
        listener: RawFd,
        taken: Arc<Taken>,
        many: bool,
    ) -> Rc<Accepting> {
        Rc::new(Accepting {
            multishot: Cell::new(many && core.multishot.get()),
            may_swallow: Cell::new(false),
            refused: Cell::new(false),
            core,
            listener,
            taken,
            operation: Cell::new(Operation::None),
            waiter: Cell::new(None),
            error: Cell::new(None),
            deferred: Cell::new(false),
            place: Cell::new(0),
            aborted: Cell::new(false),
        })
    }

    /// Whether it is done by that loop's ring.
    pub(crate) fn is_of(&self, core: &Rc<Core>) -> bool {
        Rc::ptr_eq(&self.core, core)
    }

    /// Waits for the next connection; `None` if the listener must be polled first, since its descriptor is
    /// non-blocking.
    ///
    /// A fiber that is told to stop still gets what was taken by then. The error comes after the last of it.
    ///
    /// # Errors
    /// The system's; why the fiber is told to stop; or that it would have to wait and unwinds.
    ///
    /// # Panics
    /// If it must wait where the calling code may not suspend for another reason.
    pub(crate) fn next(self: &Rc<Self>, reason: &'static str) -> io::Result<Option<OwnedFd>> {
        if self.core.had_its_share() {
            // Told to stop or not, what is there is taken first.
            let _ = unrefused(yield_if_allowed);
        }
        loop {
            if let Some(connection) = self.taken.pop() {
                return Ok(Some(connection));
            }
            if let Some(error) = self.error.take() {
                return Err(io::Error::from_raw_os_error(error));
            }
            if self.refused.take() || self.aborted.get() {
                return Ok(None);
            }
            if !is_cancelled() {
                demand_suspension()?;
            }
            if let Err(stopped) = self.wait(reason) {
                self.end();
                let taken = self.taken.pop();
                // Only now is it clear that the call is refused.
                return taken.map(Some).ok_or_else(|| refuse_call(stopped).into());
            }
        }
    }

    /// Ends the operation. In a fiber it is over when this returns; in a callback of the loop soon after.
    pub(crate) fn end(self: &Rc<Self>) {
        if !in_fiber() {
            return self.drive();
        }
        // Another may have been started, to look once more.
        while let Operation::Running(id) | Operation::Ending(id) = self.operation.get() {
            self.core.finish_owned(id);
        }
    }

    /// Parks the fiber until there is news. An error is not a refusal yet.
    fn wait(self: &Rc<Self>, reason: &'static str) -> Result<(), Stopped> {
        let waker = prepare_park();
        let Some(_waiting) = self.taken.wait(waker.remote()) else {
            return Ok(());
        };
        self.waiter.set(Some(waker));
        let _left = Left(self);
        // A fiber that has been told to stop starts nothing: the park only takes it through the run queue.
        if !is_cancelled() {
            self.drive();
        }
        park_unrefused(reason, Instant::NEVER).map(drop)
    }

    /// Starts or cancels the operation, as is wanted now.
    fn drive(self: &Rc<Self>) {
        let waiter = self.waiter.get();
        match self.operation.get() {
            Operation::None if waiter.is_some() && !self.refused.get() && !self.aborted.get() => {
                self.start(self.multishot.get())
            }
            Operation::Running(id) if waiter.is_none() => {
                self.core.cancel(id);
                self.operation.set(Operation::Ending(id));
            }
            _ => {}
        }
    }

    fn start(self: &Rc<Self>, multishot: bool) {
        self.may_swallow.set(multishot);
        let fd = types::Fd(self.listener);
        let entry = if multishot {
            let accept = opcode::AcceptMulti::new(fd);
            accept.flags(libc::SOCK_CLOEXEC).build()
        } else {
            let nowhere = std::ptr::null_mut();
            let accept = opcode::Accept::new(fd, nowhere, nowhere.cast());
            accept.flags(libc::SOCK_CLOEXEC).build()
        };
        // SAFETY: the entry names no memory.
        let id = unsafe { self.core.start(entry, self.clone(), 0) };
        self.operation.set(Operation::Running(id));
        self.place.set(self.core.shared.enter(self.clone()));
        self.taken.begin_operation();
    }

    /// Looks for a connection whose wake this operation has swallowed by its end. An accept that begins tries at once.
    fn look_once_more(self: &Rc<Self>) {
        if sys::demand_ready(self.listener, libc::POLLIN).is_ok() {
            self.start(false);
            // There may be several.
            self.may_swallow.set(true);
        }
    }

    /// Has the operation looked at in the next turn.
    fn defer(self: &Rc<Self>) {
        if !self.deferred.replace(true) {
            self.core.shared.defer(self.clone());
        }
    }

    fn failed(&self, error: i32) {
        match error {
            error if was_cancelled(error) => {}
            // The descriptor is non-blocking.
            libc::EAGAIN => self.refused.set(true),
            // The kernel knows no multishot accept, or it is no listener, which the accept of one finds out.
            libc::EINVAL if self.multishot.get() => self.multishot.set(false),
            // Kept only for somebody who waits: for a later call it would be old.
            error if self.waiter.get().is_some() => self.error.set(Some(error)),
            _ => {}
        }
    }
}

impl Completed for Accepting {
    fn completed(self: Rc<Self>, _: u8, result: i32, _: u32, last: bool) {
        if last {
            self.operation.set(Operation::None);
            self.core.shared.leave(self.place.get());
            let others = self.taken.end_operation();
            let may_swallow = match result {
                0.. => self.may_swallow.get(),
                error => was_cancelled(-error),
            };
            if others && may_swallow && !self.aborted.get() {
                self.look_once_more();
            }
        }
        match u32::try_from(result) {
            Ok(connection) => {
                let expected = self.waiter.get().is_some();
                self.taken.push(sys::own_fd(connection), expected);
            }
            Err(_) => self.failed(-result),
        }
        let news = result >= 0 || self.error.get().is_some() || self.refused.get();
        if news && let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        self.defer();
    }
}

impl Member for Accepting {
    fn deferred(self: Rc<Self>) -> bool {
        self.deferred.set(false);
        self.drive();
        false
    }

    fn abort(self: Rc<Self>) {
        self.aborted.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        self.drive();
    }
}

/// The fiber waits no more, on every way out of the park.
struct Left<'a>(&'a Rc<Accepting>);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.waiter.set(None);
        self.0.defer();
    }
}
