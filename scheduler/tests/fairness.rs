//! Fairness: no fiber blocks the others forever, whether it talks to a partner, yields, wakes, registers or sends a
//! lot.
//!
//! Each test has a fiber that never stops by itself and another one that must run all the same.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

fn run(main: impl FnOnce(Rc<Cell<bool>>) + 'static) {
    let over = Rc::new(Cell::new(false));
    let copy = over.clone();
    let one = Loop::new(Config::default()).unwrap();
    let ((), report) = one.run_reported(move || {
        main(copy.clone());
        copy.set(true);
    });
    assert_eq!(report, StopReport::default());
}

/// One of two fibers that wake each other. Each wake puts the other into the slot that runs first.
fn talk(over: &Cell<bool>, other: &Cell<Option<LocalWaker>>) {
    while !over.get() {
        let waker = prepare_park();
        if let Some(partner) = other.replace(Some(waker)) {
            partner.wake();
        }
        if park("the partner").is_err() {
            return;
        }
    }
}

#[test]
fn a_pair_that_wakes_each_other_lets_the_others_run() {
    run(|over| {
        let slot = Rc::new(Cell::new(None));
        for _ in 0..2 {
            let (over, slot) = (over.clone(), slot.clone());
            drop(spawn(move || talk(&over, &slot)));
        }
        for _ in 0..100 {
            yield_now().unwrap();
        }
    });
}

#[test]
fn fibers_that_only_yield_leave_time_for_timers_and_messages() {
    run(|over| {
        for _ in 0..10 {
            let over = over.clone();
            drop(spawn(move || {
                while !over.get() {
                    let _ = yield_now();
                }
            }));
        }
        sleep(Duration::from_millis(1)).unwrap();
        let waker = prepare_park().remote();
        let thread = thread::spawn(move || waker.wake());
        park("a thread").unwrap();
        thread.join().unwrap();
    });
}

#[test]
fn a_message_does_not_wait_for_the_end_of_a_tick_full_of_yields() {
    run(|_| {
        // A tick runs 1 024 fibers here, and this one accounts for most of them.
        let received = Arc::new(AtomicBool::new(false));
        let received_there = received.clone();
        this_loop::handle().run(move || received_there.store(true, Ordering::Relaxed));
        let mut yields = 0;
        while !received.load(Ordering::Relaxed) {
            yield_now().unwrap();
            yields += 1;
        }
        assert!(yields <= 128, "{yields} yields before the message");
    });
}

#[test]
fn callbacks_that_register_themselves_again_leave_time_for_fibers_and_timers() {
    struct Again(Rc<Cell<bool>>);
    impl TickEnd for Again {
        fn tick_end(&self) {
            if !self.0.get() {
                this_loop::at_tick_end(Rc::new(Again(self.0.clone())));
            }
        }
    }
    run(|over| {
        this_loop::at_tick_end(Rc::new(Again(over.clone())));
        let slot: Rc<Cell<Option<Timer>>> = Rc::default();
        let again = slot.clone();
        let timer = Timer::new(move || {
            let Some(timer) = again.take() else { return };
            timer.arm(now());
            again.set((!over.get()).then_some(timer));
        });
        timer.arm(now());
        slot.set(Some(timer));
        sleep(Duration::from_millis(1)).unwrap();
    });
}

#[test]
fn a_flood_of_messages_leaves_time_for_fibers_and_timers() {
    run(|_| {
        let over = Arc::new(AtomicBool::new(false));
        let (handle, stop) = (this_loop::handle(), over.clone());
        // More than one tick takes, and each message sends the next.
        fn again(handle: &LoopHandle, stop: &Arc<AtomicBool>) {
            let (next, stop) = (handle.clone(), stop.clone());
            handle.run(move || {
                if !stop.load(Ordering::Relaxed) {
                    again(&next, &stop);
                }
            });
        }
        (0..5_000).for_each(|_| again(&handle, &stop));
        for _ in 0..3 {
            sleep(Duration::from_millis(1)).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn fibers_spawned_while_the_loop_stops_are_waited_for_or_dropped() {
    fn generation(left: u32, ended: &Rc<Cell<u32>>) {
        assert_eq!(yield_now(), Err(Stopped::Cancelled));
        ended.set(ended.get() + 1);
        if left > 0 {
            let ended = ended.clone();
            drop(spawn(move || generation(left - 1, &ended)));
        }
    }
    let ended = Rc::new(Cell::new(0));
    let copy = ended.clone();
    run(move |_| {
        drop(spawn(move || {
            assert_eq!(sleep(Duration::MAX), Err(Stopped::Cancelled));
            generation(9, &copy);
        }));
        yield_now().unwrap();
    });
    assert_eq!(ended.get(), 10);

    fn for_ever(alive: Rc<()>) {
        assert_ne!(Rc::strong_count(&alive), 1, "the test has one");
        drop(spawn(move || for_ever(alive)));
    }
    let alive = Rc::new(());
    let copy = alive.clone();
    let config = Config {
        stop_grace: Duration::from_millis(5),
        ..Config::default()
    };
    let ((), report) = Loop::new(config)
        .unwrap()
        .run_reported(move || for_ever(copy));
    assert_eq!(report, StopReport::default());
    assert_eq!(Rc::strong_count(&alive), 1);
}
