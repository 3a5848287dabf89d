//! Memory that fibers have lent, and its protection at the end of the loop's thread.
//!
//! A fiber lends memory to the kernel (the buffer of an operation in a ring) and to threads of the blocking pool (the
//! data that a closure borrows), and waits until they no longer use it. An abandoned fiber does not wait, so the memory
//! it lent must stay forever. Its stack and its fiber-locals are leaked for that reason. But it may also have lent a
//! thread-local of the loop's thread, and thread-locals are freed when the thread ends:
//!
//! ```text
//!   loop dropped: fibers abandoned, loans left ──▶ our thread-local is registered, after all others so far
//!   thread ends:  ours is destroyed first ──▶ waits until the loans are returned ──▶ the others are destroyed
//!                                              └─ they are not returned: abort
//! ```
//!
//! The wait is at the end of the thread, not of the loop. [`Loop::run`](super::Loop::run) returns, and a program whose
//! thread continues is not delayed. The wait is bounded. After it the process aborts with a message: the kernel or
//! another thread must not write to freed memory, and a thread that never ends would block every thread that joins it.
//!
//! Invariants:
//! - A [`Loan`] is counted from before its job is queued until the job's closure is consumed or taken back.
//! - Thread-locals are destroyed in the reverse order of their registration, so ours is destroyed before all that
//!   existed when the fibers were abandoned. Those fibers never run again, so they cannot have lent a newer one. Where
//!   the order cannot be guaranteed (an earlier loop of the thread has already registered ours, or the thread is
//!   ending), the wait happens at once.

use super::shared::Shared;
use super::state::Inner;
use crate::driver::{Driver, Wait};
use crate::time::Instant;
use std::cell::OnceCell;
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// The time that the end of a loop waits for its operations after cancelling them once more.
const DRAIN: Duration = Duration::from_millis(500);
/// The time that the end of the thread waits for loans, as a multiple of the loop's `stop_grace`.
const THREAD_END_GRACES: u32 = 5;
/// Interval between checks of the outstanding loans.
const CHECK_EVERY: Duration = Duration::from_millis(1);

/// One blocking call that borrows from a fiber.
pub(crate) struct Loan(Arc<Shared>);

impl Loan {
    fn new(shared: Arc<Shared>) -> Loan {
        // Relaxed: the count goes up on the loop's thread, which is the thread that reads it.
        shared.loans.0.fetch_add(1, Ordering::Relaxed);
        Loan(shared)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Release: pairs with the load in `Lent::calls`. The closure's accesses come before the thread's end.
        self.0.loans.0.fetch_sub(1, Ordering::Release);
    }
}

impl Inner {
    /// Counts a blocking call that borrows from a fiber of this loop.
    pub(crate) fn lend(&self) -> Loan {
        Loan::new(self.inbox.shared.clone())
    }
}

/// The outstanding loans of abandoned fibers of a loop that has ended.
struct Lent {
    /// `None` if the kernel holds no loan.
    driver: Option<Box<dyn Driver>>,
    shared: Arc<Shared>,
    patience: Duration,
}

thread_local! {
    static AT_THREAD_END: OnceCell<Lent> = const { OnceCell::new() };
}

/// Keeps the thread from ending before the loans of a loop's abandoned fibers are returned.
pub(super) fn hold_thread_end(driver: Box<dyn Driver>, shared: Arc<Shared>, stop_grace: Duration) {
    let mut lent = Lent {
        driver: Some(driver),
        shared,
        patience: stop_grace.saturating_mul(THREAD_END_GRACES),
    };
    if lent.operations() == 0 || lent.wait_for_operations(DRAIN) {
        lent.driver = None;
    }
    if lent.count() > 0 {
        // Fails if it is already set, or destroyed. `lent`'s drop then waits here.
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

    /// Waits up to `limit`. Returns whether the kernel has returned all loans.
    fn wait_for_operations(&self, limit: Duration) -> bool {
        self.wait(limit, Lent::operations)
    }

    fn wait(&self, limit: Duration, left: impl Fn(&Lent) -> usize) -> bool {
        let until = Instant::system().saturating_add(limit);
        while left(self) > 0 {
            if Instant::system() >= until {
                return false;
            }
            self.wait_once();
        }
        true
    }

    fn wait_once(&self) {
        let Some(driver) = self.driver.as_ref().filter(|driver| driver.lent() > 0) else {
            return thread::sleep(CHECK_EVERY);
        };
        driver.cancel_all();
        let pause = Instant::system().saturating_add(CHECK_EVERY);
        if driver.turn(Wait::Block(Some(pause))).is_err() {
            thread::sleep(CHECK_EVERY);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.wait(self.patience, Lent::count) {
            return;
        }
        crate::log(
            crate::LogLevel::Error,
            format_args!(
                "thread '{}' cannot end: {} operations of the kernel and {} blocking calls still use memory that \
             abandoned fibers of its loop lent them, which may be the thread's own; aborting",
                self.shared.vitals().thread.name,
                self.operations(),
                self.calls(),
            ),
        );
        process::abort();
    }
}
