//! Fiber-locals: a value for each fiber, made when the fiber first asks for it and dropped when the fiber ends.
//!
//! ```text
//!   static ──▶ number (given at first use)      header.extra ──▶ locals: [ box | – | box | … ]
//!                 └──────────── index ─────────────────────────────┘
//! ```
//!
//! A value lies in a box of its own, so that the table may grow while a value is borrowed. Values are dropped on their
//! fiber's own stack, after its closure and before whoever joins it is told: their drops may do what a fiber may,
//! fiber-locals included.
//!
//! Invariants:
//! - Only the fiber itself reaches its table, and no reference into the *table* lives while code of the program's runs.
//! - A box in the table is dropped only by [`drop_all`], when the fiber's closure is over and so no borrow is left.

use crate::event_loop::try_with_loop;
use crate::fiber::{Extra, Header, guarded};
use std::any::Any;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fiber's values, by the numbers of their keys.
pub(crate) type Locals = Vec<Option<Box<dyn Any>>>;

/// How often the locals that other locals' drops made are dropped, before what is left waits for the fiber's header
/// to be freed. (POSIX's threads try as often as that, at least.)
const DROP_ROUNDS: usize = 4;

/// Keys in use; 0 is "no number yet".
static KEYS: AtomicUsize = AtomicUsize::new(1);

/// The key of a value that each fiber has its own of; made by [`fiber_local!`](crate::fiber_local).
///
/// ```
/// use std::cell::Cell;
/// use yue_scheduler::{Config, Loop, fiber_local, spawn};
///
/// fiber_local! {
///     /// How deep this fiber's recursion is.
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

/// Asked for a fiber-local outside a fiber.
///
/// ```
/// use yue_scheduler::{fiber_local, sync::NotInFiber};
///
/// fiber_local! { static NAME: String = String::new(); }
/// assert_eq!(NAME.try_with(|name| name.len()), Err(NotInFiber));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not in a fiber: only fibers have fiber-locals; use spawn, or thread_local!")]
pub struct NotInFiber;

impl<T: 'static> FiberLocal<T> {
    #[doc(hidden)]
    pub const fn new(make: fn() -> T) -> Self {
        FiberLocal {
            make,
            number: AtomicUsize::new(0),
        }
    }

    /// Hands the calling fiber's value to `f`, making it first if the fiber has none. `f` may suspend.
    ///
    /// # Panics
    /// Outside a fiber; if making the value, or `f`, does.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, fiber_local};
    ///
    /// fiber_local! { static WORDS: Vec<&'static str> = vec!["one", "two"]; }
    ///
    /// let count = Loop::new(Config::default()).unwrap().run(|| WORDS.with(|words| words.len()));
    /// assert_eq!(count, 2);
    /// ```
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        match self.try_with(f) {
            Ok(result) => result,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`FiberLocal::with`], but outside a fiber an error.
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
    /// [`NotInFiber`] outside a fiber.
    ///
    /// # Panics
    /// If making the value, or `f`, does.
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, NotInFiber> {
        let header = running().ok_or(NotInFiber)?;
        let number = self.number();
        let value = match find(header, number) {
            Some(value) => value,
            None => {
                // Before the table is looked at again: it may use fiber-locals itself, this one too.
                let made = Box::new((self.make)());
                insert(header, number, made)
            }
        };
        // SAFETY: the key's number is in nobody else's hands, so the box holds a `T`. It stays until the fiber's
        // closure is over; `f` is called from that closure, or from a drop in `drop_all`, which has taken what it drops
        // out of the table before.
        Ok(f(unsafe { &*value.cast::<T>() }))
    }

    fn number(&self) -> usize {
        // Relaxed: the number is all that matters, and a key gets one for good.
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
        // Of two threads that come first at once, one gives its number up: a gap in the tables, nothing more.
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

/// The running fiber's header.
fn running() -> Option<&'static Header> {
    let header = try_with_loop(|l| l.running())?;
    // SAFETY: the header outlives the fiber, whose stack the caller's frame is on; the `'static` stays in this module.
    unsafe { header.as_ref() }
}

/// Lends the fiber's table out of its header. `f` runs no code of the program's.
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
            // Making the value has made it already; the first one is in use, so it stays.
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

/// Drops the calling fiber's locals; called on its stack, when its closure is over. Does not unwind.
pub(crate) fn drop_all() {
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
/// [`FiberLocal`](crate::sync::FiberLocal), of which each fiber has its own value, made at first use and dropped when
/// the fiber ends. Fibers do not inherit them.
///
/// ```
/// use std::cell::RefCell;
/// use yue_scheduler::{Config, Loop, fiber_local};
///
/// fiber_local! {
///     /// What this fiber has seen.
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
