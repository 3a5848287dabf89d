//! Helpers shared by the scheduler's tests.

use yue_scheduler::{Config, Loop, StopReport};

/// Runs `main` on a new loop. Nothing may be left when it has ended.
pub fn run<T: 'static>(main: impl FnOnce() -> T + 'static) -> T {
    let (result, report) = Loop::new(Config::default()).unwrap().run_reported(main);
    assert_eq!(report, StopReport::default());
    result
}
