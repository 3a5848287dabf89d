//! A server's HTTP connection, driven by its fiber.
//!
//! ```text
//!   link ──▶ Stream ──▶ hyper ──▶ Desk.request ──▶ next_request ─▶ the owner: RPC, or a program
//!                         ◀────── Desk.answer ◀──── answer
//!                         ◀────── Pipe ◀─────────── send, end          bodies of answers that are made in pieces
//!                         ──────▶ Incoming ───────▶ read_body          bodies of requests, as they are read
//! ```
//!
//! hyper is a future, and the owner is plain code that waits. So hyper's service only puts a request on the desk and
//! waits for the answer there. Whatever the owner waits for (the next request, a piece of a body, room for output), its
//! fiber polls hyper until that has happened. So hyper is never polled from within a handler, nothing is spawned for a
//! request, and requests of a connection are answered in their order.
//!
//! The link may end at any time. A handler that runs learns of it when it reads or sends; it runs to its end.

use super::body::{AnswerBody, Pipe};
use super::stream::{HyperStream, Stream, Times};
use super::{AnswerFault, HttpAnswer, HttpHead};
use crate::session::Accounts;
use crate::session::options::Options;
use crate::transport::{Events, Transport};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{HeaderMap, Request, Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use yue_scheduler::{Builder, StackClass, Stopped, park, prepare_park, set_context, yield_now};

/// hyper's buffer for a connection's input.
const BUFFER_BYTES: usize = 64 * 1024;

/// The waits that may end at once before the fiber yields.
const UNPARKED_MAX: u32 = 64;

/// The most entries of a map that is kept for the next answer: an idle connection holds little.
const SPARE_MAX: usize = 32;

/// hyper's own limit of headers.
const HEADERS_DEFAULT: usize = 100;

/// The answer to a connection above the limit.
const CROWDED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
                         Content-Length: 0\r\n\r\n";

/// The limits of a connection whose requests a program answers.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// The longest head of a request, in bytes; a longer one is answered with 431.
    pub head_bytes_max: usize,
    /// The maximum number of headers of a request; more are answered with 431.
    pub headers_max: usize,
    /// The time for a head, from its first byte; a slower one is answered with 408.
    pub head: Duration,
    /// The time after which a connection without a request is closed.
    pub idle: Duration,
    /// The time for each kilobyte of a body, while it is read.
    pub body: Duration,
    /// The time in which the peer must read anything, while output waits for it.
    pub write: Duration,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            head_bytes_max: 16 * 1024,
            headers_max: HEADERS_DEFAULT,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

/// The program that answers the requests of a listener's connections.
///
/// ```
/// use std::io::{Read, Write};
/// use std::rc::Rc;
/// use yue_io::net::TcpStream;
/// use yue_rpc::session::Service;
/// use yue_rpc::transport::{HttpAnswer, HttpConnection, HttpLimits, HttpOptions, Serve, SocketOptions};
/// use yue_rpc::{Listener, Options};
///
/// /// Sends back what it gets.
/// struct Echo;
///
/// impl Serve for Echo {
///     fn serve(&self, connection: &Rc<HttpConnection>) {
///         while let Ok(Some(_head)) = connection.next_request() {
///             let mut answer = HttpAnswer::new(200).unwrap();
///             let mut whole = Vec::new();
///             while let Ok(Some(piece)) = connection.read_body() {
///                 whole.extend_from_slice(&piece);
///             }
///             answer.whole(whole.into(), false).unwrap();
///             connection.answer(answer);
///         }
///     }
/// }
///
/// yue_io::run(|| -> Result<(), Box<dyn std::error::Error>> {
///     let http = HttpOptions::new().serve(Rc::new(Echo), HttpLimits::default());
///     let sockets = SocketOptions { http: Some(http), ..SocketOptions::default() };
///     let address = "tcp://127.0.0.1:0".parse()?;
///     let listener = Listener::bind_with(&address, Service::none(), Options::default(), &sockets)?;
///
///     let mut client = TcpStream::connect(listener.address().host_and_port().ok_or("no port")?)?;
///     client.write_all(
///         b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
///     )?;
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?;
///     assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
///     listener.close();
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Serve {
    /// Serves a connection, in a fiber of its own, until [`HttpConnection::next_request`] returns nothing. It may
    /// park. When it returns, the connection ends.
    fn serve(&self, connection: &Rc<HttpConnection>);
}

/// hyper's service and the connection's fiber exchange requests and answers here.
#[derive(Default)]
struct Desk {
    request: RefCell<Option<(Rc<HttpHead>, Incoming)>>,
    answer: RefCell<Option<Response<AnswerBody>>>,
}

struct Receiver(Rc<Desk>);

impl Service<Request<Incoming>> for Receiver {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Awaited;

    fn call(&self, request: Request<Incoming>) -> Awaited {
        let (parts, body) = request.into_parts();
        let request = (Rc::new(HttpHead { parts }), body);
        let before = self.0.request.replace(Some(request));
        debug_assert!(before.is_none(), "hyper serves one request at a time");
        Awaited(self.0.clone())
    }
}

/// The answer on the desk. The fiber polls hyper after it has put one there.
struct Awaited(Rc<Desk>);

impl Future for Awaited {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.answer.take() {
            Some(answer) => Poll::Ready(Ok(answer)),
            None => Poll::Pending,
        }
    }
}

/// Whether hyper wants to be polled again at once. Only hyper has the waker, and only while it is polled: an event of
/// the link wakes the fiber itself.
#[derive(Default)]
struct Task(AtomicBool);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The reason why a wait of a connection's owner has ended without success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpFault {
    /// The connection has ended.
    #[error("the connection to the client has ended")]
    Lost,
    /// The body of the request did not arrive in time.
    #[error("the body did not arrive in time")]
    Late,
    /// The body of the request cannot be read.
    #[error("the body cannot be read: {0}")]
    Malformed(String),
    /// The body of an answer has more bytes than its header `content-length` states.
    #[error(
        "the body is longer than its header content-length states: what is too much was not sent"
    )]
    TooLong,
    /// Another fiber waits for this connection.
    #[error("another fiber reads or writes this connection at present")]
    Busy,
    /// The fiber must stop.
    #[error("{0}")]
    Stopped(Stopped),
}

/// A server's HTTP connection. See [`Serve`].
pub struct HttpConnection {
    stream: Rc<Stream>,
    desk: Rc<Desk>,
    task: Arc<Task>,
    waker: Waker,
    /// `None` once it has ended.
    hyper: RefCell<Option<http1::Connection<HyperStream, Receiver>>>,
    shuts_down: Cell<bool>,
    /// Waits that ended at once, since the fiber parked or yielded.
    unparked: Cell<u32>,
    /// The present request has no answer yet.
    is_asked: Cell<bool>,
    /// The rest of the present request's body.
    body: RefCell<Option<Incoming>>,
    /// The body of an answer that is sent in pieces.
    pipe: RefCell<Option<Rc<Pipe>>>,
    /// The bytes that its stated length has room for.
    body_left: Cell<Option<u64>>,
    peer: String,
    /// The map of an earlier request, for the next answer: hyper uses that of an answer for the next request.
    spare: Cell<HeaderMap>,
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl HttpConnection {
    pub(super) fn new(
        stream: Rc<Stream>,
        peer: String,
        head_bytes_max: usize,
        headers_max: usize,
    ) -> HttpConnection {
        let desk = Rc::<Desk>::default();
        let mut hyper = http1::Builder::new();
        // Even the default number, set here, would fill two arrays for each request.
        if headers_max != HEADERS_DEFAULT {
            hyper.max_headers(headers_max);
        }
        let hyper = hyper
            // The stream has the limits of time: hyper knows only that of the head.
            .header_read_timeout(None)
            // A client that sends no more gets its answer.
            .half_close(true)
            .max_header_size(head_bytes_max)
            .max_buf_size(BUFFER_BYTES.max(head_bytes_max.saturating_mul(2)))
            .serve_connection(HyperStream(stream.clone()), Receiver(desk.clone()));
        let task = Arc::<Task>::default();
        HttpConnection {
            stream,
            desk,
            waker: Waker::from(task.clone()),
            task,
            hyper: RefCell::new(Some(hyper)),
            shuts_down: Cell::new(false),
            unparked: Cell::new(0),
            is_asked: Cell::new(false),
            body: RefCell::default(),
            pipe: RefCell::default(),
            body_left: Cell::new(None),
            peer,
            spare: Cell::default(),
        }
    }

    /// The address of the peer.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The name in the peer's certificate, which the link has verified.
    pub fn peer_name(&self) -> Option<String> {
        self.stream.peer_name()
    }

    /// Whether the connection ends after the present request, because its listener has been closed.
    pub fn is_ending(&self) -> bool {
        self.stream.is_ending()
    }

    /// Waits for the next request, and sends the rest of the last answer meanwhile. `None` if the connection has ended.
    /// If the last request has not been answered, the answer is 500.
    ///
    /// # Errors
    /// If the fiber must stop.
    pub fn next_request(&self) -> Result<Option<Rc<HttpHead>>, Stopped> {
        if self.is_asked.get() {
            let mut response = Response::new(AnswerBody::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            self.answer(HttpAnswer { response });
        }
        self.end(false);
        let (head, body) = match self.drive(|_| self.desk.request.take()) {
            Ok(request) => request,
            Err(HttpFault::Stopped(stopped)) => return Err(stopped),
            Err(_) => return Ok(None),
        };
        self.stream.begin_request();
        self.is_asked.set(true);
        *self.body.borrow_mut() = (!body.is_end_stream()).then_some(body);
        Ok(Some(head))
    }

    /// The length of the request's body that is still to be read: the least, if it is not known. 0 for none.
    pub fn body_length(&self) -> u64 {
        let body = self.body.try_borrow();
        body.map_or(0, |body| {
            body.as_ref().map_or(0, |body| body.size_hint().lower())
        })
    }

    /// Whether the present request has a body that has not been read to its end.
    pub fn has_body(&self) -> bool {
        self.body.try_borrow().is_ok_and(|body| body.is_some())
    }

    /// Waits for the next piece of the request's body. `None` at its end.
    ///
    /// # Errors
    /// The body cannot be read any further.
    pub fn read_body(&self) -> Result<Option<Bytes>, HttpFault> {
        let mut slot = self.body.try_borrow_mut().map_err(|_| HttpFault::Busy)?;
        let Some(body) = slot.as_mut() else {
            return Ok(None);
        };
        self.stream.resume_body();
        let piece = self.drive(|context| self.poll_body(body, context));
        self.stream.pause_body();
        let piece = piece.and_then(|piece| piece);
        match &piece {
            Ok(Some(piece)) => self.stream.note_body(piece.len()),
            Err(HttpFault::Busy | HttpFault::Stopped(_)) => {}
            Ok(None) | Err(_) => *slot = None,
        }
        piece
    }

    fn poll_body(
        &self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Option<Result<Option<Bytes>, HttpFault>> {
        if self.stream.body_is_late() {
            return Some(Err(HttpFault::Late));
        }
        loop {
            let frame = match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => return None,
                Poll::Ready(None) => return Some(Ok(None)),
                Poll::Ready(Some(Err(_))) if self.stream.is_closed() => {
                    return Some(Err(HttpFault::Lost));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Some(Err(HttpFault::Malformed(error.to_string())));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers are ignored: whoever relied on them could be misled by a proxy that drops them.
            if let Ok(piece) = frame.into_data()
                && !piece.is_empty()
            {
                return Some(Ok(Some(piece)));
            }
        }
    }

    /// Creates an answer, as [`HttpAnswer::new`] does, in memory that the connection has already.
    ///
    /// # Errors
    /// See [`HttpAnswer::new`].
    pub fn new_answer(&self, status: u16) -> Result<HttpAnswer, AnswerFault> {
        let mut answer = HttpAnswer::new(status)?;
        *answer.response.headers_mut() = self.spare.take();
        Ok(answer)
    }

    /// Takes back the memory of a request that has been answered.
    pub fn recycle(&self, head: Rc<HttpHead>) {
        if let Ok(head) = Rc::try_unwrap(head) {
            let mut headers = head.parts.headers;
            if headers.capacity() <= SPARE_MAX {
                headers.clear();
                self.spare.set(headers);
            }
        }
    }

    /// Answers the present request. It leaves when the owner waits for the next request, or sends a piece. The rest of
    /// the request's body is not read any more. A second answer is dropped.
    pub fn answer(&self, answer: HttpAnswer) {
        if !self.is_asked.replace(false) {
            return;
        }
        if let Ok(mut body) = self.body.try_borrow_mut() {
            *body = None;
        }
        let HttpAnswer { response } = answer;
        match response.body() {
            AnswerBody::Pulled(pipe, length) => {
                *self.pipe.borrow_mut() = Some(pipe.clone());
                self.body_left.set(*length);
            }
            AnswerBody::Whole(_) => self.stream.begin_head(),
        }
        *self.desk.answer.borrow_mut() = Some(response);
    }

    /// Sends a piece of an answer that has a streamed body, and waits until the peer has room for more.
    ///
    /// # Errors
    /// `TooLong` if the answer has announced fewer bytes; `Lost` also if its request was `HEAD`.
    pub fn send(&self, piece: Bytes) -> Result<(), HttpFault> {
        let pipe = self.pipe.borrow().clone();
        let pipe = pipe.ok_or(HttpFault::Lost)?;
        if !pipe.is_empty() {
            // Another fiber sends, or a send was cancelled: the order of the pieces would be lost.
            return Err(HttpFault::Busy);
        }
        if !piece.is_empty() {
            let bytes = piece.len() as u64;
            let left = self.body_left.get().map(|left| left.checked_sub(bytes));
            self.body_left.set(
                left.map(|left| left.ok_or(HttpFault::TooLong))
                    .transpose()?,
            );
            pipe.put(piece);
        }
        self.drive(|_| {
            if pipe.is_dropped() {
                // hyper has all that was announced.
                let is_complete = self.body_left.get() == Some(0);
                return Some(if is_complete {
                    Ok(())
                } else {
                    Err(HttpFault::Lost)
                });
            }
            (pipe.is_empty() && !self.stream.is_blocked()).then_some(Ok(()))
        })?
    }

    /// Ends an answer that has a streamed body. An incomplete one ends the connection, so that the peer notices.
    pub fn end(&self, is_complete: bool) {
        if let Some(pipe) = self.pipe.take() {
            pipe.end(is_complete);
            self.stream.begin_head();
        }
    }

    /// Polls hyper until `ready` returns something.
    fn drive<R>(
        &self,
        mut ready: impl FnMut(&mut Context<'_>) -> Option<R>,
    ) -> Result<R, HttpFault> {
        let Ok(mut hyper) = self.hyper.try_borrow_mut() else {
            return Err(HttpFault::Busy);
        };
        let mut context = Context::from_waker(&self.waker);
        // A client that pipelines would own the loop. And a link that has failed takes all output at once: it says so
        // by an event, which comes only when the fiber lets the loop run.
        if self.unparked.replace(self.unparked.get() + 1) >= UNPARKED_MAX {
            self.unparked.set(0);
            yield_now().map_err(HttpFault::Stopped)?;
        }
        loop {
            // A body is asked for before hyper reads it.
            if let Some(result) = ready(&mut context) {
                return Ok(result);
            }
            let Some(connection) = hyper.as_mut() else {
                return Err(HttpFault::Lost);
            };
            if self.stream.is_ending() && !self.shuts_down.replace(true) {
                Pin::new(&mut *connection).graceful_shutdown();
            }
            // An error of hyper is one of the peer, who has been answered if that was possible.
            if Pin::new(connection).poll(&mut context).is_ready() {
                *hyper = None;
            }
            if let Some(result) = ready(&mut context) {
                return Ok(result);
            }
            if hyper.is_none() {
                return Err(HttpFault::Lost);
            }
            let waited = if self.task.0.swap(false, Ordering::Relaxed) {
                // hyper has more to do, and lets others run first.
                yield_now()
            } else {
                self.unparked.set(0);
                self.stream.set_waiter(prepare_park());
                park("an HTTP client")
            };
            waited.map_err(HttpFault::Stopped)?;
        }
    }

    /// Takes the link away from HTTP.
    #[cfg(feature = "ws")]
    pub(crate) fn take_link(&self) -> Option<FreedLink> {
        let hyper = self.hyper.try_borrow_mut().ok()?.take()?;
        let parts = hyper.into_parts();
        let (transport, input) = self.stream.detach()?;
        let rest = [&parts.read_buf[..], &input].concat();
        Some(FreedLink {
            stream: self.stream.clone(),
            transport,
            rest,
        })
    }
}

/// A link that is no longer HTTP.
#[cfg(feature = "ws")]
pub(crate) struct FreedLink {
    /// The receiver of its events, which passes them on to a successor.
    pub(crate) stream: Rc<Stream>,
    pub(crate) transport: Rc<dyn Transport>,
    /// The bytes that arrived behind the last request.
    pub(crate) rest: Vec<u8>,
}

impl Drop for HttpConnection {
    /// The last bytes leave, and the link ends. It ends at once if the owner stopped in the middle.
    fn drop(&mut self) {
        if self.stream.is_detached() {
            return;
        }
        match self.hyper.get_mut() {
            None => self.stream.linger(),
            Some(_) => self.stream.close(),
        }
    }
}

/// The connections of a listener whose requests a program answers.
#[derive(Default)]
pub(crate) struct OpenConnections {
    accounts: Rc<Accounts>,
    /// In the order of their numbers.
    streams: RefCell<BTreeMap<u64, Rc<Stream>>>,
    last: Cell<u64>,
}

impl OpenConnections {
    pub(crate) fn new(accounts: Rc<Accounts>) -> Rc<OpenConnections> {
        Rc::new(OpenConnections {
            accounts,
            ..OpenConnections::default()
        })
    }

    fn add(self: &Rc<Self>, stream: &Rc<Stream>) -> Rc<Counted> {
        let key = self.last.get() + 1;
        self.last.set(key);
        self.streams.borrow_mut().insert(key, stream.clone());
        self.accounts.open_connection();
        Rc::new(Counted {
            all: self.clone(),
            key,
        })
    }

    /// Ends idle connections now, and the others after their request.
    pub(crate) fn end_soon(&self) {
        let streams: Vec<Rc<Stream>> = self.streams.borrow().values().cloned().collect();
        for stream in streams {
            stream.end_soon();
        }
    }
}

/// Counts a connection: until its link has ended and its fiber, too.
pub(super) struct Counted {
    all: Rc<OpenConnections>,
    key: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stream = self.all.streams.borrow_mut().remove(&self.key);
        self.all.accounts.close_connection();
        drop(stream);
    }
}

/// Starts a connection whose requests `server` answers, over the link that `start` makes.
///
/// # Errors
/// Those of `start`, or there is no memory for a fiber. The link has been closed.
pub(crate) fn start(
    server: &Rc<super::HttpServer>,
    open: &Rc<OpenConnections>,
    options: &Options,
    from: String,
    start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
) -> io::Result<()> {
    let limits = server.limits;
    let stream = Stream::unlinked(Times {
        head: limits.head,
        idle: Some(limits.idle),
        body: limits.body,
        output: limits.write,
    });
    let transport = start(stream.clone())?;
    let counted = open.add(&stream);
    stream.hold(counted.clone());
    stream.set_transport(transport);
    if open.accounts.have_too_many_connections(&options.limits) {
        stream.refuse(CROWDED);
        return Ok(());
    }
    let connection = HttpConnection::new(
        stream.clone(),
        from,
        limits.head_bytes_max,
        limits.headers_max,
    );
    let server = server.clone();
    let spawned = Builder::new()
        .name(format!("http connection from {}", connection.peer()))
        .stack(StackClass::Deep)
        .spawn(move || {
            set_context(None);
            let _counted = counted;
            server.serve.serve(&Rc::new(connection));
        });
    spawned.map(drop)
}
