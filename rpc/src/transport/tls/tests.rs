//! The filter over links in memory.

use super::filter::Filter;
use crate::ErrorKind;
use crate::transport::memory::MemoryTransport;
use crate::transport::{Events, Incoming, LinkRefused, Transport};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_io::tls::rustls::{ClientConfig, ServerConfig};
use yue_io::tls::{Acceptor, Connector, Identity, Roots};
use yue_scheduler::{now, sleep};

/// The events of one end.
#[derive(Default)]
struct Recorder {
    ready: Cell<u32>,
    data: RefCell<Vec<u8>>,
    sent: Cell<u32>,
    ended: Cell<u32>,
    /// Stay open for sending after the peer's end.
    stays: Cell<bool>,
    closed: RefCell<Option<io::Result<()>>>,
}

impl Events for Recorder {
    fn ready(&self) {
        self.ready.set(self.ready.get() + 1);
    }

    fn data(&self, incoming: Incoming<'_>) {
        assert_eq!(self.ready.get(), 1);
        match incoming {
            Incoming::Borrowed(bytes) => self.data.borrow_mut().extend_from_slice(bytes),
            Incoming::Owned(bytes) => self.data.borrow_mut().extend_from_slice(&bytes),
        }
    }

    fn sent(&self, _: Option<Vec<u8>>) {
        self.sent.set(self.sent.get() + 1);
    }

    fn end_of_input(&self) -> bool {
        self.ended.set(self.ended.get() + 1);
        self.stays.get()
    }

    fn closed(&self, result: io::Result<()>) {
        let before = self.closed.replace(Some(result));
        assert!(before.is_none(), "closed twice");
    }
}

/// One end: its link, its events, and the link in memory below.
struct End {
    link: Rc<dyn Transport>,
    events: Rc<Recorder>,
    below: Rc<MemoryTransport>,
}

impl End {
    fn has(&self, bytes: &[u8]) -> bool {
        *self.events.data.borrow() == bytes
    }

    fn is_closed(&self) -> bool {
        self.events.closed.borrow().is_some()
    }

    fn error(&self) -> io::Error {
        self.events
            .closed
            .take()
            .expect("it is closed")
            .expect_err("it failed")
    }
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let acceptor = Acceptor::new(Identity::from_pem(&certificate, key).unwrap()).unwrap();
    let connector = Connector::new(Roots::from_pem(&certificate).unwrap()).unwrap();
    (acceptor.config().clone(), connector.config().clone())
}

fn server_over(config: Arc<ServerConfig>, below: Rc<MemoryTransport>) -> End {
    let events = Rc::new(Recorder::default());
    let lower = below.clone();
    let link = Filter::server(config, events.clone(), |events| {
        lower.start(events);
        Ok(lower)
    });
    let link = link.unwrap();
    End {
        link,
        events,
        below,
    }
}

fn client_over(config: Arc<ClientConfig>, name: &str, below: Rc<MemoryTransport>) -> End {
    let events = Rc::new(Recorder::default());
    let lower = below.clone();
    let name = name.to_owned().try_into().unwrap();
    let link = Filter::client(config, name, true, events.clone(), |events| {
        lower.start(events);
        Ok(lower)
    });
    let link = link.unwrap();
    End {
        link,
        events,
        below,
    }
}

/// A client and a server in their handshake, over a link that delivers `piece` bytes at a time.
fn pair_in(piece: usize, name: &str) -> (End, End) {
    let (server, client) = configs();
    let (near, far) = MemoryTransport::pair();
    for end in [&near, &far] {
        end.cut_into_pieces_of(piece);
    }
    let server = server_over(server, far);
    (client_over(client, name, near), server)
}

/// Both are ready, and read.
fn open_pair(piece: usize) -> (End, End) {
    let (client, server) = pair_in(piece, "localhost");
    eventually(|| client.events.ready.get() == 1 && server.events.ready.get() == 1);
    client.link.set_reading(true);
    server.link.set_reading(true);
    (client, server)
}

fn eventually(condition: impl Fn() -> bool) {
    let limit = now().saturating_add(Duration::from_secs(20));
    while !condition() {
        assert!(now() < limit, "this never came true");
        sleep(Duration::from_millis(1)).unwrap();
    }
}

fn run(test: impl FnOnce() + Send + 'static) {
    yue_io::run(test).unwrap();
}

const WHOLE: usize = usize::MAX;

#[test]
fn bytes_flow_both_ways_in_pieces_of_any_size() {
    for piece in [WHOLE, 1000, 1] {
        run(move || {
            let (client, server) = open_pair(piece);
            let length = if piece == 1 { 5_000 } else { 300_000 };
            let bytes: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
            client.link.send(bytes.clone());
            server.link.send(b"one".to_vec());
            server.link.send(b"two".to_vec());
            assert!(client.link.queued_bytes() > bytes.len());
            eventually(|| server.has(&bytes) && client.has(b"onetwo"));
            assert_eq!(
                (client.link.queued_bytes(), server.link.queued_bytes()),
                (0, 0)
            );
            assert!(client.events.sent.get() >= 1 && server.events.sent.get() >= 2);
        });
    }
}

#[test]
fn bytes_sent_before_the_handshake_ends_are_counted_and_arrive_in_order() {
    run(|| {
        let (client, server) = pair_in(WHOLE, "localhost");
        client.link.send(b"early ".to_vec());
        client.link.send(b"bird".to_vec());
        assert!(client.link.queued_bytes() >= 10);
        server.link.set_reading(true);
        eventually(|| server.has(b"early bird"));
        assert_eq!(client.link.queued_bytes(), 0);
    });
}

#[test]
fn an_end_that_does_not_read_gets_nothing_and_holds_little() {
    run(|| {
        let (client, server) = pair_in(4096, "localhost");
        eventually(|| client.events.ready.get() == 1);
        // Not even before it has begun to read.
        client.link.send(vec![7; 10]);
        eventually(|| server.events.ready.get() == 1);
        sleep(Duration::from_millis(5)).unwrap();
        assert!(server.has(b""));
        server.link.set_reading(true);
        eventually(|| server.has(&[7; 10]));
        server.link.set_reading(false);
        client.link.send(vec![8; 1_000_000]);
        sleep(Duration::from_millis(20)).unwrap();
        // What the server does not decrypt stays in the transport below, where the client sees it.
        assert!(server.has(&[7; 10]));
        assert!(client.link.queued_bytes() > 1_000_000 - 4096);
        server.link.set_reading(true);
        eventually(|| server.events.data.borrow().len() == 1_000_010);
    });
}

#[test]
fn each_direction_ends_by_itself() {
    run(|| {
        let (client, server) = open_pair(WHOLE);
        server.events.stays.set(true);
        client.link.send(b"question".to_vec());
        client.link.shutdown_write();
        client.link.send(b"too late".to_vec());
        eventually(|| server.events.ended.get() == 1);
        assert!(server.has(b"question") && !server.is_closed());
        server.link.send(b"answer".to_vec());
        eventually(|| client.has(b"answer"));
        server.link.shutdown_write();
        eventually(|| client.is_closed());
        assert_eq!(client.events.ended.get(), 1);
        client.events.closed.take().unwrap().unwrap();
        server.link.close();
        eventually(|| server.is_closed());
        server.events.closed.take().unwrap().unwrap();
    });
}

#[test]
fn what_is_queued_is_sent_before_an_orderly_end() {
    run(|| {
        let (client, server) = open_pair(10_000);
        server.link.send(vec![9; 200_000]);
        client.link.shutdown_write();
        eventually(|| server.is_closed() && client.is_closed());
        assert_eq!(client.events.data.borrow().len(), 200_000);
        assert!(client.events.closed.take().unwrap().is_ok());
        assert!(server.events.closed.take().unwrap().is_ok());
    });
}

#[test]
fn an_end_without_close_notify_is_an_error() {
    run(|| {
        let (client, server) = open_pair(WHOLE);
        server.link.send(b"half".to_vec());
        eventually(|| client.has(b"half"));
        server.below.shutdown_write();
        eventually(|| client.is_closed());
        let error = client.error();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(
            error.to_string().contains("bytes may be missing"),
            "{error}"
        );
        assert_eq!(client.events.ended.get(), 0);
        client.below.close();
        eventually(|| server.is_closed());
    });
}

#[test]
fn an_end_that_reads_later_still_learns_whether_bytes_are_missing() {
    for in_order in [true, false] {
        run(move || {
            let (client, server) = open_pair(WHOLE);
            client.link.set_reading(false);
            server.link.send(b"the last".to_vec());
            match in_order {
                true => server.link.shutdown_write(),
                false => server.below.shutdown_write(),
            }
            sleep(Duration::from_millis(5)).unwrap();
            assert!(client.has(b"") && !client.is_closed());
            client.link.set_reading(true);
            eventually(|| client.is_closed());
            assert!(client.has(b"the last"));
            let outcome = client.events.closed.take().unwrap();
            assert_eq!(outcome.is_ok(), in_order, "{outcome:?}");
        });
    }
}

#[test]
fn a_changed_record_ends_the_link() {
    run(|| {
        let (client, server) = open_pair(WHOLE);
        // A record of the right form that nobody encrypted, behind one that is whole.
        client.link.send(b"whole".to_vec());
        client
            .below
            .send(b"\x17\x03\x03\x00\x20 0123456789012345678901234567890".to_vec());
        client.link.send(b"behind".to_vec());
        eventually(|| server.is_closed());
        assert!(server.has(b"whole"));
        let error = server.error();
        assert!(
            LinkRefused::of(&error).is_none(),
            "another link may be better"
        );
        assert!(error.to_string().contains("decrypt"), "{error}");
        // The client received the alert.
        eventually(|| client.is_closed());
        assert!(client.error().to_string().contains("BadRecordMac"));
    });
}

/// Passes on what is sent as one buffer, when told.
struct Gather {
    lower: Rc<MemoryTransport>,
    bytes: RefCell<Vec<u8>>,
    on: Cell<bool>,
}

impl Transport for Gather {
    fn send(&self, buffer: Vec<u8>) {
        match self.on.get() {
            true => self.bytes.borrow_mut().extend(buffer),
            false => self.lower.send(buffer),
        }
    }

    fn queued_bytes(&self) -> usize {
        self.lower.queued_bytes()
    }

    fn set_reading(&self, on: bool) {
        self.lower.set_reading(on);
    }

    fn shutdown_write(&self) {
        if !self.on.get() {
            self.lower.shutdown_write();
        }
    }

    fn close(&self) {
        self.lower.close();
    }
}

#[test]
fn what_arrives_with_a_fault_or_with_the_end_is_delivered_first() {
    for fault in [true, false] {
        run(move || {
            let (server, client) = configs();
            let (near, far) = MemoryTransport::pair();
            let server = server_over(server, far);
            let events = Rc::new(Recorder::default());
            let gather = Rc::new(Gather {
                lower: near,
                bytes: RefCell::default(),
                on: Cell::new(false),
            });
            let lower = gather.clone();
            let name = "localhost".to_owned().try_into().unwrap();
            let client = Filter::client(client, name, true, events.clone(), |events| {
                lower.lower.start(events);
                Ok(lower)
            });
            let client = client.unwrap();
            eventually(|| server.events.ready.get() == 1);
            server.link.set_reading(true);
            gather.on.set(true);
            client.send(b"whole".to_vec());
            match fault {
                true => {
                    gather.send(b"\x17\x03\x03\x00\x20 0123456789012345678901234567890".to_vec())
                }
                false => client.shutdown_write(),
            }
            gather.lower.send(gather.bytes.take());
            eventually(|| server.is_closed());
            assert!(server.has(b"whole"));
            assert_eq!(server.events.closed.take().unwrap().is_err(), fault);
            client.close();
        });
    }
}

#[test]
fn bytes_that_are_not_tls_are_refused_with_an_alert() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x94\x00\x01\xa4ping\x90",
        &[0; 100_000],
    ] {
        run(move || {
            let (near, far) = MemoryTransport::pair();
            let server = server_over(configs().0, far);
            let peer = Rc::new(Recorder::default());
            peer.ready.set(1);
            near.start(peer.clone());
            near.send(bytes.to_vec());
            eventually(|| server.is_closed());
            let error = server.error();
            let refused = LinkRefused::of(&error).expect("it would be refused again");
            assert_eq!(refused.kind, ErrorKind::Tls);
            assert!(refused.message.contains("does not speak TLS"), "{refused}");
            // A fatal alert, before the end.
            assert_eq!(peer.data.borrow()[..2], [0x15, 0x03]);
            assert_eq!(server.events.ready.get(), 0);
        });
    }
}

#[test]
fn a_handshake_holds_a_bounded_number_of_bytes() {
    run(|| {
        let (near, far) = MemoryTransport::pair();
        let server = server_over(configs().0, far);
        near.start(Rc::new(Recorder::default()));
        // The beginning of a hello that claims 16 MiB.
        let mut record = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03".to_vec();
        record.resize(5 + 0x4000, 0);
        near.send(record);
        eventually(|| server.is_closed());
        assert!(LinkRefused::of(&server.error()).is_some());
    });
}

#[test]
fn a_server_with_another_name_is_refused_and_learns_it() {
    run(|| {
        let (client, server) = pair_in(WHOLE, "example.org");
        eventually(|| client.is_closed() && server.is_closed());
        let (client, server) = (client.error().to_string(), server.error().to_string());
        assert!(
            client.contains("is for localhost, not for 'example.org'"),
            "{client}"
        );
        assert!(client.contains("server_name"), "{client}");
        assert!(server.contains("BadCertificate"), "{server}");
    });
}

#[test]
fn a_closed_link_makes_no_other_callback() {
    run(|| {
        let (client, server) = open_pair(WHOLE);
        client.link.send(vec![1; 100_000]);
        server.link.close();
        server.link.close();
        eventually(|| server.is_closed() && client.is_closed());
        assert!(server.has(b""));
        assert!(server.events.closed.take().unwrap().is_ok());
        client.link.send(vec![1]);
        client.link.set_reading(false);
        client.link.shutdown_write();
        client.link.close();
        assert_eq!(client.link.queued_bytes(), 0);
        // It was not told that the server had finished.
        assert_eq!(client.error().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn the_alert_of_a_peer_that_does_not_read_delays_the_end_for_a_bounded_time() {
    run(|| {
        let (near, far) = MemoryTransport::pair();
        let server = server_over(configs().0, far);
        let peer = Rc::new(Recorder::default());
        near.start(peer);
        near.set_reading(false);
        near.send(b"nonsense".to_vec());
        let began = now();
        eventually(|| server.is_closed());
        assert!(now().saturating_since(began) < Duration::from_secs(10));
    });
}
