//! Notify: a notification without a value, which tells a waiter to check again.

use super::policy::{Lock, Policy, constructors};
use super::select::SourceBranch;
use super::wait::{Enlisted, Node, Source, WaitQueue, Wakes, locked, wait_for};
use crate::fiber::Stopped;
use std::fmt;

/// The state of a [`Notify`].
#[allow(
    missing_debug_implementations,
    reason = "public only as a part of bounds"
)]
pub struct State {
    /// A notification that came when nobody waited.
    stored: bool,
    queue: WaitQueue<()>,
}

/// Wakes fibers that wait for a condition on data stored elsewhere.
///
/// [`Notify::notify_one`] wakes the longest waiter. If nobody waits, the notification is stored and the next wait
/// returns at once (several such notifications are stored as one). A fiber that is cancelled at the moment it is
/// notified returns as notified, so no notification is lost.
///
/// The type behind [`sync::Notify`](crate::sync::Notify) and [`sync::local::Notify`](crate::sync::local::Notify).
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn, sync::local::Notify};
/// use std::{cell::RefCell, rc::Rc};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (jobs, changed) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Notify::new()));
///     let worker = spawn({
///         let (jobs, changed) = (jobs.clone(), changed.clone());
///         move || loop {
///             if let Some(job) = jobs.borrow_mut().pop() {
///                 return job;
///             }
///             changed.notified().unwrap();
///         }
///     });
///     jobs.borrow_mut().push(42);
///     changed.notify_one();
///     assert_eq!(worker.join().unwrap(), 42);
/// });
/// ```
pub struct Notify<P: Policy> {
    state: P::Lock<State>,
}

constructors! { impl[] Notify<P>,
    /// Creates a `Notify` without a stored notification.
    pub fn new() {
        Notify { state: <P as Policy>::Lock::new(State { stored: false, queue: WaitQueue::new() }) }
    }
}

impl<P: Policy> Default for Notify<P> {
    fn default() -> Self {
        Notify {
            state: P::Lock::new_lock(State {
                stored: false,
                queue: WaitQueue::new(),
            }),
        }
    }
}

impl<P: Policy> Notify<P> {
    /// Waits for a notification.
    ///
    /// # Errors
    /// [`Stopped`] when the fiber is cancelled or a deadline passes, before or during the wait.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    #[track_caller]
    pub fn notified(&self) -> Result<(), Stopped> {
        wait_for(&Notified(self), ()).map_err(|(stopped, ())| stopped)
    }

    /// Takes the stored notification. Returns whether there was one.
    pub fn try_notified(&self) -> bool {
        Notified(self).try_now(&mut ())
    }

    /// Returns [`Notify::notified`] as a branch of [`select!`](crate::select).
    ///
    /// ```
    /// use yue_scheduler::{select, sync::Notify};
    ///
    /// let notify = Notify::new();
    /// let notified = select! { _ = notified(notify) => true, default => false };
    /// assert_eq!(notified, Ok(false));
    /// ```
    pub fn notified_branch(&self) -> NotifiedBranch<'_, P> {
        SourceBranch::new(Notified(self), ())
    }

    /// Wakes the longest waiter, or stores the notification for the next one.
    pub fn notify_one(&self) {
        locked(&Notified(self), |state, wakes| {
            if !state.queue.grant(wakes, |()| ()) {
                state.stored = true;
            }
        });
    }

    /// Wakes all current waiters. Stores nothing for later.
    pub fn notify_all(&self) {
        locked(&Notified(self), |state, wakes| {
            state.queue.grant_all(wakes, |()| ());
        });
    }
}

impl<P: Policy> fmt::Debug for Notify<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

/// The operation of waiting for a notification.
#[derive(Debug)]
pub struct Notified<'a, P: Policy>(&'a Notify<P>);

/// Waiting for a notification as a branch of a select; from [`Notify::notified_branch`].
pub type NotifiedBranch<'a, P> = SourceBranch<Notified<'a, P>>;

impl<P: Policy> Source for Notified<'_, P> {
    type Policy = P;
    type State = State;
    type Slot = ();
    type Output = ();
    const REASON: &'static str = "notification";

    fn state(&self) -> &P::Lock<State> {
        &self.0.state
    }

    fn try_now(&self, (): &mut ()) -> bool {
        self.0.state.with(|state| std::mem::take(&mut state.stored))
    }

    fn enlist(&self, state: &mut State, node: &Node<()>, _wakes: &mut Wakes<P>) -> Enlisted {
        if state.stored {
            if !node.claim() {
                return Enlisted::Lost;
            }
            state.stored = false;
            return Enlisted::Done;
        }
        // SAFETY: the caller attached the node, and does not move it until it is removed.
        unsafe { state.queue.push(node) };
        Enlisted::Waiting
    }

    fn queue(state: &mut State) -> &mut WaitQueue<()> {
        &mut state.queue
    }

    fn hand_on(&self, (): &mut ()) {
        self.0.notify_one();
    }

    fn finish(&self, (): ()) {}
}
