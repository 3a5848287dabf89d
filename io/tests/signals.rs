//! Signals on loops. They concern a whole process, so each test is a child process: this binary, started again.

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

/// Sends a signal to this process: any thread may get it.
fn kill(signal: Signal) {
    // SAFETY: a signal to this very process.
    unsafe { libc::kill(libc::getpid(), signal.number()) };
}

/// The process's action for a signal: `SIG_DFL`, `SIG_IGN`, or the address of a handler.
fn action(signal: Signal) -> usize {
    // SAFETY: asks only; zeros are a valid action.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal.number(), std::ptr::null(), &mut now);
        now.sa_sigaction
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.number() - 1)
}

/// A set of signals as `/proc/…/status` shows it.
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
                let place = seen.clone();
                let wanted = [Signal::USR1, Signal::USR2];
                let subscription =
                    signal::subscribe(&wanted, move |signal| place.borrow_mut().push(signal))
                        .unwrap();
                for round in 1..=5 {
                    kill(Signal::USR1);
                    wait_until(|| seen.borrow().len() == 2 * round - 1);
                    kill(Signal::USR2);
                    wait_until(|| seen.borrow().len() == 2 * round);
                }
                assert_eq!(seen.take()[..2], wanted);
                // Another one keeps the signal; the first hears no more of it.
                let place = seen.clone();
                let other = signal::subscribe(&[Signal::USR1], move |signal| {
                    place.borrow_mut().push(signal)
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
fn subscribers_on_all_loops_are_told() {
    in_child("subscribers_on_all_loops_are_told", || {
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
        // The detached one has ended with its loop.
        assert_eq!(action(Signal::TERM), libc::SIG_DFL);
    });
}

#[test]
fn a_signal_is_caught_on_every_thread_from_the_moment_that_subscribe_returns() {
    let test = "a_signal_is_caught_on_every_thread_from_the_moment_that_subscribe_returns";
    in_child(test, || {
        on_each_driver(|| {
            // A loop and a thread of the program's own, which compute and call nothing of ours.
            static STOP: AtomicBool = AtomicBool::new(false);
            STOP.store(false, Ordering::SeqCst);
            let (sender, ids) = mpsc::channel();
            let compute = move || {
                // SAFETY: asks only.
                sender
                    .send(unsafe { libc::pthread_self() } as usize)
                    .unwrap();
                while !STOP.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let own = std::thread::spawn(compute.clone());
            let (handle, thread) = worker(this_choice());
            let held = handle.spawn(compute);
            let threads = [ids.recv().unwrap(), ids.recv().unwrap()];

            let seen = Rc::new(RefCell::new(Vec::new()));
            let place = seen.clone();
            let wanted = [Signal::HUP, Signal::USR1];
            let _subscription =
                signal::subscribe(&wanted, move |signal| place.borrow_mut().push(signal)).unwrap();
            for (thread, signal) in threads.into_iter().zip(wanted) {
                // SAFETY: a thread that runs until `STOP` is set.
                unsafe { libc::pthread_kill(thread as libc::pthread_t, signal.number()) };
                wait_until(|| seen.borrow().last() == Some(&signal));
            }
            STOP.store(true, Ordering::SeqCst);
            own.join().unwrap();
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
            let (told, heard) = mpsc::channel();
            let subscription = signal::subscribe_off_loop(&[Signal::TERM], move |signal| {
                let _ = told.send(signal);
            })
            .unwrap();
            kill(Signal::TERM);
            // Blocks the loop until it comes.
            assert_eq!(heard.recv(), Ok(Signal::TERM));
            drop(subscription);
            assert_eq!(action(Signal::TERM), libc::SIG_DFL);
        });
    });
}

#[test]
fn the_last_subscription_leaves_the_action_that_was_there_before() {
    let test = "the_last_subscription_leaves_the_action_that_was_there_before";
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
fn a_subscription_that_fails_leaves_everything_as_it_was() {
    let test = "a_subscription_that_fails_leaves_everything_as_it_was";
    in_child(test, || {
        on_each_driver(|| {
            let set = |which, soft| {
                // SAFETY: a limit of this very process; the old one is read first.
                unsafe {
                    let mut limit: libc::rlimit = std::mem::zeroed();
                    libc::getrlimit(which, &mut limit);
                    let before = std::mem::replace(&mut limit.rlim_cur, soft);
                    assert_eq!(libc::setrlimit(which, &limit), 0);
                    before
                }
            };
            let mask = own_mask();
            // No descriptor, and no memory for the stack of a thread.
            let (descriptors, memory) = (set(libc::RLIMIT_NOFILE, 0), set(libc::RLIMIT_AS, 0));
            let outcome = signal::subscribe(&[Signal::TERM], |_| ());
            set(libc::RLIMIT_NOFILE, descriptors);
            set(libc::RLIMIT_AS, memory);
            if this_choice() == choices()[0] {
                assert!(outcome.is_err(), "the first one needs a thread");
            }
            drop(outcome);
            assert_eq!((own_mask(), action(Signal::TERM)), (mask, libc::SIG_DFL));
            drop(signal::subscribe(&[Signal::TERM], |_| ()).unwrap());
        });
    });
}

#[test]
fn a_signal_that_every_thread_blocks_is_taken_all_the_same() {
    let test = "a_signal_that_every_thread_blocks_is_taken_all_the_same";
    let block = |command: &mut Command| {
        // SAFETY: between fork and exec only an async-signal-safe call is made.
        unsafe { command.pre_exec(|| signal::block(&[Signal::TERM])) };
    };
    child_output(test, block, || {
        assert_ne!(own_mask() & bit(Signal::TERM), 0);
        on_each_driver(|| {
            let heard = Rc::new(RefCell::new(0));
            let count = heard.clone();
            let subscription =
                signal::subscribe(&[Signal::TERM], move |_| *count.borrow_mut() += 1).unwrap();
            kill(Signal::TERM);
            wait_until(|| *heard.borrow() == 1);
            drop(subscription);
            // Blocked everywhere again: it waits, and does not end us.
            kill(Signal::TERM);
            let count = heard.clone();
            let _late =
                signal::subscribe(&[Signal::TERM], move |_| *count.borrow_mut() += 1).unwrap();
            wait_until(|| *heard.borrow() == 2);
        });
    });
}

/// The signals of a child that C's `popen` starts, as the kernel shows them.
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
fn children_begin_as_if_nobody_had_subscribed_whoever_starts_them() {
    let test = "children_begin_as_if_nobody_had_subscribed_whoever_starts_them";
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
fn a_fork_that_executes_nothing_has_the_old_actions_too() {
    let test = "a_fork_that_executes_nothing_has_the_old_actions_too";
    in_child(test, || {
        on_each_driver(|| {
            let _subscription = signal::subscribe(&[Signal::TERM], |_| ()).unwrap();
            let mask = own_mask();
            // SAFETY: the child makes async-signal-safe calls only.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: as above. One whose TERM is swallowed or blocked ends by the alarm.
                unsafe {
                    libc::alarm(LONG.as_secs() as u32);
                    loop {
                        libc::pause();
                    }
                }
            }
            assert_eq!(own_mask(), mask);
            let mut status = 0;
            // SAFETY: a child of ours, which nobody else waits for.
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
fn a_process_that_ends_itself_by_a_signal_is_seen_to_have_died_of_it() {
    let test = "a_process_that_ends_itself_by_a_signal_is_seen_to_have_died_of_it";
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
            // SAFETY: a child of ours, which nobody else waits for.
            unsafe { libc::waitpid(child, &mut status, 0) };
            assert!(libc::WIFSIGNALED(status));
            assert_eq!(libc::WTERMSIG(status), libc::SIGTERM);
        });
    });
}

#[test]
fn a_child_process_starts_with_nothing_blocked() {
    in_child("a_child_process_starts_with_nothing_blocked", || {
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
fn a_handler_that_others_put_back_after_its_time_does_no_harm() {
    let test = "a_handler_that_others_put_back_after_its_time_does_no_harm";
    in_child(test, || {
        on_each_driver(|| {
            let ignored = libc::SIG_IGN;
            // SAFETY: an action of the system's.
            unsafe { libc::signal(libc::SIGINT, ignored) };
            let subscription = signal::subscribe(&[Signal::INT], |_| ()).unwrap();
            // C's `system` saves the action, and puts it back when the command is over.
            let saved = action(Signal::INT);
            drop(subscription);
            assert_eq!(action(Signal::INT), ignored);
            // SAFETY: an action that was in force.
            let put_back = || unsafe { libc::signal(libc::SIGINT, saved) };
            put_back();
            kill(Signal::INT);
            wait_until(|| action(Signal::INT) == ignored);
            // One that is there already is not taken for the one to go back to.
            put_back();
            let heard = Rc::new(Cell::new(false));
            let place = heard.clone();
            let subscription = signal::subscribe(&[Signal::INT], move |_| place.set(true)).unwrap();
            kill(Signal::INT);
            wait_until(|| heard.get());
            drop(subscription);
            assert_eq!(action(Signal::INT), ignored);
        });
    });
}
