//! The memory of a simulated VM: at an address that depends on the VM's number alone.
//!
//! Lua shows addresses: the order of `pairs` over tables whose keys are tables or functions, `tostring`, and the order
//! in which finalizers run all depend on them. So each VM of a simulation gets a range of its own:
//!
//! ```text
//!   BASE + number * STRIDE  ├ a gap from the hash seed ┤├ blocks of all sizes ─▶ committed ─▶ reserved ┤
//! ```
//!
//! A block is taken from the list of free blocks of its size class, or from the end. All of it is a function of the
//! sequence of requests. A process runs one simulation with VMs at a time, since two would need the same addresses: the
//! second waits for the first.
//!
//! Invariants:
//! - A block belongs to one class, which its size determines, from the first request to the end of the arena.
//! - The memory from the base to `committed` is readable and writable. The rest of the range is reserved, without
//!   access.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use yue_scheduler::{lock, simulation};

/// The beginning of the ranges, far from where the kernel, the loader and AddressSanitizer place things; all of them
/// are below 2^47, the limit of LuaJIT's pointers.
const BASE: usize = 1 << 45;

/// The distance of two ranges, and the memory that a VM may use.
const STRIDE: usize = 1 << 32;
const MEMORY_MAX: usize = 1 << 30;

/// The number of ranges below 2^47.
const RANGES: u32 = 24_000;

/// The memory that is made accessible at a time.
const COMMIT: usize = 256 << 10;

/// Blocks are multiples of this, and aligned to it.
const GRAIN: usize = 16;

/// Up to this size there is a class for each multiple of the grain; above, four for each power of two.
const SMALL_MAX: usize = 1024;
const SMALL_CLASSES: usize = SMALL_MAX / GRAIN;
const CLASSES: usize = SMALL_CLASSES + 4 * 20;

/// Freed blocks from this size on give their pages back to the system.
const LARGE: usize = 1 << 20;

/// The numbers of the ranges in use.
type Used = Arc<Mutex<BTreeSet<u32>>>;

/// The ranges of a simulation.
#[derive(Default)]
struct Ranges {
    used: Used,
    _turn: Turn,
}

impl Drop for Ranges {
    /// The simulation has ended, and so have its threads: a VM that was not closed is used no more.
    fn drop(&mut self) {
        for number in std::mem::take(&mut *lock(&self.used)) {
            // SAFETY: the range belongs to this simulation.
            unsafe { libc::munmap(ptr::without_provenance_mut(address(number)), MEMORY_MAX) };
        }
    }
}

/// Whether a simulation uses the ranges.
static IN_USE: Mutex<bool> = Mutex::new(false);
static FREED: Condvar = Condvar::new();

/// The right to use the ranges, until the simulation has ended.
struct Turn;

impl Default for Turn {
    /// Waits while another simulation of the process has it. That one runs on, as its threads do not wait for these.
    fn default() -> Turn {
        let in_use = lock(&IN_USE);
        let waited = FREED.wait_while(in_use, |in_use| *in_use);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&IN_USE) = false;
        FREED.notify_one();
    }
}

/// A free block: the next one of its class.
struct Free {
    next: Option<NonNull<Free>>,
}

/// The memory of a VM. Dropping it unmaps the range.
pub(crate) struct Arena {
    number: u32,
    used_ranges: Used,
    base: NonNull<u8>,
    /// Bytes from the base: handed out, and accessible.
    used: usize,
    committed: usize,
    free: [Option<NonNull<Free>>; CLASSES],
}

impl Arena {
    /// Reserves the first free range for a VM of the calling thread's simulation. `None` if the system refuses.
    pub(crate) fn new() -> Option<Box<Arena>> {
        let used_ranges = simulation::layer(|ranges: &mut Ranges| ranges.used.clone());
        let (number, base) = {
            let mut used = lock(&used_ranges);
            let number = (0..RANGES).find(|number| !used.contains(number))?;
            let base = reserve(number)?;
            used.insert(number);
            (number, base)
        };
        // A part of a page, so that the hash seed changes the order of keys that are hashed by their addresses.
        let gap = simulation::mix(simulation::hash_seed() ^ u64::from(number)) % 256;
        Some(Box::new(Arena {
            number,
            used_ranges,
            base,
            used: gap as usize * GRAIN,
            committed: 0,
            free: [None; CLASSES],
        }))
    }

    /// The number of the VM in its simulation.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Returns a block of that class.
    fn take(&mut self, class: usize) -> Option<NonNull<u8>> {
        if let Some(block) = self.free[class] {
            // SAFETY: a free block of this arena, which nobody uses; `give` has written it.
            self.free[class] = unsafe { block.as_ref() }.next;
            return Some(block.cast());
        }
        let size = size_of_class(class);
        let end = self
            .used
            .checked_add(size)
            .filter(|end| *end <= MEMORY_MAX)?;
        if end > self.committed {
            let committed = end.next_multiple_of(COMMIT);
            // SAFETY: within the reserved range, which belongs to this arena.
            let failed = unsafe {
                libc::mprotect(
                    self.base.as_ptr().add(self.committed).cast(),
                    committed - self.committed,
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            if failed != 0 {
                return None;
            }
            self.committed = committed;
        }
        // SAFETY: within the range.
        let block = unsafe { self.base.add(self.used) };
        self.used = end;
        Some(block)
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// The block is one of this class, from this arena, and nobody uses it any more.
    unsafe fn give(&mut self, block: NonNull<u8>, class: usize) {
        let size = size_of_class(class);
        if size >= LARGE {
            const PAGE: usize = 64 << 10;
            let start = block.addr().get().next_multiple_of(PAGE);
            let end = (block.addr().get() + size) & !(PAGE - 1);
            // SAFETY: whole pages inside the block, whose contents nobody needs. A refusal changes nothing.
            unsafe {
                libc::madvise(
                    block.as_ptr().with_addr(start).cast(),
                    end - start,
                    libc::MADV_DONTNEED,
                )
            };
        }
        let free = block.cast::<Free>();
        let next = self.free[class];
        // SAFETY: the caller's promise; a block has room for it, and its alignment.
        unsafe { free.write(Free { next }) };
        self.free[class] = Some(free);
    }

    /// LuaJIT's allocator function (`lua_Alloc`); `arena` is an [`Arena`].
    ///
    /// # Safety
    /// LuaJIT's promises: `block` is null, or a block of this arena that was requested with `old` bytes.
    pub(crate) unsafe extern "C" fn allocate(
        arena: *mut c_void,
        block: *mut c_void,
        old: usize,
        new: usize,
    ) -> *mut c_void {
        // SAFETY: LuaJIT passes what it was created with, on the one thread that uses the VM.
        let arena = unsafe { &mut *arena.cast::<Arena>() };
        let block = NonNull::new(block.cast::<u8>()).map(|block| (block, class_of(old)));
        if new == 0 {
            if let Some((block, Some(class))) = block {
                // SAFETY: the caller's promise.
                unsafe { arena.give(block, class) };
            }
            return ptr::null_mut();
        }
        let Some(class) = class_of(new) else {
            return ptr::null_mut();
        };
        match block {
            Some((block, Some(before))) if before == class => block.as_ptr().cast(),
            Some((block, Some(before))) => {
                let Some(moved) = arena.take(class) else {
                    return ptr::null_mut();
                };
                // SAFETY: two blocks that do not overlap, with room for as many bytes.
                unsafe {
                    moved.copy_from_nonoverlapping(block, old.min(new));
                    arena.give(block, before);
                }
                moved.as_ptr().cast()
            }
            _ => arena
                .take(class)
                .map_or(ptr::null_mut(), |block| block.as_ptr().cast()),
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the range belongs to this arena, and the VM has been closed.
        unsafe { libc::munmap(self.base.as_ptr().cast(), MEMORY_MAX) };
        lock(&self.used_ranges).remove(&self.number);
    }
}

/// The address of a range.
fn address(number: u32) -> usize {
    BASE + number as usize * STRIDE
}

fn reserve(number: u32) -> Option<NonNull<u8>> {
    let wanted = address(number);
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping, which replaces none.
    let mapped = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(wanted),
            MEMORY_MAX,
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    if mapped.addr() != wanted {
        // A kernel before 4.17 takes the address for a hint.
        // SAFETY: the mapping that was just made.
        unsafe { libc::munmap(mapped, MEMORY_MAX) };
        return None;
    }
    NonNull::new(mapped.cast())
}

/// The class of blocks for that many bytes; `None` if no block is large enough.
fn class_of(bytes: usize) -> Option<usize> {
    if bytes <= SMALL_MAX {
        return Some(bytes.max(1).div_ceil(GRAIN) - 1);
    }
    // 1025..=1280, ..=1536, ..=1792, ..=2048, and the same for each further power of two.
    let last = bytes - 1;
    let power = last.ilog2() as usize;
    let quarter = (last >> (power - 2)) & 3;
    let class = SMALL_CLASSES + (power - 10) * 4 + quarter;
    (class < CLASSES).then_some(class)
}

fn size_of_class(class: usize) -> usize {
    match class.checked_sub(SMALL_CLASSES) {
        None => (class + 1) * GRAIN,
        Some(large) => (5 + large % 4) << (8 + large / 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_a_class_that_is_large_enough() {
        for bytes in (0..5000).chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 29, 1 << 30]) {
            let class = class_of(bytes).unwrap();
            let size = size_of_class(class);
            assert!(size >= bytes, "{bytes} in {size}");
            assert!(
                bytes <= 16 || size * 4 <= bytes * 5 + 64,
                "{bytes} in {size}"
            );
            assert_eq!(class_of(size), Some(class));
            assert_eq!(size % GRAIN, 0);
        }
        assert_eq!(class_of((1 << 30) + 1), None);
        assert_eq!(class_of(usize::MAX), None);
    }

    #[test]
    fn blocks_lie_at_the_same_addresses_in_each_run() {
        let requests = || {
            simulation::run(3, || {
                let mut arena = Arena::new().unwrap();
                let arena: *mut c_void = ptr::from_mut(&mut *arena).cast();
                let mut all = Vec::new();
                for round in 0..2000usize {
                    let bytes = (round * 37) % 3000 + 1;
                    // SAFETY: the arena lives; a new block.
                    let block = unsafe { Arena::allocate(arena, ptr::null_mut(), 0, bytes) };
                    // SAFETY: a block of that many bytes.
                    unsafe { block.cast::<u8>().write_bytes(round as u8, bytes) };
                    all.push((block, bytes));
                    if round % 3 == 0 {
                        let (block, bytes) = all.swap_remove(round / 3);
                        // SAFETY: the block is not used any more.
                        unsafe { Arena::allocate(arena, block, bytes, 0) };
                    }
                }
                let (block, bytes) = all[10];
                // SAFETY: both blocks are of the arena.
                let grown = unsafe { Arena::allocate(arena, block, bytes, 70_000) };
                // SAFETY: the bytes were copied.
                let first = unsafe { grown.cast::<u8>().read() };
                (
                    all.iter()
                        .map(|(block, _)| block.addr())
                        .collect::<Vec<_>>(),
                    grown.addr(),
                    first,
                )
            })
        };
        let (one, _) = requests().unwrap();
        let (other, _) = requests().unwrap();
        assert_eq!(one, other);
        assert!(one.1 >= BASE && one.1 < BASE + MEMORY_MAX);
    }
}
