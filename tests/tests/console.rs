//! `yue console` and `yue -i`: code from the command line, from pipes and at a terminal, in a program that runs.

mod common;

use common::runtime_dir::RuntimeDir;
use common::{LONG, Outcome, Program, Running, Server, run, wait_until, yue};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A program that serves until it is ended, and can hold its loop.
const PROGRAM: &str = "local yue = require 'yue'
    local listener = yue.listen('tcp://127.0.0.1:0', { hello = function() end })
    players = { 'frodo', 'sam' }
    function hold() yue.spawn(function() while not stop do end end) end
    io.stdout:write('serving at ' .. listener:addr() .. '\\n')
    io.stdout:flush()";

/// A program with a place of its own for its socket.
struct Scene {
    place: RuntimeDir,
    program: Program,
    server: Server,
}

impl Scene {
    fn new(name: &str, options: &[&str]) -> Scene {
        let place = RuntimeDir::new(name);
        let program = Program::new(name, PROGRAM);
        let mut command = yue();
        command.args(options).arg(program.name());
        let server = Server::of(place.set_for(&mut command));
        Scene {
            place,
            program,
            server,
        }
    }

    fn console(&self) -> Command {
        let mut command = yue();
        command.arg("console");
        self.place.set_for(&mut command);
        command
    }

    /// Runs code by `-e`.
    fn evaluate(&self, code: &str) -> Outcome {
        run(self.console().args(["-e", code]))
    }

    /// Ends the program; returns its log.
    fn log(self) -> String {
        self.server.end().stderr
    }
}

#[test]
fn code_of_the_command_line_and_of_a_pipe_runs_in_the_program() {
    let scene = Scene::new("console-pipe", &[]);
    let console = Running::start(scene.console().args(["-e", "#players"]));
    let who = console.id();
    assert_eq!(console.outcome().lines(), ["2"]);
    assert_eq!(
        scene.evaluate("table.insert(players, 'merry')").lines(),
        [""; 0]
    );
    let pid = scene.server.running.id().to_string();
    let outcome = run(scene
        .console()
        .args([&pid, "-e", "print(#players)", "-e", "players[3]"]));
    assert_eq!(outcome.lines(), ["3", "\"merry\""]);
    let outcome = run(scene
        .console()
        .args(["-e", "error('bad')", "-e", "print('not this')"]));
    outcome.fails(1, &["console:1: bad", "in main chunk"]);
    assert_eq!(outcome.stdout, "");
    let piped = |text: &str| {
        let name = scene.program.name();
        let mut running = Running::start(scene.console().arg(name).stdin(Stdio::piped()));
        running.stdin().write_all(text.as_bytes()).unwrap();
        running.outcome()
    };
    assert_eq!(piped("return 1 + 1\n").lines(), ["2"]);
    assert_eq!(
        piped("local sum = 0\nfor i = 1, 3 do sum = sum + i end\nprint(sum)\n").lines(),
        ["6"]
    );
    assert_eq!(piped("").lines(), [""; 0]);
    piped("\n\nfor").fails(1, &["console:3:"]);
    run(scene.console().args(["nobody", "-e", "1"])).fails(1, &["no program nobody runs", &pid]);
    run(scene.console().args(["-l", "4711", "-e", "1"])).fails(1, &["there is no loop 4711"]);
    let log = scene.log();
    let line = format!("yue info: console: process {who} evaluates #players\n");
    assert!(log.contains(&line), "{log}");
    assert!(
        log.contains("evaluates local sum = 0 (and 2 more lines)"),
        "{log}"
    );
}

#[test]
fn a_console_too_many_is_told_that_the_connections_are_in_use() {
    let scene = Scene::new("console-full", &[]);
    let id = scene.server.running.id().to_string();
    let socket = scene.place.socket(scene.server.running.id());
    assert_eq!(scene.evaluate("return 1").lines(), ["1"]);
    let connect = |_| UnixStream::connect(&socket).unwrap();
    let open: Vec<UnixStream> = (0..64).map(connect).collect();
    let words = [
        &*id,
        "connections of its admin endpoint are all in use",
        "end a console",
    ];
    scene.evaluate("return 1").fails(1, &words);
    run(scene.console().args([&id, "-e", "1"])).fails(1, &words);
    drop(open);
    wait_until("there is room", || {
        scene.evaluate("return 1").stdout == "1\n"
    });
}

#[test]
fn evaluation_can_be_turned_off() {
    let refusal = ["this program evaluates no code", "--no-eval"];
    let scene = Scene::new("console-off", &["--no-eval"]);
    scene.evaluate("1").fails(1, &refusal);
    let place = RuntimeDir::new("console-readonly");
    let program = Program::new("console-readonly", PROGRAM);
    let mut command = program.command();
    let _server = Server::of(place.set_for(&mut command).env("YUE_ADMIN", "readonly"));
    let mut console = yue();
    run(place.set_for(&mut console).args(["console", "-e", "1"])).fails(1, &refusal);
}

#[test]
fn a_loop_that_is_held_is_reported_and_another_one_answers() {
    let scene = Scene::new("console-held", &[]);
    let code = "yue.thread('other', function() end) hold()";
    assert_eq!(scene.evaluate(code).lines(), [""; 0]);
    let began = Instant::now();
    let outcome = scene.evaluate("1");
    outcome.fails(1, &["loop 1 does not answer", "console-held", ":4"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{outcome:#?}");
    // The second loop is the endpoint's.
    let other = run(scene
        .console()
        .args(["-l", "3", "-e", "yue.thread.current.name"]));
    assert_eq!(other.lines(), ["\"other\""]);
}

#[test]
fn code_ends_with_its_console() {
    let scene = Scene::new("console-gone", &[]);
    for code in [
        "print('begun') while true do end",
        "print('begun') yue.sleep(3600)",
    ] {
        for signal in [libc::SIGKILL, libc::SIGINT] {
            let mut command = scene.console();
            let (mut running, mut output) = Running::start_unread(command.args(["-e", code]));
            let mut line = [0; 6];
            output.as_mut().unwrap().read_exact(&mut line).unwrap();
            assert_eq!(&line, b"begun\n");
            running.signal(signal);
            if signal == libc::SIGINT {
                running.outcome().fails(1, &["interrupted"]);
            } else {
                wait_until("it is killed", || !running.is_running());
            }
            let answers = || scene.evaluate("#players").stdout == "2\n";
            wait_until("the loop is free again", answers);
        }
    }
}

#[test]
fn a_tool_in_lua_evaluates_by_the_endpoint() {
    let scene = Scene::new("console-tool", &[]);
    let socket = scene.place.socket(scene.server.running.id());
    let text = format!(
        "local admin = yue.open('unix://{}')
         local outcome = admin.eval {{ code = 'print(#players) return players[1]' }}
         print(outcome.ok, outcome.text, outcome.output)
         print(pcall(admin.eval, {{ cod = 1 }}))",
        socket.display()
    );
    let outcome = run(yue().args(["-e", &text]));
    let lines = outcome.lines();
    assert_eq!(lines[..2], ["true\t\"frodo\"\t2", ""], "{outcome:#?}");
    assert!(
        lines[2].starts_with("false\tArgumentError: "),
        "{outcome:#?}"
    );
}

// -- Terminals --------------------------------------------------------------------------------------------------------

/// A child at a terminal of its own.
struct Terminal {
    child: Child,
    master: File,
    shown: String,
}

impl Terminal {
    fn start(command: &mut Command) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel fills in both descriptors, which are ours if it succeeds.
        let (master, slave) = unsafe {
            let opened = libc::openpty(
                &mut master,
                &mut slave,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &size,
            );
            assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(master, libc::F_SETFL, libc::O_NONBLOCK);
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let stream = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        // SAFETY: async-signal-safe calls alone.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        Terminal {
            child,
            master,
            shown: String::new(),
        }
    }

    fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the terminal has shown this, since the last call.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.shown);
            let mut entry = libc::pollfd {
                fd: self.master.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one live, writable entry.
            unsafe { libc::poll(&mut entry, 1, 1000) };
            let mut bytes = [0; 4096];
            match self.master.read(&mut bytes) {
                Ok(count) => self.shown += &String::from_utf8_lossy(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("no {text:?} in {:?}: {error}", self.shown),
            }
        }
    }

    /// Whether the terminal echoes what is typed, as after a program that has put it back.
    fn echoes(&self) -> bool {
        // SAFETY: zeros are valid settings, which the kernel overwrites.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.master.as_raw_fd(), &mut settings), 0);
            settings
        };
        settings.c_lflag & libc::ECHO != 0
    }

    /// Waits for the child's end.
    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            // Nobody reads what it shows; but its writes must not wait.
            let mut bytes = [0; 4096];
            if let Ok(count) = self.master.read(&mut bytes) {
                self.shown += &String::from_utf8_lossy(&bytes[..count]);
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "not over: {:?}", self.shown);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// Checks the behaviour that both prompts share.
fn talk(terminal: &mut Terminal, prompt: &str) {
    terminal.expect(prompt);
    terminal.send("1 + 1\r");
    terminal.expect("2\r\n");
    terminal.expect(prompt);
    terminal.send("for i = 7, 8 do\rprint(i)\rend\r");
    terminal.expect("7\r\n8\r\n");
    terminal.expect(prompt);
    terminal.send("error('bad')\r");
    terminal.expect("console:1: bad");
    terminal.expect(prompt);
    terminal.send("{ { n = 1 }, { n = 22 } }\r");
    terminal.expect("#   n\r\n1   1\r\n2  22\r\n");
    terminal.expect(prompt);
    terminal.send("not sent");
    terminal.expect("not sent");
    terminal.send(CTRL_C);
    terminal.expect(prompt);
    terminal.send("yue.vers\t");
    terminal.expect("yue.version");
    terminal.send("\r");
    terminal.expect("\"0.1.0\"");
    terminal.expect(prompt);
    // The terminal echoes while code runs.
    terminal.send("io.write('begun') while true do end\r");
    terminal.expect("\nbegun");
    terminal.send(CTRL_C);
    terminal.expect("interrupted");
    terminal.expect(prompt);
    terminal.send(".nothing\r");
    terminal.expect("there is no command .nothing");
    terminal.expect(prompt);
    terminal.send(".loop 4711\r");
    terminal.expect("there is no loop 4711");
    terminal.expect(prompt);
    terminal.send(".loops\r");
    terminal.expect("fibers");
    terminal.expect(prompt);
}

#[test]
fn a_terminal_talks_with_a_running_program() {
    let scene = Scene::new("console-pty", &[]);
    let state = tempfile::tempdir().unwrap();
    let mut command = scene.console();
    let mut terminal = Terminal::start(command.env("XDG_STATE_HOME", state.path()));
    terminal.expect("1 loop, ");
    talk(&mut terminal, "> ");
    terminal.send("players[2]\r");
    terminal.expect("\"sam\"");
    terminal.expect("> ");
    terminal.send(CTRL_D);
    assert_eq!(terminal.wait().code(), Some(0));
    let history = state.path().join("yue/console_history");
    assert_eq!(
        fs::metadata(&history).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let lines = fs::read_to_string(&history).unwrap();
    assert!(
        lines.contains("for i = 7, 8 do\\nprint(i)\\nend\n"),
        "{lines}"
    );
    // The next one has them, and says so when the program ends.
    let mut command = scene.console();
    let mut terminal = Terminal::start(command.env("XDG_STATE_HOME", state.path()));
    terminal.expect("> ");
    terminal.send("\x1b[A");
    terminal.expect("players[2]");
    terminal.send(CTRL_C);
    terminal.expect("> ");
    scene.server.running.signal(libc::SIGKILL);
    terminal.send("1\r");
    terminal.expect("the program has ended");
    assert_eq!(terminal.wait().code(), Some(1));
}

#[test]
fn a_terminal_talks_with_the_program_that_it_starts() {
    let place = RuntimeDir::new("console-own");
    for driver in common::drivers() {
        let mut command = yue();
        command.args(["-e", "x = 3", "-i"]).env("YUE_IO", driver);
        let mut terminal =
            Terminal::start(place.set_for(&mut command).env("XDG_STATE_HOME", &place.0));
        talk(&mut terminal, "> ");
        terminal.send("x\r");
        terminal.expect("3\r\n");
        terminal.expect("> ");
        // Servers and fibers run meanwhile; what they print is shown.
        terminal.send("yue.spawn(function() yue.sleep(0.01) print('la' .. 'ter') end)\r");
        terminal.expect("later");
        terminal.send(CTRL_D);
        assert_eq!(terminal.wait().code(), Some(0));
    }
}

#[test]
fn the_terminal_is_put_back_when_its_program_ends() {
    let place = RuntimeDir::new("console-end");
    let mut command = yue();
    command.arg("-i").env("XDG_STATE_HOME", &place.0);
    let mut terminal = Terminal::start(place.set_for(&mut command));
    terminal.expect("> ");
    wait_until("it reads", || !terminal.echoes());
    // The editor reads again by then.
    terminal.send("yue.spawn(function() yue.sleep(0.2) yue.die{} end)\r");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(terminal.echoes(), "the terminal is put back");
}
