//! Behaviours of a session over every transport, beside those in `conformance.rs`.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{
    Call, CallMethod, Dispatch, Replied, Reply, Service, Session, Target, peer,
};
use yue_rpc::{Address, Error, ErrorKind, Failure, Limits, Listener, Options, Timeout};
use yue_scheduler::{sleep, spawn};
use yue_wire::{Owner, Reference};

/// The listener of a server that is not in memory.
fn listener(server: &Server) -> &Listener {
    match server {
        Server::Listener(listener) => listener,
        Server::MemoryListener(_) => unreachable!("this behaviour is not tested in memory"),
    }
}

#[test]
fn nils_keep_their_positions() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        for values in [
            &[0xc0][..],
            &[0xc0, 0xc0],
            &[1, 0xc0],
            &[0xc0, 2, 0xc0],
            &[0xc0, 0xc0, 3, 0xc0, 0xc0],
        ] {
            let answer = client
                .call("bytes", Timeout::Default, |out| {
                    out.extend_from_slice(values);
                    Ok(values.len() as u32)
                })
                .unwrap();
            assert_eq!(
                (answer.count() as usize, answer.bytes()),
                (values.len(), values),
                "{kind:?}"
            );
        }
        client.close();
    });
}

#[test]
fn notifications_and_calls_keep_their_order() {
    over_each(|kind| {
        let received = Rc::new(RefCell::new(Vec::new()));
        let log = received.clone();
        let note = move |call: &mut Call, reply: Reply| {
            log.borrow_mut().extend(read_ints(call.params().bytes));
            reply.results(ints(&[]))
        };
        let server = serve(kind, Service::new(Rc::new(note)), Options::default());
        let client = server.client();
        // The first ones are held until the link is up.
        for n in 0..300 {
            match n % 3 {
                0 => client.notify("note", ints(&[n])).unwrap(),
                1 => drop(
                    client
                        .call_async("note", Timeout::Default, ints(&[n]), |_| {})
                        .unwrap(),
                ),
                _ if n % 30 == 29 => drop(call(&client, "note", &[n]).unwrap()),
                _ => client.notify("note", ints(&[n])).unwrap(),
            }
        }
        call(&client, "note", &[300]).unwrap();
        assert_eq!(
            *received.borrow(),
            (0..=300).collect::<Vec<_>>(),
            "{kind:?}"
        );
        client.close();
    });
}

/// `down(n)` calls the peer's `down(n - 1)`, and adds one.
fn nesting() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        let n = read_ints(call.params().bytes)[0];
        let below = match n {
            0 => Ok(vec![0]),
            _ => self::call(&peer().unwrap(), "down", &[n - 1]),
        };
        match below {
            Ok(below) => reply.results(ints(&[below[0] + 1])),
            Err(error) => reply.fail(&Failure::from(error)),
        }
    }))
}

#[test]
fn calls_nest_both_ways() {
    over_each(|kind| {
        let server = serve(kind, nesting(), Options::default());
        let client = server.open(nesting(), Options::default());
        assert_eq!(call(&client, "down", &[50]).unwrap(), [51], "{kind:?}");
        client.close();
    });
}

/// Functions that are named by tokens; those that were released are noted.
#[derive(Default)]
struct Functions {
    released: RefCell<Vec<u64>>,
}

impl Dispatch for Functions {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        match call.method() {
            CallMethod::Token(token) => reply.results(ints(&[token as i64])),
            CallMethod::Name(_) => reply.no_method(call),
        }
    }

    fn release(&self, tokens: &[u64]) {
        self.released.borrow_mut().extend(tokens);
    }
}

/// A call that passes the function named by `token`.
fn pass(session: &Session, method: &str, token: u64) -> Result<Vec<i64>, Error> {
    let exporter = session.clone();
    let answer = session.call(method, Timeout::Default, move |out| {
        encode::uint(out, exporter.export_reference(token)?);
        Ok(1)
    })?;
    Ok(read_ints(answer.bytes()))
}

#[test]
fn a_function_that_returns_to_its_owner_is_the_original() {
    over_each(|kind| {
        // The answer is the function that was passed: it goes home by its owner's id.
        let give_back = |call: &mut Call, reply: Reply| {
            let id = read_ints(call.params().bytes)[0] as u64;
            let session = call.session().clone();
            let function = session.import_reference(id, call.link());
            let returned = session.return_reference(&function).unwrap();
            session.release_reference(&function, 1);
            reply.results(ints(&[returned as i64]))
        };
        let server = serve(kind, Service::new(Rc::new(give_back)), Options::default());
        let functions = Rc::new(Functions::default());
        let client = server.open(Service::new(functions.clone()), Options::default());
        let exporter = client.clone();
        let answer = client
            .call("give_back", Timeout::Default, move |out| {
                encode::uint(out, exporter.export_reference(7)?);
                Ok(1)
            })
            .unwrap();
        let id = read_ints(answer.bytes())[0] as u64;
        // The release was sent before the answer was decoded, and is not applied before.
        assert_eq!(client.exported_token(id), Some(7), "{kind:?}");
        drop(answer);
        eventually("it is released", || *functions.released.borrow() == [7]);
        assert_eq!(client.exported_token(id), None);
        client.close();
    });
}

#[test]
fn functions_end_with_their_connection() {
    over_each(|kind| {
        let kept = Rc::new(RefCell::new(None));
        let keeper = kept.clone();
        let keep = move |call: &mut Call, reply: Reply| {
            let id = read_ints(call.params().bytes)[0] as u64;
            let session = call.session().clone();
            let function = session.import_reference(id, call.link());
            let answer = session
                .call(Target::Reference(&function), Timeout::Default, ints(&[]))
                .unwrap();
            *keeper.borrow_mut() = Some((session, function));
            reply.results(ints(&read_ints(answer.bytes())))
        };
        let server = serve(kind, Service::new(Rc::new(keep)), Options::default());
        let functions = Rc::new(Functions::default());
        let client = server.open(Service::new(functions.clone()), Options::default());
        assert_eq!(pass(&client, "keep", 7).unwrap(), [7], "{kind:?}");
        assert_eq!(client.references_held(), 1);
        client.close();
        eventually("it is released", || *functions.released.borrow() == [7]);
        assert_eq!(client.references_held(), 0);
        eventually("the server's session ends", || server.sessions().is_empty());
        let (session, function) = kept.take().unwrap();
        let error = session
            .call(Target::Reference(&function), Timeout::Default, ints(&[]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
    });
}

/// Appends a function of the sender.
fn encode_function(out: &mut Vec<u8>, id: u64) {
    let owner = Owner::Sender;
    out.extend_from_slice(&Reference { owner, id }.to_bytes());
}

/// Answers `give` with a function, once it may; knows nothing else.
#[derive(Default)]
struct Giver {
    functions: Functions,
    may_answer: Cell<bool>,
}

impl Dispatch for Giver {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        if call.method() != CallMethod::Name(b"give") {
            return reply.no_method(call);
        }
        call.release_params();
        let session = call.session().clone();
        yue_scheduler::shield(|| eventually("it may answer", || self.may_answer.get()));
        reply.results(|out| {
            encode_function(out, session.export_reference(7)?);
            Ok(1)
        })
    }

    fn release(&self, tokens: &[u64]) {
        self.functions.release(tokens);
    }
}

#[test]
fn functions_in_undecoded_messages_are_released() {
    over_each(|kind| {
        let giver = Rc::new(Giver::default());
        let limits = Limits {
            in_flight_max: 1,
            ..Limits::default()
        };
        let options = limited(limits);
        let server = serve(kind, Service::new(giver.clone()), options);
        let functions = Rc::new(Functions::default());
        let client = server.open(Service::new(functions.clone()), Options::default());
        let pass = |method: &str, token: u64| {
            let exporter = client.clone();
            // One in an array, the same in a map, and another one behind bytes that look like one.
            let outcome = client.call(method, Timeout::Default, move |out| {
                out.push(0x91);
                encode_function(out, exporter.export_reference(token)?);
                out.extend_from_slice(b"\x81\xa1k");
                encode_function(out, exporter.export_reference(token)?);
                out.extend_from_slice(b"\xa4\xd7\x59\x01\x00");
                encode_function(out, exporter.export_reference(token + 1)?);
                Ok(4)
            });
            outcome.unwrap_err().kind()
        };
        assert_eq!(pass("nothing", 10), ErrorKind::NoMethod, "{kind:?}");
        assert_eq!(pass("_private", 20), ErrorKind::NoMethod);
        let soon = Timeout::After(Duration::from_millis(100));
        let error = client.call("give", soon, ints(&[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        // That one still runs, and no other may.
        assert_eq!(pass("give", 30), ErrorKind::ServerBusy);
        giver.may_answer.set(true);
        eventually("all are given back", || client.references_held() == 0);
        let mut released = functions.released.take();
        released.sort_unstable();
        assert_eq!(released, [10, 11, 20, 21, 30, 31], "{kind:?}");
        // The answer that comes too late has a function, too.
        eventually("the late one is given back", || {
            *giver.functions.released.borrow() == [7]
        });
        assert_eq!(client.stats().links, 1);
        client.close();
    });
}

#[test]
fn messages_written_before_a_close_are_sent_and_started() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        call(&client, "sum", &[1]).unwrap();
        let other = server.sessions().pop().unwrap();
        let length = if kind == Kind::Bytes { 20 } else { 10_000 };
        for _ in 0..100 {
            client.notify("sum", ints(&vec![1; length])).unwrap();
        }
        client.close();
        assert_eq!(client.calls_in_flight(), 0);
        eventually("both sessions end", || {
            client.has_ended() && other.has_ended()
        });
        let (sent, arrived) = (client.stats().bytes_out, other.stats().bytes_in);
        assert!(sent > 100 * length as u64);
        assert_eq!(sent, arrived, "{kind:?}");
        assert_eq!(
            other.stats().requests,
            101,
            "all have started over {kind:?}"
        );
    });
}

/// A client that sends requests, shuts its sending side down, and reads to the end.
fn half_close(address: &Address, requests: &[u8]) -> Vec<u8> {
    fn talk<S: Read + Write>(mut stream: S, requests: &[u8], shut: impl Fn(&S)) -> Vec<u8> {
        stream.write_all(requests).unwrap();
        shut(&stream);
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        answers
    }
    match address {
        Address::Tcp { host, port } => {
            let stream = std::net::TcpStream::connect((host.as_str(), *port)).unwrap();
            talk(stream, requests, |stream| {
                stream.shutdown(Shutdown::Write).unwrap()
            })
        }
        Address::Unix { path } => {
            let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            talk(stream, requests, |stream| {
                stream.shutdown(Shutdown::Write).unwrap()
            })
        }
        Address::Tls { host, port } => {
            let mut stream = common::tls::plain_client(host, *port);
            stream.write_all(requests).unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            stream.sock.shutdown(Shutdown::Write).unwrap();
            let mut answers = Vec::new();
            // An error if the server does not end the connection in order, too.
            stream.read_to_end(&mut answers).unwrap();
            answers
        }
        #[cfg(feature = "ws")]
        Address::Ws { host, port, path } => {
            let stream = std::net::TcpStream::connect((host.as_str(), *port)).unwrap();
            half_close_websocket(stream, path, requests)
        }
        #[cfg(feature = "ws")]
        Address::Wss { host, port, path } => {
            half_close_websocket(common::tls::plain_client(host, *port), path, requests)
        }
        _ => unreachable!("not over {address}"),
    }
}

/// Sends the requests and a close frame, which ends this direction. The answers follow, and then the server's frame.
#[cfg(feature = "ws")]
fn half_close_websocket(stream: impl Read + Write, path: &str, requests: &[u8]) -> Vec<u8> {
    let mut client = common::websocket::RawClient::open(stream, path);
    client.send(requests);
    client.close(1000, "");
    let (answers, end) = client.receive_all();
    let expected = common::websocket::Received::Close(Some(1000), String::new());
    assert_eq!(end, expected);
    answers
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let address = listener(&server).address().clone();
        let (sender, received) = yue_scheduler::sync::channel(1);
        std::thread::spawn(move || {
            let mut out = Vec::new();
            for n in 0..20 {
                encode::request(&mut out, n, Method::Name(b"nap"), None, ints(&[50])).unwrap();
            }
            sender.try_send(half_close(&address, &out)).ok();
        });
        let answers = spawn(move || received.recv().unwrap()).join().unwrap();
        // Each is [1, n, nil, 50].
        assert_eq!(answers.len(), 20 * 5, "{kind:?}: {answers:?}");
        eventually("the connection ends", || server.sessions().is_empty());
    });
}

#[test]
fn a_call_to_an_address_without_a_listener_is_connection_refused() {
    over_each(|kind| {
        // Somebody was there, and has gone.
        let server = serve(kind, methods(), Options::default());
        let address = listener(&server).address().clone();
        drop(server);
        eventually("the address is free", || {
            let client = Session::open(connector(&address), methods(), Options::default());
            let outcome = call(&client, "sum", &[1]);
            client.close();
            outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        let client = Session::open(connector(&address), methods(), Options::default());
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{kind:?}: {error}"
        );
        assert!(error.message().contains(&address.to_string()), "{error}");
        client.close();
    });
}

#[test]
fn an_address_has_one_listener() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let address = listener(&server).address().clone();
        let bind = || bind(&address, methods(), Options::default());
        let error = bind().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Address, "{kind:?}");
        assert!(error.message().contains(&address.to_string()), "{error}");
        let client = server.client();
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        client.close();
        listener(&server).close();
        eventually("it can be taken", || {
            bind().map(|next| next.close()).is_ok()
        });
    });
}

#[test]
fn a_closed_listener_keeps_its_connections() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        listener(&server).close();
        assert!(listener(&server).is_closed());
        eventually("nobody else gets in", || {
            let late = server.client();
            let outcome = call(&late, "sum", &[1]);
            late.close();
            outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2], "{kind:?}");
        assert_eq!(client.stats().links, 1);
        client.close();
    });
}

#[test]
fn a_server_that_comes_back_finds_its_clients_calls_waiting() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let address = listener(&server).address().clone();
        let client = server.client();
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        listener(&server).close();
        listener(&server).close_connections();
        eventually("the link is lost", || !client.connected());
        let waiting = {
            let client = client.clone();
            spawn(move || {
                let patient = Timeout::After(Duration::from_secs(20));
                client.call("sum", patient, ints(&[4, 5]))
            })
        };
        drop(server);
        let mut next = None;
        while next.is_none() {
            next = bind(&address, methods(), Options::default()).ok();
            sleep(Duration::from_millis(1)).unwrap();
        }
        let answer = waiting.join().unwrap().unwrap();
        assert_eq!(read_ints(answer.bytes()), [9], "{kind:?}");
        assert_eq!(client.stats().links, 2);
        client.close();
        next.unwrap().close();
    });
}

#[test]
fn a_message_nested_too_deep_is_refused_and_others_are_served() {
    over_each(|kind| {
        let limits = Limits {
            nesting_max: 10,
            ..Limits::default()
        };
        let options = limited(limits);
        let server = serve(kind, methods(), options);
        let (client, witness) = (server.client(), server.client());
        let nested = |levels: usize| {
            client.call("bytes", Timeout::Default, move |out| {
                out.resize(out.len() + levels, 0x91);
                out.push(1);
                Ok(1)
            })
        };
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        assert_eq!(nested(10).unwrap().bytes().len(), 11, "{kind:?}");
        let session = server.sessions();
        let error = nested(100).unwrap_err();
        assert!(
            error.message().contains("nested deeper"),
            "{kind:?}: {error}"
        );
        assert_eq!(
            session
                .iter()
                .map(|session| session.stats().refused_malformed)
                .sum::<u64>(),
            1
        );
        // The others notice nothing, and this one connects again. The end follows the answer: over a whole link at
        // once, so that the next call waits for the next link.
        if kind == Kind::Bytes {
            eventually("the link ends", || !client.connected());
        }
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        assert_eq!(witness.stats().links, 1);
        assert_eq!(nested(10).unwrap().bytes().len(), 11);
        client.close();
        witness.close();
    });
}

#[test]
fn both_sides_count_the_same() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        for n in 0..20 {
            assert_eq!(call(&client, "sum", &[n]).unwrap(), [n]);
        }
        for _ in 0..10 {
            client.notify("sum", ints(&[1])).unwrap();
        }
        call(&client, "fail", &[]).unwrap_err();
        call(&client, "ask", &[1]).unwrap();
        let other = server.sessions().pop().unwrap();
        let same = || {
            let (ours, theirs) = (client.stats(), other.stats());
            (ours.bytes_out, ours.bytes_in) == (theirs.bytes_in, theirs.bytes_out)
                && theirs.requests == 32
        };
        eventually("both count the same", same);
        let (ours, theirs) = (client.stats(), other.stats());
        assert_eq!(
            (ours.calls, ours.notifications, ours.links),
            (22, 10, 1),
            "{kind:?}"
        );
        assert_eq!((theirs.calls, theirs.links, ours.requests), (1, 1, 1));
        assert_eq!((ours.answers_ignored, theirs.answers_ignored), (0, 0));
        client.close();
        eventually("both say that the link ended", || {
            client.stats().links_ended == 1 && other.stats().links_ended == 1
        });
    });
}
