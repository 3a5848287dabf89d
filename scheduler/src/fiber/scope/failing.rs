//! Scopes whose members fail together: the first error cancels the rest and is what the scope gives.

use super::{Scope, ScopedJoinHandle};
use crate::fiber::{Builder, CancelScope, FiberId, JoinError, Stopped};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

/// As [`scope`](crate::scope()), for work that fails as a whole: the first error of the body or of a child, and the
/// first panic of a child, cancels all the others, the body included. The error is what the scope gives when all are
/// over.
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
/// The first error in time. The `Cancelled` errors with which the others end because of it are dropped.
///
/// # Panics
/// As [`scope`](crate::scope()).
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
    /// The body runs in it, so that a child's error reaches the body.
    body: CancelScope,
    error: Cell<Option<E>>,
}

impl<'scope, 'env, E: 'scope> TryScope<'scope, 'env, E> {
    /// Starts a child, whose error cancels all the others.
    ///
    /// # Panics
    /// Where [`TryScope::spawn_with`] gives an error.
    #[track_caller]
    pub fn spawn<T: 'scope>(
        &'scope self,
        f: impl FnOnce() -> Result<T, E> + 'scope,
    ) -> TryJoinHandle<'scope, T> {
        self.spawn_from(Builder::new(), Location::caller(), f)
            .unwrap_or_else(|error| panic!("cannot spawn a fiber: {error}"))
    }

    /// As [`TryScope::spawn`], with a name or another stack.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
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

    /// Tells everybody in the scope, the body included, to stop.
    pub fn cancel(&self) {
        self.scope.cancel();
        self.body.cancel();
    }

    /// Children that are not over.
    pub fn live(&self) -> usize {
        self.scope.live()
    }
}

impl<E> TryScope<'_, '_, E> {
    /// Keeps the first error and cancels the others.
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

/// Waits for a child of a [`try_scope`].
///
/// ```
/// use yue_scheduler::{Config, Loop, Stopped, try_scope};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let result = try_scope(|s| {
///         let number = s.spawn(|| "forty-two".parse::<i32>());
///         assert_eq!(number.join(), Err(Stopped::Cancelled)); // the error itself is the scope's
///         Ok(())
///     });
///     assert!(result.is_err());
/// });
/// ```
#[derive(Debug)]
pub struct TryJoinHandle<'scope, T> {
    handle: ScopedJoinHandle<'scope, Option<T>>,
}

impl<T> TryJoinHandle<'_, T> {
    /// Waits until the child is over and takes its result.
    ///
    /// # Errors
    /// [`Stopped`] when the caller was told to stop, and so also when the child failed: that cancels the scope. The
    /// child's own error is what the scope gives.
    ///
    /// # Panics
    /// As [`ScopedJoinHandle::join`].
    pub fn join(self) -> Result<T, Stopped> {
        // A child's panic goes back to where the scope finds it.
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

    /// Whether the child is over.
    pub fn is_done(&self) -> bool {
        self.handle.is_done()
    }

    /// The child.
    pub fn id(&self) -> FiberId {
        self.handle.id()
    }
}
