//! Child processes, on both drivers.

#[path = "common/child.rs"]
mod child;
mod common;

use common::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use yue_io::process::{Command, Stdio};
use yue_io::signal::{self, Signal};
use yue_scheduler::*;

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Returns the state of a process, such as `Z` for a zombie, or `None` if there is no such process.
fn state(id: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn waiting_for_a_child_returns_its_status() {
    on_each_driver(|| {
        let mut child = shell("exit 7").spawn().unwrap();
        let id = child.id();
        assert_eq!(child.wait().unwrap().code(), Some(7));
        // Again, without waiting: the status is kept.
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        child.kill().unwrap();
        child.signal(Signal::TERM).unwrap();
        assert_eq!(state(id), None);
        assert!(shell("true").status().unwrap().success());
        let error = Command::new("/no/such/program").spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn streams_are_pipes_of_fibers() {
    on_each_driver(|| {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        for round in 0..50u8 {
            to.write_all(&[round]).unwrap();
            let mut byte = [0];
            from.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [round]);
        }
        // More than a pipe holds, in both directions at once.
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let writer = spawn(move || to.write_all(&sent).unwrap());
        let mut got = Vec::new();
        from.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        writer.join().unwrap();
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn output_gathers_both_streams_however_much_there_is() {
    on_each_driver(|| {
        let script = "cat; i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; \
                      echo error error error error error error error error >&2; i=$((i+1)); done; exit 3";
        let output = shell(script).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (3000 * 41, 3000 * 48)
        );
        // Streams that the caller set keep their settings.
        let mut command = shell("echo x; echo y >&2");
        command.stderr(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"x\n"[..], &b""[..])
        );
        command.stdout(Stdio::null());
        assert!(command.spawn().unwrap().stdout.is_none());
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"");
    });
}

#[test]
fn waiting_ends_the_childs_input() {
    on_each_driver(|| {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        assert!(child.stdin.is_none());
    });
}

#[test]
fn a_child_is_killed_and_sent_signals() {
    on_each_driver(|| {
        let mut child = shell("exec sleep 1000").spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        let mut child = shell("trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        child.signal(Signal::USR1).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(5));
    });
}

#[test]
fn cancels_and_deadlines_end_a_wait_and_the_child_keeps_running() {
    on_each_driver(|| {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let fiber = spawn(move || {
            let result = child.wait();
            (child, result)
        });
        wait_until(|| operations() == 1);
        fiber.cancel();
        let (mut child, result) = fiber.join().unwrap();
        let error = result.unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
        let at = now().saturating_add(Duration::from_millis(5));
        let error = with_deadline(at, || child.wait()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        input.write_all(b"alive").unwrap();
        drop(input);
        assert_eq!(child.wait_with_output().unwrap().stdout, b"alive");
        let at = now().saturating_add(Duration::from_millis(5));
        let error = with_deadline(at, || {
            shell("exec sleep 1000 >/dev/null")
                .kill_on_drop(true)
                .output()
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
        wait_until(|| operations() == 0);
    });
}

#[test]
fn a_dropped_child_leaves_no_zombie() {
    on_each_driver(|| {
        let mut ids = Vec::new();
        for n in 0..20 {
            let mut command = Command::new("sleep");
            let child = match n % 2 {
                0 => command.arg("0.02").spawn(),
                _ => command.arg("1000").kill_on_drop(true).spawn(),
            };
            ids.push(child.unwrap().id());
        }
        for id in ids {
            wait_until(|| state(id).is_none());
        }
        // One child that has ended when it is dropped, and one that keeps running.
        let child = shell("true").spawn().unwrap();
        let id = child.id();
        wait_until(|| state(id) == Some('Z'));
        drop(child);
        assert_eq!(state(id), None);
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (id, input) = (child.id(), child.stdin.take());
        drop(child);
        assert!(state(id).is_some_and(|state| state != 'Z'));
        drop(input);
        wait_until(|| state(id).is_none());
    });
}

#[test]
fn the_reaper_thread_takes_no_signals() {
    on_each_driver(|| {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (id, input) = (child.id(), child.stdin.take());
        drop(child);
        let mask = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let statuses = tasks
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
            let reaper = statuses
                .into_iter()
                .find(|status| status.starts_with("Name:\tyue-reaper"))?;
            let mask = reaper
                .lines()
                .find_map(|line| line.strip_prefix("SigBlk:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        };
        // A new thread has the name of its creator for a moment.
        wait_until(|| mask().is_some());
        let all = [Signal::HUP, Signal::TERM, Signal::CHLD, Signal::USR1];
        for signal in all {
            assert_ne!(mask().unwrap() & 1 << (signal.number() - 1), 0, "{signal}");
        }
        drop(input);
        wait_until(|| state(id).is_none());
    });
}

#[test]
fn many_children_are_waited_for_at_once() {
    on_each_driver(|| {
        let fibers: Vec<_> = (0..40)
            .map(|n| spawn(move || shell(&format!("sleep 0.0{}; exit {n}", n % 5)).status()))
            .collect();
        for (n, fiber) in fibers.into_iter().enumerate() {
            assert_eq!(fiber.join().unwrap().unwrap().code(), Some(n as i32));
        }
    });
}

#[test]
fn a_child_starts_with_its_settings_and_no_blocked_signals() {
    let test = "a_child_starts_with_its_settings_and_no_blocked_signals";
    child::in_child(test, || {
        signal::block(&[Signal::TERM, Signal::CHLD]).unwrap();
        on_each_driver(|| {
            let text = |command: &mut Command| {
                String::from_utf8(command.output().unwrap().stdout).unwrap()
            };
            let blocked = text(Command::new("grep").args(["SigBlk", "/proc/self/status"]));
            assert_eq!(blocked.trim(), "SigBlk:\t0000000000000000");
            let mut command = shell("echo $A $B $0; pwd");
            command
                .env_clear()
                .envs([("A", "1"), ("B", "2"), ("C", "3")])
                .env("B", "two")
                .env_remove("A")
                .arg0("named")
                .process_group(0)
                .current_dir("/");
            assert_eq!(text(&mut command), "two named\n/\n");
        });
    });
}

#[test]
fn a_thread_without_a_loop_blocks() {
    let output = shell("echo out; echo err >&2").output().unwrap();
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert!(shell("sleep 0.01").status().unwrap().success());
}

#[test]
fn a_child_dropped_without_free_descriptors_is_still_reaped() {
    let test = "a_child_dropped_without_free_descriptors_is_still_reaped";
    child::in_child(test, || {
        on_each_driver(|| {
            let child = Command::new("sleep").arg("0.05").spawn().unwrap();
            let id = child.id() as libc::pid_t;
            let limit = libc::rlimit {
                rlim_cur: 64,
                rlim_max: 64,
            };
            // SAFETY: a live limit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
            let mut held = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            drop(child);
            // SAFETY: only checks whether the process exists, possibly as a zombie.
            wait_until(|| unsafe { libc::kill(id, 0) } != 0);
        });
    });
}
