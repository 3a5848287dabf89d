//! Runs a test's body on both drivers, or on the one that `YUE_IO` names, and checks that no operation or fiber
//! remains.

#![allow(dead_code)] // Each test binary uses only a part of this module.

use std::time::Duration;
use yue_io::Choice;
use yue_scheduler::{Config, Loop, LoopHandle, StopReport, sleep, this_loop, timeout};

/// The time limit of waits that must succeed.
pub const LONG: Duration = Duration::from_secs(30);

/// Returns the drivers to test: both, unless the environment chooses.
pub fn choices() -> Vec<Choice> {
    match Choice::from_environment().unwrap() {
        Choice::Auto => match yue_io::driver(Choice::Uring) {
            Ok(_) => vec![Choice::Uring, Choice::Mio],
            Err(error) => {
                eprintln!("testing only mio: {error}");
                vec![Choice::Mio]
            }
        },
        forced => vec![forced],
    }
}

/// Creates a loop with that driver.
pub fn new_loop(choice: Choice) -> Loop {
    Loop::new(Config {
        driver: yue_io::driver(choice).unwrap(),
        ..Config::default()
    })
    .unwrap()
}

/// Runs `body` as the main fiber of a loop with each driver.
pub fn on_each_driver(body: fn()) {
    for choice in choices() {
        eprintln!("on {choice:?}");
        run_on(choice, body);
    }
}

/// Runs `body` on a loop with that driver. All fibers and operations must end by themselves or by a cancel.
pub fn run_on<T: 'static>(choice: Choice, body: impl FnOnce() -> T + 'static) -> T {
    let (result, report) = new_loop(choice).run_reported(body);
    assert_eq!(report, StopReport::default());
    result
}

/// Starts a second loop on a new thread. It runs until its handle is shut down.
pub fn worker(choice: Choice) -> (LoopHandle, std::thread::JoinHandle<StopReport>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let one = new_loop(choice);
        sender.send(one.handle()).unwrap();
        one.run_reported(|| this_loop::wait_for_shutdown().unwrap())
            .1
    });
    (receiver.recv().unwrap(), thread)
}

/// Returns the choice that selects the calling loop's driver.
pub fn this_choice() -> Choice {
    this_loop::with_driver(|driver| driver.name().parse().unwrap())
}

/// Returns the number of operations in flight on the calling loop.
pub fn operations() -> usize {
    this_loop::counters().operations
}

/// Waits in a fiber until `condition` holds.
pub fn wait_until(condition: impl Fn() -> bool) {
    let outcome = timeout(LONG, || {
        while !condition() {
            sleep(Duration::from_micros(200)).unwrap();
        }
    });
    assert!(outcome.is_ok(), "the condition did not become true");
}
