//! `yue waits`: deadlocks over threads and processes are named, and a busy program has none.

mod common;

use common::{Outcome, Program, Running, Server, drivers, run, wait_until, yue};
use std::path::Path;
use std::process::Command;

/// A folder for the endpoints of a test's own programs.
fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn within<'a>(place: &Path, command: &'a mut Command) -> &'a mut Command {
    command
        .env("XDG_RUNTIME_DIR", place)
        .env_remove("YUE_ADMIN")
}

fn waits(place: &Path, arguments: &[&str]) -> Outcome {
    run(within(place, &mut yue()).arg("waits").args(arguments))
}

/// Waits until a deadlock is found.
fn deadlock(place: &Path) -> Outcome {
    let mut found = None;
    wait_until("the deadlock", || {
        let outcome = waits(place, &[]);
        assert!([0, 3].contains(&outcome.code()), "{outcome:#?}");
        let is_found = outcome.code() == 3;
        found = Some(outcome);
        is_found
    });
    found.unwrap()
}

const SERVING: &str = "
    io.stdout:write('serving at ' .. listener:addr() .. '\\n')
    io.stdout:flush()";

fn program(name: &str, text: &str) -> Program {
    Program::new(name, &format!("local yue = require 'yue'\n{text}"))
}

#[test]
fn a_deadlock_over_three_processes_is_named() {
    let a = program(
        "waits-a",
        &format!(
            "local mutex = yue.mutex()
            local listener = yue.listen('tcp://127.0.0.1:0', {{
              start = function(b, c, a)
                local answer = mutex:with(function() return yue.open(b, {{ timeout = 60 }}, nil).step(c, a) end)
                return answer
              end,
              touch = function() return mutex:with(function() return 'done' end) end,
            }}){SERVING}"
        ),
    );
    let b = program(
        "waits-b",
        &format!(
            "local listener = yue.listen('tcp://127.0.0.1:0', {{
              step = function(c, a) return yue.open(c, {{ timeout = 60 }}, nil).last(a) end,
            }}){SERVING}"
        ),
    );
    let c = program(
        "waits-c",
        &format!(
            "local socket = os.tmpname()
            os.remove(socket)
            local listener = yue.listen('unix://' .. socket, {{
              last = function(a) return yue.open(a, {{ timeout = 60 }}, nil).touch() end,
            }}){SERVING}"
        ),
    );
    let caller = program(
        "waits-caller",
        "local a, b, c = arg[1], arg[2], arg[3]
        print(pcall(yue.open(a, { timeout = 60 }, nil).start, b, c, a))",
    );
    for driver in drivers() {
        let place = place();
        let start = |program: &Program| {
            Server::of(within(place.path(), &mut program.command()).env("YUE_IO", driver))
        };
        let servers = [start(&a), start(&b), start(&c)];
        let quiet = waits(place.path(), &[]);
        assert_eq!(quiet.code(), 0, "{quiet:#?}");
        assert!(quiet.stdout.contains("no deadlock"), "{quiet:#?}");
        let addresses = servers.iter().map(|server| &server.address);
        let _caller = Running::start(
            within(place.path(), &mut caller.command())
                .env("YUE_IO", driver)
                .args(addresses),
        );
        let found = deadlock(place.path());
        let first = found.stdout.lines().next().unwrap_or_default();
        assert!(first.starts_with("deadlock: "), "{driver}: {found:#?}");
        for server in &servers {
            let process = format!("process {} ", server.running.id());
            assert!(first.contains(&process), "{driver}: {found:#?}");
        }
        for part in [
            "'step'",
            "'last'",
            "'touch'",
            "a mutex that is locked by",
            ".lua:5)",
            "ends by a timeout in",
        ] {
            assert!(first.contains(part), "{driver}, {part}: {found:#?}");
        }
        assert!(
            found.stdout.contains("1 more fiber waits"),
            "the caller's: {found:#?}"
        );
        let json = waits(place.path(), &["--json"]);
        assert_eq!(json.code(), 3, "{json:#?}");
        let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(
            json["cycles"][0]["fibers"].as_array().map(Vec::len),
            Some(4)
        );
        assert_eq!(json["processes"].as_array().map(Vec::len), Some(4));
        // Without one of the three it may still end.
        let of_two = servers[..2]
            .iter()
            .map(|server| server.running.id().to_string());
        let of_two: Vec<String> = of_two.collect();
        let part = waits(place.path(), &[&of_two[0], &of_two[1]]);
        assert_eq!(part.code(), 0, "{part:#?}");
        assert!(part.stdout.contains("longest chains"), "{part:#?}");
    }
}

/// Runs one program, and returns the deadlock that it has.
fn deadlock_of(name: &str, text: &str) -> Outcome {
    let (place, program) = (place(), program(name, text));
    let _running = Running::start(within(place.path(), &mut program.command()));
    deadlock(place.path())
}

#[test]
fn two_fibers_that_wait_for_each_other_are_named() {
    let found = deadlock_of(
        "waits-futures",
        "local second
        local first = yue.fiber(function() return second:get() end, 'first'):run()
        second = yue.fiber(function() return first:get() end, 'second'):run()
        yue.sleep(100)",
    );
    for part in [
        "fiber 'first'",
        "fiber 'second'",
        "no wait in it has a time limit",
        "1 process, 2 fibers wait",
    ] {
        assert!(found.stdout.contains(part), "{part}: {found:#?}");
    }
}

#[test]
fn a_deadlock_of_threads_is_named() {
    let found = deadlock_of(
        "waits-threads",
        "local mutex = yue.mutex()
        local listener = yue.listen('thread://hub', {
          enter = function(worker)
            return mutex:with(function() return yue.open(worker, { timeout = 60 }, nil).work() end)
          end,
        })
        local worker = yue.thread('worker', function() end, {}, {
          work = function()
            return require('yue').open('thread://hub', { timeout = 60 }, nil).enter('thread://worker')
          end,
        })
        yue.open('thread://hub', { timeout = 60 }, nil).enter('thread://worker')",
    );
    for part in [
        "the answer of 'work' from process",
        "the answer of 'enter' from process",
        "a mutex that is locked by",
    ] {
        assert!(found.stdout.contains(part), "{part}: {found:#?}");
    }
}

#[test]
fn all_holders_of_a_semaphore_must_wait_for_a_deadlock() {
    let text = |other: &str| {
        format!(
            "local semaphore, third = yue.semaphore(2)
            local function hold(what) semaphore:with(what) end
            yue.fiber(hold, 'one'):run(function() return third:get() end)
            yue.fiber(hold, 'two'):run(function() return {other} end)
            third = yue.fiber(hold, 'third'):run(function() end)
            yue.sleep(100)"
        )
    };
    let found = deadlock_of("waits-semaphore", &text("third:get()"));
    assert!(
        found
            .stdout
            .contains("a semaphore that is held by 2 fibers"),
        "{found:#?}"
    );
    let (place, program) = (place(), program("waits-holder", &text("yue.sleep(100)")));
    let _running = Running::start(within(place.path(), &mut program.command()));
    wait_until("they wait", || {
        let outcome = waits(place.path(), &[]);
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        outcome
            .stdout
            .contains("2 fibers wait for another: no deadlock")
    });
}

#[test]
fn a_busy_queue_is_no_deadlock() {
    let busy = program(
        "waits-busy",
        &format!(
            "local mutex, semaphore = yue.mutex(), yue.semaphore(2)
            local listener = yue.listen('tcp://127.0.0.1:0', {{
              enter = function()
                return mutex:with(function() yue.sleep(0.001) return 1 end)
              end,
            }})
            local self = yue.open(listener:addr())
            for _ = 1, 20 do
              yue.spawn(function() while true do self.enter() end end)
              yue.spawn(function() while true do semaphore:with(yue.sleep, 0.001) end end)
              yue.spawn(function() while true do yue.all {{ self.async_enter(), yue.spawn(self.enter) }} end end)
            end{SERVING}"
        ),
    );
    let place = place();
    let server = Server::of(within(place.path(), &mut busy.command()));
    let mut waited = false;
    for _ in 0..5 {
        let outcome = waits(place.path(), &[]);
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        waited |= outcome.stdout.contains("fibers wait for another");
    }
    assert!(waited, "nobody waits");
    server.end();
}

#[test]
fn a_process_that_is_stopped_makes_the_result_incomplete() {
    let place = place();
    let other = program("waits-stopped", "yue.sleep(1000)");
    let stopped = Running::start(within(place.path(), &mut other.command()));
    wait_until("it is listed", || {
        waits(place.path(), &[]).stdout.starts_with("1 process, ")
    });
    stopped.signal(libc::SIGSTOP);
    let is_named = |outcome: &Outcome| {
        let line = format!("process {} ", stopped.id());
        let mut lines = outcome.stdout.lines();
        lines.any(|one| one.starts_with(&line) && one.contains("is stopped and does not answer"))
    };
    let id = stopped.id().to_string();
    for names in [&[][..], &[&*id], &[other.name()]] {
        let outcome = waits(place.path(), names);
        assert_eq!(outcome.code(), 4, "{outcome:#?}");
        assert!(is_named(&outcome), "{outcome:#?}");
        let last = "0 processes, 0 fibers wait for another: no deadlock found, but the result is incomplete";
        assert!(outcome.stdout.contains(last), "{outcome:#?}");
    }
    let json = waits(place.path(), &["--json"]);
    assert_eq!(json.code(), 4, "{json:#?}");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["complete"], false, "{json:#}");

    // A deadlock among the others is found.
    let stuck = program(
        "waits-stuck",
        "local second
        local first = yue.fiber(function() return second:get() end, 'first'):run()
        second = yue.fiber(function() return first:get() end, 'second'):run()
        yue.sleep(1000)",
    );
    let _stuck = Running::start(within(place.path(), &mut stuck.command()));
    wait_until("the deadlock", || {
        let outcome = waits(place.path(), &[]);
        assert!([3, 4].contains(&outcome.code()), "{outcome:#?}");
        assert!(is_named(&outcome), "{outcome:#?}");
        outcome.code() == 3
            && outcome
                .stdout
                .contains("1 deadlock, but the result is incomplete")
    });
    stopped.signal(libc::SIGCONT);
    let whole = deadlock(place.path());
    assert!(!whole.stdout.contains("incomplete"), "{whole:#?}");
}

#[test]
fn wrong_programs_are_told() {
    let place = place();
    waits(place.path(), &["nothing.lua"]).fails(1, &["no program of yours runs"]);
    run(yue().args(["waits", "--nothing"])).fails(2, &["--nothing"]);
    let outcome = waits(place.path(), &[]);
    assert_eq!(
        outcome.lines(),
        ["0 processes, 0 fibers wait for another: no deadlock"]
    );
}
