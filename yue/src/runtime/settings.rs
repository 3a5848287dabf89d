//! The settings of one loop, and its creation with a driver.

use std::io;
use std::time::Duration;
use yue_io::Choice;
use yue_scheduler::{Config, Loop, LoopGroup, Spin, StackConfig};

/// The settings of a loop; `None` means the scheduler's default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoopSettings {
    pub(super) driver: Choice,
    pub(super) spin: Spin,
    pub(super) stacks: StackConfig,
    pub(super) fibers_per_tick: Option<u32>,
    /// The time that the main fiber has to return after a shutdown was requested; without a limit by default.
    pub(super) grace: Option<Duration>,
    pub(super) stop_grace: Option<Duration>,
}

impl Default for LoopSettings {
    fn default() -> Self {
        LoopSettings {
            driver: Choice::Auto,
            spin: Spin::Off,
            stacks: StackConfig::default(),
            fibers_per_tick: None,
            grace: None,
            stop_grace: None,
        }
    }
}

impl LoopSettings {
    /// The default settings, with that driver.
    pub(crate) fn of_driver(driver: Choice) -> LoopSettings {
        LoopSettings {
            driver,
            ..LoopSettings::default()
        }
    }

    /// Creates a loop of the group on the calling thread.
    ///
    /// # Errors
    /// If its driver cannot be set up, or the loop (the process has created more than a million, or the group is full).
    pub(crate) fn new_loop(&self, group: Option<&LoopGroup>) -> io::Result<Loop> {
        let mut config = Config {
            driver: yue_io::driver(self.driver)?,
            spin: self.spin,
            stacks: self.stacks,
            group: group.cloned(),
            grace: self.grace,
            ..Config::default()
        };
        config.fibers_per_tick = self.fibers_per_tick.unwrap_or(config.fibers_per_tick);
        config.stop_grace = self.stop_grace.unwrap_or(config.stop_grace);
        Loop::new(config)
    }
}
