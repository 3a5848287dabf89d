//! A TCP connection.

use super::resolve::ToSocketAddrs;
use super::socket::Socket;
use socket2::{Domain, Protocol, SockAddr};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A TCP connection, as [`std::net::TcpStream`]; reading and writing park the calling fiber.
pub struct TcpStream {
    socket: Socket,
}

impl TcpStream {
    /// Connects to the first address that accepts.
    ///
    /// # Errors
    /// Of the last address tried; when there is none; when a name cannot be resolved; when the fiber is told to stop.
    pub fn connect(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
        first_of(addresses, TcpStream::connect_addr)
    }

    /// Connects to one address.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn connect_addr(address: SocketAddr) -> io::Result<TcpStream> {
        let address = SockAddr::from(address);
        let socket = Socket::new(address.domain(), Some(Protocol::TCP))?;
        socket.connect(&address)?;
        Ok(TcpStream { socket })
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// The system's, when the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().peer_addr()?)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }

    /// Ends one direction of the connection, or both. Operations that wait in it end.
    ///
    /// # Errors
    /// The system's, when the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }

    /// Whether small writes are sent at once instead of being gathered (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.options().set_tcp_nodelay(nodelay)
    }

    /// What [`TcpStream::set_nodelay`] has set.
    ///
    /// # Errors
    /// The system's.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.options().tcp_nodelay()
    }

    /// Reads without taking the bytes out: the next read sees them again.
    ///
    /// # Errors
    /// As a read.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer, libc::MSG_PEEK)
    }

    /// A second handle on the same connection.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream {
            socket: Socket::from(self.socket.as_fd().try_clone_to_owned()?),
        })
    }

    /// The standard library's stream, in blocking mode.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        Ok(std::net::TcpStream::from(self.socket.into_fd()?))
    }

    pub(super) fn from_socket(socket: Socket) -> TcpStream {
        TcpStream { socket }
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

/// Calls `attempt` with each address in turn until one succeeds.
pub(super) fn first_of<T>(
    addresses: impl ToSocketAddrs,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for address in addresses.resolve()? {
        match attempt(address) {
            Err(error) if !yue_scheduler::is_cancelled() => last = Some(error),
            done => return done,
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to use")))
}

/// The address of an IPv4 or IPv6 socket.
pub(super) fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    let unexpected = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the socket has no internet address",
        )
    };
    address.as_socket().ok_or_else(unexpected)
}

impl From<std::net::TcpStream> for TcpStream {
    fn from(stream: std::net::TcpStream) -> Self {
        TcpStream {
            socket: Socket::from(OwnedFd::from(stream)),
        }
    }
}

impl Read for &TcpStream {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer, 0)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.socket.recv_vectored(buffers)
    }
}

impl Write for &TcpStream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.send_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer, 0)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.socket.recv_vectored(buffers)
    }
}

impl Write for TcpStream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.send_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.raw()
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr().ok())
            .field("peer", &self.peer_addr().ok())
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

pub(super) fn tcp_socket(address: &SockAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::from(i32::from(address.family())),
        Some(Protocol::TCP),
    )
}
