//! Links over TCP and Unix sockets: the driver's owned connections, which need no fiber.

use super::{Connect, Events, Incoming, Transport};
use crate::address::Address;
use crate::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{Keepalive, ListenOptions, TcpStream, UnixStream};
use yue_io::owned::{Connection, Sink};

/// A peer that is gone without a word is noticed within this time.
const KEEPALIVE: Duration = Duration::from_secs(50);

/// Probes that are not answered before a peer is given up.
const PROBES: u32 = 3;

/// How the sockets of a listener, or of an opened connection, are set up.
///
/// ```
/// use std::time::Duration;
/// use yue::rpc::transport::SocketOptions;
///
/// // A peer that is gone is noticed within ten seconds.
/// let options = SocketOptions { keepalive: Some(Duration::from_secs(10)), ..SocketOptions::default() };
/// assert_eq!(SocketOptions::default().keepalive, Some(Duration::from_secs(50)));
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
pub struct SocketOptions {
    /// How to listen at a TCP address.
    pub listen: ListenOptions,
    /// TCP: within what time the link breaks if the peer's machine is gone or cannot be reached, whether anything is
    /// under way or not. At least some five seconds. The same holds for a peer that reads nothing while its buffers are
    /// full, and for a yue peer that does not answer a ping (a process that is stopped, or a loop that is held, for
    /// more than three fifths of the time). `None` leaves all that to the system, which may take hours.
    pub keepalive: Option<Duration>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            listen: ListenOptions::default(),
            keepalive: Some(KEEPALIVE),
        }
    }
}

/// Has a silent link probed, and broken when nothing comes back for `within`.
fn set_keepalive(stream: &TcpStream, within: Duration) -> io::Result<()> {
    // Probes begin after two fifths of the time, and divide the rest. The system knows whole seconds.
    let seconds = |part: u64| Duration::from_secs((within.as_secs() * part / 5).max(1));
    stream.set_keepalive(Some(Keepalive {
        idle: seconds(2),
        interval: seconds(1),
        retries: PROBES,
    }))?;
    // Bytes that are under way silence the probes; this is their limit.
    let within = within.max(Duration::from_secs(5));
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(within))
}

/// Hands what the connection tells to the session.
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

/// Takes a TCP stream over as a link; for `keepalive` see [`SocketOptions`].
///
/// # Errors
/// When the loop's driver refuses the socket.
pub fn start_tcp(
    stream: TcpStream,
    keepalive: Option<Duration>,
    events: Rc<dyn Events>,
) -> io::Result<Rc<dyn Transport>> {
    // We gather messages ourselves; to wait for more would only be late.
    stream.set_nodelay(true)?;
    if let Some(within) = keepalive {
        set_keepalive(&stream, within)?;
    }
    Ok(Rc::new(SocketTransport {
        connection: Connection::start(stream, Rc::new(EventSink(events)))?,
        silence_max: keepalive,
    }))
}

/// Takes a Unix stream over as a link.
///
/// # Errors
/// When the loop's driver refuses the socket.
pub fn start_unix(stream: UnixStream, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
    Ok(Rc::new(SocketTransport {
        connection: Connection::start_unix(stream, Rc::new(EventSink(events)))?,
        // The kernel tells at once when the peer's process is gone.
        silence_max: None,
    }))
}

/// Makes links to a `tcp://` or `unix://` address.
pub struct SocketConnector {
    address: Address,
    text: String,
    keepalive: Option<Duration>,
}

impl SocketConnector {
    /// A connector for the address.
    pub fn new(address: Address, options: &SocketOptions) -> SocketConnector {
        let text = address.to_string();
        SocketConnector {
            address,
            text,
            keepalive: options.keepalive,
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        match &self.address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                start_tcp(stream, self.keepalive, events)
            }
            Address::Unix { path } => start_unix(UnixStream::connect(path)?, events),
            Address::Thread { .. } => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a thread is no socket",
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
    use socket2::SockRef;

    #[test]
    fn keepalive_divides_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        for (within, idle, interval, limit) in [(50, 20, 10, 50), (10, 4, 2, 10), (0, 1, 1, 5)] {
            let stream: TcpStream = std::net::TcpStream::connect(address)
                .expect("it listens")
                .into();
            set_keepalive(&stream, Duration::from_secs(within)).expect("it is set");
            let set = stream.keepalive().expect("it is known").expect("it is on");
            let seconds = (set.idle.as_secs(), set.interval.as_secs(), set.retries);
            assert_eq!(seconds, (idle, interval, PROBES));
            let user_timeout = SockRef::from(&stream)
                .tcp_user_timeout()
                .expect("it is known");
            assert_eq!(user_timeout, Some(Duration::from_secs(limit)));
        }
    }
}
