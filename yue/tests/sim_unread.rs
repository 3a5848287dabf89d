//! Failures of fibers that nobody has read: they are in the report of the run.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Report, Search, Sim};
use yue::sleep;

fn script(source: &str) -> Script {
    Script {
        chunks: vec![Chunk::text("=program", source)],
        ..Script::new("program.lua")
    }
}

fn run(source: &str) -> Report {
    let sim = Sim::new(1).lua("client", script(source));
    sim.run(|_| sleep(Duration::from_secs(3)).unwrap()).unwrap()
}

#[test]
fn a_failure_that_nobody_has_read_is_in_the_report_with_host_and_time() {
    let report = run("
        yue.sleep(1)
        kept = yue.spawn(function() error 'no luck' end)
        yue.sleep(60)
    ");
    assert_eq!(report.unread.len(), 1, "{:?}", report.unread);
    let line = &report.unread[0];
    assert_eq!(line.host, "client");
    assert!((1.0..1.1).contains(&line.at.as_secs_f64()), "{line}");
    assert!(
        line.text.contains("failed and nobody asked for its result"),
        "{line}"
    );
    assert!(line.text.contains("program:3: no luck"), "{line}");
    let text = report.unread_text();
    assert!(
        text.starts_with("failures that nobody has read:\n    [  1.00"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_failure_that_is_read_later_and_one_that_is_due_to_the_end_are_not() {
    let report = run("
        local failing = yue.spawn(function() error 'no luck' end)
        yue.spawn(function() yue.sleep(60) end)
        yue.spawn(function() local ok, e = pcall(yue.sleep, 60) error(e or 'late') end)
        yue.sleep(1)
        print(failing:sync())
        yue.sleep(60)
    ");
    assert_eq!(report.unread, []);
    assert_eq!(report.unread_text(), "");
}

#[test]
fn failures_stay_unread_when_their_program_ends_or_crashes() {
    let scenario = "
        local sim = require 'yue.sim'
        sim.host('ends', function() yue.spawn(function() error 'one' end) yue.sleep(0.1) end)
        sim.host('crashes', function() yue.spawn(function() error 'two' end) yue.sleep(60) end)
        yue.sleep(1)
        sim.crash 'crashes'
        yue.spawn(function() assert(false, 'three') end)
        yue.sleep(1)
    ";
    let report = Sim::new(1).run_lua(script(scenario)).unwrap();
    let mut hosts: Vec<&str> = report
        .unread
        .iter()
        .map(|line| line.host.as_str())
        .collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["crashes", "ends", "scenario"]);
}

#[test]
fn a_run_that_fails_shows_them() {
    let source = "
        yue.spawn(function() error 'the reason' end)
        yue.sleep(1)
        error 'the effect'
    ";
    let attempt = |seed| {
        let sim = Sim::new(seed).lua("client", script(source));
        sim.run(|_| sleep(Duration::from_secs(3)).unwrap())
    };
    let found = Search::new(1..2).run(attempt).unwrap_err();
    let text = found.describe("again", "");
    assert!(
        text.contains("failures that nobody has read:\n    [  0.0"),
        "{text}"
    );
    assert!(text.contains("program:2: the reason"), "{text}");
}
