//! The report on a signal: faults planted in child processes, and the report on each.

use std::env;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use yue_scheduler::*;

const CASE: &str = "YUE_REPORT_CASE";

/// In the parent: starts this test again as a child. In the child: runs `case` with the report on SIGQUIT.
fn child(test: &str, case: impl FnOnce()) -> Option<Reporting> {
    if env::var(CASE).is_ok_and(|name| name == test) {
        inspect::report_on(libc::SIGQUIT).unwrap();
        // A child that the test has lost ends by itself.
        // SAFETY: sets a timer of this process.
        unsafe { libc::alarm(60) };
        case();
        return None;
    }
    let this = env::current_exe().unwrap();
    let mut child = Command::new(this)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, test)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    Some(Reporting { child, lines })
}

struct Reporting {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Reporting {
    /// Returns the lines up to the one that contains `end`.
    fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        for line in &mut self.lines {
            let line = line.unwrap();
            text += &line;
            text.push('\n');
            if line.contains(end) {
                return text;
            }
        }
        panic!("the child ended without '{end}': {text}");
    }

    /// Waits until the child is ready, requests a report, and returns it.
    fn report(&mut self, end: &str) -> String {
        self.until("ready");
        let process = self.child.id() as libc::pid_t;
        // SAFETY: sends a signal to our child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGQUIT) }, 0);
        self.until(end)
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named(name: &str, f: impl FnOnce() + 'static) -> JoinHandle<()> {
    Builder::new().name(name).spawn(f).unwrap()
}

/// Two fibers that each wait for the other to go first.
#[test]
fn a_report_on_a_deadlock_shows_what_each_fiber_waits_for_and_where() {
    #[inline(never)]
    fn takes_left_then_right() {
        prepare_park();
        black_box(park("the right lock").is_ok());
    }
    #[inline(never)]
    fn takes_right_then_left() {
        prepare_park();
        black_box(park("the left lock").is_ok());
    }
    let Some(mut child) = child(
        "a_report_on_a_deadlock_shows_what_each_fiber_waits_for_and_where",
        || {
            Loop::new(Config::default()).unwrap().run(|| {
                let left = named("left", takes_left_then_right);
                let right = named("right", takes_right_then_left);
                // For a whole tick, so that the loop has counted them.
                sleep(Duration::from_millis(1)).unwrap();
                eprintln!("ready");
                left.join().unwrap();
                right.join().unwrap();
            });
        },
    ) else {
        return;
    };
    let mut text = child.report("takes_right_then_left");
    if !text.contains("takes_left_then_right") {
        text += &child.until("takes_left_then_right");
    }
    for part in [
        "1 loops, 3 fibers",
        "sleep)",
        "3 fibers (3 parked, 0 ready)",
        "1 fiber parked in 'the right lock' for up to ",
        "1 fiber parked in 'the left lock' for up to ",
        "'left': ",
        "'right': ",
    ] {
        assert!(text.contains(part), "'{part}' in {text}");
    }
}

/// A loop that never gets to the request.
#[test]
fn a_held_loop_does_not_reply_and_is_captured() {
    #[inline(never)]
    fn computes_for_ever() {
        let never = AtomicBool::new(false);
        while !never.load(std::sync::atomic::Ordering::Relaxed) {
            black_box(&never);
        }
    }
    let Some(mut child) = child("a_held_loop_does_not_reply_and_is_captured", || {
        Loop::new(Config::default()).unwrap().run(|| {
            let hog = named("hog", || {
                eprintln!("ready");
                computes_for_ever();
            });
            hog.join().unwrap();
        });
    }) else {
        return;
    };
    let text = child.report("computes_for_ever");
    assert!(
        text.contains("it does not reply: loop 1 (thread '"),
        "{text}"
    );
    assert!(text.contains("by fiber 1.0 'hog', spawned at "), "{text}");
}

/// Fibers that never end: thousands spawned at one location.
#[test]
fn leaked_fibers_are_shown_as_one_group_with_their_number() {
    #[inline(never)]
    fn waits_for_a_client_that_is_gone() {
        prepare_park();
        black_box(park("an answer").is_ok());
    }
    let Some(mut child) = child(
        "leaked_fibers_are_shown_as_one_group_with_their_number",
        || {
            Loop::new(Config::default()).unwrap().run(|| {
                for _ in 0..5_000 {
                    drop(spawn(waits_for_a_client_that_is_gone));
                }
                sleep(Duration::from_millis(20)).unwrap();
                eprintln!("ready");
                let _ = sleep(Duration::from_secs(3600));
            });
        },
    ) else {
        return;
    };
    let text = child.report("and 4996 more");
    assert!(
        text.contains("5000 fibers parked in 'an answer' for up to "),
        "{text}"
    );
    assert_eq!(
        text.matches("waits_for_a_client_that_is_gone").count(),
        1,
        "{text}"
    );
    // A second report can be requested, because the program continued.
    // SAFETY: as in `report`.
    unsafe { libc::kill(child.child.id() as libc::pid_t, libc::SIGQUIT) };
    child.until("5000 fibers parked");
}

#[test]
fn a_report_on_a_loops_own_thread_says_that_it_cannot_list_its_fibers() {
    Loop::new(Config::default()).unwrap().run(|| {
        let text = inspect::report();
        let own = format!("loop {} (thread", this_loop::id());
        let (_, own) = text.split_once(&own).unwrap();
        assert!(
            own.contains("requested on this loop's own thread"),
            "{text}"
        );
    });
}
