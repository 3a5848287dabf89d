//! Select: waiting for the first of several operations to become ready.
//!
//! # How it works
//!
//! 1. The select polls every branch, starting from a random one. The first that is ready is taken.
//! 2. Otherwise every branch puts a node into its queue, all on the same wait (see `wait.rs`). A branch that has become
//!    ready in the meantime claims that wait itself and is taken.
//! 3. The fiber parks. The claimer of the wait has served one branch. All nodes are removed before the call returns.
//!
//! Branches that are not taken are unchanged: the permits were not acquired, the message is still in its channel, the
//! value to be sent is back in its variable, the fiber to be joined can still be joined.
//!
//! # Fairness
//!
//! Each call polls another branch first, and then the others in order. The first one is pseudo-random, with equal
//! probability, so that no branch can starve another. It is a function of the fiber and the number of waits that it has
//! begun, so a repeated run (a simulation) repeats it. A select keeps its queue positions while it waits. It gives them
//! up, and starts over, when a [`Readiness`] has woken it for nothing.

mod branches;
mod joins;
mod macros;
mod order;
mod shutdown;

pub use branches::{Ready, SourceBranch, Timer, after, at, ready};
pub use joins::JoinBranch;
pub use shutdown::{Shutdown, shutdown};

use super::suspend::{assert_may_wait, suspend};
use super::wait::{Enlisted, Wait};
pub use crate::fiber::Signal;
use crate::fiber::{Stopped, Wakeup, check_stopped, refuse_call};
use crate::time::Instant;
use order::random_below;
use std::cell::Cell;

/// An external operation that a select can wait for: a socket that becomes readable, an event of a library.
///
/// A select polls first. If nothing is ready, it passes out a [`Signal`], which must be raised when the operation
/// becomes ready, and parks. A signal means "check again": the select polls, and may find nothing. A signal may be
/// raised twice or late.
///
/// ```
/// use yue_scheduler::sync::select::{self, Readiness, Signal};
/// use yue_scheduler::{Config, Loop, select, sleep, spawn};
/// use std::{cell::RefCell, rc::Rc, time::Duration};
///
/// #[derive(Default)]
/// struct Door { open: bool, waiter: Option<Signal> }
///
/// struct Opened<'a>(&'a RefCell<Door>);
///
/// impl Readiness for Opened<'_> {
///     type Output = ();
///     fn poll(&mut self) -> Option<()> {
///         self.0.borrow().open.then_some(())
///     }
///     fn watch(&mut self, signal: Signal) {
///         self.0.borrow_mut().waiter = Some(signal);
///     }
///     fn unwatch(&mut self) {
///         self.0.borrow_mut().waiter = None;
///     }
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let door = Rc::new(RefCell::new(Door::default()));
///     let opener = door.clone();
///     spawn(move || {
///         sleep(Duration::from_millis(1)).unwrap();
///         let mut door = opener.borrow_mut();
///         door.open = true;
///         door.waiter.take().unwrap().raise();
///     });
///     let went = select! {
///         _ = select::ready(Opened(&door)) => "in",
///         _ = after(Duration::from_secs(30)) => "home",
///     };
///     assert_eq!(went, Ok("in"));
/// });
/// ```
pub trait Readiness {
    /// The outcome of the branch.
    type Output;

    /// Takes the outcome if it is ready. Called on the waiting fiber; must not suspend.
    fn poll(&mut self) -> Option<Self::Output>;

    /// Registers `signal`, to be raised once when `poll` may return an outcome. If it already may, raises the signal at
    /// once. Replaces the signal of an earlier call.
    ///
    /// Called on the waiting fiber, whose wait has begun. It must not suspend, nor begin another wait in any other way
    /// ([`prepare_park`](crate::prepare_park), a select that only polls), because that would void the signal. The
    /// select checks this and panics.
    fn watch(&mut self, signal: Signal);

    /// Drops the signal. After each `watch` the select calls it before it returns, with any result. Must not suspend.
    fn unwatch(&mut self);
}

/// One branch of a select, without its outcome's type. Sealed: other modules take part through [`Readiness`].
///
/// ```
/// use yue_scheduler::sync::select::{self, AnyBranch, Branch};
/// use yue_scheduler::sync::channel;
///
/// // The number of branches is known only at run time:
/// let channels: Vec<_> = (0..3).map(|_| channel(1)).collect();
/// channels[1].0.send("one").unwrap();
/// let branches: Vec<_> = channels.iter().map(|(_, receiver)| receiver.recv_branch()).collect();
/// let any: Vec<&dyn AnyBranch> = branches.iter().map(|branch| branch as &dyn AnyBranch).collect();
/// let taken = select::wait(&any).unwrap();
/// assert_eq!((taken, branches[taken].take()), (1, Some(Ok("one"))));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a branch of a select",
    label = "not a branch",
    note = "`select!` has a form for each kind of value: \
            `recv(receiver)`, `send(sender, pending)`, `join(handle)`, `lock(mutex)`, `acquire(semaphore, n)`, \
            `notified(notify)`, `readable(socket)`, `writable(socket)`, `after(duration)`, `at(instant)`",
    note = "`select::ready(value)` makes a branch of a value that implements `Readiness`"
)]
pub trait AnyBranch: sealed::Internal {}

/// One branch of a select, with its outcome.
///
/// ```
/// use yue_scheduler::sync::channel;
/// use yue_scheduler::sync::select::{self, Branch};
///
/// /// Waits for a single branch.
/// fn wait_for_one<B: Branch>(branch: B) -> Option<B::Output> {
///     select::wait(&[&branch]).ok()?;
///     branch.take()
/// }
///
/// let (sender, receiver) = channel(1);
/// sender.send("hello").unwrap();
/// assert_eq!(wait_for_one(receiver.recv_branch()), Some(Ok("hello")));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a branch of a select",
    label = "not a branch",
    note = "`select!` has a form for each kind of value: \
            `recv(receiver)`, `send(sender, pending)`, `join(handle)`, `lock(mutex)`, `acquire(semaphore, n)`, \
            `notified(notify)`, `readable(socket)`, `writable(socket)`, `after(duration)`, `at(instant)`",
    note = "`select::ready(value)` makes a branch of a value that implements `Readiness`"
)]
pub trait Branch: AnyBranch {
    /// The type of the outcome.
    type Output;

    /// Takes the outcome, once, if this branch was taken.
    fn take(&self) -> Option<Self::Output>;
}

pub(super) mod sealed {
    use super::*;

    /// The operations of a select on a branch. All take shared references, because the branch's node may be in a queue.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a branch of a select",
        label = "not a branch",
        note = "`select!` has a form for each kind of value: \
                `recv(receiver)`, `send(sender, pending)`, `join(handle)`, `lock(mutex)`, `acquire(semaphore, n)`, \
                `notified(notify)`, `readable(socket)`, `writable(socket)`, `after(duration)`, `at(instant)`",
        note = "`select::ready(value)` makes a branch of a value that implements `Readiness`"
    )]
    pub trait Internal {
        /// Takes the branch if it is ready.
        ///
        /// # Panics
        /// If a select waits for the branch.
        fn try_now(&self) -> bool;

        /// Reserves the branch for the caller until `withdraw`. It comes before `enlist`, as a separate step, so that
        /// the withdrawal of a select that was refused a branch does not take it from the select that has it.
        ///
        /// # Panics
        /// If a select waits for the branch.
        fn enter(&self);

        /// Registers the wait, which is claimed with `number` when the branch becomes ready. From here to `withdraw`
        /// the branch must not move.
        ///
        /// # Safety
        /// The caller has entered the branch, and `wait` lives until `withdraw` has returned.
        unsafe fn enlist(&self, wait: &Wait, number: u32, signal: &Signal) -> Enlisted;

        /// Undoes `enter` and `enlist`. If the branch was `served`, keeps the outcome.
        fn withdraw(&self, served: bool);

        /// Returns when the branch becomes ready by itself.
        fn due(&self) -> Instant {
            Instant::NEVER
        }

        /// Returns whether the branch can wake a plain thread.
        fn between_threads(&self) -> bool {
            true
        }
    }
}

impl<B: sealed::Internal> AnyBranch for B {}

/// Waits until one of the branches is ready, takes it, and returns its index. [`select!`](crate::select) is the
/// convenient form; this one is for a number of branches that is known only at run time.
///
/// Without branches it waits until the fiber is stopped.
///
/// ```
/// use yue_scheduler::sync::{channel, select};
/// use yue_scheduler::sync::select::Branch;
///
/// let (quiet, busy) = (channel::<u32>(1), channel(1));
/// busy.0.send(7).unwrap();
/// let (one, other) = (quiet.1.recv_branch(), busy.1.recv_branch());
/// assert_eq!(select::wait(&[&one, &other]), Ok(1));
/// assert_eq!((one.take(), other.take()), (None, Some(Ok(7))));
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber is cancelled or a deadline passes, before or during the wait. No branch is then taken.
///
/// # Panics
/// If it must wait where suspension is forbidden, or in a callback of a loop; in a plain thread, if there are branches
/// of `sync::local`; if another select waits for one of the branches; or if it must wait and names a branch twice.
#[track_caller]
pub fn wait(branches: &[&dyn AnyBranch]) -> Result<usize, Stopped> {
    check_stopped()?;
    loop {
        if let Some(taken) = take_ready(branches) {
            return Ok(taken);
        }
        if let Some(taken) = wait_once(branches)? {
            return Ok(taken);
        }
    }
}

/// Like [`wait`], but returns `None` if no branch is ready.
///
/// # Errors
/// See [`wait`].
///
/// ```
/// use yue_scheduler::sync::{Notify, select};
///
/// let notify = Notify::new();
/// assert_eq!(select::poll(&[&notify.notified_branch()]), Ok(None));
/// ```
pub fn poll(branches: &[&dyn AnyBranch]) -> Result<Option<usize>, Stopped> {
    check_stopped()?;
    Ok(take_ready(branches))
}

/// Takes the first ready branch, starting from a random one.
fn take_ready(branches: &[&dyn AnyBranch]) -> Option<usize> {
    let count = branches.len();
    let first = if count > 1 { random_below(count) } else { 0 };
    let mut order = (first..count).chain(0..first);
    order.find(|index| branches[*index].try_now())
}

/// The branches that a wait is registered with: the first `count`. They are withdrawn when the round ends, even by
/// unwinding.
struct Round<'a> {
    branches: &'a [&'a dyn AnyBranch],
    wait: &'a Wait,
    count: Cell<usize>,
    /// The branch that was served.
    served: Cell<Option<usize>>,
    /// Set if the claim must be ignored, because it was made in vain.
    again: Cell<bool>,
}

impl Round<'_> {
    /// Puts the wait into every branch's queue. Returns whether the fiber must wait.
    fn enlist(&self, signal: &Signal) -> bool {
        for (index, branch) in self.branches.iter().enumerate() {
            branch.enter();
            self.count.set(index + 1);
            // SAFETY: entered; the wait lives until this round has been dropped, and that drop withdraws.
            match unsafe { branch.enlist(self.wait, index as u32 + 1, signal) } {
                Enlisted::Waiting => {}
                Enlisted::Done | Enlisted::Lost => return false,
                Enlisted::Again => {
                    self.again.set(true);
                    return false;
                }
            }
        }
        true
    }

    fn withdraw(&self) -> Option<usize> {
        if self.wait.give_up() || self.again.get() {
            // No branch was served, but the time may have come.
        } else {
            self.served
                .set(self.wait.claimed_by().map(|number| number as usize - 1));
        }
        let served = self.served.get();
        while let Some(index) = self.count.get().checked_sub(1) {
            // First: an `unwatch` in the program's code may panic, and the drop of the round then withdraws the rest. A
            // node left in its queue would lead to a wait that is gone.
            self.count.set(index);
            self.branches[index].withdraw(served == Some(index));
        }
        served
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // Something is left to withdraw only while unwinding. A branch that was served hands on what it got.
        self.withdraw();
    }
}

/// One round: enter all queues, wait, leave all queues. `None`: start over.
#[cold]
#[track_caller]
fn wait_once(branches: &[&dyn AnyBranch]) -> Result<Option<usize>, Stopped> {
    assert_may_wait(branches.iter().all(|branch| branch.between_threads()));
    let signal = Signal::new();
    let wait = Wait::new(true, signal.clone());
    let round = Round {
        branches,
        wait: &wait,
        count: Cell::new(0),
        served: Cell::new(None),
        again: Cell::new(false),
    };
    let mut stopped = None;
    if round.enlist(&signal) {
        assert!(
            signal.is_current(),
            "a Readiness began another wait in its `watch`, so that the select would never be woken; `watch` must not \
             suspend or call prepare_park"
        );
        let due = branches.iter().map(|branch| branch.due()).min();
        let due = due.unwrap_or(Instant::NEVER);
        match suspend("select", due) {
            Ok(Wakeup::Woken) => {}
            // If nobody has claimed the wait in the meantime.
            Ok(Wakeup::TimedOut) => round
                .served
                .set(branches.iter().position(|branch| branch.due() == due)),
            Err(reason) => stopped = Some(reason),
        }
    }
    match (round.withdraw(), stopped) {
        (None, Some(reason)) => Err(refuse_call(reason)),
        (served, _) => Ok(served),
    }
}
