//! Connections that a listener accepted before a caller asked for them, and the callers that wait for one.
//!
//! A multishot accept of io_uring accepts connections as they arrive, even while its fiber is busy with an earlier one.
//! All handles of the listener handle these connections: the next caller to accept gets the oldest.
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
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
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
pub(crate) struct AcceptQueue(Mutex<Inner>);

impl AcceptQueue {
    pub(crate) fn pop(&self) -> Option<OwnedFd> {
        self.lock().connections.pop_front()
    }

    pub(crate) fn has_connection(&self) -> bool {
        !self.lock().connections.is_empty()
    }

    /// Adds a connection. `expected` means that the fiber whose operation accepted it is waiting and will be woken.
    pub(crate) fn push(&self, connection: OwnedFd, expected: bool) {
        let mut inner = self.lock();
        inner.connections.push_back(connection);
        // A waiter is removed when it is woken, so that the next connection wakes another one.
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
    pub(crate) fn record_accept_start(&self) {
        self.lock().operations += 1;
    }

    /// Counts an accept that has ended. Returns whether other callers still wait for the listener.
    pub(crate) fn record_accept_end(&self) -> bool {
        let mut inner = self.lock();
        debug_assert!(inner.operations > 0, "an accept ended that did not begin");
        inner.operations -= 1;
        inner.operations > 0 || !inner.waiting.is_empty()
    }

    /// Registers `waker` to be woken when it may take a connection, until the result is dropped. Returns `None` if a
    /// connection is available already.
    pub(crate) fn add_fiber(&self, waker: RemoteWaker) -> Option<QueueWait<'_>> {
        self.add_guarded(Waker::Fiber(waker))
    }

    /// Like [`AcceptQueue::add_fiber`], until [`AcceptQueue::remove_waiter`] is called with the result.
    pub(crate) fn add_fiber_ticket(&self, waker: RemoteWaker) -> Option<u64> {
        self.add_waiter(Waker::Fiber(waker))
    }

    fn add_guarded(&self, waker: Waker) -> Option<QueueWait<'_>> {
        let ticket = self.add_waiter(waker)?;
        Some(QueueWait {
            queue: self,
            ticket,
        })
    }

    fn add_waiter(&self, waker: Waker) -> Option<u64> {
        let mut inner = self.lock();
        if !inner.connections.is_empty() {
            return None;
        }
        inner.tickets += 1;
        let ticket = inner.tickets;
        debug_assert!(
            inner.waiting.back().is_none_or(|(last, _)| *last < ticket),
            "waiters stand in the order of their tickets"
        );
        inner.waiting.push_back((ticket, waker));
        Some(ticket)
    }

    /// Removes a waiter, if it is still there, and wakes the next one if connections remain.
    pub(crate) fn remove_waiter(&self, ticket: u64) {
        let mut inner = self.lock();
        inner.waiting.retain(|(waiting, _)| *waiting != ticket);
        // This waiter may have been woken for a connection that it leaves: pass the wake-up on.
        let next = match inner.connections.is_empty() {
            true => None,
            false => inner.waiting.pop_front(),
        };
        drop(inner);
        if let Some((_, waker)) = next {
            waker.wake();
        }
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
        // A thread waits for two things: the kernel's backlog, and a connection put here by a loop.
        let event = Arc::new(sys::event_fd()?);
        let Some(_waiting) = self.add_guarded(Waker::Thread(event.clone())) else {
            return Ok(());
        };
        sys::block_until_one_readable(&[fd.as_raw_fd(), event.as_raw_fd()], limit)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave the state inconsistent.
        yue_scheduler::lock(&self.0)
    }
}

impl fmt::Debug for AcceptQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("AcceptQueue")
            .field("connections", &inner.connections.len())
            .field("waiting", &inner.waiting.len())
            .finish_non_exhaustive()
    }
}

/// A waiter's registration. Dropped on every exit from the wait, a panic included; wakes the next waiter if connections
/// remain.
#[derive(Debug)]
pub(crate) struct QueueWait<'a> {
    queue: &'a AcceptQueue,
    ticket: u64,
}

impl Drop for QueueWait<'_> {
    fn drop(&mut self) {
        self.queue.remove_waiter(self.ticket);
    }
}

/// One handle's reference to the accepted connections.
#[derive(Debug)]
pub(crate) struct QueueHandle {
    queue: Arc<AcceptQueue>,
    released: bool,
}

impl QueueHandle {
    /// Creates the first handle's reference.
    pub(crate) fn new() -> QueueHandle {
        QueueHandle::of(Arc::default())
    }

    fn of(queue: Arc<AcceptQueue>) -> QueueHandle {
        queue.lock().handles += 1;
        let released = false;
        QueueHandle { queue, released }
    }

    /// Returns the queue for an accept operation, which puts connections into it.
    pub(crate) fn share_queue(&self) -> Arc<AcceptQueue> {
        self.queue.clone()
    }

    /// Drops the reference, unless connections would be lost with it.
    ///
    /// # Errors
    /// The number of connections, if this is the last handle that could accept them.
    pub(crate) fn try_release(mut self) -> Result<(), usize> {
        let mut inner = self.queue.lock();
        debug_assert!(inner.handles > 0, "a handle was released twice");
        if let (1, left @ 1..) = (inner.handles, inner.connections.len()) {
            return Err(left);
        }
        inner.handles -= 1;
        drop(inner);
        self.released = true;
        Ok(())
    }
}

impl Deref for QueueHandle {
    type Target = AcceptQueue;

    fn deref(&self) -> &AcceptQueue {
        &self.queue
    }
}

impl Clone for QueueHandle {
    fn clone(&self) -> Self {
        QueueHandle::of(self.queue.clone())
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        if !self.released {
            let mut inner = self.queue.lock();
            debug_assert!(inner.handles > 0, "a handle was released twice");
            inner.handles -= 1;
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
    fn enter(queue: &AcceptQueue) -> (QueueWait<'_>, Arc<OwnedFd>) {
        let event = Arc::new(connection());
        (
            queue.add_guarded(Waker::Thread(event.clone())).unwrap(),
            event,
        )
    }

    fn is_woken(event: &Arc<OwnedFd>) -> bool {
        sys::check_ready(event.as_raw_fd(), libc::POLLIN).is_ok()
    }

    #[test]
    fn an_unexpected_connection_wakes_the_longest_waiter() {
        let queue = AcceptQueue::default();
        let ((first, first_event), (_second, second_event)) = (enter(&queue), enter(&queue));
        queue.push(connection(), true);
        assert!(!is_woken(&first_event) && !is_woken(&second_event));
        queue.push(connection(), false);
        assert!(is_woken(&first_event) && !is_woken(&second_event));
        // The first waiter takes one connection; the other is for the second waiter.
        assert!(queue.pop().is_some());
        drop(first);
        assert!(is_woken(&second_event));
        assert!(queue.pop().is_some());
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_waiter_that_leaves_its_connection_wakes_the_next() {
        let queue = AcceptQueue::default();
        let ((first, _), (_second, second_event)) = (enter(&queue), enter(&queue));
        queue.push(connection(), false);
        drop(first);
        assert!(is_woken(&second_event));
    }

    #[test]
    fn nobody_waits_while_there_is_a_connection() {
        let queue = AcceptQueue::default();
        queue.push(connection(), false);
        let event = Arc::new(connection());
        assert!(queue.add_guarded(Waker::Thread(event)).is_none());
    }

    #[test]
    fn the_last_handle_refuses_to_give_up_unaccepted_connections() {
        let handle = QueueHandle::new();
        handle.push(connection(), false);
        handle.push(connection(), false);
        assert_eq!(handle.clone().try_release(), Ok(()));
        let queue = handle.share_queue();
        assert_eq!(handle.try_release(), Err(2));
        assert_eq!(queue.lock().handles, 0);
    }
}
