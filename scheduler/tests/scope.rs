//! Scopes: children that borrow, and how failures travel between them and the body.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

/// Returns the payload of the panic of `f`.
fn panic_of<R>(f: impl FnOnce() -> R) -> u32 {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not panic"),
        Err(payload) => *payload.downcast_ref().expect("another panic"),
    }
}

#[test]
fn children_borrow_and_the_scope_ends_after_the_last() {
    run(|| {
        let order = RefCell::new(Vec::new());
        let mut sum = 0;
        scope(|s| {
            for n in [3_u64, 1, 2] {
                let order = &order;
                s.spawn(move || {
                    sleep(Duration::from_millis(n * 5)).unwrap();
                    order.borrow_mut().push(n);
                });
            }
            let sum = &mut sum;
            s.spawn(move || *sum += 7);
            assert_eq!(s.live(), 4);
            order.borrow_mut().push(0);
        });
        order.borrow_mut().push(4);
        assert_eq!((order.into_inner(), sum), (vec![0, 1, 2, 3, 4], 7));
    });
}

#[test]
fn results_are_joined_and_children_have_children_of_the_same_scope() {
    run(|| {
        let words = [String::from("a"), String::from("bc")];
        let longest = scope(|s| {
            let first = s.spawn(|| &words[0]);
            let second = s.spawn(|| s.spawn(|| &words[1]).join().unwrap());
            let (first, second) = (first.join().unwrap(), second.join().unwrap());
            if first.len() > second.len() {
                first
            } else {
                second
            }
        });
        assert_eq!(longest, "bc");
    });
}

#[test]
fn a_panic_of_the_body_cancels_the_children_and_resumes_when_they_have_ended() {
    run(|| {
        let ended = Cell::new(0);
        let payload = panic_of(|| {
            scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        assert_eq!(sleep(LONG), Err(Stopped::Cancelled));
                        shield(|| sleep(SHORT)).unwrap();
                        ended.set(ended.get() + 1);
                    });
                }
                yield_now().unwrap();
                panic_any(5_u32)
            })
        });
        assert_eq!((payload, ended.get()), (5, 3));
    });
}

#[test]
fn a_childs_panic_resumes_in_the_caller_unless_joined_and_cancels_no_sibling() {
    run(|| {
        let ended = Cell::new(false);
        let payload = panic_of(|| {
            scope(|s| {
                s.spawn(|| panic_any(6_u32));
                s.spawn(|| panic_any(7_u32));
                s.spawn(|| ended.set(sleep(SHORT).is_ok()));
                "never returned"
            })
        });
        assert_eq!((payload, ended.get()), (6, true));
        let taken = scope(|s| {
            let child = s.spawn(|| panic_any(8_u32));
            matches!(child.join(), Err(JoinError::Panicked(_)))
        });
        assert!(taken);
        assert_eq!(this_loop::counters().panics, 3);
    });
}

#[test]
fn a_stopped_caller_cancels_the_children_and_still_waits_for_them() {
    run(|| {
        let parent = spawn(|| {
            let (mut ended, mut joined) = (false, None);
            scope(|s| {
                let child = s.spawn(|| {
                    let outcome = sleep(LONG);
                    ended = shield(|| sleep(SHORT)).is_ok();
                    outcome
                });
                // The join fails, and the scope waits.
                joined = Some(child.join().is_err());
            });
            (ended, joined, yield_now())
        });
        yield_now().unwrap();
        parent.cancel();
        let expected = (true, Some(true), Err(Stopped::Cancelled));
        assert_eq!(parent.join().unwrap(), expected);
    });
}

#[test]
fn a_deadline_reaches_the_children_and_its_timeout_elapses() {
    run(|| {
        let outcomes = RefCell::new(Vec::new());
        let elapsed = timeout(SHORT, || {
            scope(|s| {
                for _ in 0..2 {
                    s.spawn(|| {
                        let outcome = sleep(LONG);
                        outcomes.borrow_mut().push(outcome);
                    });
                }
            })
        });
        assert_eq!(elapsed, Err(Elapsed));
        assert_eq!(outcomes.into_inner(), [Err(Stopped::Cancelled); 2]);
        assert_eq!(
            timeout(LONG, || scope(|s| s.spawn(|| 5).join().unwrap())),
            Ok(5)
        );
    });
}

#[test]
fn a_scope_is_cancelled_explicitly_and_later_children_start_cancelled() {
    run(|| {
        scope(|s| {
            let early = s.spawn(|| sleep(LONG));
            let kept = spawn(|| sleep(SHORT));
            yield_now().unwrap();
            s.cancel();
            let late = s.spawn(|| sleep(LONG));
            assert_eq!(early.join().unwrap(), Err(Stopped::Cancelled));
            assert_eq!(late.join().unwrap(), Err(Stopped::Cancelled));
            // The body itself, and other children, are unaffected.
            assert_eq!(kept.join().unwrap(), Ok(()));
            let (one, other) = (s.spawn(|| ()), s.spawn(|| ()));
            one.cancel();
            assert!(one.join().is_ok() && other.join().is_ok());
        });
    });
}

#[test]
fn children_of_a_shielded_scope_are_shielded_until_the_scope_or_the_handle_cancels_them() {
    run(|| {
        let parent = spawn(|| {
            let _ = sleep(LONG);
            let cleaned = Cell::new(0);
            shield(|| {
                scope(|s| {
                    for _ in 0..2 {
                        s.spawn(|| {
                            sleep(SHORT).unwrap();
                            cleaned.set(cleaned.get() + 1);
                        });
                    }
                });
                scope(|s| {
                    let one = s.spawn(|| sleep(LONG));
                    yield_now().unwrap();
                    one.cancel();
                    assert_eq!(one.join().unwrap(), Err(Stopped::Cancelled));
                    let all = s.spawn(|| sleep(LONG));
                    s.cancel();
                    assert_eq!(all.join().unwrap(), Err(Stopped::Cancelled));
                });
            });
            cleaned.get()
        });
        yield_now().unwrap();
        parent.cancel();
        assert_eq!(parent.join().unwrap(), 2);
    });
}

#[test]
fn clean_up_with_children_works_while_the_loop_stops() {
    let cleaned = Rc::new(Cell::new(0));
    let copy = cleaned.clone();
    run(move || {
        drop(spawn(move || {
            let _ = sleep(LONG);
            shield(|| {
                scope(|s| {
                    for _ in 0..3 {
                        s.spawn(|| {
                            sleep(SHORT).unwrap();
                            copy.set(copy.get() + 1);
                        });
                    }
                });
            });
        }));
        yield_now().unwrap();
    });
    assert_eq!(cleaned.get(), 3);
}

#[test]
fn a_long_scope_keeps_nothing_of_ended_children() {
    struct Held<'a>(&'a Cell<i32>);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    run(|| {
        let held = Cell::new(0);
        scope(|s| {
            for round in 0..1_000 {
                held.set(held.get() + 2);
                let (captured, result) = (Held(&held), Held(&held));
                drop(s.spawn(move || {
                    drop(captured);
                    result
                }));
                yield_now().unwrap();
                assert_eq!((round, held.get(), s.live()), (round, 0, 0));
            }
        });
        assert_eq!(this_loop::counters().fibers, 1);
    });
}

#[test]
fn a_result_that_panics_in_its_drop_does_not_break_the_scope() {
    struct Bomb<'a>(&'a Cell<bool>);
    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.0.set(true);
            panic!("on purpose, in a drop");
        }
    }
    run(|| {
        let dropped = Cell::new(false);
        scope(|s| drop(s.spawn(|| Bomb(&dropped))));
        assert!(dropped.get());
    });
}

#[test]
fn a_childs_first_error_cancels_everything_else_and_the_scope_returns_it() {
    run(|| {
        let seen = RefCell::new(Vec::new());
        let outcome: Result<(), String> = try_scope(|s| {
            s.spawn(|| {
                let outcome = sleep(LONG);
                seen.borrow_mut().push(outcome);
                Err::<(), _>("a later error".to_owned())
            });
            let fails = s.spawn(|| -> Result<(), _> {
                sleep(SHORT).unwrap();
                Err("the first error".to_owned())
            });
            assert_eq!(fails.join(), Err(Stopped::Cancelled));
            let body = sleep(LONG);
            seen.borrow_mut().push(body);
            body.map_err(|stopped| stopped.to_string())
        });
        assert_eq!(outcome, Err("the first error".to_owned()));
        assert_eq!(seen.into_inner(), [Err(Stopped::Cancelled); 2]);
        assert!(!is_cancelled());
    });
}

#[test]
fn the_error_of_the_body_cancels_the_children() {
    run(|| {
        let seen = Cell::new(None);
        let outcome: Result<(), &str> = try_scope(|s| {
            s.spawn(|| {
                seen.set(Some(sleep(LONG)));
                Err::<(), _>("a later error")
            });
            yield_now().unwrap();
            Err("the body's")
        });
        assert_eq!(
            (outcome, seen.get()),
            (Err("the body's"), Some(Err(Stopped::Cancelled)))
        );
        let fine: Result<i32, Stopped> = try_scope(|s| {
            let (two, three) = (s.spawn(|| Ok(2)), s.spawn(|| Ok(3)));
            Ok(two.join()? + three.join()?)
        });
        assert_eq!(fine, Ok(5));
    });
}

#[test]
fn a_childs_panic_cancels_a_failing_scope_and_resumes_in_the_caller() {
    run(|| {
        for join in [false, true] {
            let seen = Cell::new(None);
            let payload = panic_of(|| {
                try_scope(|s| -> Result<(), Stopped> {
                    s.spawn(|| {
                        seen.set(Some(sleep(LONG)));
                        Ok(())
                    });
                    let child = s.spawn(|| -> Result<(), Stopped> { panic_any(9_u32) });
                    if join {
                        assert_eq!(child.join(), Err(Stopped::Cancelled));
                    }
                    sleep(LONG)
                })
            });
            assert_eq!((payload, seen.get()), (9, Some(Err(Stopped::Cancelled))));
        }
    });
}

#[test]
fn a_stopped_caller_ends_a_failing_scope_with_an_error() {
    run(|| {
        let fiber = spawn(|| {
            try_scope(|s| -> Result<(), Stopped> {
                s.spawn(|| sleep(LONG));
                Ok(())
            })
        });
        yield_now().unwrap();
        fiber.cancel();
        assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
    });
}

#[test]
fn a_scope_needs_a_fiber_that_may_suspend() {
    let outside = Loop::new(Config::default()).unwrap();
    outside.enter(|| assert!(catch_unwind(|| scope(|_| ())).is_err()));
    run(|| {
        let refused = catch_unwind(|| no_suspend(|| scope(|_| ())));
        let words = refused.unwrap_err();
        let words = words.downcast_ref::<String>().unwrap();
        assert!(words.contains("wait for its children"), "{words}");
    });
}

#[test]
fn an_abandoned_child_takes_its_scope_along() {
    let config = Config {
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    let ((), report) = Loop::new(config).unwrap().run_reported(|| {
        drop(spawn(|| {
            let mut value = 0;
            scope(|s| {
                s.spawn(|| {
                    park_uninterruptible("for ever");
                    value = 1;
                });
            });
            value
        }));
        yield_now().unwrap();
    });
    assert_eq!(report.fibers_abandoned, 2);
}
