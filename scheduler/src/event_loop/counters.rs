//! A loop's own view of its counters.

use super::state::Inner;

/// Counters of a loop: its current state, and totals since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Fibers that have not ended.
    pub fibers: usize,
    /// Armed timers, including those of sleeping fibers.
    pub timers: usize,
    /// Operations whose terminal completion has not arrived yet.
    pub operations: usize,
    /// Fibers spawned since the loop began.
    pub spawned: u64,
    /// Fibers and callbacks that ended with a panic.
    pub panics: u64,
    /// Ticks since the loop began.
    pub ticks: u64,
}

impl Inner {
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            fibers: self.slab.live(),
            timers: self.wheel.armed(),
            operations: self.driver.in_flight(),
            spawned: self.spawned.get(),
            panics: self.panics.get(),
            ticks: self.ticks.get(),
        }
    }
}
