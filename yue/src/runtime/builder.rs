//! Settings of a runtime.

use super::affinity::{Pinned, processors};
use super::settings::LoopSettings;
use super::workers::Workers;
use super::{Runtime, RuntimeHandle, listen};
use std::io;
use std::time::Duration;
use yue_io::Choice;
use yue_scheduler::{BlockingLimits, LoopGroup, Spin, StackConfig, set_blocking_limits};

/// The time that the main fiber has to return after a shutdown was requested: as long as a client waits for an answer.
const GRACE: Duration = Duration::from_secs(5);

/// The largest number of loops. Each has a thread, and the largest machines have fewer processors.
const LOOPS_MAX: usize = 4096;

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
    grace: Duration,
    settings: LoopSettings,
}

impl Default for RuntimeBuilder {
    fn default() -> Self {
        RuntimeBuilder {
            loops: 1,
            pinned: false,
            name: "yue".to_owned(),
            listens: false,
            blocking_threads: None,
            grace: GRACE,
            settings: LoopSettings::default(),
        }
    }
}

impl RuntimeBuilder {
    /// Sets the number of loops, the calling thread's included. The default is one; 0 means one for each processor that
    /// the process may use. At most 4096.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = loops;
        self
    }

    /// Sets whether each loop stays on its own processor (in turn, if there are more loops than processors). For loops
    /// that spin, and for caches. By default the system moves threads freely.
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// Sets the name of the loops' threads; a number is appended. The calling thread keeps its name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the driver of the loops.
    pub fn driver(mut self, driver: Choice) -> Self {
        self.settings.driver = driver;
        self
    }

    /// Sets the behaviour of idle loops: sleep at once (the default), poll for a while first, or never sleep.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.settings.spin = spin;
        self
    }

    /// Sets the sizes of the fibers' stacks.
    pub fn stacks(mut self, stacks: StackConfig) -> Self {
        self.settings.stacks = stacks;
        self
    }

    /// Sets the number of fibers that a loop runs before it polls its driver again.
    pub fn fibers_per_tick(mut self, fibers: u32) -> Self {
        self.settings.fibers_per_tick = Some(fibers);
        self
    }

    /// Sets the number of threads that [`blocking`](crate::blocking) may use. The pool belongs to the process: the last
    /// runtime that sets the number wins.
    pub fn blocking_threads(mut self, threads: usize) -> Self {
        self.blocking_threads = Some(threads);
        self
    }

    /// Sets the time that the main fiber has to return after a shutdown was requested, before everything is cancelled.
    /// The default is five seconds.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the time that cancelled fibers have to end, and then once more with shields off. The default is a second.
    pub fn stop_grace(mut self, stop_grace: Duration) -> Self {
        self.settings.stop_grace = Some(stop_grace);
        self
    }

    /// Sets whether SIGINT and SIGTERM shut the runtime down, as [`RuntimeHandle::shutdown`] does. A second signal, at
    /// least half a second later, ends the process at once, even while all loops are busy. Off by default, since
    /// signals belong to the program. The signals' previous actions are restored when the runtime has ended. A signal
    /// that is ignored when the runtime is built, such as SIGINT in a shell's background job, stays ignored.
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

    /// Creates the runtime: the loop of the calling thread, and the threads of the others.
    ///
    /// # Errors
    /// `InvalidInput` for more than 4096 loops, or a NUL in the name; otherwise if a driver cannot be set up, if
    /// `YUE_IO` requests one that is refused, or if the system refuses more threads or refuses to pin them.
    pub fn build(self) -> io::Result<Runtime> {
        self.check()?;
        let processors = match (self.loops, self.pinned) {
            (1.., false) => Vec::new(),
            _ => processors()?,
        };
        let loops = match self.loops {
            0 => processors.len(),
            loops => loops,
        };
        let pin_to = |index: usize| self.pinned.then(|| processors[index % processors.len()]);
        if let Some(threads) = self.blocking_threads {
            set_blocking_limits(BlockingLimits::default().threads(threads));
        }
        let group = LoopGroup::new(loops);
        let with_grace = LoopSettings {
            grace: Some(self.grace),
            ..self.settings
        };
        let main = with_grace.new_loop(Some(&group))?;
        let mut workers = Workers::default();
        let mut handles = vec![main.handle()];
        for index in 1..loops {
            let name = format!("{}-{}", self.name, index + 1);
            handles.push(workers.start(name, &self.settings, &group, pin_to(index))?);
        }
        // After the threads were started, which would inherit it.
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

    /// Refuses settings that no system could fulfil.
    fn check(&self) -> io::Result<()> {
        let text = if self.loops > LOOPS_MAX {
            format!(
                "a runtime has at most {LOOPS_MAX} loops, not {}",
                self.loops
            )
        } else if self.name.contains('\0') {
            format!("the name of a thread has no NUL, but {:?} has", self.name)
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}
