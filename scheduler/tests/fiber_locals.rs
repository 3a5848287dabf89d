//! Fiber-locals: values that each fiber has separately.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use yue_scheduler::sync::NotInFiber;
use yue_scheduler::*;

/// Adds its number to a log when it is dropped.
struct Noted(u32, Rc<RefCell<Vec<u32>>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

fiber_local! {
    static COUNT: Cell<u32> = Cell::new(7);
    static NOTED: RefCell<Option<Noted>> = RefCell::new(None);
    static NESTED: u32 = COUNT.with(|count| count.get() + 1);
}

#[test]
fn each_fiber_keeps_a_separate_value_across_suspensions_without_inheriting() {
    run(|| {
        COUNT.with(|count| count.set(100));
        let fibers: Vec<_> = (0..10)
            .map(|number| {
                spawn(move || {
                    assert_eq!(COUNT.with(Cell::get), 7);
                    COUNT.with(|count| {
                        for _ in 0..number {
                            yield_now().unwrap();
                            count.set(count.get() + 1);
                        }
                    });
                    COUNT.with(Cell::get)
                })
            })
            .collect();
        for (number, fiber) in (0..).zip(fibers) {
            assert_eq!(fiber.join().unwrap(), 7 + number);
        }
        assert_eq!(COUNT.with(Cell::get), 100);
    });
}

#[test]
fn a_reused_header_begins_without_locals() {
    run(|| {
        for _ in 0..10 {
            let fiber = spawn(|| COUNT.with(|count| count.replace(0)));
            assert_eq!(fiber.join().unwrap(), 7);
        }
    });
}

#[test]
fn creating_a_value_may_use_another_fiber_local() {
    run(|| assert_eq!(NESTED.with(|value| *value), 8));
}

#[test]
fn there_are_no_fiber_locals_outside_fibers() {
    assert_eq!(COUNT.try_with(Cell::get), Err(NotInFiber));
    Loop::new(Config::default())
        .unwrap()
        .enter(|| assert_eq!(COUNT.try_with(Cell::get), Err(NotInFiber)));
}

#[test]
fn fiber_locals_are_dropped_before_the_join_even_after_a_panic() {
    run(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        for number in 0..2 {
            let other = log.clone();
            let fiber = spawn(move || {
                NOTED.with(|noted| *noted.borrow_mut() = Some(Noted(number, other)));
                assert_eq!(number, 0, "the second one panics");
            });
            assert_eq!(fiber.join().is_ok(), number == 0);
            assert_eq!(log.borrow().len() as u32, number + 1);
        }
        assert_eq!(*log.borrow(), [0, 1]);
    });
}

#[test]
fn the_drop_of_a_fiber_local_runs_on_the_fiber() {
    struct Last(Rc<Cell<u32>>);
    impl Drop for Last {
        fn drop(&mut self) {
            // It may suspend, and use fiber-locals. Those are then new, and dropped in turn.
            yield_now().unwrap();
            let others = COUNT.with(Cell::get);
            self.0.set(self.0.get() + others);
        }
    }
    fiber_local! { static LAST: RefCell<Option<Last>> = RefCell::new(None); }
    run(|| {
        let sum = Rc::new(Cell::new(0));
        let other = sum.clone();
        let fiber = spawn(move || LAST.with(|last| *last.borrow_mut() = Some(Last(other))));
        fiber.join().unwrap();
        assert_eq!(sum.get(), 7);
    });
}

#[test]
fn a_drop_that_panics_harms_no_other_fiber() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a fiber-local's drop");
        }
    }
    fiber_local! { static BOMB: Bomb = Bomb; }
    run(|| {
        let fiber = spawn(|| BOMB.with(|_| 1));
        assert_eq!(fiber.join().unwrap(), 1);
        assert_eq!(this_loop::counters().panics, 1);
    });
}
