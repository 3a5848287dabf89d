//! The mailbox: an unbounded queue with many producers and one consumer.
//!
//! # Invariants
//!
//! - Only the receiver knows its read position (block and ticket), so reading takes loads and nothing else.
//! - The receiver's block and all later ones are not retired. The receiver retires a block when it steps to the next.
//! - A dropped receiver leaves its position in `Shared::rest`, for the drop of the last handle.
//!
//! # Speed
//!
//! Measured on two cores with values of 8 bytes: 8 ns for a push, most of it the locked instruction; 1 ns for a pop;
//! 5–9 ns per value from core to core in batches of 64. A single push costs 16 ns when the consumer drains the queue
//! once a microsecond, as a loop's tick does. It costs 37 to 50 ns when the consumer polls for each value: every poll
//! takes the cache line from the producer, whose next locked instruction waits for its return, and a line takes 60 ns
//! to travel. The queue cannot change that. A consumer can, by draining and then doing something else.
//!
//! # Threads
//!
//! Any thread pushes through a [`Sender`]. The [`Receiver`] may move between threads, but one thread uses it at a time.

use crate::{
    block::{self, Block, Found},
    sync::{Arc, UnsafeCell, yield_now},
    tail::Tail,
};
use std::fmt;

/// The number of times that a dropped receiver waits for producers that hold a ticket, before it leaves their values to
/// the last sender. Such a producer is a few instructions from its store, so all the waits are used only if one hangs
/// in its own iterator.
const WAITS_FOR_LATE_PRODUCERS: u32 = if cfg!(loom) { 1 } else { 1100 };

/// Creates an unbounded queue with many producers and one consumer.
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
        rest: UnsafeCell::new(Position {
            block: first,
            ticket: 0,
        }),
    });
    let sender = Sender {
        shared: shared.clone(),
    };
    let position = Position {
        block: first,
        ticket: 0,
    };
    (sender, Receiver { position, shared })
}

struct Shared<T> {
    tail: Tail<T>,
    /// The position that the receiver left. The receiver's drop writes it, and the drop of `Shared` reads it; the
    /// reference count between them orders the two.
    rest: UnsafeCell<Position<T>>,
}

// SAFETY: values are handed from thread to thread (`T: Send`), never shared; `rest` is accessed as its comment says.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let mut position = self.rest.with(|rest| {
            // SAFETY: this is the last handle, so nobody writes any more.
            unsafe { Position { ..*rest } }
        });
        let mut block = position.block;
        // SAFETY: no other user is left. The position is the receiver's: its block was never retired, and the chain
        // from there on is complete.
        unsafe {
            while let Some(value) = position.take_alone() {
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

/// The producer's handle of a [`mailbox`].
///
/// Values pushed after the receiver was dropped are dropped too.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Sender<T> {
    /// Appends a value. Never blocks, never fails.
    ///
    /// The values of one thread arrive in the order of its pushes. If the consumer may sleep, the producer must call
    /// [`SleepFlag::notify`](crate::SleepFlag::notify) afterwards.
    #[inline]
    pub fn push(&self, value: T) {
        self.shared.tail.push(value);
    }

    /// Appends several values in a row with one atomic read-modify-write. No value of another producer comes between
    /// them.
    ///
    /// The slots are reserved before `values` is iterated, and the consumer waits at them: the iterator should be quick
    /// and must not suspend the fiber. If it panics, or has fewer values than it promised, the remaining slots become
    /// void and nothing is lost. Values beyond the promised length follow one by one.
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

/// The receiver's read position.
struct Position<T> {
    block: *mut Block<T>,
    /// The ticket of the next slot to read. If it is the first ticket of the block after `block`, then `block` is used
    /// up.
    ticket: u64,
}

impl<T> Position<T> {
    /// Returns whether the next ticket lies in the block after `block`.
    ///
    /// # Safety
    ///
    /// `block` is not freed.
    #[inline(always)]
    unsafe fn block_is_used_up(&self) -> bool {
        // The cheap test first: the block's header is read only at a block boundary.
        // SAFETY: as the caller promises.
        block::offset(self.ticket) == 0
            && unsafe { (*self.block).index } != block::index(self.ticket)
    }

    /// Takes the next value without retiring blocks.
    ///
    /// # Safety
    ///
    /// Nobody else uses the queue any more, and no block from `block` on has been freed.
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

/// The consumer's handle of a [`mailbox`]. Dropping it drops the queued values.
pub struct Receiver<T> {
    position: Position<T>,
    shared: Arc<Shared<T>>,
}

// SAFETY: values are `Send`. The position is used through `&mut self`, or read through `&self` by one thread: the raw
// pointer inside keeps the type from being `Sync`.
unsafe impl<T: Send> Send for Receiver<T> {}

impl<T> Receiver<T> {
    /// Takes the oldest value.
    ///
    /// Returns `None` if the queue is empty, or if the producer of the next slot has not finished its push: see the
    /// crate's head.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        loop {
            // SAFETY: only we retire our block, in `step`.
            if unsafe { self.position.block_is_used_up() } && !self.step() {
                return None;
            }
            // SAFETY: as above.
            let slot = unsafe { (*self.position.block).slot(self.position.ticket) };
            match slot.look() {
                Found::Nothing => return None,
                Found::Void => self.position.ticket += 1,
                Found::Value => {
                    self.position.ticket += 1;
                    // SAFETY: we saw the value, and the only consumer has stepped past it.
                    return Some(unsafe { slot.take() });
                }
            }
        }
    }

    /// Takes up to `max` values, oldest first, and passes each to `f`. Returns how many it took.
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

    /// Returns whether [`Receiver::pop`] would find nothing at this moment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let Position {
            mut block,
            mut ticket,
        } = self.position;
        // SAFETY: only we retire our block and its successors.
        unsafe {
            loop {
                let at = Position { block, ticket };
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

    /// Steps to the next block, if there is one, and retires the current one. Returns whether it did.
    #[cold]
    fn step(&mut self) -> bool {
        let block = self.position.block;
        // SAFETY: only we retire our block, below.
        let next = unsafe { (*block).next() };
        if next.is_null() {
            return false;
        }
        self.shared.tail.move_newest_past(block, next);
        self.position.block = next;
        // SAFETY: `newest` was moved past it, all its values were taken, and we read from `next` now.
        unsafe { self.shared.tail.retire(block, &self.shared.tail.pin()) };
        true
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        /// Stores the position in `Shared::rest`, even if a value's own drop panics.
        struct Leave<'a, T>(&'a mut Receiver<T>);
        impl<T> Drop for Leave<'_, T> {
            fn drop(&mut self) {
                let Position { block, ticket } = self.0.position;
                self.0.shared.rest.with_mut(|rest| {
                    // SAFETY: only the receiver writes it; see `Shared::rest`.
                    unsafe { *rest = Position { block, ticket } };
                });
            }
        }

        let end = self.shared.tail.close();
        let leave = Leave(self);
        let mut waits = 0;
        while leave.0.position.ticket < end && waits < WAITS_FOR_LATE_PRODUCERS {
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

/// Lets other threads run: by a yield for the first 100 waits, then by a millisecond of sleep.
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
