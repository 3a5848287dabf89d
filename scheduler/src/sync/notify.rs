//! Notify: "something has changed, look again", without a value.

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
    /// One notification that came when nobody waited.
    stored: bool,
    queue: WaitQueue<()>,
}

/// Wakes those who wait for something that lives elsewhere.
///
/// [`Notify::notify_one`] wakes the one that has waited longest; if nobody waits, the next one to come does not wait
/// (of several such notifications one is kept). A fiber that is cancelled in the moment in which it is notified returns
/// as notified: no notification is lost.
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
    /// Without a notification.
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
    /// [`Stopped`] when the fiber is told to stop first, or had been before.
    ///
    /// # Panics
    /// If it must wait where suspension is forbidden.
    ///
    /// ```
    /// let notify = yue_scheduler::sync::Notify::new();
    /// notify.notify_one();
    /// notify.notified().unwrap(); // at once
    /// ```
    pub fn notified(&self) -> Result<(), Stopped> {
        wait_for(&Notified(self), ()).map_err(|(stopped, ())| stopped)
    }

    /// Takes the notification that is kept, if there is one.
    ///
    /// ```
    /// let notify = yue_scheduler::sync::Notify::new();
    /// notify.notify_one();
    /// notify.notify_one();
    /// assert!(notify.try_notified() && !notify.try_notified());
    /// ```
    pub fn try_notified(&self) -> bool {
        Notified(self).quick(&mut ())
    }

    /// [`Notify::notified`] as a branch of [`select!`](crate::select).
    ///
    /// ```
    /// use yue_scheduler::{select, sync::Notify};
    ///
    /// let notify = Notify::new();
    /// let told = select! { _ = notified(notify) => true, default => false };
    /// assert_eq!(told, Ok(false));
    /// ```
    pub fn notified_branch(&self) -> NotifiedBranch<'_, P> {
        SourceBranch::new(Notified(self), ())
    }

    /// Wakes the one that has waited longest, or the next to come.
    ///
    /// ```
    /// let notify = yue_scheduler::sync::Notify::new();
    /// notify.notify_one();
    /// assert!(notify.try_notified());
    /// ```
    pub fn notify_one(&self) {
        locked(&Notified(self), |state, wakes| {
            if !state.queue.grant(wakes, |()| ()) {
                state.stored = true;
            }
        });
    }

    /// Wakes all that wait at this moment. Keeps nothing for later.
    ///
    /// ```
    /// let notify = yue_scheduler::sync::Notify::new();
    /// notify.notify_all();
    /// assert!(!notify.try_notified());
    /// ```
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

/// Waiting for a notification.
#[derive(Debug)]
pub struct Notified<'a, P: Policy>(&'a Notify<P>);

/// Waiting for a notification as a branch of a select.
///
/// ```
/// use yue_scheduler::sync::{Notify, select};
///
/// let news = Notify::new();
/// news.notify_one();
/// let branch = news.notified_branch();
/// assert_eq!(select::wait(&[&branch]), Ok(0));
/// ```
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

    fn quick(&self, (): &mut ()) -> bool {
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
        // SAFETY: the caller attached the node and keeps it in place until it is taken out.
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
