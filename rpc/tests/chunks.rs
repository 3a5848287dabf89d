//! Large answers in chunks: small messages overtake them, each comes out whole, and a peer that sends chunks which are
//! not due loses its link.

mod common;

use common::raw::{Raw, listener_and_witness};
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::value::Reader;
use yue_rpc::proto::{Message, Method, ScanLimits, Scanner, encode};
use yue_rpc::session::{Call, CallMethod, Dispatch, Replied, Reply, Service, Session, peer};
use yue_rpc::transport::Transport;
use yue_rpc::{Error, ErrorKind, Limits, MemoryListener, Options, Timeout, Verdict};
use yue_scheduler::{JoinHandle, spawn};
use yue_wire::{Owner, Reference};

const LARGE: usize = (4 << 20) - 100;
const CHUNK: usize = 64 * 1024;

fn with_chunks_of(chunk_bytes: Option<usize>) -> Options {
    Options {
        chunk_bytes,
        ..Options::default()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + length) as u8).collect()
}

/// Answers with as many bytes as the first argument says: its own, or its caller's for a second argument.
fn patterns() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        let values = read_ints(call.params().bytes);
        call.release_params();
        let bytes = match values[..] {
            [length] => pattern(length as usize),
            _ => get(&peer().unwrap(), &values[..1]).unwrap(),
        };
        reply.results(|out| {
            encode::bin(out, &bytes);
            Ok(1)
        })
    }))
}

fn get(session: &Session, arguments: &[i64]) -> Result<Vec<u8>, Error> {
    let answer = session.call("pattern", Timeout::Never, ints(arguments))?;
    Ok(Reader::new(answer.bytes()).read_bytes().unwrap().to_vec())
}

fn start(
    session: &Session,
    method: &'static str,
    values: &[i64],
) -> JoinHandle<Result<usize, Error>> {
    let (session, values) = (session.clone(), values.to_vec());
    spawn(move || {
        let answer = session.call(method, Timeout::Never, ints(&values))?;
        Ok(answer.bytes().len())
    })
}

#[test]
fn a_small_answer_overtakes_a_large_one() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.cut_into_pieces_of(8 * 1024);
        let client = Session::open(listener, methods(), Options::default());
        call(&client, "sum", &[1]).unwrap();
        let before = client.stats().bytes_in;
        let large = start(&client, "big", &[LARGE as i64]);
        eventually("the answer begins", || {
            client.stats().bytes_in > before + 100
        });
        for n in 1..=5 {
            assert_eq!(call(&client, "sum", &[n]).unwrap(), [n]);
        }
        // A call and its answer need a few ticks; each piece of the large answer takes one.
        let arrived = client.stats().bytes_in - before;
        assert!(
            arrived < 5 * 3 * CHUNK as u64,
            "{arrived} bytes came before them"
        );
        assert!(!large.is_done());
        assert!(large.join().unwrap().unwrap() > LARGE);
        client.close();
    });
}

#[test]
fn answers_of_all_sizes_come_out_whole_over_each_transport() {
    // Over datagrams there is no hello, and so there are no chunks.
    for &kind in ALL.iter().filter(|kind| **kind != Kind::Udp) {
        run_loop(move || {
            let chunks = if kind == Kind::Bytes { 1000 } else { CHUNK };
            let options = || with_chunks_of(Some(chunks));
            let server = serve(kind, patterns(), options());
            let client = server.open(patterns(), options());
            assert_eq!(get(&client, &[1]).unwrap(), pattern(1));
            let scale = chunks as i64;
            let calls: Vec<_> = [scale - 20, scale, scale + 1, 3 * scale, 10 * scale + 7, 1]
                .into_iter()
                .flat_map(|length| [vec![length], vec![length, 0]])
                .map(|arguments| {
                    let client = client.clone();
                    spawn(move || {
                        let bytes = get(&client, &arguments).unwrap();
                        assert!(bytes == pattern(arguments[0] as usize), "{arguments:?}");
                    })
                })
                .collect();
            calls.into_iter().for_each(|call| call.join().unwrap());
            let session = server.sessions().pop().unwrap();
            // Both ways: the second argument's answers come from the client, and go back to it.
            let divided = (
                session.stats().answers_divided,
                client.stats().answers_divided,
            );
            let expected = if kind == Kind::Thread { (0, 0) } else { (8, 4) };
            assert_eq!(divided, expected, "{kind:?}");
            assert_eq!((session.queued_bytes(), client.queued_bytes()), (0, 0));
            client.close();
        });
    }
}

#[test]
fn a_side_that_takes_no_chunks_gets_whole_answers() {
    for (ours, theirs) in [(Some(1000), None), (None, Some(1000))] {
        run_loop(move || {
            let server = serve(Kind::Memory, patterns(), with_chunks_of(theirs));
            let client = server.open(patterns(), with_chunks_of(ours));
            assert_eq!(get(&client, &[5000]).unwrap(), pattern(5000));
            assert_eq!(get(&client, &[5000, 0]).unwrap(), pattern(5000));
            let session = server.sessions().pop().unwrap();
            assert_eq!(
                session.stats().answers_divided + client.stats().answers_divided,
                0
            );
            client.close();
        });
    }
}

/// Sends a hello that takes `bytes` in open streams.
fn hello(raw: &Raw, bytes: u64) {
    let mut out = Vec::new();
    encode::request(&mut out, 0, Method::Name(b"$yue/hello"), None, |out| {
        out.extend_from_slice(b"\x01\x81\xa5chunk");
        encode::uint(out, bytes);
        Ok(2)
    })
    .unwrap();
    raw.link.send(out);
}

/// The messages that a raw peer has received, each as its kind and the bytes behind it.
fn messages(raw: &Raw) -> Vec<String> {
    let received = raw.received.bytes.borrow();
    let mut scanner = Scanner::new(ScanLimits::default());
    let (mut at, mut list) = (0, Vec::new());
    while let Some(frame) = scanner.advance(&received[at..]).unwrap() {
        let bytes = &received[at..at + frame.len];
        list.push(match Message::parse(bytes, &frame).unwrap() {
            Message::Response { msgid, error, .. } => {
                format!(
                    "answer {msgid}{}",
                    if error.is_some() { " error" } else { "" }
                )
            }
            Message::Notification {
                method: Method::Name(b"$yue/chunk"),
                params,
            } => {
                let mut reader = Reader::new(params.bytes);
                let stream = reader.read_uint().unwrap();
                match (reader.read_uint(), reader.read_bytes()) {
                    (Some(length), _) => format!("open {stream}: {length}"),
                    (None, Some(bytes)) => format!("chunk {stream}: {}", bytes.len()),
                    (None, None) => format!("end {stream}"),
                }
            }
            Message::Notification { .. } => "notification".to_owned(),
            Message::Request { .. } => "request".to_owned(),
        });
        at += frame.len;
    }
    list
}

fn note(session: &Session, length: usize) {
    session
        .notify("note", |out| {
            encode::bin(out, &vec![0; length]);
            Ok(1)
        })
        .unwrap();
}

fn raw_and_session(options: Options, taken: u64) -> (Raw, Session) {
    let listener = MemoryListener::new(patterns(), options);
    let raw = Raw::connect(&listener);
    hello(&raw, taken);
    eventually("the connection is granted", || raw.received("granted"));
    raw.received.bytes.borrow_mut().clear();
    (raw, listener.sessions().pop().unwrap())
}

#[test]
fn streams_take_turns_and_more_than_the_peer_takes_is_sent_whole() {
    run_loop(|| {
        let (raw, session) = raw_and_session(with_chunks_of(Some(1000)), 5000);
        raw.link.set_reading(false);
        // So much waits already that all chunks have to.
        note(&session, 70_000);
        for (msgid, length) in [(1, 2500), (2, 1800), (3, 2000), (4, 10)] {
            raw.request(msgid, "pattern", &[length]);
        }
        eventually("all are answered", || session.stats().requests == 4);
        raw.link.set_reading(true);
        eventually("all arrives", || messages(&raw).len() == 10);
        // The third finds no room beside the first two.
        let expected = [
            "notification",
            "open 0: 2507",
            "open 1: 1807",
            "answer 3",
            "answer 4",
            "chunk 0: 1000",
            "chunk 1: 1000",
            "chunk 0: 1000",
            "chunk 1: 807",
            "chunk 0: 507",
        ];
        assert_eq!(messages(&raw), expected);
        session.close();
    });
}

#[test]
fn other_output_without_end_does_not_keep_a_stream_from_growing() {
    run_loop(|| {
        let (raw, session) = raw_and_session(Options::default(), 1 << 20);
        raw.link.set_reading(false);
        raw.request(1, "pattern", &[300_000]);
        eventually("it is answered", || session.stats().answers_divided == 1);
        for _ in 0..800 {
            note(&session, 1000);
        }
        raw.link.set_reading(true);
        eventually("all arrives", || messages(&raw).len() == 800 + 6);
        let list = messages(&raw);
        assert_eq!(list.last().map(String::as_str), Some("notification"));
        session.close();
    });
}

#[test]
fn a_call_that_is_given_up_ends_its_stream() {
    run_loop(|| {
        let (raw, session) = raw_and_session(Options::default(), 1 << 20);
        raw.link.set_reading(false);
        raw.request(1, "pattern", &[500_000]);
        eventually("it is answered", || session.stats().answers_divided == 1);
        assert!(session.queued_bytes() > 400_000);
        let mut out = Vec::new();
        encode::notification(&mut out, Method::Name(b"$yue/cancel"), ints(&[1])).unwrap();
        raw.link.send(out);
        eventually("the rest is dropped", || session.queued_bytes() < 200_000);
        raw.link.set_reading(true);
        eventually("its end arrives", || raw.received("CancelledError"));
        let list = messages(&raw);
        assert_eq!(list[list.len() - 2..], ["end 0", "answer 1 error"]);
        session.close();
    });
}

/// Answers with a function and many bytes; counts the functions that come back.
#[derive(Default)]
struct Functions {
    released: Cell<usize>,
}

impl Dispatch for Functions {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        if let CallMethod::Token(_) = call.method() {
            return reply.results(ints(&[7]));
        }
        let length = read_ints(call.params().bytes)[0] as usize;
        let session = call.session().clone();
        reply.results(move |out| {
            encode::bin(out, &pattern(length));
            let id = session.export_reference(length as u64)?;
            let owner = Owner::Sender;
            out.extend_from_slice(&Reference { owner, id }.to_bytes());
            Ok(2)
        })
    }

    fn release(&self, tokens: &[u64]) {
        self.released.set(self.released.get() + tokens.len());
    }
}

#[test]
fn a_peer_that_does_not_read_its_chunks_is_closed() {
    run_loop(|| {
        let limits = Limits {
            stall: Duration::from_millis(50),
            ..Limits::default()
        };
        let (raw, session) = raw_and_session(limited(limits), 8 << 20);
        raw.link.set_reading(false);
        raw.request(1, "pattern", &[2 << 20]);
        eventually("it is given up", || session.stats().stalls == 1);
        assert_eq!(session.queued_bytes(), 0);
    });
}

#[test]
fn above_the_output_limit_no_request_starts_until_chunks_have_left() {
    run_loop(|| {
        let limits = Limits {
            output_bytes_high: 100_000,
            output_bytes_max: 200_000,
            ..Limits::default()
        };
        let (raw, session) = raw_and_session(limited(limits), 8 << 20);
        raw.link.set_reading(false);
        raw.request(1, "pattern", &[300_000]);
        eventually("it is answered", || session.stats().answers_divided == 1);
        raw.request(2, "pattern", &[1]);
        eventually("the next one waits", || {
            session.stats().dispatch_stopped == 1
        });
        assert_eq!(session.stats().requests, 1);
        raw.link.set_reading(true);
        eventually("all are answered", || {
            messages(&raw).contains(&"answer 2".to_owned())
        });
        session.close();
    });
}

#[test]
fn a_session_that_is_closed_sends_its_answers_to_the_end() {
    for reason in ["", "the server stops"] {
        run_loop(move || {
            let (raw, session) = raw_and_session(Options::default(), 8 << 20);
            raw.link.set_reading(false);
            raw.request(1, "pattern", &[500_000]);
            eventually("it is answered", || session.stats().answers_divided == 1);
            session.close_because(reason);
            raw.link.set_reading(true);
            eventually("the link ends", || raw.received.closed.get());
            let list = messages(&raw);
            let chunks = list.iter().filter(|text| text.starts_with("chunk")).count();
            assert_eq!(chunks, 8, "{list:?}");
        });
    }
}

#[test]
fn a_lost_link_takes_its_streams_with_it() {
    run_loop(|| {
        let listener = MemoryListener::new(patterns(), Options::default());
        listener.cut_into_pieces_of(4096);
        let client = Session::open(listener.clone(), patterns(), Options::default());
        assert_eq!(get(&client, &[1]).unwrap(), pattern(1));
        let large = start(&client, "pattern", &[500_000]);
        eventually("it begins", || client.stats().bytes_in > 70_000);
        listener.break_last();
        let error = large.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        listener.cut_into_pieces_of(usize::MAX);
        assert_eq!(get(&client, &[500_000]).unwrap(), pattern(500_000));
        client.close();
        eventually("nothing is left", || listener.in_use() == [0, 0, 0]);
    });
}

/// A chunk message with these arguments.
fn chunk(arguments: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::notification(&mut out, Method::Name(b"$yue/chunk"), |out| {
        arguments
            .iter()
            .for_each(|bytes| out.extend_from_slice(bytes));
        Ok(arguments.len() as u32)
    })
    .unwrap();
    out
}

fn uint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::uint(&mut out, value);
    out
}

fn bin(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bin(&mut out, bytes);
    out
}

/// A whole message in one stream.
fn stream(message: &[u8]) -> Vec<u8> {
    let length = uint(message.len() as u64);
    [chunk(&[&[0], &length]), chunk(&[&[0], &bin(message)])].concat()
}

#[test]
fn chunks_that_are_not_due_end_their_link() {
    let request = b"\x94\x00\x01\xa3sum\x90";
    let nested = stream(b"\x94\x01\x01\xc0\xc0");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("has no number", chunk(&[])),
        ("has no number", chunk(&[b"\xa1x"])),
        ("has no bytes", chunk(&[b"\x00", b"\xc0"])),
        ("belongs to no open stream", chunk(&[b"\x00", &bin(b"x")])),
        ("belongs to no open stream", chunk(&[b"\x00"])),
        ("not the next one", chunk(&[b"\x01", b"\x09"])),
        ("of no bytes", chunk(&[b"\x00", b"\x00"])),
        (
            "more than its stream lacks",
            [chunk(&[b"\x00", b"\x02"]), chunk(&[b"\x00", &bin(b"xyz")])].concat(),
        ),
        (
            "has no bytes, or more",
            [chunk(&[b"\x00", b"\x02"]), chunk(&[b"\x00", &bin(b"")])].concat(),
        ),
        ("not an answer", stream(request)),
        ("not an answer", stream(&nested)),
        ("not an answer", stream(b"\x94\x01\x01\xc0")),
        ("not an answer", stream(b"\x94\x01\x01\xc0\xc0\xc0")),
        ("not a msgpack-rpc message", stream(b"\xc1")),
        (
            "takes at once",
            (0..3)
                .flat_map(|n| chunk(&[&[n], &uint(3 << 20)]))
                .collect(),
        ),
        (
            "takes at once",
            (0..200u64)
                .flat_map(|n| chunk(&[&uint(n), b"\x01"]))
                .collect(),
        ),
    ];
    for (fault, bytes) in cases {
        run_loop(move || {
            let (listener, witness) = listener_and_witness(Options::default());
            let raw = Raw::connect(&listener);
            hello(&raw, 0);
            let session = listener.sessions().pop().unwrap();
            raw.link.send(bytes);
            eventually("the link is closed", || raw.received.closed.get());
            assert_eq!(session.stats().refused_malformed, 1, "{fault}");
            assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        });
    }
}

#[test]
fn a_stream_above_the_message_limit_ends_its_link() {
    run_loop(|| {
        let (listener, _witness) = listener_and_witness(Options::default());
        for length in [(4 << 20) + 1, u64::from(u32::MAX), u64::MAX >> 1] {
            let raw = Raw::connect(&listener);
            hello(&raw, 0);
            let session = listener.sessions().pop().unwrap();
            raw.link.send(chunk(&[b"\x00", &uint(length)]));
            eventually("the link is closed", || raw.received.closed.get());
            assert_eq!(session.stats().refused_too_large, 1);
        }
    });
}

#[test]
fn chunks_before_the_grant_and_without_leave_end_their_link_and_foreign_ones_are_ignored() {
    run_loop(|| {
        let hooks = TestHooks {
            accept: Some(Box::new(|session: &Session, _: Option<&[u8]>| {
                let _ = session.call("wait", Timeout::Never, ints(&[]));
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let before = MemoryListener::new(methods().with_hooks(Rc::new(hooks)), Options::default());
        let without = MemoryListener::new(methods(), with_chunks_of(None));
        for listener in [before, without] {
            let raw = Raw::connect(&listener);
            hello(&raw, 0);
            let session = listener.sessions().pop().unwrap();
            raw.link.send(chunk(&[b"\x00", b"\x09"]));
            eventually("the link is closed", || raw.received.closed.get());
            assert_eq!(session.stats().refused_malformed, 1);
        }
        let foreign = MemoryListener::new(methods(), Options::default());
        let raw = Raw::connect(&foreign);
        raw.link.send(chunk(&[b"\x07", b"\xc0"]));
        raw.request(1, "sum", &[40, 2]);
        eventually("it is served", || raw.times_received("*") == 1);
    });
}

#[test]
fn what_has_arrived_of_a_stream_is_counted_and_must_grow() {
    run_loop(|| {
        let limits = Limits {
            message_time: Duration::from_millis(50),
            ..Limits::default()
        };
        let listener = MemoryListener::new(methods(), limited(limits));
        let raw = Raw::connect(&listener);
        hello(&raw, 0);
        let session = listener.sessions().pop().unwrap();
        raw.link.send(chunk(&[b"\x00", &uint(1 << 20)]));
        raw.link.send(chunk(&[b"\x00", &bin(&[0; 100_000])]));
        eventually("it is counted", || listener.in_use()[2] >= 100_000);
        eventually("the link is closed", || raw.received.closed.get());
        assert_eq!(session.stats().refused_unfinished, 1);
        eventually("nothing is left", || listener.in_use() == [0, 0, 0]);

        // One that grows is not given up, however slowly.
        let raw = Raw::connect(&listener);
        hello(&raw, 0);
        raw.link.send(chunk(&[b"\x00", &uint(20 * 2000)]));
        for _ in 0..15 {
            raw.link.send(chunk(&[b"\x00", &bin(&[0; 2000])]));
            yue_scheduler::sleep(Duration::from_millis(10)).unwrap();
        }
        assert!(!raw.received.closed.get());
        raw.link.send(chunk(&[b"\x00"]));
        raw.request(1, "sum", &[40, 2]);
        eventually("it is served", || raw.times_received("*") == 1);
        listener.sessions().pop().unwrap().close();
    });
}

#[test]
fn an_answer_in_chunks_keeps_the_functions_that_it_names() {
    run_loop(|| {
        let functions = Rc::new(Functions::default());
        let server =
            MemoryListener::new(Service::new(functions.clone()), with_chunks_of(Some(1000)));
        server.cut_into_pieces_of(500);
        let client = Session::open(server.clone(), methods(), with_chunks_of(Some(1000)));
        let finished = Rc::new(RefCell::new(None));
        let done = finished.clone();
        client
            .call_async("f", Timeout::Never, ints(&[5000]), move |answer| {
                *done.borrow_mut() = Some(answer);
            })
            .unwrap();
        eventually("it arrives", || finished.borrow().is_some());
        assert_eq!(functions.released.get(), 0);
        let given_up = client
            .call_async("f", Timeout::Never, ints(&[50_000]), |_| {})
            .unwrap();
        let session = server.sessions().pop().unwrap();
        // Looks at each tick: a sleep may be as long as the whole answer takes.
        while session.stats().answers_divided < 2 {
            yue_scheduler::yield_now().unwrap();
        }
        assert!(client.cancel_call(given_up));
        eventually("its function is free", || functions.released.get() == 1);
        assert_eq!(client.calls_in_flight(), 0);
        client.close();
        eventually("all functions are free", || functions.released.get() == 2);
    });
}

#[test]
fn many_streams_of_small_chunks_fill_the_window_again_and_again() {
    for kind in [Kind::Memory, Kind::Tcp] {
        run_loop(move || {
            let server = serve(kind, patterns(), with_chunks_of(Some(16)));
            let client = server.open(patterns(), with_chunks_of(Some(16)));
            let calls: Vec<_> = (0..10)
                .map(|n| start(&client, "pattern", &[12_800 + n]))
                .collect();
            eventually("all come out whole", || {
                calls.iter().all(|call| call.is_done())
            });
            let lengths = calls.into_iter().map(|call| call.join().unwrap().unwrap());
            assert!(lengths.eq((0..10).map(|n| 12_803 + n)));
            client.close();
        });
    }
}
