//! Signals on loops. They concern a whole process, so each test is a child process: this binary, started again.

#[path = "common/child.rs"]
mod child;
mod common;

use child::in_child;
use common::*;
use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use yue_io::signal::{self, Signal};
use yue_scheduler::*;

/// Sends a signal to this thread alone: the harness has threads that block nothing.
fn kill(signal: Signal) {
    // SAFETY: a signal to this very thread, which blocks it.
    unsafe { libc::raise(signal.number()) };
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
                drop(subscription);
                wait_until(|| operations() == 0);
                // Blocked still, so that it waits, for the next subscriber.
                kill(Signal::USR1);
                let place = seen.clone();
                let _late = signal::subscribe(&[Signal::USR1], move |signal| {
                    place.borrow_mut().push(signal)
                })
                .unwrap();
                wait_until(|| seen.borrow().len() == 1);
            });
        },
    );
}

#[test]
fn subscribers_on_all_loops_are_told() {
    in_child("subscribers_on_all_loops_are_told", || {
        signal::block(&[Signal::TERM]).unwrap();
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
