//! Misuse that ends the process: each case runs in a child, which must print the documented message and end as
//! documented.

use std::cell::Cell;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::*;

const CASE: &str = "YUE_MISUSE_CASE";
const SHORT: Duration = Duration::from_millis(2);

/// In the parent: runs this test again in a child. In the child: runs `case`.
fn in_child(test: &str, case: impl FnOnce()) -> Option<Output> {
    if env::var(CASE).is_ok_and(|name| name == test) {
        case();
        return None;
    }
    let this = env::current_exe().unwrap();
    let output = Command::new(this)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, test)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    Some(output)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that the output contains these texts.
#[track_caller]
fn says(output: &Output, expected: &[&str]) {
    let words = words(output);
    for expected in expected {
        assert!(words.contains(expected), "no {expected:?} in {words}");
    }
}

/// Checks that the child was ended by that signal, and that its output contains these texts.
#[track_caller]
fn ended_by(output: &Output, signal: i32, expected: &[&str]) {
    let ended = output.status.signal();
    assert_eq!(ended, Some(signal), "{}", words(output));
    says(output, expected);
}

fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        frame[0]
    } else {
        recurse(depth + 1) + frame[63]
    }
}

#[test]
fn a_stack_overflow_names_the_fiber_and_its_size() {
    let Some(output) = in_child("a_stack_overflow_names_the_fiber_and_its_size", || {
        Loop::new(Config::default()).unwrap().run(|| {
            Builder::new()
                .name("deep")
                .spawn(|| recurse(0))
                .unwrap()
                .join()
                .unwrap();
        });
    }) else {
        return;
    };
    ended_by(
        &output,
        libc::SIGABRT,
        &[
            "'deep' (spawned at scheduler/tests/misuse.rs:",
            "overflowed its stack of 252 KiB",
        ],
    );
}

#[test]
fn an_overflow_is_reported_with_mprotect_guards_too() {
    let Some(output) = in_child("an_overflow_is_reported_with_mprotect_guards_too", || {
        // SAFETY: this is the only thread that reads the environment.
        unsafe { env::set_var("YUE_STACK_GUARD", "mprotect") };
        Loop::new(Config::default()).unwrap().run(|| {
            Builder::new()
                .name("deep")
                .stack(StackClass::Deep)
                .spawn(|| recurse(0))
                .unwrap()
                .join()
                .unwrap();
        });
    }) else {
        return;
    };
    ended_by(
        &output,
        libc::SIGABRT,
        &["overflowed its stack of 1028 KiB"],
    );
}

#[test]
fn a_fault_other_than_an_overflow_keeps_the_default_action() {
    let Some(output) = in_child(
        "a_fault_other_than_an_overflow_keeps_the_default_action",
        || {
            Loop::new(Config::default()).unwrap().run(|| {
                let nowhere = std::hint::black_box(8 as *const u8);
                // SAFETY: none; the test is about this fault.
                unsafe { nowhere.read_volatile() };
            });
        },
    ) else {
        return;
    };
    ended_by(&output, libc::SIGSEGV, &[]);
    assert!(!words(&output).contains("overflowed"), "{}", words(&output));
}

#[test]
fn suspending_in_a_drop_while_panicking_aborts_with_a_message() {
    struct SleepsInDrop;
    impl Drop for SleepsInDrop {
        fn drop(&mut self) {
            let _ = yield_now();
        }
    }
    let Some(output) = in_child(
        "suspending_in_a_drop_while_panicking_aborts_with_a_message",
        || {
            Loop::new(Config::default()).unwrap().run(|| {
                let _guard = SleepsInDrop;
                panic!("the first panic");
            });
        },
    ) else {
        return;
    };
    ended_by(
        &output,
        libc::SIGABRT,
        &["a fiber cannot suspend while it unwinds"],
    );
}

#[test]
fn in_a_stopped_fibers_panic_a_destructor_gets_errors_even_from_calls_that_need_not_wait() {
    struct Leave(Rc<sync::local::Mutex<u32>>, Rc<Cell<Option<Stopped>>>);
    impl Drop for Leave {
        fn drop(&mut self) {
            let (answer, nap) = (self.0.lock().map(drop), sleep(SHORT));
            assert_eq!(answer, nap);
            self.1.set(answer.err());
        }
    }
    let name =
        "in_a_stopped_fibers_panic_a_destructor_gets_errors_even_from_calls_that_need_not_wait";
    let Some(output) = in_child(name, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let mutex = Rc::new(sync::local::Mutex::new(1));
            for by_deadline in [true, false] {
                let answer = Rc::new(Cell::new(None));
                let leave = Leave(mutex.clone(), answer.clone());
                let fiber = spawn(move || {
                    let limit = if by_deadline { SHORT } else { Duration::MAX };
                    timeout(limit, move || {
                        let _leave = leave;
                        sleep(Duration::MAX).unwrap();
                    })
                });
                yield_now().unwrap();
                if !by_deadline {
                    fiber.cancel();
                }
                let error = fiber.join().unwrap_err().to_string();
                let expected = match by_deadline {
                    true => Stopped::Deadline,
                    false => Stopped::Cancelled,
                };
                assert!(error.ends_with(&format!("{expected:?}")), "{error}");
                assert_eq!(answer.get(), Some(expected));
                // Nothing is left locked.
                assert!(mutex.try_lock().is_some());
            }
        });
    }) else {
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn a_blocking_call_in_a_destructor_during_a_panic_fails_without_running() {
    struct Call(Rc<Cell<u32>>);
    impl Drop for Call {
        fn drop(&mut self) {
            let mut begun = 0;
            let borrowed = blocking_borrowed(|| begun += 1);
            assert!(matches!(borrowed, Err(BlockingError::Unwinding)));
            let owned = blocking(|| ()).unwrap_err();
            assert_eq!(
                std::io::Error::from(owned).kind(),
                std::io::ErrorKind::Other
            );
            assert_eq!(begun, 0);
            self.0.set(self.0.get() + 1);
        }
    }
    let name = "a_blocking_call_in_a_destructor_during_a_panic_fails_without_running";
    let Some(output) = in_child(name, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let calls = Rc::new(Cell::new(0));
            let call = Call(calls.clone());
            let fiber = spawn(move || {
                let _call = call;
                panic!("a handler's bug");
            });
            let error = fiber.join().unwrap_err();
            assert_eq!(error.to_string(), "the fiber panicked: a handler's bug");
            assert_eq!(calls.get(), 1);
            assert_eq!(blocking(|| 7).unwrap(), 7);
        });
    }) else {
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn spawning_fails_without_address_space_for_a_stack() {
    let Some(output) = in_child("spawning_fails_without_address_space_for_a_stack", || {
        let config = Config {
            stacks: StackConfig {
                small: 64 << 20,
                deep: 1 << 20,
            },
            ..Config::default()
        };
        Loop::new(config).unwrap().run(|| {
            let limit = libc::rlimit {
                rlim_cur: 1 << 30,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: sets a limit of this child process.
            unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
            let mut fibers = Vec::new();
            let error = loop {
                match Builder::new().spawn(|| ()) {
                    Ok(fiber) => fibers.push(fiber),
                    Err(error) => break error,
                }
            };
            eprintln!("after {} fibers: {error}", fibers.len());
        });
    }) else {
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
    says(&output, &["Cannot allocate memory"]);
}

#[test]
fn an_overflow_is_reported_after_another_loop_of_the_thread_ended() {
    let name = "an_overflow_is_reported_after_another_loop_of_the_thread_ended";
    let Some(output) = in_child(name, || {
        let first = Loop::new(Config::default()).unwrap();
        let second = Loop::new(Config::default()).unwrap();
        drop(first);
        let handle = second.handle();
        second.run(move || handle.spawn(|| recurse(0)).join().unwrap());
    }) else {
        return;
    };
    says(
        &output,
        &["'unnamed' (spawned at scheduler/tests/misuse.rs:"],
    );
}

#[test]
fn a_loop_restores_the_threads_signal_stack() {
    fn signal_stack() -> (usize, usize, i32) {
        // SAFETY: a query into a local variable.
        unsafe {
            let mut stack: libc::stack_t = std::mem::zeroed();
            assert_eq!(libc::sigaltstack(std::ptr::null(), &mut stack), 0);
            (stack.ss_sp as usize, stack.ss_size, stack.ss_flags)
        }
    }
    let before = signal_stack();
    let one = Loop::new(Config::default()).unwrap();
    assert_ne!(signal_stack(), before);
    drop(one);
    assert_eq!(signal_stack(), before);
}

#[test]
fn with_little_address_space_stacks_come_from_smaller_arenas() {
    let name = "with_little_address_space_stacks_come_from_smaller_arenas";
    let Some(output) = in_child(name, || {
        let limit = libc::rlimit {
            rlim_cur: 2 << 30,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: sets a limit of this child process.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        let stacks = StackConfig {
            small: 64 << 20,
            deep: 1 << 20,
        };
        let config = Config {
            stacks,
            ..Config::default()
        };
        Loop::new(config).unwrap().run(|| {
            let fibers: Vec<_> = (0..20).map(|n| spawn(move || n)).collect();
            assert!(fibers.into_iter().all(|fiber| fiber.join().is_ok()));
        });
    }) else {
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn a_blocking_call_fails_when_no_thread_can_start() {
    let name = "a_blocking_call_fails_when_no_thread_can_start";
    let Some(output) = in_child(name, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let limit = |bytes| {
                let limit = libc::rlimit {
                    rlim_cur: bytes,
                    rlim_max: libc::RLIM_INFINITY,
                };
                // SAFETY: sets a limit of this child process.
                unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
            };
            limit(1 << 20);
            let refused = blocking(|| eprintln!("it ran"));
            let mut number = 1;
            let refused_too = blocking_borrowed(|| number = 2);
            limit(libc::RLIM_INFINITY);
            eprintln!(
                "{}; {}; {number}",
                refused.unwrap_err(),
                refused_too.is_err()
            );
            eprintln!("{}", blocking(|| "a thread again").unwrap());
        });
    }) else {
        return;
    };
    let words = words(&output);
    assert!(output.status.success(), "{words}");
    assert!(
        words.contains("cannot start a thread for a blocking call: "),
        "{words}"
    );
    assert!(words.contains("; true; 1"), "{words}");
    assert!(words.contains("a thread again"), "{words}");
    assert!(!words.contains("it ran"), "{words}");
}

#[test]
fn blocking_calls_of_several_loops_all_fail_when_no_thread_can_start() {
    let name = "blocking_calls_of_several_loops_all_fail_when_no_thread_can_start";
    let Some(output) = in_child(name, || {
        const LOOPS: usize = 3;
        let start = std::sync::Arc::new(std::sync::Barrier::new(LOOPS + 1));
        let calls = |start: std::sync::Arc<std::sync::Barrier>| {
            Loop::new(Config::default()).unwrap().run(move || {
                start.wait();
                start.wait();
                for _ in 0..20_000 {
                    let refused = timeout(std::time::Duration::from_secs(20), || blocking(|| ()));
                    assert!(
                        matches!(refused, Ok(Err(BlockingError::NoThread(_)))),
                        "{refused:?}"
                    );
                }
                // A loop that ended would free memory, which would be enough for a thread.
                start.wait();
            });
        };
        set_blocking_limits(BlockingLimits::default().threads(LOOPS - 1));
        let loops: Vec<_> = (0..LOOPS)
            .map(|_| {
                let start = start.clone();
                std::thread::spawn(move || calls(start))
            })
            .collect();
        start.wait();
        // Room for the allocations of the calls, but not for a thread's stack.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let limit = libc::rlimit {
            rlim_cur: pages * 4096 + (1 << 20),
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: sets a limit of this child process.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        start.wait();
        start.wait();
        loops.into_iter().for_each(|one| one.join().unwrap());
        eprintln!("{:?}", blocking_counters());
    }) else {
        return;
    };
    assert!(output.status.success(), "{}", words(&output));
    says(&output, &["threads: 0, running: 0, left: 0, queued: 0"]);
}

#[test]
fn a_detached_closure_does_not_keep_the_process_alive() {
    let name = "a_detached_closure_does_not_keep_the_process_alive";
    let Some(output) = in_child(name, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let for_ever = || {
                blocking(|| {
                    loop {
                        std::thread::park();
                    }
                })
            };
            let elapsed = timeout(std::time::Duration::from_millis(5), for_ever);
            eprintln!("{}", elapsed.is_err());
        });
        std::process::exit(7);
    }) else {
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{}", words(&output));
    says(&output, &["true"]);
}

#[test]
fn a_scope_that_cannot_wait_for_its_children_aborts_with_a_message() {
    struct Refuses(std::cell::Cell<bool>);
    impl SwitchHook for Refuses {
        fn leave(&self) -> Result<(), &'static str> {
            if self.0.get() {
                Err("no switch here")
            } else {
                Ok(())
            }
        }
        fn enter(&self) {}
    }
    let name = "a_scope_that_cannot_wait_for_its_children_aborts_with_a_message";
    let Some(output) = in_child(name, || {
        Loop::new(Config::default()).unwrap().run(|| {
            let hook = Refuses(std::cell::Cell::new(false));
            let mut value = 0;
            with_switch_hook(&hook, |_| {
                scope(|s| {
                    s.spawn(|| {
                        sleep(std::time::Duration::from_millis(1)).unwrap();
                        value = 1;
                    });
                    yield_now().unwrap();
                    hook.0.set(true);
                });
            });
            eprintln!("the scope was left");
        });
    }) else {
        return;
    };
    let messages = [
        "no switch here",
        "a scope cannot wait for its children here",
    ];
    ended_by(&output, libc::SIGABRT, &messages);
    let words = words(&output);
    assert!(!words.contains("the scope was left"), "{words}");
}

#[test]
fn a_fiber_that_ignores_the_hard_stop_is_named_and_does_not_keep_the_process_alive() {
    let name = "a_fiber_that_ignores_the_hard_stop_is_named_and_does_not_keep_the_process_alive";
    let Some(output) = in_child(name, || {
        let config = Config {
            stop_grace: std::time::Duration::from_millis(20),
            ..Config::default()
        };
        let ((), report) = Loop::new(config).unwrap().run_reported(|| {
            let ignores = || {
                loop {
                    let _ = shield(|| sleep(std::time::Duration::MAX));
                }
            };
            drop(Builder::new().name("stubborn").spawn(ignores).unwrap());
            yield_now().unwrap();
        });
        eprintln!("{report:?}");
        std::process::exit(3);
    }) else {
        return;
    };
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    let named = "'stubborn' (spawned at scheduler/tests/misuse.rs:";
    let message = "ignored the shutdown, last waiting for: sleep; it is abandoned";
    says(&output, &[named, message, "fibers_abandoned: 1"]);
}
