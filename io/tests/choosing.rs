//! The choice of a loop's driver, and the notices when io_uring is refused.

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/seccomp.rs"]
mod seccomp;

use child::child_output;
use common::run_on;
use seccomp::refuse_io_uring;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_scheduler::{Config, Driver, Loop, spawn};

fn echo_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        let mut stream = listener.incoming().next().unwrap().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(io::read_to_string(stream).unwrap(), "x");
    server.join().unwrap();
}

/// Runs an echo on a connection without a fiber.
fn owned_echo() {
    struct Echo(RefCell<Option<Connection>>);
    impl Sink for Echo {
        fn data(&self, bytes: &[u8]) {
            if let Some(connection) = &*self.0.borrow() {
                connection.send(bytes.to_vec());
            }
        }
        fn sent(&self, _: Vec<u8>) {}
        fn closed(&self, result: io::Result<()>) {
            result.unwrap();
            self.0.take();
        }
    }
    let (one, mut other) = UnixStream::pair().unwrap();
    let echo = Rc::new(Echo(RefCell::new(None)));
    let connection = Connection::start_unix(one, echo.clone()).unwrap();
    echo.0.replace(Some(connection));
    for round in 0..20u8 {
        other.write_all(&[round; 100]).unwrap();
        let mut bytes = [0; 100];
        other.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [round; 100]);
    }
    drop(other);
    common::wait_until(|| common::operations() == 0);
}

fn name(driver: io::Result<Box<dyn Driver>>) -> &'static str {
    driver.unwrap().name()
}

/// Returns the output of a child whose io_uring calls fail with `errno`.
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
        // The notice appears once per process.
        assert_eq!(name(yue_io::driver(Choice::Auto)), "mio");
        let error = yue_io::driver(Choice::Uring).err().unwrap();
        eprintln!("forced: {error}");
    })?;
    let notices: Vec<_> = output
        .lines()
        .filter(|line| line.contains("Z yue info: "))
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
fn where_io_uring_is_forbidden_a_notice_says_so_and_mio_works() {
    if let Some(output) = refused(
        "where_io_uring_is_forbidden_a_notice_says_so_and_mio_works",
        libc::EPERM,
    ) {
        assert!(
            output.contains("yue info: io_uring is forbidden here (EPERM"),
            "{output}"
        );
        assert!(
            forced(&output).contains("was requested") && forced(&output).contains("EPERM"),
            "{output}"
        );
    }
}

#[test]
fn where_io_uring_is_missing_a_notice_says_so_and_mio_works() {
    if let Some(output) = refused(
        "where_io_uring_is_missing_a_notice_says_so_and_mio_works",
        libc::ENOSYS,
    ) {
        assert!(
            output.contains("yue info: this kernel has no io_uring (ENOSYS)"),
            "{output}"
        );
        assert!(
            forced(&output).contains("was requested") && forced(&output).contains("ENOSYS"),
            "{output}"
        );
    }
}

#[test]
fn io_works_without_lockable_memory() {
    let test = "io_works_without_lockable_memory";
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
fn the_error_for_an_unknown_driver_in_the_environment_lists_the_known_ones() {
    let test = "the_error_for_an_unknown_driver_in_the_environment_lists_the_known_ones";
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
fn an_explicit_choice_overrides_the_environment() {
    assert_eq!(name(yue_io::driver(Choice::Mio)), "mio");
    assert_eq!("epoll".parse(), Ok(Choice::Mio));
    assert_eq!("io_uring".parse(), Ok(Choice::Uring));
    assert!("none".parse::<Choice>().is_err());
}

const FEATURES: &str = "defer-taskrun,registered-ring,no-iowait,buffers,multishot,direct,files";

#[test]
fn each_feature_of_io_uring_can_be_disabled() {
    let test = "each_feature_of_io_uring_can_be_disabled";
    if yue_io::probe_uring().is_err() {
        eprintln!("skipped: io_uring is not available");
        return;
    }
    for off in FEATURES.split(',').chain(["", FEATURES]) {
        let prepare = |command: &mut std::process::Command| {
            command.env("YUE_IO", "uring").env("YUE_URING_OFF", off);
        };
        let body = || {
            let found = yue_io::probe_uring().unwrap();
            let off = std::env::var("YUE_URING_OFF").unwrap();
            for (name, is) in [("registered-ring", "registered ring"), ("files", "files")] {
                assert_eq!(found.contains(&is), !off.contains(name), "{found:?}");
            }
            run_on(Choice::Auto, || {
                echo_once();
                owned_echo();
                let mut file = yue_io::fs::tempfile().unwrap();
                file.write_all(b"whole").unwrap();
                file.sync_all().unwrap();
                io::Seek::rewind(&mut file).unwrap();
                assert_eq!(io::read_to_string(file).unwrap(), "whole");
            });
        };
        if child_output(test, prepare, body).is_none() {
            return;
        }
    }
}

#[test]
fn the_error_for_an_unknown_feature_lists_the_known_ones() {
    child_output(
        "the_error_for_an_unknown_feature_lists_the_known_ones",
        |command| {
            command
                .env("YUE_URING_OFF", "files,sqpoll")
                .env_remove("YUE_IO");
        },
        || {
            for choice in [Choice::Auto, Choice::Uring] {
                let error = yue_io::driver(choice).err().unwrap();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                let text = error.to_string();
                assert!(
                    text.contains("'sqpoll'") && text.contains("registered-ring"),
                    "{text}"
                );
            }
            // The setting concerns the other driver only.
            assert_eq!(name(yue_io::driver(Choice::Mio)), "mio");
        },
    );
}
