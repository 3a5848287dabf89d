//! A peer that speaks raw bytes, and a client that must be served meanwhile.

use super::{call, ints, methods};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::Session;
use yue_rpc::transport::memory::MemoryTransport;
use yue_rpc::transport::{Events, Incoming, Transport};
use yue_rpc::{MemoryListener, Options};

/// A peer that speaks raw bytes.
pub struct Raw {
    pub link: Rc<MemoryTransport>,
    pub received: Rc<Received>,
}

#[derive(Default)]
pub struct Received {
    pub bytes: RefCell<Vec<u8>>,
    pub closed: Cell<bool>,
}

impl Events for Received {
    fn data(&self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Borrowed(bytes) => self.bytes.borrow_mut().extend_from_slice(bytes),
            Incoming::Owned(bytes) => self.bytes.borrow_mut().extend(bytes),
        }
    }
    fn sent(&self, _: Option<Vec<u8>>) {}
    fn closed(&self, result: std::io::Result<()>) {
        result.unwrap();
        self.closed.set(true);
    }
}

impl Raw {
    pub fn connect(listener: &MemoryListener) -> Raw {
        let (link, received) = (listener.connect_raw(), Rc::new(Received::default()));
        link.start(received.clone());
        Raw { link, received }
    }

    pub fn request(&self, msgid: u32, method: &str, values: &[i64]) {
        let mut out = Vec::new();
        encode::request(
            &mut out,
            msgid,
            Method::Name(method.as_bytes()),
            None,
            ints(values),
        )
        .unwrap();
        self.link.send(out);
    }

    /// Greets the server, like a yue client.
    pub fn hello(&self) {
        let mut out = Vec::new();
        encode::request(&mut out, 0, Method::Name(b"$yue/hello"), None, |out| {
            encode::uint(out, 1);
            out.push(0x80);
            Ok(2)
        })
        .unwrap();
        self.link.send(out);
    }

    pub fn received(&self, text: &str) -> bool {
        self.times_received(text) != 0
    }

    pub fn times_received(&self, text: &str) -> usize {
        let bytes = self.received.bytes.borrow();
        bytes
            .windows(text.len())
            .filter(|window| *window == text.as_bytes())
            .count()
    }
}

/// A listener, and a client of it that must be served whatever the others do.
pub fn listener_and_witness(options: Options) -> (Rc<MemoryListener>, Session) {
    let listener = MemoryListener::new(methods(), options);
    let witness = Session::open(listener.clone(), methods(), Options::default());
    assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
    (listener, witness)
}
