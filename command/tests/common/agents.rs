//! Agents and owners for the tests of `yue agent`, each with a home of its own.

#![allow(dead_code)] // Each test binary uses a part of it.

use super::{Ended, run_to_end};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const YUE: &str = env!("CARGO_BIN_EXE_yue");

/// Nothing here takes a fraction of this; a machine under load may.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A library with what the tests call.
pub const LIBRARY: &str = "
local store = {}
function put(key, value) store[key] = value; return #tostring(value) end
function get(key) return store[key] end
function ask(n) return yue.node.owner.double(n) end
function say(text) print(text) end
function block() yue.sleep(1000) end
function user() return yue.process.run({ 'id', '-un' }).out end
function variable(name) return os.getenv(name) end
function orphan()
  return tonumber((yue.process.run({ 'sh', '-c', 'sleep 1000 >/dev/null 2>&1 & echo $!' }).out))
end
";

pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_true() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with the keys and the library of a user.
pub struct Home(pub tempfile::TempDir);

impl Home {
    pub fn new() -> Home {
        let home = Home(tempfile::tempdir().expect("a temporary folder"));
        std::fs::write(home.library(), LIBRARY).expect("a file");
        home
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn library(&self) -> PathBuf {
        self.path().join("kvs.lua")
    }

    pub fn config(&self) -> PathBuf {
        let folder = self.path().join("yue");
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_CONFIG_HOME", self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .current_dir(self.path());
        command
    }

    /// Runs the command with these words.
    pub fn run(&self, words: &[&str]) -> Ended {
        run_to_end(self.command(YUE).args(words))
    }

    /// The public key that `yue key` prints.
    pub fn key(&self) -> String {
        let ended = self.run(&["key"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    pub fn authorize(&self, key: &str) {
        let path = self.config().join("authorized_owners");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{before}{key} a test\n")).expect("a file");
    }

    /// Runs a program of an owner: Lua that has `target` and `say`.
    pub fn owner(&self, driver: &str, target: &str, code: &str) -> Ended {
        run_to_end(self.owner_command(YUE, driver, target, code))
    }

    pub fn owner_command(
        &self,
        program: &str,
        driver: &str,
        target: &str,
        code: &str,
    ) -> &'static mut Command {
        let prelude = format!(
            "local target = '{target}' local say = function(...) print(...) io.stdout:flush() end "
        );
        let mut command = self.command(program);
        command
            .args(["--io", driver, "-e", &format!("{prelude}{code}")])
            .env("YUE_WATCHDOG", "0");
        Box::leak(Box::new(command))
    }
}

/// A running agent.
pub struct Agent {
    pub child: Child,
    pub home: Home,
    pub place: String,
    pub key: String,
    pub log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts an agent that serves the owner with that key.
    pub fn start(driver: &str, owner: &Home, options: &[&str]) -> Agent {
        let home = Home::new();
        home.authorize(&owner.key());
        let mut words = vec!["--listen", "127.0.0.1:0"];
        words.extend_from_slice(options);
        Agent::start_in(home, driver, &words)
    }

    pub fn start_in(home: Home, driver: &str, options: &[&str]) -> Agent {
        let mut child = home
            .command(YUE)
            .arg("agent")
            .args(options)
            .env("YUE_IO", driver)
            .env("YUE_WATCHDOG", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent runs");
        let log = Arc::new(Mutex::new(String::new()));
        let (copy, stderr) = (log.clone(), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = copy.lock().expect("a log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let words = line.trim().strip_prefix("agent at ");
        let (place, key) = words
            .and_then(|words| words.split_once(", key "))
            .unwrap_or_else(|| panic!("{line:?}, {}", log.lock().expect("a log")));
        let (place, key) = (place.to_owned(), key.to_owned());
        Agent {
            child,
            home,
            place,
            key,
            log,
        }
    }

    /// An agent whose key the owner has pinned.
    pub fn known(driver: &str, owner: &Home, options: &[&str]) -> Agent {
        let agent = Agent::start(driver, owner, options);
        let ended = owner.run(&["key", "trust", &agent.place, &agent.key]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        agent
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("a log").clone()
    }

    /// The number of its child processes.
    pub fn nodes(&self) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let lists =
            tasks.into_iter().flatten().flatten().map(|task| {
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default()
            });
        lists.map(|list| list.split_whitespace().count()).sum()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: no memory is passed; the child has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.place).expect("the agent listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

pub fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = status.rsplit_once(')').map_or("", |(_, rest)| rest);
    // A zombie is dead; its parent is slow.
    !matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X'))
}

#[track_caller]
pub fn assert_well(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
}

#[track_caller]
pub fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is missing in:\n{text}");
}
