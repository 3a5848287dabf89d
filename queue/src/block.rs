//! A block: 128 slots, and the links to its neighbours.
//!
//! # Layout
//!
//! Slots lie in groups of eight: first the states of all eight, a byte each, then the eight values.
//!
//! ```text
//!   one group, values of 8 bytes
//!   +-+-+-+-+-+-+-+-+--------+--------+--------+--------+--------+--------+--------+--------+
//!   |s|s|s|s|s|s|s|s| value  | value  | value  | value  | value  | value  | value  | value  |
//!   +-+-+-+-+-+-+-+-+--------+--------+--------+--------+--------+--------+--------+--------+
//!   0               8                                                                       72
//! ```
//!
//! The main cost of a message between two cores is the cache lines that travel: from the consumer, which read the line
//! last, to the producer, and back. With each state beside its value, padded to the value's alignment, a line would
//! hold four values of 8 bytes, or two of a loop's 24-byte messages. With states grouped it holds seven, or two and a
//! half. Producers and consumers walk the lines in order, so keeping states apart from values costs no extra line.
//!
//! # Life
//!
//! 1. A producer whose ticket lies beyond the last block allocates and links the block (`Block::next_or_link`).
//! 2. The producer that holds a slot's ticket writes the slot once, and a consumer reads it once. Slots are never
//!    reused, so a slot's state only goes from EMPTY to READY (or VOID), and a state needs no turn counter.
//! 3. When the consumers have left the block, it is retired to the epoch, which frees the memory.
//!
//! # Threads
//!
//! Any. `index` and `previous` never change; `next` is set once. The state of a slot hands its value over.

use crate::sync::{AtomicPtr, AtomicU8, Ordering, UnsafeCell};
use std::{mem::MaybeUninit, ptr};

/// Slots per block; a power of two, so that a ticket splits into block and slot by shift and mask.
///
/// 128: the work done once per block (two or three pins, an allocation, a retirement; about 100 ns together) then costs
/// less than 1 ns per value, and an idle queue of small values takes little more than 1 KiB. With 64 a value cost about
/// 0.7 ns more; with 256 it cost no less. Under loom it is two, so that every model crosses block boundaries.
pub(crate) const SLOTS: usize = if cfg!(loom) { 2 } else { 128 };

/// Slots per group. Their states fill a word, so that values with a word's alignment follow without a gap.
const GROUP: usize = if SLOTS < 8 { SLOTS } else { 8 };

/// Size of a cache line on x86-64 and aarch64, in bytes.
const CACHE_LINE: usize = 64;

/// Most lines to prefetch: the lines of one group of a loop's 24-byte messages.
const LINES_AHEAD_MAX: usize = 4;

/// Nothing has been published here yet.
const EMPTY: u8 = 0;
/// The slot holds a value.
const READY: u8 = 1;
/// The producer gave the ticket up: a batch promised more values than its iterator had.
const VOID: u8 = 2;

/// The state of a slot, as a consumer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Not published yet.
    Nothing,
    /// A value, which the one consumer that owns the slot must [`Slot::take`].
    Value,
    /// A ticket without a value, which the consumer skips.
    Void,
}

/// Up to eight slots: their states, then their values.
#[repr(C)]
struct Group<T> {
    states: [AtomicU8; GROUP],
    values: [UnsafeCell<MaybeUninit<T>>; GROUP],
}

/// One slot of a block.
pub(crate) struct Slot<'a, T> {
    value: &'a UnsafeCell<MaybeUninit<T>>,
    state: &'a AtomicU8,
}

impl<T> Slot<'_, T> {
    /// Writes the value and makes it visible.
    ///
    /// # Safety
    ///
    /// The caller holds this slot's ticket and publishes once.
    #[inline(always)]
    pub(crate) unsafe fn publish(&self, value: T) {
        debug_assert!(self.is(EMPTY), "a slot was published twice");
        self.value.with_mut(|cell| {
            // SAFETY: only the ticket's holder writes here, and nobody reads before READY is stored.
            unsafe { (*cell).write(value) };
        });
        // Release: pairs with the Acquire load in `look`, so that a consumer that sees READY sees the value.
        if crate::planted!("relaxed publication") {
            return self.state.store(READY, Ordering::Relaxed);
        }
        self.state.store(READY, Ordering::Release);
    }

    /// Gives up the slot without a value.
    ///
    /// # Safety
    ///
    /// As for [`Slot::publish`], which must not be called as well.
    pub(crate) unsafe fn publish_void(&self) {
        debug_assert!(self.is(EMPTY), "a slot was published twice");
        // Release: pairs with `look`; a consumer that steps over this slot may retire the block, which must come
        // after this producer's last access.
        self.state.store(VOID, Ordering::Release);
    }

    /// Checks the state for assertions. Under loom it checks nothing: each load would multiply the interleavings.
    fn is(&self, state: u8) -> bool {
        cfg!(loom) || self.state.load(Ordering::Relaxed) == state
    }

    /// Returns the state of the slot.
    #[inline(always)]
    pub(crate) fn look(&self) -> Found {
        // Acquire: pairs with the Release stores of `publish` and `publish_void`.
        match self.state.load(Ordering::Acquire) {
            EMPTY => Found::Nothing,
            READY => Found::Value,
            _ => Found::Void,
        }
    }

    /// Moves the value out.
    ///
    /// # Safety
    ///
    /// `look` returned [`Found::Value`] to this thread (or to a thread that this one synchronized with), and no other
    /// thread takes from this slot.
    #[inline(always)]
    pub(crate) unsafe fn take(&self) -> T {
        debug_assert!(self.is(READY), "a slot without a value was taken");
        // SAFETY: published, and taken once, as the caller promises.
        self.value
            .with(|cell| unsafe { (*cell).assume_init_read() })
    }
}

/// A chain link: [`SLOTS`] slots and pointers to both neighbours.
pub(crate) struct Block<T> {
    /// The first ticket divided by [`SLOTS`].
    pub(crate) index: u64,
    /// The block before this one. Follow it only to a block that is known not to be retired.
    pub(crate) previous: *mut Block<T>,
    next: AtomicPtr<Block<T>>,
    groups: [Group<T>; SLOTS / GROUP],
    /// Lets loom check that every access under a ticket comes before the retirement.
    #[cfg(loom)]
    alive: UnsafeCell<()>,
    /// Set when the epoch would have freed the block; see `reclaim_model.rs`.
    #[cfg(loom)]
    freed: std::sync::atomic::AtomicBool,
}

impl<T> Block<T> {
    /// Allocates a block without a successor.
    pub(crate) fn allocate(index: u64, previous: *mut Block<T>) -> *mut Block<T> {
        let block: *mut Block<T> = Box::into_raw(Box::<Block<T>>::new_uninit()).cast();
        // SAFETY: we just allocated the memory, and it fits; every field is written before the block is shared. The
        // fields are written in place, because a block of large values must not pass through a fiber's small stack.
        unsafe {
            (&raw mut (*block).index).write(index);
            (&raw mut (*block).previous).write(previous);
            (&raw mut (*block).next).write(AtomicPtr::new(ptr::null_mut()));
            for slot in 0..SLOTS {
                let group = &raw mut (*block).groups[slot / GROUP];
                (&raw mut (*group).states[slot % GROUP]).write(AtomicU8::new(EMPTY));
                (&raw mut (*group).values[slot % GROUP])
                    .write(UnsafeCell::new(MaybeUninit::uninit()));
            }
            #[cfg(loom)]
            {
                (&raw mut (*block).alive).write(UnsafeCell::new(()));
                (&raw mut (*block).freed).write(std::sync::atomic::AtomicBool::new(false));
            }
        }
        block
    }

    /// Frees the memory. Values still inside are not dropped.
    ///
    /// # Safety
    ///
    /// The block came from [`Block::allocate`], and nobody can reach it any more.
    pub(crate) unsafe fn free(block: *mut Block<T>) {
        // SAFETY: as the caller promises; `allocate` made it from a box.
        drop(unsafe { Box::from_raw(block) });
    }

    /// The slot of `ticket`, which must lie in this block.
    #[inline(always)]
    pub(crate) fn slot(&self, ticket: u64) -> Slot<'_, T> {
        debug_assert_eq!(self.index, index(ticket), "a ticket of another block");
        let offset = offset(ticket);
        let group = &self.groups[offset / GROUP];
        Slot {
            value: &group.values[offset % GROUP],
            state: &group.states[offset % GROUP],
        }
    }

    /// Prefetches the group after that of `ticket`, for writing, when `ticket` is the first slot of its group. The
    /// consumer read those lines when the memory belonged to another block, so the producer would otherwise wait for
    /// each of them at its next locked instruction.
    #[inline(always)]
    pub(crate) fn prefetch_next_group(&self, ticket: u64) {
        let offset = offset(ticket);
        if offset.is_multiple_of(GROUP)
            && let Some(group) = self.groups.get(offset / GROUP + 1)
        {
            let group = ptr::from_ref(group).cast::<u8>();
            let lines = size_of::<Group<T>>()
                .div_ceil(CACHE_LINE)
                .min(LINES_AHEAD_MAX);
            for line in 0..lines {
                prefetch_write(group.wrapping_add(line * CACHE_LINE));
            }
        }
    }

    /// The next block, or null if none is linked yet.
    #[inline(always)]
    pub(crate) fn next(&self) -> *mut Block<T> {
        // Acquire: pairs with the Release half of the exchange in `next_or_link`; the block's fields are then visible.
        self.next.load(Ordering::Acquire)
    }

    /// Returns the next block, and allocates and links it if there is none.
    pub(crate) fn next_or_link(&self) -> *mut Block<T> {
        let next = self.next();
        if !next.is_null() {
            return next;
        }
        let made = Block::allocate(self.index + 1, ptr::from_ref(self).cast_mut());
        // AcqRel and Acquire: publishes the new block's fields to `next`, or sees those of the block that another
        // producer linked first.
        match self
            .next
            .compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: it was never linked, so only this thread knows of it.
                unsafe { Block::free(made) };
                faster
            }
        }
    }

    /// Called for every use of the block under an unpublished ticket. Loom then checks that the block is not retired.
    #[inline(always)]
    pub(crate) fn assert_alive(&self) {
        #[cfg(loom)]
        self.alive.with(|_| ());
    }

    /// Called for every use of the block under a pin.
    #[inline(always)]
    pub(crate) fn assert_not_freed(&self) {
        #[cfg(loom)]
        assert!(
            !self.freed.load(Ordering::Relaxed),
            "used after it was freed"
        );
    }

    /// Called when the block is retired. Loom then checks that every use under a ticket came before.
    #[cfg(loom)]
    pub(crate) fn assert_abandoned(&self) {
        self.alive.with_mut(|_| ());
    }

    #[cfg(loom)]
    pub(crate) fn mark_freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }
}

/// Prefetches a cache line for writing.
#[inline(always)]
fn prefetch_write(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which changes no memory that a program can see and faults at no address. A processor that does
    // not support it does nothing. It is written by hand, because the compiler targets processors without it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = at;
}

/// The index of the block that holds `ticket`.
#[inline(always)]
pub(crate) fn index(ticket: u64) -> u64 {
    ticket / SLOTS as u64
}

/// The offset of `ticket` in its block.
#[inline(always)]
pub(crate) fn offset(ticket: u64) -> usize {
    (ticket % SLOTS as u64) as usize
}
