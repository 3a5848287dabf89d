//! The links that a listener accepts, on their way to be connections.
//!
//! ```text
//!   socket ──▶ TLS, if there is a ──▶ WebSocket, if the address says so; ──▶ session
//!              certificate            or a look at the first bytes, if     ──▶ HTTP connection
//!                                     several protocols are allowed
//!              └────────── handshakes: counted, limited in time ──────────┘
//! ```
//!
//! A link without a handshake of its own is a session at once.

use super::accept::accept_all;
use super::{Inner, Listener, OwnFile, Socket};
use crate::address::Address;
use crate::error::Error;
#[cfg(all(feature = "ws", feature = "http"))]
use crate::http::FreedLink;
use crate::session::options::Options;
use crate::session::{Service, Session};
use crate::transport::handshake::Handshake;
use crate::transport::memory::MemoryTransport;
#[cfg(any(feature = "ws", feature = "http"))]
use crate::transport::sniffer::{Protocol, Sniffer};
use crate::transport::tls::ServerTls;
#[cfg(feature = "ws")]
use crate::transport::websocket::WebSocket;
#[cfg(all(feature = "ws", feature = "http"))]
use crate::transport::websocket::upgrade::{self, Rules};
use crate::transport::{Ending, Events, SocketOptions, Transport, socket};
#[cfg(all(feature = "ws", feature = "http"))]
use crate::transport::{HttpConnection, HttpHead, Incoming};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use yue_io::net::TcpStream;

impl Listener {
    /// A listener without a socket, for tests and fuzz targets: see [`Listener::connect_in_memory`].
    ///
    /// # Errors
    /// `ArgumentError` for certificates that cannot be used.
    #[doc(hidden)]
    pub fn in_memory(
        service: Service,
        options: Options,
        sockets: &SocketOptions,
    ) -> Result<Listener, Error> {
        let address = Address::Tcp {
            host: "localhost".to_owned(),
            port: 0,
        };
        let tls = match sockets.tls.cert {
            Some(_) => Some(ServerTls::load(&address, &sockets.tls)?),
            None => None,
        };
        let inner = Inner::with_tls(address, service, options, sockets, tls);
        Ok(Listener { inner })
    }

    /// Creates a link to a listener, as its socket would; returns the client's end.
    #[doc(hidden)]
    pub fn connect_in_memory(&self) -> Rc<MemoryTransport> {
        let (near, far) = MemoryTransport::pair();
        let start = |events| {
            far.start(events);
            Ok(far as Rc<dyn Transport>)
        };
        let from = Peer::new("tcp", "memory".to_owned());
        match &self.inner.tls {
            Some(tls) => self
                .inner
                .accept_stream(from, |events| tls.start(events, start)),
            None => self.inner.accept_stream(from, start),
        }
        near
    }
}

/// Listeners whose connections begin as requests to an HTTP server.
#[cfg(all(feature = "ws", feature = "http"))]
impl Listener {
    /// A listener without a socket. Its connections are those that it is given: see [`Listener::accept_upgrade`].
    pub fn for_upgrades(
        address: Address,
        service: Service,
        options: Options,
        sockets: &SocketOptions,
    ) -> Listener {
        let mut sockets = sockets.clone();
        sockets.websocket.shares_port = true;
        let inner = Inner::new(address, service, options, &sockets);
        Listener { inner }
    }

    /// Makes a WebSocket connection of an HTTP connection whose present request asks for that. The rules of origins
    /// apply. Afterwards the HTTP connection has ended.
    ///
    /// # Errors
    /// The status and the reason of a refusal. The request has still to be answered.
    pub fn accept_upgrade(
        &self,
        connection: &HttpConnection,
        request: &HttpHead,
    ) -> Result<(), (u16, String)> {
        let inner = &self.inner;
        let unready = inner.handshakes.count();
        let (limits, busy) = (
            &inner.options.limits,
            "The server accepts no more connections.",
        );
        let is_full = inner.accounts.are_crowded(unready, limits);
        let rules = inner
            .protocols
            .websocket
            .as_ref()
            .filter(|_| !is_full && !self.is_closed());
        let rules = rules.ok_or_else(|| (503, busy.to_owned()))?;
        let rules = Rc::new(Rules {
            path: request.path().to_owned(),
            ..(**rules).clone()
        });
        let mut head = request.to_bytes();
        upgrade::answer(&head, &rules).map_err(|refusal| (refusal.status, refusal.text))?;
        let link = connection.take_link();
        let FreedLink {
            stream,
            transport,
            rest,
        } = link.ok_or_else(|| (503, busy.to_owned()))?;
        let from = by_websocket(connection.peer());
        let start = |filter: Rc<dyn Events>| {
            stream.set_successor(filter);
            Ok(transport)
        };
        inner.begin(
            from,
            |events| WebSocket::accept(rules, events, start),
            Inner::accept_ready,
        );
        // The filter reads the request again, as if it had come first, and answers it.
        head.extend_from_slice(&rest);
        stream.data(Incoming::Owned(head));
        Ok(())
    }
}

/// The address of an HTTP client that has become one by WebSocket.
#[cfg(all(feature = "ws", feature = "http"))]
fn by_websocket(peer: &str) -> String {
    match peer.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}"),
        Some(("https", rest)) => format!("wss://{rest}"),
        _ => peer.trim_start_matches("http+").to_owned(),
    }
}

impl Inner {
    /// The body of the accepting fiber.
    pub(super) fn run(self: &Rc<Inner>, socket: &Socket) {
        let class = self.options.stack;
        match socket {
            Socket::Tcp(listener) => accept_all(listener.incoming(), class, |stream| {
                // A client that no longer has an address has disconnected.
                if let Ok(from) = stream.peer_addr() {
                    self.accept_tcp(stream, from);
                }
            }),
            Socket::Unix(listener) => accept_all(listener.incoming(), class, |stream| {
                if let Some(OwnFile::Shared(socket)) = &*self.file.borrow()
                    && !socket.admits(&stream)
                {
                    return;
                }
                let from = Peer::new("", self.address.to_string());
                self.accept_stream(from, |events| socket::start_unix(stream, events));
            }),
        }
        self.closed.set(true);
        self.remove_file();
    }

    fn accept_tcp(self: &Rc<Inner>, stream: TcpStream, from: SocketAddr) {
        let start = |events| socket::start_tcp(stream, self.keepalive, events);
        let Some(tls) = &self.tls else {
            return self.accept_stream(Peer::new("tcp", from.to_string()), start);
        };
        tls.refresh(&self.address);
        self.accept_stream(Peer::new("tls", from.to_string()), |events| {
            tls.start(events, start)
        });
    }

    /// Accepts a link, which `start` starts, up to TLS.
    fn accept_stream(
        self: &Rc<Inner>,
        from: Peer,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) {
        #[cfg(feature = "http")]
        if self.http_server.is_some() {
            return self.accept_to_server(&from.by_http(), start);
        }
        #[cfg(feature = "ws")]
        if let Some(rules) = &self.websocket {
            let from = from.by_websocket();
            let start = |events| WebSocket::accept(rules.clone(), events, start);
            return self.begin(from.to_string(), start, Inner::accept_ready);
        }
        #[cfg(any(feature = "ws", feature = "http"))]
        if self.protocols.are_several() {
            let sniffer = Sniffer::new(&self.protocols);
            let sniffing = sniffer.clone();
            return self.begin(
                from.to_string(),
                |events| sniffing.start(events, start),
                move |this, _, handshake, link| match sniffer.outcome() {
                    Some((protocol, link)) => {
                        this.accept_sniffed(protocol, &from, handshake, link);
                    }
                    None => link.close(),
                },
            );
        }
        match self.tls {
            Some(_) => self.begin(from.to_string(), start, Inner::accept_ready),
            None => drop(self.accept(from.to_string(), start)),
        }
    }

    /// Accepts a link whose protocol its first bytes have told.
    #[cfg(any(feature = "ws", feature = "http"))]
    fn accept_sniffed(
        self: &Rc<Inner>,
        protocol: Protocol,
        from: &Peer,
        handshake: &Rc<Handshake>,
        link: Rc<dyn Transport>,
    ) {
        match protocol {
            Protocol::MsgpackRpc => self.accept_ready(from.to_string(), handshake, link),
            #[cfg(feature = "ws")]
            Protocol::WebSocket => {
                self.accept_ready(from.by_websocket().to_string(), handshake, link);
            }
            #[cfg(feature = "http")]
            Protocol::Http => self.accept_http(&from.by_http().to_string(), handshake, link),
        }
    }

    #[cfg(feature = "http")]
    fn accept_http(
        self: &Rc<Inner>,
        from: &str,
        handshake: &Rc<Handshake>,
        link: Rc<dyn Transport>,
    ) {
        let Some(site) = self.http.clone() else {
            return link.close();
        };
        if self.accounts.are_crowded(0, &self.options.limits) {
            return link.close();
        }
        let started = crate::http::start(
            site,
            self.accounts.clone(),
            from,
            &self.service,
            &self.options,
            link.clone(),
            |events| handshake.set_events(events),
        );
        match started {
            Ok((session, end)) => {
                self.keep(session, end);
                link.set_reading(true);
            }
            // There is no memory for another fiber.
            Err(_) => link.close(),
        }
    }

    /// Accepts a link of a listener whose requests a program answers.
    #[cfg(feature = "http")]
    fn accept_to_server(
        self: &Rc<Inner>,
        from: &Peer,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) {
        let from = from.to_string();
        if self.tls.is_none() {
            return self.serve_http(from, start);
        }
        self.begin(from, start, |this, from, handshake, link| {
            let ready = link.clone();
            this.serve_http(from, |events| {
                handshake.set_events(events);
                Ok(ready)
            });
            match handshake.has_events() {
                true => link.set_reading(true),
                false => link.close(),
            }
        });
    }

    #[cfg(feature = "http")]
    fn serve_http(
        self: &Rc<Inner>,
        from: String,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) {
        if self.accounts.are_crowded(0, &self.options.limits) {
            return;
        }
        if let Some((server, open)) = &self.http_server {
            // Without memory for a fiber the link has been closed.
            let _ = crate::http::start_server(server, open, &self.options, from, start);
        }
    }

    /// Starts a link with handshakes of its own. It becomes a connection when they are complete.
    fn begin(
        self: &Rc<Inner>,
        from: String,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
        accept: impl FnOnce(&Rc<Inner>, String, &Rc<Handshake>, Rc<dyn Transport>) + 'static,
    ) {
        let unready = self.handshakes.count();
        if self.accounts.are_crowded(unready, &self.options.limits) {
            return;
        }
        let this = Rc::downgrade(self);
        let limit = self.options.limits.handshake;
        self.handshakes.begin(
            from,
            limit,
            start,
            move |from, handshake, link| match this.upgrade() {
                Some(this) => accept(&this, from, handshake, link),
                None => link.close(),
            },
        );
    }

    /// The handshakes of a link are complete.
    fn accept_ready(
        self: &Rc<Inner>,
        from: String,
        handshake: &Rc<Handshake>,
        link: Rc<dyn Transport>,
    ) {
        let ready = link.clone();
        self.accept(from, |events| {
            handshake.set_events(events);
            Ok(ready)
        });
        if handshake.has_events() {
            return link.set_reading(true);
        }
        link.explain_end(
            Ending::Policy,
            "the server accepts no more connections at present",
        );
        link.close();
    }

    /// Makes a session of a link. `None` if the link is not accepted, or broke before it was established.
    pub(super) fn accept(
        self: &Rc<Inner>,
        from: String,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> Option<Session> {
        if self.accounts.are_crowded(0, &self.options.limits) {
            return None;
        }
        let accepted = Session::accept_into(
            self.accounts.clone(),
            from,
            self.service.clone(),
            self.options.clone(),
            start,
        );
        let session = accepted.ok()?;
        self.keep(session.clone(), || {});
        Some(session)
    }

    /// Keeps a session until it has ended; then `end` is called.
    fn keep(self: &Rc<Inner>, session: Session, end: impl FnOnce() + 'static) {
        let key = self.last_session.get() + 1;
        self.last_session.set(key);
        self.sessions.borrow_mut().insert(key, session.clone());
        let this: Weak<Inner> = Rc::downgrade(self);
        session.on_gone(move || {
            if let Some(this) = this.upgrade() {
                let gone = this.sessions.borrow_mut().remove(&key);
                drop(gone);
            }
            end();
        });
    }
}

/// The address of a client, with the protocol that it speaks.
#[derive(Debug, Clone)]
struct Peer {
    /// `tcp` or `tls`; empty if the address has a scheme, as that of a Unix socket.
    scheme: &'static str,
    address: String,
}

impl Peer {
    fn new(scheme: &'static str, address: String) -> Peer {
        Peer { scheme, address }
    }

    #[cfg(feature = "ws")]
    fn by_websocket(&self) -> Peer {
        self.by("ws", "wss")
    }

    #[cfg(feature = "http")]
    fn by_http(&self) -> Peer {
        match self.scheme {
            // So that nobody takes it for a client of yue's own on this machine.
            "" => Peer::new("", format!("http+{}", self.address)),
            _ => self.by("http", "https"),
        }
    }

    #[cfg(any(feature = "ws", feature = "http"))]
    fn by(&self, plain: &'static str, over_tls: &'static str) -> Peer {
        let scheme = match self.scheme {
            "tls" => over_tls,
            "tcp" => plain,
            other => other,
        };
        Peer::new(scheme, self.address.clone())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            "" => write!(f, "{}", self.address),
            scheme => write!(f, "{scheme}://{}", self.address),
        }
    }
}
