//! Several protocols at one address: the first bytes of a link tell which one it speaks.
//!
//! ```text
//!   0x90 … 0x9f, 0xdc, 0xdd     an array of msgpack     ─▶ msgpack-rpc
//!   an ASCII letter             the head of a request   ─▶ with `Upgrade: websocket`: WebSocket; else HTTP
//!   anything else                                       ─▶ the link ends
//! ```
//!
//! The sniffer stands between the link below and the handshake above, like a filter with a handshake of its own: it is
//! ready when it knows the protocol (and a WebSocket's upgrade is done). The session is then given the link below, or
//! the WebSocket filter: what it sends does not pass here. What arrives is passed on.
//!
//! Bounded: it keeps the head of one request, at most [`HEAD_MAX`] bytes and a read. The handshake limits the time.

use super::handshake::before_request;
use super::traits::{Ending, Events, Incoming, Transport};
#[cfg(feature = "ws")]
use super::websocket::{WebSocket, upgrade::Rules};
use crate::buffer;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// The longest head of a request, in bytes.
pub(crate) const HEAD_MAX: usize = 8 * 1024;

/// The protocols beside msgpack-rpc that a listener's links may speak.
#[derive(Debug, Clone, Default)]
pub(crate) struct Protocols {
    #[cfg(feature = "ws")]
    pub(crate) websocket: Option<Rc<Rules>>,
    #[cfg(feature = "http")]
    pub(crate) http: bool,
}

impl Protocols {
    /// Whether there are any, so that the first bytes matter.
    pub(crate) fn are_several(&self) -> bool {
        self.speaks_websocket() || self.speaks_http()
    }

    fn speaks_http(&self) -> bool {
        #[cfg(feature = "http")]
        return self.http;
        #[cfg(not(feature = "http"))]
        false
    }

    fn speaks_websocket(&self) -> bool {
        #[cfg(feature = "ws")]
        return self.websocket.is_some();
        #[cfg(not(feature = "ws"))]
        false
    }
}

/// The meaning of a link's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// More bytes are needed.
    Unknown,
    MsgpackRpc,
    /// A request; whether it asks for a WebSocket.
    Request {
        upgrades: bool,
    },
    Neither,
}

impl Opening {
    /// Looks at the first bytes. Whether a request asks for a WebSocket is known when its head is complete, or when it
    /// is so long that it is refused in any case. `seen` bytes were looked at before.
    pub(crate) fn of(bytes: &[u8], seen: usize) -> Opening {
        match bytes.first() {
            None => Opening::Unknown,
            Some(0x90..=0x9f | 0xdc | 0xdd) => Opening::MsgpackRpc,
            Some(first) if first.is_ascii_alphabetic() => {
                if has_end(bytes, seen) {
                    let upgrades = asks_for_websocket(bytes);
                    return Opening::Request { upgrades };
                }
                match bytes.len() > HEAD_MAX {
                    true => Opening::Request { upgrades: false },
                    false => Opening::Unknown,
                }
            }
            Some(_) => Opening::Neither,
        }
    }
}

/// Whether an empty line ends the head. Its lines may end without a carriage return (RFC 9112, section 2.2).
fn has_end(bytes: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3);
    let new = bytes.get(from..).unwrap_or_default();
    new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Whether the header `Upgrade` names `websocket`.
fn asks_for_websocket(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return false;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        name.eq_ignore_ascii_case(b"upgrade")
            && value
                .split(|byte| *byte == b',')
                .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    })
}

/// The protocol of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    MsgpackRpc,
    #[cfg(feature = "ws")]
    WebSocket,
    #[cfg(feature = "http")]
    Http,
}

/// Finds out the protocol of one link.
pub(crate) struct Sniffer {
    protocols: Protocols,
    found: Cell<Option<Protocol>>,
    /// The bytes that have arrived, until the protocol is known.
    head: RefCell<Vec<u8>>,
    /// The link below, or the WebSocket filter over it; until its end.
    link: RefCell<Option<Rc<dyn Transport>>>,
    /// The handshake above, or the WebSocket filter between; until the end.
    events: RefCell<Option<Rc<dyn Events>>>,
    #[cfg(feature = "ws")]
    this: std::rc::Weak<Sniffer>,
}

impl Sniffer {
    pub(crate) fn new(protocols: &Protocols) -> Rc<Sniffer> {
        Rc::new_cyclic(|_this| Sniffer {
            protocols: protocols.clone(),
            found: Cell::new(None),
            head: RefCell::default(),
            link: RefCell::default(),
            events: RefCell::default(),
            #[cfg(feature = "ws")]
            this: _this.clone(),
        })
    }

    /// Starts the link below, and waits for its first bytes.
    ///
    /// # Errors
    /// Those of `start`.
    pub(crate) fn start(
        self: Rc<Self>,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        *self.events.borrow_mut() = Some(events);
        let link = start(self.clone())?;
        *self.link.borrow_mut() = Some(link);
        Ok(self)
    }

    /// The protocol and the link for it, once it is ready.
    pub(crate) fn outcome(&self) -> Option<(Protocol, Rc<dyn Transport>)> {
        Some((self.found.get()?, self.link()?))
    }

    fn link(&self) -> Option<Rc<dyn Transport>> {
        self.link.borrow().clone()
    }

    fn events(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    fn look(&self, bytes: &[u8]) {
        let opening = {
            let mut head = self.head.borrow_mut();
            let seen = head.len();
            head.extend_from_slice(bytes);
            Opening::of(&head, seen)
        };
        match opening {
            Opening::Unknown => {}
            Opening::MsgpackRpc => self.open(Protocol::MsgpackRpc),
            Opening::Request { upgrades } => self.open_request(upgrades),
            Opening::Neither => self.refuse(),
        }
    }

    /// A request that the listener does not take as what it is goes to the protocol that answers with a reason.
    fn open_request(&self, upgrades: bool) {
        #[cfg(feature = "ws")]
        if let Some(rules) = &self.protocols.websocket
            && (upgrades || !self.protocols.speaks_http())
        {
            return self.open_websocket(rules.clone());
        }
        #[cfg(not(feature = "ws"))]
        let _ = upgrades;
        #[cfg(feature = "http")]
        if self.protocols.http {
            return self.open(Protocol::Http);
        }
        self.refuse();
    }

    /// The link is ready, and everything that has arrived goes up.
    fn open(&self, protocol: Protocol) {
        self.found.set(Some(protocol));
        if let Some(events) = self.events() {
            events.ready();
        }
        self.pass_head();
    }

    /// Puts the filter between, whose handshake continues.
    #[cfg(feature = "ws")]
    fn open_websocket(&self, rules: Rc<Rules>) {
        let (Some(this), Some(link)) = (self.this.upgrade(), self.link()) else {
            return;
        };
        let Some(events) = self.events.take() else {
            return;
        };
        self.found.set(Some(Protocol::WebSocket));
        let between = |filter: Rc<dyn Events>| {
            *this.events.borrow_mut() = Some(filter);
            Ok(link)
        };
        if let Ok(filter) = WebSocket::accept(rules, events, between) {
            *self.link.borrow_mut() = Some(filter);
        }
        self.pass_head();
    }

    fn pass_head(&self) {
        let head = self.head.take();
        // The session may have closed the link.
        if let Some(events) = self.events().filter(|_| !head.is_empty()) {
            events.data(Incoming::Owned(head));
        }
    }

    fn refuse(&self) {
        let (events, link) = (self.events.take(), self.link.take());
        let first = self.head.take().first().copied();
        if let Some(events) = events {
            let text = match first {
                // The first byte of a client's hello (RFC 8446, 5.1).
                Some(0x16) => "the client speaks TLS, and this address does not",
                _ => "the client speaks none of the protocols of this address",
            };
            events.closed(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        if let Some(link) = link {
            link.close();
        }
    }
}

impl Events for Sniffer {
    fn ready(&self) {
        // The link below has a handshake of its own, and delivers nothing before it is told to.
        if let Some(link) = self.link() {
            link.set_reading(true);
        }
    }

    fn data(&self, incoming: Incoming<'_>) {
        if self.found.get().is_none() {
            let bytes = match &incoming {
                Incoming::Borrowed(bytes) => bytes,
                Incoming::Owned(bytes) => &bytes[..],
            };
            self.look(bytes);
            if let Incoming::Owned(emptied) = incoming {
                buffer::give_back(emptied);
            }
        } else if let Some(events) = self.events() {
            events.data(incoming);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        match self.events() {
            Some(events) => events.sent(buffer),
            None => drop(buffer.map(buffer::give_back)),
        }
    }

    fn end_of_input(&self) -> bool {
        match self.found.get() {
            Some(_) => self.events().is_some_and(|events| events.end_of_input()),
            None => false,
        }
    }

    fn closed(&self, result: io::Result<()>) {
        let result = match self.found.get() {
            Some(_) => result,
            None => before_request(self.head.borrow().is_empty(), result),
        };
        let (link, events) = (self.link.take(), self.events.take());
        drop(link);
        if let Some(events) = events {
            events.closed(result);
        }
    }
}

/// For the time of the handshake; a session has the link of [`Sniffer::outcome`].
impl Transport for Sniffer {
    fn send(&self, buffer: Vec<u8>) {
        if let Some(link) = self.link() {
            link.send(buffer);
        }
    }

    fn queued_bytes(&self) -> usize {
        self.link().map_or(0, |link| link.queued_bytes())
    }

    fn set_reading(&self, on: bool) {
        if let Some(link) = self.link() {
            link.set_reading(on);
        }
    }

    fn shutdown_write(&self) {
        if let Some(link) = self.link() {
            link.shutdown_write();
        }
    }

    fn explain_end(&self, ending: Ending, text: &str) {
        if let Some(link) = self.link() {
            link.explain_end(ending, text);
        }
    }

    fn close(&self) {
        if let Some(link) = self.link() {
            link.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let of = |bytes: &[u8]| Opening::of(bytes, 0);
        assert_eq!(of(b""), Opening::Unknown);
        for first in [0x90, 0x94, 0x9f, 0xdc, 0xdd] {
            assert_eq!(of(&[first]), Opening::MsgpackRpc);
        }
        for first in [0x00, 0x16, 0x80, 0xa0, 0xc0, 0xde, 0xff, b' ', b'{', b'\r'] {
            assert_eq!(of(&[first]), Opening::Neither);
        }
        assert_eq!(
            of(b"POST /rpc/f HTTP/1.1\r\nUpgrade: websocket\r\n"),
            Opening::Unknown
        );
        let plain = Opening::Request { upgrades: false };
        let upgrade = Opening::Request { upgrades: true };
        assert_eq!(of(b"GET / HTTP/1.1\r\n\r\n"), plain);
        assert_eq!(of(b"GET / HTTP/1.1\n\n"), plain);
        assert_eq!(
            of(b"GET / HTTP/1.1\r\nupgrade: h2c, WebSocket\r\n\r\n"),
            upgrade
        );
        assert_eq!(of(b"GET / HTTP/1.1\r\nX-Upgrade: websocket\r\n\r\n"), plain);
        assert_eq!(of(b"GET /upgrade: websocket HTTP/1.1\r\n\r\n"), plain);
        assert_eq!(of(&[b'a'; HEAD_MAX]), Opening::Unknown);
        assert_eq!(of(&[b'a'; HEAD_MAX + 1]), plain);
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        for cut in 1..head.len() {
            assert_eq!(Opening::of(&head[..cut], 0), Opening::Unknown);
            assert_eq!(Opening::of(head, cut), Opening::Request { upgrades: true });
        }
    }
}
