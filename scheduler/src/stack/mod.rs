//! Stacks for fibers: address space in large arenas, a guard under each stack, a free list per loop.
//!
//! ```text
//!   one slot of an arena (252 KiB, or 1 MiB for deep calls)
//!   +-------+----------------------------------------------+
//!   | guard |   untouched, costs no memory     | in use    |
//!   +-------+----------------------------------------------+
//!   limit                                              base   (a stack grows down from its base)
//! ```
//!
//! Only the pages that a fiber touched cost memory: one page for most fibers. An arena is one mapping of many slots,
//! without huge pages (a huge page would make 2 MiB resident at the first touch). The free list is last-in-first-out,
//! so that a new fiber gets the stack whose top is still in the cache.
//!
//! Invariants: a pool belongs to one loop and one thread; one fiber owns a [`FiberStack`], or it lies in the free list;
//! an arena is unmapped only when the pool is dropped and none of its stacks is in use.

mod guard;
mod overflow;
mod registers;
mod trim;

pub use guard::guard_kind;
pub(crate) use overflow::{AlternateStack, RunningFiber, install as install_overflow_report};
pub(crate) use registers::Registers;

use guard::Guard;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::ptr;

/// The page size of every supported machine.
pub(crate) const PAGE: usize = 4096;

/// The size of a fiber's stack, by what runs on it.
///
/// ```
/// use yue_scheduler::{Builder, Config, Loop, StackClass, current_id, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let roomy = Builder::new().stack(StackClass::Deep).spawn(|| this_loop::fiber(current_id()).unwrap().stack);
///     assert_eq!(roomy.unwrap().join().unwrap(), StackClass::Deep);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StackClass {
    /// For Rust code. 252 KiB of address space by default: 63 pages, and as many page table entries.
    #[default]
    Small,
    /// For code that calls deeply, and for C code, such as a Lua interpreter (thirty nested `gsub` callbacks overflow
    /// 256 KiB). 1 MiB by default, with 16 guard pages: the compiler probes each page of a large Rust frame, but C code
    /// is usually compiled without probes and can step over a single guard page.
    Deep,
}

/// Sizes of the stacks of one loop, in bytes of address space, rounded up to an odd number of pages. Memory is used
/// only as it is touched.
///
/// ```
/// use yue_scheduler::{Config, Loop, StackConfig};
///
/// let stacks = StackConfig { small: 1 << 20, ..StackConfig::default() };
/// let sum = Loop::new(Config { stacks, ..Config::default() }).unwrap().run(|| {
///     let large = [1u8; 512 << 10]; // does not fit on a stack of the default size
///     std::hint::black_box(&large).iter().map(|n| u32::from(*n)).sum::<u32>()
/// });
/// assert_eq!(sum, 512 << 10);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct StackConfig {
    /// The size of a [`StackClass::Small`] stack. At least 16 KiB.
    pub small: usize,
    /// The size of a [`StackClass::Deep`] stack. At least 256 KiB.
    pub deep: usize,
}

impl Default for StackConfig {
    fn default() -> Self {
        StackConfig {
            small: 252 << 10,
            deep: 1 << 20,
        }
    }
}

/// One stack with its guard. The holder of this value owns the memory.
#[derive(Debug)]
pub(crate) struct FiberStack(StackBounds);

/// The bounds of a stack, in one word: the start address of its first frame in cache lines (highest, because each
/// switch reads it), its size in pages (20 bits), its class (1 bit).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StackBounds(u64);

const SIZE_BITS: u32 = 20;
const EXPERIMENT_BYTES: usize = 64 << 10;
pub(crate) const CACHE_LINE: usize = 64;

/// Number of different offsets by which first frames are shifted.
///
/// A parked fiber on a small stack holds one page, and sixteen cache lines are a quarter of it. A fiber with deep calls
/// has more frames, in more pages, and benefits from more offsets: with 1 000 fibers that run an interpreter a yield
/// took 142 ns with 16 and 106 ns with 40.
const fn colors(class: StackClass) -> usize {
    match class {
        StackClass::Small => 16,
        StackClass::Deep => 40,
    }
}

impl FiberStack {
    fn new(base: usize, bytes: usize, class: StackClass) -> Self {
        let first = (base / CACHE_LINE - base / bytes % colors(class)) as u64;
        let pages = (bytes / PAGE) as u64;
        FiberStack(StackBounds(
            first << (SIZE_BITS + 1) | pages << 1 | u64::from(class == StackClass::Deep),
        ))
    }

    /// Maps a stack for a coroutine that does almost nothing. It has no guard.
    pub(crate) fn for_experiment() -> Option<Self> {
        let base = map(EXPERIMENT_BYTES).ok()? + EXPERIMENT_BYTES;
        Some(FiberStack::new(base, EXPERIMENT_BYTES, StackClass::Small))
    }

    /// Unmaps the stack of an experiment.
    pub(crate) fn end_experiment(self) {
        // SAFETY: `for_experiment` mapped the range, and nothing runs on it any more.
        unsafe { libc::munmap(self.0.lowest() as *mut libc::c_void, EXPERIMENT_BYTES) };
    }

    #[inline]
    pub(crate) fn bounds(&self) -> StackBounds {
        self.0
    }
}

impl StackBounds {
    pub(crate) const NONE: StackBounds = StackBounds(0);

    /// The start of the first frame: a little below the base, by an offset that differs from slot to slot.
    ///
    /// Slots are whole pages apart, so without this offset the hot frames of all fibers would compete for the same few
    /// cache sets.
    #[inline]
    pub(crate) fn start(self) -> usize {
        (self.0 >> (SIZE_BITS + 1)) as usize * CACHE_LINE
    }

    /// The address just above the stack: the end of the page in which the first frame starts.
    #[inline]
    fn base(self) -> usize {
        self.start().next_multiple_of(PAGE)
    }

    /// Bytes from the lowest address of the guard to the base.
    #[inline]
    pub(crate) fn size(self) -> usize {
        (self.0 >> 1) as usize % (1 << SIZE_BITS) * PAGE
    }

    #[inline]
    pub(crate) fn class(self) -> StackClass {
        if self.0 & 1 == 1 {
            StackClass::Deep
        } else {
            StackClass::Small
        }
    }

    /// The lowest address of the guard.
    #[inline]
    pub(crate) fn lowest(self) -> usize {
        self.base() - self.size()
    }

    /// The lowest address that code may use.
    pub(crate) fn limit_of_use(self) -> usize {
        self.lowest() + guard_bytes(self.class())
    }

    /// The addresses of the guard.
    fn guard(self) -> Range<usize> {
        self.lowest()..self.limit_of_use()
    }

    /// The addresses of the stack, from its guard to the base that the pool knows.
    pub(crate) fn range(self) -> Range<usize> {
        self.lowest()..self.lowest() + self.size()
    }
}

const fn guard_bytes(class: StackClass) -> usize {
    match class {
        StackClass::Small => PAGE,
        StackClass::Deep => 16 * PAGE,
    }
}

/// The counters of a loop's stacks of one class.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StackCounted {
    pub(crate) used: u64,
    pub(crate) idle: u64,
    pub(crate) mapped_bytes: u64,
    pub(crate) high_water_bytes: u64,
    pub(crate) samples: u64,
    pub(crate) trimmed_bytes: u64,
}

/// All stacks of one size on one loop.
struct Class {
    kind: StackClass,
    guard: Guard,
    slot_bytes: usize,
    free: RefCell<Vec<FiberStack>>,
    trim: trim::Trim,
    /// The part of the newest arena that was never handed out: (next, end).
    fresh: Cell<(usize, usize)>,
    arenas: RefCell<Vec<(usize, usize)>>,
    /// Slots that have a guard.
    guarded: Cell<usize>,
    out: Cell<usize>,
    mapped_bytes: Cell<usize>,
}

/// The stacks of one loop.
pub(crate) struct StackPool {
    small: Class,
    deep: Class,
}

/// Slots in the first arena of a class. Each later arena is twice as large, up to [`ARENA_SLOTS_MAX`].
const ARENA_SLOTS_FIRST: usize = 64;
/// 4 GiB of address space in small stacks: few mappings, even for millions of fibers.
const ARENA_SLOTS_MAX: usize = 16_384;
/// Limit for larger stacks: a process with 47 bits of address space can have many arenas of this size.
const ARENA_BYTES_MAX: usize = 16 << 30;

impl StackPool {
    pub(crate) fn new(config: StackConfig) -> Self {
        // An odd number of pages. With a power of two the stacks' pages would compete for the same few TLB sets: a
        // yield among 1 000 fibers on deep stacks then took 184 ns instead of 142.
        let round =
            |bytes: usize, least: usize| bytes.clamp(least, 1 << 30).next_multiple_of(PAGE) | PAGE;
        let guard = Guard::detect();
        let class = |kind, slot_bytes| Class {
            kind,
            guard,
            slot_bytes,
            free: RefCell::new(Vec::new()),
            trim: trim::Trim::default(),
            fresh: Cell::new((0, 0)),
            arenas: RefCell::new(Vec::new()),
            guarded: Cell::new(0),
            out: Cell::new(0),
            mapped_bytes: Cell::new(0),
        };
        StackPool {
            small: class(StackClass::Small, round(config.small, 16 << 10)),
            deep: class(StackClass::Deep, round(config.deep, 256 << 10)),
        }
    }

    fn class(&self, kind: StackClass) -> &Class {
        match kind {
            StackClass::Small => &self.small,
            StackClass::Deep => &self.deep,
        }
    }

    /// Returns a stack, the most recently freed one if there is one.
    ///
    /// # Errors
    /// When the system has no more address space, or no more guards.
    #[inline]
    pub(crate) fn take(&self, kind: StackClass) -> io::Result<FiberStack> {
        let class = self.class(kind);
        let mut free = class.free.borrow_mut();
        let stack = match free.pop() {
            Some(stack) => {
                let least = &class.trim.least_free;
                least.set(least.get().min(free.len()));
                stack
            }
            None => class.fresh_slot()?,
        };
        drop(free);
        class.out.set(class.out.get() + 1);
        Ok(stack)
    }

    /// Returns the counters of both classes.
    pub(crate) fn counted(&self) -> (StackCounted, StackCounted) {
        (self.small.counted(), self.deep.counted())
    }

    /// Takes back a stack that nothing runs on any more.
    #[inline]
    pub(crate) fn give_back(&self, stack: FiberStack) {
        let class = self.class(stack.bounds().class());
        class.out.set(class.out.get() - 1);
        class.free.borrow_mut().push(stack);
    }
}

impl Class {
    fn counted(&self) -> StackCounted {
        StackCounted {
            used: self.out.get() as u64,
            idle: self.free.borrow().len() as u64,
            mapped_bytes: self.mapped_bytes.get() as u64,
            high_water_bytes: self.trim.high_water_bytes.get() as u64,
            samples: self.trim.samples.get(),
            trimmed_bytes: self.trim.trimmed_bytes.get(),
        }
    }

    #[cold]
    fn fresh_slot(&self) -> io::Result<FiberStack> {
        let (mut next, mut end) = self.fresh.get();
        if next == end {
            (next, end) = self.map_arena()?;
        }
        self.guard.install(next, guard_bytes(self.kind))?;
        self.guarded.set(self.guarded.get() + 1);
        self.fresh.set((next + self.slot_bytes, end));
        Ok(FiberStack::new(
            next + self.slot_bytes,
            self.slot_bytes,
            self.kind,
        ))
    }

    /// Maps a new arena: a large one, or as large as the system allows.
    fn map_arena(&self) -> io::Result<(usize, usize)> {
        let mut arenas = self.arenas.borrow_mut();
        let mut slots = (ARENA_SLOTS_FIRST << arenas.len().min(16))
            .min(ARENA_SLOTS_MAX)
            .min(ARENA_BYTES_MAX / self.slot_bytes);
        let (start, bytes) = loop {
            let bytes = slots * self.slot_bytes;
            match map(bytes) {
                Ok(start) => break (start, bytes),
                Err(error) if slots == 1 => return Err(error),
                Err(_) => slots /= 2,
            }
        };
        arenas.push((start, bytes));
        self.mapped_bytes.set(self.mapped_bytes.get() + bytes);
        self.fresh.set((start, start + bytes));
        Ok((start, start + bytes))
    }
}

fn map(bytes: usize) -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches none of our memory.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range was just mapped. A kernel without huge pages returns EINVAL, which is fine.
    unsafe { libc::madvise(memory, bytes, libc::MADV_NOHUGEPAGE) };
    Ok(memory as usize)
}

impl Drop for Class {
    fn drop(&mut self) {
        if self.out.get() > 0 {
            // An abandoned fiber still uses one of the stacks.
            return;
        }
        for (start, bytes) in self.arenas.get_mut().drain(..) {
            // SAFETY: the range is our mapping, and none of its stacks is in use.
            unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
        }
        self.guard.uninstalled(self.guarded.get());
    }
}
