//! Requests of the peer from their arrival to their end: queued or refused, started, cancelled, counted.

use super::close_reason::CloseReason;
use super::inner::{Inner, RequestContext};
use super::options::{Counter, Rate, count};
use super::state::inbox::Request;
use super::state::phase::Phase;
use super::state::rate_limit::{RateLimit, Verdict};
use crate::error::ErrorKind;
use crate::proto::encode::ErrorValue;
use std::rc::Rc;
use yue_scheduler::now;

/// The reason why a request is refused: a limit, and its counter.
pub(super) struct Refusal<'a> {
    text: String,
    counter: &'a Counter,
}

impl Inner {
    /// Queues a request, or refuses it.
    pub(super) fn enqueue_request(&self, mut request: Request) {
        debug_assert!(
            !matches!(
                self.phase.get(),
                Phase::Draining | Phase::Ending | Phase::Closed
            ),
            "a request arrives over a link that has ended"
        );
        debug_assert!(request.segment.is_some());
        if let Some(limit) = &self.rate
            && self.refuse_for_rate(limit, request.msgid)
        {
            return;
        }
        if let Some(refusal) = self.refusal_of(&request) {
            // Nobody will decode the arguments, so the functions among them go back to the peer.
            self.release_unread(request.slice(request.params));
            return self.refuse_busy(request.msgid, refusal);
        }
        let inbox = &self.inbox;
        let bytes = request.bytes as usize;
        let mut running = self.running.borrow_mut();
        request.arrival = running.arrivals;
        running.arrivals += 1;
        inbox.accounts.enter(bytes);
        inbox.in_flight.set(inbox.in_flight.get() + 1);
        inbox.request_bytes.set(inbox.request_bytes.get() + bytes);
        inbox.queued_bytes.set(inbox.queued_bytes.get() + bytes);
        inbox.queue.borrow_mut().push_back(request);
    }

    /// Removes the next request, which starts now. It stays in the accounts until [`Inner::request_done`].
    #[inline]
    pub(super) fn pop_request(&self) -> Option<Request> {
        let inbox = &self.inbox;
        // Before the grant, only calls of functions that this side passed may start: `on_accept` may wait for them.
        let request = if self.is_ungranted() {
            self.inbox.take_early()?
        } else {
            inbox.queue.borrow_mut().pop_front()?
        };
        debug_assert!(inbox.in_flight.get() != 0, "a request that was not counted");
        inbox
            .queued_bytes
            .set(inbox.queued_bytes.get() - request.bytes as usize);
        inbox.settled.set(inbox.settled.get().saturating_sub(1));
        if !self.inbox.reading.get() {
            self.watch_input();
        }
        if inbox.input_ended.get() {
            self.end_after_last_start();
        }
        inbox.accounts.start_handler();
        count(&self.counters.requests);
        Some(request)
    }

    /// A request of `bytes`, decoded to `decoded` bytes of memory, has ended, whether or not its link has.
    #[inline]
    pub(super) fn request_done(&self, bytes: u32, decoded: usize) {
        self.inbox.leave(1, bytes as usize);
        self.inbox.accounts.end_handler();
        if decoded != 0 {
            let left = self.inbox.decoded_bytes.get() - decoded;
            self.inbox.decoded_bytes.set(left);
            self.inbox.accounts.replace_memory(decoded, 0);
        }
        self.memory_was_freed();
        if self.inbox.input_ended.get() {
            self.end_half_closed();
        }
        if !self.inbox.reading.get() {
            self.watch_input();
        }
    }

    /// The peer gave a request up. A waiting one is not started; a running one is cancelled if the options say so.
    pub(super) fn handle_cancel(&self, msgid: u32) {
        let running = self.running.borrow().by_id.get(&msgid).cloned();
        if let Some(context) = running {
            context.scope.cancel();
            return;
        }
        if self.output.unsent.get() != 0 && self.abort_stream(msgid) {
            return;
        }
        let queue = self.inbox.queue.borrow();
        let Some(first) = queue.front().map(|request| request.arrival) else {
            return;
        };
        let mut running = self.running.borrow_mut();
        let limit = self.options.limits.in_flight_max;
        if running.cancelled.len() >= limit && first >= running.pruned_to + limit as u64 / 2 {
            // Most entries were for requests that run or have ended.
            running.cancelled.retain(|_, arrivals| *arrivals > first);
            running.pruned_to = first;
        }
        if running.cancelled.len() < limit {
            let arrivals = running.arrivals;
            running.cancelled.insert(msgid, arrivals);
        }
    }

    /// Whether a request that is about to start was given up since it arrived.
    #[inline]
    pub(super) fn take_cancelled(&self, request: &Request) -> bool {
        let mut running = self.running.borrow_mut();
        if running.cancelled.is_empty() {
            return false;
        }
        // A peer may reuse a msgid as soon as it has given a call up: msgpack-rpc does not order them. So a cancel
        // counts only for requests that arrived before it.
        let cancelled = request
            .msgid
            .and_then(|msgid| running.cancelled.remove(&msgid));
        if self.inbox.queue.borrow().is_empty() {
            running.cancelled.clear();
        }
        cancelled.is_some_and(|arrivals| request.arrival < arrivals)
    }

    /// A request has ended and cannot be cancelled any more. Another one with the same msgid is left alone.
    #[inline]
    pub(super) fn forget_running(&self, msgid: u32, context: &Rc<RequestContext>) {
        let mut running = self.running.borrow_mut();
        if running
            .by_id
            .get(&msgid)
            .is_some_and(|other| Rc::ptr_eq(other, context))
        {
            running.by_id.remove(&msgid);
        }
    }

    /// The reason why a request is refused, if it is.
    #[inline]
    pub(super) fn refusal_of(&self, request: &Request) -> Option<Refusal<'_>> {
        let (limits, inbox) = (&self.options.limits, &self.inbox);
        let bytes = inbox.request_bytes.get() + request.bytes as usize;
        if inbox.in_flight.get() < limits.in_flight_max
            && bytes <= limits.pending_input_bytes_max
            && !inbox.accounts.handlers_are_many(limits)
            && self.phase.get() == Phase::Up
        {
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
        if self.is_ungranted() && self.inbox.queue.borrow().len() >= limits.ungranted_requests_max {
            let limit = limits.ungranted_requests_max;
            return Some(Refusal {
                text: format!(
                    "{limit} requests of this connection wait for its grant already, the limit; wait for it"
                ),
                counter: &self.counters.refused_ungranted,
            });
        }
        let accounts = &self.inbox.accounts;
        if accounts.handlers_are_many(limits)
            && !accounts.may_start_handler(self.inbox.in_flight.get(), limits)
        {
            let limit = limits.handlers_max;
            let text = if accounts.handlers_are_full(limits) {
                format!(
                    "the server's limit of {limit} requests in flight is reached; call again later"
                )
            } else {
                format!(
                    "the server's limit of {limit} requests in flight is near, and this connection has its share of \
                     them; wait for some"
                )
            };
            return Some(Refusal {
                text,
                counter: &self.counters.refused_handlers,
            });
        }
        // A message of the largest size is always accepted when there is no other.
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

    /// Refuses a request that comes too early: answers it and returns `true`.
    #[cold]
    pub(super) fn refuse_for_rate(&self, limit: &RateLimit, msgid: Option<u32>) -> bool {
        let verdict = limit.ask(now());
        if verdict == Verdict::Take {
            return false;
        }
        count(&self.counters.refused_rate);
        if verdict == Verdict::End && self.link.is_datagram.get() {
            // The end of the link would forget what its peer has done: the next datagram makes another.
            return true;
        }
        if let Some(msgid) = msgid {
            let Rate {
                calls_per_second,
                burst,
            } = limit.rate;
            let text = format!(
                "this connection may make {calls_per_second} calls a second, {burst} at once; wait a little"
            );
            let mut value = ErrorValue::of_kind(ErrorKind::ServerBusy, &text);
            value.retryable = true;
            self.answer_error(msgid, &value);
        }
        if verdict == Verdict::End {
            self.end_for(CloseReason::TooManyCalls);
        }
        true
    }
}
