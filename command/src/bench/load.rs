//! Generates the load: fibers on one loop that call through the RPC layer.

use super::Plan;
use super::report::Live;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use yue_io::Choice;
use yue_io::signal::{self, Signal};
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::connector_with;
use yue_rpc::{ErrorKind, Options, Timeout};
use yue_scheduler::{Config, Instant, Loop, now, sleep, sleep_until, spawn};

/// Latencies are kept to three digits, up to an hour, in nanoseconds.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// Open loop: the maximum number of waiting calls; a call that is due beyond that counts as left out.
const OPEN_LOOP_WAITING_MAX: usize = 50_000;

/// The result of a run.
pub(super) struct Outcome {
    /// Latencies of answered calls, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// Failed calls, by error.
    pub(super) errors: BTreeMap<String, u64>,
    /// Open loop: calls that were due and were left out, because too many waited.
    pub(super) left_out: u64,
    /// The counted time.
    pub(super) elapsed: Duration,
    /// Processor time of this process.
    pub(super) cpu: Duration,
    /// The driver.
    pub(super) driver: &'static str,
    /// The reason why a connection was lost, which ended the load early.
    pub(super) lost: Option<String>,
    /// The signal that ended it early.
    pub(super) stopped: Option<Signal>,
}

struct State {
    plan: Plan,
    counting: Cell<bool>,
    ended: Cell<bool>,
    waiting: Cell<usize>,
    left_out: Cell<u64>,
    latencies: RefCell<Histogram<u64>>,
    errors: RefCell<BTreeMap<String, u64>>,
    /// The error of the first call whose connection was lost.
    lost: RefCell<Option<String>>,
    stopped: Cell<Option<Signal>>,
}

/// Runs the planned load.
///
/// # Errors
/// The reason why no load could be run.
pub(super) fn run(plan: &Plan, io: Choice) -> Result<Outcome, String> {
    let latencies =
        Histogram::new_with_max(LATENCY_MAX_NS, 3).map_err(|error| error.to_string())?;
    let config = Config {
        driver: yue_io::driver(io).map_err(|error| error.to_string())?,
        ..Config::default()
    };
    let driver = config.driver.name();
    let plan = plan.clone();
    let l = Loop::new(config).map_err(|error| error.to_string())?;
    l.run(move || {
        let state = Rc::new(State {
            plan,
            counting: Cell::new(false),
            ended: Cell::new(false),
            waiting: Cell::new(0),
            left_out: Cell::new(0),
            latencies: RefCell::new(latencies),
            errors: RefCell::default(),
            lost: RefCell::default(),
            stopped: Cell::new(None),
        });
        load(&state, driver)
    })
}

fn load(state: &Rc<State>, driver: &'static str) -> Result<Outcome, String> {
    let plan = &state.plan;
    let options = Options {
        timeout: plan.timeout,
        legacy: plan.legacy,
        // After a reconnect the remaining calls would measure another server.
        reconnect: false,
        ..Options::default()
    };
    let connector = connector_with(&plan.address, &plan.sockets);
    let sessions: Vec<Session> = (0..plan.connections)
        .map(|_| Session::open(connector.clone(), Service::none(), options.clone()))
        .collect();
    // The first call of each connection connects it; a server that refuses, or lacks the method, is reported at once.
    let fibers: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (state, session) = (state.clone(), session.clone());
            spawn(move || call(&state, &session).map_err(|error| error.to_string()))
        })
        .collect();
    for fiber in fibers {
        fiber.join().map_err(|error| error.to_string())??;
    }
    // From here on a result is reported, even after an interruption. A second signal ends the process.
    let receiver = state.clone();
    let signals = signal::subscribe(&[Signal::INT, Signal::TERM], move |signal| {
        receiver.stopped.set(Some(signal));
    });
    let workers: Vec<_> = match plan.rate {
        None => closed_loop(state, &sessions),
        Some(rate) => vec![open_loop(state, &sessions, rate)],
    };
    let warm = Instant::system().saturating_add(plan.warmup);
    wait_until(state, warm, || {})?;
    let outcome = count(state, driver)?;
    drop(signals);
    state.ended.set(true);
    for worker in workers {
        // Calls that still wait end by themselves: their timeout passes.
        worker.cancel();
        let _ = worker.join();
    }
    sessions.iter().for_each(Session::close);
    Ok(outcome)
}

/// Counts for the planned time, with a live display.
fn count(state: &Rc<State>, driver: &'static str) -> Result<Outcome, String> {
    let plan = &state.plan;
    let live = Live::start(plan);
    let (start, cpu) = (Instant::system(), cpu_time());
    state.counting.set(true);
    let end = start.saturating_add(plan.duration);
    wait_until(state, end, || {
        let elapsed = Instant::system().saturating_since(start);
        live.show(elapsed, &state.latencies.borrow(), &state.errors.borrow());
    })?;
    state.counting.set(false);
    live.end();
    Ok(Outcome {
        latencies: state.latencies.borrow().clone(),
        errors: state.errors.take(),
        left_out: state.left_out.get(),
        elapsed: Instant::system().saturating_since(start),
        cpu: cpu_time().saturating_sub(cpu),
        driver,
        lost: state.lost.take(),
        stopped: state.stopped.get(),
    })
}

/// Waits until `end`, or until a connection is lost or a signal arrives; calls `look` now and then.
fn wait_until(state: &State, end: Instant, look: impl Fn()) -> Result<(), String> {
    let continues = || state.lost.borrow().is_none() && state.stopped.get().is_none();
    while Instant::system() < end && continues() {
        let step = end
            .saturating_since(Instant::system())
            .min(Duration::from_millis(100));
        sleep(step).map_err(|error| error.to_string())?;
        look();
    }
    Ok(())
}

fn closed_loop(state: &Rc<State>, sessions: &[Session]) -> Vec<yue_scheduler::JoinHandle<()>> {
    let mut workers = Vec::new();
    for session in sessions {
        for _ in 0..state.plan.in_flight {
            let (state, session) = (state.clone(), session.clone());
            workers.push(spawn(move || {
                while !state.ended.get() {
                    let due = Instant::system();
                    if !record(&state, due, call(&state, &session)) {
                        break;
                    }
                }
            }));
        }
    }
    workers
}

/// Sends by the clock; each call waits in its own fiber, and its latency counts from the time it was due.
fn open_loop(state: &Rc<State>, sessions: &[Session], rate: f64) -> yue_scheduler::JoinHandle<()> {
    let (state, sessions) = (state.clone(), sessions.to_vec());
    spawn(move || {
        let start = now();
        let mut sent: u64 = 0;
        while !state.ended.get() {
            let due = start.saturating_add(Duration::from_secs_f64(sent as f64 / rate));
            if sleep_until(due).is_err() || state.lost.borrow().is_some() {
                break;
            }
            let session = sessions[sent as usize % sessions.len()].clone();
            sent += 1;
            if state.waiting.get() >= OPEN_LOOP_WAITING_MAX {
                state
                    .left_out
                    .set(state.left_out.get() + u64::from(state.counting.get()));
                continue;
            }
            state.waiting.set(state.waiting.get() + 1);
            let state = state.clone();
            drop(spawn(move || {
                record(&state, due, call(&state, &session));
                state.waiting.set(state.waiting.get() - 1);
            }));
        }
    })
}

fn call(state: &State, session: &Session) -> Result<(), yue_rpc::Error> {
    let plan = &state.plan;
    let answer = session.call(plan.method.as_str(), Timeout::After(plan.timeout), |out| {
        out.extend_from_slice(&plan.arguments);
        Ok(plan.count)
    });
    answer.map(drop)
}

/// Records an outcome. Returns `false` if no more calls may follow: the fiber was cancelled or its connection is lost.
fn record(state: &State, due: Instant, outcome: Result<(), yue_rpc::Error>) -> bool {
    let kind = outcome.as_ref().err().map(yue_rpc::Error::kind);
    if kind == Some(ErrorKind::Cancelled) {
        return false;
    }
    let lost = kind.is_some_and(|kind| kind.is_a(ErrorKind::Transport));
    if lost && !state.ended.get() {
        let mut first = state.lost.borrow_mut();
        *first = first
            .take()
            .or(outcome.as_ref().err().map(ToString::to_string));
    }
    if !state.counting.get() {
        return !lost;
    }
    match outcome {
        Ok(()) => {
            let ns = Instant::system()
                .saturating_since(due)
                .as_nanos()
                .min(u128::from(LATENCY_MAX_NS));
            state.latencies.borrow_mut().saturating_record(ns as u64);
        }
        Err(error) => {
            *state
                .errors
                .borrow_mut()
                .entry(error.to_string())
                .or_default() += 1
        }
    }
    !lost
}

/// The processor time that this process has used so far.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
