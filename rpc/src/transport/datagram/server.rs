//! The peers of a listener: one session for each sender.
//!
//! Anybody can send datagrams with any sender's address. So a peer is made only by a request or a notification, never
//! by an answer or by other bytes; the number of peers is limited, and the least recently used idle one makes room for
//! another; and a peer that sends nothing is forgotten, whatever is sent to it.

use super::link::Link;
use super::peers::Peers;
use super::port::{Owner, Port};
use super::{Inspector, Kind};
use crate::session::Session;
use crate::transport::Transport;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_io::net::{Datagram, UdpSocket};
use yue_scheduler::{Instant, Timer, now};

/// The number of datagrams that are received at a time, from all senders.
const BATCH: usize = 64;

/// The number of peers that are considered when one must go. Busy ones count as used just now, so the next search
/// considers others.
const CANDIDATES_MAX: usize = 64;

struct Peer {
    link: Rc<Link>,
    session: Session,
    /// The time of the last datagram from it.
    heard: Instant,
}

impl Peer {
    /// Whether forgetting it now would lose an answer.
    fn is_busy(&self) -> bool {
        let session = &self.session;
        session.connected()
            && (session.requests_in_flight() != 0
                || session.calls_in_flight() != 0
                || self.link.queued_bytes() != 0)
    }
}

/// Makes a session of a new peer, whose address is given as text. `None` if it is not accepted.
type Accept = Box<dyn Fn(String, &Rc<Link>) -> Option<Session>>;

/// The port of a listener.
pub(crate) struct DatagramServer {
    this: Weak<DatagramServer>,
    port: Rc<Port>,
    accept: Accept,
    peers: RefCell<Peers<Peer>>,
    peers_max: usize,
    peer_idle: Duration,
    /// Fires when the peer that was heard of longest ago may have been silent for long enough.
    timer: Timer,
    inspector: Inspector,
    closed: Cell<bool>,
    /// Datagrams that were dropped, and peers that made room for others.
    dropped: Cell<u64>,
    evicted: Cell<u64>,
}

/// Binds the socket of a listener, and returns it with its address.
///
/// # Errors
/// The system's error.
pub(crate) fn bind(host: &str, port: u16, reuse_port: bool) -> io::Result<(UdpSocket, u16)> {
    let socket = UdpSocket::bind_with((host, port), reuse_port)?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

impl DatagramServer {
    /// Serves the senders of datagrams to any of the sockets, at most `peers_max` at a time. It answers through the
    /// first socket.
    ///
    /// # Errors
    /// If no fiber can be spawned.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        peers_max: usize,
        peer_idle: Duration,
        accept: impl Fn(String, &Rc<Link>) -> Option<Session> + 'static,
    ) -> io::Result<Rc<DatagramServer>> {
        let port = Port::start(sockets, BATCH)?;
        let server = Rc::new_cyclic(|this: &Weak<DatagramServer>| {
            let timed = this.clone();
            DatagramServer {
                this: this.clone(),
                port,
                accept: Box::new(accept),
                peers: RefCell::new(Peers::new()),
                peers_max: peers_max.max(1),
                peer_idle,
                timer: Timer::new(move || {
                    if let Some(server) = timed.upgrade() {
                        server.forget_silent();
                    }
                }),
                inspector: Inspector::new(),
                closed: Cell::new(false),
                dropped: Cell::new(0),
                evicted: Cell::new(0),
            }
        });
        server.port.set_owner(server.clone());
        Ok(server)
    }

    /// Takes no new peers. The socket is closed with the last of the others.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.stop_if_unused();
    }

    /// Datagrams that were dropped: malformed, out of turn, or for want of room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Peers that were forgotten to make room for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.get()
    }

    fn stop_if_unused(&self) {
        if self.closed.get() && self.peers.borrow().len() == 0 {
            self.timer.cancel();
            self.port.stop();
        }
    }

    fn count_dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    /// The link of a sender that has one.
    fn known(&self, from: &SocketAddr) -> Option<Rc<Link>> {
        let mut peers = self.peers.borrow_mut();
        let peer = peers.get_mut(from)?;
        peer.heard = now();
        let link = peer.link.clone();
        peers.touch(from);
        Some(link)
    }

    /// Makes a peer of a new sender, if there is room.
    fn add(&self, from: SocketAddr) -> Option<Rc<Link>> {
        if self.closed.get() || !self.make_room() {
            return None;
        }
        let server = self.this.clone();
        let link = Link::new(self.port.clone(), Some(from), move || {
            if let Some(server) = server.upgrade() {
                let peer = server.peers.borrow_mut().remove(&from);
                drop(peer);
                server.stop_if_unused();
            }
        });
        let session = (self.accept)(format!("udp://{from}"), &link)?;
        if link.has_ended() {
            return None;
        }
        let heard = now();
        let peer = Peer {
            link: link.clone(),
            session,
            heard,
        };
        self.peers.borrow_mut().insert(from, peer);
        if !self.timer.is_armed() {
            self.timer.arm(heard.saturating_add(self.peer_idle));
        }
        Some(link)
    }

    /// Forgets the least recently used idle peer if there are too many. Returns whether there is room.
    fn make_room(&self) -> bool {
        for _ in 0..CANDIDATES_MAX {
            let mut peers = self.peers.borrow_mut();
            if peers.len() < self.peers_max {
                return true;
            }
            let Some((address, peer)) = peers.oldest() else {
                return true;
            };
            if peer.is_busy() {
                peers.touch(&address);
                continue;
            }
            let link = peer.link.clone();
            drop(peers);
            self.evicted.set(self.evicted.get() + 1);
            let limit = self.peers_max;
            let text = format!("forgotten for another peer: the listener has {limit}, its limit");
            link.finish(Err(io::Error::other(text)));
        }
        self.peers.borrow().len() < self.peers_max
    }

    /// Forgets the peers that have sent nothing for long enough.
    fn forget_silent(&self) {
        let time = now();
        loop {
            let mut peers = self.peers.borrow_mut();
            let Some((address, peer)) = peers.oldest() else {
                return;
            };
            let due = peer.heard.saturating_add(self.peer_idle);
            if due > time {
                return self.timer.arm(due);
            }
            if peer.is_busy() {
                if let Some(peer) = peers.get_mut(&address) {
                    peer.heard = time;
                }
                peers.touch(&address);
                continue;
            }
            let link = peer.link.clone();
            drop(peers);
            let seconds = self.peer_idle.as_secs_f64();
            let text = format!("the peer has been silent for {seconds} s");
            link.finish(Err(io::Error::other(text)));
        }
    }
}

impl Owner for DatagramServer {
    fn datagram(&self, datagram: Datagram<'_>) {
        let link = match self.inspector.kind_of(&datagram) {
            None => None,
            Some(kind) => {
                let from = datagram.from;
                let link = self.known(&from);
                let new = || self.add(from);
                let link = match kind {
                    Kind::Request { .. } => link.or_else(new),
                    Kind::Response => link,
                };
                link.map(|link| (kind, link))
            }
        };
        match link {
            Some((kind, link)) => link.deliver(kind, datagram.bytes),
            None => self.count_dropped(),
        }
    }

    fn fault(&self, _: io::Error) {
        // It names no peer. A peer that is gone falls silent.
    }
}
