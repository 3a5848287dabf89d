//! Scenarios that are Lua programs: `yue.sim`.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Cause, Failure, Report, Sim};

fn run(seed: u64, source: &str) -> Result<Report, Failure> {
    let script = Script {
        chunks: vec![Chunk::text(
            "=scenario",
            format!("local sim = require 'yue.sim'\n{source}"),
        )],
        ..Script::new("scenario.lua")
    };
    Sim::new(seed).run_lua(script)
}

/// The lines of a host.
fn lines<'a>(report: &'a Report, host: &str) -> Vec<&'a str> {
    let own = report.output.iter().filter(|line| line.host == host);
    own.map(|line| line.text.as_str()).collect()
}

const ECHO: &str = "
sim.host('server', function(...)
  print('up', ...)
  yue.listen('tcp://0.0.0.0:7000', { echo = function(value) return value end })
end, 'one', 2)
local server = yue.open('tcp://server:7000')
";

fn echo(source: &str) -> Result<Report, Failure> {
    run(1, &format!("{ECHO}{source}"))
}

#[test]
fn a_scenario_adds_hosts_acts_on_them_and_calls_them() {
    let report = echo(
        "
        assert(server.echo(5) == 5 and sim.running 'server')
        sim.crash 'server'
        assert(not sim.running 'server')
        assert(not pcall(yue.timeout, 20, server.echo, 5))
        sim.restart 'server'
        -- The call that finds out that the connection is gone may have run, so it fails.
        repeat until pcall(server.echo, 6)
        sim.partition('scenario', 'server')
        assert(not pcall(yue.timeout, 3, server.echo, 7))
        sim.heal('scenario', 'server')
        assert(server.echo(8) == 8)
        sim.freeze 'server'
        assert(not pcall(yue.timeout, 1, server.echo, 9))
        sim.thaw 'server'
        sim.reset('scenario', 'server')
        repeat until pcall(server.echo, 6)
        sim.link('scenario', 'server', { latency = 0.25, loss = 0.01 })
        local began = sim.now()
        assert(server.echo(10) == 10 and sim.now() - began >= 0.5)
        sim.link('scenario', 'server')
        sim.short_transfers('server', 0.5)
        sim.drift('server', 200)
        assert(server.echo(11) == 11)
        sim.note 'all is well'
        sim.jump_clock('server', -100)
        sim.write_file('server', '/etc/rules', 'old')
        assert(sim.read_file('server', '/etc/rules') == 'old' and not sim.read_file('server', '/none'))
        sim.freeze_disk 'server' sim.thaw_disk 'server' sim.disk_capacity('server', 1000000)
        sim.fail_at('server', 5) sim.crash_at_operation('server', 1000)
        print('the end')
        ",
    )
    .unwrap();
    assert_eq!(lines(&report, "server"), ["up\tone\t2", "up\tone\t2"]);
    assert_eq!(lines(&report, "scenario"), ["the end"]);
    let trace = report.trace_text();
    for part in [
        "*** crash server",
        "*** link scenario server latency=250ms loss=0.01",
        "scenario: all is well",
        "server: up  one  2",
        "*** drift server 200ppm",
    ] {
        assert!(
            trace.contains(part) || trace.contains(&part.replace("  ", " ")),
            "{part} in\n{trace}"
        );
    }
}

#[test]
fn what_is_planned_happens_at_its_time_before_the_run_ends() {
    let report = run(
        2,
        "
        sim.at(7, function() yue.sleep(1); print('seven', math.floor(sim.now())) end)
        sim.at(3, function() print('three', math.floor(sim.now())) end)
        local answer
        sim.at(5, function() answer = 42 end)
        sim.eventually('there is an answer', 10, function() return answer end)
        ",
    )
    .unwrap();
    assert_eq!(lines(&report, "scenario"), ["three\t3", "seven\t8"]);
    assert!(
        (8.0..8.1).contains(&report.elapsed.as_secs_f64()),
        "{report:?}"
    );
    let stopped = run(2, "sim.at(1000, print) yue.sleep(1) sim.stop()").unwrap();
    assert!(stopped.elapsed < Duration::from_secs(3), "{stopped:?}");
}

fn cause(source: &str) -> Cause {
    echo(source).unwrap_err().cause
}

#[test]
fn invariants_fail_the_run_with_their_name_and_time() {
    let broken = cause(
        "local n = 0 sim.always('small', function() return n < 3 end) while true do yue.sleep(1) n = n + 1 end",
    );
    let Cause::Invariant { name, at } = broken else {
        panic!("{broken:?}");
    };
    assert_eq!((name.as_str(), at.as_secs()), ("small", 3));
    let late = cause("sim.eventually('never', 4, function() server.echo(1) return false end)");
    let Cause::Invariant { name, at } = late else {
        panic!("{late:?}");
    };
    assert_eq!((name.as_str(), at.as_secs()), ("never", 4));
    echo("sim.eventually('a call', 4, function() return server.echo(true) end)").unwrap();
}

#[test]
fn mistakes_of_a_scenario_are_errors_that_say_what_is_wrong() {
    for (source, problem) in [
        (
            "sim.always('waits', function() return server.echo(true) end) yue.sleep(1)",
            "it must not wait",
        ),
        (
            "sim.always('raises', function() error('oh') end) yue.sleep(1)",
            "oh",
        ),
        ("error('no luck')", "no luck"),
        ("sim.at(1, function() error('planned') end)", "planned"),
        (
            "sim.crash 'serve'",
            "there is no host named serve; there are scenario, server",
        ),
        ("sim.crash 'scenario'", "'crash scenario' is impossible"),
        (
            "sim.restart 'server'",
            "the host server runs; crash it before it restarts",
        ),
        (
            "sim.partition('server')",
            "the name of a host is a string, not nil",
        ),
        (
            "sim.partition('server', 'a b')",
            "'a b' cannot be a host's name",
        ),
        (
            "sim.link('server', 'scenario', { speed = 1 })",
            "there is no property speed",
        ),
        (
            "sim.link('server', 'scenario', { loss = 2 })",
            "loss is a number from 0 to 1, not 2",
        ),
        ("sim.host('server', print)", "native function"),
        (
            "sim.host('server', function() end)",
            "there is a host named server already",
        ),
        (
            "sim.host('other', 'nothing.lua')",
            "there is no file nothing.lua",
        ),
        (
            "sim.host('other', function() return server end)",
            "upvalue server",
        ),
        ("sim.chaos(6)", "from 1 to 5"),
        ("sim.random(2, 1)", "there is no number from 2 to 1"),
    ] {
        let failure = cause(source).to_string();
        assert!(failure.contains(problem), "{source}: {failure}");
    }
}

#[test]
fn a_host_may_fail_if_the_scenario_allows_it() {
    let fails = "sim.host('weak', function() yue.sleep(1) error('broken') end)";
    let failure = run(1, &format!("{fails} yue.sleep(2)")).unwrap_err();
    let Cause::Raised { host, text } = &failure.cause else {
        panic!("{failure:?}");
    };
    assert!(host == "weak" && text.contains("broken"), "{text}");
    let allowed = format!(
        "{fails} sim.may_fail 'weak' yue.sleep(2) assert(not sim.running 'weak') sim.restart 'weak'"
    );
    let report = run(1, &allowed).unwrap();
    assert!(report.trace_text().contains("broken"));
}

#[test]
fn other_programs_have_no_hands() {
    let report = run(
        1,
        "sim.host('other', function() print(select(2, pcall(require('yue.sim').crash, 'other'))) end) yue.sleep(1)",
    )
    .unwrap();
    let text = lines(&report, "other").join("");
    assert!(text.contains("yue.sim acts in a scenario only"), "{text}");
}

#[test]
fn chaos_and_choices_come_from_the_seed() {
    let source = format!(
        "{ECHO}
        sim.chaos(4, {{ seconds = 20, hosts = {{ 'server' }} }})
        local good = 0
        print(sim.random(), sim.random(6), sim.random(10, 20))
        for _ = 1, 100 do
          if pcall(yue.timeout, 0.2, server.echo, 1) then good = good + 1 end
          yue.sleep(0.2)
        end
        assert(server.echo(1) == 1)
        print(good)
        "
    );
    let one = run(3, &source).unwrap();
    assert_eq!(one.schedule.len(), 31 + 8);
    let again = run(3, &source).unwrap();
    assert!(one == again);
    let other = run(4, &source).unwrap();
    assert_ne!(other.schedule, one.schedule);
    let good: u32 = lines(&one, "scenario")[1].parse().unwrap();
    assert!((1..100).contains(&good), "{good}");
}

#[test]
fn a_program_that_ignores_its_end_is_ended_by_a_crash_and_by_the_end_of_the_run() {
    let report = run(
        1,
        "
        sim.host('stubborn', function()
          print 'up'
          while true do pcall(yue.sleep, 1) end
        end)
        yue.sleep(2)
        sim.crash 'stubborn'
        sim.restart 'stubborn'
        yue.sleep(2)
        ",
    )
    .unwrap();
    assert_eq!(lines(&report, "stubborn"), ["up", "up"]);
}

#[test]
fn unix_sockets_are_those_of_a_host_and_survive_a_crash_as_names() {
    let report = run(
        3,
        "
        for _, name in ipairs { 'one', 'two' } do
          sim.host(name, function(name)
            local address = 'unix:///run/service.sock'
            local listener = yue.listen(address, { who = function() return name end })
            print(yue.open(address).who())
            assert(not pcall(yue.listen, address, {}), 'it is taken')
            listener:close()
            yue.listen(address, { who = function() return name .. ' again' end })
            print(yue.open(address, { no_cache = true }, nil).who())
            -- In a thread, so on another loop.
            yue.thread('asker', function()
              print(yue.open('unix:///run/service.sock').who())
            end)
          end, name)
        end
        yue.sleep(1)
        sim.crash 'one'
        sim.restart 'one'
        yue.sleep(1)
        ",
    )
    .unwrap();
    let one = ["one", "one again", "one again"];
    assert_eq!(lines(&report, "one"), [one, one].concat());
    assert_eq!(lines(&report, "two"), ["two", "two again", "two again"]);
}
