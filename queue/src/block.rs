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
//! What a message costs between two cores is above all the cache lines that travel: from the consumer, which read the
//! line last, to the producer, and back. With a state beside each value, padded to its alignment, four values of 8
//! bytes share a line; in this way it is seven, and of the 24 bytes of a loop's message two and a half, not two. Both
//! sides walk the lines in order, so states apart from their values cost no line of their own.
//!
//! # Life
//!
//! 1. Allocated and linked by a producer whose ticket lies beyond the last block (`Block::next_or_link`).
//! 2. Each slot is written once by the producer that holds its ticket and read once by a consumer. Slots are never
//!    reused, so a slot's state only ever goes from EMPTY to READY (or VOID), and no state needs a turn counter.
//! 3. When the consumers have left it, it is retired to the epoch, which frees the memory.
//!
//! # Threads
//!
//! Any. `index` and `previous` never change; `next` is set once; a slot's value is handed over by its state.

use crate::sync::{AtomicPtr, AtomicU8, Ordering, UnsafeCell};
use std::{mem::MaybeUninit, ptr};

/// Slots per block; a power of two, so that a ticket splits into block and slot by shift and mask.
///
/// 128: what is done once per block (two or three pins, an allocation, a retirement; some 100 ns together) is then
/// below 1 ns per value, and an idle queue of small values costs little more than 1 KiB. 64 measured about 0.7 ns more
/// per value, 256 no less. Under loom two: every model then crosses borders between blocks.
pub(crate) const SLOTS: usize = if cfg!(loom) { 2 } else { 128 };

/// Slots per group: their states fill a word, so that values of a word's alignment follow without a gap.
const GROUP: usize = if SLOTS < 8 { SLOTS } else { 8 };

const CACHE_LINE: usize = 64;

/// Lines that are fetched ahead at the most: those of a group of a loop's messages, which have 24 bytes.
const LINES_AHEAD_MAX: usize = 4;

/// Nothing was published here yet.
const EMPTY: u8 = 0;
/// The value is here.
const READY: u8 = 1;
/// The ticket was given up: a batch promised more values than its iterator had.
const VOID: u8 = 2;

/// What a consumer found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Not published yet.
    Nothing,
    /// A value, which the one consumer that owns the slot must [`Slot::take`].
    Value,
    /// A ticket without a value; step over it.
    Void,
}

/// Some slots, in memory.
#[repr(C)]
struct Group<T> {
    states: [AtomicU8; GROUP],
    values: [UnsafeCell<MaybeUninit<T>>; GROUP],
}

/// The place of one value.
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
        self.value.with_mut(|place| {
            // SAFETY: only the ticket's holder writes here, and nobody reads before READY is stored.
            unsafe { (*place).write(value) };
        });
        // Release: pairs with the Acquire load in `look`, so that who sees READY sees the value.
        self.state.store(READY, Ordering::Release);
    }

    /// Gives the slot up without a value.
    ///
    /// # Safety
    ///
    /// As for [`Slot::publish`], instead of it.
    pub(crate) unsafe fn publish_void(&self) {
        // Release: pairs with `look`; a consumer that steps over this slot may retire the block, which must come
        // after this producer's last access.
        self.state.store(VOID, Ordering::Release);
    }

    /// Looks whether something was published.
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
    /// `look` answered [`Found::Value`] to this thread (or to one that this thread synchronized with), and nobody else
    /// takes from this slot.
    #[inline(always)]
    pub(crate) unsafe fn take(&self) -> T {
        // SAFETY: published, and taken once, as the caller promises.
        self.value
            .with(|place| unsafe { (*place).assume_init_read() })
    }
}

/// A row of slots.
pub(crate) struct Block<T> {
    /// The first ticket divided by [`SLOTS`].
    pub(crate) index: u64,
    /// The block before this one. It may be followed only towards a block that is known not to be retired.
    pub(crate) previous: *mut Block<T>,
    next: AtomicPtr<Block<T>>,
    groups: [Group<T>; SLOTS / GROUP],
    /// Lets loom check that every access by right of a ticket comes before the retirement.
    #[cfg(loom)]
    alive: UnsafeCell<()>,
    /// Set when the epoch would have freed the block; see `reclaim_model.rs`.
    #[cfg(loom)]
    freed: std::sync::atomic::AtomicBool,
}

impl<T> Block<T> {
    /// Allocates a block without successor.
    pub(crate) fn allocate(index: u64, previous: *mut Block<T>) -> *mut Block<T> {
        let block: *mut Block<T> = Box::into_raw(Box::<Block<T>>::new_uninit()).cast();
        // SAFETY: the memory is ours and fits; every field is written before the block is shared. Written in place,
        // since a block of large values must not go over a fiber's small stack.
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

    /// Frees the memory. Values that are still inside are not dropped.
    ///
    /// # Safety
    ///
    /// The block came from [`Block::allocate`] and nobody will reach it any more.
    pub(crate) unsafe fn free(block: *mut Block<T>) {
        // SAFETY: as the caller promises; `allocate` made it from a box.
        drop(unsafe { Box::from_raw(block) });
    }

    /// The slot of `ticket`, which must lie in this block.
    #[inline(always)]
    pub(crate) fn slot(&self, ticket: u64) -> Slot<'_, T> {
        let offset = offset(ticket);
        let group = &self.groups[offset / GROUP];
        Slot {
            value: &group.values[offset % GROUP],
            state: &group.states[offset % GROUP],
        }
    }

    /// Asks for the group after that of `ticket`, for writing, when the first slot of a group is about to be used: the
    /// consumer has read its lines when the memory was another block, and a producer would wait for each of them at its
    /// next locked instruction.
    #[inline(always)]
    pub(crate) fn fetch_ahead(&self, ticket: u64) {
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

    /// The next block, or null if nobody linked one yet.
    #[inline(always)]
    pub(crate) fn next(&self) -> *mut Block<T> {
        // Acquire: pairs with the Release half of the exchange in `next_or_link`; the block's fields are then visible.
        self.next.load(Ordering::Acquire)
    }

    /// The next block; makes one if there is none.
    pub(crate) fn next_or_link(&self) -> *mut Block<T> {
        let next = self.next();
        if !next.is_null() {
            return next;
        }
        let made = Block::allocate(self.index + 1, ptr::from_ref(self).cast_mut());
        // AcqRel and Acquire: publishes the new block's fields to `next`, or sees those of the one that was faster.
        match self
            .next
            .compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: it was not linked, so nobody but us knows of it.
                unsafe { Block::free(made) };
                faster
            }
        }
    }

    /// Called by whoever uses the block by right of an unpublished ticket; loom then checks the right.
    #[inline(always)]
    pub(crate) fn assert_alive(&self) {
        #[cfg(loom)]
        self.alive.with(|_| ());
    }

    /// Called by whoever uses the block by right of a pin.
    #[inline(always)]
    pub(crate) fn assert_not_freed(&self) {
        #[cfg(loom)]
        assert!(
            !self.freed.load(Ordering::Relaxed),
            "used after it was freed"
        );
    }

    /// Called when the block is retired; loom then checks that every use by right of a ticket is over.
    #[cfg(loom)]
    pub(crate) fn assert_abandoned(&self) {
        self.alive.with_mut(|_| ());
    }

    #[cfg(loom)]
    pub(crate) fn mark_freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }
}

/// Brings a line near, as one that will be written.
#[inline(always)]
fn prefetch_write(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which touches no memory that a program can see, and faults at no address; a processor that does
    // not know it does nothing. By hand, because the compiler assumes processors without it.
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

/// The place of `ticket` in its block.
#[inline(always)]
pub(crate) fn offset(ticket: u64) -> usize {
    (ticket % SLOTS as u64) as usize
}
