//! The console: code that a person types runs in a fiber of the program; see `../../../lua/console.lua`.
//!
//! ```text
//!   mod.rs      finds the loop, starts the fiber, waits for its outcome
//!   work.rs     one evaluation: its stages, its output, its interruption
//!   terminal.rs `yue -i` at a terminal: a thread that reads lines while the loops run
//!   syntax.rs   whether a text is a complete piece of Lua
//! ```
//!
//! The calling fiber is on another loop: that of the admin endpoint, or of the terminal. Loops of the program that are
//! held answer nothing, so each wait for one has a limit, except for the code's own end.

mod syntax;
pub(crate) mod terminal;
mod work;

pub use syntax::{Syntax, check_syntax};
pub use terminal::Terminal;
pub(crate) use work::capture;

use crate::admin::{Completion, Completions, Evaluation, Evaluator, Outcome, Output};
use crate::lua::host;
use crate::lua::host::entries::Entry;
use crate::lua::native::{native, register};
use crate::lua::program::report;
use std::sync::Arc;
use std::time::Duration;
use work::{Answer, Work};
use yue_luajit::{LuaState, Stack, ffi, mark_fiber};
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::inspect::HeldLoop;
use yue_scheduler::sync::{OneshotReceiver, oneshot};
use yue_scheduler::{LoopHandle, deadline_after, with_deadline};

/// The time in which a loop begins an evaluation, before it counts as held.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time for a completion: a person waits for it.
const COMPLETION_MAX: Duration = Duration::from_millis(1500);

/// Bytes of the code, and of a session's name.
const CODE_MAX: usize = 1 << 20;
const SESSION_MAX: usize = 64;

/// The width of results if the tool has no terminal, and the limits of what it may claim.
const WIDTH: usize = 80;
const WIDTH_MIN: usize = 20;
const WIDTH_MAX: usize = 1000;

/// Returns what runs code in the loops of this process's Lua program: for the admin endpoint, or for a console of the
/// program's own. Whoever may use it can do all that the process may.
///
/// ```
/// let options = yue::admin::Options { evaluator: Some(yue::lua::evaluator()), ..Default::default() };
/// # drop(options);
/// ```
pub fn evaluator() -> Arc<dyn Evaluator> {
    Arc::new(Console)
}

/// Evaluates in the program that was started last, of which a process has one.
#[derive(Debug)]
struct Console;

impl Evaluator for Console {
    fn evaluate(&self, request: &Evaluation) -> Result<Outcome, Failure> {
        if request.code.len() > CODE_MAX {
            return Err(argument(format!("the code has more than {CODE_MAX} bytes")));
        }
        let width = request.width.unwrap_or(WIDTH);
        let job = Job {
            what: "evaluate",
            text: request.code.clone().into_bytes(),
            width: width.clamp(WIDTH_MIN, WIDTH_MAX),
        };
        let (work, answer) = start(&request.session, request.loop_id, job)?;
        let _ends_with_the_caller = InterruptOnDrop(&work);
        let answer = answer.recv().map_err(|_| ended_early())?;
        Ok(Outcome {
            ok: answer.ok,
            text: work.describe(answer.text),
            output: work.take_output(),
        })
    }

    fn output(&self, session: &str) -> Result<Output, Failure> {
        let Some(work) = Work::of_session(session) else {
            return Ok(Output::default());
        };
        loop {
            let running = work.is_awaited();
            let output = work.take_output();
            if !running || !output.is_empty() {
                return Ok(Output { output, running });
            }
            work.wait_for_change()?;
        }
    }

    fn interrupt(&self, session: &str) -> bool {
        Work::of_session(session)
            .inspect(Work::interrupt)
            .is_some_and(|work| work.is_running())
    }

    fn complete(&self, request: &Completion) -> Result<Completions, Failure> {
        let job = Job {
            what: "complete",
            text: request.text.clone().into_bytes(),
            width: WIDTH,
        };
        // Not in the session's turn: its code may run.
        let session = format!("{}{COMPLETER}", request.session);
        let (work, answer) = start(&session, request.loop_id, job)?;
        let _ends_with_the_caller = InterruptOnDrop(&work);
        let answer = with_deadline(deadline_after(COMPLETION_MAX), || answer.recv());
        let answer = answer.map_err(|_| ended_early())?;
        let mut lines = answer.text.lines();
        let start = lines.next().and_then(|line| line.parse().ok());
        Ok(Completions {
            start: start.unwrap_or(request.text.len()).min(request.text.len()),
            candidates: lines.map(str::to_owned).collect(),
        })
    }
}

/// Behind the name of a session: its completions.
const COMPLETER: &str = "\0";

fn argument(text: String) -> Failure {
    Failure::of_kind(ErrorKind::Argument, text)
}

fn ended_early() -> Failure {
    Failure::new("the evaluation was ended")
}

/// A caller that stops waiting, because its connection has been closed for example, ends the code.
struct InterruptOnDrop<'a>(&'a Arc<Work>);

impl Drop for InterruptOnDrop<'_> {
    fn drop(&mut self) {
        if self.0.is_running() {
            Work::interrupt(self.0);
        }
    }
}

/// A call of the prelude's `internal.console`.
struct Job {
    what: &'static str,
    text: Vec<u8>,
    width: usize,
}

/// Starts a job on a loop, which begins it in time.
fn start(
    session: &str,
    loop_id: Option<u32>,
    job: Job,
) -> Result<(Arc<Work>, OneshotReceiver<Answer>), Failure> {
    if session.len() > SESSION_MAX {
        return Err(argument(format!(
            "the name of a session has more than {SESSION_MAX} bytes"
        )));
    }
    let (handle, thread) = member(loop_id)?;
    let (sender, answer) = oneshot();
    let (begins, begun) = oneshot();
    let work = Work::new(session, handle.clone(), thread, sender)?;
    let started = work.clone();
    handle.run(move || {
        if begin(&started, &job).is_none() {
            started.end(Answer::failed("this loop runs no Lua"));
        }
        // The caller may have given up.
        let _ = begins.send(());
    });
    let begun = with_deadline(deadline_after(PATIENCE), || begun.recv());
    if begun.is_err() && work.revoke() {
        return Err(Failure::of_kind(ErrorKind::ServerBusy, held(&handle)));
    }
    Ok((work, answer))
}

/// The loop of the program with this number, or its first one, and its thread.
fn member(loop_id: Option<u32>) -> Result<(LoopHandle, libc::pid_t), Failure> {
    let members = report::program().map(|program| program.members());
    let members = members.unwrap_or_default();
    let numbers: Vec<_> = members.iter().map(|(handle, _)| handle.id()).collect();
    let found = members
        .into_iter()
        .find(|(handle, _)| loop_id.is_none_or(|id| handle.id() == id));
    found.ok_or_else(|| match loop_id {
        Some(id) if !numbers.is_empty() => {
            argument(format!("there is no loop {id} of Lua, but {numbers:?}"))
        }
        _ => Failure::new("no Lua program runs in this process"),
    })
}

/// Describes a loop that does not answer.
fn held(handle: &LoopHandle) -> String {
    let id = handle.id();
    match HeldLoop::of(handle, PATIENCE) {
        Some(held) => {
            let text = report::held_text(&held);
            let line = text.lines().next().unwrap_or_default();
            format!("loop {id} does not answer, nothing was evaluated: {line}")
        }
        None => format!("loop {id} does not answer: it begins, or ends"),
    }
}

/// Starts the fiber, on its loop, outside fibers. `None` if it cannot be started.
fn begin(work: &Arc<Work>, job: &Job) -> Option<()> {
    let host = host::current()?;
    Entry::Console.reference()?;
    if !work.may_begin() {
        return Some(());
    }
    let mut thread = host.vm.borrow_state().ok()?;
    push_call(&host, &mut thread, work, job)?;
    let (ended_work, hold) = (work.clone(), host.hold());
    let waiting = host.clone();
    let fiber = thread.spawn(Some("console"), move |ended| {
        crate::lua::fibers::end_record_after(&waiting.vm);
        work::forget_fiber();
        ended_work.end(Answer::of(ended));
        drop(hold);
    });
    let fiber = fiber.ok()?;
    work::note_fiber(fiber.id(), work);
    work.begun(fiber.id());
    Some(())
}

/// Pushes `internal.console` and its arguments on an empty stack.
fn push_call(host: &host::Host, thread: &mut LuaState, work: &Work, job: &Job) -> Option<()> {
    let state = thread.raw();
    let (number, session) = (work.number as f64, work.session.as_bytes());
    // The completions of a session see its environment.
    let session = session
        .strip_suffix(COMPLETER.as_bytes())
        .unwrap_or(session);
    let pushed = host.vm.protect(|stack| {
        stack.reserve(6);
        // SAFETY: protected; both are states of this VM, and that one is idle: it has room for these few.
        unsafe {
            Entry::Console.push(stack.raw());
            stack.push_bytes(job.what.as_bytes());
            stack.push_number(number);
            stack.push_bytes(session);
            stack.push_bytes(&job.text);
            stack.push_number(job.width as f64);
            ffi::lua_xmove(stack.raw(), state, 6);
        }
    });
    pushed.ok()
}

native! {
    /// `mark_evaluation(number)`: the calling fiber is that evaluation, which alone its interruption ends.
    MarkEvaluation = "mark_evaluation", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        mark_fiber(number as usize);
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; MarkEvaluation);
    terminal::register_all(stack);
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    work::clear();
}
