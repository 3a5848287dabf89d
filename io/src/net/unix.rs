//! Unix stream sockets: connections within one machine, named by a path.

use super::listening_socket::{IncomingSockets, ListeningSocket};
use super::socket::Socket;
use super::stream::{buffer_sizes, descriptor_of, read_and_write, timeouts};
use super::tcp_listener::ListenOptions;
use crate::readiness::waits_until;
use crate::simulated;
use crate::sys;
use socket2::{Domain, SockAddr, Type};
use std::ffi::OsStr;
use std::io;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::path::Path;

/// The owner of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The effective user id.
    pub user: u32,
    /// The effective group id.
    pub group: u32,
    /// The process id, by this process's numbering; zero if it has none here.
    pub process: u32,
}

/// A connection over a Unix socket, like [`std::os::unix::net::UnixStream`]. Reading and writing park the calling
/// fiber.
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::net::{UnixListener, UnixStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let path = std::env::temp_dir().join(format!("yue-example-{}.sock", std::process::id()));
///     let listener = UnixListener::bind(&path)?;
///     yue_scheduler::spawn(move || listener.accept()?.0.write_all(b"hello"));
///     let greeting = std::io::read_to_string(UnixStream::connect(&path)?)?;
///     assert_eq!(greeting, "hello");
///     std::fs::remove_file(path)
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixStream {
    pub(super) socket: Socket,
}

impl UnixStream {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
        UnixStream::connect_sock_addr(&SockAddr::unix(path)?)
    }

    /// Connects to an address, which may be an abstract name.
    ///
    /// # Errors
    /// See [`UnixStream::connect`].
    pub fn connect_addr(address: &SocketAddr) -> io::Result<UnixStream> {
        UnixStream::connect_sock_addr(&sock_addr(address)?)
    }

    fn connect_sock_addr(address: &SockAddr) -> io::Result<UnixStream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect(address)?;
        Ok(UnixStream { socket })
    }

    /// Creates two sockets connected to each other.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        if simulated::is_on() {
            let (one, other) = simulated::open_pair(Type::STREAM)?;
            return Ok((one.into(), other.into()));
        }
        let (one, other) = std::os::unix::net::UnixStream::pair()?;
        Ok((one.into(), other.into()))
    }

    /// Shuts down one direction of the connection, or both.
    ///
    /// # Errors
    /// The system's error, when the connection is closed.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }

    /// Returns the peer's address, which is often unnamed.
    ///
    /// # Errors
    /// The system's error, when the connection is closed.
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

    /// Returns the user, the group and the process at the other end, as they were when the connection was made
    /// (`SO_PEERCRED`).
    ///
    /// ```
    /// let (one, _other) = yue_io::net::UnixStream::pair()?;
    /// assert_eq!(one.peer_credentials()?.process, std::process::id());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        let credentials = sys::peer_credentials(self.socket.raw())?;
        Ok(PeerCredentials {
            user: credentials.uid,
            group: credentials.gid,
            process: credentials.pid.cast_unsigned(),
        })
    }

    /// Reads without consuming the bytes: the next read returns them again.
    ///
    /// # Errors
    /// The errors of a read.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer, libc::MSG_PEEK)
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

read_and_write!(UnixStream, &UnixStream);
descriptor_of!(UnixStream, std::os::unix::net::UnixStream);
timeouts!(UnixStream);
buffer_sizes!(UnixStream);
waits_until!(
    readable,
    UnixStream,
    socket,
    "a read would not wait: bytes are available, input has ended, or there is an error"
);
waits_until!(
    writable,
    UnixStream,
    socket,
    "a write would not wait: the kernel has room, or the connection is broken"
);

/// A Unix socket that accepts connections. The file at its path remains when the listener is dropped.
///
/// ```
/// use yue_io::net::{UnixListener, UnixStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     let path = dir.path().join("socket");
///     let listener = UnixListener::bind(&path)?;
///     let client = UnixStream::connect(&path)?; // The connection waits in the backlog.
///     let (server, _) = listener.accept()?;
///     assert_eq!(server.local_addr()?.as_pathname(), Some(path.as_path()));
///     assert_eq!(client.peer_addr()?.as_pathname(), Some(path.as_path()));
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixListener {
    socket: ListeningSocket,
}

impl UnixListener {
    /// Listens at `path`, which must not exist yet.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixListener> {
        UnixListener::bind_sock_addr(&SockAddr::unix(path)?)
    }

    /// Listens at an address, which may be an abstract name.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixListener> {
        UnixListener::bind_sock_addr(&sock_addr(address)?)
    }

    /// Like [`UnixListener::bind`], for a socket whose file has these permissions (less those that the umask removes)
    /// from its creation on.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let dir = yue_io::fs::TempDir::new()?;
    /// let path = dir.path().join("socket");
    /// let _listener = yue_io::net::UnixListener::bind_with_mode(&path, 0o600)?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn bind_with_mode(path: impl AsRef<Path>, mode: u32) -> io::Result<UnixListener> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The kernel gives the file the mode of the socket: see `unix_bind_bsd` in net/unix/af_unix.c.
        sys::set_mode(socket.raw(), mode)?;
        UnixListener::bind_socket(socket, &SockAddr::unix(path)?)
    }

    fn bind_sock_addr(address: &SockAddr) -> io::Result<UnixListener> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        UnixListener::bind_socket(socket, address)
    }

    fn bind_socket(socket: Socket, address: &SockAddr) -> io::Result<UnixListener> {
        socket.options().bind(address)?;
        socket
            .options()
            .listen(ListenOptions::default().backlog as i32)?;
        Ok(UnixListener {
            socket: socket.into(),
        })
    }

    /// Waits for the next connection. See [`TcpListener::accept`](super::TcpListener::accept).
    ///
    /// # Errors
    /// See [`TcpListener::accept`](super::TcpListener::accept).
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (socket, address) = self.socket.accept()?;
        Ok((UnixStream { socket }, unix(&address)?))
    }

    /// Returns an iterator over connections as they arrive. See
    /// [`TcpListener::incoming`](super::TcpListener::incoming).
    pub fn incoming(&self) -> UnixIncoming<'_> {
        UnixIncoming {
            listener: self,
            sockets: IncomingSockets::default(),
        }
    }

    /// Returns a connection that `incoming` accepted in advance, if one is left. See
    /// [`TcpListener::accept_queued`](super::TcpListener::accept_queued).
    pub fn accept_queued(&self) -> Option<(UnixStream, SocketAddr)> {
        let (socket, address) = self.socket.accept_queued()?;
        Some((UnixStream { socket }, unix(&address).ok()?))
    }

    /// Returns the listening address.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        unix(&self.socket.options().local_addr()?)
    }
}

/// An iterator over the connections of a [`UnixListener`]. It belongs to the loop that uses it.
#[derive(Debug)]
pub struct UnixIncoming<'a> {
    listener: &'a UnixListener,
    sockets: IncomingSockets,
}

impl Iterator for UnixIncoming<'_> {
    type Item = io::Result<UnixStream>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.sockets.next(&self.listener.socket)?;
        Some(next.map(|socket| UnixStream { socket }))
    }
}

/// Converts the address of a Unix socket: a path, an abstract name, or neither.
pub(super) fn unix(address: &SockAddr) -> io::Result<SocketAddr> {
    match (address.as_unix(), address.as_abstract_namespace()) {
        (Some(path), _) => Ok(path),
        (None, Some(name)) => SocketAddr::from_abstract_name(name),
        (None, None) => SocketAddr::from_pathname(""),
    }
}

/// Converts in the opposite direction.
pub(super) fn sock_addr(address: &SocketAddr) -> io::Result<SockAddr> {
    if let Some(path) = address.as_pathname() {
        return SockAddr::unix(path);
    }
    match address.as_abstract_name() {
        Some(name) => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the address of a Unix socket has neither a path nor a name",
        )),
    }
}

descriptor_of!(UnixListener, std::os::unix::net::UnixListener);
timeouts!(UnixListener);
waits_until!(
    readable,
    UnixListener,
    socket,
    "a connection waits to be accepted"
);
