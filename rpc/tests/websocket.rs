//! WebSocket: what servers and clients of this crate do with peers that are not of this crate, good ones and bad ones.
#![cfg(feature = "ws")]

mod common;

use common::websocket::{KEY, RawClient, Received, call_bytes, read_head, request};
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream};
use yue_rpc::session::Session;
use yue_rpc::transport::websocket::frame::{self, Opcode, code};
use yue_rpc::transport::websocket::upgrade;
use yue_rpc::transport::{SocketOptions, WebSocketOptions, connector, connector_with};
use yue_rpc::{Address, ErrorKind, Limits, Listener, Options, Rate, Retry, Verdict};
use yue_scheduler::{sleep, spawn};

/// A listener at `ws://`, and a client of it that must be served whatever others do.
struct Server {
    listener: Listener,
    witness: Session,
}

impl Server {
    fn new(options: Options, sockets: &SocketOptions) -> Server {
        Server::with_hooks(TestHooks::default(), options, sockets)
    }

    fn with_hooks(hooks: TestHooks, options: Options, sockets: &SocketOptions) -> Server {
        let address = "ws://127.0.0.1:0/rpc".parse().unwrap();
        let service = methods().with_hooks(Rc::new(hooks));
        let listener = Listener::bind_with(&address, service, options, sockets).unwrap();
        let witness = Session::open(connector(listener.address()), methods(), Options::default());
        Server { listener, witness }
    }

    fn connect(&self) -> TcpStream {
        let (host, port) = self.listener.address().host_and_port().unwrap();
        TcpStream::connect((host, port)).unwrap()
    }

    fn raw(&self) -> RawClient<TcpStream> {
        RawClient::open(self.connect(), "/rpc")
    }

    /// The answer to a request: its head and its body.
    fn answer_to(&self, request: &[u8]) -> (String, String) {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let head = read_head(&mut stream).unwrap();
        let mut body = String::new();
        stream.read_to_string(&mut body).unwrap();
        (head, body)
    }

    fn serves(&self) {
        assert_eq!(call(&self.witness, "sum", &[20, 22]).unwrap(), [42]);
    }

    fn end(self) {
        self.serves();
        self.witness.close();
        self.listener.close();
        self.listener.close_connections();
        eventually("all connections end", || {
            self.listener.connections().is_empty()
        });
    }
}

fn server() -> Server {
    Server::new(Options::default(), &SocketOptions::default())
}

/// The results in answers `[1, id, nil, result]` of five bytes, with their ids.
fn results(bytes: &[u8]) -> Vec<(u8, u8)> {
    let answers = bytes.chunks(5).map(|answer| match *answer {
        [0x94, 1, id, 0xc0, result] => (id, result),
        _ => panic!("an answer: {bytes:x?}"),
    });
    answers.collect()
}

#[test]
fn a_plain_client_calls_and_is_called() {
    run_loop(|| {
        let server = server();
        let mut client = server.raw();
        // Several messages in a frame, and a message in several frames, with a ping in between.
        client.send(&[call_bytes(1, "sum", &[1, 2]), call_bytes(2, "sum", &[3])].concat());
        let bytes = call_bytes(3, "sum", &[4, 5]);
        let (a, b) = bytes.split_at(5);
        let (_, mut first) = frame::binary(a.to_vec(), Some(KEY));
        let (_, mut last) = frame::binary(b.to_vec(), Some(KEY));
        (first[0], last[0]) = (0x02, 0x80);
        client.send_raw(&first);
        client.control(Opcode::Ping, b"between");
        client.send_raw(&last);
        // And byte by byte.
        let (_, slow) = frame::binary(call_bytes(4, "sum", &[6]), Some(KEY));
        for byte in &slow {
            client.send_raw(&[*byte]);
            sleep(Duration::from_millis(1)).unwrap();
        }
        client.close(code::NORMAL, "");
        let (data, end) = client.receive_all();
        assert_eq!(results(&data), [(1, 3), (2, 3), (3, 9), (4, 6)]);
        assert_eq!(end, Received::Close(Some(code::NORMAL), String::new()));
        server.end();
    });
}

#[test]
fn a_request_for_anything_else_is_refused_with_a_sentence() {
    run_loop(|| {
        let server = server();
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let many = format!(
            "GET /rpc HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
            "a".repeat(9000)
        );
        let endless = format!("GET /rpc HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(100_000));
        let page = request("/rpc", "Origin: http://evil.example\r\n");
        let cases = [
            (get("/rpc"), "426", "WebSocket client"),
            (get("/"), "404", "nothing at this path"),
            (request("/other", ""), "404", "nothing at this path"),
            (many, "431", "8192 bytes"),
            (endless, "431", "8192 bytes"),
            (page, "403", "another host"),
            ("GET\r\n\r\n".to_owned(), "400", "not a request"),
        ];
        for (request, status, text) in cases {
            let (head, body) = server.answer_to(request.as_bytes());
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(body.contains(text), "{body}");
            server.serves();
        }
        // One that speaks msgpack learns why it fails, too.
        let (head, _) = server.answer_to(&call_bytes(1, "sum", &[1]));
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert_eq!(server.listener.connections().len(), 1);
        server.end();
    });
}

#[test]
fn pages_of_listed_origins_may_connect() {
    run_loop(|| {
        let websocket = WebSocketOptions {
            origins: Some(vec!["https://game.example".to_owned()]),
            ..WebSocketOptions::default()
        };
        let sockets = SocketOptions {
            websocket,
            ..SocketOptions::default()
        };
        let server = Server::new(Options::default(), &sockets);
        for (origin, status) in [("https://game.example", "101"), ("http://127.0.0.1", "403")] {
            let mut stream = server.connect();
            let request = request("/rpc", &format!("Origin: {origin}\r\n"));
            stream.write_all(request.as_bytes()).unwrap();
            let head = read_head(&mut stream).unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
        server.end();
    });
}

#[test]
fn the_hooks_run_after_the_upgrade_and_a_slow_one_is_refused() {
    run_loop(|| {
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                count.set(count.get() + 1);
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let limits = Limits {
            handshake: Duration::from_millis(300),
            ..Limits::default()
        };
        let server = Server::with_hooks(hooks, limited(limits), &SocketOptions::default());
        server.serves();
        assert_eq!(accepted.get(), 1);
        // A header now and then keeps nobody in.
        let mut slow = server.connect();
        slow.write_all(b"GET /rpc HTTP/1.1\r\n").unwrap();
        for _ in 0..40 {
            sleep(Duration::from_millis(10)).unwrap();
            slow.write_all(b"A: b\r\n").unwrap();
        }
        let head = read_head(&mut slow).unwrap();
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert_eq!(
            accepted.get(),
            1,
            "the hook ran for a link without an upgrade"
        );
        // One that begins slowly but is in time is served.
        let mut stream = server.connect();
        for part in request("/rpc", "").as_bytes().chunks(50) {
            stream.write_all(part).unwrap();
            sleep(Duration::from_millis(5)).unwrap();
        }
        assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 101 "));
        eventually("the hook runs", || accepted.get() == 2);
        server.end();
    });
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_how() {
    run_loop(|| {
        let server = server();
        let binary = |payload: &[u8]| frame::binary(payload.to_vec(), Some(KEY)).1;
        let cases: Vec<(Vec<u8>, u16, &str)> = vec![
            (b"\x82\x01a".to_vec(), code::PROTOCOL, "not masked"),
            (b"\xc2\x81".to_vec(), code::PROTOCOL, "reserved bit"),
            (b"\x83\x80".to_vec(), code::PROTOCOL, "unknown opcode"),
            (b"\x80\x80".to_vec(), code::PROTOCOL, "continues no message"),
            (b"\x89\xfe".to_vec(), code::PROTOCOL, "125 bytes"),
            (b"\x09\x80".to_vec(), code::PROTOCOL, "fragmented"),
            (
                b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(),
                code::PROTOCOL,
                "63 bits",
            ),
            (b"\x81\x85".to_vec(), code::UNSUPPORTED, "binary messages"),
            (
                frame::control(Opcode::Close, b"\x03", Some(KEY)),
                code::PROTOCOL,
                "half a code",
            ),
            (
                frame::control(Opcode::Close, b"\x03\xe8\xff", Some(KEY)),
                code::NOT_UTF8,
                "UTF-8",
            ),
            // Bytes that are not msgpack-rpc, and a message that is too large.
            (binary(b"\xc1"), code::PROTOCOL, "received"),
            (
                binary(b"\x93\x02\xa1f\xdd\xff\xff\xff\xff"),
                code::TOO_BIG,
                "bytes",
            ),
        ];
        for (bytes, expected, text) in cases {
            let mut client = server.raw();
            client.call(1, "sum", &[1, 2]);
            client.send_raw(&bytes);
            let (data, end) = client.receive_all();
            // What came before the fault was still delivered, and may be answered.
            assert!(
                data.is_empty() || results(&data[..5]) == [(1, 3)],
                "{data:?}"
            );
            match end {
                Received::Close(Some(found), reason) => {
                    assert_eq!(found, expected, "{reason}");
                    assert!(reason.contains(text), "{reason}");
                }
                other => panic!("{text}: {other:?}"),
            }
            server.serves();
        }
        eventually("the others are gone", || {
            server.listener.connections().len() == 1
        });
        server.end();
    });
}

#[test]
fn a_flood_of_pings_is_answered_in_bounded_memory() {
    run_loop(|| {
        let server = server();
        let mut client = server.raw();
        client.call(1, "sum", &[1]);
        let ping = frame::control(Opcode::Ping, &[b'x'; 125], Some(KEY));
        let flood = ping.repeat(1000);
        // Nothing is read meanwhile: pongs would pile up.
        for _ in 0..200 {
            client.send_raw(&flood);
        }
        client.call(2, "sum", &[2]);
        client.control(Opcode::Ping, b"last");
        client.close(code::NORMAL, "");
        let (mut pongs, mut data) = (0, Vec::new());
        loop {
            match client.receive() {
                Received::Pong => pongs += 1,
                Received::Data(bytes) => data.extend(bytes),
                Received::Close(..) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(results(&data), [(1, 1), (2, 2)]);
        assert!((1..=200_001).contains(&pongs), "{pongs} pongs");
        server.end();
    });
}

#[test]
fn a_peer_that_reads_nothing_has_one_pong_queued() {
    run_loop(|| {
        let server = server();
        let mut client = server.raw();
        // Answers fill every buffer on the way. They are more than the socket takes.
        for id in 0..64 {
            client.call(id, "big", &[1 << 20]);
        }
        let session = || {
            server
                .listener
                .connections()
                .into_iter()
                .find(|one| one.stats().requests > 1)
        };
        eventually("the answers wait", || {
            session().is_some_and(|one| one.queued_bytes() > 1 << 20)
        });
        let session = session().unwrap();
        sleep(Duration::from_millis(50)).unwrap();
        let before = session.queued_bytes();
        for _ in 0..100 {
            client.control(Opcode::Ping, &[b'x'; 125]);
        }
        sleep(Duration::from_millis(50)).unwrap();
        let more = session.queued_bytes() - before;
        assert!(more <= 127, "{more} bytes of pongs are queued");
        drop(client);
        server.end();
    });
}

/// A server whose hook logs the reason of each end.
fn logging_server(options: Options) -> (Server, Rc<RefCell<Vec<String>>>) {
    let log = Rc::new(RefCell::new(Vec::new()));
    let ends = log.clone();
    let hooks = TestHooks {
        close: Some(Box::new(move |_, reason| {
            ends.borrow_mut().push(reason.to_string());
            Retry::Default
        })),
        ..TestHooks::default()
    };
    (
        Server::with_hooks(hooks, options, &SocketOptions::default()),
        log,
    )
}

#[test]
fn the_reason_of_a_close_travels_both_ways() {
    run_loop(|| {
        let (server, log) = logging_server(Options::default());
        for (number, reason, expected) in [
            (code::NORMAL, "", "closed by the peer"),
            (code::GOING_AWAY, "", "closed by the peer"),
            (code::NORMAL, "enough", "closed by the peer: enough"),
            (code::GOING_AWAY, "", "closed by the peer"),
            (4001, "", "closed by the peer: code 4001"),
            (4001, "bored", "closed by the peer: bored (code 4001)"),
        ] {
            let mut client = server.raw();
            client.close(number, reason);
            assert_eq!(
                client.receive_all().1,
                Received::Close(Some(number), String::new())
            );
            assert_eq!(client.receive(), Received::End);
            eventually("the hook runs", || !log.borrow().is_empty());
            assert_eq!(log.take(), [expected]);
        }
        let mut client = server.raw();
        client.call(1, "sum", &[1]);
        assert_eq!(client.receive(), Received::Data(vec![0x94, 1, 1, 0xc0, 1]));
        server.listener.connections()[0].close_because("the server goes down");
        let expected = Received::Close(Some(code::NORMAL), "the server goes down".to_owned());
        assert_eq!(client.receive(), expected);
        client.close(code::NORMAL, "");
        assert_eq!(client.receive(), Received::End);
        eventually("the hook runs", || !log.borrow().is_empty());
        assert_eq!(log.take(), ["closed by this side"]);
        server.end();
    });
}

#[test]
fn a_connection_without_a_close_frame_is_lost_inside_a_message_only() {
    run_loop(|| {
        let (server, log) = logging_server(Options::default());
        drop(server.raw());
        eventually("the hook runs", || !log.borrow().is_empty());
        assert_eq!(log.take(), ["closed by the peer"]);
        let mut client = server.raw();
        client.send_raw(b"\x82\xff\0\0");
        drop(client);
        eventually("the hook runs", || !log.borrow().is_empty());
        assert_eq!(
            log.take(),
            ["the link broke: the connection ended inside a message"]
        );
        server.end();
    });
}

#[test]
fn a_client_that_calls_too_often_is_closed_for_policy() {
    run_loop(|| {
        let limits = Limits {
            rate: Some(Rate {
                calls_per_second: 1.0,
                burst: 2,
            }),
            ..Limits::default()
        };
        let (server, _log) = logging_server(limited(limits));
        let mut client = server.raw();
        for id in 0..100 {
            client.call(id, "sum", &[1]);
        }
        match client.receive_all().1 {
            Received::Close(Some(code::POLICY), reason) => assert_eq!(reason, "too many calls"),
            other => panic!("{other:?}"),
        }
        server.end();
    });
}

/// A connection is given up after a second of silence.
fn impatient() -> SocketOptions {
    SocketOptions {
        keepalive: Some(Duration::from_secs(1)),
        ..SocketOptions::default()
    }
}

#[test]
fn a_plain_client_is_pinged_and_given_up_when_it_does_not_answer() {
    run_loop(|| {
        let server = Server::new(Options::default(), &impatient());
        let mut client = server.raw();
        client.call(1, "sum", &[1]);
        assert_eq!(client.receive(), Received::Data(vec![0x94, 1, 1, 0xc0, 1]));
        // It stays for as long as it answers.
        for _ in 0..6 {
            assert_eq!(client.receive(), Received::Ping(Vec::new()));
            client.control(Opcode::Pong, b"");
        }
        client.call(2, "sum", &[2]);
        assert_eq!(client.receive(), Received::Data(vec![0x94, 1, 2, 0xc0, 2]));
        // Then it does not.
        let (data, end) = client.receive_all();
        assert!(data.is_empty());
        match end {
            Received::Close(Some(code::NORMAL), reason) => {
                assert!(reason.contains("silent"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        server.end();
    });
}

/// A server that answers the request for a WebSocket with these bytes and then does `then`.
fn fake_server(
    answer: impl Fn(&str) -> Vec<u8> + 'static,
    then: impl Fn(TcpStream) + 'static,
) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream).unwrap();
        let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap();
        let key = key.split("\r\n").next().unwrap();
        stream.write_all(&answer(key)).unwrap();
        then(stream);
    }));
    format!("ws://127.0.0.1:{port}/rpc").parse().unwrap()
}

/// The error of a call to such a server.
fn error_of(address: &Address) -> (ErrorKind, String) {
    let websocket = WebSocketOptions {
        upgrade_time: Duration::from_millis(200),
        ..WebSocketOptions::default()
    };
    let sockets = SocketOptions {
        websocket,
        ..SocketOptions::default()
    };
    let client = Session::open(
        connector_with(address, &sockets),
        methods(),
        Options::default(),
    );
    let error = call(&client, "sum", &[1]).unwrap_err();
    client.close();
    assert!(error.is_retryable());
    assert!(error.message().contains(&address.to_string()), "{error}");
    (error.kind(), error.message())
}

#[test]
fn a_client_reports_what_a_server_answered_instead() {
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno\x1b[31m!!";
    let cases: [(&'static str, bool, &'static str); 8] = [
        (
            refused,
            true,
            "the server answered 403 Forbidden: no\\u{1b}[31m!!",
        ),
        (
            "HTTP/1.1 404 Not Found\r\n\r\n",
            false,
            "the server answered 404 Not Found: there is no WebSocket at this path",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            true,
            "the server answered 200 OK: there is no WebSocket at this path; calls often have the path /rpc",
        ),
        (
            "HTTP/1.1 500 Oops\r\n\r\nit broke",
            true,
            "the server answered 500 Oops: it broke",
        ),
        (
            "HTTP/1.1 101 OK\r\n\r\n",
            true,
            "switches to another protocol",
        ),
        (
            "220 mail.example ESMTP\r\n",
            true,
            "does not speak HTTP: it answered \"220 mail.example ESMTP\"",
        ),
        ("", false, "before it answered"),
        ("", true, "in time"),
    ];
    for (answer, stays, expected) in cases {
        run_loop(move || {
            let address = fake_server(
                move |_| answer.as_bytes().to_vec(),
                move |mut stream| {
                    if stays {
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                },
            );
            let (kind, text) = error_of(&address);
            assert!(text.contains(expected), "{text}");
            assert!(kind.is_a(ErrorKind::Transport), "{kind}");
            assert_eq!(kind == ErrorKind::ConnectionTimeout, expected == "in time");
        });
    }
}

#[test]
fn a_client_checks_the_answer_and_the_frames_of_a_server() {
    run_loop(|| {
        let other = |_: &str| upgrade::answer(&own_request(), &own_rules()).unwrap();
        let address = fake_server(other, |_| {});
        let (_, text) = error_of(&address);
        assert!(text.contains("Sec-WebSocket-Accept is wrong"), "{text}");

        // A good answer, with the first frame in the same packet: it is masked, which a server's never is.
        let (sender, received) = yue_scheduler::sync::local::channel(1);
        let answer = |key: &str| {
            let mut bytes =
                upgrade::answer(&upgrade::request("a", 1, "/rpc", key), &own_rules()).unwrap();
            bytes.extend(b"\x82\x80\0\0\0\0");
            bytes
        };
        let address = fake_server(answer, move |mut stream| {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            drop(sender.try_send(bytes));
        });
        let options = Options {
            reconnect: false,
            ..Options::default()
        };
        let client = Session::open(connector(&address), methods(), options);
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert!(
            error.message().contains("server's frame is masked"),
            "{error}"
        );
        let bytes = received.recv().unwrap();
        // Hello, and then the close frame: its code and 26 bytes of text. Both are masked.
        assert_eq!(bytes[1] & 0x80, 0x80);
        let close = bytes.windows(2).rposition(|two| two == [0x88, 0x80 | 28]);
        assert!(close.is_some(), "{bytes:x?}");
        client.close();
    });
}

fn own_rules() -> upgrade::Rules {
    upgrade::Rules {
        path: "/rpc".to_owned(),
        host: "a".to_owned(),
        origins: None,
    }
}

fn own_request() -> Vec<u8> {
    request("/rpc", "").into_bytes()
}

#[test]
fn messages_that_follow_the_answer_at_once_are_delivered() {
    run_loop(|| {
        // A server that speaks first: a call of the client, in the packet of its answer.
        let answer = |key: &str| {
            let mut bytes =
                upgrade::answer(&upgrade::request("a", 1, "/rpc", key), &own_rules()).unwrap();
            bytes.extend(frame::binary(call_bytes(7, "sum", &[20, 22]), None).1);
            bytes
        };
        let (sender, received) = yue_scheduler::sync::local::channel(1);
        let address = fake_server(answer, move |mut stream| {
            let mut decoder = frame::Decoder::new(true);
            let mut data = Vec::new();
            while data.len() < 6 {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).unwrap();
                let mut input = &bytes[..count];
                while let Some(item) = decoder.next(&mut input).unwrap() {
                    if let frame::Item::Data {
                        bytes,
                        key: Some(key),
                    } = item
                    {
                        let mut bytes = bytes.to_vec();
                        key.apply(&mut bytes);
                        data.extend(bytes);
                    }
                }
            }
            drop(sender.try_send(data));
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let options = Options {
            legacy: true,
            ..Options::default()
        };
        let client = Session::open(connector(&address), methods(), options);
        client.notify("hello", ints(&[])).unwrap();
        let data = received.recv().unwrap();
        let answer = [0x94, 1, 7, 0xc0, 42];
        assert!(data.windows(5).any(|window| window == answer), "{data:x?}");
        client.close();
    });
}

#[test]
fn connections_that_wait_for_their_upgrade_are_counted_and_end_with_the_listener() {
    run_loop(|| {
        let limits = Limits {
            connections_max: 1,
            ..Limits::default()
        };
        let server = Server::new(limited(limits), &SocketOptions::default());
        server.serves();
        // With the witness 65, so many as are accepted at a limit of one, to be refused with a reason.
        let mut waiting: Vec<TcpStream> = (0..64).map(|_| server.connect()).collect();
        eventually("they wait", || server.listener.usage().handshakes == 64);
        let mut one_more = server.connect();
        let ended = one_more.read(&mut [0; 1]).map_or(true, |count| count == 0);
        assert!(ended, "one more waits");
        assert_eq!(server.listener.usage().handshakes, 64);
        server.serves();
        // One that has begun its request is told that the listener is closed, one that was silent is not.
        let (mut begun, mut silent) = (waiting.remove(0), waiting.remove(0));
        begun.write_all(b"GET /rpc HTTP/1.1\r\n").unwrap();
        sleep(Duration::from_millis(20)).unwrap();
        server.listener.close();
        assert_eq!(server.listener.usage().handshakes, 0);
        let mut answer = String::new();
        begun.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty());
        drop(waiting);
        server.end();
    });
}

#[test]
fn failed_upgrades_are_counted_and_a_probe_of_the_port_is_one() {
    run_loop(|| {
        let server = server();
        let failed = || server.listener.usage().handshakes_failed;
        let (head, _) = server.answer_to(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert_eq!(failed(), 1);
        drop(server.connect());
        eventually("the probe has ended", || failed() == 2);
        assert_eq!(server.listener.usage().handshakes, 0);
        server.end();
    });
}
