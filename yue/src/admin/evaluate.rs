//! Evaluation: the methods `eval`, `eval_output`, `eval_interrupt` and `eval_complete`, behind which the program has
//! an [`Evaluator`]. Programs in Lua have one; without one the methods refuse.
//!
//! ```text
//!   console                     admin endpoint                      a loop of the program
//!   eval{code, session} ──────▶ evaluator.evaluate ── a closure ──▶ a fiber runs the code
//!   eval_output{session} ─────▶ evaluator.output  ◀── its output ──┤
//!   eval_interrupt{session} ──▶ evaluator.interrupt ─ a signal ───▶ an error in that fiber
//!   the answer of eval       ◀─────────────────────── its result ──┘
//! ```

use super::cut;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use yue_rpc::session::Session;
use yue_rpc::{CloseReason, ErrorKind, Failure, Hooks, Moment, Retry};
use yue_scheduler::{CancelScope, LogLevel, log};

/// Bytes of the code's first line in the log.
const LOGGED_MAX: usize = 200;

/// Runs code that tools send, in the language of the program; see [`Options::evaluator`](super::Options::evaluator).
///
/// The functions are called in fibers of any loop, and may wait. A call of [`Evaluator::evaluate`] that is cancelled
/// ends the evaluation.
pub trait Evaluator: fmt::Debug + Send + Sync {
    /// Runs code and waits for its end.
    ///
    /// # Errors
    /// If it cannot be run: the loop does not answer, or the session runs something already. An error of the code
    /// itself is an outcome.
    fn evaluate(&self, request: &Evaluation) -> Result<Outcome, Failure>;

    /// Waits until the evaluation of a session has written something, or has ended.
    ///
    /// # Errors
    /// If the calling fiber is stopped.
    fn output(&self, session: &str) -> Result<Output, Failure>;

    /// Interrupts the evaluation of a session. Returns whether there is one.
    fn interrupt(&self, session: &str) -> bool;

    /// Completes an unfinished line. It runs none of the program's code.
    ///
    /// # Errors
    /// If the loop does not answer.
    fn complete(&self, request: &Completion) -> Result<Completions, Failure>;
}

/// The arguments of `eval`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluation {
    /// The code.
    pub code: String,
    /// The name of a session, which the tool makes up. A session runs one piece of code at a time, and keeps the last
    /// result. Without a name it is a new one.
    pub session: String,
    /// The number of the loop that runs it, as `loops` lists them. By default the program's first.
    #[serde(rename = "loop", skip_serializing_if = "Option::is_none")]
    pub loop_id: Option<u32>,
    /// The width of the terminal, which results are fitted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
}

/// The answer of `eval`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the code returned; otherwise it raised, or could not be compiled.
    pub ok: bool,
    /// The results, or the error, for a person. It is bounded, and says so if it is cut.
    pub text: String,
    /// Output of the code that [`Evaluator::output`] has not returned.
    pub output: String,
}

/// The arguments of `eval_output` and `eval_interrupt`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InSession {
    session: String,
}

/// The answer of `eval_output`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The text that the code has written since the last call; it may be empty at the end.
    pub output: String,
    /// Whether the evaluation continues.
    pub running: bool,
}

/// The arguments of `eval_complete`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Completion {
    /// The line, up to the cursor.
    pub text: String,
    /// The session, as in [`Evaluation`].
    pub session: String,
    /// The loop, as in [`Evaluation`].
    #[serde(rename = "loop", skip_serializing_if = "Option::is_none")]
    pub loop_id: Option<u32>,
}

/// The answer of `eval_complete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completions {
    /// The byte of the text at which the completed word begins.
    pub start: usize,
    /// The words that may stand there, in order.
    pub candidates: Vec<String>,
}

/// The evaluator of an endpoint, as its methods use it.
pub(super) struct Evaluations {
    evaluator: Option<Arc<dyn Evaluator>>,
    /// The requests for code that runs, with their connections: they end with those.
    running: RefCell<Vec<Request>>,
}

/// A request for code that runs.
struct Request {
    number: u64,
    session: Session,
    scope: CancelScope,
}

impl Hooks for Evaluations {
    fn wants(&self, moment: Moment) -> bool {
        moment == Moment::Close
    }

    fn on_close(&self, session: &Session, _: &CloseReason) -> Retry {
        let running = self.running.borrow();
        let lost = running.iter().filter(|request| request.session == *session);
        lost.for_each(|request| request.scope.cancel());
        Retry::Default
    }
}

impl Evaluations {
    pub(super) fn new(evaluator: Option<Arc<dyn Evaluator>>) -> Rc<Evaluations> {
        Rc::new(Evaluations {
            evaluator,
            running: RefCell::default(),
        })
    }

    fn evaluator(&self) -> Result<&dyn Evaluator, Failure> {
        const REFUSAL: &str = "this program evaluates no code: it was started with --no-eval or YUE_ADMIN=readonly, \
                               or is not written in Lua";
        let refusal = || Failure::of_kind(ErrorKind::NotGranted, REFUSAL);
        self.evaluator.as_deref().ok_or_else(refusal)
    }

    pub(super) fn evaluate(&self, request: &Evaluation) -> Result<Outcome, Failure> {
        let evaluator = self.evaluator()?;
        let peer = yue_rpc::session::peer();
        write_to_log(request, peer.as_ref());
        let Some(peer) = peer else {
            return evaluator.evaluate(request);
        };
        let scope = CancelScope::new();
        let request_of_peer = Running::begin(&self.running, peer, scope.clone());
        let outcome = scope.enter(|| evaluator.evaluate(request));
        drop(request_of_peer);
        outcome
    }

    pub(super) fn output(&self, request: &InSession) -> Result<Output, Failure> {
        self.evaluator()?.output(&request.session)
    }

    pub(super) fn interrupt(&self, request: &InSession) -> Result<bool, Failure> {
        Ok(self.evaluator()?.interrupt(&request.session))
    }

    pub(super) fn complete(&self, request: &Completion) -> Result<Completions, Failure> {
        self.evaluator()?.complete(request)
    }
}

/// Takes a request from the list of those that run, also after a panic.
struct Running<'a> {
    all: &'a RefCell<Vec<Request>>,
    number: u64,
}

impl Running<'_> {
    fn begin(all: &RefCell<Vec<Request>>, session: Session, scope: CancelScope) -> Running<'_> {
        let mut list = all.borrow_mut();
        let number = list.last().map_or(0, |last| last.number + 1);
        list.push(Request {
            number,
            session,
            scope,
        });
        Running { all, number }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut list = self.all.borrow_mut();
        list.retain(|request| request.number != self.number);
    }
}

/// Every evaluation is in the program's log.
fn write_to_log(request: &Evaluation, peer: Option<&Session>) {
    let who = match peer.and_then(Session::peer_process) {
        Some(process) => format!("process {process}"),
        None => "an unknown process".to_owned(),
    };
    let mut lines = request.code.trim().lines();
    let first = cut(lines.next().unwrap_or_default(), LOGGED_MAX);
    let more = match lines.count() {
        0 => String::new(),
        more => format!(" (and {more} more lines)"),
    };
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    let first: String = first.chars().map(escape).collect();
    log(
        LogLevel::Info,
        format_args!("console: {who} evaluates {first}{more}"),
    );
}
