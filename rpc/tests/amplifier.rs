//! No amplification: a peer's bytes are not multiplied in answers, errors or memory.

mod common;

use common::raw::{Raw, listener_and_witness};
use common::*;
use std::cell::Cell;
use std::rc::Rc;
use yue_rpc::proto::encode;
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::Transport;
use yue_rpc::{ErrorKind, Failure, MemoryListener, Options, Verdict};
use yue_scheduler::spawn;

/// Refuses, once `may_refuse` is set, with a reason of a megabyte.
fn refusing(may_refuse: Rc<Cell<bool>>) -> Service {
    let hooks = TestHooks {
        accept: Some(Box::new(move |_, _| {
            eventually("the test allows the refusal", || may_refuse.get());
            Verdict::Refuse(Failure::new(format!("reason: {}", "x".repeat(1_000_000))))
        })),
        ..TestHooks::default()
    };
    methods().with_hooks(Rc::new(hooks))
}

#[test]
fn the_reason_of_a_refusal_is_sent_once_however_many_requests_wait() {
    for with_hello in [true, false] {
        run_loop(move || {
            let may_refuse = Rc::new(Cell::new(false));
            let listener = MemoryListener::new(refusing(may_refuse.clone()), Options::default());
            let raw = Raw::connect(&listener);
            if with_hello {
                raw.request(99, "$yue/hello", &[1]);
            }
            for n in 0..16 {
                raw.request(n, "sum", &[1]);
            }
            let session = listener.sessions()[0].clone();
            eventually("they wait", || session.requests_in_flight() == 16);
            may_refuse.set(true);
            eventually("the link is closed", || raw.received.closed.get());
            assert_eq!(raw.times_received("reason: "), 1);
            let answers = raw.times_received("the connection was not granted");
            assert_eq!(answers, 16);
            let received = raw.received.bytes.borrow().len();
            assert!(received < 70_000, "{received} bytes for a refusal");
        });
    }
}

#[test]
fn calls_that_are_refused_together_do_not_each_copy_a_long_reason() {
    run_loop(|| {
        let may_refuse = Rc::new(Cell::new(false));
        let listener = MemoryListener::new(refusing(may_refuse.clone()), Options::default());
        let client = Session::open(listener, methods(), Options::default());
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let client = client.clone();
                spawn(move || call(&client, "sum", &[1]).unwrap_err())
            })
            .collect();
        eventually("they wait", || client.calls_in_flight() >= 100);
        may_refuse.set(true);
        for caller in callers {
            let error = caller.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::NotGranted);
            assert!(error.message().contains("reason: xxx"));
            assert!(error.message().len() < 2000, "{}", error.message().len());
        }
        client.close();
    });
}

#[test]
fn a_long_name_is_answered_with_a_short_error() {
    run_loop(|| {
        let (listener, witness) = listener_and_witness(Options::default());
        for prefix in ["$yue/", "_", ""] {
            let raw = Raw::connect(&listener);
            let mut name = prefix.as_bytes().to_vec();
            name.resize(2_000_000, 0xff);
            let mut out = vec![0x94, 0, 1];
            encode::str_or_bin(&mut out, &name);
            out.push(0x90);
            raw.link.send(out);
            eventually("it is answered", || raw.received("NoMethodError"));
            let received = raw.received.bytes.borrow().len();
            assert!(received < 2000, "{received} bytes about '{prefix}'");
            raw.link.close();
        }
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
    });
}

#[test]
fn a_map_of_extensions_counts_only_after_hello_and_while_it_is_short() {
    run_loop(|| {
        let (listener, _witness) = listener_and_witness(Options::default());
        let time_left = |raw: &Raw, length: usize| {
            let before = raw.received.bytes.borrow().len();
            let mut out = vec![0x95, 0, 7, 0xa9];
            out.extend_from_slice(b"time_left\x90\x82\xa1t\xcd\x70\x00\xa1x");
            encode::str_or_bin(&mut out, &vec![b'x'; length]);
            raw.link.send(out);
            eventually("it is answered", || {
                raw.received.bytes.borrow().len() > before
            });
            // The head of the answer has four bytes.
            read_ints(&raw.received.bytes.borrow()[before + 4..])[0]
        };
        let raw = Raw::connect(&listener);
        assert_eq!(time_left(&raw, 1), -1, "it said no hello");
        raw.request(1, "$yue/hello", &[1]);
        eventually("the grant is there", || raw.received("$yue/granted"));
        assert!(time_left(&raw, 1) > 0);
        assert_eq!(time_left(&raw, 2000), -1, "the map is too long");
        raw.link.close();
    });
}
