//! Flow control: when the link is read, when requests start, and which requests are refused.
//!
//! Two peers that both send much must always make progress. The rule for this: *reading never waits for this side's own
//! writing.* Reading stops only while the accounts are being emptied by something that needs nothing from the peer:
//!
//! - too many bytes of requests wait for a worker, and the output has room, so workers will take them;
//! - too many bytes of requests wait or run, the output has room, and no outgoing call waits for an answer: then no
//!   handler waits for the peer on this connection.
//!
//! Otherwise reading continues, and when twice the limit is reached, further requests are answered as busy. These
//! answers, and those to control messages, are written without a worker, so the output's maximum bounds them: a peer
//! that keeps sending and reads nothing is closed.
//!
//! When the output has room again, the room goes first to handlers that wait to answer, then to one caller, then to
//! requests that wait to start, then to the other callers. So the calls of one side cannot fill the other's accounts
//! while the other's own calls keep it from answering.

use super::close_reason::CloseReason;
use super::failure::Failure;
use super::inner::Inner;
use super::options::count;
use super::state::accounts::MemoryWaiter;
use super::state::phase::{Phase, Role};
use super::state::streams::PROGRESS_MIN;
use super::worker;
use crate::error::{Error, ErrorKind};
use crate::proto::ProtocolError;
use yue_scheduler::{deadline_after, now};

/// The largest expansion of a byte of arguments: an empty array takes one byte on the wire, and this many in Lua.
const DECODED_PER_BYTE: usize = 64;

impl Inner {
    /// An answer was written without a worker, so nobody has checked the output's marks.
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

    /// Lists the session for the workers if requests may be started now.
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

    /// Whether the client's requests wait for its grant.
    #[inline]
    pub(super) fn is_ungranted(&self) -> bool {
        self.phase.get() == Phase::Accepting && self.role == Role::Accepted
    }

    /// Whether requests may be started: the connection is granted (exceptions: a client answers from the beginning, and
    /// may itself call functions that it was passed), and the output has room.
    #[inline]
    pub(super) fn may_start_requests(&self) -> bool {
        let open = match self.phase.get() {
            Phase::Up => true,
            Phase::Greeting | Phase::Accepting if self.role == Role::Opened => true,
            Phase::Accepting => self.inbox.has_early(),
            _ => false,
        };
        if !open {
            return false;
        }
        let full = self.output_is_full();
        if full {
            self.note_output_full();
        }
        let accounts = &self.inbox.accounts;
        let limits = &self.options.limits;
        let short = accounts.memory_is_short(limits) && !accounts.may_start_one(limits);
        !(full || short && self.must_wait_for_memory(self.cost_of_next()))
    }

    /// The memory that the next request may take when it is started.
    #[cold]
    fn cost_of_next(&self) -> usize {
        let queue = self.inbox.queue.borrow();
        queue
            .front()
            .map_or(0, |request| request.bytes as usize * DECODED_PER_BYTE)
    }

    /// Whether the session has to wait for memory, now that it is short, if it were to hold `more`; it is notified when
    /// there is some.
    #[cold]
    fn must_wait_for_memory(&self, more: usize) -> bool {
        let accounts = &self.inbox.accounts;
        let held = self.inbox.memory().saturating_add(more);
        if !accounts.must_wait(held, &self.options.limits) {
            return false;
        }
        if !self.inbox.waits_for_memory.replace(true) {
            accounts.wait_for_memory(self.this.clone());
            count(&self.counters.memory_stopped);
        }
        true
    }

    /// Stops or resumes reading, as the accounts demand. Call it when one of them has changed.
    ///
    /// Input that waits for the grant is an exception: the answers to the server's own calls come behind it, so reading
    /// cannot stop, and too much of such input ends the link.
    pub(super) fn watch_input(&self) {
        if self.is_ungranted() {
            return self.watch_ungranted_input();
        }
        let limits = &self.options.limits;
        let limit = limits.pending_input_bytes_max;
        let queued = self.inbox.queued_bytes.get();
        let reading = self.inbox.reading.get();
        // Half of it must be gone before reading resumes, so that reading does not stop and start with each request.
        let limit = if reading { limit } else { limit / 2 };
        let up = self.phase.get() == Phase::Up;
        let short = up && self.inbox.accounts.memory_is_short(limits);
        let no_memory = short && self.must_wait_for_memory(0);
        let account_is_full = || {
            let bytes = self.inbox.request_bytes.get();
            queued > limit / 2 || bytes > limit && self.calls.borrow().waiting() == 0
        };
        // While the output is full, reading continues: the peer may be waiting for this side to read (see above).
        let stop = up && (no_memory || !self.output_is_full() && account_is_full());
        if stop == reading && (stop || !yue_scheduler::planted!("reading not resumed")) {
            self.inbox.reading.set(!stop);
            if stop {
                count(&self.counters.reading_stopped);
            }
            self.link.with(|link| link.set_reading(!stop));
        }
    }

    #[cold]
    fn watch_ungranted_input(&self) {
        let limit = self.options.limits.ungranted_bytes_max;
        let (unfinished, _) = self.input.borrow().unfinished();
        // An answer to an outgoing call may be larger.
        let unfinished = match self.calls.borrow().waiting() {
            0 => unfinished,
            _ => 0,
        };
        let waiting = self.inbox.queued_bytes.get() + unfinished;
        if waiting > limit {
            count(&self.counters.refused_held);
            let text = format!(
                "{waiting} bytes of requests wait for the grant, more than the limit of {limit}"
            );
            self.refuse(Failure::of_kind(ErrorKind::MessageRefused, text));
        }
    }

    /// Reports to the accounts what the session holds beside requests.
    #[inline]
    pub(super) fn report_memory(&self) {
        let (input, streams) = {
            let input = self.input.borrow();
            let (unfinished, capacity) = input.unfinished();
            let unfinished = if unfinished == 0 { 0 } else { capacity };
            (unfinished, input.streams.memory())
        };
        let now = input + streams + self.queued_bytes();
        let before = self.inbox.other_bytes.replace(now);
        self.inbox.accounts.replace_held_by_peers(before, now);
        if now < before {
            self.memory_was_freed();
        }
    }

    /// Resumes reading on sessions that waited for memory.
    #[inline]
    pub(super) fn memory_was_freed(&self) {
        if !self.inbox.accounts.has_waiting_sessions() {
            return;
        }
        let waiting = self
            .inbox
            .accounts
            .take_waiting_sessions(&self.options.limits);
        for session in waiting.iter().filter_map(std::rc::Weak::upgrade) {
            session.resume();
        }
    }

    /// A message that has begun must grow: a slow peer is accepted, a stuck one is not.
    pub(super) fn watch_message(&self) {
        let (unfinished, _) = self.input.borrow().unfinished();
        if unfinished != 0 && !self.inbox.message_timer.is_armed() {
            self.arm_message_timer(unfinished);
        }
    }

    /// A stream was opened: it must grow, too.
    pub(super) fn watch_streams(&self) {
        if !self.inbox.message_timer.is_armed() {
            let (unfinished, _) = self.input.borrow().unfinished();
            self.arm_message_timer(unfinished);
        }
    }

    fn streams_progress(&self) -> (bool, u64) {
        let streams = &self.input.borrow().streams;
        (!streams.is_empty(), streams.progress())
    }

    fn arm_message_timer(&self, unfinished: usize) {
        self.inbox.streams_then.set(self.streams_progress().1);
        let read = self.counters.bytes_in.get();
        self.inbox
            .message_began
            .set((read - unfinished as u64, read));
        self.inbox
            .message_timer
            .arm(deadline_after(self.options.limits.message_time));
    }

    /// The peer sends no more. A plain client that sent requests still gets its answers: shutting down the sending side
    /// is a legal way to announce that no more requests follow. A yue peer that does so has closed; the requests that
    /// it sent before are still started.
    pub(super) fn on_end_of_input(&self) -> bool {
        if self.link.peer_is_yue.get() {
            return self.start_queued_before_end(CloseReason::Peer);
        }
        let stays = self.phase.get() == Phase::Up && self.inbox.in_flight.get() != 0;
        if stays {
            self.stay_after_end_of_input();
        }
        stays
    }

    /// A yue peer closed in order. Requests that arrived before, notifications above all, must not be lost because the
    /// end arrived in the same read: if some wait, the link ends for `reason` after the last of them has started, and
    /// this returns `true`.
    pub(super) fn start_queued_before_end(&self, reason: CloseReason) -> bool {
        let inbox = &self.inbox;
        if inbox.ending.borrow().is_some() {
            return true;
        }
        if self.phase.get() != Phase::Up || inbox.queue.borrow().is_empty() {
            return false;
        }
        *inbox.ending.borrow_mut() = Some(reason);
        self.stay_after_end_of_input();
        debug_assert!(inbox.input_ended.get() && !inbox.queue.borrow().is_empty());
        true
    }

    /// Keeps the link of a peer that sends no more, for a limited time. The peer cannot answer calls from its handlers
    /// either.
    fn stay_after_end_of_input(&self) {
        debug_assert_eq!(self.phase.get(), Phase::Up);
        self.inbox.input_ended.set(true);
        self.fail_calls(true, || self.sends_no_more());
        let limit = deadline_after(self.options.limits.stall);
        self.inbox.message_timer.arm(limit);
    }

    /// A request was taken to be started, after the peer's end. Once it was the last, the link ends in the next tick,
    /// when it has started.
    #[cold]
    pub(super) fn end_after_last_start(&self) {
        let inbox = &self.inbox;
        if inbox.ending.borrow().is_some() && inbox.queue.borrow().is_empty() {
            inbox.message_timer.arm(now());
        }
    }

    /// Ends the link of a peer that sends no more.
    fn end_after_input(&self) {
        let ending = self.inbox.ending.take();
        match ending {
            // It has closed: nothing more arrives, and nobody reads.
            Some(reason) => self.end_link(reason),
            None => self.drain(CloseReason::Peer),
        }
    }

    /// The error of a call to a peer that has shut down its sending side.
    #[cold]
    pub(super) fn sends_no_more(&self) -> Error {
        let text = format!("{} sends no more, so it cannot answer", self.address);
        Error::new(ErrorKind::ConnectionLost, text)
    }

    /// A request has ended: if it was the last one of a peer that sends no more, the link ends, too.
    #[cold]
    pub(super) fn end_half_closed(&self) {
        if self.inbox.in_flight.get() == 0 {
            self.end_after_input();
        }
    }

    pub(super) fn on_message_timer(&self) {
        if self.inbox.input_ended.get() {
            return self.end_after_input();
        }
        let (unfinished, _) = self.input.borrow().unfinished();
        let (streams_open, progress) = self.streams_progress();
        if unfinished == 0 && !streams_open || !self.phase.get().has_link() {
            return;
        }
        let read = self.counters.bytes_in.get();
        let (began, then) = self.inbox.message_began.get();
        let same = unfinished != 0 && began == read - unfinished as u64;
        let message_stuck = same && read - then < PROGRESS_MIN;
        let streams_stuck = streams_open && progress - self.inbox.streams_then.get() < PROGRESS_MIN;
        // A message that this side does not read cannot grow. But one that holds memory which all sessions lack has had
        // its time, too.
        let inbox = &self.inbox;
        let had_its_time = inbox.reading.get() || inbox.waits_for_memory.get();
        if (message_stuck || streams_stuck) && had_its_time {
            count(&self.counters.refused_unfinished);
            let error = ProtocolError::Unfinished {
                limit: self.options.limits.message_time,
            };
            return self.end_for_protocol(error, 0);
        }
        self.arm_message_timer(unfinished);
    }
}

impl MemoryWaiter for Inner {
    fn resume(&self) {
        self.inbox.waits_for_memory.set(false);
        self.watch_input();
        self.list_requests();
    }
}
