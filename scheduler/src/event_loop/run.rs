//! The loop as its owner uses it: creating it, running it, ticking it.

use super::config::Config;
use super::counters::Counters;
use super::handle::LoopHandle;
use super::registry;
use super::state::{Entered, Inner, with_loop};
use super::stop::StopReport;
use super::tick::Tick;
use crate::fiber::{Builder, JoinError, JoinHandle, OnDrop};
use crate::simulation;
use crate::time::Instant;
use std::fmt;
use std::io;
use std::panic::{Location, resume_unwind};

/// A loop that has not run yet, or that runs on the calling thread.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn};
///
/// let greeting = Loop::new(Config::default()).unwrap().run(|| {
///     let name = spawn(|| {
///         sleep(Duration::from_millis(1)).unwrap();
///         "world"
///     });
///     format!("hello, {}", name.join().unwrap())
/// });
/// assert_eq!(greeting, "hello, world");
/// ```
pub struct Loop {
    pub(super) inner: Box<Inner>,
}

impl Loop {
    /// Creates a loop for the calling thread.
    ///
    /// # Errors
    /// When the process has created more than a million loops, or the loop's group is full.
    pub fn new(mut config: Config) -> io::Result<Loop> {
        let id = registry::new_id()?;
        let group = config
            .group
            .take()
            .map(|group| group.join(id))
            .transpose()?;
        crate::processors::record();
        let inner = Box::new(Inner::new(id, config, group));
        registry::publish(&inner.inbox.shared);
        Ok(Loop { inner })
    }

    /// Returns a handle by which other threads reach this loop.
    pub fn handle(&self) -> LoopHandle {
        self.inner.handle()
    }

    /// Returns the loop's counters.
    pub fn counters(&self) -> Counters {
        self.inner.counters()
    }

    /// Runs `f` outside any fiber, with this loop as the calling thread's current one. Use it to spawn before the first
    /// tick.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, spawn};
    ///
    /// let l = Loop::new(Config::default()).unwrap();
    /// let early = l.enter(|| spawn(|| "I was here first"));
    /// assert_eq!(l.run(|| early.join().unwrap()), "I was here first");
    /// ```
    ///
    /// # Panics
    /// If this thread already runs another loop.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(&self.inner);
        f()
    }

    /// Runs `main` as a fiber, and the loop until `main` has ended. Then cancels the remaining fibers and waits for
    /// them.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, spawn};
    ///
    /// let squares = Loop::new(Config::default()).unwrap().run(|| {
    ///     let fibers: Vec<_> = (1..=3).map(|n| spawn(move || n * n)).collect();
    ///     fibers.into_iter().map(|fiber| fiber.join().unwrap()).collect::<Vec<u32>>()
    /// });
    /// assert_eq!(squares, [1, 4, 9]);
    /// ```
    ///
    /// # Panics
    /// With the panic of `main`, if it panicked; if the driver fails; if this thread already runs another loop; if
    /// `main` was abandoned, because it outlasted the [grace](crate::Config::grace) and ignored its cancellation.
    #[track_caller]
    pub fn run<T: 'static>(self, main: impl FnOnce() -> T + 'static) -> T {
        self.run_reported(main).0
    }

    /// Like [`Loop::run`], but also reports what the shutdown had to leave behind.
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop};
    ///
    /// let (answer, report) = Loop::new(Config::default()).unwrap().run_reported(|| 42);
    /// assert_eq!(answer, 42);
    /// assert_eq!((report.fibers_abandoned, report.operations_left), (0, 0));
    /// ```
    ///
    /// # Panics
    /// See [`Loop::run`].
    #[track_caller]
    pub fn run_reported<T: 'static>(self, main: impl FnOnce() -> T + 'static) -> (T, StopReport) {
        let location = Location::caller();
        let body = || {
            // Also when `main` panics: a loop must not go to sleep after its main fiber has ended.
            let _finished = OnDrop(|| with_loop(|l| l.main_finished.set(true)));
            main()
        };
        let main = self.enter(
            || match Builder::new().name("main").spawn_from(location, body) {
                Ok(main) => main,
                Err(error) => panic!("cannot spawn the main fiber: {error}"),
            },
        );
        let outcome = self.drive(&main);
        self.inner.main_finished.set(false);
        let report = self.enter(|| self.inner.stop());
        if let Err(error) = outcome {
            if let Some(reason) = simulation::stopped() {
                // Its end is reported once, not by every loop.
                resume_unwind(Box::new(reason));
            }
            panic!(
                "the loop's {} driver failed: {error}",
                self.inner.driver.name()
            );
        }
        assert!(
            main.is_done(),
            "the main fiber ignored the shutdown and was abandoned"
        );
        match main.join() {
            Ok(result) => (result, report),
            Err(JoinError::Panicked(payload)) => resume_unwind(payload),
            Err(error) => panic!("the main fiber returned no result: {error}"),
        }
    }

    fn drive<T>(&self, main: &JoinHandle<T>) -> io::Result<()> {
        let _entered = Entered::new(&self.inner);
        while !main.is_done() {
            if self.inner.grace_ends.get() <= Instant::system() {
                break;
            }
            self.inner.tick(Some(Instant::NEVER))?;
        }
        Ok(())
    }

    /// Runs one tick without blocking. For a thread that drives the loop from its own event loop, and for simulations.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    /// use std::time::Duration;
    /// use yue_scheduler::{Clock, Config, Loop, sleep, spawn};
    ///
    /// let time = Rc::new(Cell::new(0)); // virtual time: an hour of it passes at once
    /// let config = Config { clock: Clock::Manual(time.clone()), ..Config::default() };
    /// let l = Loop::new(config).unwrap();
    /// let sleeper = l.enter(|| spawn(|| sleep(Duration::from_secs(3600))));
    /// l.tick().unwrap();
    /// assert!(!sleeper.is_done());
    /// time.set(3_600_000_000_000);
    /// l.tick().unwrap();
    /// assert!(sleeper.is_done());
    /// ```
    ///
    /// # Errors
    /// When the driver fails. The loop is then unusable.
    ///
    /// # Panics
    /// If this thread already runs another loop, or calls this inside a tick of the same loop (from a fiber or a
    /// callback).
    pub fn tick(&self) -> io::Result<Tick> {
        let _entered = Entered::new(&self.inner);
        self.inner.tick(None)
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("id", &self.inner.id())
            .field("counters", &self.counters())
            .finish()
    }
}
