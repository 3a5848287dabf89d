//! A link as hyper reads and writes it: the adapter that servers and clients share.
//!
//! ```text
//!   transport ── data ──▶ input, up to INPUT_HIGH ──▶ poll_read ──▶ hyper
//!   transport ◀── send ── poll_write, up to OUTPUT_HIGH ◀────────── hyper
//! ```
//!
//! Each event of the link wakes the task that drives hyper. Flow is controlled in both directions: the link is not read
//! while input waits, and hyper does not write while output waits. Limits of time are the business of the owner, which
//! is [`Stream`](super::stream::Stream) on a server.
//!
//! Everything runs on one loop. No borrow is held while the link or the task is called.

use crate::buffer;
use crate::transport::{Events, Incoming, Transport};
use hyper::rt::ReadBufCursor;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Input that waits to be read; above the first, the link is not read until it is below the second.
const INPUT_HIGH: usize = 64 * 1024;
const INPUT_LOW: usize = 16 * 1024;

/// Output that waits to leave, above which hyper waits.
const OUTPUT_HIGH: usize = 64 * 1024;

/// One link, its input, and the task that drives hyper.
#[derive(Default)]
pub(crate) struct Link {
    /// The link below: `None` before it is set, and after its end.
    transport: RefCell<Option<Rc<dyn Transport>>>,
    input: RefCell<Vec<u8>>,
    paused: Cell<bool>,
    input_ended: Cell<bool>,
    closed: Cell<bool>,
    /// The reason for which the link has ended, until hyper has read it.
    failure: Cell<Option<io::Error>>,
    task: RefCell<Option<Waker>>,
}

impl Link {
    /// Sets the link below. Its events may have come before, because a link is started with them.
    pub(crate) fn set_transport(&self, transport: Rc<dyn Transport>) {
        if !self.closed.get() {
            *self.transport.borrow_mut() = Some(transport);
        }
    }

    /// The link below, until it has ended.
    pub(crate) fn transport(&self) -> Option<Rc<dyn Transport>> {
        self.transport.borrow().clone()
    }

    /// Sets the waker of the task that drives hyper.
    pub(crate) fn set_task(&self, task: &Waker) {
        let mut known = self.task.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    /// Forgets the task: nothing drives hyper any more.
    pub(crate) fn clear_task(&self) {
        let task = self.task.take();
        drop(task);
    }

    /// Wakes the task.
    pub(crate) fn wake(&self) {
        let task = self.task.borrow().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Bytes that have not left yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.transport().map_or(0, |link| link.queued_bytes())
    }

    /// Whether the peer sends no more.
    pub(crate) fn has_input_ended(&self) -> bool {
        self.input_ended.get()
    }

    /// Whether the link is open and nothing waits to be read.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.closed.get() && !self.input_ended.get() && self.input.borrow().is_empty()
    }

    /// Drops the input that hyper has not read.
    pub(crate) fn discard_input(&self) {
        let input = self.input.take();
        drop(input);
    }

    /// Gives away the link below, with the input that hyper has not read.
    #[cfg(feature = "ws")]
    pub(super) fn take(&self) -> Option<(Rc<dyn Transport>, Vec<u8>)> {
        self.clear_task();
        let transport = self.transport.take()?;
        Some((transport, self.input.take()))
    }

    /// Ends the link now.
    pub(crate) fn close(&self) {
        if let Some(transport) = self.transport() {
            transport.close();
        }
    }

    /// Copies input to hyper's buffer. `Pending` while there is none; an empty result is the end.
    pub(crate) fn poll_read(&self, buffer: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.take_input(buffer) || self.input_ended.get() {
            return Poll::Ready(Ok(()));
        }
        if self.closed.get() {
            let failure = self.failure.take();
            let failure = failure.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            return Poll::Ready(Err(failure));
        }
        Poll::Pending
    }

    /// Sends bytes. `Pending` while too many wait to leave.
    pub(crate) fn poll_write(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(transport) = self.transport() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if transport.queued_bytes() > OUTPUT_HIGH {
            transport.notify_when_sent();
            return Poll::Pending;
        }
        let count = bytes.len().min(OUTPUT_HIGH);
        let mut buffer = buffer::take();
        buffer.extend_from_slice(&bytes[..count]);
        transport.send(buffer);
        Poll::Ready(Ok(count))
    }

    /// Moves input to hyper's buffer, and returns whether there was any.
    fn take_input(&self, buffer: &mut ReadBufCursor<'_>) -> bool {
        let mut input = self.input.borrow_mut();
        let count = input.len().min(buffer.remaining());
        buffer.put_slice(&input[..count]);
        input.drain(..count);
        if input.is_empty() && input.capacity() > INPUT_LOW {
            // An idle connection keeps no buffer.
            *input = Vec::new();
        }
        let resumes = input.len() <= INPUT_LOW;
        drop(input);
        if resumes
            && self.paused.replace(false)
            && let Some(transport) = self.transport()
        {
            transport.set_reading(true);
        }
        count != 0
    }
}

impl Events for Link {
    fn data(&self, incoming: Incoming<'_>) {
        let bytes = match &incoming {
            Incoming::Borrowed(bytes) => bytes,
            Incoming::Owned(bytes) => &bytes[..],
        };
        let held = {
            let mut input = self.input.borrow_mut();
            input.extend_from_slice(bytes);
            input.len()
        };
        if held > INPUT_HIGH
            && !self.paused.replace(true)
            && let Some(transport) = self.transport()
        {
            transport.set_reading(false);
        }
        self.wake();
        give_back(incoming);
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(emptied) = buffer {
            buffer::give_back(emptied);
        }
        self.wake();
    }

    fn end_of_input(&self) -> bool {
        self.input_ended.set(true);
        self.wake();
        // What is queued may still be of use to a peer that sends no more.
        true
    }

    fn closed(&self, result: io::Result<()>) {
        self.closed.set(true);
        self.failure.set(result.err());
        let transport = self.transport.take();
        drop(transport);
        self.wake();
    }
}

/// Returns the buffer of bytes that were dealt with.
pub(super) fn give_back(incoming: Incoming<'_>) {
    if let Incoming::Owned(emptied) = incoming {
        buffer::give_back(emptied);
    }
}
