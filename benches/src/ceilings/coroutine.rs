//! Bare coroutines: corosensei on stacks from one mapping, without a scheduler.
//!
//! One thread. The mapping is divided into slots of [`SLOT_BYTES`] of address space, as a runtime with real stacks
//! would do; only touched pages cost memory. There are no guard pages, because a ceiling omits every cost that it can.
//!
//! Each slot's stack starts at a different offset. With equal alignment, the hot lines of all stacks would fall into
//! the same few cache sets, and a thousand fibers would evict each other from a cache that has room for them.

use std::time::{Duration, Instant};

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult};

/// Address space per stack.
const SLOT_BYTES: usize = 256 * 1024 + 4096;
/// The offset between neighbouring stacks: an odd number of cache lines.
const SHIFT_BYTES: usize = 64;
/// Offsets repeat after this many slots; they stay within one page.
const SHIFTS: usize = 48;

/// Many stacks in one mapping that is never unmapped: the measuring process ends soon after.
#[derive(Debug)]
pub struct Arena {
    base: usize,
    slots: usize,
    shift_bytes: usize,
}

impl Arena {
    /// Creates `slots` stacks; `shifted` sets whether their starts are offset.
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

    /// Returns the stack of slot `index`. The caller uses each slot for one coroutine at a time.
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

// SAFETY: `base` and `limit` are page- or cache-line-aligned bounds of memory that stays mapped and writable until the
// process ends. `base` is above `limit`, and each slot is used by one coroutine at a time.
unsafe impl Stack for Slot {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).expect("a mapping is never at address zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("a mapping is never at address zero")
    }
}

/// Measures `laps` rounds over `fibers` coroutines, each resumed and suspended once per lap.
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
    // The first lap touches every stack; in the second all coroutines have started.
    lap();
    lap();
    let start = Instant::now();
    for _ in 0..laps {
        lap();
    }
    let elapsed = start.elapsed();
    // Leak the suspended coroutines: unwinding a hundred thousand of them is not part of the work.
    std::mem::forget(coroutines);
    Ok(elapsed)
}

/// Measures `count` repetitions of this: create a coroutine on a used stack, run it to its end, take back its result
/// and stack.
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
