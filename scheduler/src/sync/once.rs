//! Once: a value that is made at first use, by a closure that may suspend.

use super::policy::{Policy, Shared, Word, constructors};
use super::semaphore::RawSemaphore;
use crate::fiber::Stopped;
use std::cell::UnsafeCell;
use std::fmt;

const EMPTY: usize = 0;
const FULL: usize = 1;

/// A place for a value that is set once; whoever needs it first makes it, and the others wait.
///
/// The closure that makes the value may suspend. If it fails, panics or is told to stop, the cell stays empty and the
/// next one that waits tries. A closure that asks for the value of its own cell waits for itself.
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

// SAFETY: the value is written by who has the permit of `making` while the state is EMPTY, and only read once it is
// FULL; `&T` then goes to several threads, and the value may be dropped on another than the one that made it.
unsafe impl<T: Send + Sync> Sync for OnceCell<Shared, T> {}

constructors! { impl[T] OnceCell<P, T>,
    /// An empty cell.
    pub fn new() {
        OnceCell {
            state: <P as Policy>::Word::new(EMPTY),
            making: <RawSemaphore<P>>::new(1),
            value: UnsafeCell::new(None),
        }
    }
}

impl<P: Policy, T> OnceCell<P, T> {
    /// The value, if there is one.
    ///
    /// ```
    /// let cell = yue_scheduler::sync::OnceCell::new();
    /// assert_eq!(cell.get(), None);
    /// cell.set(1).unwrap();
    /// assert_eq!(cell.get(), Some(&1));
    /// ```
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if self.state.load() != FULL {
            return None;
        }
        // SAFETY: FULL is set after the value is written, and nobody writes after that; the load comes after the store.
        unsafe { (*self.value.get()).as_ref() }
    }

    /// The value; `make` makes it if there is none.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is told to stop while another one makes the value, or had been before.
    ///
    /// # Panics
    /// As `make` does; if it must wait where suspension is forbidden.
    ///
    /// ```
    /// let cell = yue_scheduler::sync::OnceCell::new();
    /// assert_eq!(cell.get_or_init(|| 1), Ok(&1));
    /// assert_eq!(cell.get_or_init(|| 2), Ok(&1));
    /// ```
    #[inline]
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<&T, Stopped> {
        self.get_or_try_init(|| Ok(make()))
    }

    /// As [`OnceCell::get_or_init`], with a closure that may fail; the cell stays empty then.
    ///
    /// # Errors
    /// What `make` gives, or [`Stopped`] as `get_or_init` does.
    ///
    /// # Panics
    /// As [`OnceCell::get_or_init`].
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
        let _permit = GiveBack(&self.making);
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let value = make()?;
        Ok(self.fill(value))
    }

    /// Puts the value into the empty cell. The caller has the permit.
    fn fill(&self, value: T) -> &T {
        // SAFETY: the state is EMPTY and the caller has the permit, so nobody reads or writes the value. From `insert`
        // on the reference is a shared one: others make their own once the state is FULL.
        let value: &T = unsafe { (*self.value.get()).insert(value) };
        self.state.store(FULL);
        value
    }

    /// Sets the value, if there is none and nobody is making one.
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
        let _permit = GiveBack(&self.making);
        if self.get().is_some() {
            return Err(value);
        }
        self.fill(value);
        Ok(())
    }

    /// The value, for good.
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

struct GiveBack<'a, P: Policy>(&'a RawSemaphore<P>);

impl<P: Policy> Drop for GiveBack<'_, P> {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl<P: Policy, T: fmt::Debug> fmt::Debug for OnceCell<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceCell").field(&self.get()).finish()
    }
}

/// Something that is done once, by whoever comes first; the others wait until it is done.
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
    /// Nothing is done yet.
    pub fn new() {
        Once { cell: <OnceCell<P, ()>>::new() }
    }
}

impl<P: Policy> Once<P> {
    /// Calls `f`, or waits until whoever came first has done so. If its call panics, the next one calls.
    ///
    /// # Errors
    /// As [`OnceCell::get_or_init`].
    ///
    /// # Panics
    /// As [`OnceCell::get_or_init`].
    #[inline]
    pub fn call_once(&self, f: impl FnOnce()) -> Result<(), Stopped> {
        self.cell.get_or_init(f).copied()
    }

    /// Whether it has been done.
    pub fn is_done(&self) -> bool {
        self.cell.get().is_some()
    }
}
