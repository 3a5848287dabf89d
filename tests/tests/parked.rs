//! Very many fibers parked at once, each with a guarded stack: what one costs, and that all can be listed, reported and
//! cancelled.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue_scheduler::inspect::FiberState;
use yue_scheduler::*;
use yue_tests::{memory_taken, scaled_to_memory};

/// The goal is 4.8 KiB: one page of stack, the header, an eighth of a page of page table. The handle that the test
/// keeps of each fiber, and the steps in which the kernel counts pages, come on top.
const NATIVE_BYTES_MAX: usize = 5_120;

/// What an entry of the list takes, and the pages of the test's own set of numbers beside it. A stack that listing made
/// resident would add 4 KiB.
const LISTED_BYTES_MAX: usize = 512;

/// What the fibers wait for.
const REASON: &str = "being counted";

#[test]
fn a_million_guarded_native_fibers_park_at_once() {
    let count = scaled_to_memory("YUE_PARKED_FIBERS", 1_000_000, 5_000);
    let report = Loop::new(Config::default())
        .unwrap()
        .run_reported(move || park_native(count))
        .1;
    assert_eq!(report, StopReport::default());
}

fn park_native(count: usize) {
    let before = memory_taken();
    let begin = Instant::now();
    let parked = Rc::new(Cell::new(0usize));
    let fibers: Vec<_> = (0..count)
        .map(|_| {
            let parked = parked.clone();
            spawn(move || {
                parked.set(parked.get() + 1);
                let _ = prepare_park();
                park(REASON)
            })
        })
        .collect();
    while parked.get() < count {
        yield_now().unwrap();
    }
    let each = (memory_taken() - before) / count;
    println!(
        "{count} native fibers parked after {:?}, {each} bytes each",
        begin.elapsed()
    );
    assert!(
        count < 10_000 || each <= NATIVE_BYTES_MAX,
        "{each} bytes for a parked fiber"
    );

    list(&fibers);
    report(count);

    let begin = Instant::now();
    fibers.iter().for_each(JoinHandle::cancel);
    for fiber in fibers {
        assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
    }
    println!("cancelled and joined after {:?}", begin.elapsed());
    assert_eq!(this_loop::counters().fibers, 1);
}

/// The list has exactly these fibers and the calling one, and says of each what it waits for.
fn list(fibers: &[JoinHandle<Result<(), Stopped>>]) {
    let count = fibers.len();
    let before = memory_taken();
    let begin = Instant::now();
    let listed = this_loop::fibers();
    let took = begin.elapsed();
    let each = memory_taken().saturating_sub(before) / count;
    println!("listed after {took:?}, {each} bytes each while the list is kept");
    assert!(
        count < 10_000 || each <= LISTED_BYTES_MAX,
        "{each} bytes for a listed fiber"
    );

    let mut missing: HashSet<FiberId> = fibers.iter().map(JoinHandle::id).collect();
    assert_eq!(missing.len(), count, "each has a number of its own");
    for fiber in &listed {
        if fiber.id == current_id() {
            assert_eq!(fiber.state, FiberState::Running);
            continue;
        }
        assert!(missing.remove(&fiber.id), "not one of ours: {fiber}");
        assert_eq!(fiber.state, FiberState::Parked, "{fiber}");
        assert_eq!(fiber.reason, REASON, "{fiber}");
        assert!(fiber.location.file().ends_with("parked.rs"), "{fiber}");
    }
    assert!(missing.is_empty(), "{} are not listed", missing.len());
    assert_eq!(listed.len(), count + 1, "and the one that asks");
}

/// The report groups them: however many they are, it is a page, and stacks are looked at of a few only.
fn report(count: usize) {
    let begin = Instant::now();
    let reporter = std::thread::spawn(inspect::report);
    while !reporter.is_finished() {
        sleep(Duration::from_millis(1)).unwrap();
    }
    let text = reporter.join().unwrap();
    println!("reported after {:?}:\n{text}", begin.elapsed());
    let group = format!("{count} fibers parked in '{REASON}'");
    assert!(text.contains(&group), "{group} is not in {text}");
    assert!(text.lines().count() < 100, "{text}");
}
