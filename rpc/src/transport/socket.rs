//! Links over TCP and Unix sockets: the driver's owned connections, which need no fiber.

use super::tls_options::TlsOptions;
use super::traits::{Connect, Events, Incoming, Transport};
use crate::address::Address;
use crate::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{Keepalive, ListenOptions, TcpStream, UnixStream};

/// A peer that vanishes silently is noticed within this time.
const KEEPALIVE: Duration = Duration::from_secs(50);

/// The number of unanswered probes after which a peer counts as lost.
const PROBES: u32 = 3;

/// The socket options of a listener or of an opened connection.
#[derive(Debug, Clone)]
pub struct SocketOptions {
    /// Options for listening at a TCP address.
    pub listen: ListenOptions,
    /// TCP: the time within which the link breaks if the peer's machine is gone or unreachable, whether bytes are in
    /// flight or not. At least about five seconds. The same limit holds for a peer that reads nothing while its buffers
    /// are full, and for a yue peer that does not answer a ping (its process is stopped, or its loop is blocked for
    /// more than three fifths of the time). `None` leaves this to the system, which may take hours.
    pub keepalive: Option<Duration>,
    /// Certificates for `tls://` and `wss://`.
    pub tls: TlsOptions,
    /// Opened connections: the time for the handshakes of the link itself, such as that of TLS. A listener's links have
    /// [`Limits::handshake`](crate::Limits::handshake).
    pub handshake: Duration,
    /// `udp://` addresses.
    pub datagram: super::DatagramOptions,
    /// `ws://` and `wss://` addresses.
    #[cfg(feature = "ws")]
    pub websocket: super::WebSocketOptions,
    /// Listeners at `tcp://`, `tls://` and `unix://` addresses: clients may also call by HTTP. The first bytes of a
    /// link tell which protocol it speaks; until they have arrived, the server says nothing.
    #[cfg(feature = "http")]
    pub http: Option<super::HttpOptions>,
}

/// The time for the handshakes of an opened link, unless the options say otherwise.
const HANDSHAKE: Duration = Duration::from_secs(30);

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            listen: ListenOptions::default(),
            keepalive: Some(KEEPALIVE),
            tls: TlsOptions::default(),
            handshake: HANDSHAKE,
            datagram: super::DatagramOptions::default(),
            #[cfg(feature = "ws")]
            websocket: super::WebSocketOptions::default(),
            #[cfg(feature = "http")]
            http: None,
        }
    }
}

/// The longest time for which keepalive is set: the kernel takes at most 32 767 s for each part of it.
const KEEPALIVE_MAX: Duration = Duration::from_secs(80_000);

/// Makes the kernel probe a silent link, and break it when nothing comes back for `within`.
fn set_keepalive(stream: &TcpStream, within: Duration) -> io::Result<()> {
    let within = within.min(KEEPALIVE_MAX);
    // Probes begin after two fifths of the time, and divide the rest. The kernel counts in whole seconds.
    let seconds = |part: u64| Duration::from_secs((within.as_secs() * part / 5).max(1));
    stream.set_keepalive(Some(Keepalive {
        idle: seconds(2),
        interval: seconds(1),
        retries: PROBES,
    }))?;
    // Bytes in flight suppress the probes; this is their limit.
    let within = within.max(Duration::from_secs(5));
    stream.set_user_timeout(Some(within))
}

/// Passes the connection's events to the session.
struct EventSink(Rc<dyn Events>);

impl Sink for EventSink {
    fn data(&self, bytes: &[u8]) {
        self.0.data(Incoming::Borrowed(bytes));
    }

    fn sent(&self, buffer: Vec<u8>) {
        self.0.sent(Some(buffer));
    }

    fn end_of_input(&self) -> bool {
        self.0.end_of_input()
    }

    fn closed(&self, result: io::Result<()>) {
        self.0.closed(result);
    }
}

struct SocketTransport {
    connection: Connection,
    silence_max: Option<Duration>,
    peer_process: Option<u32>,
}

impl Transport for SocketTransport {
    fn send(&self, buffer: Vec<u8>) {
        self.connection.send(buffer);
    }

    fn queued_bytes(&self) -> usize {
        self.connection.queued_bytes()
    }

    fn silence_max(&self) -> Option<Duration> {
        self.silence_max
    }

    fn peer_process(&self) -> Option<u32> {
        self.peer_process
    }

    fn set_reading(&self, on: bool) {
        self.connection.set_reading(on);
    }

    fn shutdown_write(&self) {
        self.connection.shutdown_write();
    }

    fn close(&self) {
        self.connection.close();
    }
}

/// Turns a TCP stream into a link; for `keepalive` see [`SocketOptions`].
///
/// # Errors
/// If the loop's driver refuses the socket.
pub fn start_tcp(
    stream: TcpStream,
    keepalive: Option<Duration>,
    events: Rc<dyn Events>,
) -> io::Result<Rc<dyn Transport>> {
    // The session batches messages itself; Nagle's algorithm would only add delay.
    stream.set_nodelay(true)?;
    if let Some(within) = keepalive {
        set_keepalive(&stream, within)?;
    }
    Ok(Rc::new(SocketTransport {
        connection: Connection::start(stream, Rc::new(EventSink(events)))?,
        silence_max: keepalive,
        peer_process: None,
    }))
}

/// Turns a Unix stream into a link.
///
/// # Errors
/// If the loop's driver refuses the socket.
pub fn start_unix(stream: UnixStream, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
    let peer = stream.peer_credentials();
    Ok(Rc::new(SocketTransport {
        connection: Connection::start_unix(stream, Rc::new(EventSink(events)))?,
        // The kernel reports at once that the peer's process is gone.
        silence_max: None,
        peer_process: peer.ok().map(|peer| peer.process),
    }))
}

/// Makes links to the socket of an address.
pub struct SocketConnector {
    address: Address,
    text: String,
    keepalive: Option<Duration>,
}

impl SocketConnector {
    /// Creates a connector for the address.
    pub fn new(address: Address, options: &SocketOptions) -> SocketConnector {
        let text = address.to_string();
        SocketConnector::named(address, text, options)
    }

    /// Creates a connector whose errors name the address `text`, for the socket under another protocol.
    pub fn named(address: Address, text: String, options: &SocketOptions) -> SocketConnector {
        SocketConnector {
            address,
            text,
            keepalive: options.keepalive,
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        match &self.address {
            Address::Tcp { host, port } | Address::Ws { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                start_tcp(stream, self.keepalive, events)
            }
            Address::Unix { path } => start_unix(UnixStream::connect(path)?, events),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this address is not a plain socket",
            )),
        }
    }
}

impl Connect for SocketConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        self.try_connect(events)
            .map_err(|error| Error::from_connect(&self.text, &error))
    }

    fn address(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SocketConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SocketConnector").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_divides_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let longest = (u64::MAX, 32_000, 16_000, 80_000);
        for (within, idle, interval, limit) in
            [(50, 20, 10, 50), (10, 4, 2, 10), (0, 1, 1, 5), longest]
        {
            let stream: TcpStream = std::net::TcpStream::connect(address)
                .expect("it listens")
                .into();
            set_keepalive(&stream, Duration::from_secs(within)).expect("it is set");
            let set = stream.keepalive().expect("it is known").expect("it is on");
            let seconds = (set.idle.as_secs(), set.interval.as_secs(), set.retries);
            assert_eq!(seconds, (idle, interval, PROBES));
            let user_timeout = stream.user_timeout().expect("it is known");
            assert_eq!(user_timeout, Some(Duration::from_secs(limit)));
        }
    }
}
