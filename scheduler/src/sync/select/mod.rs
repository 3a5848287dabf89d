//! Select: waiting for whichever of several things comes first.
//!
//! # How it works
//!
//! 1. Every branch is asked whether it is ready, from a random one on; the first that is, is taken.
//! 2. Otherwise every branch puts a node into its queue, all of them on the same wait (see `wait.rs`). A branch that
//!    has become ready meanwhile claims that wait itself and is taken.
//! 3. The fiber parks. Whoever claims the wait has served one branch. All nodes are taken out before the call returns.
//!
//! What was not taken is as it was: the permits were not acquired, the message is still in its channel, the value that
//! was to be sent is back in its variable, the fiber that was to be joined still can be.
//!
//! # Fairness
//!
//! In each call another branch is asked first, and from there on they are asked in order. Which one is pseudo-random,
//! each as likely as the others, so that no branch can starve another; and it is a function of the fiber and the number
//! of waits that it has begun, so that a run that is repeated (a simulation) repeats it. A select keeps its places in
//! the queues for as long as it waits; it gives them up, and begins anew, when a [`Readiness`] has woken it for
//! nothing.

mod branches;
mod joins;
mod macros;
mod shutdown;

pub use branches::{Ready, SourceBranch, Timer, after, at, ready};
pub use joins::JoinBranch;
pub use shutdown::{Shutdown, shutdown};

use super::wait::{Enlisted, Wait};
pub use super::waker::Signal;
use super::waker::{assert_may_wait, shuffle, suspend};
use crate::fiber::{Stopped, Wakeup, check_stopped, refuse_call};
use crate::time::Instant;
use std::cell::Cell;

/// Something outside this module that a select can wait for: a socket that becomes readable, an event of a library.
///
/// A select polls first. If nothing is ready, it hands out a [`Signal`] that whoever brings the readiness must raise,
/// and parks. A signal means "look again": the select polls, and may find nothing. It is not an error to raise one
/// twice or late.
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
    /// What the branch gives.
    type Output;

    /// Takes the outcome if it is there. Called on the waiting fiber; must not suspend.
    fn poll(&mut self) -> Option<Self::Output>;

    /// Has `signal` raised, once, when `poll` may give something. If that is so already, raises it at once. Replaces
    /// the signal of an earlier call.
    ///
    /// Called on the waiting fiber, whose wait has begun. It must not suspend, nor begin another wait in any other way
    /// ([`prepare_park`](crate::prepare_park), a select that only polls): that would void the signal. The select panics
    /// if it finds that it did.
    fn watch(&mut self, signal: Signal);

    /// Forgets the signal. The call that ends a `watch` before the select returns, whatever it returns. Must not
    /// suspend.
    fn unwatch(&mut self);
}

/// One branch of a select, without its outcome's type. Sealed: what is not of this module comes in by [`Readiness`].
///
/// ```
/// use yue_scheduler::sync::select::{self, AnyBranch, Branch};
/// use yue_scheduler::sync::channel;
///
/// // A number of branches that is known only at run time:
/// let channels: Vec<_> = (0..3).map(|_| channel(1)).collect();
/// channels[1].0.send("one").unwrap();
/// let branches: Vec<_> = channels.iter().map(|(_, receiver)| receiver.recv_branch()).collect();
/// let any: Vec<&dyn AnyBranch> = branches.iter().map(|branch| branch as &dyn AnyBranch).collect();
/// let taken = select::wait(&any).unwrap();
/// assert_eq!((taken, branches[taken].take()), (1, Some(Ok("one"))));
/// ```
pub trait AnyBranch: sealed::Internal {}

/// One branch of a select, with its outcome.
///
/// ```
/// use yue_scheduler::sync::channel;
/// use yue_scheduler::sync::select::{self, Branch};
///
/// /// Waits for one thing only.
/// fn one<B: Branch>(branch: B) -> Option<B::Output> {
///     select::wait(&[&branch]).ok()?;
///     branch.take()
/// }
///
/// let (sender, receiver) = channel(1);
/// sender.send("hello").unwrap();
/// assert_eq!(one(receiver.recv_branch()), Some(Ok("hello")));
/// ```
pub trait Branch: AnyBranch {
    /// What the branch gives.
    type Output;

    /// The outcome, if this was the branch that was taken; once.
    fn take(&self) -> Option<Self::Output>;
}

pub(super) mod sealed {
    use super::*;

    /// What a select asks of a branch. All of it by shared references: the branch's node may be in a queue.
    pub trait Internal {
        /// Takes the branch if it is ready.
        ///
        /// # Panics
        /// If a select waits for the branch.
        fn try_now(&self) -> bool;

        /// Makes the branch the caller's until `withdraw`. Comes before `enlist`, and by itself, so that the withdrawal
        /// of a select that was refused a branch does not take it from the select that has it.
        ///
        /// # Panics
        /// If a select waits for the branch.
        fn enter(&self);

        /// Has the wait claimed with `number` when the branch is ready; from here to `withdraw` the branch must not
        /// move.
        ///
        /// # Safety
        /// The caller has entered the branch, and `wait` lives until `withdraw` has returned.
        unsafe fn enlist(&self, wait: &Wait, number: u32, signal: &Signal) -> Enlisted;

        /// Ends what `enter` and `enlist` began. If the branch was `served`, keeps the outcome.
        fn withdraw(&self, served: bool);

        /// When the branch becomes ready by itself.
        fn due(&self) -> Instant {
            Instant::NEVER
        }

        /// Whether a plain thread can be woken by it.
        fn between_threads(&self) -> bool {
            true
        }
    }
}

impl<B: sealed::Internal> AnyBranch for B {}

/// Waits until one of the branches is ready and takes it; answers which. [`select!`](crate::select) is the convenient
/// form; this one is for a number of branches that is not known beforehand.
///
/// Without branches it waits until the fiber is told to stop.
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
/// [`Stopped`] when the fiber is told to stop first, or had been before; no branch is taken then.
///
/// # Panics
/// If it must wait where suspension is forbidden, or in a callback of a loop; in a plain thread, if there are branches
/// of `sync::local`. If another select waits for one of the branches, or this one must wait and names a branch twice.
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

/// As [`wait`], but `None` if no branch is ready.
///
/// # Errors
/// As [`wait`].
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

/// Takes the first branch that is ready, from a random one on.
fn take_ready(branches: &[&dyn AnyBranch]) -> Option<usize> {
    let count = branches.len();
    let first = if count > 1 { shuffle(count) } else { 0 };
    let mut order = (first..count).chain(0..first);
    order.find(|index| branches[*index].try_now())
}

/// The branches that a wait is in, the first `count` of them; withdrawn when the round ends, however it ends.
struct Round<'a> {
    branches: &'a [&'a dyn AnyBranch],
    wait: &'a Wait,
    count: Cell<usize>,
    /// The branch that has been served.
    served: Cell<Option<usize>>,
    /// The claim is to be ignored: it was made in vain.
    again: Cell<bool>,
}

impl Round<'_> {
    /// Puts the wait into every branch's queue. Returns whether it must be waited for.
    fn enlist(&self, signal: &Signal) -> bool {
        for (index, branch) in self.branches.iter().enumerate() {
            branch.enter();
            self.count.set(index + 1);
            // SAFETY: entered; the wait lives until this round has been dropped, which withdraws.
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
            // Nobody has served a branch; time may have.
        } else {
            self.served
                .set(self.wait.claimed_by().map(|number| number as usize - 1));
        }
        let served = self.served.get();
        while let Some(index) = self.count.get().checked_sub(1) {
            // First: an `unwatch` of the program's may panic, and the drop of the round then withdraws the rest. A node
            // that stayed in its queue would lead to a wait that is gone.
            self.count.set(index);
            self.branches[index].withdraw(served == Some(index));
        }
        served
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // Only while unwinding is there still something to withdraw. A branch that was served hands on what it got.
        self.withdraw();
    }
}

/// One round: into all queues, wait, out of all queues. `None`: begin anew.
#[cold]
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
            // If nobody has claimed the wait meanwhile.
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
