//! Datagrams between the processes of one machine.

use super::socket::Socket;
use super::stream::{buffer_sizes, descriptor_of, timeouts};
use super::unix::{sock_addr, unix};
use crate::poll::{readable, writable};
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::SocketAddr;
use std::path::Path;

/// A Unix socket for datagrams, as [`std::os::unix::net::UnixDatagram`]; sending and receiving park the calling fiber.
/// No datagram is lost or overtaken: a sender waits until the receiver has room.
///
/// ```
/// use yue::net::UnixDatagram;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let (one, other) = UnixDatagram::pair()?;
///     one.send(b"first")?;
///     one.send(b"second")?;
///     let mut buffer = [0; 64];
///     assert_eq!(other.recv(&mut buffer)?, 5);
///     assert_eq!(other.recv(&mut buffer)?, 6);
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixDatagram {
    pub(super) socket: Socket,
}

impl UnixDatagram {
    /// A socket at `path`, which must not exist yet, and stays when the socket is dropped.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_sock_addr(&SockAddr::unix(path)?)
    }

    /// A socket at an address, which may be an abstract name.
    ///
    /// # Errors
    /// The system's.
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_sock_addr(&sock_addr(address)?)
    }

    fn bind_sock_addr(address: &SockAddr) -> io::Result<UnixDatagram> {
        let bound = UnixDatagram::unbound()?;
        bound.socket.options().bind(address)?;
        Ok(bound)
    }

    /// A socket without an address: it can send, but nobody can answer.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn unbound() -> io::Result<UnixDatagram> {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        Ok(UnixDatagram { socket })
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (one, other) = std::os::unix::net::UnixDatagram::pair()?;
        Ok((one.into(), other.into()))
    }

    /// Has `send` and `recv` concern the socket at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.socket.options().connect(&SockAddr::unix(path)?)
    }

    /// Has `send` and `recv` concern the socket at an address.
    ///
    /// # Errors
    /// The system's.
    pub fn connect_addr(&self, address: &SocketAddr) -> io::Result<()> {
        self.socket.options().connect(&sock_addr(address)?)
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    /// Receives a datagram. What it has more than the buffer is lost.
    ///
    /// # Errors
    /// As [`UnixDatagram::send`].
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, 0)
    }

    /// Sends a datagram to the socket at `path`.
    ///
    /// # Errors
    /// As [`UnixDatagram::send`].
    pub fn send_to(&self, bytes: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        self.socket.send_to(bytes, &SockAddr::unix(path)?)
    }

    /// Sends a datagram to the socket at an address.
    ///
    /// # Errors
    /// As [`UnixDatagram::send`].
    pub fn send_to_addr(&self, bytes: &[u8], address: &SocketAddr) -> io::Result<usize> {
        self.socket.send_to(bytes, &sock_addr(address)?)
    }

    /// Receives a datagram and its sender's address, which may be unnamed.
    ///
    /// # Errors
    /// As [`UnixDatagram::recv`].
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, 0)?;
        Ok((count, unix(&from)?))
    }

    /// As [`UnixDatagram::recv`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// As [`UnixDatagram::recv`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, libc::MSG_PEEK)
    }

    /// As [`UnixDatagram::recv_from`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// As [`UnixDatagram::recv_from`].
    pub fn peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, libc::MSG_PEEK)?;
        Ok((count, unix(&from)?))
    }

    /// The peer's address.
    ///
    /// # Errors
    /// The system's, when there is no peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        unix(&self.socket.options().peer_addr()?)
    }

    /// The socket's own address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unix(&self.socket.options().local_addr()?)
    }

    /// Ends one direction, or both.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }
}

descriptor_of!(UnixDatagram, std::os::unix::net::UnixDatagram);
timeouts!(UnixDatagram);
buffer_sizes!(UnixDatagram);
readable!(
    UnixDatagram,
    socket,
    "a datagram is there to be received, or an error"
);
writable!(
    UnixDatagram,
    socket,
    "there is room in the kernel for a datagram"
);
