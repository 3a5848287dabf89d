//! One branch in two selects, and a readiness that breaks its contract: a panic with a message, and no other harm.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use yue_scheduler::sync::select::{self, AnyBranch, Branch, Readiness, Signal};
use yue_scheduler::sync::{self, local};
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(60);

/// Returns the message of the panic of `call`.
#[track_caller]
fn panic_of<T>(call: impl FnOnce() -> T) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(call)) else {
        panic!("it did not panic");
    };
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
    })
    .unwrap()
}

const OCCUPIED: &str = "a select already waits for this branch";

/// A readiness that is never ready, and stores the signal.
#[derive(Default)]
struct Never(Rc<RefCell<Option<Signal>>>);

impl Readiness for Never {
    type Output = ();
    fn poll(&mut self) -> Option<()> {
        None
    }
    fn watch(&mut self, signal: Signal) {
        *self.0.borrow_mut() = Some(signal);
    }
    fn unwatch(&mut self) {
        *self.0.borrow_mut() = None;
    }
}

#[test]
fn a_branch_named_twice_in_a_select_is_refused_and_leaves_its_queue() {
    run(|| {
        let notify = local::Notify::new();
        let (sender, receiver) = sync::channel::<u32>(1);
        let mut joined = spawn(|| sleep(LONG));
        {
            let branches: [Box<dyn AnyBranch>; 4] = [
                Box::new(notify.notified_branch()),
                Box::new(receiver.recv_branch()),
                Box::new(select::ready(Never::default())),
                Box::new(select::after(LONG)),
            ];
            for branch in &branches {
                let text = panic_of(|| select::wait(&[&**branch, &**branch]));
                assert!(text.contains(OCCUPIED), "{text}");
            }
            let join = joined.join_branch();
            let text = panic_of(|| select::wait(&[&join, &Some(select::after(LONG)), &join]));
            assert!(text.contains(OCCUPIED), "{text}");
            // The branches are free again, and work.
            sender.send(7).unwrap();
            let all: Vec<&dyn AnyBranch> = branches.iter().map(|branch| &**branch).collect();
            assert_eq!(select::wait(&all), Ok(1));
        }
        // The branches' memory is reused by now.
        let filler: Vec<_> = (0..64).map(|_| Box::new([0xaa_u8; 64])).collect();
        notify.notify_one();
        assert!(notify.try_notified(), "without a waiter it is stored");
        drop(filler);
        assert!(joined.cancel_and_join().unwrap().is_err());
    });
}

/// Shares `branch` between two fibers that select on it at once: the second panics, the first continues.
fn share<B: Branch>(branch: &B, ready: impl FnOnce()) {
    scope(|s| {
        let first = s.spawn(|| select::wait(&[branch, &select::after(LONG)]));
        yield_now().unwrap();
        for _ in 0..2 {
            let text = panic_of(|| select::wait(&[branch, &select::after(LONG)]));
            assert!(text.contains(OCCUPIED), "{text}");
            let text = panic_of(|| select::poll(&[branch]));
            assert!(text.contains(OCCUPIED), "{text}");
        }
        ready();
        assert_eq!(first.join().unwrap(), Ok(0));
        assert!(branch.take().is_some());
    });
}

#[test]
fn a_branch_shared_by_two_fibers_stays_with_the_one_that_waits() {
    run(|| {
        let notify = local::Notify::new();
        share(&notify.notified_branch(), || notify.notify_one());
        let (sender, receiver) = sync::channel(1);
        share(&receiver.recv_branch(), || sender.send(1).unwrap());
        let seats = sync::Semaphore::new(0);
        share(&seats.acquire_branch(2), || seats.add(2));
        let gate = Rc::new(local::Notify::new());
        let through = gate.clone();
        let mut joined = spawn(move || through.notified());
        share(&joined.join_branch(), || gate.notify_one());
        let soon = select::after(Duration::from_millis(5));
        share(&soon, || ());
    });
}

#[test]
fn a_readiness_that_begins_another_wait_in_watch_panics() {
    struct Asks(fn());
    impl Readiness for Asks {
        type Output = ();
        fn poll(&mut self) -> Option<()> {
            None
        }
        fn watch(&mut self, signal: Signal) {
            (self.0)();
            signal.raise();
        }
        fn unwatch(&mut self) {}
    }
    run(|| {
        let waits: [fn(); 3] = [
            || _ = prepare_park(),
            || _ = sleep(Duration::from_millis(1)),
            || _ = select::poll(&[&select::after(LONG), &select::after(LONG)]),
        ];
        for wait in waits {
            let text = panic_of(|| select::wait(&[&select::ready(Asks(wait))]));
            assert!(text.contains("began another wait"), "{text}");
        }
    });
}

#[test]
fn a_panic_in_unwatch_leaves_no_other_branch_in_its_queue() {
    struct Panics;
    impl Readiness for Panics {
        type Output = ();
        fn poll(&mut self) -> Option<()> {
            None
        }
        fn watch(&mut self, _: Signal) {}
        fn unwatch(&mut self) {
            panic!("on purpose, in unwatch");
        }
    }
    run(|| {
        let (notify, seats) = (local::Notify::new(), sync::Semaphore::new(0));
        let (before, after) = (notify.notified_branch(), seats.acquire_branch(1));
        let panics = select::ready(Panics);
        for _ in 0..2 {
            let soon = select::after(Duration::from_millis(1));
            let text = panic_of(|| select::wait(&[&before, &panics, &after, &soon]));
            assert!(text.contains("on purpose"), "{text}");
        }
        // No waiter is left in any queue.
        notify.notify_one();
        seats.add(1);
        assert_eq!((notify.try_notified(), seats.available()), (true, 1));
        assert_eq!(select::poll(&[&before]), Ok(None));
        assert_eq!(select::poll(&[&after]), Ok(Some(0)));
    });
}

thread_local! {
    /// A branch that outlives the fiber whose select waits for it, but not the thread.
    static KEPT: Cell<Option<Box<dyn AnyBranch>>> = const { Cell::new(None) };
}

/// Makes a fiber that will be abandoned wait for `branch`, which lies in a thread-local, and ends the thread.
fn abandon_a_select_on(
    branch: impl FnOnce() -> Box<dyn AnyBranch> + Send + 'static,
    meanwhile: impl FnOnce() + Send + 'static,
) {
    let thread = thread::spawn(move || {
        let one = Loop::new(Config::default()).unwrap();
        one.enter(|| {
            drop(spawn(move || {
                KEPT.set(Some(branch()));
                KEPT.with(|kept| {
                    // SAFETY: the cell is not written before the thread ends.
                    let branch = unsafe { (*kept.as_ptr()).as_deref().unwrap() };
                    select::wait(&[branch])
                })
            }));
        });
        one.tick().unwrap();
        meanwhile();
        drop(one);
    });
    thread.join().unwrap();
}

#[test]
fn a_branch_dropped_after_its_select_was_abandoned_leaves_its_queue() {
    static NOTIFY: sync::Notify = sync::Notify::new();
    static SEATS: sync::Semaphore = sync::Semaphore::new(0);
    abandon_a_select_on(|| Box::new(NOTIFY.notified_branch()), || ());
    NOTIFY.notify_one();
    assert!(NOTIFY.try_notified(), "without a waiter it is stored");
    // A grant made before that is handed on.
    abandon_a_select_on(|| Box::new(SEATS.acquire_branch(3)), || SEATS.add(3));
    assert_eq!(SEATS.available(), 3);
}
