//! The thread that asks the program, and what it has found.

use super::view::View;
use crate::answers::{self, Calls, Connections, Loop, Waits};
use crate::running::{self, Info, Program};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use yue_scheduler::{Instant, now, sleep};

/// Connections that are asked for: beyond that, those with the most queued bytes may be missing.
const CONNECTIONS_MAX: usize = 2000;

/// A request for all views at once, as text shows them.
const ALL: u8 = u8::MAX;

/// A change on the other thread.
#[derive(Debug)]
pub(super) enum Event {
    Sample(Box<Sample>),
    /// The program does not answer; it may later.
    Silent(String),
    /// The program has ended.
    Ended,
    /// There is no such program.
    Failed(String),
}

/// The program at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) info: Info,
    pub(super) at_seconds: f64,
    pub(super) loops: Vec<(Loop, LoopRate)>,
    pub(super) calls: Calls,
    /// Calls per second since the previous sample, of each entry in `calls.methods`.
    pub(super) method_rates: Vec<f64>,
    /// Requests that were served, and calls that were made, per second.
    pub(super) requests_rate: f64,
    pub(super) calls_rate: f64,
    pub(super) waits: Option<Waits>,
    pub(super) connections: Option<Connections>,
}

/// The activity of a loop since the previous sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LoopRate {
    /// The share of the time in which its thread used a processor.
    pub(super) busy: f64,
    pub(super) ticks: f64,
}

/// The running sampler.
pub(super) struct Sampler {
    events: Receiver<Event>,
    /// The view that the user sees: only what it shows is asked for.
    view: Arc<AtomicU8>,
}

impl Sampler {
    /// Waits for the next event.
    pub(super) fn next(&self) -> Event {
        // The thread ends only after one of the final events.
        self.events.recv().unwrap_or(Event::Ended)
    }

    /// Returns the next event, if there is one by now.
    pub(super) fn try_next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    pub(super) fn show(&self, view: View) {
        self.view.store(view as u8, Ordering::Relaxed);
    }
}

/// Starts to ask the program that the user means. The thread ends with the process.
pub(super) fn start(wanted: Option<String>, interval: Duration, all_views: bool) -> Sampler {
    let (sender, events) = channel();
    let first = if all_views { ALL } else { View::Overview as u8 };
    let view = Arc::new(AtomicU8::new(first));
    let asked = view.clone();
    std::thread::spawn(move || {
        let failed = sender.clone();
        let outcome = crate::ps::run(move || {
            let program = running::find(wanted.as_deref())?;
            follow(&program, interval, &asked, &sender);
            Ok(())
        });
        if let Err(text) = outcome {
            // Nobody receives it if the process is ending.
            let _ = failed.send(Event::Failed(text));
        }
    });
    Sampler { events, view }
}

/// The counts from which the next sample's rates are computed.
struct Before {
    at: Instant,
    requests: u64,
    calls: u64,
    loops: HashMap<u32, (f64, u64)>,
    methods: HashMap<(Option<String>, String), u64>,
    watched_seconds: f64,
}

fn follow(program: &Program, interval: Duration, view: &AtomicU8, events: &Sender<Event>) {
    let mut before: Option<Before> = None;
    loop {
        let view = view.load(Ordering::Relaxed);
        let event = match sample(program, view, &mut before) {
            // The first one has no rates yet; the second one comes soon.
            Ok(None) => None,
            Ok(Some(sample)) => Some(Event::Sample(Box::new(sample))),
            Err(_) if answers::has_ended(program.info.pid) => Some(Event::Ended),
            Err(error) => Some(Event::Silent(error.to_string())),
        };
        let is_end = matches!(event, Some(Event::Ended));
        let is_lost = event.is_some_and(|event| events.send(event).is_err());
        if is_end || is_lost || sleep(interval).is_err() {
            return;
        }
    }
}

fn sample(
    program: &Program,
    view: u8,
    before: &mut Option<Before>,
) -> Result<Option<Sample>, yue_rpc::Error> {
    let admin = &program.admin;
    let wants = |one: View| view == one as u8 || view == ALL;
    let info: Info = answers::ask(admin, "info", ())?;
    let loops: Vec<Loop> = answers::ask(admin, "loops", ())?;
    let calls: Calls = answers::ask(admin, "calls", ())?;
    let at = now();
    let waits = match wants(View::Fibers) {
        true => Some(answers::ask(admin, "waits", ())?),
        false => None,
    };
    let limit = serde_json::json!({ "limit": CONNECTIONS_MAX });
    let mut connections: Option<Connections> = match wants(View::Connections) {
        true => Some(answers::ask(admin, "connections", &limit)?),
        false => None,
    };
    if let Some(page) = &mut connections {
        page.connections.sort_by_key(|one| {
            std::cmp::Reverse((
                one.queued_bytes,
                one.calls_in_flight + one.requests_in_flight,
                one.requests + one.calls,
            ))
        });
    }
    let key = |method: &answers::Method| (method.listener.clone(), method.method.clone());
    let present = Before {
        at,
        requests: info.requests,
        calls: info.calls,
        loops: loops
            .iter()
            .map(|one| (one.number, (one.busy_seconds, one.ticks)))
            .collect(),
        methods: calls
            .methods
            .iter()
            .map(|one| (key(one), one.calls))
            .collect(),
        watched_seconds: calls.watched_seconds,
    };
    let Some(before) = before.replace(present) else {
        return Ok(None);
    };
    let seconds = at.saturating_since(before.at).as_secs_f64().max(1e-3);
    let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    // A recording that has begun anew counts from zero.
    let is_same = calls.watched_seconds >= before.watched_seconds;
    let method_rates = calls.methods.iter().map(|method| {
        let earlier = before.methods.get(&key(method)).filter(|_| is_same);
        per_second(method.calls, earlier.copied().unwrap_or(0))
    });
    let method_rates = method_rates.collect();
    let with_rate = |one: Loop| {
        let earlier = before.loops.get(&one.number);
        let rate = earlier.map_or_else(LoopRate::default, |(busy, ticks)| LoopRate {
            busy: ((one.busy_seconds - busy) / seconds).clamp(0.0, 1.0),
            ticks: per_second(one.ticks, *ticks),
        });
        (one, rate)
    };
    Ok(Some(Sample {
        requests_rate: per_second(info.requests, before.requests),
        calls_rate: per_second(info.calls, before.calls),
        at_seconds: crate::table::unix_seconds(),
        loops: loops.into_iter().map(with_rate).collect(),
        info,
        calls,
        method_rates,
        waits,
        connections,
    }))
}
