//! Row 5: a call from a fiber on one loop to another loop, and a bare wake there and back.
//!
//! Each loop has its own thread and processor. *Call*: a closure is sent to the other loop and runs there in a new
//! fiber (a task); its result returns to the waiting fiber. *Wake*: one fiber on each side; each passes the turn to the
//! other and waits for its own. This uses a count under a lock and the waiter's waker, as tokio's `Notify` does.
//!
//! *Both busy*: neither side ever sleeps, because another fiber yields all the time; or, where a line says `busy_poll`,
//! because the loop polls instead of sleeping. *Target asleep*: neither side has other work, so each turn puts one
//! thread to sleep and wakes the other.
//!
//! may places its coroutines itself. The share of turns that really crossed threads is shown beside its figure. Its two
//! coroutines that wake each other stay on one worker, so that figure is shown for scale. It has no figure beside
//! coroutines that yield all the time: it did not complete in three minutes.

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use yue_io::Choice;
use yue_scheduler::{
    Config, Loop, LoopHandle, RemoteWaker, Spin, Stopped, park, prepare_park, spawn, this_loop,
    yield_now,
};

use crate::ceilings::ping_pong::{self, Placement};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Case, Effort, Problem, Row, Sample, Unit};

/// Turns at full effort: first while neither side sleeps, then when both sleep.
const BUSY_TURNS: u64 = 400_000;
const ASLEEP_TURNS: u64 = 20_000;

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";

/// The work between the loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Call,
    Wake,
}

/// The means that keep the loops from sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awake {
    /// Nothing: they sleep whenever they wait.
    Never,
    /// A fiber that yields all the time.
    Yielding,
    /// The loop's own polling.
    Polling,
}

impl Awake {
    fn turns(self, effort: Effort) -> u64 {
        effort.count(match self {
            Awake::Never => ASLEEP_TURNS as usize,
            _ => BUSY_TURNS as usize,
        }) as u64
    }
}

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 5,
        title: "between two loops",
        method: "One unit: a closure runs in a fiber on another loop and returns a result; or a wake and its answer.",
        cases: vec![
            case("call, both busy", Work::Call, Awake::Yielding),
            case("call, target asleep", Work::Call, Awake::Never),
            case("wake and be woken, both busy", Work::Wake, Awake::Yielding),
            case("wake and be woken, target asleep", Work::Wake, Awake::Never),
        ],
        notes: Vec::new(),
    }
}

fn case(name: &str, work: Work, awake: Awake) -> Case {
    let by = |choice, awake| move |effort| yue(choice, work, awake, effort);
    let mut case = Case::new(name, Unit::time("ns/turn"))
        .ours(URING, by(Choice::Uring, awake))
        .ours(MIO, by(Choice::Mio, awake));
    if awake == Awake::Yielding {
        case = case.ours(
            "yue (io_uring, busy_poll)",
            by(Choice::Uring, Awake::Polling),
        );
    }
    #[cfg(feature = "peers")]
    {
        const TOKIO: &str = "tokio (two current-thread runtimes)";
        case = case
            .peer(TOKIO, move |effort| peers::tokio(work, awake, effort))
            .goal_against(URING, TOKIO, 1.0)
            .goal_against(MIO, TOKIO, 1.0);
        let may = move |effort| peers::may(work, effort);
        case = match (awake, work) {
            (Awake::Never, Work::Call) => case.peer("may (two workers)", may),
            (Awake::Never, Work::Wake) => case.aside("may (on one worker)", may),
            _ => case,
        };
    }
    match awake {
        Awake::Never => case
            .ceiling("eventfd ping-pong", |effort| {
                ping_pong::eventfd(effort, Placement::Apart)
            })
            .goal_against(URING, "eventfd ping-pong", 1.2)
            .goal_against(MIO, "eventfd ping-pong", 1.2),
        _ => case.ceiling("spinning ping-pong", |effort| Ok(ping_pong::spin(effort))),
    }
}

/// Returns the two processors, or the reason why this row cannot be measured.
fn two_processors() -> Result<Processors, Problem> {
    let processors = Processors::detect()?;
    if processors.are_two() {
        Ok(processors)
    } else {
        Err(Problem::failed("this process may use only one processor"))
    }
}

/// The turns of a measurement: warm-up turns, then counted ones. Turns are numbered from 1.
struct Turns {
    warm_up: u64,
    counted: u64,
}

impl Turns {
    fn new(counted: u64) -> Turns {
        Turns {
            warm_up: counted / 10,
            counted,
        }
    }

    fn all(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.warm_up + self.counted
    }

    fn sample(&self, elapsed: Duration) -> Sample {
        Sample::of(elapsed.as_nanos() as f64 / self.counted as f64)
    }
}

/// Measures two of our loops, each on its own thread and processor.
fn yue(choice: Choice, work: Work, awake: Awake, effort: Effort) -> Result<Sample, Problem> {
    let processors = two_processors()?;
    let (sender, receiver) = mpsc::channel();
    let target = std::thread::spawn(move || -> Result<(), Problem> {
        processors.bind(Side::Server)?;
        let event_loop = Loop::new(config(choice, awake)?)?;
        // If the receiver was dropped, the caller has failed and reports why.
        let _ = sender.send(event_loop.handle());
        event_loop
            .run(move || {
                keep_busy(awake);
                this_loop::wait_for_shutdown()
            })
            .map_err(stopped)
    });
    processors.bind(Side::Client)?;
    let handle = match receiver.recv() {
        Ok(handle) => handle,
        Err(_) => return Err(outcome(target).err().unwrap_or_else(|| lost("the target"))),
    };
    let other = handle.clone();
    let turns = Turns::new(awake.turns(effort));
    let sample = Loop::new(config(choice, awake)?)?.run(move || {
        keep_busy(awake);
        let elapsed = match work {
            Work::Call => calls(&other, &turns)?,
            Work::Wake => wakes(&other, &turns)?,
        };
        Ok(turns.sample(elapsed))
    });
    handle.shutdown();
    outcome(target)?;
    sample
}

fn outcome(thread: std::thread::JoinHandle<Result<(), Problem>>) -> Result<(), Problem> {
    thread.join().unwrap_or_else(|_| Err(lost("the target")))
}

fn lost(what: &str) -> Problem {
    Problem::failed(format!("{what}'s thread panicked"))
}

fn stopped(stopped: Stopped) -> Problem {
    Problem::failed(stopped.to_string())
}

fn config(choice: Choice, awake: Awake) -> Result<Config, Problem> {
    Ok(Config {
        driver: yue_io::driver(choice)?,
        spin: match awake {
            Awake::Polling => Spin::BusyPoll,
            _ => Spin::Off,
        },
        ..Config::default()
    })
}

/// Starts a fiber that never lets its loop sleep. It ends with the loop.
fn keep_busy(awake: Awake) {
    if awake == Awake::Yielding {
        drop(spawn(|| while yield_now().is_ok() {}));
    }
}

fn calls(target: &LoopHandle, turns: &Turns) -> Result<Duration, Problem> {
    let mut start = Instant::now();
    for turn in turns.all() {
        if turn == turns.warm_up + 1 {
            start = Instant::now();
        }
        let answer = target.spawn(move || black_box(turn)).join();
        if answer.ok() != Some(turn) {
            return Err(Problem::failed("a call returned a wrong answer"));
        }
    }
    Ok(start.elapsed())
}

fn wakes(target: &LoopHandle, turns: &Turns) -> Result<Duration, Problem> {
    let (there, back) = (Arc::new(Turn::default()), Arc::new(Turn::default()));
    let (all, their) = (turns.all(), (Arc::clone(&there), Arc::clone(&back)));
    let partner = target.spawn(move || {
        all.into_iter().try_for_each(|turn| {
            their.0.wait_for(turn)?;
            their.1.pass(turn);
            Ok::<(), Stopped>(())
        })
    });
    let mut start = Instant::now();
    for turn in turns.all() {
        if turn == turns.warm_up + 1 {
            start = Instant::now();
        }
        there.pass(turn);
        back.wait_for(turn).map_err(stopped)?;
    }
    let elapsed = start.elapsed();
    match partner.join() {
        Ok(result) => result.map_err(stopped).map(|()| elapsed),
        Err(_) => Err(Problem::failed("the partner did not end")),
    }
}

/// Whose turn it is, and the fiber waiting for it.
#[derive(Default)]
struct Turn(Mutex<(u64, Option<RemoteWaker>)>);

impl Turn {
    fn pass(&self, turn: u64) {
        let waiter = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = turn;
            state.1.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    fn wait_for(&self, turn: u64) -> Result<(), Stopped> {
        loop {
            let waker = prepare_park().remote();
            {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.0 >= turn {
                    return Ok(());
                }
                state.1 = Some(waker);
            }
            park("its turn")?;
        }
    }
}

#[cfg(feature = "peers")]
mod peers {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Measures two current-thread runtimes, bound like ours.
    pub fn tokio(work: Work, awake: Awake, effort: Effort) -> Result<Sample, Problem> {
        let processors = two_processors()?;
        let (sender, receiver) = mpsc::channel();
        let finished = Arc::new(tokio::sync::Notify::new());
        let until = Arc::clone(&finished);
        let target = std::thread::spawn(move || -> Result<(), Problem> {
            processors.bind(Side::Server)?;
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            // If the receiver was dropped, the caller has failed and reports why.
            let _ = sender.send(runtime.handle().clone());
            runtime.block_on(async move {
                tokio_keep_busy(awake);
                until.notified().await;
            });
            Ok(())
        });
        processors.bind(Side::Client)?;
        let other = receiver.recv().map_err(|_| lost("the target"))?;
        let turns = Turns::new(awake.turns(effort));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let sample = runtime.block_on(async move {
            tokio_keep_busy(awake);
            // Run as an ordinary task: tokio treats the future that `block_on` polls differently.
            let main = tokio::spawn(async move {
                let elapsed = match work {
                    Work::Call => tokio_calls(&other, &turns).await?,
                    Work::Wake => tokio_wakes(&other, &turns).await?,
                };
                Ok(turns.sample(elapsed))
            });
            main.await.unwrap_or_else(|_| Err(lost("the caller")))
        });
        finished.notify_one();
        outcome(target)?;
        sample
    }

    fn tokio_keep_busy(awake: Awake) {
        if awake != Awake::Never {
            drop(tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            }));
        }
    }

    async fn tokio_calls(
        target: &tokio::runtime::Handle,
        turns: &Turns,
    ) -> Result<Duration, Problem> {
        let mut start = Instant::now();
        for turn in turns.all() {
            if turn == turns.warm_up + 1 {
                start = Instant::now();
            }
            let answer = target.spawn(async move { black_box(turn) }).await;
            if answer.ok() != Some(turn) {
                return Err(Problem::failed("a call returned a wrong answer"));
            }
        }
        Ok(start.elapsed())
    }

    async fn tokio_wakes(
        target: &tokio::runtime::Handle,
        turns: &Turns,
    ) -> Result<Duration, Problem> {
        let there = Arc::new(tokio::sync::Notify::new());
        let back = Arc::new(tokio::sync::Notify::new());
        let (all, their) = (turns.all(), (Arc::clone(&there), Arc::clone(&back)));
        let partner = target.spawn(async move {
            for _ in all {
                their.0.notified().await;
                their.1.notify_one();
            }
        });
        let mut start = Instant::now();
        for turn in turns.all() {
            if turn == turns.warm_up + 1 {
                start = Instant::now();
            }
            there.notify_one();
            back.notified().await;
        }
        let elapsed = start.elapsed();
        partner.await.map_err(|_| lost("the partner"))?;
        Ok(elapsed)
    }

    /// Measures may on two workers. It cannot choose the worker that runs a coroutine.
    pub fn may(work: Work, effort: Effort) -> Result<Sample, Problem> {
        two_processors()?;
        may::config().set_workers(2);
        let turns = Turns::new(Awake::Never.turns(effort));
        let main = may::go!(move || match work {
            Work::Call => may_calls(&turns),
            Work::Wake => may_wakes(&turns),
        });
        main.join().unwrap_or_else(|_| Err(lost("the caller")))
    }

    /// Returns the calling thread's id. Calls the C library directly, so that no value from before a switch is reused.
    fn thread() -> u64 {
        // SAFETY: returns a number and touches no memory.
        unsafe { libc::pthread_self() }
    }

    fn may_calls(turns: &Turns) -> Result<Sample, Problem> {
        let (mut start, mut crossed) = (Instant::now(), 0);
        for turn in turns.all() {
            if turn == turns.warm_up + 1 {
                (start, crossed) = (Instant::now(), 0);
            }
            let caller = thread();
            let answer = may::go!(move || (black_box(turn), thread())).join();
            match answer {
                Ok((answer, there)) if answer == turn => crossed += u64::from(there != caller),
                _ => return Err(Problem::failed("a call returned a wrong answer")),
            }
        }
        Ok(with_crossed(turns, start.elapsed(), crossed))
    }

    fn may_wakes(turns: &Turns) -> Result<Sample, Problem> {
        let there = Arc::new(may::sync::Semphore::new(0));
        let back = Arc::new(may::sync::Semphore::new(0));
        let partners_thread = Arc::new(AtomicU64::new(0));
        let partner = {
            let (there, back) = (Arc::clone(&there), Arc::clone(&back));
            let (all, seen) = (turns.all(), Arc::clone(&partners_thread));
            may::go!(move || for _ in all {
                there.wait();
                // Relaxed: only for the reported share.
                seen.store(thread(), Ordering::Relaxed);
                back.post();
            })
        };
        let (mut start, mut crossed) = (Instant::now(), 0);
        for turn in turns.all() {
            if turn == turns.warm_up + 1 {
                (start, crossed) = (Instant::now(), 0);
            }
            let caller = thread();
            there.post();
            back.wait();
            crossed += u64::from(partners_thread.load(Ordering::Relaxed) != caller);
        }
        let elapsed = start.elapsed();
        partner.join().map_err(|_| lost("the partner"))?;
        Ok(with_crossed(turns, elapsed, crossed))
    }

    fn with_crossed(turns: &Turns, elapsed: Duration, crossed: u64) -> Sample {
        let share = crossed as f64 / turns.counted as f64;
        turns.sample(elapsed).with("crossed_percent", 100.0 * share)
    }
}
