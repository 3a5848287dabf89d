//! The producers' half of both queues: tickets, and the lookup of a ticket's block.
//!
//! # Why a push needs no epoch pin
//!
//! A ticket guards its own block: consumers go slot by slot, so they cannot leave a block (and nobody can retire it)
//! while one of its tickets is unpublished. The producer must still find the block without touching other memory that
//! may be freed. Three words, read as a sequence lock, let it do so:
//!
//! ```text
//!   route.index == ours ?  block = route.block ;  route.index still == ours ?  -> `block` is our block
//! ```
//!
//! The producer follows `route.block` only if `route.index` names the very block that its ticket keeps alive. Otherwise
//! (once per block and producer) the cold path pins the epoch, walks from `newest` to the block, links new ones as
//! needed, and updates the route. Pinning on every push would cost as much as a second read-modify-write (measured).
//!
//! # Why the walk is sound
//!
//! - A block is retired only after `newest` has moved beyond it (`move_newest_past`), and `newest` only moves forward.
//!   So a block loaded from `newest` under the pin stays allocated while the pin is held.
//! - Forward: for the same reason every later block is retired after that load too.
//! - Backward (when others have moved `newest` beyond our block): our own ticket keeps all blocks from ours on.
//!
//! # Threads
//!
//! Any number of producers; consumers call `move_newest_past` and `retire`.

use crate::{
    block::{self, Block, SLOTS},
    reclaim::{Graveyard, Pin},
    sync::{AtomicPtr, AtomicU64, Ordering},
};
use crossbeam_utils::CachePadded;

/// The bit of the ticket counter that marks a queue whose consumer is gone.
const CLOSED: u64 = 1 << 63;

/// The offset in a block whose producer links the next block early. At the boundary producers then find that block
/// instead of all allocating one at once.
const LINK_AHEAD: usize = SLOTS / 2;

/// `Route::index` while a producer writes the route. Greater than the index of any block.
const BUSY: u64 = u64::MAX;

/// The shortcut to the block that producers currently use.
struct Route<T> {
    index: AtomicU64,
    block: AtomicPtr<Block<T>>,
    /// The newest block that any producer has reached. The cold path begins there.
    newest: AtomicPtr<Block<T>>,
}

/// The producers' half of a queue.
pub(crate) struct Tail<T> {
    /// The next ticket. Every push writes it, so it is alone on its cache line.
    ticket: CachePadded<AtomicU64>,
    /// Written once per block, read by every push.
    route: CachePadded<Route<T>>,
    graveyard: Graveyard<T>,
}

impl<T> Tail<T> {
    /// Creates the tail of an empty queue, and its first block.
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
        // Relaxed: a ticket only has to be unique; the slot's state publishes the value.
        let ticket = self.ticket.fetch_add(1, Ordering::Relaxed);
        if ticket & CLOSED != 0 {
            return;
        }
        let block = self.block_of(block::index(ticket));
        if block::offset(ticket) == LINK_AHEAD {
            // SAFETY: the block of our ticket.
            return unsafe { self.publish_and_link(block, ticket, value) };
        }
        // SAFETY: our unpublished ticket keeps the block alive, and we publish it once.
        unsafe {
            (*block).assert_alive();
            (*block).prefetch_next_group(ticket);
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
        // An honest iterator is empty now. One that promised too few values loses none.
        for value in values {
            self.push(value);
        }
    }

    /// Closes the queue: later pushes drop their values. Returns the first ticket that was not handed out.
    pub(crate) fn close(&self) -> u64 {
        // Relaxed: the ticket counter publishes nothing; each slot before the returned ticket is published by its own
        // state.
        self.ticket.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED
    }

    /// Returns the block with this index, in which the caller holds an unpublished ticket.
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

    /// The cold path of [`Tail::block_of`], which walks the chain.
    #[cold]
    fn find(&self, index: u64) -> *mut Block<T> {
        let _pin = self.graveyard.pin();
        // Acquire: pairs with the exchanges in `advance` and `move_newest_past`; the block's fields are visible.
        let mut block = self.route.newest.load(Ordering::Acquire);
        // SAFETY: the pin keeps `newest` and its successors alive, and the caller's ticket the predecessors down to
        // `index`: see the head of this file.
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

    /// Moves `newest` forward to `block`, unless it is further already.
    ///
    /// # Safety
    ///
    /// The epoch is pinned, and the caller's ticket keeps `block` alive (so that `newest` never returns to a retired
    /// block).
    unsafe fn advance(&self, block: *mut Block<T>, index: u64) {
        // Acquire: as in `find`.
        let mut newest = self.route.newest.load(Ordering::Acquire);
        // SAFETY: loaded from `newest` under the pin.
        while unsafe { (*newest).index } < index {
            // SAFETY: as above.
            unsafe { (*newest).assert_not_freed() };
            // AcqRel: publishes `block`'s fields to `find`. The address cannot have been reused for another block since
            // we loaded it, because the pin keeps it allocated.
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

    /// Points the route to `block`, unless it points further or another producer is writing it.
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
            // Release: a producer that reads this block sees BUSY, and so does not take it for the old index's block.
            self.route.block.store(block, Ordering::Release);
            // Release: a producer that reads this index sees the block.
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
        // Once the value is published, only the pin keeps the block alive.
        let _pin = self.graveyard.pin();
        // SAFETY: the ticket keeps the block alive, then the pin, which began before.
        unsafe {
            (*block).assert_alive();
            (*block).slot(ticket).publish(value);
            (*block).next_or_link();
            (*block).assert_not_freed();
        }
    }

    /// Keeps the blocks that are reachable now until the pin is dropped.
    #[inline]
    pub(crate) fn pin(&self) -> Pin<'_> {
        self.graveyard.pin()
    }

    /// Moves `newest` off `block`. A consumer calls it *before* it moves the consumers' own pointer from `block` to
    /// `next`, so `newest` is never behind that pointer.
    pub(crate) fn move_newest_past(&self, block: *mut Block<T>, next: *mut Block<T>) {
        // If the exchange fails, `newest` is further already. AcqRel: publishes `next`'s fields to `find`. Acquire on
        // failure: what we do afterwards comes after that other move.
        let _ =
            self.route
                .newest
                .compare_exchange(block, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Hands `block` to the epoch.
    ///
    /// # Safety
    ///
    /// `move_newest_past` was called for the block, the consumers' pointer has left it, each of its slots has been
    /// taken (or belongs to a consumer that holds a pin), and the block is retired only once.
    pub(crate) unsafe fn retire(&self, block: *mut Block<T>, pin: &Pin<'_>) {
        // SAFETY: neither `newest` nor the consumers' pointer leads here any more. `route.block` may, but nobody
        // follows it: no ticket of this block is unpublished.
        unsafe { self.graveyard.retire(block, pin) };
    }
}

/// A run of tickets. Its drop makes unused tickets void (the iterator was short, or panicked), because consumers would
/// wait for them forever.
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
        // SAFETY: our unpublished ticket keeps the block alive.
        let current = unsafe { &*self.block };
        let last_of_block = block::offset(self.ticket) == SLOTS - 1;
        if last_of_block && self.ticket + 1 < self.end {
            // Before the publication, after which we may no longer look at the block. The next ticket keeps the next
            // block alive.
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
