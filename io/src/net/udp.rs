//! UDP sockets.

use super::bind::bind;
use super::datagram_batch::{self, Datagrams};
use super::resolve::ToSocketAddrs;
use super::socket::Socket;
use super::stream::{buffer_sizes, descriptor_of, timeouts};
use super::tcp::{first_of, inet};
use crate::readiness::waits_until;
use socket2::{Domain, Protocol, SockAddr, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// A UDP socket, like [`std::net::UdpSocket`]. Sending and receiving park the calling fiber.
///
/// ```
/// use yue_io::net::UdpSocket;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let server = UdpSocket::bind("127.0.0.1:0")?;
///     let address = server.local_addr()?;
///     yue_scheduler::spawn(move || -> std::io::Result<()> {
///         let mut buffer = [0; 1500];
///         let (length, from) = server.recv_from(&mut buffer)?;
///         server.send_to(&buffer[..length], from)?;
///         Ok(())
///     });
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.connect(address)?;
///     client.send(b"ping")?;
///     let mut buffer = [0; 16];
///     assert_eq!(client.recv(&mut buffer)?, 4);
///     assert_eq!(&buffer[..4], b"ping");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UdpSocket {
    socket: Socket,
}

impl UdpSocket {
    /// Binds a socket to the first available address. Port 0 lets the system choose a port. An address that is in use
    /// is tried again for 50 ms, like in [`TcpListener::bind`](super::TcpListener::bind).
    ///
    /// # Errors
    /// The error of the last address tried; when there is no address; when a name cannot be resolved.
    pub fn bind(addresses: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        UdpSocket::bind_with(addresses, false)
    }

    /// Like [`UdpSocket::bind`]. With `reuse_port`, several sockets can share the address: one per loop, over which the
    /// kernel spreads the senders (`SO_REUSEPORT`), or several receivers of one multicast group.
    ///
    /// # Errors
    /// See [`UdpSocket::bind`].
    pub fn bind_with(addresses: impl ToSocketAddrs, reuse_port: bool) -> io::Result<UdpSocket> {
        first_of(addresses, |address| {
            let address = SockAddr::from(address);
            let domain = Domain::from(i32::from(address.family()));
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            if reuse_port {
                socket.options().set_reuse_address(true)?;
                socket.options().set_reuse_port(true)?;
            }
            bind(&socket, &address)?;
            Ok(UdpSocket { socket })
        })
    }

    /// Restricts `send` and `recv` to one peer; datagrams from others are dropped. Does not wait, except to resolve
    /// names.
    ///
    /// # Errors
    /// The error of the last address tried.
    pub fn connect(&self, addresses: impl ToSocketAddrs) -> io::Result<()> {
        first_of(addresses, |address| {
            self.socket.options().connect(&SockAddr::from(address))
        })
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// The system's error (`ConnectionRefused` when an earlier datagram met a closed port); or when the fiber is
    /// cancelled or its deadline passes.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(bytes)
    }

    /// Receives a datagram from the peer. Bytes beyond the buffer are lost.
    ///
    /// # Errors
    /// See [`UdpSocket::send`].
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, 0)
    }

    /// Sends a datagram to the first of the addresses.
    ///
    /// # Errors
    /// The system's error; when there is no address; or when the fiber is cancelled or its deadline passes.
    pub fn send_to(&self, bytes: &[u8], addresses: impl ToSocketAddrs) -> io::Result<usize> {
        let none = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot send a datagram: the name has no address",
            )
        };
        let addresses = addresses.resolve()?;
        let address = addresses.first().ok_or_else(none)?;
        self.socket.send_to(bytes, &SockAddr::from(*address))
    }

    /// Receives a datagram and its sender's address. Bytes beyond the buffer are lost.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, 0)?;
        Ok((count, inet(&from)?))
    }

    /// Like [`UdpSocket::recv`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// See [`UdpSocket::recv`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv_datagram(buffer, libc::MSG_PEEK)
    }

    /// Like [`UdpSocket::recv_from`], but leaves the datagram for the next call.
    ///
    /// # Errors
    /// See [`UdpSocket::recv_from`].
    pub fn peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (count, from) = self.socket.recv_from(buffer, libc::MSG_PEEK)?;
        Ok((count, inet(&from)?))
    }

    /// Waits for datagrams and receives all that are queued, up to the capacity of `into`, in one system call. Returns
    /// their number; they stay in `into` until the next call.
    ///
    /// # Errors
    /// See [`UdpSocket::recv_from`].
    ///
    /// ```
    /// use yue_io::net::{Datagrams, UdpSocket};
    ///
    /// yue_io::run(|| -> std::io::Result<()> {
    ///     let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    ///     let to = Some(other.local_addr()?);
    ///     assert_eq!(one.send_batch(&[(b"a", to), (b"bc", to)])?, 2);
    ///     let mut batch = Datagrams::new(32, 1500);
    ///     other.recv_batch(&mut batch)?;
    ///     assert_eq!(batch.iter().next().unwrap().bytes, b"a");
    ///     Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv_batch(&self, into: &mut Datagrams) -> io::Result<usize> {
        into.receive(&self.socket)
    }

    /// Sends datagrams, each to its address (`None`: to the peer), in one system call. Waits until the kernel accepts
    /// the first. Returns the number sent, which may be less than requested: at most 64.
    ///
    /// # Errors
    /// Errors of the first datagram: the system's error; or when the fiber is cancelled or its deadline passes.
    pub fn send_batch(&self, datagrams: &[(&[u8], Option<SocketAddr>)]) -> io::Result<usize> {
        datagram_batch::send(&self.socket, datagrams)
    }

    /// Returns the peer's address.
    ///
    /// # Errors
    /// The system's error, when there is no peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().peer_addr()?)
    }

    /// Returns the local address, including a port that the system chose.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }

    /// Sets whether datagrams may be sent to broadcast addresses.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_broadcast(&self, broadcast: bool) -> io::Result<()> {
        self.socket.options().set_broadcast(broadcast)
    }

    /// Returns the value set by [`UdpSocket::set_broadcast`].
    ///
    /// # Errors
    /// The system's error.
    pub fn broadcast(&self) -> io::Result<bool> {
        self.socket.options().broadcast()
    }

    /// Sets the time to live of sent datagrams.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.options().set_ttl_v4(ttl)
    }

    /// Returns the value set by [`UdpSocket::set_ttl`].
    ///
    /// # Errors
    /// The system's error.
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.options().ttl_v4()
    }

    /// Joins a multicast group on the interface with that address (unspecified: the system chooses).
    ///
    /// # Errors
    /// The system's error.
    pub fn join_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.options().join_multicast_v4(group, interface)
    }

    /// Leaves a group joined by [`UdpSocket::join_multicast_v4`].
    ///
    /// # Errors
    /// The system's error.
    pub fn leave_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.options().leave_multicast_v4(group, interface)
    }

    /// Joins a multicast group on the interface with that index (0: the system chooses).
    ///
    /// # Errors
    /// The system's error.
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.options().join_multicast_v6(group, interface)
    }

    /// Leaves a group joined by [`UdpSocket::join_multicast_v6`].
    ///
    /// # Errors
    /// The system's error.
    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.options().leave_multicast_v6(group, interface)
    }

    /// Sets the interface through which multicast datagrams are sent.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_multicast_if_v4(&self, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.options().set_multicast_if_v4(interface)
    }

    /// Sets whether multicast datagrams are also delivered to this machine.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.socket.options().set_multicast_loop_v4(on)
    }

    /// Returns the value set by [`UdpSocket::set_multicast_loop_v4`].
    ///
    /// # Errors
    /// The system's error.
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        self.socket.options().multicast_loop_v4()
    }

    /// Like [`UdpSocket::set_multicast_loop_v4`], for IPv6.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.socket.options().set_multicast_loop_v6(on)
    }

    /// Sets the time to live of multicast datagrams: how many networks they cross.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        self.socket.options().set_multicast_ttl_v4(ttl)
    }

    /// Returns the value set by [`UdpSocket::set_multicast_ttl_v4`].
    ///
    /// # Errors
    /// The system's error.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        self.socket.options().multicast_ttl_v4()
    }
}

descriptor_of!(UdpSocket, std::net::UdpSocket);
timeouts!(UdpSocket);
buffer_sizes!(UdpSocket);
waits_until!(
    readable,
    UdpSocket,
    socket,
    "a datagram or an error is available"
);
waits_until!(
    writable,
    UdpSocket,
    socket,
    "the kernel has room for a datagram"
);

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local_addr().ok())
            .field("peer", &self.peer_addr().ok())
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}
