//! Sleeping: a wait that only its time limit ends.

use super::cancel::Stopped;
use super::park::{park_until, prepare_park};
use crate::event_loop::seam::now;
use crate::time::Instant;
use std::time::Duration;

/// Suspends the calling fiber for `duration`.
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
/// [`Stopped`] when the fiber is cancelled, or a deadline passes, before the sleep ends.
///
/// # Panics
/// When called outside a fiber, or where suspension is forbidden.
#[track_caller]
pub fn sleep(duration: Duration) -> Result<(), Stopped> {
    sleep_until(now().saturating_add(duration))
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
///         frame = frame.saturating_add(Duration::from_millis(1)); // does not drift, however long a frame takes
///         sleep_until(frame).unwrap();
///         assert!(now() >= frame);
///     }
/// });
/// ```
///
/// # Errors
/// See [`sleep`].
///
/// # Panics
/// See [`sleep`].
#[track_caller]
pub fn sleep_until(at: Instant) -> Result<(), Stopped> {
    let _ = prepare_park();
    park_until("sleep", Some(at)).map(|_| ())
}
