//! The configuration of a loop.

use super::group::LoopGroup;
use crate::driver::{Driver, SleepDriver};
use crate::fiber::FiberId;
use crate::stack::StackConfig;
use crate::time::Clock;
use std::fmt;
use std::time::Duration;

/// The action of a loop before it sleeps, when nothing can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Sleeps at once: waiting costs no processor time.
    #[default]
    Off,
    /// Polls for that long first. A message that arrives in that time saves a sleep and a wake-up (10 to 45 us).
    For(Duration),
    /// Never sleeps: the lowest latency, for a loop with a dedicated processor.
    BusyPoll,
}

/// A callback for the panic of a fiber that nobody joins. Its arguments are the fiber and the panic message.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, PanicHook, spawn, yield_now};
///
/// let messages = Rc::new(RefCell::new(Vec::new()));
/// let seen = messages.clone();
/// let hook: PanicHook = Box::new(move |_fiber, message| seen.borrow_mut().push(message.to_owned()));
/// let config = Config { on_panic: Some(hook), ..Config::default() };
/// Loop::new(config).unwrap().run(|| {
///     drop(spawn(|| None::<u32>.expect("no such player")));
///     yield_now().unwrap();
/// });
/// assert_eq!(*messages.borrow(), ["no such player"]);
/// ```
pub type PanicHook = Box<dyn Fn(FiberId, &str)>;

/// The configuration of a loop.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, spawn};
///
/// let config = Config {
///     fibers_per_tick: 128,
///     grace: Some(Duration::from_secs(5)),
///     ..Config::default()
/// };
/// let answer = Loop::new(config).unwrap().run(|| spawn(|| 42).join().unwrap());
/// assert_eq!(answer, 42);
/// ```
pub struct Config {
    /// The driver, which waits for I/O. Create it on the thread on which the loop will run.
    pub driver: Box<dyn Driver>,
    /// Sizes of the stacks.
    pub stacks: StackConfig,
    /// The source of time. With [`Clock::Manual`] the program ticks the loop by hand; drivers still wait in real time.
    pub clock: Clock,
    /// The action of the loop before it sleeps.
    pub spin: Spin,
    /// The number of fibers that run before the loop polls its driver again.
    pub fibers_per_tick: u32,
    /// The time that the main fiber may continue after a shutdown was requested, before everything is cancelled.
    /// `None`: without a limit.
    pub grace: Option<Duration>,
    /// The time that cancelled fibers have to end at shutdown; they get the same time again after their shields are
    /// removed. If fibers had to be abandoned and the kernel or the blocking pool still uses memory that they lent, the
    /// end of the loop's thread waits five times as long for that, and then aborts the process.
    pub stop_grace: Duration,
    /// The group of loops with which this one shares work.
    pub group: Option<LoopGroup>,
    /// Called when a fiber whose handle was dropped panics, with the fiber and the panic message. By default only the
    /// counter and the usual panic message report it.
    pub on_panic: Option<PanicHook>,
}

impl Default for Config {
    /// A loop that only sleeps and computes. `yue-io` has drivers that do I/O.
    fn default() -> Self {
        Config {
            driver: Box::new(SleepDriver::new()),
            stacks: StackConfig::default(),
            clock: Clock::System,
            spin: Spin::Off,
            // A tick of a few microseconds if runs are short: long compared with the cost of a turn, short compared
            // with a client's patience.
            fibers_per_tick: 1024,
            grace: None,
            stop_grace: Duration::from_secs(1),
            group: None,
            on_panic: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("driver", &self.driver.name())
            .field("stacks", &self.stacks)
            .field("spin", &self.spin)
            .finish_non_exhaustive()
    }
}
