//! The process's standard streams, of any kind, in child processes on both drivers.

#[path = "common/child.rs"]
mod child;
mod common;

use common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use yue_io::stdio::{stderr, stdin, stdout};
use yue_scheduler::*;

const MARK: &str = "YUE_TEST_STDIO";

/// Runs in the child: answers each line of its input in capitals.
fn answer_lines() {
    let mut output = stdout();
    // The test harness has started a line.
    output.write_all(b"\n").unwrap();
    let ticks = spawn(|| while sleep(Duration::from_millis(1)).is_ok() {});
    for line in BufReader::new(stdin()).lines() {
        let line = line.unwrap();
        output.write_all(line.to_uppercase().as_bytes()).unwrap();
        output.write_all(b"\n").unwrap();
    }
    stderr().write_all(b"done\n").unwrap();
    ticks.cancel();
    ticks.join().unwrap();
}

/// Returns a command that runs this binary's test `test` in a loop with that driver.
fn command(test: &str, driver: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("YUE_IO", driver)
        .env(MARK, "1");
    command
}

fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

fn drivers() -> Vec<&'static str> {
    let name = |choice: &yue_io::Choice| match choice {
        yue_io::Choice::Mio => "mio",
        _ => "uring",
    };
    choices().iter().map(name).collect()
}

/// Returns the child's answers, without the test harness's output around them.
fn capitals(output: &str) -> Vec<String> {
    let is_ours = |line: &&str| {
        let bare = line.trim_end();
        !bare.is_empty()
            && bare
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    output
        .lines()
        .filter(is_ours)
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn pipes_are_read_and_written() {
    let test = "pipes_are_read_and_written";
    if is_child() {
        return run_on(yue_io::Choice::Auto, answer_lines);
    }
    for driver in drivers() {
        let mut child = command(test, driver)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            // More than a pipe holds; in parts, so that the child has to wait.
            for n in 0..20_000 {
                writeln!(to, "line{n}").unwrap();
                if n % 5000 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = capitals(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(lines.len(), 20_000);
        assert_eq!(lines[19_999], "LINE19999");
        assert!(String::from_utf8_lossy(&output.stderr).contains("done"));
    }
}

#[test]
fn files_are_read_and_written() {
    let test = "files_are_read_and_written";
    if is_child() {
        return run_on(yue_io::Choice::Auto, answer_lines);
    }
    for driver in drivers() {
        let dir = yue_io::fs::TempDir::new().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, "first\nsecond\n").unwrap();
        let status = command(test, driver)
            .stdin(std::fs::File::open(&input).unwrap())
            .stdout(std::fs::File::create(&output).unwrap())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let text = std::fs::read_to_string(&output).unwrap();
        assert_eq!(capitals(&text), ["FIRST", "SECOND"]);
    }
}

#[test]
fn lines_that_fibers_of_several_loops_write_into_a_file_are_all_kept() {
    const LINES: usize = 300;
    const FIBERS: usize = 3;
    fn write_lines() {
        let line = "x".repeat(5_000) + "\n";
        for _ in 0..LINES {
            assert_eq!(stdout().write(line.as_bytes()).unwrap(), line.len());
        }
    }
    let test = "lines_that_fibers_of_several_loops_write_into_a_file_are_all_kept";
    if is_child() {
        return run_on(yue_io::Choice::Auto, || {
            let (handle, thread) = worker(this_choice());
            let there: Vec<_> = (0..FIBERS).map(|_| handle.spawn(write_lines)).collect();
            let here: Vec<_> = (0..FIBERS).map(|_| spawn(write_lines)).collect();
            here.into_iter().for_each(|fiber| fiber.join().unwrap());
            there.into_iter().for_each(|fiber| fiber.join().unwrap());
            handle.shutdown();
            thread.join().unwrap();
        });
    }
    for driver in drivers() {
        let dir = yue_io::fs::TempDir::new().unwrap();
        let output = dir.path().join("out");
        let status = command(test, driver)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&output).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        let text = std::fs::read_to_string(&output).unwrap();
        // The test harness writes into the file as well, before the first line.
        let whole = text
            .lines()
            .filter(|line| line.ends_with(&"x".repeat(5_000)));
        assert!(text.lines().all(|line| line.len() < 6_000));
        assert_eq!(whole.count(), 2 * FIBERS * LINES);
    }
}

#[test]
fn a_null_device_is_empty_input() {
    let test = "a_null_device_is_empty_input";
    if is_child() {
        return run_on(yue_io::Choice::Auto, answer_lines);
    }
    for driver in drivers() {
        let mut command = command(test, driver);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
    }
}

#[test]
fn a_terminal_is_read_and_written() {
    let test = "a_terminal_is_read_and_written";
    if is_child() {
        return run_on(yue_io::Choice::Auto, answer_lines);
    }
    for driver in drivers() {
        let (mut ours, theirs) = terminal();
        let mut child = command(test, driver)
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        ours.write_all(b"typed\n").unwrap();
        let mut seen = String::new();
        while !seen.contains("TYPED\r\n") {
            let mut bytes = [0; 256];
            let count = ours.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        ours.write_all(b"more\n\x04").unwrap();
        while !seen.contains("MORE\r\n") {
            let mut bytes = [0; 256];
            let count = ours.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        // The child's final output must not fill the terminal.
        let rest =
            std::thread::spawn(
                move || {
                    while ours.read(&mut [0; 256]).is_ok_and(|count| count > 0) {}
                },
            );
        assert!(child.wait().unwrap().success());
        rest.join().unwrap();
    }
}

/// Opens both ends of a new terminal.
fn terminal() -> (std::fs::File, std::fs::File) {
    use std::os::fd::FromRawFd;
    let (mut ours, mut theirs) = (0, 0);
    let (name, modes, size) = (
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    );
    // SAFETY: two live, writable integers.
    let made = unsafe { libc::openpty(&mut ours, &mut theirs, name, modes, size) };
    assert_eq!(made, 0);
    for fd in [ours, theirs] {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: both descriptors are new, and nothing else owns them.
    unsafe { (FromRawFd::from_raw_fd(ours), FromRawFd::from_raw_fd(theirs)) }
}

#[test]
fn a_cancel_ends_a_read_from_a_silent_input() {
    let test = "a_cancel_ends_a_read_from_a_silent_input";
    if is_child() {
        return run_on(yue_io::Choice::Auto, || {
            let fiber = spawn(|| stdin().read(&mut [0; 16]));
            wait_until(|| operations() == 1);
            fiber.cancel();
            let error = fiber.join().unwrap().unwrap_err();
            assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
            assert_eq!(operations(), 0);
        });
    }
    for driver in drivers() {
        let (ours, theirs) = terminal();
        for input in [Stdio::piped(), Stdio::from(theirs)] {
            let mut child = command(test, driver)
                .stdin(input)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let _held = child.stdin.take();
            assert!(child.wait().unwrap().success());
        }
        drop(ours);
    }
}
