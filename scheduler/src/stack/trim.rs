//! Trimming of stacks: unused memory is returned to the system, and the depth of use is sampled.
//!
//! A stack keeps the pages that its fibers touched. That is useful while it is soon used again, and wasteful
//! afterwards. Once a second, at the end of a tick or when the loop is idle, the pool is trimmed:
//!
//! ```text
//!   free list, the most recently freed stack on top
//!   ┌───────────┬──────────────────────────────┬──────────────┐
//!   │ released  │ not taken in the last second │ taken        │
//!   └───────────┴──────────────────────────────┴──────────────┘
//!     nothing     release all pages              release pages deeper than a stack should keep, of a few stacks
//! ```
//!
//! The pool queries the resident pages (mincore) before it releases them: the lowest one shows how deep the stack was
//! used. The maximum of these samples is the high-water mark of a class. Stacks in use by fibers are left alone.

use super::{Class, PAGE, StackBounds, StackClass, StackPool};
use std::cell::Cell;

/// Number of stacks whose pages are released in one round, which takes a millisecond or two.
const RELEASED_AT_ONCE: usize = 1024;
/// Number of recently used stacks that are trimmed in one round.
const TRIMMED_AT_ONCE: usize = 16;

/// Bytes that a recently used stack keeps.
const fn kept_bytes(class: StackClass) -> usize {
    match class {
        StackClass::Small => 16 << 10,
        StackClass::Deep => 64 << 10,
    }
}

/// The state of trimming for one class.
#[derive(Default)]
pub(super) struct Trim {
    /// The shortest length of the free list since it was last trimmed.
    pub(super) least_free: Cell<usize>,
    /// Number of stacks at its bottom that hold no pages.
    released: Cell<usize>,
    pub(super) samples: Cell<u64>,
    pub(super) high_water_bytes: Cell<usize>,
    pub(super) trimmed_bytes: Cell<u64>,
}

impl StackPool {
    /// Releases memory that was not used for a while. Returns whether there is more to release at once.
    pub(crate) fn trim_unused(&self) -> bool {
        let small = self.small.trim_unused();
        self.deep.trim_unused() || small
    }

    /// Returns whether an unused stack may hold memory.
    pub(crate) fn needs_trimming(&self) -> bool {
        self.small.needs_trimming() || self.deep.needs_trimming()
    }
}

impl Class {
    fn needs_trimming(&self) -> bool {
        let trim = &self.trim;
        self.free.borrow().len() > trim.released.get().min(trim.least_free.get())
    }

    fn trim_unused(&self) -> bool {
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
        for stack in free[unused..].iter().rev().take(TRIMMED_AT_ONCE) {
            self.release(stack.bounds(), kept_bytes(self.kind), &mut pages);
        }
        if end < unused {
            return true;
        }
        trim.least_free.set(free.len());
        false
    }

    /// Releases the pages of an unused stack, except for the uppermost `kept` bytes.
    fn release(&self, stack: StackBounds, kept: usize, pages: &mut [u8]) {
        let (limit, base) = (stack.limit_of_use(), stack.base());
        // SAFETY: queries a range of our own mapping; the buffer has a byte for each of its pages.
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
            // SAFETY: nothing runs on the stack, so its contents are not needed; the guard is not in the range.
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
            // SAFETY: the stack is ours, and at least that large.
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
    fn unused_stacks_are_released_and_their_depth_is_sampled() {
        let pool = StackPool::new(StackConfig::default());
        let stacks: Vec<_> = (0..3)
            .map(|_| pool.take(StackClass::Small).unwrap())
            .collect();
        let bounds: Vec<_> = stacks.iter().map(FiberStack::bounds).collect();
        for stack in stacks {
            use_stack(&stack, 8 * PAGE);
            pool.give_back(stack);
        }
        assert!(pool.needs_trimming());
        // They were just used, so only the memory beyond what is kept is released.
        assert!(!pool.trim_unused());
        assert!(bounds.iter().all(|stack| resident_pages(*stack) == 4));
        // The stack on top is used now and then.
        let top = pool.take(StackClass::Small).unwrap();
        use_stack(&top, PAGE);
        pool.give_back(top);
        assert!(!pool.trim_unused());
        let left: Vec<_> = bounds.iter().map(|stack| resident_pages(*stack)).collect();
        assert_eq!(left, [0, 0, 4]);
        assert!(!pool.trim_unused());
        assert_eq!(resident_pages(bounds[2]), 0);
        assert!(!pool.needs_trimming());
        let (small, _) = pool.counted();
        assert_eq!(small.high_water_bytes, 8 * PAGE as u64);
        assert_eq!(small.trimmed_bytes, 3 * 8 * PAGE as u64);
        // Each stack can be used again.
        let again = pool.take(StackClass::Small).unwrap();
        use_stack(&again, 8 * PAGE);
        pool.give_back(again);
    }

    #[test]
    fn one_round_releases_a_limited_number_of_stacks() {
        let pool = StackPool::new(StackConfig::default());
        let count = RELEASED_AT_ONCE + 10;
        let stacks: Vec<_> = (0..count)
            .map(|_| pool.take(StackClass::Small).unwrap())
            .collect();
        for stack in stacks {
            use_stack(&stack, PAGE);
            pool.give_back(stack);
        }
        assert!(!pool.trim_unused());
        assert!(pool.trim_unused(), "there is more");
        assert!(!pool.trim_unused());
        assert_eq!(pool.counted().0.trimmed_bytes, (count * PAGE) as u64);
    }
}
