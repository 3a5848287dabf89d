//! Descriptors and sockets: how they are made, duplicated, closed and destroyed.
//!
//! A descriptor is a number of the process, chosen by the caller. Several may name one socket (`dup(2)`); closing the
//! last one closes the socket. A TCP connection may outlive its descriptors: the kernel delivers what was sent, and
//! then ends it. A number that is used again means that its earlier descriptor was closed.

use super::address::{Address, Domain, Type, UnixName, wildcard};
use super::errors::os;
use super::events::SocketId;
use super::hosts::{HostId, HostState, Protocol};
use super::network::Network;
use super::options::Options;
use super::readiness::PollerId;
use super::tcp::{Connection, Listener};
use super::udp::Udp;
use super::unix::{UnixConnection, UnixListener};
use super::unix_datagram::UnixDatagram;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) host: HostId,
    pub(super) domain: Domain,
    pub(super) kind: Type,
    /// The descriptors that name the socket.
    pub(super) references: u32,
    pub(super) options: Options,
    /// The error that the next call or [`Network::take_error`] returns (`SO_ERROR`).
    pub(super) error: Option<i32>,
    pub(super) local: Address,
    /// Whether the program chose the address.
    pub(super) bound: bool,
    pub(super) shutdown_read: bool,
    pub(super) shutdown_write: bool,
    /// Whether a send found no room since the last edge (`SOCK_NOSPACE`).
    pub(super) starved: bool,
    pub(super) watches: Vec<(PollerId, RawFd)>,
    pub(super) state: State,
}

/// The part of a socket that depends on its kind and on what it does.
#[derive(Debug)]
pub(crate) enum State {
    TcpIdle,
    TcpListener(Listener),
    Tcp(Box<Connection>),
    Udp(Udp),
    UnixIdle,
    UnixListener(UnixListener),
    UnixStream(UnixConnection),
    UnixDatagram(UnixDatagram),
}

impl Socket {
    /// Returns the result of a receive that finds nothing: the pending error, the end, or `EAGAIN`.
    pub(super) fn receive_nothing(&mut self) -> io::Result<()> {
        match (self.error.take(), self.shutdown_read) {
            (Some(error), _) => Err(os(error)),
            (None, true) => Ok(()),
            (None, false) => Err(os(libc::EAGAIN)),
        }
    }

    /// Fails with the pending error, or if this direction was shut down. For datagrams.
    pub(super) fn check_may_send(&mut self) -> io::Result<()> {
        match self.error.take() {
            Some(error) => Err(os(error)),
            None if self.shutdown_write => Err(os(libc::EPIPE)),
            None => Ok(()),
        }
    }

    pub(super) fn new(host: HostId, domain: Domain, kind: Type) -> Socket {
        let (state, local) = match (domain, kind) {
            (Domain::Unix, Type::Stream) => (State::UnixIdle, Address::Unix(UnixName::Unnamed)),
            (Domain::Unix, Type::Datagram) => {
                let state = State::UnixDatagram(UnixDatagram::default());
                (state, Address::Unix(UnixName::Unnamed))
            }
            (_, kind) => {
                let state = match kind {
                    Type::Stream => State::TcpIdle,
                    Type::Datagram => State::Udp(Udp::default()),
                };
                let address = SocketAddr::new(wildcard(domain), 0);
                (state, Address::Inet(address))
            }
        };
        Socket {
            host,
            domain,
            kind,
            references: 0,
            options: Options::new(matches!(state, State::TcpIdle)),
            error: None,
            local,
            bound: false,
            shutdown_read: false,
            shutdown_write: false,
            starved: false,
            watches: Vec::new(),
            state,
        }
    }

    /// The protocol whose ports the socket uses.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        match (self.domain, self.kind) {
            (Domain::Unix, _) => None,
            (_, Type::Stream) => Some(Protocol::Tcp),
            (_, Type::Datagram) => Some(Protocol::Udp),
        }
    }

    /// The local internet address; that of no host for a Unix socket.
    pub(super) fn local_inet(&self) -> SocketAddr {
        match &self.local {
            Address::Inet(address) => *address,
            Address::Unix(_) => SocketAddr::new(wildcard(Domain::V4), 0),
        }
    }

    /// The name of a Unix socket.
    pub(super) fn unix_name(&self) -> UnixName {
        match &self.local {
            Address::Unix(name) => name.clone(),
            Address::Inet(_) => UnixName::Unnamed,
        }
    }

    /// The bytes that the socket holds: sent and not acknowledged, or received and not read.
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Tcp(connection) => connection.buffered_bytes(),
            State::Udp(udp) => udp.buffered_bytes(),
            State::UnixStream(connection) => connection.buffered_bytes(),
            State::UnixDatagram(datagrams) => datagrams.buffered_bytes(),
            _ => 0,
        }
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.state {
            State::Tcp(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Tcp(connection) => Some(connection),
            _ => None,
        }
    }
}

impl Network {
    /// Creates a socket of `host` under the number `fd`.
    ///
    /// # Errors
    /// `ENETDOWN` if the host is down.
    pub(crate) fn socket(
        &mut self,
        host: HostId,
        fd: RawFd,
        domain: Domain,
        kind: Type,
    ) -> io::Result<()> {
        if self.host_state(host) == HostState::Down {
            return Err(os(libc::ENETDOWN));
        }
        let id = self.insert(Socket::new(host, domain, kind));
        self.name(fd, id);
        Ok(())
    }

    /// Makes `new` another descriptor of the socket of `fd`.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not known.
    pub(crate) fn duplicate(&mut self, fd: RawFd, new: RawFd) -> io::Result<()> {
        let id = self.find(fd)?;
        if fd != new {
            self.name(new, id);
        }
        Ok(())
    }

    /// Closes a descriptor, and its socket if it was the last one.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not known; then its host may have crashed.
    pub(crate) fn close(&mut self, fd: RawFd) -> io::Result<()> {
        let id = self.find(fd)?;
        self.descriptors.remove(&fd);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Ok(());
        };
        socket.references = socket.references.saturating_sub(1);
        let closed = socket.references == 0;
        let (gone, kept) =
            (socket.watches.iter().copied()).partition(|(_, watched)| *watched == fd);
        socket.watches = kept;
        let gone: Vec<(PollerId, RawFd)> = gone;
        for (poller, fd) in gone {
            self.pollers.remove_watch(poller, fd);
        }
        if closed {
            self.close_socket(id);
        }
        Ok(())
    }

    /// Whether a descriptor names a socket of this network.
    #[cfg(test)]
    pub(crate) fn knows(&self, fd: RawFd) -> bool {
        self.descriptors.contains_key(&fd)
    }

    /// Returns and clears the pending error of a socket (`SO_ERROR`).
    pub(crate) fn take_error(&mut self, fd: RawFd) -> io::Result<Option<io::Error>> {
        Ok(self.find_mut(fd)?.error.take().map(os))
    }

    /// Returns the host of a descriptor's socket.
    #[cfg(test)]
    pub(crate) fn host_of(&self, fd: RawFd) -> io::Result<HostId> {
        Ok(self.find_socket(fd)?.host)
    }

    /// Returns the family and the type of a descriptor's socket.
    pub(crate) fn kind_of(&self, fd: RawFd) -> io::Result<(Domain, Type)> {
        let socket = self.find_socket(fd)?;
        Ok((socket.domain, socket.kind))
    }

    pub(super) fn insert(&mut self, socket: Socket) -> SocketId {
        let id = SocketId(self.next_number());
        self.sockets.insert(id, socket);
        id
    }

    /// Makes `fd` a descriptor of the socket.
    pub(super) fn name(&mut self, fd: RawFd, id: SocketId) {
        // The number was closed without a call: its earlier socket is closed now.
        let _ = self.close(fd);
        self.descriptors.insert(fd, id);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.references += 1;
        }
    }

    pub(super) fn find(&self, fd: RawFd) -> io::Result<SocketId> {
        let found = self.descriptors.get(&fd).copied();
        found.ok_or_else(|| os(libc::EBADF))
    }

    pub(super) fn find_socket(&self, fd: RawFd) -> io::Result<&Socket> {
        let id = self.find(fd)?;
        self.sockets.get(&id).ok_or_else(|| os(libc::EBADF))
    }

    pub(super) fn find_mut(&mut self, fd: RawFd) -> io::Result<&mut Socket> {
        let id = self.find(fd)?;
        self.sockets.get_mut(&id).ok_or_else(|| os(libc::EBADF))
    }

    fn close_socket(&mut self, id: SocketId) {
        match self.sockets.get(&id).map(|socket| &socket.state) {
            Some(State::Tcp(_)) => self.close_connection(id),
            Some(State::TcpListener(_)) => self.close_listener(id),
            Some(State::UnixStream(_)) => self.close_unix_stream(id),
            Some(State::UnixListener(_)) => self.close_unix_listener(id),
            Some(State::UnixDatagram(_)) => self.close_unix_datagram(id),
            Some(State::TcpIdle | State::UnixIdle | State::Udp(_)) => self.destroy(id),
            None => {}
        }
    }

    /// Removes a socket from every table. Sends nothing.
    pub(super) fn destroy(&mut self, id: SocketId) {
        self.forget_connection(id);
        let Some(socket) = self.sockets.remove(&id) else {
            return;
        };
        if socket.references > 0 {
            self.descriptors.retain(|_, named| *named != id);
        }
        for (poller, fd) in &socket.watches {
            self.pollers.remove_watch(*poller, *fd);
        }
        self.release_name(id, &socket);
    }
}
