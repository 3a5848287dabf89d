//! Lua programs that compute without waiting: the run fails, and does not hold the simulation.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Cause, Failure, Report, Search, Sim};
use yue::sleep;

fn script(source: &str) -> Script {
    Script {
        chunks: vec![Chunk::text("=program", source)],
        ..Script::new("program.lua")
    }
}

/// A system with a small limit, which is reached soon.
fn system(seed: u64) -> Sim {
    Sim::new(seed).steps_max(20_000_000)
}

const SERVER: &str = "yue.listen('tcp://0.0.0.0:7000', { f = function() return 1 end })";

fn run(seed: u64, source: &str) -> Result<Report, Failure> {
    system(seed)
        .lua("server", script(SERVER))
        .lua("client", script(source))
        .run(|_| sleep(Duration::from_secs(5)).unwrap())
}

fn raised(source: &str) -> String {
    match run(1, source).unwrap_err().cause {
        Cause::Raised { host, text } if host == "client" => text,
        other => panic!("{other}"),
    }
}

#[test]
fn a_loop_of_calls_that_fail_at_once_fails_the_run_and_is_named() {
    let source = "
        local conn = yue.socket 'tcp://server:7000'
        local c = conn.procs
        assert(c.f() == 1)
        yue.sleep(1.203)
        conn:close()
        while not pcall(c.f) do
        end
    ";
    let text = raised(source);
    let line = text.lines().next().unwrap();
    assert!(
        line.contains("the program has run 20000000 steps without waiting at 1.20"),
        "{text}"
    );
    assert!(
        line.contains("fiber 'main' at program:7; it holds its loop"),
        "{text}"
    );
    assert!(text.contains("stack traceback:"), "{text}");
}

#[test]
fn a_loop_that_only_computes_fails_the_run_even_if_it_catches_errors() {
    for source in [
        "yue.sleep(1)\nwhile true do end",
        "while true do pcall(function() while true do end end) end",
        "local wait = coroutine.wrap(function() while true do end end)\nwait()",
        "yue.thread('worker', function() while true do end end)\nyue.sleep(10)",
    ] {
        let text = raised(source);
        assert!(
            text.contains("steps without waiting at "),
            "{source}: {text}"
        );
    }
}

#[test]
fn the_failure_is_the_same_in_every_run_and_is_shrunk() {
    let source = "
        local c = yue.open('tcp://server:7000', { timeout = 1 }, nil)
        yue.spawn(function() yue.sleep(0.3) while yue.sleep(0.1) do end end)
        for i = 1, 40 do
          if not pcall(c.f) then while true do end end
          yue.sleep(0.1)
        end
    ";
    let attempt = |seed| {
        system(seed)
            .lua("server", script(SERVER))
            .lua("client", script(source))
            .chaos(2)
            .run(|_| sleep(Duration::from_secs(40)).unwrap())
    };
    let found = Search::new(0..20).twice(20).run(attempt).unwrap_err();
    let text = found.failure.to_string();
    assert!(text.contains("steps without waiting"), "{text}");
    assert_eq!(found.failure.report.schedule.len(), 1, "{text}");
}

#[test]
fn a_program_that_may_fail_ends_and_the_run_continues() {
    let scenario = "
        local sim = require 'yue.sim'
        sim.host('wild', function() while true do pcall(function() while true do end end) end end)
        sim.may_fail 'wild'
        yue.sleep(1)
        print(sim.running 'wild')
    ";
    let report = system(1).run_lua(script(scenario)).unwrap();
    assert_eq!(report.output.last().unwrap().text, "false");
    assert!(report.trace_text().contains("steps without waiting"));
}

#[test]
fn a_scenario_that_only_computes_fails_too() {
    let failure = system(1).run_lua(script("while true do end")).unwrap_err();
    assert!(
        failure.to_string().contains("steps without waiting at"),
        "{failure}"
    );
}

#[test]
fn work_between_waits_is_not_added_up() {
    let source = "
        for _ = 1, 10 do
          for _ = 1, 6e6 do end
          yue.yield()
        end
        print 'done'
    ";
    let report = run(1, source).unwrap();
    assert_eq!(report.output[0].text, "done");
}
