//! Flow control: when the link is read, when requests start, and what is refused instead.
//!
//! Two peers that both send much must always make progress. The rule for it: *reading never waits for our own writing.*
//! Reading stops only while something empties the accounts that needs nothing from the peer:
//!
//! - too many bytes of requests wait for a worker, and the output has room, so that workers will take them;
//! - too many bytes of requests wait or run, the output has room, and no call of ours waits for an answer: then no
//!   handler waits for the peer on this connection.
//!
//! In any other case reading goes on, and when twice the limit is reached, further requests are answered as busy. These
//! answers, and those to control messages, are written without a worker, so they are bounded by the output's maximum:
//! a peer that sends on and reads nothing is closed.
//!
//! When the output has room again, the room goes first to handlers that wait to answer, then to one caller, then to
//! requests that wait to start, then to the other callers. So neither side's calls can fill the other's accounts while
//! that one's own calls keep it from answering.

use super::Inner;
use super::inbox::Request;
use super::options::{Counter, count};
use super::phase::{Phase, Role};
use super::service::{CloseReason, Failure};
use super::worker;
use crate::error::ErrorKind;
use crate::proto::encode::ErrorValue;

/// Why a request is refused: a limit, and its counter.
pub(super) struct Refusal<'a> {
    text: String,
    counter: &'a Counter,
}

impl Inner {
    /// Why a request cannot be taken in, if so.
    #[inline]
    pub(super) fn refusal_of(&self, request: &Request) -> Option<Refusal<'_>> {
        let (limits, inbox) = (&self.options.limits, &self.inbox);
        let bytes = inbox.request_bytes.get() + request.bytes as usize;
        if inbox.in_flight.get() < limits.in_flight_max && bytes <= limits.pending_input_bytes_max {
            return None;
        }
        self.refusal_near_limits(bytes)
    }

    #[cold]
    fn refusal_near_limits(&self, bytes: usize) -> Option<Refusal<'_>> {
        let limits = &self.options.limits;
        if self.inbox.in_flight.get() >= limits.in_flight_max {
            let limit = limits.in_flight_max;
            return Some(Refusal {
                text: format!(
                    "{limit} requests of this connection are in flight already, the limit; wait for some"
                ),
                counter: &self.counters.refused_in_flight,
            });
        }
        // A message of the largest size is always taken when there is no other.
        let limit = limits.pending_input_bytes_max;
        (bytes > limit.saturating_mul(2) && self.inbox.in_flight.get() != 0).then(|| Refusal {
            text: format!(
                "requests of more than {limit} bytes are in flight on this connection, the limit; wait for some"
            ),
            counter: &self.counters.refused_pending_input,
        })
    }

    #[cold]
    pub(super) fn refuse_busy(&self, msgid: Option<u32>, refusal: Refusal<'_>) {
        count(refusal.counter);
        let mut value = ErrorValue::of_kind(ErrorKind::ServerBusy, &refusal.text);
        value.retryable = true;
        if let Some(msgid) = msgid {
            self.answer_error(msgid, &value);
        }
    }

    /// An answer was written without a worker, so nothing has looked at the output's marks.
    pub(super) fn watch_output(&self) {
        if !self.output_is_full() {
            return;
        }
        self.note_output_full();
        if self.output_bytes() > self.options.limits.output_ceiling() && self.phase.get().has_link()
        {
            count(&self.counters.stalls);
            self.end_link(CloseReason::Stalled);
        }
    }

    /// Tells the workers that requests wait, if they may be started now.
    #[inline]
    pub(super) fn list_requests(&self) {
        if self.inbox.listed.get()
            || self.inbox.queue.borrow().is_empty()
            || !self.may_start_requests()
        {
            return;
        }
        if let Some(this) = self.strong() {
            self.inbox.listed.set(true);
            worker::list(this);
        }
    }

    /// Whether requests may be started: the connection is granted (a client answers from the beginning), and the output
    /// has room.
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

    /// Stops reading, or reads again, as the accounts demand. To be called when one of them has changed.
    ///
    /// Input that only the grant can let in is another matter: the answers to the server's own calls come behind it, so
    /// it cannot stop being read, and too much of it ends the link.
    pub(super) fn watch_input(&self) {
        let limit = self.options.limits.pending_input_bytes_max;
        let queued = self.inbox.queued_bytes.get();
        if queued > limit && self.phase.get() == Phase::Accepting && self.role == Role::Accepted {
            count(&self.counters.refused_held);
            let text = format!(
                "{queued} bytes of requests wait for the grant, more than the limit of {limit}"
            );
            return self.refuse(Failure::of_kind(ErrorKind::MessageRefused, text));
        }
        let reading = self.inbox.reading.get();
        // Half of it must be gone before reading begins again, so that it does not stop and go with each request.
        let limit = if reading { limit } else { limit / 2 };
        let stop = self.phase.get() == Phase::Up
            && !self.output_is_full()
            && (queued > limit / 2
                || self.inbox.request_bytes.get() > limit && self.calls.borrow().waiting() == 0);
        if stop == reading {
            self.inbox.reading.set(!stop);
            if stop {
                count(&self.counters.reading_stopped);
            }
            self.link.with(|link| link.set_reading(!stop));
        }
    }
}
