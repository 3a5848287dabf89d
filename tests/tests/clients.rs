//! Third-party clients call a yue server: from PyPI and npm, two each of msgpack-rpc and one each of WebSocket; and
//! curl by HTTP.
//!
//! The folder `clients/` has a program for each client, in the client's language. `ci/clients` installs the packages
//! and names them in the environment; then every test must run. Otherwise each test uses the client that the machine
//! has, and if it has none, the test prints that and passes.
//!
//! | variable | value |
//! |---|---|
//! | `YUE_CLIENTS_PYTHON` | a Python that has `pynvim`, `aio-msgpack-rpc`, `websockets` and `msgpack` |
//! | `YUE_CLIENTS_NODE` | a Node.js |
//! | `YUE_CLIENTS_CURL` | a `curl` |
//! | `YUE_CLIENTS_NODE_MODULES` | a folder of modules that has `msgpack5rpc`, `neovim`, `ws` and `@msgpack/msgpack` |

mod common;

use common::{Server, root, run, script, yue};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
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

    /// The same over WebSocket, with TLS and without.
    fn talk_over_websocket(&self, client: &str, file: &str, load: [&str; 2]) {
        if !self.has_client(client, load) {
            return;
        }
        let certificates = Certificates::new();
        for address in ["ws://127.0.0.1:0/rpc", "wss://127.0.0.1:0/rpc"] {
            let mut served = yue();
            served.arg(script("server.lua")).arg(address);
            if address.starts_with("wss") {
                served.args(certificates.options());
            }
            let server = Server::of(&mut served);
            let mut command = self.command();
            command
                .arg(root().join("tests/tests/clients").join(file))
                .arg(&server.address)
                // Python's and Node's ways to name an authority.
                .env("SSL_CERT_FILE", certificates.authority())
                .env("NODE_EXTRA_CA_CERTS", certificates.authority());
            let outcome = run(&mut command);
            assert_eq!(outcome.lines(), [format!("{client}: all went well")]);
            server.end().logs_only_attacks(&["fail"]);
        }
    }
}

/// A private authority, and a certificate for this machine that it has signed, in files.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Certificates {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "the tests");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        // Python demands it.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        write("ca.pem", ca.pem());
        write("server.pem", params.signed_by(&key, &ca).unwrap().pem());
        write("server.key", key.serialize_pem());
        Certificates(folder)
    }

    fn authority(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// Arguments of `server.lua`.
    fn options(&self) -> [String; 2] {
        let at = |name: &str| self.0.path().join(name).display().to_string();
        [
            format!("cert={}", at("server.pem")),
            format!("key={}", at("server.key")),
        ]
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

/// Calls by HTTP, by curl.
struct Curl<'a> {
    curl: &'a Interpreter,
    server: &'a Server,
    certificates: &'a Certificates,
}

impl Curl<'_> {
    /// The body and the status of an answer. The options replace those of an ordinary call.
    fn post(&self, name: &str, body: &str, options: &[&str]) -> (String, String) {
        let port = self.server.address.rsplit(':').next().unwrap();
        let scheme = match self.server.address.starts_with("tls") {
            true => "https",
            false => "http",
        };
        let mut command = self.curl.command();
        command
            .args(["--silent", "--show-error", "--max-time", "60"])
            .args(["--write-out", "\\n%{http_code}", "--cacert"])
            .arg(self.certificates.authority())
            .args(["--data-binary", body]);
        if !options.contains(&"-H") || !options.join(" ").contains("Content-Type") {
            command.args(["-H", "Content-Type: application/json"]);
        }
        command
            .args(["-H", "Authorization: Bearer secret"])
            .args(options)
            .arg(format!("{scheme}://127.0.0.1:{port}/rpc/{name}"));
        let outcome = run(&mut command);
        let (body, status) = outcome.stdout.rsplit_once('\n').unwrap();
        (body.to_owned(), status.to_owned())
    }
}

#[test]
fn curl_calls_by_http_and_is_refused_where_a_page_would_be() {
    let curl = Interpreter::new("YUE_CLIENTS_CURL", "curl");
    if !curl.has_client("curl", ["--version", "--silent"]) {
        return;
    }
    let certificates = Certificates::new();
    for address in ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let mut served = yue();
        served
            .arg(script("server.lua"))
            .args([address, "http=secret"]);
        if address.starts_with("tls") {
            served.args(certificates.options());
        }
        let server = Server::of(&mut served);
        let client = Curl {
            curl: &curl,
            server: &server,
            certificates: &certificates,
        };
        let status = |options: &[&str]| client.post("math.add", "[20, 22]", options).1;
        let (body, code) = client.post("math.add", "[20, 22]", &[]);
        assert_eq!((body.as_str(), code.as_str()), ("{\"result\":42}", "200"));
        assert_eq!(status(&["-H", "Content-Type: text/plain"]), "415");
        assert_eq!(
            status(&["-H", "Content-Type: application/x-www-form-urlencoded"]),
            "415"
        );
        assert_eq!(status(&["-H", "Origin: https://evil.example"]), "403");
        assert_eq!(status(&["-H", "Host: evil.example"]), "403");
        assert_eq!(status(&["-H", "Authorization: Bearer wrong"]), "403");
        assert_eq!(status(&["-H", "Transfer-Encoding: chunked"]), "200");
        assert_eq!(status(&["--http1.0"]), "200");
        assert_eq!(status(&["-X", "PUT"]), "405");
        // More than a megabyte: curl waits until it is asked to continue.
        let text = format!("[\"{}\"]", "a".repeat(2 << 20));
        let file = certificates.0.path().join("body");
        std::fs::write(&file, &text).unwrap();
        let (body, code) = client.post("echo", &format!("@{}", file.display()), &[]);
        assert_eq!(
            (body.len(), code.as_str()),
            (text.len() - 2 + "{\"result\":}".len(), "200")
        );
        let (body, code) = client.post("fail", "[]", &[]);
        assert!(
            body.contains("this went wrong on the server") && code == "500",
            "{body}"
        );
        let (_, code) = client.post("_secret", "[]", &[]);
        assert_eq!(code, "404");
        server.end().logs_only_attacks(&["fail"]);
    }
}
