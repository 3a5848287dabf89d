//! The requests of a link that wait to be started, those that run and can be cancelled, and their cost.

use super::accounts::{Accounts, HANDLER_BYTES};
use super::changes::note_change;
use crate::buffer::Segment;
use crate::session::close_reason::CloseReason;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use yue_scheduler::{Instant, Timer, simulation};

/// The requests of the present link.
pub(crate) struct Inbox {
    /// Requests that have arrived and have not started.
    pub(crate) queue: RefCell<VecDeque<Request>>,
    pub(crate) queued_bytes: Cell<usize>,
    /// Whether the workers know that the queue is not empty.
    pub(crate) listed: Cell<bool>,
    /// Requests that wait or run, those of lost links included,
    pub(crate) in_flight: Cell<usize>,
    /// the bytes in which they came,
    pub(crate) request_bytes: Cell<usize>,
    /// and the memory of their decoded arguments.
    pub(crate) decoded_bytes: Cell<usize>,
    /// Whether the link is being read.
    pub(crate) reading: Cell<bool>,
    /// The accounts resume the session when memory is free.
    pub(crate) waits_for_memory: Cell<bool>,
    /// Requests at the front of the queue whose segments hold little beside them.
    pub(crate) settled: Cell<usize>,
    /// Buffers read since the queue was last empty or scanned.
    pub(crate) reads: Cell<u32>,
    /// The peer sends no more, and waits for the answers to its requests.
    pub(crate) input_ended: Cell<bool>,
    /// Set with `input_ended` by a yue peer that closed in order: the link ends with this reason once the requests that
    /// arrived before have started.
    pub(crate) ending: RefCell<Option<CloseReason>>,
    /// The listener's accounts.
    pub(crate) accounts: Rc<Accounts>,
    /// Bytes of output and of an incomplete message, as reported to the accounts.
    pub(crate) other_bytes: Cell<usize>,
    /// The time of the next progress check of an incomplete message,
    pub(crate) message_timer: Timer,
    /// its start, and the bytes read at the last check,
    pub(crate) message_began: Cell<(u64, u64)>,
    /// and the progress of the peer's streams then.
    pub(crate) streams_then: Cell<u64>,
    /// Releases of references that are due: (id, crossings).
    pub(crate) released: RefCell<Vec<(u64, u64)>>,
}

impl Inbox {
    pub(crate) fn new(accounts: Rc<Accounts>, message_timer: Timer) -> Inbox {
        Inbox {
            settled: Cell::new(0),
            reads: Cell::new(0),
            input_ended: Cell::new(false),
            ending: RefCell::default(),
            accounts,
            other_bytes: Cell::new(0),
            message_timer,
            message_began: Cell::new((0, 0)),
            streams_then: Cell::new(0),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            listed: Cell::new(false),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            decoded_bytes: Cell::new(0),
            waits_for_memory: Cell::new(false),
            reading: Cell::new(true),
            released: RefCell::default(),
        }
    }
}

impl Inbox {
    /// Drops the requests of a link that has ended; running ones stay in the accounts until they end. The caller drops
    /// the result when no cell is borrowed.
    pub(crate) fn reset(&self) -> VecDeque<Request> {
        let queue = self.take_queue();
        self.accounts
            .replace_held_by_peers(self.other_bytes.take(), 0);
        self.settled.set(0);
        self.message_timer.cancel();
        self.input_ended.set(false);
        self.ending.take();
        self.reading.set(true);
        self.released.take();
        queue
    }

    /// Removes the waiting requests from the queue and the accounts.
    pub(crate) fn take_queue(&self) -> VecDeque<Request> {
        let queue = self.queue.take();
        debug_assert_eq!(
            queue
                .iter()
                .map(|request| request.bytes as usize)
                .sum::<usize>(),
            self.queued_bytes.get(),
        );
        self.leave(queue.len(), self.queued_bytes.take());
        self.settled.set(0);
        queue
    }

    /// Whether a waiting request may start before the grant: a call of a function that this side passed to the client
    /// in one of its own calls.
    pub(crate) fn has_early(&self) -> bool {
        self.queue.borrow().iter().any(Request::is_early)
    }

    pub(crate) fn take_early(&self) -> Option<Request> {
        let mut queue = self.queue.borrow_mut();
        let index = queue.iter().position(Request::is_early)?;
        queue.remove(index)
    }

    /// The listener's memory that the session holds.
    pub(crate) fn memory(&self) -> usize {
        let running = self.in_flight.get() - self.queue.borrow().len();
        let requests = self.request_bytes.get() + self.decoded_bytes.get();
        requests + self.other_bytes.get() + running * HANDLER_BYTES
    }

    /// Records the memory of a request's decoded arguments, which it keeps until it ends.
    #[inline]
    pub(crate) fn decoded(&self, bytes: usize) {
        self.decoded_bytes.set(self.decoded_bytes.get() + bytes);
        self.accounts.replace_memory(0, bytes);
    }

    /// Removes requests from the accounts.
    #[inline]
    pub(crate) fn leave(&self, requests: usize, bytes: usize) {
        debug_assert!(requests <= self.in_flight.get(), "a request leaves twice");
        debug_assert!(bytes <= self.request_bytes.get());
        self.accounts.leave(requests, bytes);
        let in_flight = self.in_flight.get() - requests;
        self.in_flight.set(in_flight);
        if requests > 0 && in_flight == 0 {
            note_change();
        }
        self.request_bytes.set(self.request_bytes.get() - bytes);
    }
}

/// A request that has arrived and has not started.
pub(crate) struct Request {
    /// The segment with name and arguments; `None` once they are decoded.
    pub(crate) segment: Option<Segment>,
    /// `None`: a notification.
    pub(crate) msgid: Option<u32>,
    /// Set if a reference is called instead of a name.
    pub(crate) reference: Option<u64>,
    pub(crate) name: Span,
    /// The array of arguments, its header included,
    pub(crate) params: Span,
    /// and the start of the first one.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// The map of extensions, if it holds more than the remaining time. Empty otherwise.
    pub(crate) extensions: Span,
    /// The size of the whole message, for the accounts.
    pub(crate) bytes: u32,
    pub(crate) deadline: Instant,
    /// The number of requests that arrived before it.
    pub(crate) arrival: u64,
}

/// A range of a segment, in half the memory of a `Range`.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) const EMPTY: Span = Span { start: 0, end: 0 };
}

impl Request {
    /// Moves it to a new segment.
    fn detach(&mut self) {
        let Some(segment) = &self.segment else { return };
        // A called reference has no name: its span is empty and lies at the segment's beginning.
        let start = match self.reference {
            Some(_) => self.params.start,
            None => self.name.start,
        };
        debug_assert!(start <= self.params.start && self.params.start <= self.first);
        // The extensions lie behind everything else.
        let end = self.params.end.max(self.extensions.end);
        let segment = segment.copy_of(start as usize..end as usize);
        for span in [&mut self.name, &mut self.params, &mut self.extensions] {
            span.start = span.start.saturating_sub(start);
            span.end = span.end.saturating_sub(start);
        }
        self.first -= start;
        self.segment = Some(segment);
    }

    fn is_early(&self) -> bool {
        self.reference.is_some()
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.slice(self.name)
    }

    #[inline]
    pub(crate) fn slice(&self, span: Span) -> &[u8] {
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
    pub(crate) fn count_read(&self) {
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
    pub(crate) fn unpin(&self) {
        self.reads.set(0);
        let mut queue = self.queue.borrow_mut();
        let mut from = self.settled.replace(queue.len());
        debug_assert!(from <= queue.len(), "more requests are settled than wait");
        while from < queue.len() {
            let Some(segment) = queue[from].segment.clone() else {
                debug_assert!(false, "a waiting request has its segment");
                return;
            };
            let same = |request: &&Request| {
                (request.segment.as_ref()).is_some_and(|other| other.is_same(&segment))
            };
            // Requests of one segment are neighbours: they arrived in one read.
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

/// The requests that the peer can cancel. `R` is the identity of a request that runs.
pub(crate) struct Running<R> {
    /// The running requests, if the options let callers stop them.
    pub(crate) by_id: HashMap<u32, Rc<R>, IdHash>,
    /// Requests that were given up before they started, with the count of arrivals at that time: the entry does not
    /// concern a later request with the same msgid.
    pub(crate) cancelled: HashMap<u32, u64, IdHash>,
    /// The number of requests that have arrived.
    pub(crate) arrivals: u64,
    /// The first waiting request when `cancelled` was last pruned.
    pub(crate) pruned_to: u64,
}

impl<R> Default for Running<R> {
    fn default() -> Self {
        Running {
            by_id: HashMap::default(),
            cancelled: HashMap::default(),
            arrivals: 0,
            pruned_to: 0,
        }
    }
}

/// Hashes msgids with one multiplication; the factor is the process's secret, so that a peer cannot choose collisions.
#[derive(Clone)]
pub(crate) struct IdHash(u64);

impl Default for IdHash {
    fn default() -> Self {
        thread_local!(static FACTOR: u64 = simulation::random_number() | 1);
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

pub(crate) struct IdHasher {
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
            extensions: Span::EMPTY,
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
