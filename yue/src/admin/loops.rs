//! The methods `info` and `loops`.

use super::ask;
use super::endpoint::Options;
use super::{prometheus, service};
use serde::Serialize;
use std::time::Duration;
use yue_scheduler::inspect::LoopInfo;

/// The answer of `info`.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    pid: u32,
    /// The version of yue.
    version: &'static str,
    name: String,
    args: Vec<String>,
    /// Seconds since 1970.
    start_time_seconds: f64,
    /// That of the first loop.
    driver: Option<&'static str>,
    loops: usize,
    fibers: usize,
    log_level: &'static str,
    /// Connections that are up, requests that were served and calls that were made, without the endpoint's own.
    connections: u64,
    requests: u64,
    calls: u64,
    /// Memory in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
}

pub(super) fn info(options: &Options) -> Info {
    let loops = ask::loops();
    let own_name = || {
        let path = std::env::current_exe().ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    let totals = yue_rpc::inspect::totals();
    let (own_links, own_requests) = service::own_links_and_requests();
    let links = totals.links.saturating_sub(totals.links_ended);
    Info {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        name: options
            .name
            .clone()
            .or_else(own_name)
            .unwrap_or_else(|| "unknown".to_owned()),
        args: options.args.clone(),
        start_time_seconds: prometheus::start_time_seconds(),
        driver: loops.first().map(|one| one.driver),
        loops: loops.len(),
        fibers: loops.iter().map(|one| one.counters.fibers).sum(),
        log_level: yue_scheduler::log_level_name(),
        connections: links.saturating_sub(own_links),
        requests: totals.requests.saturating_sub(own_requests),
        calls: totals.calls,
        memory_bytes: prometheus::resident_bytes(),
    }
}

/// One loop in the answer of `loops`.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(rename = "loop")]
    number: u32,
    /// The name of its thread, and the kernel's number of it.
    thread: Box<str>,
    thread_id: i32,
    driver: &'static str,
    age_seconds: f64,
    /// Processor time of the thread since the loop was created, and the rest of that time.
    busy_seconds: f64,
    idle_seconds: f64,
    ticks: u64,
    switches: u64,
    messages: u64,
    fibers: usize,
    /// Fibers that could run.
    ready: usize,
    timers: usize,
    /// Operations in progress in the kernel.
    operations: usize,
    spawned: u64,
    panics: u64,
    /// The number of times that the watchdog found it held.
    held: u64,
    /// The time since its last tick began.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_tick_seconds: Option<f64>,
    /// Whether it has answered just now, and after what time: as late are its timers and messages.
    answers: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_seconds: Option<f64>,
    /// The time that it has been held by one fiber or callback, if it does not answer for that reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_seconds: Option<f64>,
}

impl Line {
    fn of(info: &LoopInfo, latency: Option<Duration>) -> Line {
        let counters = info.counters;
        Line {
            number: info.handle.id(),
            thread: info.thread.clone(),
            thread_id: info.thread_id,
            driver: info.driver,
            age_seconds: info.age.as_secs_f64(),
            busy_seconds: info.busy.as_secs_f64(),
            idle_seconds: info.age.saturating_sub(info.busy).as_secs_f64(),
            ticks: counters.ticks,
            switches: info.switches,
            messages: info.messages,
            fibers: counters.fibers,
            ready: counters.fibers.saturating_sub(info.parked),
            timers: counters.timers,
            operations: counters.operations,
            spawned: counters.spawned,
            panics: counters.panics,
            held: info.held,
            last_tick_seconds: info.last_tick.map(|age| age.as_secs_f64()),
            answers: latency.is_some(),
            latency_seconds: latency.map(|latency| latency.as_secs_f64()),
            blocked_seconds: match latency {
                Some(_) => None,
                None => info.working_for.map(|duration| duration.as_secs_f64()),
            },
        }
    }
}

pub(super) fn loops() -> Vec<Line> {
    let latencies = ask::latencies(&ask::loops());
    // Again: the silent ones have been held longer by now.
    let loops = ask::loops();
    let line = |info: &LoopInfo| Line::of(info, latencies.get(&info.handle.id()).copied());
    loops.iter().map(line).collect()
}
