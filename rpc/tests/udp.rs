//! Calls by datagrams: what is lost, forged, malformed or too much, and what becomes of the peers.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::UdpSocket;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Call, Reply, Service, Session, peer};
use yue_rpc::transport::{DatagramOptions, SocketOptions, connector};
use yue_rpc::{Address, CloseReason, ErrorKind, Failure, Limits, Listener, Options};
use yue_rpc::{Rate, Retry, Timeout, Verdict};
use yue_scheduler::{sleep, spawn};

fn listen_with(service: Service, options: Options, sockets: &SocketOptions) -> Listener {
    let address = "udp://127.0.0.1:0".parse().unwrap();
    Listener::bind_with(&address, service, options, sockets).unwrap()
}

fn listen(options: Options) -> Listener {
    listen_with(methods(), options, &SocketOptions::default())
}

fn open(address: &Address) -> Session {
    Session::open(connector(address), methods(), Options::default())
}

fn end(listener: &Listener) {
    listener.close();
    listener.close_connections();
    eventually("all peers are gone", || listener.connections().is_empty());
}

fn request(msgid: u32, method: &str, values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    let method = Method::Name(method.as_bytes());
    encode::request(&mut out, msgid, method, None, ints(values)).unwrap();
    out
}

fn answer(msgid: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::response(&mut out, msgid, false, ints(&[value])).unwrap();
    out
}

/// A socket that speaks raw datagrams to a listener.
struct Raw(UdpSocket);

impl Raw {
    fn new(listener: &Listener) -> Raw {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (host, port) = listener.address().host_and_port().unwrap();
        socket.connect((host, port)).unwrap();
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).unwrap();
        Raw(socket)
    }

    fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Calls `sum`, and waits for the answer: what was sent before has been read by then.
    fn sync(&self) {
        self.send(&request(77, "sum", &[5]));
        assert_eq!(self.receive(), answer(77, 5));
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[test]
fn calls_go_both_ways_over_one_socket() {
    run_loop(|| {
        let listener = listen(Options::default());
        let client = open(listener.address());
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        // The handler calls the caller, from the socket to which the call came.
        assert_eq!(call(&client, "ask", &[3, 4]).unwrap(), [7]);
        assert!(!client.peer_is_yue());
        let error = call(&client, "fail", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        let error = call(&client, "nothing", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMethod);
        let fibers: Vec<_> = (0..50)
            .map(|n| {
                let client = client.clone();
                spawn(move || call(&client, "sum", &[n, 1]).unwrap())
            })
            .collect();
        for (n, fiber) in fibers.into_iter().enumerate() {
            assert_eq!(fiber.join().unwrap(), [n as i64 + 1]);
        }
        assert_eq!(listener.connections().len(), 1);
        client.close();
        end(&listener);
    });
}

#[test]
fn two_messages_of_a_tick_leave_in_two_datagrams() {
    run_loop(|| {
        let socket = Rc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let port = socket.local_addr().unwrap().port();
        let client = open(&format!("udp://127.0.0.1:{port}").parse().unwrap());
        for n in 0..3 {
            client.notify("note", ints(&[n])).unwrap();
        }
        for n in 0..3 {
            let mut buffer = [0; 100];
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            let expected = [0x93, 2, 0xa4, b'n', b'o', b't', b'e', 0x91, n];
            assert_eq!(buffer[..length], expected);
        }
        client.close();
    });
}

/// Passes datagrams on between one client and a server, except those that `loses`.
fn relay(server: SocketAddr, loses: impl Fn(u32, bool) -> bool + 'static) -> Address {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let relaying = move || {
        let (mut client, mut count) = (None, 0);
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let to_server = from != server;
            if to_server {
                client = Some(from);
                count += 1;
            }
            let to = if to_server { Some(server) } else { client };
            if let Some(to) = to.filter(|_| !loses(count, to_server)) {
                socket.send_to(&buffer[..length], to).unwrap();
            }
        }
    };
    drop(spawn(relaying));
    format!("udp://127.0.0.1:{port}").parse().unwrap()
}

fn address_of(listener: &Listener) -> SocketAddr {
    let (host, port) = listener.address().host_and_port().unwrap();
    SocketAddr::new(host.parse().unwrap(), port)
}

#[test]
fn a_lost_call_and_a_lost_answer_time_out_and_the_next_call_succeeds() {
    run_loop(|| {
        let ran = Rc::new(Cell::new(0));
        let counted = ran.clone();
        let count = move |call: &mut Call, reply: Reply| {
            counted.set(counted.get() + 1);
            reply.results(ints(&read_ints(call.params().bytes)))
        };
        let service = Service::new(Rc::new(count));
        let listener = listen_with(service, Options::default(), &SocketOptions::default());
        // The first request, and the answer to the second.
        let loses = |count, to_server| (count == 1 && to_server) || (count == 2 && !to_server);
        let client = open(&relay(address_of(&listener), loses));
        let soon = Timeout::After(Duration::from_millis(50));
        for ran_by_then in [0, 1] {
            let error = client.call("count", soon, ints(&[1])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(error.message().contains("may have been lost"), "{error}");
            assert!(!error.is_retryable());
            assert_eq!(ran.get(), ran_by_then);
        }
        assert_eq!(call(&client, "count", &[9]).unwrap(), [9]);
        client.close();
        end(&listener);
    });
}

#[test]
fn answers_of_other_senders_are_dropped() {
    run_loop(|| {
        // It calls the caller, and tells both addresses to the test meanwhile.
        let client_at = Rc::new(RefCell::new(String::new()));
        let told = client_at.clone();
        let serve = move |_: &mut Call, reply: Reply| {
            let peer = peer().unwrap();
            *told.borrow_mut() = peer.address().to_owned();
            match call(&peer, "nap", &[50]) {
                Ok(values) => reply.results(ints(&values)),
                Err(error) => reply.fail(&Failure::from(error)),
            }
        };
        let service = Service::new(Rc::new(serve));
        let listener = listen_with(service, Options::default(), &SocketOptions::default());
        let client = open(listener.address());
        let calling = client.clone();
        let fiber = spawn(move || call(&calling, "f", &[]).unwrap());
        eventually("the handler runs", || !client_at.borrow().is_empty());
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client_at: SocketAddr = client_at.borrow()["udp://".len()..].parse().unwrap();
        for msgid in 0..4 {
            let forged = answer(msgid, 666);
            stranger.send_to(&forged, client_at).unwrap();
            stranger.send_to(&forged, address_of(&listener)).unwrap();
        }
        assert_eq!(fiber.join().unwrap(), [50]);
        // An answer makes no peer.
        assert_eq!(listener.connections().len(), 1);
        assert_eq!(listener.usage().datagrams_dropped, 4);
        client.close();
        end(&listener);
    });
}

#[test]
fn malformed_datagrams_are_dropped_and_counted_and_spoil_nothing() {
    run_loop(|| {
        let listener = listen(Options::default());
        let raw = Raw::new(&listener);
        raw.sync();
        let whole = request(1, "sum", &[1]);
        let trailing = [&whole[..], &[0xc0]].concat();
        let deep = vec![0x91; 3000];
        let nonsense: [&[u8]; 8] = [
            b"",
            b"\xff",
            b"GET / HTTP/1.1\r\n\r\n",
            &whole[..whole.len() - 1],
            &trailing,
            &[0x94, 0, 1, 0xc0, 0x90],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &deep,
        ];
        for bytes in nonsense {
            raw.send(bytes);
            raw.sync();
        }
        // A whole message, but nested too deep for the session.
        let levels = [&[0x94, 0, 1, 0xa1, b'f'][..], &[0x91; 200], &[0x90]].concat();
        raw.send(&levels);
        raw.sync();
        let sessions = listener.connections();
        let stats = sessions[0].stats();
        assert_eq!((sessions.len(), stats.links_ended), (1, 0));
        assert_eq!(stats.refused_malformed, 1);

        // From a stranger, none of it makes a peer.
        let stranger = Raw::new(&listener);
        for bytes in nonsense {
            stranger.send(bytes);
        }
        raw.sync();
        assert_eq!(listener.connections().len(), 1);
        let dropped = listener.usage().datagrams_dropped;
        assert_eq!(dropped, 2 * nonsense.len() as u64);
        end(&listener);
    });
}

#[test]
fn an_opened_connection_drops_malformed_answers_and_goes_on() {
    run_loop(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let answering = move || {
            let mut buffer = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // `[0, msgid, "f", []]`, in which a msgid has one to five bytes.
                let msgid = &buffer[2..length - 3];
                let good = [&[0x94, 1], msgid, &[0xc0, 1]].concat();
                let twice = [good.clone(), good.clone()].concat();
                // The last one is an answer that nobody waits for any more.
                for bytes in [b"\xc1", &good[..3], &twice, &good, &good] {
                    socket.send_to(bytes, from).unwrap();
                }
            }
        };
        drop(spawn(answering));
        let client = open(&format!("udp://127.0.0.1:{port}").parse().unwrap());
        for _ in 0..3 {
            assert_eq!(call(&client, "f", &[]).unwrap(), [1]);
        }
        eventually("all are counted", || {
            let stats = client.stats();
            (stats.datagrams_dropped, stats.answers_ignored) == (9, 3)
        });
        assert!(client.connected());
        client.close();
    });
}

#[test]
fn what_does_not_fit_a_datagram_is_refused() {
    run_loop(|| {
        let listener = listen(Options::default());
        let client = open(listener.address());
        // Held until the link is up, and written at once.
        for _ in 0..2 {
            let outcome = client.call("bytes", Timeout::Default, |out| {
                encode::str_or_bin(out, &[0; 65_536]);
                Ok(1)
            });
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
            assert!(error.message().contains("65507"), "{error}");
        }
        // An answer that does not fit is an error of the call.
        let error = call(&client, "big", &[65_500]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
        // What fits just so arrives.
        let largest = 65_507 - 12;
        let answer = client.call("big", Timeout::Default, ints(&[largest]));
        assert_eq!(answer.unwrap().bytes().len() as i64, largest + 3);
        client.close();
        end(&listener);

        let limits = Limits {
            message_bytes_max: 1000,
            ..Limits::default()
        };
        let listener = listen(limited(limits));
        let client = open(listener.address());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let error = call(&client, "sum", &[i64::MAX; 500]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        // By the same peer, which was not closed.
        let stats = listener.connections()[0].stats();
        assert_eq!((stats.requests, stats.refused_too_large), (2, 1));
        client.close();
        end(&listener);
    });
}

#[test]
fn a_closed_port_refuses_the_calls_and_the_connection_goes_on() {
    run_loop(|| {
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let address: Address = format!("udp://127.0.0.1:{port}").parse().unwrap();
        let client = open(&address);
        for _ in 0..3 {
            let error = call(&client, "sum", &[1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(error.message().contains(&address.to_string()), "{error}");
        }
        let listener = Listener::bind(&address, methods(), Options::default()).unwrap();
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        assert_eq!(client.stats().links, 1);
        client.close();
        end(&listener);
        // The port is free again.
        let again = Listener::bind(&address, methods(), Options::default()).unwrap();
        end(&again);
    });
}

#[test]
fn extensions_are_unknown_methods() {
    run_loop(|| {
        let listener = listen(Options::default());
        let raw = Raw::new(&listener);
        for name in ["$yue/hello", "$yue/describe", "$yue/ping"] {
            raw.send(&request(1, name, &[1]));
            let answer = raw.receive();
            assert!(has(&answer, "NoMethodError"), "{name}");
            assert!(answer.len() < 150, "{name}: {} bytes", answer.len());
        }
        assert!(!listener.connections()[0].peer_is_yue());
        end(&listener);
    });
}

fn limited_peers(connections_max: usize) -> Options {
    limited(Limits {
        connections_max,
        ..Limits::default()
    })
}

#[test]
fn the_least_recently_used_idle_peer_makes_room() {
    run_loop(|| {
        let closed = Rc::new(RefCell::new(Vec::new()));
        let log = closed.clone();
        let hooks = TestHooks {
            close: Some(Box::new(move |session, reason: &CloseReason| {
                let line = (session.address().to_owned(), reason.to_string());
                log.borrow_mut().push(line);
                Retry::Default
            })),
            ..TestHooks::default()
        };
        let service = methods().with_hooks(Rc::new(hooks));
        let listener = listen_with(service, limited_peers(3), &SocketOptions::default());
        let peers: Vec<Raw> = (0..4).map(|_| Raw::new(&listener)).collect();
        for peer in &peers[..3] {
            peer.sync();
        }
        // The first one waits for an answer, so it is busy; the second is used again.
        peers[0].send(&request(1, "nap", &[300]));
        peers[1].sync();
        peers[3].sync();
        eventually("one was closed", || closed.borrow().len() == 1);
        let third = peers[2].0.local_addr().unwrap();
        let (address, reason) = closed.borrow()[0].clone();
        assert_eq!(address, format!("udp://{third}"));
        assert!(reason.contains("its limit"), "{reason}");
        assert_eq!(listener.usage().peers_evicted, 1);
        assert_eq!(listener.connections().len(), 3);
        // The busy one gets its answer, and who was forgotten is a new peer.
        assert_eq!(peers[0].receive(), answer(1, 300));
        peers[2].sync();
        end(&listener);
    });
}

#[test]
fn new_senders_are_dropped_while_all_peers_are_busy() {
    run_loop(|| {
        let listener = listen(limited_peers(2));
        let busy = [Raw::new(&listener), Raw::new(&listener)];
        for raw in &busy {
            raw.send(&request(1, "nap", &[200]));
        }
        eventually("both are busy", || {
            let sessions = listener.connections();
            sessions
                .iter()
                .filter(|s| s.requests_in_flight() == 1)
                .count()
                == 2
        });
        let late = Raw::new(&listener);
        late.send(&request(1, "sum", &[1]));
        eventually("it is dropped", || listener.usage().datagrams_dropped == 1);
        for raw in &busy {
            assert_eq!(raw.receive(), answer(1, 200));
        }
        late.sync();
        end(&listener);
    });
}

#[test]
fn a_silent_peer_is_forgotten_whatever_it_is_sent() {
    run_loop(|| {
        let sockets = SocketOptions {
            datagram: DatagramOptions {
                peer_idle: Duration::from_millis(100),
                ..DatagramOptions::default()
            },
            ..SocketOptions::default()
        };
        let listener = listen_with(methods(), Options::default(), &sockets);
        let raw = Raw::new(&listener);
        raw.sync();
        let session = listener.connections().pop().unwrap();
        eventually("it is forgotten", || {
            // What is sent to it does not keep it.
            session.notify("tick", ints(&[])).is_err()
        });
        assert!(session.is_closed());
        assert_eq!(listener.connections().len(), 0);
        // A request that is served keeps its peer.
        raw.send(&request(1, "nap", &[400]));
        while raw.receive() != answer(1, 400) {}
        end(&listener);
    });
}

#[test]
fn a_flood_from_many_senders_keeps_to_the_limits_and_others_are_served() {
    run_loop(|| {
        let listener = listen(limited_peers(32));
        let witness = open(listener.address());
        // While all peers are busy, its call may be dropped, too: then it repeats it.
        let is_served = |n: i64| {
            let soon = Timeout::After(Duration::from_millis(100));
            let outcome = witness.call("sum", soon, ints(&[n]));
            outcome.is_ok_and(|answer| read_ints(answer.bytes()) == [n])
        };
        let to = address_of(&listener);
        // Each sends a request that keeps a handler, and notifications.
        for n in 0..500 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(&request(1, "sum", &[n]), to).unwrap();
            sender.send_to(&[0x93, 2, 0xa1, b'n', 0x90], to).unwrap();
            if n % 50 == 0 {
                eventually("the witness is served", || is_served(n));
            }
            assert!(listener.connections().len() <= 32);
        }
        eventually("the witness is served", || is_served(1));
        let usage = listener.usage();
        assert!(usage.connections <= 32, "{usage:?}");
        assert!(usage.peers_evicted >= 400, "{usage:?}");
        witness.close();
        end(&listener);
        assert_eq!(listener.usage().requests_in_flight, 0);
        assert_eq!(listener.usage().memory_bytes, 0);
    });
}

#[test]
fn a_peer_that_calls_too_often_is_refused_and_then_ignored_but_not_forgotten() {
    run_loop(|| {
        let rate = Rate {
            calls_per_second: 1.0,
            burst: 2,
        };
        let limits = Limits {
            rate: Some(rate),
            ..Limits::default()
        };
        let listener = listen(limited(limits));
        let raw = Raw::new(&listener);
        for n in 0..40 {
            raw.send(&request(n, "sum", &[5]));
        }
        let counts = || {
            let session = listener.connections().pop();
            session.map_or((0, 0), |session| {
                let stats = session.stats();
                (stats.requests, stats.refused_rate)
            })
        };
        eventually("all were read", || counts().0 + counts().1 == 40);
        let (taken, refused) = counts();
        assert!(taken >= 2 && refused >= 30, "{taken} and {refused}");
        // Those above ten bursts got no answer. The peer is still the same: it gets no new burst.
        let session = listener.connections().pop().unwrap();
        assert!(session.stats().writes < 40, "{}", session.stats().writes);
        let other = Raw::new(&listener);
        other.sync();
        assert_eq!(listener.connections().len(), 2);
        end(&listener);
    });
}

#[test]
fn on_accept_runs_once_for_each_peer_and_its_requests_wait() {
    run_loop(|| {
        let accepted = Rc::new(Cell::new(0));
        let counted = accepted.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |session, _| {
                counted.set(counted.get() + 1);
                // Asks the peer, whose requests wait meanwhile.
                match call(session, "sum", &[40, 2]) {
                    Ok(values) if values == [42] => Verdict::granted(),
                    _ => Verdict::Refuse(Failure::new("wrong answer")),
                }
            })),
            ..TestHooks::default()
        };
        let service = methods().with_hooks(Rc::new(hooks));
        let listener = listen_with(service, Options::default(), &SocketOptions::default());
        let client = open(listener.address());
        for n in 0..3 {
            assert_eq!(call(&client, "sum", &[n]).unwrap(), [n]);
        }
        assert_eq!(accepted.get(), 1);
        // One that offers nothing is refused, and learns it from the answer.
        let mute = Session::open(
            connector(listener.address()),
            Service::none(),
            Options::default(),
        );
        let error = call(&mute, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotGranted);
        assert!(error.message().contains("wrong answer"), "{error}");
        assert_eq!(accepted.get(), 2);
        for session in [client, mute] {
            session.close();
        }
        end(&listener);
    });
}

#[test]
fn a_closed_listener_serves_its_peers_and_no_others() {
    run_loop(|| {
        let listener = listen(Options::default());
        let client = open(listener.address());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        listener.close();
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        let late = Raw::new(&listener);
        late.send(&request(1, "sum", &[1]));
        eventually("it is dropped", || listener.usage().datagrams_dropped == 1);
        end(&listener);
        // The socket has gone with the last peer.
        let error = call(&client, "sum", &[3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        client.close();
    });
}

#[test]
fn loops_share_a_port() {
    run_loop(|| {
        let mut sockets = SocketOptions::default();
        sockets.listen.reuse_port = true;
        let first = listen_with(methods(), Options::default(), &sockets);
        let second =
            Listener::bind_with(first.address(), methods(), Options::default(), &sockets).unwrap();
        let clients: Vec<Session> = (0..32).map(|_| open(first.address())).collect();
        for client in &clients {
            assert_eq!(call(client, "ask", &[1]).unwrap(), [1]);
        }
        let counts = [&first, &second].map(|listener| listener.connections().len());
        assert_eq!(counts[0] + counts[1], 32);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        clients.iter().for_each(Session::close);
        end(&first);
        end(&second);
    });
}

#[test]
fn an_address_that_cannot_be_used_is_an_error() {
    run_loop(|| {
        let listener = listen(Options::default());
        let taken = Listener::bind(listener.address(), methods(), Options::default());
        let error = taken.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Address);
        assert!(error.message().contains("another listens"), "{error}");
        end(&listener);
        let nowhere = open(&"udp://127.0.0.1:0".parse().unwrap());
        let error = call(&nowhere, "f", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Address);
        let soon = Duration::from_millis(1);
        sleep(soon).unwrap();
        nowhere.close();
    });
}
