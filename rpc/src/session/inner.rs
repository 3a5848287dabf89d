//! The handle of a session, the state behind it, and the identity of a request.
//!
//! The methods of both types are spread over the files of this folder, by subject.

use super::metrics::Counted;
use super::options::{Options, Stats};
use super::service::Service;
use super::spans::Outcome;
use super::state::accounts::Accounts;
use super::state::changes::note_change;
use super::state::connector::Connector;
use super::state::handshake::Handshake;
use super::state::in_flight::InFlight;
use super::state::inbox::{Inbox, Running};
use super::state::input::Input;
use super::state::keepalive::Keepalive;
use super::state::link::Link;
use super::state::memberships::Memberships;
use super::state::phase::{self, Action, Event, Phase, Role};
use super::state::queued_calls::{Backlog, QueuedCalls};
use super::state::rate_limit::RateLimit;
use super::state::references::References;
use super::state::write_buffer::WriteBuffer;
use crate::error::{Error, ErrorKind};
use crate::inspect::SessionEntry;
use crate::inspect::calls::Failed;
use crate::release_order::Era;
use crate::trace::{CallChain, TraceParent};
use crate::transport::{Connect, Events, Transport};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_scheduler::{CancelScope, FiberId, Instant, Timer, now};

/// One side of a connection. Clones are the same session.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::{Service, Session};
/// use yue_rpc::typed::{Caller, Server};
/// use yue_rpc::{Error, Options, transport};
///
/// yue_io::run(|| -> Result<(), Error> {
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
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Session {
    pub(super) inner: Rc<Inner>,
}

/// The state of a session, which its handles share.
pub(super) struct Inner {
    pub(super) this: Weak<Inner>,
    pub(super) role: Role,
    pub(super) address: String,
    pub(super) options: Options,
    pub(super) service: Service,
    pub(super) phase: Cell<Phase>,
    pub(super) link: Link,
    pub(super) keepalive: Keepalive,
    pub(super) connector: Connector,
    pub(super) handshake: Handshake,
    pub(super) input: RefCell<Input>,
    pub(super) inbox: Inbox,
    pub(super) running: RefCell<Running<RequestContext>>,
    pub(super) output: WriteBuffer,
    /// Messages that wait for room in it.
    pub(super) backlog: Backlog,
    /// The limit on the rate of the peer's calls.
    pub(super) rate: Option<RateLimit>,
    /// Outgoing calls that wait for their answers,
    pub(super) calls: RefCell<InFlight>,
    /// and the calls among them that wait for a link.
    pub(super) queued_calls: RefCell<QueuedCalls>,
    pub(super) references: RefCell<References>,
    pub(super) extension: RefCell<Option<Rc<dyn Any>>>,
    /// The groups that it is a member of.
    pub(super) memberships: Memberships,
    /// Called when an accepted session has ended.
    pub(super) on_gone: RefCell<Option<Box<dyn FnOnce()>>>,
    pub(super) counters: Counted,
    pub(super) since: Instant,
    _entry: SessionEntry,
}

impl Session {
    /// Creates a session that connects at its first use.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open(connector: Rc<dyn Connect>, service: Service, mut options: Options) -> Session {
        let limit = &mut options.limits.message_bytes_max;
        *limit = (*limit).min(connector.message_bytes_max());
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

    /// Whether calls or notifications wait for the link, or for its grant.
    pub fn holds_messages(&self) -> bool {
        !self.inner.queued_calls.borrow().is_empty()
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

    /// The name of the peer that the link has verified: over TLS, the one in the peer's certificate. `None` if there is
    /// no link, or the peer showed no certificate.
    pub fn peer_name(&self) -> Option<String> {
        self.inner.link.with(|link| link.peer_name()).flatten()
    }

    /// The process of the peer, as the kernel tells it: over `unix://`, the one that connected. `None` if there is no
    /// link, or it is of another kind.
    pub fn peer_process(&self) -> Option<u32> {
        self.inner.link.with(|link| link.peer_process()).flatten()
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
    /// use yue_rpc::session::Session;
    /// use yue_rpc::typed::{Client, Server, peer};
    /// use yue_rpc::{CloseReason, Error, Hooks, Moment, Retry};
    ///
    /// struct Log(yue_scheduler::sync::local::Sender<String>);
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
    /// yue_io::run(|| -> Result<(), Error> {
    ///     let cheat = |()| {
    ///         let peer = peer().ok_or("no peer")?;
    ///         peer.session().close_because("you cheated");
    ///         Ok(())
    ///     };
    ///     let listener = Server::new().handler("cheat", cheat).listen("tcp://127.0.0.1:0")?;
    ///     let (sender, log) = yue_scheduler::sync::local::channel(1);
    ///     let us = Server::new().hooks(Rc::new(Log(sender)));
    ///     let client = Client::open_with(&listener.address().to_string(), us, Default::default())?;
    ///     client.call::<_, ()>("cheat", ()).ok();
    ///     assert_eq!(log.recv().unwrap(), "closed by the peer: you cheated");
    ///     Ok(())
    /// })??;
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

/// A session that its owner does not keep alive.
#[derive(Clone)]
pub(crate) struct WeakSession(Weak<Inner>);

impl WeakSession {
    /// The session, if it still exists.
    #[inline]
    pub(crate) fn upgrade(&self) -> Option<Session> {
        self.0.upgrade().map(|inner| Session { inner })
    }
}

impl Session {
    /// A handle that does not keep the session alive.
    pub(crate) fn downgrade(&self) -> WeakSession {
        WeakSession(self.inner.this.clone())
    }

    /// The groups that it is a member of.
    pub(crate) fn memberships(&self) -> &Memberships {
        &self.inner.memberships
    }

    /// Whether the session may join groups: it has not ended, and is not about to.
    pub(crate) fn may_join(&self) -> bool {
        !self.inner.has_no_future()
    }

    /// Whether this side opened it.
    pub(crate) fn is_opened(&self) -> bool {
        self.inner.role == Role::Opened
    }

    /// A number that the sessions of one listener have in common, and no others of the loop.
    pub(crate) fn accounts_key(&self) -> usize {
        Rc::as_ptr(&self.inner.inbox.accounts) as usize
    }

    /// The phase, in one word.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.inner.phase.get() {
            Phase::Idle => "idle",
            Phase::Connecting => "connecting",
            Phase::Greeting => "greeting",
            Phase::Accepting => "accepting",
            Phase::Up => "up",
            Phase::Draining => "draining",
            Phase::Ending => "ending",
            Phase::Closed => "closed",
        }
    }

    /// The time limit of calls that set none.
    pub(crate) fn default_timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    /// Returns the functions among values that nobody will decode.
    pub(crate) fn release_unread(&self, values: &[u8]) {
        self.inner.release_unread(values);
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
    pub(super) fn new(
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
                service,
                phase: Cell::new(Phase::Idle),
                link: Link::new(timer),
                keepalive: Keepalive::new(silence_timer),
                connector: Connector::new(connector),
                handshake: Handshake::default(),
                inbox: Inbox::new(accounts, message_timer),
                running: RefCell::default(),
                output: WriteBuffer::new(options.undivided_max(), &options.limits),
                backlog: Backlog::default(),
                calls: RefCell::default(),
                queued_calls: RefCell::default(),
                extension: RefCell::default(),
                memberships: Memberships::default(),
                on_gone: RefCell::default(),
                counters: Counted::new(role),
                since: now(),
                _entry: SessionEntry::new(WeakSession(this.clone())),
                options,
            }
        })
    }

    /// Moves to the phase that the event leads to. Returns the required action, or `None` if the event has no meaning
    /// now.
    pub(super) fn transition(&self, event: Event) -> Option<Action> {
        let before = self.phase.get();
        let (phase, action) = phase::next(self.role, before, event)?;
        debug_assert_ne!(before, Phase::Closed, "{event:?} leaves the final phase");
        debug_assert!(
            self.role == Role::Opened || !matches!(phase, Phase::Connecting | Phase::Greeting),
            "{event:?} makes an accepted session connect"
        );
        self.phase.set(phase);
        note_change();
        Some(action)
    }

    /// Whether the session has ended for good, or will when its link has: no message can be sent any more.
    pub(super) fn has_no_future(&self) -> bool {
        match self.phase.get() {
            Phase::Closed => true,
            Phase::Draining => self.ends_for_good(),
            Phase::Ending => self.role == Role::Accepted,
            _ => false,
        }
    }

    /// Leaves all groups if no message can be sent any more. Call it after a change of the phase that may be final.
    pub(super) fn leave_groups_at_end(&self) {
        if self.has_no_future() {
            self.memberships.leave_all();
        }
    }

    /// The counted pointer to this session. It exists while any method runs, since the caller holds one.
    pub(super) fn strong(&self) -> Option<Rc<Inner>> {
        self.this.upgrade()
    }

    pub(super) fn session(&self) -> Option<Session> {
        self.strong().map(|inner| Session { inner })
    }

    pub(super) fn closed_error(&self) -> Error {
        let text = format!("the connection to {} is closed", self.address);
        Error::retryable(ErrorKind::ConnectionLost, text)
    }
}

/// The identity of a request while it is served.
pub struct RequestContext {
    pub(super) session: RefCell<Option<Rc<Inner>>>,
    pub(super) epoch: Cell<u32>,
    pub(super) deadline: Cell<Instant>,
    /// The fiber that serves the request, and the request's number, for reports. Fibers that it starts inherit the
    /// context.
    pub(super) fiber: Cell<Option<FiberId>>,
    pub(super) msgid: Cell<Option<u32>>,
    pub(super) scope: CancelScope,
    /// Whether the request ends when its caller gives up, and its calls with its caller's time; see
    /// [`Options::cancel`](crate::Options::cancel).
    pub(super) obeys_caller: Cell<bool>,
    /// Set for the connection's handshake, which is not a request: its calls are not held.
    pub(super) handshake: Cell<bool>,
    /// Whether the request has been answered.
    pub(super) replied: Cell<bool>,
    /// The call chain that it belongs to, and the trace.
    pub(super) chain: Cell<Option<CallChain>>,
    pub(super) trace: Cell<Option<TraceParent>>,
    /// For its span.
    pub(super) outcome: Outcome,
    /// For the statistics, while somebody watches.
    pub(crate) failed: Cell<Option<Box<Failed>>>,
}
