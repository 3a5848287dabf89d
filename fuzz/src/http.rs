//! A listener's port: any bytes, cut anywhere, from a client that speaks msgpack-rpc, WebSocket, HTTP, TLS or nothing.
//!
//! ```text
//!   input:  protocols (1 byte) | size of the pieces (1 byte) | end (1 byte) | the client's bytes
//! ```
//!
//! Whatever arrives, the link ends by itself or when the client closes it, nothing of it is left in the listener's
//! accounts, no fiber panics, and another client is served. Answers by HTTP are whole, and there are not more of them
//! than requests could be in the bytes.

use crate::rig::Rig;
use crate::script::Script;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;
use yue_rpc::session::{Call, Reply, Service};
use yue_rpc::transport::{
    Events, HttpOptions, Incoming, SocketOptions, TlsOptions, Transport, WebSocketOptions,
};
use yue_rpc::{Limits, Listener, Options};
use yue_scheduler::{now, sleep, this_loop};

/// Everything ends within this time: the limits of the listener, and lingering.
const END: Duration = Duration::from_secs(300);

/// The shortest request: `A / HTTP/1.0`, and two ends of lines.
const REQUEST_BYTES_MIN: usize = 14;

/// Plays one input.
///
/// # Panics
/// If the listener does not keep its promises.
pub fn check(rig: &Rig, data: &[u8]) {
    let script = Script::new(data);
    rig.run(move || play(script));
}

fn play(mut script: Script) {
    let panics = this_loop::counters().panics;
    let (protocols, size, end) = (script.byte(), script.byte(), script.byte());
    let bytes = script.rest();
    let listener = listener(protocols);
    let client = Rc::new(Client::default());
    let link = listener.connect_in_memory();
    link.start(client.clone());
    for piece in bytes.chunks(usize::from(size).max(1)) {
        link.send(piece.to_vec());
        // A tick or two for each of the first pieces; the rest may come at once.
        if end & 1 != 0 {
            let _ = sleep(Duration::from_millis(1));
        }
    }
    if end & 2 != 0 {
        link.shutdown_write();
    }
    // Long enough for a handshake to end, and for an idle connection.
    let _ = sleep(Duration::from_secs(u64::from(end >> 2)));
    link.close();
    eventually("the listener's accounts are empty", || {
        let usage = listener.usage();
        (
            usage.connections,
            usage.requests_in_flight,
            usage.memory_bytes,
            usage.handshakes,
        ) == (0, 0, 0, 0)
    });
    client.check(&bytes);
    if protocols & 4 == 0 && protocols & 2 != 0 {
        is_served(&listener);
    }
    listener.close();
    listener.close_connections();
    eventually("all connections end", || {
        listener.connections().is_empty() && listener.usage().memory_bytes == 0
    });
    assert_eq!(this_loop::counters().panics, panics, "a fiber panicked");
}

fn listener(protocols: u8) -> Listener {
    let answer = |call: &mut Call, reply: Reply| {
        let params = call.params();
        reply.results(|out| {
            out.extend_from_slice(params.bytes);
            Ok(params.count)
        })
    };
    let sockets = SocketOptions {
        websocket: WebSocketOptions {
            shares_port: protocols & 1 != 0,
            ..WebSocketOptions::default()
        },
        http: (protocols & 2 != 0).then(|| HttpOptions::new().rpc(|_| Ok(true))),
        tls: match protocols & 4 {
            0 => TlsOptions::default(),
            _ => certificate(),
        },
        ..SocketOptions::default()
    };
    let limits = Limits {
        message_bytes_max: [1000, 1 << 20][usize::from(protocols >> 3 & 1)],
        nesting_max: [5, 128][usize::from(protocols >> 4 & 1)],
        connections_max: 2,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let service = Service::new(Rc::new(answer));
    Listener::in_memory(service, options, &sockets).expect("good options")
}

/// A certificate, which is made once.
fn certificate() -> TlsOptions {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    let (cert, key) = MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name");
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    TlsOptions {
        cert: Some(cert.clone()),
        key: Some(key.clone()),
        ..TlsOptions::default()
    }
}

/// Another client, afterwards.
fn is_served(listener: &Listener) {
    let client = Rc::new(Client::default());
    let link = listener.connect_in_memory();
    link.start(client.clone());
    link.send(
        b"POST /rpc/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Connection: close\r\nContent-Length: 4\r\n\r\n[42]"
            .to_vec(),
    );
    eventually("it is answered", || client.ended.get());
    let answer = client.received.borrow();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"result\":42}"),
        "{answer}"
    );
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let limit = now().saturating_add(END);
    while !condition() {
        assert!(now() < limit, "this never came true: {what}");
        sleep(Duration::from_millis(100)).expect("nobody cancels this");
    }
}

/// A client, and the bytes that it has received.
#[derive(Default)]
struct Client {
    received: RefCell<Vec<u8>>,
    ended: Cell<bool>,
}

impl Client {
    /// Checks the answers by HTTP, if it got any.
    fn check(&self, sent: &[u8]) {
        let received = self.received.borrow();
        let first = sent.first().copied().unwrap_or(0);
        if !first.is_ascii_alphabetic() || received.is_empty() {
            return;
        }
        if received.starts_with(b"HTTP/1.1 101 ") {
            return;
        }
        // A TLS listener answers with an alert.
        let Some(mut rest) = received.strip_prefix(b"HTTP/1.").map(|_| &received[..]) else {
            assert_eq!(
                received.first(),
                Some(&0x15),
                "{:?}",
                received.escape_ascii().to_string()
            );
            return;
        };
        let mut answers = 0;
        while !rest.is_empty() {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                break; // The client closed in between.
            };
            let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
            assert!(head.starts_with("http/1."), "{head}");
            assert!(
                !head.replace("\r\n", "").contains(char::is_control),
                "{head:?}"
            );
            if !head.starts_with("http/1.1 100 ") {
                answers += 1;
            }
            let length = head.split("content-length: ").nth(1).unwrap_or("0");
            let length: usize = length
                .lines()
                .next()
                .unwrap_or("")
                .parse()
                .expect("a length");
            let body = &rest[end + 4..];
            // An answer to HEAD has a length and no body.
            let has_body = !body.starts_with(b"HTTP/1.");
            rest = match has_body {
                true => body.get(length..).unwrap_or_default(),
                false => body,
            };
        }
        assert!(
            answers <= sent.len() / REQUEST_BYTES_MIN + 1,
            "{answers} answers"
        );
    }
}

impl Events for Client {
    fn data(&self, incoming: Incoming<'_>) {
        let mut received = self.received.borrow_mut();
        match incoming {
            Incoming::Borrowed(bytes) => received.extend_from_slice(bytes),
            Incoming::Owned(bytes) => received.extend_from_slice(&bytes),
        }
    }

    fn sent(&self, _: Option<Vec<u8>>) {}

    fn closed(&self, _: io::Result<()>) {
        self.ended.set(true);
    }
}
