//! Runtimes: loops with I/O drivers, one on the calling thread and others on their own threads.
//!
//! ```text
//!   calling thread    loop 1 ── the program's main fiber
//!   worker threads    loop 2 .. N ── a main fiber that waits for the end of the runtime
//!
//!   spawn                       this loop         LoopHandle::spawn        that loop
//!   spawn_any, handle.spawn     whichever loop has time for it
//! ```
//!
//! The end: the program's main fiber returns, or is cancelled when a shutdown was requested and its grace has passed.
//! Then the remaining fibers of loop 1 are cancelled and awaited, then those of the other loops, and their threads are
//! joined.

mod builder;
mod workers;

pub use builder::RuntimeBuilder;

use crate::system::Pinned;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use workers::Workers;
use yue_io::Choice;
use yue_io::signal::{self, Signal};
use yue_scheduler::{
    Config, Loop, LoopGroup, LoopHandle, RemoteJoin, Spin, StopReport, Tick, blocking_counters,
    this_loop,
};

/// The signals that shut a runtime down, if it listens to signals.
const SIGNALS: [Signal; 2] = [Signal::INT, Signal::TERM];

/// Signals that follow the first one within this time are the same request: GNU `timeout`, for example, signals the
/// process and then its group. A person cannot press Ctrl-C twice that fast on purpose.
pub(crate) const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Loops that run fibers with I/O: one on the calling thread, and more if [`Runtime::builder`] sets them.
///
/// The loops use io_uring where the kernel allows it, otherwise epoll (a line on standard error then states the
/// reason). The variable `YUE_IO` (`uring`, `mio`) forces one. Fibers never move between loops.
///
/// ```
/// let runtime = yue::Runtime::builder().loops(2).build().unwrap();
/// let sum = runtime.run(|| {
///     let parts: Vec<_> = (0..10u64).map(|n| yue::spawn_any(move || n * n)).collect();
///     parts.into_iter().map(|part| part.join().unwrap()).sum::<u64>()
/// });
/// assert_eq!(sum, 285);
/// ```
#[derive(Debug)]
pub struct Runtime {
    /// Dropped first: see `Workers`.
    workers: Workers,
    /// Kept until the loops have ended: a signal that arrives meanwhile may belong to the request that ended them.
    _signals: Option<signal::Subscription>,
    handle: RuntimeHandle,
    _pinned: Option<Pinned>,
    /// Taken when the runtime runs.
    main: Option<Loop>,
}

impl Runtime {
    /// Creates a runtime of one loop, with the driver that this machine allows.
    ///
    /// # Errors
    /// If no driver can be set up, or `YUE_IO` requests one that is refused.
    pub fn new() -> io::Result<Runtime> {
        Runtime::builder().build()
    }

    /// Starts the settings of a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Creates a runtime of one loop with a given driver.
    ///
    /// # Errors
    /// If the driver cannot be set up.
    pub fn with_driver(choice: Choice) -> io::Result<Runtime> {
        Runtime::builder().driver(choice).build()
    }

    /// Creates a runtime of one loop that never sleeps: the lowest latency, at the price of a processor.
    ///
    /// # Errors
    /// Like [`Runtime::new`].
    pub fn busy() -> io::Result<Runtime> {
        Runtime::builder().spin(Spin::BusyPoll).build()
    }

    /// Creates a runtime of one loop with all the settings that a loop has.
    ///
    /// # Errors
    /// If the process has created more than a million loops, or the config's group is full.
    pub fn with_config(mut config: Config) -> io::Result<Runtime> {
        let group = config.group.get_or_insert_with(|| LoopGroup::new(1));
        let group = group.clone();
        let main = Loop::new(config)?;
        Ok(Runtime {
            workers: Workers::default(),
            _signals: None,
            handle: RuntimeHandle {
                group,
                loops: vec![main.handle()],
            },
            _pinned: None,
            main: Some(main),
        })
    }

    /// A handle with which other threads reach the loop that [`Runtime::run`] runs.
    pub fn handle(&self) -> LoopHandle {
        self.handle.loops[0].clone()
    }

    /// A handle of the whole runtime, for any thread.
    pub fn whole(&self) -> RuntimeHandle {
        self.handle.clone()
    }

    /// Runs `f` with the calling thread's loop as its current one, outside any fiber: to spawn before the first tick.
    ///
    /// # Panics
    /// If this thread runs another loop.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.one().enter(f)
    }

    /// Runs one tick of the calling thread's loop, which does not block: for a program that has its own loop (a game's,
    /// a window's) around this one. The other loops run by themselves.
    ///
    /// ```
    /// use yue::Tick;
    ///
    /// let runtime = yue::Runtime::new().unwrap();
    /// let fiber = runtime.enter(|| yue::spawn(|| 6 * 7));
    /// while runtime.tick().unwrap() != Tick::Done {
    ///     // … draw a frame …
    /// }
    /// assert_eq!(fiber.join().unwrap(), 42);
    /// ```
    ///
    /// # Errors
    /// If the driver fails; the loop is unusable then.
    ///
    /// # Panics
    /// If this thread runs another loop, or calls this from a fiber.
    pub fn tick(&self) -> io::Result<Tick> {
        self.one().tick()
    }

    fn one(&self) -> &Loop {
        match &self.main {
            Some(one) => one,
            None => unreachable!("a runtime is used up by its run"),
        }
    }

    /// Runs `main` as a fiber, and the loops until it has ended. Fibers that remain, on any loop, are cancelled and
    /// awaited.
    ///
    /// # Panics
    /// With the panic of `main`, if it panicked; if the driver fails; if this thread runs another loop; if `main` was
    /// given up, because it outlasted the [grace](RuntimeBuilder::grace) of a shutdown and ignored its cancellation.
    #[track_caller]
    pub fn run<T: 'static>(self, main: impl FnOnce() -> T + 'static) -> T {
        self.run_reported(main).0
    }

    /// Like [`Runtime::run`]; also returns what was left behind.
    ///
    /// # Panics
    /// Like [`Runtime::run`].
    #[track_caller]
    pub fn run_reported<T: 'static>(
        mut self,
        main: impl FnOnce() -> T + 'static,
    ) -> (T, RuntimeReport) {
        let Some(one) = self.main.take() else {
            unreachable!("a runtime is used up by its run")
        };
        let (result, own) = one.run_reported(main);
        let mut report = self.workers.end();
        report.add(own);
        report.blocking_left = blocking_counters().left;
        (result, report)
    }
}

/// A handle of the whole runtime, for any thread.
///
/// ```
/// let runtime = yue::Runtime::builder().loops(2).build().unwrap();
/// let whole = runtime.whole();
/// let outside = std::thread::spawn(move || {
///     let answer = whole.spawn(|| 6 * 7).join().unwrap();
///     whole.shutdown();
///     answer
/// });
/// runtime.run(|| yue::wait_for_shutdown().unwrap());
/// assert_eq!(outside.join().unwrap(), 42);
/// ```
#[derive(Debug, Clone)]
pub struct RuntimeHandle {
    group: LoopGroup,
    loops: Vec<LoopHandle>,
}

impl RuntimeHandle {
    /// Starts a fiber on whichever loop has time for it.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> RemoteJoin<T> {
        self.group.spawn(f)
    }

    /// The loops; the first is the one on which the main fiber runs.
    pub fn loops(&self) -> &[LoopHandle] {
        &self.loops
    }

    /// Requests a shutdown: [`wait_for_shutdown`](crate::wait_for_shutdown) returns on every loop. The main fiber has
    /// the [grace](RuntimeBuilder::grace) to return.
    pub fn shutdown(&self) {
        self.loops.iter().for_each(LoopHandle::shutdown);
    }
}

/// The fibers and operations that the end of a runtime left behind; all zero for a program that co-operates. Each fiber
/// that is given up is also named on standard error, with the location of its spawn and its wait.
///
/// ```
/// let (answer, report) = yue::Runtime::new().unwrap().run_reported(|| 6 * 7);
/// assert_eq!(answer, 42);
/// assert_eq!(report, yue::RuntimeReport::default()); // Nothing was left behind.
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RuntimeReport {
    /// Fibers that ignored the hard stop; their stacks are leaked.
    pub fibers_abandoned: usize,
    /// Operations that the kernel had not finished.
    pub operations_left: usize,
    /// Closures of [`blocking`](crate::blocking) that still run although nobody waits for them, in the whole process.
    pub blocking_left: usize,
    /// Loops that ended early, because their driver failed.
    pub loops_failed: usize,
}

impl RuntimeReport {
    fn add(&mut self, of_loop: StopReport) {
        self.fibers_abandoned += of_loop.fibers_abandoned;
        self.operations_left += of_loop.operations_left;
    }
}

/// Starts a fiber on whichever loop of this runtime has time for it; the calling loop is one of them.
///
/// # Panics
/// Outside a loop.
///
/// ```
/// let runtime = yue::Runtime::builder().loops(2).build().unwrap();
/// let longest = runtime.run(|| {
///     let texts = ["tea", "second breakfast", "supper"];
///     let lengths = texts.map(|text| yue::spawn_any(move || text.len()));
///     lengths.into_iter().map(|length| length.join().unwrap()).max()
/// });
/// assert_eq!(longest, Some(16));
/// ```
#[track_caller]
pub fn spawn_any<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> RemoteJoin<T> {
    match this_loop::group() {
        Some(group) => group.spawn(f),
        None => this_loop::handle().spawn(f),
    }
}

/// Listens to the signals that request the end: the first one shuts the runtime down. A later one ends the process at
/// once, as if nobody listened, whatever the loops are doing.
fn listen(handle: RuntimeHandle) -> io::Result<signal::Subscription> {
    let first = OnceLock::new();
    // A signal that the parent process ignores must stay ignored.
    let heard = SIGNALS
        .into_iter()
        .filter(|signal| !signal::is_ignored(*signal));
    let heard: Vec<Signal> = heard.collect();
    signal::subscribe_off_loop(&heard, move |signal| {
        let now = Instant::now();
        let first = *first.get_or_init(|| {
            handle.shutdown();
            now
        });
        if now.duration_since(first) >= SAME_SIGNAL {
            signal::end_process_by(signal);
        }
    })
}
