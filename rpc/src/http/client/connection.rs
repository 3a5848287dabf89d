//! One connection to a server: a link, and hyper's client over it.

use super::outgoing::Outgoing;
use crate::error::{Error, ErrorKind};
use crate::http::link::Link;
use crate::transport::{Connect, Events, Incoming};
use hyper::body::Incoming as IncomingBody;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Version};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use yue_scheduler::{Stopped, block_on, current_deadline, is_cancelled, is_past};

/// The most headers of an answer.
const HEADERS_MAX: usize = 256;

/// The most bytes of the head of an answer.
pub(super) const HEAD_MAX: usize = 64 * 1024;

/// hyper's buffer for a connection's input.
const BUFFER_BYTES: usize = 128 * 1024;

/// A link to a server, with what the pool and retries have to know of it.
#[derive(Default)]
pub(super) struct ClientLink {
    link: Link,
    /// Bytes have arrived, or left, since the request began.
    has_heard: Cell<bool>,
    has_sent: Cell<bool>,
    /// Called once by the first event of an idle link.
    on_event: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl ClientLink {
    /// Whether bytes of an answer have arrived.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard.get()
    }

    /// Whether bytes of the request have left.
    pub(super) fn has_sent(&self) -> bool {
        self.has_sent.get()
    }

    /// Ends the link now.
    pub(super) fn close(&self) {
        self.link.close();
    }

    fn notify_idle(&self) {
        let on_event = self.on_event.take();
        if let Some(on_event) = on_event {
            on_event();
        }
    }
}

impl Events for ClientLink {
    fn data(&self, incoming: Incoming<'_>) {
        self.has_heard.set(true);
        self.link.data(incoming);
        self.notify_idle();
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        self.link.sent(buffer);
    }

    fn end_of_input(&self) -> bool {
        let stays = self.link.end_of_input();
        self.notify_idle();
        stays
    }

    fn closed(&self, result: io::Result<()>) {
        self.link.closed(result);
        self.notify_idle();
    }
}

/// The link, as hyper takes it.
struct HyperLink(Rc<ClientLink>);

impl Read for HyperLink {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.link.poll_read(&mut buffer)
    }
}

impl Write for HyperLink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A server may answer and close before it has read the whole request. hyper would drop that answer for an error
        // here, so the end of the link shows in its input alone.
        if self.0.link.transport().is_none() {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.0.has_sent.set(true);
        self.0.link.poll_write(bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The owner closes the link.
        Poll::Ready(Ok(()))
    }
}

/// The answer to a request, while it is waited for.
pub(super) type Answer =
    Pin<Box<dyn Future<Output = Result<Response<IncomingBody>, TrySendError<Request<Outgoing>>>>>>;

/// A connection. Dropping it closes the link.
pub(super) struct Connection {
    link: Rc<ClientLink>,
    sender: SendRequest<Outgoing>,
    /// `None` once hyper has finished.
    driver: Option<Pin<Box<http1::Connection<HyperLink, Outgoing>>>>,
    /// The server speaks HTTP/1.0, and knows no chunks.
    is_old: bool,
}

impl Connection {
    /// Connects. Runs in a fiber, which waits.
    pub(super) fn open(connector: &Rc<dyn Connect>) -> Result<Connection, Error> {
        let link = Rc::new(ClientLink::default());
        let transport = connector.connect(link.clone()).map_err(stopped_or)?;
        link.link.set_transport(transport);
        let handshake = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_MAX)
            .max_buf_size(BUFFER_BYTES)
            .handshake(HyperLink(link.clone()));
        // It does not wait for the peer.
        let (sender, driver) = match block_on(handshake) {
            Ok(Ok(parts)) => parts,
            outcome => {
                link.close();
                let text = format!("cannot begin a connection to {}", connector.address());
                return Err(match outcome {
                    Err(stopped) => stopped.into(),
                    _ => Error::retryable(ErrorKind::Transport, text),
                });
            }
        };
        Ok(Connection {
            link,
            sender,
            driver: Some(Box::pin(driver)),
            is_old: false,
        })
    }

    /// The link.
    pub(super) fn link(&self) -> &Rc<ClientLink> {
        &self.link
    }

    /// Hands a request to hyper, which sends it when it is driven.
    pub(super) fn send(&mut self, request: Request<Outgoing>) -> Answer {
        self.link.has_heard.set(false);
        self.link.has_sent.set(false);
        Box::pin(self.sender.try_send_request(request))
    }

    /// Lets hyper read and write. The link's events wake the task.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        self.link.link.set_task(context.waker());
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(context).is_ready()
        {
            // Its error, if there was one, is that of the answer.
            self.driver = None;
        }
    }

    /// Records the version of an answer.
    pub(super) fn note_version(&mut self, version: Version) {
        self.is_old = version < Version::HTTP_11;
    }

    /// Whether a body in chunks can be sent.
    pub(super) fn takes_chunks(&self) -> bool {
        !self.is_old
    }

    /// Whether another request may follow: hyper has finished the last one, and nothing has arrived since.
    pub(super) fn is_reusable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && self.link.link.is_quiet()
    }

    /// From now on nothing drives hyper. The first event calls `on_event`, outside all borrows.
    pub(super) fn set_idle(&self, on_event: impl FnOnce() + 'static) {
        self.link.link.clear_task();
        *self.link.on_event.borrow_mut() = Some(Box::new(on_event));
    }

    /// The connection is used again.
    pub(super) fn set_busy(&self) {
        let on_event = self.link.on_event.take();
        drop(on_event);
    }
}

/// The reason why the fiber was stopped while it connected, or else the error.
fn stopped_or(error: Error) -> Error {
    if is_past(current_deadline()) {
        return Stopped::Deadline.into();
    }
    // It is also true after a deadline.
    if is_cancelled() {
        return Stopped::Cancelled.into();
    }
    error
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.set_busy();
        self.link.link.clear_task();
        self.link.close();
    }
}
