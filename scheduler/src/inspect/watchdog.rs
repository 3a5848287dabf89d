//! The watchdog: a thread that checks all loops periodically and reports one that makes no progress.
//!
//! A loop stores one number at the beginning of each tick and another when it begins to wait; these two stores per tick
//! are its whole cost. If the number says *working* and does not change for longer than the threshold, one fiber or
//! callback has kept the processor all that time: a tick otherwise ends its run of fibers after a millisecond. The
//! watchdog then captures the thread (see `capture.rs`) and reports what it found. It never stops anything.
//!
//! A runnable thread that gets no processor does not count as held: on a machine busy with other work every loop would.
//! So a runnable thread counts only if it has had the processor for half of the threshold.

use super::backtrace::Backtrace;
use super::capture::{self, Capture};
use crate::event_loop::{LoopHandle, Shared, registry};
use crate::fiber::{FiberId, guarded};
use crate::panics::drop_payload;
use crate::signals;
use crate::time::Instant;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// The time that the watchdog waits for the capture of a thread.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);
/// A loop that stays held is reported again when it has been held this many times as long.
const AGAIN_AFTER: u32 = 8;
/// Number of checks within one threshold.
const CHECKS_PER_THRESHOLD: u32 = 4;
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// Zero: not watching.
static THRESHOLD_NS: AtomicU64 = AtomicU64::new(0);
static STATE: Mutex<State> = Mutex::new(State {
    thread: None,
    report: None,
});

type Report = Box<dyn Fn(&HeldLoop) + Send>;

struct State {
    thread: Option<thread::Thread>,
    report: Option<Report>,
}

/// A loop that makes no progress, and what was found on its thread.
///
/// ```standalone_crate
/// use std::sync::mpsc::channel;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, current_id, inspect};
///
/// let (sender, receiver) = channel();
/// inspect::watch_loops_with(Duration::from_millis(20), move |held| drop(sender.send(held.clone()))).unwrap();
/// Loop::new(Config::default()).unwrap().run(move || {
///     // Blocks the whole loop, until the watchdog notices.
///     let held = receiver.iter().find(|held| held.fiber == Some(current_id())).unwrap();
///     assert_eq!(held.name.as_deref(), Some("main"));
///     println!("{held}");
/// });
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HeldLoop {
    /// The loop's number.
    pub loop_id: u32,
    /// The name of its thread.
    pub thread: Box<str>,
    /// The time that it has been held, at least.
    pub duration: Duration,
    /// The running fiber; `None` if a callback runs, or if the fiber could not be determined.
    pub fiber: Option<FiberId>,
    /// The fiber's name.
    pub name: Option<String>,
    /// The location of the fiber's spawn.
    pub location: Option<&'static Location<'static>>,
    /// The note of the layer above on the running code: the lines of an interpreter.
    pub note: Option<String>,
    /// Its call stack, or the reason why there is none.
    pub backtrace: Result<Backtrace, &'static str>,
}

impl HeldLoop {
    /// Looks at what a loop's thread runs at this moment; `duration` is how long that has been, as far as the caller
    /// knows. `None` if the loop does not work: it waits, or nobody ticks it.
    pub fn of(handle: &LoopHandle, duration: Duration) -> Option<HeldLoop> {
        let shared = handle.shared();
        let works = shared.vitals().working_on().is_some();
        works.then(|| HeldLoop::capture(shared, duration))
    }

    pub(crate) fn capture(shared: &Shared, duration: Duration) -> HeldLoop {
        let thread = &shared.vitals().thread;
        let mut held = HeldLoop {
            loop_id: shared.id(),
            thread: thread.name.clone(),
            duration,
            fiber: None,
            name: None,
            location: None,
            note: None,
            backtrace: Err("it was not captured"),
        };
        match capture::capture(thread.number, PATIENCE) {
            Ok(found) => held.add(found),
            Err(why) => held.backtrace = Err(why),
        }
        held
    }

    fn add(&mut self, found: Capture) {
        self.fiber = found.fiber;
        self.name = found.name;
        self.location = found.location;
        self.note = found.note;
        self.backtrace = Ok(Backtrace::of(&found.copy));
    }
}

impl fmt::Display for HeldLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, thread, duration) = (self.loop_id, &self.thread, self.duration);
        write!(
            f,
            "loop {id} (thread '{thread}') has been held for {duration:.1?} by "
        )?;
        match (self.fiber, self.location) {
            (Some(fiber), Some(location)) => {
                write!(f, "fiber {fiber}")?;
                if let Some(name) = &self.name {
                    write!(f, " '{name}'")?;
                }
                writeln!(f, ", spawned at {location}")?;
            }
            _ if self.backtrace.is_ok() => writeln!(f, "a callback, outside any fiber")?,
            _ => writeln!(f, "something unknown")?,
        }
        if let Some(note) = &self.note {
            for line in note.lines() {
                writeln!(f, "  {line}")?;
            }
        }
        match &self.backtrace {
            Ok(calls) => write!(f, "{calls}"),
            Err(why) => writeln!(f, "    (no stack: {why})"),
        }
    }
}

/// Watches all loops of the process, including later ones. If a fiber holds a loop for longer than `threshold`, logs
/// the fiber and its call stack. A second call changes the threshold.
///
/// A separate thread does the checks; it wakes four times per threshold. It signals the thread of the held loop with
/// SIGURG. A program that handles SIGURG itself gets reports without stacks.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect};
///
/// inspect::watch_loops(Duration::from_millis(100)).unwrap();
/// Loop::new(Config::default()).unwrap().run(|| {
///     // std::thread::sleep(Duration::from_millis(200)) here would be reported.
/// });
/// ```
///
/// # Errors
/// When the system cannot start a thread.
pub fn watch_loops(threshold: Duration) -> io::Result<()> {
    watch_loops_with(threshold, |held| {
        crate::log(
            crate::LogLevel::Warn,
            format_args!("{}", held.to_string().trim_end()),
        );
    })
}

/// Like [`watch_loops`], but passes each finding to `report`, on the watchdog's thread. A panic in `report` is logged,
/// and the watchdog continues.
///
/// ```standalone_crate
/// use std::sync::mpsc::channel;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect, this_loop};
///
/// let (sender, receiver) = channel();
/// inspect::watch_loops_with(Duration::from_millis(20), move |held| drop(sender.send(held.loop_id))).unwrap();
/// Loop::new(Config::default()).unwrap().run(move || {
///     assert_eq!(receiver.recv(), Ok(this_loop::id())); // blocks the whole loop, until the watchdog notices
/// });
/// ```
///
/// # Errors
/// When the system cannot start a thread.
pub fn watch_loops_with(
    threshold: Duration,
    report: impl Fn(&HeldLoop) + Send + 'static,
) -> io::Result<()> {
    let mut state = lock();
    let before = state.report.replace(Box::new(report));
    let ns = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
    // Relaxed: the number is complete by itself.
    THRESHOLD_NS.store(ns.max(1), Ordering::Relaxed);
    match &state.thread {
        Some(thread) => thread.unpark(),
        None => {
            let started = signals::spawn_with_signals_blocked("yue watchdog", watch)?;
            state.thread = Some(started.thread().clone());
        }
    }
    drop(state);
    // Outside the lock, because the drop runs the program's code.
    drop(before);
    // If this fails, reports say why they have no stacks.
    let _ = capture::install();
    Ok(())
}

/// Stops [`watch_loops`].
pub fn stop_watching() {
    THRESHOLD_NS.store(0, Ordering::Relaxed);
}

fn threshold() -> Option<Duration> {
    match THRESHOLD_NS.load(Ordering::Relaxed) {
        0 => None,
        ns => Some(Duration::from_nanos(ns)),
    }
}

/// The watchdog's record of a loop.
struct Seen {
    tick: u64,
    since: Instant,
    /// The processor time that the thread had used by then.
    cpu: Duration,
    /// The age at which it is reported next.
    report_at: Duration,
}

fn watch() {
    let mut seen = HashMap::new();
    loop {
        let Some(threshold) = threshold() else {
            seen.clear();
            thread::park();
            continue;
        };
        let loops = registry::all();
        seen.retain(|id, _| loops.iter().any(|shared| shared.id() == *id));
        for shared in &loops {
            check_loop(&mut seen, shared, threshold);
        }
        drop(loops);
        thread::park_timeout((threshold / CHECKS_PER_THRESHOLD).max(PERIOD_MIN));
    }
}

fn check_loop(seen: &mut HashMap<u32, Seen>, shared: &Shared, threshold: Duration) {
    let Some(tick) = shared.vitals().working_on() else {
        seen.remove(&shared.id());
        return;
    };
    let now = Instant::system();
    let thread = shared.vitals().thread.number;
    let fresh = || Seen {
        tick,
        since: now,
        cpu: cpu_time(thread),
        report_at: threshold,
    };
    let known = seen.entry(shared.id()).or_insert_with(fresh);
    if known.tick != tick {
        *known = fresh();
        return;
    }
    let age = now.saturating_since(known.since);
    if age < known.report_at || is_starved(thread, known.cpu, threshold) {
        return;
    }
    if known.report_at == threshold {
        // Relaxed: a counter that only the watchdog writes.
        shared.vitals().held.fetch_add(1, Ordering::Relaxed);
    }
    known.report_at = age * AGAIN_AFTER;
    let held = HeldLoop::capture(shared, age);
    // If the tick ended meanwhile, it held the loop too long anyway, but the capture shows something else.
    if shared.vitals().working_on() == Some(tick) {
        report(&held);
    }
}

fn lock() -> MutexGuard<'static, State> {
    crate::lock::lock(&STATE)
}

/// Calls the program's closure outside the lock, because it may call [`watch_loops`]. Its panic must not end the
/// watchdog.
fn report(held: &HeldLoop) {
    let Some(report) = lock().report.take() else {
        return;
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| report(held))) {
        crate::log(
            crate::LogLevel::Error,
            format_args!(
                "the closure of watch_loops_with panicked; the watchdog continues, and will call it again"
            ),
        );
        drop_payload(payload);
    }
    let mut state = lock();
    if state.report.is_none() {
        state.report = Some(report);
        return;
    }
    // It was replaced in the meantime. Its drop is the program's code, too.
    drop(state);
    guarded("dropping the closure of watch_loops_with", || drop(report));
}

/// Returns whether the thread only waits for a processor, and has had too little of one to hold its loop.
fn is_starved(thread: libc::pid_t, cpu_before: Duration, threshold: Duration) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    // The state follows the name, which is in parentheses and may contain any character.
    let runnable = stat.is_ok_and(|text| {
        text.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('R'))
    });
    runnable && cpu_time(thread).saturating_sub(cpu_before) < threshold / 2
}

/// Returns the processor time of a thread of this process; zero if the thread has ended.
pub(super) fn cpu_time(thread: libc::pid_t) -> Duration {
    // The clock id of a thread, as the kernel builds it from the thread's number (clock_gettime(2),
    // pthread_getcpuclockid(3)).
    const PER_THREAD_SCHEDULED: libc::clockid_t = 4 | 2;
    let clock = (!thread << 3) | PER_THREAD_SCHEDULED;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours; for an unknown clock the call returns an error.
    let outcome = unsafe { libc::clock_gettime(clock, &mut time) };
    if outcome != 0 {
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_processor_time_is_found_by_its_number() {
        let me = crate::thread_id();
        let before = cpu_time(me);
        let mut sum = 0u64;
        while cpu_time(me) < before + Duration::from_millis(5) {
            sum = (0..10_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        // This thread runs, so it is runnable; it has had more than half of 8 ms and less than half of an hour.
        assert!(!is_starved(me, before, Duration::from_millis(8)));
        assert!(is_starved(me, before, Duration::from_secs(3600)));
        assert_eq!(cpu_time(libc::pid_t::MAX >> 4), Duration::ZERO);
    }
}
