//! Cancellation, deadlines, shields, shutdown.

mod common;

use common::run;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

#[test]
fn a_cancelled_sleep_ends_with_an_error_and_so_does_the_next() {
    run(|| {
        let fiber = spawn(|| (sleep(LONG), sleep(LONG), yield_now()));
        yield_now().unwrap();
        fiber.cancel();
        let stopped = Err(Stopped::Cancelled);
        assert_eq!(fiber.join().unwrap(), (stopped, stopped, stopped));
    });
}

#[test]
fn a_cancelled_fiber_that_ignores_it_starves_nobody() {
    run(|| {
        let stop = Rc::new(Cell::new(false));
        let flag = stop.clone();
        let stubborn = spawn(move || {
            while !flag.get() {
                let _ = sleep(LONG);
            }
        });
        yield_now().unwrap();
        stubborn.cancel();
        sleep(SHORT).unwrap();
        stop.set(true);
        stubborn.join().unwrap();
    });
}

#[test]
fn a_wake_that_came_first_wins_over_the_cancellation() {
    run(|| {
        let slot = Rc::new(Cell::new(None));
        let waker = slot.clone();
        let fiber = spawn(move || {
            waker.set(Some(prepare_park()));
            park("a result")
        });
        yield_now().unwrap();
        slot.get().unwrap().wake();
        fiber.cancel();
        assert_eq!(fiber.join().unwrap(), Ok(()));
    });
}

#[test]
fn the_earliest_of_nested_deadlines_wins() {
    run(|| {
        let outcome = timeout(LONG, || timeout(SHORT, || sleep(LONG)));
        assert_eq!(outcome, Ok(Err(Elapsed)));
        let outcome = timeout(SHORT, || timeout(LONG, || sleep(LONG)));
        assert_eq!(outcome, Err(Elapsed));
        assert_eq!(timeout(LONG, || sleep(SHORT)), Ok(Ok(())));
    });
}

#[test]
fn a_deadline_becomes_a_timed_out_io_error() {
    let error: std::io::Error = Stopped::Deadline.into();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error: std::io::Error = Stopped::Cancelled.into();
    assert_eq!(error.kind(), std::io::ErrorKind::Other);
    assert_eq!(
        error.get_ref().and_then(|e| e.downcast_ref::<Stopped>()),
        Some(&Stopped::Cancelled)
    );
}

#[test]
fn a_shield_lets_clean_up_wait() {
    run(|| {
        let fiber = spawn(|| {
            let first = sleep(LONG);
            (first, shield(|| sleep(SHORT)), sleep(LONG))
        });
        yield_now().unwrap();
        fiber.cancel();
        assert_eq!(
            fiber.join().unwrap(),
            (Err(Stopped::Cancelled), Ok(()), Err(Stopped::Cancelled))
        );
    });
}

#[test]
fn a_scope_is_cancelled_alone_and_can_be_reused() {
    run(|| {
        let scope = CancelScope::new();
        let inner = scope.clone();
        let fiber = spawn(move || {
            let first = inner.enter(|| sleep(LONG));
            let outside = sleep(SHORT);
            inner.reset();
            (first, outside, inner.enter(|| sleep(SHORT)))
        });
        yield_now().unwrap();
        scope.cancel();
        assert_eq!(
            fiber.join().unwrap(),
            (Err(Stopped::Cancelled), Ok(()), Ok(()))
        );
    });
}

#[test]
fn a_join_that_is_cancelled_leaves_the_fiber_running() {
    run(|| {
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        let child = spawn(move || sleep(SHORT).map(|()| flag.set(true)).unwrap());
        let joiner = spawn(|| child.join());
        yield_now().unwrap();
        joiner.cancel();
        assert!(matches!(
            joiner.join().unwrap(),
            Err(JoinError::Stopped(Stopped::Cancelled))
        ));
        while !done.get() {
            sleep(SHORT).unwrap();
        }
    });
}

#[test]
fn remaining_fibers_are_cancelled_when_main_returns() {
    let ended = Rc::new(Cell::new(0));
    let counter = ended.clone();
    run(move || {
        for _ in 0..10 {
            let counter = counter.clone();
            drop(spawn(move || {
                let _ = sleep(LONG);
                counter.set(counter.get() + 1);
            }));
        }
        yield_now().unwrap();
    });
    assert_eq!(ended.get(), 10);
}

#[test]
fn a_fiber_that_ignores_the_hard_stop_is_abandoned_and_counted() {
    let config = Config {
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    let ((), report) = Loop::new(config).unwrap().run_reported(|| {
        drop(Builder::new().name("stubborn").spawn(|| {
            loop {
                let _ = sleep(LONG);
            }
        }));
        yield_now().unwrap();
    });
    assert_eq!(
        report,
        StopReport {
            fibers_abandoned: 1,
            operations_left: 0
        }
    );
}

#[test]
fn a_fiber_that_never_ran_is_dropped_with_what_it_owns() {
    let owned = Rc::new(());
    let copy = owned.clone();
    let one = Loop::new(Config::default()).unwrap();
    one.enter(|| drop(spawn(move || drop(copy))));
    drop(one);
    assert_eq!(Rc::strong_count(&owned), 1);
}

#[test]
fn suspending_while_unwinding_is_refused_and_harms_no_other_fiber() {
    struct SleepsInDrop;
    impl Drop for SleepsInDrop {
        fn drop(&mut self) {
            assert_eq!(
                may_suspend(),
                Err(
                    "a fiber cannot suspend while it unwinds (a blocking call in a Drop during a panic)"
                )
            );
        }
    }
    run(|| {
        let bad = spawn(|| {
            let _guard = SleepsInDrop;
            panic!("on purpose");
        });
        assert!(matches!(bad.join(), Err(JoinError::Panicked(_))));
        assert!(may_suspend().is_ok());
    });
}

#[test]
fn where_suspension_is_forbidden_a_stopped_fiber_gets_an_error_not_a_panic() {
    run(|| {
        let fiber = spawn(|| {
            let stopped = sleep(LONG).unwrap_err();
            let mutex = sync::local::Mutex::new(0);
            let semaphore = sync::Semaphore::new(1);
            no_suspend(|| {
                let (sender, receiver) = sync::local::channel(1);
                assert_eq!(mutex.lock().map(drop), Err(stopped));
                assert_eq!(semaphore.acquire(1).map(drop), Err(stopped));
                assert!(sender.send(1).is_err());
                assert!(receiver.recv().is_err());
                assert_eq!(sync::select::poll(&[]), Err(stopped));
                assert_eq!(sleep(SHORT), Err(stopped));
                assert_eq!(yield_if_allowed(), Err(stopped));
            });
            // The returned error counts as a refusal all the same.
            let lock = || no_suspend(|| mutex.lock().map(drop));
            shield(|| timeout(Duration::ZERO, lock))
        });
        assert_eq!(fiber.cancel_and_join().unwrap(), Err(Elapsed));
    });
}

fn manual() -> (Rc<Cell<u64>>, Loop) {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    (time, Loop::new(config).unwrap())
}

/// Ticks until nothing can run at this instant.
fn settle(one: &Loop) {
    while one.tick().unwrap() == Tick::Runnable {}
}

#[test]
fn an_infinite_timeout_never_elapses() {
    assert_eq!(run(|| timeout(Duration::MAX, || 5)), Ok(5));
}

#[test]
fn of_two_equal_timeouts_only_the_outer_elapses() {
    let (time, one) = manual();
    let second = Duration::from_secs(1);
    let fiber = one.enter(|| {
        spawn(move || {
            let nested = timeout(second, || {
                let inner = timeout(second, || sleep(LONG));
                assert_eq!(inner, Ok(Err(Stopped::Deadline)));
            });
            (nested, timeout(Duration::ZERO, || 5))
        })
    });
    settle(&one);
    time.set(1_100_000_000);
    settle(&one);
    assert_eq!(fiber.join().unwrap(), (Err(Elapsed), Ok(5)));
}

#[test]
fn a_timeout_that_was_handled_inside_does_not_elapse_outside() {
    run(|| {
        let outcome = timeout(LONG, || timeout(SHORT, || sleep(LONG)).unwrap_or(Ok(())));
        assert_eq!(outcome, Ok(Ok(())));
    });
}

#[test]
fn a_shield_hides_outer_deadlines_and_scopes_but_not_inner_ones() {
    run(|| {
        let outer = CancelScope::new();
        let inner = CancelScope::new();
        inner.cancel();
        let seen = timeout(Duration::ZERO, || {
            outer.enter(|| {
                outer.cancel();
                shield(|| {
                    let through = sleep(SHORT);
                    let elapsed = timeout(SHORT, || sleep(LONG));
                    let cancelled = inner.enter(|| sleep(LONG));
                    assert_eq!(
                        (through, elapsed, cancelled),
                        (Ok(()), Err(Elapsed), Err(Stopped::Cancelled))
                    );
                    assert!(!is_cancelled());
                });
                sleep(LONG)
            })
        });
        assert_eq!(seen, Ok(Err(Stopped::Cancelled)));
    });
}

#[test]
fn a_shield_ends_at_the_hard_stop() {
    let ended = Rc::new(Cell::new(None));
    let copy = ended.clone();
    let (_, one) = manual();
    let ((), report) = one.run_reported(move || {
        drop(spawn(move || copy.set(Some(shield(|| sleep(LONG))))));
        yield_now().unwrap();
    });
    assert_eq!(ended.get(), Some(Err(Stopped::Cancelled)));
    assert_eq!(report, StopReport::default());
}

#[test]
fn a_scope_that_refused_a_second_fiber_still_cancels_the_first() {
    run(|| {
        let scope = CancelScope::new();
        let (first, second) = (scope.clone(), scope.clone());
        let first = spawn(move || first.enter(|| sleep(LONG)));
        let second = spawn(move || second.enter(|| ()));
        assert!(matches!(second.join(), Err(JoinError::Panicked(_))));
        scope.cancel();
        assert_eq!(first.join().unwrap(), Err(Stopped::Cancelled));
    });
}

#[test]
fn fibers_and_scopes_are_cancelled_between_ticks_and_from_another_loop() {
    let (_, one) = manual();
    let (_, other) = manual();
    let scope = CancelScope::new();
    let inner = scope.clone();
    let (by_handle, by_scope, elsewhere) = one.enter(|| {
        (
            spawn(|| sleep(LONG)),
            spawn(move || inner.enter(|| sleep(LONG))),
            spawn(|| sleep(LONG)),
        )
    });
    settle(&one);
    let innocent = other.enter(|| {
        let innocent = spawn(|| sleep(LONG));
        scope.cancel();
        elsewhere.cancel();
        innocent
    });
    by_handle.cancel();
    settle(&other);
    settle(&one);
    for fiber in [by_handle, by_scope, elsewhere] {
        assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
    }
    assert!(!innocent.is_done());
    assert_eq!(one.counters().fibers, 0);
}
