//! The switch between the loop and a fiber. This is the only file that uses corosensei.
//!
//! ```text
//!    loop's stack                    fiber's stack
//!    tick
//!     └─ resume ── switch ────────▶  root ─ f() ─ … ─ park
//!        returns ◀──────── switch ──────────────────── suspend
//! ```
//!
//! Switches are asymmetric: the loop resumes a fiber, and the fiber suspends to the loop. A fiber never resumes another
//! fiber. That keeps wakers off each other's stacks, and a pair of switches costs 3 ns.
//!
//! Invariants:
//! - A fiber is resumed and suspended on one thread only, that of its loop.
//! - [`Switch::suspend`] is called on the fiber's own stack, by the fiber that the loop resumed last.
//! - Nothing unwinds out of a fiber: its root catches the panic. A fiber that has started is never unwound from
//!   outside, and its stack is never freed; an abandoned fiber is leaked.

use crate::prefetch::prefetch;
use crate::stack::{CACHE_LINE, FiberStack, Registers, StackBounds};
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, UnsafeCell};
use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::sync::OnceLock;

// SAFETY: the two addresses bound memory that the pool mapped, page-aligned. It stays mapped while the stack is in use:
// the pool unmaps an arena only when all its stacks are free, and leaks it otherwise.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.bounds().start()).unwrap_or(StackPointer::MIN)
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.bounds().lowest()).unwrap_or(StackPointer::MIN)
    }
}

type Fiber = Coroutine<(), (), (), FiberStack>;

/// Largest closure that is stored on the stack. A larger one goes to the heap, so that writing it to a fresh stack can
/// never step over the guard.
const CLOSURE_ON_STACK_MAX: usize = 1024;

/// Machine words in a coroutine. One of them holds its saved stack pointer, which corosensei does not expose.
const WORDS: usize = if cfg!(feature = "asan") { 6 } else { 4 };
const _: () = assert!(
    size_of::<Option<Fiber>>() == WORDS * size_of::<usize>(),
    "corosensei's coroutine has changed its size: update saved_pointer, which looks into it"
);

/// Returns which word of a coroutine holds the saved stack pointer. It is found by experiment on a test coroutine: it
/// is the only word that the first suspension changes, and it then points into the coroutine's stack.
fn saved_pointer() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let stack = FiberStack::for_experiment()?;
        let bounds = stack.bounds();
        let mut coroutine = Some(Fiber::with_stack(stack, |yielder, ()| yielder.suspend(())));
        // SAFETY: reads the words of an initialized value; the assertion above checks how many there are.
        let words = |coroutine: &Option<Fiber>| unsafe {
            ptr::from_ref(coroutine).cast::<[usize; WORDS]>().read()
        };
        let before = words(&coroutine);
        coroutine.as_mut()?.resume(());
        let after = words(&coroutine);
        coroutine.as_mut()?.resume(());
        coroutine.map(Coroutine::into_stack)?.end_experiment();
        let mut changed = (0..WORDS).filter(|&word| before[word] != after[word]);
        let word = changed.next()?;
        let points_into_stack = (bounds.lowest()..bounds.start()).contains(&after[word]);
        (changed.next().is_none() && points_into_stack).then_some(word)
    })
}

/// The frames of the switch in backtraces: a part of its files' paths, and the beginning of its functions' names.
pub(crate) const FRAMES: (&str, &str) = ("/corosensei-", "corosensei::");

/// Reads the registers that the switch saved at `saved`.
///
/// # Safety
/// `saved` is the stack pointer of a suspended coroutine.
unsafe fn saved_registers(saved: usize) -> Registers {
    // Keep in step with corosensei's arch/: on x86-64 it pushes rbp, rbx and the resume address; on AArch64 it stores
    // x19, x29 and the resume address in 32 bytes. LAYOUT holds the word of the address, the word of the frame pointer,
    // and the number of words.
    #[cfg(target_arch = "x86_64")]
    const LAYOUT: (usize, usize, usize) = (0, 2, 3);
    #[cfg(target_arch = "aarch64")]
    const LAYOUT: (usize, usize, usize) = (2, 1, 4);
    let (instruction, frame, words) = LAYOUT;
    // SAFETY: the switch left these words there, as the caller promises.
    let word = |index: usize| unsafe { (saved as *const u64).add(index).read() };
    Registers {
        instruction: word(instruction),
        stack: (saved + words * size_of::<u64>()) as u64,
        frame: word(frame),
        link: 0,
        after_call: true,
    }
}

/// The machine state of one fiber, in its header.
pub(crate) struct Switch {
    /// Never dropped in place: dropping a coroutine that has started would unwind it.
    coroutine: UnsafeCell<ManuallyDrop<Option<Fiber>>>,
    /// Null until the fiber has started.
    yielder: Cell<*const Yielder<(), ()>>,
}

impl Switch {
    pub(crate) const fn empty() -> Self {
        Switch {
            coroutine: UnsafeCell::new(ManuallyDrop::new(None)),
            yielder: Cell::new(ptr::null()),
        }
    }

    /// Places `body` on `stack`; it starts at the first [`Switch::resume`].
    ///
    /// # Safety
    /// The switch is empty and does not move until the fiber ends, and neither a call of `body` nor its drop unwinds
    /// (corosensei would drop it a second time).
    #[inline]
    pub(crate) unsafe fn prepare<F: FnOnce() + 'static>(&self, stack: FiberStack, body: F) {
        self.yielder.set(ptr::null());
        let this: *const Switch = self;
        let coroutine = if mem::size_of::<F>() <= CLOSURE_ON_STACK_MAX {
            Fiber::with_stack(stack, move |yielder, ()| {
                // SAFETY: the header outlives its fiber, by the contract above.
                unsafe { (*this).yielder.set(yielder) };
                body();
            })
        } else {
            let body = Box::new(body);
            Fiber::with_stack(stack, move |yielder, ()| {
                // SAFETY: as above.
                unsafe { (*this).yielder.set(yielder) };
                body();
            })
        };
        // SAFETY: no other reference into the cell exists: `resume` is not running.
        unsafe { *self.coroutine.get() = ManuallyDrop::new(Some(coroutine)) };
    }

    /// Runs the fiber until it suspends or ends. Returns its stack if it ended.
    ///
    /// # Safety
    /// Called by the loop, outside any fiber, for a fiber that was prepared and has not ended.
    #[inline]
    pub(crate) unsafe fn resume(&self) -> Option<FiberStack> {
        // SAFETY: only one resume runs at a time and `suspend` does not touch the cell, so the reference is unique.
        let cell = unsafe { &mut *self.coroutine.get() };
        let coroutine = cell.as_mut()?;
        match coroutine.resume(()) {
            CoroutineResult::Yield(()) => None,
            CoroutineResult::Return(()) => cell.take().map(Coroutine::into_stack),
        }
    }

    /// Switches to the loop. Returns when the loop resumes the fiber.
    ///
    /// # Safety
    /// Called on this fiber's own stack, which the loop has resumed.
    #[inline(always)]
    pub(crate) unsafe fn suspend(&self) {
        // SAFETY: the yielder lives at the root of the fiber's stack as long as the fiber runs.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Returns where a suspended fiber will resume, and the part of its stack that is in use: from the frame that
    /// suspended it to the coroutine's own frame at the root. `None` if the saved stack pointer cannot be found.
    /// `bounds` are those of its stack.
    ///
    /// # Safety
    /// Called by the loop, for a fiber that has started, has not ended, and is not the running one.
    pub(crate) unsafe fn suspended(&self, bounds: StackBounds) -> Option<(Registers, usize)> {
        let index = saved_pointer()?;
        // SAFETY: the cell holds a coroutine that is not being resumed; all its words are initialized.
        let words = unsafe { self.coroutine.get().cast::<[usize; WORDS]>().read() };
        let saved = words[index];
        if !(bounds.limit_of_use()..bounds.start()).contains(&saved) {
            return None;
        }
        // SAFETY: the switch left its few words at `saved`, on a stack that does not change meanwhile.
        Some((
            unsafe { saved_registers(saved) },
            self.yielder.get() as usize,
        ))
    }

    /// Prefetches the first `lines` cache lines of the frames that a suspended fiber resumes with, and the root's line,
    /// where the switch stores the way back.
    ///
    /// # Safety
    /// Called by the loop, outside any fiber, for a fiber that was prepared and has not ended.
    #[inline]
    pub(crate) unsafe fn prefetch(&self, lines: usize) {
        prefetch(self.yielder.get());
        if let Some(index) = saved_pointer() {
            // SAFETY: no resume is running, and the cell holds a coroutine, whose words are initialized; `index` is one
            // of them.
            let saved = unsafe { self.coroutine.get().cast::<*const u8>().add(index).read() };
            for line in 0..lines {
                prefetch(saved.wrapping_add(line * CACHE_LINE));
            }
        }
    }

    /// Returns whether the fiber that was prepared last has run at all.
    pub(crate) fn started(&self) -> bool {
        !self.yielder.get().is_null()
    }

    /// Drops a fiber that never ran, with its closure. Returns its stack.
    ///
    /// # Safety
    /// Called by the loop for a fiber that was prepared and never resumed.
    pub(crate) unsafe fn discard(&self) -> Option<FiberStack> {
        // SAFETY: no resume is running.
        let mut coroutine = unsafe { (*self.coroutine.get()).take()? };
        debug_assert!(!coroutine.started());
        coroutine.force_unwind();
        Some(coroutine.into_stack())
    }

    /// Abandons a fiber that has started and will never run again. Its stack stays mapped forever.
    pub(crate) fn abandon(&self) {
        // SAFETY: no resume is running: the loop calls this between two fibers.
        std::mem::forget(unsafe { (*self.coroutine.get()).take() });
    }
}
