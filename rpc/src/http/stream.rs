//! A link as the stream that hyper reads and writes, and the time limits of a connection.
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

use crate::buffer;
use crate::transport::{Events, Incoming, Transport};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use yue_scheduler::{FiberId, Timer, cancel, deadline_after};

/// Input that waits to be read; above the first, the link is not read until it is below the second.
const INPUT_HIGH: usize = 64 * 1024;
const INPUT_LOW: usize = 16 * 1024;

/// Output that waits to leave, above which hyper waits.
const OUTPUT_HIGH: usize = 64 * 1024;

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
    /// From the end of an answer to the end of the next request's head.
    pub(super) head: Duration,
    /// For a kilobyte of a body.
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

/// One connection's link.
pub(super) struct Stream {
    times: Times,
    link: RefCell<Option<Rc<dyn Transport>>>,
    stage: Cell<Stage>,
    input: RefCell<Vec<u8>>,
    paused: Cell<bool>,
    input_ended: Cell<bool>,
    /// Bytes have arrived since the stage began.
    heard: Cell<bool>,
    /// Bytes of a body since its limit was armed.
    progress: Cell<usize>,
    /// The limit of the stage, and whether it has passed.
    limit: Timer,
    is_late: Cell<bool>,
    /// The limit of output, armed while hyper waits for room; later that of lingering.
    output_limit: Timer,
    output_is_late: Cell<bool>,
    queued_then: Cell<usize>,
    /// The connection is to end, after the present request if there is one.
    ending: Cell<bool>,
    task: RefCell<Option<Waker>>,
    /// The fiber of the connection, until it lingers.
    fiber: Cell<Option<FiberId>>,
}

impl Stream {
    pub(super) fn new(link: Rc<dyn Transport>, times: Times) -> Rc<Stream> {
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
                link: RefCell::new(Some(link)),
                stage: Cell::new(Stage::Head),
                input: RefCell::default(),
                paused: Cell::new(false),
                input_ended: Cell::new(false),
                heard: Cell::new(false),
                progress: Cell::new(0),
                limit: timer(Stream::on_limit),
                is_late: Cell::new(false),
                output_limit: timer(Stream::on_output_limit),
                output_is_late: Cell::new(false),
                queued_then: Cell::new(0),
                ending: Cell::new(false),
                task: RefCell::default(),
                fiber: Cell::new(None),
            }
        })
    }

    /// Sets the fiber, which is cancelled when the link ends.
    pub(super) fn set_fiber(&self, fiber: FiberId) {
        self.fiber.set(Some(fiber));
    }

    /// Sets the waker of the fiber's future.
    pub(super) fn set_task(&self, task: &Waker) {
        let mut known = self.task.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }

    /// The name of the peer that the link has verified.
    pub(super) fn peer_name(&self) -> Option<String> {
        self.link().and_then(|link| link.peer_name())
    }

    /// A request's head is complete, and its body follows.
    pub(super) fn begin_body(&self) {
        self.stage.set(Stage::Body);
        self.progress.set(0);
        self.is_late.set(false);
        self.limit.arm(deadline_after(self.times.body));
    }

    /// A piece of a body has arrived.
    pub(super) fn note_body(&self, bytes: usize) {
        self.progress.set(self.progress.get() + bytes);
        if self.progress.get() >= PROGRESS_BYTES {
            self.progress.set(0);
            self.limit.arm(deadline_after(self.times.body));
        }
    }

    /// Whether the body does not grow fast enough.
    pub(super) fn body_is_late(&self) -> bool {
        self.stage.get() == Stage::Body && self.is_late.get()
    }

    /// A request is complete, and is being served.
    pub(super) fn begin_handling(&self) {
        self.limit.cancel();
        self.is_late.set(false);
        self.stage.set(Stage::Handling);
    }

    /// A request was answered; another one may follow.
    pub(super) fn begin_head(&self) {
        self.limit.cancel();
        self.is_late.set(false);
        self.heard.set(false);
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

    /// hyper has finished: the last bytes leave, and the link ends.
    pub(super) fn linger(&self) {
        self.fiber.take();
        self.task.take();
        self.limit.cancel();
        self.stage.set(Stage::Lingering);
        self.input.take();
        let Some(link) = self.link() else { return };
        link.set_reading(true);
        link.shutdown_write();
        if self.input_ended.get() && link.queued_bytes() == 0 {
            return link.close();
        }
        link.notify_when_sent();
        self.queued_then.set(usize::MAX);
        self.output_limit.arm(deadline_after(LINGER));
    }

    /// Ends the link now.
    pub(super) fn close(&self) {
        self.fiber.take();
        if let Some(link) = self.link() {
            link.close();
        }
    }

    fn link(&self) -> Option<Rc<dyn Transport>> {
        self.link.borrow().clone()
    }

    fn wake(&self) {
        let task = self.task.borrow().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn on_limit(&self) {
        self.is_late.set(true);
        if self.stage.get() == Stage::Head
            && self.heard.get()
            && let Some(link) = self.link()
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
        let Some(link) = self.link() else { return };
        let queued = link.queued_bytes();
        if queued == 0 || queued >= self.queued_then.replace(queued) {
            return link.close();
        }
        self.output_limit.arm(deadline_after(LINGER));
    }

    /// Copies input to hyper's buffer; returns whether there was any.
    fn read_into(&self, buffer: &mut ReadBufCursor<'_>) -> bool {
        let mut input = self.input.borrow_mut();
        let count = input.len().min(buffer.remaining());
        buffer.put_slice(&input[..count]);
        input.drain(..count);
        if input.is_empty() && input.capacity() > INPUT_LOW {
            // An idle connection keeps no buffer.
            *input = Vec::new();
        }
        let resumes = input.len() <= INPUT_LOW;
        drop(input);
        if resumes
            && self.paused.replace(false)
            && let Some(link) = self.link()
        {
            link.set_reading(true);
        }
        count != 0
    }

    /// Arms the limit of a head, which begins when the last answer has left.
    fn await_head(&self) {
        if self.stage.get() != Stage::Head || self.limit.is_armed() {
            return;
        }
        let queued = self.link().map_or(0, |link| link.queued_bytes());
        if queued == 0 {
            self.limit.arm(deadline_after(self.times.head));
        } else if let Some(link) = self.link() {
            link.notify_when_sent();
        }
    }
}

impl Events for Stream {
    fn data(&self, incoming: Incoming<'_>) {
        let bytes = match &incoming {
            Incoming::Borrowed(bytes) => bytes,
            Incoming::Owned(bytes) => &bytes[..],
        };
        if self.stage.get() != Stage::Lingering {
            self.heard.set(true);
            let held = {
                let mut input = self.input.borrow_mut();
                input.extend_from_slice(bytes);
                input.len()
            };
            if held > INPUT_HIGH
                && !self.paused.replace(true)
                && let Some(link) = self.link()
            {
                link.set_reading(false);
            }
            self.wake();
        }
        if let Incoming::Owned(emptied) = incoming {
            buffer::give_back(emptied);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(emptied) = buffer {
            buffer::give_back(emptied);
        }
        if self.stage.get() == Stage::Lingering {
            if self.input_ended.get()
                && let Some(link) = self.link().filter(|link| link.queued_bytes() == 0)
            {
                link.close();
            }
            return;
        }
        self.output_limit.cancel();
        self.wake();
    }

    fn end_of_input(&self) -> bool {
        self.input_ended.set(true);
        self.wake();
        // A client that has sent all its requests still gets its answers.
        let queued = self.link().map_or(0, |link| link.queued_bytes());
        self.stage.get() != Stage::Lingering || queued != 0
    }

    fn closed(&self, _: io::Result<()>) {
        let link = self.link.take();
        drop(link);
        self.limit.cancel();
        self.output_limit.cancel();
        self.wake();
        // Nobody waits for the answer of a handler any more.
        if let Some(fiber) = self.fiber.take() {
            cancel(fiber);
        }
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
        if stream.read_into(&mut buffer) || stream.input_ended.get() {
            return Poll::Ready(Ok(()));
        }
        if stream.link().is_none() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
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
        let Some(link) = stream.link() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if link.queued_bytes() > OUTPUT_HIGH {
            if stream.output_is_late.get() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if !stream.output_limit.is_armed() {
                stream.output_limit.arm(deadline_after(stream.times.output));
            }
            link.notify_when_sent();
            return Poll::Pending;
        }
        stream.output_limit.cancel();
        let count = bytes.len().min(OUTPUT_HIGH);
        let mut buffer = buffer::take();
        buffer.extend_from_slice(&bytes[..count]);
        link.send(buffer);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The fiber lingers afterwards, which ends the sending direction.
        Poll::Ready(Ok(()))
    }
}
