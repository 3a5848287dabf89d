//! Spawning, joining, yielding, parking.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

#[test]
fn yielding_fibers_take_turns() {
    let order = run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let fibers: Vec<_> = (0..3)
            .map(|n| {
                let order = order.clone();
                spawn(move || {
                    for round in 0..3 {
                        order.borrow_mut().push((round, n));
                        yield_now().unwrap();
                    }
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        order.take()
    });
    let expected: Vec<_> = (0..3)
        .flat_map(|round| (0..3).map(move |n| (round, n)))
        .collect();
    assert_eq!(order, expected);
}

#[test]
fn a_panic_is_reported_only_to_the_joiner() {
    run(|| {
        let bad = spawn(|| panic!("on purpose"));
        let good = spawn(|| 7);
        assert!(matches!(bad.join(), Err(JoinError::Panicked(payload))
                if payload.downcast_ref::<&str>().is_some_and(|text| *text == "on purpose")));
        assert_eq!(good.join().unwrap(), 7);
        assert_eq!(this_loop::counters().panics, 1);
    });
}

#[test]
fn the_panic_of_a_detached_fiber_reaches_the_hook() {
    let seen = Rc::new(RefCell::new(String::new()));
    let hook = seen.clone();
    let config = Config {
        on_panic: Some(Box::new(move |_, text| hook.borrow_mut().push_str(text))),
        ..Config::default()
    };
    Loop::new(config).unwrap().run(|| {
        drop(spawn(|| panic!("nobody joins me")));
        yield_now().unwrap();
    });
    assert_eq!(*seen.borrow(), "nobody joins me");
}

#[test]
fn a_wake_before_the_park_is_not_lost() {
    run(|| {
        let waker = prepare_park();
        assert!(waker.wake());
        assert!(!waker.wake(), "a waker is good for one wake");
        park("a waker used already").unwrap();
    });
}

#[test]
fn a_stale_waker_does_not_end_a_later_wait() {
    run(|| {
        let stale = prepare_park();
        stale.wake();
        park("the first wait").unwrap();
        let fresh = prepare_park();
        assert!(!stale.wake());
        let woken = Rc::new(Cell::new(false));
        let flag = woken.clone();
        drop(spawn(move || {
            stale.wake();
            yield_now().unwrap();
            flag.set(true);
            fresh.wake();
        }));
        park("the second wait").unwrap();
        assert!(woken.get());
    });
}

#[test]
fn a_waker_of_an_ended_fiber_does_nothing_to_its_successor() {
    run(|| {
        let old = spawn(prepare_park).join().unwrap();
        let fiber = spawn(|| {
            let _ = prepare_park();
            park_until(
                "long",
                Some(now().saturating_add(Duration::from_millis(20))),
            )
            .unwrap()
        });
        yield_now().unwrap();
        assert!(!old.wake());
        assert_eq!(fiber.join().unwrap(), Wakeup::TimedOut);
    });
}

#[test]
fn a_fiber_is_woken_from_another_thread() {
    run(|| {
        for _ in 0..100 {
            let waker = prepare_park().remote();
            let thread = thread::spawn(move || waker.wake());
            park("a thread").unwrap();
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_waker_of_an_ended_loop_is_ignored() {
    let waker = run(|| prepare_park().remote());
    waker.wake();
}

#[test]
fn context_is_inherited() {
    run(|| {
        set_context(Some(Rc::new(5i32)));
        let inherited = spawn(|| context().and_then(|value| value.downcast_ref::<i32>().copied()));
        set_context(None);
        assert_eq!(inherited.join().unwrap(), Some(5));
        assert!(spawn(|| context().is_none()).join().unwrap());
    });
}

#[test]
fn a_closure_larger_than_a_page_is_run() {
    run(|| {
        let big = [7u8; 20_000];
        assert_eq!(
            spawn(move || big.iter().map(|&byte| u64::from(byte)).sum::<u64>())
                .join()
                .unwrap(),
            140_000
        );
    });
}

#[test]
fn suspending_inside_no_suspend_panics_with_a_reason() {
    run(|| {
        let fiber = spawn(|| no_suspend(|| yield_now().unwrap()));
        let Err(JoinError::Panicked(payload)) = fiber.join() else {
            panic!("it suspended")
        };
        assert_eq!(
            payload.downcast_ref::<String>().unwrap(),
            "a fiber cannot suspend inside no_suspend"
        );
        spawn(|| yield_now().unwrap()).join().unwrap();
    });
}

#[test]
fn a_hook_sees_every_switch_and_may_refuse() {
    struct Hook(Cell<u32>, Cell<bool>);
    impl SwitchHook for Hook {
        fn leave(&self) -> Result<(), &'static str> {
            if self.1.get() { Err("not now") } else { Ok(()) }
        }
        fn enter(&self) {
            self.0.set(self.0.get() + 1);
        }
    }
    run(|| {
        let hook = Hook(Cell::new(0), Cell::new(false));
        with_switch_hook(&hook, |_| {
            yield_now().unwrap();
            sleep(Duration::from_micros(10)).unwrap();
        });
        yield_now().unwrap();
        assert_eq!(hook.0.get(), 2);
        let refused = spawn(|| {
            let hook = Hook(Cell::new(0), Cell::new(true));
            with_switch_hook(&hook, |_| yield_now().unwrap());
        });
        let Err(JoinError::Panicked(payload)) = refused.join() else {
            panic!("it switched")
        };
        assert_eq!(payload.downcast_ref::<String>().unwrap(), "not now");
    });
}

#[test]
fn many_fibers_come_and_go_and_leave_nothing() {
    run(|| {
        for _ in 0..50 {
            let fibers: Vec<_> = (0..1000u64)
                .map(|n| spawn(move || yield_now().map(|()| n).unwrap()))
                .collect();
            let sum: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
            assert_eq!(sum, 499_500);
        }
        let counters = this_loop::counters();
        assert_eq!(
            (counters.fibers, counters.timers, counters.spawned),
            (1, 0, 50_001)
        );
    });
}

#[test]
fn a_waker_of_an_ended_loop_ends_no_wait_of_the_next_loop() {
    let stale = run(prepare_park);
    run(move || {
        let _ = prepare_park();
        assert!(!stale.wake());
        let soon = now().saturating_add(Duration::from_millis(1));
        assert_eq!(park_until("nobody", Some(soon)), Ok(Wakeup::TimedOut));
    });
}

#[test]
fn a_local_wake_between_two_ticks_and_from_another_loop_is_not_lost() {
    let one = Loop::new(Config::default()).unwrap();
    let other = Loop::new(Config::default()).unwrap();
    let slot = Rc::new(Cell::new(None));
    let waker = slot.clone();
    let fiber = one.enter(|| {
        spawn(move || {
            for _ in 0..2 {
                waker.set(Some(prepare_park()));
                park_uninterruptible("a wake from outside");
            }
        })
    });
    while one.tick().unwrap() == Tick::Runnable {}
    let first = slot.take().unwrap();
    assert!(!first.wake(), "the result is not known yet");
    while one.tick().unwrap() == Tick::Runnable {}
    let second = slot.take().unwrap();
    other.enter(|| second.wake());
    first.wake();
    while one.tick().unwrap() == Tick::Runnable {}
    fiber.join().unwrap();
}

#[test]
fn a_hook_may_wake_its_own_fiber_and_cannot_suspend() {
    struct Hook(Cell<Option<LocalWaker>>, bool);
    impl SwitchHook for Hook {
        fn leave(&self) -> Result<(), &'static str> {
            if self.1 {
                let _ = yield_now();
            }
            self.0.take().map(LocalWaker::wake);
            Ok(())
        }
        fn enter(&self) {}
    }
    run(|| {
        let hook = Hook(Cell::new(Some(prepare_park())), false);
        with_switch_hook(&hook, |_| park_uninterruptible("the hook's wake"));
        let fiber = spawn(|| with_switch_hook(&Hook(Cell::new(None), true), |_| yield_now()));
        assert!(matches!(fiber.join(), Err(JoinError::Panicked(_))));
    });
}

#[test]
fn a_closure_with_a_strict_alignment_is_run() {
    #[repr(align(256))]
    struct Aligned(u8);
    run(|| {
        let aligned = Aligned(7);
        let fiber = spawn(move || {
            let address = &raw const aligned as usize;
            (address % 256, aligned.0)
        });
        assert_eq!(fiber.join().unwrap(), (0, 7));
    });
}

#[test]
fn a_hook_that_begins_a_wait_is_refused_and_leaves_no_timer_behind() {
    #[derive(PartialEq)]
    enum In {
        Leave,
        Enter,
    }
    struct Hook(In);
    impl SwitchHook for Hook {
        fn leave(&self) -> Result<(), &'static str> {
            if self.0 == In::Leave {
                prepare_park();
            }
            Ok(())
        }
        fn enter(&self) {
            if self.0 == In::Enter {
                prepare_park();
            }
        }
    }
    run(|| {
        for hook in [Hook(In::Leave), Hook(In::Enter)] {
            let timers = this_loop::counters().timers;
            let soon = now().saturating_add(Duration::from_millis(1));
            let far = now().saturating_add(Duration::from_secs(10));
            let fiber = spawn(move || {
                let waker = prepare_park();
                let _ = spawn(move || sleep_until(soon).map(|()| waker.wake()));
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    with_switch_hook(hook, |_| park_until("a wake", Some(far)))
                }));
                let armed = this_loop::counters().timers;
                // The fiber can wait for something else afterwards.
                sleep_until(soon.saturating_add(Duration::from_millis(1))).unwrap();
                (caught.unwrap_err(), armed)
            });
            let (panic, armed) = fiber.join().unwrap();
            let text = *panic.downcast_ref::<&str>().unwrap();
            assert!(text.contains("a switch hook cannot begin a wait"), "{text}");
            assert_eq!(armed, timers);
        }
    });
}
