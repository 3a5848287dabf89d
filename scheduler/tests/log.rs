//! Log lines: the embedder's hook, and standard error with a reader that has stopped or gone.

use std::cell::Cell;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use yue_scheduler::*;

const CASE: &str = "YUE_LOG_CASE";

/// The command that runs a test of this file again, in a child.
fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, test);
    command
}

/// In the parent: runs this test again in a child, and returns its standard error. In the child: runs `case`.
fn errors_of_child(test: &str, case: impl FnOnce()) -> Option<String> {
    if env::var(CASE).is_ok_and(|name| name == test) {
        case();
        return None;
    }
    let output = child(test).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stderr).unwrap())
}

static SEEN: Mutex<Vec<(LogLevel, String)>> = Mutex::new(Vec::new());

fn collect(level: LogLevel, text: &str) {
    SEEN.lock().unwrap().push((level, text.to_owned()));
}

fn warn(text: &str) {
    log(LogLevel::Warn, format_args!("{text}"));
}

#[test]
fn the_hook_receives_each_line_with_its_level() {
    let test = "the_hook_receives_each_line_with_its_level";
    let Some(errors) = errors_of_child(test, || {
        warn("before the hook");
        set_log_hook(collect);
        Loop::new(Config::default()).unwrap().run(|| {
            let timer = Timer::new(|| panic!("a callback"));
            timer.arm(now());
            while timer.is_armed() {
                yield_now().unwrap();
            }
            log(LogLevel::Info, format_args!("{} fibers", 1));
        });
        let seen = SEEN.lock().unwrap();
        let panicked = "a timer's callback panicked: a callback; the loop continues";
        assert_eq!(seen[0], (LogLevel::Error, panicked.to_owned()));
        assert_eq!(seen[1], (LogLevel::Info, "1 fibers".to_owned()));
        assert_eq!(seen.len(), 2);
    }) else {
        return;
    };
    assert!(errors.contains("Z yue warn: before the hook\n"), "{errors}");
    assert!(!errors.contains("fibers"), "{errors}");
}

#[test]
fn a_hook_that_panics_or_logs_or_suspends_loses_no_line() {
    let test = "a_hook_that_panics_or_logs_or_suspends_loses_no_line";
    let Some(errors) = errors_of_child(test, || {
        set_log_hook(|_, text| match text {
            "panic" => panic!("in the hook"),
            "nested" => warn("from the hook"),
            "suspend" => yield_now().unwrap(),
            _ => collect(LogLevel::Debug, text),
        });
        Loop::new(Config::default()).unwrap().run(|| {
            let other = spawn(|| ());
            warn("panic");
            warn("nested");
            warn("suspend");
            assert!(!other.is_done(), "the hook suspended the fiber");
            warn("taken");
            yield_now().unwrap();
        });
        assert_eq!(SEEN.lock().unwrap().len(), 1);
    }) else {
        return;
    };
    for line in ["panic", "from the hook", "suspend"] {
        assert!(
            errors.contains(&format!("Z yue warn: {line}\n")),
            "no {line:?} in {errors}"
        );
    }
    assert!(!errors.contains("warn: nested"), "{errors}");
    assert!(!errors.contains("warn: taken"), "{errors}");
}

#[test]
fn a_line_in_a_destructor_of_a_thread_is_logged() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            warn("the thread ends");
        }
    }
    thread_local!(static LATE: Cell<Option<Late>> = const { Cell::new(None) });

    let test = "a_line_in_a_destructor_of_a_thread_is_logged";
    let Some(errors) = errors_of_child(test, || {
        set_log_hook(|_, text| {
            let _ = writeln!(io::stderr(), "the hook: {text}");
        });
        std::thread::spawn(|| LATE.set(Some(Late))).join().unwrap();
    }) else {
        return;
    };
    assert!(errors.contains(": the thread ends\n"), "{errors}");
}

/// The text of a warning: what follows its time and its level. Empty if the line is none.
fn text_of(line: &str) -> &str {
    let text = line.split_once("Z yue warn: ").map(|(_, text)| text);
    text.unwrap_or_default().trim_end()
}

/// Lines of 1 000 bytes, numbered: a pipe holds about 64 of them.
fn fill_standard_error() {
    for number in 0..200 {
        warn(&format!("{number} {}", "x".repeat(1000)));
    }
}

#[test]
fn a_reader_that_has_stopped_does_not_block_the_program() {
    let test = "a_reader_that_has_stopped_does_not_block_the_program";
    if env::var(CASE).is_ok_and(|name| name == test) {
        fill_standard_error();
        println!("filled");
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
        warn("the reader is back");
        return;
    }
    let mut child = child(test)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It gets here, although nobody reads.
    assert!(lines.any(|line| line.unwrap().contains("filled")));
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut whole = 0;
    let mut line = String::new();
    while waits_in(&reader) {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(text_of(&line), format!("{whole} {}", "x".repeat(1000)));
        whole += 1;
    }
    assert!(whole >= 3, "a pipe holds at least a page");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let note = format!(
        "{} log lines were lost, because standard error was blocked",
        200 - whole
    );
    let texts: Vec<&str> = rest.lines().map(text_of).collect();
    assert_eq!(texts, [&note, "the reader is back"], "{rest}");
    assert!(child.wait().unwrap().success());
}

/// Returns whether the pipe, or the reader's buffer, has bytes now.
fn waits_in<R: Read + AsFd>(reader: &BufReader<R>) -> bool {
    let mut entry = libc::pollfd {
        fd: reader.get_ref().as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which the call fills in.
    !reader.buffer().is_empty() || unsafe { libc::poll(&mut entry, 1, 0) } == 1
}

#[test]
fn a_standard_error_without_a_reader_does_not_end_the_program() {
    let test = "a_standard_error_without_a_reader_does_not_end_the_program";
    if env::var(CASE).is_ok_and(|name| name == test) {
        fill_standard_error();
        return;
    }
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = child(test)
        .stdout(Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_lines_of_two_threads_do_not_mix() {
    let test = "the_lines_of_two_threads_do_not_mix";
    let long = |letter: &str| letter.repeat(3 * libc::PIPE_BUF);
    let Some(errors) = errors_of_child(test, move || {
        let threads = ["a", "b", "c"]
            .map(|letter| std::thread::spawn(move || (0..20).for_each(|_| warn(&long(letter)))));
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }) else {
        return;
    };
    let lines = errors.lines().map(text_of).filter(|text| !text.is_empty());
    let whole = ["a", "b", "c"].map(long);
    assert_eq!(lines.clone().count(), 60);
    assert!(
        lines
            .clone()
            .all(|line| whole.iter().any(|one| one == line))
    );
}
