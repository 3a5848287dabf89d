//! Listeners: each incoming link becomes a session of one service.

mod accept;
mod incoming;

use crate::address::Address;
use crate::error::{Error, ErrorKind};
use crate::inspect::{Inspect, ListenerEntry, ListenerInfo};
use crate::session::options::Options;
use crate::session::{Accounts, Service, Session, Usage};
use crate::socket_file::{SharedSocket, SocketFile};
use crate::transport::datagram::{self, DatagramServer, Link};
use crate::transport::handshake::Handshakes;
use crate::transport::pipes::Pipes;
#[cfg(any(feature = "ws", feature = "http"))]
use crate::transport::sniffer::Protocols;
use crate::transport::thread::{IncomingLink, ThreadName};
use crate::transport::tls::ServerTls;
#[cfg(feature = "ws")]
use crate::transport::websocket::upgrade::Rules;
use crate::transport::{Events, SocketOptions, Transport};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_io::net::{TcpListener, UdpSocket, UnixListener};
use yue_scheduler::{Builder, FiberId, cancel, set_context};

/// Accepts connections until it is closed. Clones are the same listener; dropping all of them does not close it.
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new().handler("ping", |()| Ok("pong")).listen("tcp://127.0.0.1:0")?;
///     let address = listener.address().to_string(); // With the port that the system chose.
///     let client = Client::open(&address)?;
///     assert_eq!(client.call::<_, String>("ping", ())?, "pong");
///     assert_eq!(listener.connections().len(), 1);
///
///     listener.close(); // Nobody new gets in; who is in stays.
///     assert_eq!(client.call::<_, String>("ping", ())?, "pong");
///     assert!(listener.is_closed());
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Listener {
    inner: Rc<Inner>,
}

struct Inner {
    address: Address,
    service: Service,
    options: Options,
    /// In the order of their arrival.
    sessions: RefCell<BTreeMap<u64, Session>>,
    last_session: Cell<u64>,
    accounts: Rc<Accounts>,
    fiber: Cell<Option<FiberId>>,
    /// The socket that the fiber accepts from, while it does.
    socket: RefCell<Weak<Socket>>,
    name: RefCell<Option<ThreadName>>,
    /// The file of a Unix socket, until the listener is closed.
    file: RefCell<Option<OwnFile>>,
    /// The time within which a lost peer of its connections is noticed.
    keepalive: Option<Duration>,
    /// The certificate of a `tls://` or `wss://` address.
    tls: Option<ServerTls>,
    /// Links that are not connections yet.
    handshakes: Rc<Handshakes>,
    /// The socket of datagrams.
    datagrams: RefCell<Option<Rc<DatagramServer>>>,
    closed: Cell<bool>,
    _entry: ListenerEntry,
    /// The rules of upgrades at a `ws://` or `wss://` address.
    #[cfg(feature = "ws")]
    websocket: Option<Rc<Rules>>,
    /// The protocols that links may speak beside msgpack-rpc.
    #[cfg(any(feature = "ws", feature = "http"))]
    protocols: Protocols,
    /// The rules of HTTP.
    #[cfg(feature = "http")]
    http: Option<Rc<crate::http::Site>>,
    /// The program that answers all requests, and the connections that it serves.
    #[cfg(feature = "http")]
    http_server: Option<(
        Rc<crate::http::HttpServer>,
        Rc<crate::http::OpenConnections>,
    )>,
}

/// The owner of a Unix socket's file, who removes it.
enum OwnFile {
    /// The file belongs to this listener.
    Alone(SocketFile),
    /// The file is removed by the last of the listeners that share the socket.
    Shared(SharedSocket),
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens at `address` on this loop, and serves everyone who connects.
    ///
    /// The file of a Unix socket is removed when the listener is closed. A socket file at which nobody listens, as a
    /// killed process leaves it, is replaced. A file of another kind is never replaced.
    ///
    /// # Errors
    /// `AddressError` if the address cannot be bound, for example because it is in use.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn bind(address: &Address, service: Service, options: Options) -> Result<Listener, Error> {
        Self::bind_with(address, service, options, &SocketOptions::default())
    }

    /// Like [`Listener::bind`], with socket options, for example to share a port among several loops.
    ///
    /// # Errors
    /// See [`Listener::bind`].
    ///
    /// # Panics
    /// Outside a loop.
    pub fn bind_with(
        address: &Address,
        service: Service,
        options: Options,
        sockets: &SocketOptions,
    ) -> Result<Listener, Error> {
        let failed = |error| Error::from_listen(address, &error);
        if !address.is_tls() {
            sockets.tls.check_unused(address)?;
        }
        check_one_port(address, sockets)?;
        #[cfg(not(feature = "ws"))]
        if matches!(address, Address::Ws { .. } | Address::Wss { .. }) {
            return Err(failed(crate::address::missing_feature("ws")));
        }
        match address {
            Address::Tcp { host, port } | Address::Ws { host, port, .. } => {
                let (listener, port) = bind_tcp(host, *port, sockets).map_err(failed)?;
                let address = address.with_port(port);
                let inner = Inner::new(address, service, options, sockets);
                Self::spawn(inner, Socket::Tcp(listener)).map_err(failed)
            }
            Address::Tls { host, port } | Address::Wss { host, port, .. } => {
                let tls = ServerTls::load(address, &sockets.tls)?;
                let (listener, port) = bind_tcp(host, *port, sockets).map_err(failed)?;
                let address = address.with_port(port);
                let inner = Inner::with_tls(address, service, options, sockets, Some(tls));
                Self::spawn(inner, Socket::Tcp(listener)).map_err(failed)
            }
            Address::Unix { path } => {
                let (listener, file) = SocketFile::bind(path.as_ref()).map_err(failed)?;
                let inner = Inner::new(address.clone(), service, options, sockets);
                *inner.file.borrow_mut() = Some(OwnFile::Alone(file));
                Self::spawn(inner, Socket::Unix(listener)).map_err(failed)
            }
            Address::Stdio => {
                let (input, output) = yue_io::stdio::take().map_err(failed)?;
                let inner = Inner::new(address.clone(), service, options, sockets);
                inner.accept(address.to_string(), |events| {
                    Ok(Pipes::start(input, output, || Ok(()), events)?)
                });
                Ok(Listener { inner })
            }
            Address::Udp { host, port } => {
                let (socket, port) =
                    datagram::bind(host, *port, sockets.listen.reuse_port).map_err(failed)?;
                let inner = Inner::new(
                    address.with_port(port),
                    service,
                    datagram::fit(options),
                    sockets,
                );
                Self::serve_datagrams(inner, vec![socket], sockets).map_err(failed)
            }
            Address::Mcast { group, port } => {
                let pair = datagram::join(group, *port, &sockets.datagram).map_err(failed)?;
                let options = datagram::fit(options);
                let inner = Inner::new(address.clone(), service, options, sockets);
                Self::serve_datagrams(inner, pair, sockets).map_err(failed)
            }
            Address::Popen { .. } => {
                let text = format!("cannot listen at {address}: a command can only be opened");
                Err(Error::new(ErrorKind::Address, text))
            }
            Address::Thread { name } => {
                let inner = Inner::new(address.clone(), service, options, sockets);
                let weak = Rc::downgrade(&inner);
                let accept = move |link: IncomingLink| {
                    if let Some(inner) = weak.upgrade() {
                        let from = format!("thread://#{}", link.from_loop);
                        inner.accept(from, |events| Ok(link.start(events)));
                    }
                };
                *inner.name.borrow_mut() = Some(ThreadName::listen(name, accept).map_err(failed)?);
                Ok(Listener { inner })
            }
        }
    }

    /// A listener with one connection, over a link that exists already: `start` starts it, and `from` names the peer in
    /// messages. Its address is `stdio://`.
    ///
    /// # Errors
    /// Those of `start`.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn of_link(
        from: impl Into<String>,
        service: Service,
        options: Options,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Listener> {
        let sockets = SocketOptions::default();
        let inner = Inner::new(Address::Stdio, service, options, &sockets);
        let mut failure = None;
        inner.accept(from.into(), |events| {
            start(events).map_err(|error| {
                let copy = io::Error::new(error.kind(), error.to_string());
                failure = Some(error);
                copy
            })
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(Listener { inner }),
        }
    }

    /// Listens at a Unix socket together with other loops. The loops accept connections as they come.
    ///
    /// ```
    /// use std::rc::Rc;
    /// use yue_rpc::session::Service;
    /// use yue_rpc::{Address, Listener, Options, SharedSocket};
    ///
    /// yue_io::run(|| -> Result<(), Box<dyn std::error::Error>> {
    ///     let place = yue_io::fs::TempDir::new()?;
    ///     let path = place.path().join("socket").display().to_string();
    ///     let socket = SharedSocket::bind(&Address::Unix { path })?;
    ///     // As it would be done on several loops.
    ///     let first = Listener::bind_shared(&socket, Service::none(), Options::default())?;
    ///     let second = Listener::bind_shared(&socket, Service::none(), Options::default())?;
    ///     assert_eq!(first.address(), second.address());
    ///     first.close();
    ///     second.close();
    ///     Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `AddressError` when the process has no descriptors left.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn bind_shared(
        socket: &SharedSocket,
        service: Service,
        options: Options,
    ) -> Result<Listener, Error> {
        Self::bind_shared_with(socket, service, options, &SocketOptions::default())
    }

    /// Like [`Listener::bind_shared`], with socket options.
    ///
    /// # Errors
    /// See [`Listener::bind_shared`]; `ArgumentError` for options that do not fit.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn bind_shared_with(
        socket: &SharedSocket,
        service: Service,
        options: Options,
        sockets: &SocketOptions,
    ) -> Result<Listener, Error> {
        let address = socket.address().clone();
        sockets.tls.check_unused(&address)?;
        let failed = |error| Error::from_listen(socket.address(), &error);
        let listener = socket.listener().map_err(failed)?;
        let inner = Inner::new(address, service, options, sockets);
        *inner.file.borrow_mut() = Some(OwnFile::Shared(socket.clone()));
        Self::spawn(inner, Socket::Unix(listener)).map_err(failed)
    }

    /// Serves the senders of datagrams.
    fn serve_datagrams(
        inner: Rc<Inner>,
        pair: Vec<UdpSocket>,
        sockets: &SocketOptions,
    ) -> io::Result<Listener> {
        let weak = Rc::downgrade(&inner);
        let accept = move |from: String, link: &Rc<Link>| {
            weak.upgrade()?.accept(from, |events| {
                link.set_events(events);
                Ok(link.clone())
            })
        };
        let connections_max = inner.options.limits.connections_max;
        let peers_max = connections_max.min(sockets.datagram.peers_max);
        let idle = sockets.datagram.peer_idle;
        let server = DatagramServer::start(pair, peers_max, idle, accept)?;
        *inner.datagrams.borrow_mut() = Some(server);
        Ok(Listener { inner })
    }

    fn spawn(inner: Rc<Inner>, socket: Socket) -> io::Result<Listener> {
        let accepting = inner.clone();
        let socket = Rc::new(socket);
        *inner.socket.borrow_mut() = Rc::downgrade(&socket);
        let body = move || {
            set_context(None);
            accepting.run(&socket);
        };
        let fiber = Builder::new()
            .name(format!("rpc listener {}", inner.address))
            .spawn(body)?;
        inner.fiber.set(Some(fiber.id()));
        Ok(Listener { inner })
    }

    /// The address, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// The sessions that have not ended, without those above `connections_max`.
    pub fn connections(&self) -> Vec<Session> {
        let sessions = self.inner.sessions.borrow();
        let seen = |session: &&Session| !session.is_turned_away();
        sessions.values().filter(seen).cloned().collect()
    }

    /// The present usage of the connections.
    pub fn usage(&self) -> Usage {
        self.inner.usage()
    }

    /// Reads the certificate of a `tls://` or `wss://` listener from its files again. A listener also does so by
    /// itself, when a client connects and the files have changed. Existing connections keep the old certificate. Does
    /// nothing for other addresses.
    ///
    /// # Errors
    /// `ArgumentError` if a file cannot be used. The old certificate stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        let tls = self.inner.tls.as_ref();
        tls.map_or(Ok(()), |tls| tls.reload(&self.inner.address))
    }

    /// Stops accepting. Existing connections stay open. Links that are in their handshakes are closed.
    pub fn close(&self) {
        self.inner.closed.set(true);
        self.inner.handshakes.close();
        self.inner.name.take();
        self.inner.remove_file();
        self.inner.stop_listening();
        let datagrams = self.inner.datagrams.borrow().clone();
        if let Some(server) = datagrams {
            server.close();
        }
        if let Some(fiber) = self.inner.fiber.take() {
            cancel(fiber);
        }
    }

    /// Closes every connection.
    pub fn close_connections(&self) {
        self.inner.handshakes.close();
        let sessions: Vec<Session> = self.inner.sessions.borrow().values().cloned().collect();
        for session in sessions {
            session.close();
        }
        #[cfg(feature = "http")]
        if let Some((_, open)) = &self.inner.http_server {
            open.end_soon();
        }
    }

    /// Whether it has stopped accepting.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.get()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.inner.sessions.borrow().len();
        f.debug_struct("Listener")
            .field("address", &self.inner.address)
            .field("connections", &connections)
            .finish()
    }
}

impl Inner {
    fn new(
        address: Address,
        service: Service,
        options: Options,
        sockets: &SocketOptions,
    ) -> Rc<Inner> {
        Inner::with_tls(address, service, options, sockets, None)
    }

    fn with_tls(
        address: Address,
        service: Service,
        options: Options,
        sockets: &SocketOptions,
        tls: Option<ServerTls>,
    ) -> Rc<Inner> {
        let accounts = Rc::<Accounts>::default();
        Rc::new_cyclic(|this: &Weak<Inner>| Inner {
            _entry: ListenerEntry::new(this.clone(), Rc::as_ptr(&accounts) as usize),
            #[cfg(feature = "ws")]
            websocket: websocket_rules(&address, sockets),
            #[cfg(any(feature = "ws", feature = "http"))]
            protocols: protocols(&address, sockets),
            #[cfg(feature = "http")]
            http: sockets.http.as_ref().map(|options| {
                let host = address.host_and_port().map_or("", |(host, _)| host);
                Rc::new(crate::http::Site::new(options, host))
            }),
            #[cfg(feature = "http")]
            http_server: sockets.http.as_ref().and_then(|options| {
                let open = crate::http::OpenConnections::new(accounts.clone());
                Some((options.server.clone()?, open))
            }),
            address,
            service,
            options,
            sessions: RefCell::default(),
            last_session: Cell::new(0),
            accounts,
            fiber: Cell::new(None),
            socket: RefCell::default(),
            name: RefCell::default(),
            file: RefCell::default(),
            keepalive: sockets.keepalive,
            tls,
            handshakes: Rc::default(),
            datagrams: RefCell::default(),
            closed: Cell::new(false),
        })
    }

    fn usage(&self) -> Usage {
        let datagrams = self.datagrams.borrow();
        let datagrams = datagrams.as_ref();
        Usage {
            handshakes: self.handshakes.count(),
            handshakes_failed: self.handshakes.failed(),
            datagrams_dropped: datagrams.map_or(0, |server| server.dropped()),
            peers_evicted: datagrams.map_or(0, |server| server.evicted()),
            ..self.accounts.usage()
        }
    }

    /// Refuses new connections from now on. The socket itself is closed when the fiber ends, which is a little later:
    /// the system would take connections in until then, and nobody would serve them. (Nobody finds a Unix socket
    /// without its file, and other loops may listen at the same one.)
    fn stop_listening(&self) {
        if let Some(socket) = self.socket.borrow().upgrade()
            && let Socket::Tcp(listener) = &*socket
        {
            // Where the system does not know this, the socket's end does the same.
            let _ = listener.stop();
        }
    }

    /// Removes a Unix socket's file, while the socket still listens.
    fn remove_file(&self) {
        match self.file.take() {
            Some(OwnFile::Alone(file)) => file.remove(),
            Some(OwnFile::Shared(socket)) => drop(socket),
            None => {}
        }
    }
}

impl Inner {
    #[cfg(feature = "http")]
    fn serves_http(&self) -> bool {
        self.http_server.is_some()
    }

    #[cfg(not(feature = "http"))]
    fn serves_http(&self) -> bool {
        false
    }
}

impl Inspect for Inner {
    fn info(&self, number: u64) -> ListenerInfo {
        ListenerInfo {
            number,
            address: self.address.clone(),
            serves_http: self.serves_http(),
            is_accepting: !self.closed.get(),
            usage: self.usage(),
            connections_max: self.options.limits.connections_max,
        }
    }

    fn accounts_key(&self) -> usize {
        Rc::as_ptr(&self.accounts) as usize
    }
}

fn bind_tcp(host: &str, port: u16, sockets: &SocketOptions) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind_with((host, port), &sockets.listen)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

#[cfg(feature = "ws")]
fn websocket_rules(address: &Address, sockets: &SocketOptions) -> Option<Rc<Rules>> {
    let (Address::Ws { host, path, .. } | Address::Wss { host, path, .. }) = address else {
        return None;
    };
    Some(Rc::new(Rules {
        path: path.clone(),
        host: host.clone(),
        origins: sockets.websocket.origins.clone(),
    }))
}

/// The protocols that the options allow beside msgpack-rpc, on the same port.
#[cfg(any(feature = "ws", feature = "http"))]
fn protocols(address: &Address, sockets: &SocketOptions) -> Protocols {
    #[cfg(feature = "ws")]
    let websocket = sockets.websocket.shares_port.then(|| {
        let (host, _) = address.host_and_port().unwrap_or_default();
        Rc::new(Rules {
            path: "/".to_owned(),
            host: host.to_owned(),
            origins: sockets.websocket.origins.clone(),
        })
    });
    #[cfg(not(feature = "ws"))]
    let _ = address;
    Protocols {
        #[cfg(feature = "ws")]
        websocket,
        #[cfg(feature = "http")]
        http: sockets.http.is_some(),
    }
}

/// # Errors
/// If options for several protocols are given for an address that has one.
fn check_one_port(address: &Address, sockets: &SocketOptions) -> Result<(), Error> {
    let has_stream = matches!(
        address,
        Address::Tcp { .. } | Address::Tls { .. } | Address::Unix { .. }
    );
    #[cfg(feature = "ws")]
    let ws = sockets.websocket.shares_port.then_some("ws");
    #[cfg(not(feature = "ws"))]
    let ws = None;
    #[cfg(feature = "http")]
    let http = sockets.http.as_ref().map(|_| "http");
    #[cfg(not(feature = "http"))]
    let http = None::<&str>;
    #[cfg(not(any(feature = "ws", feature = "http")))]
    let _ = sockets;
    match ws.or(http) {
        Some(name) if !has_stream => {
            let text = format!(
                "the option {name} is for listeners at tcp://, tls:// and unix:// addresses, and this one is {address}"
            );
            Err(Error::new(ErrorKind::Argument, text))
        }
        _ => Ok(()),
    }
}
