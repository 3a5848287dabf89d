//! Accepts through the ring: a multishot accept, for a fiber that accepts one connection after another, or an accept of
//! a single connection.
//!
//! ```text
//!   kernel ──▶ one completion each ──▶ queue ──▶ the fiber, now or at its next call; or another waiter
//!
//!   operation:  none ──fiber waits──▶ running ──last completion──▶ none
//!                                        └─ no fiber waits at the next turn (cancel submitted) ─┘
//! ```
//!
//! The kernel accepts connections as they arrive, whether or not a fiber wants them. So the operation runs only while
//! the fiber waits, and until the next turn. A fiber that returns within the tick finds it running. A fiber that does
//! something else leaves further connections in the backlog, for other loops and processes.
//!
//! The kernel wakes one accept per connection (accepts wait exclusively: `poll_exclusive` in the kernel's table of
//! operations, `io_uring/opdef.c`). If that accept ends before it looks (it is cancelled, or it is a
//! multishot accept that ends by itself), the connection stays in the backlog, and the other accepts keep sleeping. So
//! an accept whose end may have swallowed a wake checks the backlog again if others wait.
//!
//! Accepted connections belong to the listener, not to the operation: the next caller to accept gets them, and a
//! waiting caller is woken (`accept_queue.rs`). For this reason an accept of one connection is an operation of this
//! kind as well: a connection that another fiber's operation accepted can end the fiber's wait.

use super::core::{Core, check_may_suspend};
use super::slots::{CompletionOwner, OperationId};
use crate::accept_queue::AcceptQueue;
use crate::driver::members::Member;
use crate::errors::was_cancelled;
use crate::sys;
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
enum OperationState {
    None,
    Running(OperationId),
    /// A cancel was submitted.
    Ending(OperationId),
}

/// The operation of one fiber on one listener.
pub(crate) struct AcceptOperation {
    core: Rc<Core>,
    listener: RawFd,
    queue: Arc<AcceptQueue>,
    operation: Cell<OperationState>,
    /// The fiber, while it waits.
    waiter: Cell<Option<LocalWaker>>,
    /// The error that ended the operation while the fiber waited.
    error: Cell<Option<i32>>,
    /// Whether an operation accepts all connections, or one.
    multishot: Cell<bool>,
    /// Whether the operation may have consumed wakes of connections other than the one it ends with.
    may_swallow: Cell<bool>,
    /// Whether the ring refused to wait, because the descriptor is non-blocking: then the fiber polls and retries.
    refused: Cell<bool>,
    deferred: Cell<bool>,
    member: Cell<usize>,
    /// Whether the loop is shutting down: then no operation is started.
    aborted: Cell<bool>,
}

impl AcceptOperation {
    /// Creates the state for a listener that outlives the operation: [`AcceptOperation::stop`] must be called before
    /// the listener is closed. `many` means that the fiber will accept one connection after another.
    pub(crate) fn new(
        core: Rc<Core>,
        listener: RawFd,
        queue: Arc<AcceptQueue>,
        many: bool,
    ) -> Rc<AcceptOperation> {
        Rc::new(AcceptOperation {
            multishot: Cell::new(many && core.multishot.get()),
            may_swallow: Cell::new(false),
            refused: Cell::new(false),
            core,
            listener,
            queue,
            operation: Cell::new(OperationState::None),
            waiter: Cell::new(None),
            error: Cell::new(None),
            deferred: Cell::new(false),
            member: Cell::new(0),
            aborted: Cell::new(false),
        })
    }

    /// Whether the operation runs on that loop's ring.
    pub(crate) fn runs_on(&self, core: &Rc<Core>) -> bool {
        Rc::ptr_eq(&self.core, core)
    }

    /// Waits for the next connection. Returns `None` if the listener must be polled first, because its descriptor is
    /// non-blocking.
    ///
    /// A stopped fiber still gets the connections accepted by then. The error follows the last of them.
    ///
    /// # Errors
    /// The system's error; the reason why the fiber was stopped; or that it would have to wait while unwinding.
    ///
    /// # Panics
    /// When it must wait where the calling code may not suspend, for a reason other than unwinding.
    pub(crate) fn next_connection(
        self: &Rc<Self>,
        reason: &'static str,
    ) -> io::Result<Option<OwnedFd>> {
        if self.core.over_budget() {
            // An error here is met again below: accepted connections are returned first, even if the fiber was stopped.
            let _ = unrefused(yield_if_allowed);
        }
        loop {
            if let Some(connection) = self.queue.pop() {
                return Ok(Some(connection));
            }
            if let Some(error) = self.error.take() {
                return Err(io::Error::from_raw_os_error(error));
            }
            // The caller waits for the listener's readiness instead. While the loop shuts down, that wait fails.
            if self.refused.take() || self.aborted.get() {
                return Ok(None);
            }
            if !is_cancelled() {
                check_may_suspend()?;
            }
            if let Err(stopped) = self.wait(reason) {
                // Until the operation has ended, the kernel may still accept a connection for it.
                self.stop();
                let last = self.queue.pop();
                // Only now is the call refused for certain.
                return last.map(Some).ok_or_else(|| refuse_call(stopped).into());
            }
        }
    }

    /// Ends the operation. In a fiber it has ended when this returns; in a callback of the loop it ends soon after.
    pub(crate) fn stop(self: &Rc<Self>) {
        if !in_fiber() {
            return self.drive();
        }
        // Another operation may have been started to recheck the backlog.
        while let OperationState::Running(id) | OperationState::Ending(id) = self.operation.get() {
            self.core.finish_owned_operation(id);
        }
        debug_assert_eq!(
            self.operation.get(),
            OperationState::None,
            "an accept holds its listener open"
        );
    }

    /// Parks the fiber until the operation has news. An error here does not refuse the call yet.
    fn wait(self: &Rc<Self>, reason: &'static str) -> Result<(), Stopped> {
        let waker = prepare_park();
        // Entering the queue checks it once more, under its lock: a connection that another fiber's operation has just
        // put there wakes only those who wait already.
        let Some(_waiting) = self.queue.add_fiber(waker.remote()) else {
            return Ok(());
        };
        debug_assert!(
            self.waiter.get().is_none(),
            "one fiber waits for an accept operation"
        );
        self.waiter.set(Some(waker));
        let _clear = ClearWaiter(self);
        // A stopped fiber starts no operation: the park only passes it through the run queue.
        if !is_cancelled() {
            self.drive();
        }
        park_unrefused(reason, Instant::NEVER).map(drop)
    }

    /// Starts or cancels the operation, according to whether a fiber waits.
    fn drive(self: &Rc<Self>) {
        let waiter = self.waiter.get();
        match self.operation.get() {
            OperationState::None
                if waiter.is_some() && !self.refused.get() && !self.aborted.get() =>
            {
                self.start(self.multishot.get())
            }
            OperationState::Running(id) if waiter.is_none() => {
                self.core.cancel(id);
                self.operation.set(OperationState::Ending(id));
            }
            _ => {}
        }
    }

    fn start(self: &Rc<Self>, multishot: bool) {
        debug_assert_eq!(
            self.operation.get(),
            OperationState::None,
            "one accept at a time"
        );
        debug_assert!(
            !self.aborted.get(),
            "no accept starts while the loop shuts down"
        );
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
        // The address is not requested: a multishot accept would write every peer's address to the same place. The
        // listener asks the connection for it instead. SAFETY: the entry points to no memory.
        let id = unsafe { self.core.start_operation(entry, self.clone(), 0) };
        self.operation.set(OperationState::Running(id));
        self.member.set(self.core.members.add(self.clone()));
        self.queue.record_accept_start();
    }

    /// Rechecks the backlog for a connection whose wake this operation swallowed when it ended. A new accept tries at
    /// once.
    fn recheck_backlog(self: &Rc<Self>) {
        if sys::check_ready(self.listener, libc::POLLIN).is_ok() {
            self.start(false);
            // There may be several connections.
            self.may_swallow.set(true);
        }
    }

    /// Schedules the operation for the next turn.
    fn defer(self: &Rc<Self>) {
        if !self.deferred.replace(true) {
            self.core.members.defer(self.clone());
        }
    }

    fn handle_error(&self, error: i32) {
        match error {
            error if was_cancelled(error) => {}
            // The descriptor is non-blocking.
            libc::EAGAIN => self.refused.set(true),
            // The kernel lacks multishot accept, or the socket is not a listener. A single accept tells which.
            libc::EINVAL if self.multishot.get() => self.multishot.set(false),
            // Kept only for a waiting fiber: for a later call the error would be out of date.
            error if self.waiter.get().is_some() => self.error.set(Some(error)),
            _ => {}
        }
    }
}

impl CompletionOwner for AcceptOperation {
    fn on_completion(self: Rc<Self>, _: u8, result: i32, _: u32, last: bool) {
        debug_assert_ne!(
            self.operation.get(),
            OperationState::None,
            "an accept completed that was not started"
        );
        if last {
            self.operation.set(OperationState::None);
            self.core.members.remove(self.member.get());
            let others = self.queue.record_accept_end();
            // A single accept that succeeded used its wake for the connection that it returns. A multishot accept may
            // have been woken for the next one already, and a cancelled one may have been woken just before.
            let may_swallow = match result {
                0.. => self.may_swallow.get(),
                error => was_cancelled(-error),
            };
            if others && may_swallow && !self.aborted.get() {
                self.recheck_backlog();
            }
        }
        match u32::try_from(result) {
            Ok(connection) => {
                // If our fiber waits it is woken below, and needs no second waker from the queue.
                let expected = self.waiter.get().is_some();
                self.queue.push(sys::own_fd(connection), expected);
            }
            Err(_) => self.handle_error(-result),
        }
        let news = result >= 0 || self.error.get().is_some() || self.refused.get();
        if news && let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        // At the next turn the operation is cancelled if no fiber waits for more, or restarted if one does.
        self.defer();
    }
}

impl Member for AcceptOperation {
    fn on_turn(self: Rc<Self>) -> bool {
        debug_assert!(self.deferred.get(), "a turn that nobody asked for");
        self.deferred.set(false);
        self.drive();
        false
    }

    fn on_shutdown(self: Rc<Self>) {
        self.aborted.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        self.drive();
    }
}

/// Clears the waiter on every exit from the park.
struct ClearWaiter<'a>(&'a Rc<AcceptOperation>);

impl Drop for ClearWaiter<'_> {
    fn drop(&mut self) {
        self.0.waiter.set(None);
        self.0.defer();
    }
}
