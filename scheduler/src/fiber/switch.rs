//! The switch between the loop and a fiber: the one file that knows corosensei.
//!
//! ```text
//!    loop's stack                    fiber's stack
//!    tick
//!     └─ resume ── switch ────────▶  root ─ f() ─ … ─ park
//!        returns ◀──────── switch ──────────────────── suspend
//! ```
//!
//! Switches are asymmetric: the loop resumes a fiber, the fiber suspends to the loop. A fiber never resumes another;
//! that keeps wakers out of each other's stacks, and costs 3 ns for the pair.
//!
//! Invariants:
//! - A fiber is resumed and suspended on one thread only, that of its loop.
//! - [`Switch::suspend`] is called on the fiber's own stack, and by the fiber that the loop resumed last.
//! - Nothing unwinds out of a fiber: its root catches the panic. A fiber that has started is never unwound from
//!   outside and its stack never freed; an abandoned one is leaked.

use crate::inspect::Registers;
use crate::prefetch::prefetch;
use crate::stack::{CACHE_LINE, FiberStack, StackBounds};
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, UnsafeCell};
use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::sync::OnceLock;

// SAFETY: the two addresses bound memory that the pool mapped, page-aligned, and that stays mapped while the stack is
// out: the pool's arenas are unmapped only with all stacks in, and are leaked otherwise.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.bounds().start()).unwrap_or(StackPointer::MIN)
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.bounds().lowest()).unwrap_or(StackPointer::MIN)
    }
}

type Fiber = Coroutine<(), (), (), FiberStack>;

/// A larger closure goes to the heap, so that writing it to a fresh stack can never step over the guard.
const CLOSURE_ON_STACK_MAX: usize = 1024;

/// The words of a coroutine. One of them is where its stack pointer is saved, which corosensei does not give away.
const WORDS: usize = if cfg!(feature = "asan") { 6 } else { 4 };
const _: () = assert!(
    size_of::<Option<Fiber>>() == WORDS * size_of::<usize>(),
    "corosensei's coroutine has another shape: saved_pointer looks into it"
);

/// Which word of a coroutine the saved stack pointer is: found by experiment, with a coroutine made for that. It is
/// the one word that the first suspension changes, and it then points into the coroutine's stack.
fn saved_pointer() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let stack = FiberStack::for_experiment()?;
        let bounds = stack.bounds();
        let mut coroutine = Some(Fiber::with_stack(stack, |yielder, ()| yielder.suspend(())));
        // SAFETY: reads the words of an initialized value; the assertion above says how many they are.
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

/// How backtraces name the switch: a part of its files' paths, and the beginning of its functions' names.
pub(crate) const FRAMES: (&str, &str) = ("/corosensei-", "corosensei::");

/// What the switch saved at `saved`.
///
/// # Safety
/// `saved` is the stack pointer of a suspended coroutine.
unsafe fn saved_registers(saved: usize) -> Registers {
    // Keep in step with corosensei's arch/: on x86-64 it pushes rbp, rbx and the address to go on at; on AArch64 it
    // stores x19, x29 and the address in 32 bytes. Here: the words of the address and of the frame pointer, and all.
    #[cfg(target_arch = "x86_64")]
    const LAYOUT: (usize, usize, usize) = (0, 2, 3);
    #[cfg(target_arch = "aarch64")]
    const LAYOUT: (usize, usize, usize) = (2, 1, 4);
    let (instruction, frame, words) = LAYOUT;
    // SAFETY: the switch left these words there, by the caller's promise.
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
    /// Never dropped where it is: the drop of a coroutine that has started would unwind it.
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

    /// Puts `body` on `stack`, to start at the first [`Switch::resume`].
    ///
    /// # Safety
    /// The switch is empty, stays at its address until the fiber is over, and neither a call of `body` nor its drop
    /// unwinds (corosensei would drop it a second time).
    #[inline]
    pub(crate) unsafe fn prepare<F: FnOnce() + 'static>(&self, stack: FiberStack, body: F) {
        self.yielder.set(ptr::null());
        let place: *const Switch = self;
        let coroutine = if mem::size_of::<F>() <= CLOSURE_ON_STACK_MAX {
            Fiber::with_stack(stack, move |yielder, ()| {
                // SAFETY: the header outlives its fiber, by the contract above.
                unsafe { (*place).yielder.set(yielder) };
                body();
            })
        } else {
            let body = Box::new(body);
            Fiber::with_stack(stack, move |yielder, ()| {
                // SAFETY: as above.
                unsafe { (*place).yielder.set(yielder) };
                body();
            })
        };
        // SAFETY: nobody else holds a reference into the cell: `resume` is not running.
        unsafe { *self.coroutine.get() = ManuallyDrop::new(Some(coroutine)) };
    }

    /// Runs the fiber until it suspends or ends; gives its stack back when it ended.
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

    /// Goes back to the loop; returns when the loop resumes the fiber.
    ///
    /// # Safety
    /// Called on this fiber's own stack, which the loop has resumed.
    #[inline(always)]
    pub(crate) unsafe fn suspend(&self) {
        // SAFETY: the yielder lives at the root of the fiber's stack for as long as the fiber runs.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Where a fiber that has started and does not run goes on, and the part of its stack that is in use: from the
    /// frame that suspended it to the coroutine's own at the root. `None` where we do not know how to find it. `bounds`
    /// are those of its stack.
    ///
    /// # Safety
    /// Called by the loop, for a fiber that has started, has not ended, and is not the one that runs.
    pub(crate) unsafe fn suspended(&self, bounds: StackBounds) -> Option<(Registers, usize)> {
        let place = saved_pointer()?;
        // SAFETY: the cell holds a coroutine that is not being resumed; its words are all initialized.
        let words = unsafe { self.coroutine.get().cast::<[usize; WORDS]>().read() };
        let saved = words[place];
        if !(bounds.limit_of_use()..bounds.start()).contains(&saved) {
            return None;
        }
        // SAFETY: `saved` is where the switch left its few words, on a stack that stays as it is while we are here.
        Some((
            unsafe { saved_registers(saved) },
            self.yielder.get() as usize,
        ))
    }

    /// Fetches the first `lines` cache lines of the frames that a suspended fiber goes on with, and the root's, where
    /// the switch leaves the way back.
    ///
    /// # Safety
    /// Called by the loop, outside any fiber, for a fiber that was prepared and has not ended.
    #[inline]
    pub(crate) unsafe fn prefetch(&self, lines: usize) {
        prefetch(self.yielder.get());
        if let Some(place) = saved_pointer() {
            // SAFETY: no resume is running, and there is a coroutine; its words are initialized, and `place` is one.
            let saved = unsafe { self.coroutine.get().cast::<*const u8>().add(place).read() };
            for line in 0..lines {
                prefetch(saved.wrapping_add(line * CACHE_LINE));
            }
        }
    }

    /// Whether the fiber that was prepared last has run at all.
    pub(crate) fn started(&self) -> bool {
        !self.yielder.get().is_null()
    }

    /// Drops a fiber that never ran, with its closure; gives its stack back.
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

    /// Forgets a fiber that has started and will never run again. Its stack stays mapped for ever.
    pub(crate) fn abandon(&self) {
        // SAFETY: no resume is running: the loop calls this between two fibers.
        std::mem::forget(unsafe { (*self.coroutine.get()).take() });
    }
}
