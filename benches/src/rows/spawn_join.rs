//! Row 2: spawn a fiber and join it, one at a time and a thousand at once.
//!
//! The fiber's body returns a number that the compiler cannot predict, and join returns it. All contestants spawn from
//! within a fiber (or task) of their own runtime, on one thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use yue_scheduler::{Config, Loop, spawn};

use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// Fibers spawned and joined at full effort.
const FIBERS: usize = 2_000_000;

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 2,
        title: "spawn and join",
        method: "One unit: a fiber is spawned, returns a number, and is joined.",
        cases: vec![
            case("one at a time", 1),
            case("1 000 spawned, then joined", 1_000),
        ],
        notes: Vec::new(),
    }
}

fn case(name: &str, at_once: usize) -> Case {
    let mut case =
        Case::new(name, Unit::time("ns/fiber")).ours("yue", move |effort| yue(at_once, effort));
    #[cfg(feature = "peers")]
    {
        case = case
            .peer("may", move |effort| peers::may(at_once, effort))
            .peer("tokio (current thread)", move |effort| {
                peers::tokio(at_once, effort)
            })
            .goal_against("yue", "tokio (current thread)", 0.15);
        if at_once == 1 {
            case = case.ceiling("corosensei, one pooled stack", bare);
        }
    }
    if at_once == 1 {
        case = case.goal("yue", Against::Absolute, 100.0);
    }
    case
}

/// Measures our scheduler on one loop.
fn yue(at_once: usize, effort: Effort) -> Result<Sample, Problem> {
    let batches = effort.count(FIBERS) / at_once;
    let elapsed = Loop::new(Config::default())?.run(move || {
        yue_batches(batches / 10 + 1, at_once);
        yue_batches(batches, at_once)
    });
    Ok(Sample::of(
        elapsed.as_nanos() as f64 / (batches * at_once) as f64,
    ))
}

fn yue_batches(batches: usize, at_once: usize) -> Duration {
    let mut handles = Vec::with_capacity(at_once);
    let start = Instant::now();
    for _ in 0..batches {
        handles.extend((0..at_once).map(|value| spawn(move || black_box(value))));
        for handle in handles.drain(..) {
            black_box(handle.join().unwrap_or_default());
        }
    }
    start.elapsed()
}

#[cfg(feature = "peers")]
fn bare(effort: Effort) -> Result<Sample, Problem> {
    let fibers = effort.count(FIBERS);
    let elapsed = crate::ceilings::coroutine::spawn_to_end(fibers)?;
    Ok(Sample::of(elapsed.as_nanos() as f64 / fibers as f64))
}

#[cfg(feature = "peers")]
mod peers {
    use super::{Duration, Effort, FIBERS, Instant, Problem, Sample, black_box};

    /// Measures may on one worker thread.
    pub fn may(at_once: usize, effort: Effort) -> Result<Sample, Problem> {
        may::config().set_workers(1).set_pool_capacity(2_000);
        let batches = effort.count(FIBERS) / at_once;
        let main = may::go!(move || {
            may_batches(batches / 10 + 1, at_once);
            may_batches(batches, at_once)
        });
        let elapsed = main
            .join()
            .map_err(|_| Problem::failed("a coroutine of may panicked"))?;
        Ok(Sample::of(
            elapsed.as_nanos() as f64 / (batches * at_once) as f64,
        ))
    }

    fn may_batches(batches: usize, at_once: usize) -> Duration {
        let mut handles = Vec::with_capacity(at_once);
        let start = Instant::now();
        for _ in 0..batches {
            handles.extend((0..at_once).map(|value| may::go!(move || black_box(value))));
            for handle in handles.drain(..) {
                black_box(handle.join().unwrap_or_default());
            }
        }
        start.elapsed()
    }

    /// Measures tokio's current-thread runtime.
    pub fn tokio(at_once: usize, effort: Effort) -> Result<Sample, Problem> {
        let batches = effort.count(FIBERS) / at_once;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let elapsed = runtime.block_on(async {
            // Run as an ordinary task: tokio treats the future that `block_on` polls differently.
            let main = tokio::spawn(async move {
                tokio_batches(batches / 10 + 1, at_once).await;
                tokio_batches(batches, at_once).await
            });
            main.await
                .map_err(|error| Problem::failed(error.to_string()))
        })?;
        Ok(Sample::of(
            elapsed.as_nanos() as f64 / (batches * at_once) as f64,
        ))
    }

    async fn tokio_batches(batches: usize, at_once: usize) -> Duration {
        let mut handles = Vec::with_capacity(at_once);
        let start = Instant::now();
        for _ in 0..batches {
            handles.extend((0..at_once).map(|value| tokio::spawn(async move { black_box(value) })));
            for handle in handles.drain(..) {
                black_box(handle.await.unwrap_or_default());
            }
        }
        start.elapsed()
    }
}
