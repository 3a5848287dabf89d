//! Row 8: Lua fibers. A yield among a thousand of them, and spawn and join one at a time.
//!
//! In each case one Lua script does the same work under yue and under Tarantool.

use crate::harness::lua::{Runtime, run, tarantool_note};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// Yields at full effort, over all fibers.
const YIELDS: usize = 10_000_000;
/// Fibers spawned and joined at full effort.
const SPAWNS: usize = 500_000;

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 8,
        title: "Lua fibers",
        method: "One unit: a Lua fiber yields and runs again after all others have run; or is spawned and joined.",
        cases: vec![
            yielding("yield among 1 000 Lua fibers", 1_000),
            yielding("yield, 1 Lua fiber", 1),
            spawning(),
        ],
        notes: tarantool_note().into_iter().collect(),
    }
}

fn yielding(name: &str, fibers: usize) -> Case {
    let by = |runtime: Runtime| move |effort| yields(runtime, fibers, effort);
    let case = Case::new(name, Unit::time("ns/yield"))
        .ours("yue", by(Runtime::YueUring))
        .peer("Tarantool", by(Runtime::Tarantool))
        .ceiling("lua_resume and lua_yield", move |effort| {
            let laps = laps(fibers, effort);
            let elapsed = crate::ceilings::lua_yield::round_robin(fibers, laps)?;
            Ok(Sample::of(
                elapsed.as_nanos() as f64 / (laps * fibers) as f64,
            ))
        })
        .goal_against("yue", "Tarantool", 0.45);
    if fibers == 1_000 {
        case.goal("yue", Against::Absolute, 60.0)
    } else {
        case
    }
}

/// Returns the rounds per fiber.
fn laps(fibers: usize, effort: Effort) -> usize {
    (effort.count(YIELDS) / fibers).max(10)
}

fn yields(runtime: Runtime, fibers: usize, effort: Effort) -> Result<Sample, Problem> {
    let each = laps(fibers, effort);
    let settings = [("FIBERS", fibers.to_string()), ("YIELDS", each.to_string())];
    per_unit(run(runtime, "fiber_yield.lua", &settings)?)
}

fn spawning() -> Case {
    let by = |runtime: Runtime| move |effort| spawns(runtime, effort);
    Case::new("spawn and join, one at a time", Unit::time("ns/fiber"))
        .ours("yue", by(Runtime::YueUring))
        .peer("Tarantool", by(Runtime::Tarantool))
        .goal_against("yue", "Tarantool", 0.45)
}

fn spawns(runtime: Runtime, effort: Effort) -> Result<Sample, Problem> {
    per_unit(run(
        runtime,
        "fiber_spawn.lua",
        &[("FIBERS", effort.count(SPAWNS).to_string())],
    )?)
}

fn per_unit((units, seconds): (f64, f64)) -> Result<Sample, Problem> {
    Ok(Sample::of(seconds * 1e9 / units))
}
