//! Stacks for fibers: address space in large arenas, a guard under each stack, a free list per loop.
//!
//! ```text
//!   one slot of an arena (252 KiB, or 1 MiB for a fiber that runs Lua)
//!   +-------+----------------------------------------------+
//!   | guard |   never touched, costs nothing   | in use    |
//!   +-------+----------------------------------------------+
//!   limit                                              base   (a stack grows down from its base)
//! ```
//!
//! Only pages that a fiber touched cost memory: one page for most. An arena is one mapping of many slots, without huge
//! pages (a huge page would make 2 MiB resident at the first touch). The free list is last-in-first-out, so that a new
//! fiber gets the stack whose top is still in the cache.
//!
//! Invariants: a pool belongs to one loop and one thread; a [`FiberStack`] is owned by one fiber or lies in the free
//! list; an arena is unmapped only when the pool is dropped and no stack of it is out.

mod guard;
mod overflow;
mod trim;

pub use guard::guard_kind;
pub(crate) use overflow::{AlternateStack, install as install_overflow_report};

use crate::inspect::vitals::StackCounted;
use guard::Guard;
use std::cell::{Cell, RefCell};
use std::io;
use std::ptr;

/// The size of a page on every machine that we run on.
pub(crate) const PAGE: usize = 4096;

/// What a fiber's stack is for; it decides the size.
///
/// ```
/// use yue_scheduler::{Builder, Config, Loop, StackClass, current_id, this_loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let roomy = Builder::new().stack(StackClass::Lua).spawn(|| this_loop::fiber(current_id()).unwrap().stack);
///     assert_eq!(roomy.unwrap().join().unwrap(), StackClass::Lua);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StackClass {
    /// Rust code. 252 KiB of address space by default: 63 pages, and so many entries of a page table.
    #[default]
    Native,
    /// Code that runs Lua, whose C functions call each other deeply (thirty nested `gsub` callbacks overflow 256 KiB).
    /// 1 MiB by default, with 16 guard pages because C code steps over a single one.
    Lua,
}

/// Sizes of the stacks of one loop, in bytes of address space, rounded up to an odd number of pages; memory is used as
/// it is touched.
///
/// ```
/// use yue_scheduler::{Config, Loop, StackConfig};
///
/// let stacks = StackConfig { native: 1 << 20, ..StackConfig::default() };
/// let sum = Loop::new(Config { stacks, ..Config::default() }).unwrap().run(|| {
///     let large = [1u8; 512 << 10]; // more than a stack of the default size has room for
///     std::hint::black_box(&large).iter().map(|n| u32::from(*n)).sum::<u32>()
/// });
/// assert_eq!(sum, 512 << 10);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct StackConfig {
    /// The size of a [`StackClass::Native`] stack. At least 16 KiB.
    pub native: usize,
    /// The size of a [`StackClass::Lua`] stack. At least 256 KiB.
    pub lua: usize,
}

impl Default for StackConfig {
    fn default() -> Self {
        StackConfig {
            native: 252 << 10,
            lua: 1 << 20,
        }
    }
}

/// One stack, guard included; whoever holds this owns the memory.
#[derive(Debug)]
pub(crate) struct FiberStack(StackBounds);

/// Where a stack lies, in one word: the address at which its first frame begins, in cache lines, since each switch asks
/// for that; pages of the size (20 bits), the class (1 bit).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StackBounds(u64);

const SIZE_BITS: u32 = 20;
const EXPERIMENT_BYTES: usize = 64 << 10;
pub(crate) const CACHE_LINE: usize = 64;

/// By how many different amounts the first frames are shifted.
///
/// A native fiber that is parked holds one page: sixteen lines are a quarter of it. One that runs Lua has more frames,
/// in more pages, and gains by more: a yield among a thousand of them cost 142 ns with 16 and 106 ns with 40.
const fn colors(class: StackClass) -> usize {
    match class {
        StackClass::Native => 16,
        StackClass::Lua => 40,
    }
}

impl FiberStack {
    fn new(base: usize, bytes: usize, class: StackClass) -> Self {
        let first = (base / CACHE_LINE - base / bytes % colors(class)) as u64;
        let pages = (bytes / PAGE) as u64;
        FiberStack(StackBounds(
            first << (SIZE_BITS + 1) | pages << 1 | u64::from(class == StackClass::Lua),
        ))
    }

    /// A stack for a coroutine that does next to nothing. Without a guard.
    pub(crate) fn for_experiment() -> Option<Self> {
        let base = map(EXPERIMENT_BYTES).ok()? + EXPERIMENT_BYTES;
        Some(FiberStack::new(base, EXPERIMENT_BYTES, StackClass::Native))
    }

    /// Unmaps a stack for an experiment.
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

    /// Where the first frame goes: a little below the base, by an amount that differs from slot to slot.
    ///
    /// Slots are whole pages apart, so without this the hot frames of all fibers would compete for the same few sets
    /// of the caches.
    #[inline]
    pub(crate) fn start(self) -> usize {
        (self.0 >> (SIZE_BITS + 1)) as usize * CACHE_LINE
    }

    /// The address just above the stack: the end of the page in which the first frame begins.
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
            StackClass::Lua
        } else {
            StackClass::Native
        }
    }

    /// The lowest address of the guard.
    #[inline]
    pub(crate) fn lowest(self) -> usize {
        self.base() - self.size()
    }

    /// The lowest address that code may touch.
    pub(crate) fn limit_of_use(self) -> usize {
        self.lowest() + guard_bytes(self.class())
    }
}

const fn guard_bytes(class: StackClass) -> usize {
    match class {
        StackClass::Native => PAGE,
        StackClass::Lua => 16 * PAGE,
    }
}

/// All stacks of one size on one loop.
struct Class {
    kind: StackClass,
    guard: Guard,
    slot_bytes: usize,
    free: RefCell<Vec<FiberStack>>,
    trim: trim::Trim,
    /// The part of the newest arena that has not been handed out: (next, end).
    fresh: Cell<(usize, usize)>,
    arenas: RefCell<Vec<(usize, usize)>>,
    /// Slots that have been guarded.
    guarded: Cell<usize>,
    out: Cell<usize>,
    mapped_bytes: Cell<usize>,
}

/// The stacks of one loop.
pub(crate) struct StackPool {
    native: Class,
    lua: Class,
}

/// Slots in the first arena of a class; each next one is twice as large, up to [`ARENA_SLOTS_MAX`].
const ARENA_SLOTS_FIRST: usize = 64;
/// 4 GiB of address space in native stacks: few mappings even for millions of fibers.
const ARENA_SLOTS_MAX: usize = 16_384;
/// For larger stacks, an arena that a process with 47 bits of address space can have many of.
const ARENA_BYTES_MAX: usize = 16 << 30;

impl StackPool {
    pub(crate) fn new(config: StackConfig) -> Self {
        // An odd number of pages, since with a power of two the stacks' pages would all compete for the same few sets
        // of the TLB: a yield among a thousand Lua fibers then cost 184 ns and not 142.
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
            native: class(StackClass::Native, round(config.native, 16 << 10)),
            lua: class(StackClass::Lua, round(config.lua, 256 << 10)),
        }
    }

    fn class(&self, kind: StackClass) -> &Class {
        match kind {
            StackClass::Native => &self.native,
            StackClass::Lua => &self.lua,
        }
    }

    /// A stack, the one freed last if there is one.
    ///
    /// # Errors
    /// When the system gives no more address space, or no more guards.
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

    /// What there is of each class, for the counters.
    pub(crate) fn counted(&self) -> (StackCounted, StackCounted) {
        (self.native.counted(), self.lua.counted())
    }

    /// Takes back a stack on which nothing runs any more.
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

    /// A new arena: large, or as large as the system allows.
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
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
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
    // SAFETY: the range has just been mapped. A kernel without huge pages answers EINVAL, which is as good.
    unsafe { libc::madvise(memory, bytes, libc::MADV_NOHUGEPAGE) };
    Ok(memory as usize)
}

impl Drop for Class {
    fn drop(&mut self) {
        if self.out.get() > 0 {
            // A fiber that was abandoned still lies on one of the stacks.
            return;
        }
        for (start, bytes) in self.arenas.get_mut().drain(..) {
            // SAFETY: the range is a mapping of ours, and no stack of it is out.
            unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
        }
        self.guard.uninstalled(self.guarded.get());
    }
}
