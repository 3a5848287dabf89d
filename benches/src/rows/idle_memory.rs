//! Row 3: the memory of a waiting fiber with a guarded stack.
//!
//! Every contestant starts all its fibers, and lets each run until it waits for an event that never comes. The figure
//! is the memory that the process uses then, page tables included, minus what it used before the first fiber. No
//! contestant keeps handles. Our fibers and may's have a guard page each. A tokio task has no stack and is shown for
//! scale.
//!
//! may maps each stack separately and guards it with `mprotect`: two mappings each, of which Linux allows a process 65
//! 530 by default. Beyond that its spawn neither succeeds nor fails, so it is not measured there. One case stays below
//! that limit.

use std::cell::Cell;
use std::rc::Rc;

use yue_scheduler::{Builder, Config, Loop, park, prepare_park, yield_now};

use crate::ceilings::idle_pages;
use crate::harness::lua::{Runtime, run, tarantool_note};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit, memory};

/// An upper bound of the bytes per fiber of any contestant with stacks. Free memory is checked against it before the
/// start.
const BYTES_PER_FIBER_MAX: usize = 6 << 10;
const LUA_BYTES_PER_FIBER_MAX: usize = 20 << 10;

/// Address space of a stack with our default settings.
const NATIVE_SLOT_BYTES: usize = (256 << 10) + 4096;
const LUA_SLOT_BYTES: usize = (1 << 20) + 4096;

const UNIT: Unit = Unit::time("bytes/fiber");

/// Returns the row.
pub fn row() -> Row {
    let guards = format!("our stacks are guarded by {}", yue_scheduler::guard_kind());
    Row {
        number: 3,
        title: "memory of an idle fiber, guarded",
        method: "One unit: a fiber that has run and waits; resident bytes and page tables. --quick starts a tenth.",
        cases: vec![
            native("10 000 native fibers", 10_000),
            native("1 000 000 native fibers", 1_000_000),
            lua(),
        ],
        notes: std::iter::once(guards).chain(tarantool_note()).collect(),
    }
}

fn native(name: &str, fibers: usize) -> Case {
    let case = Case::new(name, UNIT).ours("yue", move |effort| yue(effort.count(fibers)));
    #[cfg(feature = "peers")]
    let case = case
        .peer("may (32 KiB stacks)", move |effort| {
            peers::may(effort.count(fibers))
        })
        .aside("tokio task, no stack", move |effort| {
            peers::tokio(effort.count(fibers))
        });
    let case = case.ceiling("one page in a slot of its own", move |effort| {
        idle_pages::touch(effort.count(fibers), NATIVE_SLOT_BYTES)
    });
    if fibers >= 1_000_000 {
        case.goal("yue", Against::Absolute, 4.8 * 1024.0)
    } else {
        case
    }
}

fn lua() -> Case {
    const FIBERS: usize = 100_000;
    let by = |runtime: Runtime| move |effort: Effort| lua_fibers(runtime, effort.count(FIBERS));
    Case::new("100 000 Lua fibers", UNIT)
        .ours("yue", by(Runtime::YueUring))
        .peer("Tarantool", by(Runtime::Tarantool))
        .ceiling("one page in a slot of its own", |effort| {
            idle_pages::touch(effort.count(FIBERS), LUA_SLOT_BYTES)
        })
        .goal("yue", Against::Absolute, 12.0 * 1024.0)
}

/// Measures our scheduler on one loop.
fn yue(fibers: usize) -> Result<Sample, Problem> {
    memory::require_free(fibers * BYTES_PER_FIBER_MAX)?;
    let used = Loop::new(Config::default())?.run(move || -> Result<usize, Problem> {
        let before = memory::used_bytes("self")?;
        let parked = Rc::new(Cell::new(0));
        for _ in 0..fibers {
            let parked = Rc::clone(&parked);
            drop(Builder::new().spawn(move || {
                parked.set(parked.get() + 1);
                let _ = prepare_park();
                park("being counted")
            })?);
        }
        while parked.get() < fibers {
            yield_now().map_err(|stopped| Problem::failed(stopped.to_string()))?;
        }
        Ok(memory::used_bytes("self")? - before)
    })?;
    Ok(Sample::of(used as f64 / fibers as f64))
}

/// Runs the same Lua script under yue or Tarantool.
fn lua_fibers(runtime: Runtime, fibers: usize) -> Result<Sample, Problem> {
    memory::require_free(fibers * LUA_BYTES_PER_FIBER_MAX)?;
    let (fibers, used) = run(runtime, "fiber_idle.lua", &[("FIBERS", fibers.to_string())])?;
    Ok(Sample::of(used / fibers))
}

#[cfg(feature = "peers")]
mod peers {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Problem, Sample, memory};

    const MAY_BYTES_PER_FIBER_MAX: usize = 12 << 10;
    /// The stack and its guard.
    const MAPPINGS_PER_STACK: usize = 2;

    /// Measures may on one worker.
    pub fn may(fibers: usize) -> Result<Sample, Problem> {
        memory::require_free(fibers * MAY_BYTES_PER_FIBER_MAX)?;
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count")?;
        let mappings: usize = text
            .trim()
            .parse()
            .map_err(|_| Problem::failed(format!("not a number of mappings: {text:?}")))?;
        if fibers * MAPPINGS_PER_STACK > mappings {
            return Err(Problem::failed(format!(
                "each stack is {MAPPINGS_PER_STACK} mappings, and vm.max_map_count is {mappings}"
            )));
        }
        may::config().set_workers(1);
        let before = memory::used_bytes("self")?;
        let parked = Arc::new(AtomicUsize::new(0));
        for _ in 0..fibers {
            let parked = Arc::clone(&parked);
            drop(may::go!(move || {
                // Relaxed: only a count.
                parked.fetch_add(1, Ordering::Relaxed);
                may::coroutine::park();
            }));
        }
        while parked.load(Ordering::Relaxed) < fibers {
            std::thread::yield_now();
        }
        Ok(per_fiber(memory::used_bytes("self")? - before, fibers))
    }

    /// Measures tokio's current-thread runtime.
    pub fn tokio(tasks: usize) -> Result<Sample, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let used = runtime.block_on(async {
            let before = memory::used_bytes("self")?;
            let parked = Arc::new(AtomicUsize::new(0));
            for _ in 0..tasks {
                let parked = Arc::clone(&parked);
                drop(tokio::spawn(async move {
                    // Relaxed: only a count.
                    parked.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }));
            }
            while parked.load(Ordering::Relaxed) < tasks {
                tokio::task::yield_now().await;
            }
            Ok::<_, Problem>(memory::used_bytes("self")? - before)
        })?;
        Ok(per_fiber(used, tasks))
    }

    fn per_fiber(used: usize, fibers: usize) -> Sample {
        Sample::of(used as f64 / fibers as f64)
    }
}
