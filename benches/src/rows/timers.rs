//! Row 6: bare timers: arming and cancelling, firing, and lateness.
//!
//! - *Arm and cancel, hot*: one timer, repeatedly, with deadlines some seconds away, like a timeout that never fires.
//! - *Cancel at random*: a million timers are armed for instants within a minute and cancelled in random order.
//! - *Fire*: a million timers become due within one second while the thread is blocked. The clock runs from the first
//!   check to the last callback, so the work is measured and not the waiting.
//! - *Lateness*: one fiber (task, thread) sleeps until an instant, repeatedly; the figure is how long after it the
//!   fiber runs.
//!
//! Our timer is a node with a callback; tokio's is a `Sleep` that was polled once, because it has no other. No
//! contestant allocates or frees memory while the clock runs. may has no timer except its sleeping coroutines.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use yue_io::Choice;
use yue_scheduler::{Config, Instant, Loop, Timer, now, sleep_until, yield_now};

use crate::ceilings::{kernel_timer, linked_list};
use crate::harness::random::Random;
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// Pairs of arm and cancel at full effort.
const PAIRS: usize = 20_000_000;
/// Timers armed at once at full effort.
const TIMERS: usize = 1_000_000;
/// Sleeps at full effort.
const SLEEPS: usize = 2_000;

/// The range of the deadlines in the random cases.
const MINUTE_NS: usize = 60_000_000_000;
/// The time until the first timer of the fire case is due: enough to arm all timers.
const FIRE_AFTER: Duration = Duration::from_secs(2);
/// The time between the first and the last timer's instant.
const FIRE_WITHIN: Duration = Duration::from_secs(1);
/// The unit of the lateness case's sleeps: each lasts one to three of these.
const SLEEP: Duration = Duration::from_micros(500);

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 6,
        title: "timers",
        method: "One unit: a timer armed and cancelled; cancelled; or fired. --quick arms a tenth of the million.",
        cases: vec![hot(), cancel(), fire(), lateness()],
        notes: Vec::new(),
    }
}

fn hot() -> Case {
    let case = Case::new("arm and cancel, hot", Unit::time("ns/pair")).ours("yue", |effort| {
        on_a_loop(move || yue_pairs(effort.count(PAIRS)))
    });
    #[cfg(feature = "peers")]
    let case = case.peer("tokio", |effort| peers::pairs(effort.count(PAIRS)));
    case.ceiling("bare linked list", |effort| {
        let pairs = effort.count(PAIRS);
        Ok(per_unit(linked_list::pairs(pairs), pairs))
    })
    .goal("yue", Against::Absolute, 15.0)
    .goal("yue", Against::EveryPeer, 1.0)
}

fn cancel() -> Case {
    let case = Case::new("cancel at random, 1 000 000 armed", Unit::time("ns/timer"))
        .ours("yue", |effort| {
            on_a_loop(move || yue_cancel(effort.count(TIMERS)))
        });
    #[cfg(feature = "peers")]
    let case = case.peer("tokio", |effort| peers::cancel(effort.count(TIMERS)));
    case.ceiling("bare linked list", |effort| {
        let timers = effort.count(TIMERS);
        Ok(per_unit(linked_list::cancel_at_random(timers), timers))
    })
    .goal_against("yue", "bare linked list", 2.0)
    .goal("yue", Against::EveryPeer, 1.0)
}

fn fire() -> Case {
    let case = Case::new("fire, 1 000 000 due", Unit::time("ns/timer")).ours("yue", |effort| {
        on_a_loop(move || yue_fire(effort.count(TIMERS)))
    });
    #[cfg(feature = "peers")]
    let case = case.peer("tokio", |effort| peers::fire(effort.count(TIMERS)));
    case.ceiling("bare linked list", |effort| {
        let timers = effort.count(TIMERS);
        Ok(per_unit(linked_list::take_all(timers), timers))
    })
    .goal("yue", Against::EveryPeer, 1.0)
}

fn lateness() -> Case {
    const URING: &str = "yue (io_uring)";
    const MIO: &str = "yue (mio)";
    let by = |choice| move |effort: Effort| yue_lateness(choice, effort.count(SLEEPS));
    let case = Case::new("lateness, 99th percentile", Unit::time("us"))
        .ours(URING, by(Choice::Uring))
        .ours(MIO, by(Choice::Mio));
    #[cfg(feature = "peers")]
    let case = case.peer("tokio", |effort| peers::lateness(effort.count(SLEEPS)));
    case.ceiling("the kernel's timer", |effort| {
        late(effort.count(SLEEPS), |at| {
            Ok(kernel_timer::sleep_until(at)?)
        })
    })
    .goal(URING, Against::Absolute, 200.0)
    .goal(MIO, Against::Absolute, 200.0)
}

fn per_unit(elapsed: Duration, units: usize) -> Sample {
    Sample::of(elapsed.as_nanos() as f64 / units as f64)
}

fn on_a_loop(
    measure: impl FnOnce() -> Result<Sample, Problem> + 'static,
) -> Result<Sample, Problem> {
    Loop::new(Config::default())?.run(measure)
}

/// Returns the deadline of a pair in the hot case: one to two seconds away, in a different slot each time.
fn hot_deadline(pair: usize) -> Duration {
    Duration::from_micros(1_000_000 + (pair as u64 * 977) % 1_000_000)
}

fn yue_pairs(pairs: usize) -> Result<Sample, Problem> {
    let timer = Timer::new(|| {});
    let begin = now();
    let run = |pairs: usize| {
        for pair in 0..pairs {
            timer.arm(begin.saturating_add(hot_deadline(pair)));
            timer.cancel();
        }
    };
    run(pairs / 10);
    let start = std::time::Instant::now();
    run(pairs);
    Ok(per_unit(start.elapsed(), pairs))
}

/// Arms this many timers for instants within a minute; the first is at least a second away.
fn armed(timers: usize, random: &mut Random) -> Vec<Timer> {
    let begin = now().saturating_add(Duration::from_secs(1));
    let all: Vec<Timer> = (0..timers).map(|_| Timer::new(|| {})).collect();
    for timer in &all {
        let after = Duration::from_nanos(random.below(MINUTE_NS) as u64);
        timer.arm(begin.saturating_add(after));
    }
    all
}

fn yue_cancel(timers: usize) -> Result<Sample, Problem> {
    let mut random = Random::new(6);
    let all = armed(timers, &mut random);
    let order = random.order(timers);
    let start = std::time::Instant::now();
    for timer in order {
        all[timer as usize].cancel();
    }
    Ok(per_unit(start.elapsed(), timers))
}

/// Measures `moves` moves of a random one of `timers` timers to another instant within a minute.
pub fn move_at_random(timers: usize, moves: usize) -> Result<Duration, Problem> {
    Loop::new(Config::default())?.run(move || {
        let mut random = Random::new(6);
        let all = armed(timers, &mut random);
        let begin = now().saturating_add(Duration::from_secs(1));
        let mut run = |moves: usize| {
            for _ in 0..moves {
                let after = Duration::from_nanos(random.below(MINUTE_NS) as u64);
                all[random.below(timers)].arm(begin.saturating_add(after));
            }
        };
        run(moves / 10);
        let start = std::time::Instant::now();
        run(moves);
        Ok(start.elapsed())
    })
}

fn yue_fire(timers: usize) -> Result<Sample, Problem> {
    let mut random = Random::new(6);
    let fired = Rc::new(Cell::new(0));
    let all: Vec<Timer> = (0..timers)
        .map(|_| {
            let fired = Rc::clone(&fired);
            Timer::new(move || fired.set(fired.get() + 1))
        })
        .collect();
    let first = Instant::system().saturating_add(FIRE_AFTER);
    for timer in &all {
        timer.arm(first.saturating_add(fire_after_first(&mut random)));
    }
    let start = wait_until_all_are_due(first)?;
    while fired.get() < timers {
        yield_now().map_err(|stopped| Problem::failed(stopped.to_string()))?;
    }
    Ok(per_unit(start.elapsed(), timers))
}

fn fire_after_first(random: &mut Random) -> Duration {
    Duration::from_nanos(random.below(FIRE_WITHIN.as_nanos() as usize) as u64)
}

/// Blocks the thread until the last timer is due. Returns the instant from which the work counts.
fn wait_until_all_are_due(first: Instant) -> Result<std::time::Instant, Problem> {
    if Instant::system() >= first {
        return Err(Problem::failed(
            "arming took so long that the first timers were due before the last were armed",
        ));
    }
    // Wait past the last timer, by more than any contestant rounds up.
    let last = first
        .saturating_add(FIRE_WITHIN)
        .saturating_add(Duration::from_millis(5));
    kernel_timer::sleep_until(last)?;
    Ok(std::time::Instant::now())
}

/// Returns the 99th percentile of the lateness of `sleep_until`, over this many sleeps.
fn late(
    sleeps: usize,
    mut sleep_until: impl FnMut(Instant) -> Result<(), Problem>,
) -> Result<Sample, Problem> {
    let mut late_us = Lateness::default();
    for at in deadlines(sleeps) {
        let at = at();
        sleep_until(at)?;
        late_us.record(at)?;
    }
    Ok(late_us.sample())
}

/// Returns, for each sleep, a function that computes its deadline when the sleep begins.
fn deadlines(sleeps: usize) -> impl Iterator<Item = impl FnOnce() -> Instant> {
    let mut random = Random::new(6);
    (0..sleeps).map(move |_| {
        let more = Duration::from_nanos(random.below(2 * SLEEP.as_nanos() as usize) as u64);
        move || Instant::system().saturating_add(SLEEP + more)
    })
}

#[derive(Default)]
struct Lateness(Vec<f64>);

impl Lateness {
    /// Records the lateness of a sleep until `at` that has just ended.
    fn record(&mut self, at: Instant) -> Result<(), Problem> {
        let ran = Instant::system();
        if ran < at {
            return Err(Problem::failed("a sleep ended early"));
        }
        self.0
            .push(ran.saturating_since(at).as_nanos() as f64 / 1e3);
        Ok(())
    }

    fn sample(mut self) -> Sample {
        self.0.sort_by(f64::total_cmp);
        let at =
            |share: f64| self.0[((self.0.len() as f64 * share) as usize).min(self.0.len() - 1)];
        Sample::of(at(0.99))
            .with("p50_us", at(0.5))
            .with("highest_us", at(1.0))
    }
}

fn yue_lateness(choice: Choice, sleeps: usize) -> Result<Sample, Problem> {
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    Loop::new(config)?.run(move || {
        late(sleeps, |at| {
            sleep_until(at).map_err(|stopped| Problem::failed(stopped.to_string()))
        })
    })
}

#[cfg(feature = "peers")]
mod peers {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

    use super::*;

    /// An allocated slot for a timer, so that dropping the timer does not free its memory.
    type TimerSlot = Pin<Box<Option<Sleep>>>;

    fn on_a_runtime<T>(main: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?
            .block_on(main)
    }

    /// Polls a timer once, which arms it.
    fn arm(sleep: Pin<&mut Sleep>, waker: &Waker) -> Result<(), Problem> {
        match sleep.poll(&mut Context::from_waker(waker)).is_ready() {
            true => Err(Problem::failed("a timer was due when it was armed")),
            false => Ok(()),
        }
    }

    pub fn pairs(pairs: usize) -> Result<Sample, Problem> {
        on_a_runtime(async {
            let begin = TokioInstant::now();
            let run = |pairs: usize| {
                (0..pairs).try_for_each(|pair| {
                    let sleep = pin!(sleep_until(begin + hot_deadline(pair)));
                    arm(sleep, Waker::noop())
                })
            };
            // Fewer than for ours, so that it ends in time; the deadlines are the same.
            let pairs = pairs / 10 + 1;
            run(pairs / 10)?;
            let start = std::time::Instant::now();
            run(pairs)?;
            Ok(per_unit(start.elapsed(), pairs))
        })
    }

    fn armed(
        deadlines: impl Iterator<Item = TokioInstant>,
        waker: &Waker,
    ) -> Result<Vec<TimerSlot>, Problem> {
        let mut all: Vec<TimerSlot> = deadlines
            .map(|at| Box::pin(Some(sleep_until(at))))
            .collect();
        for slot in &mut all {
            if let Some(sleep) = slot.as_mut().as_pin_mut() {
                arm(sleep, waker)?;
            }
        }
        Ok(all)
    }

    pub fn cancel(timers: usize) -> Result<Sample, Problem> {
        on_a_runtime(async {
            let mut random = Random::new(6);
            let begin = TokioInstant::now() + Duration::from_secs(1);
            let deadlines: Vec<_> = (0..timers)
                .map(|_| begin + Duration::from_nanos(random.below(MINUTE_NS) as u64))
                .collect();
            let mut all = armed(deadlines.into_iter(), Waker::noop())?;
            let order = random.order(timers);
            let start = std::time::Instant::now();
            for timer in order {
                all[timer as usize].as_mut().set(None);
            }
            Ok(per_unit(start.elapsed(), timers))
        })
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            // Relaxed: only a count, on one thread.
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn fire(timers: usize) -> Result<Sample, Problem> {
        on_a_runtime(async {
            let mut random = Random::new(6);
            let count = Arc::new(Count(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&count));
            let first = Instant::system().saturating_add(FIRE_AFTER);
            let begin = TokioInstant::now() + FIRE_AFTER;
            let deadlines = (0..timers).map(|_| begin + fire_after_first(&mut random));
            let all = armed(deadlines, &waker)?;
            let start = wait_until_all_are_due(first)?;
            while count.0.load(Ordering::Relaxed) < timers {
                tokio::task::yield_now().await;
            }
            let sample = per_unit(start.elapsed(), timers);
            drop(all);
            Ok(sample)
        })
    }

    pub fn lateness(sleeps: usize) -> Result<Sample, Problem> {
        on_a_runtime(async {
            let mut late_us = Lateness::default();
            for at in deadlines(sleeps) {
                let at = at();
                let left = at.saturating_since(Instant::system());
                sleep_until(TokioInstant::now() + left).await;
                late_us.record(at)?;
            }
            Ok(late_us.sample())
        })
    }
}
