//! HTTP: calls on a listener's port, and a [client].
//!
//! # Calls
//!
//! `POST /rpc/NAME` calls a function with the JSON in its body.
//!
//! ```text
//!   link ──▶ Stream ──▶ hyper ──▶ Exchange: rules, grant ──▶ client session ═ memory ═ accepted session ──▶ handler
//!                                 JSON ─▶ msgpack ─▶                            counted like every connection
//! ```
//!
//! Each connection has a fiber, which drives hyper, and a link in memory to a session of the listener's service. So a
//! handler that is called by HTTP runs like any other: in a fiber of its own, with a deadline and a peer, counted and
//! limited by the listener. HTTP has no handshake, so `__accept` does not run; each request is granted by itself.
//!
//! Or a program answers all requests of a listener ([`Serve`]), and the listener speaks HTTP alone.
//!
//! `link.rs` is a link as hyper reads and writes it, `stream.rs` adds the stages and time limits of a server's
//! connection. `connection.rs` joins link, hyper and sessions. `exchange.rs` answers a request, `answer.rs` has the
//! forms of answers, `json.rs` and `results.rs` translate values.

mod answer;
mod body;
pub mod client;
mod connection;
mod exchange;
mod json;
mod link;
mod message;
mod results;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub use hyper::body::Bytes;
pub use message::{AnswerFault, HttpAnswer, HttpHead};
#[doc(hidden)]
pub use results::{Style as ResultStyle, results_to_text};
pub use server::{HttpConnection, HttpFault, HttpLimits, Serve};

pub(crate) use connection::{Site, start};
#[cfg(feature = "ws")]
pub(crate) use server::FreedLink;
pub(crate) use server::{OpenConnections, start as start_server};

use crate::session::failure::Failure;
use std::fmt;
use std::rc::Rc;

/// The function that grants requests.
pub(crate) type Grant = Rc<dyn Fn(&HttpRequest) -> Result<bool, Failure>>;

/// The options of a listener that answers HTTP beside msgpack-rpc, on the same port (feature `http`).
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::net::TcpStream;
/// use yue_rpc::transport::{HttpOptions, SocketOptions};
/// use yue_rpc::typed::Server;
///
/// yue_io::run(|| -> Result<(), Box<dyn std::error::Error>> {
///     let http = HttpOptions::new().rpc(|request| Ok(request.header("authorization") == Some("Bearer 1234")));
///     let listener = Server::new()
///         .handler("add", |(a, b): (i64, i64)| Ok(a + b))
///         .sockets(SocketOptions { http: Some(http), ..SocketOptions::default() })
///         .listen("tcp://127.0.0.1:0")?;
///
///     let address = listener.address().host_and_port().ok_or("no port")?;
///     let mut client = TcpStream::connect(address)?;
///     client.write_all(
///         b"POST /rpc/add HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer 1234\r\nConnection: close\r\n\
///           Content-Type: application/json\r\nContent-Length: 6\r\n\r\n[1, 2]",
///     )?;
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?;
///     assert!(answer.starts_with("HTTP/1.1 200 OK"));
///     assert!(answer.ends_with("{\"result\":3}"));
///     listener.close();
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct HttpOptions {
    pub(crate) rpc: Option<Grant>,
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) server: Option<Rc<HttpServer>>,
}

/// A program that answers all requests of a listener, and the limits of its connections.
pub(crate) struct HttpServer {
    pub(crate) serve: Rc<dyn Serve>,
    pub(crate) limits: HttpLimits,
}

impl HttpOptions {
    /// Options that grant nothing: every request is answered with 404.
    pub fn new() -> HttpOptions {
        HttpOptions::default()
    }

    /// Lets requests call the listener's functions if `grant` returns true for them. It runs in a fiber and may park.
    /// An error refuses the request with 500, and is logged.
    #[must_use]
    pub fn rpc(
        mut self,
        grant: impl Fn(&HttpRequest) -> Result<bool, Failure> + 'static,
    ) -> HttpOptions {
        self.rpc = Some(Rc::new(grant));
        self
    }

    /// Passes every request to `serve`. The listener speaks HTTP alone: it has no functions that can be called.
    #[must_use]
    pub fn serve(mut self, serve: Rc<dyn Serve>, limits: HttpLimits) -> HttpOptions {
        self.server = Some(Rc::new(HttpServer { serve, limits }));
        self
    }

    /// The origins whose pages may call, like `https://example.com`, or `*` for any; and the hosts by whose names
    /// clients may call. By default pages of the host that they call, if that is a numeric address, `localhost`, or the
    /// name in the listener's address.
    #[must_use]
    pub fn origins(mut self, origins: Vec<String>) -> HttpOptions {
        self.origins = Some(origins);
        self
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("rpc", &self.rpc.is_some())
            .field("origins", &self.origins)
            .field("server", &self.server.is_some())
            .finish()
    }
}

/// A request for a call, as the function that grants it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRequest {
    /// The name of the function, perhaps dotted.
    pub name: String,
    /// The method, `POST`.
    pub method: String,
    /// The path and the query.
    pub path: String,
    /// The headers: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The address of the client.
    pub peer: String,
    /// The name in the client's certificate, if the listener demanded one.
    pub peer_name: Option<String>,
}

impl HttpRequest {
    /// The value of the first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(known, _)| known == name)?;
        Some(value)
    }
}
