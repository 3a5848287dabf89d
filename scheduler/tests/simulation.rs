//! Simulations: virtual time, the order of a seed, hosts that freeze and end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Real};
use yue_scheduler::{
    Config, Instant, Loop, LoopHandle, blocking, now, park, prepare_park, simulation, sleep, spawn,
    this_loop, timeout, yield_now,
};

/// Runs a loop on a new thread of a host.
fn start(host: u32, main: impl FnOnce() + Send + 'static) -> (simulation::Thread<()>, LoopHandle) {
    let handle = Arc::new(Mutex::new(None));
    let store = handle.clone();
    let thread = simulation::spawn_thread(host, "loop", move || {
        let one = Loop::new(Config::default()).unwrap();
        *store.lock().unwrap() = Some(one.handle());
        one.run(main);
    })
    .unwrap();
    let ready = handle.clone();
    simulation::wait_until("a loop", move || ready.lock().unwrap().is_some()).unwrap();
    let handle = handle.lock().unwrap().take().unwrap();
    (thread, handle)
}

#[test]
fn a_day_passes_at_once() {
    let began = Real::now();
    let (elapsed, _) = simulation::run(1, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let before = now();
            sleep(Duration::from_secs(86_400)).unwrap();
            now().saturating_since(before)
        })
    })
    .unwrap();
    assert!(elapsed >= Duration::from_secs(86_400), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(86_401), "{elapsed:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn code_that_yields_until_a_time_comes_to_an_end() {
    simulation::run(1, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let until = now().saturating_add(Duration::from_millis(1));
            while now() < until {
                yield_now().unwrap();
            }
            let until = now().saturating_add(Duration::from_millis(1));
            while now() < until {}
            assert!(timeout(Duration::from_millis(5), || sleep(Duration::from_secs(1))).is_err());
        })
    })
    .unwrap();
}

/// The order in which fibers of three loops write into a list.
fn order(seed: u64) -> (Vec<u32>, u64) {
    simulation::run(seed, || {
        let list = Arc::new(Mutex::new(Vec::new()));
        let loops: Vec<_> = (1..=3)
            .map(|host| {
                let list = list.clone();
                start(host, move || {
                    let fibers: Vec<_> = (0..4)
                        .map(|number| {
                            let list = list.clone();
                            spawn(move || {
                                for _ in 0..3 {
                                    list.lock().unwrap().push(host * 10 + number);
                                    yield_now().unwrap();
                                }
                            })
                        })
                        .collect();
                    fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
                })
            })
            .collect();
        loops
            .into_iter()
            .for_each(|(thread, _)| thread.join().unwrap());
        let list = list.lock().unwrap().clone();
        assert_eq!(list.len(), 36);
        list
    })
    .unwrap()
}

#[test]
fn a_seed_determines_the_order_and_seeds_differ() {
    let all: Vec<_> = (0..20).map(|seed| (order(seed), order(seed))).collect();
    for (one, other) in &all {
        assert_eq!(one, other);
    }
    let different: std::collections::BTreeSet<_> = all.iter().map(|((list, _), _)| list).collect();
    assert!(different.len() > 15, "{}", different.len());
}

#[test]
fn loops_wake_each_other_in_virtual_time() {
    let real = Real::now();
    simulation::run(3, || {
        let woken = Arc::new(AtomicU64::new(0));
        let seen = woken.clone();
        let (thread, handle) = start(1, move || {
            let waker = Rc::new(RefCell::new(None));
            let keep = waker.clone();
            let _ = spawn(move || {
                sleep(Duration::from_secs(60)).unwrap();
                let waker: Option<yue_scheduler::LocalWaker> = keep.borrow_mut().take();
                waker.unwrap().wake();
            });
            *waker.borrow_mut() = Some(prepare_park());
            park("the other fiber").unwrap();
            seen.store(now().as_nanos(), Ordering::Relaxed);
        });
        let began = simulation::now();
        Loop::new(Config::default()).unwrap().run(move || {
            let answer = handle.spawn(|| 6 * 7).join().unwrap();
            assert_eq!(answer, 42);
        });
        thread.join().unwrap();
        let woken = Instant::from_nanos(woken.load(Ordering::Relaxed));
        assert!(woken.saturating_since(began) >= Duration::from_secs(59));
    })
    .unwrap();
    assert!(real.elapsed() < Duration::from_secs(30));
}

#[test]
fn blocking_work_runs_in_the_simulation() {
    let work = |seed| {
        simulation::run(seed, || {
            Loop::new(Config::default()).unwrap().run(|| {
                let jobs: Vec<_> = (0..5u64)
                    .map(|n| spawn(move || blocking(move || n + simulation::random()).unwrap()))
                    .collect();
                jobs.into_iter()
                    .map(|job| job.join().unwrap())
                    .collect::<Vec<_>>()
            })
        })
        .unwrap()
    };
    assert_eq!(work(5), work(5));
    assert_ne!(work(5).0, work(6).0);
}

#[test]
fn a_cancelled_blocking_call_is_left_to_its_thread() {
    simulation::run(5, || {
        Loop::new(Config::default()).unwrap().run(|| {
            for _ in 0..20 {
                let job = spawn(|| blocking(|| ()).is_err());
                yield_now().unwrap();
                job.cancel();
                job.join().unwrap();
            }
        })
    })
    .unwrap();
}

#[test]
fn a_frozen_host_does_not_run_and_catches_up() {
    simulation::run(9, || {
        let ticks = Arc::new(AtomicU64::new(0));
        let count = ticks.clone();
        let (thread, handle) = start(1, move || {
            while sleep(Duration::from_millis(100)).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Loop::new(Config::default()).unwrap().run(move || {
            sleep(Duration::from_secs(1)).unwrap();
            assert!(ticks.load(Ordering::Relaxed) >= 8);
            simulation::freeze(1);
            let before = ticks.load(Ordering::Relaxed);
            sleep(Duration::from_secs(10)).unwrap();
            assert_eq!(ticks.load(Ordering::Relaxed), before);
            simulation::thaw(1);
            sleep(Duration::from_secs(1)).unwrap();
            let after = ticks.load(Ordering::Relaxed);
            assert!(
                (before + 8..before + 15).contains(&after),
                "{before} {after}"
            );
            handle.shutdown();
        });
        drop(thread);
    })
    .unwrap();
}

#[test]
fn the_end_of_a_host_takes_no_time_of_the_others() {
    simulation::run(9, || {
        let (thread, handle) = start(1, || {
            let ended = this_loop::wait_for_shutdown();
            assert!(ended.is_ok());
            sleep(Duration::from_secs(3)).unwrap();
        });
        let before = simulation::now();
        handle.shutdown();
        simulation::drain(1).unwrap();
        assert_eq!(simulation::now(), before);
        assert!(thread.is_finished());
    })
    .unwrap();
}

#[test]
fn clocks_of_hosts_drift_and_jump() {
    simulation::run(2, || {
        simulation::set_clock_drift(1, 100_000);
        let measure = || {
            let before = now();
            sleep(Duration::from_secs(10)).unwrap();
            now().saturating_since(before)
        };
        let began = simulation::now();
        let (thread, _) = start(1, move || assert!(measure() >= Duration::from_secs(10)));
        thread.join().unwrap();
        let took = simulation::now().saturating_since(began);
        assert!(took < Duration::from_millis(9_200), "{took:?}");
        let before = simulation::wall_clock();
        simulation::set_wall_clock(0, Duration::ZERO, Duration::from_secs(3600));
        assert!(simulation::wall_clock() < before);
    })
    .unwrap();
}

#[test]
fn events_run_in_the_order_of_their_times() {
    let (seen, _) = simulation::run(4, || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let begin = simulation::now();
        for delay in [3u64, 1, 2] {
            let seen = seen.clone();
            let at = begin.saturating_add(Duration::from_secs(delay));
            simulation::at(at, move || {
                seen.lock().unwrap().push((delay, simulation::now() >= at))
            });
        }
        Loop::new(Config::default())
            .unwrap()
            .run(|| sleep(Duration::from_secs(5)).unwrap());
        seen.lock().unwrap().clone()
    })
    .unwrap();
    assert_eq!(seen, [(1, true), (2, true), (3, true)]);
}

#[test]
fn a_simulation_in_which_nothing_can_happen_ends_with_the_reason() {
    let outcome = simulation::run(1, || {
        let waited = simulation::wait_until("the impossible", || false);
        waited.unwrap_err().to_string()
    });
    let text = outcome.unwrap().0;
    assert!(
        text.contains("nothing can happen") && text.contains("the impossible"),
        "{text}"
    );
}

#[test]
fn a_panic_of_the_main_function_is_an_error_and_other_threads_end() {
    let outcome: Result<((), u64), _> = simulation::run(1, || {
        start(1, || while sleep(Duration::from_secs(1)).is_ok() {});
        panic!("on purpose");
    });
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("on purpose"), "{text}");
}

#[test]
fn layers_keep_their_state_for_one_simulation() {
    for _ in 0..2 {
        simulation::run(1, || {
            let count = || {
                simulation::layer(|count: &mut u32| {
                    *count += 1;
                    *count
                })
            };
            assert_eq!((count(), count()), (1, 2));
            let there = simulation::spawn_thread(1, "there", count).unwrap();
            assert_eq!(there.join().unwrap(), 3);
        })
        .unwrap();
    }
}
