//! The threads that run blocking closures: one pool for the process.
//!
//! ```text
//!   submit:  queue the job; tell an idle thread of it, or start one, up to the limit
//!   thread:  take jobs, first come first served; with none, wait; after `idle` without any, end
//! ```
//!
//! Threads are no part of any loop, and nobody joins them: what a closure does in them may never end. Each job runs
//! with the signals blocked that its caller has blocked, so that children started in it inherit what they would from
//! the caller; a thread that waits has them all blocked, so that no signal is ever delivered to it.
//!
//! Invariants:
//! - `idle` counts the threads that wait and have not been told of a job; `told` those that have been and did not wake
//!   up yet. So a job that is queued with `idle == 0` gets a new thread if the limit allows.
//! - `threads` counts threads from before they are started, so that the limit holds; `unsure` counts those of them that
//!   the system may still refuse. A job stays in the queue only while there is a thread that is sure, or its submitter
//!   has not decided yet: a thread that is sure ends only when it finds the queue empty, or more such threads than the
//!   limit.
//! - No closure of the program's runs under the lock. Locks are taken in the order pool, task.

use super::BlockingError;
use crate::event_loop::this_loop;
use crate::fiber::guarded;
use crate::signals::{self, change_mask};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What the pool knows of a task.
pub(super) trait Job: Send + Sync {
    /// Says that a thread has taken the job. Returns whether there is anything to run.
    fn claim(&self) -> bool;

    /// Runs the closure of a claimed job. Does not unwind.
    fn run(&self);

    /// Whether the closure was taken back.
    fn is_void(&self) -> bool;
}

/// How far the pool of threads for blocking calls may grow.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::BlockingLimits;
///
/// let limits = BlockingLimits::default().threads(512).idle(Duration::from_secs(60));
/// assert_eq!((limits.threads, limits.idle.as_secs()), (512, 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockingLimits {
    /// Threads at most; at least one. The default is 256: closures mostly wait, and one that waits for another must not
    /// find the pool full, but each costs a stack and the system's scheduler some work.
    pub threads: usize,
    /// How long a thread waits for more work before it ends. The default is ten seconds.
    pub idle: Duration,
}

impl BlockingLimits {
    const DEFAULT: BlockingLimits = BlockingLimits {
        threads: 256,
        idle: Duration::from_secs(10),
    };

    /// As these, with that many threads at most.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// As these, with threads ending after that long without work.
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

/// What the pool of threads for blocking calls has now.
///
/// ```
/// use yue_scheduler::{Config, Loop, blocking, blocking_counters};
///
/// let seen = Loop::new(Config::default()).unwrap().run(|| blocking(blocking_counters)).unwrap();
/// assert!(seen.running >= 1 && seen.threads >= seen.running); // at least the one that looked
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BlockingCounters {
    /// Threads that live.
    pub threads: usize,
    /// Closures that run.
    pub running: usize,
    /// Of these, those whose fiber was told to stop and waits no more.
    pub left: usize,
    /// Closures for which there is no thread yet.
    pub queued: usize,
}

struct JobOf {
    job: Arc<dyn Job>,
    signals: libc::sigset_t,
}

pub(super) struct State {
    jobs: VecDeque<JobOf>,
    /// Jobs in the queue that were taken back; swept out when they are the larger part.
    void: usize,
    threads: usize,
    unsure: usize,
    idle: usize,
    told: usize,
    running: usize,
    left: usize,
    limits: BlockingLimits,
}

struct Pool {
    state: Mutex<State>,
    /// A thread has been told of a job, or the limits have changed.
    work: Condvar,
    /// A thread has been started, or refused.
    decided: Condvar,
    /// Nothing is queued and nothing runs.
    quiet: Condvar,
}

static POOL: Pool = Pool {
    state: Mutex::new(State {
        jobs: VecDeque::new(),
        void: 0,
        threads: 0,
        unsure: 0,
        idle: 0,
        told: 0,
        running: 0,
        left: 0,
        limits: BlockingLimits::DEFAULT,
    }),
    work: Condvar::new(),
    decided: Condvar::new(),
    quiet: Condvar::new(),
};

/// Sweeping pays when there is something to sweep.
const VOID_JOBS_MIN: usize = 32;

pub(super) fn lock() -> MutexGuard<'static, State> {
    POOL.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bounds the pool of threads for blocking calls, for the whole process, from now on. Threads that are too many end
/// when they have done what they are doing.
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
    // Who waits counts its time anew.
    POOL.work.notify_all();
    for _ in 0..missing {
        // Refused, the jobs are left to the threads that there are, or to their submitters.
        (state, _) = try_start(state);
    }
}

/// What the pool has now.
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

/// Blocks the calling thread until no blocking call is queued or running, at most for `limit`; returns how many are
/// left. For the end of a program that has closures which must not be cut off. Outside fibers.
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
///     saving.cancel(); // too late for that
/// });
/// assert_eq!(wait_for_blocking(Duration::from_secs(60)), 0);
/// ```
///
/// # Panics
/// In a fiber or a callback of a loop, which would stand still.
pub fn wait_for_blocking(limit: Duration) -> usize {
    assert!(
        !this_loop::exists(),
        "wait_for_blocking blocks the thread; call it outside of fibers and callbacks, when the loop is over"
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
/// When no thread could ever run it; it is not queued then.
pub(super) fn submit(job: Arc<dyn Job>) -> Result<(), BlockingError> {
    let signals = change_mask(libc::SIG_BLOCK, None);
    let mut state = lock();
    state.jobs.push_back(JobOf {
        job: job.clone(),
        signals,
    });
    if state.tell_one() {
        return Ok(());
    }
    if state.room() > 0 {
        let (after, started) = try_start(state);
        if let Err(error) = started {
            return leave_to_others(after, &job, error);
        }
        return Ok(());
    }
    // Threads that are all busy come to it. If none is sure yet, all may be refused.
    while state.sure() == 0 && state.room() == 0 {
        state = wait_for_decision(state);
    }
    if state.sure() > 0 || !state.has(&job) {
        return Ok(());
    }
    let (state, started) = try_start(state);
    match started {
        Ok(()) => Ok(()),
        Err(error) => leave_to_others(state, &job, error),
    }
}

/// What becomes of a job for which no thread could be started: another thread does it, if there is one or somebody else
/// can start one; else it is taken out again.
#[cold]
fn leave_to_others(
    mut state: MutexGuard<'_, State>,
    job: &Arc<dyn Job>,
    error: io::Error,
) -> Result<(), BlockingError> {
    while state.sure() == 0 && state.unsure > 0 {
        state = wait_for_decision(state);
    }
    if state.sure() > 0 || !state.has(job) {
        return Ok(());
    }
    state.jobs.retain(|other| !Arc::ptr_eq(&other.job, job));
    state.tell_if_quiet();
    Err(BlockingError::NoThread(error))
}

fn wait_for_decision(state: MutexGuard<'_, State>) -> MutexGuard<'_, State> {
    POOL.decided
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread, without the lock. The caller has made sure that there is room for it.
fn try_start(
    mut state: MutexGuard<'static, State>,
) -> (MutexGuard<'static, State>, io::Result<()>) {
    state.threads += 1;
    state.unsure += 1;
    drop(state);
    let started = start_thread();
    let mut state = lock();
    state.unsure -= 1;
    if started.is_err() {
        state.threads -= 1;
    }
    POOL.decided.notify_all();
    (state, started)
}

impl State {
    /// One of the jobs in the queue has been taken back.
    pub(super) fn count_retracted(&mut self) {
        self.void += 1;
        if self.void >= VOID_JOBS_MIN && self.void * 2 > self.jobs.len() {
            self.void = 0;
            self.jobs.retain(|queued| !queued.job.is_void());
        }
        self.tell_if_quiet();
    }

    /// A running closure has been left to itself.
    pub(super) fn count_left(&mut self) {
        self.left += 1;
    }

    /// A closure that was left to itself is over.
    pub(super) fn count_left_over(&mut self) {
        self.left -= 1;
    }

    fn queued(&self) -> usize {
        self.jobs.len() - self.void
    }

    /// Tells a waiting thread, if there is one, that there is a job.
    fn tell_one(&mut self) -> bool {
        let waiting = self.idle > 0;
        if waiting {
            self.idle -= 1;
            self.told += 1;
            POOL.work.notify_one();
        }
        waiting
    }

    /// Threads that there are, or will be.
    fn sure(&self) -> usize {
        // One that has ended already may still count as unsure, until its starter has the lock.
        self.threads.saturating_sub(self.unsure)
    }

    fn has(&self, job: &Arc<dyn Job>) -> bool {
        self.jobs.iter().any(|queued| Arc::ptr_eq(&queued.job, job))
    }

    /// How many more threads may be started.
    fn room(&self) -> usize {
        self.limits.threads.saturating_sub(self.threads)
    }

    fn tell_if_quiet(&self) {
        if self.running == 0 && self.queued() == 0 {
            POOL.quiet.notify_all();
        }
    }
}

/// The processors that the process could use when its first loop was made, before threads were pinned: a thread of the
/// pool must not inherit the one processor of the loop that happened to start it.
static PROCESSORS: OnceLock<Option<libc::cpu_set_t>> = OnceLock::new();

/// Notes which processors the pool's threads may use, if nobody has yet.
pub(crate) fn note_processors() {
    PROCESSORS.get_or_init(|| {
        // SAFETY: a set of bits is valid as zeros, and the call writes no more than its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let answer = libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            (answer == 0).then_some(set)
        }
    });
}

fn use_all_processors() {
    if let Some(Some(set)) = PROCESSORS.get() {
        // SAFETY: the set is valid for its size; 0 is the calling thread. If it fails, the thread stays where it is.
        unsafe { libc::sched_setaffinity(0, size_of_val(set), set) };
    }
}

fn start_thread() -> io::Result<()> {
    signals::spawn_with_signals_blocked("yue-blocking", run_jobs).map(drop)
}

fn run_jobs() {
    use_all_processors();
    let mut state = lock();
    loop {
        // Of the sure ones: the last of them must not go for the sake of one that may be refused.
        if state.sure() > state.limits.threads {
            // The limit was lowered. This thread may have been told of a job: another one takes it.
            if state.queued() > 0 {
                state.tell_one();
            }
            break;
        }
        if let Some(queued) = state.jobs.pop_front() {
            state = run_one(state, queued);
            continue;
        }
        state.idle += 1;
        let limits = state.limits;
        let waiting = |state: &mut State| state.told == 0 && state.limits == limits;
        let (after, wait) = POOL
            .work
            .wait_timeout_while(state, limits.idle, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state = after;
        if state.told > 0 {
            state.told -= 1;
            continue;
        }
        state.idle -= 1;
        if wait.timed_out() {
            break;
        }
    }
    state.threads -= 1;
}

/// Runs a job without the lock.
fn run_one(mut state: MutexGuard<'static, State>, queued: JobOf) -> MutexGuard<'static, State> {
    if !queued.job.claim() {
        state.void -= 1;
        return state;
    }
    state.running += 1;
    drop(state);
    let JobOf { job, signals } = queued;
    change_mask(libc::SIG_SETMASK, Some(&signals));
    guarded("what a blocking call left behind", || {
        job.run();
        drop(job);
    });
    change_mask(libc::SIG_BLOCK, Some(&signals::asynchronous()));
    let mut state = lock();
    state.running -= 1;
    state.tell_if_quiet();
    state
}
