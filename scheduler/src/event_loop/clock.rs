//! The time by the clock of the calling thread's loop.

use super::state::try_with_loop;
use crate::time::{Clock, Instant};
use std::time::Duration;

/// Reads the clock of the loop on this thread; outside a loop, the system's clock.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, now, sleep};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let start = now();
///     std::thread::sleep(Duration::from_millis(1)); // time passes while a fiber computes
///     assert!(now() > start);
/// });
/// ```
pub fn now() -> Instant {
    with_clock(Clock::read)
}

/// Returns the instant at which a wait of `duration` that begins now ends.
///
/// Like `now().saturating_add(duration)`, but cheaper for a second or more, where the result may be up to 10 ms later.
/// It is never earlier.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, deadline_after, now, with_deadline, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let before = now();
///     let at = deadline_after(Duration::from_secs(5));
///     assert!(at >= before.saturating_add(Duration::from_secs(5)));
///     with_deadline(at, yield_now).unwrap();
/// });
/// ```
pub fn deadline_after(duration: Duration) -> Instant {
    with_clock(|clock| clock.deadline_after(duration))
}

/// Returns the time until `at`; zero if it has passed.
///
/// Like `at.saturating_since(now())`, but cheaper for a second or more, where the result may be up to 10 ms less than
/// what is really left. It is never more, and after [`deadline_after`] it returns the same duration.
pub fn time_left(at: Instant) -> Duration {
    with_clock(|clock| clock.time_left(at))
}

/// Returns whether `at` has passed, by the same clock as [`now`].
///
/// Cheaper than comparing with [`now`] when `at` is more than 10 ms ahead.
pub fn is_past(at: Instant) -> bool {
    at != Instant::NEVER && with_clock(|clock| clock.is_past(at))
}

#[inline]
fn with_clock<R>(read: impl Fn(&Clock) -> R) -> R {
    try_with_loop(|l| read(l.clock())).unwrap_or_else(|| read(&Clock::System))
}
