//! The output: a live line during the run, then a table, or one JSON object.

use super::Plan;
use super::load::Outcome;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// The percentiles shown.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
];

/// The live display, on standard error; silent where that is not a terminal.
pub(super) struct Live {
    bar: ProgressBar,
}

impl Live {
    pub(super) fn start(plan: &Plan) -> Live {
        let bar = ProgressBar::new(plan.duration.as_millis() as u64);
        bar.set_draw_target(if plan.json {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        });
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
            bar.set_style(style);
        }
        Live { bar }
    }

    pub(super) fn show(
        &self,
        elapsed: Duration,
        latencies: &Histogram<u64>,
        errors: &BTreeMap<String, u64>,
    ) {
        let rate = latencies.len() as f64 / elapsed.as_secs_f64().max(1e-9);
        let failed: u64 = errors.values().sum();
        self.bar.set_position(elapsed.as_millis() as u64);
        self.bar.set_message(format!(
            "{rate:.0} calls/s  p50 {}  p99 {}  errors {failed}",
            shown(latencies.value_at_percentile(50.0)),
            shown(latencies.value_at_percentile(99.0)),
        ));
    }

    pub(super) fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// Formats nanoseconds in a readable unit.
fn shown(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        _ if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// Prints the result to standard output.
pub(super) fn print(plan: &Plan, outcome: &Outcome) {
    let text = if plan.json {
        json(plan, outcome)
    } else {
        table(plan, outcome)
    };
    // A reader that has gone needs no report.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn calls_per_second(outcome: &Outcome) -> f64 {
    outcome.latencies.len() as f64 / outcome.elapsed.as_secs_f64().max(1e-9)
}

fn cpu_per_million(outcome: &Outcome) -> f64 {
    outcome.cpu.as_secs_f64() / (outcome.latencies.len().max(1) as f64) * 1e6
}

fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mode = match plan.rate {
        None => format!(
            "closed loop, {} in flight on each of {} connections",
            plan.in_flight, plan.connections
        ),
        Some(rate) => format!(
            "open loop, {rate} calls/s due over {} connections",
            plan.connections
        ),
    };
    let mut text = format!(
        "{}  {}  ({mode}, {})\n\n",
        plan.address, plan.method, outcome.driver
    );
    text.push_str(&format!(
        "  {:<10}{:.0} calls/s\n",
        "rate",
        calls_per_second(outcome)
    ));
    text.push_str(&format!(
        "  {:<10}{} in {:.2} s\n",
        "calls",
        outcome.latencies.len(),
        outcome.elapsed.as_secs_f64()
    ));
    for (name, percentile) in PERCENTILES {
        text.push_str(&format!(
            "  {name:<10}{}\n",
            shown(outcome.latencies.value_at_percentile(percentile))
        ));
    }
    text.push_str(&format!(
        "  {:<10}{}\n",
        "max",
        shown(outcome.latencies.max())
    ));
    text.push_str(&format!(
        "  {:<10}{:.2} s for a million calls, on this side\n",
        "processor",
        cpu_per_million(outcome)
    ));
    if outcome.left_out > 0 {
        text.push_str(&format!(
            "  {:<10}{} calls were due and not made: too many waited\n",
            "left out", outcome.left_out
        ));
    }
    for (error, count) in &outcome.errors {
        text.push_str(&format!("  {:<10}{count} x {error}\n", "error"));
    }
    text
}

fn json(plan: &Plan, outcome: &Outcome) -> String {
    let percentiles: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|(name, percentile)| {
            (
                (*name).to_owned(),
                outcome.latencies.value_at_percentile(*percentile).into(),
            )
        })
        .collect();
    let value = serde_json::json!({
        "address": plan.address.to_string(),
        "method": plan.method,
        "driver": outcome.driver,
        "connections": plan.connections,
        "in_flight": if plan.rate.is_none() { Some(plan.in_flight) } else { None },
        "rate_due": plan.rate,
        "seconds": outcome.elapsed.as_secs_f64(),
        "calls": outcome.latencies.len(),
        "calls_per_second": calls_per_second(outcome),
        "latency_ns": percentiles,
        "latency_max_ns": outcome.latencies.max(),
        "latency_mean_ns": outcome.latencies.mean(),
        "cpu_seconds_per_million_calls": cpu_per_million(outcome),
        "left_out": outcome.left_out,
        "errors": outcome.errors,
    });
    value.to_string() + "\n"
}
