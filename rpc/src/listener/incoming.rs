//! The links that a listener accepts, on their way to be connections.
//!
//! ```text
//!   socket ──▶ TLS, if there is a certificate ──▶ WebSocket, if the address says so ──▶ session
//!              └───────────── handshakes: counted, limited in time ─────────────┘
//! ```
//!
//! A link without a handshake of its own is a session at once.

use super::accept::accept_all;
use super::{Inner, OwnFile, Socket};
use crate::session::Session;
use crate::transport::handshake::Handshake;
#[cfg(feature = "ws")]
use crate::transport::websocket::WebSocket;
use crate::transport::{Ending, Events, Transport, socket};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use yue_io::net::TcpStream;

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
                self.accept(self.address.to_string(), |events| {
                    socket::start_unix(stream, events)
                });
            }),
        }
        self.closed.set(true);
        self.remove_file();
    }

    fn accept_tcp(self: &Rc<Inner>, stream: TcpStream, from: SocketAddr) {
        let start = |events| socket::start_tcp(stream, self.keepalive, events);
        if let Some(tls) = &self.tls {
            tls.refresh(&self.address);
            let start = |events| tls.start(events, start);
            #[cfg(feature = "ws")]
            if let Some(rules) = &self.websocket {
                return self.begin(format!("wss://{from}"), |events| {
                    WebSocket::accept(rules.clone(), events, start)
                });
            }
            return self.begin(format!("tls://{from}"), start);
        }
        #[cfg(feature = "ws")]
        if let Some(rules) = &self.websocket {
            return self.begin(format!("ws://{from}"), |events| {
                WebSocket::accept(rules.clone(), events, start)
            });
        }
        self.accept(format!("tcp://{from}"), start);
    }

    /// Starts a link with handshakes of its own. It becomes a connection when they are complete.
    fn begin(
        self: &Rc<Inner>,
        from: String,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
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
                Some(this) => this.accept_ready(from, handshake, link),
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

    pub(super) fn accept(
        self: &Rc<Inner>,
        from: String,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) {
        if self.accounts.are_crowded(0, &self.options.limits) {
            return;
        }
        let accepted = Session::accept_into(
            self.accounts.clone(),
            from,
            self.service.clone(),
            self.options.clone(),
            start,
        );
        let session = match accepted {
            Ok(session) => session,
            // The link broke before it was established.
            Err(_) => return,
        };
        let key = session.key();
        self.sessions.borrow_mut().insert(key, session.clone());
        let this: Weak<Inner> = Rc::downgrade(self);
        session.on_gone(move || {
            if let Some(this) = this.upgrade() {
                let gone = this.sessions.borrow_mut().remove(&key);
                drop(gone);
            }
        });
    }
}
