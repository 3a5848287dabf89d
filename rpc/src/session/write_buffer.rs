//! Writing messages, passing the write buffer to the transport, and waiting for room.
//!
//! The buffer leaves at the end of the tick, or earlier when it is worth a write.

use super::inner::Inner;
use super::options::{add, count};
use super::state::accounts::REPORT_BYTES;
use super::state::phase::Phase;
use super::state::write_buffer::{Writes, Writing, wake};
use crate::buffer;
use crate::error::{Error, ErrorKind};
use std::thread;
use yue_scheduler::{
    Instant, TickEnd, Wakeup, deadline_after, in_fiber, park_until, prepare_park, this_loop,
};

/// A buffer leaves when it holds this number of messages,
const FLUSH_MESSAGES: u32 = 256;

/// or this number of bytes: then one system call is cheap beside the work of making them, and the peer can start on
/// them.
const FLUSH_BYTES: usize = 16 * 1024;

/// While a peer does not read, a buffer leaves only when it holds this number of bytes. Otherwise one buffer would be
/// sent per tick, each with a few bytes in it and tens of kilobytes of capacity.
const GATHER_BYTES: usize = 32 * 1024;

/// The peer does not read when the transport still has this number of bytes, or more, to send,
const BACKLOG_BYTES: usize = 64 * 1024;

/// after it was given this number of buffers: those of one tick may leave together.
const BACKLOG_BUFFERS: u32 = 16;

impl Inner {
    /// Appends one message. An `encode` that fails, or makes too large a message, leaves nothing behind.
    #[inline]
    pub(super) fn write<R>(
        &self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // The buffer is out of its cell while the encoder, which is the program's code, runs: that code may write, too.
        let mut buffer = self.output.buffer.take();
        if buffer.capacity() == 0 {
            buffer = buffer::take();
        }
        let start = buffer.len();
        let mut writing = Writing {
            output: &self.output,
            keep: start,
            buffer,
        };
        let result = match encode(&mut writing.buffer) {
            Ok(result) if writing.buffer.len() - start > self.output.undivided_max => {
                return self.write_large(writing, start, result);
            }
            result => result,
        };
        // Exports count from now on, or are taken back; on an error `writing` drops the encoder's bytes.
        self.settle_exports(result.is_ok());
        let result = result?;
        writing.keep = writing.buffer.len();
        debug_assert!(writing.keep >= start, "the encoder removed other messages");
        drop(writing);
        self.message_written();
        Ok(result)
    }

    /// A message was appended to the buffer, which leaves now or at the end of the tick.
    #[inline]
    pub(super) fn message_written(&self) {
        self.output.messages.set(self.output.messages.get() + 1);
        if self.link.is_datagram.get() {
            // A buffer is a datagram, and holds one message.
            self.hand_over();
        } else if self.output.messages.get() >= FLUSH_MESSAGES
            || self.output.bytes.get() >= FLUSH_BYTES
        {
            self.flush_or_gather();
        } else if !self.output.at_tick_end.get() {
            self.flush_at_tick_end();
        }
    }

    #[cold]
    pub(super) fn too_large(&self, length: usize) -> Error {
        count(&self.counters.refused_too_large);
        let limit = self.options.limits.message_bytes_max;
        let text = format!(
            "the message has {length} bytes, more than the limit of {limit}; send it in parts"
        );
        Error::new(ErrorKind::MessageTooLarge, text)
    }

    fn flush_at_tick_end(&self) {
        if let Some(this) = self.strong() {
            self.output.at_tick_end.set(true);
            this_loop::at_tick_end(this);
        }
    }

    /// Passes the buffer to the transport, unless the transport has a backlog.
    fn flush_or_gather(&self) {
        self.apply_releases();
        self.send_releases();
        if self.output.bytes.get() >= GATHER_BYTES || !self.link_has_backlog() {
            self.hand_over();
        } else if !self.output.gathering.replace(true) {
            self.link.with(|link| link.notify_when_sent());
        }
    }

    /// Passes the buffer to the transport.
    pub(super) fn flush(&self) {
        self.apply_releases();
        self.send_releases();
        self.hand_over();
    }

    fn link_has_backlog(&self) -> bool {
        if self.link_bytes() < BACKLOG_BYTES {
            self.output.backlog.set(0);
        }
        self.output.backlog.get() >= BACKLOG_BUFFERS
    }

    fn hand_over(&self) {
        if self.output.unsent.get() != 0 {
            self.share_link();
        }
        self.output.gathering.set(false);
        let buffer = self.output.buffer.take();
        self.output.bytes.set(0);
        self.output.messages.set(0);
        if buffer.is_empty() {
            self.output.buffer.set(buffer);
            return;
        }
        let length = buffer.len();
        debug_assert_eq!(
            (self.output.bytes.get(), self.output.messages.get()),
            (0, 0)
        );
        add(&self.counters.bytes_out, length);
        count(&self.counters.writes);
        self.output
            .backlog
            .set(self.output.backlog.get().saturating_add(1));
        let link = self.link.transport.borrow().clone();
        match link {
            Some(link) => {
                let before = link.queued_bytes();
                link.send(buffer);
                // A filter may add bytes of its own.
                let grown = link.queued_bytes().saturating_sub(before).max(length);
                let handed = &self.output.handed_over;
                handed.set(handed.get() + grown as u64);
            }
            None => buffer::give_back(buffer),
        }
        if length >= REPORT_BYTES || self.counters.writes.get().is_multiple_of(16) {
            self.report_memory();
        }
    }

    /// Registers for the end of the tick because of work that is not in the buffer yet.
    pub(super) fn flush_soon(&self) {
        if !self.output.at_tick_end.get() && this_loop::exists() {
            self.flush_at_tick_end();
        }
    }

    /// Bytes that wait to leave.
    #[inline]
    pub(super) fn output_bytes(&self) -> usize {
        self.output.bytes.get() + self.link_bytes()
    }

    /// Bytes that the transport has not sent.
    #[inline]
    fn link_bytes(&self) -> usize {
        let transport = self.link.transport.borrow();
        transport.as_ref().map_or(0, |link| link.queued_bytes())
    }

    /// Whether so much output waits that no more should be produced.
    #[inline]
    pub(super) fn output_is_full(&self) -> bool {
        self.output_bytes() as isize > self.output.mark.get()
    }

    /// Records that the peer does not keep up; from now on it has `stall` to read something.
    pub(super) fn note_output_full(&self) {
        if !self.output.above_mark.replace(true) {
            count(&self.counters.dispatch_stopped);
            self.flush();
            self.link.with(|link| link.notify_when_sent());
            self.arm_stall();
            if !self.inbox.reading.get() {
                self.watch_input();
            }
        }
    }

    pub(super) fn arm_stall(&self) {
        if self.phase.get() == Phase::Up {
            self.output.passed.set(self.bytes_passed());
            self.link
                .timer
                .arm(deadline_after(self.options.limits.stall));
        }
    }

    /// Bytes that the transport has sent.
    fn bytes_passed(&self) -> u64 {
        // Bytes that a filter sends for itself are not counted as handed over, and may still be queued.
        let handed = self.output.handed_over.get();
        handed.saturating_sub(self.link_bytes() as u64)
    }

    /// Whether the peer has read anything since the stall timer was armed. A slow reader is not dead.
    pub(super) fn output_moves(&self) -> bool {
        self.bytes_passed() > self.output.passed.get()
    }

    /// The transport has sent a buffer.
    pub(super) fn on_sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(buffer) = buffer {
            buffer::give_back(buffer);
        }
        if self.output.gathering.get() {
            if self.link_has_backlog() {
                self.link.with(|link| link.notify_when_sent());
            } else {
                self.flush();
            }
        }
        self.offer_room();
        if self.output.unsent.get() != 0 {
            self.flush_soon();
        }
        if self.inbox.other_bytes.get() > 16 * REPORT_BYTES {
            self.report_memory();
        }
        if !self.output.above_mark.get() && self.inbox.reading.get() {
            return;
        }
        // Half the mark, so that a slow reader does not stop and start this side with each buffer.
        let limits = &self.options.limits;
        let streams_are_full = self.output.unsent.get() > limits.output_max() / 2;
        if streams_are_full || self.output_bytes() > limits.output_bytes_high / 2 {
            // It may have filled up again since the transport's check.
            self.link.with(|link| link.notify_when_sent());
            return self.arm_stall();
        }
        self.output_has_room();
    }

    /// There is room again: distributes it in the order that `flow_control.rs` explains. Each woken fiber checks
    /// whether there is still room.
    fn output_has_room(&self) {
        if self.output.above_mark.replace(false) && self.phase.get() == Phase::Up {
            self.link.timer.cancel();
            if self.streams_may_stall() {
                self.arm_stall();
            }
        }
        self.forget_full();
        wake(self.output.answers.take().into_iter());
        let mut callers = self.output.callers.take().into_iter();
        wake(callers.by_ref().take(1));
        self.list_requests();
        wake(callers);
        self.watch_input();
    }

    /// Whether a caller has to wait: there is no room, or others come first.
    #[inline]
    pub(super) fn calls_must_wait(&self) -> bool {
        self.output.above_mark.get() || self.output_is_full()
    }

    /// Parks the calling fiber until the output has room for its message.
    ///
    /// # Errors
    /// If the fiber is cancelled, or `until` comes, first; or if it unwinds.
    #[inline]
    pub(super) fn wait_for_room(&self, writes: Writes, until: Instant) -> Result<(), Error> {
        let must_wait = || match writes {
            Writes::Answer => self.output_is_full(),
            Writes::Call => self.calls_must_wait(),
        };
        while must_wait() && in_fiber() {
            self.park_for_room(writes, until)?;
        }
        Ok(())
    }

    #[cold]
    fn park_for_room(&self, writes: Writes, until: Instant) -> Result<(), Error> {
        self.note_output_full();
        if thread::panicking() {
            return Err(cannot_wait());
        }
        let waker = prepare_park();
        let waiters = match writes {
            Writes::Answer => &self.output.answers,
            Writes::Call => &self.output.callers,
        };
        waiters.borrow_mut().push(waker);
        self.link.with(|link| link.notify_when_sent());
        match park_until("room in the connection's output", Some(until))? {
            Wakeup::Woken => Ok(()),
            Wakeup::TimedOut => Err(Error::retryable(
                ErrorKind::Timeout,
                "the peer read nothing until the call timed out",
            )),
        }
    }
}

/// The error of a call in a destructor that runs during a panic. Nothing was sent.
#[cold]
pub(super) fn cannot_wait() -> Error {
    Error::retryable(
        ErrorKind::Client,
        "cannot wait while unwinding from a panic; make the call in another fiber",
    )
}

impl TickEnd for Inner {
    fn tick_end(&self) {
        self.output.at_tick_end.set(false);
        if self.output.unsent.get() == 0 {
            return self.flush_or_gather();
        }
        self.append_chunks();
        self.flush_or_gather();
        if self.output.unsent.get() != 0 {
            self.continue_chunks();
        }
    }
}
