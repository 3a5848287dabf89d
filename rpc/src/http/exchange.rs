//! One request and its answer.
//!
//! The order of the checks is that of their cost, and of what they reveal: rules that hold for every path first, the
//! grant before the body is read, and the function's name last, by the session that every call passes.

use super::answer::{Fault, close_after, empty, set, with_json};
use super::connection::Site;
use super::json;
use super::message::single;
use super::results::write_results;
use super::server::{HttpConnection, HttpFault};
use super::{HttpAnswer, HttpHead, HttpRequest};
use crate::error::ErrorKind;
use crate::session::options::{Limits, Timeout};
use crate::session::service::say_seldom;
use crate::session::{Accounts, Session};
use crate::trace::{self, TraceParent};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use std::rc::Rc;
use yue_scheduler::timeout;

/// The path under which functions are called.
const PREFIX: &str = "/rpc/";

/// The longest name of a function, in bytes; also that of the path is bounded, by the limit of a head.
const NAME_MAX: usize = 1024;

/// The time for which a browser remembers that a page may call, in seconds.
const PREFLIGHT_AGE: &str = "600";

/// The common parts of one connection's requests.
pub(super) struct Exchange {
    pub(super) site: Rc<Site>,
    pub(super) accounts: Rc<Accounts>,
    pub(super) accepted: Session,
    pub(super) caller: Session,
    pub(super) limits: Limits,
    pub(super) connection: HttpConnection,
}

impl Exchange {
    /// Answers a request. Runs in the connection's fiber, which it may park.
    pub(super) fn respond(&self, request: &HttpHead) -> HttpAnswer {
        let headers = &request.parts.headers;
        let origin = headers.get(header::ORIGIN).cloned();
        // What follows a body in chunks is not read: two parsers that disagree on its end would take it for another
        // request (RFC 9112, section 11.2).
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let mut answer = match self.check_caller(request) {
            Err(fault) => fault.closing().answer(),
            Ok(()) => {
                let mut answer = match self.serve(request) {
                    Ok(answer) => answer,
                    Err(fault) => fault.answer(),
                };
                if let Some(origin) = origin {
                    allow(&mut answer, origin);
                }
                answer
            }
        };
        if is_chunked || self.connection.is_ending() || self.accepted.is_closed() {
            close_after(&mut answer);
        }
        answer
    }

    /// Checks that the page and the name that the request names may call.
    fn check_caller(&self, request: &HttpHead) -> Result<(), Fault> {
        let bad = |text: &str| Fault::new(StatusCode::BAD_REQUEST, ErrorKind::Argument, text);
        let host = request.host().map_err(bad)?;
        let host = host.ok_or_else(|| bad("The header Host is missing."))?;
        let callers = self.site.callers();
        let checked = match single(&request.parts.headers, &header::ORIGIN).map_err(bad)? {
            Some(origin) => callers.check_origin(origin.as_bytes(), host),
            None => callers.check_host(host),
        };
        checked.map_err(|text| Fault::new(StatusCode::FORBIDDEN, ErrorKind::NotGranted, text))
    }

    fn serve(&self, request: &HttpHead) -> Result<HttpAnswer, Fault> {
        let (method, headers) = (&request.parts.method, &request.parts.headers);
        let Some(grant) = &self.site.grant else {
            return Err(nothing_here());
        };
        let name = function_name(request.path()).ok_or_else(nothing_here)?;
        match *method {
            Method::POST => {}
            Method::OPTIONS => return Ok(preflight(headers)),
            _ => return Ok(wrong_method()),
        }
        check_content_type(headers)?;
        if self.accepted.is_turned_away() {
            let limit = self.limits.connections_max;
            let text = format!("the server has {limit} connections, its limit; try again later");
            return Err(busy(text).closing());
        }
        // A header that is malformed begins no trace, as the recommendation says.
        let trace = headers.get("traceparent");
        let trace = trace.and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok());
        let granting = self.request_of(request, name);
        let name = granting.name.clone();
        // A body is read only for those who may call.
        let granted = timeout(self.limits.handshake, || grant(&granting));
        self.check_grant(&granting, granted.map_err(|_| ()))?;
        drop(granting);
        let body = self.read_body()?;
        match trace {
            Some(trace) => trace::with(trace, || self.call(&name, body)),
            None => self.call(&name, body),
        }
    }

    fn request_of(&self, request: &HttpHead, name: String) -> HttpRequest {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = request.parts.headers.iter();
        HttpRequest {
            name,
            method: request.method().to_owned(),
            path: request
                .parts
                .uri
                .path_and_query()
                .map_or_else(String::new, |path| path.as_str().to_owned()),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                .collect(),
            peer: self.connection.peer().to_owned(),
            peer_name: self.connection.peer_name(),
        }
    }

    fn check_grant(
        &self,
        request: &HttpRequest,
        granted: Result<Result<bool, crate::Failure>, ()>,
    ) -> Result<(), Fault> {
        let failure = match granted {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => {
                let text = "the server did not grant this request";
                let fault = Fault::new(StatusCode::FORBIDDEN, ErrorKind::NotGranted, text);
                return Err(fault.closing());
            }
            Ok(Err(failure)) => failure.message,
            Err(()) => "it took too long".to_owned(),
        };
        let HttpRequest { name, peer, .. } = request;
        say_seldom(&format!(
            "http.rpc failed for a request of {peer} for '{}': {failure}",
            name.escape_debug()
        ));
        let text = "the server failed to decide whether it grants this request";
        let fault = Fault::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Server, text);
        Err(fault.closing())
    }

    /// Reads a body, which counts for the memory of the listener meanwhile.
    fn read_body(&self) -> Result<Counted, Fault> {
        let max = self.limits.message_bytes_max;
        let too_large = || {
            let text = format!("the body is larger than {max} bytes, the limit of a message");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Fault::new(status, ErrorKind::MessageTooLarge, text).closing()
        };
        if self.connection.body_length() > max as u64 {
            return Err(too_large());
        }
        let mut whole = Counted {
            accounts: self.accounts.clone(),
            bytes: Vec::new(),
            counted: 0,
        };
        loop {
            let piece = match self.connection.read_body() {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(whole),
                Err(fault @ HttpFault::Late) => {
                    let status = StatusCode::REQUEST_TIMEOUT;
                    return Err(Fault::new(status, ErrorKind::Timeout, fault.to_string()).closing());
                }
                Err(fault) => {
                    let status = StatusCode::BAD_REQUEST;
                    return Err(
                        Fault::new(status, ErrorKind::Argument, fault.to_string()).closing()
                    );
                }
            };
            if whole.bytes.len() + piece.len() > max {
                return Err(too_large());
            }
            whole.append(&piece);
            if self.accounts.memory_is_short(&self.limits)
                && self.accounts.must_wait(whole.bytes.len(), &self.limits)
            {
                return Err(busy("the server has no memory for this request at present").closing());
            }
        }
    }

    /// Calls the function, and waits for its answer.
    fn call(&self, name: &str, body: Counted) -> Result<HttpAnswer, Fault> {
        let limits = json::Limits {
            bytes_max: self.limits.message_bytes_max,
            nesting_max: self.limits.nesting_max,
        };
        let mut arguments = Vec::new();
        let count = json::read_arguments(&body.bytes, limits, &mut arguments).map_err(|fault| {
            let (status, kind) = match fault {
                json::Fault::TooLarge(_) => {
                    (StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::MessageTooLarge)
                }
                _ => (StatusCode::BAD_REQUEST, ErrorKind::Argument),
            };
            Fault::new(status, kind, fault.to_string())
        })?;
        drop(body);
        let outcome = self.caller.call(name, Timeout::Default, move |out| {
            out.extend_from_slice(&arguments);
            Ok(count)
        });
        let response = outcome.map_err(|error| Fault::of_call(&error))?;
        let mut out = b"{\"result\":".to_vec();
        let written = write_results(response.bytes(), response.count(), limits, &mut out);
        if let Err(fault) = written {
            // Functions among the results would be kept for this client.
            self.caller.release_unread(response.bytes());
            let kind = match fault {
                json::Fault::ResultTooLarge(_) => ErrorKind::MessageTooLarge,
                _ => ErrorKind::Server,
            };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Fault::new(status, kind, fault.to_string()));
        }
        out.push(b'}');
        Ok(with_json(StatusCode::OK, out))
    }
}

/// A body that counts for its listener's memory.
struct Counted {
    accounts: Rc<Accounts>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Counted {
    fn append(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        let now = self.bytes.capacity();
        self.accounts.replace_memory(self.counted, now);
        self.counted = now;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.accounts.replace_memory(self.counted, 0);
    }
}

fn nothing_here() -> Fault {
    let text = "there is nothing at this path";
    Fault::new(StatusCode::NOT_FOUND, ErrorKind::NoMethod, text)
}

fn busy(text: impl Into<String>) -> Fault {
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::ServerBusy, text).retryable()
}

fn wrong_method() -> HttpAnswer {
    let text = "a function is called with POST";
    let fault = Fault::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Call, text);
    let mut answer = fault.closing().answer();
    set(&mut answer, header::ALLOW, "POST, OPTIONS");
    answer
}

/// The answer to a browser that asks whether a page may send JSON here, with which headers. The page's origin was
/// checked, so it may send any.
fn preflight(asked: &HeaderMap) -> HttpAnswer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    set(&mut answer, header::ALLOW, "POST, OPTIONS");
    set(&mut answer, header::ACCESS_CONTROL_ALLOW_METHODS, "POST");
    let headers = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let headers = headers.unwrap_or(HeaderValue::from_static("content-type, authorization"));
    let allowed = header::ACCESS_CONTROL_ALLOW_HEADERS;
    answer.response.headers_mut().insert(allowed, headers);
    set(&mut answer, header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
    answer
}

/// Lets the page read the answer.
fn allow(answer: &mut HttpAnswer, origin: HeaderValue) {
    let headers = answer.response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

/// Checks that the body is JSON: a form of a foreign page, which a browser sends without asking, cannot say that.
fn check_content_type(headers: &HeaderMap) -> Result<(), Fault> {
    let value = single(headers, &header::CONTENT_TYPE).ok().flatten();
    let essence = value
        .and_then(|value| value.as_bytes().split(|byte| *byte == b';').next())
        .unwrap_or_default();
    if essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
    {
        return Ok(());
    }
    let text = "the body is JSON, and the header Content-Type has to say so: application/json";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Fault::new(status, ErrorKind::Argument, text).closing())
}

/// The function that a path names, without its escapes.
fn function_name(path: &str) -> Option<String> {
    let escaped = path.strip_prefix(PREFIX)?;
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                (digit(rest.next())? * 16 + digit(rest.next())?) as u8
            }
            byte => byte,
        });
    }
    // A slash leads nowhere: names of the protocol itself have one.
    let is_name = (1..=NAME_MAX).contains(&bytes.len()) && !bytes.contains(&b'/');
    String::from_utf8(bytes).ok().filter(|_| is_name)
}
