//! The result of a fiber, and waiting for it.

use super::park::{LocalWaker, park, prepare_park};
use super::{FiberId, Stopped, cancel};
use crate::event_loop::with_loop;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// Why a join gave no result.
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

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

/// The words of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
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

    fn complete(&self, result: Result<T, Box<dyn Any + Send>>) {
        self.done.set(true);
        let result = result.map_err(|payload| {
            let detached = self.detached.get();
            with_loop(|l| l.note_panic(self.fiber, detached, panic_text(&*payload)));
            JoinError::Panicked(payload)
        });
        if self.detached.get() {
            // Nobody will ask; a result whose own drop panics must not take the loop down.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(result)));
            return;
        }
        *self.result.borrow_mut() = Some(result);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }
}

/// The fiber's side of the cell. Dropped without a result (a fiber that never ran), it tells the waiter so.
pub(super) struct Completion<T>(pub(super) Rc<JoinCell<T>>);

impl<T> Completion<T> {
    /// Called on the fiber's stack, when its closure is over.
    #[inline]
    pub(super) fn complete(self, result: Result<T, Box<dyn Any + Send>>) {
        self.0.complete(result);
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if !self.0.done.replace(true)
            && let Some(waker) = self.0.waiter.take()
        {
            waker.wake();
        }
    }
}

/// Waits for a fiber of this loop, or cancels it. Dropping it lets the fiber go on by itself.
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
    /// Outside a fiber, unless the fiber is over already.
    pub fn join(self) -> Result<T, JoinError> {
        while !self.cell.done.get() {
            self.cell.waiter.set(Some(prepare_park()));
            park("join")?;
        }
        self.cell
            .result
            .borrow_mut()
            .take()
            .unwrap_or(Err(JoinError::LoopGone))
    }

    /// Tells the fiber to stop: its suspending calls fail from now on.
    pub fn cancel(&self) {
        cancel(self.cell.fiber);
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
