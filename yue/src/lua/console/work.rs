//! One evaluation: its stages, its output, and its interruption.
//!
//! ```text
//!   Sent ──▶ Running ──▶ Ended          Sent ──▶ Ended: revoked, because the loop has not begun it in time
//! ```
//!
//! Any thread may call it. Its number is the mark of its fiber, so an interruption meets no other fiber.

use crate::lua::host::errors::error_of;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use yue_luajit::{Ended, Interrupt, interrupt_marked};
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::sync::{Notify, OneshotSender};
use yue_scheduler::{
    FiberId, LoopHandle, Stopped, cancel, current_id, in_fiber, lock, spawn_with_signals_blocked,
};

/// Evaluations that run at the same time.
const WORKS_MAX: usize = 32;

/// Bytes of output that are kept until they are fetched. Further ones are counted.
const OUTPUT_MAX: usize = 64 << 10;

/// The steps of an interruption, and the time that each has. The cancel is enough for code that waits.
const CANCEL_TIME: Duration = Duration::from_millis(100);
const STEPS: [Interrupt; 4] = [
    Interrupt::Once,
    Interrupt::UntilUnwound,
    Interrupt::UntilUnwound,
    Interrupt::UntilUnwound,
];
const STEP_TIME: Duration = Duration::from_millis(400);
const SIGNAL_TIME: Duration = Duration::from_millis(50);

/// Those that have not ended.
static WORKS: Mutex<Vec<Arc<Work>>> = Mutex::new(Vec::new());

/// The outcome of an evaluation.
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn failed(text: &str) -> Answer {
        Answer {
            ok: false,
            text: text.to_owned(),
        }
    }

    /// Reads the results of the prelude's function: 1 or 0, and the text.
    pub(super) fn of(ended: Ended) -> Answer {
        if !ended.ok {
            return Answer::failed(&error_of(&ended).message);
        }
        let text = String::from_utf8_lossy(ended.state.bytes(2).unwrap_or_default());
        Answer {
            ok: ended.state.number(1) == Some(1.0),
            text: text.into_owned(),
        }
    }
}

enum Stage {
    Sent,
    Running(FiberId),
    Ended,
}

struct State {
    stage: Stage,
    /// Whether somebody has asked for its end, and whether a thread sees to that.
    is_interrupted: bool,
    is_being_ended: bool,
    output: Vec<u8>,
    dropped: usize,
    answer: Option<OneshotSender<Answer>>,
}

/// An evaluation.
pub(super) struct Work {
    /// From 1 on; never reused.
    pub(super) number: usize,
    pub(super) session: String,
    handle: LoopHandle,
    thread: libc::pid_t,
    state: Mutex<State>,
    /// Told of new output, and of the end.
    changed: Notify,
    ended: Condvar,
}

impl Work {
    /// Registers one.
    ///
    /// # Errors
    /// If the session has one that has not ended, or there are too many.
    pub(super) fn new(
        session: &str,
        handle: LoopHandle,
        thread: libc::pid_t,
        answer: OneshotSender<Answer>,
    ) -> Result<Arc<Work>, Failure> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        // Relaxed: only the numbers count.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let session = match session {
            "" => format!("#{number}"),
            name => name.to_owned(),
        };
        let busy = |text: String| Failure::of_kind(ErrorKind::ServerBusy, text);
        let mut works = lock(&WORKS);
        if works.iter().any(|work| work.session == session) {
            let text = "the last evaluation of this session has not ended; interrupt it, or use another session";
            return Err(busy(text.to_owned()));
        }
        if works.len() >= WORKS_MAX {
            return Err(busy(format!("{WORKS_MAX} evaluations run already")));
        }
        let work = Arc::new(Work {
            number,
            session,
            handle,
            thread,
            state: Mutex::new(State {
                stage: Stage::Sent,
                is_interrupted: false,
                is_being_ended: false,
                output: Vec::new(),
                dropped: 0,
                answer: Some(answer),
            }),
            changed: Notify::new(),
            ended: Condvar::new(),
        });
        works.push(work.clone());
        Ok(work)
    }

    /// The one that runs for a session.
    pub(super) fn of_session(session: &str) -> Option<Arc<Work>> {
        let works = lock(&WORKS);
        works.iter().find(|work| work.session == session).cloned()
    }

    /// Whether somebody waits for its outcome: it has not ended, and has not been given up.
    pub(super) fn is_awaited(&self) -> bool {
        lock(&self.state).answer.is_some()
    }

    /// Whether it has not ended.
    pub(super) fn is_running(&self) -> bool {
        !matches!(lock(&self.state).stage, Stage::Ended)
    }

    /// Whether its loop may start it: it was not revoked.
    pub(super) fn may_begin(&self) -> bool {
        matches!(lock(&self.state).stage, Stage::Sent)
    }

    /// Records its fiber.
    pub(super) fn begun(&self, fiber: FiberId) {
        let mut state = lock(&self.state);
        state.stage = Stage::Running(fiber);
        if state.is_interrupted {
            cancel(fiber);
        }
    }

    /// Ends it if its loop has not begun it; returns whether that is so.
    pub(super) fn revoke(self: &Arc<Self>) -> bool {
        let was_sent = self.may_begin();
        if was_sent {
            self.end(Answer::failed("revoked"));
        }
        was_sent
    }

    /// Passes the outcome on; the first one counts.
    pub(super) fn end(&self, outcome: Answer) {
        lock(&WORKS).retain(|work| work.number != self.number);
        let answer = {
            let mut state = lock(&self.state);
            state.stage = Stage::Ended;
            state.answer.take()
        };
        if let Some(answer) = answer {
            let _ = answer.send(outcome);
        }
        self.ended.notify_all();
        self.changed.notify_one();
    }

    /// The text of its outcome: that of an interruption names it.
    pub(super) fn describe(&self, text: String) -> String {
        const CANCELLED: &str = "CancelledError: the fiber was cancelled";
        match text.strip_prefix(CANCELLED) {
            Some(rest) if lock(&self.state).is_interrupted => format!("interrupted{rest}"),
            _ => text,
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        let room = OUTPUT_MAX - state.output.len();
        let kept = if state.dropped > 0 {
            0
        } else {
            room.min(bytes.len())
        };
        state.output.extend_from_slice(&bytes[..kept]);
        state.dropped += bytes.len() - kept;
        drop(state);
        self.changed.notify_one();
    }

    /// Takes what it has written so far.
    pub(super) fn take_output(&self) -> String {
        let mut state = lock(&self.state);
        let bytes = std::mem::take(&mut state.output);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            text.push_str(&format!("\n… ({dropped} bytes of output are left out)\n"));
        }
        text
    }

    /// Waits until it has written something, or has ended.
    pub(super) fn wait_for_change(&self) -> Result<(), Stopped> {
        self.changed.notified()
    }

    /// Ends it from any thread. Returns at once; a thread sees to it that the end comes, if it can.
    pub(super) fn interrupt(work: &Arc<Work>) {
        {
            let mut state = lock(&work.state);
            if matches!(state.stage, Stage::Ended) || state.is_being_ended {
                return;
            }
            state.is_interrupted = true;
            state.is_being_ended = true;
        }
        let victim = work.clone();
        // Without a thread it is cancelled, which ends all but code that computes.
        if spawn_with_signals_blocked("yue interrupt", move || victim.enforce_end()).is_err() {
            work.cancel();
            lock(&work.state).is_being_ended = false;
        }
    }

    fn cancel(&self) {
        if let Stage::Running(fiber) = lock(&self.state).stage {
            self.handle.run(move || {
                cancel(fiber);
            });
        }
    }

    /// The body of the thread.
    fn enforce_end(&self) {
        self.cancel();
        let mut ended = self.wait_for_end(CANCEL_TIME);
        for step in STEPS {
            if ended {
                return;
            }
            // A program that handles SIGURG itself cannot be interrupted.
            let _ = interrupt_marked(&[self.thread], self.number, step, SIGNAL_TIME);
            ended = self.wait_for_end(STEP_TIME);
        }
        if ended {
            return;
        }
        let text = "interrupted, but it still runs: it is in a C function, a finalizer, a hook, the error handler of \
                    an xpcall or yue.shield, or its loop is held by another fiber";
        let answer = {
            let mut state = lock(&self.state);
            state.is_being_ended = false;
            state.answer.take()
        };
        if let Some(answer) = answer {
            let _ = answer.send(Answer::failed(text));
        }
        self.changed.notify_one();
    }

    /// Waits, on a plain thread. Returns whether it has ended.
    fn wait_for_end(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = lock(&self.state);
        while !matches!(state.stage, Stage::Ended) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

thread_local! {
    /// The fibers of this loop that evaluate. Their number is apart: every line that a program prints looks at it.
    static FIBERS: RefCell<HashMap<FiberId, Arc<Work>>> = RefCell::default();
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Records which evaluation a fiber of this loop is.
pub(super) fn note_fiber(fiber: FiberId, work: &Arc<Work>) {
    FIBERS.with_borrow_mut(|fibers| {
        fibers.insert(fiber, work.clone());
        COUNT.set(fibers.len());
    });
}

/// Forgets the calling fiber, whose evaluation has ended.
pub(super) fn forget_fiber() {
    let fiber = current_id();
    let work = FIBERS.with_borrow_mut(|fibers| {
        let work = fibers.remove(&fiber);
        COUNT.set(fibers.len());
        work
    });
    drop(work);
}

/// Takes what the calling fiber writes to standard output, if it is an evaluation. Returns whether it is.
#[inline]
pub(crate) fn capture(bytes: &[u8]) -> bool {
    COUNT.get() > 0 && capture_in_fiber(bytes)
}

#[cold]
fn capture_in_fiber(bytes: &[u8]) -> bool {
    if !in_fiber() {
        return false;
    }
    let work = FIBERS.with_borrow(|fibers| fibers.get(&current_id()).cloned());
    work.inspect(|work| work.write(bytes)).is_some()
}

/// Ends the evaluations of this loop, which has ended.
pub(super) fn clear() {
    COUNT.set(0);
    let works = FIBERS.take();
    for work in works.into_values() {
        work.end(Answer::failed("the program has ended"));
    }
}
