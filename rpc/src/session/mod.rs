//! Sessions: one connection, over which both sides call each other, for as long as the program wants, over however many
//! links that takes.
//!
//! ```text
//!   caller fiber ──encode──▶ WriteBuffer ──flush──▶ Transport ─ ─ ─▶ the peer
//!        ▲ wake                                                          │
//!        └── InFlight ◀── responses ── Input (scanner, segments) ◀─ ─ ─ ─┘
//!                                       └─ requests ──▶ Inbox ──▶ worker fiber ──▶ Dispatch ──▶ WriteBuffer
//!
//!   Connector makes links, Handshake gets each granted, QueuedCalls holds the calls that are made before that.
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
//! Values are written by *encoders*: closures that append any number of msgpack values to a buffer, and return the
//! number.
//!
//! # Invariants
//!
//! - A session belongs to one loop; everything here runs on it. State is in cells, and no borrow is held while the
//!   program's code runs (encoders included: the output buffer is taken out of its cell for them).
//! - The *epoch* counts links. It identifies objects of an earlier link (an event, a reply, a reference), which are
//!   dropped.
//! - Only `transition` changes the phase, by the rules of `phase.rs`; only `link.rs` changes the link.
//! - Requests of one connection start in the order in which they arrived.

mod accounts;
mod backlog;
mod call;
mod connector;
mod control_messages;
mod flow_control;
mod handshake;
mod in_flight;
mod inbox;
mod input;
mod keepalive;
mod link;
mod metrics;
pub(crate) mod options;
mod phase;
mod queued_calls;
mod rate_limit;
mod references;
mod release_order;
mod request;
pub(crate) mod service;
mod worker;
mod write_buffer;

pub(crate) use accounts::Accounts;

pub use accounts::Usage;

pub use crate::buffer::Response;
pub use crate::proto::Params;
pub use call::{CallId, Target};
pub use references::{ImportedReference, LinkNumber};
pub(crate) use release_order::Era;
pub use request::{Call, CallMethod, Replied, Reply, RequestContext, peer};
pub use service::{Dispatch, Service};

use crate::error::Error;
use crate::transport::{Connect, Events, Transport};
use backlog::Backlog;
use connector::Connector;
use handshake::Handshake;
use in_flight::InFlight;
use inbox::Inbox;
use input::Input;
use keepalive::Keepalive;
use link::Link;
use metrics::Counted;
use options::{Options, Stats};
use phase::{Action, Event, Phase, Role};
use queued_calls::QueuedCalls;
use rate_limit::RateLimit;
use references::References;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use write_buffer::WriteBuffer;
use yue_scheduler::{Instant, Timer, now};

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

struct Inner {
    this: Weak<Inner>,
    role: Role,
    address: String,
    options: Options,
    service: Service,
    phase: Cell<Phase>,
    link: Link,
    keepalive: Keepalive,
    connector: Connector,
    handshake: Handshake,
    input: RefCell<Input>,
    inbox: Inbox,
    output: WriteBuffer,
    /// Messages that wait for room in it.
    backlog: Backlog,
    /// The limit on the rate of the peer's calls.
    rate: Option<RateLimit>,
    /// Outgoing calls that wait for their answers,
    calls: RefCell<InFlight>,
    /// and the calls among them that wait for a link.
    queued_calls: RefCell<QueuedCalls>,
    references: RefCell<References>,
    extension: RefCell<Option<Rc<dyn Any>>>,
    /// Called when an accepted session has ended.
    on_gone: RefCell<Option<Box<dyn FnOnce()>>>,
    counters: Counted,
    since: Instant,
}

impl Session {
    /// Creates a session that connects at its first use.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open(connector: Rc<dyn Connect>, service: Service, options: Options) -> Session {
        let address = connector.address().to_owned();
        Session {
            inner: Inner::new(
                Role::Opened,
                address,
                Some(connector),
                service,
                options,
                Rc::default(),
            ),
        }
    }

    /// Creates a session over a link that the peer made. `start` receives the events of the link and starts it.
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
        Session::accept_into(Rc::default(), address.into(), service, options, start)
    }

    /// Like [`Session::accept`], for a listener with accounts for all of its sessions.
    pub(crate) fn accept_into(
        accounts: Rc<Accounts>,
        address: String,
        service: Service,
        options: Options,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Session> {
        let inner = Inner::new(Role::Accepted, address, None, service, options, accounts);
        let link = start(inner.link_events())?;
        inner.on_link_up(link);
        Ok(Session { inner })
    }

    /// The address of the peer, for messages.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether calls go out at once: the link is up, and granted.
    pub fn connected(&self) -> bool {
        self.inner.phase.get() == Phase::Up
    }

    /// Whether the session was closed for good. Written messages may still be leaving; see [`Session::has_ended`].
    pub fn is_closed(&self) -> bool {
        match self.inner.phase.get() {
            Phase::Closed => true,
            Phase::Draining => self.inner.ends_for_good(),
            _ => false,
        }
    }

    /// Whether the session has ended for good, and all hooks have returned: none is called any more.
    pub fn has_ended(&self) -> bool {
        self.inner.phase.get() == Phase::Closed
    }

    /// Whether the peer sent hello, and so understands references, deadlines and several results.
    pub fn peer_is_yue(&self) -> bool {
        self.inner.link.peer_is_yue.get()
    }

    /// The session's counts so far.
    pub fn stats(&self) -> Stats {
        self.inner.counters.snapshot()
    }

    /// Outgoing calls that wait for their answers.
    pub fn calls_in_flight(&self) -> usize {
        self.inner.calls.borrow().waiting()
    }

    /// Requests of the peer that wait or run.
    pub fn requests_in_flight(&self) -> usize {
        self.inner.inbox.in_flight.get()
    }

    /// The time since the session was created.
    pub fn age(&self) -> Duration {
        now().saturating_since(self.inner.since)
    }

    /// Closes the session for good: written messages still leave, waiting calls fail.
    pub fn close(&self) {
        self.inner.close("");
    }

    /// Like [`Session::close`], and sends the reason to a yue peer, whose [`CloseReason`](crate::CloseReason) is then
    /// [`PeerBecause`](crate::CloseReason::PeerBecause).
    ///
    /// ```
    /// use std::rc::Rc;
    /// use yue::rpc::session::Session;
    /// use yue::rpc::typed::{Client, Server, peer};
    /// use yue::rpc::{CloseReason, Error, Hooks, Moment, Retry};
    ///
    /// struct Log(yue::sync::local::Sender<String>);
    ///
    /// impl Hooks for Log {
    ///     fn wants(&self, moment: Moment) -> bool {
    ///         moment == Moment::Close
    ///     }
    ///
    ///     fn on_close(&self, _session: &Session, reason: &CloseReason) -> Retry {
    ///         drop(self.0.try_send(reason.to_string()));
    ///         Retry::No
    ///     }
    /// }
    ///
    /// yue::Runtime::new()?.run(|| -> Result<(), Error> {
    ///     let cheat = |()| {
    ///         let peer = peer().ok_or("no peer")?;
    ///         peer.session().close_because("you cheated");
    ///         Ok(())
    ///     };
    ///     let listener = Server::new().handler("cheat", cheat).listen("tcp://127.0.0.1:0")?;
    ///     let (told, log) = yue::sync::local::channel(1);
    ///     let us = Server::new().hooks(Rc::new(Log(told)));
    ///     let client = Client::open_with(&listener.address().to_string(), us, Default::default())?;
    ///     client.call::<_, ()>("cheat", ()).ok();
    ///     assert_eq!(log.recv().unwrap(), "closed by the peer: you cheated");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_because(&self, reason: &str) {
        self.inner.close(reason);
    }

    /// Attaches the program's own object to the connection; returns the previous one.
    pub fn set_extension(&self, extension: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
        self.inner.extension.replace(extension)
    }

    /// The program's own object attached to the connection.
    pub fn extension(&self) -> Option<Rc<dyn Any>> {
        self.inner.extension.borrow().clone()
    }

    /// Whether the listener had too many connections for this one.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.inner.handshake.turned_away.get()
    }

    /// A number that identifies this session among those of its loop while it lives.
    pub fn key(&self) -> usize {
        Rc::as_ptr(&self.inner) as usize
    }

    /// Registers `gone`, to be called once, on the loop, when an accepted session has ended.
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
        accounts: Rc<Accounts>,
    ) -> Rc<Inner> {
        Rc::new_cyclic(|this: &Weak<Inner>| {
            let timer = |fired: fn(&Inner)| {
                let this = this.clone();
                Timer::new(move || {
                    if let Some(inner) = this.upgrade() {
                        fired(&inner);
                    }
                })
            };
            let message_timer = timer(Inner::on_message_timer);
            let silence_timer = timer(Inner::on_silence_timer);
            let timer = timer(Inner::on_link_timer);
            Inner {
                this: this.clone(),
                role,
                address,
                input: RefCell::new(Input::new(options.limits.scan(), Era::new(this.clone(), 0))),
                references: RefCell::new(References::new(options.limits.references_max)),
                rate: options.limits.rate.map(RateLimit::new),
                options,
                service,
                phase: Cell::new(Phase::Idle),
                link: Link::new(timer),
                keepalive: Keepalive::new(silence_timer),
                connector: Connector::new(connector),
                handshake: Handshake::default(),
                inbox: Inbox::new(accounts, message_timer),
                output: WriteBuffer::default(),
                backlog: Backlog::default(),
                calls: RefCell::default(),
                queued_calls: RefCell::default(),
                extension: RefCell::default(),
                on_gone: RefCell::default(),
                counters: Counted::new(role),
                since: now(),
            }
        })
    }

    /// Moves to the phase that the event leads to. Returns the required action, or `None` if the event has no meaning
    /// now.
    fn transition(&self, event: Event) -> Option<Action> {
        let (phase, action) = phase::next(self.role, self.phase.get(), event)?;
        self.phase.set(phase);
        Some(action)
    }

    /// The counted pointer to this session. It exists while any method runs, since the caller holds one.
    fn strong(&self) -> Option<Rc<Inner>> {
        self.this.upgrade()
    }

    fn session(&self) -> Option<Session> {
        self.strong().map(|inner| Session { inner })
    }

    fn closed_error(&self) -> Error {
        let text = format!("the connection to {} is closed", self.address);
        Error::retryable(crate::ErrorKind::ConnectionLost, text)
    }
}
