//! Who holds a loop: a thread that looks at all loops now and then, and speaks up when one does not get on.
//!
//! A loop stores a number at the beginning of each tick, and another when it begins to wait (two stores a tick; that is
//! all it does for this). A number that says *working*, and is the same for longer than the threshold, means that one
//! fiber or callback has kept the processor all that time: a tick ends its turn after a millisecond otherwise. The
//! watchdog then looks at the thread (see `capture.rs`) and tells what it found. It never stops anything.
//!
//! A thread that could run and did not get a processor is not held: on a machine that is busy with other things every
//! loop would be. So a thread that is runnable counts only if it has had the processor for half of the threshold.

use super::backtrace::Backtrace;
use super::capture::{self, Capture};
use crate::event_loop::{LoopHandle, Shared, registry};
use crate::fiber::{FiberId, drop_payload, guarded};
use crate::signals;
use crate::time::Instant;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the watchdog waits for the thread that it looks at.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);
/// A loop that is still held is told of again when it has been held that many times as long.
const AGAIN_AFTER: u32 = 8;
/// Looks at the loops within one threshold.
const LOOKS: u32 = 4;
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// Zero: not watching.
static THRESHOLD_NS: AtomicU64 = AtomicU64::new(0);
static STATE: Mutex<State> = Mutex::new(State {
    thread: None,
    tell: None,
});

type Tell = Box<dyn Fn(&HeldLoop) + Send>;

struct State {
    thread: Option<thread::Thread>,
    tell: Option<Tell>,
}

/// A loop that does not get on, and what was found on its thread.
///
/// ```standalone_crate
/// use std::sync::mpsc::channel;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, current_id, inspect};
///
/// let (told, heard) = channel();
/// inspect::watch_loops_with(Duration::from_millis(20), move |held| drop(told.send(held.clone()))).unwrap();
/// Loop::new(Config::default()).unwrap().run(move || {
///     // Blocks the whole loop, until the watchdog notices.
///     let held = heard.iter().find(|held| held.fiber == Some(current_id())).unwrap();
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
    /// For how long it has been held, at least.
    pub duration: Duration,
    /// The fiber that runs; `None` if it is a callback, or if it could not be found out.
    pub fiber: Option<FiberId>,
    /// Its name.
    pub name: Option<String>,
    /// Where it was spawned.
    pub location: Option<&'static Location<'static>>,
    /// What the layer above says of the code that runs: the lines of Lua.
    pub note: Option<String>,
    /// The calls that it is in, or why they could not be found out.
    pub backtrace: Result<Backtrace, &'static str>,
}

impl HeldLoop {
    /// Looks at what a loop's thread runs at this moment; `duration` is how long that has been, as far as the caller
    /// knows. `None` if the loop does not work: it waits, or nobody ticks it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue_scheduler::inspect::HeldLoop;
    /// use yue_scheduler::{Config, Loop};
    ///
    /// let l = Loop::new(Config::default()).unwrap();
    /// assert!(HeldLoop::of(&l.handle(), Duration::ZERO).is_none());
    /// ```
    pub fn of(handle: &LoopHandle, duration: Duration) -> Option<HeldLoop> {
        let shared = handle.shared();
        let works = shared.vitals().working_on().is_some();
        works.then(|| HeldLoop::look_at(shared, duration))
    }

    pub(crate) fn look_at(shared: &Shared, duration: Duration) -> HeldLoop {
        let thread = &shared.vitals().thread;
        let mut held = HeldLoop {
            loop_id: shared.id(),
            thread: thread.name.clone(),
            duration,
            fiber: None,
            name: None,
            location: None,
            note: None,
            backtrace: Err("it was not looked at"),
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

/// Watches all loops of the process, those that are made later included, and writes to standard error which fiber holds
/// one for longer than `threshold`, with the calls that it is in. Called again, it changes the threshold.
///
/// A thread of its own does that, which wakes four times within a threshold. It signals the thread of the held loop
/// with SIGURG; a program that handles SIGURG by itself gets reports without stacks.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect};
///
/// inspect::watch_loops(Duration::from_millis(100)).unwrap();
/// Loop::new(Config::default()).unwrap().run(|| {
///     // std::thread::sleep(Duration::from_millis(200)) here would be told of.
/// });
/// ```
///
/// # Errors
/// When the system gives no thread.
pub fn watch_loops(threshold: Duration) -> io::Result<()> {
    watch_loops_with(threshold, |held| {
        // In one piece, so that the lines of others do not come in between; nobody is left to be told of an error.
        let text = format!("yue: {held}");
        let _ = io::stderr().write_all(text.as_bytes());
    })
}

/// As [`watch_loops`], but hands what was found to `tell`, on the watchdog's thread. A panic in `tell` is reported on
/// standard error, and the watchdog goes on.
///
/// ```standalone_crate
/// use std::sync::mpsc::channel;
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect, this_loop};
///
/// let (told, heard) = channel();
/// inspect::watch_loops_with(Duration::from_millis(20), move |held| drop(told.send(held.loop_id))).unwrap();
/// Loop::new(Config::default()).unwrap().run(move || {
///     assert_eq!(heard.recv(), Ok(this_loop::id())); // blocks the whole loop, until the watchdog notices
/// });
/// ```
///
/// # Errors
/// When the system gives no thread.
pub fn watch_loops_with(
    threshold: Duration,
    tell: impl Fn(&HeldLoop) + Send + 'static,
) -> io::Result<()> {
    let mut state = lock();
    let before = state.tell.replace(Box::new(tell));
    let ns = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
    // Relaxed: a number that says all by itself.
    THRESHOLD_NS.store(ns.max(1), Ordering::Relaxed);
    match &state.thread {
        Some(thread) => thread.unpark(),
        None => {
            let started = signals::spawn_with_signals_blocked("yue watchdog", watch)?;
            state.thread = Some(started.thread().clone());
        }
    }
    drop(state);
    // Without the lock, as its drop is code of the program's.
    drop(before);
    // Without it, reports say why they have no stacks.
    let _ = capture::install();
    Ok(())
}

/// Ends [`watch_loops`].
///
/// ```standalone_crate
/// use std::time::Duration;
/// use yue_scheduler::inspect;
///
/// assert!(inspect::watch_loops(Duration::from_secs(1)).is_ok());
/// inspect::stop_watching();
/// ```
pub fn stop_watching() {
    THRESHOLD_NS.store(0, Ordering::Relaxed);
}

fn threshold() -> Option<Duration> {
    match THRESHOLD_NS.load(Ordering::Relaxed) {
        0 => None,
        ns => Some(Duration::from_nanos(ns)),
    }
}

/// What the watchdog remembers of a loop.
struct Seen {
    tick: u64,
    since: Instant,
    /// How much processor time the thread had had by then.
    cpu: Duration,
    /// The age at which it is told of next.
    tell_at: Duration,
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
            look(&mut seen, shared, threshold);
        }
        drop(loops);
        thread::park_timeout((threshold / LOOKS).max(PERIOD_MIN));
    }
}

fn look(seen: &mut HashMap<u32, Seen>, shared: &Shared, threshold: Duration) {
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
        tell_at: threshold,
    };
    let known = seen.entry(shared.id()).or_insert_with(fresh);
    if known.tick != tick {
        *known = fresh();
        return;
    }
    let age = now.saturating_since(known.since);
    if age < known.tell_at || is_starved(thread, known.cpu, threshold) {
        return;
    }
    if known.tell_at == threshold {
        // Relaxed: a count. The watchdog is the only one that writes it.
        shared.vitals().held.fetch_add(1, Ordering::Relaxed);
    }
    known.tell_at = age * AGAIN_AFTER;
    let held = HeldLoop::look_at(shared, age);
    // What ended meanwhile held the loop for too long all the same, but it is not what was seen.
    if shared.vitals().working_on() == Some(tick) {
        tell(&held);
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the program's closure, without the lock: it may call [`watch_loops`]. Its panic must not end the watchdog.
fn tell(held: &HeldLoop) {
    let Some(tell) = lock().tell.take() else {
        return;
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| tell(held))) {
        crate::say(format_args!(
            "the closure of watch_loops_with panicked; the watchdog goes on, and will call it again"
        ));
        drop_payload(payload);
    }
    let mut state = lock();
    if state.tell.is_none() {
        state.tell = Some(tell);
        return;
    }
    // It has been replaced meanwhile. Its drop is code of the program's, too.
    drop(state);
    guarded("dropping what the watchdog called", || drop(tell));
}

/// Whether the thread waits for a processor and nothing else, and has had too little of one to hold its loop.
fn is_starved(thread: libc::pid_t, cpu_before: Duration, threshold: Duration) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    // The state follows the name, which is in parentheses and may have any character in it.
    let runnable = stat.is_ok_and(|text| {
        text.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('R'))
    });
    runnable && cpu_time(thread).saturating_sub(cpu_before) < threshold / 2
}

/// The processor time that a thread of this process has had; zero if it is gone.
fn cpu_time(thread: libc::pid_t) -> Duration {
    // The clock of a thread by its number, as the kernel defines it (clock_gettime(2), pthread_getcpuclockid(3)).
    const PER_THREAD_SCHEDULED: libc::clockid_t = 4 | 2;
    let clock = (!thread << 3) | PER_THREAD_SCHEDULED;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours; an unknown clock is answered with an error.
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
        // SAFETY: it only asks.
        let me = unsafe { libc::gettid() };
        let before = cpu_time(me);
        let mut sum = 0u64;
        while cpu_time(me) < before + Duration::from_millis(5) {
            sum = (0..10_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        // This thread runs, so that it is runnable; it has had more than half of 8 ms and less than half of an hour.
        assert!(!is_starved(me, before, Duration::from_millis(8)));
        assert!(is_starved(me, before, Duration::from_secs(3600)));
        assert_eq!(cpu_time(libc::pid_t::MAX >> 4), Duration::ZERO);
    }
}
