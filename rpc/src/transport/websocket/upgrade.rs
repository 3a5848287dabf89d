//! The HTTP requests that turn a connection into a WebSocket, and their answers (RFC 6455, section 4).
//!
//! ```text
//!   client                                     server
//!     GET /path HTTP/1.1                        path        else 404
//!     Host: …                                   a browser's page may call: Origin and Host, else 403
//!     Upgrade: websocket, Connection: Upgrade   else 426, with a sentence for people
//!     Sec-WebSocket-Key: … ──────────────────▶  else 400
//!                           ◀──── HTTP/1.1 101, Sec-WebSocket-Accept: base64(SHA-1(key and a constant))
//! ```
//!
//! Which pages may call: `transport/origin.rs`.
//!
//! Everything here is a function of bytes.

use crate::transport::origin::Site;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};
use std::fmt::Write;

/// The longest block of headers, in bytes.
pub const HEAD_MAX: usize = crate::transport::sniffer::HEAD_MAX;

/// The maximum number of header lines.
const HEADERS_MAX: usize = 100;

/// The subprotocol that is offered, and accepted.
pub const SUBPROTOCOL: &str = "msgpack-rpc";

/// The constant that the RFC appends to a key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest piece of an answer that an error quotes, in bytes.
pub const EXCERPT_MAX: usize = 200;

/// The rules by which a listener accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The path that must be requested.
    pub path: String,
    /// The host in the listener's address.
    pub host: String,
    /// Origins whose pages may connect, like `https://example.com`; `*` is any. `None`: pages of this host.
    pub origins: Option<Vec<String>>,
}

/// An answer other than 101, after which the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// A sentence for the person who reads it.
    pub text: String,
    /// The origin of the page that may not call, for the log.
    pub origin: Option<String>,
}

impl Refusal {
    /// Creates a refusal.
    pub fn new(status: u16, text: impl Into<String>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            origin: None,
        }
    }

    /// The refusal of a request that has begun, for the reason of a close frame.
    pub(super) fn of_close(code: u16, text: &str) -> Refusal {
        match code {
            super::frame::code::POLICY => Refusal::new(408, text),
            _ => Refusal::new(503, text),
        }
    }

    /// The whole response.
    pub fn to_bytes(&self) -> Vec<u8> {
        let phrase = match self.status {
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            426 => "Upgrade Required",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Refused",
        };
        let more = match self.status {
            405 => "Allow: GET\r\n",
            426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        let connection = match self.status {
            426 => "Upgrade, close",
            _ => "close",
        };
        let Refusal { status, text, .. } = self;
        format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: {connection}\r\n{more}Content-Type: text/plain; \
             charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
        .into_bytes()
    }
}

/// The end of a block of headers, if it is there. The first `seen` bytes were searched before.
pub fn find_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let start = seen.saturating_sub(3);
    let end = bytes
        .get(start..)?
        .windows(4)
        .position(|four| four == b"\r\n\r\n")?;
    Some(start + end + 4)
}

/// Whether these bytes may be the beginning of a request: a method comes first.
pub fn may_be_request(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(u8::is_ascii_uppercase)
}

/// The headers that matter, each once.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    accept: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    upgrades: bool,
    connection_upgrades: bool,
    has_body: bool,
    extensions: bool,
    /// `None`: nothing was offered or chosen. `Some(false)`: other protocols were.
    subprotocol: Option<bool>,
    /// The name of a header that must not come twice and does.
    twice: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[httparse::Header<'a>]) -> Fields<'a> {
        let mut fields = Fields::default();
        for header in headers {
            let value = header.value;
            let has = |token: &str| {
                tokens(value).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
            };
            let single: Option<(&mut Option<&[u8]>, &'static str)> =
                match header.name.to_ascii_lowercase().as_str() {
                    "host" => Some((&mut fields.host, "Host")),
                    "origin" => Some((&mut fields.origin, "Origin")),
                    "sec-websocket-key" => Some((&mut fields.key, "Sec-WebSocket-Key")),
                    "sec-websocket-version" => Some((&mut fields.version, "Sec-WebSocket-Version")),
                    "sec-websocket-accept" => Some((&mut fields.accept, "Sec-WebSocket-Accept")),
                    "content-length" => Some((&mut fields.length, "Content-Length")),
                    "upgrade" => {
                        fields.upgrades |= has("websocket");
                        None
                    }
                    "connection" => {
                        fields.connection_upgrades |= has("upgrade");
                        None
                    }
                    "transfer-encoding" => {
                        fields.has_body = true;
                        None
                    }
                    "sec-websocket-extensions" => {
                        fields.extensions = true;
                        None
                    }
                    "sec-websocket-protocol" => {
                        let offered = tokens(value).any(|found| found == SUBPROTOCOL.as_bytes());
                        fields.subprotocol = Some(offered || fields.subprotocol == Some(true));
                        None
                    }
                    _ => None,
                };
            if let Some((field, name)) = single
                && field.replace(value).is_some()
            {
                fields.twice = Some(name);
            }
        }
        fields.has_body |= fields.length.is_some_and(|length| length != b"0");
        fields
    }
}

/// The elements of a list that commas separate.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Answers a request, whose block of headers is complete: the bytes of the response that accepts it.
///
/// # Errors
/// The response that refuses it.
pub fn answer(head: &[u8], rules: &Rules) -> Result<Vec<u8>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            let text = format!("A request has at most {HEADERS_MAX} headers.");
            return Err(Refusal::new(431, text));
        }
        Err(httparse::Error::Version) => {
            return Err(Refusal::new(505, "This server speaks HTTP/1.1."));
        }
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(Refusal::new(
                400,
                "This is not a request that HTTP/1.1 allows.",
            ));
        }
    }
    let fields = Fields::read(request.headers);
    if let Some(name) = fields.twice {
        return Err(Refusal::new(400, format!("The header {name} comes twice.")));
    }
    if request.version != Some(1) {
        return Err(Refusal::new(505, "A WebSocket needs HTTP/1.1."));
    }
    let Some(host) = fields.host.and_then(|host| str::from_utf8(host).ok()) else {
        return Err(Refusal::new(400, "The header Host is missing."));
    };
    let path = request.path.unwrap_or("").split('?').next();
    if path != Some(&rules.path) {
        return Err(Refusal::new(404, "There is nothing at this path."));
    }
    if request.method != Some("GET") {
        return Err(Refusal::new(405, "A WebSocket begins with GET."));
    }
    if fields.has_body {
        return Err(Refusal::new(
            400,
            "The request for a WebSocket has no body.",
        ));
    }
    if let Some(origin) = fields.origin {
        let site = Site {
            host: &rules.host,
            origins: rules.origins.as_deref(),
        };
        let checked = site.check_origin(origin, host);
        checked.map_err(|text| Refusal {
            origin: Some(excerpt(origin)),
            ..Refusal::new(403, text)
        })?;
    }
    if !fields.upgrades || !fields.connection_upgrades {
        let text =
            "This address speaks msgpack-rpc over WebSocket; connect with a WebSocket client.";
        return Err(Refusal::new(426, text));
    }
    if fields.version != Some(b"13") {
        return Err(Refusal::new(
            426,
            "This server speaks version 13 of WebSocket.",
        ));
    }
    let is_key = |key: &&[u8]| BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    let Some(key) = fields.key.filter(is_key) else {
        let text = "The header Sec-WebSocket-Key has to be 16 bytes in base64.";
        return Err(Refusal::new(400, text));
    };
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        accept_of(key)
    );
    if fields.subprotocol == Some(true) {
        let _ = write!(response, "Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n");
    }
    response.push_str("\r\n");
    Ok(response.into_bytes())
}

/// The answer to a key.
pub fn accept_of(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    BASE64.encode(hash.finalize())
}

/// The key of a request, from 16 random bytes.
pub fn key_of(random: [u8; 16]) -> String {
    BASE64.encode(random)
}

/// A client's request. `host` is as in the address, without brackets.
pub fn request(host: &str, port: u16, path: &str, key: &str) -> Vec<u8> {
    // The zone of an IPv6 address has a meaning on this machine alone.
    let host = host.split('%').next().unwrap_or(host);
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
    .into_bytes()
}

/// A server's answer that does not open a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It refuses. A body may follow, which says more.
    Status {
        /// Status and phrase, in printable characters.
        text: String,
        /// The length of the body, if it is known.
        body_bytes: Option<usize>,
    },
    /// It violates the protocol: the fault.
    Fault(String),
}

/// Checks the answer to a request with that key. Its block of headers is complete.
///
/// # Errors
/// If it does not open a WebSocket.
pub fn check_answer(head: &[u8], key: &str) -> Result<(), Rejection> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let fault = |text: &str| Err(Rejection::Fault(text.to_owned()));
    if !matches!(response.parse(head), Ok(httparse::Status::Complete(_))) {
        let excerpt = excerpt(head);
        return Err(Rejection::Fault(format!(
            "it does not speak HTTP: it answered \"{excerpt}\""
        )));
    }
    let fields = Fields::read(response.headers);
    let status = response.code.unwrap_or(0);
    if status != 101 {
        let length = fields.length.and_then(|length| str::from_utf8(length).ok());
        let phrase = excerpt(response.reason.unwrap_or("").as_bytes());
        return Err(Rejection::Status {
            text: format!("{status} {phrase}").trim_end().to_owned(),
            body_bytes: length.and_then(|length| length.parse().ok()),
        });
    }
    if !fields.upgrades || !fields.connection_upgrades {
        return fault("its answer switches to another protocol than WebSocket");
    }
    if fields.twice.is_some() || fields.accept != Some(accept_of(key.as_bytes()).as_bytes()) {
        return fault("its answer belongs to another request: Sec-WebSocket-Accept is wrong");
    }
    if fields.extensions {
        return fault("its answer chooses an extension that was not offered");
    }
    if fields.subprotocol == Some(false) {
        return fault("its answer chooses a subprotocol that was not offered");
    }
    Ok(())
}

/// The beginning of the bytes, in printable characters.
pub fn excerpt(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let shown = &bytes[..bytes.len().min(EXCERPT_MAX)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    match str::from_utf8(shown) {
        // Control characters could move a terminal's cursor.
        Ok(text) => text
            .chars()
            .flat_map(printable)
            .chain(more.chars())
            .collect(),
        Err(_) => format!("{}{more}", shown.escape_ascii()),
    }
}

fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests;
