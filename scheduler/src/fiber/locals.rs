//! Fiber-locals: a separate value in each fiber, created when the fiber first uses it and dropped when the fiber ends.
//!
//! ```text
//!   static ──▶ number (set at first use)        header.extra ──▶ locals: [ box | – | box | … ]
//!                 └──────────── index ─────────────────────────────┘
//! ```
//!
//! Each value is boxed separately, so that the table may grow while a value is borrowed. Values are dropped on their
//! fiber's own stack, after its closure has ended and before its joiners are notified. Their drops may do what a fiber
//! may, including using fiber-locals.
//!
//! Invariants:
//! - Only the fiber itself reaches its table, and no reference into the *table* lives while the program's code runs.
//! - A box in the table is dropped only by [`drop_locals`], when the fiber's closure has ended and so no borrow is
//!   left.

use super::guarded::guarded;
use super::header::{Extra, Header, Locals};
use crate::event_loop::seam::try_with_loop;
use std::any::Any;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds in which locals created by the drops of other locals are dropped. What is left then waits for the fiber's
/// header to be freed. (POSIX requires at least as many of threads: `PTHREAD_DESTRUCTOR_ITERATIONS`.)
const DROP_ROUNDS: usize = 4;

/// Number of keys in use; 0 means "no number yet".
static KEYS: AtomicUsize = AtomicUsize::new(1);

/// The key of a value that each fiber has separately; declared with [`fiber_local!`](crate::fiber_local).
///
/// ```
/// use std::cell::Cell;
/// use yue_scheduler::{Config, Loop, fiber_local, spawn};
///
/// fiber_local! {
///     /// The depth of this fiber's recursion.
///     static DEPTH: Cell<u32> = Cell::new(0);
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     DEPTH.with(|depth| depth.set(5));
///     let other = spawn(|| DEPTH.with(Cell::get));
///     assert_eq!(other.join().unwrap(), 0);
///     assert_eq!(DEPTH.with(Cell::get), 5);
/// });
/// ```
pub struct FiberLocal<T: 'static> {
    make: fn() -> T,
    number: AtomicUsize,
}

/// The error of using a fiber-local outside a fiber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not in a fiber: only fibers have fiber-locals; call this inside `Runtime::run` or `Loop::run`, or use \
     thread_local!"
)]
pub struct NotInFiber;

impl<T: 'static> FiberLocal<T> {
    #[doc(hidden)]
    pub const fn new(make: fn() -> T) -> Self {
        FiberLocal {
            make,
            number: AtomicUsize::new(0),
        }
    }

    /// Passes the calling fiber's value to `f`, and creates it first if there is none. `f` may suspend.
    ///
    /// # Panics
    /// When called outside a fiber, or if creating the value, or `f`, panics.
    #[track_caller]
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        match self.try_with(f) {
            Ok(result) => result,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`FiberLocal::with`], but returns an error outside a fiber.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, fiber_local};
    ///
    /// fiber_local! { static LUCKY: u32 = 7; }
    ///
    /// assert!(LUCKY.try_with(|n| *n).is_err());
    /// let lucky = Loop::new(Config::default()).unwrap().run(|| LUCKY.try_with(|n| *n));
    /// assert_eq!(lucky, Ok(7));
    /// ```
    ///
    /// # Errors
    /// [`NotInFiber`] when called outside a fiber.
    ///
    /// # Panics
    /// If creating the value, or `f`, panics.
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, NotInFiber> {
        let header = running().ok_or(NotInFiber)?;
        let number = self.number();
        let value = match find(header, number) {
            Some(value) => value,
            None => {
                // Before the next look at the table, because it may use fiber-locals itself, including this one.
                let made = Box::new((self.make)());
                insert(header, number, made)
            }
        };
        // SAFETY: only this key has its number, so the box holds a `T`. It stays until the fiber's closure has ended.
        // `f` is called from that closure, or from a drop in `drop_locals`, which removes a value from the table before
        // dropping it.
        Ok(f(unsafe { &*value.cast::<T>() }))
    }

    fn number(&self) -> usize {
        // Relaxed: only the number matters, and a key keeps its number.
        let number = self.number.load(Ordering::Relaxed);
        if number == 0 {
            self.take_number()
        } else {
            number
        }
    }

    #[cold]
    fn take_number(&self) -> usize {
        let fresh = KEYS.fetch_add(1, Ordering::Relaxed);
        // Of two threads that do this at once, one discards its number, which only leaves a gap in the tables.
        match self
            .number
            .compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => fresh,
            Err(taken) => taken,
        }
    }
}

impl<T: 'static> fmt::Debug for FiberLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FiberLocal").finish_non_exhaustive()
    }
}

/// Returns the running fiber's header.
fn running() -> Option<&'static Header> {
    let header = try_with_loop(|l| l.running())?;
    // SAFETY: the header outlives the fiber, whose stack the caller's frame is on; the `'static` stays in this module.
    unsafe { header.as_ref() }
}

/// Lends the fiber's table out of its header. `f` runs none of the program's code.
fn with_table<R>(header: &Header, f: impl FnOnce(&mut Locals) -> R) -> R {
    let mut extra = header.extra.take();
    let result = f(&mut extra.get_or_insert_default().locals);
    header.extra.set(extra);
    result
}

fn find(header: &Header, number: usize) -> Option<*const dyn Any> {
    // SAFETY: the cell is not written while we look, which runs no other code.
    let extra: &Extra = unsafe { (*header.extra.as_ptr()).as_deref()? };
    let value = extra.locals.get(number)?.as_deref()?;
    Some(value)
}

fn insert(header: &Header, number: usize, made: Box<dyn Any>) -> *const dyn Any {
    let (value, surplus) = with_table(header, |table| {
        if table.len() <= number {
            table.resize_with(number + 1, || None);
        }
        let surplus = match &table[number] {
            // Creating the value has already created it; the first one is in use, so it stays.
            Some(_) => Some(made),
            None => {
                table[number] = Some(made);
                None
            }
        };
        let value: *const dyn Any = table[number].as_deref().expect("just put there");
        (value, surplus)
    });
    drop(surplus);
    value
}

/// Drops the calling fiber's locals. Called on its stack, when its closure has ended. Does not unwind.
pub(super) fn drop_locals() {
    let Some(header) = running() else {
        return;
    };
    for _ in 0..DROP_ROUNDS {
        // SAFETY: as in `find`.
        let none = unsafe {
            (*header.extra.as_ptr())
                .as_deref()
                .is_none_or(|extra| extra.locals.is_empty())
        };
        if none {
            return;
        }
        for value in with_table(header, mem::take).into_iter().flatten() {
            guarded("dropping a fiber-local", || drop(value));
        }
    }
}

/// Declares fiber-locals, as `std::thread_local!` does thread-locals: statics of the type
/// [`FiberLocal`](crate::sync::FiberLocal). Each fiber has a separate value, created at first use and dropped when the
/// fiber ends. Fibers do not inherit them.
///
/// ```
/// use std::cell::RefCell;
/// use yue_scheduler::{Config, Loop, fiber_local};
///
/// fiber_local! {
///     /// The numbers that this fiber has seen.
///     pub static SEEN: RefCell<Vec<u32>> = RefCell::default();
///     static LIMIT: usize = 10;
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     SEEN.with(|seen| seen.borrow_mut().push(1));
///     assert!(SEEN.with(|seen| seen.borrow().len()) < LIMIT.with(|limit| *limit));
/// });
/// ```
#[macro_export]
macro_rules! fiber_local {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $make:expr);+ $(;)?) => {
        $(
            $(#[$attribute])*
            $visibility static $name: $crate::sync::FiberLocal<$type> = $crate::sync::FiberLocal::new(|| $make);
        )+
    };
}
