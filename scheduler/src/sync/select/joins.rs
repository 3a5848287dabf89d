//! Joins as branches of a select.
//!
//! If such a branch is taken, it has the result, and a later `join` does not. If it is not taken, the handle is
//! unchanged. The branch borrows its handle uniquely, so only one branch waits for it.

use super::branches::{Ready, ready};
use super::{Readiness, Signal};
use crate::event_loop::RemoteJoin;
use crate::fiber::{JoinError, JoinHandle, JoinSet, ScopedJoinHandle};

/// The end of a fiber as a branch; from the `join_branch` of its handle, and from [`JoinSet::join_next_branch`].
pub type JoinBranch<'a, H> = Ready<Joining<'a, H>>;

/// The readiness of the handle `H`: its fiber has ended.
#[derive(Debug)]
pub struct Joining<'a, H>(&'a mut H);

/// Implements `Readiness` for one kind of handle: its output, and how it is watched.
macro_rules! joining {
    ([$($generics:tt)*] $handle:ty, $output:ty, $poll:expr, $signal:expr) => {
        impl<$($generics)*> Readiness for Joining<'_, $handle> {
            type Output = $output;

            fn poll(&mut self) -> Option<$output> {
                $poll(&mut *self.0)
            }

            fn watch(&mut self, signal: Signal) {
                self.0.watch($signal(signal));
            }

            fn unwatch(&mut self) {
                self.0.watch(None);
            }
        }
    };
}

joining!([T] JoinHandle<T>, Result<T, JoinError>, JoinHandle::poll, |signal: Signal| signal.local_waker());
joining!(['s, T] ScopedJoinHandle<'s, T>, Result<T, JoinError>, ScopedJoinHandle::poll, |signal: Signal| {
    signal.local_waker()
});
joining!([T] RemoteJoin<T>, Result<T, JoinError>, RemoteJoin::poll, Some);
joining!([T: 'static] JoinSet<T>, Option<Result<T, JoinError>>, next_of_set, |signal: Signal| signal.local_waker());

/// Returns the result of a `join_next` that need not wait.
#[expect(
    clippy::option_option,
    reason = "the outer one is `not yet`, the inner one `no more`"
)]
fn next_of_set<T: 'static>(set: &mut JoinSet<T>) -> Option<Option<Result<T, JoinError>>> {
    match set.try_join_next() {
        Some(result) => Some(Some(result)),
        None => set.is_empty().then_some(None),
    }
}

impl<T> JoinHandle<T> {
    /// Returns [`JoinHandle::join`] as a branch of [`select!`](crate::select). If the branch is taken, it has the
    /// result, and a later `join` does not. If it is not taken, the handle is unchanged.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, select, sleep, spawn};
    /// use std::time::Duration;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let mut slow = spawn(|| sleep(Duration::from_secs(30)));
    ///     let mut quick = spawn(|| 1);
    ///     let first = select! {
    ///         _ = join(slow) => 0,
    ///         result = join(quick) => result.unwrap(),
    ///     };
    ///     assert_eq!(first, Ok(1));
    ///     slow.cancel();
    ///     assert!(slow.join().unwrap().is_err());
    /// });
    /// ```
    pub fn join_branch(&mut self) -> JoinBranch<'_, Self> {
        ready(Joining(self)).on_this_loop()
    }
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Returns [`ScopedJoinHandle::join`] as a branch of [`select!`](crate::select), like [`JoinHandle::join_branch`].
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, scope, select};
    /// use std::time::Duration;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let numbers = [1, 2, 3];
    ///     scope(|s| {
    ///         let mut sum = s.spawn(|| numbers.iter().sum::<i32>());
    ///         let got = select! {
    ///             sum = join(sum) => sum.unwrap(),
    ///             _ = after(Duration::from_secs(30)) => 0,
    ///         };
    ///         assert_eq!(got, Ok(6));
    ///     });
    /// });
    /// ```
    pub fn join_branch(&mut self) -> JoinBranch<'_, Self> {
        ready(Joining(self)).on_this_loop()
    }
}

impl<T> RemoteJoin<T> {
    /// Returns [`RemoteJoin::join`] as a branch of [`select!`](crate::select), like [`JoinHandle::join_branch`]. Plain
    /// threads can use it too.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, select, this_loop};
    /// use std::{sync::mpsc, thread, time::Duration};
    ///
    /// let (send, receive) = mpsc::channel();
    /// let other = thread::spawn(move || {
    ///     Loop::new(Config::default()).unwrap().run(move || {
    ///         send.send(this_loop::handle()).unwrap();
    ///         this_loop::wait_for_shutdown()
    ///     })
    /// });
    /// let handle = receive.recv().unwrap();
    /// let mut fiber = handle.spawn(|| 6 * 7);
    /// let got = select! {
    ///     answer = join(fiber) => answer.unwrap(),
    ///     _ = after(Duration::from_secs(30)) => 0,
    /// };
    /// assert_eq!(got, Ok(42));
    /// handle.shutdown();
    /// other.join().unwrap().unwrap();
    /// ```
    pub fn join_branch(&mut self) -> JoinBranch<'_, Self> {
        ready(Joining(self))
    }
}

impl<T: 'static> JoinSet<T> {
    /// Returns [`JoinSet::join_next`] as a branch of [`select!`](crate::select): the result of the next fiber to end,
    /// or `None`, at once, if the set is empty.
    ///
    /// ```
    /// use yue_scheduler::{Config, JoinSet, Loop, select, sleep};
    /// use std::time::Duration;
    ///
    /// Loop::new(Config::default()).unwrap().run(|| {
    ///     let mut set = JoinSet::new();
    ///     set.spawn(|| sleep(Duration::from_millis(1)).map(|()| 1).unwrap());
    ///     set.spawn(|| 2);
    ///     let mut order = Vec::new();
    ///     while let Some(result) = select! {
    ///         next = set.join_next_branch() => next,
    ///         _ = after(Duration::from_secs(30)) => None,
    ///     }.unwrap() {
    ///         order.push(result.unwrap());
    ///     }
    ///     assert_eq!(order, [2, 1]);
    /// });
    /// ```
    pub fn join_next_branch(&mut self) -> JoinBranch<'_, Self> {
        ready(Joining(self)).on_this_loop()
    }
}
