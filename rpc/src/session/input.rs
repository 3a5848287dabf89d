//! Incoming bytes: bytes into segments, segments into messages, messages to their receivers.
//!
//! The transport fills a segment, which never changes while a message points into it. The beginning of an incomplete
//! message is moved, once, to the front of the next segment, where the rest is appended: the work stays in proportion
//! to the bytes, whatever the pieces.

use super::Inner;
use super::inbox::{Request, Span};
use super::options::{add, count};
use super::phase::Phase;
use super::release_order::Era;
use super::service::CloseReason;
use crate::buffer::{self, Response, Segment};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::proto::message::remaining_time_ms;
use crate::proto::value::Reader;
use crate::proto::{Frame, Message, Method, Params, ProtocolError, ScanLimits, Scanner};
use crate::transport::Incoming;
use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{Instant, now};

/// A longer map of extensions is ignored: no peer needs that much.
const EXTENSIONS_MAX: usize = 1024;

/// The maximum length of the excerpt of malformed bytes in a report.
const EXCERPT_MAX: usize = 40;

pub(super) struct Input {
    scanner: Scanner,
    limits: ScanLimits,
    segment: Option<Segment>,
    /// The start, in the segment, of the message that is being scanned.
    start: usize,
    /// The era of the bytes that arrive now.
    era: Option<Rc<Era>>,
}

impl Input {
    pub(super) fn new(limits: ScanLimits, era: Rc<Era>) -> Input {
        Input {
            scanner: Scanner::new(limits),
            limits,
            segment: None,
            start: 0,
            era: Some(era),
        }
    }

    /// Clears all state, for another link.
    pub(super) fn reset(&mut self, era: Rc<Era>) {
        *self = Input::new(self.limits, era);
    }

    /// Applies releases when everything that has arrived so far is decoded.
    pub(super) fn release_later(&mut self, releases: Vec<(u64, u64)>) {
        self.era = self.era.as_ref().map(|era| era.close(releases));
    }

    /// The bytes of an incomplete message, and the memory that they keep.
    pub(super) fn unfinished(&self) -> (usize, usize) {
        self.segment.as_ref().map_or((0, 0), |segment| {
            (segment.bytes().len() - self.start, segment.capacity())
        })
    }

    fn feed(&mut self, incoming: Incoming<'_>) {
        let unread = self
            .segment
            .as_ref()
            .map_or(0, |segment| segment.bytes().len() - self.start);
        if unread == 0 {
            return self.begin_segment(incoming);
        }
        let bytes = match &incoming {
            Incoming::Borrowed(bytes) => bytes,
            Incoming::Owned(bytes) => &bytes[..],
        };
        let start = std::mem::take(&mut self.start);
        if let Some(segment) = &mut self.segment {
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
        if let Incoming::Owned(emptied) = incoming {
            buffer::give_back(emptied);
        }
    }

    fn begin_segment(&mut self, incoming: Incoming<'_>) {
        self.start = 0;
        match incoming {
            Incoming::Owned(bytes) => {
                self.segment = Some(Segment::new(bytes, self.era.clone()));
            }
            Incoming::Borrowed(bytes) => {
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
    fn next(&mut self) -> Result<Option<(Segment, usize, Frame)>, ProtocolError> {
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
        Ok(Some((segment.clone(), start, frame)))
    }

    /// The beginning of the present message, of which `taken` bytes were consumed already, in printable characters.
    fn excerpt(&self, taken: usize) -> String {
        let Some(segment) = &self.segment else {
            return String::new();
        };
        let bytes = &segment.bytes()[self.start.saturating_sub(taken)..];
        let shown = &bytes[..bytes.len().min(EXCERPT_MAX)];
        let more = if shown.len() < bytes.len() { "..." } else { "" };
        format!("{}{more}", shown.escape_ascii())
    }

    /// The msgid of a request that is refused, if that much of it has arrived.
    fn msgid_of_refused(&self) -> Option<u32> {
        let bytes = &self.segment.as_ref()?.bytes()[self.start..];
        let [kind, id, ..] = *self.scanner.seen() else {
            return None;
        };
        if bytes.get(kind) != Some(&0) {
            return None;
        }
        u32::try_from(Reader::new(bytes.get(id..)?).read_uint()?).ok()
    }
}

impl Inner {
    /// Bytes arrived.
    pub(super) fn on_data(&self, incoming: Incoming<'_>) {
        let length = match &incoming {
            Incoming::Borrowed(bytes) => bytes.len(),
            Incoming::Owned(bytes) => bytes.len(),
        };
        add(&self.counters.bytes_in, length);
        if matches!(self.phase.get(), Phase::Draining | Phase::Closed) {
            return;
        }
        let epoch = self.link.epoch.get();
        self.inbox.count_read();
        self.input.borrow_mut().feed(incoming);
        // One time for all messages of a read: a clock read for each would be a tenth of the work of dispatching it.
        let arrival = OnceCell::new();
        loop {
            let next = self.input.borrow_mut().next();
            let outcome = match next {
                Ok(None) => break,
                Ok(Some((segment, start, frame))) => self
                    .handle_message(segment, start, &frame, &arrival)
                    .map_err(|error| (error, frame.len)),
                Err(error) => Err((error, 0)),
            };
            if let Err((error, taken)) = outcome {
                return self.refuse_input(error, taken);
            }
            // The message may have ended the link.
            if self.link.epoch.get() != epoch || self.phase.get() == Phase::Draining {
                return;
            }
        }
        self.refuse_late();
        self.list_requests();
        if !self.inbox.listed.get() {
            self.inbox.unpin();
        }
        self.watch_message();
        self.report_memory();
        self.watch_input();
    }

    #[inline]
    fn handle_message(
        &self,
        segment: Segment,
        start: usize,
        frame: &Frame,
        arrival: &OnceCell<Instant>,
    ) -> Result<(), ProtocolError> {
        let bytes = &segment.bytes()[start..start + frame.len];
        let span = |part: &[u8]| {
            let at = part.as_ptr() as usize - segment.bytes().as_ptr() as usize;
            at..at + part.len()
        };
        let message = Message::parse(bytes, frame)?;
        self.handshake.peer_spoke.set(true);
        match message {
            Message::Response {
                msgid,
                error: None,
                result,
                count,
            } => {
                let range = span(result);
                self.handle_response(msgid, Ok(Response::new(segment, range, count)));
            }
            Message::Response {
                msgid,
                error: Some(error),
                ..
            } => {
                let range = span(error);
                self.handle_response(msgid, Err(Error::remote(Response::new(segment, range, 1))));
            }
            Message::Request {
                method: Method::Name(name),
                msgid,
                params,
                ..
            } if name.starts_with(b"$yue/") => {
                self.handle_control_request(msgid, name, params);
            }
            Message::Notification {
                method: Method::Name(name),
                params,
            } if name.starts_with(b"$yue/") => {
                let params = (params.count, span(params.bytes));
                let name = span(name);
                self.handle_control_notification(&segment, name, params);
            }
            Message::Request {
                msgid,
                method,
                params,
                extensions,
            } => {
                let remaining = extensions
                    .filter(|map| map.len() <= EXTENSIONS_MAX && self.link.peer_is_yue.get())
                    .and_then(remaining_time_ms);
                let arrived = || *arrival.get_or_init(now);
                let after = |ms| arrived().saturating_add(Duration::from_millis(ms));
                let request = queued(&segment, frame, method, params);
                let deadline = remaining.map_or(Instant::NEVER, after);
                self.enqueue_request(Request {
                    segment: Some(segment),
                    msgid: Some(msgid),
                    deadline,
                    ..request
                });
            }
            Message::Notification { method, params } => {
                let request = queued(&segment, frame, method, params);
                self.enqueue_request(Request {
                    segment: Some(segment),
                    ..request
                });
            }
        }
        Ok(())
    }

    #[inline]
    fn handle_response(&self, msgid: u32, outcome: Result<Response, Error>) {
        let completed = self.calls.borrow_mut().complete(msgid, outcome);
        if let Some(unread) = completed.deliver() {
            count(&self.counters.answers_ignored);
            if let Ok(response) = unread {
                self.release_unread(response.bytes());
            }
        }
    }

    /// Answers a request with an error, from any context.
    pub(super) fn answer_error(&self, msgid: u32, value: &ErrorValue<'_>) {
        let written = self.write(|out| {
            encode::error_response(out, msgid, |out| {
                value.encode(out);
                Ok(1)
            })
        });
        debug_assert!(written.is_ok(), "an error that this side makes is small");
        self.watch_output();
    }

    /// The bytes cannot be accepted: sends the reason, if the msgid is known, and ends the link. `taken` bytes of the
    /// message were consumed already.
    #[cold]
    fn refuse_input(&self, error: ProtocolError, taken: usize) {
        let (kind, counter) = match error {
            ProtocolError::TooLarge { .. } => {
                (ErrorKind::MessageTooLarge, &self.counters.refused_too_large)
            }
            _ => (ErrorKind::MessageRefused, &self.counters.refused_malformed),
        };
        count(counter);
        let msgid = self.input.borrow().msgid_of_refused();
        if let Some(msgid) = msgid {
            self.answer_error(msgid, &ErrorValue::of_kind(kind, &error.to_string()));
        }
        self.end_for_protocol(error, taken);
    }

    /// Ends the link because of the bytes that came over it, and notifies the program.
    #[cold]
    pub(super) fn end_for_protocol(&self, error: ProtocolError, taken: usize) {
        let received = self.input.borrow().excerpt(taken);
        let reason = CloseReason::Protocol { error, received };
        if let Some(session) = self.session() {
            let text = format!("the link to {} is ended: {reason}", self.address);
            self.service.dispatch.malformed(&session, &text);
        }
        self.drain(reason);
    }
}

/// A notification of that method and those arguments; the caller fills in its segment and arrival.
#[inline]
fn queued(segment: &Segment, frame: &Frame, method: Method<'_>, params: Params<'_>) -> Request {
    let base = segment.bytes().as_ptr() as usize;
    let span = |part: &[u8]| {
        // Segments are far smaller than 4 GiB; see `Limits::scan`.
        let start = (part.as_ptr() as usize - base) as u32;
        Span {
            start,
            end: start + part.len() as u32,
        }
    };
    let (name, reference) = match method {
        Method::Name(name) => (span(name), None),
        Method::Reference(id) => (Span { start: 0, end: 0 }, Some(id)),
    };
    let array = span(params.array);
    let first = array.end - params.bytes.len() as u32;
    let (count, bytes) = (params.count, frame.len as u32);
    let (segment, msgid, deadline, arrival) = (None, None, Instant::NEVER, 0);
    Request {
        segment,
        msgid,
        reference,
        name,
        params: array,
        first,
        count,
        bytes,
        deadline,
        arrival,
    }
}
