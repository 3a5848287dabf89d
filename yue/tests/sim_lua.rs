//! Simulated systems whose hosts run Lua programs: calls, crashes, worker threads, groups, and runs that repeat.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Control, Failure, Report, Sim};
use yue::sleep;

/// A program of that source.
fn script(source: &str) -> Script {
    Script {
        chunks: vec![Chunk::text("=program", source)],
        ..Script::new("program.lua")
    }
}

fn seconds(count: u64) -> impl FnOnce(&Control) + Send + 'static {
    move |_| sleep(Duration::from_secs(count)).unwrap()
}

/// The lines of a host.
fn lines<'a>(report: &'a Report, host: &str) -> Vec<&'a str> {
    let own = report.output.iter().filter(|line| line.host == host);
    own.map(|line| line.text.as_str()).collect()
}

const COUNTER: &str = "
local count = 0
yue.listen('tcp://0.0.0.0:7000', {
  add = function(n) count = count + n; return count end,
})
print('up')
";

const CALLER: &str = "
local server = yue.open('tcp://server:7000')
for i = 1, 100 do
  local ok, count = pcall(server.add, 1)
  print(ok and count or 'failed')
  yue.sleep(1)
end
";

#[test]
fn programs_call_each_other() {
    let report = Sim::new(1)
        .lua("server", script(COUNTER))
        .lua("client", script(CALLER))
        .run(seconds(3))
        .unwrap();
    assert_eq!(lines(&report, "client"), ["1", "2", "3"]);
    let up = &report.output[0];
    assert_eq!((up.host.as_str(), up.text.as_str()), ("server", "up"));
    assert!(up.at < Duration::from_millis(10));
}

#[test]
fn a_crash_ends_a_program_and_a_restart_begins_it_anew() {
    let report = Sim::new(2)
        .lua("server", script(COUNTER))
        .lua("client", script(CALLER))
        .run(|sim| {
            sleep(Duration::from_millis(2500)).unwrap();
            assert!(sim.is_running("server"));
            sim.crash("server");
            assert!(!sim.is_running("server"));
            sim.restart("server");
            sleep(Duration::from_secs(60)).unwrap();
        })
        .unwrap();
    assert_eq!(lines(&report, "server"), ["up", "up"]);
    let counts = lines(&report, "client");
    assert_eq!(counts[..3], ["1", "2", "3"]);
    // A new process has a new count.
    assert!(counts[3..].contains(&"1"), "{counts:?}");
}

#[test]
fn a_partition_breaks_calls_until_it_heals() {
    let report = Sim::new(3)
        .lua("server", script(COUNTER))
        .lua("client", script(CALLER))
        .run(|sim| {
            sleep(Duration::from_millis(1500)).unwrap();
            sim.partition("client", "server");
            sleep(Duration::from_secs(30)).unwrap();
            sim.heal("client", "server");
            sleep(Duration::from_secs(60)).unwrap();
        })
        .unwrap();
    let counts = lines(&report, "client");
    assert!(counts.contains(&"failed"), "{counts:?}");
    assert!(
        counts.last().is_some_and(|last| *last != "failed"),
        "{counts:?}"
    );
}

#[test]
fn an_error_of_a_script_fails_the_run_with_its_traceback() {
    let failure = Sim::new(4)
        .lua(
            "wrong",
            script("local function f() error('no luck') end\nf()"),
        )
        .run(seconds(1))
        .unwrap_err();
    let Failure::Raised { host, text } = &failure else {
        panic!("{failure:?}");
    };
    assert_eq!(host, "wrong");
    assert!(text.contains("program:1: no luck"), "{text}");
    assert!(
        text.contains("stack traceback:") && text.contains("program:2"),
        "{text}"
    );
}

const WORKERS: &str = "
local thread = yue.thread('worker', function()
  local count = 0
  yue.thread.current:import {
    add = function(n) count = count + n; return count end,
    exit = function() yue.thread.current:exit('done') end,
  }
end)
local worker = yue.open('thread://worker')
for i = 1, 3 do print(worker.add(1)) end
yue.listen('tcp://0.0.0.0:7000', { add = function(n) return worker.add(n) end })
yue.sleep(10)
thread.procs.notify_exit()
print(thread:join())
";

#[test]
fn worker_threads_belong_to_their_host() {
    let report = Sim::new(5)
        .lua("one", script(WORKERS))
        .lua("other", script(WORKERS))
        .run(|sim| {
            sleep(Duration::from_secs(5)).unwrap();
            sim.crash("other");
            sim.restart("other");
            sleep(Duration::from_secs(20)).unwrap();
        })
        .unwrap();
    assert_eq!(lines(&report, "one"), ["1", "2", "3", "done"]);
    let other = lines(&report, "other");
    assert_eq!(other, ["1", "2", "3", "1", "2", "3", "done"]);
}

const GROUPS: &str = "
local group = yue.group('room')
yue.listen('tcp://0.0.0.0:7000', {
  join = function() group:join(yue.peer()); return #group end,
  tell = function(text) group.notify_heard(text) end,
})
";

const MEMBER: &str = "
local name = ...
local server = yue.open('tcp://' .. name .. ':7000', { heard = function(text) print(text) end })
print(server.join())
yue.sleep(1)
server.tell('from a member of ' .. name)
yue.sleep(1)
";

#[test]
fn groups_of_the_same_name_on_two_hosts_are_two_groups_each_over_two_loops() {
    let server = || Script {
        loops: 2,
        ..script(GROUPS)
    };
    let member = |host: &str| Script {
        args: vec![host.as_bytes().to_vec()],
        ..script(MEMBER)
    };
    let report = Sim::new(6)
        .lua("a", server())
        .lua("b", server())
        .lua("a1", member("a"))
        .lua("b1", member("b"))
        .lua("b2", member("b"))
        .run(seconds(10))
        .unwrap();
    assert_eq!(lines(&report, "a1"), ["1", "from a member of a"]);
    let (one, other) = (lines(&report, "b1"), lines(&report, "b2"));
    for heard in [&one, &other] {
        assert_eq!(heard[1..], ["from a member of b", "from a member of b"]);
    }
    let mut sizes = [one[0], other[0]];
    sizes.sort_unstable();
    assert_eq!(sizes, ["1", "2"]);
}
