//! Work for any loop of a group, and how loops end when their main fiber does not.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

const SHORT: Duration = Duration::from_millis(2);

/// Starts a loop of the group on a new thread; `begin` runs in its main fiber first.
fn member(
    group: &LoopGroup,
    begin: impl FnOnce() + Send + 'static,
) -> (LoopHandle, thread::JoinHandle<StopReport>) {
    let (sender, receiver) = mpsc::channel();
    let group = Some(group.clone());
    let thread = thread::spawn(move || {
        let config = Config {
            group,
            ..Config::default()
        };
        let one = Loop::new(config).unwrap();
        let handle = one.handle();
        one.run_reported(move || {
            begin();
            sender.send(handle).unwrap();
            this_loop::wait_for_shutdown().unwrap();
        })
        .1
    });
    (receiver.recv().unwrap(), thread)
}

fn end(loops: Vec<(LoopHandle, thread::JoinHandle<StopReport>)>) {
    for (handle, thread) in loops {
        handle.shutdown();
        assert_eq!(thread.join().unwrap(), StopReport::default());
    }
}

#[test]
fn work_from_threads_and_fibers_runs_once_each_on_all_loops() {
    let group = LoopGroup::new(3);
    let loops: Vec<_> = (0..3).map(|_| member(&group, || ())).collect();
    let producers: Vec<_> = (0..3_u64)
        .map(|producer| {
            let group = group.clone();
            thread::spawn(move || {
                let joins: Vec<_> = (0..2_000)
                    .map(|n| group.spawn(move || yield_now().map(|()| producer * 10_000 + n)))
                    .collect();
                let results = joins.into_iter().map(|join| join.join().unwrap().unwrap());
                results.sum::<u64>()
            })
        })
        .collect();
    for (producer, thread) in (0..3).zip(producers) {
        assert_eq!(thread.join().unwrap(), producer * 20_000_000 + 1_999_000);
    }
    // A fiber finds the group of its loop.
    let inner = group.spawn(|| {
        let group = this_loop::group().unwrap();
        let joins: Vec<_> = (0..100).map(|n| group.spawn(move || n)).collect();
        joins
            .into_iter()
            .map(|join| join.join().unwrap())
            .sum::<i32>()
    });
    assert_eq!(inner.join().unwrap(), 4950);
    assert_eq!(group.loops(), 3);
    end(loops);
    assert_eq!(group.loops(), 0);
}

#[test]
fn a_piece_of_work_wakes_one_sleeping_loop() {
    let group = LoopGroup::new(2);
    let sleeps = Arc::new(AtomicUsize::new(0));
    let loops: Vec<_> = (0..2)
        .map(|_| {
            let sleeps = sleeps.clone();
            member(&group, move || {
                this_loop::set_idle_hook(move || {
                    sleeps.fetch_add(1, Ordering::SeqCst);
                    false
                });
            })
        })
        .collect();
    let begin = sleeps.load(Ordering::SeqCst);
    const PIECES: usize = 400;
    for _ in 0..PIECES {
        group.spawn(|| ()).join().unwrap();
        // Both loops are asleep again, most of the time.
        thread::sleep(Duration::from_micros(200));
    }
    let woken = sleeps.load(Ordering::SeqCst) - begin;
    assert!(woken < PIECES * 3 / 2, "{woken} sleeps for {PIECES}");
    end(loops);
}

#[test]
fn a_burst_spreads_although_one_loop_is_busy() {
    let group = LoopGroup::new(2);
    let loops: Vec<_> = (0..2).map(|_| member(&group, || ())).collect();
    for _ in 0..20 {
        let release = Arc::new(AtomicBool::new(false));
        let held = release.clone();
        let holder = group.spawn(move || {
            while !held.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        });
        let others: Vec<_> = (0..50).map(|n| group.spawn(move || n)).collect();
        let sum: i32 = others.into_iter().map(|join| join.join().unwrap()).sum();
        assert_eq!(sum, 1225);
        release.store(true, Ordering::SeqCst);
        holder.join().unwrap();
    }
    end(loops);
}

#[test]
fn loops_that_are_never_idle_take_work_too() {
    let group = LoopGroup::new(1);
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let one = member(&group, move || {
        for _ in 0..5 {
            let stop = stop.clone();
            drop(spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let _ = yield_now();
                }
            }));
        }
    });
    let joins: Vec<_> = (0..20).map(|n| group.spawn(move || n)).collect();
    assert_eq!(
        joins.into_iter().map(|j| j.join().unwrap()).sum::<i32>(),
        190
    );
    over.store(true, Ordering::SeqCst);
    end(vec![one]);
}

#[test]
fn work_waits_for_the_first_loop_and_is_refused_after_the_last() {
    let group = LoopGroup::new(1);
    let early = group.spawn(|| 5);
    thread::sleep(SHORT);
    assert!(!early.is_done());
    let one = member(&group, || ());
    assert_eq!(early.join().unwrap(), 5);
    let config = Config {
        group: Some(group.clone()),
        ..Config::default()
    };
    let full = Loop::new(config).unwrap_err();
    assert!(full.to_string().contains("room for 1 loops"), "{full}");
    end(vec![one]);
    assert!(matches!(group.spawn(|| 6).join(), Err(JoinError::LoopGone)));
    let again = member(&group, || ());
    assert_eq!(group.spawn(|| 7).join().unwrap(), 7);
    end(vec![again]);
}

#[test]
fn each_piece_of_work_runs_or_is_refused_while_loops_come_and_go() {
    let group = LoopGroup::new(2);
    let over = Arc::new(AtomicBool::new(false));
    let churn: Vec<_> = (0..2)
        .map(|_| {
            let (group, over) = (group.clone(), over.clone());
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let one = member(&group, || ());
                    thread::yield_now();
                    end(vec![one]);
                }
            })
        })
        .collect();
    let (mut done, mut refused) = (0, 0);
    for n in 0..2_000 {
        let piece = group.spawn(move || n).join();
        match piece {
            Ok(result) => {
                assert_eq!(result, n);
                done += 1;
            }
            Err(JoinError::LoopGone) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    over.store(true, Ordering::SeqCst);
    churn.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(done + refused, 2_000);
    assert!(done > 0);
}

#[test]
fn a_manually_ticked_loop_runs_its_groups_work_and_its_bell_rings() {
    struct Rung(Arc<AtomicUsize>);
    impl Bell for Rung {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    struct ByHand(Arc<AtomicUsize>);
    impl Driver for ByHand {
        fn turn(&self, _wait: Wait) -> std::io::Result<()> {
            Ok(())
        }
        fn bell(&self) -> Arc<dyn Bell> {
            Arc::new(Rung(self.0.clone()))
        }
        fn in_flight(&self) -> usize {
            0
        }
        fn cancel_all(&self) {}
        fn name(&self) -> &'static str {
            "by hand"
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let (group, rings) = (LoopGroup::new(1), Arc::new(AtomicUsize::new(0)));
    let config = Config {
        driver: Box::new(ByHand(rings.clone())),
        group: Some(group.clone()),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    assert_eq!(one.tick().unwrap(), Tick::Done);
    for round in 1..=3 {
        let join = group.spawn(move || round);
        assert_eq!(rings.load(Ordering::SeqCst), round);
        while one.tick().unwrap() == Tick::Runnable {}
        assert_eq!(join.join().unwrap(), round);
    }
}

#[test]
fn a_main_fiber_that_outlasts_the_grace_is_cancelled_then_abandoned() {
    let config = || Config {
        grace: Some(SHORT),
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    let seen = Rc::new(Cell::new(false));
    let seen_there = seen.clone();
    let (slept, report) = Loop::new(config()).unwrap().run_reported(move || {
        drop(spawn(move || {
            seen_there.set(this_loop::wait_for_shutdown().is_ok())
        }));
        this_loop::request_shutdown();
        sleep(Duration::from_secs(3600))
    });
    assert_eq!(
        (slept, report),
        (Err(Stopped::Cancelled), StopReport::default())
    );
    assert!(seen.get());
    let given_up = catch_unwind(AssertUnwindSafe(|| {
        Loop::new(config()).unwrap().run(|| {
            this_loop::request_shutdown();
            park_uninterruptible("for ever");
        })
    }));
    let words = given_up.unwrap_err();
    assert!(
        words
            .downcast_ref::<&str>()
            .unwrap()
            .contains("ignored the shutdown")
    );
    // No shutdown was requested, so no grace period applies, however long it takes.
    Loop::new(config())
        .unwrap()
        .run(|| sleep(3 * SHORT))
        .unwrap();
}
