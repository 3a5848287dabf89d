//! Large answers, sent in chunks, so that one does not hold up the link.
//!
//! ```text
//!   [2, "$yue/chunk", [stream, length]]     opens a stream: an answer of that length follows
//!   [2, "$yue/chunk", [stream, bytes]]      its next bytes; the last ones complete the answer
//!   [2, "$yue/chunk", [stream]]             gives it up: its caller has cancelled
//! ```
//!
//! Only answers are divided. Requests start in the order in which they arrived, and a divided one would have to hold
//! up all later ones, or be overtaken by them; answers have no order. An answer is divided if the peer's hello has said
//! how many bytes in open streams it takes at once. If more are open, the answer is sent whole.
//!
//! A stream is opened where its answer would have been, and so belongs to the era of references in which the answer was
//! written. The chunks follow at the ends of ticks while little other output waits, from each stream in turn. If other
//! output never ends, every so many bytes of it make room for one chunk.
//!
//! ```text
//!   streams ──one chunk──▶ write buffer ──▶ transport        `WINDOW_BYTES` in both: the rest waits here,
//!   small answers ─────────────▲                             where small messages overtake it
//! ```

use super::inner::Inner;
use super::options::count;
use super::state::phase::{Phase, Role};
use super::state::streams::Stream;
use super::state::write_buffer::Writing;
use crate::buffer::{self, Segment};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::proto::scan::functions;
use crate::proto::value::Reader;
use crate::proto::{Method, ProtocolError, Scanner};
use std::cell::OnceCell;

const CHUNK: Method<'_> = Method::Name(b"$yue/chunk");

/// The key of hello's features: the bytes in open streams that a side takes at once.
const FEATURE: &str = "chunk";

/// The key of the link's number in a client's hello.
const LINK: &str = "id";

/// The next chunk is written when no more than this number of bytes wait to be sent: the link always has something to
/// send, and a small message waits for little.
const WINDOW_BYTES: usize = 64 * 1024;

impl Inner {
    /// The bytes in open streams that this side takes at once, if it takes chunks. Between threads buffers change hands
    /// whole, and a chunk would only be copied.
    fn chunks_taken(&self) -> Option<usize> {
        let takes = self.options.chunk_bytes.is_some() && !self.address.starts_with("thread://");
        takes.then_some(self.options.limits.pending_input_bytes_max)
    }

    /// Appends the features of this side for a hello, as a map.
    pub(super) fn encode_features(&self, out: &mut Vec<u8>) {
        let chunks = self.chunks_taken();
        // The client names the link, and the server learns its name.
        let number = (self.role == Role::Opened).then(|| self.link.number.get());
        out.push(0x80 | (u8::from(chunks.is_some()) + u8::from(number.is_some())));
        if let Some(bytes) = chunks {
            encode::str(out, FEATURE);
            encode::uint(out, bytes as u64);
        }
        if let Some(number) = number {
            encode::str(out, LINK);
            encode::uint(out, number);
        }
    }

    /// Reads the contents of the peer's hello: its version, then its features.
    pub(super) fn read_hello(&self, contents: &[u8]) {
        let mut reader = Reader::new(contents);
        let features = reader.skip().and_then(|()| reader.find_key(FEATURE));
        let bytes = features
            .and_then(|mut value| value.read_uint())
            .unwrap_or(0);
        self.link
            .peer_chunks
            .set(usize::try_from(bytes).unwrap_or(usize::MAX));
        if self.role == Role::Accepted {
            let number = reader.find_key(LINK);
            let number = number.and_then(|mut value| value.read_uint()).unwrap_or(0);
            self.link.number.set(number);
        }
    }

    // -- Sending ------------------------------------------------------------------------------------------------------

    /// Completes the writing of a message that may be too large, or large enough to be divided.
    #[cold]
    pub(super) fn write_large<R>(
        &self,
        mut writing: Writing<'_>,
        start: usize,
        result: R,
    ) -> Result<R, Error> {
        let length = writing.buffer.len() - start;
        if length > self.options.limits.message_bytes_max {
            self.settle_exports(false);
            return Err(self.too_large(length));
        }
        self.settle_exports(true);
        if let Some(msgid) = self.divisible(&writing.buffer[start..]) {
            self.open_stream(&mut writing.buffer, start, msgid);
        }
        writing.keep = writing.buffer.len();
        drop(writing);
        self.message_written();
        self.flush_soon();
        Ok(result)
    }

    /// The msgid of a message that is to be sent in chunks.
    fn divisible(&self, message: &[u8]) -> Option<u32> {
        let [0x94 | 0x95, 1, rest @ ..] = message else {
            return None;
        };
        let peer_max = self.link.peer_chunks.get();
        let may_open = self
            .output
            .streams
            .borrow()
            .may_open(message.len(), peer_max);
        let large = message.len() > self.options.chunk_bytes?;
        if !large || !may_open || self.phase.get() != Phase::Up {
            return None;
        }
        u32::try_from(Reader::new(rest).read_uint()?).ok()
    }

    /// Replaces the message at the buffer's end by the opening of a stream with it.
    fn open_stream(&self, buffer: &mut Vec<u8>, start: usize, msgid: u32) {
        let message = match start {
            0 => std::mem::replace(buffer, buffer::take()),
            _ => buffer.split_off(start),
        };
        let length = message.len();
        let number = self.output.streams.borrow_mut().open(msgid, message);
        let opening = |out: &mut Vec<u8>| {
            encode::uint(out, number.into());
            encode::uint(out, length as u64);
            Ok(2)
        };
        let written = encode::notification(buffer, CHUNK, opening);
        debug_assert!(written.is_ok(), "an opening is always written");
        count(&self.counters.answers_divided);
        self.change_unsent(length as isize);
        if self.streams_may_stall() && !self.link.timer.is_armed() {
            self.arm_stall();
        }
    }

    /// Bytes were added to the streams, or taken from them.
    fn change_unsent(&self, change: isize) {
        let unsent = self.output.unsent.get().saturating_add_signed(change);
        self.output.unsent.set(unsent);
        self.output.set_mark(&self.options.limits);
    }

    /// Whether so many bytes wait in streams that the peer must read some in time.
    pub(super) fn streams_may_stall(&self) -> bool {
        self.output.unsent.get() > self.options.limits.output_bytes_high
    }

    /// At the end of a tick: appends chunks while little else waits to be sent. Not earlier: a transport may send at
    /// once, and then whole answers would leave before a handler can make a small one.
    #[cold]
    pub(super) fn append_chunks(&self) {
        while self.output.unsent.get() != 0 && self.output_bytes() < WINDOW_BYTES {
            self.append_chunk();
        }
    }

    /// The chunks were passed to the transport: continues when it has sent them.
    #[cold]
    pub(super) fn continue_chunks(&self) {
        if self.output_bytes() < WINDOW_BYTES {
            self.flush_soon();
        } else {
            self.link.with(|link| link.notify_when_sent());
        }
    }

    /// Before the buffer leaves: adds a chunk to it if enough other output has left since the last one.
    #[cold]
    pub(super) fn share_link(&self) {
        let since = self.output.since_chunk.get() + self.output.bytes.get();
        let due = since >= WINDOW_BYTES && !self.output_is_full();
        self.output.since_chunk.set(if due { 0 } else { since });
        if due {
            self.append_chunk();
        }
    }

    /// Writes everything that waits in streams: the link is about to end.
    pub(super) fn send_all_chunks(&self) {
        while self.output.unsent.get() != 0 {
            self.append_chunk();
            self.message_written();
        }
    }

    /// Appends the next chunk to the output.
    fn append_chunk(&self) {
        let bytes_max = self.options.chunk_bytes.unwrap_or(WINDOW_BYTES).max(1);
        let mut sent = 0;
        self.append(bytes_max, |out| {
            let mut streams = self.output.streams.borrow_mut();
            sent = streams.next_chunk(bytes_max, |number, bytes| {
                let chunk = |out: &mut Vec<u8>| {
                    encode::uint(out, number.into());
                    encode::bin(out, bytes);
                    Ok(2)
                };
                let written = encode::notification(out, CHUNK, chunk);
                debug_assert!(written.is_ok(), "a chunk is always written");
            });
        });
        debug_assert!(sent != 0, "there are bytes, but no stream has them");
        self.output.since_chunk.set(0);
        self.change_unsent(-(sent as isize));
    }

    /// The peer gave a request up: if its answer is being sent, the rest is not. Returns whether it was.
    #[cold]
    pub(super) fn abort_stream(&self, msgid: u32) -> bool {
        let removed = self.output.streams.borrow_mut().remove(msgid);
        let Some(stream) = removed else {
            return false;
        };
        self.change_unsent(-(stream.unsent() as isize));
        let Stream {
            number, message, ..
        } = stream;
        let written = self.write(|out| {
            encode::notification(out, CHUNK, |out| {
                encode::uint(out, number.into());
                Ok(1)
            })
        });
        debug_assert!(written.is_ok(), "the end of a stream is small");
        // The peer will not see the functions in it, and cannot release them.
        self.release_exports(functions(&message).map(|id| (id, 1)));
        let text = "the caller gave up the call while its answer was being sent";
        self.answer_error(msgid, &ErrorValue::of_kind(ErrorKind::Cancelled, text));
        true
    }

    // -- Receiving ----------------------------------------------------------------------------------------------------

    /// A chunk has arrived, or the opening or the end of a stream.
    #[cold]
    pub(super) fn handle_chunk(&self, count: u32, params: &[u8]) -> Result<(), ProtocolError> {
        let fault = |fault| Err(ProtocolError::Chunk { fault });
        if !self.link.peer_is_yue.get() {
            // To others it is a notification like any that this side does not know.
            return Ok(());
        }
        let Some(bytes_max) = self.chunks_taken() else {
            return fault("arrived, which this side has not asked for");
        };
        let is_granted = match self.phase.get() {
            Phase::Up => true,
            Phase::Accepting => self.role == Role::Opened,
            _ => false,
        };
        if !is_granted {
            return fault("arrived before the connection was granted");
        }
        let mut reader = Reader::new(params);
        let Some(number) = reader.read_uint() else {
            return fault("has no number");
        };
        if count == 1 {
            return self.input.borrow_mut().streams.abort(number);
        }
        if let Some(length) = reader.read_uint() {
            return self.handle_opening(number, length, bytes_max);
        }
        let Some(chunk) = reader.read_bytes() else {
            return fault("has no bytes");
        };
        let whole = self.input.borrow_mut().streams.append(number, chunk)?;
        match whole {
            Some((bytes, era)) => self.handle_assembled(Segment::new(bytes, era)),
            None => Ok(()),
        }
    }

    fn handle_opening(
        &self,
        number: u64,
        length: u64,
        bytes_max: usize,
    ) -> Result<(), ProtocolError> {
        let limit_bytes = self.options.limits.scan().message_bytes_max;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limit_bytes {
            return Err(ProtocolError::TooLarge { limit_bytes });
        }
        let mut input = self.input.borrow_mut();
        let era = input.era();
        input.streams.open(number, length, bytes_max, era)?;
        drop(input);
        self.watch_streams();
        Ok(())
    }

    /// An answer is whole: it is handled as if it had arrived at once.
    fn handle_assembled(&self, segment: Segment) -> Result<(), ProtocolError> {
        let bytes = segment.bytes();
        let frame = Scanner::new(self.options.limits.scan()).advance(bytes)?;
        match frame {
            Some(frame) if frame.len == bytes.len() && bytes[frame.starts[0]] == 1 => {
                self.handle_message(segment, 0, &frame, &OnceCell::new())
            }
            _ => Err(ProtocolError::Chunk {
                fault: "completes something that is not an answer",
            }),
        }
    }
}
