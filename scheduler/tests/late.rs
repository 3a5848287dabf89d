//! Time limits while a fiber computes for long, or the process is stopped.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::sync::Notify;
use yue_scheduler::*;

const MS: u64 = 1_000_000;

/// Runs `main` as a fiber in virtual time, which advances to the next timer whenever nothing can run. `main` gets the
/// clock, so that it can let time pass while it computes.
fn in_virtual_time(main: impl FnOnce(Rc<Cell<u64>>) + 'static) {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        ..Config::default()
    };
    let l = Loop::new(config).unwrap();
    let clock = time.clone();
    let fiber = l.enter(|| spawn(move || main(clock)));
    loop {
        match l.tick().unwrap() {
            Tick::Runnable => {}
            Tick::IdleUntil(at) => time.set(at.expect("a timer is armed").as_nanos()),
            Tick::Done => break,
        }
    }
    l.enter(|| fiber.join()).unwrap();
}

fn compute(clock: &Cell<u64>, ms: u64) {
    clock.set(clock.get() + ms * MS);
}

#[test]
fn a_time_limit_counts_from_when_it_is_set_even_after_a_long_computation() {
    in_virtual_time(|clock| {
        let limit = Duration::from_millis(200);
        let nap = || sleep(Duration::from_millis(50));

        compute(&clock, 300);
        assert_eq!(now().as_nanos(), clock.get());
        assert_eq!(with_deadline(now().saturating_add(limit), nap), Ok(()));

        compute(&clock, 300);
        assert_eq!(with_deadline(deadline_after(limit), nap), Ok(()));

        compute(&clock, 300);
        assert_eq!(timeout(limit, nap), Ok(Ok(())));

        compute(&clock, 300);
        let begin = now();
        prepare_park();
        let woken = park_until("nobody", Some(deadline_after(limit)));
        assert_eq!(woken, Ok(Wakeup::TimedOut));
        assert!(now().saturating_since(begin) >= limit);

        compute(&clock, 300);
        let (begin, never) = (now(), Notify::new());
        let came = select! {
            _ = notified(never) => false,
            _ = after(limit) => true,
        };
        assert_eq!(came, Ok(true));
        assert!(now().saturating_since(begin) >= limit);
    });
}

#[test]
fn a_time_limit_that_passed_during_a_computation_has_passed_at_once() {
    in_virtual_time(|clock| {
        let at = deadline_after(Duration::from_millis(200));
        with_deadline(at, || {
            assert!(!is_past(at) && !is_cancelled());
            assert_eq!(time_left(at), Duration::from_millis(200));
            compute(&clock, 300);
            assert!(is_past(at) && is_cancelled());
            assert_eq!(time_left(at), Duration::ZERO);
            assert_eq!(yield_now(), Err(Stopped::Deadline));
        });
        let never = Notify::new();
        let come = select! {
            _ = notified(never) => false,
            _ = at(at) => true,
            default => false,
        };
        assert_eq!(come, Ok(true));
    });
}

#[test]
fn the_coarse_clock_never_shortens_a_limit_and_lengthens_it_little() {
    for seconds in [1, 5, 3600] {
        let length = Duration::from_secs(seconds);
        let before = Instant::system();
        let at = deadline_after(length);
        let left = time_left(at);
        let after = Instant::system();
        assert!(at >= before.saturating_add(length));
        // The coarse clock cannot be ahead of the exact one, so only its allowance of 10 ms is added.
        assert!(at <= after.saturating_add(length + Duration::from_millis(10)));
        assert!(left <= at.saturating_since(before));
        assert!(!is_past(at));
    }
    let soon = deadline_after(Duration::from_millis(2));
    while !is_past(soon) {}
    assert!(Instant::system() >= soon);
}

/// A driver with one operation, whose completion stays in the kernel until the driver is polled.
#[derive(Default)]
struct OneCompletion {
    waker: Rc<RefCell<Option<LocalWaker>>>,
    in_kernel: Rc<Cell<bool>>,
}

struct NoBell;

impl Bell for NoBell {
    fn ring(&self) {}
}

impl Driver for OneCompletion {
    fn turn(&self, _: Wait) -> io::Result<()> {
        if self.in_kernel.replace(false)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
        Ok(())
    }
    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(NoBell)
    }
    fn in_flight(&self) -> usize {
        0
    }
    fn cancel_all(&self) {}
    fn name(&self) -> &'static str {
        "one completion"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_completion_during_a_pause_of_the_process_wins_over_the_limit() {
    let time = Rc::new(Cell::new(0));
    let driver = OneCompletion::default();
    let (slot, in_kernel) = (driver.waker.clone(), driver.in_kernel.clone());
    let config = Config {
        clock: Clock::Manual(time.clone()),
        driver: Box::new(driver),
        ..Config::default()
    };
    let l = Loop::new(config).unwrap();
    let fiber = l.enter(|| {
        spawn(move || {
            *slot.borrow_mut() = Some(prepare_park());
            park_until(
                "a completion",
                Some(deadline_after(Duration::from_millis(100))),
            )
        })
    });
    assert!(matches!(l.tick().unwrap(), Tick::IdleUntil(Some(_))));
    // The process is stopped; meanwhile the operation completes, and the limit passes.
    in_kernel.set(true);
    time.set(2_000 * MS);
    while l.tick().unwrap() != Tick::Done {}
    assert_eq!(l.enter(|| fiber.join()).unwrap(), Ok(Wakeup::Woken));
}

/// A driver that returns from a wait without having polled the kernel, as a readiness driver does after callbacks.
#[derive(Default)]
struct AsksWhenPolled(OneCompletion);

impl Driver for AsksWhenPolled {
    fn turn(&self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Poll => self.0.turn(wait),
            Wait::Block(_) => Ok(()),
        }
    }
    fn bell(&self) -> Arc<dyn Bell> {
        self.0.bell()
    }
    fn in_flight(&self) -> usize {
        0
    }
    fn cancel_all(&self) {}
    fn name(&self) -> &'static str {
        "asks when polled"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_completion_during_a_computation_wins_over_the_limit() {
    // These numbers include the number of fibers after which a tick reads the clock.
    for others in 0..130 {
        let time = Rc::new(Cell::new(0));
        let driver = AsksWhenPolled::default();
        let (slot, in_kernel) = (driver.0.waker.clone(), driver.0.in_kernel.clone());
        let config = Config {
            clock: Clock::Manual(time.clone()),
            driver: Box::new(driver),
            ..Config::default()
        };
        let woken = Loop::new(config).unwrap().run(move || {
            let waiting = spawn(move || {
                *slot.borrow_mut() = Some(prepare_park());
                park_until(
                    "a completion",
                    Some(deadline_after(Duration::from_millis(100))),
                )
            });
            drop(spawn(move || {
                in_kernel.set(true);
                compute(&time, 300);
            }));
            (0..others).for_each(|_| drop(spawn(|| ())));
            waiting.join().unwrap()
        });
        assert_eq!(woken, Ok(Wakeup::Woken), "with {others} other fibers");
    }
}
