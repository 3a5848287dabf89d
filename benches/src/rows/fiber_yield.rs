//! Row 1: a yield among 1, 1 000 and 100 000 fibers on one thread.
//!
//! Every contestant does the same: all fibers run round after round, and each yields once per round. The clock starts
//! when the first fiber has done its warm-up rounds, and stops when the last one has done its counted rounds. Then all
//! run for one more round, so that no fiber's end is measured. ([`Laps`] is touched twice per fiber, never per yield.)

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Instant;

use yue_scheduler::{Config, Loop, Stopped, spawn, yield_now};

use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// Counted yields at full effort, over all fibers.
const YIELDS: usize = 10_000_000;
/// Rounds before the clock starts.
const WARM_UP_LAPS: usize = 3;

/// Returns the row.
pub fn row() -> Row {
    let cases = vec![
        case("1 fiber", 1),
        case("1 000 fibers", 1_000),
        case("100 000 fibers", 100_000),
    ];
    Row {
        number: 1,
        title: "yield among fibers on one thread",
        method: "One unit: a fiber yields and runs again after all others have run.",
        cases,
        notes: Vec::new(),
    }
}

fn case(name: &str, fibers: usize) -> Case {
    let mut case =
        Case::new(name, Unit::time("ns/yield")).ours("yue", move |effort| yue(fibers, effort));
    #[cfg(feature = "peers")]
    {
        case = case
            .peer("may", move |effort| peers::may(fibers, effort))
            .peer("tokio (current thread)", move |effort| {
                peers::tokio(fibers, effort)
            })
            .ceiling("corosensei", move |effort| bare(fibers, effort, true))
            .ceiling("corosensei, stacks aligned alike", move |effort| {
                bare(fibers, effort, false)
            })
            .goal_against("yue", "may", 0.3)
            .goal_against("yue", "tokio (current thread)", 0.5);
        if fibers >= 1_000 {
            case = case.goal_against("yue", "corosensei", 2.0);
        }
    }
    if fibers == 1_000 {
        case = case.goal("yue", Against::Absolute, 20.0);
    }
    case
}

/// Returns the rounds per fiber.
fn laps(fibers: usize, effort: Effort) -> usize {
    (effort.count(YIELDS) / fibers).max(10)
}

/// Measures bare coroutines.
#[cfg(feature = "peers")]
pub fn bare(fibers: usize, effort: Effort, shifted: bool) -> Result<Sample, Problem> {
    let laps = laps(fibers, effort);
    let elapsed = crate::ceilings::coroutine::round_robin(fibers, laps, shifted)?;
    Ok(Sample::of(
        elapsed.as_nanos() as f64 / (laps * fibers) as f64,
    ))
}

/// Measures our scheduler on one loop.
pub fn yue(fibers: usize, effort: Effort) -> Result<Sample, Problem> {
    let laps = Laps::new(fibers, effort);
    let event_loop = Loop::new(Config::default())?;
    let clock = Arc::clone(&laps);
    event_loop.run(move || {
        let all: Vec<_> = (0..fibers)
            .map(|_| {
                let laps = Arc::clone(&clock);
                spawn(move || yue_fiber(&laps))
            })
            .collect();
        all.into_iter()
            .all(|fiber| matches!(fiber.join(), Ok(Ok(()))))
    });
    laps.sample()
}

fn yue_fiber(laps: &Laps) -> Result<(), Stopped> {
    for _ in 0..WARM_UP_LAPS {
        yield_now()?;
    }
    laps.warmed_up();
    for _ in 0..laps.laps {
        yield_now()?;
    }
    laps.finished();
    yield_now()
}

/// The clock shared by the fibers of one measurement.
struct Laps {
    fibers: usize,
    laps: usize,
    started: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    done: AtomicUsize,
}

impl Laps {
    fn new(fibers: usize, effort: Effort) -> Arc<Laps> {
        let laps = laps(fibers, effort);
        Arc::new(Laps {
            fibers,
            laps,
            started: OnceLock::new(),
            ended: OnceLock::new(),
            done: AtomicUsize::new(0),
        })
    }

    /// Records that a fiber has done its warm-up rounds.
    fn warmed_up(&self) {
        self.started.get_or_init(Instant::now);
    }

    /// Records that a fiber has done its counted rounds.
    fn finished(&self) {
        // Relaxed: only a count; the instant is published by its own OnceLock.
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.fibers {
            self.ended.get_or_init(Instant::now);
        }
    }

    fn sample(&self) -> Result<Sample, Problem> {
        let (Some(started), Some(ended)) = (self.started.get(), self.ended.get()) else {
            return Err(Problem::failed("the fibers did not finish"));
        };
        let yields = (self.fibers * self.laps) as f64;
        Ok(Sample::of((*ended - *started).as_nanos() as f64 / yields))
    }
}

#[cfg(feature = "peers")]
mod peers {
    use super::{Arc, Effort, Laps, Problem, Sample, WARM_UP_LAPS};

    /// Measures may on one worker thread.
    pub fn may(fibers: usize, effort: Effort) -> Result<Sample, Problem> {
        may::config().set_workers(1);
        let laps = Laps::new(fibers, effort);
        let clock = Arc::clone(&laps);
        // Started from within a coroutine, so that all coroutines start in the worker's own queue.
        let main = may::go!(move || {
            let all: Vec<_> = (0..clock.fibers)
                .map(|_| {
                    let laps = Arc::clone(&clock);
                    may::go!(move || may_fiber(&laps))
                })
                .collect();
            all.into_iter().all(|fiber| fiber.join().is_ok())
        });
        match main.join() {
            Ok(true) => laps.sample(),
            _ => Err(Problem::failed("a coroutine of may panicked")),
        }
    }

    fn may_fiber(laps: &Laps) {
        for _ in 0..WARM_UP_LAPS {
            may::coroutine::yield_now();
        }
        laps.warmed_up();
        for _ in 0..laps.laps {
            may::coroutine::yield_now();
        }
        laps.finished();
        may::coroutine::yield_now();
    }

    /// Measures tokio's current-thread runtime.
    pub fn tokio(fibers: usize, effort: Effort) -> Result<Sample, Problem> {
        let laps = Laps::new(fibers, effort);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let clock = Arc::clone(&laps);
        runtime.block_on(async move {
            let all: Vec<_> = (0..clock.fibers)
                .map(|_| tokio::spawn(tokio_task(Arc::clone(&clock))))
                .collect();
            for task in all {
                task.await
                    .map_err(|error| Problem::failed(error.to_string()))?;
            }
            Ok::<(), Problem>(())
        })?;
        laps.sample()
    }

    async fn tokio_task(laps: Arc<Laps>) {
        for _ in 0..WARM_UP_LAPS {
            tokio::task::yield_now().await;
        }
        laps.warmed_up();
        for _ in 0..laps.laps {
            tokio::task::yield_now().await;
        }
        laps.finished();
        tokio::task::yield_now().await;
    }
}
