//! Reading that stops and resumes: for each reason why a session leaves its link unread, the event after which it reads
//! again. Without that event nothing would wake the link, and the peer would wait forever.

mod common;

use common::raw::Raw;
use common::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Call, CallMethod, Reply, Service, Session};
use yue_rpc::transport::Transport;
use yue_rpc::{Error, Limits, MemoryListener, Options};
use yue_scheduler::{sleep, spawn};

/// The size of the argument of a request: large beside the rest of the message.
const ARGUMENT: usize = 1000;

fn argument(out: &mut Vec<u8>) -> Result<u32, Error> {
    encode::str_or_bin(out, &[0xff; ARGUMENT]);
    Ok(1)
}

/// Handlers that run until they may end.
#[derive(Clone, Default)]
struct Held {
    may_end: Rc<Cell<bool>>,
    ended: Rc<Cell<usize>>,
}

impl Held {
    /// `hold` is held, and has decoded arguments of so many bytes; the other methods are those of all tests.
    fn service(&self, decoded_bytes: usize) -> Service {
        let (held, others) = (self.clone(), methods());
        Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            if call.method() != CallMethod::Name(b"hold") {
                return others.dispatch.call(call, reply);
            }
            call.release_params();
            call.count_memory(decoded_bytes);
            // However long that takes: the end of a handler would resume reading, too.
            while !held.may_end.get() && sleep(Duration::from_millis(1)).is_ok() {}
            held.ended.set(held.ended.get() + 1);
            reply.results(ints(&[]))
        }))
    }
}

/// Waits until a session is not read, and all requests that it has read run.
fn wait_until_unread(session: &Session) {
    eventually("it is not read", || session.stats().reading_stopped > 0);
    eventually("its requests run", || {
        session.stats().requests == session.requests_in_flight() as u64
    });
    assert_eq!(session.stats().reading_stopped, 1);
}

/// Connects a peer that sends notifications of `hold`, more than the listener wants to hold; returns their bytes.
fn flood(listener: &MemoryListener) -> (Raw, Session, u64) {
    let raw = Raw::connect(listener);
    let session = listener.sessions().pop().unwrap();
    let mut sent = 0;
    for _ in 0..100 {
        let mut out = Vec::new();
        encode::notification(&mut out, Method::Name(b"hold"), argument).unwrap();
        sent += out.len() as u64;
        raw.link.send(out);
    }
    wait_until_unread(&session);
    assert!(session.stats().bytes_in < sent);
    (raw, session, sent)
}

fn little_input() -> Options {
    limited(Limits {
        pending_input_bytes_max: 20 * ARGUMENT,
        output_bytes_high: 10 * ARGUMENT,
        ..Limits::default()
    })
}

#[test]
fn requests_above_the_input_limit_are_read_when_those_before_have_ended() {
    over_each(|kind| {
        // Byte by byte it would take too long.
        if kind == Kind::Bytes {
            return;
        }
        const REQUESTS: usize = 1000;
        let held = Held::default();
        // More than is read at once, so that none is refused.
        let limits = Limits {
            pending_input_bytes_max: 200 * ARGUMENT,
            ..Limits::default()
        };
        let server = serve(kind, held.service(0), limited(limits));
        let client = server.client();
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let session = server.sessions().pop().unwrap();
        for _ in 0..REQUESTS {
            client.notify("hold", argument).unwrap();
        }
        eventually("it is not read", || session.stats().reading_stopped > 0);
        assert_eq!(held.ended.get(), 0);
        held.may_end.set(true);
        eventually("all are served", || held.ended.get() == REQUESTS);
        assert_eq!(session.stats().refused_pending_input, 0, "{kind:?}");
        client.close();
    });
}

#[test]
fn a_link_that_is_not_read_is_read_when_its_requests_end() {
    run_loop(|| {
        let held = Held::default();
        let listener = MemoryListener::new(held.service(0), little_input());
        let (raw, session, sent) = flood(&listener);
        held.may_end.set(true);
        eventually("all are served", || held.ended.get() == 100);
        assert_eq!(session.stats().bytes_in, sent);
        raw.link.close();
    });
}

#[test]
fn a_link_that_is_not_read_is_read_for_the_answer_to_a_call() {
    run_loop(|| {
        let held = Held::default();
        let listener = MemoryListener::new(held.service(0), little_input());
        let client = Session::open(listener.clone(), methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let session = listener.sessions().pop().unwrap();
        for _ in 0..100 {
            client.notify("hold", argument).unwrap();
        }
        eventually("it is not read", || session.stats().reading_stopped > 0);
        // The answer comes behind the requests, whose handlers all wait.
        assert_eq!(call(&session, "sum", &[1, 2]).unwrap(), [3]);
        assert_eq!(held.ended.get(), 0);
        held.may_end.set(true);
        eventually("they end", || session.requests_in_flight() == 0);
        client.close();
    });
}

#[test]
fn a_link_that_is_not_read_is_read_when_its_output_is_full() {
    run_loop(|| {
        let held = Held::default();
        let listener = MemoryListener::new(held.service(0), little_input());
        let (raw, session, sent) = flood(&listener);
        // The peer reads only once it has sent everything.
        raw.link.set_reading(false);
        let writer = {
            let session = session.clone();
            spawn(move || (0..100).try_for_each(|_| session.notify("sum", argument)))
        };
        eventually("all is read", || session.stats().bytes_in == sent);
        raw.link.set_reading(true);
        writer.join().unwrap().unwrap();
        held.may_end.set(true);
        eventually("they end", || session.requests_in_flight() == 0);
        raw.link.close();
    });
}

#[test]
fn a_link_that_waits_for_memory_is_read_when_others_have_freed_it() {
    run_loop(|| {
        const MEMORY_MAX: usize = 1_000_000;
        let held = Held::default();
        let limits = Limits {
            memory_max: MEMORY_MAX,
            ..Limits::default()
        };
        let listener = MemoryListener::new(held.service(9 * MEMORY_MAX / 10), limited(limits));
        let client = Session::open(listener.clone(), methods(), Options::default());
        client.notify("hold", ints(&[])).unwrap();
        eventually("the memory is held", || {
            listener.in_use()[2] > MEMORY_MAX / 2
        });
        let raw = Raw::connect(&listener);
        let session = listener.sessions().pop().unwrap();
        let mut out = Vec::new();
        let large = |out: &mut Vec<u8>| {
            // Fits beside little else.
            encode::str_or_bin(out, &[0xff; MEMORY_MAX / 20 * 11]);
            Ok(1)
        };
        encode::request(&mut out, 1, Method::Name(b"bytes"), None, large).unwrap();
        out.chunks(10_000)
            .for_each(|piece| raw.link.send(piece.to_vec()));
        eventually("it waits", || session.stats().memory_stopped > 0);
        assert_eq!(session.stats().reading_stopped, 1);
        assert_eq!(session.stats().requests, 0);
        held.may_end.set(true);
        eventually("it is answered", || {
            raw.received.bytes.borrow().len() > MEMORY_MAX / 2
        });
        raw.link.close();
        client.close();
    });
}
