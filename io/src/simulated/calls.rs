//! The calls that every kind of socket has, each passed to its kind.

use super::address::{Address, seen_by};
use super::errors::os;
use super::events::SocketId;
use super::network::Network;
#[cfg(test)]
use super::sockets::Socket;
use super::sockets::State;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::RawFd;

/// The result of receiving.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Received {
    /// The number of bytes copied.
    pub(crate) bytes: usize,
    /// The length of the datagram; it was truncated if that is more.
    pub(crate) length: usize,
    /// The sender of a datagram.
    pub(crate) from: Option<Address>,
}

impl Received {
    fn stream(bytes: usize) -> Received {
        Received {
            bytes,
            length: bytes,
            from: None,
        }
    }
}

impl Network {
    /// Makes a socket accept connections.
    ///
    /// # Errors
    /// `EADDRINUSE` if another socket listens there; `EOPNOTSUPP` for datagrams; `EINVAL` if it is connected.
    pub(crate) fn listen(&mut self, fd: RawFd, backlog: i32) -> io::Result<()> {
        let id = self.find(fd)?;
        match self.find_socket(fd)?.state {
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => self.tcp_listen(id, backlog),
            State::Udp(_) | State::UnixDatagram(_) => Err(os(libc::EOPNOTSUPP)),
            _ => self.unix_listen(id, backlog),
        }
    }

    /// Connects a socket. A TCP connection is in progress afterwards.
    ///
    /// # Errors
    /// Those of `connect(2)`; `EINPROGRESS` for TCP, whose outcome [`Network::take_error`] returns once the socket is
    /// ready.
    pub(crate) fn connect(&mut self, fd: RawFd, address: &Address) -> io::Result<()> {
        let id = self.find(fd)?;
        match self.find_socket(fd)?.state {
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => self.tcp_connect(id, address),
            State::Udp(_) => self.udp_connect(id, address),
            State::UnixDatagram(_) => self.unix_datagram_connect(id, address),
            _ => self.unix_connect(id, address),
        }
    }

    /// Takes a connection from a listener's queue, under the number `new`. Returns the peer's address.
    ///
    /// # Errors
    /// `EAGAIN` if there is none; `EINVAL` if the socket does not listen; `ECONNABORTED` by the host's faults.
    pub(crate) fn accept(&mut self, fd: RawFd, new: RawFd) -> io::Result<Address> {
        let id = self.find(fd)?;
        let socket = self.find_socket(fd)?;
        let host = socket.host;
        let peer = match socket.state {
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => self.tcp_accept(id, new),
            State::Udp(_) | State::UnixDatagram(_) => Err(os(libc::EOPNOTSUPP)),
            _ => self.unix_accept(id, new),
        }?;
        if self.is_faulty(host, |faults| faults.accept) {
            self.close(new)?;
            return Err(os(libc::ECONNABORTED));
        }
        Ok(peer)
    }

    /// Sends from several buffers, to an address or to the connected peer. Returns the number of bytes taken.
    ///
    /// # Errors
    /// Those of `sendmsg(2)` with `MSG_DONTWAIT` and `MSG_NOSIGNAL`.
    pub(crate) fn send_message(
        &mut self,
        fd: RawFd,
        slices: &[IoSlice<'_>],
        to: Option<&Address>,
    ) -> io::Result<usize> {
        let id = self.find(fd)?;
        let socket = self.find_socket(fd)?;
        let errno = match socket.state {
            State::Udp(_) => Some(libc::ENOBUFS),
            State::Tcp(_) | State::UnixStream(_) => Some(libc::ENOMEM),
            _ => None,
        };
        let host = socket.host;
        if let Some(errno) = errno
            && self.is_faulty(host, |faults| faults.send)
        {
            return Err(os(errno));
        }
        match self.find_socket(fd)?.state {
            State::Udp(_) => self.udp_send(id, slices, to),
            State::UnixDatagram(_) => self.unix_datagram_send(id, slices, to),
            State::UnixIdle | State::UnixStream(_) | State::UnixListener(_) => match to {
                // A stream has one peer (`unix_stream_sendmsg`).
                Some(_) if self.peer_address(fd).is_ok() => Err(os(libc::EISCONN)),
                Some(_) => Err(os(libc::EOPNOTSUPP)),
                None => self.unix_send(id, slices),
            },
            // TCP ignores the address.
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => self.tcp_send(id, slices),
        }
    }

    /// Receives into several buffers. With `peek`, nothing is taken.
    ///
    /// # Errors
    /// Those of `recvmsg(2)` with `MSG_DONTWAIT`.
    pub(crate) fn receive_message(
        &mut self,
        fd: RawFd,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<Received> {
        let id = self.find(fd)?;
        match self.find_socket(fd)?.state {
            State::Udp(_) => self.udp_recv(id, slices, peek),
            State::UnixDatagram(_) => self.unix_datagram_recv(id, slices, peek),
            State::UnixIdle | State::UnixStream(_) | State::UnixListener(_) => {
                self.unix_recv(id, slices, peek).map(Received::stream)
            }
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => {
                self.tcp_recv(id, slices, peek).map(Received::stream)
            }
        }
    }

    /// Sends to the connected peer.
    pub(crate) fn send(&mut self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        self.send_message(fd, &[IoSlice::new(bytes)], None)
    }

    /// Receives. The only flag is `MSG_PEEK`.
    pub(crate) fn recv(&mut self, fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        let peek = flags & libc::MSG_PEEK != 0;
        let received = self.receive_message(fd, &mut [IoSliceMut::new(buffer)], peek)?;
        Ok(received.bytes)
    }

    /// Ends one direction of a connection, or both.
    ///
    /// # Errors
    /// `ENOTCONN` if the socket is not connected.
    pub(crate) fn shutdown(&mut self, fd: RawFd, how: Shutdown) -> io::Result<()> {
        let id = self.find(fd)?;
        match &self.find_socket(fd)?.state {
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => self.tcp_shutdown(id, how),
            State::Udp(udp) => {
                let connected = udp.peer.is_some();
                self.udp_shutdown(id, how);
                // The flags are set even so (`inet_shutdown`).
                match connected {
                    true => Ok(()),
                    false => Err(os(libc::ENOTCONN)),
                }
            }
            _ => self.unix_shutdown(id, how),
        }
    }

    fn udp_shutdown(&mut self, id: SocketId, how: Shutdown) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.shutdown_read |= how != Shutdown::Write;
            socket.shutdown_write |= how != Shutdown::Read;
        }
        self.wake(id);
    }

    /// Returns the peer's address.
    ///
    /// # Errors
    /// `ENOTCONN` if the socket is not connected, or no longer.
    pub(crate) fn peer_address(&self, fd: RawFd) -> io::Result<Address> {
        let socket = self.find_socket(fd)?;
        let inet = |peer: Option<_>| peer.map(|peer| Address::Inet(seen_by(socket.domain, peer)));
        let peer = match &socket.state {
            State::Tcp(connection) => inet(connection.connected_peer()),
            State::Udp(udp) => inet(udp.peer),
            State::UnixStream(connection) => Some(Address::Unix(connection.peer_name.clone())),
            State::UnixDatagram(datagrams) => datagrams.peer_name.clone().map(Address::Unix),
            _ => None,
        };
        peer.ok_or_else(|| os(libc::ENOTCONN))
    }

    /// Returns the peer's address even if the peer has reset the connection (`SO_PEERNAME`).
    ///
    /// # Errors
    /// `ENOTCONN` if the socket was never connected.
    pub(crate) fn last_peer_address(&self, fd: RawFd) -> io::Result<Address> {
        let socket = self.find_socket(fd)?;
        match socket.connection() {
            Some(connection) => {
                let peer = seen_by(socket.domain, connection.last_peer());
                Ok(Address::Inet(peer))
            }
            None => self.peer_address(fd),
        }
    }

    /// The number of sockets, including those whose descriptors are closed.
    #[cfg(test)]
    pub(crate) fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// The bytes that all sockets hold for programs.
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.sockets.values().map(Socket::buffered_bytes).sum()
    }
}
