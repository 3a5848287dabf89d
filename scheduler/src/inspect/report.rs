//! The report: all loops as text, with their counters and their fibers, what the fibers wait for, and their call
//! stacks.
//!
//! Fibers that wait for the same thing, were spawned at the same location and have the same origin (the function that
//! an interpreter runs) form one group, so the report of a million fibers is a page. Groups with the longest waits come
//! first. For each group some stacks are shown, the longest wait first.
//!
//! A loop lists its fibers page by page and continues to run in between. A loop that does not reply is held: its thread
//! is captured as the watchdog does it, and the counters that it last published are shown.

use super::backtrace::{Backtrace, copy_stack, notes};
use super::fibers::{FiberInfo, FiberState, PAGES_AT_ONCE};
use super::unwind::StackCopy;
use super::watchdog::HeldLoop;
use crate::event_loop::{Counted, Message, Shared, registry, with_loop};
use crate::fiber::FiberId;
use crate::lock::lock;
use crate::signals;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write as _};
use std::mem;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The time that a loop has to reply before it counts as held.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most groups shown per loop.
const GROUPS_MAX: usize = 64;
/// Most fibers per group whose stacks are shown.
const SAMPLES_MAX: usize = 4;

/// Returns a report on a program that hangs: all loops of the process, their counters, and their fibers by what they
/// wait for, with stacks; longest waits first.
///
/// It sends requests to the loops and waits for their replies, a second for a loop that is held, so call it from a
/// thread that runs no loop. (On a loop's thread it reports the other loops, and only the counters of that one.)
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, inspect, sleep};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let other_thread = std::thread::spawn(inspect::report);
///     while !other_thread.is_finished() {
///         sleep(Duration::from_millis(1)).unwrap();
///     }
///     let text = other_thread.join().unwrap();
///     assert!(text.contains("1 fiber parked in 'sleep'"), "{text}");
/// });
/// ```
pub fn report() -> String {
    let loops = registry::all();
    let mut out = String::new();
    let fibers: u64 = loops
        .iter()
        .map(|shared| shared.vitals().counted().live)
        .sum();
    let (process, count) = (std::process::id(), loops.len());
    let _ = writeln!(out, "process {process}: {count} loops, {fibers} fibers");
    for shared in &loops {
        let _ = report_loop(&mut out, shared);
    }
    out
}

fn report_loop(out: &mut String, shared: &Arc<Shared>) -> fmt::Result {
    let vitals = shared.vitals();
    let (id, thread, driver) = (shared.id(), &vitals.thread.name, vitals.driver);
    writeln!(out, "\nloop {id} (thread '{thread}', {driver})")?;
    write_counters(out, &vitals.counted())?;
    if vitals.thread.number == crate::thread_id() {
        return writeln!(
            out,
            "  (the report was requested on this loop's own thread, so its fibers are not listed)"
        );
    }
    let Some(mut groups) = list(shared) else {
        return report_held(out, shared);
    };
    groups.sort_by_key(|group| Reverse(group.longest));
    for group in groups.iter().take(GROUPS_MAX) {
        write_group(out, shared, group)?;
    }
    let left = groups.iter().skip(GROUPS_MAX).map(|group| group.count);
    match left.clone().count() {
        0 => Ok(()),
        more => writeln!(
            out,
            "  and {} fibers in {more} more groups",
            left.sum::<u64>()
        ),
    }
}

fn write_counters(out: &mut String, c: &Counted) -> fmt::Result {
    let ready = c.live.saturating_sub(c.parked);
    writeln!(
        out,
        "  {} fibers ({} parked, {ready} ready), {} timers, {} operations; \
         {} spawned, {} panics, {} ticks, {} switches",
        c.live, c.parked, c.timers, c.operations, c.spawned, c.panics, c.ticks, c.switches
    )
}

fn report_held(out: &mut String, shared: &Shared) -> fmt::Result {
    if shared.vitals().working_on().is_none() {
        return writeln!(
            out,
            "  it does not reply, and is not working: nothing ticks it, or it is ending"
        );
    }
    let held = HeldLoop::capture(shared, PATIENCE);
    write!(out, "  it does not reply: {held}")
}

/// Fibers of one loop with the same state and wait reason, spawned at the same location to run the same function.
struct Group {
    count: u64,
    longest: Duration,
    /// The members that have waited longest, in order.
    samples: Vec<FiberInfo>,
}

type Key = (
    FiberState,
    &'static str,
    &'static Location<'static>,
    Option<Box<str>>,
);

/// Adds one page of the list to the groups.
fn add_page(groups: &mut HashMap<Key, Group>, page: Vec<FiberInfo>) {
    for fiber in page {
        let reason = if fiber.state == FiberState::Parked {
            fiber.reason
        } else {
            ""
        };
        let key = (fiber.state, reason, fiber.location, fiber.origin.clone());
        let group = groups.entry(key).or_insert_with(|| Group {
            count: 0,
            longest: Duration::ZERO,
            samples: Vec::new(),
        });
        group.count += 1;
        group.longest = group.longest.max(fiber.duration);
        let index = group
            .samples
            .partition_point(|other| other.duration >= fiber.duration);
        if index < SAMPLES_MAX {
            group.samples.truncate(SAMPLES_MAX - 1);
            group.samples.insert(index, fiber);
        }
    }
}

/// Runs `work` on the loop, between two fibers. `None` if the loop does not get to it in time.
fn request<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    shared.send(Message::Run(Box::new(move || {
        let _ = sender.send(work());
    })));
    receiver.recv_timeout(PATIENCE).ok()
}

/// Lists all fibers of a loop, in groups.
fn list(shared: &Shared) -> Option<Vec<Group>> {
    let mut groups = HashMap::new();
    let mut page = 0;
    loop {
        let (list, more) = request(shared, move || {
            let mut list = Vec::new();
            let more = with_loop(|l| {
                l.refresh_tick_time();
                l.list(page..page + PAGES_AT_ONCE, &mut list)
            });
            (list, more)
        })?;
        add_page(&mut groups, list);
        if !more {
            return Some(groups.into_values().collect());
        }
        page += PAGES_AT_ONCE;
    }
}

/// The data that the loop returns about a suspended fiber.
type Suspended = (Option<StackCopy>, Vec<String>);

fn inspect_fiber(shared: &Shared, fiber: FiberId) -> Option<Suspended> {
    request(shared, move || (copy_stack(fiber), notes(fiber)))
}

fn write_group(out: &mut String, shared: &Shared, group: &Group) -> fmt::Result {
    let Some(first) = group.samples.first() else {
        return Ok(());
    };
    let (count, state) = (group.count, first.state);
    let noun = if count == 1 { "fiber" } else { "fibers" };
    write!(out, "\n  {count} {noun} {state}")?;
    if state == FiberState::Parked {
        write!(out, " in '{}'", first.reason)?;
    }
    let (longest, location) = (group.longest, first.location);
    write!(out, " for up to {longest:.1?}, spawned at {location}")?;
    if let Some(origin) = &first.origin {
        write!(out, " to run {origin}")?;
    }
    out.write_char('\n')?;
    // Fibers with the same call stack are shown together.
    let mut alike: Vec<(Vec<&FiberInfo>, Option<Backtrace>, Vec<String>)> = Vec::new();
    for fiber in &group.samples {
        let (copy, notes) = inspect_fiber(shared, fiber.id).unwrap_or_default();
        let calls = copy.map(|copy| Backtrace::of(&copy));
        match alike
            .iter_mut()
            .find(|known| known.1 == calls && known.2 == notes)
        {
            Some(known) => known.0.push(fiber),
            None => alike.push((vec![fiber], calls, notes)),
        }
    }
    for (fibers, calls, notes) in alike {
        for fiber in fibers {
            write_fiber(out, fiber)?;
        }
        for line in notes.iter().flat_map(|note| note.lines()) {
            writeln!(out, "      {line}")?;
        }
        if let Some(calls) = calls {
            for line in calls.to_string().lines() {
                writeln!(out, "  {line}")?;
            }
        }
    }
    let shown = group.samples.len() as u64;
    if count > shown {
        writeln!(out, "    and {} more", count - shown)?;
    }
    Ok(())
}

fn write_fiber(out: &mut String, fiber: &FiberInfo) -> fmt::Result {
    write!(out, "    fiber {}", fiber.id)?;
    if let Some(name) = &fiber.name {
        write!(out, " '{name}'")?;
    }
    write!(out, ": {:.1?}, {} switches", fiber.duration, fiber.switches)?;
    if let Some(run_time) = fiber.run_time {
        write!(out, ", ran {run_time:.1?}")?;
    }
    if fiber.cancelled {
        out.write_str(", cancelled")?;
    }
    if fiber.shielded {
        out.write_str(", shielded")?;
    }
    if fiber.deadline.is_some() {
        out.write_str(", under a deadline")?;
    }
    out.write_char('\n')
}

/// The write end of the pipe, which the handler uses.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Makes `signal` write a [`report`] to standard error. For a program that hangs: `kill -QUIT`, or Ctrl-\ in its
/// terminal, after `report_on(libc::SIGQUIT)`. The program continues.
///
/// A separate thread makes the report, so no loop has to be able to run. If the program's loops subscribe to the
/// signal, they receive it instead, and no report is made.
///
/// ```
/// use yue_scheduler::inspect;
///
/// const SIGQUIT: i32 = 3;
/// inspect::report_on(SIGQUIT).unwrap();
/// ```
///
/// # Errors
/// When the system has no pipe or no thread, or refuses a handler for that signal.
pub fn report_on(signal: i32) -> io::Result<()> {
    report_on_with(signal, || format!("yue: {}", report()))
}

type Make = Box<dyn Fn() -> String + Send>;

/// The function that makes the text of a report.
static MAKE: Mutex<Option<Make>> = Mutex::new(None);

/// Like [`report_on`], but writes the text that `make` returns, which is called on a separate thread.
///
/// ```
/// use yue_scheduler::inspect;
///
/// const SIGQUIT: i32 = 3;
/// inspect::report_on_with(SIGQUIT, || format!("yesterday all was well\n{}", inspect::report())).unwrap();
/// ```
///
/// # Errors
/// See [`report_on`].
pub fn report_on_with(signal: i32, make: impl Fn() -> String + Send + 'static) -> io::Result<()> {
    let make: Make = Box::new(make);
    let before = lock(&MAKE).replace(make);
    drop(before);
    if PIPE.load(Ordering::Relaxed) < 0 {
        let (mut reader, writer) = io::pipe()?;
        // A handler must not wait for room. A full pipe means that enough reports are already due.
        // SAFETY: sets a flag of our own descriptor.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        signals::spawn_with_signals_blocked("yue report", move || {
            while matches!(reader.read(&mut [0]), Ok(1)) {
                let make = lock(&MAKE);
                let text = make.as_ref().map_or_else(String::new, |make| make());
                drop(make);
                // If this fails, there is nowhere left to report it.
                let _ = io::stderr().write_all(text.as_bytes());
            }
        })?;
        // Release: pairs with the handler's Acquire.
        PIPE.store(writer.as_raw_fd(), Ordering::Release);
        mem::forget(writer);
    }
    // SAFETY: the handler is async-signal-safe.
    unsafe { signals::set_signal_handler(signal, on_signal as *const (), 0) }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    // Acquire: pairs with the Release in `report_on`.
    let pipe = PIPE.load(Ordering::Acquire);
    // SAFETY: write(2) of one byte is async-signal-safe; errno, which it may change, is restored.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(pipe, [1u8].as_ptr().cast(), 1);
        *errno = before;
    }
}
