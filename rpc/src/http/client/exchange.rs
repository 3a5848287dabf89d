//! One request and its answer.
//!
//! ```text
//!   begin ──▶ advance ─▶ NeedsBody … ─▶ Head ─▶ Data … ─▶ End: the connection goes to the pool
//!                │           └─ feed
//!                └─ a connection from the pool was closed by the server: once more, over a new one
//! ```
//!
//! All state is in the exchange, none in a future: a wait that is cancelled, or whose time passes, loses nothing, and
//! the next one continues. Dropping the exchange closes the connection, unless the answer has ended.

use super::connection::{Answer, ClientLink, Connection, HEAD_MAX};
use super::outgoing::{Feed, Outgoing};
use super::pool::{self, Pool};
use super::{Payload, Request, Target};
use crate::error::{Error, ErrorKind};
use crate::http::message::is_chunked;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, Version};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use yue_scheduler::block_on;

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The text that follows the status; perhaps empty.
    pub reason: String,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
}

/// A step of an exchange.
#[derive(Debug)]
pub enum Event {
    /// The request's next piece is needed; see [`Exchange::feed`].
    NeedsBody,
    /// The answer begins.
    Head(Head),
    /// Bytes of the answer's body.
    Data(Bytes),
    /// The answer is whole.
    End,
}

/// A request that was sent, or is being sent, and its answer.
pub struct Exchange {
    pool: Rc<Pool>,
    key: String,
    request: Rc<Request>,
    /// `None` when the answer has ended, or after an error.
    connection: Option<Connection>,
    /// The link of the connection.
    link: Rc<RefCell<Option<Rc<ClientLink>>>>,
    is_pooled: bool,
    feed: Option<Rc<Feed>>,
    /// The rest of the request is not sent.
    is_abandoned: bool,
    /// The head that is waited for.
    answer: Option<Answer>,
    /// The body, from the head on.
    body: Option<Incoming>,
    failure: Option<Error>,
}

impl Exchange {
    pub(super) fn begin(pool: Rc<Pool>, request: Request) -> Result<Exchange, Error> {
        let key = pool::key_of(&request);
        // Faults of the request come before the cost of a connection.
        if request.socket.is_some() && request.target.is_secure() {
            let text = "over a Unix socket a URL begins with http://: TLS is not spoken there";
            return Err(Error::new(ErrorKind::Address, text));
        }
        request.target.uri()?;
        let in_chunks = matches!(request.payload, Payload::Pieces);
        let pooled = pool.take(&key);
        let pooled = pooled.filter(|connection| !in_chunks || connection.takes_chunks());
        let is_pooled = pooled.is_some();
        let connection = match pooled {
            Some(connection) => connection,
            None => Connection::open(&pool.connector(&key, &request)?)?,
        };
        let mut exchange = Exchange {
            pool,
            key,
            request: Rc::new(request),
            connection: None,
            link: Rc::default(),
            is_pooled,
            feed: None,
            is_abandoned: false,
            answer: None,
            body: None,
            failure: None,
        };
        exchange.send_over(connection)?;
        Ok(exchange)
    }

    /// The next event. Runs in a fiber, which waits. After [`Event::End`] it is returned again.
    ///
    /// # Errors
    /// Those of the connection and of the answer, which end the exchange; and `CancelledError` or `TimeoutError` of the
    /// fiber, after which the exchange can continue.
    pub fn advance(&mut self) -> Result<Event, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.connection.is_none() {
            return Ok(Event::End);
        }
        match block_on(poll_fn(|context| self.poll_event(context)))? {
            Ok(event) => Ok(event),
            Err(Fault::Stale) => {
                self.retry()?;
                self.advance()
            }
            Err(Fault::Fatal(error)) => Err(self.fail(error)),
        }
    }

    /// Waits for the head of the answer to a request whose body is whole.
    ///
    /// # Errors
    /// See [`Exchange::advance`]; `RuntimeError` if the head was returned before, or the request needs pieces.
    pub fn head(&mut self) -> Result<Head, Error> {
        match self.advance()? {
            Event::Head(head) => Ok(head),
            _ => {
                let text = "the head of the answer is not the next event; call advance";
                Err(Error::new(ErrorKind::Runtime, text))
            }
        }
    }

    /// Sends a piece of the request's body; `None` is its end. Empty pieces are left out. After [`Event::NeedsBody`].
    pub fn feed(&mut self, piece: Option<Bytes>) {
        let piece = match piece {
            Some(piece) if piece.is_empty() => return,
            piece => piece,
        };
        if let Some(feed) = self.feed.as_ref().filter(|feed| feed.is_wanted()) {
            feed.put(piece);
        }
    }

    /// Whether the request has been handed over completely.
    pub fn is_sent(&self) -> bool {
        self.feed.as_ref().is_none_or(|feed| feed.has_ended())
    }

    /// Reads the rest of the answer's body, after its head.
    ///
    /// # Errors
    /// See [`Exchange::advance`]; `MessageTooLargeError` if it has more than `bytes_max` bytes.
    pub fn read_to_end(&mut self, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let announced = self
            .body
            .as_ref()
            .map_or(0, |body| body.size_hint().lower());
        if announced > bytes_max as u64 {
            return Err(self.fail_too_large(bytes_max));
        }
        let mut whole = Vec::with_capacity(announced as usize);
        loop {
            match self.advance()? {
                Event::Data(piece) if piece.len() > bytes_max - whole.len() => {
                    return Err(self.fail_too_large(bytes_max));
                }
                Event::Data(piece) => whole.extend_from_slice(&piece),
                Event::End => return Ok(whole),
                Event::NeedsBody => self.stop_feeding(),
                Event::Head(_) => {}
            }
        }
    }

    /// Sends no more of the request: the server has answered without it. The connection is not used again.
    pub fn stop_feeding(&mut self) {
        self.is_abandoned = !self.is_sent();
        self.feed = None;
    }

    /// Closes the connection, unless the answer has ended.
    pub fn close(&mut self) {
        self.answer = None;
        self.body = None;
        self.link.take();
        self.connection = None;
        let text = format!("the answer of {} was closed", self.request.target);
        self.failure
            .get_or_insert(Error::new(ErrorKind::ConnectionLost, text));
    }

    /// A handle that ends the link of the exchange, for another fiber than the one that waits in it.
    pub fn closer(&self) -> Closer {
        Closer(self.link.clone())
    }

    /// The URL that was asked, without a user.
    pub fn target(&self) -> &Target {
        &self.request.target
    }

    // -- Sending ------------------------------------------------------------------------------------------------------

    fn send_over(&mut self, mut connection: Connection) -> Result<(), Error> {
        let request = &*self.request;
        let (outgoing, feed) = match &request.payload {
            Payload::Whole(bytes) => (Outgoing::Whole(bytes.clone()), None),
            Payload::Pieces => {
                let feed = Rc::new(Feed::default());
                (Outgoing::Pieces(feed.clone()), Some(feed))
            }
        };
        let mut sent = hyper::Request::new(outgoing);
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = request.target.uri()?;
        *sent.headers_mut() = request.headers.clone();
        let headers = sent.headers_mut();
        if !headers.contains_key(header::HOST) {
            let host = HeaderValue::from_str(request.target.host());
            let host = host.map_err(|_| Error::new(ErrorKind::Address, "the host is not valid"))?;
            headers.insert(header::HOST, host);
        }
        let is_empty = matches!(&request.payload, Payload::Whole(bytes) if bytes.is_empty());
        if is_empty && [Method::POST, Method::PUT, Method::PATCH].contains(&request.method) {
            // Servers wait for a body otherwise (RFC 9110, section 8.6).
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        self.feed = feed;
        self.answer = Some(connection.send(sent));
        self.link.replace(Some(connection.link().clone()));
        self.connection = Some(connection);
        Ok(())
    }

    fn retry(&mut self) -> Result<(), Error> {
        self.is_pooled = false;
        self.link.take();
        self.connection = None;
        let connector = self.pool.connector(&self.key, &self.request)?;
        let connection = Connection::open(&connector).map_err(|error| self.fail(error))?;
        let outcome = self.send_over(connection);
        outcome.map_err(|error| self.fail(error))
    }

    /// Whether a request that failed over a connection from the pool may be sent again: nothing of it has left, or it
    /// may run twice and no answer has begun.
    fn may_retry(&self, link: &ClientLink) -> bool {
        let has_pieces_left = self.feed.as_ref().is_none_or(|feed| !feed.is_begun());
        let is_idempotent = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ]
        .contains(&self.request.method);
        self.is_pooled
            && has_pieces_left
            && (!link.has_sent() || (is_idempotent && !link.has_heard()))
    }

    // -- Receiving ----------------------------------------------------------------------------------------------------

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Fault>> {
        // hyper passes a piece of a body only when it was asked for: the second round has what the first one asked for.
        for _ in 0..2 {
            if let Some(connection) = &mut self.connection {
                connection.drive(context);
            }
            let event = self.poll_answer(context);
            if event.is_ready() {
                return event;
            }
        }
        match self.feed.as_ref().is_some_and(|feed| feed.is_wanted()) {
            true => Poll::Ready(Ok(Event::NeedsBody)),
            false => Poll::Pending,
        }
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Fault>> {
        if let Some(answer) = &mut self.answer {
            let outcome = ready!(answer.as_mut().poll(context));
            self.answer = None;
            return Poll::Ready(match outcome {
                Ok(answer) => self.begin_body(answer),
                Err(error) => Err(self.fault_of(error.error())),
            });
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(self.end(context)));
        };
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // The others are trailers.
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Ok(Event::Data(piece)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(self.fault_of(&error))),
                None => return Poll::Ready(Ok(self.end(context))),
            }
        }
    }

    fn begin_body(&mut self, answer: Response<Incoming>) -> Result<Event, Fault> {
        let (parts, body) = answer.into_parts();
        if parts.status == hyper::StatusCode::SWITCHING_PROTOCOLS {
            let text = format!(
                "{} switched to another protocol, which the request did not ask for",
                self.request.target
            );
            return Err(Fault::Fatal(Error::new(ErrorKind::Transport, text)));
        }
        let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        if !codings.next().is_none_or(is_chunked) || codings.next().is_some() {
            let text = format!(
                "{} answers in a transfer encoding that was not asked for; only chunked is known",
                self.request.target
            );
            return Err(Fault::Fatal(Error::new(ErrorKind::Transport, text)));
        }
        if let Some(connection) = &mut self.connection {
            connection.note_version(parts.version);
        }
        self.body = Some(body);
        let reason = match parts.extensions.get::<hyper::ext::ReasonPhrase>() {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => parts
                .status
                .canonical_reason()
                .unwrap_or_default()
                .to_owned(),
        };
        Ok(Event::Head(Head {
            status: parts.status.as_u16(),
            reason,
            version: parts.version,
            headers: parts.headers,
        }))
    }

    /// The answer is whole: the connection goes to the pool if it can be used again.
    fn end(&mut self, context: &mut Context<'_>) -> Event {
        self.body = None;
        self.link.take();
        let is_sent = self.is_sent() && !self.is_abandoned;
        if let Some(mut connection) = self.connection.take() {
            // hyper looks for bytes after the answer, and becomes ready for the next request.
            connection.drive(context);
            if is_sent && connection.is_reusable() {
                self.pool.put(&self.key, connection);
            }
        }
        Event::End
    }

    // -- Failures -----------------------------------------------------------------------------------------------------

    fn fault_of(&self, error: &hyper::Error) -> Fault {
        let Some(connection) = &self.connection else {
            return Fault::Fatal(describe(error, &self.request, true));
        };
        let link = connection.link();
        let is_lost = !error.is_parse() && !error.is_user();
        if is_lost && self.body.is_none() && self.may_retry(link) {
            return Fault::Stale;
        }
        Fault::Fatal(describe(error, &self.request, link.has_sent()))
    }

    /// Ends the exchange: the error is that of each later event, too.
    fn fail(&mut self, error: Error) -> Error {
        self.failure = Some(error.clone());
        self.close();
        error
    }

    fn fail_too_large(&mut self, bytes_max: usize) -> Error {
        let text = format!(
            "the body of the answer of {} has more than {bytes_max} bytes; raise body_max, or read it in pieces, with \
             stream = true",
            self.request.target
        );
        self.fail(Error::new(ErrorKind::MessageTooLarge, text))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("method", &self.request.method)
            .field("target", &self.request.target)
            .finish_non_exhaustive()
    }
}

/// Ends the link of an exchange from outside; see [`Exchange::closer`].
pub struct Closer(Rc<RefCell<Option<Rc<ClientLink>>>>);

impl Closer {
    /// Ends the link: a fiber that waits for the answer gets an error.
    pub fn close(&self) {
        let link = self.0.borrow().clone();
        if let Some(link) = link {
            link.close();
        }
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closer").finish_non_exhaustive()
    }
}

/// The end of an attempt.
enum Fault {
    /// The server has closed an idle connection; the request may be sent over a new one.
    Stale,
    Fatal(Error),
}

/// The error of a request, from hyper's.
fn describe(error: &hyper::Error, request: &Request, has_sent: bool) -> Error {
    let target = &request.target;
    let source = std::error::Error::source(error);
    let reason = source.map_or_else(|| error.to_string(), |source| source.to_string());
    if error.is_parse_too_large() {
        let text = format!(
            "the head of the answer of {target} is larger than {HEAD_MAX} bytes, or has too many headers"
        );
        return Error::new(ErrorKind::MessageTooLarge, text);
    }
    if error.is_parse() {
        let advice = match target.is_secure() {
            true => "",
            false => "; does the URL have to begin with https://?",
        };
        let text = format!("the answer of {target} is not HTTP: {error}{advice}");
        return Error::new(ErrorKind::Transport, text);
    }
    let broken = source.and_then(|source| source.downcast_ref::<io::Error>());
    if broken.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    }) {
        let text = format!("the body of the answer of {target} is not HTTP: {reason}");
        return Error::new(ErrorKind::Transport, text);
    }
    if !has_sent {
        let text =
            format!("the connection to {target} was lost before the request was sent: {reason}");
        return Error::retryable(ErrorKind::ConnectionLost, text);
    }
    let text = format!(
        "the connection to {target} was lost before the answer was whole: {reason}; the request may have run"
    );
    Error::new(ErrorKind::ConnectionLost, text)
}
