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
use crate::lua::program::{Cause, Program};
use crate::runtime::SAME_SIGNAL;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use yue_io::signal::{self, Signal, Subscription};
use yue_io::stdio::flush_buffers;
use yue_luajit::{Interrupt, interrupt};
use yue_scheduler::{LogLevel, LoopHandle, log, spawn_with_signals_blocked};

/// The time that requests which are being served have when the program ends.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The signals that end a program.
const SIGNALS: [Signal; 2] = [Signal::INT, Signal::TERM];

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

/// The time for flushing and the last remark before the process ends; a full pipe would take forever.
const LAST_FLUSH: Duration = Duration::from_millis(150);

#[derive(Clone, Copy)]
enum Step {
    /// Asks each loop to answer.
    Ask,
    /// Interrupts the loops that have not answered.
    Interrupt(Interrupt),
    End,
}

/// A message to the guard's thread.
pub(crate) enum Notice {
    Signal(Signal),
    /// A shutdown has begun, for any cause.
    ShutDown,
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
        // A signal that the parent ignores must stay ignored: a shell ignores some for its background jobs, and nohup
        // SIGHUP.
        let heard = SIGNALS
            .into_iter()
            .filter(|signal| !signal::is_ignored(*signal));
        let heard: Vec<Signal> = heard.collect();
        let signals = match &thread {
            Ok(_) => listen(&heard, sender).map(Some),
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

fn listen(signals: &[Signal], guard: Sender<Notice>) -> std::io::Result<Subscription> {
    signal::subscribe_off_loop(signals, move |signal| {
        // A program that binds the signal itself decides for itself.
        if !is_bound(signal.number()) {
            let _ = guard.send(Notice::Signal(signal));
        }
    })
}

/// The thread's body. Ends when no sender is left.
fn watch(program: &Arc<Program>, notices: &Receiver<Notice>) {
    let mut first_signal: Option<Instant> = None;
    let mut asked = Vec::new();
    let mut steps = STEPS.iter();
    let mut next: Option<(Instant, Step)> = None;
    loop {
        let notice = match next {
            None => notices.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((at, _)) => notices.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match (notice, next) {
            (Err(RecvTimeoutError::Disconnected), _) => return,
            (Ok(Notice::Signal(signal)), _) => {
                let first = *first_signal.get_or_insert_with(Instant::now);
                if first.elapsed() >= SAME_SIGNAL {
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
    Some((program.grace_ends()? + *after, *step))
}

/// A loop that was asked to answer, and whether it did.
struct Asked {
    thread: libc::pid_t,
    answered: Arc<AtomicBool>,
}

/// Takes a step. It ends when the next one is due: the end must come in time, however many loops are blocked.
fn take(step: Step, program: &Program, asked: &mut Vec<Asked>, until: Option<Instant>) {
    let held = || {
        asked
            .iter()
            .filter(|one| !one.answered.load(Ordering::Relaxed))
    };
    match step {
        Step::Ask => *asked = program.members().iter().map(ask).collect(),
        Step::Interrupt(how) => {
            let threads: Vec<_> = held().map(|one| one.thread).collect();
            let patience = until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            // Loops that do not take the signal end with the process.
            let _ = interrupt(&threads, how, patience);
        }
        Step::End => {
            let (code, why) = match program.cause() {
                Some(Cause::Signal(signal)) => (128 + signal.number(), signal.to_string()),
                _ => (1, "it was told to end".to_owned()),
            };
            let held = match held().count() {
                0 => "it has not ended".to_owned(),
                1 => "a loop is still held by what it runs".to_owned(),
                count => format!("{count} loops are still held by what they run"),
            };
            let seconds = GRACE.as_secs() + 1;
            end_process(
                code,
                Some(format!(
                    "{seconds} s after {why}, {held}; the process ends without the rest of its clean-up"
                )),
            );
        }
    }
}

fn ask((handle, thread): &(LoopHandle, libc::pid_t)) -> Asked {
    let answered = Arc::new(AtomicBool::new(false));
    let answer = answered.clone();
    handle.run(move || answer.store(true, Ordering::Relaxed));
    Asked {
        thread: *thread,
        answered,
    }
}

/// Ends the process, once buffered output is written and the remark is printed, or the time for that has passed.
fn end_process(code: i32, remark: Option<String>) -> ! {
    let until = Instant::now() + LAST_FLUSH;
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
    if let Some(remark) = remark {
        start(Box::new(move || {
            log(LogLevel::Warn, format_args!("{remark}"))
        }));
    }
    for _ in 0..started {
        let _ = waiting.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
    // Not `exit`, which would wait for whatever blocks the program.
    // SAFETY: ends the process, and runs none of its code.
    unsafe { libc::_exit(code) }
}
