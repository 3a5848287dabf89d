//! A TCP socket that accepts connections.

use super::resolve::ToSocketAddrs;
use super::socket::Socket;
use super::tcp::{TcpStream, first_of, inet, tcp_socket};
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use yue_scheduler::{in_fiber, is_cancelled, sleep};

/// How [`TcpListener::bind_with`] makes the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Lets several listeners share the address; the kernel spreads connections over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Connections that may wait to be accepted; the kernel has a limit of its own (`net.core.somaxconn`).
    pub backlog: u32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        // The kernel's default limit: a burst of clients should not see their connections refused.
        ListenOptions {
            reuse_port: false,
            backlog: 4096,
        }
    }
}

/// A TCP socket that accepts connections, as [`std::net::TcpListener`]; accepting parks the calling fiber.
pub struct TcpListener {
    socket: Socket,
}

impl TcpListener {
    /// Listens on the first address that can be had. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// Of the last address tried; when there is none; when a name cannot be resolved.
    pub fn bind(addresses: impl ToSocketAddrs) -> io::Result<TcpListener> {
        TcpListener::bind_with(addresses, &ListenOptions::default())
    }

    /// As [`TcpListener::bind`], with options.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind_with(
        addresses: impl ToSocketAddrs,
        options: &ListenOptions,
    ) -> io::Result<TcpListener> {
        first_of(addresses, |address| {
            let address = SockAddr::from(address);
            let socket = tcp_socket(&address)?;
            // A server that is started again takes its port back at once, as the standard library has it.
            socket.options().set_reuse_address(true)?;
            if options.reuse_port {
                socket.options().set_reuse_port(true)?;
            }
            socket.options().bind(&address)?;
            socket
                .options()
                .listen(options.backlog.min(i32::MAX as u32) as i32)?;
            Ok(TcpListener { socket })
        })
    }

    /// Waits for the next connection.
    ///
    /// When the process is out of descriptors or memory, the error comes after a pause: a loop that goes on regardless
    /// does not spin.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = accept(&self.socket)?;
        Ok((TcpStream::from_socket(socket), inet(&address)?))
    }

    /// The connections as they come. Ends when the fiber is told to stop.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The address on which the socket listens, the port that the system chose included.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }

    /// A second handle on the same socket, for another loop.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<TcpListener> {
        Ok(TcpListener {
            socket: Socket::from(self.socket.as_fd().try_clone_to_owned()?),
        })
    }

    /// The standard library's listener, in blocking mode.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn into_std(self) -> io::Result<std::net::TcpListener> {
        Ok(std::net::TcpListener::from(self.socket.into_fd()?))
    }
}

/// How long an accept waits before it reports that the process is out of something.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts on any kind of socket.
pub(super) fn accept(socket: &Socket) -> io::Result<(Socket, SockAddr)> {
    loop {
        match socket.accept() {
            // The client has gone again; that is no concern of ours.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(error) if is_shortage(&error) => {
                if in_fiber() {
                    sleep(PAUSE)?;
                } else if !yue_scheduler::this_loop::exists() {
                    std::thread::sleep(PAUSE);
                }
                return Err(error);
            }
            other => return other,
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

impl From<std::net::TcpListener> for TcpListener {
    fn from(listener: std::net::TcpListener) -> Self {
        TcpListener {
            socket: Socket::from(OwnedFd::from(listener)),
        }
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.raw()
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener")
            .field("local", &self.local_addr().ok())
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

/// The connections of a [`TcpListener`].
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(_) if is_cancelled() => None,
            Err(error) => Some(Err(error)),
        }
    }
}
