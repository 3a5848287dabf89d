//! Settings of a runtime.

use super::workers::Workers;
use super::{Runtime, RuntimeHandle, listen};
use crate::system::{Pinned, processors};
use std::io;
use std::time::Duration;
use yue_io::Choice;
use yue_scheduler::{
    BlockingLimits, Config, Loop, LoopGroup, Spin, StackConfig, set_blocking_limits,
};

/// How long the main fiber may take to return once a shutdown was asked for: what a client waits for an answer.
const GRACE: Duration = Duration::from_secs(5);

/// Settings for a [`Runtime`].
///
/// ```
/// use std::time::Duration;
///
/// let runtime = yue::Runtime::builder()
///     .loops(2)
///     .pinned(true)
///     .name("worker")
///     .blocking_threads(16)
///     .grace(Duration::from_secs(1))
///     .build()
///     .unwrap();
/// runtime.run(|| yue::spawn_any(|| "hello").join().unwrap());
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct RuntimeBuilder {
    loops: usize,
    pinned: bool,
    name: String,
    listens: bool,
    blocking_threads: Option<usize>,
    settings: Settings,
}

/// What every loop of a runtime is made with.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    driver: Choice,
    spin: Spin,
    stacks: StackConfig,
    fibers_per_tick: Option<u32>,
    grace: Duration,
    stop_grace: Option<Duration>,
}

impl Settings {
    /// The config of a loop on the calling thread.
    ///
    /// # Errors
    /// When its driver cannot be set up.
    pub(super) fn config(&self, group: &LoopGroup) -> io::Result<Config> {
        let mut config = Config {
            driver: yue_io::driver(self.driver)?,
            spin: self.spin,
            stacks: self.stacks,
            group: Some(group.clone()),
            ..Config::default()
        };
        config.fibers_per_tick = self.fibers_per_tick.unwrap_or(config.fibers_per_tick);
        config.stop_grace = self.stop_grace.unwrap_or(config.stop_grace);
        Ok(config)
    }
}

impl Default for RuntimeBuilder {
    fn default() -> Self {
        RuntimeBuilder {
            loops: 1,
            pinned: false,
            name: "yue".to_owned(),
            listens: false,
            blocking_threads: None,
            settings: Settings {
                driver: Choice::Auto,
                spin: Spin::Off,
                stacks: StackConfig::default(),
                fibers_per_tick: None,
                grace: GRACE,
                stop_grace: None,
            },
        }
    }
}

impl RuntimeBuilder {
    /// How many loops there are, the calling thread's included. The default is one; 0 means one for each processor that
    /// the process may use.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = loops;
        self
    }

    /// Whether each loop keeps to a processor of its own (to one of them in turn, if there are more loops). For loops
    /// that spin, and for caches. By default the system moves threads as it likes.
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// What the threads of the loops are called, with a number after it; the calling thread keeps its name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which driver the loops have.
    pub fn driver(mut self, driver: Choice) -> Self {
        self.settings.driver = driver;
        self
    }

    /// What the loops do when nothing can run: sleep at once (the default), poll for a while first, or never sleep.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.settings.spin = spin;
        self
    }

    /// Sizes of the fibers' stacks.
    pub fn stacks(mut self, stacks: StackConfig) -> Self {
        self.settings.stacks = stacks;
        self
    }

    /// How many fibers a loop runs before it looks at its driver again.
    pub fn fibers_per_tick(mut self, fibers: u32) -> Self {
        self.settings.fibers_per_tick = Some(fibers);
        self
    }

    /// How many threads [`blocking`](crate::blocking) may use. The pool is the process's: the last runtime that sets it
    /// decides.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.blocking_threads = Some(threads);
        self
    }

    /// How long the main fiber may take to return once a shutdown was asked for, before everything is cancelled. The
    /// default is five seconds.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long cancelled fibers may take to end, and after that, shields off, once more. The default is a second.
    pub fn stop_grace(mut self, stop_grace: Duration) -> Self {
        self.settings.stop_grace = Some(stop_grace);
        self
    }

    /// Whether SIGINT and SIGTERM shut the runtime down, as [`RuntimeHandle::shutdown`] does; a second one, half a
    /// second later or more, ends the process at once, also while all loops are busy. Off by default, since signals
    /// belong to the program; the signals' actions are as they were when the runtime has ended. A signal that is
    /// ignored when the runtime is built, as SIGINT is for what a shell starts in the background, stays ignored.
    ///
    /// ```no_run
    /// yue::Runtime::builder().shutdown_on_signals(true).build().unwrap().run(|| {
    ///     // … start serving …
    ///     yue::wait_for_shutdown().unwrap();
    ///     // … say goodbye …
    /// });
    /// ```
    pub fn shutdown_on_signals(mut self, listens: bool) -> Self {
        self.listens = listens;
        self
    }

    /// Makes the runtime: the loop of the calling thread, and the threads of the others.
    ///
    /// # Errors
    /// When a driver cannot be set up, `YUE_IO` asks for one that is refused, or the system gives no more threads or
    /// does not let them be pinned.
    pub fn build(self) -> io::Result<Runtime> {
        let processors = processors()?;
        let loops = match self.loops {
            0 => processors.len(),
            loops => loops,
        };
        let pin_to = |index: usize| self.pinned.then(|| processors[index % processors.len()]);
        if let Some(threads) = self.blocking_threads {
            set_blocking_limits(BlockingLimits::default().threads(threads));
        }
        let group = LoopGroup::new(loops);
        let mut config = self.settings.config(&group)?;
        config.grace = Some(self.settings.grace);
        let main = Loop::new(config)?;
        let mut workers = Workers::default();
        let mut handles = vec![main.handle()];
        for index in 1..loops {
            let name = format!("{}-{}", self.name, index + 1);
            handles.push(workers.start(name, &self.settings, &group, pin_to(index))?);
        }
        // After the threads are started, which would inherit it.
        let pinned = pin_to(0).map(Pinned::to).transpose()?;
        let handle = RuntimeHandle {
            group,
            loops: handles,
        };
        let signals = self.listens.then(|| listen(handle.clone())).transpose()?;
        Ok(Runtime {
            workers,
            _signals: signals,
            handle,
            _pinned: pinned,
            main: Some(main),
        })
    }
}
