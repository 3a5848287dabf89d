//! Blocking calls on the pool of threads. The process has one pool, so these tests take turns.

mod common;

use common::run;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);
/// A wait that takes longer has failed, on any machine.
const WAIT_MAX: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(2);

/// Keeps other tests out, and restores the limits when dropped.
struct Turn(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Drop for Turn {
    fn drop(&mut self) {
        set_blocking_limits(BlockingLimits::default());
        assert_eq!(wait_for_blocking(LONG), 0);
    }
}

fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    Turn(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits in a fiber until the condition holds.
fn until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < WAIT_MAX, "the condition was never met");
        sleep(SHORT).unwrap();
    }
}

/// A gate at which a closure on a thread waits.
#[derive(Clone, Default)]
struct Gate {
    reached: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn pass(&self) {
        self.reached.store(true, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_closure_runs_on_another_thread_while_the_loop_continues() {
    let _turn = turn();
    run(|| {
        let gate = Gate::default();
        let inside = gate.clone();
        let caller = spawn(move || {
            blocking(move || {
                inside.pass();
                thread::current().id()
            })
        });
        until(|| gate.is_reached());
        gate.open();
        let id = caller.join().unwrap().unwrap();
        assert_ne!(id, thread::current().id());
    });
}

#[test]
fn a_panic_resumes_in_the_caller_with_its_payload() {
    let _turn = turn();
    run(|| {
        let mut touched = false;
        for _ in 0..2 {
            let fiber = spawn(|| blocking(|| std::panic::panic_any(7_u32)));
            let Err(JoinError::Panicked(payload)) = fiber.join() else {
                panic!("it did not panic")
            };
            assert_eq!(payload.downcast_ref::<u32>(), Some(&7));
        }
        let caught = catch_unwind(AssertUnwindSafe(|| {
            blocking_borrowed(|| {
                touched = true;
                std::panic::panic_any(8_u32);
            })
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<u32>(), Some(&8));
        assert!(touched);
        assert_eq!(blocking(|| 9).unwrap(), 9);
    });
}

#[test]
fn a_fiber_stopped_before_its_closure_began_takes_it_back() {
    let _turn = turn();
    set_blocking_limits(BlockingLimits::default().threads(1));
    run(|| {
        let gate = Gate::default();
        let inside = gate.clone();
        let first = spawn(move || blocking(move || inside.pass()));
        until(|| gate.is_reached());
        let drops = Arc::new(AtomicUsize::new(0));
        let owned = Counted(drops.clone());
        let elapsed = timeout(SHORT, || blocking(move || drop(owned)));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(matches!(elapsed, Err(Elapsed)));
        let mut ran = false;
        let refused = with_deadline(now(), || blocking_borrowed(|| ran = true));
        assert!(matches!(
            refused,
            Err(BlockingError::Stopped(Stopped::Deadline))
        ));
        assert!(!ran);
        assert_eq!(blocking_counters().queued, 0);
        gate.open();
        first.join().unwrap().unwrap();
    });
}

#[test]
fn an_owning_closure_is_detached_and_its_result_is_dropped() {
    let _turn = turn();
    run(|| {
        let gate = Gate::default();
        let inside = gate.clone();
        let drops = Arc::new(AtomicUsize::new(0));
        let result = Counted(drops.clone());
        let caller = spawn(move || {
            blocking(move || {
                inside.pass();
                result
            })
            .map(drop)
        });
        until(|| gate.is_reached());
        caller.cancel();
        assert!(matches!(
            caller.join().unwrap(),
            Err(BlockingError::Stopped(Stopped::Cancelled))
        ));
        assert_eq!(
            (blocking_counters().left, drops.load(Ordering::SeqCst)),
            (1, 0)
        );
        gate.open();
        until(|| drops.load(Ordering::SeqCst) == 1);
        until(|| blocking_counters().left == 0);
    });
}

#[test]
fn a_borrowing_closure_is_waited_for_and_its_result_is_returned() {
    let _turn = turn();
    run(|| {
        let gate = Gate::default();
        let inside = gate.clone();
        let caller = spawn(move || {
            let mut buffer = [0; 4];
            let result = blocking_borrowed(|| {
                inside.pass();
                buffer[3] = 5;
                "done"
            });
            (result.unwrap(), buffer[3], sleep(SHORT))
        });
        until(|| gate.is_reached());
        caller.cancel();
        for _ in 0..10 {
            yield_now().unwrap();
        }
        assert!(!caller.is_done());
        gate.open();
        let expected = ("done", 5, Err(Stopped::Cancelled));
        assert_eq!(caller.join().unwrap(), expected);
    });
}

#[test]
fn a_timeout_returns_the_result_of_a_borrowing_closure_that_it_waited_for() {
    let _turn = turn();
    run(|| {
        loop {
            let gate = Gate::default();
            let inside = gate.clone();
            let caller = spawn(move || {
                let result = timeout(SHORT, || {
                    blocking_borrowed(|| {
                        inside.pass();
                        42
                    })
                });
                (result, timeout(SHORT, || sleep(LONG)))
            });
            let id = caller.id();
            until(|| waits_for(id, "a blocking call that borrows") || caller.is_done());
            gate.open();
            let (result, later) = caller.join().unwrap();
            assert_eq!(later, Err(Elapsed));
            match result {
                Ok(result) => return assert_eq!(result.unwrap(), 42),
                // On a busy machine the time passed before a thread took the closure: nothing was waited for.
                Err(Elapsed) => assert!(!gate.is_reached()),
            }
        }
    });
}

fn waits_for(fiber: FiberId, reason: &str) -> bool {
    let fibers = this_loop::fibers();
    let found = fibers.iter().find(|info| info.id == fiber);
    found.is_some_and(|info| info.reason == reason)
}

#[test]
fn a_closure_that_finished_before_the_cancellation_wins() {
    let _turn = turn();
    run(|| {
        let caller = spawn(|| blocking(|| 5));
        yield_now().unwrap();
        // Its wake-up lies in the inbox until the next tick.
        while blocking_counters().running + blocking_counters().queued > 0 {
            thread::yield_now();
        }
        caller.cancel();
        assert_eq!(caller.join().unwrap().unwrap(), 5);
    });
}

#[test]
fn the_pool_never_exceeds_its_limit_and_runs_all_closures() {
    let _turn = turn();
    set_blocking_limits(BlockingLimits::default().threads(3));
    run(|| {
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let call = |n: usize| {
            let (inside, most) = (inside.clone(), most.clone());
            spawn(move || {
                blocking(move || {
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    n
                })
            })
        };
        let calls: Vec<_> = (0..200).map(call).collect();
        until(|| blocking_counters().running > 0);
        assert!(blocking_counters().threads <= 3);
        let sum: usize = calls
            .into_iter()
            .map(|call| call.join().unwrap().unwrap())
            .sum();
        assert_eq!(sum, 199 * 200 / 2);
        assert!(most.load(Ordering::SeqCst) <= 3);
        // A higher limit is used at once, a lower one as soon as threads become free.
        let gates: Vec<_> = (0..5).map(|_| Gate::default()).collect();
        let wait = |gate: &Gate| {
            let gate = gate.clone();
            spawn(move || blocking(move || gate.pass()).unwrap())
        };
        let waiting: Vec<_> = gates.iter().map(wait).collect();
        until(|| gates.iter().filter(|gate| gate.is_reached()).count() == 3);
        set_blocking_limits(BlockingLimits::default().threads(5));
        until(|| gates.iter().all(Gate::is_reached));
        set_blocking_limits(BlockingLimits::default().threads(2));
        gates.iter().for_each(Gate::open);
        waiting.into_iter().for_each(|fiber| fiber.join().unwrap());
        until(|| blocking_counters().threads <= 2);
        assert_eq!(blocking(|| 1).unwrap(), 1);
    });
}

#[test]
fn closures_that_are_taken_back_leave_the_queue() {
    let _turn = turn();
    set_blocking_limits(BlockingLimits::default().threads(1));
    run(|| {
        let gate = Gate::default();
        let inside = gate.clone();
        let first = spawn(move || blocking(move || inside.pass()).unwrap());
        until(|| gate.is_reached());
        let many: Vec<_> = (0..1_000)
            .map(|n| spawn(move || blocking(move || n)))
            .collect();
        until(|| blocking_counters().queued == 1_000);
        for fiber in &many[..900] {
            fiber.cancel();
        }
        until(|| blocking_counters().queued == 100);
        gate.open();
        first.join().unwrap();
        let (mut stopped, mut sum) = (0, 0);
        for fiber in many {
            match fiber.join().unwrap() {
                Ok(n) => sum += n,
                Err(_) => stopped += 1,
            }
        }
        assert_eq!((stopped, sum), (900, (900..1_000).sum()));
    });
}

#[test]
fn idle_threads_end() {
    let _turn = turn();
    set_blocking_limits(BlockingLimits::default().idle(SHORT));
    run(|| {
        let calls: Vec<_> = (0..8)
            .map(|_| spawn(|| blocking(|| thread::sleep(SHORT)).unwrap()))
            .collect();
        calls.into_iter().for_each(|call| call.join().unwrap());
        until(|| blocking_counters().threads == 0);
        assert_eq!(blocking(|| 1).unwrap(), 1);
    });
}

#[test]
fn several_loops_use_the_pool_at_once() {
    let _turn = turn();
    set_blocking_limits(BlockingLimits::default().threads(4));
    let loops: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(|| {
                run(|| {
                    let calls: Vec<_> = (0..300u64)
                        .map(|n| spawn(move || blocking(move || n).unwrap()))
                        .collect();
                    calls.into_iter().map(|c| c.join().unwrap()).sum::<u64>()
                })
            })
        })
        .collect();
    for one in loops {
        assert_eq!(one.join().unwrap(), 299 * 300 / 2);
    }
}

/// Returns the signals that a thread has blocked, as the kernel shows them.
fn blocked_signals(task: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
        .unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn closures_have_the_callers_signal_mask_and_waiting_threads_block_all() {
    let _turn = turn();
    let bit = |signal: i32| 1_u64 << (signal - 1);
    let caller = move |signal: Option<i32>| {
        let body = move || {
            if let Some(signal) = signal {
                // SAFETY: changes this test thread's mask with a set built here.
                unsafe {
                    let mut set = std::mem::zeroed();
                    libc::sigemptyset(&mut set);
                    libc::sigaddset(&mut set, signal);
                    libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                }
            }
            let own = blocked_signals("thread-self");
            (
                own,
                run(|| blocking(|| blocked_signals("thread-self")).unwrap()),
            )
        };
        thread::spawn(body).join().unwrap()
    };
    // In this order: the second call finds a thread that the first one started.
    for signal in [None, Some(libc::SIGUSR1), None] {
        let (own, inside) = caller(signal);
        assert_eq!(own, inside);
        assert_eq!(
            inside & bit(libc::SIGUSR1) != 0,
            signal == Some(libc::SIGUSR1)
        );
    }
    let all = bit(libc::SIGTERM) | bit(libc::SIGUSR2) | bit(libc::SIGCHLD);
    let waits_blocked = || {
        let mut found = 0;
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            let name = task.unwrap().file_name().into_string().unwrap();
            let comm = std::fs::read_to_string(format!("/proc/self/task/{name}/comm"));
            if comm.is_ok_and(|comm| comm.trim() == "yue-blocking") {
                found += 1;
                if blocked_signals(&format!("self/task/{name}")) & all != all {
                    return false;
                }
            }
        }
        found > 0
    };
    while !waits_blocked() {
        thread::yield_now();
    }
}

#[test]
fn a_plain_thread_calls_the_closure_itself_and_a_callback_panics() {
    let _turn = turn();
    let here = thread::current().id();
    assert_eq!(blocking(|| thread::current().id()).unwrap(), here);
    assert_eq!(blocking_borrowed(|| thread::current().id()).unwrap(), here);
    run(|| {
        let seen = Rc::new(RefCell::new(None));
        let slot = seen.clone();
        let timer = Timer::new(move || {
            let refused = catch_unwind(|| blocking(|| ()));
            *slot.borrow_mut() = refused.unwrap_err().downcast_ref::<&str>().copied();
        });
        timer.arm(now());
        until(|| seen.borrow().is_some());
        assert!(seen.borrow().unwrap().contains("a loop's callback"));
    });
}

#[test]
fn where_suspension_is_forbidden_nothing_runs() {
    let _turn = turn();
    run(|| {
        let ran = Arc::new(AtomicBool::new(false));
        let inside = ran.clone();
        let refused = catch_unwind(AssertUnwindSafe(|| {
            no_suspend(|| blocking(move || inside.store(true, Ordering::SeqCst)))
        }));
        assert!(refused.is_err());
        assert_eq!(blocking_counters().queued, 0);
        assert!(!ran.load(Ordering::SeqCst));
    });
}

#[test]
fn a_refused_switch_never_leaves_a_frame_to_a_closure_that_borrows_it() {
    struct Refuses;
    impl SwitchHook for Refuses {
        fn leave(&self) -> Result<(), &'static str> {
            Err("not here")
        }
        fn enter(&self) {}
    }
    let _turn = turn();
    run(|| {
        let inside = AtomicUsize::new(0);
        let mut refusals = 0;
        while refusals < 100 {
            let refused = catch_unwind(AssertUnwindSafe(|| {
                with_switch_hook(&Refuses, |_| {
                    blocking_borrowed(|| {
                        inside.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_micros(100));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    })
                })
            }));
            // The closure has ended, or never began, before the frame is left.
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            refusals += u32::from(refused.is_err());
        }
    });
}

#[test]
fn waiting_for_detached_closures_has_a_limit() {
    let _turn = turn();
    let gate = Gate::default();
    let inside = gate.clone();
    run(move || {
        let copy = inside.clone();
        drop(spawn(move || blocking(move || copy.pass()).is_ok()));
        until(|| inside.is_reached());
    });
    assert_eq!(wait_for_blocking(SHORT), 1);
    gate.open();
    assert_eq!(wait_for_blocking(LONG), 0);
}

#[test]
fn an_abandoned_fiber_leaves_its_frame_to_the_closure() {
    let _turn = turn();
    let gate = Gate::default();
    let inside = gate.clone();
    let (sender, receiver) = mpsc::channel();
    let config = Config {
        stop_grace: Duration::from_millis(20),
        ..Config::default()
    };
    let ((), report) = Loop::new(config).unwrap().run_reported(move || {
        let copy = inside.clone();
        drop(spawn(move || {
            let mut buffer = [0_u8; 64];
            blocking_borrowed(|| {
                copy.pass();
                buffer.fill(7);
                sender.send(buffer[63]).unwrap();
            })
        }));
        until(|| inside.is_reached());
    });
    assert_eq!(report.fibers_abandoned, 1);
    gate.open();
    assert_eq!(receiver.recv().unwrap(), 7);
}
