//! Listeners: the natives that accept streams.
//!
//! Errors that pass (a client that left, a lack of descriptors) are waited out: the other clients wait in the kernel's
//! backlog meanwhile.

use super::address::{inet_text, parse_stream};
use super::closing::Closing;
use super::stream::{Label, Pending, Socket, Stream};
use super::{streams, tls};
use crate::lua::host::errors::rpc_error;
use crate::lua::host::failure::{Closed, network_failed};
use crate::lua::host::handles::Handles;
use crate::lua::host::with_host;
use crate::lua::native::{native, register, seconds};
use crate::lua::rpc::connections::with_connections;
use crate::lua::rpc::endpoints::{Target, find_target};
use crate::lua::rpc::options::Certificates;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{ListenOptions, TcpListener, UnixListener};
use yue_luajit::{Error, Stack};
use yue_rpc::{Address, SharedSocket};
use yue_scheduler::is_cancelled;

thread_local! {
    static LISTENERS: Handles<Listener> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    LISTENERS.with(Handles::clear);
}

enum Listening {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removes the file when the last listener is closed.
        socket: SharedSocket,
        /// Other loops listen at it, too.
        is_shared: bool,
    },
}

/// A listening socket.
struct Listener {
    listening: Listening,
    address: String,
    tls: Option<Rc<tls::Server>>,
    /// The time for a TLS handshake.
    handshake: Duration,
    nodelay: bool,
    closing: Closing,
}

impl Listener {
    /// Waits for the next client. `None` when the listener is closed.
    fn accept(&self) -> Result<Option<Stream>, Error> {
        loop {
            match self.closing.run(|| self.try_accept()) {
                Ok(stream) => return Ok(Some(stream)),
                Err(failure) if is_shortage(&failure) && !is_cancelled() => {}
                Err(failure) if failure.get_ref().is_some_and(|inner| inner.is::<Closed>()) => {
                    return Ok(None);
                }
                Err(failure) => {
                    let what = format!("cannot accept a connection at {}", self.address);
                    return Err(network_failed(&what, &failure));
                }
            }
        }
    }

    /// Ends the waits. Who connects from now on is refused.
    fn close(&self) {
        self.closing.close();
        match &self.listening {
            Listening::Tcp(listener) => stop_listening(listener),
            Listening::Unix {
                is_shared: true, ..
            } => {}
            Listening::Unix {
                listener, socket, ..
            } => {
                socket.remove_file();
                stop_listening(listener);
            }
        }
    }

    fn try_accept(&self) -> io::Result<Stream> {
        match &self.listening {
            Listening::Tcp(listener) => {
                let (stream, from) = listener.accept()?;
                let scheme = if self.tls.is_some() { "tls" } else { "tcp" };
                let pending = self.tls.clone().map(|server| Pending {
                    server,
                    limit: self.handshake,
                });
                let stream = Stream::new(Socket::Tcp(stream), Label::Client(scheme, from), pending);
                if self.nodelay {
                    // It fails if the client has left; the first read says so.
                    let _ = stream.set_nodelay();
                }
                Ok(stream)
            }
            Listening::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                let label = Label::Local(self.address.clone());
                Ok(Stream::new(Socket::Unix(stream), label, None))
            }
        }
    }
}

/// Whether the process or the system lacks something, which passes. The accept has waited already.
fn is_shortage(failure: &io::Error) -> bool {
    matches!(
        failure.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}

/// The arguments of `net_listen`.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    address: &'a [u8],
    certificates: Certificates<'a>,
    /// Seconds.
    handshake: f64,
    nodelay: bool,
}

impl Wanted<'_> {
    fn listen(&self) -> Result<Listener, Error> {
        let address = parse_stream(self.address)?;
        let options = self.certificates.options();
        let tls = match &address {
            Address::Tls { .. } => Some(tls::Server::load(&address, &options)),
            _ => options.check_unused(&address).err().map(Err),
        };
        let tls = tls.transpose().map_err(|failure| rpc_error(&failure))?;
        let host = with_host(Rc::clone)?;
        let key = with_connections(|all| all.next_listen_key(self.address));
        let failed =
            |failure: io::Error| network_failed(&format!("cannot listen at {address}"), &failure);
        let listening = match find_target(&host, address.clone(), &key)? {
            Target::Alone(Address::Unix { path }) => SharedSocket::bind_path(Path::new(&path))
                .and_then(|socket| unix(socket, false))
                .map_err(failed)?,
            Target::Alone(address) => bind(&address, false).map_err(failed)?,
            Target::Port(address) => bind(&address, true).map_err(failed)?,
            Target::Socket(socket) => unix(socket, true).map_err(failed)?,
        };
        let address = match (&listening, &address) {
            (Listening::Tcp(listener), _) => {
                let scheme = if tls.is_some() { "tls" } else { "tcp" };
                inet_text(scheme, &listener.local_addr().map_err(failed)?)
            }
            _ => address.to_string(),
        };
        Ok(Listener {
            listening,
            address,
            tls: tls.map(Rc::new),
            handshake: seconds(self.handshake),
            nodelay: self.nodelay,
            closing: Closing::default(),
        })
    }
}

fn bind(address: &Address, reuse_port: bool) -> io::Result<Listening> {
    let named = address.host_and_port();
    let (host, port) = named.ok_or(io::ErrorKind::InvalidInput)?;
    let options = ListenOptions {
        reuse_port,
        ..ListenOptions::default()
    };
    TcpListener::bind_with((host, port), &options).map(Listening::Tcp)
}

fn unix(socket: SharedSocket, is_shared: bool) -> io::Result<Listening> {
    Ok(Listening::Unix {
        listener: socket.listener()?,
        socket,
        is_shared,
    })
}

/// Ends listening at once, though a fiber may still have the socket.
fn stop_listening(socket: &impl AsRawFd) {
    // SAFETY: no memory is involved, and the descriptor is open. It fails for a socket that does not listen any more.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

native! {
    /// `net_listen(address, options, handshake seconds, nodelay)`: the number of a listener, and its address.
    NetListen = "net_listen", suspends: true;
    read(stack) -> Wanted<'a> {
        let (address, handshake, nodelay) = (stack.bytes(1), stack.number(3), stack.boolean(4));
        // SAFETY: Lua runs this function; the texts stay on the stack until it returns. The prelude passes a table.
        let certificates = unsafe { Certificates::read(stack.raw(), 2) };
        Wanted { address, certificates, handshake, nodelay }
    }
    run(wanted) -> (f64, String) {
        let listener = wanted.listen()?;
        let address = listener.address.clone();
        Ok((LISTENERS.with(|listeners| listeners.add(listener)), address))
    }
}

native! {
    /// `net_accept(listener)`: the number of the next stream; nil when the listener is closed.
    NetAccept = "net_accept", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<f64> {
        let Some(listener) = LISTENERS.with(|listeners| listeners.find(number)) else { return Ok(None) };
        Ok(listener.accept()?.map(streams::add))
    }
}

native! {
    /// `net_unlisten(listener)`: closes it. Finalizers call it, too.
    NetUnlisten = "net_unlisten", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        if let Some(listener) = LISTENERS.with(|listeners| listeners.remove(number)) {
            listener.close();
        }
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; NetListen, NetAccept, NetUnlisten);
}
