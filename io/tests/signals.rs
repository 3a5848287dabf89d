//! Signals delivered to loops. They affect a whole process, so each test is a child process: this binary, started
//! again.

#[path = "common/child.rs"]
mod child;
mod common;

use child::{child_output, in_child};
use common::*;
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use yue_io::signal::{self, Signal};
use yue_scheduler::*;

/// Sends a signal to this process: any thread may take it.
fn kill(signal: Signal) {
    // SAFETY: the signal goes to this process.
    unsafe { libc::kill(libc::getpid(), signal.number()) };
}

/// Returns the process's action for a signal: `SIG_DFL`, `SIG_IGN`, or the address of a handler.
fn action(signal: Signal) -> usize {
    // SAFETY: only queries; a zeroed action is valid.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal.number(), std::ptr::null(), &mut now);
        now.sa_sigaction
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.number() - 1)
}

/// Returns a set of signals from the text of `/proc/…/status`.
fn set_in(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(line.unwrap().trim_start_matches(':').trim(), 16).unwrap()
}

fn own_mask() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    set_in(&status, "SigBlk")
}

#[test]
fn a_subscriber_is_called_for_its_signals_until_it_is_dropped() {
    in_child(
        "a_subscriber_is_called_for_its_signals_until_it_is_dropped",
        || {
            on_each_driver(|| {
                let seen = Rc::new(RefCell::new(Vec::new()));
                let record = seen.clone();
                let wanted = [Signal::USR1, Signal::USR2];
                let subscription =
                    signal::subscribe(&wanted, move |signal| record.borrow_mut().push(signal))
                        .unwrap();
                for round in 1..=5 {
                    kill(Signal::USR1);
                    wait_until(|| seen.borrow().len() == 2 * round - 1);
                    kill(Signal::USR2);
                    wait_until(|| seen.borrow().len() == 2 * round);
                }
                assert_eq!(seen.take()[..2], wanted);
                // Another subscription keeps the signal; the first one is not called any more.
                let record = seen.clone();
                let other = signal::subscribe(&[Signal::USR1], move |signal| {
                    record.borrow_mut().push(signal)
                })
                .unwrap();
                drop(subscription);
                kill(Signal::USR1);
                wait_until(|| seen.borrow().len() == 1);
                drop(other);
                assert_eq!(operations(), 0);
            });
        },
    );
}

#[test]
fn subscribers_on_all_loops_are_called() {
    in_child("subscribers_on_all_loops_are_called", || {
        on_each_driver(|| {
            static CALLS: AtomicU32 = AtomicU32::new(0);
            CALLS.store(0, Ordering::SeqCst);
            let (handle, thread) = worker(this_choice());
            let count = |_| {
                CALLS.fetch_add(1, Ordering::SeqCst);
            };
            let there =
                handle.spawn(move || signal::subscribe(&[Signal::TERM], count).unwrap().detach());
            there.join().unwrap();
            let _one = signal::subscribe(&[Signal::TERM], count).unwrap();
            let _other = signal::subscribe(&[Signal::TERM], count).unwrap();
            kill(Signal::TERM);
            wait_until(|| CALLS.load(Ordering::SeqCst) == 3);
            handle.shutdown();
            assert_eq!(thread.join().unwrap(), StopReport::default());
        });
        // The detached subscription has ended with its loop.
        assert_eq!(action(Signal::TERM), libc::SIG_DFL);
    });
}

#[test]
fn a_signal_is_caught_on_every_thread_once_subscribe_returns() {
    let test = "a_signal_is_caught_on_every_thread_once_subscribe_returns";
    in_child(test, || {
        on_each_driver(|| {
            // A loop and a thread of the program, which compute and call none of this crate's functions.
            static STOP: AtomicBool = AtomicBool::new(false);
            STOP.store(false, Ordering::SeqCst);
            let (sender, ids) = mpsc::channel();
            let compute = move || {
                // SAFETY: only queries.
                sender
                    .send(unsafe { libc::pthread_self() } as usize)
                    .unwrap();
                while !STOP.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let compute_thread = std::thread::spawn(compute.clone());
            let (handle, thread) = worker(this_choice());
            let held = handle.spawn(compute);
            let threads = [ids.recv().unwrap(), ids.recv().unwrap()];

            let seen = Rc::new(RefCell::new(Vec::new()));
            let record = seen.clone();
            let wanted = [Signal::HUP, Signal::USR1];
            let _subscription =
                signal::subscribe(&wanted, move |signal| record.borrow_mut().push(signal)).unwrap();
            for (thread, signal) in threads.into_iter().zip(wanted) {
                // SAFETY: a thread that runs until `STOP` is set.
                unsafe { libc::pthread_kill(thread as libc::pthread_t, signal.number()) };
                wait_until(|| seen.borrow().last() == Some(&signal));
            }
            STOP.store(true, Ordering::SeqCst);
            compute_thread.join().unwrap();
            held.join().unwrap();
            handle.shutdown();
            assert_eq!(thread.join().unwrap(), StopReport::default());
        });
    });
}

#[test]
fn a_callback_off_the_loops_is_called_while_the_loop_computes() {
    let test = "a_callback_off_the_loops_is_called_while_the_loop_computes";
    in_child(test, || {
        on_each_driver(|| {
            let (sender, receiver) = mpsc::channel();
            let subscription = signal::subscribe_off_loop(&[Signal::TERM], move |signal| {
                let _ = sender.send(signal);
            })
            .unwrap();
            kill(Signal::TERM);
            // Block the loop until the signal arrives.
            assert_eq!(receiver.recv(), Ok(Signal::TERM));
            drop(subscription);
            assert_eq!(action(Signal::TERM), libc::SIG_DFL);
        });
    });
}

#[test]
fn the_end_of_the_last_subscription_restores_the_previous_action() {
    let test = "the_end_of_the_last_subscription_restores_the_previous_action";
    in_child(test, || {
        on_each_driver(|| {
            extern "C" fn own(_: libc::c_int) {}
            let handler = own as *const () as usize;
            for before in [libc::SIG_DFL, libc::SIG_IGN, handler] {
                // SAFETY: the handler does nothing.
                unsafe { libc::signal(libc::SIGUSR1, before) };
                let mask = own_mask();
                let first = signal::subscribe(&[Signal::USR1], |_| ()).unwrap();
                let second = signal::subscribe(&[Signal::USR1, Signal::USR2], |_| ()).unwrap();
                drop(first);
                assert_ne!(action(Signal::USR1), before);
                drop(second);
                assert_eq!(action(Signal::USR1), before);
                assert_eq!(action(Signal::USR2), libc::SIG_DFL);
                assert_eq!(own_mask(), mask);
            }
        });
    });
}

#[test]
fn a_failed_subscription_changes_nothing() {
    let test = "a_failed_subscription_changes_nothing";
    in_child(test, || {
        on_each_driver(|| {
            let set = |which, soft| {
                // SAFETY: a limit of this process; the old one is read first.
                unsafe {
                    let mut limit: libc::rlimit = std::mem::zeroed();
                    libc::getrlimit(which, &mut limit);
                    let before = std::mem::replace(&mut limit.rlim_cur, soft);
                    assert_eq!(libc::setrlimit(which, &limit), 0);
                    before
                }
            };
            let mask = own_mask();
            // No descriptors, and no memory for a thread's stack.
            let (descriptors, memory) = (set(libc::RLIMIT_NOFILE, 0), set(libc::RLIMIT_AS, 0));
            let outcome = signal::subscribe(&[Signal::TERM], |_| ());
            set(libc::RLIMIT_NOFILE, descriptors);
            set(libc::RLIMIT_AS, memory);
            if this_choice() == choices()[0] {
                assert!(outcome.is_err(), "the first subscription needs a thread");
            }
            drop(outcome);
            assert_eq!((own_mask(), action(Signal::TERM)), (mask, libc::SIG_DFL));
            drop(signal::subscribe(&[Signal::TERM], |_| ()).unwrap());
        });
    });
}

#[test]
fn a_signal_that_every_thread_blocks_is_still_taken() {
    let test = "a_signal_that_every_thread_blocks_is_still_taken";
    let block = |command: &mut Command| {
        // SAFETY: between fork and exec only an async-signal-safe call is made.
        unsafe { command.pre_exec(|| signal::block(&[Signal::TERM])) };
    };
    child_output(test, block, || {
        assert_ne!(own_mask() & bit(Signal::TERM), 0);
        on_each_driver(|| {
            let calls = Rc::new(RefCell::new(0));
            let count = calls.clone();
            let subscription =
                signal::subscribe(&[Signal::TERM], move |_| *count.borrow_mut() += 1).unwrap();
            kill(Signal::TERM);
            wait_until(|| *calls.borrow() == 1);
            drop(subscription);
            // Blocked everywhere again: the signal waits, and does not end the process.
            kill(Signal::TERM);
            let count = calls.clone();
            let _late =
                signal::subscribe(&[Signal::TERM], move |_| *count.borrow_mut() += 1).unwrap();
            wait_until(|| *calls.borrow() == 2);
        });
    });
}

/// Returns the signal sets of a child that C's `popen` starts, as the kernel shows them.
fn status_of_a_child_of_c() -> String {
    let path = std::env::temp_dir().join(format!("yue-status-{}", std::process::id()));
    let text = format!("cat /proc/self/status > {}", path.display());
    let command = CString::new(text).unwrap();
    // SAFETY: a valid string and mode; the stream is closed once.
    unsafe { libc::pclose(libc::popen(command.as_ptr(), c"r".as_ptr())) };
    let status = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    status
}

#[test]
fn children_start_without_handlers_whoever_starts_them() {
    let test = "children_start_without_handlers_whoever_starts_them";
    in_child(test, || {
        on_each_driver(|| {
            let wanted = [Signal::INT, Signal::TERM, Signal::HUP];
            let _subscription = signal::subscribe(&wanted, |_| ()).unwrap();
            let mut plain = Command::new("cat");
            let plain = plain.arg("/proc/self/status").output().unwrap();
            let plain = String::from_utf8(plain.stdout).unwrap();
            for status in [plain, status_of_a_child_of_c()] {
                assert_eq!(set_in(&status, "SigBlk"), 0, "{status}");
                let ignored = set_in(&status, "SigIgn");
                assert_eq!(ignored & wanted.map(bit).iter().sum::<u64>(), 0, "{status}");
            }
        });
    });
}

#[test]
fn a_fork_without_exec_has_the_old_actions_too() {
    let test = "a_fork_without_exec_has_the_old_actions_too";
    in_child(test, || {
        on_each_driver(|| {
            let _subscription = signal::subscribe(&[Signal::TERM], |_| ()).unwrap();
            let mask = own_mask();
            // SAFETY: the child makes async-signal-safe calls only.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: as above. If TERM is swallowed or blocked, the alarm ends the child.
                unsafe {
                    libc::alarm(LONG.as_secs() as u32);
                    loop {
                        libc::pause();
                    }
                }
            }
            assert_eq!(own_mask(), mask);
            let mut status = 0;
            // SAFETY: our child, which nothing else waits for.
            unsafe {
                libc::kill(child, libc::SIGTERM);
                libc::waitpid(child, &mut status, 0);
            }
            assert!(libc::WIFSIGNALED(status));
            assert_eq!(libc::WTERMSIG(status), libc::SIGTERM);
        });
    });
}

#[test]
fn a_process_that_ends_itself_by_a_signal_is_reported_as_killed_by_it() {
    let test = "a_process_that_ends_itself_by_a_signal_is_reported_as_killed_by_it";
    in_child(test, || {
        on_each_driver(|| {
            let _subscription = signal::subscribe(&[Signal::TERM], |_| ()).unwrap();
            // SAFETY: the child makes async-signal-safe calls only, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let _ = signal::block(&[Signal::TERM]);
                signal::end_process_by(Signal::TERM);
            }
            let mut status = 0;
            // SAFETY: our child, which nothing else waits for.
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert!(libc::WIFSIGNALED(status));
            assert_eq!(libc::WTERMSIG(status), libc::SIGTERM);
        });
    });
}

#[test]
fn a_child_process_starts_with_no_signal_blocked() {
    in_child("a_child_process_starts_with_no_signal_blocked", || {
        signal::block(&[Signal::TERM]).unwrap();
        let mut command = Command::new("grep");
        command.args(["SigBlk", "/proc/self/status"]);
        let text = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            text(command.output().unwrap()).trim(),
            "SigBlk:\t0000000000004000"
        );
        assert_eq!(
            text(signal::unblocked(&mut command).output().unwrap()).trim(),
            "SigBlk:\t0000000000000000"
        );
    });
}

#[test]
fn a_handler_that_other_code_restores_late_is_harmless() {
    let test = "a_handler_that_other_code_restores_late_is_harmless";
    in_child(test, || {
        on_each_driver(|| {
            let ignored = libc::SIG_IGN;
            // SAFETY: a default action.
            unsafe { libc::signal(libc::SIGINT, ignored) };
            let subscription = signal::subscribe(&[Signal::INT], |_| ()).unwrap();
            // C's `system` saves the action, and restores it when the command has ended.
            let saved = action(Signal::INT);
            drop(subscription);
            assert_eq!(action(Signal::INT), ignored);
            // SAFETY: an action that was in force.
            let put_back = || unsafe { libc::signal(libc::SIGINT, saved) };
            put_back();
            kill(Signal::INT);
            wait_until(|| action(Signal::INT) == ignored);
            // A handler that is already installed is not saved as the previous action.
            put_back();
            let calls = Rc::new(Cell::new(false));
            let record = calls.clone();
            let subscription =
                signal::subscribe(&[Signal::INT], move |_| record.set(true)).unwrap();
            kill(Signal::INT);
            wait_until(|| calls.get());
            drop(subscription);
            assert_eq!(action(Signal::INT), ignored);
        });
    });
}
