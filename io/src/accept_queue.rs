//! Connections that a listener accepted before a caller asked for them, and the callers that wait for one.
//!
//! A multishot accept of io_uring accepts connections as they arrive, even while its fiber is busy with an earlier one.
//! All handles of the listener share these connections: the next caller to accept gets the oldest.
//!
//! ```text
//!   multishot accept ──▶ connections ──▶ the fiber of the accept, if it waits
//!                                   └──▶ else the longest waiter: another fiber, loop or thread
//! ```
//!
//! Invariant: while there are connections and waiters, at least one waiter has been woken and has not looked yet. A
//! push wakes one waiter. A waiter that leaves while connections remain wakes the next. So no connection lies here
//! while a waiter that could take it sleeps. A waiter here also waits for the kernel, and enters before it looks.
//!
//! Any thread. The lock is never held over a wait or a wake.

use crate::sys;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use yue_scheduler::RemoteWaker;

/// Wakes a waiter.
#[derive(Debug)]
enum Waker {
    Fiber(RemoteWaker),
    /// A thread without a loop polls this eventfd beside the listener.
    Thread(Arc<OwnedFd>),
}

impl Waker {
    fn wake(self) {
        match self {
            Waker::Fiber(waker) => waker.wake(),
            Waker::Thread(event) => sys::ring_event_fd(&event),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    connections: VecDeque<OwnedFd>,
    /// In order of arrival, by ticket.
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
    /// Handles of the listener.
    handles: usize,
    /// Accept operations that rings have in the kernel.
    operations: usize,
}

/// State shared by the handles of one listener.
#[derive(Default)]
pub(crate) struct Taken(Mutex<Inner>);

impl Taken {
    pub(crate) fn pop(&self) -> Option<OwnedFd> {
        self.inner().connections.pop_front()
    }

    pub(crate) fn any(&self) -> bool {
        !self.inner().connections.is_empty()
    }

    /// Adds a connection. `expected` means that the fiber whose operation accepted it is waiting and will be woken.
    pub(crate) fn push(&self, connection: OwnedFd, expected: bool) {
        let mut inner = self.inner();
        inner.connections.push_back(connection);
        let next = match expected {
            true => None,
            false => inner.waiting.pop_front(),
        };
        drop(inner);
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }

    /// Counts an accept that is submitted to a ring.
    pub(crate) fn begin_operation(&self) {
        self.inner().operations += 1;
    }

    /// Counts an accept that has ended. Returns whether other callers still wait for the listener.
    pub(crate) fn end_operation(&self) -> bool {
        let mut inner = self.inner();
        debug_assert!(inner.operations > 0, "an accept ended that did not begin");
        inner.operations -= 1;
        inner.operations > 0 || !inner.waiting.is_empty()
    }

    /// Registers `waker` to be woken when it may take a connection, until the result is dropped. Returns `None` if a
    /// connection is available already.
    pub(crate) fn wait(&self, waker: RemoteWaker) -> Option<Waiting<'_>> {
        self.enter(Waker::Fiber(waker))
    }

    fn enter(&self, waker: Waker) -> Option<Waiting<'_>> {
        let mut inner = self.inner();
        if !inner.connections.is_empty() {
            return None;
        }
        inner.tickets += 1;
        let ticket = inner.tickets;
        inner.waiting.push_back((ticket, waker));
        Some(Waiting {
            taken: self,
            ticket,
        })
    }

    /// Blocks a thread without a loop until the listener `fd` is readable, or there is a connection here.
    ///
    /// # Errors
    /// `TimedOut` if that takes longer than `limit`; the system's error.
    pub(crate) fn block_thread(
        &self,
        fd: &impl AsRawFd,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let event = Arc::new(sys::event_fd()?);
        let Some(_waiting) = self.enter(Waker::Thread(event.clone())) else {
            return Ok(());
        };
        sys::block_until_one_readable(&[fd.as_raw_fd(), event.as_raw_fd()], limit)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("Taken")
            .field("connections", &inner.connections.len())
            .field("waiting", &inner.waiting.len())
            .finish_non_exhaustive()
    }
}

/// A waiter's registration. Dropped on every exit from the wait, a panic included; wakes the next waiter if connections
/// remain.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    taken: &'a Taken,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.taken.inner();
        inner.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        let next = match inner.connections.is_empty() {
            true => None,
            false => inner.waiting.pop_front(),
        };
        drop(inner);
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }
}

/// One handle's reference to the accepted connections.
#[derive(Debug)]
pub(crate) struct Share {
    taken: Arc<Taken>,
    given_up: bool,
}

impl Share {
    /// Creates the first handle's reference.
    pub(crate) fn new() -> Share {
        Share::of(Arc::default())
    }

    fn of(taken: Arc<Taken>) -> Share {
        taken.inner().handles += 1;
        let given_up = false;
        Share { taken, given_up }
    }

    pub(crate) fn taken(&self) -> &Arc<Taken> {
        &self.taken
    }

    /// Drops the reference, unless connections would be lost with it.
    ///
    /// # Errors
    /// The number of connections, if this is the last handle that could accept them.
    pub(crate) fn give_up(mut self) -> Result<(), usize> {
        let mut inner = self.taken.inner();
        if let (1, left @ 1..) = (inner.handles, inner.connections.len()) {
            return Err(left);
        }
        inner.handles -= 1;
        drop(inner);
        self.given_up = true;
        Ok(())
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        Share::of(self.taken.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.given_up {
            self.taken.inner().handles -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> OwnedFd {
        sys::event_fd().unwrap()
    }

    /// Enters with an eventfd that shows whether the waiter was woken.
    fn enter(taken: &Taken) -> (Waiting<'_>, Arc<OwnedFd>) {
        let event = Arc::new(connection());
        (taken.enter(Waker::Thread(event.clone())).unwrap(), event)
    }

    fn is_woken(event: &Arc<OwnedFd>) -> bool {
        sys::demand_ready(event.as_raw_fd(), libc::POLLIN).is_ok()
    }

    #[test]
    fn an_unexpected_connection_wakes_the_longest_waiter() {
        let taken = Taken::default();
        let ((first, first_event), (_second, second_event)) = (enter(&taken), enter(&taken));
        taken.push(connection(), true);
        assert!(!is_woken(&first_event) && !is_woken(&second_event));
        taken.push(connection(), false);
        assert!(is_woken(&first_event) && !is_woken(&second_event));
        // The first waiter takes one connection; the other is for the second waiter.
        assert!(taken.pop().is_some());
        drop(first);
        assert!(is_woken(&second_event));
        assert!(taken.pop().is_some());
        assert!(taken.pop().is_none());
    }

    #[test]
    fn a_waiter_that_leaves_its_connection_wakes_the_next() {
        let taken = Taken::default();
        let ((first, _), (_second, second_event)) = (enter(&taken), enter(&taken));
        taken.push(connection(), false);
        drop(first);
        assert!(is_woken(&second_event));
    }

    #[test]
    fn nobody_waits_while_there_is_a_connection() {
        let taken = Taken::default();
        taken.push(connection(), false);
        let event = Arc::new(connection());
        assert!(taken.enter(Waker::Thread(event)).is_none());
    }

    #[test]
    fn the_last_handle_refuses_to_give_up_unaccepted_connections() {
        let share = Share::new();
        share.taken().push(connection(), false);
        share.taken().push(connection(), false);
        assert_eq!(share.clone().give_up(), Ok(()));
        let taken = share.taken().clone();
        assert_eq!(share.give_up(), Err(2));
        assert_eq!(taken.inner().handles, 0);
    }
}
