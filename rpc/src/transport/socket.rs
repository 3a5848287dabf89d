//! Links over TCP and Unix sockets: the driver's owned connections, which need no fiber.

use super::{Connect, Events, Incoming, Transport};
use crate::address::Address;
use crate::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use yue_io::net::{TcpStream, UnixStream};
use yue_io::owned::{Connection, Sink};

/// Hands what the connection tells to the session.
struct EventSink(Rc<dyn Events>);

impl Sink for EventSink {
    fn data(&self, bytes: &[u8]) {
        self.0.data(Incoming::Borrowed(bytes));
    }

    fn sent(&self, buffer: Vec<u8>) {
        self.0.sent(Some(buffer));
    }

    fn closed(&self, result: io::Result<()>) {
        self.0.closed(result);
    }
}

struct SocketTransport(Connection);

impl Transport for SocketTransport {
    fn send(&self, buffer: Vec<u8>) {
        self.0.send(buffer);
    }

    fn queued_bytes(&self) -> usize {
        self.0.queued_bytes()
    }

    fn set_reading(&self, on: bool) {
        self.0.set_reading(on);
    }

    fn shutdown_write(&self) {
        self.0.shutdown_write();
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Takes a TCP stream over as a link.
///
/// # Errors
/// When the loop's driver refuses the socket.
pub fn start_tcp(stream: TcpStream, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
    // We gather messages ourselves; to wait for more would only be late.
    stream.set_nodelay(true)?;
    Ok(Rc::new(SocketTransport(Connection::start(
        stream,
        Rc::new(EventSink(events)),
    )?)))
}

/// Takes a Unix stream over as a link.
///
/// # Errors
/// When the loop's driver refuses the socket.
pub fn start_unix(stream: UnixStream, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
    Ok(Rc::new(SocketTransport(Connection::start_unix(
        stream,
        Rc::new(EventSink(events)),
    )?)))
}

/// Makes links to a `tcp://` or `unix://` address.
pub struct SocketConnector {
    address: Address,
    text: String,
}

impl SocketConnector {
    /// A connector for the address.
    pub fn new(address: Address) -> SocketConnector {
        let text = address.to_string();
        SocketConnector { address, text }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        match &self.address {
            Address::Tcp { host, port } => {
                start_tcp(TcpStream::connect((host.as_str(), *port))?, events)
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
