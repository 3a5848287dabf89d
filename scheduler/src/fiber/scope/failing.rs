//! Scopes that fail as a whole: the first error cancels the rest, and the scope returns it.

use super::{Scope, ScopedJoinHandle};
use crate::fiber::cancel::{CancelScope, Stopped};
use crate::fiber::id::FiberId;
use crate::fiber::join::JoinError;
use crate::fiber::spawn::Builder;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

/// Like [`scope`](crate::scope()), but for work that fails as a whole: the first error of the body or of a child, or
/// the first panic of a child, cancels all the others, including the body. The scope returns the error when all have
/// ended.
///
/// ```
/// use yue_scheduler::{Config, Loop, sleep, try_scope};
/// use std::{io, time::Duration};
///
/// let outcome = Loop::new(Config::default()).unwrap().run(|| {
///     try_scope(|s| {
///         s.spawn(|| Ok(sleep(Duration::from_secs(3600))?));
///         s.spawn(|| -> io::Result<()> { Err(io::ErrorKind::NotFound.into()) });
///         Ok(())
///     })
/// });
/// assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::NotFound);
/// ```
///
/// # Errors
/// The error that came first. Others end with `Cancelled` errors because of it; those are dropped.
///
/// # Panics
/// See [`scope`](crate::scope()).
#[track_caller]
pub fn try_scope<'env, R, E>(
    body: impl for<'scope> FnOnce(&'scope TryScope<'scope, 'env, E>) -> Result<R, E>,
) -> Result<R, E> {
    let scope = TryScope {
        scope: Scope::new(),
        body: CancelScope::new(),
        error: Cell::new(None),
    };
    let result = scope.scope.family.run(|| {
        let result = scope.body.enter(|| body(&scope));
        result.map_err(|error| scope.fail(error))
    });
    match (scope.error.take(), result) {
        (Some(first), _) => Err(first),
        (None, Ok(result)) => Ok(result),
        (None, Err(())) => unreachable!("the scope keeps the body's error"),
    }
}

/// Starts fibers that fail together; see [`try_scope`].
///
/// ```
/// use yue_scheduler::{Config, Loop, try_scope};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (left, right) = ("20", "22");
///     let sum = try_scope(|s| {
///         let left = s.spawn(|| left.parse::<i32>());
///         let right = s.spawn(|| right.parse::<i32>());
///         Ok(left.join().unwrap() + right.join().unwrap())
///     });
///     assert_eq!(sum, Ok(42));
/// });
/// ```
pub struct TryScope<'scope, 'env: 'scope, E> {
    scope: Scope<'scope, 'env>,
    /// The scope that the body runs in, so that a child's error reaches the body.
    body: CancelScope,
    error: Cell<Option<E>>,
}

impl<'scope, 'env, E: 'scope> TryScope<'scope, 'env, E> {
    /// Starts a child. Its error cancels all the others.
    ///
    /// # Panics
    /// Where [`TryScope::spawn_with`] returns an error.
    #[track_caller]
    pub fn spawn<T: 'scope>(
        &'scope self,
        f: impl FnOnce() -> Result<T, E> + 'scope,
    ) -> TryJoinHandle<'scope, T> {
        self.spawn_from(Builder::new(), Location::caller(), f)
            .unwrap_or_else(|error| panic!("cannot spawn a fiber: {error}"))
    }

    /// Like [`TryScope::spawn`], but with a name or another stack.
    ///
    /// # Errors
    /// See [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_with<T: 'scope>(
        &'scope self,
        builder: Builder,
        f: impl FnOnce() -> Result<T, E> + 'scope,
    ) -> io::Result<TryJoinHandle<'scope, T>> {
        self.spawn_from(builder, Location::caller(), f)
    }

    fn spawn_from<T: 'scope>(
        &'scope self,
        builder: Builder,
        location: &'static Location<'static>,
        f: impl FnOnce() -> Result<T, E> + 'scope,
    ) -> io::Result<TryJoinHandle<'scope, T>> {
        let body = move || match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => result.map_err(|error| self.fail(error)).ok(),
            Err(payload) => {
                self.cancel();
                resume_unwind(payload)
            }
        };
        let handle = self.scope.spawn_from(builder, location, body)?;
        Ok(TryJoinHandle { handle })
    }

    /// Cancels everything in the scope, including the body.
    pub fn cancel(&self) {
        self.scope.cancel();
        self.body.cancel();
    }

    /// Returns the number of children that have not ended.
    pub fn live(&self) -> usize {
        self.scope.live()
    }
}

impl<E> TryScope<'_, '_, E> {
    /// Stores the first error and cancels the others.
    fn fail(&self, error: E) {
        let first = self.error.take();
        let is_first = first.is_none();
        self.error.set(first.or(Some(error)));
        if is_first {
            self.scope.cancel();
            self.body.cancel();
        }
    }
}

impl<E> fmt::Debug for TryScope<'_, '_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryScope")
            .field("live", &self.scope.live())
            .finish_non_exhaustive()
    }
}

/// A handle for joining a child of a [`try_scope`].
#[derive(Debug)]
pub struct TryJoinHandle<'scope, T> {
    handle: ScopedJoinHandle<'scope, Option<T>>,
}

impl<T> TryJoinHandle<'_, T> {
    /// Waits until the child has ended and returns its result.
    ///
    /// # Errors
    /// [`Stopped`] when the caller was cancelled or a deadline passed. The failure of the child also cancels the
    /// caller; the scope then returns the child's own error.
    ///
    /// # Panics
    /// See [`ScopedJoinHandle::join`].
    #[track_caller]
    pub fn join(self) -> Result<T, Stopped> {
        // A child's panic is put back for the scope to find.
        let family = self.handle.packet.family.clone();
        match self.handle.join() {
            Ok(Some(result)) => Ok(result),
            Ok(None) | Err(JoinError::LoopGone) => Err(Stopped::Cancelled),
            Err(JoinError::Stopped(stopped)) => Err(stopped),
            Err(JoinError::Panicked(payload)) => {
                family.keep_panic(payload);
                Err(Stopped::Cancelled)
            }
        }
    }

    /// Returns whether the child has ended.
    pub fn is_done(&self) -> bool {
        self.handle.is_done()
    }

    /// Returns the child's id.
    pub fn id(&self) -> FiberId {
        self.handle.id()
    }
}
