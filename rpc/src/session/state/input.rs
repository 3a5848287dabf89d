//! Incoming bytes: bytes into segments, segments into messages.
//!
//! The transport fills a segment, which never changes while a message points into it. The beginning of an incomplete
//! message is moved, once, to the front of the next segment, where the rest is appended: the work stays in proportion
//! to the bytes, whatever the pieces.

use super::streams::Incoming;
use crate::buffer::{self, Segment};
use crate::proto::value::Reader;
use crate::proto::{Frame, ProtocolError, ScanLimits, Scanner};
use crate::release_order::Era;
use crate::transport::Incoming as IncomingBytes;
use std::rc::Rc;

/// The maximum length of the excerpt of malformed bytes in a report.
const EXCERPT_MAX: usize = 40;

pub(crate) struct Input {
    scanner: Scanner,
    limits: ScanLimits,
    segment: Option<Segment>,
    /// The start, in the segment, of the message that is being scanned.
    start: usize,
    /// The era of the bytes that arrive now.
    era: Option<Rc<Era>>,
    /// Answers that arrive in chunks.
    pub(crate) streams: Incoming,
}

impl Input {
    pub(crate) fn new(limits: ScanLimits, era: Rc<Era>) -> Input {
        Input {
            scanner: Scanner::new(limits),
            limits,
            segment: None,
            start: 0,
            era: Some(era),
            streams: Incoming::default(),
        }
    }

    /// Clears all state, for another link.
    pub(crate) fn reset(&mut self, era: Rc<Era>) {
        *self = Input::new(self.limits, era);
    }

    /// Drops what has arrived and was not taken.
    pub(crate) fn discard(&mut self) {
        self.scanner = Scanner::new(self.limits);
        self.segment = None;
        self.start = 0;
    }

    /// The era of the bytes that arrive now.
    pub(crate) fn era(&self) -> Option<Rc<Era>> {
        self.era.clone()
    }

    /// Applies releases when everything that has arrived so far is decoded.
    pub(crate) fn release_later(&mut self, releases: Vec<(u64, u64)>) {
        self.era = self.era.as_ref().map(|era| era.close(releases));
    }

    /// The bytes of an incomplete message, and the memory that they keep.
    pub(crate) fn unfinished(&self) -> (usize, usize) {
        self.segment.as_ref().map_or((0, 0), |segment| {
            (segment.bytes().len() - self.start, segment.capacity())
        })
    }

    pub(crate) fn feed(&mut self, incoming: IncomingBytes<'_>) {
        let unread = self
            .segment
            .as_ref()
            .map_or(0, |segment| segment.bytes().len() - self.start);
        if unread == 0 {
            return self.begin_segment(incoming);
        }
        let bytes = match &incoming {
            IncomingBytes::Borrowed(bytes) => bytes,
            IncomingBytes::Owned(bytes) => &bytes[..],
        };
        // An incomplete message is at hand. Its beginning moves to the front of a buffer, and the new bytes follow it.
        let start = std::mem::take(&mut self.start);
        if let Some(segment) = &mut self.segment {
            // If no complete message points into the segment any more, its own buffer serves again.
            if let Some(buffer) = segment.unique(&self.era) {
                buffer.drain(..start);
                buffer.extend_from_slice(bytes);
            } else {
                let mut buffer = buffer::take();
                buffer.extend_from_slice(&segment.bytes()[start..]);
                buffer.extend_from_slice(bytes);
                *segment = Segment::new(buffer, self.era.clone());
            }
        }
        if let IncomingBytes::Owned(emptied) = incoming {
            buffer::give_back(emptied);
        }
    }

    fn begin_segment(&mut self, incoming: IncomingBytes<'_>) {
        self.start = 0;
        match incoming {
            IncomingBytes::Owned(bytes) => {
                self.segment = Some(Segment::new(bytes, self.era.clone()));
            }
            // The transport keeps its memory: the bytes are copied, into the old buffer if nothing points into it.
            IncomingBytes::Borrowed(bytes) => {
                let era = &self.era;
                let reused = self
                    .segment
                    .as_mut()
                    .and_then(|segment| segment.unique(era));
                if let Some(buffer) = reused {
                    buffer.clear();
                    buffer.extend_from_slice(bytes);
                    return;
                }
                let mut buffer = buffer::take();
                buffer.extend_from_slice(bytes);
                self.segment = Some(Segment::new(buffer, self.era.clone()));
            }
        }
    }

    /// The next whole message: its segment, its position there, its parts.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(Segment, usize, Frame)>, ProtocolError> {
        let Some(segment) = &self.segment else {
            return Ok(None);
        };
        let Some(frame) = self.scanner.advance(&segment.bytes()[self.start..])? else {
            if self.start == segment.bytes().len() {
                // All bytes are read: the buffer is returned with the last message that points into it.
                self.segment = None;
            }
            return Ok(None);
        };
        let start = self.start;
        self.start += frame.len;
        debug_assert!(frame.len != 0 && self.start <= segment.bytes().len());
        Ok(Some((segment.clone(), start, frame)))
    }

    /// The beginning of the present message, of which `taken` bytes were consumed already, in printable characters.
    pub(crate) fn excerpt(&self, taken: usize) -> String {
        let Some(segment) = &self.segment else {
            return String::new();
        };
        let bytes = &segment.bytes()[self.start.saturating_sub(taken)..];
        let shown = &bytes[..bytes.len().min(EXCERPT_MAX)];
        let more = if shown.len() < bytes.len() { "..." } else { "" };
        format!("{}{more}", shown.escape_ascii())
    }

    /// The msgid of a request that is refused, if that much of it has arrived.
    pub(crate) fn msgid_of_refused(&self) -> Option<u32> {
        let bytes = &self.segment.as_ref()?.bytes()[self.start..];
        let [kind, id, ..] = *self.scanner.seen() else {
            return None;
        };
        // Only requests (kind 0) have an answer; of a response the msgid names a call of this side.
        if bytes.get(kind) != Some(&0) {
            return None;
        }
        u32::try_from(Reader::new(bytes.get(id..)?).read_uint()?).ok()
    }
}
