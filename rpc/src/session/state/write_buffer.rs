//! The outgoing write buffer, shared by all callers and handlers.
//!
//! Invariant: while an encoder runs, the buffer is out of its cell. Messages written meanwhile (a release from a
//! finalizer, for example) go to a separate buffer and are appended behind.

use super::streams::Outgoing;
use crate::buffer;
use crate::session::options::Limits;
use std::cell::{Cell, RefCell};
use yue_scheduler::LocalWaker;

pub(crate) struct WriteBuffer {
    /// Longer messages are not written like others: they are too large, or are sent in chunks.
    pub(crate) undivided_max: usize,
    /// Above this number of waiting bytes the output is full; -1 while streams hold too much.
    pub(crate) mark: Cell<isize>,
    pub(crate) buffer: Cell<Vec<u8>>,
    pub(crate) bytes: Cell<usize>,
    pub(crate) messages: Cell<u32>,
    pub(crate) at_tick_end: Cell<bool>,
    /// The buffer waits until the transport has sent bytes.
    pub(crate) gathering: Cell<bool>,
    /// Buffers passed to the transport while it had a backlog.
    pub(crate) backlog: Cell<u32>,
    /// Answers that are sent in chunks,
    pub(crate) streams: RefCell<Outgoing>,
    /// the bytes of them that were not written yet,
    pub(crate) unsent: Cell<usize>,
    /// and the bytes of other output since the last chunk.
    pub(crate) since_chunk: Cell<usize>,
    /// Dispatch was stopped because too much output was waiting.
    pub(crate) above_mark: Cell<bool>,
    /// Bytes by which the transport's queue grew, of all links.
    pub(crate) handed_over: Cell<u64>,
    /// Bytes that the transport had sent when the stall timer was armed.
    pub(crate) passed: Cell<u64>,
    /// Handlers that wait for room to answer,
    pub(crate) answers: RefCell<Vec<LocalWaker>>,
    /// and callers that wait for room to call.
    pub(crate) callers: RefCell<Vec<LocalWaker>>,
}

/// The kind of message that a fiber wants to write when there is room: see `flow_control.rs` for why it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    Answer,
    Call,
}

impl WriteBuffer {
    pub(crate) fn new(undivided_max: usize, limits: &Limits) -> WriteBuffer {
        let output = WriteBuffer {
            undivided_max,
            mark: Cell::new(0),
            buffer: Cell::default(),
            bytes: Cell::new(0),
            messages: Cell::new(0),
            at_tick_end: Cell::new(false),
            gathering: Cell::new(false),
            backlog: Cell::new(0),
            streams: RefCell::default(),
            unsent: Cell::new(0),
            since_chunk: Cell::new(0),
            above_mark: Cell::new(false),
            handed_over: Cell::new(0),
            passed: Cell::new(0),
            answers: RefCell::default(),
            callers: RefCell::default(),
        };
        output.set_mark(limits);
        output
    }

    /// Sets the mark, after a change of the bytes in streams.
    pub(crate) fn set_mark(&self, limits: &Limits) {
        self.mark
            .set(match self.unsent.get() > limits.output_max() {
                true => -1,
                false => isize::try_from(limits.output_bytes_high).unwrap_or(isize::MAX),
            });
    }

    /// Drops everything that has not left: the link has ended.
    pub(crate) fn clear(&self, limits: &Limits) {
        buffer::give_back(self.buffer.take());
        self.bytes.set(0);
        self.messages.set(0);
        self.gathering.set(false);
        self.backlog.set(0);
        self.above_mark.set(false);
        self.streams.take();
        self.unsent.set(0);
        self.since_chunk.set(0);
        self.set_mark(limits);
    }

    /// Wakes every fiber that waits for room, because nothing will be written any more.
    pub(crate) fn wake_room_waiters(&self) {
        wake(self.answers.take().into_iter().chain(self.callers.take()));
    }
}

pub(crate) fn wake(waiters: impl Iterator<Item = LocalWaker>) {
    for waiter in waiters {
        waiter.wake();
    }
}

/// Holds the buffer while an encoder uses it. Dropping it, even in a panic, restores the buffer without the encoder's
/// bytes.
pub(crate) struct Writing<'a> {
    pub(crate) output: &'a WriteBuffer,
    pub(crate) buffer: Vec<u8>,
    pub(crate) keep: usize,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        debug_assert!(
            self.keep <= buffer.len(),
            "the encoder removed other messages"
        );
        buffer.truncate(self.keep);
        // Messages that were written while the encoder ran come behind its own, which began before them.
        let meanwhile = self.output.buffer.take();
        if !meanwhile.is_empty() {
            buffer.extend_from_slice(&meanwhile);
        }
        self.output.bytes.set(buffer.len());
        self.output.buffer.set(buffer);
    }
}
