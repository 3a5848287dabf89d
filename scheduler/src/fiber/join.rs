//! Join handles: the result of a fiber, and waiting for it.

use super::cancel::{Stopped, cancel_on};
use super::guarded::guarded;
use super::id::FiberId;
use super::park::{park, park_uninterruptible, prepare_park};
use super::waker::LocalWaker;
use crate::event_loop::seam::{registry, wake_at_end_of, with_loop};
use crate::panics::{drop_payload, panic_text};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem;
use std::rc::Rc;

/// The reason why a join returned no result.
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
#[non_exhaustive]
pub enum JoinError {
    /// The fiber panicked, with this payload.
    #[error("the fiber panicked: {}", panic_text(&**.0))]
    Panicked(Box<dyn Any + Send>),
    /// The *waiting* fiber was cancelled, or a deadline passed. The other fiber continues.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The fiber, or its whole loop, was abandoned at shutdown before the fiber ended.
    #[error("the fiber's loop ended before the fiber did")]
    LoopGone,
}

impl From<JoinError> for io::Error {
    /// For programs whose errors are all `io::Error`: a stop converts like [`Stopped`], a panic to its message.
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

/// The fiber's half of the cell. If it is dropped without a result (the fiber never ran), it reports that to the
/// waiter.
pub(super) struct Completion<T>(pub(super) Rc<JoinCell<T>>);

impl<T> Completion<T> {
    /// Stores the result. Called on the fiber's stack after its closure ended. Does not unwind.
    #[inline]
    pub(super) fn complete(&self, result: Result<T, Box<dyn Any + Send>>) {
        let cell = &*self.0;
        if let Err(payload) = &result {
            record_panic(cell.fiber, cell.detached.get(), &**payload);
        }
        if !cell.detached.get() {
            *cell.result.borrow_mut() = Some(result.map_err(JoinError::Panicked));
            return cell.finish();
        }
        // The handle is gone, so nobody will take the result.
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

/// Counts the panic that ended a fiber, and calls the loop's panic hook if no join will report it.
#[cold]
pub(crate) fn record_panic(fiber: FiberId, detached: bool, payload: &(dyn Any + Send)) {
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

/// A handle for joining or cancelling a fiber of this loop. Dropping it detaches the fiber.
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

    /// Waits until the fiber has ended and returns its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] if the fiber panicked; [`JoinError::Stopped`] if the caller was cancelled or a deadline
    /// passed while it waited (the fiber is then detached); [`JoinError::LoopGone`] if the loop ended first.
    ///
    /// # Panics
    /// When called outside a fiber, unless the fiber, or its loop, has already ended.
    #[track_caller]
    pub fn join(mut self) -> Result<T, JoinError> {
        self.wait()?;
        self.take()
    }

    /// Waits until the fiber has ended. The result stays for [`JoinHandle::join`]. For a wait with a time limit that
    /// may be retried.
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
    /// When the caller is cancelled or a deadline passes first. The fiber continues.
    ///
    /// # Panics
    /// See [`JoinHandle::join`].
    #[track_caller]
    pub fn wait(&mut self) -> Result<(), Stopped> {
        while self.begin_wait() {
            park("join")?;
        }
        Ok(())
    }

    /// Cancels the fiber and waits until it has ended, even if the caller is cancelled in the meantime. The result
    /// shows how the fiber reacted to its cancellation; a fiber that ignores it is waited for.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] and [`JoinError::LoopGone`], as [`JoinHandle::join`].
    ///
    /// # Panics
    /// See [`JoinHandle::join`].
    #[track_caller]
    pub fn cancel_and_join(self) -> Result<T, JoinError> {
        self.cancel();
        while self.begin_wait() {
            park_uninterruptible("join of a cancelled fiber");
        }
        self.take()
    }

    /// Begins a wait of the calling fiber. Returns whether there is something to wait for.
    #[track_caller]
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

    /// Returns the result if the fiber has ended. For `select!`.
    pub(crate) fn poll(&mut self) -> Option<Result<T, JoinError>> {
        if !self.cell.done.get() && !registry::is_gone(self.cell.fiber.loop_id) {
            return None;
        }
        let result = self.cell.result.borrow_mut().take();
        Some(result.unwrap_or(Err(JoinError::LoopGone)))
    }

    /// Registers `waiter`, which is woken when the fiber ends.
    pub(crate) fn watch(&mut self, waiter: Option<LocalWaker>) {
        self.cell.waiter.set(waiter);
        if let Some(waker) = waiter {
            wake_at_end_of(self.cell.fiber.loop_id, waker);
        }
    }

    /// Cancels the fiber: its suspending calls fail from now on.
    pub fn cancel(&self) {
        if !self.cell.done.get() {
            cancel_on(self.cell.fiber);
        }
    }

    /// Returns whether the fiber has ended.
    pub fn is_done(&self) -> bool {
        self.cell.done.get()
    }

    /// Returns the fiber's id.
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
