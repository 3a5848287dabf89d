//! The injector: an unbounded queue with many producers and many consumers, for work that any loop may take.
//!
//! # Invariants
//!
//! - `next` is the ticket of the next slot to take. A consumer takes a slot by moving `next` past it, and only after it
//!   saw that the slot is published. So a consumer never owns an empty slot.
//! - `block` is the block of `next`, or the one before it. The consumer that moves `block` on retires the block it
//!   left.
//! - A consumer may still be reading its value when another one retires the block, so consumers hold a pin throughout.
//!
//! # Threads
//!
//! Any.

use crate::{
    block::{self, Block, Found},
    reclaim::Pin,
    sync::{AtomicPtr, AtomicU64, Ordering},
    tail::Tail,
};
use crossbeam_utils::CachePadded;
use std::fmt;

/// An unbounded queue with many producers and many consumers.
///
/// ```
/// let injector = yue_queue::Injector::new();
/// injector.push(1);
/// injector.push_batch([2, 3].into_iter());
/// assert_eq!(injector.pop(), Some(1));
/// assert!(!injector.is_empty());
/// ```
pub struct Injector<T> {
    tail: Tail<T>,
    head: CachePadded<Head<T>>,
}

struct Head<T> {
    next: AtomicU64,
    block: AtomicPtr<Block<T>>,
}

// SAFETY: values are handed from thread to thread (`T: Send`), never shared.
unsafe impl<T: Send> Send for Injector<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Injector<T> {}

impl<T: Send> Injector<T> {
    /// Creates an empty queue.
    pub fn new() -> Self {
        let (tail, first) = Tail::new();
        Self {
            tail,
            head: CachePadded::new(Head {
                next: AtomicU64::new(0),
                block: AtomicPtr::new(first),
            }),
        }
    }

    /// Appends a value. Never blocks, never fails.
    #[inline]
    pub fn push(&self, value: T) {
        self.tail.push(value);
    }

    /// Appends several values in a row, like [`Sender::push_batch`](crate::Sender::push_batch).
    #[inline]
    pub fn push_batch(&self, values: impl ExactSizeIterator<Item = T>) {
        self.tail.push_batch(values);
    }

    /// Takes the oldest value.
    ///
    /// Returns `None` if the queue is empty, or if the producer of the next slot has not finished its push: see the
    /// crate's head.
    pub fn pop(&self) -> Option<T> {
        let pin = self.tail.pin();
        loop {
            let (ticket, block) = self.front(&pin)?;
            // SAFETY: `front` returns blocks that the pin keeps alive.
            let slot = unsafe { (*block).slot(ticket) };
            let found = slot.look();
            if found == Found::Nothing {
                return None;
            }
            if self.claim(ticket) && found == Found::Value {
                // SAFETY: we saw the value and moved `next` past it, so it belongs to us alone. The pin keeps the block
                // alive.
                return Some(unsafe { slot.take() });
            }
        }
    }

    /// Returns whether [`Injector::pop`] would find nothing at this moment.
    pub fn is_empty(&self) -> bool {
        let pin = self.tail.pin();
        loop {
            let Some((ticket, block)) = self.front(&pin) else {
                return true;
            };
            // SAFETY: `front` returns blocks that the pin keeps alive.
            match unsafe { (*block).slot(ticket).look() } {
                Found::Nothing => return true,
                Found::Value => return false,
                Found::Void => {
                    self.claim(ticket);
                }
            }
        }
    }

    /// Takes the slot of `ticket`, unless another consumer took it first. Returns whether it did.
    fn claim(&self, ticket: u64) -> bool {
        // AcqRel: a consumer that finds `next` beyond a block, and so retires the block, comes after all consumers that
        // took from it, and through them after the producers that published there.
        self.head
            .next
            .compare_exchange(ticket, ticket + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns the next ticket and its block, or `None` if that block does not exist yet. Moves `block` on when all its
    /// slots are taken.
    fn front(&self, pin: &Pin<'_>) -> Option<(u64, *mut Block<T>)> {
        loop {
            // Acquire: pairs with the Release half of `claim`.
            let ticket = self.head.next.load(Ordering::Acquire);
            // Acquire: pairs with the exchange below; the block's fields are visible.
            let block = self.head.block.load(Ordering::Acquire);
            // SAFETY: `head.block` moves on before the block is retired, so the pin keeps alive what we loaded from it.
            let index = unsafe {
                (*block).assert_not_freed();
                (*block).index
            };
            if index == block::index(ticket) {
                return Some((ticket, block));
            }
            if index > block::index(ticket) {
                continue; // `next` was loaded before others moved both
            }
            // SAFETY: as above.
            let next = unsafe { (*block).next() };
            if next.is_null() {
                return None;
            }
            // Before the consumers' pointer moves: otherwise a faster consumer could retire `next` while `newest` is
            // still here.
            self.tail.move_newest_past(block, next);
            // AcqRel: publishes `next`'s fields to the load above.
            let moved =
                self.head
                    .block
                    .compare_exchange(block, next, Ordering::AcqRel, Ordering::Relaxed);
            if moved.is_ok() {
                // SAFETY: `newest` and the consumers' pointer have left it. The tickets go beyond the block, so each of
                // its slots has an owner, which holds a pin until it has read the value. Only one thread wins the
                // exchange.
                unsafe { self.tail.retire(block, pin) };
            }
        }
    }
}

impl<T: Send> Default for Injector<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Injector<T> {
    fn drop(&mut self) {
        // Relaxed: `&mut self` comes after every other use.
        let mut ticket = self.head.next.load(Ordering::Relaxed);
        let mut block = self.head.block.load(Ordering::Relaxed);
        while !block.is_null() {
            // SAFETY: no other user is left; blocks from `head.block` on are not retired. Slots from `next` on that
            // hold a value have not been taken.
            unsafe {
                while block::index(ticket) == (*block).index {
                    let slot = (*block).slot(ticket);
                    if slot.look() == Found::Value {
                        drop(slot.take());
                    }
                    ticket += 1;
                }
                let next = (*block).next();
                Block::free(block);
                block = next;
            }
        }
    }
}

impl<T> fmt::Debug for Injector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Injector { .. }")
    }
}
