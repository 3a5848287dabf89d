//! The result of a fiber, and waiting for it.

use super::cancel::cancel_on;
use super::park::{LocalWaker, park, park_uninterruptible, prepare_park};
use super::root::{drop_payload, guarded, panic_text};
use super::{FiberId, Stopped};
use crate::event_loop::{registry, wake_at_end_of, with_loop};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem;
use std::rc::Rc;

/// Why a join gave no result.
///
/// ```
/// use yue_scheduler::{Config, JoinError, Loop, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| "forty-two".parse::<i32>().unwrap());
///     let error = fiber.join().unwrap_err();
///     assert!(matches!(error, JoinError::Panicked(_)));
///     assert!(error.to_string().starts_with("the fiber panicked: "));
/// });
/// ```
#[derive(thiserror::Error)]
pub enum JoinError {
    /// The fiber panicked; this is the payload.
    #[error("the fiber panicked: {}", panic_text(&**.0))]
    Panicked(Box<dyn Any + Send>),
    /// The *waiting* fiber was told to stop. The other one goes on.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The fiber, or its whole loop, was given up at shutdown before it was done.
    #[error("the fiber's loop ended before the fiber did")]
    LoopGone,
}

impl From<JoinError> for io::Error {
    /// For programs whose errors are all of I/O: a stop as [`Stopped`] itself says, a panic as its words.
    fn from(error: JoinError) -> io::Error {
        match error {
            JoinError::Stopped(stopped) => stopped.into(),
            other => io::Error::other(other.to_string()),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

pub(super) struct JoinCell<T> {
    fiber: FiberId,
    result: RefCell<Option<Result<T, JoinError>>>,
    waiter: Cell<Option<LocalWaker>>,
    done: Cell<bool>,
    detached: Cell<bool>,
}

impl<T> JoinCell<T> {
    pub(super) fn new(fiber: FiberId) -> Self {
        JoinCell {
            fiber,
            result: RefCell::new(None),
            waiter: Cell::new(None),
            done: Cell::new(false),
            detached: Cell::new(false),
        }
    }

    fn finish(&self) {
        self.done.set(true);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }
}

/// The fiber's side of the cell. Dropped without a result (a fiber that never ran), it tells the waiter so.
pub(super) struct Completion<T>(pub(super) Rc<JoinCell<T>>);

impl<T> Completion<T> {
    /// Called on the fiber's stack, when its closure is over. Does not unwind.
    #[inline]
    pub(super) fn complete(&self, result: Result<T, Box<dyn Any + Send>>) {
        let cell = &*self.0;
        if let Err(payload) = &result {
            note_panic(cell.fiber, cell.detached.get(), &**payload);
        }
        if !cell.detached.get() {
            *cell.result.borrow_mut() = Some(result.map_err(JoinError::Panicked));
            return cell.finish();
        }
        // Nobody will ask.
        match result {
            Ok(result) if mem::needs_drop::<T>() => {
                guarded("dropping a fiber's result", || drop(result));
            }
            Ok(_) => {}
            Err(payload) => drop_payload(payload),
        }
        cell.done.set(true);
    }
}

/// Counts the panic that ended a fiber; tells the loop's hook of one that nobody will learn of from a join.
#[cold]
pub(crate) fn note_panic(fiber: FiberId, detached: bool, payload: &(dyn Any + Send)) {
    with_loop(|l| {
        l.count_panic();
        if detached && let Some(hook) = l.panic_hook() {
            guarded("the panic hook", || hook(fiber, panic_text(payload)));
        }
    });
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if !self.0.done.get() {
            self.0.finish();
        }
    }
}

/// Waits for a fiber of this loop, or cancels it. Dropping it lets the fiber go on by itself.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, sleep, spawn};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let sum = spawn(|| (1..=10).sum::<i32>());
///     let sleeper = spawn(|| sleep(Duration::from_secs(3600)));
///     assert_eq!(sum.join().unwrap(), 55);
///     assert!(!sleeper.is_done());
///     sleeper.cancel();
///     assert_eq!(sleeper.join().unwrap(), Err(Stopped::Cancelled));
/// });
/// ```
#[must_use = "dropping a handle detaches its fiber; say so with drop(handle)"]
pub struct JoinHandle<T> {
    cell: Rc<JoinCell<T>>,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(cell: Rc<JoinCell<T>>) -> Self {
        JoinHandle { cell }
    }

    /// Waits until the fiber is over and takes its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] if it panicked, [`JoinError::Stopped`] if the caller was told to stop while it waited
    /// (the fiber is detached then), [`JoinError::LoopGone`] if the loop ended first.
    ///
    /// # Panics
    /// Outside a fiber, unless the fiber, or its loop, is over already.
    pub fn join(mut self) -> Result<T, JoinError> {
        self.wait()?;
        self.take()
    }

    /// Waits until the fiber is over and leaves its result for [`JoinHandle::join`]: for a wait with a time limit that
    /// may be tried again.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, sleep, spawn, timeout};
    /// use std::time::Duration;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let mut fiber = spawn(|| sleep(Duration::from_secs(3600)));
    ///     if timeout(Duration::from_millis(1), || fiber.wait()).is_err() {
    ///         assert!(fiber.cancel_and_join().unwrap().is_err());
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// When the caller is told to stop first. The fiber goes on.
    ///
    /// # Panics
    /// As [`JoinHandle::join`].
    pub fn wait(&mut self) -> Result<(), Stopped> {
        while self.begin_wait() {
            park("join")?;
        }
        Ok(())
    }

    /// Tells the fiber to stop and waits until it is over, also when the caller is told to stop meanwhile. What the
    /// fiber makes of the cancel is in the result; one that ignores it is waited for.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] and [`JoinError::LoopGone`], as [`JoinHandle::join`].
    ///
    /// # Panics
    /// As [`JoinHandle::join`].
    pub fn cancel_and_join(self) -> Result<T, JoinError> {
        self.cancel();
        while self.begin_wait() {
            park_uninterruptible("join of a cancelled fiber");
        }
        self.take()
    }

    /// Begins a wait of the calling fiber, unless there is nothing to wait for.
    fn begin_wait(&self) -> bool {
        if self.cell.done.get() || registry::is_gone(self.cell.fiber.loop_id) {
            return false;
        }
        let waker = prepare_park();
        self.cell.waiter.set(Some(waker));
        wake_at_end_of(self.cell.fiber.loop_id, waker);
        true
    }

    fn take(self) -> Result<T, JoinError> {
        let result = self.cell.result.borrow_mut().take();
        result.unwrap_or(Err(JoinError::LoopGone))
    }

    /// The result, once the fiber is over: for a select.
    pub(crate) fn poll(&mut self) -> Option<Result<T, JoinError>> {
        if !self.cell.done.get() && !registry::is_gone(self.cell.fiber.loop_id) {
            return None;
        }
        let result = self.cell.result.borrow_mut().take();
        Some(result.unwrap_or(Err(JoinError::LoopGone)))
    }

    /// Has `waiter` woken when the fiber is over.
    pub(crate) fn watch(&mut self, waiter: Option<LocalWaker>) {
        self.cell.waiter.set(waiter);
        if let Some(waker) = waiter {
            wake_at_end_of(self.cell.fiber.loop_id, waker);
        }
    }

    /// Tells the fiber to stop: its suspending calls fail from now on.
    pub fn cancel(&self) {
        if !self.cell.done.get() {
            cancel_on(self.cell.fiber);
        }
    }

    /// Whether the fiber is over.
    pub fn is_done(&self) -> bool {
        self.cell.done.get()
    }

    /// The fiber.
    pub fn id(&self) -> FiberId {
        self.cell.fiber
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        self.cell.detached.set(true);
        self.cell.waiter.set(None);
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("fiber", &self.cell.fiber)
            .field("done", &self.is_done())
            .finish()
    }
}
