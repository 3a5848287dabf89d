//! Every limit, crossed: a clear error or a clean end for the one who crosses it, while others are served.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{CloseReason, Limits, Options, Retry, Service, Timeout, Verdict};
use yue_rpc::transport::hub::Hub;
use yue_rpc::transport::memory::MemoryTransport;
use yue_rpc::transport::{Events, Incoming, Transport};
use yue_rpc::{ErrorKind, Session};
use yue_scheduler::{now, sleep, spawn};

fn limited(limits: Limits) -> Options {
    Options {
        limits,
        ..Options::default()
    }
}

/// A peer that speaks raw bytes.
struct Raw {
    link: Rc<MemoryTransport>,
    heard: Rc<Heard>,
}

#[derive(Default)]
struct Heard {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
}

impl Events for Heard {
    fn data(&self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Borrowed(bytes) => self.bytes.borrow_mut().extend_from_slice(bytes),
            Incoming::Owned(bytes) => self.bytes.borrow_mut().extend(bytes),
        }
    }
    fn sent(&self, _: Option<Vec<u8>>) {}
    fn closed(&self, result: std::io::Result<()>) {
        result.unwrap();
        self.closed.set(true);
    }
}

impl Raw {
    fn connect(hub: &Hub) -> Raw {
        let (link, heard) = (hub.connect_raw(), Rc::new(Heard::default()));
        link.start(heard.clone());
        Raw { link, heard }
    }

    fn request(&self, msgid: u32, method: &str, values: &[i64]) {
        let mut out = Vec::new();
        encode::request(
            &mut out,
            msgid,
            Method::Name(method.as_bytes()),
            None,
            ints(values),
        )
        .unwrap();
        self.link.send(out);
    }

    fn heard(&self, text: &str) -> bool {
        self.heard
            .bytes
            .borrow()
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }
}

/// A hub, and a client of it that must be served whatever the others do.
fn hub_and_witness(options: Options) -> (Rc<Hub>, Session) {
    let hub = Hub::new(methods(), options);
    let witness = Session::open(hub.clone(), methods(), Options::default());
    assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
    (hub, witness)
}

#[test]
fn bytes_that_are_no_message_end_their_connection_only() {
    run_loop(|| {
        let (hub, witness) = hub_and_witness(Options::default());
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xc1],
            &[0x94, 0, 0xc1],
            &[0xff; 100],
            &[0x93, 9, 9, 9],
        ] {
            let raw = Raw::connect(&hub);
            raw.link.send(bytes.to_vec());
            eventually("the link is closed", || raw.heard.closed.get());
            assert_eq!(
                hub.sessions().pop().unwrap().stats().refused_malformed,
                1,
                "{bytes:02x?}"
            );
            assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        }
    });
}

#[test]
fn too_large_and_too_deep_messages_are_answered_and_end_their_connection() {
    run_loop(|| {
        let (hub, witness) = hub_and_witness(Options::default());
        let raw = Raw::connect(&hub);
        raw.link
            .send(vec![0x94, 0, 7, 0xa1, b'f', 0xdd, 0x40, 0, 0, 0]);
        eventually("the link is closed", || raw.heard.closed.get());
        assert!(raw.heard("MessageTooLargeError") && raw.heard("16777216"));
        assert_eq!(hub.sessions().pop().unwrap().stats().refused_too_large, 1);

        let raw = Raw::connect(&hub);
        let mut deep = vec![0x94, 0, 7, 0xa1, b'f'];
        deep.resize(10_000, 0x91);
        raw.link.send(deep);
        eventually("the link is closed", || raw.heard.closed.get());
        assert!(raw.heard("MessageRefusedError") && raw.heard("128"));
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
    });
}

#[test]
fn half_a_message_and_a_close_harm_nobody() {
    run_loop(|| {
        let (hub, witness) = hub_and_witness(Options::default());
        let mut whole = Vec::new();
        encode::request(&mut whole, 1, Method::Name(b"sum"), None, ints(&[1, 2, 3])).unwrap();
        for length in 1..whole.len() {
            let raw = Raw::connect(&hub);
            raw.link.send(whole[..length].to_vec());
            raw.link.shutdown_write();
            eventually("the link is closed", || raw.heard.closed.get());
            assert!(raw.heard.bytes.borrow().is_empty());
        }
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
    });
}

#[test]
fn a_call_or_a_result_over_the_size_limit_is_an_error_and_the_connection_goes_on() {
    over_each(|kind| {
        let limits = Limits {
            message_bytes_max: 4096,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits.clone()));
        let client = server.open(methods(), limited(limits));
        let values = vec![i64::MAX; 1000];
        let error = call(&client, "sum", &values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge, "{kind:?}");
        let held = call(&client, "big", &[5000]).unwrap_err();
        assert_eq!(held.kind(), ErrorKind::MessageTooLarge);
        let error = call(&client, "sum", &values).unwrap_err();
        assert!(error.message().contains("4096"), "{error}");
        assert_eq!(call(&client, "sum", &[3]).unwrap(), [3]);
        assert_eq!(client.stats().refused_too_large, 2);
        client.close();
    });
}

#[test]
fn too_many_requests_in_flight_are_refused_as_busy() {
    over_each(|kind| {
        let limits = Limits {
            in_flight_max: 10,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits));
        let (client, witness) = (server.client(), server.client());
        call(&client, "sum", &[]).unwrap();
        let fibers: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                spawn(move || call(&client, "nap", &[300]).map_err(|error| error.kind()))
            })
            .collect();
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        let outcomes: Vec<_> = fibers
            .into_iter()
            .map(|fiber| fiber.join().unwrap())
            .collect();
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| **outcome == Err(ErrorKind::ServerBusy))
                .count(),
            10,
            "{kind:?}"
        );
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            10
        );
        (client.close(), witness.close());
    });
}

#[test]
fn too_many_calls_of_our_own_are_refused_before_they_leave() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.open(
            methods(),
            limited(Limits {
                in_flight_max: 5,
                ..Limits::default()
            }),
        );
        call(&client, "sum", &[]).unwrap();
        let napping: Vec<_> = (0..5)
            .map(|_| {
                let client = client.clone();
                spawn(move || call(&client, "nap", &[100]).unwrap())
            })
            .collect();
        eventually("five wait", || client.calls_in_flight() == 5);
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageRefused, "{kind:?}");
        assert!(
            error.is_retryable() && error.message().contains("5 calls"),
            "{error}"
        );
        napping
            .into_iter()
            .for_each(|fiber| drop(fiber.join().unwrap()));
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(client.stats().refused_calls, 1);
        client.close();
    });
}

#[test]
fn held_calls_are_bounded_in_bytes() {
    run_loop(|| {
        let hub = Hub::new(methods(), Options::default());
        hub.refuse(true);
        let limits = Limits {
            held_bytes_max: 1000,
            ..Limits::default()
        };
        let options = Options {
            retry: true,
            limits,
            ..Options::default()
        };
        let client = Session::open(hub.clone(), methods(), options);
        let fibers: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                spawn(move || call(&client, "sum", &[n]).map_err(|error| error.kind()))
            })
            .collect();
        sleep(Duration::from_millis(1)).unwrap();
        hub.refuse(false);
        let outcomes: Vec<_> = fibers
            .into_iter()
            .map(|fiber| fiber.join().unwrap())
            .collect();
        let refused = outcomes
            .iter()
            .filter(|outcome| **outcome == Err(ErrorKind::MessageRefused))
            .count();
        assert!((1..20).contains(&refused), "{outcomes:?}");
        assert_eq!(client.stats().refused_held, refused as u64);
        assert!(outcomes[0].is_ok());
        client.close();
    });
}

#[test]
fn calls_that_are_given_up_while_they_are_held_do_not_fill_the_limit() {
    run_loop(|| {
        let hub = Hub::new(methods(), Options::default());
        hub.refuse(true);
        let limits = Limits {
            held_bytes_max: 1000,
            ..Limits::default()
        };
        let client = Session::open(
            hub.clone(),
            methods(),
            Options {
                retry: true,
                limits,
                ..Options::default()
            },
        );
        for _ in 0..200 {
            let error = client
                .call("sum", Timeout::After(Duration::from_micros(1)), ints(&[1]))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
        }
        assert_eq!(client.stats().refused_held, 0);
        client.close();
    });
}

#[test]
fn requests_that_wait_for_the_grant_are_bounded_in_bytes() {
    run_loop(|| {
        let accept = |_: &Session, _: Option<&[u8]>| {
            let _ = sleep(Duration::from_secs(600));
            Verdict::granted()
        };
        let hooks = TestHooks {
            accept: Some(Box::new(accept)),
            ..TestHooks::default()
        };
        let limits = Limits {
            pending_input_bytes_max: 1000,
            ..Limits::default()
        };
        let hub = Hub::new(methods().with_hooks(Rc::new(hooks)), limited(limits));
        let raw = Raw::connect(&hub);
        for n in 0..200 {
            raw.request(n, "sum", &[1, 2, 3]);
        }
        eventually("the link is closed", || raw.heard.closed.get());
        assert!(raw.heard("NotGrantedError") && raw.heard("more than the limit of 1000"));
    });
}

#[test]
fn references_are_bounded() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.open(
            methods(),
            limited(Limits {
                references_max: 3,
                ..Limits::default()
            }),
        );
        call(&client, "sum", &[]).unwrap();
        let export = |tokens: std::ops::Range<u64>| {
            let session = client.clone();
            client.call("sum", Timeout::Default, move |out| {
                for token in tokens {
                    encode::uint(out, session.export_reference(token)?);
                }
                Ok(3)
            })
        };
        export(0..3).unwrap();
        export(0..3).unwrap();
        let error = export(2..5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageRefused, "{kind:?}");
        assert_eq!(
            (client.references_held(), client.stats().refused_references),
            (3, 1)
        );
        client.close();
    });
}

/// A client that never reads: its requests go in, nothing comes out.
fn flood_without_reading(
    options: Options,
    method: &'static str,
    argument: i64,
) -> (Rc<Hub>, Session, Session, Raw) {
    let (hub, witness) = hub_and_witness(options);
    let raw = Raw::connect(&hub);
    raw.link.set_reading(false);
    let session = hub.sessions().pop().unwrap();
    for n in 0..2000 {
        raw.request(n, method, &[argument]);
        if n % 100 == 0 {
            assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        }
    }
    (hub, witness, session, raw)
}

#[test]
fn a_client_that_never_reads_costs_its_limits_and_no_more() {
    run_loop(|| {
        let limits = Limits {
            output_bytes_high: 100_000,
            pending_input_bytes_max: 2_000,
            ..Limits::default()
        };
        let (_hub, witness, session, raw) = flood_without_reading(limited(limits), "big", 10_000);
        eventually("reading stops", || session.stats().reading_stopped > 0);
        assert!(session.stats().dispatch_stopped > 0);
        assert!(session.stats().bytes_out < 300_000, "{:?}", session.stats());
        assert!(
            raw.link.queued_bytes() > 0,
            "its own requests wait on its own side"
        );
        // It reads after all: everything is answered.
        raw.link.set_reading(true);
        eventually("all is answered", || {
            raw.heard.bytes.borrow().len() > 2000 * 10_000
        });
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
    });
}

#[test]
fn refusals_for_a_client_that_never_reads_are_bounded_too() {
    run_loop(|| {
        let limits = Limits {
            output_bytes_high: 10_000,
            in_flight_max: 10,
            ..Limits::default()
        };
        let (_hub, _witness, session, raw) = flood_without_reading(limited(limits), "big", 10_000);
        eventually("reading stops", || session.stats().reading_stopped > 0);
        assert!(session.stats().bytes_out < 200_000, "{:?}", session.stats());
        raw.link.close();
    });
}

#[test]
fn a_client_that_reads_nothing_for_too_long_is_closed() {
    run_loop(|| {
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let log = reasons.clone();
        let close = move |_: &Session, reason: &CloseReason| {
            log.borrow_mut().push(reason.to_string());
            Retry::Default
        };
        let hooks = TestHooks {
            close: Some(Box::new(close)),
            ..TestHooks::default()
        };
        let limits = Limits {
            output_bytes_high: 1000,
            stall: Duration::from_millis(50),
            ..Limits::default()
        };
        let hub = Hub::new(methods().with_hooks(Rc::new(hooks)), limited(limits));
        let raw = Raw::connect(&hub);
        raw.link.set_reading(false);
        raw.request(1, "big", &[5000]);
        raw.request(2, "big", &[5000]);
        eventually("the session is over", || hub.sessions()[0].is_closed());
        assert_eq!(*reasons.borrow(), ["the other side reads nothing"]);
        assert_eq!(hub.sessions()[0].stats().stalls, 1);
    });
}

#[test]
fn callers_wait_for_room_instead_of_filling_memory() {
    run_loop(|| {
        let hub = Hub::new(methods(), Options::default());
        let limits = Limits {
            output_bytes_high: 10_000,
            ..Limits::default()
        };
        let client = Session::open(hub.clone(), methods(), limited(limits));
        call(&client, "sum", &[]).unwrap();
        let fibers: Vec<_> = (0..1000)
            .map(|n| {
                let client = client.clone();
                spawn(move || {
                    let bytes = vec![n as i64; 100];
                    assert_eq!(call(&client, "sum", &bytes).unwrap(), [100 * n as i64]);
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert!(client.stats().dispatch_stopped > 0);
        client.close();
    });
}

#[test]
fn two_sides_that_flood_each_other_both_get_through() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            return;
        }
        let limits = Limits {
            output_bytes_high: 20_000,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits.clone()));
        let client = server.open(methods(), limited(limits));
        call(&client, "sum", &[]).unwrap();
        let other = server.sessions().pop().unwrap();
        let fibers: Vec<_> = (0..400)
            .map(|n| {
                let session = if n % 2 == 0 {
                    client.clone()
                } else {
                    other.clone()
                };
                spawn(move || {
                    let response = session.call(
                        "big",
                        Timeout::After(Duration::from_secs(30)),
                        ints(&[20_000]),
                    );
                    assert!(response.unwrap().bytes().len() > 20_000);
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        client.close();
    });
}

#[test]
fn an_idle_connection_holds_no_fiber() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let clients: Vec<_> = (0..50).map(|_| server.client()).collect();
        for client in &clients {
            assert_eq!(call(client, "sum", &[1]).unwrap(), [1]);
        }
        sleep(Duration::from_millis(1)).unwrap();
        // This one, the listener's, and a few pooled workers.
        let fibers = yue_scheduler::this_loop::counters().fibers;
        assert!(
            fibers <= 6,
            "{kind:?}: {fibers} fibers for 50 idle connections"
        );
        clients.iter().for_each(Session::close);
        eventually("all are over", || server.sessions().is_empty());
    });
}

#[test]
fn random_bytes_reach_no_panic() {
    run_loop(|| {
        let (hub, witness) = hub_and_witness(Options::default());
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        // Valid beginnings, so that the noise gets further in.
        let mut starts: Vec<Vec<u8>> = vec![
            vec![],
            vec![0x94, 0, 1],
            vec![0x94, 1, 0, 0xc0],
            vec![0x93, 2],
        ];
        for name in [
            "$yue/hello",
            "$yue/granted",
            "$yue/refused",
            "$yue/cancel",
            "$yue/release",
            "sum",
            "echo",
        ] {
            for head in [&[0x93, 2][..], &[0x94, 0, 5], &[0x95, 0, 6]] {
                let mut start = head.to_vec();
                encode::str_or_bin(&mut start, name.as_bytes());
                starts.push(start);
            }
        }
        for round in 0..3000 {
            let raw = Raw::connect(&hub);
            let mut bytes = starts[random() as usize % starts.len()].clone();
            let length = random() as usize % 40;
            bytes.extend((0..length).map(|_| random() as u8 >> (round % 4)));
            raw.link.send(bytes);
            raw.link.shutdown_write();
            eventually("the link is closed", || raw.heard.closed.get());
        }
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        assert_eq!(yue_scheduler::this_loop::counters().panics, 0);
        let _ = (now(), Service::none());
    });
}
