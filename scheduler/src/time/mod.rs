//! Time: the loop's clock, sleeping, and bare timers.
//!
//! A loop reads its clock once a tick and everything in that tick sees the same [`now`]. The clock is injected, so
//! that a simulation can own it; nothing else in the workspace asks the system what time it is.

mod instant;
mod timer;
pub(crate) mod wheel;

pub use instant::{Clock, Instant};
pub(crate) use timer::Due as DueTimer;
pub use timer::Timer;

use crate::event_loop::with_loop;
use crate::fiber::{Stopped, park_until, prepare_park};
use std::time::Duration;

/// The time of this tick.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, now, sleep};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let start = now();
///     sleep(Duration::from_millis(1)).unwrap();
///     assert!(now() > start);
/// });
/// ```
///
/// # Panics
/// Outside a loop.
pub fn now() -> Instant {
    with_loop(|l| l.now())
}

/// Suspends the calling fiber for `duration`, counted from the time of this tick.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     sleep(Duration::from_millis(1)).unwrap();
///     let sleeper = spawn(|| sleep(Duration::from_secs(3600)));
///     sleeper.cancel();
///     assert!(sleeper.join().unwrap().is_err());
/// });
/// ```
///
/// # Errors
/// [`Stopped`] when the fiber is cancelled, or a deadline passes, before the time is over.
///
/// # Panics
/// Outside a fiber, or where suspension is forbidden.
pub fn sleep(duration: Duration) -> Result<(), Stopped> {
    // The tick's time may be up to one tick's budget old; a sleep is never shorter than asked.
    sleep_until(with_loop(|l| l.refresh_clock()).saturating_add(duration))
}

/// Suspends the calling fiber until `at`.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, now, sleep_until};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let mut frame = now();
///     for _ in 0..3 {
///         frame = frame.saturating_add(Duration::from_millis(1)); // does not drift, whatever a frame takes
///         sleep_until(frame).unwrap();
///         assert!(now() >= frame);
///     }
/// });
/// ```
///
/// # Errors
/// As [`sleep`].
///
/// # Panics
/// As [`sleep`].
pub fn sleep_until(at: Instant) -> Result<(), Stopped> {
    let _ = prepare_park();
    park_until("sleep", Some(at)).map(|_| ())
}
