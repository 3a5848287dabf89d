//! `tls://` with other programs: openssl, Python's ssl, and the commands of the book.

mod common;

use common::tls::{authority, elsewhere, listen, open, port_of};
use common::*;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::transport::TlsOptions;
use yue_rpc::{Address, Options, Timeout};

/// Whether a program is installed; says so if it is not.
fn has(program: &str, argument: &str) -> bool {
    let found = Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Runs a program with that input, and returns what it prints.
fn program(name: &str, arguments: &[&str], input: Vec<u8>) -> (Vec<u8>, String) {
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(&input).unwrap();
    let mut first = vec![0; 5];
    // The answer, [1, 1, nil, 3], before the end of input ends the program.
    stdout.read_exact(&mut first).unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    child.wait().unwrap();
    first.extend(rest);
    (first, errors)
}

#[test]
fn openssl_and_python_are_served() {
    const PYTHON: &str = "\
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.load_cert_chain(sys.argv[2], sys.argv[3])
plain = socket.create_connection(('127.0.0.1', int(sys.argv[4])))
stream = context.wrap_socket(plain, server_hostname='localhost')
stream.sendall(sys.stdin.buffer.read(LENGTH))
sys.stdout.buffer.write(stream.recv(100))
sys.stdout.flush()
stream.unwrap()
";
    run_loop(|| {
        let folder = yue_io::fs::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let server = TlsOptions {
            client_ca: Some(authority().pem()),
            ..authority().server(&["localhost"])
        };
        let me = authority().known_client("dave");
        for (name, text) in [
            ("ca.pem", authority().pem()),
            ("cert.pem", me.cert.unwrap()),
            ("key.pem", me.key.unwrap()),
        ] {
            std::fs::write(path(name), text).unwrap();
        }
        let mut request = Vec::new();
        encode::request(&mut request, 1, Method::Name(b"sum"), None, ints(&[1, 2])).unwrap();
        let listener = listen(server, Options::default());
        let port = port_of(&listener).to_string();
        let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
        let mut runs: Vec<(&str, Vec<String>)> = Vec::new();
        if has("openssl", "version") {
            let at = format!("127.0.0.1:{port}");
            for version in ["-tls1_2", "-tls1_3"] {
                let words = [
                    "s_client",
                    "-quiet",
                    "-no_ign_eof",
                    "-verify_return_error",
                    "-connect",
                    &at,
                    "-CAfile",
                    &ca,
                    "-cert",
                    &cert,
                    "-key",
                    &key,
                    "-servername",
                    "localhost",
                    version,
                ];
                runs.push(("openssl", words.map(str::to_owned).into()));
            }
        }
        if has("python3", "--version") {
            let script = PYTHON.replace("LENGTH", &request.len().to_string());
            let words = ["-c", &script, &ca, &cert, &key, &port];
            runs.push(("python3", words.map(str::to_owned).into()));
        }
        for (name, words) in runs {
            let input = request.clone();
            let (answer, errors) = elsewhere(move || {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                program(name, &words, input)
            });
            assert_eq!(answer, [0x94, 1, 1, 0xc0, 3], "{name}: {errors}");
        }
        eventually("they have left", || listener.connections().is_empty());
        listener.close();
    });
}

#[test]
fn a_yue_client_talks_to_pythons_server() {
    const PYTHON: &str = "\
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
plain, _ = listener.accept()
stream = context.wrap_socket(plain, server_side=True)
request = stream.recv(100)
length = {0xcc: 2, 0xcd: 3, 0xce: 5}.get(request[2], 1)
stream.sendall(bytes([0x94, 1]) + request[2:2 + length] + bytes([0xc0, 42]))
stream.recv(100)
stream.unwrap()
";
    if !has("python3", "--version") {
        return;
    }
    run_loop(|| {
        let folder = yue_io::fs::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let server = authority().server(&["127.0.0.1"]);
        std::fs::write(path("cert.pem"), server.cert.unwrap()).unwrap();
        std::fs::write(path("key.pem"), server.key.unwrap()).unwrap();
        let mut child = Command::new("python3")
            .args(["-c", PYTHON, &path("cert.pem"), &path("key.pem")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let port = elsewhere(move || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
            line.trim().to_owned()
        });
        let address: Address = format!("tls://127.0.0.1:{port}").parse().unwrap();
        let options = Options {
            legacy: true,
            ..Options::default()
        };
        let client = open(&address, authority().client(), options);
        let answer = client.call("any", Timeout::After(Duration::from_secs(20)), ints(&[1]));
        assert_eq!(read_ints(answer.unwrap().bytes()), [42]);
        client.close();
        let status = elsewhere(move || child.wait().unwrap());
        assert!(status.success(), "unwrap saw no orderly end");
    });
}

/// The commands of the book's page, one script.
fn commands_of_the_book() -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/transports.md");
    let text = std::fs::read_to_string(page).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_certificates_of_the_book_work() {
    if !has("openssl", "version") {
        return;
    }
    run_loop(|| {
        let folder = yue_io::fs::TempDir::new().unwrap();
        let place = folder.path().to_owned();
        let output = elsewhere(move || {
            let mut shell = Command::new("sh");
            shell
                .args(["-ec", &commands_of_the_book()])
                .current_dir(place);
            shell.output().unwrap()
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let path = |name: &str| Some(folder.path().join(name).display().to_string());
        let server = TlsOptions {
            cert: path("server.pem"),
            key: path("server.key"),
            client_ca: path("ca.pem"),
            ..TlsOptions::default()
        };
        let alice = TlsOptions {
            ca: path("ca.pem"),
            cert: path("alice.pem"),
            key: path("alice.key"),
            ..TlsOptions::default()
        };
        let listener = listen(server, Options::default());
        let client = open(listener.address(), alice, Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(
            listener.connections()[0].peer_name().as_deref(),
            Some("alice")
        );
        client.close();
        listener.close();
        // The mistake that the page warns of.
        let itself = TlsOptions {
            cert: path("ca.pem"),
            key: path("ca.key"),
            ..TlsOptions::default()
        };
        let careful = TlsOptions {
            ca: path("ca.pem"),
            ..TlsOptions::default()
        };
        let listener = listen(itself, Options::default());
        let client = open(listener.address(), careful, Options::default());
        let error = call(&client, "sum", &[1]).unwrap_err();
        client.close();
        assert!(error.message().contains("(CA:TRUE)"), "{error}");
        listener.close();
    });
}
