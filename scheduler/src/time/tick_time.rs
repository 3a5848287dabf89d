//! The loop's last clock reading, for its own bookkeeping.

use super::Instant;
use std::time::Duration;

/// The clock as the loop read it in this tick. It lags by the time that fibers have computed since.
///
/// It is a separate type that cannot be converted to an [`Instant`], so that no code computes a deadline from it or
/// compares a deadline with it. After a fiber computed for a second, or the loop slept for one, such a deadline would
/// have passed before it began. [`now`](super::now), [`deadline_after`](super::deadline_after) and
/// [`is_past`](super::is_past) read the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TickTime(Instant);

impl TickTime {
    pub(crate) const ORIGIN: TickTime = TickTime(Instant::from_nanos(0));

    pub(crate) const fn new(read: Instant) -> Self {
        TickTime(read)
    }

    /// The time from `earlier` to this one; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: TickTime) -> Duration {
        self.0.saturating_since(earlier.0)
    }

    /// Returns how long ago `at` was; zero if it has not passed.
    pub(crate) fn past(self, at: Instant) -> Duration {
        self.0.saturating_since(at)
    }

    /// Returns whether a timer armed for `at` is due.
    pub(crate) fn has_reached(self, at: Instant) -> bool {
        at <= self.0
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0.as_nanos()
    }
}
