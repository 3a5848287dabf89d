//! The condition variable: waiting for a condition on a value that a mutex guards.

use super::mutex::MutexGuard;
use super::policy::{Lock, Policy, constructors};
use super::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked, wait_for};
use crate::fiber::Stopped;
use std::cell::RefCell;
use std::fmt;

/// Lets fibers wait until another fiber has changed the value that a [`Mutex`](super::Mutex) guards.
///
/// A wait releases the lock and begins in one step, so a notification by the next holder of the lock is not missed. The
/// wait ends with the lock held again *in every case*. For that it locks uninterruptibly, so that the caller can rely
/// on the guard (and restore order) even when it is stopped. Wake-ups are never spurious, but the condition that the
/// notifier saw may have changed before the lock was taken again: use [`Condvar::wait_while`].
///
/// The type behind [`sync::Condvar`](crate::sync::Condvar) and [`sync::local::Condvar`](crate::sync::local::Condvar).
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::{Condvar, Mutex}};
/// use std::rc::Rc;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let shared = Rc::new((Mutex::new(0), Condvar::new()));
///     let waiter = spawn({
///         let shared = shared.clone();
///         move || {
///             let level = shared.0.lock().unwrap();
///             *shared.1.wait_while(level, |level| *level < 3).unwrap()
///         }
///     });
///     for _ in 0..3 {
///         *shared.0.lock().unwrap() += 1;
///         shared.1.notify_all();
///     }
///     assert_eq!(waiter.join().unwrap(), 3);
/// });
/// ```
pub struct Condvar<P: Policy> {
    queue: P::Lock<WaitQueue<()>>,
}

constructors! { impl[] Condvar<P>,
    /// Creates a condition variable without waiters.
    pub fn new() {
        Condvar { queue: <P as Policy>::Lock::new(WaitQueue::new()) }
    }
}

impl<P: Policy> Default for Condvar<P> {
    fn default() -> Self {
        Condvar {
            queue: P::Lock::new_lock(WaitQueue::new()),
        }
    }
}

/// The error of a wait on a [`Condvar`]: the reason, and the guard of the lock, which is held. `?` passes the reason on
/// and unlocks.
///
/// ```
/// use yue_scheduler::sync::{Condvar, Mutex, MutexGuard};
/// use yue_scheduler::Stopped;
///
/// fn next(jobs: &Mutex<Vec<u32>>, added: &Condvar) -> Result<Option<u32>, Stopped> {
///     let mut jobs = added.wait_while(jobs.lock()?, |jobs| jobs.is_empty())?;
///     Ok(jobs.pop())
/// }
/// # let jobs = Mutex::new(vec![1]);
/// # assert_eq!(next(&jobs, &Condvar::new()), Ok(Some(1)));
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{stopped}")]
pub struct WaitStopped<G> {
    /// The guard of the lock, which is held.
    pub guard: G,
    /// The reason why the wait failed.
    pub stopped: Stopped,
}

impl<G> From<WaitStopped<G>> for Stopped {
    fn from(error: WaitStopped<G>) -> Stopped {
        error.stopped
    }
}

/// The result of a wait: the guard in either case.
pub type Waited<'a, P, T> = Result<MutexGuard<'a, P, T>, WaitStopped<MutexGuard<'a, P, T>>>;

impl<P: Policy> Condvar<P> {
    /// Unlocks, waits for a notification, and locks again.
    ///
    /// # Errors
    /// [`WaitStopped`] when the fiber is cancelled or a deadline passes, before or during the wait. It holds the lock.
    ///
    /// # Panics
    /// Where suspension is forbidden. The mutex is then unlocked.
    ///
    /// ```
    /// use yue_scheduler::sync::{Condvar, Mutex};
    /// use std::{sync::Arc, thread};
    ///
    /// let shared = Arc::new((Mutex::new(false), Condvar::new()));
    /// let mut ready = shared.0.lock().unwrap();
    /// let other = thread::spawn({
    ///     let shared = shared.clone();
    ///     move || {
    ///         *shared.0.lock().unwrap() = true;
    ///         shared.1.notify_one();
    ///     }
    /// });
    /// while !*ready {
    ///     ready = shared.1.wait(ready).unwrap();
    /// }
    /// other.join().unwrap();
    /// ```
    #[track_caller]
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, P, T>) -> Waited<'a, P, T> {
        let mutex = guard.mutex();
        let waiting = Waiting {
            condvar: self,
            guard: RefCell::new(Some(guard)),
        };
        let waited = wait_for(&waiting, ());
        let guard = waiting.guard.into_inner();
        let guard = guard.unwrap_or_else(|| mutex.lock_uninterruptibly());
        match waited {
            Ok(()) => Ok(guard),
            Err((stopped, ())) => Err(WaitStopped { guard, stopped }),
        }
    }

    /// Waits while `condition` is true. Returns at once if it is false now.
    ///
    /// # Errors
    /// See [`Condvar::wait`].
    ///
    /// # Panics
    /// See [`Condvar::wait`].
    ///
    /// ```
    /// use yue_scheduler::sync::{Condvar, Mutex};
    ///
    /// let (value, changed) = (Mutex::new(1), Condvar::new());
    /// let guard = changed.wait_while(value.lock().unwrap(), |value| *value == 0).unwrap();
    /// assert_eq!(*guard, 1);
    /// ```
    #[track_caller]
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, P, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Waited<'a, P, T> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Wakes the longest waiter. If nobody waits, the notification is not stored.
    pub fn notify_one(&self) {
        self.queue_locked(|queue, wakes| {
            queue.grant(wakes, |()| ());
        });
    }

    /// Wakes all waiters. They take the lock one after the other.
    pub fn notify_all(&self) {
        self.queue_locked(|queue, wakes| {
            queue.grant_all(wakes, |()| ());
        });
    }

    fn queue_locked(&self, f: impl FnOnce(&mut WaitQueue<()>, &mut Wakes<P>)) {
        let source = Waiting::<P, ()> {
            condvar: self,
            guard: RefCell::new(None),
        };
        locked(&source, f);
    }
}

impl<P: Policy> fmt::Debug for Condvar<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// The operation of waiting for a notification, with the guard to release once the node is queued.
struct Waiting<'a, 'g, P: Policy, T: ?Sized> {
    condvar: &'a Condvar<P>,
    guard: RefCell<Option<MutexGuard<'g, P, T>>>,
}

impl<P: Policy, T: ?Sized> Source for Waiting<'_, '_, P, T> {
    type Policy = P;
    type State = WaitQueue<()>;
    type Slot = ();
    type Output = ();
    const REASON: &'static str = "condition";

    fn state(&self) -> &P::Lock<WaitQueue<()>> {
        &self.condvar.queue
    }

    fn try_now(&self, (): &mut ()) -> bool {
        false
    }

    fn enlist(
        &self,
        queue: &mut WaitQueue<()>,
        node: &Node<()>,
        _wakes: &mut Wakes<P>,
    ) -> Enlisted {
        // SAFETY: the caller attached the node, and does not move it until it is removed.
        unsafe { queue.push(node) };
        Enlisted::Waiting
    }

    /// Releases the lock. The next holder of the lock finds us in the queue.
    fn enlisted(&self) {
        let guard = self.guard.take();
        drop(guard);
    }

    fn queue(state: &mut WaitQueue<()>) -> &mut WaitQueue<()> {
        state
    }

    fn hand_on(&self, (): &mut ()) {
        self.condvar.notify_one();
    }

    fn finish(&self, (): ()) {}
}
