//! Connections without a fiber: received bytes go to a [`Sink`], outgoing bytes are queued.
//!
//! ```text
//!   kernel ──▶ driver's buffer ──▶ Sink::data(bytes)          send(buffer) ──▶ queue ──▶ kernel
//!                                                                                └──▶ Sink::sent(buffer)
//!   open ──(end of input, error, close)──▶ closing: cancel operations in flight ──▶ Sink::closed(result), last
//! ```
//!
//! Invariants:
//! - Only the driver's turn makes callbacks, never a call into the connection. So a call may be made anywhere on the
//!   loop, even in a callback, and while the caller holds any borrow of its data. One callback runs at a time.
//! - `closed` is called exactly once, when nothing is in flight. No callback follows it.
//! - Buffers in flight stay at the front of the queue until the kernel has finished with them.
//! - Everything runs on the loop's thread. A connection is reference-counted, and not `Send`.

mod mio;
mod uring;

use crate::driver::members::{Member, run_callback};
use crate::driver::{Backend, backend};
use crate::net::socket::Socket;
use crate::net::{TcpStream, UnixStream};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use uring::UringState;

/// Receives the events of a [`Connection`]. The loop calls it outside fibers; it must not wait.
///
/// A callback that panics closes its connection, and no other: it may have left its input half processed.
/// [`Sink::closed`] follows with an error.
///
/// ```
/// use std::cell::RefCell;
/// use std::io::Write;
/// use std::rc::Rc;
/// use yue_io::net::UnixStream;
/// use yue_io::connection::{Connection, Sink};
/// use yue_scheduler::sync::local::Notify;
///
/// /// Gathers the peer's bytes, and signals the end of input.
/// struct Gather {
///     received: RefCell<Vec<u8>>,
///     done: Notify,
/// }
///
/// impl Sink for Gather {
///     fn data(&self, bytes: &[u8]) {
///         self.received.borrow_mut().extend_from_slice(bytes);
///     }
///
///     fn sent(&self, _buffer: Vec<u8>) {}
///
///     fn closed(&self, _result: std::io::Result<()>) {
///         self.done.notify_one();
///     }
/// }
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (mut here, there) = UnixStream::pair()?;
///     let sink = Rc::new(Gather { received: RefCell::default(), done: Notify::new() });
///     Connection::start_unix(there, sink.clone())?;
///     here.write_all(b"hello")?;
///     drop(here);
///     sink.done.notified()?;
///     assert_eq!(*sink.received.borrow(), b"hello");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Sink {
    /// Receives bytes, in order. They are valid only during the call.
    fn data(&self, bytes: &[u8]);

    /// Returns a buffer of [`Connection::send`] after the kernel has taken all of it. The buffer still holds its bytes;
    /// the program may clear and reuse it.
    fn sent(&self, buffer: Vec<u8>);

    /// Called when the peer has finished sending. Returning `true` keeps the connection open for sending. By default
    /// the queued bytes are sent and the connection is closed.
    fn end_of_input(&self) -> bool {
        false
    }

    /// Called when the connection has ended and its socket is closed: with `Ok` after [`Connection::close`] and after
    /// the end of input, otherwise with the error. Unsent bytes are dropped. Called exactly once, as the last callback.
    fn closed(&self, result: io::Result<()>);
}

/// A connection that the loop itself reads and writes.
///
/// Clones refer to the same connection. It stays open when all of them are dropped; [`Connection::close`], the end of
/// input, or an error ends it.
///
/// ```
/// use std::cell::RefCell;
/// use std::io::{Read, Write};
/// use std::rc::Rc;
/// use yue_io::net::UnixStream;
/// use yue_io::connection::{Connection, Sink};
///
/// /// Sends back what it receives. No fiber waits for it.
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
    member: Cell<usize>,
    deferred: Cell<bool>,
    /// Whether the program wants data.
    reading: Cell<bool>,
    /// Whether the peer has finished sending.
    input_ended: Cell<bool>,
    end_reported: Cell<bool>,
    /// Data received while the program did not want any.
    held_back: RefCell<VecDeque<Vec<u8>>>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    /// The number of bytes of the queue's first buffer that are sent.
    first_sent: Cell<usize>,
    queued_bytes: Cell<usize>,
    /// Shut down sending when the queue is empty.
    wants_shutdown: Cell<bool>,
    did_shutdown: Cell<bool>,
    /// Close when the queue is empty.
    wants_close: Cell<bool>,
    ring: UringState,
    mio: mio::MioState,
}

impl Connection {
    /// Takes over a stream and starts reading.
    ///
    /// # Errors
    /// When the loop's driver does no I/O, or refuses the socket.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn start(stream: TcpStream, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        Connection::start_socket(stream.into_socket(), sink)
    }

    /// Like [`Connection::start`], for a Unix socket.
    ///
    /// # Errors
    /// See [`Connection::start`].
    ///
    /// # Panics
    /// Outside a loop.
    pub fn start_unix(stream: UnixStream, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        Connection::start_socket(stream.into_socket(), sink)
    }

    fn start_socket(socket: Socket, sink: Rc<dyn Sink>) -> io::Result<Connection> {
        if socket.kind().has_messages() {
            // Queued bytes are sent in pieces of any size.
            let text = "a connection needs a stream; this socket has message boundaries";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let state = Rc::new(State {
            backend: backend()?,
            socket: RefCell::new(Some(Rc::new(socket))),
            sink: RefCell::new(Some(sink)),
            phase: Cell::new(Phase::Open),
            outcome: Cell::new(None),
            member: Cell::new(0),
            deferred: Cell::new(false),
            reading: Cell::new(true),
            input_ended: Cell::new(false),
            end_reported: Cell::new(false),
            held_back: RefCell::default(),
            queue: RefCell::default(),
            first_sent: Cell::new(0),
            queued_bytes: Cell::new(0),
            wants_shutdown: Cell::new(false),
            did_shutdown: Cell::new(false),
            wants_close: Cell::new(false),
            ring: UringState::default(),
            mio: mio::MioState::default(),
        });
        state.prepare_socket()?;
        state.member.set(state.backend.members().add(state.clone()));
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

    /// Returns the number of queued bytes that the kernel has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.state.queued_bytes.get()
    }

    /// Sets whether the connection reads; it does from the start. While it does not, the kernel's buffers fill up and
    /// the peer has to wait. Bytes that were already read are delivered first when reading resumes.
    pub fn set_reading(&self, reading: bool) {
        if self.state.reading.replace(reading) != reading {
            self.state.defer();
        }
    }

    /// Sends the queued bytes, then signals the end to the peer. Later sends are dropped.
    pub fn shutdown_write(&self) {
        self.state.wants_shutdown.set(true);
        self.state.defer();
    }

    /// Sends the queued bytes, then closes. Data that arrives meanwhile is still delivered.
    pub fn close_when_sent(&self) {
        self.state.wants_close.set(true);
        self.state.defer();
    }

    /// Closes without waiting for the queue. [`Sink::closed`] follows; more data may not.
    pub fn close(&self) {
        self.state.begin_closing(None);
    }

    /// Whether the connection is open: no close, error or end of input leads to [`Sink::closed`] yet.
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
    fn prepare_socket(self: &Rc<Self>) -> io::Result<()> {
        match &self.backend {
            Backend::Uring(_) => self.make_socket_blocking(),
            Backend::Mio(core) => self.register_with_mio(core),
        }
    }

    /// Schedules [`State::on_turn`] for the driver's next turn.
    fn defer(self: &Rc<Self>) {
        if self.phase.get() != Phase::Closed && !self.deferred.replace(true) {
            self.backend.members().defer(self.clone());
        }
    }

    fn socket(&self) -> Option<Rc<Socket>> {
        self.socket.borrow().clone()
    }

    /// Makes a callback. If it panics, the connection is closed on either driver, so that the peer is not left waiting.
    fn call_sink<R>(self: &Rc<Self>, callback: impl FnOnce(&dyn Sink) -> R) -> Option<R> {
        let sink = self.sink.borrow().clone()?;
        let mut result = None;
        let returned = run_callback(|| result = Some(callback(&*sink)));
        if !returned {
            let text = "a callback of the connection panicked";
            self.begin_closing(Some(io::Error::other(text)));
        }
        result
    }

    fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Begins closing, at the program's request or because of an error.
    fn begin_closing(self: &Rc<Self>, error: Option<io::Error>) {
        if self.is_open() {
            self.phase.set(Phase::Closing);
            self.outcome.set(error);
            self.defer();
        }
    }

    /// Delivers bytes, or keeps them while the program does not want data.
    fn deliver(self: &Rc<Self>, bytes: &[u8]) {
        if !self.is_open() {
            return;
        }
        if !self.reading.get() || !self.held_back.borrow().is_empty() {
            self.held_back.borrow_mut().push_back(bytes.to_vec());
            return;
        }
        self.call_sink(|sink| sink.data(bytes));
    }

    /// Delivers the bytes held back. Returns whether there were any.
    fn deliver_held_back(self: &Rc<Self>) -> bool {
        let mut any = false;
        while self.is_open() && self.reading.get() {
            let Some(bytes) = self.held_back.borrow_mut().pop_front() else {
                break;
            };
            any = true;
            self.call_sink(|sink| sink.data(&bytes));
        }
        any
    }

    /// Reports the end of input once all data is delivered. Returns whether it did.
    fn report_end_of_input(self: &Rc<Self>) -> bool {
        let due = self.is_open() && self.input_ended.get() && !self.end_reported.get();
        if !due || !self.held_back.borrow().is_empty() {
            return false;
        }
        self.end_reported.set(true);
        let stay = self.call_sink(|sink| sink.end_of_input()).unwrap_or(false);
        if !stay {
            self.wants_close.set(true);
            self.defer();
        }
        true
    }

    /// Removes `count` sent bytes from the queue, and returns the buffers that are sent completely to the sink.
    fn remove_sent(self: &Rc<Self>, mut count: usize) {
        debug_assert!(
            count <= self.queued_bytes.get(),
            "the kernel sent more than was queued"
        );
        self.queued_bytes
            .set(self.queued_bytes.get().saturating_sub(count));
        let mut sent = smallvec::SmallVec::<[Vec<u8>; 8]>::new();
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
                sent.extend(queue.pop_front());
            }
            debug_assert!(
                !queue.is_empty() || (count == 0 && self.first_sent.get() == 0),
                "an empty queue has no sent bytes"
            );
        }
        for buffer in sent {
            self.call_sink(|sink| sink.sent(buffer));
        }
    }

    /// Does what is due when the queue is empty.
    fn handle_empty_queue(self: &Rc<Self>) {
        if !self.is_open() || !self.queue.borrow().is_empty() {
            return;
        }
        if self.wants_close.get() {
            self.begin_closing(None);
        } else if self.wants_shutdown.get()
            && !self.did_shutdown.replace(true)
            && let Some(socket) = self.socket()
        {
            // The next read reports a broken connection.
            let _ = socket.options().shutdown(Shutdown::Write);
        }
    }

    /// Ends the connection if nothing is in flight. Only the turn calls it. Returns whether it did.
    fn finish_closing(self: &Rc<Self>) -> bool {
        if self.phase.get() != Phase::Closing || self.ring.in_flight() {
            return false;
        }
        debug_assert!(self.sink.borrow().is_some(), "a connection ends once");
        self.phase.set(Phase::Closed);
        self.queue.take();
        self.held_back.take();
        self.queued_bytes.set(0);
        self.backend.members().remove(self.member.get());
        drop(self.socket.take());
        if let Some(sink) = self.sink.take() {
            sink.closed(self.outcome.take().map_or(Ok(()), Err));
        }
        true
    }
}

impl Member for State {
    fn on_turn(self: Rc<Self>) -> bool {
        self.deferred.set(false);
        let mut called = self.deliver_held_back();
        called |= self.report_end_of_input();
        called |= match &self.backend {
            Backend::Uring(core) => self.drive_ring(core),
            Backend::Mio(core) => self.drive_mio(core),
        };
        self.handle_empty_queue();
        called | self.finish_closing()
    }

    fn on_shutdown(self: Rc<Self>) {
        self.begin_closing(Some(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the loop is shutting down",
        )));
    }
}
