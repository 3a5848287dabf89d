//! A client for HTTP/1.1 over the links of this crate: `http://` and `https://` URLs, and Unix sockets.
//!
//! ```text
//!   Client ── Pool: idle connections by origin
//!     └─ send ─▶ Exchange ── Connection: hyper's client over a ClientLink ── link (tcp, tls, unix)
//!                   └─ advance: the fiber that waits drives hyper
//! ```
//!
//! A connection has no fiber of its own. The fiber that waits for an answer drives hyper, and an idle connection is
//! watched by the events of its link: the first byte, or its end, removes it from the pool. So bytes that a server
//! sends unasked are never taken for the next answer, and an idle connection costs no stack.
//!
//! `target.rs` reads URLs, `pool.rs` keeps idle connections, `connection.rs` joins link and hyper, `exchange.rs` is one
//! request with its answer, `outgoing.rs` is the body of a request.
//!
//! ```
//! use yue_io::net::TcpListener;
//! use yue_rpc::http::client::{Client, Request};
//! use std::io::{BufRead, BufReader, Write};
//!
//! yue_io::run(|| -> Result<(), Box<dyn std::error::Error>> {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let url = format!("http://{}/greeting", listener.local_addr()?);
//!     let server = yue_scheduler::spawn(move || -> std::io::Result<()> {
//!         let (mut stream, _) = listener.accept()?;
//!         for line in BufReader::new(&stream).lines() {
//!             if line?.is_empty() {
//!                 break;
//!             }
//!         }
//!         stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
//!     });
//!
//!     let client = Client::default();
//!     let mut exchange = client.send(Request::get(&url)?)?;
//!     assert_eq!(exchange.head()?.status, 200);
//!     assert_eq!(exchange.read_to_end(1024)?, b"hello");
//!     server.join()??;
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod exchange;
mod outgoing;
mod pool;
mod target;
#[cfg(test)]
mod tests;

pub use exchange::{Closer, Event, Exchange, Head};
pub use hyper::body::Bytes;
pub use hyper::header::{HeaderMap, HeaderName, HeaderValue};
pub use hyper::{Method, Version};
pub use target::Target;

use crate::error::{Error, ErrorKind};
use crate::transport::SocketOptions;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::AUTHORIZATION;
use pool::Pool;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// The limits of a client's idle connections.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// The most idle connections, of all origins together; 64 by default. The oldest is closed first.
    pub idle_max: usize,
    /// The time after which an idle connection is closed; 60 s by default. Many servers wait for 75 s.
    pub idle_time: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            idle_max: 64,
            idle_time: Duration::from_secs(60),
        }
    }
}

/// A client: it keeps connections, and uses them again. It belongs to its loop. Clones share the connections.
///
/// [The module](self) has an example.
#[derive(Clone)]
pub struct Client {
    pool: Rc<Pool>,
}

impl Client {
    /// A client without connections.
    pub fn new(options: ClientOptions) -> Client {
        Client {
            pool: Pool::new(options),
        }
    }

    /// Begins a request over an idle connection, or over a new one. Runs in a fiber, which waits for the connection.
    ///
    /// # Errors
    /// Those of a connection that cannot be made, and of a request that is not valid.
    pub fn send(&self, request: Request) -> Result<Exchange, Error> {
        Exchange::begin(self.pool.clone(), request)
    }

    /// The number of idle connections.
    pub fn idle_connections(&self) -> usize {
        self.pool.idle_count()
    }

    /// Closes the idle connections.
    pub fn close_idle(&self) {
        self.pool.clear();
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new(ClientOptions::default())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("idle_connections", &self.idle_connections())
            .finish()
    }
}

/// A body to send.
#[derive(Debug, Clone)]
pub enum Payload {
    /// All of it; perhaps nothing.
    Whole(Bytes),
    /// Pieces that [`Exchange::feed`] takes when [`Event::NeedsBody`] asks for them. They travel in chunks.
    Pieces,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The URL, without a user.
    pub target: Target,
    /// The method.
    pub method: Method,
    /// The headers. `Host` and the length of the body are added.
    pub headers: HeaderMap,
    /// The body.
    pub payload: Payload,
    /// The path of a Unix socket to connect to, instead of the URL's host and port.
    pub socket: Option<String>,
    /// Certificates, keepalive, and the time for the TLS handshake.
    pub sockets: SocketOptions,
}

impl Request {
    /// A GET request.
    ///
    /// # Errors
    /// `AddressError` if the URL is not valid.
    pub fn get(url: &str) -> Result<Request, Error> {
        Ok(Request::new(Method::GET, Target::parse(url)?))
    }

    /// A request without a body. A user in the URL becomes the header `Authorization`.
    pub fn new(method: Method, mut target: Target) -> Request {
        let mut headers = HeaderMap::new();
        if let Some((user, password)) = target.take_user() {
            headers.extend(basic(&user, &password).map(|value| (AUTHORIZATION, value)));
        }
        Request {
            target,
            method,
            headers,
            payload: Payload::Whole(Bytes::new()),
            socket: None,
            sockets: SocketOptions::default(),
        }
    }

    /// Adds a header.
    ///
    /// # Errors
    /// `ArgumentError` if name or value have characters that a header cannot hold, such as line breaks, or if the
    /// header belongs to the connection.
    pub fn add_header(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let fault = |text: String| Error::new(ErrorKind::Argument, text);
        let shown = String::from_utf8_lossy(name).into_owned();
        let name = HeaderName::from_bytes(name).map_err(|_| {
            fault(format!(
                "{shown:?} is not the name of a header: it has letters, digits and hyphens"
            ))
        })?;
        let value = HeaderValue::from_bytes(value).map_err(|_| {
            let text = "has a character that a header cannot hold, such as a line break";
            fault(format!("the header {shown} {text}"))
        })?;
        let is_close = value.as_bytes().eq_ignore_ascii_case(b"close");
        if OWN_HEADERS.contains(&name.as_str()) && !(name == "connection" && is_close) {
            let text = "belongs to the connection, which sets it itself";
            return Err(fault(format!("the header {shown} {text}")));
        }
        if name == AUTHORIZATION {
            // It takes the place of the user in the URL.
            self.headers.remove(AUTHORIZATION);
        }
        self.headers.append(name, value);
        Ok(())
    }
}

/// The value of `Authorization` for a user and a password (RFC 7617).
fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Headers that say where a message ends, or that hold for a connection: a second opinion on them would let bytes of
/// one message be taken for another (RFC 9112, section 11).
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
