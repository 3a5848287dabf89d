//! Very many fibers parked at once, each with a guarded stack, and what one costs.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;
use yue_scheduler::*;
use yue_tests::{memory_taken, scaled_to_memory};

/// The goal is 4.8 KiB: one page of stack, the header, an eighth of a page of page table. The handle that the test
/// keeps of each fiber, and the steps in which the kernel counts pages, come on top.
const NATIVE_BYTES_MAX: usize = 5_120;

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
                park("being counted")
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

    let begin = Instant::now();
    fibers.iter().for_each(JoinHandle::cancel);
    for fiber in fibers {
        assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
    }
    println!("cancelled and joined after {:?}", begin.elapsed());
    assert_eq!(this_loop::counters().fibers, 1);
}
