//! A TCP connection.

use super::connect::{ConnectOptions, connect};
use super::resolve::ToSocketAddrs;
use super::socket::Socket;
use super::stream::{buffer_sizes, descriptor_of, read_and_write, timeouts};
use crate::readiness::waits_until;
use crate::simulated;
use crate::sys;
use socket2::{Domain, Protocol, SockAddr, Type};
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;
use yue_scheduler::{deadline_after, in_fiber, with_deadline};

/// A TCP connection, like [`std::net::TcpStream`]. Reading and writing park the calling fiber.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use yue_io::net::{TcpListener, TcpStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let listener = TcpListener::bind("localhost:0")?;
///     let address = listener.local_addr()?;
///     yue_scheduler::spawn(move || -> std::io::Result<()> {
///         let (stream, _) = listener.accept()?;
///         let mut line = String::new();
///         BufReader::new(&stream).read_line(&mut line)?;
///         (&stream).write_all(line.to_uppercase().as_bytes())
///     });
///     let mut stream = TcpStream::connect(address)?;
///     stream.set_nodelay(true)?;
///     stream.write_all(b"hello\n")?;
///     assert_eq!(std::io::read_to_string(stream)?, "HELLO\n");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpStream {
    socket: Socket,
}

/// Settings for probing an idle connection and giving it up.
///
/// ```
/// use std::time::Duration;
/// use yue_io::net::{Keepalive, TcpListener, TcpStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let stream = TcpStream::connect(listener.local_addr()?)?;
///     let keepalive = Keepalive { idle: Duration::from_secs(5), ..Keepalive::default() };
///     stream.set_keepalive(Some(keepalive))?;
///     assert_eq!(stream.keepalive()?, Some(keepalive));
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe; whole seconds.
    pub idle: Duration,
    /// The time between two probes; whole seconds.
    pub interval: Duration,
    /// Unanswered probes after which the connection is broken.
    pub retries: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        // A lost peer is found within a minute; Linux's default would take two hours.
        Keepalive {
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            retries: 3,
        }
    }
}

impl TcpStream {
    /// Connects to the first address that answers. Earlier addresses are preferred: the next address is tried in
    /// parallel when one does not answer soon, and the two families alternate (RFC 8305).
    ///
    /// # Errors
    /// The error of the last failed attempt; when there is no address; when a name cannot be resolved; when the fiber
    /// is cancelled or its deadline passes. A connection that the system makes from a free local port to itself fails
    /// with `ConnectionRefused`.
    pub fn connect(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
        TcpStream::connect_with(addresses, &ConnectOptions::default())
    }

    /// Like [`TcpStream::connect`], with options.
    ///
    /// # Errors
    /// See [`TcpStream::connect`].
    pub fn connect_with(
        addresses: impl ToSocketAddrs,
        options: &ConnectOptions,
    ) -> io::Result<TcpStream> {
        connect(addresses.resolve()?, options)
    }

    /// Connects to one address.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn connect_addr(address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect_one(address, &ConnectOptions::default())
    }

    /// Connects to one address, with a time limit.
    ///
    /// # Errors
    /// `TimedOut` when it took too long; otherwise see [`TcpStream::connect_addr`].
    pub fn connect_timeout(address: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if in_fiber() {
            let at = deadline_after(timeout);
            return with_deadline(at, || TcpStream::connect_addr(*address));
        }
        if simulated::is_on() {
            // A plain thread of a simulation waits as long as the simulated system does.
            return TcpStream::connect_addr(*address);
        }
        let stream = TcpStream::from(std::net::TcpStream::connect_timeout(address, timeout)?);
        stream.socket.refuse_self_connection()?;
        Ok(stream)
    }

    pub(super) fn connect_one(
        address: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<TcpStream> {
        let address = SockAddr::from(address);
        let socket = tcp_socket(&address)?;
        if options.fast_open {
            // A kernel without fast open connects as usual.
            let _ = sys::set_fast_open_connect(socket.raw());
        }
        if let Some(local) = options.local {
            socket.options().bind(&SockAddr::from(local))?;
        }
        socket.connect(&address)?;
        if options.local.is_none_or(|local| local.port() == 0) {
            // If the program chose the local port, a self-connection is deliberate.
            socket.refuse_self_connection()?;
        }
        Ok(TcpStream { socket })
    }

    /// Returns the peer's address.
    ///
    /// # Errors
    /// The system's error, when the connection is closed.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().peer_addr()?)
    }

    /// Returns the local address.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }

    /// Shuts down one direction of the connection, or both. Operations that wait in it end.
    ///
    /// # Errors
    /// The system's error, when the connection is closed.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }

    /// Sets whether small writes are sent at once instead of being gathered (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The system's error.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.options().set_tcp_nodelay(nodelay)
    }

    /// Returns the value set by [`TcpStream::set_nodelay`].
    ///
    /// # Errors
    /// The system's error.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.options().tcp_nodelay()
    }

    /// Makes the kernel probe a silent peer; `None` turns that off (`SO_KEEPALIVE`).
    ///
    /// # Errors
    /// The system's error, also for times out of its range.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match keepalive {
            None => self.socket.options().set_keepalive(false),
            Some(keepalive) => self.socket.options().set_tcp_keepalive(&keepalive),
        }
    }

    /// Sets the time for which sent bytes may stay without an answer (`TCP_USER_TIMEOUT`): then the connection breaks
    /// with `TimedOut`. `None`, the default, leaves it to the system, which gives up after some 15 minutes.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_user_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.options().set_tcp_user_timeout(limit)
    }

    /// Returns the value set by [`TcpStream::set_user_timeout`].
    ///
    /// # Errors
    /// The system's error.
    pub fn user_timeout(&self) -> io::Result<Option<Duration>> {
        let limit = self.socket.options().tcp_user_timeout()?;
        Ok(limit.filter(|limit| !limit.is_zero()))
    }

    /// Returns the value set by [`TcpStream::set_keepalive`].
    ///
    /// # Errors
    /// The system's error.
    pub fn keepalive(&self) -> io::Result<Option<Keepalive>> {
        self.socket.options().tcp_keepalive()
    }

    /// Sets what closing does with unsent bytes (`SO_LINGER`). `None`, the default, sends them in the background. A
    /// duration makes the closing thread wait for them that long, which blocks its whole loop. Zero drops them and
    /// resets the connection.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.socket.options().set_linger(linger)
    }

    /// Returns the value set by [`TcpStream::set_linger`].
    ///
    /// # Errors
    /// The system's error.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        self.socket.options().linger()
    }

    /// Sets the time to live of sent packets (`IP_TTL`).
    ///
    /// # Errors
    /// The system's error.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.options().set_ttl_v4(ttl)
    }

    /// Returns the value set by [`TcpStream::set_ttl`].
    ///
    /// # Errors
    /// The system's error.
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.options().ttl_v4()
    }

    /// Reads without consuming the bytes: the next read returns them again.
    ///
    /// # Errors
    /// The errors of a read.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer, libc::MSG_PEEK)
    }

    pub(super) fn from_socket(socket: Socket) -> TcpStream {
        TcpStream { socket }
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

read_and_write!(TcpStream, &TcpStream);
descriptor_of!(TcpStream, std::net::TcpStream);
timeouts!(TcpStream);
buffer_sizes!(TcpStream);
waits_until!(
    readable,
    TcpStream,
    socket,
    "a read would not wait: bytes are available, input has ended, or there is an error"
);
waits_until!(
    writable,
    TcpStream,
    socket,
    "a write would not wait: the kernel has room, or the connection is broken"
);

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
    Err(last
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

/// Returns the address of an IPv4 or IPv6 socket.
pub(super) fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    let unexpected = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the socket has no internet address",
        )
    };
    address.as_socket().ok_or_else(unexpected)
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
        Type::STREAM,
        Some(Protocol::TCP),
    )
}
