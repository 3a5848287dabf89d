//! Calls outside a runtime: the panic points at the caller, and names what would help.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;
use yue_scheduler::sync::{local, select};
use yue_scheduler::*;

thread_local! {
    /// The message of the last panic of this thread, if its place is in this file.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Whether a panic is what the test expects.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Makes panics leave their message in `LAST`.
fn record_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                return before(info);
            }
            let here = info.location().filter(|at| at.file() == file!());
            let text = info.payload_as_str().unwrap_or("").to_owned();
            LAST.set(here.map(|_| text));
        }));
    });
}

/// Checks that `call` panics in this file, where it is called, with these texts.
fn panics_with(texts: &[&str], what: &str, call: impl FnOnce()) {
    record_panics();
    LAST.set(None);
    EXPECTED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    EXPECTED.set(false);
    assert!(outcome.is_err(), "{what}: no panic");
    let Some(text) = LAST.take() else {
        panic!("{what}: the panic does not point at its caller");
    };
    for expected in texts {
        assert!(text.contains(expected), "{what}: {text}");
    }
}

/// Checks that each call panics in this file, with these texts.
macro_rules! panics {
    ($texts:expr; $($call:expr;)+) => {
        $(panics_with(&$texts, stringify!($call), || {
            _ = $call;
        });)+
    };
}

#[test]
fn a_panic_outside_a_runtime_points_at_the_caller_and_names_the_runtime() {
    fiber_local!(static NUMBER: u32 = 1);
    let second = Duration::from_secs(1);
    panics! {
        ["`Runtime::run`", "`Loop::run`"];
        spawn(|| ());
        Builder::new().spawn(|| ());
        sleep(second);
        sleep_until(now());
        yield_now();
        yield_if_allowed();
        prepare_park();
        park("nothing");
        park_until("nothing", None);
        park_uninterruptible("nothing");
        refuse_call(Stopped::Cancelled);
        current_id();
        stack_limit();
        set_context(None);
        set_priority(Priority::High);
        shield(|| ());
        timeout(second, || ());
        with_deadline(now(), || ());
        CancelScope::new().enter(|| ());
        block_on(std::future::ready(1));
        Timer::new(|| ()).arm(now());
        NUMBER.with(|number| *number);
        scope(|scope| scope.live());
        JoinSet::<()>::new().spawn(|| ());
        this_loop::id();
        this_loop::handle();
        this_loop::group();
        this_loop::counters();
        this_loop::fibers();
        this_loop::with_driver(|_| ());
        this_loop::shutdown_requested();
        this_loop::request_shutdown();
        this_loop::wait_for_shutdown();
        this_loop::set_idle_hook(|| false);
        this_loop::clear_idle_hook();
        local::channel::<u32>(1).1.recv();
        local::oneshot::<u32>().1.recv();
        local::Notify::new().notified();
        local::Semaphore::new(0).acquire(1);
        local::Barrier::new(2).wait();
        select::wait(&[&local::Notify::new().notified_branch()]);
    };
}

#[test]
fn a_panic_in_a_callback_points_at_the_caller_and_names_spawn() {
    let event_loop = Loop::new(Config::default()).unwrap();
    event_loop.enter(|| {
        panics! {
            ["a callback", "`spawn`"];
            sleep(Duration::ZERO);
            yield_now();
            shield(|| ());
            scope(|scope| scope.live());
        };
    });
}

#[test]
fn a_panic_where_suspension_is_forbidden_points_at_the_caller() {
    Loop::new(Config::default()).unwrap().run(|| {
        no_suspend(|| {
            panics! {
                ["no_suspend"];
                yield_now();
                sleep(Duration::ZERO);
                local::Notify::new().notified();
            };
        });
    });
}
