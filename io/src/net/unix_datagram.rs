//! Datagrams between the processes of one machine.

use super::socket::Socket;
use super::stream::{buffer_sizes, descriptor_of, timeouts};
use super::unix::{sock_addr, unix};
use crate::readiness::waits_until;
use crate::simulated;
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::SocketAddr;
use std::path::Path;

/// A Unix socket for datagrams, like [`std::os::unix::net::UnixDatagram`]. Sending and receiving park the calling
/// fiber. Datagrams are neither lost nor reordered: a sender waits until the receiver has room.
///
/// ```
/// use yue_io::net::UnixDatagram;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (one, other) = UnixDatagram::pair()?;
///     one.send(b"first")?;
///     one.send(b"second")?;
///     let mut buffer = [0; 64];
///     assert_eq!(other.recv(&mut buffer)?, 5);
///     assert_eq!(other.recv(&mut buffer)?, 6);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixDatagram {
    pub(super) socket: Socket,
}

impl UnixDatagram {
    /// Binds a socket to `path`, which must not exist yet. The file remains when the socket is dropped.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_sock_addr(&SockAddr::unix(path)?)
    }

    /// Binds a socket to an address, which may be an abstract name.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_sock_addr(&sock_addr(address)?)
    }

    fn bind_sock_addr(address: &SockAddr) -> io::Result<UnixDatagram> {
        let bound = UnixDatagram::unbound()?;
        bound.socket.options().bind(address)?;
        Ok(bound)
    }

    /// Creates a socket without an address: it can send, but receivers cannot answer.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn unbound() -> io::Result<UnixDatagram> {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        Ok(UnixDatagram { socket })
    }

    /// Creates two sockets connected to each other.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        if simulated::is_on() {
            let (one, other) = simulated::open_pair(Type::DGRAM)?;
            return Ok((one.into(), other.into()));
        }
        let (one, other) = std::os::unix::net::UnixDatagram::pair()?;
        Ok((one.into(), other.into()))
    }

    /// Restricts `send` and `recv` to the socket at `path`.
    ///
    /// # Errors
    /// The system's error.
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.socket.options().connect(&SockAddr::unix(path)?)
    }

    /// Restricts `send` and `recv` to the socket at an address.
    ///
    /// # Errors
    /// The system's error.
    pub fn connect_addr(&self, address: &SocketAddr) -> io::Result<()> {
        self.socket.options().connect(&sock_addr(address)?)
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    /// Receives a datagram. Bytes beyond the buffer are lost.
    ///
    /// # Errors
    /// See [`UnixDatagram::send`].
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, 0)
    }

    /// Sends a datagram to the socket at `path`.
    ///
    /// # Errors
    /// See [`UnixDatagram::send`].
    pub fn send_to(&self, bytes: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        self.socket.send_to(bytes, &SockAddr::unix(path)?)
    }

    /// Sends a datagram to the socket at an address.
    ///
    /// # Errors
    /// See [`UnixDatagram::send`].
    pub fn send_to_addr(&self, bytes: &[u8], address: &SocketAddr) -> io::Result<usize> {
        self.socket.send_to(bytes, &sock_addr(address)?)
    }

    /// Receives a datagram and its sender's address, which may be unnamed.
    ///
    /// # Errors
    /// See [`UnixDatagram::recv`].
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, 0)?;
        Ok((count, unix(&from)?))
    }

    /// Like [`UnixDatagram::recv`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// See [`UnixDatagram::recv`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, libc::MSG_PEEK)
    }

    /// Like [`UnixDatagram::recv_from`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// See [`UnixDatagram::recv_from`].
    pub fn peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, libc::MSG_PEEK)?;
        Ok((count, unix(&from)?))
    }

    /// Returns the peer's address.
    ///
    /// # Errors
    /// The system's error, when there is no peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        unix(&self.socket.options().peer_addr()?)
    }

    /// Returns the local address.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unix(&self.socket.options().local_addr()?)
    }

    /// Shuts down one direction, or both.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }
}

descriptor_of!(UnixDatagram, std::os::unix::net::UnixDatagram);
timeouts!(UnixDatagram);
buffer_sizes!(UnixDatagram);
waits_until!(
    readable,
    UnixDatagram,
    socket,
    "a datagram or an error is available"
);
waits_until!(
    writable,
    UnixDatagram,
    socket,
    "the kernel has room for a datagram"
);
