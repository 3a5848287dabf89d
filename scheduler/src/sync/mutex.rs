//! The mutex: a value, and a single permit to use it.
//!
//! Between threads only the permit makes the value `Sync`: only its holder creates references to the value, and the
//! exchange that takes the permit comes after the one that released it (see `policy.rs`). `tests/loom_sync.rs` checks
//! it.

use super::policy::{Policy, Shared, constructors};
use super::select::SourceBranch;
use super::semaphore::{Acquiring, Holder, RawSemaphore};
use crate::fiber::Stopped;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value that one fiber at a time may use, even across suspensions.
///
/// Fair: waiters get the lock in the order in which they came; it is handed over, so a faster fiber cannot grab it. Not
/// poisoned: a panic ends its own fiber, the guard's drop unlocks, and the next holder finds the value as it was left.
/// Code that must not expose half-made changes must make them in a way that it never does. Not re-entrant: a fiber that
/// locks twice waits for itself (until it is cancelled or past a deadline).
///
/// The type behind [`sync::Mutex`](crate::sync::Mutex) and [`sync::local::Mutex`](crate::sync::local::Mutex).
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::Mutex, yield_now};
/// use std::rc::Rc;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let account = Rc::new(Mutex::new(100));
///     let fibers: Vec<_> = (0..10).map(|_| {
///         let account = account.clone();
///         spawn(move || {
///             let mut balance = account.lock().unwrap();
///             let before = *balance;
///             yield_now().unwrap(); // no other fiber gets in here
///             *balance = before - 10;
///         })
///     }).collect();
///     fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
///     assert_eq!(*account.lock().unwrap(), 0);
/// });
/// ```
pub struct Mutex<P: Policy, T: ?Sized> {
    raw: RawSemaphore<P>,
    value: UnsafeCell<T>,
}

// SAFETY: only the holder of the permit, one thread at a time, creates references to the value; `&mut T` moves from
// thread to thread, so `T: Send`.
unsafe impl<T: ?Sized + Send> Sync for Mutex<Shared, T> {}

constructors! { impl[T] Mutex<P, T>,
    /// Creates an unlocked mutex.
    ///
    /// ```
    /// use yue_scheduler::sync::Mutex;
    ///
    /// static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    /// NAMES.lock().unwrap().push("Io".into());
    /// ```
    pub fn new(value: T) {
        Mutex { raw: <RawSemaphore<P>>::new(1), value: UnsafeCell::new(value) }
    }
}

impl<P: Policy, T: Default> Default for Mutex<P, T> {
    fn default() -> Self {
        Mutex {
            raw: RawSemaphore::with_permits(1),
            value: UnsafeCell::default(),
        }
    }
}

impl<P: Policy, T> Mutex<P, T> {
    /// Returns the value and consumes the mutex.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<P: Policy, T: ?Sized> Mutex<P, T> {
    /// Waits until the mutex is unlocked, and locks it.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes, before or during the wait. Clean-up that needs a
    /// lock runs in [`shield`](crate::shield).
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    ///
    /// ```
    /// use yue_scheduler::sync::Mutex;
    /// use std::{sync::Arc, thread};
    ///
    /// let count = Arc::new(Mutex::new(0)); // works between loops, and for plain threads
    /// let threads: Vec<_> = (0..4).map(|_| {
    ///     let count = count.clone();
    ///     thread::spawn(move || *count.lock().unwrap() += 1)
    /// }).collect();
    /// threads.into_iter().for_each(|thread| thread.join().unwrap());
    /// assert_eq!(*count.lock().unwrap(), 4);
    /// ```
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> Result<MutexGuard<'_, P, T>, Stopped> {
        self.raw.acquire(1)?;
        Ok(MutexGuard { mutex: self })
    }

    /// Locks the mutex if it is unlocked and nobody waits.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, P, T>> {
        self.raw.try_acquire(1).then(|| MutexGuard { mutex: self })
    }

    /// Returns [`Mutex::lock`] as a branch of [`select!`](crate::select).
    ///
    /// ```
    /// use yue_scheduler::{select, sync::Mutex};
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(1);
    /// let seen = select! {
    ///     guard = lock(mutex) => *guard,
    ///     _ = after(Duration::from_secs(10)) => 0,
    /// };
    /// assert_eq!(seen, Ok(1));
    /// ```
    pub fn lock_branch(&self) -> LockBranch<'_, P, T> {
        SourceBranch::new(self.raw.acquiring(self), 1)
    }

    /// Returns the value. No lock is needed, since the borrow is unique.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Locks uninterruptibly, for a condition variable that takes its lock again.
    #[track_caller]
    pub(super) fn lock_uninterruptibly(&self) -> MutexGuard<'_, P, T> {
        self.raw.acquire_uninterruptibly(1);
        MutexGuard { mutex: self }
    }
}

impl<P: Policy, T: ?Sized + fmt::Debug> fmt::Debug for Mutex<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mutex");
        match self.try_lock() {
            Some(guard) => out.field("value", &&*guard).finish(),
            None => out.finish_non_exhaustive(),
        }
    }
}

/// The guard of a [`Mutex`]; dropping it unlocks.
#[must_use = "dropping it unlocks at once"]
pub struct MutexGuard<'a, P: Policy, T: ?Sized> {
    mutex: &'a Mutex<P, T>,
}

impl<'a, P: Policy, T: ?Sized> MutexGuard<'a, P, T> {
    /// Returns the mutex that it locks.
    pub(super) fn mutex(&self) -> &'a Mutex<P, T> {
        self.mutex
    }
}

// SAFETY: a shared guard only allows `&T`. Without this it would be `Sync` whenever the mutex is, for which `T: Send`
// suffices. (`Send` is automatic: any thread may unlock.)
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, Shared, T> {}

impl<P: Policy, T: ?Sized> Deref for MutexGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the permit.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<P: Policy, T: ?Sized> DerefMut for MutexGuard<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the permit, and is borrowed uniquely.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<P: Policy, T: ?Sized> Drop for MutexGuard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.raw.release(1);
    }
}

impl<P: Policy, T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a, P: Policy, T: ?Sized> Holder for &'a Mutex<P, T> {
    type Guard = MutexGuard<'a, P, T>;

    fn hold(&self, _count: usize) -> MutexGuard<'a, P, T> {
        MutexGuard { mutex: self }
    }
}

/// Locking a mutex as a branch of a select; from [`Mutex::lock_branch`].
pub type LockBranch<'a, P, T> = SourceBranch<Acquiring<'a, P, &'a Mutex<P, T>>>;
