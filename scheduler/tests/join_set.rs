//! Join sets, and other ways to wait for a single fiber than `join`.

mod common;

use common::run;
use std::cell::Cell;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

#[test]
fn results_come_in_the_order_in_which_the_fibers_end() {
    run(|| {
        let mut set = JoinSet::new();
        assert!(set.join_next().unwrap().is_none());
        // The number of the fiber that may end next.
        let turn = Rc::new(Cell::new(0));
        for n in [3_u64, 1, 2] {
            let turn = turn.clone();
            set.spawn(move || {
                while turn.get() != n {
                    yield_now().unwrap();
                }
                turn.set(n + 1);
                n
            });
        }
        let named = Builder::new().name("named");
        set.spawn_with(named, move || {
            turn.set(1);
            9
        })
        .unwrap();
        assert!(set.try_join_next().is_none());
        assert_eq!(set.len(), 4);
        let mut order = Vec::new();
        while let Some(result) = set.join_next().unwrap() {
            order.push(result.unwrap());
            assert_eq!(set.len(), 4 - order.len());
        }
        assert_eq!(order, [9, 1, 2, 3]);
        assert!(set.is_empty());
    });
}

#[test]
fn a_panic_is_one_result_of_many() {
    run(|| {
        let mut set = JoinSet::new();
        set.spawn(|| panic_any(4_u32));
        set.spawn(|| 5);
        let first = set.join_next().unwrap().unwrap();
        let Err(JoinError::Panicked(payload)) = first else {
            panic!("{first:?}")
        };
        assert_eq!(payload.downcast_ref::<u32>(), Some(&4));
        assert_eq!(set.join_next().unwrap().unwrap().unwrap(), 5);
    });
}

#[test]
fn dropping_a_set_cancels_its_fibers_and_detaching_does_not() {
    run(|| {
        let log: Rc<Cell<Vec<_>>> = Rc::default();
        let note = |log: &Rc<Cell<Vec<_>>>, duration| {
            let log = log.clone();
            move || {
                let outcome = sleep(duration);
                let mut all = log.take();
                all.push(outcome);
                log.set(all);
            }
        };
        let set = JoinSet::new();
        set.spawn(note(&log, LONG));
        yield_now().unwrap();
        drop(set);
        let mut set = JoinSet::new();
        set.spawn(note(&log, SHORT));
        yield_now().unwrap();
        set.detach_all();
        assert!(set.is_empty());
        drop(set);
        while this_loop::counters().fibers > 1 {
            sleep(SHORT).unwrap();
        }
        assert_eq!(log.take(), [Err(Stopped::Cancelled), Ok(())]);
    });
}

#[test]
fn all_fibers_of_a_set_are_cancelled_and_their_results_still_arrive() {
    run(|| {
        let mut set = JoinSet::new();
        for _ in 0..3 {
            set.spawn(|| sleep(LONG));
        }
        yield_now().unwrap();
        set.cancel_all();
        for _ in 0..3 {
            let result = set.join_next().unwrap().unwrap().unwrap();
            assert_eq!(result, Err(Stopped::Cancelled));
        }
        assert!(set.join_next().unwrap().is_none());
    });
}

#[test]
fn a_wait_that_is_cut_short_loses_no_result() {
    run(|| {
        let mut set = JoinSet::new();
        set.spawn(|| sleep(Duration::from_millis(10)).map(|()| 3));
        while timeout(Duration::from_micros(100), || set.join_next().is_err()) == Err(Elapsed) {
            // Each time the same result is still to come.
            assert_eq!(set.len(), 1);
        }
        assert!(set.is_empty());
    });
}

#[test]
fn cancelling_and_joining_a_set_is_not_cut_short() {
    run(|| {
        let ended = Rc::new(Cell::new(0));
        let counter = ended.clone();
        let owner = spawn(move || {
            let mut set = JoinSet::new();
            for _ in 0..3 {
                let counter = counter.clone();
                set.spawn(move || {
                    let _ = sleep(LONG);
                    shield(|| sleep(SHORT)).unwrap();
                    counter.set(counter.get() + 1);
                });
            }
            let _ = sleep(LONG);
            set.cancel_and_join();
            assert!(set.is_empty());
        });
        yield_now().unwrap();
        owner.cancel();
        owner.join().unwrap();
        assert_eq!(ended.get(), 3);
    });
}

#[test]
fn fibers_abandoned_with_their_loop_are_results_too() {
    let config = Config {
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    let (mut set, report) = Loop::new(config).unwrap().run_reported(|| {
        let set = JoinSet::new();
        set.spawn(|| park_uninterruptible("for ever"));
        set.spawn(|| ());
        yield_now().unwrap();
        set
    });
    assert_eq!((report.fibers_abandoned, set.len()), (1, 2));
    assert!(matches!(set.join_next(), Ok(Some(Ok(())))));
    assert!(matches!(
        set.join_next(),
        Ok(Some(Err(JoinError::LoopGone)))
    ));
    assert!(matches!(set.join_next(), Ok(None)));
    // A fiber that never ran is reported too.
    let one = Loop::new(Config::default()).unwrap();
    let mut set = JoinSet::new();
    one.enter(|| set.spawn(|| ()));
    drop(one);
    assert!(matches!(
        set.join_next(),
        Ok(Some(Err(JoinError::LoopGone)))
    ));
}

#[test]
fn a_fiber_is_waited_for_with_a_limit_and_then_cancelled() {
    run(|| {
        let mut fiber = spawn(|| sleep(LONG));
        for _ in 0..3 {
            let waited = timeout(Duration::from_micros(100), || fiber.wait());
            assert_eq!(waited, Err(Elapsed));
        }
        assert_eq!(fiber.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
        let mut fiber = spawn(|| 5);
        fiber.wait().unwrap();
        assert!(fiber.is_done());
        assert_eq!(fiber.join().unwrap(), 5);
    });
}

#[test]
fn cancelling_and_joining_a_fiber_is_not_cut_short() {
    run(|| {
        let outer = spawn(|| {
            let child = spawn(|| {
                let _ = sleep(LONG);
                shield(|| sleep(SHORT))
            });
            let _ = sleep(LONG);
            child.cancel_and_join().unwrap()
        });
        yield_now().unwrap();
        outer.cancel();
        assert_eq!(outer.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_fiber_of_another_loop_is_cancelled_before_it_starts_and_while_it_runs() {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let one = Loop::new(Config::default()).unwrap();
        sender.send(one.handle()).unwrap();
        one.run_reported(|| this_loop::wait_for_shutdown().unwrap())
            .1
    });
    let handle = receiver.recv().unwrap();
    // From a thread: first at once, so that the fiber mostly has not begun; then when it surely has.
    for _ in 0..100 {
        let join = handle.spawn(|| sleep(LONG));
        assert_eq!(join.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
    }
    let (started, has_started) = mpsc::channel();
    let join = handle.spawn(move || {
        started.send(()).unwrap();
        sleep(LONG)
    });
    has_started.recv().unwrap();
    assert_eq!(join.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
    let remote = handle.clone();
    run(move || {
        let mut join = remote.spawn(|| sleep(LONG));
        let waited = timeout(SHORT, || join.wait());
        assert_eq!(waited, Err(Elapsed));
        assert!(!join.is_done());
        assert_eq!(join.cancel_and_join().unwrap(), Err(Stopped::Cancelled));
    });
    handle.shutdown();
    assert_eq!(thread.join().unwrap(), StopReport::default());
}
