//! Machines that refuse: io_uring under a seccomp filter, as containers have it; descriptors; memory to lock; address
//! space. The command says what is refused, and goes on where it can.

mod common;
#[path = "../../io/tests/common/seccomp.rs"]
mod seccomp;

use common::{Server, drivers, run, script, wait_until, yue};
use seccomp::refuse_io_uring;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What each of io_uring's calls may be answered with, and what the user hears.
const REFUSALS: [(i32, &str); 2] = [
    (libc::EPERM, "io_uring is forbidden here (EPERM"),
    (libc::ENOSYS, "this kernel has no io_uring (ENOSYS)"),
];

/// Address space in which any of the examples must run.
const SPACE_ENOUGH_BYTES: u64 = 128 << 20;

/// The command where io_uring is refused, and nobody has chosen a driver.
fn refused(errno: i32) -> Command {
    let mut command = yue();
    command.env_remove("YUE_IO");
    refuse_io_uring(&mut command, errno);
    command
}

/// Gives the child that much of a resource.
fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    let set = move || {
        // SAFETY: a live rlimit.
        match unsafe { libc::setrlimit(resource, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only `setrlimit` is called.
    unsafe { command.pre_exec(set) };
}

#[test]
fn where_io_uring_is_refused_one_line_says_so_and_the_program_runs_on_mio() {
    for (errno, words) in REFUSALS {
        for (loops, expected) in [("1", "mio\n"), ("3", "mio\nmio\nmio\n")] {
            let outcome = run(refused(errno).args(["-c", loops]).arg(script("driver.lua")));
            assert_eq!(outcome.code(), 0, "{outcome:#?}");
            assert_eq!(outcome.stdout, expected);
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
            assert!(
                outcome.stderr.contains(&format!("Z yue info: {words}")),
                "{outcome:#?}"
            );
            assert!(
                outcome.stderr.ends_with("; using mio (epoll) instead\n"),
                "{outcome:#?}"
            );
        }
        // Threads that the program starts do not say it again.
        let outcome = run(refused(errno).arg("examples/hello.lua"));
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        let said = outcome.stderr.matches("using mio (epoll) instead").count();
        assert_eq!(said, 1, "{outcome:#?}");
        assert!(outcome.stdout.ends_with("done\n"), "{outcome:#?}");
    }
}

#[test]
fn where_io_uring_is_refused_and_demanded_the_command_fails_and_says_why() {
    for (errno, words) in REFUSALS {
        let asked = "was requested";
        let by_option = run(refused(errno).args(["--io", "uring", "examples/demo1.lua"]));
        by_option.fails(1, &["yue: ", words, asked]);
        let by_variable = run(refused(errno)
            .env("YUE_IO", "uring")
            .arg("examples/demo1.lua"));
        by_variable.fails(1, &["yue: ", words, asked]);
        let bench = run(refused(errno)
            .env("YUE_IO", "uring")
            .args(["bench", "tcp://127.0.0.1:1"]));
        bench.fails(1, &[words, asked]);
        for outcome in [by_option, by_variable, bench] {
            assert_eq!(
                (outcome.stdout.as_str(), outcome.stderr.lines().count()),
                ("", 1),
                "{outcome:#?}"
            );
        }
    }
}

#[test]
fn where_io_uring_is_refused_and_not_wanted_nothing_is_said() {
    for (errno, _) in REFUSALS {
        run(refused(errno).args(["--io", "mio", "examples/demo1.lua"])).lines();
        run(refused(errno)
            .env("YUE_IO", "mio")
            .arg("examples/demo1.lua"))
        .lines();
    }
}

#[test]
fn doctor_says_what_is_refused_and_what_to_do() {
    let advice = ["allow io_uring_setup", "mio is used instead"];
    for ((errno, words), advice) in REFUSALS.into_iter().zip(advice) {
        let outcome = run(refused(errno).arg("doctor"));
        // One line for each name: what is wrapped belongs to the line before.
        let text = outcome
            .lines()
            .join("\n")
            .replace("\n                  ", " ");
        let text = text.replace(" ->", "\n->");
        let lines: Vec<_> = text.lines().collect();
        let expected = [
            ("driver", "mio"),
            ("because", words),
            ("io_uring", "refused"),
            ("->", advice),
        ];
        for (name, text) in expected {
            let says = |line: &&str| line.trim().starts_with(name) && line.contains(text);
            assert!(lines.iter().any(says), "{name} {text}: {lines:#?}");
        }
        let forced = run(refused(errno).env("YUE_IO", "uring").arg("doctor"));
        assert_eq!(forced.code(), 1, "{forced:#?}");
        assert!(forced.stdout.contains(words), "{forced:#?}");
    }
}

#[test]
fn with_no_memory_to_lock_all_works_the_same() {
    for driver in drivers() {
        let mut command = yue();
        limit(&mut command, libc::RLIMIT_MEMLOCK, 0);
        run(command.env("YUE_IO", driver).arg("examples/demo4.lua")).lines();
    }
}

#[test]
fn with_few_descriptors_a_server_turns_clients_away_and_recovers() {
    for driver in drivers() {
        let mut command = yue();
        limit(&mut command, libc::RLIMIT_NOFILE, 32);
        command.env("YUE_IO", driver).arg(script("server.lua"));
        let server = Server::of(command.arg("tcp://127.0.0.1:0"));
        let mut oldest = server.connect();
        assert_eq!(
            oldest.call("hello", &["first".into()]),
            Ok("hello first".into())
        );
        // More than it can take; those that it cannot wait in the kernel's queue.
        let crowd: Vec<_> = (0..64).map(|_| server.connect()).collect();
        wait_until("all descriptors to be used", || {
            server.running.descriptors() >= 32
        });
        assert_eq!(
            oldest.call("hello", &["still".into()]),
            Ok("hello still".into())
        );
        drop(crowd);
        server.serves();
        assert_eq!(
            oldest.call("hello", &["last".into()]),
            Ok("hello last".into())
        );
        let said = server.end().stderr;
        let words = "Z yue warn: cannot accept connections: Too many open files";
        assert!(said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn without_enough_descriptors_to_begin_with_the_command_says_so() {
    for driver in drivers() {
        // With fewer than these the program is not even loaded.
        for most in 6..16 {
            let mut command = yue();
            limit(&mut command, libc::RLIMIT_NOFILE, most);
            let command = command.env("YUE_IO", driver).arg(script("self_call.lua"));
            let outcome = run(command);
            match outcome.code() {
                0 => assert_eq!(outcome.stdout, "hello you\n", "{most}: {outcome:#?}"),
                code => {
                    let words = ["yue: ", "Too many open files"];
                    assert!(
                        words.iter().all(|word| outcome.stderr.contains(word)),
                        "{most}: {outcome:#?}"
                    );
                    let bare = "yue: Too many open files (os error 24)\n";
                    assert!(!outcome.stderr.contains(bare), "{most}: {outcome:#?}");
                    assert_eq!(code, 1, "{most}: {outcome:#?}");
                }
            }
        }
        let mut command = yue();
        limit(&mut command, libc::RLIMIT_NOFILE, 32);
        run(command.env("YUE_IO", driver).arg("examples/demo1.lua")).lines();
    }
}

#[test]
fn little_address_space_is_enough() {
    for driver in drivers() {
        let mut command = yue();
        limit(&mut command, libc::RLIMIT_AS, SPACE_ENOUGH_BYTES);
        run(command.env("YUE_IO", driver).arg("examples/demo1.lua")).lines();
    }
}
