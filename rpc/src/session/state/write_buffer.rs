//! The outgoing write buffer, shared by all callers and handlers.
//!
//! Invariant: while an encoder runs, the buffer is out of its cell. Messages written meanwhile (a release from a
//! finalizer, for example) go to a separate buffer and are appended behind.

use crate::buffer;
use std::cell::{Cell, RefCell};
use yue_scheduler::LocalWaker;

#[derive(Default)]
pub(crate) struct WriteBuffer {
    pub(crate) buffer: Cell<Vec<u8>>,
    pub(crate) bytes: Cell<usize>,
    pub(crate) messages: Cell<u32>,
    pub(crate) at_tick_end: Cell<bool>,
    /// The buffer waits until the transport has sent bytes.
    pub(crate) gathering: Cell<bool>,
    /// Buffers passed to the transport while it had a backlog.
    pub(crate) backlog: Cell<u32>,
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
    /// Drops everything that has not left: the link has ended.
    pub(crate) fn clear(&self) {
        buffer::give_back(self.buffer.take());
        self.bytes.set(0);
        self.messages.set(0);
        self.gathering.set(false);
        self.backlog.set(0);
        self.above_mark.set(false);
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
