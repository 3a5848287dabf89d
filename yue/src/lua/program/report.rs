//! The report on a program that hangs or blocks a loop: first one line that names the line of Lua, then the rest of
//! Lua's side. Native frames are shown with `YUE_BACKTRACE=full`.
//!
//! On SIGQUIT each loop of the program makes a report (`internal.make_report`, ../../lua/report.lua, in a new fiber). A
//! loop that does not answer counts as blocked: its thread is examined, as the watchdog does.

use crate::lua::data::metrics;
use crate::lua::fibers::{fiber_id, number};
use crate::lua::host;
use crate::lua::host::entries::Entry;
use crate::lua::host::log;
use crate::lua::host::program::Program;
use crate::lua::native::{Results, native, register, register_raw};
use crate::lua::rpc::connections::with_connections;
use std::ffi::c_int;
use std::fmt::Write;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use yue_luajit::{Parked, Stack, ffi};
use yue_rpc::session::Session;
use yue_scheduler::inspect::{self, FiberState, HeldLoop};
use yue_scheduler::lock;
use yue_scheduler::simulation::{self, PerHost};
use yue_scheduler::{FiberId, LogLevel, current_id, this_loop};

/// The time that a loop has for its report before it counts as blocked.
const PATIENCE: Duration = Duration::from_secs(1);

/// The maximum number of arguments shown of the function that a fiber waits in; they may show what it waits for.
const ARGUMENTS_MAX: c_int = 4;

/// The maximum number of calls of one function in a fiber that are looked at.
const CALLS_MAX: c_int = 16;

/// The maximum number of fibers, and of connections, that one loop reports.
const LISTED_MAX: usize = 100_000;

/// The running program: a process has one report, about the program that was started last.
static PROGRAM: PerHost<Mutex<Weak<Program>>> = PerHost::new(|| Mutex::new(Weak::new()));

pub(crate) fn set_program(program: &Arc<Program>) {
    *lock(&PROGRAM.get()) = Arc::downgrade(program);
}

/// The program that was started last, if it has not ended.
pub(crate) fn program() -> Option<Arc<Program>> {
    lock(&PROGRAM.get()).upgrade()
}

fn wants_native_frames() -> bool {
    std::env::var_os("YUE_BACKTRACE").is_some_and(|value| value == "full")
}

/// Logs what blocks a loop of the process for longer than `threshold`, as `yue --watchdog` does: like
/// [`inspect::watch_loops`], with the function and the line of Lua first. It does so until the process ends.
///
/// # Errors
/// If the system refuses the thread.
///
/// ```
/// use std::time::Duration;
/// use yue::lua::{Chunk, Script, watch_loops};
///
/// watch_loops(Duration::from_millis(500))?;
/// let script = Script {
///     chunks: vec![Chunk::text("=(a loop)", "for i = 1, 1000 do end")],
///     ..Script::new("/dev/null")
/// };
/// assert_eq!(script.run(), 0); // A line on standard error names the loop if this takes longer than half a second.
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn watch_loops(threshold: Duration) -> io::Result<()> {
    inspect::watch_loops_with(threshold, |held| {
        log::write(LogLevel::Warn, held_text(held).as_bytes());
    })
}

/// Writes a report to standard error on each `signal`, as the `yue` command does on SIGQUIT: like
/// [`inspect::report_on`], with the connections, and the Lua that each fiber waits in.
///
/// # Errors
/// The system's.
///
/// ```no_run
/// use yue::lua::{Script, report_on};
///
/// report_on(libc::SIGQUIT)?;
/// std::process::exit(Script::new("server.lua").run());
/// # #[allow(unreachable_code)]
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn report_on(signal: c_int) -> io::Result<()> {
    inspect::report_on_with(signal, || {
        let mut text = report();
        if wants_native_frames() {
            let _ = write!(text, "\n{}", inspect::report());
        }
        text
    })
}

/// The lines of Lua that a loop is in, except the prelude's.
fn lua_lines(held: &HeldLoop) -> Vec<&str> {
    let lines = held.note.as_deref().unwrap_or_default().lines().skip(1);
    let lines = lines.map(str::trim);
    lines.filter(|line| !line.starts_with("[yue]/")).collect()
}

/// Describes what blocks a loop: one line, then its location.
pub(crate) fn held_text(held: &HeldLoop) -> String {
    let lines = lua_lines(held);
    let mut calls = lines.iter().filter(|line| !line.starts_with("C function"));
    let (duration, thread) = (held.duration, &held.thread);
    let mut text = match (calls.next(), calls.next()) {
        (Some(line), Some(caller)) => {
            format!("a loop is held for {duration:.1?} at {line}, called from {caller}")
        }
        (Some(line), None) => format!("a loop is held for {duration:.1?} at {line}"),
        _ => format!("a loop is held for {duration:.1?} by code that is not Lua"),
    };
    let note = held.note.as_deref().unwrap_or_default();
    let work = note
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("Lua: "));
    match work.or(held.name.as_deref()) {
        Some(work) if work.starts_with("handler ") => {
            _ = write!(text, " ({work}; thread '{thread}')")
        }
        Some(name) => _ = write!(text, " (fiber '{name}', thread '{thread}')"),
        None => _ = write!(text, " (thread '{thread}')"),
    }
    text.push('\n');
    for line in &lines {
        let _ = writeln!(text, "{line}");
    }
    if lines.is_empty() || wants_native_frames() {
        let _ = match &held.backtrace {
            Ok(calls) => write!(text, "{calls}"),
            Err(why) => writeln!(text, "(no stack: {why})"),
        };
    }
    text
}

/// One loop's report: the weight of its first line, that line, and the rest.
struct LoopReport {
    rank: f64,
    headline: String,
    rest: String,
}

/// The report on all loops of the program.
fn report() -> String {
    let loops = program()
        .map(|program| program.members())
        .unwrap_or_default();
    let asked: Vec<_> = loops
        .iter()
        .map(|(handle, _)| {
            let (sender, receiver) = channel();
            handle.run(move || ask(sender));
            (handle, receiver)
        })
        .collect();
    let mut reports: Vec<LoopReport> = asked
        .into_iter()
        .map(|(handle, receiver)| match receiver.recv_timeout(PATIENCE) {
            Ok(report) => report,
            Err(_) => match HeldLoop::of(handle, PATIENCE) {
                Some(held) => {
                    let text = held_text(&held);
                    let (headline, rest) = text.split_once('\n').unwrap_or((&text, ""));
                    LoopReport {
                        rank: f64::INFINITY,
                        headline: headline.replace("is held for", "is held for at least"),
                        rest: rest.lines().map(|line| format!("  {line}\n")).collect(),
                    }
                }
                None => LoopReport {
                    rank: 0.0,
                    headline: "a loop does not answer: it begins, or ends".to_owned(),
                    rest: String::new(),
                },
            },
        })
        .collect();
    reports.sort_by(|a, b| b.rank.total_cmp(&a.rank));
    let mut text = String::new();
    for (index, one) in reports.iter().enumerate() {
        let before = if index == 0 { "yue: " } else { "\n" };
        let _ = writeln!(text, "{before}{}\n{}", one.headline, one.rest.trim_end());
    }
    if reports.is_empty() {
        text.push_str("yue: no program runs\n");
    }
    let _ = writeln!(
        text,
        "end of the report of process {} (YUE_BACKTRACE=full adds native frames)",
        std::process::id()
    );
    text
}

/// Starts the report of the loop on which this runs. Without an answer the sender is dropped.
fn ask(answer: Sender<LoopReport>) {
    let Some(host) = host::current() else {
        return;
    };
    if Entry::MakeReport.reference().is_none() {
        return;
    }
    let Ok(thread) = host.vm.borrow_state() else {
        return;
    };
    // SAFETY: an idle state owned here, with room for one value.
    unsafe { Entry::MakeReport.push(thread.raw()) };
    let spawned = thread.spawn(Some("report"), move |mut ended| {
        if !ended.ok {
            let rest = String::new();
            let headline = format!("no report could be made: {}", ended.error_text());
            let _ = answer.send(LoopReport {
                rank: 0.0,
                headline,
                rest,
            });
            return;
        }
        let text = |position| {
            let bytes = ended.state.bytes(position).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let _ = answer.send(LoopReport {
            rank: ended.state.number(1).unwrap_or(0.0),
            headline: text(2),
            rest: text(3),
        });
    });
    // It answers, whatever happens to the handle.
    drop(spawned);
}

/// Lets Lua describe what some fibers of the calling loop wait for, in a new fiber, which passes the text to `answer`.
/// `None` if no Lua runs on the loop. At most 100 fibers. What was found for one collection is not used for another.
pub(crate) fn describe_waits(
    collection: u32,
    fibers: &[FiberId],
    answer: impl FnOnce(Option<String>) + 'static,
) {
    let thread = host::current().and_then(|host| host.vm.borrow_state().ok());
    let Some(thread) = thread.filter(|_| Entry::DescribeWaits.reference().is_some()) else {
        return answer(None);
    };
    // SAFETY: an idle state owned here. Growing its stack, and pushing a reference or a number, raises nothing.
    unsafe {
        if ffi::lua_checkstack(thread.raw(), fibers.len() as c_int + 2) == 0 {
            return answer(None);
        }
        Entry::DescribeWaits.push(thread.raw());
        ffi::lua_pushnumber(thread.raw(), collection.into());
        for fiber in fibers {
            ffi::lua_pushnumber(thread.raw(), number(*fiber));
        }
    }
    let spawned = thread.spawn(Some("report"), move |ended| {
        if !ended.ok {
            return answer(None);
        }
        let bytes = ended.state.bytes(1).unwrap_or_default();
        answer(Some(String::from_utf8_lossy(bytes).into_owned()));
    });
    // It answers, whatever happens to the handle.
    drop(spawned);
}

/// A fiber, as `fibers()` returns it.
struct Listed {
    id: f64,
    name: Option<Box<str>>,
    origin: Option<Box<str>>,
    waits: bool,
    reason: &'static str,
    seconds: f64,
}

/// All fibers of the loop except the one that asks.
pub(crate) struct Fibers(Vec<Listed>);

impl Results for Fibers {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(state, self.0.len() as c_int, 0);
            for (index, fiber) in self.0.iter().enumerate() {
                ffi::lua_createtable(state, 0, 6);
                stack.push_number(fiber.id);
                ffi::lua_setfield(state, -2, c"id".as_ptr());
                for (key, text) in [(c"name", &fiber.name), (c"origin", &fiber.origin)] {
                    if let Some(text) = text {
                        stack.push_bytes(text.as_bytes());
                        ffi::lua_setfield(state, -2, key.as_ptr());
                    }
                }
                stack.push_boolean(fiber.waits);
                ffi::lua_setfield(state, -2, c"waits".as_ptr());
                stack.push_bytes(fiber.reason.as_bytes());
                ffi::lua_setfield(state, -2, c"reason".as_ptr());
                stack.push_number(fiber.seconds);
                ffi::lua_setfield(state, -2, c"seconds".as_ptr());
                ffi::lua_rawseti(state, -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    /// `fibers()`: a list of the fibers of this loop.
    ListFibers = "fibers", suspends: false;
    read(_stack) -> () {}
    run(()) -> Fibers {
        let me = current_id();
        let all = this_loop::fibers().into_iter().filter(|fiber| fiber.id != me).take(LISTED_MAX);
        let listed = all.map(|fiber| Listed {
            id: number(fiber.id),
            name: fiber.name,
            origin: fiber.origin,
            waits: fiber.state == FiberState::Parked,
            reason: fiber.reason,
            seconds: fiber.duration.as_secs_f64(),
        });
        Ok(Fibers(listed.collect()))
    }
}

/// The numbers of fibers, as `fiber_numbers()` returns them.
pub(crate) struct Numbers(Vec<f64>);

impl Results for Numbers {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(state, self.0.len() as c_int, 0);
            for (index, number) in self.0.iter().enumerate() {
                stack.push_number(*number);
                ffi::lua_rawseti(state, -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    /// `fiber_numbers()`: a list of the numbers of the fibers of this loop.
    FiberNumbers = "fiber_numbers", suspends: false;
    read(_stack) -> () {}
    run(()) -> Numbers {
        let all = this_loop::fiber_ids().into_iter().take(LISTED_MAX);
        Ok(Numbers(all.map(number).collect()))
    }
}

native! {
    /// `traceback(fiber)`: the lines of Lua that a waiting fiber is in; nil if it runs no Lua.
    Traceback = "traceback", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> {
        Ok(Parked::find(fiber_id(number), |parked| parked.traceback()))
    }
}

native! {
    /// `work_of(fiber)`: the handler that a waiting fiber is in, and its caller; empty if not known.
    WorkOf = "work_of", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> {
        Ok(Parked::find(fiber_id(number), |parked| parked.work()))
    }
}

/// `waits_in(fiber)`: the first arguments of the native function that a fiber waits in.
unsafe extern "C-unwind" fn waits_in_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this. Nothing has a destructor.
    unsafe {
        let stack = Stack::new(state);
        let fiber: FiberId = fiber_id(stack.number(1));
        let push = |parked: Parked<'_>| parked.push_arguments(stack, ARGUMENTS_MAX);
        Parked::find(fiber, push).unwrap_or(0)
    }
}

/// `calls_of(fn, fiber)`: the first arguments of the calls of that function that a waiting fiber is in.
unsafe extern "C-unwind" fn calls_of_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this. Nothing has a destructor.
    unsafe {
        let stack = Stack::new(state);
        let fiber: FiberId = fiber_id(stack.number(2));
        let push = |parked: Parked<'_>| parked.push_calls_of(stack, 1, CALLS_MAX);
        Parked::find(fiber, push).unwrap_or(0)
    }
}

/// A connection, as `sessions()` returns it.
struct Linked {
    /// The number of a listener's service, or of the connection that was opened.
    id: f64,
    address: String,
    opened: bool,
    up: bool,
    numbers: [(&'static std::ffi::CStr, f64); 4],
}

impl Linked {
    fn of(session: &Session, id: u32, opened: bool) -> Linked {
        Linked {
            id: id.into(),
            address: session.address().to_owned(),
            opened,
            up: session.connected(),
            numbers: [
                (c"seconds", session.age().as_secs_f64()),
                (c"queued", session.queued_bytes() as f64),
                (c"calls", session.calls_in_flight() as f64),
                (c"requests", session.requests_in_flight() as f64),
            ],
        }
    }
}

/// All open connections of the loop.
pub(crate) struct Sessions(Vec<Linked>);

impl Results for Sessions {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(state, self.0.len() as c_int, 0);
            for (index, one) in self.0.iter().enumerate() {
                ffi::lua_createtable(state, 0, 8);
                stack.push_bytes(one.address.as_bytes());
                ffi::lua_setfield(state, -2, c"address".as_ptr());
                for (key, flag) in [(c"opened", one.opened), (c"up", one.up)] {
                    stack.push_boolean(flag);
                    ffi::lua_setfield(state, -2, key.as_ptr());
                }
                for (key, number) in one.numbers.iter().copied().chain([(c"id", one.id)]) {
                    stack.push_number(number);
                    ffi::lua_setfield(state, -2, key.as_ptr());
                }
                ffi::lua_rawseti(state, -2, index as i64 + 1);
            }
        }
        1
    }
}

fn sessions() -> Sessions {
    let mut all = Vec::new();
    with_connections(|connections| {
        connections.each_with_id(|session, id, opened| {
            if all.len() < LISTED_MAX && !session.is_closed() {
                all.push(Linked::of(session, id, opened));
            }
        });
    });
    Sessions(all)
}

native! {
    /// `sessions()`: a list of the connections of this loop.
    ListSessions = "sessions", suspends: false;
    read(_stack) -> () {}
    run(()) -> Sessions { Ok(sessions()) }
}

native! {
    /// `metrics_text()`: all counters of the process, in Prometheus' text format.
    MetricsText = "metrics_text", suspends: false;
    read(_stack) -> () {}
    run(()) -> String {
        // The rest of the process belongs to other hosts, or to nobody.
        Ok(if simulation::is_on() { metrics::text() } else { crate::admin::prometheus() })
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; ListFibers, FiberNumbers, Traceback, WorkOf, ListSessions, MetricsText);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "waits_in", waits_in_raw);
        register_raw(stack, "calls_of", calls_of_raw);
    }
}
