//! The thread on whose loop the console's evaluator works: that of this program, or a connection to another one.
//!
//! ```text
//!   the thread that reads lines                     the thread `console link`, with a loop
//!   blocks in the terminal      ── a closure ──▶    a fiber calls the evaluator ── RPC, or a closure ──▶ the program
//!   waits for its result        ◀────────────────
//! ```
//!
//! So the reader knows one interface, whichever program it is about.

use crate::running::{self, Info};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use yue::admin::{Completion, Completions, Evaluation, Evaluator, Outcome, Output};
use yue::{Choice, LoopHandle, Runtime};
use yue_rpc::typed::Client;
use yue_rpc::{Failure, Timeout};
use yue_scheduler::{inspect, spawn_with_signals_blocked, this_loop};

/// The session of the program's own terminal, as the console of the library knows it.
const OWN_SESSION: &str = "terminal";

/// A loop of the program.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct LoopLine {
    #[serde(rename = "loop")]
    pub(super) number: u32,
    pub(super) thread: String,
    pub(super) fibers: usize,
    pub(super) answers: bool,
    pub(super) blocked_seconds: Option<f64>,
}

/// The program that a console is about.
#[derive(Clone)]
struct Target {
    evaluator: Arc<dyn Evaluator>,
    loops: fn() -> Result<Vec<LoopLine>, Failure>,
}

thread_local! {
    static TARGET: RefCell<Option<Target>> = const { RefCell::new(None) };
    static CLIENT: RefCell<Option<Rc<Client>>> = const { RefCell::new(None) };
}

fn ended() -> Failure {
    Failure::new("the console has ended")
}

/// The loops of this program, without that of the link.
fn own_loops() -> Result<Vec<LoopLine>, Failure> {
    let own = this_loop::id();
    let others = inspect::loops()
        .into_iter()
        .filter(|one| one.handle.id() != own);
    let line = |one: inspect::LoopInfo| LoopLine {
        number: one.handle.id(),
        thread: one.thread.to_string(),
        fibers: one.counters.fibers,
        answers: true,
        blocked_seconds: None,
    };
    Ok(others.map(line).collect())
}

/// The evaluator of another process, behind its admin endpoint.
#[derive(Debug)]
struct Remote;

/// Calls a method of the admin endpoint.
fn call<R: DeserializeOwned>(
    method: &str,
    timeout: Timeout,
    arguments: impl Serialize,
) -> Result<R, Failure> {
    let client = CLIENT.with_borrow(Clone::clone).ok_or_else(ended)?;
    // A call would wait for the next program at this address.
    if !client.session().connected() {
        return Err(Failure::new("the connection to the program is lost"));
    }
    let answer = client.call_within(timeout, method, arguments);
    answer.map_err(Failure::from)
}

#[derive(Serialize)]
struct InSession<'a> {
    session: &'a str,
}

impl Evaluator for Remote {
    fn evaluate(&self, request: &Evaluation) -> Result<Outcome, Failure> {
        call("eval", Timeout::Never, (request,))
    }

    fn output(&self, session: &str) -> Result<Output, Failure> {
        call("eval_output", Timeout::Never, (InSession { session },))
    }

    fn interrupt(&self, session: &str) -> bool {
        call("eval_interrupt", Timeout::Default, (InSession { session },)).unwrap_or(false)
    }

    fn complete(&self, request: &Completion) -> Result<Completions, Failure> {
        call("eval_complete", Timeout::Default, (request,))
    }
}

fn remote_loops() -> Result<Vec<LoopLine>, Failure> {
    call("loops", Timeout::Default, ())
}

/// The link's thread, as the reader uses it.
#[derive(Clone)]
pub(super) struct Link {
    handle: LoopHandle,
    session: Arc<str>,
}

impl Link {
    /// A link to this process's own program.
    ///
    /// # Errors
    /// If the system refuses a thread or a loop.
    pub(super) fn local() -> Result<Link, String> {
        let target = Target {
            evaluator: yue::lua::evaluator(),
            loops: own_loops,
        };
        Ok(Link::start(OWN_SESSION.to_owned(), move || Ok((target, ())))?.0)
    }

    /// A link to a running program, as [`running::find`] finds it.
    ///
    /// # Errors
    /// If it is not found, or the system refuses a thread or a loop.
    pub(super) fn remote(wanted: Option<String>) -> Result<(Link, Info), String> {
        let session = format!("console of process {}", std::process::id());
        Link::start(session, move || {
            let program = running::find(wanted.as_deref())?;
            CLIENT.set(Some(program.admin));
            let target = Target {
                evaluator: Arc::new(Remote),
                loops: remote_loops,
            };
            Ok((target, program.info))
        })
    }

    fn start<T: Send + 'static>(
        session: String,
        open: impl FnOnce() -> Result<(Target, T), String> + Send + 'static,
    ) -> Result<(Link, T), String> {
        let (sender, opened) = mpsc::channel();
        let refused = sender.clone();
        let body = move || {
            let serve = move || match open() {
                Ok((target, result)) => {
                    TARGET.set(Some(target));
                    let _ = sender.send(Ok((this_loop::handle(), result)));
                    // Also when it is cancelled.
                    let _ = this_loop::wait_for_shutdown();
                    TARGET.take();
                    CLIENT.take();
                }
                Err(text) => drop(sender.send(Err(text))),
            };
            // A ring, and memory of the kernel, would be too much for one caller.
            let runtime = Runtime::builder()
                .driver(Choice::Mio)
                .shutdown_on_signals(false)
                .build();
            match runtime {
                Ok(runtime) => runtime.run(serve),
                Err(error) => drop(refused.send(Err(format!("cannot start a loop: {error}")))),
            }
        };
        spawn_with_signals_blocked("console link", body)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        let opened = opened
            .recv()
            .map_err(|_| "the console's thread has failed".to_owned())?;
        let (handle, result) = opened?;
        let session = session.into();
        Ok((Link { handle, session }, result))
    }

    /// Calls `f` in a fiber of the link's loop, and waits.
    fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Target, &str) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.begin(f)
            .join()
            .map_err(|error| Failure::new(error.to_string()))?
    }

    fn begin<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Target, &str) -> Result<R, Failure> + Send + 'static,
    ) -> yue::RemoteJoin<Result<R, Failure>> {
        let session = self.session.clone();
        self.handle.spawn(move || {
            let target = TARGET.with_borrow(Clone::clone).ok_or_else(ended)?;
            f(&target, &session)
        })
    }

    /// Runs code; passes its output to `show` as it comes.
    ///
    /// # Errors
    /// If it is not run. An error of the code itself is an outcome.
    pub(super) fn evaluate(
        &self,
        code: &str,
        loop_id: Option<u32>,
        width: usize,
        mut show: impl FnMut(&str),
    ) -> Result<Outcome, Failure> {
        let request = Evaluation {
            code: code.to_owned(),
            session: self.session.to_string(),
            loop_id,
            width: Some(width),
        };
        let outcome = self.begin(move |target, _| target.evaluator.evaluate(&request));
        while let Ok(Output { output, running }) =
            self.call(|target, session| target.evaluator.output(session))
        {
            show(&output);
            if !running {
                break;
            }
        }
        let outcome = outcome
            .join()
            .map_err(|error| Failure::new(error.to_string()))??;
        show(&outcome.output);
        Ok(outcome)
    }

    /// Interrupts the code that runs, from any thread. It does not wait.
    pub(super) fn interrupt(&self) {
        drop(self.begin(|target, session| Ok(target.evaluator.interrupt(session))));
    }

    /// Completes a line.
    ///
    /// # Errors
    /// If the program does not answer.
    pub(super) fn complete(
        &self,
        text: &str,
        loop_id: Option<u32>,
    ) -> Result<Completions, Failure> {
        let text = text.to_owned();
        self.call(move |target, session| {
            target.evaluator.complete(&Completion {
                text,
                session: session.to_owned(),
                loop_id,
            })
        })
    }

    /// Lists the loops of the program.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn loops(&self) -> Result<Vec<LoopLine>, Failure> {
        self.call(|target, _| (target.loops)())
    }

    /// Whether it leads to this process's own program.
    pub(super) fn is_local(&self) -> bool {
        &*self.session == OWN_SESSION
    }

    /// Ends the link.
    pub(super) fn close(&self) {
        self.handle.shutdown();
    }
}
