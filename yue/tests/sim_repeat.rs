//! A run that fails leaves nothing behind: the next run of the process is what it would be in a process of its own.
#![cfg(feature = "lua")]

use std::process::Command;
use std::time::Duration;
use yue::fs;
use yue::lua::{Chunk, Script};
use yue::sim::{Chaos, Failure, Report, Sim};
use yue::sleep;

fn script(source: &str) -> Script {
    Script {
        chunks: vec![Chunk::text("=program", source)],
        ..Script::new("program.lua")
    }
}

const SERVER: &str = "
yue.listen('tcp://0.0.0.0:7000', { add = function(n) yue.sleep(0.01) return n + 1 end })
yue.group('room')
while yue.sleep(0.1) do yue.fs.append('/log', yue.crypto.hex(yue.crypto.random(8)) .. '\\n') end
";

const CLIENT: &str = "
local server = yue.open('tcp://server:7000')
local keys = {}
for i = 1, 200 do
  keys[{}] = i
  local ok, n = pcall(yue.timeout, 1, server.add, i)
  local order = {}
  for _, k in pairs(keys) do order[#order + 1] = k end
  print(i, ok, tostring(keys), order[1], math.random(1000))
  yue.sleep(0.05)
end
";

/// The ways in which a run may fail, in the middle of calls, timers, operations of disks and planned faults.
const WAYS: [&str; 6] = ["raise", "panic", "invariant", "scenario", "spin", "none"];

fn run(way: &'static str, seed: u64) -> Result<Report, Failure> {
    let client = match way {
        "raise" => CLIENT.replace(
            "yue.sleep(0.05)",
            "if i == 20 then error 'no luck' end yue.sleep(0.05)",
        ),
        "spin" => CLIENT.replace("yue.sleep(0.05)", "while i == 20 do end yue.sleep(0.05)"),
        _ => CLIENT.to_owned(),
    };
    let main = move || {
        for number in 0.. {
            let _ = fs::write(format!("/{}", number % 10), "text");
            if sleep(Duration::from_millis(30)).is_err() {
                return;
            }
            assert!(way != "panic" || number != 40, "the host has had enough");
        }
    };
    Sim::new(seed)
        .steps_max(5_000_000)
        .lua("server", script(SERVER))
        .lua("client", script(&client))
        .host("writer", main)
        .chaos(Chaos::level(3).within(Duration::from_secs(8)))
        .run(move |sim| {
            sim.crash_at_operation("writer", 100_000);
            sim.set_clock_drift("server", 200);
            let until = sim.elapsed() + Duration::from_millis(1_500);
            let (began, control) = (until, sim.clone());
            sim.always("nothing happens", move || {
                way != "invariant" || control.elapsed() < began
            });
            sleep(Duration::from_secs(2)).unwrap();
            assert!(way != "scenario", "the scenario has had enough");
            sleep(Duration::from_secs(8)).unwrap();
        })
}

/// All that can be told about an outcome, short enough for a line.
fn outcome(way: &'static str, seed: u64) -> String {
    let (cause, report) = match run(way, seed) {
        Ok(report) => ("well".to_owned(), report),
        Err(failure) => (failure.to_string(), *failure.report),
    };
    assert_ne!(report.digest, 0);
    let hash = |text: &str| {
        text.bytes().fold(0u64, |hash, byte| {
            (hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    };
    let output: String = report
        .output
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let first = cause.lines().next().unwrap_or("").to_owned();
    format!(
        "{way} {seed}: digest {:016x}, trace {:016x}, output {:016x}, {:?}, {first}",
        report.digest,
        hash(&report.trace_text()),
        hash(&output),
        report.elapsed
    )
}

/// Prints one outcome; the test below runs it in a process of its own.
#[test]
fn alone() {
    if let Ok(number) = std::env::var("YUE_TEST_ALONE") {
        let number: usize = number.parse().unwrap();
        println!(
            "outcome: {}",
            outcome(WAYS[number % WAYS.len()], number as u64)
        );
    }
}

fn outcome_alone(number: usize) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["alone", "--exact", "--nocapture"])
        .env("YUE_TEST_ALONE", number.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("outcome: "));
    line.map(|(_, outcome)| outcome.to_owned())
        .unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn a_run_is_the_same_after_other_runs_have_failed_and_in_a_process_of_its_own() {
    let numbers = 0..2 * WAYS.len();
    let here = |number: usize| outcome(WAYS[number % WAYS.len()], number as u64);
    let first: Vec<String> = numbers.clone().map(here).collect();
    // The last ones first, so that each follows another run.
    let mut again: Vec<String> = numbers.clone().rev().map(here).collect();
    again.reverse();
    for (number, (one, other)) in first.iter().zip(&again).enumerate() {
        assert_eq!(one, other);
        assert_eq!(*one, outcome_alone(number));
        let fails = WAYS[number % WAYS.len()] != "none";
        assert_eq!(!one.ends_with(", well"), fails, "{one}");
    }
}
