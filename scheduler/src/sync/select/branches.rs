//! The kinds of branches: a primitive of `sync`, an instant, a foreign readiness.

use super::sealed::Internal;
use super::{Branch, Readiness, Signal};
use crate::atomic::thread_time_is_up;
use crate::event_loop::{is_past, now};
use crate::fiber::in_fiber;
use crate::sync::channel::{SendBranch, SendError, send_result};
use crate::sync::policy::Policy;
use crate::sync::wait::{Enlisted, Node, Source, Wait, locked};
use crate::time::Instant;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

/// Whether a select currently waits for the branch.
///
/// A branch has one node for its queue, so only one select at a time may use it. If it were named twice in a select, or
/// shared by the selects of two fibers, its node would be linked twice, and the queue would still lead to it after it
/// is gone.
#[derive(Debug, Default)]
struct Occupied(Cell<bool>);

impl Occupied {
    fn assert_free(&self) {
        assert!(
            !self.0.get(),
            "a select already waits for this branch: it is named twice, or another fiber selects on it; make a branch \
             for each"
        );
    }

    fn enter(&self) {
        self.assert_free();
        self.0.set(true);
    }

    fn leave(&self) {
        self.0.set(false);
    }
}

/// The state of a branch's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    None,
    Kept,
    Taken,
}

/// A primitive of [`sync`](crate::sync) as a branch. The primitive's `…_branch` methods create it.
///
/// If a select took a branch, and the branch is dropped before its outcome is taken, the outcome is handed on: a permit
/// is released, a message goes to the next receiver.
pub struct SourceBranch<S: Source> {
    source: S,
    /// Its slot has been moved out when the outcome is `Taken`.
    node: ManuallyDrop<Node<S::Slot>>,
    outcome: Cell<Outcome>,
    occupied: Occupied,
    enabled: bool,
}

impl<S: Source> SourceBranch<S> {
    pub(in crate::sync) fn new(source: S, slot: S::Slot) -> Self {
        SourceBranch {
            source,
            node: ManuallyDrop::new(Node::new(slot)),
            outcome: Cell::new(Outcome::None),
            occupied: Occupied::default(),
            enabled: true,
        }
    }

    /// Enables or disables the branch. A disabled branch never becomes ready.
    pub(in crate::sync) fn enabled_if(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Removes the node from its queue. Needed only if the select's fiber was abandoned with its loop, and the branch
    /// did not lie on that fiber's stack, which is leaked, but in a thread-local of the loop's thread.
    #[cold]
    fn leave_abandoned_select(&self) {
        let served = locked(&self.source, |state, wakes| {
            if S::queue(state).remove(&self.node) {
                self.source.withdrawn(state, wakes);
            }
            // SAFETY: the wait lies on the fiber's stack, which stays mapped; the lock is held.
            unsafe { self.node.is_served() }
        });
        self.occupied.leave();
        if served && self.outcome.get() == Outcome::None {
            self.outcome.set(Outcome::Kept);
        }
    }
}

impl<S: Source> Internal for SourceBranch<S> {
    fn try_now(&self) -> bool {
        self.occupied.assert_free();
        if self.outcome.get() == Outcome::None && self.enabled {
            // SAFETY: no select uses the branch, and a select removes the node before it ends, so the node is in no
            // queue.
            if unsafe { self.node.with_slot(|slot| self.source.try_now(slot)) } {
                self.outcome.set(Outcome::Kept);
            }
        }
        self.outcome.get() == Outcome::Kept
    }

    fn enter(&self) {
        self.occupied.enter();
    }

    unsafe fn enlist(&self, wait: &Wait, number: u32, _signal: &Signal) -> Enlisted {
        if self.outcome.get() == Outcome::Taken || !self.enabled {
            return Enlisted::Waiting;
        }
        // SAFETY: the node is in no queue, because only this select uses the branch (`enter`). The wait lives until
        // `withdraw`, as the caller promises.
        unsafe { self.node.attach(wait, number) };
        locked(&self.source, |state, wakes| {
            self.source.enlist(state, &self.node, wakes)
        })
    }

    fn withdraw(&self, served: bool) {
        // Even if it was served: the granter holds the lock until it has finished with the node.
        locked(&self.source, |state, wakes| {
            if S::queue(state).remove(&self.node) {
                self.source.withdrawn(state, wakes);
            }
        });
        self.occupied.leave();
        if served {
            self.outcome.set(Outcome::Kept);
        }
    }

    fn between_threads(&self) -> bool {
        S::Policy::BETWEEN_THREADS
    }
}

impl<S: Source> Branch for SourceBranch<S> {
    type Output = S::Output;

    fn take(&self) -> Option<S::Output> {
        if self.outcome.get() != Outcome::Kept {
            return None;
        }
        self.outcome.set(Outcome::Taken);
        // SAFETY: the node is in no queue. Nobody reads the slot of a branch whose outcome is `Taken`, nor is it
        // dropped.
        let slot = unsafe { self.node.with_slot(|slot| std::ptr::read(slot)) };
        Some(self.source.finish(slot))
    }
}

impl<S: Source> Drop for SourceBranch<S> {
    fn drop(&mut self) {
        if self.occupied.0.get() {
            self.leave_abandoned_select();
        }
        if self.outcome.get() == Outcome::Taken {
            return;
        }
        // SAFETY: the node is in no queue; the slot has not been moved out, and is dropped once, here.
        unsafe {
            self.node.with_slot(|slot| match self.outcome.get() {
                Outcome::Kept => self.source.hand_on(slot),
                _ => self.source.unused(slot),
            });
            ManuallyDrop::drop(&mut self.node);
        }
    }
}

impl<S: Source> fmt::Debug for SourceBranch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBranch")
            .field("of", &S::REASON)
            .field("outcome", &self.outcome.get())
            .finish()
    }
}

impl<P: Policy, T> Internal for SendBranch<'_, P, T> {
    fn try_now(&self) -> bool {
        self.0.try_now()
    }

    fn enter(&self) {
        self.0.enter();
    }

    unsafe fn enlist(&self, wait: &Wait, number: u32, signal: &Signal) -> Enlisted {
        // SAFETY: as the caller promises.
        unsafe { self.0.enlist(wait, number, signal) }
    }

    fn withdraw(&self, served: bool) {
        self.0.withdraw(served);
    }

    fn between_threads(&self) -> bool {
        self.0.between_threads()
    }
}

impl<P: Policy, T> Branch for SendBranch<'_, P, T> {
    type Output = Result<(), SendError<T>>;

    fn take(&self) -> Option<Self::Output> {
        self.0.take().map(send_result)
    }
}

/// An optional branch: `None` never becomes ready. A branch with `if` in [`select!`](crate::select) becomes one.
impl<B: Internal> Internal for Option<B> {
    fn try_now(&self) -> bool {
        self.as_ref().is_some_and(Internal::try_now)
    }

    fn enter(&self) {
        if let Some(branch) = self {
            branch.enter();
        }
    }

    unsafe fn enlist(&self, wait: &Wait, number: u32, signal: &Signal) -> Enlisted {
        match self {
            // SAFETY: as the caller promises.
            Some(branch) => unsafe { branch.enlist(wait, number, signal) },
            None => Enlisted::Waiting,
        }
    }

    fn withdraw(&self, served: bool) {
        if let Some(branch) = self {
            branch.withdraw(served);
        }
    }

    fn due(&self) -> Instant {
        self.as_ref().map_or(Instant::NEVER, Internal::due)
    }

    fn between_threads(&self) -> bool {
        self.as_ref().is_none_or(Internal::between_threads)
    }
}

impl<B: Branch> Branch for Option<B> {
    type Output = B::Output;

    fn take(&self) -> Option<B::Output> {
        self.as_ref().and_then(Branch::take)
    }
}

/// An instant as a branch; from [`after`] and [`at`].
#[derive(Debug)]
pub struct Timer {
    at: Instant,
    reached: Cell<bool>,
    occupied: Occupied,
}

/// Returns a branch that becomes ready when `duration` has passed since this call.
///
/// ```
/// use yue_scheduler::{select, sync::channel};
/// use std::time::Duration;
///
/// let (_sender, receiver) = channel::<u8>(1);
/// let got = select! {
///     value = recv(receiver) => value.ok(),
///     _ = after(Duration::from_millis(1)) => None,
/// };
/// assert_eq!(got, Ok(None));
/// ```
pub fn after(duration: Duration) -> Timer {
    at(now().saturating_add(duration))
}

/// Returns a branch that becomes ready at the instant, on the loop's clock (in a plain thread, on the system's).
///
/// ```
/// use yue_scheduler::{Config, Loop, now, select};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let deadline = now();
///     select! { _ = at(deadline) => {} }.unwrap();
/// });
/// ```
pub fn at(at: Instant) -> Timer {
    Timer {
        at,
        reached: Cell::new(false),
        occupied: Occupied::default(),
    }
}

impl Internal for Timer {
    fn try_now(&self) -> bool {
        self.occupied.assert_free();
        let reached = match in_fiber() {
            true => is_past(self.at),
            // In a model, time passes only while a thread waits.
            false => !cfg!(loom) && thread_time_is_up(self.at),
        };
        self.reached.set(reached);
        reached
    }

    fn enter(&self) {
        self.occupied.enter();
    }

    unsafe fn enlist(&self, _wait: &Wait, _number: u32, _signal: &Signal) -> Enlisted {
        Enlisted::Waiting
    }

    fn withdraw(&self, served: bool) {
        self.occupied.leave();
        self.reached.set(served);
    }

    fn due(&self) -> Instant {
        self.at
    }
}

impl Branch for Timer {
    type Output = ();

    fn take(&self) -> Option<()> {
        self.reached.take().then_some(())
    }
}

/// A [`Readiness`] as a branch; from [`ready`].
///
/// ```
/// use yue_scheduler::sync::select::{self, Branch, Ready};
/// use yue_scheduler::{Config, Loop, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (mut one, mut other) = (spawn(|| 1), spawn(|| 2));
///     let branches: [Ready<_>; 2] = [one.join_branch(), other.join_branch()];
///     let taken = select::wait(&[&branches[0], &branches[1]]).unwrap();
///     assert_eq!(branches[taken].take().unwrap().unwrap(), taken + 1);
/// });
/// ```
pub struct Ready<R: Readiness> {
    readiness: RefCell<R>,
    output: RefCell<Option<R::Output>>,
    watched: Cell<bool>,
    occupied: Occupied,
    between_threads: bool,
}

/// Turns a [`Readiness`] into a branch. The example below is the smallest; [`Readiness`] has a longer one.
///
/// ```
/// use yue_scheduler::sync::select::{self, Branch, Readiness, Signal};
///
/// /// Ready from the beginning.
/// struct Here(Option<&'static str>);
///
/// impl Readiness for Here {
///     type Output = &'static str;
///     fn poll(&mut self) -> Option<&'static str> {
///         self.0.take()
///     }
///     fn watch(&mut self, _: Signal) {}
///     fn unwatch(&mut self) {}
/// }
///
/// let branch = select::ready(Here(Some("a gift")));
/// assert_eq!(select::wait(&[&branch]), Ok(0));
/// assert_eq!(branch.take(), Some("a gift"));
/// ```
pub fn ready<R: Readiness>(readiness: R) -> Ready<R> {
    Ready {
        readiness: RefCell::new(readiness),
        output: RefCell::new(None),
        watched: Cell::new(false),
        occupied: Occupied::default(),
        between_threads: true,
    }
}

impl<R: Readiness> Ready<R> {
    /// Restricts the branch to fibers: a plain thread that selects over it panics.
    ///
    /// ```should_panic
    /// use yue_scheduler::sync::select::{self, Readiness, Signal};
    ///
    /// /// A readiness that only the waiting fiber's own loop can signal.
    /// struct OfTheLoop;
    ///
    /// impl Readiness for OfTheLoop {
    ///     type Output = ();
    ///     fn poll(&mut self) -> Option<()> {
    ///         None
    ///     }
    ///     fn watch(&mut self, _: Signal) {}
    ///     fn unwatch(&mut self) {}
    /// }
    ///
    /// let branch = select::ready(OfTheLoop).on_this_loop();
    /// let _ = select::wait(&[&branch]); // Panics: not in a fiber, so nothing would ever wake it.
    /// ```
    pub fn on_this_loop(self) -> Self {
        Ready {
            between_threads: false,
            ..self
        }
    }
}

impl<R: Readiness> Internal for Ready<R> {
    fn try_now(&self) -> bool {
        self.occupied.assert_free();
        let mut output = self.output.borrow_mut();
        if output.is_none() {
            *output = self.readiness.borrow_mut().poll();
        }
        output.is_some()
    }

    fn enter(&self) {
        self.occupied.enter();
    }

    unsafe fn enlist(&self, _wait: &Wait, _number: u32, signal: &Signal) -> Enlisted {
        self.watched.set(true);
        self.readiness.borrow_mut().watch(signal.clone());
        Enlisted::Waiting
    }

    fn withdraw(&self, _served: bool) {
        self.occupied.leave();
        if self.watched.replace(false) {
            self.readiness.borrow_mut().unwatch();
        }
    }

    fn between_threads(&self) -> bool {
        self.between_threads
    }
}

impl<R: Readiness> Branch for Ready<R> {
    type Output = R::Output;

    fn take(&self) -> Option<R::Output> {
        self.output.take()
    }
}

impl<R: Readiness> fmt::Debug for Ready<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}
