//! The time that a loop read last, for the loop's own bookkeeping.

use super::Instant;
use std::time::Duration;

/// The clock as the loop read it in this tick: old by all that fibers have computed since.
///
/// It is a type of its own, with no way back to an [`Instant`], so that nobody turns a duration into a deadline with
/// it or asks it whether a deadline has passed. After a fiber computed for a second, or the loop slept for one, such a
/// deadline would be over before it began. [`now`](super::now), [`deadline_after`](super::deadline_after) and
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

    /// How far `at` is behind; zero if it has not come.
    pub(crate) fn past(self, at: Instant) -> Duration {
        self.0.saturating_since(at)
    }

    /// Whether a timer that is armed for `at` is due.
    pub(crate) fn has_reached(self, at: Instant) -> bool {
        at <= self.0
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0.as_nanos()
    }
}
