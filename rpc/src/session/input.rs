//! Incoming messages: from the scanner to their receivers.

use super::close_reason::CloseReason;
use super::control_messages::is_for_program;
use super::inner::Inner;
use super::options::{add, count};
use super::state::inbox::{Request, Span};
use super::state::phase::Phase;
use crate::buffer::{Response, Segment};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::proto::message::read_extensions;
use crate::proto::{Frame, Message, Method, Params, ProtocolError};
use crate::transport::Incoming;
use std::cell::OnceCell;
use std::time::Duration;
use yue_scheduler::{Instant, now};

/// A longer map of extensions is ignored: no peer needs that much.
const EXTENSIONS_MAX: usize = 1024;

impl Inner {
    /// Bytes arrived.
    pub(super) fn on_data(&self, incoming: Incoming<'_>) {
        let length = match &incoming {
            Incoming::Borrowed(bytes) => bytes.len(),
            Incoming::Owned(bytes) => bytes.len(),
        };
        add(&self.counters.bytes_in, length);
        // While draining, bytes are read only to notice the peer's end.
        if matches!(self.phase.get(), Phase::Draining | Phase::Closed) {
            return;
        }
        let epoch = self.link.epoch.get();
        self.inbox.count_read();
        self.input.borrow_mut().feed(incoming);
        // One time for all messages of a read: a clock read for each would be a tenth of the work of dispatching it.
        let arrival = OnceCell::new();
        loop {
            // The borrow ends here: a message may run a callback of the program, which may end the link.
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

    // Part of the loop over messages, though large answers that arrived in chunks are handled by it, too.
    #[inline(always)]
    pub(super) fn handle_message(
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
        // Even a message that is refused shows that the peer speaks the protocol.
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
                count(&self.counters.calls_failed);
                let range = span(error);
                self.handle_response(msgid, Err(Error::remote(Response::new(segment, range, 1))));
            }
            Message::Request {
                method: Method::Name(name),
                msgid,
                params,
                ..
            } if name.starts_with(b"$yue/")
                && (!is_for_program(name) || self.link.is_datagram.get()) =>
            {
                self.handle_control_request(msgid, name, params);
            }
            Message::Notification {
                method: Method::Name(name),
                params,
            } if name.starts_with(b"$yue/") => {
                let params = (params.count, span(params.bytes));
                let name = span(name);
                self.handle_control_notification(&segment, name, params)?;
            }
            Message::Request {
                msgid,
                method,
                params,
                extensions,
            } => {
                // The fifth element is an extension, which only peers that have exchanged hello use.
                let extensions = extensions
                    .filter(|map| map.len() <= EXTENSIONS_MAX && self.link.peer_is_yue.get());
                let (remaining, inherited) = extensions.map_or((None, None), read_extensions);
                let inherited = inherited.map_or(Span::EMPTY, |map| span_in(&segment, map));
                let arrived = || *arrival.get_or_init(now);
                let after = |ms| arrived().saturating_add(Duration::from_millis(ms));
                let request = queued(&segment, frame, method, params);
                let deadline = remaining.map_or(Instant::NEVER, after);
                self.enqueue_request(Request {
                    segment: Some(segment),
                    msgid: Some(msgid),
                    deadline,
                    extensions: inherited,
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
        // Requests that the peer sent before this answer start before the caller continues.
        self.list_requests();
        let completed = self.calls.borrow_mut().complete(msgid, outcome);
        if let Some(unread) = completed.deliver_from(self.link.sender.get()) {
            count(&self.counters.answers_ignored);
            // Functions among the results of an answer that nobody reads go back to the peer.
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
        if self.link.is_datagram.get() {
            return self.refuse_datagram(error);
        }
        // The start of the next message is unknown, so the link must end. A request still gets an error as its answer.
        let msgid = self.input.borrow().msgid_of_refused();
        if let Some(msgid) = msgid {
            self.answer_error(msgid, &ErrorValue::of_kind(kind, &error.to_string()));
        }
        self.end_for_protocol(error, taken);
    }

    /// Drops a datagram: the next one is not affected. Only a request that is too large gets an answer. For other bytes
    /// the sender's address is probably not the sender's.
    fn refuse_datagram(&self, error: ProtocolError) {
        let is_large = matches!(error, ProtocolError::TooLarge { .. });
        let msgid = self.input.borrow().msgid_of_refused();
        self.input.borrow_mut().discard();
        if let Some(msgid) = msgid.filter(|_| is_large) {
            let text = error.to_string();
            let value = ErrorValue::of_kind(ErrorKind::MessageTooLarge, &text);
            self.answer_error(msgid, &value);
        }
    }

    /// Ends the link because of the bytes that came over it, and notifies the program.
    #[cold]
    pub(super) fn end_for_protocol(&self, error: ProtocolError, taken: usize) {
        let received = self.input.borrow().excerpt(taken);
        let error_text = error.to_string();
        let reason = CloseReason::Protocol { error, received };
        if let Some(session) = self.session() {
            let text = format!("the link to {} is ended: {reason}", self.address);
            self.service.dispatch.malformed(&session, &text);
        }
        if self.phase.get() == Phase::Up {
            // A yue peer then knows at once that this link ends, so its next call waits for another one.
            self.send_reason(&error_text);
        }
        self.drain(reason);
    }
}

/// The place of `part`, which lies in the segment.
#[inline]
fn span_in(segment: &Segment, part: &[u8]) -> Span {
    // Segments are far smaller than 4 GiB; see `Limits::scan`.
    let start = (part.as_ptr() as usize - segment.bytes().as_ptr() as usize) as u32;
    Span {
        start,
        end: start + part.len() as u32,
    }
}

/// A notification of that method and those arguments; the caller fills in its segment and arrival.
#[inline]
fn queued(segment: &Segment, frame: &Frame, method: Method<'_>, params: Params<'_>) -> Request {
    let span = |part: &[u8]| span_in(segment, part);
    let (name, reference) = match method {
        Method::Name(name) => (span(name), None),
        Method::Reference(id) => (Span::EMPTY, Some(id)),
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
        extensions: Span::EMPTY,
        bytes,
        deadline,
        arrival,
    }
}
