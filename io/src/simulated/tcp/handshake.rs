//! Listening, connecting and accepting.

use super::{Connection, ConnectionKey, Listener, Phase, Segment, SegmentKind};
use crate::simulated::address::{Address, Domain, canonical, seen_by};
use crate::simulated::errors::os;
use crate::simulated::events::{Packet, SocketId};
use crate::simulated::hosts::{HostId, Protocol};
use crate::simulated::network::Network;
use crate::simulated::sockets::{Socket, State};
use crate::simulated::trace::Happened;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use yue_scheduler::simulation::mix;

/// The kernel's limit of a backlog (`net.core.somaxconn`).
const BACKLOG_MAX: usize = 4096;

impl Network {
    pub(in crate::simulated) fn tcp_listen(
        &mut self,
        id: SocketId,
        backlog: i32,
    ) -> io::Result<()> {
        let backlog = usize::try_from(backlog).unwrap_or(0).min(BACKLOG_MAX);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        match &mut socket.state {
            State::TcpListener(listener) => {
                listener.backlog = backlog;
                return Ok(());
            }
            State::TcpIdle => {}
            _ => return Err(os(libc::EINVAL)),
        }
        let local = socket.local_inet();
        let local = match local.port() {
            0 => SocketAddr::new(local.ip(), self.free_port(id, local.ip())?),
            _ if self.conflicts(id, local) => return Err(os(libc::EADDRINUSE)),
            _ => local,
        };
        self.set_local(id, local);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.bound = true;
            socket.state = State::TcpListener(Listener {
                backlog,
                ready: VecDeque::new(),
                half_open: 0,
            });
        }
        Ok(())
    }

    pub(in crate::simulated) fn tcp_connect(
        &mut self,
        id: SocketId,
        address: &Address,
    ) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let peer = canonical(address.inet()?);
        match &socket.state {
            State::TcpListener(_) => return Err(os(libc::EISCONN)),
            State::Tcp(connection) => match connection.phase {
                Phase::SynSent => return Err(os(libc::EALREADY)),
                Phase::SynReceived | Phase::Established => return Err(os(libc::EISCONN)),
                Phase::TimeWait => return Err(os(libc::EISCONN)),
                Phase::Closed => {
                    // The kernel reports the failure of the last attempt once, and then allows another.
                    let error = socket.error.take();
                    socket.state = State::TcpIdle;
                    (socket.shutdown_read, socket.shutdown_write) = (false, false);
                    if let Some(error) = error {
                        return Err(os(error));
                    }
                }
            },
            _ => {}
        }
        if peer.is_ipv4() != (socket.domain == Domain::V4) && socket.domain == Domain::V4 {
            return Err(os(libc::EAFNOSUPPORT));
        }
        if peer.is_ipv4() && socket.domain == Domain::V6 && socket.options.only_v6 {
            return Err(os(libc::ENETUNREACH));
        }
        let key = self.connecting_key(id, peer)?;
        let remote = self.route(key.0, key.2.ip())?;
        let number = self.next_number();
        self.set_local(id, key.1);
        self.connections.insert(key, id);
        let connection = Connection::new(number, Phase::SynSent, key, remote, self.now);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.state = State::Tcp(Box::new(connection));
        }
        self.record(Happened::ConnectStarted, key.0, remote, number, 0);
        self.send_segment(id, SegmentKind::Syn, 0, Vec::new(), false);
        self.arm_timer(id);
        Err(os(libc::EINPROGRESS))
    }

    /// Returns the addresses of a new connection, with the local one chosen if the socket has none.
    fn connecting_key(&mut self, id: SocketId, peer: SocketAddr) -> io::Result<ConnectionKey> {
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        let (host, local, bound) = (socket.host, socket.local_inet(), socket.bound);
        self.route(host, peer.ip())?;
        let peer = match peer.ip().is_unspecified() {
            true => SocketAddr::new(self.source_address(host, peer.ip())?, peer.port()),
            false => peer,
        };
        let ip = match bound && !local.ip().is_unspecified() {
            true => local.ip(),
            false => self.source_address(host, peer.ip())?,
        };
        if ip.is_loopback() != peer.ip().is_loopback() && ip.is_loopback() {
            // Packets from a loopback address do not leave the host.
            return Err(os(libc::EINVAL));
        }
        let port = match bound {
            true => local.port(),
            false => self.connecting_port(id, ip, peer)?,
        };
        let key = (host, SocketAddr::new(ip, port), peer);
        match self.connections.contains_key(&key) {
            true => Err(os(libc::EADDRNOTAVAIL)),
            false => Ok(key),
        }
    }

    pub(in crate::simulated) fn tcp_accept(
        &mut self,
        id: SocketId,
        new: RawFd,
    ) -> io::Result<Address> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let State::TcpListener(listener) = &mut socket.state else {
            return Err(os(libc::EINVAL));
        };
        let Some(accepted) = listener.ready.pop_front() else {
            return Err(os(libc::EAGAIN));
        };
        let host = socket.host;
        self.name(new, accepted);
        let Some(socket) = self.sockets.get_mut(&accepted) else {
            return Err(os(libc::ECONNABORTED));
        };
        let domain = socket.domain;
        let Some(connection) = socket.connection_mut() else {
            return Err(os(libc::ECONNABORTED));
        };
        connection.listener = None;
        let (peer, number, remote) = (connection.peer, connection.number, connection.remote);
        self.record(Happened::Accepted, host, remote, number, 0);
        self.arm_keepalive(accepted);
        Ok(Address::Inet(seen_by(domain, peer)))
    }

    /// Handles a connection request.
    pub(super) fn on_syn(&mut self, packet: &Packet, segment: &Segment) {
        let (host, local, peer) = (packet.to, packet.target, packet.source);
        let Some(listener) = self.find_listener(host, local, peer) else {
            return self.reply_with_reset(packet, segment.connection);
        };
        let Some(socket) = self.sockets.get_mut(&listener) else {
            return;
        };
        let (domain, options) = (socket.domain, socket.options.clone());
        let State::TcpListener(state) = &mut socket.state else {
            return;
        };
        if state.ready.len() + state.half_open > state.backlog {
            // The queue is full: the request is dropped, and the client repeats it.
            return self.record_lost(packet);
        }
        state.half_open += 1;
        let key = (host, local, peer);
        let number = segment.connection;
        let mut connection =
            Connection::new(number, Phase::SynReceived, key, packet.from, self.now);
        connection.listener = Some(listener);
        connection.limit = segment.limit;
        let mut socket = Socket::new(host, domain, crate::simulated::address::Type::Stream);
        socket.options = options;
        socket.state = State::Tcp(Box::new(connection));
        let id = self.insert(socket);
        self.set_local(id, local);
        self.connections.insert(key, id);
        self.send_segment(id, SegmentKind::SynAcknowledgment, 0, Vec::new(), false);
        self.arm_timer(id);
    }

    /// Handles the answer to a connection request.
    pub(super) fn on_syn_acknowledgment(&mut self, id: SocketId, segment: &Segment) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        if connection.phase == Phase::SynSent {
            connection.phase = Phase::Established;
            connection.limit = segment.limit;
            let (number, remote) = (connection.number, connection.remote);
            let host = self.sockets.get(&id).map_or(0, |socket| socket.host);
            self.record(Happened::Connected, host, remote, number, 0);
            self.note_answer(id);
            self.wake(id);
            self.arm_keepalive(id);
        }
        // Also after a repeated answer: the acknowledgment was lost.
        self.acknowledge(id);
        self.transmit_more(id);
    }

    /// Moves a connection whose handshake is complete into the listener's queue.
    pub(super) fn complete_handshake(&mut self, id: SocketId) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        connection.phase = Phase::Established;
        let listener = connection.listener;
        self.note_answer(id);
        let queue = listener.and_then(|listener| self.listener_mut(listener));
        let (Some(queue), Some(listener)) = (queue, listener) else {
            return self.abort(id);
        };
        queue.half_open = queue.half_open.saturating_sub(1);
        queue.ready.push_back(id);
        self.wake(listener);
    }

    pub(super) fn listener_mut(&mut self, id: SocketId) -> Option<&mut Listener> {
        match &mut self.sockets.get_mut(&id)?.state {
            State::TcpListener(listener) => Some(listener),
            _ => None,
        }
    }

    /// Returns the listener for a request: one bound to the very address before one bound to all. Listeners that share
    /// the port each get a part of the clients, by a hash of the addresses and the seed.
    fn find_listener(&self, host: HostId, local: SocketAddr, peer: SocketAddr) -> Option<SocketId> {
        let mut best: Vec<SocketId> = Vec::new();
        let mut best_rank = 0;
        for id in self.at_port(host, Protocol::Tcp, local.port()) {
            let Some(socket) = self.sockets.get(&id) else {
                continue;
            };
            if !matches!(socket.state, State::TcpListener(_)) {
                continue;
            }
            let rank = match_rank(socket, local.ip());
            if rank > best_rank {
                (best, best_rank) = (vec![id], rank);
            } else if rank > 0 && rank == best_rank {
                best.push(id);
            }
        }
        let index = spread(self.seed, peer, best.len());
        best.get(index).copied()
    }
}

/// Ranks a bound socket for packets to `ip`: 0 if it does not receive them, more the closer it matches.
pub(in crate::simulated) fn match_rank(socket: &Socket, ip: IpAddr) -> u32 {
    let bound = socket.local_inet().ip();
    let dual = socket.domain == Domain::V6 && !socket.options.only_v6;
    match bound {
        _ if bound == ip => 3,
        IpAddr::V4(any) if any.is_unspecified() && ip.is_ipv4() => 2,
        IpAddr::V6(any) if any.is_unspecified() && ip.is_ipv6() => 2,
        IpAddr::V6(any) if any.is_unspecified() && dual => 1,
        _ => 0,
    }
}

/// Chooses one of `count` sockets that share a port, by the peer's address.
pub(in crate::simulated) fn spread(seed: u64, peer: SocketAddr, count: usize) -> usize {
    // This hasher has a fixed key.
    let mut hasher = DefaultHasher::new();
    peer.hash(&mut hasher);
    (mix(hasher.finish() ^ seed) % count.max(1) as u64) as usize
}
