//! A TCP socket that accepts connections.

use super::bind::bind;
use super::listening_socket::{IncomingSockets, ListeningSocket};
use super::resolve::ToSocketAddrs;
use super::stream::{descriptor_of, timeouts};
use super::tcp::{TcpStream, first_of, inet, tcp_socket};
use crate::readiness::waits_until;
use crate::sys;
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// Options for [`TcpListener::bind_with`].
///
/// ```
/// use yue_io::net::{ListenOptions, TcpListener};
///
/// let options = ListenOptions { reuse_port: true, backlog: 128, ..ListenOptions::default() };
/// let one = TcpListener::bind_with("127.0.0.1:0", &options)?;
/// let other = TcpListener::bind_with(one.local_addr()?, &options)?; // For example on another loop.
/// assert_eq!(one.local_addr()?, other.local_addr()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Lets several listeners share the address. The kernel spreads connections over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// The maximum number of connections waiting to be accepted. The kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// Restricts an IPv6 socket to IPv6; `None` uses the system's setting (`IPV6_V6ONLY`).
    pub only_v6: Option<bool>,
    /// The number of connections that may deliver their first bytes before they are accepted (`TCP_FASTOPEN`); 0
    /// disables that. Ignored where the kernel does not support it.
    pub fast_open: u32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        // The kernel's default limit: a burst of clients should not see their connections refused.
        ListenOptions {
            reuse_port: false,
            backlog: 4096,
            only_v6: None,
            fast_open: 0,
        }
    }
}

/// A TCP socket that accepts connections, like [`std::net::TcpListener`]. Accepting parks the calling fiber.
///
/// ```
/// use yue_io::net::{ListenOptions, TcpListener, TcpStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
///     let listener = TcpListener::bind_with("127.0.0.1:0", &options)?;
///     let address = listener.local_addr()?;
///     let server = yue_scheduler::spawn(move || listener.incoming().take(2).count());
///     TcpStream::connect(address)?;
///     TcpStream::connect(address)?;
///     assert_eq!(server.join().unwrap(), 2);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpListener {
    socket: ListeningSocket,
}

impl TcpListener {
    /// Listens on the first available address. Port 0 lets the system choose a port. An address that is in use is tried
    /// again for 50 ms, because the kernel may still be ending the process that held it.
    ///
    /// # Errors
    /// The error of the last address tried; when there is no address; when a name cannot be resolved.
    pub fn bind(addresses: impl ToSocketAddrs) -> io::Result<TcpListener> {
        TcpListener::bind_with(addresses, &ListenOptions::default())
    }

    /// Like [`TcpListener::bind`], with options.
    ///
    /// # Errors
    /// See [`TcpListener::bind`].
    pub fn bind_with(
        addresses: impl ToSocketAddrs,
        options: &ListenOptions,
    ) -> io::Result<TcpListener> {
        first_of(addresses, |address| {
            let address = SockAddr::from(address);
            let socket = tcp_socket(&address)?;
            // A restarted server can bind its port again at once, like in the standard library.
            socket.options().set_reuse_address(true)?;
            if options.reuse_port {
                socket.options().set_reuse_port(true)?;
            }
            if let (Some(only_v6), true) = (options.only_v6, address.is_ipv6()) {
                socket.options().set_only_v6(only_v6)?;
            }
            bind(&socket, &address)?;
            if options.fast_open > 0 {
                // A kernel without fast open listens as usual.
                let _ = sys::set_fast_open(socket.raw(), options.fast_open);
            }
            socket
                .options()
                .listen(options.backlog.min(i32::MAX as u32) as i32)?;
            Ok(TcpListener {
                socket: socket.into(),
            })
        })
    }

    /// Refuses new connections from now on, while the listener is still open: `shutdown(2)` on a listening socket.
    /// Waits for connections end with an error.
    ///
    /// # Errors
    /// The system's error.
    pub fn stop(&self) -> io::Result<()> {
        self.socket.options().shutdown(std::net::Shutdown::Both)
    }

    /// Waits for the next connection.
    ///
    /// When the process is out of descriptors or memory, the error returns after a pause, so that an accept loop that
    /// ignores it does not spin.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = self.socket.accept()?;
        Ok((TcpStream::from_socket(socket), inet(&address)?))
    }

    /// Waits for a connection, and also accepts those that have already arrived, up to `most` in total.
    ///
    /// # Errors
    /// The error of [`TcpListener::accept`], if there is no connection at all.
    pub fn accept_many(&self, most: usize) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
        let mut accepted = vec![self.accept()?];
        while accepted.len() < most {
            // The next call meets the error again; the accepted connections must not be lost.
            let Ok((socket, address)) = self.socket.accept_now() else {
                break;
            };
            accepted.push((TcpStream::from_socket(socket), inet(&address)?));
        }
        Ok(accepted)
    }

    /// Returns an iterator over connections as they arrive. It ends when the fiber is cancelled or its deadline passes.
    ///
    /// Errors are rare, and a program may leave its accept loop with `?`: a read timeout passes
    /// ([`TcpListener::set_read_timeout`]), the descriptor is not a listener, the loop's driver does no I/O, or the
    /// caller is a loop's callback, which cannot wait. Temporary errors are waited out: clients that leave before they
    /// are accepted, and a process or system that is out of descriptors or memory (reported on standard error at most
    /// once a minute). Meanwhile the clients wait in the backlog.
    ///
    /// On io_uring one operation accepts all connections while the fiber waits for the next. This costs less than
    /// accepting each one separately, but a connection may be accepted before it is asked for. Such a connection goes
    /// to the next caller that accepts from this listener or a clone of it; a caller that already waits gets it at
    /// once. No connection is lost: the iterator still returns those accepted when the fiber is cancelled, and those
    /// left when it is dropped stay with the listener.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming {
            listener: self,
            sockets: IncomingSockets::default(),
        }
    }

    /// Returns a connection that [`TcpListener::incoming`] accepted in advance, if one is left. Does not wait.
    ///
    /// A listener that is handed to another process, or converted by `into_std`, does not keep these connections:
    /// accept them first.
    ///
    /// ```
    /// use yue_io::net::{TcpListener, TcpStream};
    ///
    /// yue_io::run(|| -> std::io::Result<()> {
    ///     let listener = TcpListener::bind("127.0.0.1:0")?;
    ///     let address = listener.local_addr()?;
    ///     let clients = [TcpStream::connect(address)?, TcpStream::connect(address)?];
    ///     let first = listener.incoming().next().unwrap()?;
    ///     let mut served = vec![first.peer_addr()?];
    ///     while let Some((_, from)) = listener.accept_queued() {
    ///         served.push(from); // On io_uring the second is here already.
    ///     }
    ///     let listener = listener.into_std()?; // Otherwise it is still in the backlog.
    ///     if served.len() == 1 {
    ///         served.push(listener.accept()?.1);
    ///     }
    ///     assert_eq!(served, [clients[0].local_addr()?, clients[1].local_addr()?]);
    ///     Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept_queued(&self) -> Option<(TcpStream, SocketAddr)> {
        let (socket, address) = self.socket.accept_queued()?;
        Some((TcpStream::from_socket(socket), inet(&address).ok()?))
    }

    /// Returns the listening address, including a port that the system chose.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }
}

descriptor_of!(TcpListener, std::net::TcpListener);
timeouts!(TcpListener);
waits_until!(
    readable,
    TcpListener,
    socket,
    "a connection waits to be accepted"
);

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener")
            .field("local", &self.local_addr().ok())
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

/// An iterator over the connections of a [`TcpListener`]. It belongs to the loop that uses it.
///
/// ```
/// use yue_io::net::{TcpListener, TcpStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let server = yue_scheduler::spawn(move || {
///         let mut served = 0;
///         for stream in listener.incoming() {
///             // A server starts a fiber for each connection.
///             yue_scheduler::spawn(move || stream?.set_nodelay(true));
///             served += 1;
///         }
///         served
///     });
///     std::io::read_to_string(TcpStream::connect(address)?)?; // Input ends when the connection is served.
///     server.cancel(); // The iteration ends.
///     assert_eq!(server.join().unwrap(), 1);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
    sockets: IncomingSockets,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.sockets.next(&self.listener.socket)?;
        Some(next.map(TcpStream::from_socket))
    }
}
