//! A session: one connection, over which both sides call each other, for as long as the program wants it, over however
//! many links it takes.
//!
//! ```text
//!   caller fiber ──encode──▶ output ──flush──▶ Transport ─ ─ ─▶ the other side
//!        ▲ wake                                                      │
//!        └── pending ◀── responses ── input (scanner, segments) ◀─ ─ ┘
//!                                      └─ requests ──▶ queue ──▶ worker fiber ──▶ Dispatch ──▶ output
//! ```
//!
//! ```
//! use std::rc::Rc;
//! use yue::rpc::session::{Call, Reply, Service, Session};
//! use yue::rpc::{Error, Listener, Options, Timeout, transport};
//!
//! yue::Runtime::new()?.run(|| -> Result<(), Error> {
//!     // Whatever is called, it answers with its arguments.
//!     let echo = |call: &mut Call, reply: Reply| {
//!         let params = call.params();
//!         reply.results(|out| {
//!             out.extend_from_slice(params.bytes);
//!             Ok(params.count)
//!         })
//!     };
//!     let address = "tcp://127.0.0.1:0".parse().unwrap();
//!     let listener = Listener::bind(&address, Service::new(Rc::new(echo)), Options::default())?;
//!
//!     let connector = transport::connector(listener.address());
//!     let session = Session::open(connector, Service::none(), Options::default());
//!     let answer = session.call("echo", Timeout::Default, |out| {
//!         out.extend_from_slice(b"\x01\xa2hi"); // 1 and "hi" in msgpack
//!         Ok(2)
//!     })?;
//!     assert_eq!((answer.count(), answer.bytes()), (2, &b"\x01\xa2hi"[..]));
//!     session.close();
//!     Ok(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Values are written by *encoders*: closures that append any number of msgpack values to a buffer, and say how many.
//!
//! # Invariants
//!
//! - A session belongs to one loop; everything here runs on it. State is in cells, and no borrow is held while the
//!   program's code runs (encoders included: the output buffer is taken out of its cell for them).
//! - The *epoch* counts links. Whatever belongs to an earlier link (an event, a reply, a reference) is recognized by it
//!   and dropped.
//! - Only `link.rs` changes the link; only `handshake.rs` lets a phase become `Phase::Up`.
//! - Requests of one connection start in the order in which they arrived.

mod control;
mod handshake;
mod held;
mod input;
mod link;
mod metrics;
pub(crate) mod options;
mod outgoing;
mod output;
mod pending;
mod references;
mod request;
pub(crate) mod service;
mod worker;

pub use crate::buffer::Response;
pub use crate::proto::Params;
pub use outgoing::{CallId, Target};
pub use references::ImportedReference;
pub use request::{Call, CallMethod, Replied, Reply, RequestContext, peer};
pub use service::{Dispatch, Service};

use crate::error::Error;
use crate::transport::{Connect, Events, Transport};
use held::Held;
use input::Input;
use metrics::Counted;
use options::{Options, Stats};
use output::Output;
use pending::Pending;
use references::References;
use request::{Queued, Running};
use service::{CloseReason, Failure};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use yue_scheduler::{FiberId, LocalWaker, Timer};

const MILLION: usize = 1 << 20;

/// One side of a connection. Clones are the same session.
///
/// ```
/// use std::rc::Rc;
/// use yue::rpc::session::{Service, Session};
/// use yue::rpc::typed::{Caller, Server};
/// use yue::rpc::{Error, Options, transport};
///
/// yue::Runtime::new()?.run(|| -> Result<(), Error> {
///     let listener = Server::new().handler("ping", |()| Ok("pong")).listen("tcp://127.0.0.1:0")?;
///     let connector = transport::connector(listener.address());
///     let session = Session::open(connector, Service::none(), Options::default());
///     session.set_extension(Some(Rc::new("what the program keeps with a connection")));
///     assert!(!session.connected()); // Nobody has called yet.
///     let caller = Caller::new(session.clone()); // The same session, with serde.
///     assert_eq!(caller.call::<_, String>("ping", ())?, "pong");
///     assert!(session.connected() && session.peer_is_yue());
///     session.close();
///     assert!(session.is_closed());
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Session {
    inner: Rc<Inner>,
}

/// Where a session is in its life.
///
/// ```text
///   opened:    Idle ─call─▶ Connecting ─▶ Greeting ─granted─▶ Accepting ─▶ Up
///                ▲               ▲            └──────┬───────────┴─────────┘
///                └─ gave up ─────┴─── retry ── Ending (on_close runs)
///   accepted:  Accepting ─granted─▶ Up ─▶ Closed           any ─close()─▶ Draining ─▶ Closed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Opened, and there is no link, nor is one being made.
    Idle,
    /// A fiber makes a link, or waits to try again.
    Connecting,
    /// The link is up; hello is asked, or the grant awaited.
    Greeting,
    /// `on_accept` runs.
    Accepting,
    /// Calls go both ways.
    Up,
    /// Nothing but what is on its way out: refused, or closed by this side.
    Draining,
    /// The link is over and `on_close` runs.
    Ending,
    /// For ever.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Opened,
    Accepted,
}

struct Inner {
    this: Weak<Inner>,
    role: Role,
    address: String,
    options: Options,
    service: Service,
    connector: Option<Rc<dyn Connect>>,
    phase: Cell<Phase>,
    epoch: Cell<u32>,
    link: RefCell<Option<Rc<dyn Transport>>>,
    peer_is_yue: Cell<bool>,
    /// A link was lost and is to be made again, however often that fails.
    keep_trying: Cell<bool>,
    /// Attempts to connect since it was last up.
    attempts: Cell<u32>,
    /// Why the last attempt, or the last link, was none for long: what a call hears whose time is over before the next.
    last_trouble: RefCell<Option<String>>,
    /// Why the session drains.
    draining_for: RefCell<Option<CloseReason>>,
    /// A whole message has come.
    heard: Cell<bool>,
    /// A refusal that waits for the other side's first words, and the reason that it gives.
    refusal: RefCell<Option<(Failure, CloseReason)>>,
    /// The server's grant, for a hello that comes after it.
    granted: RefCell<Option<Vec<u8>>>,
    output: Output,
    input: RefCell<Input>,
    /// Requests that have arrived and not started.
    queue: RefCell<VecDeque<Queued>>,
    queued_bytes: Cell<usize>,
    /// Whether the workers know that the queue holds something.
    listed: Cell<bool>,
    /// Requests of the other side that wait or run.
    in_flight: Cell<usize>,
    reading: Cell<bool>,
    running: RefCell<Running>,
    pending: RefCell<Pending>,
    held: RefCell<Held>,
    references: RefCell<References>,
    /// Callers that wait for room in the output.
    room_waiters: RefCell<Vec<LocalWaker>>,
    /// Handshake, draining and stalls, one at a time.
    timer: Timer,
    /// The fiber that connects, or runs a hook.
    life_fiber: Cell<Option<FiberId>>,
    /// The fiber that lets the client speak first.
    first_words: Cell<Option<LocalWaker>>,
    extension: RefCell<Option<Rc<dyn Any>>>,
    /// Told when an accepted session is over.
    on_gone: RefCell<Option<Box<dyn FnOnce()>>>,
    counters: Counted,
}

impl Session {
    /// A session that connects when it is first used.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open(connector: Rc<dyn Connect>, service: Service, options: Options) -> Session {
        let address = connector.address().to_owned();
        Session {
            inner: Inner::new(Role::Opened, address, Some(connector), service, options),
        }
    }

    /// A session over a link that the other side made. `start` gets the events of the link and starts it.
    ///
    /// # Errors
    /// Those of `start`.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn accept(
        address: impl Into<String>,
        service: Service,
        options: Options,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Session> {
        let inner = Inner::new(Role::Accepted, address.into(), None, service, options);
        let link = start(inner.link_events())?;
        inner.link_up(link);
        Ok(Session { inner })
    }

    /// The address of the other side, for messages.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether calls go through at once: the link is up, and granted.
    pub fn connected(&self) -> bool {
        self.inner.phase.get() == Phase::Up
    }

    /// Whether the session was closed for good. What was written may still be leaving; see [`Session::is_over`].
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.phase.get(), Phase::Closed | Phase::Draining)
    }

    /// Whether the session is over for good, and has said so: no hook is called any more.
    pub fn is_over(&self) -> bool {
        self.inner.phase.get() == Phase::Closed
    }

    /// Whether the other side said hello, and so understands references, deadlines and several results.
    pub fn peer_is_yue(&self) -> bool {
        self.inner.peer_is_yue.get()
    }

    /// What the session has done so far.
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    /// Calls of ours that wait for their answers.
    pub fn calls_in_flight(&self) -> usize {
        self.inner.pending.borrow().waiting()
    }

    /// Requests of the other side that wait or run.
    pub fn requests_in_flight(&self) -> usize {
        self.inner.in_flight.get()
    }

    /// Closes the session for good: what is written already still leaves, calls that wait fail.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Sets the program's own object beside the connection; returns the one before.
    pub fn set_extension(&self, extension: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
        self.inner.extension.replace(extension)
    }

    /// The program's own object beside the connection.
    pub fn extension(&self) -> Option<Rc<dyn Any>> {
        self.inner.extension.borrow().clone()
    }

    /// A number that tells this session from every other of its loop while it lives.
    pub fn key(&self) -> usize {
        Rc::as_ptr(&self.inner) as usize
    }

    /// Has `gone` called once, on the loop, when an accepted session is over.
    pub(crate) fn on_gone(&self, gone: impl FnOnce() + 'static) {
        if self.inner.phase.get() == Phase::Closed {
            gone();
        } else {
            *self.inner.on_gone.borrow_mut() = Some(Box::new(gone));
        }
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Session) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Session {}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.inner.address)
            .field("role", &self.inner.role)
            .field("phase", &self.inner.phase.get())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn new(
        role: Role,
        address: String,
        connector: Option<Rc<dyn Connect>>,
        service: Service,
        options: Options,
    ) -> Rc<Inner> {
        Rc::new_cyclic(|this: &Weak<Inner>| {
            let for_timer = this.clone();
            Inner {
                this: this.clone(),
                role,
                address,
                input: RefCell::new(Input::new(options.limits.scan())),
                references: RefCell::new(References::new(options.limits.references_max)),
                options,
                service,
                connector,
                phase: Cell::new(Phase::Idle),
                epoch: Cell::new(0),
                link: RefCell::default(),
                peer_is_yue: Cell::new(false),
                keep_trying: Cell::new(false),
                attempts: Cell::new(0),
                last_trouble: RefCell::default(),
                draining_for: RefCell::default(),
                heard: Cell::new(false),
                refusal: RefCell::default(),
                granted: RefCell::default(),
                output: Output::default(),
                queue: RefCell::default(),
                queued_bytes: Cell::new(0),
                listed: Cell::new(false),
                in_flight: Cell::new(0),
                reading: Cell::new(true),
                running: RefCell::default(),
                pending: RefCell::default(),
                held: RefCell::default(),
                room_waiters: RefCell::default(),
                timer: Timer::new(move || {
                    if let Some(inner) = for_timer.upgrade() {
                        inner.time_is_over();
                    }
                }),
                life_fiber: Cell::new(None),
                first_words: Cell::new(None),
                extension: RefCell::default(),
                on_gone: RefCell::default(),
                counters: Counted::new(role),
            }
        })
    }

    /// The counted pointer to this very session. It exists while any method runs, since one is held to call it.
    fn strong(&self) -> Option<Rc<Inner>> {
        self.this.upgrade()
    }

    fn session(&self) -> Option<Session> {
        self.strong().map(|inner| Session { inner })
    }

    /// The link, if there is one.
    #[inline]
    fn with_link<R>(&self, f: impl FnOnce(&dyn Transport) -> R) -> Option<R> {
        let link = self.link.borrow().clone();
        link.map(|link| f(&*link))
    }

    fn closed_error(&self) -> Error {
        let text = format!("the connection to {} is closed", self.address);
        Error::retryable(crate::ErrorKind::ConnectionLost, text)
    }
}
