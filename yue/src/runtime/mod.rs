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

mod affinity;
mod builder;
pub(crate) mod end_signals;
mod report;
mod settings;
mod workers;

pub use builder::RuntimeBuilder;
pub use report::RuntimeReport;
pub(crate) use settings::LoopSettings;

use affinity::Pinned;
use end_signals::EndRequests;
use std::io;
use workers::Workers;
use yue_io::signal;
use yue_scheduler::{Loop, LoopGroup, LoopHandle, RemoteJoin, Tick, blocking_counters, this_loop};

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
    let requests = EndRequests::default();
    end_signals::subscribe(move |signal| {
        if requests.insist() {
            crate::admin::remove_files();
            signal::end_process_by(signal);
        }
        handle.shutdown();
    })
}
