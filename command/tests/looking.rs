//! `yue ps`, `yue top` and `yue trace` look into programs that run.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes a fraction of this; a machine under load may.
const DEADLINE: Duration = Duration::from_secs(60);

/// A program that serves three functions and calls them all the time.
const SERVER: &str = "
    local yue = require 'yue'
    local listener = yue.listen('tcp://127.0.0.1:0', {
      hello = function(name) return 'hello ' .. name end,
      fail = function() error 'as it should' end,
      slow = function() yue.sleep(0.03) end,
    })
    local c = yue.open(listener:addr())
    yue.spawn(function()
      while true do
        c.hello 'you'
        pcall(function() c.fail() end)
        c.slow()
      end
    end)
    io.stdout:write 'ready\\n'
    io.stdout:flush()
";

/// A child that is killed when the test ends, however it ends.
struct Killed {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Killed {
    fn start(command: &mut Command) -> Killed {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        Killed { child, lines }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: no memory is passed, and the child has not been awaited.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Reads lines until one fulfils the condition.
    #[track_caller]
    fn read_until(&mut self, what: &str, mut condition: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = String::new();
        let lines = self.lines.as_mut().unwrap();
        loop {
            let begin = seen.len();
            let count = lines.read_line(&mut seen).unwrap();
            assert!(count > 0, "its output ended before {what}: {seen}");
            if condition(seen[begin..].trim_end()) {
                return;
            }
            assert!(Instant::now() < deadline, "no {what}: {seen}");
        }
    }

    /// Waits for its end: the exit code, and what it wrote to standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        // What it still prints must not block it.
        let mut rest = Vec::new();
        let _ = self.lines.as_mut().unwrap().read_to_end(&mut rest);
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).unwrap();
        }
        (self.child.wait().unwrap().code(), text)
    }
}

/// A folder for the sockets of the test's programs.
fn runtime_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn yue(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command
        .env("XDG_RUNTIME_DIR", folder)
        .env("YUE_WATCHDOG", "0")
        .env_remove("YUE_ADMIN")
        .env_remove("YUE_LOG")
        .stdin(Stdio::null());
    command
}

fn serve(folder: &Path, code: &str) -> Killed {
    let script = folder.join("game.lua");
    std::fs::write(&script, code).unwrap();
    let mut server = Killed::start(yue(folder).arg(&script).stderr(Stdio::null()));
    server.read_until("start", |line| line == "ready");
    server
}

fn run(command: &mut Command) -> Output {
    command.stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn ps_lists_programs_and_those_that_are_silent() {
    let folder = runtime_folder();
    let folder = folder.path();
    let outcome = run(yue(folder).arg("ps"));
    assert_eq!(text(&outcome.stdout), "no program of yours runs\n");
    let server = serve(folder, SERVER);
    let outcome = run(yue(folder).arg("ps"));
    assert!(outcome.status.success());
    let shown = text(&outcome.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    let id = server.child.id().to_string();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(lines[0].contains("PID  NAME"), "{shown}");
    assert!(lines[1].trim_start().starts_with(&id), "{shown}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{shown}"
    );

    let stopped = serve(
        folder,
        "io.stdout:write 'ready\\n' io.stdout:flush() yue.sleep(600)",
    );
    stopped.signal(libc::SIGSTOP);
    let outcome = run(yue(folder).args(["ps", "--json"]));
    assert!(outcome.status.success());
    let list: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let find = |id: u32| {
        let list = list.as_array().unwrap();
        let found = list.iter().find(|one| one["pid"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {list:?}"))
    };
    let one = find(server.child.id());
    assert_eq!((&one["answers"], &one["loops"]), (&true.into(), &1.into()));
    // Its own connection has two sides.
    assert_eq!(one["connections"], 2);
    let here = std::env::current_dir().unwrap();
    assert_eq!(one["folder"].as_str(), here.to_str());
    assert!(
        lines[0].ends_with("FOLDER") && lines[1].ends_with("command"),
        "{shown}"
    );
    assert!(one["memory_bytes"].as_u64().unwrap() > 1 << 20, "{one}");
    let one = find(stopped.child.id());
    assert_eq!(one["answers"], false);
    assert!(one["name"].as_str().unwrap().contains("game.lua"), "{one}");
    let shown = text(&run(yue(folder).arg("ps")).stdout);
    assert!(shown.contains("does not answer"), "{shown}");
}

#[test]
fn top_shows_a_program_as_text_where_there_is_no_terminal() {
    let folder = runtime_folder();
    let folder = folder.path();
    let mut server = serve(folder, SERVER);
    let once = run(yue(folder).args(["top", "game", "--once", "-i", "0.1"]));
    let shown = text(&once.stdout);
    assert!(once.status.success(), "{}", text(&once.stderr));
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let id = format!("process {},", server.child.id());
    for part in [
        &id,
        "\nLoops\n",
        "BUSY",
        "\nFibers, ",
        "WAITS FOR",
        "connections, ",
        "127.0.0.1:",
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    let id = server.child.id().to_string();
    let mut top = Killed::start(
        yue(folder)
            .args(["top", &id, "-i", "0.1"])
            .stderr(Stdio::piped()),
    );
    // Methods with their counts; and slow ones, with their outcome.
    top.read_until("a handler", |line| line.starts_with("hello "));
    top.read_until("a slow request", |line| {
        line.contains("  slow ") && line.ends_with("  ok")
    });
    top.read_until("a failure", |line| line.ends_with("  RuntimeError"));
    server.signal(libc::SIGKILL);
    server.child.wait().unwrap();
    let (code, errors) = top.end();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("the program has ended"), "{errors}");
}

#[test]
fn trace_prints_requests_as_they_end() {
    let folder = runtime_folder();
    let folder = folder.path();
    let mut server = serve(folder, SERVER);
    let trace = |arguments: &[&str]| {
        let mut command = yue(folder);
        command.arg("trace").args(arguments);
        Killed::start(command.stderr(Stdio::piped()))
    };
    let mut all = trace(&[]);
    for (method, outcome) in [("hello", "ok"), ("fail", "RuntimeError"), ("slow", "ok")] {
        all.read_until(method, |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() == 5
                && words[1].starts_with("127.0.0.1:")
                && (words[2], words[4]) == (method, outcome)
                && words[3].parse::<f64>().is_ok()
        });
    }
    let mut failed = trace(&["game.lua", "--errors", "--json"]);
    let mut seen = 0;
    failed.read_until("failures", |line| {
        let one: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&one["method"], &one["error"]),
            (&"fail".into(), &"RuntimeError".into())
        );
        assert!(one["at_seconds"].as_f64().unwrap() > 1e9, "{one}");
        seen += 1;
        seen == 3
    });
    let mut slow = trace(&["*l*", "--slower-than", "29.9"]);
    slow.read_until("slow ones", |line| {
        assert!(line.contains("  slow  "), "{line}");
        true
    });
    all.signal(libc::SIGINT);
    let (code, errors) = all.end();
    assert_eq!(code, Some(130), "{errors}");
    assert!(errors.contains("requests in "), "{errors}");
    server.signal(libc::SIGKILL);
    server.child.wait().unwrap();
    let (code, errors) = slow.end();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("the program has ended"), "{errors}");
}

#[test]
fn programs_that_do_not_run_are_an_error() {
    let folder = runtime_folder();
    for tool in ["top", "trace"] {
        let outcome = run(yue(folder.path()).args([tool, "nothing.lua"]));
        assert_eq!(outcome.status.code(), Some(1));
        let errors = text(&outcome.stderr);
        assert!(errors.contains("no program of yours runs"), "{errors}");
    }
    for arguments in [&["trace", "--slower-than", "soon"][..], &["top", "-i", "0"]] {
        let outcome = run(yue(folder.path()).args(arguments));
        assert_eq!(outcome.status.code(), Some(2), "{arguments:?}");
    }
}
