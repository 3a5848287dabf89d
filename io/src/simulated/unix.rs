//! Unix stream sockets: connections within one host. Bytes arrive at once.
//!
//! The bytes on their way count against the sender's buffer, as in the kernel, and lie in the receiver's.

use super::address::{Address, UnixName};
use super::buffer::{Bytes, gather, length, length_mut};
use super::errors::os;
use super::events::SocketId;
use super::hosts::HostId;
use super::network::Network;
use super::readiness::Readiness;
use super::sockets::{Socket, State};
use super::trace::{Happened, pair_number};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::RawFd;

/// The kernel's limit of a backlog (`net.core.somaxconn`).
const BACKLOG_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct UnixListener {
    backlog: usize,
    ready: VecDeque<SocketId>,
}

#[derive(Debug)]
pub(crate) struct UnixConnection {
    /// The other end, unless it is closed.
    pub(super) peer: Option<SocketId>,
    pub(super) peer_name: UnixName,
    received: Bytes,
}

impl UnixConnection {
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.received.len()
    }

    fn connected_to(peer: SocketId, peer_name: UnixName) -> State {
        State::UnixStream(UnixConnection {
            peer: Some(peer),
            peer_name,
            received: Bytes::default(),
        })
    }
}

impl Socket {
    fn unix_connection_mut(&mut self) -> Option<&mut UnixConnection> {
        match &mut self.state {
            State::UnixStream(connection) => Some(connection),
            _ => None,
        }
    }
}

impl Network {
    pub(super) fn unix_level(&self, socket: &Socket) -> Readiness {
        let error = socket.error.is_some();
        let base = Readiness {
            error,
            read_closed: socket.shutdown_read,
            ..Readiness::default()
        };
        let level = match &socket.state {
            State::UnixListener(listener) => {
                let readable = !listener.ready.is_empty();
                return Readiness { readable, ..base };
            }
            State::UnixStream(connection) => Readiness {
                readable: !connection.received.is_empty() || socket.shutdown_read,
                writable: self.has_unix_room(socket, connection),
                ..base
            },
            State::UnixDatagram(datagrams) => Readiness {
                readable: !datagrams.is_empty() || socket.shutdown_read,
                writable: !self.is_peer_full(datagrams),
                ..base
            },
            _ => {
                let writable = true;
                return Readiness { writable, ..base }.hang_up();
            }
        };
        match socket.shutdown_read && socket.shutdown_write {
            true => level.hang_up(),
            false => level,
        }
    }

    /// Whether `poll(2)` reports room: three quarters must be free (`unix_writable`).
    fn has_unix_room(&self, socket: &Socket, connection: &UnixConnection) -> bool {
        self.unix_in_flight(connection) * 4 <= socket.options.send_buffer
    }

    /// The sent bytes that the peer has not read.
    fn unix_in_flight(&self, connection: &UnixConnection) -> usize {
        let peer = connection.peer.and_then(|peer| self.sockets.get(&peer));
        match peer.map(|peer| &peer.state) {
            Some(State::UnixStream(peer)) => peer.received.len(),
            _ => 0,
        }
    }

    /// Creates two connected sockets of a host, under the numbers `one` and `other`.
    ///
    /// # Errors
    /// `ENETDOWN` if the host is down; `EINVAL` if the numbers are the same; `EAFNOSUPPORT` unless the family is Unix.
    pub(crate) fn pair(
        &mut self,
        host: HostId,
        one: RawFd,
        other: RawFd,
        kind: super::address::Type,
    ) -> io::Result<()> {
        if one == other {
            return Err(os(libc::EINVAL));
        }
        self.socket(host, one, super::address::Domain::Unix, kind)?;
        self.socket(host, other, super::address::Domain::Unix, kind)?;
        let (one, other) = (self.find(one)?, self.find(other)?);
        match kind {
            super::address::Type::Stream => {
                self.join(one, other, UnixName::Unnamed, UnixName::Unnamed);
            }
            super::address::Type::Datagram => self.join_datagrams(one, other),
        }
        Ok(())
    }

    /// Connects two sockets, and gives each the other's name.
    fn join(&mut self, one: SocketId, other: SocketId, name: UnixName, other_name: UnixName) {
        if let Some(socket) = self.sockets.get_mut(&one) {
            socket.state = UnixConnection::connected_to(other, other_name);
        }
        if let Some(socket) = self.sockets.get_mut(&other) {
            socket.state = UnixConnection::connected_to(one, name);
        }
    }

    pub(super) fn unix_listen(&mut self, id: SocketId, backlog: i32) -> io::Result<()> {
        let backlog = usize::try_from(backlog).unwrap_or(0).min(BACKLOG_MAX);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        match &mut socket.state {
            State::UnixListener(listener) => listener.backlog = backlog,
            State::UnixIdle if socket.bound => {
                let ready = VecDeque::new();
                socket.state = State::UnixListener(UnixListener { backlog, ready });
            }
            _ => return Err(os(libc::EINVAL)),
        }
        Ok(())
    }

    pub(super) fn unix_connect(&mut self, id: SocketId, address: &Address) -> io::Result<()> {
        let name = address.unix()?;
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        match socket.state {
            State::UnixIdle => {}
            State::UnixStream(_) => return Err(os(libc::EISCONN)),
            _ => return Err(os(libc::EINVAL)),
        }
        let (host, client_name) = (socket.host, socket.unix_name());
        let target = self.find_name(host, name)?;
        let Some(target_socket) = self.sockets.get(&target) else {
            return Err(os(libc::ECONNREFUSED));
        };
        match &target_socket.state {
            State::UnixListener(listener) if listener.ready.len() > listener.backlog => {
                return Err(os(libc::EAGAIN));
            }
            State::UnixListener(_) => {}
            State::UnixDatagram(_) => return Err(os(libc::EPROTOTYPE)),
            _ => return Err(os(libc::ECONNREFUSED)),
        }
        let server_name = target_socket.unix_name();
        let mut accepted = Socket::new(
            host,
            super::address::Domain::Unix,
            super::address::Type::Stream,
        );
        accepted.local = Address::Unix(server_name.clone());
        let accepted = self.insert(accepted);
        self.join(id, accepted, client_name, server_name);
        if let Some(State::UnixListener(listener)) = self
            .sockets
            .get_mut(&target)
            .map(|socket| &mut socket.state)
        {
            listener.ready.push_back(accepted);
        }
        let number = pair_number(id, accepted);
        self.record(Happened::Connected, host, host, number, 0);
        self.wake(target);
        self.wake(id);
        Ok(())
    }

    pub(super) fn unix_accept(&mut self, id: SocketId, new: RawFd) -> io::Result<Address> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let host = socket.host;
        let State::UnixListener(listener) = &mut socket.state else {
            return Err(os(libc::EINVAL));
        };
        let Some(accepted) = listener.ready.pop_front() else {
            return Err(os(libc::EAGAIN));
        };
        self.name(new, accepted);
        let connection = self.sockets.get_mut(&accepted);
        let connection = connection.and_then(Socket::unix_connection_mut);
        let (name, peer) = connection.map_or((UnixName::Unnamed, None), |connection| {
            (connection.peer_name.clone(), connection.peer)
        });
        let number = peer.map_or(accepted.0, |peer| pair_number(peer, accepted));
        self.record(Happened::Accepted, host, host, number, 0);
        Ok(Address::Unix(name))
    }

    pub(super) fn unix_send(&mut self, id: SocketId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted = length(slices);
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        let State::UnixStream(connection) = &socket.state else {
            return Err(os(libc::ENOTCONN));
        };
        let Some(peer) = connection.peer.filter(|_| !socket.shutdown_write) else {
            return Err(os(libc::EPIPE));
        };
        let (host, capacity) = (socket.host, socket.options.send_buffer);
        let room = capacity.saturating_sub(self.unix_in_flight(connection));
        let count = match room == 0 && wanted > 0 {
            true => 0,
            false => self.shortened(id, wanted.min(room), |host| host.short_write, host),
        };
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.starved |= count < wanted && count == room;
        }
        if count == 0 && wanted > 0 {
            return Err(os(libc::EAGAIN));
        }
        let receiver = self.sockets.get_mut(&peer);
        if let Some(receiver) = receiver.and_then(Socket::unix_connection_mut)
            && count > 0
        {
            receiver.received.push(&gather(slices, count));
            let number = pair_number(id, peer);
            self.record(Happened::SegmentDelivered, host, host, number, count);
            self.wake(peer);
        }
        Ok(count)
    }

    pub(super) fn unix_recv(
        &mut self,
        id: SocketId,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<usize> {
        let wanted = length_mut(slices);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let host = socket.host;
        let Some(connection) = socket.unix_connection_mut() else {
            return Err(os(libc::EINVAL));
        };
        let available = connection.received.len();
        if available == 0 {
            return socket.receive_nothing().map(|()| 0);
        }
        let count = self.shortened(id, wanted.min(available), |host| host.short_read, host);
        let socket = self.sockets.get_mut(&id);
        let Some(connection) = socket.and_then(Socket::unix_connection_mut) else {
            return Err(os(libc::EBADF));
        };
        let count = connection.received.read(slices, count, peek);
        if let Some(peer) = connection.peer.filter(|_| !peek) {
            self.wake_if_room(peer);
        }
        Ok(count)
    }

    pub(super) fn unix_shutdown(&mut self, id: SocketId, how: Shutdown) -> io::Result<()> {
        let (reads, writes) = (how != Shutdown::Write, how != Shutdown::Read);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let peer = match &socket.state {
            State::UnixStream(connection) => connection.peer,
            State::UnixDatagram(_) => None,
            State::UnixListener(_) => return Err(os(libc::EINVAL)),
            _ => return Err(os(libc::ENOTCONN)),
        };
        socket.shutdown_read |= reads;
        socket.shutdown_write |= writes;
        self.wake(id);
        if let Some(peer) = peer {
            if let Some(socket) = self.sockets.get_mut(&peer) {
                socket.shutdown_read |= writes;
                socket.shutdown_write |= reads;
            }
            self.wake(peer);
        }
        Ok(())
    }

    pub(super) fn close_unix_stream(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let host = socket.host;
        let Some(connection) = socket.unix_connection_mut() else {
            return;
        };
        let unread = !connection.received.is_empty();
        let peer = connection.peer;
        let number = peer.map_or(id.0, |peer| pair_number(id, peer));
        self.record(Happened::Closed, host, host, number, 0);
        self.destroy(id);
        if let Some(peer) = peer {
            self.hang_up_unix(peer, unread);
        }
    }

    pub(super) fn close_unix_listener(&mut self, id: SocketId) {
        let ready = match self.sockets.get_mut(&id).map(|socket| &mut socket.state) {
            Some(State::UnixListener(listener)) => std::mem::take(&mut listener.ready),
            _ => VecDeque::new(),
        };
        self.destroy(id);
        for waiting in ready {
            let socket = self.sockets.get_mut(&waiting);
            let peer = socket.and_then(Socket::unix_connection_mut);
            let peer = peer.and_then(|connection| connection.peer);
            self.destroy(waiting);
            if let Some(peer) = peer {
                self.hang_up_unix(peer, true);
            }
        }
    }

    /// Tells a socket that its peer is closed. `lost`: something that it sent was never read.
    fn hang_up_unix(&mut self, id: SocketId, lost: bool) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            (socket.shutdown_read, socket.shutdown_write) = (true, true);
            if lost {
                socket.error = Some(libc::ECONNRESET);
            }
            if let Some(connection) = socket.unix_connection_mut() {
                connection.peer = None;
            }
        }
        self.wake(id);
    }

    /// Returns the socket that has a name on a host.
    ///
    /// # Errors
    /// `ENOENT` for a path that does not exist; `ECONNREFUSED` for one whose socket is closed, and for an abstract
    /// name that nothing has.
    pub(super) fn find_name(&self, host: HostId, name: &UnixName) -> io::Result<SocketId> {
        match (self.host(host)?.names.get(name), name) {
            (Some(Some(id)), _) => Ok(*id),
            (None, UnixName::Path(_)) => Err(os(libc::ENOENT)),
            (_, UnixName::Unnamed) => Err(os(libc::EINVAL)),
            _ => Err(os(libc::ECONNREFUSED)),
        }
    }
}
