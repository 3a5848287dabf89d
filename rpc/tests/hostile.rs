//! Peers that send invalid bytes, or do not read: their connections end, others are served.

mod common;

use common::raw::{Raw, listener_and_witness};
use common::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::Session;
use yue_rpc::transport::Transport;
use yue_rpc::{CloseReason, Limits, MemoryListener, Options, Retry, Verdict};
use yue_scheduler::sleep;

#[test]
fn bytes_that_are_not_a_message_end_only_their_connection() {
    run_loop(|| {
        let (listener, witness) = listener_and_witness(Options::default());
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xc1],
            &[0x94, 0, 0xc1],
            &[0xff; 100],
            &[0x93, 9, 9, 9],
        ] {
            let raw = Raw::connect(&listener);
            raw.link.send(bytes.to_vec());
            eventually("the link is closed", || raw.received.closed.get());
            assert_eq!(
                listener.sessions().pop().unwrap().stats().refused_malformed,
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
        let (listener, witness) = listener_and_witness(Options::default());
        let raw = Raw::connect(&listener);
        raw.link
            .send(vec![0x94, 0, 7, 0xa1, b'f', 0xdd, 0x40, 0, 0, 0]);
        eventually("the link is closed", || raw.received.closed.get());
        assert!(raw.received("MessageTooLargeError") && raw.received("4194304"));
        assert_eq!(
            listener.sessions().pop().unwrap().stats().refused_too_large,
            1
        );

        let raw = Raw::connect(&listener);
        let mut deep = vec![0x94, 0, 7, 0xa1, b'f'];
        deep.resize(10_000, 0x91);
        raw.link.send(deep);
        eventually("the link is closed", || raw.received.closed.get());
        assert!(raw.received("MessageRefusedError") && raw.received("131"));
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
    });
}

#[test]
fn half_a_message_and_a_close_harm_nobody() {
    run_loop(|| {
        let (listener, witness) = listener_and_witness(Options::default());
        let mut whole = Vec::new();
        encode::request(&mut whole, 1, Method::Name(b"sum"), None, ints(&[1, 2, 3])).unwrap();
        for length in 1..whole.len() {
            let raw = Raw::connect(&listener);
            raw.link.send(whole[..length].to_vec());
            raw.link.shutdown_write();
            eventually("the link is closed", || raw.received.closed.get());
            assert!(raw.received.bytes.borrow().is_empty());
        }
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
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
            ungranted_bytes_max: 100,
            ..Limits::default()
        };
        let listener = MemoryListener::new(methods().with_hooks(Rc::new(hooks)), limited(limits));
        let raw = Raw::connect(&listener);
        for n in 0..200 {
            raw.request(n, "sum", &[1, 2, 3]);
        }
        eventually("the link is closed", || raw.received.closed.get());
        assert!(raw.received("NotGrantedError") && raw.received("more than the limit of 100"));
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
        let listener = MemoryListener::new(methods().with_hooks(Rc::new(hooks)), limited(limits));
        let raw = Raw::connect(&listener);
        raw.link.set_reading(false);
        raw.request(1, "big", &[5000]);
        raw.request(2, "big", &[5000]);
        eventually("the session is closed", || {
            listener.sessions()[0].is_closed()
        });
        assert_eq!(*reasons.borrow(), ["the peer reads nothing"]);
        assert_eq!(listener.sessions()[0].stats().stalls, 1);
    });
}

#[test]
fn random_bytes_reach_no_panic() {
    run_loop(|| {
        let (listener, witness) = listener_and_witness(Options::default());
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
            let raw = Raw::connect(&listener);
            let mut bytes = starts[random() as usize % starts.len()].clone();
            let length = random() as usize % 40;
            bytes.extend((0..length).map(|_| random() as u8 >> (round % 4)));
            raw.link.send(bytes);
            raw.link.shutdown_write();
            eventually("the link is closed", || raw.received.closed.get());
        }
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        assert_eq!(yue_scheduler::this_loop::counters().panics, 0);
    });
}
