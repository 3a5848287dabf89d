//! Flow control: two sides that both send much always make progress, and a side that sends and does not read is
//! bounded.

mod common;

use common::raw::{Raw, listener_and_witness};
use common::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::{Call, CallMethod, Reply, Response, Service, Session, peer};
use yue_rpc::transport::Transport;
use yue_rpc::{ErrorKind, Failure, Limits, Options, Timeout, WhenFull};
use yue_scheduler::{now, sleep, spawn};

/// `echo` answers with its arguments, `relay` asks the caller to echo them first.
fn echo_and_relay() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        let bytes = call.params().bytes.to_vec();
        let relay = call.method() == CallMethod::Name(b"relay");
        call.release_params();
        if !relay {
            return reply.results(|out| append(out, &bytes));
        }
        // If the caller's side is busy, this call fails: retrying here would hold the request that the peer waits for.
        let timeout = Timeout::After(Duration::from_secs(60));
        match peer()
            .unwrap()
            .call("echo", timeout, |out| append(out, &bytes))
        {
            Ok(answer) => reply.results(|out| append(out, answer.bytes())),
            Err(error) => reply.fail(&Failure::from(error)),
        }
    }))
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Result<u32, yue_rpc::Error> {
    out.extend_from_slice(bytes);
    Ok(1)
}

/// Calls again while the peer is busy.
fn send(session: &Session, method: &str, bytes: &[u8]) -> Result<Vec<u8>, yue_rpc::Error> {
    let timeout = Timeout::After(Duration::from_secs(60));
    // Random pauses: otherwise two sides that refuse each other would retry in step forever.
    let mut chance = session.key() as u64 ^ bytes.len() as u64 ^ now().as_nanos();
    loop {
        match session.call(method, timeout, |out| append(out, bytes)) {
            Ok(answer) => return Ok(answer.bytes().to_vec()),
            Err(error) if error.kind() == ErrorKind::ServerBusy => {
                chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                sleep(Duration::from_micros(100 + (chance >> 52)))?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn bin(length: usize) -> Vec<u8> {
    let mut bytes = vec![0xc5];
    bytes.extend_from_slice(&(length as u16).to_be_bytes());
    bytes.resize(length + 3, 0x55);
    bytes
}

/// Everybody calls from both sides at once; every call must be answered, over one link.
fn both_ways(kind: Kind, limits: &Limits, fibers: [usize; 2], sizes: &[usize], relay: bool) {
    let options = Options {
        limits: limits.clone(),
        ..Options::default()
    };
    let server = serve(kind, echo_and_relay(), options.clone());
    let client = server.open(echo_and_relay(), options);
    send(&client, "echo", &[1]).unwrap();
    let other = server.sessions().pop().unwrap();
    let mut callers = Vec::new();
    for (session, fibers) in [(&client, fibers[0]), (&other, fibers[1])] {
        for n in 0..fibers {
            let (session, sizes) = (session.clone(), sizes.to_vec());
            callers.push(spawn(move || {
                for k in 0..sizes.len() {
                    let bytes = bin(sizes[(k + n) % sizes.len()]);
                    let method = if relay && (k + n) % 3 == 0 {
                        "relay"
                    } else {
                        "echo"
                    };
                    assert_eq!(send(&session, method, &bytes).unwrap(), bytes);
                }
            }));
        }
    }
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    assert_eq!(
        (client.stats().links, client.stats().stalls),
        (1, 0),
        "{kind:?}"
    );
    client.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn two_sides_that_both_send_much_always_make_progress(
        fibers in prop::array::uniform2(0usize..20),
        sizes in prop::collection::vec(0usize..8000, 1..8),
        output_bytes_high in 100usize..4000,
        pending_input_bytes_max in 100usize..10_000,
        relay in any::<bool>(),
    ) {
        let limits = Limits {
            output_bytes_high,
            output_bytes_max: output_bytes_high + 20_000,
            pending_input_bytes_max,
            ..Limits::default()
        };
        for kind in [Kind::Memory, Kind::Thread] {
            let (limits, sizes) = (limits.clone(), sizes.clone());
            run_loop(move || both_ways(kind, &limits, fibers, &sizes, relay));
        }
    }
}

/// Like `both_ways`, but nothing waits for room: notifications, and asynchronous calls that must all have an outcome.
fn both_ways_at_once(kind: Kind, limits: &Limits, fibers: [usize; 2], sizes: &[usize]) {
    let options = Options {
        limits: limits.clone(),
        when_full: WhenFull::Drop,
        ..Options::default()
    };
    let server = serve(kind, echo_and_relay(), options.clone());
    let client = server.open(echo_and_relay(), options);
    send(&client, "echo", &[1]).unwrap();
    let other = server.sessions().pop().unwrap();
    let (made, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let most = limits.output_bytes_max + 200_000;
    let mut callers = Vec::new();
    for (session, fibers) in [(&client, fibers[0]), (&other, fibers[1])] {
        for n in 0..fibers {
            let (session, sizes) = (session.clone(), sizes.to_vec());
            let (made, over) = (made.clone(), over.clone());
            callers.push(spawn(move || {
                for k in 0..10 * sizes.len() {
                    let bytes = bin(sizes[(k + n) % sizes.len()]);
                    let _ = session.notify("echo", |out| append(out, &bytes));
                    let over = over.clone();
                    let timeout = Timeout::After(Duration::from_secs(60));
                    let done = move |outcome: Result<Response, yue_rpc::Error>| {
                        let kind = outcome.err().map(|error| error.kind());
                        assert!(kind.is_none_or(|kind| kind == ErrorKind::ServerBusy));
                        over.set(over.get() + 1);
                    };
                    match session.call_async("echo", timeout, |out| append(out, &bytes), done) {
                        Ok(_) => made.set(made.get() + 1),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::QueueFull);
                            sleep(Duration::from_micros(100)).unwrap();
                        }
                    }
                    // A message and answers may come on top.
                    assert!(session.queued_bytes() <= most);
                }
            }));
        }
    }
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    eventually("every call has an outcome", || over.get() == made.get());
    assert_eq!(
        (client.stats().links, client.stats().stalls),
        (1, 0),
        "{kind:?}"
    );
    client.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn two_sides_that_send_without_waiting_always_make_progress(
        fibers in prop::array::uniform2(0usize..10),
        sizes in prop::collection::vec(0usize..8000, 1..5),
        output_bytes_high in 100usize..4000,
        pending_input_bytes_max in 100usize..10_000,
    ) {
        let limits = Limits {
            output_bytes_high,
            output_bytes_max: output_bytes_high + 20_000,
            pending_input_bytes_max,
            ..Limits::default()
        };
        for kind in [Kind::Memory, Kind::Thread] {
            let (limits, sizes) = (limits.clone(), sizes.clone());
            run_loop(move || both_ways_at_once(kind, &limits, fibers, &sizes));
        }
    }
}

#[test]
fn large_messages_both_ways_get_through_with_the_defaults() {
    for kind in [Kind::Memory, Kind::Tcp, Kind::Thread] {
        run_loop(move || {
            let server = serve(kind, echo_and_relay(), Options::default());
            let client = server.open(echo_and_relay(), Options::default());
            send(&client, "echo", &[1]).unwrap();
            let other = server.sessions().pop().unwrap();
            let length = 1_500_000_u32;
            let bytes: Rc<Vec<u8>> = Rc::new(
                [0xc6]
                    .into_iter()
                    .chain(length.to_be_bytes())
                    .chain(std::iter::repeat_n(7, length as usize))
                    .collect(),
            );
            let callers: Vec<_> = (0..24)
                .map(|n| {
                    let session = if n % 2 == 0 {
                        client.clone()
                    } else {
                        other.clone()
                    };
                    let bytes = bytes.clone();
                    spawn(move || assert_eq!(send(&session, "echo", &bytes).unwrap(), **bytes))
                })
                .collect();
            callers
                .into_iter()
                .for_each(|caller| caller.join().unwrap());
            assert_eq!(
                (client.stats().links, client.stats().stalls),
                (1, 0),
                "{kind:?}"
            );
            client.close();
        });
    }
}

#[test]
fn handlers_that_ask_back_are_answered_although_their_requests_fill_the_account() {
    run_loop(|| {
        let limits = Limits {
            pending_input_bytes_max: 10_000,
            ..Limits::default()
        };
        both_ways(Kind::Memory, &limits, [30, 30], &[3000, 3000], true);
    });
}

#[test]
fn reading_stops_while_requests_wait_for_workers_only() {
    run_loop(|| {
        let limits = Limits {
            pending_input_bytes_max: 2000,
            ..Limits::default()
        };
        let options = limited(limits);
        let (listener, witness) = listener_and_witness(options);
        let raw = Raw::connect(&listener);
        let session = listener.sessions().pop().unwrap();
        let mut out = Vec::new();
        for n in 0..300 {
            let method = yue_rpc::proto::Method::Name(b"sum");
            yue_rpc::proto::encode::request(&mut out, n, method, None, ints(&[1; 20])).unwrap();
        }
        // In pieces, or it all would arrive before anything can stop it.
        out.chunks(500)
            .for_each(|piece| raw.link.send(piece.to_vec()));
        eventually("all are served", || session.stats().requests == 300);
        assert!(session.stats().reading_stopped > 0);
        assert_eq!(session.stats().refused_pending_input, 0);
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        raw.link.close();
    });
}

#[test]
fn a_peer_that_sends_on_and_reads_nothing_is_closed_and_others_are_served() {
    for method in ["$yue/ping", "$yue/nothing", "big"] {
        run_loop(move || {
            let limits = Limits {
                output_bytes_high: 10_000,
                output_bytes_max: 40_000,
                message_bytes_max: 20_000,
                pending_input_bytes_max: 2000,
                ..Limits::default()
            };
            let (listener, witness) = listener_and_witness(limited(limits));
            let raw = Raw::connect(&listener);
            raw.link.set_reading(false);
            let session = listener.sessions().pop().unwrap();
            let over = Rc::new(Cell::new(false));
            let closed = over.clone();
            let flooding = spawn(move || {
                let mut n = 0;
                while !session.is_closed() {
                    raw.request(n, method, &[10_000]);
                    n += 1;
                    yue_scheduler::yield_now().unwrap();
                }
                assert_eq!(session.stats().stalls, 1, "{method}");
                closed.set(true);
                let written = session.stats().bytes_out;
                assert!(written < 85_000, "{method}: {written} bytes");
            });
            while !over.get() {
                assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
            }
            flooding.join().unwrap();
        });
    }
}
