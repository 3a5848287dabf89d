//! Memory that fibers have lent, and the end of the loop's thread.
//!
//! A fiber lends memory to the kernel (the buffer of an operation in a ring) and to threads of the blocking pool (what
//! a closure borrows), and waits until they are done with it. A fiber that is abandoned waits no more, so what it lent
//! must stay for ever. Its stack and its fiber-locals are leaked for that reason. But it may also have lent a
//! thread-local of the loop's thread, and those are freed when the thread ends:
//!
//! ```text
//!   loop dropped: fibers abandoned, loans left ──▶ a thread-local of ours, the last to be made so far
//!   thread ends:  ours is destroyed first ──▶ waits until the loans are back ──▶ the others are destroyed
//!                                              └─ they do not come back: abort
//! ```
//!
//! The wait is at the end of the thread, not of the loop: [`Loop::run`](super::Loop::run) returns, and a program whose
//! thread goes on is not held up. It is bounded, and then the process aborts with words: freed memory that the kernel
//! or another thread writes to must not be, and a thread that never ends would hang whoever joins it.
//!
//! Invariants:
//! - A [`Loan`] is counted from before its job is queued until the job's closure is consumed or taken back.
//! - Thread-locals are destroyed in the reverse order of their registration, so ours goes before all that existed when
//!   the fibers were abandoned; they never run again, and so cannot have lent any that is newer. Where that order is
//!   not to be had (an earlier loop of the thread has registered ours already, or the thread is ending) the wait is
//!   done at once.

use super::{Inner, Shared};
use crate::driver::{Driver, Wait};
use crate::time::Instant;
use std::cell::OnceCell;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How long the end of a loop waits for operations that it has cancelled once more.
const DRAIN: Duration = Duration::from_millis(500);
/// How many times the loop's `stop_grace` the end of its thread waits for loans.
const THREAD_END_GRACES: u32 = 5;
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The blocking calls that borrow from fibers of a loop.
#[derive(Debug, Default)]
pub(super) struct Loans(AtomicUsize);

/// One of them.
pub(crate) struct Loan(Arc<Shared>);

impl Loan {
    fn new(shared: Arc<Shared>) -> Loan {
        // Relaxed: the count goes up on the loop's thread, which is the one that reads it.
        shared.loans.0.fetch_add(1, Ordering::Relaxed);
        Loan(shared)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Release: pairs with the load in `Lent::count`; what the closure did comes before the thread's end.
        self.0.loans.0.fetch_sub(1, Ordering::Release);
    }
}

impl Inner {
    /// Counts a blocking call that borrows from a fiber of this loop.
    pub(crate) fn lend(&self) -> Loan {
        Loan::new(self.inbox.shared.clone())
    }
}

/// What abandoned fibers of a loop that is gone have lent.
struct Lent {
    /// `None` if the kernel has nothing.
    driver: Option<Box<dyn Driver>>,
    shared: Arc<Shared>,
    patience: Duration,
}

thread_local! {
    static AT_THREAD_END: OnceCell<Lent> = const { OnceCell::new() };
}

/// Sees to it that the thread does not end before what abandoned fibers of a loop have lent is given back.
pub(super) fn outlive(driver: Box<dyn Driver>, shared: Arc<Shared>, stop_grace: Duration) {
    let mut lent = Lent {
        driver: Some(driver),
        shared,
        patience: stop_grace.saturating_mul(THREAD_END_GRACES),
    };
    if lent.operations() == 0 || lent.wait_for_operations(DRAIN) {
        lent.driver = None;
    }
    if lent.count() > 0 {
        // Refused if it is set already, or destroyed; then the wait is here, in `lent`'s drop.
        let _ = AT_THREAD_END.try_with(|end| drop(end.set(lent)));
    }
}

impl Lent {
    fn operations(&self) -> usize {
        self.driver.as_ref().map_or(0, |driver| driver.lent())
    }

    fn calls(&self) -> usize {
        // Acquire: pairs with the drop of a `Loan`.
        self.shared.loans.0.load(Ordering::Acquire)
    }

    fn count(&self) -> usize {
        self.operations() + self.calls()
    }

    /// Returns whether the kernel has given everything back.
    fn wait_for_operations(&self, limit: Duration) -> bool {
        self.wait(limit, Lent::operations)
    }

    fn wait(&self, limit: Duration, left: impl Fn(&Lent) -> usize) -> bool {
        let until = Instant::system().saturating_add(limit);
        while left(self) > 0 {
            if Instant::system() >= until {
                return false;
            }
            self.look();
        }
        true
    }

    fn look(&self) {
        let Some(driver) = self.driver.as_ref().filter(|driver| driver.lent() > 0) else {
            return thread::sleep(LOOK_EVERY);
        };
        driver.cancel_all();
        let pause = Instant::system().saturating_add(LOOK_EVERY);
        if driver.turn(Wait::Block(Some(pause))).is_err() {
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.wait(self.patience, Lent::count) {
            return;
        }
        crate::say(format_args!(
            "thread '{}' cannot end: {} operations of the kernel and {} blocking calls still use memory that abandoned \
             fibers of its loop lent them, which may be the thread's own; aborting",
            self.shared.vitals().thread.name,
            self.operations(),
            self.calls(),
        ));
        process::abort();
    }
}
