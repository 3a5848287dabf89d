//! The examples in Rust, run and spoken to as their users would.

mod common;

use common::{Running, Server, drivers, root, run};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// The command of an example on a driver.
fn program(path: &str, driver: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env("YUE_IO", driver)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(common::LONG)).unwrap();
    stream
}

/// What a server answers to bytes after which it closes, or after which we say no more.
fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn http_keeps_a_connection_and_answers_what_is_pipelined() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_http-under-test");
        let server = Server::of(&mut program(path, driver, &["127.0.0.1:0"]));
        let address = server.address.strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/');
        let first = "GET / HTTP/1.1\r\nhost: here\r\n\r\n";
        let second = "POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\nhello";
        let last = "GET /nowhere HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
        let answers = exchange(address, format!("{first}{second}{last}").as_bytes());
        let bodies = ["\r\n\r\nhello, world\n", "\r\n\r\nhello", "404 Not Found"];
        let mut rest = answers.as_str();
        for body in bodies {
            let at = rest.find(body);
            let at = at.unwrap_or_else(|| panic!("{body:?} does not follow in {answers:?}"));
            rest = &rest[at + body.len()..];
        }
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 3, "{answers}");
        assert_eq!(
            answers.matches("connection: keep-alive").count(),
            2,
            "{answers}"
        );
    }
}

#[test]
fn http_refuses_what_it_cannot_read_and_goes_on() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_http-under-test");
        let server = Server::of(&mut program(path, driver, &["127.0.0.1:0"]));
        let address = server.address.strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/');
        let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(20_000));
        let huge = "POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 99999999\r\n\r\n";
        let smuggled = "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab";
        for (request, status) in [
            ("\u{1}\u{2}\u{3}\r\n\r\n", "400 "),
            (endless.as_str(), "431 "),
            (huge, "413 "),
            (smuggled, "400 "),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                "501 ",
            ),
            ("GET / HTTP/1.1\r\n\r\n", "400 "),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400 "),
            (
                "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
                "400 ",
            ),
            (
                "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
                "400 ",
            ),
            (
                "DELETE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                "405 ",
            ),
        ] {
            let mut stream = connect(address);
            // The server may refuse before it has read all.
            let _ = stream.write_all(request.as_bytes());
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            let expected = format!("HTTP/1.1 {status}");
            assert!(line.starts_with(&expected), "{line:?} and not {expected}");
        }
        let answer = exchange(address, b"GET / HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("hello, world\n"), "{answer}");
    }
}

#[test]
fn http_closes_and_continues_and_omits_bodies_as_the_client_asks() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_http-under-test");
        let server = Server::of(&mut program(path, driver, &["127.0.0.1:0"]));
        let address = server.address.strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/');
        // A HEAD is answered without a body, or the next answer would be taken for it.
        let heads = "HEAD / HTTP/1.1\r\nhost: a\r\n\r\nHEAD /nope HTTP/1.1\r\nhost: a\r\n\r\n";
        let last = "GET /?query HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, close\r\n\r\n";
        let mut stream = connect(address);
        stream
            .write_all(format!("{heads}{last}").as_bytes())
            .unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let parts: Vec<_> = answers.split("\r\n\r\n").collect();
        assert_eq!(parts.len(), 4, "{answers}");
        assert!(parts[0].contains("content-length: 13") && parts[1].starts_with("HTTP/1.1 404"));
        assert!(parts[2].ends_with("connection: close") && parts[3] == "hello, world\n");

        let mut stream = BufReader::new(connect(address));
        let head =
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
        stream.get_mut().write_all(b"hello").unwrap();
        stream
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("\r\nHTTP/1.1 200 OK") && answer.ends_with("hello"),
            "{answer}"
        );
    }
}

/// A client that keeps its connection and asks nothing must not keep a server from ending.
#[test]
fn idle_connections_do_not_hold_up_the_end() {
    for driver in drivers() {
        for (path, arguments) in [
            (env!("CARGO_BIN_EXE_http-under-test"), &["127.0.0.1:0"][..]),
            (env!("CARGO_BIN_EXE_kvs-under-test"), &["127.0.0.1:0"]),
            (
                env!("CARGO_BIN_EXE_files-under-test"),
                &[".", "127.0.0.1:0"],
            ),
        ] {
            let server = Server::of(&mut program(path, driver, arguments));
            let address = server.address.trim_start_matches("http://");
            let mut idle: Vec<_> = (0..5)
                .map(|_| connect(address.trim_end_matches('/')))
                .collect();
            // One has been served before, if it may stay.
            if path.contains("http") {
                let stream = &mut idle[0];
                stream
                    .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    .unwrap();
                let mut answer = [0; 1];
                stream.read_exact(&mut answer).unwrap();
            }
            let begin = std::time::Instant::now();
            server.running.signal(libc::SIGTERM);
            let outcome = server.running.outcome();
            assert_eq!(outcome.code(), 0, "{outcome:#?}");
            // The shortest grace is five seconds.
            let took = begin.elapsed();
            assert!(took < std::time::Duration::from_secs(4), "{path}: {took:?}");
            drop(idle);
        }
    }
}

#[test]
fn the_key_value_server_speaks_the_redis_protocol() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_kvs-under-test");
        let server = Server::of(&mut program(path, driver, &["127.0.0.1:0"]));
        let command = |words: &[&str]| {
            let mut bytes = format!("*{}\r\n", words.len());
            for word in words {
                bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
            bytes
        };
        let pipelined = [
            command(&["PING"]),
            command(&["set", "name", "frodo"]),
            command(&["GET", "name"]),
            command(&["GET", "nobody"]),
            command(&["EXISTS", "name", "nobody"]),
            command(&["DEL", "name", "nobody"]),
            command(&["DBSIZE"]),
            command(&["FLY", "away"]),
            // As people type, and as redis-benchmark begins.
            "PING\r\n\r\n  set  typed  by-hand \nget typed\r\n".to_owned(),
            command(&["SELECT", "0"]),
        ];
        assert_eq!(
            exchange(&server.address, pipelined.concat().as_bytes()),
            "+PONG\r\n+OK\r\n$5\r\nfrodo\r\n$-1\r\n:1\r\n:1\r\n:0\r\n-ERR no command 'FLY' of 1 arguments\r\n\
             +PONG\r\n+OK\r\n$7\r\nby-hand\r\n+OK\r\n"
        );
        for nonsense in [
            "*x\r\n",
            "*1\r\n$-5\r\n",
            "*+1\r\n$4\r\nPING\r\n",
            "*1\r\n$+4\r\nPING\r\n",
            "*99999999\r\n",
        ] {
            let answer = exchange(&server.address, nonsense.as_bytes());
            assert!(
                answer.starts_with("-ERR Protocol error: expected"),
                "{answer}"
            );
        }
        let mut quitting = connect(&server.address);
        quitting.write_all(b"QUIT\r\n").unwrap();
        let mut answer = String::new();
        quitting.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "+OK\r\n");
        let large = "x".repeat(3_000_000);
        let stored = command(&["SET", "large", &large]) + &command(&["GET", "large"]);
        let answer = exchange(&server.address, stored.as_bytes());
        assert_eq!(answer, format!("+OK\r\n$3000000\r\n{large}\r\n"));
        // While a client does not read its large answer, the others are served.
        let mut unread = connect(&server.address);
        unread
            .write_all(command(&["GET", "large"]).repeat(20).as_bytes())
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let answer = exchange(&server.address, command(&["EXISTS", "large"]).as_bytes());
        assert_eq!(answer, ":1\r\n");
    }
}

#[test]
fn the_time_service_tells_how_far_a_clock_is_off() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_time-under-test");
        let server = Server::of(&mut program(path, driver, &["serve", "127.0.0.1:0"]));
        let outcome = run(&mut program(path, driver, &["ask", &server.address]));
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        let offset = outcome.stdout.strip_prefix("this clock is ");
        let offset = offset.and_then(|rest| rest.split_whitespace().next());
        let offset: f64 = offset.unwrap().parse().unwrap();
        assert!(offset.abs() < 60.0, "{outcome:#?}");
    }
}

#[test]
fn the_embedded_loop_serves_between_the_frames_of_its_thread() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_embedded-under-test");
        let outcome = run(&mut program(path, driver, &[]));
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        let (frames, end) = outcome.stdout.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(end, "the end: score 8", "{frames}");
        let scores = frames.lines().enumerate().map(|(frame, line)| {
            let score = line.strip_prefix(&format!("frame {frame}: score "));
            let score = score.unwrap_or_else(|| panic!("frame {frame} says {line:?}"));
            score.parse::<u32>().unwrap()
        });
        // Which scores the frames see is a matter of time, but not in which order.
        let scores: Vec<_> = scores.collect();
        assert_eq!(scores.first(), Some(&0), "{frames}");
        assert!(scores.len() > 1 && scores.is_sorted(), "{frames}");
        let possible = |score: &u32| [0, 3, 4, 8].contains(score);
        assert!(scores.iter().all(possible), "{frames}");
    }
}

#[test]
fn a_chat_tells_everybody_what_each_says() {
    for driver in drivers() {
        let path = env!("CARGO_BIN_EXE_chat-under-test");
        let folder = std::env::temp_dir().join(format!("yue-chat-{driver}-{}", std::process::id()));
        let address = folder.to_str().unwrap();
        let server = Server::of(&mut program(path, driver, &["serve", address]));
        let enter = |name: &str| {
            let stream = UnixStream::connect(address).unwrap();
            stream.set_read_timeout(Some(common::LONG)).unwrap();
            writeln!(&stream, "{name}").unwrap();
            BufReader::new(stream)
        };
        let hear = |member: &mut BufReader<UnixStream>| {
            let mut line = String::new();
            member.read_line(&mut line).unwrap();
            line
        };
        let mut frodo = enter("frodo");
        assert_eq!(hear(&mut frodo), "* frodo comes in\n");
        let mut sam = enter("sam");
        assert_eq!(hear(&mut frodo), "* sam comes in\n");
        assert_eq!(hear(&mut sam), "* sam comes in\n");
        frodo.get_mut().write_all(b"hello\x1b[2J\n").unwrap();
        assert_eq!(hear(&mut frodo), "frodo: hello[2J\n");
        assert_eq!(hear(&mut sam), "frodo: hello[2J\n");
        drop(frodo);
        assert_eq!(hear(&mut sam), "* frodo leaves\n");

        // The client, as a program: it says what its input says, and hears until the server has no more to say.
        let mut command = program(path, driver, &["join", address, "merry"]);
        command.stdin(Stdio::piped());
        let mut merry = Running::start(&mut command);
        assert_eq!(hear(&mut sam), "* merry comes in\n");
        let mut says = merry.stdin();
        says.write_all(b"good day\n").unwrap();
        assert_eq!(hear(&mut sam), "merry: good day\n");
        drop(says);
        assert_eq!(hear(&mut sam), "* merry leaves\n");
        let outcome = merry.outcome();
        assert_eq!(outcome.stdout, "* merry comes in\nmerry: good day\n");
        drop(server);
        fs::remove_file(folder).unwrap();
    }
}

/// A folder of files, removed in the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("yue-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("inner")).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_file_server_serves_its_folder_and_nothing_else() {
    for driver in drivers() {
        let folder = Folder::new(&format!("files-{driver}"));
        fs::write(folder.0.join("a.txt"), "hello").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.0.join("leak")).unwrap();
        let arguments = [folder.0.to_str().unwrap(), "127.0.0.1:0"];
        let path = env!("CARGO_BIN_EXE_files-under-test");
        let server = Server::of(&mut program(path, driver, &arguments));
        let address = server.address.strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/');
        let get = |path: &str| exchange(address, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        assert!(get("/a.txt").ends_with("content-length: 5\r\nconnection: close\r\n\r\nhello"));
        assert!(get("/").ends_with("\r\n\r\na.txt\ninner\nleak\n"));
        for (path, status) in [
            ("/none", "404 "),
            ("/leak", "403 "),
            ("/../", "403 "),
            ("/inner/../../", "403 "),
        ] {
            let answer = get(path);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{path}: {answer}"
            );
        }
        assert!(exchange(address, b"PUT / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }
}

#[test]
fn the_file_server_ends_when_its_downloads_are_over() {
    for driver in drivers() {
        let folder = Folder::new(&format!("ending-{driver}"));
        // More than the sockets' buffers hold, so that the download is in the middle until we read.
        let large = "0123456789abcdef".repeat(2_000_000);
        fs::write(folder.0.join("large"), &large).unwrap();
        let arguments = [folder.0.to_str().unwrap(), "127.0.0.1:0"];
        let path = env!("CARGO_BIN_EXE_files-under-test");
        let server = Server::of(&mut program(path, driver, &arguments));
        let address = server.address.strip_prefix("http://").unwrap();
        let address = address.trim_end_matches('/').to_owned();
        let mut stream = BufReader::new(connect(&address));
        stream
            .get_mut()
            .write_all(b"GET /large HTTP/1.1\r\n\r\n")
            .unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        server.running.signal(libc::SIGTERM);
        common::wait_until("the server to accept no more", || {
            TcpStream::connect(&address).is_err()
        });
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(&large), "{} bytes came", rest.len());
        let outcome = server.running.outcome();
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        assert!(
            outcome.stdout.ends_with("all downloads are over\n"),
            "{outcome:#?}"
        );
    }
}

#[test]
fn the_tls_proxy_carries_both_directions_at_once() {
    use yue::tls::{Connector, Roots};
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for driver in drivers() {
        let folder = Folder::new(&format!("tls-{driver}"));
        let (certificate, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = backend.local_addr().unwrap().to_string();
        // What is behind says a lot before it listens; so does this side.
        let spoken = "x".repeat(4_000_000);
        let speaking = spoken.clone();
        let behind_it = std::thread::spawn(move || {
            let (mut stream, _) = backend.accept().unwrap();
            stream.write_all(speaking.as_bytes()).unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard.len()
        });
        let arguments = [
            "127.0.0.1:0",
            &behind,
            certificate.to_str().unwrap(),
            key.to_str().unwrap(),
        ];
        let path = env!("CARGO_BIN_EXE_tls-proxy-under-test");
        let server = Server::of(&mut program(path, driver, &arguments));
        let connector = Connector::new(Roots::from_pem(made.cert.pem()).unwrap()).unwrap();
        let mut stream = connector
            .connect("localhost", connect(&server.address))
            .unwrap();
        let words = "y".repeat(4_000_000);
        let mut heard = String::new();
        stream.write_all(words.as_bytes()).unwrap();
        stream.close().unwrap();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard.len(), spoken.len());
        assert_eq!(behind_it.join().unwrap(), words.len());
    }
}
