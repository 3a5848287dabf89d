//! `yue sim`: programs that run together, in virtual time.

use std::path::PathBuf;
use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command.arg("sim").args(arguments);
    // What the developer has set must not change the test.
    for variable in ["YUE_LOG", "YUE_LOG_FORMAT", "YUE_SIM_HASH"] {
        command.env_remove(variable);
    }
    command.output().expect("yue runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The path of a file of the examples.
fn example(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let path = folder.join(name).canonicalize();
    path.expect("an example").display().to_string()
}

fn script(folder: &tempfile::TempDir, name: &str, source: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, source).expect("a file can be written");
    path.display().to_string()
}

#[test]
fn the_output_of_each_host_has_its_time_and_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = script(
        &folder,
        "server.lua",
        "yue.listen('tcp://0.0.0.0:7000', { hello = function(name) return 'hello ' .. name end })
         print('serves')",
    );
    let client = script(
        &folder,
        "client.lua",
        "local server = yue.open('tcp://server:7000')
         yue.sleep(1)
         print(server.hello(yue.args[1] .. yue.args.second))",
    );
    let hosts = format!("server={server}, client*2={client} a second=b");
    let run = || sim(&["--hosts", &hosts, "--seed", "5", "--seconds", "3"]);
    let output = run();
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(
        lines[0].starts_with("[  0.0000") && lines[0].ends_with("s server] serves"),
        "{shown}"
    );
    for (line, name) in lines[1..3].iter().zip(["client", "client"]) {
        assert!(
            line.starts_with("[  1.00") && line.contains(name),
            "{shown}"
        );
        assert!(line.ends_with("] hello ab"), "{shown}");
    }
    assert!(lines[3].starts_with("seed 5: 3s, digest "), "{shown}");
    assert_eq!(shown, text(&run().stdout));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn an_error_of_a_program_is_reported_with_host_and_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = script(&folder, "wrong.lua", "yue.sleep(2)\nerror('no luck')");
    let output = sim(&["--hosts", &format!("one={wrong}"), "--seed", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("yue: seed 3: the program of the host one failed: "),
        "{stderr}"
    );
    assert!(stderr.contains("wrong.lua:2: no luck"), "{stderr}");
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, reason) in [
        (&["--seed", "1"][..], "--hosts"),
        (&["--hosts", "one"], "NAME=SCRIPT"),
        (&["--hosts", "a=x.lua", "--seconds", "0"], "seconds"),
        (&["--hosts", "a=x.lua", "--seed", "x"], "--seed"),
    ] {
        let output = sim(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(reason), "{output:?}");
    }
    let output = sim(&["--hosts", "a=/nowhere.lua"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("there is no script /nowhere.lua"),
        "{output:?}"
    );
}

const MEMBER: &str = "
local yue = require 'yue'
local name = 'member ' .. yue.crypto.hex(yue.crypto.random(4))
local chat = yue.open(yue.args[1], { no_cache = true, retry = true }, {
  entered = function(room) print('entered') end,
  members = function() end, room = function() end,
  line = function(line) if line.name == name then print('heard itself') end end,
})
assert(not chat.join('lobby', name, name .. ' key'))
for i = 1, 5 do
  yue.sleep(1 + math.random())
  assert(not chat.say('line ' .. i))
end
";

#[test]
fn the_chat_of_the_examples_runs_with_members() {
    let folder = tempfile::tempdir().expect("a folder");
    let member = script(&folder, "member.lua", MEMBER);
    let server = example("chat/server.lua");
    let hosts =
        format!("server=-c 2 {server} host=0.0.0.0, member*5={member} ws://server:8080/rpc");
    let run = || sim(&["--hosts", &hosts, "--seconds", "20"]);
    let output = run();
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.contains("server] serving at http://"), "{shown}");
    assert_eq!(shown.matches("] entered").count(), 5, "{shown}");
    assert_eq!(shown.matches("] heard itself").count(), 25, "{shown}");
    assert_eq!(shown, text(&run().stdout));
}

#[test]
fn the_arena_of_the_examples_runs_with_its_bots() {
    let run = || {
        let (server, bots) = (example("arena/server.lua"), example("arena/bots.lua"));
        let hosts = format!("server={server} host=0.0.0.0, bots*2={bots} ws://server:8080/rpc 20");
        let output = sim(&["--hosts", &hosts, "--seconds", "20"]);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let shown = run();
    assert!(shown.contains("server] serving at http://"), "{shown}");
    assert_eq!(shown.matches("20 bots play").count(), 2, "{shown}");
    let digest = |shown: &str| shown.lines().last().map(str::to_owned);
    assert_eq!(digest(&shown), digest(&run()));
}

#[test]
fn failures_that_nobody_has_read_are_printed_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = "kept = yue.spawn(function() error 'no luck' end) yue.sleep(60)";
    let host = script(&folder, "host.lua", source);
    let output = sim(&["--hosts", &format!("one={host}"), "--seconds", "1"]);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    let heading = shown
        .find("failures that nobody has read:\n    [  0.0")
        .expect("a heading");
    assert!(shown[heading..].contains("host.lua:1: no luck"), "{shown}");
    assert!(shown.contains("\nseed 1: 1s, digest "), "{shown}");
}

#[test]
fn a_program_that_never_waits_fails_the_run_after_so_many_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = script(&folder, "host.lua", "yue.sleep(0.5)\nwhile true do\nend");
    let hosts = format!("one={host}");
    let output = sim(&["--hosts", &hosts, "--steps", "1000000", "--seed", "4"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    let first = stderr.lines().next().expect("a line");
    assert!(
        first.contains("has run 1000000 steps without waiting at 500"),
        "{stderr}"
    );
    assert!(first.contains("host.lua:2"), "{stderr}");
    let again =
        format!("run it again: yue sim --seed 4 --seconds 10 --steps 1000000 --hosts one={host}");
    assert!(stderr.trim_end().ends_with(&again), "{stderr}");
}
