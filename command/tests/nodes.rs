//! Nothing of a node is left when its owner is killed, at whatever moment: neither a process nor a child of one.
//!
//! Each owner runs in an environment with a mark of its own, which all its descendants inherit. So the processes that
//! are left are those with the mark, whoever their parent is by then.
//!
//! `YUE_KILLS=600` kills more owners than the few of a normal run.

mod common;

use common::drivers;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The time in which everything must be gone, on a machine under load.
const GONE_WITHIN: Duration = Duration::from_secs(20);

const LIBRARY: &str = "
function child()
  return yue.process.spawn { 'sleep', '1000', stdin = 'null', stdout = 'null', stderr = 'null' }.pid
end
function spin() while true do end end
function sleep() yue.sleep(1000) end
";

/// Allocates nodes of every kind again and again, with children, and work that no message ends.
const OWNER: &str = "
local library = yue.args[1]
local far = { command = { yue.node.binary, 'node' } }
local options = { output = false, lease = 1 }
print 'begun'
io.stdout:flush()
for i = 1, 4 do
  yue.spawn(function()
    while true do
      local node = yue.nalloc(i == 4 and far or 'local', library, options)
      node.child()
      if i == 2 then node.async_spin() end
      if i == 3 then node.async_sleep() end
      yue.sleep(0.03)
      yue.conn(node):close()
    end
  end)
end
";

/// The processes whose environment has the mark, zombies aside.
fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("YUE_MARK={mark}");
    let entries = std::fs::read_dir("/proc").expect("the folder of processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|word| word == wanted.as_bytes())
    })
    .collect()
}

fn assert_gone(mark: &str, what: &str) {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        let names = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        assert!(
            Instant::now() < until,
            "{what}: left are {:?}",
            left.iter().map(names).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn start(folder: &Path, driver: &str, mark: &str, program: &str) -> Child {
    let (library, owner) = (folder.join("library.lua"), folder.join("owner.lua"));
    std::fs::write(&library, LIBRARY).expect("a file in a temporary folder");
    std::fs::write(&owner, program).expect("a file in a temporary folder");
    Command::new(env!("CARGO_BIN_EXE_yue"))
        .args(["--io", driver])
        .arg(owner)
        .arg(library)
        .env("YUE_MARK", mark)
        .env("YUE_ADMIN", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command")
}

/// Waits for the line `begun`.
fn wait_for_begin(owner: &mut Child) {
    let mut line = String::new();
    let output = owner.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "begun\n");
}

#[test]
fn nothing_is_left_of_a_killed_owner() {
    let kills = std::env::var("YUE_KILLS").map_or(12, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Every moment of the life of several nodes, in an order that does not repeat.
    let mut moment_ms = 0;
    for driver in drivers() {
        for kill in 0..kills {
            let mark = format!("{}-{driver}-{kill}", std::process::id());
            let mut owner = start(folder.path(), &driver, &mark, OWNER);
            wait_for_begin(&mut owner);
            moment_ms = (moment_ms + 37) % 151;
            std::thread::sleep(Duration::from_millis(moment_ms));
            owner.kill().expect("it runs");
            owner.wait().expect("it was killed");
            assert_gone(&mark, &format!("{driver}, killed after {moment_ms} ms"));
        }
    }
}

#[test]
fn nothing_is_left_of_an_owner_that_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for driver in drivers() {
        for (number, end) in ["yue.die{}", "error 'no'", "os.exit(4)", "return"]
            .into_iter()
            .enumerate()
        {
            let mark = format!("{}-{driver}-end-{number}", std::process::id());
            let program = format!(
                "local node = yue.nalloc(yue.args[1])\nnode.child()\nnode.async_spin()\nprint 'begun'\n\
                 io.stdout:flush()\n{end}"
            );
            let mut owner = start(folder.path(), &driver, &mark, &program);
            wait_for_begin(&mut owner);
            owner.wait().expect("it ends");
            assert_gone(&mark, &format!("{driver}, {end}"));
        }
    }
}

#[test]
fn a_node_by_hand_says_what_it_is_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_yue"))
        .arg("node")
        .stdin(Stdio::null())
        .output()
        .expect("the command");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("yue.nalloc starts nodes"), "{text}");
}
