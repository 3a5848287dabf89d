//! Connections without a fiber: bytes that come are handed to a [`Sink`], bytes that go are queued.
//!
//! ```text
//!   kernel ──▶ driver's buffer ──▶ Sink::data(bytes)          send(buffer) ──▶ queue ──▶ kernel
//!                                                                                └──▶ Sink::sent(buffer)
//!   open ──(end of input, error, close)──▶ closing: cancel what is in flight ──▶ Sink::closed(result), last of all
//! ```
//!
//! Invariants:
//! - Callbacks are made from the driver's turn only, never from inside a call: a call may be made anywhere on the loop,
//!   also in a callback, and with any borrow of the caller's own live. One callback runs at a time.
//! - `closed` comes exactly once, when nothing is in flight any more, and nothing comes after it.
//! - Buffers in flight stay in the queue, at its front, until the kernel is done with them.
//! - One thread: the loop's. A connection is a counted reference, and not `Send`.

mod readiness;
mod ring;

use crate::driver::{Backend, backend};
use crate::net::socket::Socket;
use crate::net::{TcpStream, UnixStream};
use crate::shared::{Member, guarded};
use ring::RingState;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;

/// Is told what happens on a [`Connection`]. Called by the loop, outside fibers; must not wait.
///
/// A callback that panics ends its connection, and no other: nobody knows what it did with what it was given, so the
/// connection is closed, and [`Sink::closed`] follows with an error.
///
/// ```
/// use std::cell::RefCell;
/// use std::io::Write;
/// use std::rc::Rc;
/// use yue_io::net::UnixStream;
/// use yue_io::owned::{Connection, Sink};
/// use yue_scheduler::sync::local::Notify;
///
/// /// Gathers what the peer says, and tells when that is all.
/// struct Gather {
///     said: RefCell<Vec<u8>>,
///     over: Notify,
/// }
///
/// impl Sink for Gather {
///     fn data(&self, bytes: &[u8]) {
///         self.said.borrow_mut().extend_from_slice(bytes);
///     }
///
///     fn sent(&self, _buffer: Vec<u8>) {}
///
///     fn closed(&self, _result: std::io::Result<()>) {
///         self.over.notify_one();
///     }
/// }
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (mut here, there) = UnixStream::pair()?;
///     let sink = Rc::new(Gather { said: RefCell::default(), over: Notify::new() });
///     Connection::start_unix(there, sink.clone())?;
///     here.write_all(b"hello")?;
///     drop(here);
///     sink.over.notified()?;
///     assert_eq!(*sink.said.borrow(), b"hello");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Sink {
    /// Bytes that came, in order; they are gone after the call.
    fn data(&self, bytes: &[u8]);

    /// A buffer of [`Connection::send`] has been taken by the kernel as a whole. It comes back with its bytes in it, to
    /// be cleared and used again.
    fn sent(&self, buffer: Vec<u8>);

    /// The peer sends no more. `true` keeps the connection open for sending; by default what is queued is sent, and
    /// then the connection is closed.
    fn end_of_input(&self) -> bool {
        false
    }

    /// The connection is over, and its socket closed: `Ok` after [`Connection::close`] and after the end of input, else
    /// why. What was not sent is dropped. Comes exactly once, and last.
    fn closed(&self, result: io::Result<()>);
}

/// A connection that a loop reads and writes by itself.
///
/// Clones are the same connection. It goes on when all of them are dropped: its end is [`Connection::close`], the end
/// of input, or an error.
///
/// ```
/// use std::cell::RefCell;
/// use std::io::{Read, Write};
/// use std::rc::Rc;
/// use yue_io::net::UnixStream;
/// use yue_io::owned::{Connection, Sink};
///
/// /// Sends back what comes. No fiber waits for it.
/// #[derive(Default)]
/// struct Echo(RefCell<Option<Connection>>);
///
/// impl Sink for Echo {
///     fn data(&self, bytes: &[u8]) {
///         if let Some(connection) = &*self.0.borrow() {
///             connection.send(bytes.to_vec());
///         }
///     }
///
///     fn sent(&self, _buffer: Vec<u8>) {}
///
///     fn closed(&self, result: std::io::Result<()>) {
///         assert!(result.is_ok());
///         self.0.take(); // The connection and its sink hold each other.
///     }
/// }
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (mut here, there) = UnixStream::pair()?;
///     let echo = Rc::new(Echo::default());
///     *echo.0.borrow_mut() = Some(Connection::start_unix(there, echo.clone())?);
///     here.write_all(b"hello")?;
///     here.shutdown(std::net::Shutdown::Write)?;
///     assert_eq!(std::io::read_to_string(here)?, "hello");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Connection {
    state: Rc<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Closed,
}

struct State {
    backend: Backend,
    socket: RefCell<Option<Rc<Socket>>>,
    sink: RefCell<Option<Rc<dyn Sink>>>,
    phase: Cell<Phase>,
    outcome: Cell<Option<io::Error>>,
    place: Cell<usize>,
    deferred: Cell<bool>,
    /// Whether data is wanted.
    reading: Cell<bool>,
    /// No more data comes.
    input_ended: Cell<bool>,
    told_end: Cell<bool>,
    /// Data that came while it was not wanted.
    held_back: RefCell<VecDeque<Vec<u8>>>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    /// Bytes of the queue's first buffer that are sent.
    first_sent: Cell<usize>,
    queued_bytes: Cell<usize>,
    /// After the queue: shut the sending side down.
    wants_shutdown: Cell<bool>,
    did_shutdown: Cell<bool>,
    /// After the queue: close.
    wants_close: Cell<bool>,
    ring: RingState,
    ready: readiness::ReadyState,
}

impl Connection {
    /// Takes a stream over and begins to read.
    ///
    /// # Errors
    /// When the loop's driver does no I/O, or refuses the socket.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn start(stream: TcpStream, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        Connection::start_socket(stream.into_socket(), sink)
    }

    /// As [`Connection::start`], for a Unix socket.
    ///
    /// # Errors
    /// As [`Connection::start`].
    ///
    /// # Panics
    /// Outside a loop.
    pub fn start_unix(stream: UnixStream, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        Connection::start_socket(stream.into_socket(), sink)
    }

    fn start_socket(socket: Socket, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        if socket.kind().has_messages() {
            // What is queued goes out in pieces of any size.
            let text = "a connection needs a stream; this socket keeps messages apart";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let state = Rc::new(State {
            backend: backend()?,
            socket: RefCell::new(Some(Rc::new(socket))),
            sink: RefCell::new(Some(sink)),
            phase: Cell::new(Phase::Open),
            outcome: Cell::new(None),
            place: Cell::new(0),
            deferred: Cell::new(false),
            reading: Cell::new(true),
            input_ended: Cell::new(false),
            told_end: Cell::new(false),
            held_back: RefCell::default(),
            queue: RefCell::default(),
            first_sent: Cell::new(0),
            queued_bytes: Cell::new(0),
            wants_shutdown: Cell::new(false),
            did_shutdown: Cell::new(false),
            wants_close: Cell::new(false),
            ring: RingState::default(),
            ready: readiness::ReadyState::default(),
        });
        state.begin()?;
        state.place.set(state.backend.shared().enter(state.clone()));
        state.defer();
        Ok(Connection { state })
    }

    /// Queues bytes. Buffers are sent in the order of the calls, those of one tick together. A connection that is
    /// closing drops them.
    pub fn send(&self, buffer: Vec<u8>) {
        let state = &self.state;
        if state.phase.get() != Phase::Open || state.wants_shutdown.get() || buffer.is_empty() {
            return;
        }
        state
            .queued_bytes
            .set(state.queued_bytes.get() + buffer.len());
        state.queue.borrow_mut().push_back(buffer);
        state.defer();
    }

    /// Bytes that are queued and that the kernel has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.state.queued_bytes.get()
    }

    /// Whether data is wanted; at the start it is. While it is not, the kernel's buffers fill up, and the peer has to
    /// wait. What was read before is handed over first when it is wanted again.
    pub fn set_reading(&self, reading: bool) {
        if self.state.reading.replace(reading) != reading {
            self.state.defer();
        }
    }

    /// Sends what is queued, then tells the peer that no more comes. Later sends are dropped.
    pub fn shutdown_write(&self) {
        self.state.wants_shutdown.set(true);
        self.state.defer();
    }

    /// Sends what is queued, then closes. Data that comes meanwhile is still handed over.
    pub fn close_when_sent(&self) {
        self.state.wants_close.set(true);
        self.state.defer();
    }

    /// Closes without waiting for what is queued. [`Sink::closed`] follows; data may not.
    pub fn close(&self) {
        self.state.end(None);
    }

    /// Whether [`Sink::closed`] has not been called yet and nothing leads there.
    pub fn is_open(&self) -> bool {
        self.state.phase.get() == Phase::Open
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("phase", &self.state.phase.get())
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}

impl State {
    fn begin(self: &Rc<Self>) -> io::Result<()> {
        match &self.backend {
            Backend::Uring(_) => self.begin_ring(),
            Backend::Mio(core) => self.begin_ready(core),
        }
    }

    /// Has [`State::deferred`] called in the driver's next turn.
    fn defer(self: &Rc<Self>) {
        if self.phase.get() != Phase::Closed && !self.deferred.replace(true) {
            self.backend.shared().defer(self.clone());
        }
    }

    fn socket(&self) -> Option<Rc<Socket>> {
        self.socket.borrow().clone()
    }

    /// Makes a callback. One that panics closes the connection, on either driver; the peer is not left waiting.
    fn call<R>(self: &Rc<Self>, callback: impl FnOnce(&dyn Sink) -> R) -> Option<R> {
        let sink = self.sink.borrow().clone()?;
        let mut result = None;
        let returned = guarded(|| result = Some(callback(&*sink)));
        if !returned {
            let text = "a callback of the connection panicked";
            self.end(Some(io::Error::other(text)));
        }
        result
    }

    fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Leads to the end: for the program's own wish, or for an error.
    fn end(self: &Rc<Self>, error: Option<io::Error>) {
        if self.is_open() {
            self.phase.set(Phase::Closing);
            self.outcome.set(error);
            self.defer();
        }
    }

    /// Hands bytes over, or keeps them if they are not wanted now.
    fn deliver(self: &Rc<Self>, bytes: &[u8]) {
        if !self.is_open() {
            return;
        }
        if !self.reading.get() || !self.held_back.borrow().is_empty() {
            self.held_back.borrow_mut().push_back(bytes.to_vec());
            return;
        }
        self.call(|sink| sink.data(bytes));
    }

    /// Hands over what was held back. Returns whether there was any.
    fn deliver_held_back(self: &Rc<Self>) -> bool {
        let mut any = false;
        while self.is_open() && self.reading.get() {
            let Some(bytes) = self.held_back.borrow_mut().pop_front() else {
                break;
            };
            any = true;
            self.call(|sink| sink.data(&bytes));
        }
        any
    }

    /// Takes note of the end of input, and tells of it once all data is handed over. Returns whether it told.
    fn tell_end_of_input(self: &Rc<Self>) -> bool {
        let due = self.is_open() && self.input_ended.get() && !self.told_end.get();
        if !due || !self.held_back.borrow().is_empty() {
            return false;
        }
        self.told_end.set(true);
        let stay = self.call(|sink| sink.end_of_input()).unwrap_or(false);
        if !stay {
            self.wants_close.set(true);
            self.defer();
        }
        true
    }

    /// Takes `count` sent bytes off the queue and hands the buffers that are through back.
    fn advance(self: &Rc<Self>, mut count: usize) {
        self.queued_bytes
            .set(self.queued_bytes.get().saturating_sub(count));
        let mut through = smallvec::SmallVec::<[Vec<u8>; 8]>::new();
        {
            let mut queue = self.queue.borrow_mut();
            while let Some(first) = queue.front() {
                let left = first.len() - self.first_sent.get();
                if count < left {
                    self.first_sent.set(self.first_sent.get() + count);
                    break;
                }
                count -= left;
                self.first_sent.set(0);
                through.extend(queue.pop_front());
            }
        }
        for buffer in through {
            self.call(|sink| sink.sent(buffer));
        }
    }

    /// What follows once the queue is empty.
    fn after_queue(self: &Rc<Self>) {
        if !self.is_open() || !self.queue.borrow().is_empty() {
            return;
        }
        if self.wants_close.get() {
            self.end(None);
        } else if self.wants_shutdown.get()
            && !self.did_shutdown.replace(true)
            && let Some(socket) = self.socket()
        {
            // A connection that is broken says so where it is read.
            let _ = socket.options().shutdown(Shutdown::Write);
        }
    }

    /// The end, if nothing is in flight any more. Called from the turn only. Returns whether it was.
    fn finish(self: &Rc<Self>) -> bool {
        if self.phase.get() != Phase::Closing || self.ring.in_flight() {
            return false;
        }
        self.phase.set(Phase::Closed);
        self.queue.take();
        self.held_back.take();
        self.queued_bytes.set(0);
        self.backend.shared().leave(self.place.get());
        drop(self.socket.take());
        if let Some(sink) = self.sink.take() {
            sink.closed(self.outcome.take().map_or(Ok(()), Err));
        }
        true
    }
}

impl Member for State {
    fn deferred(self: Rc<Self>) -> bool {
        self.deferred.set(false);
        let mut called = self.deliver_held_back();
        called |= self.tell_end_of_input();
        called |= match &self.backend {
            Backend::Uring(core) => self.drive_ring(core),
            Backend::Mio(core) => self.drive_ready(core),
        };
        self.after_queue();
        called | self.finish()
    }

    fn abort(self: Rc<Self>) {
        self.end(Some(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the loop is shutting down",
        )));
    }
}
