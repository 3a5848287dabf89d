//! Loops on several threads, timers, manual ticks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

fn worker() -> (LoopHandle, thread::JoinHandle<StopReport>) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let one = Loop::new(Config::default()).unwrap();
        sender.send(one.handle()).unwrap();
        one.run_reported(|| this_loop::wait_for_shutdown().unwrap())
            .1
    });
    (receiver.recv().unwrap(), thread)
}

#[test]
fn a_fiber_is_spawned_on_another_loop_and_joined_from_a_fiber_and_from_a_thread() {
    let (handle, thread) = worker();
    assert_eq!(handle.spawn(|| 1).join().unwrap(), 1);
    let remote = handle.clone();
    let sum = Loop::new(Config::default()).unwrap().run(move || {
        let joins: Vec<_> = (0..1000u64)
            .map(|n| remote.spawn(move || yield_now().map(|()| n).unwrap()))
            .collect();
        joins
            .into_iter()
            .map(|join| join.join().unwrap())
            .sum::<u64>()
    });
    assert_eq!(sum, 499_500);
    assert!(matches!(
        handle.spawn(|| panic!("there")).join(),
        Err(JoinError::Panicked(_))
    ));
    handle.shutdown();
    assert_eq!(thread.join().unwrap(), StopReport::default());
    assert!(matches!(
        handle.spawn(|| 1).join(),
        Err(JoinError::LoopGone)
    ));
}

#[test]
fn two_loops_wake_each_other_without_losing_a_wake() {
    let (handle, thread) = worker();
    let remote = handle.clone();
    Loop::new(Config::default()).unwrap().run(move || {
        for _ in 0..5_000 {
            let waker = prepare_park().remote();
            remote.run(move || waker.wake());
            park("the other loop").unwrap();
        }
    });
    handle.shutdown();
    thread.join().unwrap();
}

#[test]
fn loops_come_and_go() {
    for round in 0..2_000u32 {
        let result = Loop::new(Config::default()).unwrap().run(move || {
            let timer = Timer::new(|| {});
            timer.arm(now().saturating_add(Duration::from_secs(1)));
            spawn(move || round).join().unwrap()
        });
        assert_eq!(result, round);
    }
}

#[test]
fn a_thread_runs_one_loop_at_a_time() {
    Loop::new(Config::default()).unwrap().run(|| {
        let other = Loop::new(Config::default()).unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.tick())).is_err());
    });
}

#[test]
fn virtual_time_is_advanced_manually() {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    for seconds in [3u64, 1, 2] {
        let log = log.clone();
        one.enter(|| {
            drop(spawn(move || {
                sleep(Duration::from_secs(seconds)).unwrap();
                log.borrow_mut().push((seconds, now().as_nanos()));
            }))
        });
    }
    loop {
        match one.tick().unwrap() {
            Tick::Runnable => {}
            Tick::IdleUntil(at) => time.set(at.expect("a timer is armed").as_nanos()),
            Tick::Done => break,
        }
    }
    // The wheel's tick is 1.024 us: a deadline is rounded up to it.
    let exact: Vec<_> = log
        .borrow()
        .iter()
        .map(|&(s, ns)| (s, ns >= s * 1_000_000_000, ns / 1_000_000_000))
        .collect();
    assert_eq!(exact, [(1, true, 1), (2, true, 2), (3, true, 3)]);
}

#[test]
fn late_timers_fire_in_the_order_of_their_deadlines_then_of_arming() {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    // Deadlines of all magnitudes, each twice, in no particular order.
    let deadlines_us: Vec<u64> = (0..200)
        .map(|n| (n * 7919 % 100 * 37 + 2) << (n % 10))
        .collect();
    let timers: Vec<_> = one.enter(|| {
        let mut timers = Vec::new();
        for (number, at_us) in deadlines_us.iter().enumerate() {
            let slot = order.clone();
            let timer = Timer::new(move || slot.borrow_mut().push(number));
            timer.arm(Instant::from_nanos(at_us * 1024));
            timers.push(timer);
        }
        timers
    });
    time.set(60_000_000_000);
    one.tick().unwrap();
    let mut expected: Vec<usize> = (0..deadlines_us.len()).collect();
    expected.sort_by_key(|number| deadlines_us[*number]);
    assert_eq!(*order.borrow(), expected);
    drop(timers);
}

#[test]
fn a_timer_may_arm_itself_again_and_be_dropped_while_armed() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fired = Rc::new(Cell::new(0));
        let slot: Rc<RefCell<Option<Timer>>> = Rc::default();
        let (counter, again) = (fired.clone(), slot.clone());
        *slot.borrow_mut() = Some(Timer::new(move || {
            counter.set(counter.get() + 1);
            again.borrow().as_ref().unwrap().arm(now());
        }));
        slot.borrow().as_ref().unwrap().arm(now());
        while fired.get() < 10 {
            sleep(Duration::from_micros(100)).unwrap();
        }
        *slot.borrow_mut() = None;
        let count = fired.get();
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(fired.get(), count);
        assert_eq!(this_loop::counters().timers, 0);
    });
}

#[test]
fn a_callback_that_panics_leaves_the_loop_running() {
    Loop::new(Config::default()).unwrap().run(|| {
        let timer = Timer::new(|| panic!("on purpose"));
        timer.arm(now());
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(this_loop::counters().panics, 1);
    });
}

#[test]
fn the_idle_hook_is_called_before_the_loop_waits_until_it_returns_false() {
    Loop::new(Config::default()).unwrap().run(|| {
        let calls = Rc::new(Cell::new(0));
        let counter = calls.clone();
        this_loop::set_idle_hook(move || {
            counter.set(counter.get() + 1);
            counter.get() < 5
        });
        sleep(Duration::from_millis(1)).unwrap();
        assert!(calls.get() >= 5);
        this_loop::clear_idle_hook();
    });
}

#[test]
fn an_end_of_tick_callback_runs_once() {
    struct Count(Cell<u32>);
    impl TickEnd for Count {
        fn tick_end(&self) {
            self.0.set(self.0.get() + 1);
        }
    }
    Loop::new(Config::default()).unwrap().run(|| {
        let count = Rc::new(Count(Cell::new(0)));
        this_loop::at_tick_end(count.clone());
        assert_eq!(count.0.get(), 0);
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(count.0.get(), 1);
    });
}

#[test]
fn a_timer_outlives_its_loop_and_serves_the_next() {
    let fired = Rc::new(Cell::new(0));
    let counter = fired.clone();
    let timer = Rc::new(Timer::new(move || counter.set(counter.get() + 1)));
    let copy = timer.clone();
    Loop::new(Config::default())
        .unwrap()
        .run(move || copy.arm(now().saturating_add(Duration::from_secs(3600))));
    assert!(!timer.is_armed());
    timer.cancel();
    let copy = timer.clone();
    Loop::new(Config::default()).unwrap().run(move || {
        copy.arm(now());
        sleep(Duration::from_millis(1)).unwrap();
    });
    assert_eq!(fired.get(), 1);
}

#[test]
fn a_timer_cancelled_between_two_ticks_does_not_fire() {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    let fired = Rc::new(Cell::new(0));
    let timer = |at| {
        let counter = fired.clone();
        let timer = Timer::new(move || counter.set(counter.get() + 1));
        one.enter(|| timer.arm(Instant::from_nanos(at)));
        timer
    };
    let (cancelled, _kept, dropped) = (timer(5_000), timer(5_000), timer(5_000));
    cancelled.cancel();
    drop(dropped);
    time.set(1_000_000);
    one.tick().unwrap();
    assert_eq!((fired.get(), one.counters().timers), (1, 0));
}
