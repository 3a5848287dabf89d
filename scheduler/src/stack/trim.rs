//! Giving the memory of stacks back to the system, and how deep stacks are used.
//!
//! A stack keeps the pages that its fibers touched. That is wanted while it is taken again soon, and waste afterwards.
//! Once a second, at a tick's end or when the loop has nothing else to do, the pool is tended:
//!
//! ```text
//!   free list, the one freed last on top
//!   ┌───────────┬──────────────────────────────┬──────────────┐
//!   │ released  │ not taken in the last second │ taken        │
//!   └───────────┴──────────────────────────────┴──────────────┘
//!     nothing     all pages are released         what lies deeper than a stack should keep is released, of a few
//! ```
//!
//! A stack is looked at (mincore) before it is released: the lowest page that is there says how deep it was used. These
//! samples make the high-water mark of a class. A stack that a fiber is on is left alone.

use super::{Class, PAGE, StackBounds, StackClass, StackPool};
use std::cell::Cell;

/// Stacks whose pages are released in one go: a millisecond or two.
const RELEASED_AT_ONCE: usize = 1024;
/// Stacks of those that are in use now and then that are looked at in one go.
const LOOKED_AT_ONCE: usize = 16;

/// Bytes that a stack in use now and then keeps.
const fn kept_bytes(class: StackClass) -> usize {
    match class {
        StackClass::Native => 16 << 10,
        StackClass::Lua => 64 << 10,
    }
}

/// What a class remembers for this.
#[derive(Default)]
pub(super) struct Trim {
    /// How short the free list was at its shortest since it was tended last.
    pub(super) least_free: Cell<usize>,
    /// So many stacks at its bottom hold no page.
    released: Cell<usize>,
    pub(super) samples: Cell<u64>,
    pub(super) high_water_bytes: Cell<usize>,
    pub(super) trimmed_bytes: Cell<u64>,
}

impl StackPool {
    /// Releases what has not been used for a while. Whether there is more to release at once.
    pub(crate) fn tend(&self) -> bool {
        let native = self.native.tend();
        self.lua.tend() || native
    }

    /// Whether a stack that is not in use may hold memory.
    pub(crate) fn wants_tending(&self) -> bool {
        self.native.wants_tending() || self.lua.wants_tending()
    }
}

impl Class {
    fn wants_tending(&self) -> bool {
        let trim = &self.trim;
        self.free.borrow().len() > trim.released.get().min(trim.least_free.get())
    }

    fn tend(&self) -> bool {
        let free = self.free.borrow();
        let trim = &self.trim;
        let unused = trim.least_free.get().min(free.len());
        let released = trim.released.get().min(unused);
        let end = unused.min(released + RELEASED_AT_ONCE);
        let mut pages = vec![0; self.slot_bytes / PAGE];
        for stack in &free[released..end] {
            self.release(stack.bounds(), 0, &mut pages);
        }
        trim.released.set(end);
        for stack in free[unused..].iter().rev().take(LOOKED_AT_ONCE) {
            self.release(stack.bounds(), kept_bytes(self.kind), &mut pages);
        }
        if end < unused {
            return true;
        }
        trim.least_free.set(free.len());
        false
    }

    /// Releases the pages of a stack on which nothing runs, but for the uppermost `kept` bytes.
    fn release(&self, stack: StackBounds, kept: usize, pages: &mut [u8]) {
        let (limit, base) = (stack.limit_of_use(), stack.base());
        // SAFETY: asks for a range of our own mapping; there is a byte for each of its pages.
        let known = unsafe { libc::mincore(limit as *mut _, base - limit, pages.as_mut_ptr()) };
        if known != 0 {
            return;
        }
        let pages = &pages[..(base - limit) / PAGE];
        let Some(lowest) = pages.iter().position(|page| page & 1 == 1) else {
            return;
        };
        let trim = &self.trim;
        let depth = base - limit - lowest * PAGE;
        trim.samples.set(trim.samples.get() + 1);
        trim.high_water_bytes
            .set(trim.high_water_bytes.get().max(depth));
        if depth > kept {
            let there = pages[..pages.len() - kept / PAGE].iter();
            let there = there.filter(|page| **page & 1 == 1).count();
            let start = limit + lowest * PAGE;
            // SAFETY: nothing runs on the stack, so nobody needs what is in its pages; the guard is not among them.
            let done = unsafe { libc::madvise(start as *mut _, depth - kept, libc::MADV_DONTNEED) };
            if done == 0 {
                trim.trimmed_bytes
                    .set(trim.trimmed_bytes.get() + (there * PAGE) as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FiberStack, StackConfig};
    use super::*;

    /// Writes to a stack's uppermost `bytes`.
    fn use_stack(stack: &FiberStack, bytes: usize) {
        let base = stack.bounds().base();
        for page in 1..=bytes / PAGE {
            // SAFETY: the stack is ours, and so large.
            unsafe { ((base - page * PAGE) as *mut u8).write_volatile(1) };
        }
    }

    fn resident_pages(stack: StackBounds) -> usize {
        let (limit, base) = (stack.limit_of_use(), stack.base());
        let mut pages = vec![0; (base - limit) / PAGE];
        // SAFETY: as in `release`.
        assert_eq!(0, unsafe {
            libc::mincore(limit as *mut _, base - limit, pages.as_mut_ptr())
        });
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn what_has_not_been_taken_for_a_turn_is_released_and_its_depth_known() {
        let pool = StackPool::new(StackConfig::default());
        let stacks: Vec<_> = (0..3)
            .map(|_| pool.take(StackClass::Native).unwrap())
            .collect();
        let bounds: Vec<_> = stacks.iter().map(FiberStack::bounds).collect();
        for stack in stacks {
            use_stack(&stack, 8 * PAGE);
            pool.give_back(stack);
        }
        assert!(pool.wants_tending());
        // They have just been used: what they hold beyond what is kept goes, and no more.
        assert!(!pool.tend());
        assert!(bounds.iter().all(|stack| resident_pages(*stack) == 4));
        // The one on top is in use now and then.
        let top = pool.take(StackClass::Native).unwrap();
        use_stack(&top, PAGE);
        pool.give_back(top);
        assert!(!pool.tend());
        let left: Vec<_> = bounds.iter().map(|stack| resident_pages(*stack)).collect();
        assert_eq!(left, [0, 0, 4]);
        assert!(!pool.tend());
        assert_eq!(resident_pages(bounds[2]), 0);
        assert!(!pool.wants_tending());
        let (native, _) = pool.counted();
        assert_eq!(native.high_water_bytes, 8 * PAGE as u64);
        assert_eq!(native.trimmed_bytes, 3 * 8 * PAGE as u64);
        // And each can be used again.
        let again = pool.take(StackClass::Native).unwrap();
        use_stack(&again, 8 * PAGE);
        pool.give_back(again);
    }

    #[test]
    fn of_very_many_only_some_are_released_in_one_go() {
        let pool = StackPool::new(StackConfig::default());
        let count = RELEASED_AT_ONCE + 10;
        let stacks: Vec<_> = (0..count)
            .map(|_| pool.take(StackClass::Native).unwrap())
            .collect();
        for stack in stacks {
            use_stack(&stack, PAGE);
            pool.give_back(stack);
        }
        assert!(!pool.tend());
        assert!(pool.tend(), "there is more");
        assert!(!pool.tend());
        assert_eq!(pool.counted().0.trimmed_bytes, (count * PAGE) as u64);
    }
}
