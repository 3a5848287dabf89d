//! Silent peers: over TCP they are pinged, and given up when they do not answer.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue_rpc::session::Session;
use yue_rpc::transport::{SocketOptions, connector_with};
use yue_rpc::{CloseReason, Limits, Listener, Options};
use yue_scheduler::sleep;

/// A peer may be silent for a second.
fn impatient() -> SocketOptions {
    SocketOptions {
        keepalive: Some(Duration::from_secs(1)),
        ..SocketOptions::default()
    }
}

/// Answers the greeting and then sends nothing, though its process and its kernel are well. The receiver gets the
/// number of pings that came before the link ended.
fn mute_server() -> (String, std::sync::mpsc::Receiver<usize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let (sender, pings) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = vec![0; 4096];
        let length = stream.read(&mut received).unwrap();
        // [0, id, "$yue/hello", …]
        assert!(
            received[..length]
                .windows(10)
                .any(|bytes| bytes == b"$yue/hello")
        );
        // The id takes five bytes.
        let mut answer = [&[0x94, 1], &received[2..7], &[0xc0, 0x92, 1, 0x80]].concat();
        answer.extend_from_slice(b"\x93\x02\xac$yue/granted\x91\xc3");
        stream.write_all(&answer).unwrap();
        let mut rest = Vec::new();
        // It may end by a reset.
        let _ = stream.read_to_end(&mut rest);
        let pings = rest.windows(9).filter(|bytes| *bytes == b"$yue/ping");
        sender.send(pings.count()).unwrap();
    });
    (address, pings)
}

#[test]
fn a_peer_that_does_not_answer_a_ping_is_given_up() {
    run_loop(|| {
        let (address, pings) = mute_server();
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let note = reasons.clone();
        let hooks = TestHooks {
            close: Some(Box::new(move |_, reason| {
                note.borrow_mut().push(reason.clone());
                yue_rpc::Retry::No
            })),
            ..TestHooks::default()
        };
        let connector = connector_with(&address.parse().unwrap(), &impatient());
        let service = methods().with_hooks(Rc::new(hooks));
        let client = Session::open(connector, service, Options::default());
        client.notify("hello", ints(&[])).unwrap();
        eventually("the link ends", || !reasons.borrow().is_empty());
        let reason = reasons.borrow()[0].clone();
        assert!(
            matches!(&reason, CloseReason::Lost(text) if text.contains("does not answer a ping")),
            "{reason}"
        );
        let received = Cell::new(None);
        eventually("the server has seen the end", || {
            received.set(pings.try_recv().ok());
            received.get().is_some()
        });
        assert_eq!(received.get(), Some(1), "pings");
        assert_eq!((client.stats().pings, client.stats().silences), (1, 1));
        client.close();
    });
}

#[test]
fn an_idle_connection_stays_and_pings_are_few() {
    run_loop(|| {
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let listener =
            Listener::bind_with(&address, methods(), Options::default(), &impatient()).unwrap();
        let connector = connector_with(listener.address(), &impatient());
        let client = Session::open(connector, methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let server = listener.connections().pop().unwrap();
        let both = || client.stats().pings + server.stats().pings;
        // Five times the limit.
        eventually("pings go to and fro", || both() >= 8);
        assert_eq!((client.stats().links, client.stats().silences), (1, 0));
        assert_eq!(server.stats().silences, 0);
        assert!(client.connected() && client.calls_in_flight() <= 1);

        // While it is used nobody pings.
        let before = both();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            call(&client, "sum", &[1]).unwrap();
            sleep(Duration::from_millis(5)).unwrap();
        }
        assert!(both() - before <= 1, "{} pings", both() - before);
        client.close();
        listener.close();
    });
}

#[test]
fn a_side_that_does_not_read_pings_its_peer() {
    run_loop(|| {
        let limits = Limits {
            pending_input_bytes_max: 1000,
            ..Limits::default()
        };
        let options = limited(limits);
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_with(&address, methods(), options, &impatient()).unwrap();
        let connector = connector_with(listener.address(), &impatient());
        let client = Session::open(connector, methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        // A nap that is longer than the limit, with more bytes than the server wants to hold at a time.
        let mut values = vec![2500];
        values.resize(1500, 0);
        assert_eq!(call(&client, "nap", &values).unwrap().len(), 1500);
        let server = listener.connections().pop().unwrap();
        assert!(server.stats().reading_stopped > 0);
        assert_eq!(client.stats().links, 1, "the link was given up");
        client.close();
        listener.close();
    });
}
