//! A callback of a loop cannot wait: the attempt panics, and the loop continues.

mod common;

use common::run;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::sync::select;
use yue_scheduler::*;

type Wait = Box<dyn Fn()>;

fn ignore<T>(_: T) {}

/// All waits open to plain threads as well as to fibers, each for something that only a fiber of this loop does.
fn waits() -> Vec<(&'static str, Wait)> {
    let here = this_loop::handle();
    let fiber = current_id();
    let mutex = Arc::new(sync::Mutex::new(()));
    let lock = mutex.clone();
    let seats = sync::Semaphore::new(0);
    let rwlock = sync::RwLock::new(());
    std::mem::forget(rwlock.write().unwrap());
    std::mem::forget(mutex.lock().unwrap());
    let notify = sync::Notify::new();
    let barrier = sync::Barrier::new(2);
    let (full, full_in) = sync::channel(1);
    full.send(1).unwrap();
    let (empty, empty_in) = sync::channel::<u8>(1);
    let (answer, question) = sync::oneshot::<u8>();
    let (guarded, condvar) = (sync::Mutex::new(()), sync::Condvar::new());
    let once = Rc::new(sync::OnceCell::<u8>::new());
    let making = once.clone();
    drop(spawn(move || {
        making
            .get_or_init(|| sleep(Duration::from_secs(3600)).map_or(0, |()| 1))
            .is_ok()
    }));
    let (spawned, listed, traced, timed) = (here.clone(), here.clone(), here.clone(), here);
    vec![
        ("mutex", Box::new(move || ignore(lock.lock()))),
        (
            "read",
            Box::new(move || ignore((rwlock.read().is_ok(), rwlock.write().is_ok()))),
        ),
        ("semaphore", Box::new(move || ignore(seats.acquire(1)))),
        ("notify", Box::new(move || ignore(notify.notified()))),
        ("barrier", Box::new(move || ignore(barrier.wait()))),
        (
            "send",
            Box::new(move || ignore((full.send(2), full_in.len()))),
        ),
        (
            "receive",
            Box::new(move || ignore((empty_in.recv(), empty.is_closed()))),
        ),
        (
            "oneshot",
            Box::new(move || ignore((question.recv(), answer.is_closed()))),
        ),
        (
            "condvar",
            Box::new(move || ignore(condvar.wait(guarded.lock().unwrap()))),
        ),
        ("once", Box::new(move || ignore(once.get_or_init(|| 2)))),
        (
            "select",
            Box::new(|| ignore(select::wait(&[&select::after(Duration::from_secs(3600))]))),
        ),
        (
            "join",
            Box::new(move || ignore(spawned.spawn(|| ()).join())),
        ),
        ("wait", Box::new(move || ignore(timed.spawn(|| ()).wait()))),
        ("cancel and join", {
            let here = this_loop::handle();
            Box::new(move || ignore(here.spawn(|| ()).cancel_and_join()))
        }),
        ("select of a join", {
            let here = this_loop::handle();
            Box::new(move || ignore(select::wait(&[&here.spawn(|| ()).join_branch()])))
        }),
        ("fibers", Box::new(move || ignore(listed.fibers()))),
        (
            "backtrace",
            Box::new(move || ignore(traced.backtrace(fiber))),
        ),
        ("blocking", Box::new(|| ignore(blocking(|| ())))),
        (
            "blocking_borrowed",
            Box::new(|| ignore(blocking_borrowed(|| ()))),
        ),
        (
            "wait_for_blocking",
            Box::new(|| ignore(wait_for_blocking(Duration::from_secs(3600)))),
        ),
    ]
}

/// Runs the waits in a callback that `have_called` registers with the loop. Returns their panic messages.
fn refusals(have_called: impl FnOnce(Box<dyn Fn()>)) -> Vec<(&'static str, Option<String>)> {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let (waits, log) = (waits(), messages.clone());
    let expected = waits.len();
    have_called(Box::new(move || {
        for (name, wait) in &waits {
            let refusal = catch_unwind(AssertUnwindSafe(wait)).err().map(|payload| {
                let text = payload.downcast_ref::<String>().cloned();
                text.or_else(|| {
                    payload
                        .downcast_ref::<&str>()
                        .map(|text| (*text).to_owned())
                })
                .unwrap()
            });
            log.borrow_mut().push((*name, refusal));
        }
    }));
    while messages.borrow().len() < expected {
        sleep(Duration::from_millis(1)).unwrap();
    }
    messages.take()
}

#[track_caller]
fn all_are_refused(refusals: Vec<(&'static str, Option<String>)>) {
    for (name, refusal) in refusals {
        let refusal = refusal.unwrap_or_else(|| panic!("{name}: it did not panic"));
        assert!(refusal.contains("callback"), "{name}: {refusal}");
    }
}

#[test]
fn a_timer_that_waits_panics_and_the_loop_continues() {
    run(|| {
        let kept = Rc::new(RefCell::new(None));
        let slot = kept.clone();
        all_are_refused(refusals(move |call| {
            let timer = Timer::new(call);
            timer.arm(now());
            *slot.borrow_mut() = Some(timer);
        }));
        assert_eq!(spawn(|| 7).join().unwrap(), 7);
    });
}

#[test]
fn an_end_of_tick_callback_that_waits_panics() {
    struct Calls(Box<dyn Fn()>);
    impl TickEnd for Calls {
        fn tick_end(&self) {
            (self.0)();
        }
    }
    run(|| {
        all_are_refused(refusals(|call| {
            this_loop::at_tick_end(Rc::new(Calls(call)))
        }))
    });
}

#[test]
fn a_closure_sent_to_the_loop_cannot_wait() {
    run(|| {
        let (mutex, result) = (Arc::new(sync::Mutex::new(0)), sync::oneshot());
        let guard = mutex.lock().unwrap();
        let (lock, send) = (mutex.clone(), result.0);
        this_loop::handle().run(move || {
            let refused = catch_unwind(AssertUnwindSafe(|| lock.lock().is_ok())).is_err();
            send.send(refused).unwrap();
        });
        assert_eq!(result.1.recv(), Ok(true));
        drop(guard);
    });
}

#[test]
fn operations_that_need_not_wait_work_in_a_callback() {
    run(|| {
        let done = this_loop::handle().spawn(|| 7);
        while !done.is_done() {
            yield_now().unwrap();
        }
        let (mutex, result) = (sync::Mutex::new(1), Rc::new(RefCell::new(None)));
        let (slot, done) = (result.clone(), RefCell::new(Some(done)));
        let timer = Timer::new(move || {
            let joined = done.take().map(|done| done.join().unwrap());
            *slot.borrow_mut() = joined.map(|joined| joined + *mutex.lock().unwrap());
        });
        timer.arm(now());
        while result.borrow().is_none() {
            sleep(Duration::from_millis(1)).unwrap();
        }
        assert_eq!(result.take(), Some(8));
    });
}
