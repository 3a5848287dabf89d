//! Once: a value that is created at first use, by a closure that may suspend.

use super::policy::{Policy, Shared, Word, constructors};
use super::semaphore::RawSemaphore;
use crate::fiber::Stopped;
use std::cell::UnsafeCell;
use std::fmt;

const EMPTY: usize = 0;
const FULL: usize = 1;

/// A cell for a value that is set once. The first fiber that needs the value creates it, and the others wait.
///
/// The closure that creates the value may suspend. If it fails, panics or is stopped, the cell stays empty and the next
/// waiter tries. A closure that requests the value of its own cell waits for itself.
///
/// The type behind [`sync::OnceCell`](crate::sync::OnceCell) and
/// [`sync::local::OnceCell`](crate::sync::local::OnceCell).
///
/// ```
/// use yue_scheduler::{Config, Loop, sleep, spawn, sync::OnceCell};
/// use std::time::Duration;
///
/// static SETTINGS: OnceCell<String> = OnceCell::new();
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fibers: Vec<_> = (0..3).map(|_| spawn(|| {
///         SETTINGS.get_or_init(|| {
///             sleep(Duration::from_millis(1)).unwrap(); // reads a file, say; once
///             "fast".into()
///         }).unwrap().len()
///     })).collect();
///     fibers.into_iter().for_each(|fiber| assert_eq!(fiber.join().unwrap(), 4));
/// });
/// ```
pub struct OnceCell<P: Policy, T> {
    state: P::Word,
    making: RawSemaphore<P>,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the holder of the permit of `making` writes the value while the state is EMPTY, and it is only read once the
// state is FULL. `&T` then goes to several threads, and the value may be dropped on another thread than its creator's.
unsafe impl<T: Send + Sync> Sync for OnceCell<Shared, T> {}

constructors! { impl[T] OnceCell<P, T>,
    /// Creates an empty cell.
    pub fn new() {
        OnceCell {
            state: <P as Policy>::Word::new(EMPTY),
            making: <RawSemaphore<P>>::new(1),
            value: UnsafeCell::new(None),
        }
    }
}

impl<P: Policy, T> OnceCell<P, T> {
    /// Returns the value, if it is set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if self.state.load() != FULL {
            return None;
        }
        // SAFETY: FULL is set after the value is written, and nobody writes after that; the load comes after the store.
        unsafe { (*self.value.get()).as_ref() }
    }

    /// Returns the value; `make` creates it if it is not set.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes, before it or while another fiber creates the
    /// value.
    ///
    /// # Panics
    /// If `make` panics, or if it must wait where suspension is forbidden.
    #[inline]
    #[track_caller]
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<&T, Stopped> {
        self.get_or_try_init(|| Ok(make()))
    }

    /// Like [`OnceCell::get_or_init`], but with a closure that may fail. The cell then stays empty.
    ///
    /// # Errors
    /// The error of `make`, or [`Stopped`] as from `get_or_init`.
    ///
    /// # Panics
    /// See [`OnceCell::get_or_init`].
    ///
    /// ```
    /// use std::io;
    ///
    /// let cell = yue_scheduler::sync::OnceCell::new();
    /// let failed: io::Result<&u8> = cell.get_or_try_init(|| Err(io::Error::other("not yet")));
    /// assert!(failed.is_err());
    /// let made: io::Result<&u8> = cell.get_or_try_init(|| Ok(1));
    /// assert_eq!(made.unwrap(), &1);
    /// ```
    #[inline]
    #[track_caller]
    pub fn get_or_try_init<E: From<Stopped>>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        match self.get() {
            Some(value) => Ok(value),
            None => self.make(make),
        }
    }

    #[cold]
    fn make<E: From<Stopped>>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        self.making.acquire(1)?;
        let _permit = ReleaseOnDrop(&self.making);
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let value = make()?;
        Ok(self.fill(value))
    }

    /// Stores the value in the empty cell. The caller holds the permit.
    fn fill(&self, value: T) -> &T {
        // SAFETY: the state is EMPTY and the caller holds the permit, so nobody reads or writes the value. From
        // `insert` on the reference is a shared one; others create theirs once the state is FULL.
        let value: &T = unsafe { (*self.value.get()).insert(value) };
        self.state.store(FULL);
        value
    }

    /// Sets the value, if it is not set and nobody is creating it.
    ///
    /// # Errors
    /// With the value, if it was not set.
    ///
    /// ```
    /// let cell = yue_scheduler::sync::OnceCell::new();
    /// assert_eq!(cell.set("first"), Ok(()));
    /// assert_eq!(cell.set("second"), Err("second"));
    /// ```
    pub fn set(&self, value: T) -> Result<(), T> {
        if !self.making.try_acquire(1) {
            return Err(value);
        }
        let _permit = ReleaseOnDrop(&self.making);
        if self.get().is_some() {
            return Err(value);
        }
        self.fill(value);
        Ok(())
    }

    /// Returns the value, if it is set, and consumes the cell.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }
}

impl<P: Policy, T> Default for OnceCell<P, T> {
    fn default() -> Self {
        OnceCell {
            state: P::Word::new_word(EMPTY),
            making: RawSemaphore::with_permits(1),
            value: UnsafeCell::new(None),
        }
    }
}

impl<P: Policy> Default for Once<P> {
    fn default() -> Self {
        Once {
            cell: OnceCell::default(),
        }
    }
}

struct ReleaseOnDrop<'a, P: Policy>(&'a RawSemaphore<P>);

impl<P: Policy> Drop for ReleaseOnDrop<'_, P> {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl<P: Policy, T: fmt::Debug> fmt::Debug for OnceCell<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceCell").field(&self.get()).finish()
    }
}

/// An action that runs once, on the first call. Other callers wait until it has run.
///
/// The type behind [`sync::Once`](crate::sync::Once) and [`sync::local::Once`](crate::sync::local::Once).
///
/// ```
/// use yue_scheduler::sync::Once;
///
/// static SET_UP: Once = Once::new();
/// SET_UP.call_once(|| println!("only now")).unwrap();
/// SET_UP.call_once(|| unreachable!()).unwrap();
/// assert!(SET_UP.is_done());
/// ```
#[derive(Debug)]
pub struct Once<P: Policy> {
    cell: OnceCell<P, ()>,
}

constructors! { impl[] Once<P>,
    /// Creates a `Once` whose action has not run.
    pub fn new() {
        Once { cell: <OnceCell<P, ()>>::new() }
    }
}

impl<P: Policy> Once<P> {
    /// Calls `f`, or waits until the first caller has done so. If that call panics, the next waiter calls its own.
    ///
    /// # Errors
    /// See [`OnceCell::get_or_init`].
    ///
    /// # Panics
    /// See [`OnceCell::get_or_init`].
    #[inline]
    #[track_caller]
    pub fn call_once(&self, f: impl FnOnce()) -> Result<(), Stopped> {
        self.cell.get_or_init(f).copied()
    }

    /// Returns whether the action has run.
    pub fn is_done(&self) -> bool {
        self.cell.get().is_some()
    }
}
