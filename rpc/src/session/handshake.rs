//! The handshake: from a link that is up to calls in both directions.
//!
//! ```text
//!   client                                   server
//!     $yue/hello ─────────────────────────▶    on_accept(conn) runs: calls the client, requests wait
//!          ◀────────────────────── result
//!          ◀──────── requests ─────────────    (its own calls, answered meanwhile)
//!          ◀──── $yue/granted [value] ─────    true: requests start
//!     on_accept(conn, value) runs
//!     held calls ─────────────────────────▶
//! ```
//!
//! A peer that answers hello with an error, or never sends it, is a plain msgpack-rpc peer. It does not wait for a
//! grant; this side still holds its requests until then.

use super::close_reason::CloseReason;
use super::failure::Failure;
use super::inner::{Inner, RequestContext, Session};
use super::options::count;
use super::service::{Moment, Verdict};
use super::state::in_flight::Waiter;
use super::state::phase::{Action, Event, Phase, Role};
use crate::buffer::Response;
use crate::error::{Error, ErrorKind};
use crate::proto::Method;
use crate::proto::encode;
use crate::proto::value::Reader;
use crate::text::{SHARED_TEXT_MAX, cut};
use crate::trace::random;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{
    Builder, FiberId, Wakeup, deadline_after, park_until, prepare_park, set_context,
};

/// A yue client speaks as soon as the link is up. Over TCP its first message is a packet behind, over WebSocket a round
/// trip, and a lost packet costs another two. Only a client that never speaks first waits for this time.
const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(1);

/// The time that a client above the connection limit has to identify itself, so that it can receive the refusal.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// A grant without its value is at most this long.
const GRANT_BYTES: usize = 32;

/// Records the end of a hook, even if it panics.
struct HookEnd(Rc<Inner>);

impl Drop for HookEnd {
    fn drop(&mut self) {
        let handshake = &self.0.handshake;
        debug_assert!(handshake.hooks.get() != 0, "more hooks end than begin");
        handshake.hooks.set(handshake.hooks.get() - 1);
        if handshake.hooks.get() == 0
            && let Some(afterwards) = handshake.afterwards.take()
        {
            afterwards();
        }
    }
}

impl Inner {
    /// Runs a hook in a new fiber, whose calls do not wait for the grant.
    pub(super) fn spawn_hook(
        &self,
        name: &'static str,
        run: impl FnOnce() + 'static,
    ) -> io::Result<FiberId> {
        let this = self.strong().ok_or(io::ErrorKind::NotConnected)?;
        let body = move || {
            let context = RequestContext::new();
            context.handshake.set(true);
            context.begin(this, yue_scheduler::Instant::NEVER);
            set_context(Some(context));
            run();
        };
        let fiber = Builder::new()
            .name(name)
            .stack(self.options.stack)
            .spawn(body)
            .inspect_err(|error| {
                yue_scheduler::log(
                    yue_scheduler::LogLevel::Error,
                    format_args!("cannot spawn a fiber for a connection's callback: {error}"),
                );
            })?;
        Ok(fiber.id())
    }

    /// Runs a hook of the handshake; if no fiber can be spawned, the link ends.
    fn spawn_handshake(&self, name: &'static str, run: impl FnOnce() + 'static) {
        let Some(this) = self.strong() else { return };
        self.handshake.hooks.set(self.handshake.hooks.get() + 1);
        let end = HookEnd(this);
        let body = move || {
            let _end = end;
            run();
        };
        match self.spawn_hook(name, body) {
            Ok(fiber) => self.handshake.fiber.set(Some(fiber)),
            Err(error) => self.drain(CloseReason::HookFailed(error.to_string())),
        }
    }

    fn arm_handshake(&self) {
        self.link
            .timer
            .arm(deadline_after(self.options.limits.handshake));
    }

    /// Server: the link is up.
    pub(super) fn begin_accepted(&self) {
        let limits = &self.options.limits;
        if self.inbox.accounts.have_too_many_connections(limits) {
            count(&self.counters.refused_connections);
            self.handshake.turned_away.set(true);
            self.link.timer.arm(deadline_after(REFUSED_WAIT));
            let limit = limits.connections_max;
            let text = format!("the server has {limit} connections, its limit; try again later");
            return self.refuse(Failure::of_kind(ErrorKind::ServerBusy, text));
        }
        let hooks = &self.service.hooks;
        let (open, accept) = (hooks.wants(Moment::Open), hooks.wants(Moment::Accept));
        if !accept {
            self.grant(vec![0xc3]);
        } else {
            self.arm_handshake();
        }
        if (open || accept)
            && let Some(session) = self.session()
        {
            self.spawn_handshake("rpc on_accept", move || {
                session.run_accept_hooks(open, accept)
            });
        }
    }

    /// Server: requests start, and the client is notified. A value that cannot be sent turns the grant into a refusal.
    fn grant(&self, value: Vec<u8>) {
        let length = value.len().saturating_add(GRANT_BYTES);
        if length > self.options.limits.message_bytes_max && value.len() > 1 {
            let error = self.too_large(length);
            let text = format!(
                "the value that it granted with cannot be sent: {}",
                error.message()
            );
            return self.refuse(Failure::of_kind(error.kind(), text));
        }
        if self.transition(Event::Accepted).is_none() {
            return;
        }
        debug_assert_eq!((self.role, self.phase.get()), (Role::Accepted, Phase::Up));
        let before = self.handshake.granted.replace(Some(value));
        debug_assert!(before.is_none(), "a link is granted twice");
        self.link.timer.cancel();
        // A client that has not said hello may still do so: then the grant follows the answer to its hello.
        if self.link.peer_is_yue.get() {
            self.send_granted();
        }
        self.start_keepalive();
        self.list_requests();
        self.offer_room();
    }

    pub(super) fn send_granted(&self) {
        let Some(value) = self.handshake.granted.take() else {
            return;
        };
        let written = self.write(|out| {
            encode::notification(out, Method::Name(b"$yue/granted"), |out| {
                out.extend_from_slice(&value);
                Ok(1)
            })
        });
        if let Err(error) = written {
            self.drain(CloseReason::HookFailed(format!(
                "the value that it granted with cannot be sent: {error}"
            )));
        }
    }

    /// Server: sends the reason, and closes when it has arrived.
    pub(super) fn refuse(&self, failure: Failure) {
        let reason =
            CloseReason::Refused(Error::new(ErrorKind::NotGranted, failure.message.clone()));
        self.refuse_for(&failure, reason);
    }

    fn refuse_for(&self, failure: &Failure, reason: CloseReason) {
        if self.phase.get() == Phase::Accepting && !self.handshake.peer_spoke.get() {
            // The peer's first message shows whether it understands `$yue/refused`; it is on its way.
            *self.handshake.refusal.borrow_mut() = Some((failure.clone(), reason));
            return;
        }
        self.send_refusal(failure);
        self.drain(reason);
    }

    /// Sends the refusal to the client, whatever its kind.
    pub(super) fn send_refusal(&self, failure: &Failure) {
        if self.link.peer_is_yue.get() {
            let written = self.write(|out| {
                encode::notification(out, Method::Name(b"$yue/refused"), |out| {
                    failure.encode(out);
                    Ok(1)
                })
            });
            debug_assert!(
                written.is_ok() || !failure.message.is_empty(),
                "a refusal can be sent"
            );
        }
        self.answer_queued_requests(failure);
    }

    /// A refusal was decided before the peer's first message, which has now arrived.
    #[inline]
    pub(super) fn refuse_late(&self) {
        if self.handshake.refusal.borrow().is_some()
            && let Some((failure, reason)) = self.handshake.refusal.take()
        {
            self.refuse_for(&failure, reason);
        }
    }

    /// A plain msgpack-rpc client learns of the refusal from the answers to its requests. The reason, which may be
    /// long, is sent once: with the first of them if there is no `$yue/refused`.
    fn answer_queued_requests(&self, failure: &Failure) {
        let requests = self.inbox.take_queue();
        let constant = "the connection was not granted";
        let mut text = match self.link.peer_is_yue.get() {
            true => constant.to_owned(),
            false => format!("{constant}: {}", failure.message),
        };
        let epoch = self.link.epoch.get();
        for msgid in requests.iter().filter_map(|request| request.msgid) {
            let value = encode::ErrorValue::of_kind(ErrorKind::NotGranted, &text);
            self.answer_error(msgid, &value);
            if self.link.epoch.get() != epoch {
                return;
            }
            text.truncate(constant.len());
        }
    }

    /// The handshake timed out.
    pub(super) fn on_handshake_timeout(&self) {
        if let Some((_, reason)) = self.handshake.refusal.take() {
            return self.drain(reason);
        }
        count(&self.counters.handshake_timeouts);
        self.handshake.cancel();
        if self.role == Role::Accepted {
            let failure = Failure::of_kind(ErrorKind::Timeout, "the handshake took too long");
            self.refuse_for(&failure, CloseReason::HandshakeTimeout);
            // A client that has sent nothing in all that time does not get more.
            if let Some((_, reason)) = self.handshake.refusal.take() {
                self.drain(reason);
            }
        } else {
            self.drain(CloseReason::HandshakeTimeout);
        }
    }

    /// Client: the link is up.
    pub(super) fn greet(&self) {
        self.arm_handshake();
        let epoch = self.link.epoch.get();
        if self.service.hooks.wants(Moment::Open)
            && let Some(session) = self.session()
        {
            self.spawn_handshake("rpc on_open", move || {
                if let Err(failure) = session.inner.service.hooks.on_open(&session)
                    && session.inner.link.epoch.get() == epoch
                {
                    session
                        .inner
                        .drain(CloseReason::HookFailed(failure.message));
                }
            });
        }
        if self.options.legacy || self.link.is_datagram.get() {
            // Plain msgpack-rpc has no handshake: the peer serves at once. A greeting by datagram might be lost.
            return self.handle_granted(None);
        }
        self.link.number.set(random());
        let this = self.this.clone();
        let answered = Box::new(move |outcome| {
            if let Some(inner) = this.upgrade() {
                inner.handle_hello_response(outcome);
            }
        });
        let inserted = self
            .calls
            .borrow_mut()
            .insert(Waiter::Callback(answered), true, usize::MAX);
        let written = inserted.and_then(|id| {
            self.write(|out| {
                encode::request(out, id, Method::Name(b"$yue/hello"), None, |out| {
                    self.hello(out)
                })
            })
        });
        if let Err(error) = written {
            self.drain(CloseReason::HookFailed(error.to_string()));
        }
        self.flush();
    }

    fn handle_hello_response(&self, outcome: Result<Response, Error>) {
        match outcome {
            // A yue server's grant follows in a message of its own.
            Ok(answer) => {
                self.link.peer_is_yue.set(true);
                let mut contents = Reader::new(answer.bytes());
                if contents.read_array().is_some() {
                    self.read_hello(contents.rest());
                }
            }
            // Any error means that the server knows no hello, so it knows no grant either.
            Err(Error::Remote(_)) => self.handle_granted(None),
            // The link is lost; another path handles that.
            Err(Error::Local(_)) => {}
        }
    }

    /// Client: the server grants, or does not know grants (`None`).
    pub(super) fn handle_granted(&self, value: Option<Vec<u8>>) {
        // A grant out of turn is ignored: the phase machine has no transition for it, and the hook is not consulted.
        let hook = self.phase.get() == Phase::Greeting && self.service.hooks.wants(Moment::Accept);
        match self.transition(Event::Granted { hook }) {
            Some(Action::AskHook) => self.ask_hook(value),
            Some(_) => self.up(),
            None => {}
        }
    }

    /// Client: the local `on_accept` makes the final decision.
    fn ask_hook(&self, value: Option<Vec<u8>>) {
        let Some(session) = self.session() else {
            return;
        };
        let epoch = self.link.epoch.get();
        self.spawn_handshake("rpc on_accept", move || {
            if session.inner.link.epoch.get() != epoch {
                return;
            }
            let verdict = session
                .inner
                .service
                .hooks
                .on_accept(&session, value.as_deref());
            let inner = &session.inner;
            if inner.link.epoch.get() != epoch || inner.phase.get() != Phase::Accepting {
                return;
            }
            match verdict {
                Verdict::Grant(_) => {
                    if inner.transition(Event::Accepted).is_some() {
                        inner.up();
                    }
                }
                Verdict::Refuse(failure) => inner.drain(CloseReason::HookFailed(failure.message)),
            }
        });
    }

    /// Client: calls go out, those that waited first.
    fn up(&self) {
        debug_assert_eq!((self.role, self.phase.get()), (Role::Opened, Phase::Up));
        debug_assert!(self.link.exists());
        self.link.timer.cancel();
        self.connector.succeeded();
        self.start_keepalive();
        self.write_queued_calls();
        self.list_requests();
        self.offer_room();
    }

    /// Client: the server refuses. Once the session is up, either side sends this as its reason for closing.
    pub(super) fn handle_refused(&self, error: Error) {
        if self.role == Role::Opened
            && matches!(self.phase.get(), Phase::Greeting | Phase::Accepting)
        {
            // At once, without draining: the server has closed its side, and held calls may go out over the next link.
            self.end_link(CloseReason::Refused(error));
        } else if self.phase.get() == Phase::Up && self.link.peer_is_yue.get() {
            let reason =
                CloseReason::PeerBecause(cut(&error.message(), SHARED_TEXT_MAX).into_owned());
            if !self.start_queued_before_end(reason.clone()) {
                self.end_link(reason);
            }
        }
    }
}

impl Inner {
    /// Server: waits for the client's hello, so that the first call of `on_accept` knows the kind of the peer. A client
    /// that sends nothing expects the server to speak first; the server does so after a moment.
    fn wait_for_first_message(&self) {
        // The hook needs most of the time that greeting and hook have together.
        let time = self.options.limits.handshake / 4;
        let until = deadline_after(FIRST_MESSAGE_WAIT.min(time));
        // The client's first message may arrive in pieces.
        while !self.handshake.peer_spoke.get() {
            self.handshake
                .first_message_waiter
                .set(Some(prepare_park()));
            // The hook runs next, whatever ends the wait. If the fiber was cancelled, the hook's first call finds out.
            let waited = park_until("the client's first message", Some(until));
            self.handshake.first_message_waiter.set(None);
            if !matches!(waited, Ok(Wakeup::Woken)) {
                return;
            }
        }
    }
}

impl Session {
    /// The body of the fiber that runs a server's hooks.
    fn run_accept_hooks(&self, open: bool, accept: bool) {
        let (inner, hooks) = (&self.inner, &self.inner.service.hooks);
        let epoch = inner.link.epoch.get();
        let ended = || inner.link.epoch.get() != epoch || inner.phase.get() == Phase::Draining;
        if open
            && let Err(failure) = hooks.on_open(self)
            && !ended()
        {
            return inner.drain(CloseReason::HookFailed(failure.message));
        }
        if !accept || ended() {
            return;
        }
        inner.wait_for_first_message();
        if ended() {
            return;
        }
        let verdict = hooks.on_accept(self, None);
        if ended() {
            return;
        }
        match verdict {
            Verdict::Grant(value) => inner.grant(value),
            Verdict::Refuse(failure) => inner.refuse(failure),
        }
    }
}
