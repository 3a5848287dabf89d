//! The method `calls`: the served requests by method, the slowest of them, and those that run.
//!
//! Each question turns the recording on for [`WATCH`] more, on all loops; see [`yue_rpc::inspect::calls`].

use super::ask::ask;
use super::fibers::{Offset, loops_from};
use super::prometheus::unix_seconds;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;
use yue_rpc::inspect::calls::{self, MethodStats, ServedCall};
use yue_scheduler::{Instant, LoopHandle};

/// The recording ends so long after the last question: longer than a person looks away from a page.
pub(super) const WATCH: Duration = Duration::from_secs(10);

/// Methods in an answer, unless the question says otherwise, and at most.
const LIMIT: usize = 200;
const LIMIT_MAX: usize = 1000;

/// Methods that a loop lists at once: about 50 us, since each has a histogram.
const AT_ONCE: usize = 32;

/// Methods that are distinguished while those of all loops are added up.
const METHODS_MAX: usize = 10_000;

/// Requests that run, in an answer.
const RUNNING_MAX: usize = 32;

/// The arguments of `calls`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// Only this loop.
    #[serde(rename = "loop")]
    number: Option<u32>,
    limit: Option<usize>,
}

/// The answer of `calls`.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    watched_seconds: f64,
    methods: Vec<MethodLine>,
    /// The number of methods that are left out.
    left_out: usize,
    slowest: Vec<CallLine>,
    running: Vec<CallLine>,
    running_count: usize,
    /// The loops that do not answer, whose requests are missing.
    blocked: Vec<u32>,
}

/// One method.
#[derive(Debug, Serialize)]
struct MethodLine {
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    calls: u64,
    errors: u64,
    in_flight: u64,
    mean_seconds: f64,
    p50_seconds: f64,
    p99_seconds: f64,
    max_seconds: f64,
    total_seconds: f64,
}

impl MethodLine {
    fn of(stats: MethodStats) -> MethodLine {
        let total_seconds = stats.total.as_secs_f64();
        MethodLine {
            p50_seconds: stats.percentile(50.0).as_secs_f64(),
            p99_seconds: stats.percentile(99.0).as_secs_f64(),
            method: stats.name,
            listener: stats.listener,
            calls: stats.calls,
            errors: stats.errors,
            in_flight: stats.in_flight,
            mean_seconds: total_seconds / stats.calls.max(1) as f64,
            max_seconds: stats.max.as_secs_f64(),
            total_seconds,
        }
    }
}

/// One request.
#[derive(Debug, Serialize)]
pub(super) struct CallLine {
    #[serde(rename = "loop")]
    loop_id: u32,
    method: String,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// The end, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at_seconds: Option<f64>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether nobody waits for an answer.
    notification: bool,
}

impl CallLine {
    fn running(loop_id: u32, call: &ServedCall) -> CallLine {
        CallLine {
            loop_id,
            method: call.method.to_string(),
            peer: call.peer.to_string(),
            listener: call.listener.as_deref().map(str::to_owned),
            at_seconds: None,
            seconds: call.duration.as_secs_f64(),
            error: call.error.as_deref().map(str::to_owned),
            notification: call.is_notification,
        }
    }

    pub(super) fn ended(loop_id: u32, call: &ServedCall) -> CallLine {
        let end = call.began.saturating_add(call.duration);
        let age = Instant::system().saturating_since(end);
        CallLine {
            at_seconds: Some(unix_seconds() - age.as_secs_f64()),
            ..CallLine::running(loop_id, call)
        }
    }
}

type Methods = HashMap<(Option<String>, String), MethodStats>;

pub(super) fn calls(query: &Query) -> Answer {
    let watched = calls::watch(WATCH);
    let (answering, silent) = loops_from(Offset::default(), query.number);
    let mut answer = Answer {
        watched_seconds: watched.as_secs_f64(),
        methods: Vec::new(),
        left_out: 0,
        slowest: Vec::new(),
        running: Vec::new(),
        running_count: 0,
        blocked: silent.iter().map(|one| one.handle.id()).collect(),
    };
    let mut methods = Methods::new();
    for one in &answering {
        if add_loop(&one.handle, &mut methods, &mut answer).is_none() {
            answer.blocked.push(one.handle.id());
        }
    }
    let by_time = |a: &CallLine, b: &CallLine| b.seconds.total_cmp(&a.seconds);
    answer.slowest.sort_by(by_time);
    answer.slowest.truncate(calls::SLOWEST_MAX);
    answer.running.sort_by(by_time);
    answer.running.truncate(RUNNING_MAX);
    let mut methods: Vec<MethodStats> = methods.into_values().collect();
    methods.sort_by(|a, b| {
        let key = |stats: &MethodStats| Reverse((stats.total, stats.calls));
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    answer.left_out = methods.len().saturating_sub(limit);
    methods.truncate(limit);
    answer.methods = methods.into_iter().map(MethodLine::of).collect();
    answer
}

/// Adds what a loop has recorded. `None` if it does not answer to the end.
fn add_loop(handle: &LoopHandle, methods: &mut Methods, answer: &mut Answer) -> Option<()> {
    let id = handle.id();
    let mut from = 0;
    loop {
        let some = ask(handle, move || calls::methods(from, AT_ONCE)).ok()?;
        let count = some.len();
        some.into_iter().for_each(|stats| add(methods, stats));
        if count < AT_ONCE {
            break;
        }
        from += count;
    }
    let (slowest, running) =
        ask(handle, || (calls::slowest(), calls::running(RUNNING_MAX))).ok()?;
    let ended = slowest.iter().map(|call| CallLine::ended(id, call));
    answer.slowest.extend(ended);
    answer.running_count += running.count;
    let running = running.oldest.iter();
    let running = running.map(|call| CallLine::running(id, call));
    answer.running.extend(running);
    Some(())
}

fn add(methods: &mut Methods, mut stats: MethodStats) {
    let key = |stats: &MethodStats| (stats.listener.clone(), stats.name.clone());
    if methods.len() >= METHODS_MAX && !methods.contains_key(&key(&stats)) {
        stats.listener = None;
        stats.name = calls::OTHERS.to_owned();
    }
    match methods.get_mut(&key(&stats)) {
        Some(known) => known.add(&stats),
        None => drop(methods.insert(key(&stats), stats)),
    }
}
