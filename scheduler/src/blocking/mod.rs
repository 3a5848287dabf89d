//! Calls that block their thread, made from fibers: the closure runs on a thread of a pool, the fiber parks.
//!
//! ```text
//!   fiber:   task (queued) ──▶ pool's queue         park
//!   thread:                     run the closure      put the outcome into the task, wake the fiber
//!   fiber:   take the outcome; a panic goes on here
//! ```
//!
//! A fiber that is told to stop meanwhile takes a closure back that has not begun. One that runs cannot be stopped from
//! outside. What happens then depends on what it may touch: a closure that owns all it uses ([`blocking`]) is left to
//! itself; one that borrows from the fiber's frames ([`blocking_borrowed`]) is waited for, whatever else happens to the
//! fiber, since it may be writing there.
//!
//! Invariants:
//! - A task is over (`Stage::Over`) only after its closure is consumed. From then on the thread touches nothing but the
//!   task itself, which is counted, so a frame that the closure borrowed from may be left.
//! - `Stage::Queued` changes only under the pool's lock, which is taken before the task's.
//! - [`blocking_borrowed`] is not left, by return or by unwinding, while its closure runs. If its fiber is abandoned
//!   then, its stack and its fiber-locals are leaked, and its thread does not end before the closure has (`Loan`).

mod pool;

pub(crate) use pool::note_processors;
pub use pool::{
    BlockingCounters, BlockingLimits, blocking_counters, set_blocking_limits, wait_for_blocking,
};

use crate::event_loop::{Loan, this_loop, with_loop};
use crate::fiber::{
    RemoteWaker, Stopped, drop_payload, guarded, in_fiber, may_suspend, park_uninterruptible,
    park_unrefused, prepare_park, refuse_call,
};
use crate::time::Instant;
use pool::Job;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Why a blocking call gave no result.
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
///     drop(answer); // it would have waited until now
/// });
/// ```
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// The calling fiber was told to stop first.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The pool has no thread and the system gives none.
    #[error("cannot start a thread for a blocking call: {0}")]
    NoThread(io::Error),
    /// The calling fiber unwinds from a panic (the call is made in a destructor), and cannot wait before that is over.
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

/// Runs `work` on a thread that may block, while the calling fiber waits and its loop goes on. Outside a loop, where
/// the thread is the caller's own, it only calls `work`.
///
/// For what the system or a library offers only as a blocking call, and for long computations. A panic in `work` goes
/// on in the caller. The thread has the signals blocked that the caller has.
///
/// When the fiber is told to stop before `work` has begun, it never runs; when it has begun, it is *left to itself*: it
/// runs to its end and its result is dropped. What ends the process ends it too. See [`blocking_borrowed`] for work
/// that must not be left.
///
/// The pool is the process's, shared by all loops; [`set_blocking_limits`] bounds it. Work that waits for other work of
/// the pool can fill it and wait for ever.
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
/// [`BlockingError::Stopped`] when the fiber is cancelled or a deadline passes before `work` is done,
/// [`BlockingError::NoThread`] when there is no thread to run it, [`BlockingError::Unwinding`] in a destructor that
/// runs during a panic.
///
/// # Panics
/// With the panic of `work`; in a callback of a loop (nothing can wait there); where suspension is forbidden.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    if !must_park()? {
        return Ok(work());
    }
    let task = Arc::new(Task::new(work, None));
    pool::submit(task.clone())?;
    // Also when the park panics, because something forbids the switch.
    let leave = Unwinding(|| drop(task.leave()));
    let outcome = task.park();
    mem::forget(leave);
    match outcome.or_else(|stopped| task.leave().ok_or(stopped)) {
        Ok(outcome) => Ok(outcome.unwrap_or_else(|payload| resume_unwind(payload))),
        Err(stopped) => Err(refuse_call(stopped).into()),
    }
}

/// As [`blocking`], for work that borrows. Once `work` has begun it is waited for, also when the fiber is told to stop:
/// a cancel or a deadline then takes effect at the next call that waits.
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
/// [`BlockingError::Stopped`] when the fiber is told to stop before `work` has begun, [`BlockingError::NoThread`] when
/// there is no thread to run it, [`BlockingError::Unwinding`] in a destructor that runs during a panic. `work` has not
/// run then.
///
/// # Panics
/// As [`blocking`].
pub fn blocking_borrowed<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, BlockingError> {
    if !must_park()? {
        return Ok(work());
    }
    let task = Arc::new(Task::new(work, Some(with_loop(|l| l.lend()))));
    let job: Arc<dyn Job + '_> = task.clone();
    // SAFETY: only the lifetime is changed. What `work` and `T` borrow lives at least until this function is left, and
    // it is left only when the task holds neither: retracted (the closure taken back), or over and its outcome taken.
    // What the pool keeps longer is an empty task.
    let job = unsafe { mem::transmute::<Arc<dyn Job + '_>, Arc<dyn Job + 'static>>(job) };
    // Also when a park panics, because something forbids the switch: the thread is blocked then, rather than the frame
    // left to a closure that writes into it.
    let finish = Unwinding(|| drop(task.retract_or_block()));
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

/// Whether the caller is a fiber, and not a plain thread that may block by itself.
fn must_park() -> Result<bool, BlockingError> {
    if !in_fiber() {
        assert!(
            !this_loop::exists(),
            "a blocking call in a loop's callback would hold up the whole loop; spawn a fiber for it"
        );
        return Ok(false);
    }
    if thread::panicking() {
        // Not a panic: one that leaves a destructor now would end the process.
        return Err(BlockingError::Unwinding);
    }
    if let Err(reason) = may_suspend() {
        panic!("{reason}");
    }
    Ok(true)
}

/// Calls its closure when it is dropped by unwinding; who gets through forgets it.
struct Unwinding<F: FnMut()>(F);

impl<F: FnMut()> Drop for Unwinding<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the pool's queue, or on the way there.
    Queued,
    /// A thread has taken it out of the queue.
    Running,
    /// As `Running`, but nobody wants the outcome.
    Left,
    /// The closure has been taken back, or is consumed.
    Over,
}

struct Slot<F, T> {
    stage: Stage,
    work: Option<F>,
    outcome: Option<thread::Result<T>>,
    waiter: Option<RemoteWaker>,
    /// For a closure that borrows: held until it is consumed or taken back, also when its fiber is abandoned meanwhile.
    loan: Option<Loan>,
}

/// One closure, and where its outcome goes.
struct Task<F, T> {
    slot: Mutex<Slot<F, T>>,
    over: Condvar,
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
            over: Condvar::new(),
        }
    }

    /// No code of the program's runs under the lock, so a poisoned one still holds a whole value.
    fn lock(&self) -> MutexGuard<'_, Slot<F, T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in the calling fiber. An error is not a refusal yet: the outcome may still be had.
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

    /// The outcome; if there is none yet, a wait of the calling fiber has begun.
    fn take_or_wait(&self) -> Option<thread::Result<T>> {
        let waker = prepare_park().remote();
        let mut slot = self.lock();
        let outcome = slot.outcome.take();
        slot.waiter = outcome.is_none().then_some(waker);
        outcome
    }

    /// Takes a closure back that has not begun.
    fn retract(&self) -> Option<F> {
        let mut queue = pool::lock();
        let mut slot = self.lock();
        if slot.stage != Stage::Queued {
            return None;
        }
        slot.stage = Stage::Over;
        let (work, loan) = (slot.work.take(), slot.loan.take());
        drop(slot);
        queue.count_retracted();
        drop((queue, loan));
        work
    }

    /// Gives the closure up. Returns the outcome if it is there already.
    fn leave(&self) -> Option<thread::Result<T>> {
        if let Some(work) = self.retract() {
            drop(work);
            return None;
        }
        let mut queue = pool::lock();
        let mut slot = self.lock();
        if slot.stage == Stage::Running {
            slot.stage = Stage::Left;
            slot.waiter = None;
            queue.count_left();
        }
        slot.outcome.take()
    }

    /// Takes the closure back, or blocks the calling thread until it is over.
    fn retract_or_block(&self) -> (Option<F>, Option<thread::Result<T>>) {
        if let Some(work) = self.retract() {
            return (Some(work), None);
        }
        let slot = self.lock();
        let mut slot = self
            .over
            .wait_while(slot, |slot| slot.stage != Stage::Over)
            .unwrap_or_else(PoisonError::into_inner);
        (None, slot.outcome.take())
    }

    fn end(&self, outcome: thread::Result<T>) {
        let mut slot = self.lock();
        if slot.stage == Stage::Left {
            slot.stage = Stage::Over;
            drop(slot);
            pool::lock().count_left_over();
            match outcome {
                Ok(result) => guarded("dropping a blocking call's result", || drop(result)),
                Err(payload) => drop_payload(payload),
            }
            return;
        }
        slot.stage = Stage::Over;
        slot.outcome = Some(outcome);
        let (waiter, loan) = (slot.waiter.take(), slot.loan.take());
        self.over.notify_all();
        drop(slot);
        // The closure is consumed, and the result waits in the task, which an abandoned fiber leaks.
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
        self.lock().stage == Stage::Over
    }
}
