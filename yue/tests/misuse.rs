//! Misuse in the midst of I/O that ends the process or is named at its end: each case runs in a child, which must say
//! the documented words and end as documented. Run on both drivers by `YUE_IO`; what needs no driver is in
//! `scheduler/tests/misuse.rs`.

use std::env;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::Duration;
use yue::net::{TcpListener, TcpStream};
use yue::scheduler::{Builder, no_suspend};
use yue::{Runtime, shield, spawn};

const CASE: &str = "YUE_MISUSE_CASE";

/// In the parent: runs this test again in a child. In the child: has `serve` handle a connection whose client has sent
/// one byte and waits for more.
fn serving(test: &'static str, serve: fn(TcpStream)) -> Option<Output> {
    if env::var(CASE).is_ok_and(|name| name == test) {
        let runtime = Runtime::builder()
            .stop_grace(Duration::from_millis(20))
            .build()
            .unwrap();
        let ((), report) = runtime.run_reported(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            client.write_all(b"!").unwrap();
            let serve = move || {
                stream.read_exact(&mut [0]).unwrap();
                // The client is told before the misuse, so that it is not left waiting by it.
                stream.write_all(b"!").unwrap();
                serve(stream);
            };
            let server = Builder::new().name("server").spawn(serve).unwrap();
            client.read_exact(&mut [0]).unwrap();
            if test == STUBBORN {
                // It reads, or is about to; the runtime ends meanwhile.
                return;
            }
            println!(
                "joined: {:?}",
                server.join().map_err(|error| error.to_string())
            );
            // The others are served on.
            let echo = spawn(move || client.write_all(b"?").map_err(|error| error.kind()));
            println!("another fiber: {}", echo.join().is_ok());
        });
        println!("{report:?}");
        return None;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, test)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    Some(output)
}

/// Demands that it was ended by that signal, or by none, and that it says these words.
#[track_caller]
fn ended(output: &Output, signal: Option<i32>, expected: &[&str]) {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let words = String::from_utf8_lossy(&all);
    assert_eq!(output.status.signal(), signal, "{words}");
    for expected in expected {
        assert!(words.contains(expected), "no {expected:?} in {words}");
    }
}

fn recurse(stream: &mut TcpStream, depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    stream
        .write_all(b"deeper")
        .map_or(0, |()| recurse(stream, depth + 1) + frame[63])
}

#[test]
fn a_stack_overflow_in_a_handler_names_the_fiber_and_ends_the_process() {
    let test = "a_stack_overflow_in_a_handler_names_the_fiber_and_ends_the_process";
    let serve = |mut stream| {
        let _ = std::hint::black_box(recurse(&mut stream, 0));
    };
    let Some(output) = serving(test, serve) else {
        return;
    };
    let told = [
        "'server' (spawned at yue/tests/misuse.rs:",
        "overflowed its stack of 252 KiB",
    ];
    ended(&output, Some(libc::SIGABRT), &told);
}

#[test]
fn reading_in_a_drop_while_panicking_is_an_error_and_ends_that_fiber_only() {
    struct ReadsInDrop(TcpStream);
    impl Drop for ReadsInDrop {
        fn drop(&mut self) {
            let error = self.0.read(&mut [0]).unwrap_err();
            eprintln!("read: {error}");
        }
    }
    let test = "reading_in_a_drop_while_panicking_is_an_error_and_ends_that_fiber_only";
    let serve = |stream| {
        let _reads = ReadsInDrop(stream);
        panic!("the first panic");
    };
    let Some(output) = serving(test, serve) else {
        return;
    };
    let told = [
        "the first panic",
        "read: cannot wait while unwinding from a panic",
        "joined: Err(",
        "another fiber: true",
    ];
    ended(&output, None, &told);
}

#[test]
fn reading_inside_no_suspend_ends_that_fiber_only() {
    let test = "reading_inside_no_suspend_ends_that_fiber_only";
    let serve = |mut stream: TcpStream| drop(no_suspend(|| stream.read(&mut [0])));
    let Some(output) = serving(test, serve) else {
        return;
    };
    let told = [
        "a fiber cannot suspend inside no_suspend",
        "joined: Err(",
        "another fiber: true",
    ];
    ended(&output, None, &told);
}

/// Looked for in debug builds.
#[test]
#[cfg(debug_assertions)]
fn reading_under_an_epoch_pin_ends_that_fiber_only() {
    let test = "reading_under_an_epoch_pin_ends_that_fiber_only";
    let serve = |mut stream: TcpStream| {
        let _pinned = crossbeam_epoch::pin();
        let _ = stream.read(&mut [0]);
    };
    let Some(output) = serving(test, serve) else {
        return;
    };
    let told = [
        "a fiber cannot suspend under an epoch pin of crossbeam-epoch",
        "joined: Err(",
        "another fiber: true",
    ];
    ended(&output, None, &told);
}

const STUBBORN: &str =
    "a_handler_that_ignores_the_hard_stop_is_named_and_does_not_keep_the_process";

#[test]
fn a_handler_that_ignores_the_hard_stop_is_named_and_does_not_keep_the_process() {
    let serve = |mut stream: TcpStream| {
        loop {
            let _ = shield(|| stream.read(&mut [0]));
        }
    };
    let Some(output) = serving(STUBBORN, serve) else {
        return;
    };
    let told = [
        "'server' (spawned at yue/tests/misuse.rs:",
        "ignored the shutdown, last waiting for: ",
        "it is abandoned",
        "fibers_abandoned: 1",
    ];
    ended(&output, None, &told);
}
