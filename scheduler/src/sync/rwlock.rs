//! The read-write lock: a value, and as many permits as there can be readers. A writer takes them all.

use super::policy::{Policy, Shared, constructors};
use super::semaphore::{PERMITS_MAX, RawSemaphore};
use crate::fiber::Stopped;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// All permits, which a writer takes.
const ALL: usize = PERMITS_MAX;

/// A value that many fibers may read, or one may change.
///
/// Fair: fibers are served in the order in which they came. So readers that come while a writer waits queue behind it,
/// and no writer starves. A fiber that holds a read guard must not wait for a second one. Not poisoned, like
/// [`Mutex`](super::Mutex).
///
/// The type behind [`sync::RwLock`](crate::sync::RwLock) and [`sync::local::RwLock`](crate::sync::local::RwLock).
///
/// ```
/// use yue_scheduler::sync::RwLock;
///
/// let prices = RwLock::new(vec![1, 2]);
/// {
///     let (one, two) = (prices.read().unwrap(), prices.read().unwrap());
///     assert_eq!(one[0] + two[1], 3);
///     assert!(prices.try_write().is_none());
/// }
/// prices.write().unwrap().push(3);
/// assert_eq!(prices.into_inner(), [1, 2, 3]);
/// ```
pub struct RwLock<P: Policy, T: ?Sized> {
    raw: RawSemaphore<P>,
    value: UnsafeCell<T>,
}

// SAFETY: a reader's `&T` goes to several threads at once (`T: Sync`); only a writer that holds all permits creates a
// `&mut T`, one thread at a time (`T: Send`).
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<Shared, T> {}

constructors! { impl[T] RwLock<P, T>,
    /// Creates an unlocked read-write lock.
    pub fn new(value: T) {
        RwLock { raw: <RawSemaphore<P>>::new(ALL), value: UnsafeCell::new(value) }
    }
}

impl<P: Policy, T: Default> Default for RwLock<P, T> {
    fn default() -> Self {
        RwLock {
            raw: RawSemaphore::with_permits(ALL),
            value: UnsafeCell::default(),
        }
    }
}

impl<P: Policy, T> RwLock<P, T> {
    /// Returns the value and consumes the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<P: Policy, T: ?Sized> RwLock<P, T> {
    /// Waits until no fiber writes and no earlier writer waits, then locks for reading.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes, before or during the wait.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> Result<ReadGuard<'_, P, T>, Stopped> {
        self.raw.acquire(1)?;
        Ok(ReadGuard { lock: self })
    }

    /// Waits until no fiber reads or writes, then locks for writing.
    ///
    /// # Errors
    /// See [`RwLock::read`].
    ///
    /// # Panics
    /// See [`RwLock::read`].
    #[inline]
    #[track_caller]
    pub fn write(&self) -> Result<WriteGuard<'_, P, T>, Stopped> {
        self.raw.acquire(ALL)?;
        Ok(WriteGuard { lock: self })
    }

    /// Locks for reading if no fiber writes or waits.
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_, P, T>> {
        self.raw.try_acquire(1).then(|| ReadGuard { lock: self })
    }

    /// Locks for writing if no fiber reads, writes or waits.
    #[inline]
    pub fn try_write(&self) -> Option<WriteGuard<'_, P, T>> {
        self.raw.try_acquire(ALL).then(|| WriteGuard { lock: self })
    }

    /// Returns the value. No lock is needed, since the borrow is unique.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<P: Policy, T: ?Sized + fmt::Debug> fmt::Debug for RwLock<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RwLock");
        match self.try_read() {
            Some(guard) => out.field("value", &&*guard).finish(),
            None => out.finish_non_exhaustive(),
        }
    }
}

/// A reader's guard of a [`RwLock`]; dropping it unlocks.
#[must_use = "dropping it unlocks at once"]
pub struct ReadGuard<'a, P: Policy, T: ?Sized> {
    lock: &'a RwLock<P, T>,
}

impl<P: Policy, T: ?Sized> Deref for ReadGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while we hold one permit, no writer has all of them.
        unsafe { &*self.lock.value.get() }
    }
}

impl<P: Policy, T: ?Sized> Drop for ReadGuard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.release(1);
    }
}

impl<P: Policy, T: ?Sized + fmt::Debug> fmt::Debug for ReadGuard<'_, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The writer's guard of a [`RwLock`]; dropping it unlocks.
#[must_use = "dropping it unlocks at once"]
pub struct WriteGuard<'a, P: Policy, T: ?Sized> {
    lock: &'a RwLock<P, T>,
}

impl<'a, P: Policy, T: ?Sized> WriteGuard<'a, P, T> {
    /// Turns the guard into a reader's. No writer gets in between.
    ///
    /// ```
    /// let lock = yue_scheduler::sync::RwLock::new(1);
    /// let mut writer = lock.write().unwrap();
    /// *writer += 1;
    /// let reader = writer.downgrade();
    /// assert_eq!((*reader, *lock.read().unwrap()), (2, 2));
    /// ```
    pub fn downgrade(self) -> ReadGuard<'a, P, T> {
        let lock = self.lock;
        std::mem::forget(self);
        lock.raw.release(ALL - 1);
        ReadGuard { lock }
    }
}

impl<P: Policy, T: ?Sized> Deref for WriteGuard<'_, P, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds all permits.
        unsafe { &*self.lock.value.get() }
    }
}

impl<P: Policy, T: ?Sized> DerefMut for WriteGuard<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds all permits, and is borrowed uniquely.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<P: Policy, T: ?Sized> Drop for WriteGuard<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.release(ALL);
    }
}

impl<P: Policy, T: ?Sized + fmt::Debug> fmt::Debug for WriteGuard<'_, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
