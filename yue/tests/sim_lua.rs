//! Simulated systems whose hosts run Lua programs: calls, crashes, worker threads, groups, and runs that repeat.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Cause, Control, Report, Sim};
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
    let Cause::Raised { host, text } = &failure.cause else {
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

/// Prints what depends on addresses, hashes, clocks and random numbers, on several hosts, loops and threads.
const EVERYTHING: &str = "
local function show(...)
  local words = { ... }
  for i, word in ipairs(words) do words[i] = tostring(word) end
  print(table.concat(words, ' '))
end
local function order(kind, make)
  local all, names = {}, {}
  for i = 1, 40 do all[make(i)] = i end
  for _, i in pairs(all) do names[#names + 1] = i end
  show(kind, table.concat(names, ','))
end
order('tables', function() return {} end)
order('functions', function() return function() end end)
order('strings', function(i) return 'key ' .. i end)
order('words', function(i) return ('end if then __index __gc __mode'):sub(1, i) end)
show('addresses', {}, print, coroutine.create(print), newproxy())
show('numbers', math.random(), math.random(1000), yue.crypto.hex(yue.crypto.random(8)))
math.randomseed()
show('again', math.random(1e9))
show('time', os.time(), os.clock() < 1, os.date(), os.date('*t').hour, yue.time())
show('dates', os.time { year = 2024, month = 2, day = 29, hour = 0 }, os.date('%Y-%m-%d', 0),
  os.time { year = 1969, month = 12 + 13, day = 1 })
local finalized = {}
for i = 1, 20 do
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function() finalized[#finalized + 1] = i end
end
local ffi = require 'ffi'
local cells = {}
for i = 1, 20 do cells[i] = ffi.gc(ffi.new('int[1]'), function() finalized[#finalized + 1] = -i end) end
cells = nil
collectgarbage()
collectgarbage()
show('finalized', unpack(finalized))
show('memory', collectgarbage('count'))
if yue.thread.current.index == 1 and yue.mode == 'main' then
  local thread = yue.thread('worker', function()
    local all = {}
    for i = 1, 20 do all[{}] = i end
    local seen = {}
    for _, i in pairs(all) do seen[#seen + 1] = i end
    print('thread ' .. table.concat(seen, ',') .. ' ' .. tostring({}) .. ' ' .. math.random(1e6))
  end)
end
yue.listen('tcp://0.0.0.0:7000', { echo = function(...) return ... end })
local fibers = {}
for i = 1, 20 do
  yue.spawn(function()
    yue.sleep(math.random() / 10)
    local other = yue.open('tcp://two:7000', { no_cache = true }, nil)
    local answers = {}
    for key in pairs(other.echo { a = 1, b = { c = 2, d = 3 }, [4] = 5 }) do
      answers[#answers + 1] = tostring(key)
    end
    show('called', i, yue.now and yue.now() or yue.time(), unpack(answers))
  end)
end
";

fn everything(seed: u64) -> Sim {
    let two_loops = || Script {
        loops: 2,
        ..script(EVERYTHING)
    };
    Sim::new(seed)
        .lua("one", two_loops())
        .lua("two", script(EVERYTHING))
}

/// The whole of a report as a text.
fn text_of(report: &Report) -> String {
    let lines: Vec<String> = report.output.iter().map(ToString::to_string).collect();
    format!("digest {:x}\n{}\n", report.digest, lines.join("\n"))
}

#[test]
fn a_seed_determines_addresses_hashes_clocks_and_random_numbers() {
    let run = |seed| text_of(&everything(seed).run(seconds(2)).unwrap());
    let first = run(7);
    assert!(first.contains("called 20"), "{first}");
    // Other memory is in use now.
    let held: Vec<Vec<u8>> = (0..1000).map(|size| vec![1; size * 10]).collect();
    let again = run(7);
    assert!(first == again, "{first}\n{again}");
    drop(held);
    let strings = |text: &str| {
        text.lines()
            .find(|line| line.contains("] tables"))
            .map(str::to_owned)
    };
    // Neighbours in memory stay in order for many addresses.
    assert!((8..20).any(|other| strings(&run(other)) != strings(&first)));
}

#[test]
fn another_hash_seed_changes_orders_and_nothing_else() {
    let run = |hash_seed| {
        let sim = everything(7).hash_seed(hash_seed);
        text_of(&sim.run(seconds(2)).unwrap())
    };
    let line = |text: &str, word: &str| {
        let found = text.lines().find(|line| line.contains(word));
        found.map(|line| line.split_once("] ").map(|(_, rest)| rest.to_owned()))
    };
    let (one, other) = (run(1), run(2));
    for word in ["] strings", "] words"] {
        assert_ne!(line(&one, word), line(&other, word), "{one}\n{other}");
    }
    assert_eq!(line(&one, "] dates"), line(&other, "] dates"));
    assert_eq!(line(&one, "] numbers"), line(&other, "] numbers"));
}

/// Prints a run, for the test below.
#[test]
fn a_run_in_a_process_of_its_own() {
    if let Ok(seed) = std::env::var("SIM_LUA_SEED") {
        // An address layout of its own, also where the system has none.
        let bytes = std::env::var("SIM_LUA_HELD").map_or(0, |text| text.parse().unwrap());
        let held = vec![0u8; bytes];
        let report = everything(seed.parse().unwrap()).run(seconds(2)).unwrap();
        println!("{}", text_of(&report));
        drop(held);
    }
}

#[test]
fn two_processes_with_different_layouts_run_a_seed_alike() {
    let program = std::env::current_exe().unwrap();
    let run = |mut command: std::process::Command, held: &str| {
        command.args(["a_run_in_a_process_of_its_own", "--exact", "--nocapture"]);
        command.env("SIM_LUA_SEED", "9").env("SIM_LUA_HELD", held);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let from = text.find("digest").unwrap();
        let until = text.find("\ntest a_run").unwrap_or(text.len());
        text[from..until].trim_end().to_owned()
    };
    let plain = run(std::process::Command::new(&program), "0");
    let large = run(std::process::Command::new(&program), "10000000");
    assert_eq!(plain, large);
    // Without randomization of addresses, where the machine has the command.
    let mut fixed = std::process::Command::new("setarch");
    fixed.arg("-R").arg(&program);
    if std::process::Command::new("setarch")
        .arg("-R")
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        assert_eq!(plain, run(fixed, "0"));
    }
}

#[test]
fn what_is_outside_raises_an_error_that_names_the_call() {
    let report = Sim::new(1)
        .lua(
            "one",
            script(
                "local function try(name, ...)
                   local ok, e = pcall(...)
                   print(name, ok, (tostring(type(e) == 'table' and e.msg or e)))
                 end
                 local ffi = require 'ffi'
                 ffi.cdef 'int getpid(void);'
                 try('popen', io.popen, 'true')
                 try('execute', os.execute, 'true')
                 try('run', yue.process.run, { 'true' })
                 try('load', ffi.load, 'm')
                 try('C', function() return ffi.C.getpid() end)
                 print((tostring(select(2, pcall(require, 'lfs'))):match 'module[^\\n]*'))
                 try('stdin', function() return io.read() end)
                 print(os.setlocale('C'))
                 print(ffi.new('int64_t', 7) + 1)",
            ),
        )
        .allow("os.setlocale")
        .run(seconds(1))
        .unwrap();
    let lines = lines(&report, "one");
    let names = [
        "io.popen",
        "os.execute",
        "yue.process.run",
        "ffi.load",
        "ffi.C.getpid",
    ];
    for (line, name) in lines.iter().zip(names) {
        let refusal = format!("{name} is outside of the simulation");
        assert!(
            line.contains("\tfalse\t") && line.contains(&refusal),
            "{line}"
        );
    }
    assert!(lines[5].contains("module 'lfs' not found"), "{lines:?}");
    assert_eq!(lines[6..], ["stdin\ttrue\tnil", "C", "8LL"]);
}

#[test]
fn an_exit_ends_its_host_alone() {
    let exits = "
        print('begins')
        yue.spawn(function() yue.sleep(1) os.exit() end)
        yue.sleep(60)
        print('never')
    ";
    let report = Sim::new(1)
        .lua("one", script(exits))
        .lua("other", script("yue.sleep(2) print('goes on')"))
        .run(|sim| {
            sleep(Duration::from_secs(5)).unwrap();
            assert!(!sim.is_running("one"));
            sim.restart("one");
            sleep(Duration::from_millis(500)).unwrap();
            assert!(sim.is_running("one"));
        })
        .unwrap();
    let one = lines(&report, "one");
    assert_eq!(one[0], "begins");
    assert_eq!(one[1..], ["begins"]);
    assert_eq!(lines(&report, "other"), ["goes on"]);
}

#[test]
fn an_exit_with_another_code_than_0_fails_the_run() {
    let failure = Sim::new(1)
        .lua("one", script("yue.sleep(1) os.exit(3)"))
        .run(|_| sleep(Duration::from_secs(5)).unwrap_or_default())
        .unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("it has ended with exit code 3"), "{text}");
    let failure = Sim::new(1).run_lua(script("os.exit(1)")).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("it has ended with exit code 1"), "{text}");
    assert!(Sim::new(1).run_lua(script("os.exit(0)")).is_ok());
}

const STORE: &str = "
local thread = yue.thread('store', function()
  local values, count = {}, 0
  yue.thread.current:import {
    put = function(key, value) values[key] = value; count = count + 1; return count end,
    all = function() return values end,
  }
end)
local store = yue.open('thread://store')
local watchers = yue.group('watchers')
yue.listen('tcp://0.0.0.0:7000', {
  put = function(key, value)
    local count = store.put(key, value)
    watchers.notify_changed(key, value)
    return count
  end,
  watch = function() watchers:join(yue.peer()) return store.all() end,
})
print('serves with', collectgarbage('count'))
";

const WATCHER: &str = "
local name = ...
local seen = {}
local server = yue.open('tcp://store:7000', { retry = true }, {
  changed = function(key, value) seen[key] = value end,
})
yue.spawn(function()
  while true do
    local ok, all = pcall(server.watch)
    if ok then for key, value in pairs(all) do seen[key] = value end end
    yue.sleep(5)
  end
end)
for i = 1, 1000 do
  local ok, count = pcall(server.timed_put, 1, name .. i, { i, { tostring({}) } })
  local keys = {}
  for key in pairs(seen) do keys[#keys + 1] = key end
  print(i, ok and count or (type(count) == 'table' and count.type or count), table.concat(keys, ' '))
  yue.sleep(math.random())
end
";

/// Crashes, freezes and partitions, in an order of the seed's.
fn troubles(sim: &Control) {
    let hosts = ["store", "w1", "w2"];
    for _ in 0..12 {
        let _ = sleep(Duration::from_millis(sim.below(3000)));
        let host = hosts[sim.below(3) as usize];
        match sim.below(4) {
            0 => {
                sim.crash(host);
                let _ = sleep(Duration::from_millis(sim.below(2000)));
                sim.restart(host);
            }
            1 => {
                sim.freeze(host);
                let _ = sleep(Duration::from_millis(sim.below(2000)));
                sim.thaw(host);
            }
            2 => {
                sim.partition("store", "w1");
                let _ = sleep(Duration::from_millis(sim.below(4000)));
                sim.heal("store", "w1");
            }
            _ => sim.reset_connections("store", "w2"),
        }
    }
}

#[test]
fn a_run_with_troubles_repeats() {
    yue::sim::search(0..12, |seed| {
        let watcher = |name: &str| Script {
            args: vec![name.as_bytes().to_vec()],
            ..script(WATCHER)
        };
        Sim::new(seed)
            .lua("store", script(STORE))
            .lua("w1", watcher("a"))
            .lua("w2", watcher("b"))
            .run(troubles)
    });
}

#[test]
fn a_host_that_is_switched_off_before_it_has_begun_ends() {
    Sim::new(1)
        .lua("one", script("while true do yue.sleep(1) end"))
        .run(|sim| {
            sleep(Duration::from_secs(1)).unwrap();
            sim.crash("one");
            sim.restart("one");
            sim.crash("one");
            sim.restart("one");
        })
        .unwrap();
}

#[test]
fn code_that_ignores_its_cancel_ends_with_its_host() {
    let endless = "
        yue.spawn(function() while true do pcall(yue.sleep, 1) end end)
        while true do pcall(yue.sleep, 1) end
    ";
    let dies = "
        yue.spawn(function() while true do pcall(yue.sleep, 1) end end)
        yue.sleep(0.5)
        yue.die()
    ";
    Sim::new(1)
        .lua("one", script(endless))
        .lua("other", script(dies))
        .run(|sim| {
            sleep(Duration::from_secs(1)).unwrap();
            sim.crash("one");
            sleep(Duration::from_secs(20)).unwrap();
            assert!(!sim.is_running("other"));
            sim.restart("one");
        })
        .unwrap();
}

#[test]
fn what_a_program_sets_in_its_process_is_its_own() {
    let quiet = "
        yue.log.level('error')
        yue.log.format('json')
        yue.log.info('not shown')
        yue.log.error('shown')
        yue.sleep(2)
        print(yue.log.level())
    ";
    let report = Sim::new(1)
        .lua("quiet", script(quiet))
        .lua("other", script("yue.sleep(1) yue.log.info('shown')"))
        .run(|sim| {
            sleep(Duration::from_secs(3)).unwrap();
            sim.restart("quiet");
            sleep(Duration::from_secs(3)).unwrap();
        })
        .unwrap();
    let shown = lines(&report, "quiet");
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert!(
        shown[0].starts_with('{') && shown[0].contains("\"msg\":\"shown\""),
        "{shown:?}"
    );
    assert_eq!((shown[1], shown[3]), ("error", "error"));
    assert_eq!(lines(&report, "other"), ["yue info: shown"]);
}
