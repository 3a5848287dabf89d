//! A loop with a driver that does I/O, in one call.

use std::io;
use yue_io::Choice;
use yue_scheduler::{Config, Loop, LoopHandle, Spin};

/// A loop for the calling thread, ready to do I/O.
///
/// It has io_uring where the kernel allows it, else epoll (a line on standard error then says why); the variable
/// `YUE_IO` (`uring`, `mio`) forces one. For more threads make a runtime in each; fibers never move between them.
#[derive(Debug)]
pub struct Runtime {
    inner: Loop,
}

impl Runtime {
    /// A runtime with the driver that this machine allows.
    ///
    /// # Errors
    /// When no driver can be set up, or `YUE_IO` asks for one that is refused.
    pub fn new() -> io::Result<Runtime> {
        Runtime::with_driver(Choice::Auto)
    }

    /// A runtime with a given driver.
    ///
    /// # Errors
    /// When the driver cannot be set up.
    pub fn with_driver(choice: Choice) -> io::Result<Runtime> {
        Runtime::with_config(Config {
            driver: yue_io::driver(choice)?,
            ..Config::default()
        })
    }

    /// A runtime that never sleeps: the lowest latency, for a processor of its own.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn busy() -> io::Result<Runtime> {
        let driver = yue_io::driver(Choice::Auto)?;
        Runtime::with_config(Config {
            driver,
            spin: Spin::BusyPoll,
            ..Config::default()
        })
    }

    /// A runtime with all the settings that a loop has.
    ///
    /// # Errors
    /// When the process has made more than a million loops.
    pub fn with_config(config: Config) -> io::Result<Runtime> {
        Ok(Runtime {
            inner: Loop::new(config)?,
        })
    }

    /// A handle by which other threads reach the loop.
    pub fn handle(&self) -> LoopHandle {
        self.inner.handle()
    }

    /// Runs `main` as a fiber, and the loop until it is over; fibers that are left are cancelled and waited for.
    ///
    /// # Panics
    /// With the panic of `main`, if it panicked; if the driver fails; if this thread runs another loop.
    #[track_caller]
    pub fn run<T: 'static>(self, main: impl FnOnce() -> T + 'static) -> T {
        self.inner.run(main)
    }
}
