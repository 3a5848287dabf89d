//! Program code that misbehaves at the end of things: drops that panic, loops that end early or in odd places.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);

fn short_grace() -> Config {
    Config {
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    }
}

/// Counts its drops and panics in each.
#[derive(Clone, Default)]
struct PanicsInDrop(Rc<Cell<u32>>);

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        panic!("on purpose, in a drop");
    }
}

#[test]
fn a_closure_that_panics_in_its_drop_is_dropped_once() {
    let drops = Rc::new(Cell::new(0));
    let one = Loop::new(Config::default()).unwrap();
    one.enter(|| {
        for _ in 0..3 {
            let owned = PanicsInDrop(drops.clone());
            drop(spawn(move || drop(owned)));
        }
    });
    drop(one);
    assert_eq!(drops.get(), 3);
}

#[test]
fn a_result_a_context_and_a_callback_that_panic_in_their_drop_leave_the_loop_running() {
    struct End(#[allow(dead_code)] PanicsInDrop);
    impl TickEnd for End {
        fn tick_end(&self) {}
    }
    Loop::new(Config::default()).unwrap().run(|| {
        let drops = Rc::new(Cell::new(0));
        let owned = || PanicsInDrop(drops.clone());
        let result = owned();
        drop(spawn(move || result));
        let context = owned();
        drop(spawn(move || set_context(Some(Rc::new(context)))));
        this_loop::at_tick_end(Rc::new(End(owned())));
        let captured = owned();
        let timer = Timer::new(move || {
            let _ = &captured;
        });
        let slot = Rc::new(RefCell::new(None));
        let copy = slot.clone();
        let outer = Timer::new(move || drop(copy.take()));
        timer.arm(now());
        outer.arm(now());
        *slot.borrow_mut() = Some(timer);
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!((drops.get(), this_loop::counters().panics), (4, 4));
    });
}

#[test]
fn a_payload_that_panics_in_its_drop_and_a_panicking_hook_leave_the_loop_running() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic_any(Payload);
        }
    }
    let config = Config {
        on_panic: Some(Box::new(|_, _| panic!("the hook, too"))),
        ..Config::default()
    };
    Loop::new(config).unwrap().run(|| {
        drop(spawn(|| panic_any(Payload)));
        yield_now().unwrap();
        assert_eq!(spawn(|| 7).join().unwrap(), 7);
        assert_eq!(this_loop::counters().fibers, 1);
    });
}

#[test]
fn a_loop_dropped_in_a_fiber_of_another_loop_abandons_its_fibers() {
    let waker = Loop::new(Config::default()).unwrap();
    let unwound = Rc::new(Cell::new(0));
    let never_ran = Rc::new(());
    waker.enter(|| {
        let unwound = PanicsInDrop(unwound.clone());
        drop(spawn(move || {
            let _unwound = unwound;
            park_uninterruptible("for ever");
        }));
    });
    while waker.tick().unwrap() == Tick::Runnable {}
    let owned = never_ran.clone();
    waker.enter(|| drop(spawn(move || drop(owned))));
    let handle = waker.handle();
    Loop::new(Config::default()).unwrap().run(move || {
        drop(waker);
        assert!(in_fiber());
        assert_eq!(spawn(|| 7).join().unwrap(), 7);
    });
    assert_eq!((unwound.get(), Rc::strong_count(&never_ran)), (0, 1));
    assert!(matches!(
        handle.spawn(|| ()).join(),
        Err(JoinError::LoopGone)
    ));
}

#[test]
fn a_wait_for_a_fiber_of_another_loop_of_the_thread_ends_with_that_loop() {
    let other = Loop::new(Config::default()).unwrap();
    let park_for_ever = || {
        park_uninterruptible("for ever");
        1
    };
    let mut set = JoinSet::new();
    let (joined, mut selected) = other.enter(|| {
        set.spawn(park_for_ever);
        (spawn(park_for_ever), spawn(park_for_ever))
    });
    while other.tick().unwrap() == Tick::Runnable {}
    Loop::new(Config::default()).unwrap().run(move || {
        let waiting = [
            spawn(move || joined.join()),
            spawn(move || select! { result = join(selected) => result }.unwrap()),
            spawn(move || set.join_next().unwrap().unwrap()),
        ];
        yield_now().unwrap();
        drop(other);
        for fiber in waiting {
            let result = timeout(LONG, || fiber.join().unwrap()).unwrap();
            assert!(matches!(result, Err(JoinError::LoopGone)));
        }
    });
}

#[test]
fn a_value_dropped_at_the_end_of_a_loop_cannot_spawn() {
    struct Spawns(Rc<Cell<Option<bool>>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            self.0.set(Some(Builder::new().spawn(|| ()).is_ok()));
        }
    }
    let seen = Rc::new(Cell::new(None));
    let one = Loop::new(Config::default()).unwrap();
    let owned = Spawns(seen.clone());
    one.enter(|| drop(spawn(move || drop(owned))));
    drop(one);
    assert_eq!(seen.get(), Some(false));
}

#[test]
fn the_join_of_an_abandoned_fiber_reports_it() {
    let (sender, receiver) = mpsc::channel();
    let (started, has_started) = mpsc::channel();
    let thread = thread::spawn(move || {
        let one = Loop::new(short_grace()).unwrap();
        sender.send(one.handle()).unwrap();
        let main = || {
            let kept = spawn(|| park_uninterruptible("for ever"));
            this_loop::wait_for_shutdown().unwrap();
            kept
        };
        let (kept, report) = one.run_reported(main);
        assert!(matches!(kept.join(), Err(JoinError::LoopGone)));
        report
    });
    let handle = receiver.recv().unwrap();
    let remote = handle.spawn(move || {
        started.send(()).unwrap();
        park_uninterruptible("for ever");
    });
    has_started.recv().unwrap();
    handle.shutdown();
    assert!(matches!(remote.join(), Err(JoinError::LoopGone)));
    assert_eq!(thread.join().unwrap().fibers_abandoned, 2);
}

#[test]
fn a_panic_of_a_remotely_spawned_fiber_is_counted_and_reaches_the_hook() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let hook = seen.clone();
    let config = Config {
        on_panic: Some(Box::new(move |_, text| {
            hook.borrow_mut().push(text.to_owned())
        })),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    let joined = one.handle().spawn(|| panic!("joined"));
    drop(one.handle().spawn(|| panic!("detached")));
    while one.tick().unwrap() != Tick::Done {}
    assert!(matches!(joined.join(), Err(JoinError::Panicked(_))));
    assert_eq!(one.counters().panics, 2);
    assert_eq!(*seen.borrow(), ["detached"]);
}

/// A driver with operations that end when they are cancelled and then polled.
struct Operations {
    sleep: SleepDriver,
    left: Cell<usize>,
    cancelled: Cell<bool>,
    late: RefCell<Option<Box<dyn FnOnce()>>>,
    rings: Arc<AtomicU32>,
}

impl Operations {
    fn new(left: usize, late: impl FnOnce() + 'static) -> Operations {
        Operations {
            sleep: SleepDriver::new(),
            left: Cell::new(left),
            cancelled: Cell::new(false),
            late: RefCell::new(Some(Box::new(late))),
            rings: Arc::default(),
        }
    }
}

struct CountingBell(Arc<AtomicU32>);

impl Bell for CountingBell {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Driver for Operations {
    fn turn(&self, wait: Wait) -> io::Result<()> {
        if self.cancelled.get() && self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            if let Some(late) = self.late.take() {
                late();
            }
            return Ok(());
        }
        self.sleep.turn(wait)
    }

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(CountingBell(self.rings.clone()))
    }

    fn in_flight(&self) -> usize {
        self.left.get()
    }

    fn cancel_all(&self) {
        self.cancelled.set(true);
    }

    fn name(&self) -> &'static str {
        "operations"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn shutdown_waits_for_operations_and_runs_fibers_spawned_by_their_completions() {
    let ran = Rc::new(Cell::new(false));
    let copy = ran.clone();
    let late = move || drop(spawn(move || copy.set(true)));
    let config = Config {
        driver: Box::new(Operations::new(3, late)),
        ..Config::default()
    };
    let ((), report) = Loop::new(config).unwrap().run_reported(|| ());
    assert_eq!((report, ran.get()), (StopReport::default(), true));
}

#[test]
fn between_manual_ticks_a_message_rings_the_bell_and_makes_the_loop_runnable() {
    let driver = Operations::new(0, || ());
    let rings = driver.rings.clone();
    let config = Config {
        driver: Box::new(driver),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    assert_eq!(one.tick().unwrap(), Tick::Done);
    let handle = one.handle();
    let joined = handle.spawn(|| 7);
    handle.run(|| ());
    assert_eq!(rings.load(Ordering::Relaxed), 1, "one ring for both");
    let again = one.handle();
    one.enter(|| drop(spawn(move || drop(again.spawn(|| ())))));
    assert_eq!(one.tick().unwrap(), Tick::Runnable, "its own message");
    assert_eq!(rings.load(Ordering::Relaxed), 1);
    while one.tick().unwrap() != Tick::Done {}
    assert_eq!(joined.join().unwrap(), 7);
    assert_eq!(one.counters().spawned, 3);
}

#[test]
fn a_loop_cannot_tick_inside_its_own_tick() {
    let one = Rc::new(Loop::new(short_grace()).unwrap());
    let inner = one.clone();
    let in_fiber = one.enter(|| spawn(move || inner.tick().is_ok()));
    let inner = Rc::downgrade(&one);
    let timer = Timer::new(move || {
        let _ = inner.upgrade().map(|one| one.tick());
    });
    one.enter(|| timer.arm(now()));
    let sleeper = one.enter(|| spawn(|| sleep(Duration::from_millis(1))));
    while one.counters().fibers > 0 {
        one.tick().unwrap();
    }
    assert!(matches!(in_fiber.join(), Err(JoinError::Panicked(_))));
    assert_eq!(sleeper.join().unwrap(), Ok(()));
    assert_eq!(one.counters().panics, 2);
}

#[test]
fn an_idle_hook_may_wake_a_fiber() {
    Loop::new(Config::default()).unwrap().run(|| {
        let waker = Rc::new(Cell::new(Some(prepare_park())));
        let copy = waker.clone();
        this_loop::set_idle_hook(move || {
            copy.take().map(LocalWaker::wake);
            false
        });
        let limit = now().saturating_add(LONG);
        assert_eq!(park_until("the idle hook", Some(limit)), Ok(Wakeup::Woken));
        this_loop::clear_idle_hook();
    });
}
