//! The mailbox: many producers, one consumer, unbounded.
//!
//! # Invariants
//!
//! - The receiver alone knows where it reads (block and ticket), so reading is loads and nothing else.
//! - The receiver's block and all later ones are not retired; it retires a block when it steps to the next.
//! - When the receiver is gone its place is kept in `Shared::rest`, for whoever drops the last handle.
//!
//! # Speed
//!
//! Measured on two cores with values of 8 bytes: 8 ns for a push and 1 ns for a pop, most of the push being its locked
//! instruction; 5–9 ns per value from core to core in batches of 64. Single pushes cost 16 ns when the consumer takes
//! what is there once a microsecond, as a loop's tick does, but 37 to 50 when it polls for each value: every look takes
//! the cache line from the producer, whose next locked instruction waits until it has it back, and a line's way is 60
//! ns. Nothing that the queue does can change that; a consumer that drains and then does something else can.
//!
//! # Threads
//!
//! [`Sender`]s push from anywhere; the [`Receiver`] may move between threads but is used by one at a time.

use crate::{
    block::{self, Block, Found},
    sync::{Arc, UnsafeCell, yield_now},
    tail::Tail,
};
use std::fmt;

/// How often a dropped receiver waits for producers that hold a ticket, before it leaves their values to the last
/// sender. They are a few instructions from done, so it takes that long only if one hangs in its own iterator.
const WAITS_FOR_LATE_PRODUCERS: u32 = if cfg!(loom) { 1 } else { 1100 };

/// Makes an unbounded queue with many producers and one consumer.
///
/// ```
/// let (sender, mut receiver) = yue_queue::mailbox();
/// let other = sender.clone();
/// std::thread::spawn(move || other.push("from a thread")).join().unwrap();
/// sender.push_batch(["from", "here"].into_iter());
/// assert_eq!(receiver.pop(), Some("from a thread"));
/// assert_eq!(receiver.drain(usize::MAX, |word| print!("{word} ")), 2);
/// ```
pub fn mailbox<T: Send>() -> (Sender<T>, Receiver<T>) {
    let (tail, first) = Tail::new();
    let shared = Arc::new(Shared {
        tail,
        rest: UnsafeCell::new(Place {
            block: first,
            ticket: 0,
        }),
    });
    let sender = Sender {
        shared: shared.clone(),
    };
    let place = Place {
        block: first,
        ticket: 0,
    };
    (sender, Receiver { place, shared })
}

struct Shared<T> {
    tail: Tail<T>,
    /// What the receiver left behind. Written by the receiver's drop, read by the drop of `Shared`; the reference count
    /// between them orders the two.
    rest: UnsafeCell<Place<T>>,
}

// SAFETY: values are handed from thread to thread (`T: Send`), never shared; `rest` is accessed as its comment says.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let mut place = self.rest.with(|rest| {
            // SAFETY: the last handle; nobody writes any more.
            unsafe { Place { ..*rest } }
        });
        let mut block = place.block;
        // SAFETY: nobody else is left. The place is the receiver's, whose block was never retired, and the chain from
        // there on is whole.
        unsafe {
            while let Some(value) = place.take_alone() {
                drop(value);
            }
            while !block.is_null() {
                let next = (*block).next();
                Block::free(block);
                block = next;
            }
        }
    }
}

/// A producer's handle of a [`mailbox`].
///
/// Values pushed after the receiver is gone are dropped.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Sender<T> {
    /// Appends a value. Never blocks, never fails.
    ///
    /// The values of one thread arrive in the order of its pushes. Whoever pushes to a consumer that may sleep must
    /// call [`SleepFlag::notify`](crate::SleepFlag::notify) afterwards.
    #[inline]
    pub fn push(&self, value: T) {
        self.shared.tail.push(value);
    }

    /// Appends several values in a row: no value of another producer comes between them. One atomic read-modify-write
    /// for all.
    ///
    /// The values come from `values` while their places are already reserved, and the consumer waits at those places:
    /// the iterator should be quick and must not suspend the fiber. If it panics or has fewer values than it said, the
    /// places that are left are given up and nothing is lost; values beyond its promised length follow one by one.
    #[inline]
    pub fn push_batch(&self, values: impl ExactSizeIterator<Item = T>) {
        self.shared.tail.push_batch(values);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender { .. }")
    }
}

/// Where the receiver reads.
struct Place<T> {
    block: *mut Block<T>,
    /// The ticket of the next slot to read. If it is the first of the block after `block`, then `block` is used up.
    ticket: u64,
}

impl<T> Place<T> {
    /// Whether the next ticket lies in the block after `block`.
    ///
    /// # Safety
    ///
    /// `block` is not freed.
    #[inline(always)]
    unsafe fn block_is_used_up(&self) -> bool {
        // Cheap first: only at a border the block's own head is looked at.
        // SAFETY: as the caller promises.
        block::offset(self.ticket) == 0
            && unsafe { (*self.block).index } != block::index(self.ticket)
    }

    /// Takes the next value without retiring blocks.
    ///
    /// # Safety
    ///
    /// Nobody else uses the queue any more, and no block from `block` on is freed.
    unsafe fn take_alone(&mut self) -> Option<T> {
        // SAFETY: as the caller promises.
        unsafe {
            loop {
                if self.block_is_used_up() {
                    let next = (*self.block).next();
                    if next.is_null() {
                        return None;
                    }
                    self.block = next;
                }
                let slot = (*self.block).slot(self.ticket);
                let found = slot.look();
                if found == Found::Nothing {
                    return None;
                }
                self.ticket += 1;
                if found == Found::Value {
                    return Some(slot.take());
                }
            }
        }
    }
}

/// The consumer's handle of a [`mailbox`]. Dropping it drops what is queued.
pub struct Receiver<T> {
    place: Place<T>,
    shared: Arc<Shared<T>>,
}

// SAFETY: values are `Send`, and the place is used through `&mut self` only, or read through `&self` by one thread: the
// raw pointer inside keeps the type from being `Sync`.
unsafe impl<T: Send> Send for Receiver<T> {}

impl<T> Receiver<T> {
    /// Takes the oldest value.
    ///
    /// `None` if there is none, or if the producer whose turn it is has not finished its push: see the crate's head.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        loop {
            // SAFETY: our block is retired by us alone, in `step`.
            if unsafe { self.place.block_is_used_up() } && !self.step() {
                return None;
            }
            // SAFETY: as above.
            let slot = unsafe { (*self.place.block).slot(self.place.ticket) };
            match slot.look() {
                Found::Nothing => return None,
                Found::Void => self.place.ticket += 1,
                Found::Value => {
                    self.place.ticket += 1;
                    // SAFETY: we saw the value, and the only consumer has stepped over it.
                    return Some(unsafe { slot.take() });
                }
            }
        }
    }

    /// Takes up to `max` values, oldest first, and gives each to `f`. Returns how many.
    pub fn drain(&mut self, max: usize, mut f: impl FnMut(T)) -> usize {
        let mut count = 0;
        while count < max
            && let Some(value) = self.pop()
        {
            count += 1;
            f(value);
        }
        count
    }

    /// Whether [`Receiver::pop`] would find nothing at this moment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let Place {
            mut block,
            mut ticket,
        } = self.place;
        // SAFETY: our block and its successors are retired by us alone.
        unsafe {
            loop {
                let at = Place { block, ticket };
                if at.block_is_used_up() {
                    block = (*block).next();
                    if block.is_null() {
                        return true;
                    }
                }
                match (*block).slot(ticket).look() {
                    Found::Nothing => return true,
                    Found::Value => return false,
                    Found::Void => ticket += 1,
                }
            }
        }
    }

    /// Goes to the next block, if there is one, and retires the present one.
    #[cold]
    fn step(&mut self) -> bool {
        let block = self.place.block;
        // SAFETY: our block is retired by us alone, below.
        let next = unsafe { (*block).next() };
        if next.is_null() {
            return false;
        }
        self.shared.tail.pass(block, next);
        self.place.block = next;
        // SAFETY: passed, all of its values taken, and we read from `next` now.
        unsafe { self.shared.tail.retire(block, &self.shared.tail.pin()) };
        true
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        /// Leaves the place behind also if a value's own drop panics.
        struct Leave<'a, T>(&'a mut Receiver<T>);
        impl<T> Drop for Leave<'_, T> {
            fn drop(&mut self) {
                let Place { block, ticket } = self.0.place;
                self.0.shared.rest.with_mut(|rest| {
                    // SAFETY: the receiver alone writes it; see `Shared::rest`.
                    unsafe { *rest = Place { block, ticket } };
                });
            }
        }

        let end = self.shared.tail.close();
        let leave = Leave(self);
        let mut waits = 0;
        while leave.0.place.ticket < end && waits < WAITS_FOR_LATE_PRODUCERS {
            match leave.0.pop() {
                Some(value) => drop(value),
                None => {
                    wait_for_a_late_producer(waits);
                    waits += 1;
                }
            }
        }
    }
}

/// Lets other threads run, for longer the more often it was tried: 100 times a yield, from then on a millisecond.
fn wait_for_a_late_producer(waits: u32) {
    if waits < 100 {
        yield_now();
    } else {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver { .. }")
    }
}
