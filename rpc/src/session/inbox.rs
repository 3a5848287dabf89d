//! Requests of the peer: those that wait to be started, those that run, and their cost.

use super::Inner;
use super::accounts::{Accounts, HANDLER_BYTES};
use super::options::count;
use super::request::RequestContext;
use super::service::CloseReason;
use crate::buffer::Segment;
use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use yue_scheduler::{Instant, Timer};

/// The requests of the present link.
pub(super) struct Inbox {
    /// Requests that have arrived and have not started.
    pub(super) queue: RefCell<VecDeque<Request>>,
    pub(super) queued_bytes: Cell<usize>,
    /// Whether the workers know that the queue is not empty.
    pub(super) listed: Cell<bool>,
    /// Requests that wait or run, those of lost links included,
    pub(super) in_flight: Cell<usize>,
    /// the bytes in which they came,
    pub(super) request_bytes: Cell<usize>,
    /// and the memory of their decoded arguments.
    decoded_bytes: Cell<usize>,
    /// Whether the link is being read.
    pub(super) reading: Cell<bool>,
    /// The accounts resume the session when memory is free.
    pub(super) waits_for_memory: Cell<bool>,
    pub(super) running: RefCell<Running>,
    /// Requests at the front of the queue whose segments hold little beside them.
    settled: Cell<usize>,
    /// Buffers read since the queue was last empty or scanned.
    reads: Cell<u32>,
    /// The peer sends no more, and waits for the answers to its requests.
    pub(super) input_ended: Cell<bool>,
    /// Set with `input_ended` by a yue peer that closed in order: the link ends with this reason once the requests that
    /// arrived before have started.
    pub(super) ending: RefCell<Option<CloseReason>>,
    /// The listener's accounts.
    pub(super) accounts: Rc<Accounts>,
    /// Bytes of output and of an incomplete message, as reported to the accounts.
    pub(super) other_bytes: Cell<usize>,
    /// The time of the next progress check of an incomplete message,
    pub(super) message_timer: Timer,
    /// its start, and the bytes read at the last check.
    pub(super) message_began: Cell<(u64, u64)>,
    /// Releases of references that are due: (id, crossings).
    pub(super) released: RefCell<Vec<(u64, u64)>>,
}

impl Inbox {
    pub(super) fn new(accounts: Rc<Accounts>, message_timer: Timer) -> Inbox {
        Inbox {
            settled: Cell::new(0),
            reads: Cell::new(0),
            input_ended: Cell::new(false),
            ending: RefCell::default(),
            accounts,
            other_bytes: Cell::new(0),
            message_timer,
            message_began: Cell::new((0, 0)),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            listed: Cell::new(false),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            decoded_bytes: Cell::new(0),
            waits_for_memory: Cell::new(false),
            reading: Cell::new(true),
            running: RefCell::default(),
            released: RefCell::default(),
        }
    }
}

impl Inbox {
    /// Drops the requests of a link that has ended; running ones stay in the accounts until they end. The caller drops
    /// the result when no cell is borrowed.
    pub(super) fn reset(&self) -> (VecDeque<Request>, Running) {
        let queue = self.take_queue();
        self.accounts.replace_memory(self.other_bytes.take(), 0);
        self.settled.set(0);
        self.message_timer.cancel();
        self.input_ended.set(false);
        self.ending.take();
        self.reading.set(true);
        self.released.take();
        (queue, self.running.take())
    }

    /// Removes the waiting requests from the queue and the accounts.
    pub(super) fn take_queue(&self) -> VecDeque<Request> {
        let queue = self.queue.take();
        self.leave(queue.len(), self.queued_bytes.take());
        self.settled.set(0);
        queue
    }

    /// Whether a waiting request may start before the grant: a call of a function that this side passed to the client
    /// in one of its own calls.
    pub(super) fn has_early(&self) -> bool {
        self.queue.borrow().iter().any(Request::is_early)
    }

    fn take_early(&self) -> Option<Request> {
        let mut queue = self.queue.borrow_mut();
        let index = queue.iter().position(Request::is_early)?;
        queue.remove(index)
    }

    /// The listener's memory that the session holds.
    pub(super) fn memory(&self) -> usize {
        let running = self.in_flight.get() - self.queue.borrow().len();
        let requests = self.request_bytes.get() + self.decoded_bytes.get();
        requests + self.other_bytes.get() + running * HANDLER_BYTES
    }

    /// Records the memory of a request's decoded arguments, which it keeps until it ends.
    #[inline]
    pub(super) fn decoded(&self, bytes: usize) {
        self.decoded_bytes.set(self.decoded_bytes.get() + bytes);
        self.accounts.replace_memory(0, bytes);
    }

    /// Removes requests from the accounts.
    #[inline]
    pub(super) fn leave(&self, requests: usize, bytes: usize) {
        self.accounts.leave(requests, bytes);
        self.in_flight.set(self.in_flight.get() - requests);
        self.request_bytes.set(self.request_bytes.get() - bytes);
    }
}

/// A request that has arrived and has not started.
pub(super) struct Request {
    /// The segment with name and arguments; `None` once they are decoded.
    pub(super) segment: Option<Segment>,
    /// `None`: a notification.
    pub(super) msgid: Option<u32>,
    /// Set if a reference is called instead of a name.
    pub(super) reference: Option<u64>,
    pub(super) name: Span,
    /// The array of arguments, its header included,
    pub(super) params: Span,
    /// and the start of the first one.
    pub(super) first: u32,
    pub(super) count: u32,
    /// The size of the whole message, for the accounts.
    pub(super) bytes: u32,
    pub(super) deadline: Instant,
    /// The number of requests that arrived before it.
    pub(super) arrival: u64,
}

/// A range of a segment, in half the memory of a `Range`.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Request {
    /// Moves it to a new segment.
    fn detach(&mut self) {
        let Some(segment) = &self.segment else { return };
        let start = match self.reference {
            Some(_) => self.params.start,
            None => self.name.start,
        };
        let segment = segment.copy_of(start as usize..self.params.end as usize);
        for span in [&mut self.name, &mut self.params] {
            span.start = span.start.saturating_sub(start);
            span.end = span.end.saturating_sub(start);
        }
        self.first -= start;
        self.segment = Some(segment);
    }

    fn is_early(&self) -> bool {
        self.reference.is_some()
    }

    pub(super) fn name(&self) -> &[u8] {
        self.slice(self.name)
    }

    #[inline]
    pub(super) fn slice(&self, span: Span) -> &[u8] {
        let range = span.start as usize..span.end as usize;
        self.segment
            .as_ref()
            .map_or(&[], |segment| &segment.bytes()[range])
    }
}

/// The maximum number of buffers that requests may keep while workers will take them soon.
const PINNED_MAX: u32 = 32;

impl Inbox {
    /// Counts another buffer. Requests that workers will take soon stay where they are, unless they hold many buffers.
    #[inline]
    pub(super) fn count_read(&self) {
        if self.queue.borrow().is_empty() {
            return self.reads.set(0);
        }
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() > PINNED_MAX {
            self.unpin();
        }
    }

    /// Copies waiting requests out of segments that are much larger than they are: six bytes must not keep a whole
    /// buffer. Each request is examined once.
    pub(super) fn unpin(&self) {
        self.reads.set(0);
        let mut queue = self.queue.borrow_mut();
        let mut from = self.settled.replace(queue.len());
        while from < queue.len() {
            let Some(segment) = queue[from].segment.clone() else {
                return;
            };
            let same = |request: &&Request| {
                (request.segment.as_ref()).is_some_and(|other| other.is_same(&segment))
            };
            let count = queue.range(from..).take_while(same).count();
            let range = from..from + count;
            let bytes: usize = queue.range(range.clone()).map(|r| r.bytes as usize).sum();
            if segment.capacity() > 2 * bytes {
                queue.range_mut(range).for_each(Request::detach);
            }
            from += count;
        }
    }
}

/// The requests that the peer can cancel.
#[derive(Default)]
pub(super) struct Running {
    /// The running requests, if the options let callers stop them.
    pub(super) by_id: HashMap<u32, Rc<RequestContext>, IdHash>,
    /// Requests that were given up before they started, with the count of arrivals at that time: the entry does not
    /// concern a later request with the same msgid.
    pub(super) cancelled: HashMap<u32, u64, IdHash>,
    /// The number of requests that have arrived.
    pub(super) arrivals: u64,
    /// The first waiting request when `cancelled` was last pruned.
    pruned_to: u64,
}

/// Hashes msgids with one multiplication; the factor is the process's secret, so that a peer cannot choose collisions.
#[derive(Clone)]
pub(super) struct IdHash(u64);

impl Default for IdHash {
    fn default() -> Self {
        thread_local!(static FACTOR: u64 = RandomState::new().hash_one(0) | 1);
        IdHash(FACTOR.with(|factor| *factor))
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;
    fn build_hasher(&self) -> IdHasher {
        IdHasher {
            factor: self.0,
            hash: 0,
        }
    }
}

pub(super) struct IdHasher {
    factor: u64,
    hash: u64,
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        let product =
            u128::from(self.hash ^ u64::from(value)).wrapping_mul(u128::from(self.factor));
        self.hash = (product >> 64) as u64 ^ product as u64;
    }
}

impl Inner {
    /// Queues a request, or refuses it.
    pub(super) fn enqueue_request(&self, mut request: Request) {
        if let Some(limit) = &self.rate
            && self.refuse_for_rate(limit, request.msgid)
        {
            return;
        }
        if let Some(refusal) = self.refusal_of(&request) {
            self.release_unread(request.slice(request.params));
            return self.refuse_busy(request.msgid, refusal);
        }
        let inbox = &self.inbox;
        let bytes = request.bytes as usize;
        let mut running = inbox.running.borrow_mut();
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
        let request = if self.is_ungranted() {
            self.inbox.take_early()?
        } else {
            inbox.queue.borrow_mut().pop_front()?
        };
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
        let running = self.inbox.running.borrow().by_id.get(&msgid).cloned();
        if let Some(context) = running {
            context.scope.cancel();
            return;
        }
        let queue = self.inbox.queue.borrow();
        let Some(first) = queue.front().map(|request| request.arrival) else {
            return;
        };
        let mut running = self.inbox.running.borrow_mut();
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
        let mut running = self.inbox.running.borrow_mut();
        if running.cancelled.is_empty() {
            return false;
        }
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
        let mut running = self.inbox.running.borrow_mut();
        if running
            .by_id
            .get(&msgid)
            .is_some_and(|other| Rc::ptr_eq(other, context))
        {
            running.by_id.remove(&msgid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(segment: &Segment, start: u32) -> Request {
        Request {
            segment: Some(segment.clone()),
            msgid: None,
            reference: None,
            name: Span {
                start,
                end: start + 1,
            },
            params: Span {
                start: start + 1,
                end: start + 3,
            },
            first: start + 2,
            count: 1,
            bytes: 5,
            deadline: Instant::NEVER,
            arrival: 0,
        }
    }

    #[test]
    fn requests_that_wait_keep_no_segment_much_larger_than_they_are() {
        let inbox = Inbox::new(Rc::default(), Timer::new(|| {}));
        let mut bytes = vec![0; 64 * 1024];
        bytes[100..103].copy_from_slice(b"f\x91\x07");
        bytes[200..203].copy_from_slice(b"g\x91\x08");
        let large = Segment::new(bytes, None);
        let full = Segment::new(b"h\x91\x09  ".to_vec(), None);
        inbox.queue.borrow_mut().extend([
            request(&large, 100),
            request(&large, 200),
            request(&full, 0),
        ]);
        inbox.unpin();
        let queue = inbox.queue.borrow();
        for (request, name) in queue.iter().zip([b"f", b"g", b"h"]) {
            assert_eq!(request.name(), name);
            assert_eq!(request.slice(request.params)[0], 0x91);
            assert_eq!(request.first, request.params.start + 1);
            assert!(request.segment.as_ref().is_some_and(|s| s.capacity() <= 8));
        }
        let third = queue[2].segment.as_ref();
        assert!(third.is_some_and(|segment| segment.is_same(&full)));
    }
}
