//! `yue call`: calls from the shell, over each transport, with JSON in and out; and the list of a server's functions.

mod common;

use common::{Ended, certificates, drivers, run_to_end};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SERVER: &str = r#"
local yue = require 'yue'
local symbols = { chat = {} }
local notified = 0

--- Says hello.
---@param name string
function symbols.hello(name) return 'hello ' .. name end
function symbols.add(a, b) return a + b end
function symbols.echo(...) return ... end
function symbols.chat.say() end
function symbols.fail() error 'two\nlines' end
function symbols.raise() error { code = 7 } end
function symbols.odd() return function() end, '\255\0', 0/0, 1/0, 18446744073709551615ULL end
function symbols.note() notified = notified + 1 end
function symbols.notified() return notified end
function symbols.evil() error '\27[31mred\155' end
function symbols.sleep(s) yue.sleep(s) return s end
local tls = { cert = yue.args[2] .. '/server.pem', key = yue.args[2] .. '/server-key.pem' }
local listeners = {
  yue.listen('tcp://127.0.0.1:0', symbols),
  yue.listen('ws://127.0.0.1:0/game', symbols),
  yue.listen('unix://' .. yue.args[2] .. '/yue.sock', symbols),
  yue.listen('tls://localhost:0', tls, symbols),
  yue.listen('tcp://127.0.0.1:0', { describe = false }, symbols),
  yue.listen('tcp://127.0.0.1:0', {
    __accept = function(conn) return conn.procs.login() ~= nil end,
    add = symbols.add,
  }),
}
for _, listener in ipairs(listeners) do print(listener:addr()) end
io.stdout:flush()
io.read()
os.exit(0)
"#;

/// A running server, which ends with this.
struct Server {
    child: Child,
    /// tcp, ws, unix, tls, one that does not describe itself, and one that asks who is there.
    addresses: Vec<String>,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(driver: &str) -> Server {
        let folder = certificates();
        let script = folder.path().join("shop.lua");
        std::fs::write(&script, SERVER).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_yue"))
            .args(["--io", driver])
            .arg(&script)
            .args(["x", folder.path().to_str().unwrap()])
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("YUE_WATCHDOG", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let addresses = lines.take(6).map(Result::unwrap).collect();
        Server {
            child,
            addresses,
            folder,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command
            .arg("call")
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    fn call(&self, address: &str, arguments: &[&str]) -> Ended {
        run_to_end(&mut self.command(&[&[address], arguments].concat()))
    }

    fn tcp(&self, arguments: &[&str]) -> Ended {
        self.call(&self.addresses[0], arguments)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn succeeds(ended: &Ended, stdout: &str) {
    assert_eq!(ended.stderr, "");
    assert_eq!(ended.stdout, stdout);
    assert_eq!(ended.code, Some(0));
}

#[track_caller]
fn fails(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    let line = ended.stderr.strip_suffix('\n').expect("a line");
    assert!(line.starts_with("yue: ") && !line.contains('\n'), "{line}");
    for word in words {
        assert!(line.contains(word), "{line} lacks {word}");
    }
}

#[test]
fn a_function_is_called_over_every_transport() {
    for driver in drivers() {
        let server = Server::start(&driver);
        for address in &server.addresses[..3] {
            succeeds(
                &server.call(address, &["hello", "world"]),
                "\"hello world\"\n",
            );
        }
        let ca = server.folder.path().join("ca.pem");
        let ca = ca.to_str().unwrap();
        let tls = &server.addresses[3];
        succeeds(&server.call(tls, &["add", "20", "22", "--ca", ca]), "42\n");
        let insecure = server.call(tls, &["add", "20", "22", "--insecure"]);
        assert_eq!((insecure.stdout.as_str(), insecure.code), ("42\n", Some(0)));
        assert!(
            insecure.stderr.contains("is not secure"),
            "{}",
            insecure.stderr
        );
        fails(&server.call(tls, &["add", "1", "2"]), 1, &["TLSError"]);
        fails(
            &server.tcp(&["add", "1", "2", "--ca", ca]),
            2,
            &["the option ca"],
        );
    }
}

#[test]
fn words_are_json_or_strings_and_results_are_json() {
    let server = Server::start(&drivers()[0]);
    for (arguments, line) in [
        (&["echo"][..], "null"),
        (&["echo", "1"], "1"),
        (
            &["echo", "5", "five", "true", "-1.5", "[1,[2]]"],
            "[5,\"five\",true,-1.5,[1,[2]]]",
        ),
        (&["echo", "-s", "5", "[1"], "[\"5\",\"[1\"]"),
        (&["echo", "{\"k\": {\"l\": 1}}"], "{\"k\":{\"l\":1}}"),
        (
            &["echo", "{\"$base64\":\"/wA=\"}"],
            "{\"$base64\":\"/wA=\"}",
        ),
        (&["echo", "--", "--legacy"], "\"--legacy\""),
        (&["echo", "1", "2", "--legacy"], "[1,2]"),
    ] {
        succeeds(&server.tcp(arguments), &format!("{line}\n"));
    }
    let odd: Value = serde_json::from_str(&server.tcp(&["odd"]).stdout).unwrap();
    assert!(odd[0]["$function"].is_u64(), "{odd}");
    assert_eq!(odd[1], json!({ "$base64": "/wA=" }));
    assert_eq!(odd[2], json!({ "$number": "nan" }));
    assert_eq!(odd[3], json!({ "$number": "inf" }));
    assert_eq!(odd[4], json!(u64::MAX));
}

#[test]
fn standard_input_is_a_stream_of_calls() {
    let server = Server::start(&drivers()[0]);
    let run = |arguments: &[&str], input: &str| {
        let mut child = server
            .command(&[&[server.addresses[0].as_str()], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that has found a fault reads no more.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    };
    succeeds(&run(&["add", "-"], "[1,2]\n[3,4] [5,6]"), "3\n7\n11\n");
    succeeds(
        &run(&["echo", "-"], "\"a\" 7 null {\"k\":1} []"),
        "\"a\"\n7\nnull\n{\"k\":1}\nnull\n",
    );
    succeeds(&run(&["echo", "-"], ""), "");
    // A failed call is reported with its number, and the others are made.
    let ended = run(&["add", "-"], "[1,2] [1] [3,4]");
    assert_eq!((ended.stdout.as_str(), ended.code), ("3\n7\n", Some(1)));
    assert!(
        ended.stderr.starts_with("yue: call 2: RuntimeError: "),
        "{}",
        ended.stderr
    );
    // What is not JSON ends it.
    let ended = run(&["add", "-"], "[1,2] [1 [3,4]");
    assert_eq!((ended.stdout.as_str(), ended.code), ("3\n", Some(1)));
    assert!(
        ended.stderr.contains("standard input is not valid JSON"),
        "{}",
        ended.stderr
    );
    let deep = "[".repeat(100_000);
    let ended = run(&["echo", "-"], &deep);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("recursion limit"), "{}", ended.stderr);
}

#[test]
fn a_result_arrives_before_the_next_line_of_input() {
    let server = Server::start(&drivers()[0]);
    let mut child = server
        .command(&[&server.addresses[0], "add", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        writeln!(input, "[{number}, 1]").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), (number + 1).to_string());
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn notifications_have_arrived_when_the_command_ends() {
    let server = Server::start(&drivers()[0]);
    succeeds(&server.tcp(&["note", "--notify"]), "");
    succeeds(&server.tcp(&["note", "-n", "--legacy"]), "");
    let input = "[] ".repeat(200);
    let mut child = server
        .command(&[&server.addresses[0], "note", "-", "-n"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    succeeds(&server.tcp(&["notified"]), "202\n");
    fails(
        &server.call("tcp://127.0.0.1:1", &["note", "-n"]),
        1,
        &["ConnectionRefusedError"],
    );
}

#[test]
fn errors_are_one_line_or_json() {
    let server = Server::start(&drivers()[0]);
    fails(&server.tcp(&["fail"]), 1, &["RuntimeError: ", "two lines"]);
    fails(
        &server.tcp(&["sleep", "60", "-t", "0.1"]),
        1,
        &["TimeoutError"],
    );
    fails(
        &server.call("tcp://127.0.0.1:1", &["f"]),
        1,
        &["ConnectionRefusedError"],
    );
    let evil = server.tcp(&["evil"]);
    fails(&evil, 1, &["red"]);
    assert!(!evil.stderr.contains('\u{1b}'));
    let ended = server.tcp(&["raise", "--json"]);
    assert_eq!((ended.stdout.as_str(), ended.code), ("", Some(1)));
    let error: Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(error["error"]["type"], "RuntimeError");
    assert_eq!(error["error"]["value"], json!({ "code": 7 }));
    assert_eq!(error["error"]["retryable"], false);
    let ended = server.tcp(&["echo", "--json", "[1"]);
    let error: Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(
        (error["error"]["type"].as_str(), ended.code),
        (Some("UsageError"), Some(2))
    );
}

#[test]
fn wrong_usage_exits_with_2() {
    let server = Server::start(&drivers()[0]);
    fails(
        &server.tcp(&["echo", "{\"a\""]),
        2,
        &["not valid JSON", "-s"],
    );
    fails(&server.tcp(&["echo", "1", "-"]), 2, &["the only one"]);
    fails(
        &server.tcp(&["echo", "{\"$base64\": 5}"]),
        2,
        &["stands for no value"],
    );
    fails(&server.tcp(&["echo", "-t", "0"]), 2, &["seconds above 0"]);
    fails(
        &server.call("localhost:80", &["f"]),
        2,
        &["bad address localhost:80: it must begin with tcp://"],
    );
    fails(&server.call("thread://x", &["f"]), 2, &["its own program"]);
    fails(
        &run_to_end(Command::new(env!("CARGO_BIN_EXE_yue")).arg("call")),
        2,
        &["<ADDR>"],
    );
}

#[test]
fn functions_are_listed_and_misspelt_ones_are_suggested() {
    let server = Server::start(&drivers()[0]);
    let list = server.tcp(&[]);
    assert_eq!((list.stderr.as_str(), list.code), ("", Some(0)));
    for line in ["add(a, b)", "chat.say()", "echo(...)"] {
        assert!(
            list.stdout.lines().any(|each| each == line),
            "{}",
            list.stdout
        );
    }
    assert!(
        list.stdout.contains("hello(name)  Says hello.\n"),
        "{}",
        list.stdout
    );
    let list: Value = serde_json::from_str(&server.tcp(&["--json"]).stdout).unwrap();
    assert_eq!(list["functions"][0]["name"], "add");
    assert_eq!(list["functions"][0]["params"], json!(["a", "b"]));
    fails(
        &server.tcp(&["helo"]),
        1,
        &["NoMethodError", "did you mean hello?"],
    );
    fails(&server.tcp(&["say"]), 1, &["did you mean chat.say?"]);
    let silent = &server.addresses[4];
    fails(
        &server.call(silent, &[]),
        1,
        &["does not list its functions", "describe"],
    );
    fails(&server.call(silent, &["helo"]), 1, &["NoMethodError"]);
    fails(
        &server.call("nobody", &["f"]),
        1,
        &["no program nobody runs", "shop.lua"],
    );
}

#[test]
fn a_login_that_the_server_asks_for_is_an_option() {
    let server = Server::start(&drivers()[0]);
    let address = &server.addresses[5];
    let refused = server.call(address, &["add", "1", "2"]);
    fails(&refused, 1, &["NotGrantedError", "--answer login=JSON"]);
    let answered = server.call(address, &["add", "1", "2", "--answer", "login=true"]);
    succeeds(&answered, "3\n");
}

#[test]
fn a_running_program_is_called_by_name_and_process_id() {
    let server = Server::start(&drivers()[0]);
    let pid = server.child.id().to_string();
    let socket = server.folder.path().join(format!("yue/{pid}.sock"));
    for name in ["shop", "shop.lua", &pid, socket.to_str().unwrap()] {
        let ended = server.call(name, &["info"]);
        let info: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
        assert_eq!(info["pid"].to_string(), pid, "{name}: {}", ended.stderr);
    }
    let list = server.call("shop", &[]);
    assert!(list.stdout.contains("loops(...)"), "{}", list.stdout);
    assert!(Path::new(&socket).exists());
}

#[test]
fn a_reader_that_has_gone_is_no_disaster() {
    let server = Server::start(&drivers()[0]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = server.command(&[&server.addresses[0], "hello", "x"]);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(command);
    let output = output.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("cannot write the result") && !text.contains("panicked"),
        "{text}"
    );
}
