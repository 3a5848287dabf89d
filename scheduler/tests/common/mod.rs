//! What the tests of the scheduler share.

use yue_scheduler::{Config, Loop, StopReport};

/// Runs `main` on a loop of its own; nothing may be left when it is over.
pub fn run<T: 'static>(main: impl FnOnce() -> T + 'static) -> T {
    let (result, report) = Loop::new(Config::default()).unwrap().run_reported(main);
    assert_eq!(report, StopReport::default());
    result
}
