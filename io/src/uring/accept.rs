//! Connections that come in one operation: a multishot accept, for a fiber that takes one after the other.
//!
//! ```text
//!   kernel ──▶ completion each ──▶ taken ──▶ the fiber, now or at its next call
//!
//!   operation:  none ──fiber waits──▶ running ──last completion──▶ none
//!                                        └─ nobody waits at the next turn (cancel submitted) ─┘
//! ```
//!
//! The kernel takes connections as they come, whether or not somebody wants them. So the operation runs only while the
//! fiber waits, and on to the next turn: a fiber that comes back within the tick finds it running, and one that does
//! something else leaves the connections where they are, for other loops and processes.
//!
//! What was taken belongs to the listener, not to the operation: whoever accepts next gets it.

use super::{Completed, Core, OperationId, demand_suspension};
use crate::errors::was_cancelled;
use crate::shared::Member;
use crate::sys;
use io_uring::{opcode, types};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use yue_scheduler::{
    Instant, LocalWaker, Stopped, in_fiber, is_cancelled, park_unrefused, prepare_park,
    refuse_call, yield_if_allowed,
};

/// Connections that the kernel has handed over and no fiber has, oldest first. Any thread; the lock is never held over
/// a wait.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<VecDeque<OwnedFd>>);

impl Taken {
    pub(crate) fn pop(&self) -> Option<OwnedFd> {
        self.queue().pop_front()
    }

    pub(crate) fn any(&self) -> bool {
        !self.queue().is_empty()
    }

    fn push(&self, connection: OwnedFd) {
        self.queue().push_back(connection);
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<OwnedFd>> {
        // A queue is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    /// It cannot be done: accept one at a time.
    refused: Cell<bool>,
    deferred: Cell<bool>,
    place: Cell<usize>,
}

impl Accepting {
    /// For a listener that outlives the operation: [`Accepting::end`] comes before its end.
    pub(crate) fn new(core: Rc<Core>, listener: RawFd, taken: Arc<Taken>) -> Rc<Accepting> {
        Rc::new(Accepting {
            refused: Cell::new(!core.multishot.get()),
            core,
            listener,
            taken,
            operation: Cell::new(Operation::None),
            waiter: Cell::new(None),
            error: Cell::new(None),
            deferred: Cell::new(false),
            place: Cell::new(0),
        })
    }

    /// Whether it is done by that loop's ring.
    pub(crate) fn is_of(&self, core: &Rc<Core>) -> bool {
        Rc::ptr_eq(&self.core, core)
    }

    /// Waits for the next connection; `None` if it must be accepted in another way.
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
            let _ = yield_if_allowed();
        }
        loop {
            if let Some(connection) = self.taken.pop() {
                return Ok(Some(connection));
            }
            if let Some(error) = self.error.take() {
                return Err(io::Error::from_raw_os_error(error));
            }
            if self.refused.get() {
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
        let id = match self.operation.get() {
            Operation::None => return,
            Operation::Running(id) | Operation::Ending(id) => id,
        };
        if in_fiber() {
            self.core.finish_owned(id);
        } else {
            self.drive();
        }
    }

    /// Parks the fiber until there is news. An error is not a refusal yet.
    fn wait(self: &Rc<Self>, reason: &'static str) -> Result<(), Stopped> {
        self.waiter.set(Some(prepare_park()));
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
            Operation::None if waiter.is_some() && !self.refused.get() => self.start(),
            Operation::Running(id) if waiter.is_none() => {
                self.core.cancel(id);
                self.operation.set(Operation::Ending(id));
            }
            _ => {}
        }
    }

    fn start(self: &Rc<Self>) {
        let accept = opcode::AcceptMulti::new(types::Fd(self.listener));
        let entry = accept.flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry names no memory.
        let id = unsafe { self.core.start(entry, self.clone(), 0) };
        self.operation.set(Operation::Running(id));
        self.place.set(self.core.shared.enter(self.clone()));
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
            // The client has gone again: the next is waited for.
            libc::ECONNABORTED => {}
            // The descriptor is non-blocking; the kernel knows no multishot accept; or it is no listener, which the
            // other way finds out.
            libc::EAGAIN | libc::EINVAL => self.refused.set(true),
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
        }
        match u32::try_from(result) {
            Ok(connection) => self.taken.push(sys::own_fd(connection)),
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
        self.refused.set(true);
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
