//! What scenarios in Lua say about the disks, the links and the start of their hosts.
#![cfg(feature = "lua")]

use std::fs;
use std::path::PathBuf;
use yue::lua::{Chunk, Script};
use yue::sim::{Cause, Failure, Report, Sim};

fn run_beside(path: PathBuf, source: &str) -> Result<Report, Failure> {
    let script = Script {
        chunks: vec![Chunk::text(
            "=scenario",
            format!("local sim = require 'yue.sim'\n{source}"),
        )],
        ..Script::new(path)
    };
    Sim::new(1).run_lua(script)
}

fn run(source: &str) -> Result<Report, Failure> {
    run_beside("scenario.lua".into(), source)
}

/// The lines of a host.
fn lines<'a>(report: &'a Report, host: &str) -> Vec<&'a str> {
    let own = report.output.iter().filter(|line| line.host == host);
    own.map(|line| line.text.as_str()).collect()
}

#[test]
fn hosts_have_the_files_beside_their_scripts_and_those_of_their_options() {
    let folder = std::env::temp_dir().join(format!("yue-sim-hosts-{}", std::process::id()));
    fs::create_dir_all(folder.join("page")).unwrap();
    fs::write(folder.join("page/index.html"), "the index").unwrap();
    let program = "
        local folder = arg[0]:match '^(.*)/'
        local index = io.open(folder .. '/page/index.html')
        local rules = io.open '/etc/rules'
        print(index and index:read '*a', rules and rules:read '*a', yue.args[1], yue.args[2])
    ";
    fs::write(folder.join("server.lua"), program).unwrap();
    let source = "
        sim.host('plain', 'server.lua', 'one', 2)
        sim.host { name = 'table', code = 'server.lua', args = { 'a' }, files = { ['/etc/rules'] = 'ten' } }
        sim.host { name = 'none', code = 'server.lua', files = false }
        sim.host { name = 'fn', code = function() print(yue.fs.exists '/etc') end }
        local code = function(path) print(yue.fs.read(path)) end
        sim.host { name = 'beside', code = code, args = { FOLDER .. '/page/index.html' }, files = true }
        yue.sleep(1)
        assert(sim.read_file('plain', FOLDER .. '/page/index.html') == 'the index')
    ";
    let source = source.replace("FOLDER", &format!("{:?}", folder.display().to_string()));
    let report = run_beside(folder.join("scenario.lua"), &source);
    fs::remove_dir_all(&folder).unwrap();
    let report = report.unwrap();
    assert_eq!(lines(&report, "plain"), ["the index\tnil\tone\t2"]);
    assert_eq!(lines(&report, "table"), ["the index\tten\ta\tnil"]);
    assert_eq!(lines(&report, "none"), ["nil\tnil\tnil\tnil"]);
    assert_eq!(lines(&report, "fn"), ["false"]);
    assert_eq!(lines(&report, "beside"), ["the index"]);
}

#[test]
fn a_host_has_as_many_loops_as_its_options_say() {
    let report = run("
        sim.host { name = 'server', loops = 3, code = function() print 'up' end }
        yue.sleep(1)
    ")
    .unwrap();
    assert_eq!(lines(&report, "server"), ["up", "up", "up"]);
}

#[test]
fn a_scenario_sets_faults_latency_and_space_of_a_disk() {
    let report = run("
        sim.host('db', function()
          local function try(n)
            local before = yue.time()
            local ok, e = pcall(yue.fs.write, '/' .. n, 'text')
            print(n, ok or e.code, math.floor(10 * (yue.time() - before) + 0.5))
          end
          for n = 1, 9 do try(n) yue.sleep(1) end
        end)
        sim.at(1.5, function() sim.disk_faults('db', { write = 1, short_read = 0.5 }) end)
        sim.at(2.5, function() sim.disk_faults('db') sim.disk_latency('db', { operation = 0.2 }) end)
        sim.at(3.8, function() sim.disk_latency('db') sim.disk_full 'db' end)
        sim.at(5.2, function() sim.disk_full('db', false) sim.freeze_disk 'db' end)
        sim.at(6.2, function() sim.thaw_disk 'db' end)
        sim.at(7.5, function() sim.disk_faults('db', { no_space = 1 }) end)
        sim.at(9, function()
          local files, durable = sim.files('db'), sim.files('db', true)
          print(files['/1'], durable['/1'], files['/none'], sim.disk_operations 'db' >= 14)
        end)
    ")
    .unwrap();
    let outcomes: Vec<String> = lines(&report, "db")
        .iter()
        .map(|line| line.replace('\t', " "))
        .collect();
    // An opening and a write take 0.2 s each.
    assert_eq!(
        outcomes[..5],
        ["1 true 0", "2 true 0", "3 EIO 0", "4 true 4", "5 ENOSPC 0"],
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes[5..],
        ["6 true 8", "7 true 0", "8 ENOSPC 0"],
        "{outcomes:?}"
    );
    assert_eq!(lines(&report, "scenario"), ["text\tnil\tnil\ttrue"]);
    assert!(
        report
            .trace_text()
            .contains("*** disk-faults db write=1 short-read=0.5")
    );
}

#[test]
fn a_scenario_sets_the_link_of_all_hosts_and_the_faults_of_a_network() {
    let report = run("
        sim.default_link { latency = 0.25 }
        sim.host('server', function()
          yue.listen('tcp://0.0.0.0:7000', { echo = function(value) return value end })
        end)
        assert(sim.address 'server' == '10.0.0.2')
        local server = yue.open('tcp://server:7000')
        server.echo(1)
        local began = sim.now()
        server.echo(1)
        print(math.floor(10 * (sim.now() - began) + 0.5))
        sim.default_link()
        yue.sleep(1)
        began = sim.now()
        server.echo(1)
        print(math.floor(10 * (sim.now() - began) + 0.5))
        sim.network_faults('scenario', { socket = 1 })
        local ok, e = pcall(yue.net.connect, 'tcp://server:7000')
        print(ok, e.code)
        sim.network_faults 'scenario'
        print((pcall(yue.net.connect, 'tcp://server:7000')))
    ")
    .unwrap();
    assert_eq!(
        lines(&report, "scenario"),
        ["5", "0", "false\tEMFILE", "true"]
    );
}

#[test]
fn a_scenario_plans_the_faults_of_a_schedule() {
    let source = "
        sim.host('server', function() print 'up' end)
        sim.schedule '1s crash server until 2s; 3s disk-full server until 4s'
        yue.sleep(5)
    ";
    let report = run(source).unwrap();
    assert_eq!(lines(&report, "server"), ["up", "up"]);
    assert_eq!(report.schedule.len(), 2);
    let trace = report.trace_text();
    assert!(
        trace.contains("    1.000000s  *** crash server\n"),
        "{trace}"
    );
    assert!(
        trace.contains("    4.000000s  *** end disk-full server\n"),
        "{trace}"
    );
}

#[test]
fn wrong_options_are_refused_with_the_reason() {
    for (source, problem) in [
        (
            "sim.host { name = 'a', code = 'x.lua', arg = {} }",
            "there is no option arg",
        ),
        (
            "sim.host { name = 'a', code = function() end, loops = 0.5 }",
            "loops is a whole number",
        ),
        (
            "sim.host { name = 'a', code = function() end, files = 'x' }",
            "files is a table",
        ),
        (
            "sim.host { name = 'a', code = function() end, files = { 'x' } }",
            "the path of a file is a string",
        ),
        (
            "sim.host { name = 'a', code = function() end, files = { ['/tmp'] = 'x' } }",
            "cannot put /tmp on the disk of a",
        ),
        (
            "sim.disk_faults('scenario', { write = 2 })",
            "write is a number from 0 to 1, not 2",
        ),
        (
            "sim.disk_faults('scenario', { loss = 0.1 })",
            "there is no property loss",
        ),
        (
            "sim.disk_latency('scenario', { sync = -1 })",
            "sync is a number from 0",
        ),
        (
            "sim.disk_latency('nobody', { sync = 1 })",
            "there is no host named nobody",
        ),
        (
            "sim.crash_at_operation('scenario', 1)",
            "the scenario's own host",
        ),
        (
            "sim.crash_at_operation('scenario', 0)",
            "'0' is not the number of an operation",
        ),
        (
            "sim.default_link { speed = 1 }",
            "there is no property speed",
        ),
        (
            "sim.schedule '1s explode a'",
            "line 1 of the faults: 'explode' is not a fault",
        ),
        ("sim.schedule '1s crash a'", "there is no host named a"),
    ] {
        let failure = run(source).unwrap_err();
        let Cause::Scenario(text) = &failure.cause else {
            panic!("{failure}");
        };
        assert!(text.contains(problem), "{source}: {text}");
    }
}
