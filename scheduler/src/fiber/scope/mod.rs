//! Scopes: fibers that may borrow from the frame that starts them, because that frame outlives them.
//!
//! ```text
//!   scope(|s| {           the body; its children run beside it, on the same loop
//!       s.spawn(|| …);
//!       s.spawn(|| …);
//!   })                    here the caller waits until the last child has ended, even if it is cancelled
//! ```
//!
//! Failures travel inwards as cancellation and outwards as the result of the scope. If the body panics, or the caller
//! is stopped while it waits, the children are cancelled. The scope then waits for them regardless of cancellations and
//! deadlines, because they may be using the caller's frame. A child's panic resumes in the caller when all children
//! have ended. [`try_scope`] also cancels everything at the first error.
//!
//! Invariants:
//! - `Family::live` (family.rs) counts the children that may still touch what they borrow: through their closure, their
//!   result, or their stack. The child's own drop decrements it, as its last step.
//! - `Family::run` is the only way out of a scope, by return or by unwinding, and returns with `live() == 0`. If it
//!   cannot wait, it ends the process: leaving would hand freed frames to the children.
//! - If a child is abandoned at the loop's end, its scope waits forever and so is abandoned too: their frames are
//!   leaked together.

mod failing;
mod family;

pub use failing::{TryJoinHandle, TryScope, try_scope};

use super::cancel::{CancelScope, cancel_on};
use super::hook::may_suspend;
use super::id::FiberId;
use super::join::JoinError;
use super::park::{park, prepare_park};
use super::spawn::Builder;
use super::waker::LocalWaker;
use crate::event_loop::seam::current_fiber;
use family::{Child, End, Family, Packet};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;

/// Runs `body`, which may start fibers that borrow anything that outlives the call, and waits until all of them have
/// ended.
///
/// If the body panics, its children are cancelled. They are also cancelled if the calling fiber is stopped (cancelled,
/// or past a deadline) while it waits for them here; its own calls in the body fail as usual. Nothing cuts the wait
/// short. A child's panic that no [`ScopedJoinHandle::join`] took resumes in the caller when all children have ended.
/// It does not cancel the others; with [`try_scope`] it does.
///
/// Within [`shield`](crate::shield) the children are shielded as well.
///
/// ```
/// use yue_scheduler::{Config, Loop, scope, sleep};
/// use std::{cell::Cell, time::Duration};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let words = vec!["one", "two", "three"];
///     let letters = Cell::new(0);
///     scope(|s| {
///         for word in &words {
///             let letters = &letters;
///             s.spawn(move || {
///                 sleep(Duration::from_millis(1)).unwrap();
///                 letters.set(letters.get() + word.len());
///             });
///         }
///     });
///     assert_eq!(letters.get(), 11);
/// });
/// ```
///
/// The body's own locals are dropped before the children end, so children cannot borrow them:
///
/// ```compile_fail,E0373
/// yue_scheduler::scope(|s| {
///     let local = 5;
///     s.spawn(|| println!("{local}"));
/// });
/// ```
///
/// # Panics
/// When called outside a fiber, or where suspension is forbidden; with the panic of the body, or of a child.
#[track_caller]
pub fn scope<'env, R>(body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> R {
    let scope = Scope::new();
    scope.family.run(|| body(&scope))
}

/// Starts fibers that may borrow anything that outlives the scope; see [`scope`].
///
/// ```
/// use yue_scheduler::{Config, Loop, scope, sleep};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let greeting = String::from("hello");
///     scope(|s| {
///         let length = s.spawn(|| greeting.len());
///         let _ = s.spawn(|| sleep(Duration::from_secs(3600)));
///         assert_eq!(length.join().unwrap(), 5);
///         assert_eq!(s.live(), 1);
///         s.cancel(); // otherwise the scope would wait an hour
///     });
/// });
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    family: Rc<Family>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    #[track_caller]
    fn new() -> Self {
        if let Err(reason) = may_suspend() {
            panic!("a scope must be able to wait for its children: {reason}");
        }
        // SAFETY: the running fiber's header lives as long as the fiber.
        let shielded = unsafe { &*current_fiber() }.shields().get() > 0;
        Scope {
            family: Rc::new(Family::new(shielded)),
            scope: PhantomData,
            env: PhantomData,
        }
    }

    /// Starts a child. The handle may be dropped; the scope waits for the child anyway.
    ///
    /// # Panics
    /// Where [`Scope::spawn_with`] returns an error.
    #[track_caller]
    pub fn spawn<T: 'scope>(
        &'scope self,
        f: impl FnOnce() -> T + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        self.spawn_from(Builder::new(), Location::caller(), f)
            .unwrap_or_else(|error| panic!("cannot spawn a fiber: {error}"))
    }

    /// Like [`Scope::spawn`], but with a name or another stack.
    ///
    /// # Errors
    /// See [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_with<T: 'scope>(
        &'scope self,
        builder: Builder,
        f: impl FnOnce() -> T + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        self.spawn_from(builder, Location::caller(), f)
    }

    #[track_caller]
    fn spawn_from<T: 'scope>(
        &'scope self,
        builder: Builder,
        location: &'static Location<'static>,
        f: impl FnOnce() -> T + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        let packet = Rc::new(Packet::new(self.family.clone()));
        let cancel = self.family.shielded.then(CancelScope::new);
        let slot = self.family.enter(cancel.clone());
        let child = Child {
            work: Some(f),
            cancel: cancel.clone(),
            packet: packet.clone(),
            _end: End {
                family: self.family.clone(),
                slot,
            },
        };
        // SAFETY: what the child borrows outlives 'scope and the frame of `scope`, and that frame is not left before
        // the child's `End` is dropped, after its closure and its result: see the head of this file.
        let fiber = unsafe { builder.spawn_borrowing(location, Box::new(move || child.run())) }?;
        self.family.entered(slot, fiber);
        Ok(ScopedJoinHandle {
            packet,
            fiber,
            cancel,
            scope: PhantomData,
        })
    }

    /// Cancels all children, including those started later.
    pub fn cancel(&self) {
        self.family.cancel();
    }

    /// Returns the number of children that have not ended.
    pub fn live(&self) -> usize {
        self.family.live()
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}

/// A handle for joining or cancelling a child of a [`scope`].
pub struct ScopedJoinHandle<'scope, T> {
    packet: Rc<Packet<T>>,
    fiber: FiberId,
    /// For a shielded child, which ignores the cancellation of its fiber.
    cancel: Option<CancelScope>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the child has ended and returns its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] if the child panicked (the scope then does not panic for it); [`JoinError::Stopped`] if
    /// the caller was cancelled or a deadline passed while it waited. The scope still waits for the child.
    ///
    /// # Panics
    /// When called outside a fiber, unless the child has already ended.
    #[track_caller]
    pub fn join(self) -> Result<T, JoinError> {
        while !self.packet.done.get() {
            self.packet.waiter.set(Some(prepare_park()));
            park("join")?;
        }
        self.take()
    }

    fn take(&self) -> Result<T, JoinError> {
        match self.packet.result.take() {
            Some(outcome) => outcome.map_err(JoinError::Panicked),
            None => Err(JoinError::LoopGone),
        }
    }

    /// Returns the result if the child has ended. For `select!`.
    pub(crate) fn poll(&mut self) -> Option<Result<T, JoinError>> {
        self.is_done().then(|| self.take())
    }

    /// Registers `waiter`, which is woken when the child ends.
    pub(crate) fn watch(&mut self, waiter: Option<LocalWaker>) {
        self.packet.waiter.set(waiter);
    }

    /// Cancels the child: its suspending calls fail from now on.
    pub fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
        if !self.packet.done.get() {
            cancel_on(self.fiber);
        }
    }

    /// Returns whether the child has ended.
    pub fn is_done(&self) -> bool {
        self.packet.done.get()
    }

    /// Returns the child's id.
    pub fn id(&self) -> FiberId {
        self.fiber
    }
}

impl<T> Drop for ScopedJoinHandle<'_, T> {
    fn drop(&mut self) {
        self.packet.waiter.set(None);
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("fiber", &self.fiber)
            .field("done", &self.is_done())
            .finish()
    }
}
