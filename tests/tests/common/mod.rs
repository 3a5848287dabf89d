//! The `yue` command as child processes: running it to its end, running it as a server, talking to it.
//!
//! Nothing here waits for longer than [`LONG`]: a child that is not over by then is killed, and its test fails with
//! what the child has said.

#![allow(dead_code)] // Each test binary uses a part of it.

pub mod runtime_dir;
pub mod wire;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a test waits for what must come.
pub const LONG: Duration = Duration::from_secs(60);

/// The workspace's folder; children run there.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// A Lua program that stands beside the tests.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/tests/scripts").join(name)
}

/// The `yue` command. What the environment says of the driver (`YUE_IO`) holds for it, too.
pub fn yue() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue-under-test"));
    command
        .arg0("yue")
        .current_dir(root())
        .env_remove("YUE_LOG")
        // On a busy machine a script that is not slow may be.
        .env("YUE_WATCHDOG", "0")
        .stdin(Stdio::null());
    // A shell may have had these ignored for the tests: in the background, or under nohup.
    let hear = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: async-signal-safe.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only an async-signal-safe call is made.
    unsafe { command.pre_exec(hear) };
    command
}

/// The drivers to test: both, unless the environment chooses or the kernel refuses one.
pub fn drivers() -> Vec<&'static str> {
    match yue_io::Choice::from_environment().unwrap() {
        yue_io::Choice::Uring => vec!["uring"],
        yue_io::Choice::Mio => vec!["mio"],
        yue_io::Choice::Auto if yue_io::probe_uring().is_ok() => vec!["uring", "mio"],
        yue_io::Choice::Auto => vec!["mio"],
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "this did not come: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A Lua program in a file of its own, which goes away with it.
pub struct Program(PathBuf);

impl Program {
    pub fn new(name: &str, text: &str) -> Program {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("{name}-{}.lua", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Program(path)
    }

    pub fn command(&self) -> Command {
        let mut command = yue();
        command.arg(&self.0);
        command
    }

    pub fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What became of a child.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The exit code; no child may die of a signal, or of a panic that a user would see.
    #[track_caller]
    pub fn code(&self) -> i32 {
        let words = [
            "panicked",
            "RUST_BACKTRACE",
            "abandoned",
            "ERROR in finalizer",
            "a finalizer (__gc) failed",
        ];
        let found = words.iter().find(|word| self.stderr.contains(**word));
        assert!(found.is_none(), "{found:?} on standard error: {self:#?}");
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by signal {:?}: {self:#?}", self.status.signal()))
    }

    /// Demands exit code 0 and an empty standard error; returns the lines of standard output.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        assert_eq!(self.code(), 0, "{self:#?}");
        assert_eq!(self.stderr, "", "{self:#?}");
        self.stdout.lines().collect()
    }

    /// Demands that standard error has nothing but the log of failed handlers, of one of these names each.
    #[track_caller]
    pub fn logs_only_failures_of(&self, handlers: &[&str]) {
        self.logs_only(handlers, false);
    }

    /// As `logs_only_failures_of`; beside these, links may have ended, and handshakes failed, for what peers sent.
    #[track_caller]
    pub fn logs_only_attacks(&self, handlers: &[&str]) {
        self.logs_only(handlers, true);
    }

    #[track_caller]
    fn logs_only(&self, handlers: &[&str], attacks: bool) {
        let expected = |entry: &str| {
            handlers.iter().any(|handler| {
                entry.contains(&format!("Z yue error: the handler of {handler} failed, "))
            }) || attacks && entry.contains("Z yue warn: the link to tcp://127.0.0.1:")
                || attacks && entry.contains("Z yue warn: the handshake with ")
                || entry.ends_with("more failures of handlers, callbacks and peers were not logged")
        };
        // The lines of a traceback are indented.
        let entries = self.stderr.lines().filter(|line| !line.starts_with(' '));
        let others: Vec<&str> = entries.filter(|entry| !expected(entry)).collect();
        assert!(others.is_empty(), "{others:#?} in {self:#?}");
    }

    /// Demands that the command failed with `code` and says all of `words` on standard error.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    Running::start(command).outcome()
}

/// A child that runs. It is killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

fn collect(stream: impl Read + Send + 'static) -> JoinHandle<String> {
    let mut stream = BufReader::new(stream);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What the child wrote until it was killed counts.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Running {
    /// Starts it. Its output is collected from now on, unless `command` sends it elsewhere.
    #[track_caller]
    pub fn start(command: &mut Command) -> Running {
        let (mut running, stdout) = Running::start_unread(command);
        running.stdout = stdout.map(collect);
        running
    }

    /// Starts it with its standard error somewhere else than in what is collected.
    #[track_caller]
    pub fn start_with_stderr(command: &mut Command, stderr: Stdio) -> Running {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Running {
            child: command.spawn().unwrap(),
            stdout: None,
            stderr: None,
        }
    }

    /// Starts it; its standard output is left to the caller.
    pub fn start_unread(command: &mut Command) -> (Running, Option<ChildStdout>) {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take().map(collect);
        let running = Running {
            child,
            stdout: None,
            stderr,
        };
        (running, stdout)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if that was to be a pipe; it ends when this is dropped.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for: its number is still its own.
        let sent = unsafe { libc::kill(self.id() as i32, signal) };
        assert_eq!(sent, 0);
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap().parse::<usize>().unwrap() << 10
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        entries.unwrap().count()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + LONG;
        let mut killed = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline && !killed {
                killed = true;
                self.child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |thread: Option<JoinHandle<String>>| {
            thread.map_or_else(String::new, |thread| thread.join().unwrap())
        };
        let outcome = Outcome {
            status,
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        };
        assert!(!killed, "not over after {LONG:?}: {outcome:#?}");
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that serves: its program has printed `serving at ADDRESS`.
pub struct Server {
    pub running: Running,
    pub address: String,
}

impl Server {
    /// Starts `yue` with this script, which serves at the address that it finds in `yue.args[1]`.
    #[track_caller]
    pub fn start(script: impl AsRef<Path>) -> Server {
        Server::of(yue().arg(script.as_ref()).arg("tcp://127.0.0.1:0"))
    }

    /// Starts a command that prints `serving at ADDRESS`.
    #[track_caller]
    pub fn of(command: &mut Command) -> Server {
        let (mut server, stdout) = Server::of_unread(command);
        server.running.stdout = Some(collect(stdout));
        server
    }

    /// Like [`Server::of`], but leaves the rest of its output to the caller.
    #[track_caller]
    pub fn of_unread(command: &mut Command) -> (Server, BufReader<ChildStdout>) {
        let (running, stdout) = Running::start_unread(command);
        let mut stdout = BufReader::new(stdout.unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.trim_end().strip_prefix("serving at ") else {
            panic!("it does not serve: {line:?} {:#?}", running.outcome());
        };
        let address = address.to_owned();
        (Server { running, address }, stdout)
    }

    /// `host:port`.
    pub fn host_and_port(&self) -> &str {
        self.address.strip_prefix("tcp://").unwrap()
    }

    /// Connects a raw client.
    #[track_caller]
    pub fn connect(&self) -> wire::Raw {
        wire::Raw::connect(self.host_and_port())
    }

    /// Demands that the server serves: a new client's call is answered.
    #[track_caller]
    pub fn serves(&self) {
        let answer = self.connect().call("hello", &["you".into()]);
        assert_eq!(answer, Ok("hello you".into()));
    }

    /// Ends it with a signal, and demands that it ends gracefully.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.running.signal(libc::SIGTERM);
        let outcome = self.running.outcome();
        assert_eq!(outcome.code(), 128 + libc::SIGTERM, "{outcome:#?}");
        outcome
    }
}
