//! A TCP socket that accepts connections.

use super::listening::{Arrivals, Listening};
use super::resolve::ToSocketAddrs;
use super::stream::{descriptor_of, timeouts};
use super::tcp::{TcpStream, first_of, inet, tcp_socket};
use crate::poll::readable;
use crate::sys;
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// How [`TcpListener::bind_with`] makes the socket.
///
/// ```
/// use yue::net::{ListenOptions, TcpListener};
///
/// let options = ListenOptions { reuse_port: true, backlog: 128, ..ListenOptions::default() };
/// let one = TcpListener::bind_with("127.0.0.1:0", &options)?;
/// let other = TcpListener::bind_with(one.local_addr()?, &options)?; // On another loop, say.
/// assert_eq!(one.local_addr()?, other.local_addr()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// Lets several listeners share the address; the kernel spreads connections over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Connections that may wait to be accepted; the kernel has a limit of its own (`net.core.somaxconn`).
    pub backlog: u32,
    /// Has an IPv6 socket leave IPv4 alone; `None` does as the system is set (`IPV6_V6ONLY`).
    pub only_v6: Option<bool>,
    /// Connections that may bring their first bytes along before they are accepted (`TCP_FASTOPEN`); 0 takes none.
    /// Where the kernel has no such thing it is left out.
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

/// A TCP socket that accepts connections, as [`std::net::TcpListener`]; accepting parks the calling fiber.
///
/// ```
/// use yue::net::{ListenOptions, TcpListener, TcpStream};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
///     let listener = TcpListener::bind_with("127.0.0.1:0", &options)?;
///     let address = listener.local_addr()?;
///     let server = yue::spawn(move || listener.incoming().take(2).count());
///     TcpStream::connect(address)?;
///     TcpStream::connect(address)?;
///     assert_eq!(server.join().unwrap(), 2);
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpListener {
    socket: Listening,
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
            if let (Some(only_v6), true) = (options.only_v6, address.is_ipv6()) {
                socket.options().set_only_v6(only_v6)?;
            }
            socket.options().bind(&address)?;
            if options.fast_open > 0 {
                // A kernel without it listens as usual.
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

    /// Waits for the next connection.
    ///
    /// When the process is out of descriptors or memory, the error comes after a pause: a loop that goes on regardless
    /// does not spin.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = self.socket.accept()?;
        Ok((TcpStream::from_socket(socket), inet(&address)?))
    }

    /// Waits for a connection, and takes those along that have come with it, `most` at the most.
    ///
    /// # Errors
    /// As [`TcpListener::accept`], if there is none at all.
    pub fn accept_many(&self, most: usize) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
        let mut accepted = vec![self.accept()?];
        while accepted.len() < most {
            // An error is the next call's: what was accepted must not be lost.
            let Ok((socket, address)) = self.socket.accept_now() else {
                break;
            };
            accepted.push((TcpStream::from_socket(socket), inet(&address)?));
        }
        Ok(accepted)
    }

    /// The connections as they come. Ends when the fiber is told to stop.
    ///
    /// An item that is an error is rare, and a loop may leave by it with `?`: a read timeout that passes
    /// ([`TcpListener::set_read_timeout`]), a descriptor that is no listener, a loop whose driver does no I/O, a
    /// callback of a loop, where nothing can wait. What is over by itself is waited out: clients that are gone before
    /// they are accepted, and a process or system that is out of descriptors or memory (standard error says so then,
    /// once a minute at the most). Meanwhile the clients wait in the backlog.
    ///
    /// On io_uring one operation takes them all, for as long as the fiber waits for the next: that costs less than to
    /// accept each by itself, but a connection may be taken before its turn. Then it is for whoever accepts next from
    /// this listener or a clone of it, and one that waits already gets it at once. So none is lost: what was taken when
    /// the fiber is told to stop still comes, and what is left when the iterator is dropped stays with the listener.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming {
            listener: self,
            arrivals: Arrivals::default(),
        }
    }

    /// A connection that [`TcpListener::incoming`] took from the system before its turn, if one is left. It does not
    /// wait.
    ///
    /// A listener that is handed to another process, or converted by `into_std`, leaves these behind: take them first.
    ///
    /// ```
    /// use yue::net::{TcpListener, TcpStream};
    ///
    /// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    ///     let listener = TcpListener::bind("127.0.0.1:0")?;
    ///     let address = listener.local_addr()?;
    ///     let clients = [TcpStream::connect(address)?, TcpStream::connect(address)?];
    ///     let first = listener.incoming().next().unwrap()?;
    ///     let mut served = vec![first.peer_addr()?];
    ///     while let Some((_, from)) = listener.accept_taken() {
    ///         served.push(from); // On io_uring the second is here.
    ///     }
    ///     let listener = listener.into_std()?; // Else it is there.
    ///     if served.len() == 1 {
    ///         served.push(listener.accept()?.1);
    ///     }
    ///     assert_eq!(served, [clients[0].local_addr()?, clients[1].local_addr()?]);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept_taken(&self) -> Option<(TcpStream, SocketAddr)> {
        let (socket, address) = self.socket.accept_taken()?;
        Some((TcpStream::from_socket(socket), inet(&address).ok()?))
    }

    /// The address on which the socket listens, the port that the system chose included.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        inet(&self.socket.options().local_addr()?)
    }
}

descriptor_of!(TcpListener, std::net::TcpListener);
timeouts!(TcpListener);
readable!(TcpListener, socket, "a connection waits to be accepted");

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener")
            .field("local", &self.local_addr().ok())
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

/// The connections of a [`TcpListener`]. It belongs to the loop where it is used.
///
/// ```
/// use yue::net::{TcpListener, TcpStream};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let server = yue::spawn(move || {
///         let mut served = 0;
///         for stream in listener.incoming() {
///             // A server starts a fiber for each, which reads and writes.
///             yue::spawn(move || stream?.set_nodelay(true));
///             served += 1;
///         }
///         served
///     });
///     std::io::read_to_string(TcpStream::connect(address)?)?; // The end comes when it is served.
///     server.cancel(); // The iteration ends.
///     assert_eq!(server.join().unwrap(), 1);
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
    arrivals: Arrivals,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.arrivals.next(&self.listener.socket)?;
        Some(next.map(TcpStream::from_socket))
    }
}
