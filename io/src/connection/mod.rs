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
mod sink;
mod state;
mod uring;

pub use sink::Sink;

use crate::driver::members::Member;
use crate::driver::{Backend, backend};
use crate::net::socket::Socket;
use crate::net::{TcpStream, UnixStream};
use state::{Phase, State};
use std::fmt;
use std::io;
use std::rc::Rc;

/// A connection that the loop itself reads and writes.
///
/// On io_uring, bytes that follow TCP urgent data may be delivered only when more arrive, or when reading is paused and
/// resumed. That is a fault of the kernel, which the book describes under "How the drivers work".
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
            let text = "cannot start a connection on a socket with message boundaries; use a stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let state = Rc::new(State::new(backend()?, socket, sink));
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

    /// Sends the queued bytes, then signals the end to the peer. Later sends are dropped. When the peer has finished
    /// sending as well, before or after, the connection is closed.
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
}

impl Member for State {
    fn on_turn(self: Rc<Self>) -> bool {
        debug_assert!(self.deferred.get(), "a turn that nobody asked for");
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
            "the connection was closed because its loop is shutting down",
        )));
    }
}
