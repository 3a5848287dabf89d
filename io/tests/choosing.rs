//! Which driver a loop gets, and what is said when io_uring is refused.

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/seccomp.rs"]
mod seccomp;

use child::child_output;
use common::run_on;
use seccomp::refuse_io_uring;
use std::io::{self, Read, Write};
use yue_io::Choice;
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::{Config, Driver, Loop, spawn};

fn echo_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(io::read_to_string(stream).unwrap(), "x");
    server.join().unwrap();
}

fn name(driver: io::Result<Box<dyn Driver>>) -> &'static str {
    driver.unwrap().name()
}

/// What a child says whose io_uring calls are answered with `errno`.
fn refused(test: &str, errno: i32) -> Option<String> {
    let prepare = |command: &mut std::process::Command| {
        command.env_remove("YUE_IO");
        refuse_io_uring(command, errno);
    };
    let output = child_output(test, prepare, || {
        let config = Config {
            driver: yue_io::driver(Choice::Auto).unwrap(),
            ..Config::default()
        };
        assert_eq!(config.driver.name(), "mio");
        Loop::new(config).unwrap().run(echo_once);
        // Said once a process only.
        assert_eq!(name(yue_io::driver(Choice::Auto)), "mio");
        let error = yue_io::driver(Choice::Uring).err().unwrap();
        eprintln!("forced: {error}");
    })?;
    let notices: Vec<_> = output
        .lines()
        .filter(|line| line.starts_with("yue: "))
        .collect();
    assert_eq!(notices.len(), 1, "{output}");
    assert!(
        notices[0].ends_with("; using mio (epoll) instead"),
        "{output}"
    );
    Some(output)
}

fn forced(output: &str) -> &str {
    output
        .lines()
        .find(|line| line.starts_with("forced: "))
        .unwrap()
}

#[test]
fn where_io_uring_is_forbidden_a_line_says_so_and_mio_works() {
    if let Some(output) = refused(
        "where_io_uring_is_forbidden_a_line_says_so_and_mio_works",
        libc::EPERM,
    ) {
        assert!(
            output.contains("yue: io_uring is forbidden here (EPERM"),
            "{output}"
        );
        assert!(
            forced(&output).contains("was asked for") && forced(&output).contains("EPERM"),
            "{output}"
        );
    }
}

#[test]
fn where_there_is_no_io_uring_a_line_says_so_and_mio_works() {
    if let Some(output) = refused(
        "where_there_is_no_io_uring_a_line_says_so_and_mio_works",
        libc::ENOSYS,
    ) {
        assert!(
            output.contains("yue: this kernel has no io_uring (ENOSYS)"),
            "{output}"
        );
        assert!(
            forced(&output).contains("was asked for") && forced(&output).contains("ENOSYS"),
            "{output}"
        );
    }
}

#[test]
fn with_no_memory_to_lock_there_is_io_all_the_same() {
    let test = "with_no_memory_to_lock_there_is_io_all_the_same";
    child_output(
        test,
        |command| {
            command.env_remove("YUE_IO");
        },
        || {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: a live rlimit.
            let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) };
            assert_eq!(set, 0);
            run_on(Choice::Auto, echo_once);
        },
    );
}

#[test]
fn the_environment_forces_a_driver() {
    let test = "the_environment_forces_a_driver";
    child_output(
        test,
        |command| {
            command.env("YUE_IO", "mio");
        },
        || {
            assert_eq!(name(yue_io::driver(Choice::Auto)), "mio");
            run_on(Choice::Auto, echo_once);
        },
    );
}

#[test]
fn an_unknown_driver_in_the_environment_is_an_error_that_names_the_known_ones() {
    let test = "an_unknown_driver_in_the_environment_is_an_error_that_names_the_known_ones";
    child_output(
        test,
        |command| {
            command.env("YUE_IO", "kqueue");
        },
        || {
            let error = yue_io::driver(Choice::Auto).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(
                error
                    .to_string()
                    .contains("'kqueue'; choose uring, mio or auto"),
                "{error}"
            );
        },
    );
}

#[test]
fn an_explicit_choice_is_not_asked_twice() {
    assert_eq!(name(yue_io::driver(Choice::Mio)), "mio");
    assert_eq!("epoll".parse(), Ok(Choice::Mio));
    assert_eq!("io_uring".parse(), Ok(Choice::Uring));
    assert!("none".parse::<Choice>().is_err());
}
