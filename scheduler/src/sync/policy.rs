//! The two lock policies, which determine who may touch a primitive's state and what that costs.
//!
//! Every primitive is written once, over a [`Policy`]. [`Local`] is for the fibers of one thread. Its lock does nothing
//! (the code under it cannot suspend, and runs none of the program's code, so nothing can run in between), and its
//! words are plain cells. [`Shared`] is for fibers of any loops and for plain threads.
//!
//! # Why a std mutex
//!
//! The lock is held for some ten instructions, never over a suspension, and never while the program's code runs (no
//! drop, no clone, no comparison of its values). Uncontended it costs two locked instructions, as any lock does. A spin
//! lock would then save nothing, and would burn a scheduler's time slice when its holder has been preempted. Operations
//! that must cost less bypass it: permits (and so mutexes and read-write locks) are taken and released by one exchange
//! of a word while nobody waits.

use crate::atomic::{Arc, AtomicUsize, Mutex, Ordering};
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::rc::Rc;

/// The lock policy of a primitive: for one thread's fibers ([`Local`]) or for all threads ([`Shared`]). Sealed.
///
/// ```
/// use yue_scheduler::sync::{Local, Policy, Shared, generic};
///
/// fn take<P: Policy>(seats: &generic::Semaphore<P>) -> usize {
///     seats.acquire(1).unwrap().forget();
///     seats.available()
/// }
///
/// assert_eq!(take(&generic::Semaphore::<Shared>::new(3)), 2);
/// yue_scheduler::Loop::new(yue_scheduler::Config::default()).unwrap().run(|| {
///     assert_eq!(take(&generic::Semaphore::<Local>::new(3)), 2);
/// });
/// ```
pub trait Policy: sealed::Sealed + Sized + fmt::Debug + 'static {
    #[doc(hidden)]
    type Lock<T>: Lock<T>;
    #[doc(hidden)]
    type Word: Word;
    #[doc(hidden)]
    type Ref<T>: Deref<Target = T> + Clone;
    #[doc(hidden)]
    const BETWEEN_THREADS: bool;
    #[doc(hidden)]
    fn share<T>(value: T) -> Self::Ref<T>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Local {}
    impl Sealed for super::Shared {}
}

/// The policy for the fibers of one thread: no atomics, `!Send`.
#[derive(Debug)]
pub struct Local(());

/// The policy for fibers of any loops, and for plain threads, which block.
#[derive(Debug)]
pub struct Shared(());

impl Policy for Local {
    type Lock<T> = LocalLock<T>;
    type Word = LocalWord;
    type Ref<T> = Rc<T>;
    const BETWEEN_THREADS: bool = false;

    fn share<T>(value: T) -> Rc<T> {
        Rc::new(value)
    }
}

impl Policy for Shared {
    type Lock<T> = SharedLock<T>;
    type Word = SharedWord;
    type Ref<T> = Arc<T>;
    const BETWEEN_THREADS: bool = true;

    fn share<T>(value: T) -> Arc<T> {
        Arc::new(value)
    }
}

/// Gives one user at a time access to the state of a primitive.
pub trait Lock<T> {
    fn new_lock(value: T) -> Self;

    /// Runs `f` on the state. `f` must not suspend, must not use this lock, and must not run the program's code.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// A lock that does nothing: since its users are on one thread, only one is inside.
pub struct LocalLock<T> {
    value: UnsafeCell<T>,
    #[cfg(debug_assertions)]
    inside: Cell<bool>,
    _this_thread: PhantomData<*const ()>,
}

impl<T> LocalLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        LocalLock {
            value: UnsafeCell::new(value),
            #[cfg(debug_assertions)]
            inside: Cell::new(false),
            _this_thread: PhantomData,
        }
    }
}

impl<T> Lock<T> for LocalLock<T> {
    fn new_lock(value: T) -> Self {
        LocalLock::new(value)
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(debug_assertions)]
        assert!(
            !self.inside.replace(true),
            "a primitive's state is used while it is locked"
        );
        // SAFETY: the type is `!Sync`, and `f` neither suspends nor uses this lock again (the contract of `with`, which
        // the assertion above checks in debug builds, in every test of this module), so no other reference exists.
        let result = f(unsafe { &mut *self.value.get() });
        #[cfg(debug_assertions)]
        self.inside.set(false);
        result
    }
}

/// A mutex that is held only for a few instructions.
pub struct SharedLock<T>(Mutex<T>);

impl<T> SharedLock<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: T) -> Self {
        SharedLock(Mutex::new(value))
    }

    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        SharedLock(Mutex::new(value))
    }
}

impl<T> Lock<T> for SharedLock<T> {
    fn new_lock(value: T) -> Self {
        SharedLock::new(value)
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // None of the program's code runs inside, so even a poisoned lock holds a consistent value.
        let mut guard = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        f(&mut guard)
    }
}

/// A number that is changed without the lock.
pub trait Word {
    fn new_word(value: usize) -> Self;

    fn load(&self) -> usize;

    /// Sets the word to `new` if it is `old`. A successful exchange comes after the one that wrote `old`.
    fn exchange(&self, old: usize, new: usize) -> bool;

    fn store(&self, value: usize);
}

/// A word used by one thread.
pub struct LocalWord(Cell<usize>);

impl LocalWord {
    pub(crate) const fn new(value: usize) -> Self {
        LocalWord(Cell::new(value))
    }
}

impl Word for LocalWord {
    fn new_word(value: usize) -> Self {
        LocalWord::new(value)
    }

    #[inline(always)]
    fn load(&self) -> usize {
        self.0.get()
    }

    #[inline(always)]
    fn exchange(&self, old: usize, new: usize) -> bool {
        let same = self.0.get() == old;
        if same {
            self.0.set(new);
        }
        same
    }

    #[inline(always)]
    fn store(&self, value: usize) {
        self.0.set(value);
    }
}

/// A word shared by all threads.
pub struct SharedWord(AtomicUsize);

impl SharedWord {
    #[cfg(not(loom))]
    pub(crate) const fn new(value: usize) -> Self {
        SharedWord(AtomicUsize::new(value))
    }

    #[cfg(loom)]
    pub(crate) fn new(value: usize) -> Self {
        SharedWord(AtomicUsize::new(value))
    }
}

impl Word for SharedWord {
    fn new_word(value: usize) -> Self {
        SharedWord::new(value)
    }

    #[inline]
    fn load(&self) -> usize {
        // Acquire: pairs with the Release of `store` and of the exchange; a cell that is found full is seen full.
        self.0.load(Ordering::Acquire)
    }

    #[inline]
    fn exchange(&self, old: usize, new: usize) -> bool {
        // Acquire: a thread that takes a permit sees what was done under it before. Release: releasing a permit
        // publishes that.
        self.0
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    fn store(&self, value: usize) {
        // Release: as in `exchange`.
        self.0.store(value, Ordering::Release);
    }
}

/// Defines constructors for both policies, `const` (except under loom, whose primitives register at run time), so that
/// statics can be made of them. Inside, `P` is the policy.
macro_rules! constructors {
    ($($body:tt)*) => {
        $crate::sync::policy::constructors_of!(Local, $($body)*);
        $crate::sync::policy::constructors_of!(Shared, $($body)*);
    };
}

macro_rules! constructors_of {
    ($policy:ident, impl[$($generics:tt)*] $type:ty, $(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $argument_type:ty),*) $body:block
    )+) => {
        const _: () = {
            #[allow(unused_imports, reason = "not every constructor makes a lock or a word")]
            use $crate::sync::policy::{$policy as P, Policy};
            impl<$($generics)*> $type {
                $(
                    $(#[$attribute])*
                    #[cfg(not(loom))]
                    $visibility const fn $name($($argument: $argument_type),*) -> Self $body

                    $(#[$attribute])*
                    #[cfg(loom)]
                    $visibility fn $name($($argument: $argument_type),*) -> Self $body
                )+
            }
        };
    };
}

pub(crate) use {constructors, constructors_of};
