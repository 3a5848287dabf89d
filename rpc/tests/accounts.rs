//! The limits of a listener as a whole, and of a client before its grant: each is crossed while others are served.

mod common;

use common::raw::{Raw, listener_and_witness};
use common::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Call, Reply, Service, Session};
use yue_rpc::transport::Transport;
use yue_rpc::{ErrorKind, Limits, MemoryListener, Options, Verdict};
use yue_scheduler::{sleep, spawn};

#[test]
fn handlers_that_a_lost_connection_left_behind_count_until_they_end() {
    run_loop(|| {
        let limits = Limits {
            handlers_max: 20,
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        let served = |listener: &MemoryListener| -> u64 {
            let sessions = listener.sessions();
            sessions.iter().map(|s| s.stats().requests).sum()
        };
        let before = served(&listener);
        for _ in 0..10 {
            let raw = Raw::connect(&listener);
            for n in 0..20 {
                raw.request(n, "nap", &[300]);
            }
            eventually("an answer is there", || raw.received("ServerBusyError"));
            raw.link.close();
        }
        let naps = served(&listener) - before;
        assert!(naps <= 20, "{naps} handlers ran beside each other");
        eventually("the handlers end", || {
            listener
                .sessions()
                .iter()
                .all(|session| session.requests_in_flight() == 0)
        });
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
    });
}

#[test]
fn a_connection_above_the_limit_is_refused_until_another_leaves() {
    over_each(|kind| {
        let limits = Limits {
            connections_max: 2,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits));
        let clients = [server.client(), server.client()];
        for client in &clients {
            assert_eq!(call(client, "sum", &[1]).unwrap(), [1]);
        }
        let third = server.client();
        let error = call(&third, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotGranted, "{kind:?}: {error}");
        assert!(
            error.message().contains("2 connections, its limit"),
            "{error}"
        );
        assert_eq!(call(&clients[0], "sum", &[1]).unwrap(), [1]);
        clients[1].close();
        eventually("the place is free", || call(&third, "sum", &[2]).is_ok());
        third.close();
        clients[0].close();
    });
}

#[test]
fn a_listener_that_is_out_of_memory_does_not_read_those_that_hold_most() {
    run_loop(|| {
        let limits = Limits {
            memory_max: 200_000,
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        let raw = Raw::connect(&listener);
        let session = listener.sessions().pop().unwrap();
        let length = 1_000_000_u32;
        let mut message = vec![0x94, 0, 1, 0xa3];
        message.extend_from_slice(b"sum\x91\xc6");
        message.extend_from_slice(&length.to_be_bytes());
        message.resize(message.len() + length as usize, 7);
        message
            .chunks(10_000)
            .for_each(|piece| raw.link.send(piece.to_vec()));
        eventually("it is not read", || session.stats().reading_stopped > 0);
        assert!(session.stats().bytes_in < 500_000);
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        raw.link.close();
        assert_eq!(call(&witness, "echo", &[1]).unwrap(), [1]);
    });
}

#[test]
fn answers_that_many_connections_do_not_read_are_bounded_and_none_is_lost() {
    const MEMORY_MAX: usize = 200_000;
    const ANSWER: usize = 100_000;
    run_loop(|| {
        let limits = Limits {
            memory_max: MEMORY_MAX,
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        // One call each, and no handler runs when the next one arrives.
        let clients: Vec<Raw> = (0..40)
            .map(|_| {
                let raw = Raw::connect(&listener);
                raw.link.set_reading(false);
                raw.request(1, "big", &[ANSWER as i64]);
                sleep(Duration::from_millis(1)).unwrap();
                raw
            })
            .collect();
        let queued = || -> usize {
            let sessions = listener.sessions();
            sessions.iter().map(|session| session.queued_bytes()).sum()
        };
        eventually("some are answered", || queued() > MEMORY_MAX);
        assert!(queued() <= 6 * MEMORY_MAX, "{} bytes are queued", queued());
        for raw in &clients {
            raw.link.set_reading(true);
        }
        eventually("all are answered", || {
            let lengths = clients.iter().map(|raw| raw.received.bytes.borrow().len());
            lengths.min() > Some(ANSWER)
        });
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        clients.iter().for_each(|raw| raw.link.close());
    });
}

#[test]
fn decoded_arguments_count_until_their_handler_ends() {
    run_loop(|| {
        let limits = Limits {
            memory_max: 200_000,
            ..Limits::default()
        };
        // A few bytes that become 50 000.
        let keep = |call: &mut Call, reply: Reply| {
            let ms = read_ints(call.params().bytes)[0];
            if ms > 0 {
                call.release_params();
                call.count_memory(50_000);
                sleep(Duration::from_millis(ms as u64)).unwrap();
            }
            reply.results(ints(&[ms]))
        };
        let listener = serve(Kind::Tcp, Service::new(Rc::new(keep)), limited(limits));
        let Server::Listener(listener) = &listener else {
            panic!("it is a listener")
        };
        let open = || Session::open(connector(listener.address()), methods(), Options::default());
        let (witness, client) = (open(), open());
        assert_eq!(call(&witness, "keep", &[0]).unwrap(), [0]);
        let naps: Vec<_> = (0..40)
            .map(|_| {
                let client = client.clone();
                // Not all in one read.
                sleep(Duration::from_millis(1)).unwrap();
                spawn(move || call(&client, "keep", &[300]).unwrap())
            })
            .collect();
        let stopped = |session: &Session| session.stats().memory_stopped;
        eventually("it is not read", || {
            listener.connections().iter().any(|one| stopped(one) > 0)
        });
        assert!(listener.usage().memory_bytes > 200_000);
        assert_eq!(call(&witness, "keep", &[0]).unwrap(), [0]);
        for nap in naps {
            assert_eq!(nap.join().unwrap(), [300]);
        }
        assert!(listener.usage().memory_bytes < 10_000);
        client.close();
        witness.close();
        listener.close();
    });
}

#[test]
fn a_message_that_stops_growing_ends_its_connection() {
    run_loop(|| {
        let limits = Limits {
            message_time: Duration::from_millis(30),
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        let silent = Raw::connect(&listener);
        let raw = Raw::connect(&listener);
        raw.request(1, "sum", &[1]);
        let session = listener.sessions().pop().unwrap();
        raw.link.send(vec![0x94, 0, 2, 0xa3, b's']);
        eventually("the link is closed", || raw.received.closed.get());
        assert_eq!(session.stats().refused_unfinished, 1);
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        // A client that sends nothing at all keeps its connection.
        assert!(!silent.received.closed.get());
        silent.link.close();
    });
}

#[test]
fn a_slow_but_steady_message_is_accepted() {
    run_loop(|| {
        let limits = Limits {
            message_time: Duration::from_secs(1),
            ..Limits::default()
        };
        let listener = MemoryListener::new(methods(), limited(limits));
        let raw = Raw::connect(&listener);
        let mut message = Vec::new();
        encode::request(
            &mut message,
            1,
            Method::Name(b"echo"),
            None,
            ints(&[1000; 20_000]),
        )
        .unwrap();
        for piece in message.chunks(message.len() / 12) {
            raw.link.send(piece.to_vec());
            sleep(Duration::from_millis(125)).unwrap();
        }
        eventually("it is answered", || {
            raw.received.bytes.borrow().len() > 20_000
        });
        raw.link.close();
    });
}

#[test]
fn requests_that_wait_for_the_grant_are_bounded_in_number() {
    run_loop(|| {
        let granted = Rc::new(Cell::new(false));
        let waiting = granted.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                eventually("the test grants", || waiting.get());
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let listener =
            MemoryListener::new(methods().with_hooks(Rc::new(hooks)), Options::default());
        let raw = Raw::connect(&listener);
        for n in 0..20 {
            raw.request(n, "sum", &[1]);
        }
        eventually("some are refused", || {
            raw.times_received("ServerBusyError") == 4
        });
        let session: Session = listener.sessions()[0].clone();
        assert_eq!(session.stats().refused_ungranted, 4);
        granted.set(true);
        eventually("the others are served", || session.stats().requests == 16);
        raw.link.close();
    });
}

#[test]
fn a_connection_below_its_share_is_served_when_handlers_are_many() {
    run_loop(|| {
        let limits = Limits {
            handlers_max: 40,
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        let raw = Raw::connect(&listener);
        for n in 0..100 {
            raw.request(n, "nap", &[200]);
        }
        eventually("it meets the limit", || raw.received("ServerBusyError"));
        let callers: Vec<_> = (0..5)
            .map(|_| {
                let witness = witness.clone();
                spawn(move || call(&witness, "nap", &[1]).unwrap())
            })
            .collect();
        callers
            .into_iter()
            .for_each(|caller| drop(caller.join().unwrap()));
        raw.link.close();
    });
}

#[test]
fn clients_that_take_all_they_get_leave_handlers_to_others() {
    run_loop(|| {
        let limits = Limits {
            handlers_max: 40,
            ..Limits::default()
        };
        let (listener, witness) = listener_and_witness(limited(limits));
        // The first takes most of the handlers before they are many, so the shares of all together exceed the limit.
        let greedy: Vec<_> = (0..4).map(|_| Raw::connect(&listener)).collect();
        for raw in &greedy {
            for n in 0..40 {
                raw.request(n, "nap", &[300]);
            }
            eventually("it meets the limit", || raw.received("ServerBusyError"));
        }
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        greedy.iter().for_each(|raw| raw.link.close());
    });
}
