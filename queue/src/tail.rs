//! The producers' half of both queues: tickets, and the way from a ticket to its block.
//!
//! # Why a push needs no epoch pin
//!
//! A ticket is a guard for its own block: consumers go slot by slot, so they cannot leave (and nobody can retire) a
//! block while one of its tickets is unpublished. What remains is to find the block without touching any other memory
//! that may be freed. Three words do it, read as a sequence lock:
//!
//! ```text
//!   route.index == ours ?  block = route.block ;  route.index still == ours ?  -> `block` is our block
//! ```
//!
//! `route.block` is only followed when `route.index` names the very block that our ticket keeps alive. Otherwise (once
//! per block and producer) the cold path pins the epoch, walks from `newest` to the block, linking new ones as needed,
//! and updates the route. The measured cost of a pin is that of a second read-modify-write per push.
//!
//! # Why the walk is sound
//!
//! - A block is retired only after `newest` has moved beyond it (`pass`), and `newest` only ever moves forward. So what
//!   was loaded from it under the pin stays allocated for the pin.
//! - Forward: for the same reason every later block is retired after that load too.
//! - Backward (when others have moved `newest` beyond our block): all blocks from ours on are kept by our own ticket.
//!
//! # Threads
//!
//! Any number of producers; `pass` and `retire` are called by consumers.

use crate::{
    block::{self, Block, SLOTS},
    reclaim::{Graveyard, Pin},
    sync::{AtomicPtr, AtomicU64, Ordering},
};
use crossbeam_utils::CachePadded;

/// The bit of the ticket counter that says that nobody will take values any more.
const CLOSED: u64 = 1 << 63;

/// The place in a block whose producer links the next block ahead of need, so that at the border producers find one
/// instead of all allocating at once.
const LINK_AHEAD: usize = SLOTS / 2;

/// `Route::index` while a producer writes the route. Greater than every block's index.
const BUSY: u64 = u64::MAX;

/// The short way to the block that producers use at present.
struct Route<T> {
    index: AtomicU64,
    block: AtomicPtr<Block<T>>,
    /// The newest block that some producer has reached; where the cold path begins.
    newest: AtomicPtr<Block<T>>,
}

/// The producers' half of a queue.
pub(crate) struct Tail<T> {
    /// The next ticket. Written by every push, so alone on its cache line.
    ticket: CachePadded<AtomicU64>,
    /// Written once per block, read by every push.
    route: CachePadded<Route<T>>,
    graveyard: Graveyard<T>,
}

impl<T> Tail<T> {
    /// An empty queue's tail, and its first block.
    pub(crate) fn new() -> (Self, *mut Block<T>) {
        let first = Block::allocate(0, std::ptr::null_mut());
        let tail = Self {
            ticket: CachePadded::new(AtomicU64::new(0)),
            route: CachePadded::new(Route {
                index: AtomicU64::new(0),
                block: AtomicPtr::new(first),
                newest: AtomicPtr::new(first),
            }),
            graveyard: Graveyard::new(),
        };
        (tail, first)
    }

    /// Appends a value, or drops it if the queue is closed.
    #[inline]
    pub(crate) fn push(&self, value: T) {
        // Relaxed: a ticket only has to be unique; the value is published by its slot's state.
        let ticket = self.ticket.fetch_add(1, Ordering::Relaxed);
        if ticket & CLOSED != 0 {
            return;
        }
        let block = self.block_of(block::index(ticket));
        if block::offset(ticket) == LINK_AHEAD {
            // SAFETY: the block of our ticket.
            return unsafe { self.publish_and_link(block, ticket, value) };
        }
        // SAFETY: our unpublished ticket keeps the block, and we publish it once.
        unsafe {
            (*block).assert_alive();
            (*block).fetch_ahead(ticket);
            (*block).slot(ticket).publish(value);
        }
    }

    /// Appends the values in a row, with one read-modify-write for all of them.
    pub(crate) fn push_batch(&self, mut values: impl ExactSizeIterator<Item = T>) {
        let promised = values.len() as u64;
        if promised > 0 {
            // Relaxed: as in `push`.
            let first = self.ticket.fetch_add(promised, Ordering::Relaxed);
            if first & CLOSED != 0 {
                return;
            }
            let mut batch = Batch {
                block: self.block_of(block::index(first)),
                ticket: first,
                end: first + promised,
            };
            while batch.ticket < batch.end {
                let Some(value) = values.next() else { break };
                batch.publish(value);
            }
        }
        // An honest iterator is empty now; one that was too modest loses nothing.
        for value in values {
            self.push(value);
        }
    }

    /// Lets later pushes drop their values. Answers the first ticket that was not handed out.
    pub(crate) fn close(&self) -> u64 {
        // Relaxed: the ticket counter publishes nothing; every slot before the answer is published by its own state.
        self.ticket.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED
    }

    /// The block with this index, in which the caller holds an unpublished ticket.
    #[inline(always)]
    fn block_of(&self, index: u64) -> *mut Block<T> {
        // Acquire: pairs with the Release store of the index in `set_route`: the block was stored before it.
        if self.route.index.load(Ordering::Acquire) == index {
            // Acquire: pairs with the Release store of the block in `set_route`. If it is a later route's block, then
            // that route's BUSY is visible below. Also makes the block's fields visible.
            let block = self.route.block.load(Ordering::Acquire);
            if self.route.index.load(Ordering::Relaxed) == index {
                return block;
            }
        }
        self.find(index)
    }

    /// [`Tail::block_of`] by walking.
    #[cold]
    fn find(&self, index: u64) -> *mut Block<T> {
        let _pin = self.graveyard.pin();
        // Acquire: pairs with the exchanges in `advance` and `pass`; the block's fields are visible.
        let mut block = self.route.newest.load(Ordering::Acquire);
        // SAFETY: `newest` and its successors are kept by the pin, predecessors down to `index` by the caller's
        // ticket: see the head of this file.
        unsafe {
            (*block).assert_not_freed();
            while (*block).index < index {
                block = (*block).next_or_link();
                (*block).assert_not_freed();
            }
            while (*block).index > index {
                block = (*block).previous;
                (*block).assert_not_freed();
            }
            self.advance(block, index);
        }
        self.set_route(block, index);
        block
    }

    /// Moves `newest` forward to `block`, if it is not further already.
    ///
    /// # Safety
    ///
    /// The epoch is pinned, and the caller's ticket keeps `block` (so that a block is never put back after it was
    /// retired).
    unsafe fn advance(&self, block: *mut Block<T>, index: u64) {
        // Acquire: as in `find`.
        let mut newest = self.route.newest.load(Ordering::Acquire);
        // SAFETY: loaded from `newest` under the pin.
        while unsafe { (*newest).index } < index {
            // SAFETY: as above.
            unsafe { (*newest).assert_not_freed() };
            // AcqRel: publishes `block`'s fields to `find`. The address cannot have been reused for another block
            // since we loaded it: the pin keeps it.
            match self.route.newest.compare_exchange_weak(
                newest,
                block,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(now) => newest = now,
            }
        }
    }

    /// Points the route to `block`, unless it points further or somebody is writing it.
    fn set_route(&self, block: *mut Block<T>, index: u64) {
        let seen = self.route.index.load(Ordering::Relaxed);
        if seen >= index {
            return; // also when BUSY
        }
        // Acquire: the previous writer's store of the block comes before ours.
        let claimed =
            self.route
                .index
                .compare_exchange(seen, BUSY, Ordering::Acquire, Ordering::Relaxed);
        if claimed.is_ok() {
            // Release: whoever reads this block sees BUSY, and so does not take it for the old index's block.
            self.route.block.store(block, Ordering::Release);
            // Release: whoever reads this index sees the block.
            self.route.index.store(index, Ordering::Release);
        }
    }

    /// Publishes the value and links the next block behind this one.
    ///
    /// # Safety
    ///
    /// The caller holds `ticket`, and `block` is its block.
    #[cold]
    unsafe fn publish_and_link(&self, block: *mut Block<T>, ticket: u64, value: T) {
        // With the value published, the block is kept by the pin alone.
        let _pin = self.graveyard.pin();
        // SAFETY: kept by the ticket, then by the pin, which began before.
        unsafe {
            (*block).assert_alive();
            (*block).slot(ticket).publish(value);
            (*block).next_or_link();
            (*block).assert_not_freed();
        }
    }

    /// Keeps the blocks that are reachable now.
    #[inline]
    pub(crate) fn pin(&self) -> Pin<'_> {
        self.graveyard.pin()
    }

    /// Moves `newest` off `block`. A consumer calls it *before* it moves the consumers' own pointer from `block` to
    /// `next`, so `newest` is never behind that pointer.
    pub(crate) fn pass(&self, block: *mut Block<T>, next: *mut Block<T>) {
        // If the exchange fails, `newest` is further already. AcqRel: publishes `next`'s fields to `find`. The
        // failure's Acquire: what we do afterwards comes after that other move.
        let _ =
            self.route
                .newest
                .compare_exchange(block, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Hands `block` to the epoch.
    ///
    /// # Safety
    ///
    /// `pass` was called for it, the consumers' pointer has left it, each of its slots has been taken (or belongs to a
    /// consumer that holds a pin), and it is retired once.
    pub(crate) unsafe fn retire(&self, block: *mut Block<T>, pin: &Pin<'_>) {
        // SAFETY: neither `newest` nor the consumers lead here any more. `route.block` may, but is not followed: no
        // ticket of this block is unpublished.
        unsafe { self.graveyard.retire(block, pin) };
    }
}

/// A run of tickets. Those that are not used up (the iterator was short, or panicked) become void, since consumers
/// would wait for them for ever.
struct Batch<T> {
    /// The block of `ticket`, unless the batch is at its end.
    block: *mut Block<T>,
    ticket: u64,
    end: u64,
}

impl<T> Batch<T> {
    #[inline(always)]
    fn publish(&mut self, value: T) {
        self.step(|slot| {
            // SAFETY: the batch holds the ticket, and steps over it once.
            unsafe { slot.publish(value) };
        });
    }

    /// Publishes the next ticket's slot with `publish`.
    #[inline(always)]
    fn step(&mut self, publish: impl FnOnce(block::Slot<'_, T>)) {
        debug_assert!(self.ticket < self.end);
        // SAFETY: our unpublished ticket keeps the block.
        let current = unsafe { &*self.block };
        let last_of_block = block::offset(self.ticket) == SLOTS - 1;
        if last_of_block && self.ticket + 1 < self.end {
            // Before the publication, after which the block is no longer ours to look at. The next one is kept by the
            // next ticket.
            current.assert_alive();
            self.block = current.next_or_link();
        }
        current.assert_alive();
        publish(current.slot(self.ticket));
        self.ticket += 1;
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        while self.ticket < self.end {
            self.step(|slot| {
                // SAFETY: the batch holds the ticket, and steps over it once.
                unsafe { slot.publish_void() };
            });
        }
    }
}
