//! Clients that mean harm, or are broken, against a running `yue` server. Each gets a clear error or a clean close;
//! another client is served all the while, and the server has no more memory or descriptors afterwards.

mod common;

use common::wire::{Raw, pack, request};
use common::{Outcome, Program, Server, script, wait_until, yue};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// What a server may take more than before, whatever is done to it: the limits of a few connections' input and output.
const MEMORY_MORE_BYTES_MAX: usize = 100 << 20;

/// A server under attack, and a client that it goes on serving.
struct Attacked {
    server: Server,
    over: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    bystander: JoinHandle<()>,
    memory_before: usize,
}

impl Attacked {
    #[track_caller]
    fn start(options: &[&str]) -> Attacked {
        let mut command = yue();
        command.arg(script("server.lua")).arg("tcp://127.0.0.1:0");
        let server = Server::of(command.args(options));
        let mut client = server.connect();
        let over = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (over.clone(), calls.clone());
        let bystander = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let sum = client.call("math.add", &[20.into(), 22.into()]);
                assert_eq!(sum, Ok(42.into()));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        server.serves();
        let memory_before = server.running.memory();
        Attacked {
            server,
            over,
            calls,
            bystander,
            memory_before,
        }
    }

    fn connect(&self) -> Raw {
        self.server.connect()
    }

    /// Waits until the bystander was served so many times more.
    #[track_caller]
    fn bystander_is_served(&self, times: usize) {
        let until = self.calls.load(Ordering::Relaxed) + times;
        wait_until("answers for the bystander", || {
            assert!(!self.bystander.is_finished(), "the bystander failed");
            self.calls.load(Ordering::Relaxed) >= until
        });
    }

    #[track_caller]
    fn memory_is_bounded(&self) {
        let more = self
            .server
            .running
            .memory()
            .saturating_sub(self.memory_before);
        assert!(more < MEMORY_MORE_BYTES_MAX, "{} MiB more", more >> 20);
    }

    /// Demands that nothing has changed: the bystander and newcomers are served, and the end is graceful. The server
    /// has logged nothing but what it got from strangers.
    #[track_caller]
    fn end(self) {
        self.outcome().logs_only_attacks(&[]);
    }

    /// As `end`, where a handler failed, which the server logs; it says nothing else.
    #[track_caller]
    fn end_after_failures_of(self, handler: &str) {
        self.outcome().logs_only_attacks(&[handler]);
    }

    /// As `end`, without a look at what the server said.
    #[track_caller]
    fn outcome(self) -> Outcome {
        self.bystander_is_served(20);
        self.server.serves();
        self.memory_is_bounded();
        self.over.store(true, Ordering::Relaxed);
        self.bystander.join().unwrap();
        self.server.end()
    }
}

/// The bytes of `[0, 7, "echo", [` and then these.
fn echo_of(argument: &[u8]) -> Vec<u8> {
    [b"\x94\x00\x07\xa4echo\x91", argument].concat()
}

/// The type that an error names.
#[track_caller]
fn type_of(error: &Value) -> &str {
    error[2]["type"]
        .as_str()
        .unwrap_or_else(|| panic!("no type in {error}"))
}

#[test]
fn what_is_no_msgpack_rpc_closes_the_connection() {
    let attacked = Attacked::start(&[]);
    let http: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let tls: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let never_used: &[u8] = b"\xc1\xc1\xc1\xc1";
    let ones: &[u8] = &[0xff; 4096];
    let garbage = [
        http,
        tls,
        never_used,
        ones,
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\xa5hello",
    ];
    for bytes in garbage {
        let mut client = attacked.connect();
        client.send(bytes);
        // The server closes by itself; what it says before, if anything, is for humans.
        client.rest();
    }
    attacked.end();
}

#[test]
fn a_message_of_the_wrong_shape_is_refused() {
    let attacked = Attacked::start(&[]);
    let shapes = [
        json!([]),
        json!([0]),
        json!([0, 1]),
        json!([0, 1, "hello"]),
        json!([0, 1, "hello", ["you"], 5, 6, 7]),
        json!([0, "one", "hello", ["you"]]),
        json!([0, -1, "hello", ["you"]]),
        json!([0, 1u64 << 32, "hello", ["you"]]),
        json!([0, 1, 2, ["you"]]),
        json!([0, 1, null, ["you"]]),
        json!([0, 1, ["hello"], ["you"]]),
        json!([0, 1, "hello", "you"]),
        json!([0, 1, "hello", null]),
        json!([0, 1, "hello", {"a": 1}]),
        json!([1]),
        json!([1, "one", null, null]),
        json!([2]),
        json!([2, 5, []]),
        json!([2, "hello", 5]),
        json!([3, 1, "hello", []]),
        json!([null, 1, "hello", []]),
        json!({"method": "hello"}),
    ];
    for shape in shapes {
        let mut client = attacked.connect();
        client.send(&pack(&shape));
        client.send(&request(9, "hello", &["you".into()]));
        client.finish();
        // An error, a close, or, where the shape can be borne, the answer to what follows; never silence.
        let mut answers = Vec::new();
        while let Some(answer) = client.next() {
            assert!(
                answer[0] == 1 && answer[1] != 7,
                "{shape} was answered with {answer}"
            );
            let greeted = answer[3] == "hello you" && answer[1] != 9;
            assert!(!greeted, "{shape} was taken for a call: {answer}");
            answers.push(answer);
        }
        assert!(answers.len() <= 2, "{shape} was answered with {answers:?}");
    }
    attacked.end();
}

#[test]
fn a_length_of_a_gibibyte_is_refused_before_any_memory_is_taken() {
    let attacked = Attacked::start(&[]);
    let length = [0x40, 0, 0, 0];
    // bin 32, str 32, ext 32, array 32, map 32.
    for marker in [0xc6, 0xdb, 0xc9, 0xdd, 0xdf] {
        let value = [&[marker][..], &length].concat();
        let method = [b"\x94\x00\x07", &value[..]].concat();
        for bytes in [echo_of(&value), method] {
            let mut client = attacked.connect();
            client.send(&bytes);
            // Some of what was promised; the rest never comes.
            client.send(&[0; 1000]);
            let error = client.answer(7).unwrap_err();
            assert_eq!(type_of(&error), "MessageTooLargeError");
            attacked.memory_is_bounded();
            client.rest();
        }
        let mut client = attacked.connect();
        client.send(&value);
        client.rest();
    }
    attacked.end();
}

#[test]
fn a_message_that_is_too_large_is_refused_as_soon_as_that_is_known() {
    let attacked = Attacked::start(&["message_max=10000"]);
    let mut client = attacked.connect();
    let fits = "x".repeat(9_000);
    assert_eq!(client.call("echo", &[fits.clone().into()]), Ok(fits.into()));
    let error = client
        .call("echo", &["x".repeat(11_000).into()])
        .unwrap_err();
    assert_eq!(type_of(&error), "MessageTooLargeError");
    client.rest();
    // Without an end.
    let mut client = attacked.connect();
    client.send(&echo_of(&[0xdd, 0xff, 0xff, 0xff, 0xff]));
    for _ in 0..1000 {
        client.send(&[0xc0; 100]);
    }
    client.rest();
    attacked.end();
}

#[test]
fn ten_thousand_nested_arrays_are_refused() {
    let attacked = Attacked::start(&[]);
    let nested =
        |depth: usize, opening: &[u8]| echo_of(&[&opening.repeat(depth)[..], b"\xc0"].concat());
    for opening in [&b"\x91"[..], b"\x81\xa1k", b"\xdc\x00\x01"] {
        let mut client = attacked.connect();
        client.send(&nested(100, opening));
        client.answer(7).unwrap();
        client.send(&nested(10_000, opening));
        let error = client.answer(7).unwrap_err();
        assert_eq!(type_of(&error), "MessageRefusedError");
        client.rest();
        // And with no end.
        let mut client = attacked.connect();
        client.send(&echo_of(&opening.repeat(10_000)));
        client.rest();
    }
    attacked.end();
}

#[test]
fn what_is_not_in_the_namespace_cannot_be_called() {
    let attacked = Attacked::start(&[]);
    let mut client = attacked.connect();
    let absent = [
        "no_such",
        "os.exit",
        "io.popen",
        "yue.die",
        "_G.os.exit",
        "_secret",
        "hidden._secret",
        "text",
        "text.upper",
        "math",
        "math.add.x",
        "math.",
        ".add",
        "math..add",
        ".",
        "",
        "__index",
        "__accept",
        "hello ",
        "HELLO",
        "math\0add",
        "\u{feff}hello",
        "$yue/unheard_of",
    ];
    for name in absent {
        let error = client.call(name, &[]).unwrap_err();
        assert_eq!(type_of(&error), "NoMethodError", "{name}: {error}");
    }
    let long = "x".repeat(1 << 20);
    let error = client.call(&long, &[]).unwrap_err();
    assert_eq!(type_of(&error), "NoMethodError");
    // A notification has nobody to tell.
    for name in absent {
        client.send(&pack(&json!([2, name, [1]])));
    }
    assert_eq!(
        client.call("hello", &["you".into()]),
        Ok("hello you".into())
    );
    // A name may come as bytes.
    client.send(b"\x94\x00\x05\xc4\x05hello\x91\xa3you");
    assert_eq!(client.answer(5), Ok("hello you".into()));
    attacked.end();
}

#[test]
fn half_a_message_and_then_a_close_is_a_close() {
    let attacked = Attacked::start(&[]);
    let whole = request(1, "echo", &[json!({"key": ["value", 1.5, null, -70_000]})]);
    for length in 0..whole.len() {
        let mut client = attacked.connect();
        client.send(&whole[..length]);
        client.finish();
        assert_eq!(client.rest(), b"", "after {length} bytes");
        let mut client = attacked.connect();
        client.send(&request(8, "hello", &["you".into()]));
        client.send(&whole[..length]);
        assert_eq!(client.answer(8), Ok("hello you".into()));
    }
    attacked.end();
}

#[test]
fn one_byte_at_a_time_is_slow_and_nothing_else() {
    let attacked = Attacked::start(&[]);
    let mut client = attacked.connect();
    client.socket().set_nodelay(true).unwrap();
    for byte in request(1, "echo", &[json!(["a", {"b": 1}])]) {
        client.send(&[byte]);
        attacked.bystander_is_served(1);
    }
    assert_eq!(client.answer(1), Ok(json!(["a", {"b": 1}])));
    attacked.end();
}

#[test]
fn a_client_that_asks_for_much_and_never_reads_takes_little_memory() {
    const ANSWER_BYTES: usize = 1 << 20;
    let attacked = Attacked::start(&[]);
    let mut greedy = attacked.connect();
    // Two GiB of answers, for a few KiB of requests.
    for id in 0..2_000 {
        greedy.send(&request(id, "bytes", &[ANSWER_BYTES.into()]));
    }
    for _ in 0..20 {
        attacked.bystander_is_served(10);
        attacked.memory_is_bounded();
    }
    // It was not forgotten: it gets what it reads.
    for id in 0..100 {
        let answer = greedy.answer(id).unwrap();
        assert_eq!(answer.as_str().map(str::len), Some(ANSWER_BYTES));
    }
    attacked.memory_is_bounded();
    drop(greedy);
    attacked.end();
}

#[test]
fn a_client_that_sends_much_and_never_reads_costs_its_limits_and_no_more() {
    let attacked = Attacked::start(&[]);
    let client = attacked.connect();
    let mut socket = client.socket();
    socket.set_nonblocking(true).unwrap();
    let bytes = request(1, "echo", &["x".repeat(100_000).into()]);
    let (mut at, mut taken, mut blocked) = (0, 0usize, 0);
    // The server reads on, since a peer that waits for room must always get it, but it keeps none of this. It may also
    // close, or stop reading: then it has not read for as long as the bystander was served hundreds of times.
    while blocked < 30 && taken < 256 << 20 {
        match socket.write(&bytes[at..]) {
            Ok(count) => {
                at = (at + count) % bytes.len();
                taken += count;
                blocked = 0;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                blocked += 1;
                attacked.bystander_is_served(10);
            }
            // Closed: it asked for more than it read.
            Err(_) => break,
        }
    }
    attacked.bystander_is_served(100);
    attacked.memory_is_bounded();
    drop(client);
    attacked.end();
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    const ROUNDS: usize = 50;
    const AT_ONCE: usize = 100;
    let attacked = Attacked::start(&[]);
    let descriptors = attacked.server.running.descriptors();
    let address = attacked.server.host_and_port();
    let half = &request(1, "hello", &["you".into()])[..6];
    let calling_back = request(2, "ask_back", &[1.into(), 2.into()]);
    for round in 0..ROUNDS {
        let crowd: Vec<_> = (0..AT_ONCE)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for (i, mut stream) in crowd.into_iter().enumerate() {
            // In all ways to go: silently, in the middle of a message or a call, with a reset.
            let _ = match (round + i) % 4 {
                0 => Ok(()),
                1 => stream.write_all(half),
                2 => stream.write_all(&calling_back),
                _ => reset_at_the_end(&stream),
            };
        }
    }
    wait_until("the connections to be closed", || {
        attacked.server.running.descriptors() <= descriptors
    });
    attacked.end_after_failures_of("ask_back");
}

/// Has the socket send a reset when it is closed.
fn reset_at_the_end(stream: &TcpStream) -> std::io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: a live socket and a live value of the length that is told.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(set, 0);
    Ok(())
}

#[test]
fn more_requests_than_may_be_in_flight_get_an_error() {
    let attacked = Attacked::start(&["in_flight_max=50"]);
    let mut client = attacked.connect();
    // None of these is answered before the client answers in its turn, which it does not.
    let mut bytes = Vec::new();
    for id in 0..1_000 {
        bytes.extend(request(id, "ask_back", &[1.into(), 2.into()]));
    }
    client.send(&bytes);
    let mut refused = 0;
    while refused < 950 {
        let message = client.next().expect("the server to go on");
        if message[0] == 1 {
            assert_eq!(type_of(&message[2]), "ServerBusyError", "{message}");
            refused += 1;
        }
    }
    drop(client);
    attacked.end_after_failures_of("ask_back");
}

#[test]
fn answers_that_nobody_waits_for_are_ignored() {
    let attacked = Attacked::start(&[]);
    let mut client = attacked.connect();
    for id in [0u32, 1, 2, 1000, u32::MAX] {
        client.send(&pack(&json!([1, id, null, "surprise"])));
        client.send(&pack(&json!([1, id, "error", null])));
    }
    // Answered twice, and to the wrong one.
    client.send(&request(1, "ask_back", &[1.into(), 2.into()]));
    let asked = client.next().unwrap();
    assert_eq!(asked[0], 0);
    let wrong = asked[1].as_u64().unwrap() + 1;
    for (id, sum) in [
        (json!(wrong), 5),
        (asked[1].clone(), 3),
        (asked[1].clone(), 4),
    ] {
        client.send(&pack(&json!([1, id, null, sum])));
    }
    assert_eq!(client.answer(1), Ok("the client says 3".into()));
    assert_eq!(
        client.call("hello", &["you".into()]),
        Ok("hello you".into())
    );
    attacked.end();
}

#[test]
fn an_error_of_any_shape_is_an_error_for_the_server_s_call() {
    let attacked = Attacked::start(&[]);
    let mut client = attacked.connect();
    let errors = [
        json!("words"),
        json!(0),
        json!(false),
        json!(1.5),
        json!([]),
        json!({}),
        json!([1]),
        json!([1, "words"]),
        json!([1, "words", 5]),
        json!([null, null, null]),
        json!([1, 2, {"type": 5, "traceback": [], "value": {}}]),
        json!([1, "words", {"type": "NoSuchError", "retryable": "yes"}]),
        json!({"type": "RuntimeError"}),
        json!([[[["deep"]]]]),
    ];
    for error in errors {
        client.send(&request(1, "ask_back", &[1.into(), 2.into()]));
        let asked = client.next().unwrap();
        client.send(&pack(&json!([1, asked[1], error, null])));
        let answer = client.answer(1);
        assert!(answer.is_err(), "{error} became {answer:?}");
    }
    attacked.end_after_failures_of("ask_back");
}

#[test]
fn the_reserved_names_bear_any_use() {
    let attacked = Attacked::start(&[]);
    let names = [
        "hello", "granted", "refused", "cancel", "release", "ping", "describe", "resume", "ack",
        "credit", "chunk", "",
    ];
    let arguments = [
        json!([]),
        json!([null]),
        json!([0]),
        json!([-1, 5]),
        json!(["x", {}]),
        json!([[1, 2], [3]]),
        json!([[[1, 4294967296u64]]]),
        json!([1, {"features": "all"}]),
        json!([2, {}]),
        json!([1, [], [], []]),
    ];
    for name in names {
        for arguments in &arguments {
            let name = format!("$yue/{name}");
            let mut client = attacked.connect();
            client.send(&pack(&json!([0, 1, name, arguments])));
            client.send(&pack(&json!([2, name, arguments])));
            client.send(&pack(
                &json!([0, 2, name, arguments, {"t": -5, "chain": []}]),
            ));
            client.send(&request(3, "hello", &["you".into()]));
            client.finish();
            while let Some(message) = client.next() {
                let kind = message[0].as_u64();
                assert!(matches!(kind, Some(0..=2)), "{name} {arguments}: {message}");
            }
        }
    }
    attacked.end();
}

#[test]
fn references_and_extensions_that_were_never_given_are_values_or_errors() {
    let attacked = Attacked::start(&[]);
    // fixext of our own code and of others', with every sub-type; ext 8 of no and of many bytes.
    for code in [0x59u8, 0, 1, 0x7f, 0xff] {
        for sub in 0..=8u8 {
            let values = [
                vec![0xd4, code, sub],
                vec![0xd5, code, sub, 0xff],
                vec![
                    0xd8, code, sub, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                ],
                vec![0xc7, 0, code],
                [&[0xc7, 200, code, sub][..], &[1; 199]].concat(),
            ];
            for hello in [false, true] {
                let mut client = attacked.connect();
                if hello {
                    client.send(&pack(&json!([0, 1, "$yue/hello", [1, []]])));
                }
                for value in &values {
                    client.send(&echo_of(value));
                    // As a name, too: functions are called by reference.
                    client.send(&[b"\x94\x00\x07", &value[..], b"\x90"].concat());
                }
                client.finish();
                client.rest();
            }
        }
    }
    attacked.end();
}

#[test]
fn a_page_of_another_site_is_refused_and_the_log_names_it() {
    let text = "local yue = require 'yue'
        local plain = arg[1] == 'several'
        local address = plain and 'tcp://127.0.0.1:0' or 'ws://127.0.0.1:0'
        local listener = yue.listen(address, { ws = plain or nil }, {})
        io.stdout:write('serving at ' .. listener:addr() .. '\\n')
        io.stdout:flush()";
    let program = Program::new("hostile-origin", text);
    for kind in ["one", "several"] {
        let server = Server::of(program.command().arg(kind));
        let place = server.address.split('/').nth(2).unwrap();
        let mut client = TcpStream::connect(place).unwrap();
        write!(
            client,
            "GET / HTTP/1.1\r\nHost: {place}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Origin: https://evil.example\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{kind}: {answer}");
        let log = server.end().stderr;
        for part in ["refused with 403", "a page of https://evil.example"] {
            assert!(log.contains(part), "{kind}: {log}");
        }
    }
}

#[test]
fn a_server_of_several_loops_bears_it_as_well() {
    let mut command = yue();
    command
        .args(["-c", "2"])
        .arg(script("server.lua"))
        .arg("tcp://127.0.0.1:0");
    let server = Server::of(&mut command);
    for _ in 0..200 {
        let mut client = server.connect();
        client.send(b"\xc1 garbage");
        client.rest();
        server.serves();
    }
    server.end();
}
