//! Bare coroutines: corosensei on stacks out of one mapping, no scheduler.
//!
//! One thread. The mapping is cut into slots of [`SLOT_BYTES`] of address space, as a runtime with real stacks would;
//! only the pages that are touched cost memory. There are no guard pages: a ceiling pays for nothing.
//!
//! Each slot's stack begins at an offset of its own. Were they all aligned alike, the hot lines of every stack would
//! fall into the same few sets of the caches, and a thousand fibers would throw each other out of a cache that has
//! room for them.

use std::time::{Duration, Instant};

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult};

/// Address space for each stack.
const SLOT_BYTES: usize = 256 * 1024 + 4096;
/// How far neighbours' stacks are shifted against each other: an odd number of cache lines.
const SHIFT_BYTES: usize = 64;
/// Shifts go round after this many slots, within one page.
const SHIFTS: usize = 48;

/// Many stacks in one mapping that is never given back: the measuring process ends soon after.
#[derive(Debug)]
pub struct Arena {
    base: usize,
    slots: usize,
    shift_bytes: usize,
}

impl Arena {
    /// Room for `slots` stacks; `shifted` says whether they are moved against each other.
    pub fn new(slots: usize, shifted: bool) -> std::io::Result<Arena> {
        let bytes = slots * SLOT_BYTES;
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses; nothing else refers to it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: advice on the mapping made above; if it is refused, pages are only larger.
        unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Arena {
            base: base as usize,
            slots,
            shift_bytes: if shifted { SHIFT_BYTES } else { 0 },
        })
    }

    /// The stack of slot `index`; the caller uses each slot for one coroutine at a time.
    pub fn stack(&self, index: usize) -> Slot {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        let limit = self.base + index * SLOT_BYTES;
        Slot {
            base: limit + SLOT_BYTES - (index % SHIFTS) * self.shift_bytes,
            limit,
        }
    }
}

/// One stack of an [`Arena`].
#[derive(Debug)]
pub struct Slot {
    base: usize,
    limit: usize,
}

// SAFETY: `base` and `limit` are page or cache-line aligned bounds of memory that stays mapped and writable until the
// process ends, `base` above `limit`, and a slot is given to one coroutine at a time.
unsafe impl Stack for Slot {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).expect("a mapping is never at address zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("a mapping is never at address zero")
    }
}

/// Time for `laps` rounds over `fibers` coroutines, each resumed and suspended once a lap.
pub fn round_robin(fibers: usize, laps: usize, shifted: bool) -> std::io::Result<Duration> {
    let arena = Arena::new(fibers, shifted)?;
    let mut coroutines: Vec<_> = (0..fibers)
        .map(|index| {
            Coroutine::<(), (), (), Slot>::with_stack(arena.stack(index), |yielder, ()| {
                loop {
                    yielder.suspend(());
                }
            })
        })
        .collect();
    let mut lap = || {
        for coroutine in &mut coroutines {
            let _: CoroutineResult<(), ()> = coroutine.resume(());
        }
    };
    // The first lap touches every stack, the second one finds them all begun.
    lap();
    lap();
    let start = Instant::now();
    for _ in 0..laps {
        lap();
    }
    let elapsed = start.elapsed();
    // They are suspended for good: unwinding a hundred thousand of them is no part of the work.
    std::mem::forget(coroutines);
    Ok(elapsed)
}

/// Time for `count` times: make a coroutine on a stack used before, run it to its end, take its result and stack back.
pub fn spawn_to_end(count: usize) -> std::io::Result<Duration> {
    let arena = Arena::new(1, false)?;
    let mut stack = arena.stack(0);
    let mut once = |value: usize| {
        let mut coroutine = Coroutine::<(), (), usize, Slot>::with_stack(
            std::mem::replace(&mut stack, Slot { base: 0, limit: 0 }),
            move |_, ()| std::hint::black_box(value),
        );
        if let CoroutineResult::Return(result) = coroutine.resume(()) {
            std::hint::black_box(result);
        }
        stack = coroutine.into_stack();
    };
    for value in 0..count / 10 {
        once(value);
    }
    let start = Instant::now();
    for value in 0..count {
        once(value);
    }
    Ok(start.elapsed())
}
