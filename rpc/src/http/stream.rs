//! The stream of a server's connection: a link, the stages of its requests, and their time limits.
//!
//! ```text
//!   Head ─ request ─▶ Body ─ whole ─▶ Handling ─ answer ─▶ Head … ─▶ Lingering ─▶ ended
//! ```
//!
//! Each stage has its limit: a head must arrive within the time of a handshake, a body must grow, an answer must leave.
//! At the end the link *lingers*: a socket that is closed while bytes of the peer are unread discards what it sent, so
//! the rest is read and dropped for a second at most.
//!
//! Everything runs on one loop. The events of the link wake the connection's fiber; no borrow is held while it runs.

use super::link::{Link, give_back};
use crate::transport::{Events, Incoming, Transport};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use yue_scheduler::{FiberId, Instant, LocalWaker, Timer, cancel, deadline_after, now};

/// The time for which a link lingers after its end, and that a connection has that is about to be closed.
const LINGER: Duration = Duration::from_secs(1);

/// A body must grow by this much in each [`Times::body`].
const PROGRESS_BYTES: usize = 1024;

/// The answer to a request that did not arrive in time.
const LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For the head of a request: from its first byte if there is a limit for idle connections, otherwise from the end
    /// of the last answer.
    pub(super) head: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub(super) idle: Option<Duration>,
    /// For a kilobyte of a body, while it is awaited.
    pub(super) body: Duration,
    /// For the peer to read anything.
    pub(super) output: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body,
    Handling,
    Lingering,
}

/// One connection's link, with its stage.
pub(crate) struct Stream {
    times: Times,
    link: Link,
    stage: Cell<Stage>,
    /// Bytes have arrived since the stage began.
    heard: Cell<bool>,
    /// hyper waits for a head.
    awaits_head: Cell<bool>,
    /// Bytes of a body since it has grown by a kilobyte, the time that is left for the rest of that, and the time at
    /// which its owner began to wait.
    progress: Cell<usize>,
    body_left: Cell<Duration>,
    body_since: Cell<Instant>,
    /// The limit of the stage, and whether it has passed.
    limit: Timer,
    is_late: Cell<bool>,
    /// The limit of output, armed while hyper waits for room; later that of lingering.
    output_limit: Timer,
    output_is_late: Cell<bool>,
    queued_then: Cell<usize>,
    /// hyper waits for room.
    blocked: Cell<bool>,
    /// The connection is to end, after the present request if there is one.
    ending: Cell<bool>,
    /// The fiber that waits for an event of the link. Events come between the runs of fibers, so none is missed.
    waiter: Cell<Option<LocalWaker>>,
    /// The fiber of the connection, until it lingers.
    fiber: Cell<Option<FiberId>>,
    /// Dropped when the link has ended.
    held: RefCell<Option<Rc<dyn Any>>>,
    /// The owner of the link, once that is no longer HTTP.
    successor: RefCell<Option<Rc<dyn Events>>>,
    detached: Cell<bool>,
}

impl Stream {
    pub(super) fn new(transport: Rc<dyn Transport>, times: Times) -> Rc<Stream> {
        let stream = Stream::unlinked(times);
        stream.set_transport(transport);
        stream
    }

    /// A stream whose link is started with its events, and set afterwards.
    pub(super) fn unlinked(times: Times) -> Rc<Stream> {
        Rc::new_cyclic(|this: &Weak<Stream>| {
            let timer = |fired: fn(&Stream)| {
                let this = this.clone();
                Timer::new(move || {
                    if let Some(stream) = this.upgrade() {
                        fired(&stream);
                    }
                })
            };
            Stream {
                times,
                link: Link::default(),
                stage: Cell::new(Stage::Head),
                heard: Cell::new(false),
                awaits_head: Cell::new(false),
                progress: Cell::new(0),
                body_left: Cell::new(times.body),
                body_since: Cell::new(Instant::NEVER),
                limit: timer(Stream::on_limit),
                is_late: Cell::new(false),
                output_limit: timer(Stream::on_output_limit),
                output_is_late: Cell::new(false),
                queued_then: Cell::new(0),
                blocked: Cell::new(false),
                ending: Cell::new(false),
                waiter: Cell::new(None),
                fiber: Cell::new(None),
                held: RefCell::default(),
                successor: RefCell::default(),
                detached: Cell::new(false),
            }
        })
    }

    /// Sets the link.
    pub(super) fn set_transport(&self, transport: Rc<dyn Transport>) {
        self.link.set_transport(transport);
    }

    /// Keeps a value until the link has ended.
    pub(super) fn hold(&self, value: Rc<dyn Any>) {
        *self.held.borrow_mut() = Some(value);
    }

    /// Sets the fiber, which is cancelled when the link ends.
    pub(super) fn set_fiber(&self, fiber: FiberId) {
        self.fiber.set(Some(fiber));
    }

    /// Sets the waker of the fiber, which is about to park until an event of the link.
    pub(super) fn set_waiter(&self, waiter: LocalWaker) {
        self.waiter.set(Some(waiter));
    }

    fn wake(&self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// The name of the peer that the link has verified.
    pub(super) fn peer_name(&self) -> Option<String> {
        self.link.transport().and_then(|link| link.peer_name())
    }

    /// A request's head is complete, and it is being served.
    pub(super) fn begin_request(&self) {
        self.progress.set(0);
        self.body_left.set(self.times.body);
        self.awaits_head.set(false);
        self.pause_body();
    }

    /// The owner waits for a piece of the body.
    pub(super) fn resume_body(&self) {
        self.stage.set(Stage::Body);
        self.is_late.set(false);
        self.body_since.set(now());
        self.limit.arm(deadline_after(self.body_left.get()));
    }

    /// The owner waits no longer for the body. The time until it does again is not the peer's.
    pub(super) fn pause_body(&self) {
        self.limit.cancel();
        if self.stage.replace(Stage::Handling) == Stage::Body {
            let waited = now().saturating_since(self.body_since.get());
            self.body_left
                .set(self.body_left.get().saturating_sub(waited));
        }
        self.is_late.set(false);
    }

    /// A piece of a body has arrived.
    pub(super) fn note_body(&self, bytes: usize) {
        self.progress.set(self.progress.get() + bytes);
        if self.progress.get() >= PROGRESS_BYTES {
            self.progress.set(0);
            self.body_left.set(self.times.body);
        }
    }

    /// Whether the body does not grow fast enough.
    pub(super) fn body_is_late(&self) -> bool {
        self.stage.get() == Stage::Body && self.is_late.get()
    }

    /// A request was answered; another one may follow.
    pub(super) fn begin_head(&self) {
        self.limit.cancel();
        self.is_late.set(false);
        self.heard.set(false);
        self.awaits_head.set(false);
        self.stage.set(Stage::Head);
    }

    /// The connection is to end soon: idle ones now, others after their request.
    pub(super) fn end_soon(&self) {
        self.ending.set(true);
        if matches!(self.stage.get(), Stage::Head | Stage::Body) {
            self.limit.arm(deadline_after(LINGER));
        }
        self.wake();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// Whether the link has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.link.transport().is_none()
    }

    /// Whether so much output waits to leave that hyper keeps the rest.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Answers a peer that is not served, and ends the link.
    pub(super) fn refuse(&self, answer: &[u8]) {
        if let Some(link) = self.link.transport() {
            link.send(answer.to_vec());
        }
        self.linger();
    }

    /// Gives the link away, with the input that hyper has not read. Its events go to the successor from now on.
    #[cfg(feature = "ws")]
    pub(super) fn detach(&self) -> Option<(Rc<dyn Transport>, Vec<u8>)> {
        self.limit.cancel();
        self.output_limit.cancel();
        self.detached.set(true);
        let held = self.held.take();
        drop(held);
        self.link.take()
    }

    pub(super) fn is_detached(&self) -> bool {
        self.detached.get()
    }

    /// Sets the receiver of the events of a link that was given away.
    #[cfg(feature = "ws")]
    pub(crate) fn set_successor(&self, successor: Rc<dyn Events>) {
        *self.successor.borrow_mut() = Some(successor);
    }

    fn successor(&self) -> Option<Rc<dyn Events>> {
        self.successor.borrow().clone()
    }

    /// hyper has finished: the last bytes leave, and the link ends.
    pub(super) fn linger(&self) {
        self.fiber.take();
        self.waiter.take();
        self.limit.cancel();
        self.stage.set(Stage::Lingering);
        self.link.discard_input();
        let Some(link) = self.link.transport() else {
            return;
        };
        link.set_reading(true);
        link.shutdown_write();
        if self.link.has_input_ended() && link.queued_bytes() == 0 {
            return link.close();
        }
        link.notify_when_sent();
        self.queued_then.set(usize::MAX);
        self.output_limit.arm(deadline_after(LINGER));
    }

    /// Ends the link now.
    pub(super) fn close(&self) {
        self.fiber.take();
        self.link.close();
    }

    fn on_limit(&self) {
        self.is_late.set(true);
        if self.stage.get() == Stage::Head
            && self.heard.get()
            && let Some(link) = self.link.transport()
        {
            link.send(LATE.to_vec());
        }
        self.wake();
    }

    fn on_output_limit(&self) {
        if self.stage.get() != Stage::Lingering {
            self.output_is_late.set(true);
            return self.wake();
        }
        let Some(link) = self.link.transport() else {
            return;
        };
        let queued = link.queued_bytes();
        if queued == 0 || queued >= self.queued_then.replace(queued) {
            return link.close();
        }
        self.output_limit.arm(deadline_after(LINGER));
    }

    /// Arms the limit of a head, which begins when the last answer has left.
    fn await_head(&self) {
        if self.stage.get() != Stage::Head || self.limit.is_armed() {
            return;
        }
        self.awaits_head.set(true);
        if self.link.queued_bytes() == 0 {
            let idle = self.times.idle.filter(|_| !self.heard.get());
            self.limit
                .arm(deadline_after(idle.unwrap_or(self.times.head)));
        } else if let Some(link) = self.link.transport() {
            link.notify_when_sent();
        }
    }
}

impl Events for Stream {
    fn data(&self, incoming: Incoming<'_>) {
        if let Some(successor) = self.successor() {
            return successor.data(incoming);
        }
        if self.stage.get() == Stage::Lingering {
            return give_back(incoming);
        }
        let is_first = !self.heard.replace(true);
        if is_first && self.times.idle.is_some() && self.stage.get() == Stage::Head {
            // The connection is no longer idle. Most heads are whole at once, and need no limit.
            self.limit.cancel();
        }
        self.link.data(incoming);
        self.wake();
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(successor) = self.successor() {
            return successor.sent(buffer);
        }
        if self.stage.get() != Stage::Lingering {
            self.output_limit.cancel();
            if self.blocked.get() {
                self.link.sent(buffer);
                return self.wake();
            }
            // hyper has no use for room: it need not be woken.
            if let Some(emptied) = buffer {
                give_back(Incoming::Owned(emptied));
            }
            if self.awaits_head.get() {
                self.await_head();
            }
            return;
        }
        self.link.sent(buffer);
        if self.link.has_input_ended() && self.link.queued_bytes() == 0 {
            self.link.close();
        }
    }

    fn end_of_input(&self) -> bool {
        if let Some(successor) = self.successor() {
            return successor.end_of_input();
        }
        // A client that has sent all its requests still gets its answers.
        self.link.end_of_input();
        self.wake();
        self.stage.get() != Stage::Lingering || self.link.queued_bytes() != 0
    }

    fn closed(&self, result: io::Result<()>) {
        let successor = self.successor.take();
        if let Some(successor) = successor {
            return successor.closed(result);
        }
        self.limit.cancel();
        self.output_limit.cancel();
        self.link.closed(result);
        self.wake();
        // Nobody waits for the answer of a handler any more.
        if let Some(fiber) = self.fiber.take() {
            cancel(fiber);
        }
        let held = self.held.take();
        drop(held);
    }
}

/// The stream, as hyper takes it.
pub(super) struct HyperStream(pub(super) Rc<Stream>);

impl Read for HyperStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &self.0;
        let read = stream.link.poll_read(&mut buffer);
        if read.is_ready() {
            return read;
        }
        if stream.stage.get() == Stage::Head && stream.is_late.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        stream.await_head();
        Poll::Pending
    }
}

impl Write for HyperStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &self.0;
        let written = stream.link.poll_write(bytes);
        stream.blocked.set(written.is_pending());
        if written.is_ready() {
            stream.output_limit.cancel();
            if stream.stage.get() == Stage::Head {
                // The answer is still being written: the time for the next head begins behind it.
                stream.limit.cancel();
            }
            return written;
        }
        if stream.output_is_late.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !stream.output_limit.is_armed() {
            stream.output_limit.arm(deadline_after(stream.times.output));
        }
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The fiber lingers afterwards, which ends the sending direction.
        Poll::Ready(Ok(()))
    }
}
