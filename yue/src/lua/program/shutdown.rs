//! Shutdown: the end of a program from outside (SIGINT, SIGTERM), and the deadline of every end.
//!
//! A separate thread keeps the time: the program's loops may compute, or be blocked in a write that nobody reads, and
//! Ctrl-C must still work then. Times from the beginning of the shutdown:
//!
//! ```text
//!   0 s             each loop stops accepting requests, and running ones get time
//!   GRACE (5 s)     each loop cancels what still runs; a loop that does not finish its tick is asked to answer
//!   + 0.1 s         Lua that blocks a loop gets a cancel error, once: clean-up can run
//!   + 0.5 s         … and again before each bytecode, until its fiber has unwound: pcall cannot catch it any more
//!   + 0.85 s        buffered output is flushed, if possible
//!   GRACE + 1 s     the process ends
//! ```
//!
//! Signals that follow the first within half a second are the same request; a later one ends the process at once.

use crate::lua::fibers::signals::is_bound;
use crate::lua::host::program::{Cause, GRACE, Notice, Program};
use crate::lua::host::with_host;
use crate::lua::native::{native, register, seconds};
use crate::runtime::end_signals::{self, EndRequests};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;
use yue_io::signal::{Signal, Subscription};
use yue_io::stdio::flush_buffers;
use yue_luajit::{Interrupt, Stack, interrupt};
use yue_scheduler::{Instant, LogLevel, LoopHandle, log, sleep, spawn, spawn_with_signals_blocked};

/// The steps after the grace, and their times; see above. A loop has a tenth of a second to answer.
const STEPS: [(Duration, Step); 9] = [
    (Duration::ZERO, Step::Ask),
    (Duration::from_millis(100), Step::Interrupt(Interrupt::Once)),
    (Duration::from_millis(400), Step::Ask),
    (
        Duration::from_millis(500),
        Step::Interrupt(Interrupt::UntilUnwound),
    ),
    (Duration::from_millis(550), Step::Ask),
    (
        Duration::from_millis(650),
        Step::Interrupt(Interrupt::UntilUnwound),
    ),
    (Duration::from_millis(700), Step::Ask),
    (
        Duration::from_millis(800),
        Step::Interrupt(Interrupt::UntilUnwound),
    ),
    (Duration::from_millis(850), Step::End),
];

/// The time for flushing and the last log line before the process ends; a full pipe would take forever.
const LAST_FLUSH: Duration = Duration::from_millis(150);

#[derive(Clone, Copy)]
enum Step {
    /// Asks each loop to answer.
    Ask,
    /// Interrupts the loops that have not answered.
    Interrupt(Interrupt),
    End,
}

/// The thread that ensures the end of a shutdown, and its signals. It exists as long as this lives.
pub(crate) struct Guard {
    signals: Option<Subscription>,
    thread: Option<JoinHandle<()>>,
    program: Arc<Program>,
}

impl Guard {
    /// Starts it. A failure is reported: the program runs anyway.
    pub(crate) fn start(program: &Arc<Program>) -> Guard {
        let (sender, receiver) = mpsc::channel();
        program.set_guard(Some(sender.clone()));
        let watched = program.clone();
        let thread = spawn_with_signals_blocked("yue shutdown", move || watch(&watched, &receiver));
        let signals = match &thread {
            Ok(_) => listen(program.clone(), sender).map(Some),
            Err(_) => Ok(None),
        };
        let errors = [thread.as_ref().err(), signals.as_ref().err()];
        for error in errors.into_iter().flatten() {
            log(
                LogLevel::Warn,
                format_args!("no graceful shutdown by signals: {error}"),
            );
        }
        Guard {
            signals: signals.ok().flatten(),
            thread: thread.ok(),
            program: program.clone(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.signals.take());
        self.program.set_guard(None);
        // No sender is left, so the thread ends. A panic there has been reported.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(program: Arc<Program>, guard: Sender<Notice>) -> std::io::Result<Subscription> {
    end_signals::subscribe(move |signal| {
        // A program that binds the signal itself decides for itself. At a terminal, Ctrl-C ends what a line has begun.
        let is_taken =
            is_bound(signal.number()) || signal == Signal::INT && program.terminal_runs();
        if !is_taken {
            let _ = guard.send(Notice::Signal(signal));
        }
    })
}

/// The thread's body. Ends when no sender is left.
fn watch(program: &Arc<Program>, notices: &Receiver<Notice>) {
    let requests = EndRequests::default();
    let mut asked = Vec::new();
    let mut steps = STEPS.iter();
    let mut next: Option<(Instant, Step)> = None;
    loop {
        let notice = match next {
            None => notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((at, _)) => notices.recv_timeout(at.saturating_since(Instant::system())),
        };
        match (notice, next) {
            (Err(RecvTimeoutError::Disconnected), _) => return,
            (Ok(Notice::Signal(signal)), _) => {
                if requests.insist() {
                    end_process(128 + signal.number(), None);
                }
                program.shut_down(Cause::Signal(signal));
            }
            (Err(RecvTimeoutError::Timeout), Some((_, step))) => {
                let until = step_at(program, steps.clone().next());
                take(step, program, &mut asked, until.map(|(at, _)| at));
                next = None;
            }
            (Ok(Notice::ShutDown) | Err(RecvTimeoutError::Timeout), _) => {}
        }
        if next.is_none() && program.grace_ends().is_some() {
            next = step_at(program, steps.next());
        }
    }
}

/// A step, and its time, once a shutdown has begun.
fn step_at(program: &Program, step: Option<&(Duration, Step)>) -> Option<(Instant, Step)> {
    let (after, step) = step?;
    Some((program.grace_ends()?.saturating_add(*after), *step))
}

/// A loop that was asked to answer, and whether it did.
struct Asked {
    thread: libc::pid_t,
    has_answered: Arc<AtomicBool>,
}

/// Takes a step. It ends when the next one is due: the end must come in time, however many loops are blocked.
fn take(step: Step, program: &Program, asked: &mut Vec<Asked>, until: Option<Instant>) {
    let blocked = || {
        asked
            .iter()
            .filter(|one| !one.has_answered.load(Ordering::Relaxed))
    };
    match step {
        Step::Ask => *asked = program.members().iter().map(ask).collect(),
        Step::Interrupt(how) => {
            let threads: Vec<_> = blocked().map(|one| one.thread).collect();
            let patience = until.map_or(Duration::ZERO, |until| {
                until.saturating_since(Instant::system())
            });
            // Loops that do not take the signal end with the process.
            let _ = interrupt(&threads, how, patience);
        }
        Step::End => {
            let (code, why) = match program.cause() {
                Some(Cause::Signal(signal)) => (128 + signal.number(), signal.to_string()),
                _ => (1, "its end was requested".to_owned()),
            };
            let blocked = match blocked().count() {
                0 => "the program has not ended".to_owned(),
                1 => "a loop is still blocked by the code that it runs".to_owned(),
                count => format!("{count} loops are still blocked by the code that they run"),
            };
            let seconds = GRACE.as_secs() + 1;
            end_process(
                code,
                Some(format!(
                    "{seconds} s after {why}, {blocked}; the process ends without the rest of its clean-up"
                )),
            );
        }
    }
}

fn ask((handle, thread): &(LoopHandle, libc::pid_t)) -> Asked {
    let has_answered = Arc::new(AtomicBool::new(false));
    let answer = has_answered.clone();
    // Relaxed: the flag guards no other data.
    handle.run(move || answer.store(true, Ordering::Relaxed));
    Asked {
        thread: *thread,
        has_answered,
    }
}

/// Ends the process, once buffered output is written and the log line is printed, or the time for that has passed.
fn end_process(code: i32, line: Option<String>) -> ! {
    let until = Instant::system().saturating_add(LAST_FLUSH);
    let (done, waiting) = mpsc::channel();
    let mut started = 0;
    let mut start = |work: Box<dyn FnOnce() + Send>| {
        let done = done.clone();
        let work = move || {
            work();
            let _ = done.send(());
        };
        started += usize::from(spawn_with_signals_blocked("yue last words", work).is_ok());
    };
    // Separately: each may wait forever for a reader, or for a lock whose holder waits for one.
    start(Box::new(flush_buffers));
    if let Some(line) = line {
        start(Box::new(move || {
            log(LogLevel::Warn, format_args!("{line}"))
        }));
    }
    for _ in 0..started {
        let _ = waiting.recv_timeout(until.saturating_since(Instant::system()));
    }
    crate::admin::remove_files();
    // Not `exit`, which would wait for whatever blocks the program.
    // SAFETY: ends the process, and runs none of its code.
    unsafe { libc::_exit(code) }
}

native! {
    /// `die(seconds)`: ends the program, on all of its loops, after a delay.
    Die = "die", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(delay) -> () {
        let program = with_host(|host| host.program.clone())?;
        if delay > 0.0 {
            drop(spawn(move || {
                if sleep(seconds(delay)).is_ok() {
                    program.shut_down(Cause::Program);
                }
            }));
        } else {
            program.shut_down(Cause::Program);
        }
        Ok(())
    }
}

native! {
    /// `shutting_down()`: whether the end of the program has begun.
    ShuttingDown = "shutting_down", suspends: false;
    read(_stack) -> () {}
    run(()) -> bool {
        with_host(|host| host.program.cause().is_some())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Die, ShuttingDown);
}
