//! All that can be seen from outside, as text: each loop's counters, and its fibers with what they wait for and the
//! calls that they are in.
//!
//! Fibers that wait for the same thing and come from the same place (and, of Lua, run the same function) are one
//! group, so that the report of a million fibers is a page; the groups whose members wait longest come first. Of each
//! group some stacks are shown, the longest wait's first.
//!
//! A loop is asked page by page and goes on between two pages. One that does not answer is held: its thread is looked
//! at as the watchdog does, and the counters that it published last are shown all the same.

use super::backtrace::{Backtrace, copy_stack, notes};
use super::fibers::{FiberInfo, FiberState, PAGES_AT_ONCE};
use super::unwind::StackCopy;
use super::vitals::Counted;
use super::watchdog::HeldLoop;
use crate::event_loop::{Message, Shared, registry, with_loop};
use crate::fiber::FiberId;
use crate::signals;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write as _};
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{mem, ptr};

/// How long a loop may take to answer before it counts as held.
const PATIENCE: Duration = Duration::from_secs(1);
/// Groups of a loop that are shown.
const GROUPS_MAX: usize = 64;
/// Fibers of a group whose stacks are shown.
const SAMPLES_MAX: usize = 4;

/// What one looks at when a program hangs: all loops of the process, their counters, and their fibers by what they wait
/// for, with stacks; the longest waits first.
///
/// It asks the loops and waits for their answers, a second for one that is held, so it is called from a thread that
/// runs none of them. (Called on a loop's thread, it reports the others, and of that one the counters.)
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
    // SAFETY: a plain query.
    let this_thread = unsafe { libc::gettid() };
    if vitals.thread.number == this_thread {
        return writeln!(
            out,
            "  (the report is made on this loop's own thread, so its fibers are not listed)"
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
            "  it does not answer, and does not work: nobody ticks it, or it is ending"
        );
    }
    let held = HeldLoop::look_at(shared, PATIENCE);
    write!(out, "  it does not answer: {held}")
}

/// Fibers of one loop that wait for the same, or do not wait, and were spawned at the same place to run the same.
struct Group {
    count: u64,
    longest: Duration,
    /// Those that wait longest, the longest first.
    samples: Vec<FiberInfo>,
}

type Key = (
    FiberState,
    &'static str,
    &'static Location<'static>,
    Option<Box<str>>,
);

/// Adds a page of the list.
fn sort_in(groups: &mut HashMap<Key, Group>, page: Vec<FiberInfo>) {
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
        let place = group
            .samples
            .partition_point(|other| other.duration >= fiber.duration);
        if place < SAMPLES_MAX {
            group.samples.truncate(SAMPLES_MAX - 1);
            group.samples.insert(place, fiber);
        }
    }
}

/// Has the loop do `work` between two fibers; `None` if it does not get to it.
fn ask<T: Send + 'static>(shared: &Shared, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    shared.send(Message::Run(Box::new(move || {
        let _ = sender.send(work());
    })));
    receiver.recv_timeout(PATIENCE).ok()
}

/// All fibers of a loop, in groups.
fn list(shared: &Shared) -> Option<Vec<Group>> {
    let mut groups = HashMap::new();
    let mut page = 0;
    loop {
        let (list, more) = ask(shared, move || {
            let mut list = Vec::new();
            let more = with_loop(|l| {
                l.refresh_tick_time();
                l.list(page..page + PAGES_AT_ONCE, &mut list)
            });
            (list, more)
        })?;
        sort_in(&mut groups, list);
        if !more {
            return Some(groups.into_values().collect());
        }
        page += PAGES_AT_ONCE;
    }
}

/// What the loop says of a fiber that stands still.
type Standing = (Option<StackCopy>, Vec<String>);

fn look_at(shared: &Shared, fiber: FiberId) -> Option<Standing> {
    ask(shared, move || (copy_stack(fiber), notes(fiber)))
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
    // Those in the same calls are told of together.
    let mut alike: Vec<(Vec<&FiberInfo>, Option<Backtrace>, Vec<String>)> = Vec::new();
    for fiber in &group.samples {
        let (copy, notes) = look_at(shared, fiber.id).unwrap_or_default();
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

/// The pipe's end that the handler writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Has each `signal` write a [`report`] to standard error. For a program that hangs: `kill -QUIT`, or Ctrl-\ in its
/// terminal, after `report_on(libc::SIGQUIT)`. The program goes on.
///
/// A thread of its own makes the report, so that no loop has to be able to run. A signal that the program's loops
/// subscribe to goes to them, and makes no report.
///
/// ```
/// use yue_scheduler::inspect;
///
/// const SIGQUIT: i32 = 3;
/// inspect::report_on(SIGQUIT).unwrap();
/// ```
///
/// # Errors
/// When the system gives no pipe or no thread, or refuses a handler for that signal.
pub fn report_on(signal: i32) -> io::Result<()> {
    report_on_with(signal, || format!("yue: {}", report()))
}

type Make = Box<dyn Fn() -> String + Send>;

/// What makes the text of a report.
static MAKE: Mutex<Option<Make>> = Mutex::new(None);

/// As [`report_on`], but what is written is what `make` returns, which is called on a thread of its own.
///
/// ```
/// use yue_scheduler::inspect;
///
/// const SIGQUIT: i32 = 3;
/// inspect::report_on_with(SIGQUIT, || format!("yesterday all was well\n{}", inspect::report())).unwrap();
/// ```
///
/// # Errors
/// As [`report_on`].
pub fn report_on_with(signal: i32, make: impl Fn() -> String + Send + 'static) -> io::Result<()> {
    let make: Make = Box::new(make);
    let before = MAKE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(make);
    drop(before);
    if PIPE.load(Ordering::Relaxed) < 0 {
        let (mut reader, writer) = io::pipe()?;
        // A handler must not wait for room: a full pipe means that there are reports to come enough.
        // SAFETY: a setting of a descriptor of ours.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        signals::spawn_with_signals_blocked("yue report", move || {
            while matches!(reader.read(&mut [0]), Ok(1)) {
                let make = MAKE.lock().unwrap_or_else(PoisonError::into_inner);
                let text = make.as_ref().map_or_else(String::new, |make| make());
                drop(make);
                // Nobody is left to be told.
                let _ = io::stderr().write_all(text.as_bytes());
            }
        })?;
        // Release: pairs with the handler's Acquire.
        PIPE.store(writer.as_raw_fd(), Ordering::Release);
        mem::forget(writer);
    }
    // SAFETY: an all-zero sigaction is a valid one; the handler is async-signal-safe.
    let set = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(signal, &action, ptr::null_mut())
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    // Acquire: pairs with the Release in `report_on`.
    let pipe = PIPE.load(Ordering::Acquire);
    // SAFETY: write(2) of one byte is async-signal-safe; errno, which it may change, is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(pipe, [1u8].as_ptr().cast(), 1);
        *errno = before;
    }
}
