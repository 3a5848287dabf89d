//! Scopes: fibers that borrow from the frame that starts them, because it is not left before they are over.
//!
//! ```text
//!   scope(|s| {           the body; its children run beside it, on the same loop
//!       s.spawn(|| …);
//!       s.spawn(|| …);
//!   })                    here the caller waits until the last child is over, whatever happens to the caller
//! ```
//!
//! Trouble travels inwards by cancelling and outwards by what the scope gives back. A body that panics, and a caller
//! that is told to stop while it waits, cancel the children; then they are waited for without regard to cancels and
//! deadlines, since they may be using the caller's frame. A child's panic goes on in the caller when all are over.
//! [`try_scope`] also cancels everybody at the first error.
//!
//! Invariants:
//! - `Family::live` (family.rs) counts children that may still touch what they borrow: their closure, their result,
//!   their stack. It goes down last of all, from the child's own drop.
//! - `Family::run` is the only way out of a scope, by return and by unwinding, and returns with `live == 0`. If it
//!   cannot wait it ends the process: leaving would hand freed frames to the children.
//! - A child that is given up at the loop's end leaves its scope waiting for ever, and so given up as well: their
//!   frames are leaked together.

mod failing;
mod family;

pub use failing::{TryJoinHandle, TryScope, try_scope};

use super::cancel::cancel_on;
use super::park::{park, prepare_park};
use super::{Builder, CancelScope, FiberId, JoinError, LocalWaker, may_suspend};
use crate::event_loop::current_fiber;
use family::{Child, End, Family, Packet};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;

/// Runs `body`, which may start fibers that borrow what outlives the call, and waits until they are all over.
///
/// When the body panics, its children are cancelled. So they are when the calling fiber is told to stop (cancelled, or
/// past a deadline) while it waits for them here; its own calls in the body fail as ever. The waiting itself is never
/// cut short. A child's panic that no [`ScopedJoinHandle::join`] took goes on in the caller when all are over; it does
/// not cancel the others: [`try_scope`] does.
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
/// What the body itself owns ends before the children do, so they cannot borrow it:
///
/// ```compile_fail,E0373
/// yue_scheduler::scope(|s| {
///     let local = 5;
///     s.spawn(|| println!("{local}"));
/// });
/// ```
///
/// # Panics
/// Outside a fiber, or where suspension is forbidden; with the panic of the body, or of a child.
pub fn scope<'env, R>(body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> R {
    let scope = Scope::new();
    scope.family.run(|| body(&scope))
}

/// Starts fibers that may borrow what outlives the scope; see [`scope`].
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
///         s.cancel(); // or the scope would wait an hour
///     });
/// });
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    family: Rc<Family>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
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

    /// Starts a child. Dropping the handle is fine; the scope waits for the child anyway.
    ///
    /// # Panics
    /// Where [`Scope::spawn_with`] gives an error.
    #[track_caller]
    pub fn spawn<T: 'scope>(
        &'scope self,
        f: impl FnOnce() -> T + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        self.spawn_from(Builder::new(), Location::caller(), f)
            .unwrap_or_else(|error| panic!("cannot spawn a fiber: {error}"))
    }

    /// As [`Scope::spawn`], with a name or another stack.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_with<T: 'scope>(
        &'scope self,
        builder: Builder,
        f: impl FnOnce() -> T + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        self.spawn_from(builder, Location::caller(), f)
    }

    fn spawn_from<T: 'scope>(
        &'scope self,
        builder: Builder,
        location: &'static Location<'static>,
        f: impl FnOnce() -> T + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        let packet = Rc::new(Packet::new(self.family.clone()));
        let cancel = self.family.shielded.then(CancelScope::new);
        let place = self.family.enter(cancel.clone());
        let child = Child {
            work: Some(f),
            cancel: cancel.clone(),
            packet: packet.clone(),
            _end: End {
                family: self.family.clone(),
                place,
            },
        };
        // SAFETY: what the child borrows outlives 'scope, and the frame of `scope`, which cannot be left before the
        // child's `End` is dropped, after its closure and its result: see the head of this file.
        let fiber = unsafe { builder.spawn_borrowing(location, Box::new(move || child.run())) }?;
        self.family.entered(place, fiber);
        Ok(ScopedJoinHandle {
            packet,
            fiber,
            cancel,
            scope: PhantomData,
        })
    }

    /// Tells all children, also those that are started later, to stop.
    pub fn cancel(&self) {
        self.family.cancel();
    }

    /// Children that are not over.
    pub fn live(&self) -> usize {
        self.family.live.get()
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}

/// Waits for a child of a [`scope`], or cancels it.
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, scope, sleep};
/// use std::time::Duration;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     scope(|s| {
///         let sleeper = s.spawn(|| sleep(Duration::from_secs(3600)));
///         sleeper.cancel();
///         assert_eq!(sleeper.join().unwrap(), Err(Stopped::Cancelled));
///     });
/// });
/// ```
pub struct ScopedJoinHandle<'scope, T> {
    packet: Rc<Packet<T>>,
    fiber: FiberId,
    /// For a shielded child, which does not heed its fiber's cancel.
    cancel: Option<CancelScope>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the child is over and takes its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] if it panicked (the scope does not panic for it then), [`JoinError::Stopped`] if the
    /// caller was told to stop while it waited; the scope waits for the child all the same.
    ///
    /// # Panics
    /// Outside a fiber, unless the child is over already.
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

    /// The result, once the child is over: for a select.
    pub(crate) fn poll(&mut self) -> Option<Result<T, JoinError>> {
        self.is_done().then(|| self.take())
    }

    /// Has `waiter` woken when the child is over.
    pub(crate) fn watch(&mut self, waiter: Option<LocalWaker>) {
        self.packet.waiter.set(waiter);
    }

    /// Tells the child to stop: its suspending calls fail from now on.
    pub fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
        if !self.packet.done.get() {
            cancel_on(self.fiber);
        }
    }

    /// Whether the child is over.
    pub fn is_done(&self) -> bool {
        self.packet.done.get()
    }

    /// The child.
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
