//! The pool of threads that run blocking closures. There is one pool per process.
//!
//! ```text
//!   submit:  queue the job; notify an idle thread, or start one, up to the limit
//!   thread:  take jobs, first come first served; wait if there are none; end after waiting for `idle`
//! ```
//!
//! Pool threads belong to no loop, and nobody joins them, because a closure may never end. Each job runs with the
//! signals blocked that its caller has blocked, so that children started in it inherit the caller's mask. A waiting
//! thread has all signals blocked, so that no signal is ever delivered to it.
//!
//! Invariants:
//! - `idle` counts the threads that wait and have not been notified of a job. `notified` counts those that have been
//!   and have not woken up yet. So a job that is queued with `idle == 0` gets a new thread if the limit allows.
//! - `threads` counts threads from before they are started, so that the limit holds. `unconfirmed` counts those of them
//!   that the system may still refuse. A job stays in the queue only while there is a confirmed thread, or while its
//!   submitter has not decided yet. A confirmed thread ends only when it finds the queue empty, or more confirmed
//!   threads than the limit.
//! - None of the program's closures runs under the lock. Locks are taken in the order pool, task.

use super::BlockingError;
use crate::driver::Wait;
use crate::event_loop::this_loop;
use crate::fiber::guarded;
use crate::processors;
use crate::signals::{SignalSet, spawn_with_signals_blocked};
use crate::simulation;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The pool's view of a task.
pub(super) trait Job: Send + Sync {
    /// Claims the job for a thread. Returns whether there is anything to run.
    fn claim(&self) -> bool;

    /// Runs the closure of a claimed job. Does not unwind.
    fn run(&self);

    /// Returns whether the closure was taken back.
    fn is_void(&self) -> bool;
}

/// Limits of the pool of threads for blocking calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockingLimits {
    /// Maximum number of threads; at least one. The default is 256. Closures mostly wait, and one that waits for
    /// another must not find the pool full, so the limit is high; but each thread costs a stack and some work of the
    /// system's scheduler.
    pub threads: usize,
    /// The time that a thread waits for more work before it ends. The default is ten seconds.
    pub idle: Duration,
}

impl BlockingLimits {
    const DEFAULT: BlockingLimits = BlockingLimits {
        threads: 256,
        idle: Duration::from_secs(10),
    };

    /// Returns these limits with that maximum number of threads.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Returns these limits with that idle time, after which a thread ends.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }
}

impl Default for BlockingLimits {
    fn default() -> Self {
        BlockingLimits::DEFAULT
    }
}

/// The current counters of the pool of threads for blocking calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BlockingCounters {
    /// Threads in the pool.
    pub threads: usize,
    /// Closures that are running.
    pub running: usize,
    /// The detached ones among them, whose fiber was stopped and waits no more.
    pub left: usize,
    /// Closures that no thread has taken yet.
    pub queued: usize,
}

struct JobOf {
    job: Arc<dyn Job>,
    signals: SignalSet,
}

pub(super) struct State {
    jobs: VecDeque<JobOf>,
    /// Jobs in the queue whose closure was taken back. They are removed when they are the majority.
    void: usize,
    threads: usize,
    unconfirmed: usize,
    idle: usize,
    notified: usize,
    running: usize,
    left: usize,
    limits: BlockingLimits,
}

struct Pool {
    state: Mutex<State>,
    /// Signalled when a thread is notified of a job, and when the limits change.
    work: Condvar,
    /// Signalled when the system has started or refused a thread.
    decided: Condvar,
    /// Signalled when nothing is queued and nothing runs.
    quiet: Condvar,
}

static POOL: Pool = Pool {
    state: Mutex::new(State {
        jobs: VecDeque::new(),
        void: 0,
        threads: 0,
        unconfirmed: 0,
        idle: 0,
        notified: 0,
        running: 0,
        left: 0,
        limits: BlockingLimits::DEFAULT,
    }),
    work: Condvar::new(),
    decided: Condvar::new(),
    quiet: Condvar::new(),
};

/// Void jobs below which the queue is not swept, because it would not pay.
const VOID_JOBS_MIN: usize = 32;

/// The longest time that a simulated job waits before it begins.
const SIMULATED_PAUSE_NS: u64 = 200_000;

pub(super) fn lock() -> MutexGuard<'static, State> {
    crate::lock::lock(&POOL.state)
}

/// Sets the limits of the pool of threads for blocking calls. They apply to the whole process from now on. Excess
/// threads end after their current job.
///
/// ```
/// use yue_scheduler::{BlockingLimits, Config, Loop, blocking, set_blocking_limits};
///
/// set_blocking_limits(BlockingLimits::default().threads(64));
/// let sum = Loop::new(Config::default()).unwrap().run(|| blocking(|| (1..=100).sum::<u32>()));
/// assert_eq!(sum.unwrap(), 5050);
/// ```
pub fn set_blocking_limits(limits: BlockingLimits) {
    let mut state = lock();
    state.limits = BlockingLimits {
        threads: limits.threads.max(1),
        ..limits
    };
    let missing = state.queued().min(state.room());
    // Waiting threads start their idle time anew.
    POOL.work.notify_all();
    for _ in 0..missing {
        // If the system refuses, the jobs are left to the existing threads, or to their submitters.
        (state, _) = try_start(state);
    }
}

/// Returns the current counters of the pool.
///
/// ```
/// use yue_scheduler::{Config, Loop, blocking, blocking_counters};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let threads = blocking(|| blocking_counters().threads).unwrap();
///     assert!(threads >= 1);
/// });
/// ```
pub fn blocking_counters() -> BlockingCounters {
    let state = lock();
    BlockingCounters {
        threads: state.threads,
        running: state.running,
        left: state.left,
        queued: state.queued(),
    }
}

/// Blocks the calling thread until no blocking call is queued or running, at most for `limit`. Returns how many are
/// left. Call it outside fibers, at the end of a program whose closures must not be cut off.
///
/// ```standalone_crate
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, blocking, spawn, wait_for_blocking, yield_now};
///
/// static SAVED: AtomicBool = AtomicBool::new(false);
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let saving = spawn(|| blocking(|| SAVED.store(true, Ordering::Relaxed)));
///     while !SAVED.load(Ordering::Relaxed) {
///         yield_now().unwrap();
///     }
///     saving.cancel(); // too late: the closure has run
/// });
/// assert_eq!(wait_for_blocking(Duration::from_secs(60)), 0);
/// ```
///
/// # Panics
/// In a fiber or a callback of a loop, because it would block the loop.
pub fn wait_for_blocking(limit: Duration) -> usize {
    assert!(
        !this_loop::exists(),
        "wait_for_blocking blocks the thread; call it outside fibers and callbacks, after the loop has ended"
    );
    let busy = |state: &mut State| state.running + state.queued() > 0;
    let (state, _) = POOL
        .quiet
        .wait_timeout_while(lock(), limit, busy)
        .unwrap_or_else(PoisonError::into_inner);
    state.running + state.queued()
}

/// Queues a job.
///
/// # Errors
/// When no thread could ever run it. The job is then not queued.
pub(super) fn submit(job: Arc<dyn Job>) -> Result<(), BlockingError> {
    if simulation::is_on() {
        return simulate(job);
    }
    let signals = SignalSet::mask();
    let mut state = lock();
    state.jobs.push_back(JobOf {
        job: job.clone(),
        signals,
    });
    if state.notify_one() {
        return Ok(());
    }
    if state.room() > 0 {
        let (after, started) = try_start(state);
        if let Err(error) = started {
            return keep_or_remove(after, &job, error);
        }
        return Ok(());
    }
    // If all threads are busy, one will take the job later. If none is confirmed yet, the system may still refuse all
    // of them.
    while state.confirmed() == 0 && state.room() == 0 {
        state = wait_for_decision(state);
    }
    if state.confirmed() > 0 || !state.has(&job) {
        return Ok(());
    }
    let (state, started) = try_start(state);
    match started {
        Ok(()) => Ok(()),
        Err(error) => keep_or_remove(state, &job, error),
    }
}

/// Decides on a job for which no thread could be started. Another thread runs it if there is one or another caller can
/// start one; otherwise the job is removed from the queue.
#[cold]
fn keep_or_remove(
    mut state: MutexGuard<'_, State>,
    job: &Arc<dyn Job>,
    error: io::Error,
) -> Result<(), BlockingError> {
    while state.confirmed() == 0 && state.unconfirmed > 0 {
        state = wait_for_decision(state);
    }
    if state.confirmed() > 0 || !state.has(job) {
        return Ok(());
    }
    state.jobs.retain(|other| !Arc::ptr_eq(&other.job, job));
    state.notify_if_quiet();
    Err(BlockingError::NoThread(error))
}

fn wait_for_decision(state: MutexGuard<'_, State>) -> MutexGuard<'_, State> {
    POOL.decided
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job on a thread of its own in a simulation, after a while: nobody knows how busy the pool is.
fn simulate(job: Arc<dyn Job>) -> Result<(), BlockingError> {
    let work = move || {
        let pause = Duration::from_nanos(simulation::random() % SIMULATED_PAUSE_NS);
        let begins = simulation::now().saturating_add(pause);
        let bell = simulation::Bell::new();
        // It fails when the simulation has ended; the job still has to run, since a fiber may wait for it.
        let _ = simulation::turn(&bell, Wait::Block(Some(begins)));
        let state = lock();
        if job.claim() {
            drop(run_claimed(state, job));
        }
    };
    let started = simulation::spawn_thread(simulation::host(), "blocking", work);
    started.map(drop).map_err(BlockingError::NoThread)
}

/// Starts a thread while the lock is released. The caller has checked that there is room for it.
fn try_start(
    mut state: MutexGuard<'static, State>,
) -> (MutexGuard<'static, State>, io::Result<()>) {
    state.threads += 1;
    state.unconfirmed += 1;
    drop(state);
    let started = start_thread();
    let mut state = lock();
    state.unconfirmed -= 1;
    if started.is_err() {
        state.threads -= 1;
    }
    POOL.decided.notify_all();
    (state, started)
}

impl State {
    /// Counts a job in the queue whose closure was taken back.
    pub(super) fn count_retracted(&mut self) {
        if simulation::is_on() {
            // A simulated job has a thread of its own, and is in no queue.
            return;
        }
        self.void += 1;
        if self.void >= VOID_JOBS_MIN && self.void * 2 > self.jobs.len() {
            self.void = 0;
            self.jobs.retain(|queued| !queued.job.is_void());
        }
        self.notify_if_quiet();
    }

    /// Counts a running closure that was detached.
    pub(super) fn count_detached(&mut self) {
        self.left += 1;
    }

    /// Counts a detached closure that has ended.
    pub(super) fn count_detached_end(&mut self) {
        self.left -= 1;
    }

    fn queued(&self) -> usize {
        self.jobs.len() - self.void
    }

    /// Notifies a waiting thread of a job. Returns whether there was one.
    fn notify_one(&mut self) -> bool {
        let waiting = self.idle > 0;
        if waiting {
            self.idle -= 1;
            self.notified += 1;
            POOL.work.notify_one();
        }
        waiting
    }

    /// Returns the number of confirmed threads, which the system has started or certainly will.
    fn confirmed(&self) -> usize {
        // A thread that has already ended may still count as unconfirmed until its starter gets the lock.
        self.threads.saturating_sub(self.unconfirmed)
    }

    fn has(&self, job: &Arc<dyn Job>) -> bool {
        self.jobs.iter().any(|queued| Arc::ptr_eq(&queued.job, job))
    }

    /// Returns how many more threads may be started.
    fn room(&self) -> usize {
        self.limits.threads.saturating_sub(self.threads)
    }

    fn notify_if_quiet(&self) {
        if self.running == 0 && self.queued() == 0 {
            POOL.quiet.notify_all();
        }
    }
}

fn start_thread() -> io::Result<()> {
    spawn_with_signals_blocked("yue-blocking", run_jobs).map(drop)
}

fn run_jobs() {
    processors::use_all();
    let mut state = lock();
    loop {
        // Only confirmed threads count: the last of them must not end in favour of one that may be refused.
        if state.confirmed() > state.limits.threads {
            // The limit was lowered. This thread may have been notified of a job, so another one takes it.
            if state.queued() > 0 {
                state.notify_one();
            }
            break;
        }
        if let Some(queued) = state.jobs.pop_front() {
            state = run_job(state, queued);
            continue;
        }
        state.idle += 1;
        let limits = state.limits;
        let waiting = |state: &mut State| state.notified == 0 && state.limits == limits;
        let (after, wait) = POOL
            .work
            .wait_timeout_while(state, limits.idle, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state = after;
        if state.notified > 0 {
            state.notified -= 1;
            continue;
        }
        state.idle -= 1;
        if wait.timed_out() {
            break;
        }
    }
    state.threads -= 1;
}

/// Runs a job while the lock is released.
fn run_job(mut state: MutexGuard<'static, State>, queued: JobOf) -> MutexGuard<'static, State> {
    if !queued.job.claim() {
        state.void -= 1;
        return state;
    }
    let JobOf { job, signals } = queued;
    signals.set_mask();
    state = run_claimed(state, job);
    SignalSet::asynchronous().block();
    state
}

/// Runs a claimed job while the lock is released.
fn run_claimed(
    mut state: MutexGuard<'static, State>,
    job: Arc<dyn Job>,
) -> MutexGuard<'static, State> {
    state.running += 1;
    drop(state);
    guarded("dropping a blocking call's leftovers", || {
        job.run();
        drop(job);
    });
    let mut state = lock();
    state.running -= 1;
    state.notify_if_quiet();
    state
}
