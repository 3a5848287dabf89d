//! Third-party clients call a yue server: from PyPI and npm, two each of msgpack-rpc and one each of WebSocket.
//!
//! The folder `clients/` has a program for each client, in the client's language. `ci/clients` installs the packages
//! and names them in the environment; then every test must run. Otherwise each test uses the client that the machine
//! has, and if it has none, the test prints that and passes.
//!
//! | variable | value |
//! |---|---|
//! | `YUE_CLIENTS_PYTHON` | a Python that has `pynvim`, `aio-msgpack-rpc`, `websockets` and `msgpack` |
//! | `YUE_CLIENTS_NODE` | a Node.js |
//! | `YUE_CLIENTS_NODE_MODULES` | a folder of modules that has `msgpack5rpc`, `neovim`, `ws` and `@msgpack/msgpack` |

mod common;

use common::{Server, root, run, script, yue};
use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

/// A language's interpreter, and whether its tests may not be skipped.
struct Interpreter {
    program: OsString,
    demanded: bool,
}

impl Interpreter {
    fn new(variable: &str, otherwise: &str) -> Interpreter {
        let named = std::env::var_os(variable);
        Interpreter {
            demanded: named.is_some(),
            program: named.unwrap_or_else(|| otherwise.into()),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(modules) = std::env::var_os("YUE_CLIENTS_NODE_MODULES") {
            command.env("NODE_PATH", modules);
        }
        command
    }

    /// Whether it can run `code`, which does nothing but load the client.
    fn has(&self, option: &str, code: &str) -> bool {
        let quiet = self
            .command()
            .args([option, code])
            .stdin(Stdio::null())
            .output();
        quiet.is_ok_and(|output| output.status.success())
    }

    /// Whether the client is there. If it is demanded, it must be.
    fn has_client(&self, client: &str, load: [&str; 2]) -> bool {
        if !self.has(load[0], load[1]) {
            let program = self.program.to_string_lossy();
            assert!(!self.demanded, "{program} has no {client}");
            // Past the test harness, which shows only what failing tests print.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {program} is not there or has no {client}; ci/clients installs it"
            );
            return false;
        }
        true
    }

    /// Runs the client's file against a server, and demands that all went well on both sides.
    fn talk(&self, client: &str, file: &str, load: [&str; 2]) {
        if !self.has_client(client, load) {
            return;
        }
        let server = Server::start(script("server.lua"));
        let (host, port) = server.host_and_port().rsplit_once(':').unwrap();
        let mut command = self.command();
        command
            .arg(root().join("tests/tests/clients").join(file))
            .args([host, port]);
        let outcome = run(&mut command);
        assert_eq!(outcome.lines(), [format!("{client}: all went well")]);
        server.serves();
        server.end().logs_only_failures_of(&["fail"]);
    }

    /// The same over WebSocket.
    fn talk_over_websocket(&self, client: &str, file: &str, load: [&str; 2]) {
        if !self.has_client(client, load) {
            return;
        }
        let server = Server::of(yue().arg(script("server.lua")).arg("ws://127.0.0.1:0/rpc"));
        let mut command = self.command();
        command
            .arg(root().join("tests/tests/clients").join(file))
            .arg(&server.address);
        let outcome = run(&mut command);
        assert_eq!(outcome.lines(), [format!("{client}: all went well")]);
        server.end().logs_only_failures_of(&["fail"]);
    }
}

fn python() -> Interpreter {
    Interpreter::new("YUE_CLIENTS_PYTHON", "python3")
}

fn node() -> Interpreter {
    Interpreter::new("YUE_CLIENTS_NODE", "node")
}

#[test]
fn pynvim_calls_and_answers_a_call_that_is_made_in_mid_call() {
    python().talk(
        "pynvim",
        "pynvim_session.py",
        ["-c", "import pynvim.msgpack_rpc"],
    );
}

#[test]
fn aio_msgpack_rpc_calls_and_notifies() {
    python().talk(
        "aio-msgpack-rpc",
        "aio.py",
        ["-c", "import aio_msgpack_rpc"],
    );
}

#[test]
fn msgpack5rpc_calls_and_answers_a_call_that_is_made_in_mid_call() {
    node().talk(
        "msgpack5rpc",
        "msgpack5rpc.js",
        ["-e", "require('msgpack5rpc')"],
    );
}

#[test]
fn neovim_calls_and_answers_a_call_that_is_made_in_mid_call() {
    node().talk("neovim", "neovim.js", ["-e", "require('neovim')"]);
}

#[test]
fn websockets_calls_and_answers_a_call_that_is_made_in_mid_call() {
    python().talk_over_websocket(
        "websockets",
        "websockets_client.py",
        ["-c", "import websockets, msgpack"],
    );
}

#[test]
fn ws_calls_and_answers_a_call_that_is_made_in_mid_call() {
    let load = "require('ws'); require('@msgpack/msgpack')";
    node().talk_over_websocket("ws", "ws.js", ["-e", load]);
}
