//! Priorities: which fiber runs first, and that none waits forever.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::*;

fn spawn_at(priority: Priority, f: impl FnOnce() + 'static) -> JoinHandle<()> {
    Builder::new().priority(priority).spawn(f).unwrap()
}

const ALL: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

#[test]
fn ready_fibers_of_higher_priority_run_first_and_equal_ones_in_order() {
    run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut fibers = Vec::new();
        for n in 0..3 {
            for priority in ALL {
                let order = order.clone();
                fibers.push(spawn_at(priority, move || {
                    order.borrow_mut().push((priority, n))
                }));
            }
        }
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        let expected: Vec<_> = [Priority::High, Priority::Normal, Priority::Low]
            .into_iter()
            .flat_map(|priority| (0..3).map(move |n| (priority, n)))
            .collect();
        assert_eq!(order.take(), expected);
    });
}

/// Runs fibers of these classes that are always ready, and counts the turns of each class until the first class has had
/// many.
fn turns(classes: &'static [Priority]) -> Vec<u32> {
    run(|| {
        let counts: Rc<Vec<_>> = Rc::new(classes.iter().map(|_| Cell::new(0_u32)).collect());
        let over = Rc::new(Cell::new(false));
        let mut fibers = Vec::new();
        for (class, priority) in classes.iter().enumerate() {
            for _ in 0..2 {
                let (counts, over) = (counts.clone(), over.clone());
                fibers.push(spawn_at(*priority, move || {
                    while !over.get() {
                        counts[class].set(counts[class].get() + 1);
                        over.set(counts[class].get() >= 16_000);
                        let _ = yield_now();
                    }
                }));
            }
        }
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        counts.iter().map(Cell::get).collect()
    })
}

#[test]
fn classes_that_are_always_ready_share_according_to_their_budgets() {
    let near = |count: u32, expected: u32| count.abs_diff(expected) <= expected / 50;
    let all = turns(&[Priority::High, Priority::Normal, Priority::Low]);
    assert!(near(all[1], 4_000) && near(all[2], 1_000), "{all:?}");
    let two = turns(&[Priority::High, Priority::Low]);
    assert!(near(two[1], 1_000), "{two:?}");
    let two = turns(&[Priority::Normal, Priority::Low]);
    assert!(near(two[1], 4_000), "{two:?}");
}

#[test]
fn a_woken_fiber_joins_the_queue_of_its_class() {
    run(|| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let waiting: Vec<_> = ALL
            .into_iter()
            .map(|priority| {
                let (order, wakers) = (order.clone(), wakers.clone());
                spawn_at(priority, move || {
                    wakers.borrow_mut().push(prepare_park());
                    park("the test").unwrap();
                    order.borrow_mut().push(priority);
                })
            })
            .collect();
        while wakers.borrow().len() < 3 {
            yield_now().unwrap();
        }
        for waker in wakers.take() {
            assert!(waker.wake());
        }
        waiting.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(
            order.take(),
            [Priority::High, Priority::Normal, Priority::Low]
        );
    });
}

#[test]
fn a_fiber_changes_its_own_priority_and_children_do_not_inherit_it() {
    run(|| {
        assert_eq!(set_priority(Priority::Low), Priority::Normal);
        let child = spawn(|| set_priority(Priority::High));
        assert_eq!(child.join().unwrap(), Priority::Normal);
        let turns = Rc::new(Cell::new(0));
        let counter = turns.clone();
        let normal = spawn(move || {
            while counter.get() < 100 {
                counter.set(counter.get() + 1);
                yield_now().unwrap();
            }
        });
        yield_now().unwrap();
        // Four normal runs for each of ours.
        assert!(turns.get() >= 3, "{}", turns.get());
        assert_eq!(set_priority(Priority::High), Priority::Low);
        yield_now().unwrap();
        let seen = turns.get();
        yield_now().unwrap();
        assert_eq!(turns.get(), seen);
        normal.join().unwrap();
    });
}

#[test]
fn timers_cancellations_and_shutdown_reach_every_class() {
    run(|| {
        let woken = Rc::new(Cell::new(0));
        let fibers = ALL.map(|priority| {
            let woken = woken.clone();
            spawn_at(priority, move || {
                sleep(Duration::from_millis(1)).unwrap();
                woken.set(woken.get() + 1);
                assert_eq!(sleep(Duration::MAX), Err(Stopped::Cancelled));
            })
        });
        while woken.get() < ALL.len() {
            sleep(Duration::from_millis(1)).unwrap();
        }
        let _ = fibers.map(|fiber| fiber.cancel_and_join().unwrap());
        for priority in ALL {
            drop(spawn_at(priority, || {
                assert_eq!(sleep(Duration::MAX), Err(Stopped::Cancelled));
            }));
        }
    });
    // A loop is dropped while all of them are ready.
    let one = Loop::new(Config::default()).unwrap();
    let alive = Rc::new(());
    one.enter(|| {
        for priority in ALL {
            let alive = alive.clone();
            drop(spawn_at(priority, move || drop(alive)));
        }
    });
    drop(one);
    assert_eq!(Rc::strong_count(&alive), 1);
}
