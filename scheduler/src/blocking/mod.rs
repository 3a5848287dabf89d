//! Blocking calls from fibers: the closure runs on a thread of a pool while the fiber parks.
//!
//! ```text
//!   fiber:   task (queued) ──▶ pool's queue         park
//!   thread:                     run the closure      store the outcome in the task, wake the fiber
//!   fiber:   take the outcome; a panic resumes here
//! ```
//!
//! A fiber that is stopped meanwhile takes its closure back if it has not begun. A running closure cannot be stopped
//! from outside. What happens then depends on what it may touch. A closure that owns all its data ([`blocking`]) is
//! detached. A closure that borrows from the fiber's frames ([`blocking_borrowed`]) may be writing there, so the fiber
//! waits for it, even when it is cancelled or past its deadline.
//!
//! Invariants:
//! - A task is finished (`Stage::Finished`) only after its closure is consumed. From then on the thread touches nothing
//!   but the task itself, which is reference-counted. So a frame that the closure borrowed from may be left.
//! - `Stage::Queued` changes only under the pool's lock, which is taken before the task's.
//! - [`blocking_borrowed`] is not left, by return or by unwinding, while its closure runs. If its fiber is abandoned in
//!   that time, the fiber's stack and fiber-locals are leaked, and its thread does not end before the closure has
//!   (`Loan`).

mod pool;

pub use pool::{
    BlockingCounters, BlockingLimits, blocking_counters, set_blocking_limits, wait_for_blocking,
};

use crate::event_loop::{Loan, this_loop, with_loop};
use crate::fiber::{
    RemoteWaker, Stopped, guarded, in_fiber, may_suspend, park_uninterruptible, park_unrefused,
    prepare_park, refuse_call,
};
use crate::lock::lock;
use crate::panics::drop_payload;
use crate::time::Instant;
use pool::Job;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The reason why a blocking call returned no result.
///
/// ```
/// use std::sync::mpsc::channel;
/// use yue_scheduler::{BlockingError, Config, Loop, blocking, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let (answer, question) = channel::<u32>();
///     let caller = spawn(move || blocking(move || question.recv()));
///     caller.cancel();
///     assert!(matches!(caller.join().unwrap(), Err(BlockingError::Stopped(_))));
///     drop(answer); // the call was still waiting
/// });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The calling fiber was cancelled, or a deadline passed first.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The pool has no thread and the system cannot start one.
    #[error("cannot start a thread for a blocking call: {0}")]
    NoThread(io::Error),
    /// The calling fiber unwinds from a panic (the call was made in a destructor), and cannot wait until that has
    /// ended.
    #[error("cannot wait for a blocking call while unwinding from a panic")]
    Unwinding,
}

impl From<BlockingError> for io::Error {
    fn from(error: BlockingError) -> io::Error {
        match error {
            BlockingError::Stopped(stopped) => stopped.into(),
            BlockingError::NoThread(ref cause) => io::Error::new(cause.kind(), error.to_string()),
            BlockingError::Unwinding => io::Error::other(error),
        }
    }
}

/// Runs `work` on a thread that may block, while the calling fiber waits and its loop continues. Outside a loop it just
/// calls `work`, because the thread is the caller's own.
///
/// For operations that the system or a library offers only as a blocking call, and for long computations. A panic in
/// `work` resumes in the caller. The thread has the same signals blocked as the caller.
///
/// If the fiber is stopped before `work` has begun, `work` never runs. If it has begun, it is *detached*: it runs to
/// its end, and its result is dropped. It ends early only with the process. See [`blocking_borrowed`] for work that
/// must not be detached.
///
/// All loops of the process share the pool; [`set_blocking_limits`] bounds it. Work that waits for other work in the
/// pool can fill the pool and deadlock.
///
/// ```
/// use yue_scheduler::{Config, Loop, blocking};
///
/// let text = Loop::new(Config::default()).unwrap().run(|| {
///     blocking(|| std::fs::read_to_string("/proc/self/comm")).unwrap().unwrap()
/// });
/// assert!(text.ends_with('\n'));
/// ```
///
/// # Errors
/// [`BlockingError::Stopped`] when the fiber is cancelled or a deadline passes before `work` has ended,
/// [`BlockingError::NoThread`] when there is no thread to run it, [`BlockingError::Unwinding`] in a destructor that
/// runs during a panic.
///
/// # Panics
/// With the panic of `work`; in a callback of a loop, which cannot wait; where suspension is forbidden.
#[track_caller]
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    if !must_park()? {
        return Ok(work());
    }
    let task = Arc::new(Task::new(work, None));
    pool::submit(task.clone())?;
    // Also when the park panics because something forbids the switch.
    let detach = OnUnwind(|| drop(task.detach()));
    let outcome = task.park();
    mem::forget(detach);
    match outcome.or_else(|stopped| task.detach().ok_or(stopped)) {
        Ok(outcome) => Ok(outcome.unwrap_or_else(|payload| resume_unwind(payload))),
        Err(stopped) => Err(refuse_call(stopped).into()),
    }
}

/// Like [`blocking`], but for work that borrows. Once `work` has begun, the fiber waits for it even when it is stopped:
/// a cancellation or deadline then takes effect at the next call that waits.
///
/// ```
/// use yue_scheduler::{Config, Loop, blocking_borrowed};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let mut numbers = vec![3, 1, 2];
///     blocking_borrowed(|| numbers.sort()).unwrap();
///     assert_eq!(numbers, [1, 2, 3]);
/// });
/// ```
///
/// # Errors
/// [`BlockingError::Stopped`] when the fiber is cancelled or a deadline passes before `work` has begun,
/// [`BlockingError::NoThread`] when there is no thread to run it, [`BlockingError::Unwinding`] in a destructor that
/// runs during a panic. In all three cases `work` has not run.
///
/// # Panics
/// See [`blocking`].
#[track_caller]
pub fn blocking_borrowed<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, BlockingError> {
    if !must_park()? {
        return Ok(work());
    }
    let task = Arc::new(Task::new(work, Some(with_loop(|l| l.lend()))));
    let job: Arc<dyn Job + '_> = task.clone();
    // SAFETY: only the lifetime changes. What `work` and `T` borrow lives at least until this function is left, and it
    // is left only when the task holds neither: either the closure was taken back, or it is finished and its outcome
    // was taken. The pool may keep the task longer, but it is empty then.
    let job = unsafe { mem::transmute::<Arc<dyn Job + '_>, Arc<dyn Job + 'static>>(job) };
    // Also when a park panics because something forbids the switch. The thread then blocks, because the frame must not
    // be left to a closure that writes into it.
    let finish = OnUnwind(|| drop(task.retract_or_block()));
    if let Err(error) = pool::submit(job) {
        mem::forget(finish);
        return Err(error);
    }
    let outcome = match task.park() {
        Ok(outcome) => outcome,
        Err(stopped) => {
            if let Some(work) = task.retract() {
                mem::forget(finish);
                drop(work);
                return Err(refuse_call(stopped).into());
            }
            task.park_uninterruptible()
        }
    };
    mem::forget(finish);
    Ok(outcome.unwrap_or_else(|payload| resume_unwind(payload)))
}

/// Returns whether the caller is a fiber, and not a plain thread, which may block by itself.
#[track_caller]
fn must_park() -> Result<bool, BlockingError> {
    if !in_fiber() {
        assert!(
            !this_loop::exists(),
            "a blocking call in a loop's callback would stall the whole loop; spawn a fiber that makes it"
        );
        return Ok(false);
    }
    if thread::panicking() {
        // An error, not a panic: a panic that leaves a destructor now would end the process.
        return Err(BlockingError::Unwinding);
    }
    if let Err(reason) = may_suspend() {
        panic!("{reason}");
    }
    Ok(true)
}

/// Calls its closure when it is dropped by unwinding. The regular path forgets it.
struct OnUnwind<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnUnwind<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the pool's queue, or about to enter it.
    Queued,
    /// A thread has taken it from the queue.
    Running,
    /// Like `Running`, but nobody will take the outcome.
    Detached,
    /// The closure has been taken back or consumed.
    Finished,
}

struct Slot<F, T> {
    stage: Stage,
    work: Option<F>,
    outcome: Option<thread::Result<T>>,
    waiter: Option<RemoteWaker>,
    /// For a closure that borrows: held until the closure is consumed or taken back, even if its fiber is abandoned
    /// meanwhile.
    loan: Option<Loan>,
}

/// One closure, and the slot for its outcome.
struct Task<F, T> {
    slot: Mutex<Slot<F, T>>,
    finished: Condvar,
}

impl<F: FnOnce() -> T + Send, T: Send> Task<F, T> {
    fn new(work: F, loan: Option<Loan>) -> Self {
        Task {
            slot: Mutex::new(Slot {
                stage: Stage::Queued,
                work: Some(work),
                outcome: None,
                waiter: None,
                loan,
            }),
            finished: Condvar::new(),
        }
    }

    /// Locks the slot. None of the program's code runs under the lock, so even a poisoned slot is consistent.
    fn lock(&self) -> MutexGuard<'_, Slot<F, T>> {
        lock(&self.slot)
    }

    /// Waits in the calling fiber. An error does not count as a refusal yet: the outcome may still arrive.
    fn park(&self) -> Result<thread::Result<T>, Stopped> {
        loop {
            if let Some(outcome) = self.take_or_wait() {
                return Ok(outcome);
            }
            park_unrefused("a blocking call", Instant::NEVER)?;
        }
    }

    fn park_uninterruptible(&self) -> thread::Result<T> {
        loop {
            if let Some(outcome) = self.take_or_wait() {
                return outcome;
            }
            park_uninterruptible("a blocking call that borrows");
        }
    }

    /// Returns the outcome. If there is none yet, a wait of the calling fiber has begun.
    fn take_or_wait(&self) -> Option<thread::Result<T>> {
        let waker = prepare_park().remote();
        let mut slot = self.lock();
        let outcome = slot.outcome.take();
        slot.waiter = outcome.is_none().then_some(waker);
        outcome
    }

    /// Takes back a closure that has not begun.
    fn retract(&self) -> Option<F> {
        let mut queue = pool::lock();
        let mut slot = self.lock();
        if slot.stage != Stage::Queued {
            return None;
        }
        slot.stage = Stage::Finished;
        let (work, loan) = (slot.work.take(), slot.loan.take());
        drop(slot);
        queue.count_retracted();
        drop((queue, loan));
        work
    }

    /// Detaches the closure. Returns the outcome if it is already there.
    fn detach(&self) -> Option<thread::Result<T>> {
        if let Some(work) = self.retract() {
            drop(work);
            return None;
        }
        let mut queue = pool::lock();
        let mut slot = self.lock();
        if slot.stage == Stage::Running {
            slot.stage = Stage::Detached;
            slot.waiter = None;
            queue.count_detached();
        }
        slot.outcome.take()
    }

    /// Takes the closure back, or blocks the calling thread until it has ended.
    fn retract_or_block(&self) -> (Option<F>, Option<thread::Result<T>>) {
        if let Some(work) = self.retract() {
            return (Some(work), None);
        }
        let slot = self.lock();
        let mut slot = self
            .finished
            .wait_while(slot, |slot| slot.stage != Stage::Finished)
            .unwrap_or_else(PoisonError::into_inner);
        (None, slot.outcome.take())
    }

    fn end(&self, outcome: thread::Result<T>) {
        let mut slot = self.lock();
        if slot.stage == Stage::Detached {
            slot.stage = Stage::Finished;
            drop(slot);
            pool::lock().count_detached_end();
            match outcome {
                Ok(result) => guarded("dropping a blocking call's result", || drop(result)),
                Err(payload) => drop_payload(payload),
            }
            return;
        }
        slot.stage = Stage::Finished;
        slot.outcome = Some(outcome);
        let (waiter, loan) = (slot.waiter.take(), slot.loan.take());
        self.finished.notify_all();
        drop(slot);
        // The closure is consumed, and the result stays in the task, which an abandoned fiber leaks.
        drop(loan);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<F: FnOnce() -> T + Send, T: Send> Job for Task<F, T> {
    fn claim(&self) -> bool {
        let mut slot = self.lock();
        let queued = slot.stage == Stage::Queued;
        if queued {
            slot.stage = Stage::Running;
        }
        queued
    }

    fn run(&self) {
        let work = self.lock().work.take();
        if let Some(work) = work {
            self.end(catch_unwind(AssertUnwindSafe(work)));
        }
    }

    fn is_void(&self) -> bool {
        self.lock().stage == Stage::Finished
    }
}
