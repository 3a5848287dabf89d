//! Traces and call chains: what calls inherit from the requests whose handlers make them.

mod common;

use common::raw::Raw;
use common::*;
use std::cell::RefCell;
use std::rc::Rc;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Call, CallMethod, Reply, Service, Session, peer};
use yue_rpc::trace::{self, CallChain, TraceParent};
use yue_rpc::transport::Transport;
use yue_rpc::{MemoryListener, Options, Timeout, Verdict};
use yue_scheduler::{spawn, yield_now};

/// The method, trace and call chain that a handler saw.
type Seen = (String, Option<TraceParent>, Option<CallChain>);

#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<Seen>>>);

impl Log {
    fn note(&self, method: &str) {
        let seen = (method.to_owned(), trace::current(), trace::call_chain());
        self.0.borrow_mut().push(seen);
    }

    fn take(&self) -> Vec<Seen> {
        self.0.take()
    }

    /// Notes what each handler sees: `there` calls `back` at its caller, which calls `end`, all after the call.
    fn service(&self) -> Service {
        let log = self.clone();
        Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            let CallMethod::Name(name) = call.method() else {
                return reply.no_method(call);
            };
            let name = String::from_utf8_lossy(name).into_owned();
            log.note(&name);
            let next = match &*name {
                "there" => Some("back"),
                "back" => Some("end"),
                "spawning" => {
                    let log = log.clone();
                    let child = spawn(move || {
                        yield_now().unwrap();
                        log.note("spawned");
                        call_peer("end");
                    });
                    child.join().unwrap();
                    None
                }
                _ => None,
            };
            next.into_iter().for_each(call_peer);
            log.note(&name);
            reply.results(ints(&[]))
        }))
    }
}

fn call_peer(method: &str) {
    call(&peer().unwrap(), method, &[]).unwrap();
}

fn open(kind: Kind, log: &Log) -> (Server, Session) {
    let server = serve(kind, log.service(), Options::default());
    let client = server.open(log.service(), Options::default());
    (server, client)
}

#[test]
fn a_trace_and_a_chain_follow_the_calls_of_handlers() {
    for kind in [Kind::Memory, Kind::Bytes, Kind::Tcp, Kind::Unix] {
        run_loop(move || {
            let log = Log::default();
            let (_server, client) = open(kind, &log);
            let trace = TraceParent::begin();
            // Once before the link is up: such a call is queued.
            for _ in 0..2 {
                trace::with(trace, || call(&client, "there", &[])).unwrap();
                let seen = log.take();
                assert!(
                    seen.iter().all(|(_, seen, _)| *seen == Some(trace)),
                    "{seen:?}"
                );
                let chains: Vec<_> = seen.iter().map(|(_, _, chain)| *chain).collect();
                let [None, chain @ Some(_), b, c, d, e] = chains[..] else {
                    panic!("the chain begins with the first nested call: {seen:?}");
                };
                assert_eq!([b, c, d, e], [chain; 4]);
            }
            assert_eq!((trace::current(), trace::call_chain()), (None, None));
            client.close();
        });
    }
}

#[test]
fn calls_of_spawned_fibers_belong_to_the_same_chain_and_the_next_request_does_not() {
    run_loop(|| {
        let log = Log::default();
        let (_server, client) = open(Kind::Tcp, &log);
        let trace = TraceParent::begin();
        trace::with(trace, || call(&client, "spawning", &[])).unwrap();
        let seen = log.take();
        assert!(seen.iter().all(|(_, seen, _)| *seen == Some(trace)));
        let chain = seen.last().and_then(|(_, _, chain)| *chain);
        assert!(chain.is_some(), "the spawned fiber's call began it");
        for _ in 0..3 {
            call(&client, "end", &[]).unwrap();
        }
        let rest = log.take();
        assert!(
            rest.iter()
                .all(|(_, trace, chain)| (*trace, *chain) == (None, None))
        );
        client.close();
    });
}

#[test]
fn a_trace_that_a_handler_begins_ends_with_its_function_and_keeps_the_peer() {
    run_loop(|| {
        let begun = TraceParent::begin();
        let dispatch = move |call: &mut Call, reply: Reply| {
            if call.method() == CallMethod::Name(b"begin") {
                let panicked = std::panic::catch_unwind(|| trace::with(begun, || panic!("oh no")));
                assert!(panicked.is_err() && trace::current().is_none());
                trace::with(begun, || {
                    assert_eq!(trace::current(), Some(begun));
                    call_peer("there");
                });
                assert_eq!(trace::current(), None);
            }
            reply.results(ints(&[]))
        };
        let server = serve(
            Kind::Memory,
            Service::new(Rc::new(dispatch)),
            Options::default(),
        );
        let log = Log::default();
        let client = server.open(log.service(), Options::default());
        call(&client, "begin", &[]).unwrap();
        let seen = log.take();
        assert_eq!(seen.len(), 2);
        assert!(
            seen.iter()
                .all(|(_, trace, chain)| *trace == Some(begun) && chain.is_some())
        );
        client.close();
    });
}

#[test]
fn calls_that_no_handler_makes_carry_only_their_time() {
    run_loop(|| {
        let accept = |session: &Session, _: Option<&[u8]>| {
            assert_eq!(trace::call_chain(), None);
            call(session, "sum", &[1]).unwrap();
            assert_eq!(trace::call_chain(), None, "a callback is not a request");
            Verdict::granted()
        };
        let hooks = TestHooks {
            accept: Some(Box::new(accept)),
            ..TestHooks::default()
        };
        let listener =
            MemoryListener::new(methods().with_hooks(Rc::new(hooks)), Options::default());
        let raw = Raw::connect(&listener);
        raw.hello();
        eventually("the server asks", || raw.received("sum"));
        let bytes = raw.received.bytes.borrow();
        let at = bytes.windows(3).position(|part| part == b"sum").unwrap();
        // The name, [1], and a map of one pair: the time.
        assert_eq!(bytes[at + 3..at + 8], [0x91, 1, 0x81, 0xa1, b't']);
    });
}

/// The fifth element of a request, as raw bytes.
fn request_with(extensions: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request_head(&mut out, 1, true);
    encode::method_and_params(&mut out, Method::Name(b"there"), ints(&[])).unwrap();
    out.extend_from_slice(extensions);
    out
}

#[test]
fn values_that_make_no_sense_are_ignored_and_counted() {
    let good = TraceParent::begin();
    let text = good.to_string();
    let id: Vec<u8> = (0..16)
        .map(|n| u8::from_str_radix(&text[3 + 2 * n..5 + 2 * n], 16).unwrap())
        .collect();
    let whole = [&id[..], &good.parent_id(), &[1]].concat();
    let bin = |bytes: &[u8]| [&[0xc4, bytes.len() as u8][..], bytes].concat();
    let pair = |key: &str, value: &[u8]| {
        [&[0x81, 0xa0 | key.len() as u8][..], key.as_bytes(), value].concat()
    };
    let cases: &[(Vec<u8>, u64, bool)] = &[
        (pair("tp", &bin(&whole)), 0, true),
        (pair("tp", &bin(&whole[1..])), 1, false),
        (pair("tp", &bin(&[0; 25])), 1, false),
        (pair("tp", &[7]), 1, false),
        (pair("tp", &[0xc0]), 1, false),
        (pair("c", &[0]), 1, false),
        (pair("c", &[0xcf, 0xff, 0, 0, 0, 0, 0, 0, 0]), 1, false),
        (pair("c", &[0xa1, b'x']), 1, false),
        (pair("c", &[0xff]), 1, false),
        (pair("other", &[0xc3]), 0, false),
        (vec![0x80], 0, false),
        // The map's own length claims more than there is.
        (vec![0x82, 0xa1, b'c', 0, 7, 7], 1, false),
    ];
    for (extensions, ignored, traced) in cases.iter().cloned() {
        run_loop(move || {
            let log = Log::default();
            let listener = MemoryListener::new(log.service(), Options::default());
            let raw = Raw::connect(&listener);
            raw.hello();
            let session = listener.sessions().pop().unwrap();
            raw.link.send(request_with(&extensions));
            eventually("the handler starts", || !log.0.borrow().is_empty());
            let (_, trace, chain) = log.take().remove(0);
            assert_eq!(trace, traced.then_some(good), "{extensions:02x?}");
            assert_eq!(chain, None);
            assert_eq!(session.stats().traces_ignored, ignored, "{extensions:02x?}");
            session.close();
        });
    }
}

#[test]
fn a_foreign_peer_is_sent_no_fifth_element() {
    run_loop(|| {
        let log = Log::default();
        let listener = MemoryListener::new(log.service(), Options::default());
        let raw = Raw::connect(&listener);
        // Without hello, its own fifth element does not count either.
        raw.link.send(request_with(&[0x81, 0xa1, b'c', 7]));
        eventually("it is called back", || raw.received("back"));
        assert_eq!(log.take()[0].2, None);
        assert!(raw.received.bytes.borrow().starts_with(&[0x94, 0]));
        listener.sessions().pop().unwrap().close();
    });
}

#[test]
fn a_request_that_waits_in_the_queue_keeps_what_it_inherits() {
    run_loop(|| {
        let log = Log::default();
        let service = log.service();
        let accept = |session: &Session, _: Option<&[u8]>| {
            let _ = session.call("go", Timeout::Default, ints(&[]));
            Verdict::granted()
        };
        let hooks = TestHooks {
            accept: Some(Box::new(accept)),
            ..TestHooks::default()
        };
        let service = service.with_hooks(Rc::new(hooks));
        let listener = MemoryListener::new(service, Options::default());
        let raw = Raw::connect(&listener);
        raw.hello();
        // Until the grant it is kept apart from the large buffer that it came in.
        let mut bytes = request_with(&[0x81, 0xa1, b'c', 7]);
        bytes.reserve(100_000);
        raw.link.send(bytes);
        eventually("the server asks", || raw.received("go"));
        let mut answer = Vec::new();
        encode::response(&mut answer, 0, true, ints(&[])).unwrap();
        raw.link.send(answer);
        eventually("the handler starts", || !log.0.borrow().is_empty());
        assert_eq!(
            log.take()[0].2.map(|chain| chain.to_string()).as_deref(),
            Some("000000000007")
        );
        listener.sessions().pop().unwrap().close();
    });
}
