//! Memory lent by abandoned fibers: it stays valid, and the thread does not end before the loans are returned.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

/// Short, so that fibers are abandoned soon.
const STOP_GRACE: Duration = Duration::from_millis(50);

fn config() -> Config {
    Config {
        stop_grace: STOP_GRACE,
        ..Config::default()
    }
}

/// Blocks a thread, of the pool or a scoped one, until the flag is set.
fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Suspends until the flag is set.
fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1)).unwrap();
    }
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fiber_local! {
    static OWN: RefCell<Vec<Counted>> = RefCell::default();
}

#[test]
fn an_abandoned_fiber_keeps_its_fiber_locals_and_drops_its_context() {
    let (begun, open) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (locals, contexts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (sender, receiver) = mpsc::channel();
    let (local, context) = (locals.clone(), contexts.clone());
    let (inside, gate) = (begun.clone(), open.clone());
    let ((), report) = Loop::new(config()).unwrap().run_reported(move || {
        drop(spawn(move || {
            set_context(Some(Rc::new(Counted(context))));
            OWN.with(|own| {
                own.borrow_mut().push(Counted(local));
                let own = own.borrow();
                let counter: &AtomicUsize = &own[0].0;
                blocking_borrowed(|| {
                    inside.store(true, Ordering::SeqCst);
                    wait_for(&gate);
                    sender.send(counter.load(Ordering::SeqCst)).unwrap();
                })
            })
        }));
        until(&begun);
    });
    assert_eq!(report.fibers_abandoned, 1);
    assert_eq!(
        (
            locals.load(Ordering::SeqCst),
            contexts.load(Ordering::SeqCst)
        ),
        (0, 1)
    );
    open.store(true, Ordering::SeqCst);
    assert_eq!(receiver.recv(), Ok(0));
}

#[test]
fn a_scoped_thread_that_borrows_a_fiber_local_finds_it_after_its_fiber_was_abandoned() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = mpsc::channel();
    let (open, dropped) = (Arc::new(AtomicBool::new(false)), drops.clone());
    let gate = open.clone();
    let ((), report) = Loop::new(config()).unwrap().run_reported(move || {
        drop(spawn(move || {
            OWN.with(|own| {
                own.borrow_mut().push(Counted(dropped));
                let own = own.borrow();
                let lent: &AtomicUsize = &own[0].0;
                thread::scope(|threads| {
                    threads.spawn(move || {
                        wait_for(&gate);
                        sender.send(lent.load(Ordering::SeqCst)).unwrap();
                    });
                    park_uninterruptible("for ever");
                });
            });
        }));
        yield_now().unwrap();
    });
    assert_eq!(report.fibers_abandoned, 1);
    open.store(true, Ordering::SeqCst);
    assert_eq!((receiver.recv(), drops.load(Ordering::SeqCst)), (Ok(0), 0));
}

/// A thread-local that reports, when it is destroyed, whether its borrower had ended.
struct Lent {
    over: Arc<AtomicBool>,
    seen: mpsc::Sender<bool>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.seen.send(self.over.load(Ordering::SeqCst)).unwrap();
    }
}

/// Reports, when it is destroyed, that the destructors of its thread have begun.
struct Last(mpsc::Sender<()>);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

thread_local! {
    static LENT: RefCell<Option<Lent>> = const { RefCell::new(None) };
    static LAST: Cell<Option<Last>> = const { Cell::new(None) };
    static NEWER: RefCell<Option<Lent>> = const { RefCell::new(None) };
}

/// Abandons a fiber that has lent a thread-local to a blocking call, which lasts until `open` is set. Returns whether
/// the call has ended by then.
fn lend(
    local: &'static thread::LocalKey<RefCell<Option<Lent>>>,
    seen: mpsc::Sender<bool>,
    open: Arc<AtomicBool>,
    ending: impl FnOnce(),
) -> bool {
    let over = Arc::new(AtomicBool::new(false));
    local.set(Some(Lent {
        over: over.clone(),
        seen,
    }));
    let begun = Arc::new(AtomicBool::new(false));
    let (inside, is_over) = (begun.clone(), over.clone());
    let body = move || {
        drop(spawn(move || {
            local.with(|lent| {
                let lent = lent.borrow();
                let over: &AtomicBool = &lent.as_ref().unwrap().over;
                blocking_borrowed(|| {
                    inside.store(true, Ordering::SeqCst);
                    wait_for(&open);
                    over.store(true, Ordering::SeqCst);
                })
            })
        }));
        until(&begun);
    };
    let config = Config {
        // The thread's end waits for a multiple of it.
        stop_grace: Duration::from_secs(2),
        ..Config::default()
    };
    let one = Loop::new(config).unwrap();
    // Ticked manually and dropped, so that the fiber is abandoned at once.
    let main = one.enter(|| spawn(body));
    while !main.is_done() {
        one.tick().unwrap();
    }
    ending();
    drop(one);
    is_over.load(Ordering::SeqCst)
}

#[test]
fn a_thread_does_not_end_while_a_blocking_call_uses_its_thread_local() {
    let (seen, has_seen) = mpsc::channel();
    let (ending, has_begun_to_end) = mpsc::channel();
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let thread = thread::spawn(move || {
        let waited = lend(&LENT, seen, gate, || ());
        // Created last, and so destroyed first.
        LAST.set(Some(Last(ending)));
        waited
    });
    has_begun_to_end.recv().unwrap();
    open.store(true, Ordering::SeqCst);
    assert_eq!(has_seen.recv(), Ok(true));
    assert!(!thread.join().unwrap(), "the loop has already ended");
}

#[test]
fn the_end_of_a_second_loop_of_a_thread_waits_for_its_loans_itself() {
    let (seen, has_seen) = mpsc::channel();
    let (first, second) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (gates, left) = ((first.clone(), second.clone()), seen.clone());
    let (ending, is_ending) = mpsc::channel();
    let thread = thread::spawn(move || {
        let waited = lend(&LENT, left, gates.0, || ());
        // This one is created after that, so it would be destroyed before the thread's end waits.
        let waited_too = lend(&NEWER, seen, gates.1, || ending.send(()).unwrap());
        (waited, waited_too)
    });
    is_ending.recv().unwrap();
    second.store(true, Ordering::SeqCst);
    first.store(true, Ordering::SeqCst);
    assert_eq!(thread.join().unwrap(), (false, true));
    assert_eq!([has_seen.recv(), has_seen.recv()], [Ok(true), Ok(true)]);
}

/// A driver with one operation on a fiber's memory, which ends after enough polls.
struct Kernel {
    turns_left: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Driver for Kernel {
    fn turn(&self, wait: Wait) -> io::Result<()> {
        SleepDriver::new().turn(wait)?;
        if self.turns_left.load(Ordering::SeqCst) == 0 {
            self.over.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Bell> {
        SleepDriver::new().bell()
    }

    fn in_flight(&self) -> usize {
        usize::from(!self.over.load(Ordering::SeqCst))
    }

    fn cancel_all(&self) {
        let _ = self
            .turns_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
    }

    fn name(&self) -> &'static str {
        "kernel"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_thread_does_not_end_while_the_kernel_uses_its_thread_local() {
    let (seen, has_seen) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    // More than the end of the loop polls by itself.
    let turns_left = Arc::new(AtomicUsize::new(1_000));
    let driver = Kernel {
        turns_left: turns_left.clone(),
        over: over.clone(),
    };
    thread::spawn(move || {
        LENT.set(Some(Lent { over, seen }));
        let config = Config {
            driver: Box::new(driver),
            stop_grace: Duration::from_secs(60),
            ..Config::default()
        };
        let one = Loop::new(config).unwrap();
        one.enter(|| drop(spawn(|| park_uninterruptible("the kernel"))));
        one.tick().unwrap();
        drop(one);
    });
    assert_eq!(has_seen.recv(), Ok(true));
    assert_eq!(turns_left.load(Ordering::SeqCst), 0);
}

#[test]
fn a_thread_that_cannot_end_aborts_the_process_with_a_message() {
    let name = "a_thread_that_cannot_end_aborts_the_process_with_a_message";
    if env::var_os("YUE_ABANDONED").is_some() {
        let thread = thread::Builder::new().name("worker".to_owned()).spawn(|| {
            let ((), report) = Loop::new(config()).unwrap().run_reported(|| {
                let begun = Arc::new(AtomicBool::new(false));
                let inside = begun.clone();
                drop(spawn(move || {
                    blocking_borrowed(|| {
                        inside.store(true, Ordering::SeqCst);
                        loop {
                            thread::park();
                        }
                    })
                }));
                until(&begun);
            });
            eprintln!("abandoned: {}", report.fibers_abandoned);
        });
        let _ = thread.unwrap().join();
        eprintln!("the thread has ended");
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("YUE_ABANDONED", "1")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{words}");
    for expected in [
        "abandoned: 1",
        "thread 'worker' cannot end",
        "0 operations of the kernel and 1 blocking calls",
    ] {
        assert!(words.contains(expected), "no {expected:?} in {words}");
    }
    assert!(!words.contains("the thread has ended"), "{words}");
}

/// Never ends.
struct Stuck;

impl Drop for Stuck {
    fn drop(&mut self) {
        park_uninterruptible("for ever, in a drop");
    }
}

fiber_local! {
    static STUCK: Stuck = Stuck;
}

#[test]
fn a_fibers_result_is_kept_when_the_fiber_is_abandoned_in_a_drop() {
    let one = Loop::new(config()).unwrap();
    let handle = one.handle();
    let answer = one.run(move || {
        let answer = handle.spawn(|| STUCK.with(|_| 42));
        while !answer.is_done() {
            yield_now().unwrap();
        }
        answer
    });
    assert_eq!(answer.join().unwrap(), 42);
}

#[test]
fn the_drop_of_an_abandoned_fibers_context_may_panic() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose, in a drop");
        }
    }
    let ended = catch_unwind(AssertUnwindSafe(|| {
        Loop::new(config()).unwrap().run(|| {
            drop(spawn(|| {
                set_context(Some(Rc::new(Panics)));
                park_uninterruptible("for ever");
            }));
            yield_now().unwrap();
        });
    }));
    assert!(ended.is_ok());
}
