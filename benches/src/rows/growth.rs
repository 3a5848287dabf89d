//! Row 12: how the cost of one unit grows with the number of fibers, connections or timers.
//!
//! A figure is the quotient of two measurements of one contestant, made one after the other in one process: the cost of
//! a unit among many, divided by its cost alone. The machine itself makes it grow (a stack or a socket that is not in
//! the cache). So a ceiling's growth is shown beside ours, and the goal compares the two.
//!
//! - *Yield*: as in row 1.
//! - *Echo*: as in row 7. The cost is the server's CPU time per message: a client's time does not count, and a server
//!   that sleeps between two messages of a single connection does not count as slow.
//! - *Timer*: a random one of all armed timers is moved to another instant within a minute.

use crate::ceilings::linked_list;
use crate::harness::{Case, Effort, Problem, Row, Sample, Unit, memory};

use super::{fiber_yield, served_load, timers};

/// Timer moves at full effort.
const MOVES: usize = 5_000_000;
/// An upper bound of any contestant's bytes per fiber.
const BYTES_PER_FIBER_MAX: usize = 6 << 10;
/// The duration of the load on an echo server at each size, at full effort.
const ECHO_SECONDS: f64 = 2.0;

const UNIT: Unit = Unit::time("times the cost of one");
/// The maximum ratio of our growth to a ceiling's.
const LIMIT: f64 = 2.0;

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 12,
        title: "growth",
        method: "The cost of a unit among many, divided by its cost alone. --quick uses a tenth of the largest counts.",
        cases: vec![
            yielding("yield among 1 000 fibers", 1_000),
            yielding("yield among 100 000 fibers", 100_000),
            yielding("yield among 1 000 000 fibers", 1_000_000),
            echoing("echo over 1 000 connections", 1_000),
            echoing("echo over 10 000 connections", 10_000),
            moving("move one of 1 000 timers", 1_000),
            moving("move one of 1 000 000 timers", 1_000_000),
        ],
        notes: Vec::new(),
    }
}

/// Scales the largest count of each kind: it takes gigabytes or minutes, so it is reached only at full effort.
fn scaled(many: usize, largest: usize, effort: Effort) -> usize {
    if many < largest {
        many
    } else {
        effort.count(many)
    }
}

/// Returns the quotient of the two costs in ns, with both costs.
fn growth(many: usize, one_ns: f64, many_ns: f64) -> Sample {
    Sample::of(many_ns / one_ns)
        .with("count", many as f64)
        .with("alone_ns", one_ns)
        .with("among_all_ns", many_ns)
}

fn yielding(name: &str, fibers: usize) -> Case {
    let case = Case::new(name, UNIT).ours("yue", move |effort| {
        yields(fibers, effort, fiber_yield::yue)
    });
    #[cfg(feature = "peers")]
    let case = case
        .ceiling("corosensei", move |effort| {
            yields(fibers, effort, |fibers, effort| {
                fiber_yield::bare(fibers, effort, true)
            })
        })
        .goal_against("yue", "corosensei", LIMIT);
    case
}

fn yields(
    fibers: usize,
    effort: Effort,
    measure: impl Fn(usize, Effort) -> Result<Sample, Problem>,
) -> Result<Sample, Problem> {
    let fibers = scaled(fibers, 1_000_000, effort);
    memory::require_free(fibers * BYTES_PER_FIBER_MAX)?;
    let one_ns = measure(1, effort)?.value;
    let many_ns = measure(fibers, effort)?.value;
    Ok(growth(fibers, one_ns, many_ns))
}

fn echoing(name: &str, connections: usize) -> Case {
    const URING: &str = "yue (io_uring)";
    const MIO: &str = "yue (mio)";
    let by = |server: &'static str| move |effort| echoes(server, connections, effort);
    Case::new(name, UNIT)
        .ours(URING, by("echo-yue-uring"))
        .ours(MIO, by("echo-yue-mio"))
        .ceiling("epoll by hand", by("echo-epoll"))
        .ceiling("io_uring by hand", by("echo-uring"))
        .goal_against(URING, "io_uring by hand", LIMIT)
        .goal_against(MIO, "epoll by hand", LIMIT)
}

fn echoes(server: &str, connections: usize, effort: Effort) -> Result<Sample, Problem> {
    let seconds = effort.seconds(ECHO_SECONDS);
    let connections = scaled(connections, 10_000, effort);
    crate::epoll::allow_descriptors(connections)?;
    let cost_ns = |connections| -> Result<(f64, f64), Problem> {
        let sample = served_load::load(server, &served_load::plan(connections, seconds))?;
        // CPU seconds per million messages are microseconds per message.
        let cpu_us = sample.extra.get("server_cpu_s_per_million").copied();
        Ok((cpu_us.unwrap_or(f64::NAN) * 1e3, sample.value))
    };
    let (one_ns, _) = cost_ns(1)?;
    let (many_ns, rate) = cost_ns(connections)?;
    Ok(growth(connections, one_ns, many_ns).with("messages_per_s", rate))
}

fn moving(name: &str, timers: usize) -> Case {
    Case::new(name, UNIT)
        .ours("yue", move |effort| {
            moves(timers, effort, timers::move_at_random)
        })
        .ceiling("bare linked list", move |effort| {
            moves(timers, effort, |timers, moves| {
                Ok(linked_list::move_at_random(timers, moves))
            })
        })
        .goal_against("yue", "bare linked list", LIMIT)
}

fn moves(
    timers: usize,
    effort: Effort,
    measure: impl Fn(usize, usize) -> Result<std::time::Duration, Problem>,
) -> Result<Sample, Problem> {
    let (timers, moves) = (scaled(timers, 1_000_000, effort), effort.count(MOVES));
    let cost_ns = |timers| -> Result<f64, Problem> {
        Ok(measure(timers, moves)?.as_nanos() as f64 / moves as f64)
    };
    let one_ns = cost_ns(1)?;
    let many_ns = cost_ns(timers)?;
    Ok(growth(timers, one_ns, many_ns))
}
