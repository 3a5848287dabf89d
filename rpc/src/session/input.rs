//! What the session hears: bytes into segments, segments into messages, messages to those they concern.
//!
//! A segment is filled by the transport and never changed while a message points into it. The beginning of a message
//! that is not whole yet is moved, once, to the front of the next segment, where the rest is appended: work stays in
//! proportion to the bytes, whatever the pieces.

use super::options::{add, count};
use super::request::{Place, Queued};
use super::worker;
use super::{Inner, Phase, Role};
use crate::buffer::{self, Response, Segment};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::proto::message::remaining_time_ms;
use crate::proto::value::Reader;
use crate::proto::{Frame, Message, Method, Params, ProtocolError, ScanLimits, Scanner};
use crate::transport::Incoming;
use std::time::Duration;
use yue_scheduler::{Instant, deadline_after};

pub(super) struct Input {
    scanner: Scanner,
    limits: ScanLimits,
    segment: Option<Segment>,
    /// Where in the segment the message begins that is scanned.
    start: usize,
}

impl Input {
    pub(super) fn new(limits: ScanLimits) -> Input {
        Input {
            scanner: Scanner::new(limits),
            limits,
            segment: None,
            start: 0,
        }
    }

    /// Forgets all, for another link.
    pub(super) fn reset(&mut self) {
        *self = Input::new(self.limits);
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
            if let Some(buffer) = segment.unique() {
                buffer.drain(..start);
                buffer.extend_from_slice(bytes);
            } else {
                let mut buffer = buffer::take();
                buffer.extend_from_slice(&segment.bytes()[start..]);
                buffer.extend_from_slice(bytes);
                *segment = Segment::new(buffer);
            }
        }
        if let Incoming::Owned(emptied) = incoming {
            buffer::give_back(emptied);
        }
    }

    fn begin_segment(&mut self, incoming: Incoming<'_>) {
        self.start = 0;
        match incoming {
            Incoming::Owned(bytes) => self.segment = Some(Segment::new(bytes)),
            Incoming::Borrowed(bytes) => {
                if let Some(buffer) = self.segment.as_mut().and_then(Segment::unique) {
                    buffer.clear();
                    buffer.extend_from_slice(bytes);
                    return;
                }
                let mut buffer = buffer::take();
                buffer.extend_from_slice(bytes);
                self.segment = Some(Segment::new(buffer));
            }
        }
    }

    /// The next whole message: its segment, its place there, its parts.
    #[inline]
    fn next(&mut self) -> Result<Option<(Segment, usize, Frame)>, ProtocolError> {
        let Some(segment) = &self.segment else {
            return Ok(None);
        };
        let Some(frame) = self.scanner.advance(&segment.bytes()[self.start..])? else {
            if self.start == segment.bytes().len() {
                // All is read: the buffer goes back with the last message that points into it.
                self.segment = None;
            }
            return Ok(None);
        };
        let start = self.start;
        self.start += frame.len;
        Ok(Some((segment.clone(), start, frame)))
    }

    /// The msgid of a request that cannot be taken, if it had come so far.
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
    pub(super) fn data(&self, incoming: Incoming<'_>) {
        let length = match &incoming {
            Incoming::Borrowed(bytes) => bytes.len(),
            Incoming::Owned(bytes) => bytes.len(),
        };
        add(&self.counters.bytes_in, length);
        if matches!(self.phase.get(), Phase::Draining | Phase::Closed) {
            return;
        }
        let epoch = self.epoch.get();
        self.input.borrow_mut().feed(incoming);
        loop {
            let next = self.input.borrow_mut().next();
            let outcome = match next {
                Ok(None) => break,
                Ok(Some((segment, start, frame))) => self.take_message(segment, start, &frame),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return self.refuse_input(error);
            }
            // The message may have ended the link.
            if self.epoch.get() != epoch || self.phase.get() == Phase::Draining {
                return;
            }
        }
        self.refuse_late();
        self.list_requests();
        self.watch_input();
    }

    #[inline]
    fn take_message(
        &self,
        segment: Segment,
        start: usize,
        frame: &Frame,
    ) -> Result<(), ProtocolError> {
        let bytes = &segment.bytes()[start..start + frame.len];
        let place = |part: &[u8]| {
            let at = part.as_ptr() as usize - segment.bytes().as_ptr() as usize;
            at..at + part.len()
        };
        let message = Message::parse(bytes, frame)?;
        self.heard.set(true);
        match message {
            Message::Response {
                msgid,
                error: None,
                result,
                count,
            } => {
                let range = place(result);
                self.take_answer(msgid, Ok(Response::new(segment, range, count)));
            }
            Message::Response {
                msgid,
                error: Some(error),
                ..
            } => {
                let range = place(error);
                self.take_answer(msgid, Err(Error::remote(Response::new(segment, range, 1))));
            }
            Message::Request {
                method: Method::Name(name),
                msgid,
                params,
                ..
            } if name.starts_with(b"$yue/") => {
                self.control_request(msgid, name, params);
            }
            Message::Notification {
                method: Method::Name(name),
                params,
            } if name.starts_with(b"$yue/") => {
                let params = (params.count, place(params.bytes));
                let name = place(name);
                self.control_notification(&segment, name, params);
            }
            Message::Request {
                msgid,
                method,
                params,
                extensions,
            } => {
                let remaining = extensions.and_then(remaining_time_ms);
                let after = |ms| deadline_after(Duration::from_millis(ms));
                let request = queued(&segment, frame, method, params);
                let deadline = remaining.map_or(Instant::NEVER, after);
                self.enqueue(Queued {
                    segment: Some(segment),
                    msgid: Some(msgid),
                    deadline,
                    ..request
                });
            }
            Message::Notification { method, params } => {
                let request = queued(&segment, frame, method, params);
                self.enqueue(Queued {
                    segment: Some(segment),
                    ..request
                });
            }
        }
        Ok(())
    }

    #[inline]
    fn take_answer(&self, msgid: u32, outcome: Result<Response, Error>) {
        let completed = self.pending.borrow_mut().complete(msgid, outcome);
        if !completed.deliver() {
            count(&self.counters.answers_ignored);
        }
    }

    fn enqueue(&self, mut request: Queued) {
        if self.in_flight.get() >= self.options.limits.in_flight_max {
            return self.refuse_busy(request.msgid);
        }
        let mut running = self.running.borrow_mut();
        request.arrival = running.arrivals;
        running.arrivals += 1;
        self.in_flight.set(self.in_flight.get() + 1);
        self.queued_bytes
            .set(self.queued_bytes.get() + request.bytes as usize);
        self.queue.borrow_mut().push_back(request);
    }

    #[cold]
    fn refuse_busy(&self, msgid: Option<u32>) {
        count(&self.counters.refused_in_flight);
        let limit = self.options.limits.in_flight_max;
        let text = format!(
            "{limit} requests of this connection are in flight already, the limit; wait for some"
        );
        let mut value = ErrorValue::of_kind(ErrorKind::ServerBusy, &text);
        value.retryable = true;
        if let Some(msgid) = msgid {
            self.answer_error(msgid, &value);
        }
        // Answers are made here without a worker, so the mark is watched here too.
        if self.output_is_full() {
            self.note_output_full();
        }
    }

    /// Answers a request with an error, from wherever.
    pub(super) fn answer_error(&self, msgid: u32, value: &ErrorValue<'_>) {
        let written = self.write(|out| {
            encode::error_response(out, msgid, |out| {
                value.encode(out);
                Ok(1)
            })
        });
        debug_assert!(written.is_ok(), "an error of ours is small");
    }

    /// The bytes cannot be taken: says so, if it is known to whom, and ends the link.
    #[cold]
    fn refuse_input(&self, error: ProtocolError) {
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
        self.drain(super::CloseReason::Protocol(error));
    }

    /// Tells the workers that requests wait, if they may be started now.
    #[inline]
    pub(super) fn list_requests(&self) {
        if self.listed.get() || self.queue.borrow().is_empty() || !self.may_start_requests() {
            return;
        }
        if let Some(this) = self.strong() {
            self.listed.set(true);
            worker::list(this);
        }
    }

    /// Whether requests may be started: the connection is granted (a client answers from the beginning), and what was
    /// said is being read.
    #[inline]
    pub(super) fn may_start_requests(&self) -> bool {
        let open = match self.phase.get() {
            Phase::Up => true,
            Phase::Greeting | Phase::Accepting => self.role == Role::Opened,
            _ => false,
        };
        if !open {
            return false;
        }
        let full = self.output_is_full();
        if full {
            self.note_output_full();
        }
        !full
    }

    /// Stops reading while too many bytes of requests wait to be started, or twice as much output as the mark waits to
    /// be read (refusals are made without a worker, so nothing else bounds them); and reads again when half of it is
    /// gone. A full output alone is no reason: behind the requests may come the answers that our own handlers wait for.
    /// Input that only the grant can let in is another matter: the answers to the server's own calls come behind it, so
    /// it cannot stop being read, and too much of it ends the link.
    pub(super) fn watch_input(&self) {
        let limit = self.options.limits.pending_input_bytes_max;
        let waiting = self.queued_bytes.get();
        if waiting > limit && self.phase.get() == Phase::Accepting && self.role == Role::Accepted {
            count(&self.counters.refused_held);
            let text = format!(
                "{waiting} bytes of requests wait for the grant, more than the limit of {limit}"
            );
            return self.refuse(super::Failure::of_kind(ErrorKind::MessageRefused, text));
        }
        let output = self.output_bytes() / 2;
        let output_limit = self.options.limits.output_bytes_high;
        if self.reading.get() && (waiting > limit || output > output_limit) {
            self.reading.set(false);
            count(&self.counters.reading_stopped);
            self.with_link(|link| link.set_reading(false));
        } else if !self.reading.get() && waiting <= limit / 2 && output <= output_limit / 2 {
            self.reading.set(true);
            self.with_link(|link| link.set_reading(true));
        }
    }
}

/// A notification of that method and those arguments, its segment and arrival still to be filled in.
#[inline]
fn queued(segment: &Segment, frame: &Frame, method: Method<'_>, params: Params<'_>) -> Queued {
    let base = segment.bytes().as_ptr() as usize;
    let place = |part: &[u8]| {
        // Segments are far smaller than 4 GiB; see `Limits::scan`.
        let start = (part.as_ptr() as usize - base) as u32;
        Place {
            start,
            end: start + part.len() as u32,
        }
    };
    let (name, reference) = match method {
        Method::Name(name) => (place(name), None),
        Method::Reference(id) => (Place { start: 0, end: 0 }, Some(id)),
    };
    let array = place(params.array);
    let first = array.end - params.bytes.len() as u32;
    let (count, bytes) = (params.count, frame.len as u32);
    let (segment, msgid, deadline, arrival) = (None, None, Instant::NEVER, 0);
    Queued {
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
