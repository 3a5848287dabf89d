//! Row 10: the same calls between two threads of one process, through `thread://`.
//!
//! The ceilings are two threads that alternate: asleep in the kernel between turns, and spinning. The figures of Erlang
//! and skynet were measured on this kind of machine earlier and are shown for comparison.

use crate::ceilings::ping_pong::{self, Placement};
use crate::harness::lua::{Calls, Runtime, client_settings, measure_client};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// The duration of each measurement at full effort.
const SECONDS: f64 = 2.0;

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 10,
        title: "fiber RPC between threads, Lua to Lua",
        method: "One unit: a call of echo(x) through thread:// and its checked answer.",
        cases: vec![case(1), case(64), case(1_000)],
        notes: Vec::new(),
    }
}

fn case(in_flight: usize) -> Case {
    let calls = Calls {
        connections: 1,
        in_flight,
        seconds: SECONDS,
    };
    let by = |runtime: Runtime| move |effort| measure(runtime, calls, effort);
    let name = match in_flight {
        1 => "one call at a time".to_owned(),
        _ => format!("{} in flight", crate::harness::table::count(in_flight)),
    };
    let case = Case::new(name, Unit::rate("calls/s"))
        .ours(URING, by(Runtime::YueUring))
        .ours(MIO, by(Runtime::YueMio));
    let eventfd = |placement| move |effort| ping_pong::eventfd(effort, placement).map(per_second);
    match in_flight {
        1 => case
            .ceiling("eventfd ping-pong", eventfd(Placement::Anywhere))
            .ceiling(
                "eventfd ping-pong, two processors",
                eventfd(Placement::Apart),
            )
            .ceiling("spinning ping-pong", |effort| {
                Ok(per_second(ping_pong::spin(effort)))
            })
            .seen("Erlang, local call (370-600 ns)", 2_000_000.0)
            .seen("skynet, in-process call (6 µs)", 167_000.0)
            .seen("the original yue (43-66 ms)", 18.0)
            .goal_against(URING, "eventfd ping-pong", 0.83),
        64 => case.goal(URING, Against::Absolute, 2_000_000.0),
        _ => case,
    }
}

/// Converts a time per round trip in ns to a rate.
fn per_second(sample: Sample) -> Sample {
    Sample::of(1e9 / sample.value)
}

fn measure(runtime: Runtime, calls: Calls, effort: Effort) -> Result<Sample, Problem> {
    measure_client(
        runtime.command("thread_client.lua", &client_settings(calls, "", effort))?,
        None,
    )
}
