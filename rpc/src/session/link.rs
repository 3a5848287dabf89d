//! The link under a session: its events, its end, and what the session does after it.

use super::Inner;
use super::options::count;
use super::phase::{Action, Afterwards, Event, Phase, Role};
use super::release_order::Era;
use super::service::{CloseReason, Failure, Moment, Retry};
use crate::error::{Error, ErrorKind};
use crate::proto::{Method, encode};
use crate::text::{SHARED_TEXT_MAX, cut};
use crate::transport::{Events, Incoming, Transport};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{Timer, deadline_after, this_loop};

/// The time that a closing link has to send what was written.
const DRAIN: Duration = Duration::from_secs(1);

/// The present link, if there is one, and facts about its peer.
pub(super) struct Link {
    /// Counts the links. It identifies objects that belong to an earlier one.
    pub(super) epoch: Cell<u32>,
    pub(super) transport: RefCell<Option<Rc<dyn Transport>>>,
    /// The peer sent hello, or answered this side's.
    pub(super) peer_is_yue: Cell<bool>,
    /// The reason why the session drains.
    draining_for: RefCell<Option<CloseReason>>,
    /// Timer for handshake, draining and stalls, one at a time: the phase determines which.
    pub(super) timer: Timer,
}

impl Link {
    pub(super) fn new(timer: Timer) -> Link {
        Link {
            epoch: Cell::new(0),
            transport: RefCell::default(),
            peer_is_yue: Cell::new(false),
            draining_for: RefCell::default(),
            timer,
        }
    }

    /// Whether a link exists.
    pub(super) fn exists(&self) -> bool {
        self.transport.borrow().is_some()
    }

    /// Calls `f` with the transport, if there is one.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&dyn Transport) -> R) -> Option<R> {
        let transport = self.transport.borrow().clone();
        transport.map(|transport| f(&*transport))
    }

    /// Drops the link; the next one has another epoch.
    fn end(&self) -> Option<Rc<dyn Transport>> {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.timer.cancel();
        self.draining_for.take();
        self.peer_is_yue.set(false);
        self.transport.take()
    }
}

/// The events of one link. After the link's end they do nothing.
struct LinkEvents {
    session: Rc<Inner>,
    epoch: u32,
}

impl LinkEvents {
    fn current(&self) -> Option<&Inner> {
        (self.session.link.epoch.get() == self.epoch).then_some(&*self.session)
    }
}

impl Events for LinkEvents {
    fn data(&self, incoming: Incoming<'_>) {
        if let Some(session) = self.current() {
            session.on_data(incoming);
            if let Some(waiting) = session.handshake.first_message_waiter.take() {
                waiting.wake();
            }
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        match self.current() {
            Some(session) => session.on_sent(buffer),
            None => drop(buffer.map(crate::buffer::give_back)),
        }
    }

    fn end_of_input(&self) -> bool {
        self.current().is_some_and(Inner::on_end_of_input)
    }

    fn closed(&self, result: io::Result<()>) {
        if let Some(session) = self.current() {
            let draining = session.link.draining_for.take();
            session.end_link(match (draining, result) {
                (Some(reason), _) => reason,
                (None, Ok(())) => CloseReason::Peer,
                (None, Err(error)) => CloseReason::Lost(error.to_string()),
            });
        }
    }
}

impl Inner {
    /// Creates the events for the next link.
    pub(super) fn link_events(&self) -> Rc<dyn Events> {
        struct Gone;
        impl Events for Gone {
            fn data(&self, _: Incoming<'_>) {}
            fn sent(&self, _: Option<Vec<u8>>) {}
            fn closed(&self, _: io::Result<()>) {}
        }
        match self.strong() {
            Some(session) => Rc::new(LinkEvents {
                session,
                epoch: self.link.epoch.get(),
            }),
            None => Rc::new(Gone),
        }
    }

    /// Installs a new link.
    pub(super) fn on_link_up(&self, transport: Rc<dyn Transport>) {
        let Some(action) = self.transition(Event::LinkUp) else {
            return transport.close();
        };
        *self.link.transport.borrow_mut() = Some(transport);
        self.inbox.accounts.open_connection();
        count(&self.counters.links);
        if action == Action::Greet {
            self.greet();
        } else {
            self.begin_accepted();
        }
    }

    /// Sends what was written, then closes. Nothing more is read, and waiting calls fail now.
    pub(super) fn drain(&self, reason: CloseReason) {
        if self.transition(Event::DrainRequested).is_some() {
            self.drain_link(reason);
        }
    }

    /// Sends the reason why the session is closed for good to a yue peer.
    pub(super) fn send_reason(&self, reason: &str) {
        if reason.is_empty() || !self.link.peer_is_yue.get() {
            return;
        }
        let failure = Failure::of_kind(ErrorKind::ConnectionLost, reason);
        // It fails only if the message limit is smaller than a reason; then the link ends without one.
        let _ = self.write(|out| {
            encode::notification(out, Method::Name(b"$yue/refused"), |out| {
                failure.encode(out);
                Ok(1)
            })
        });
    }

    fn drain_link(&self, reason: CloseReason) {
        *self.link.draining_for.borrow_mut() = Some(reason.clone());
        self.flush();
        self.link.with(|link| {
            link.set_reading(true);
            link.shutdown_write();
        });
        self.link.timer.arm(deadline_after(DRAIN));
        self.output.wake_room_waiters();
        self.fail_calls(true, || reason.as_lost_call(false));
        if matches!(reason, CloseReason::Local) {
            self.fail_queued(|| self.closed_error());
        }
    }

    /// Whether a draining session makes no new link.
    pub(super) fn ends_for_good(&self) -> bool {
        let reason = self.link.draining_for.borrow();
        self.role == Role::Accepted || matches!(*reason, Some(CloseReason::Local) | None)
    }

    /// Handles the session's timer; the phase determines its purpose.
    pub(super) fn on_link_timer(&self) {
        match self.phase.get() {
            Phase::Greeting | Phase::Accepting => self.on_handshake_timeout(),
            Phase::Draining => {
                let reason = self.link.draining_for.take().unwrap_or(CloseReason::Local);
                self.end_link(reason);
            }
            Phase::Up if self.output.above_mark.get() && self.output_moves() => self.arm_stall(),
            Phase::Up if self.output.above_mark.get() => {
                count(&self.counters.stalls);
                self.end_link(CloseReason::Stalled);
            }
            _ => {}
        }
    }

    /// The link has ended, and everything that belonged to it ends; then the session decides what to do next.
    pub(super) fn end_link(&self, reason: CloseReason) {
        if self.transition(Event::LinkEnded).is_none() {
            return;
        }
        let transport = self.link.end();
        self.keepalive.end();
        self.handshake.reset();
        let era = Era::new(self.this.clone(), self.link.epoch.get());
        self.input.borrow_mut().reset(era);
        self.output.clear();
        let dropped = self.inbox.reset();
        if let Some(transport) = transport {
            self.inbox.accounts.close_connection();
            self.memory_was_freed();
            count(&self.counters.links_ended);
            transport.close();
        }
        drop(dropped);
        self.end_references();
        self.output.wake_room_waiters();
        self.fail_calls(true, || reason.as_lost_call(false));
        self.notify_close(reason);
    }

    fn notify_close(&self, reason: CloseReason) {
        // There is no end of what the program never saw begin.
        let unseen = self.handshake.turned_away.get();
        if unseen || !self.service.hooks.wants(Moment::Close) || !this_loop::exists() {
            return self.after_close(&reason, Retry::Default);
        }
        let Some(this) = self.strong() else { return };
        self.handshake
            .after_hooks(move || this.run_close_hook(reason));
    }

    fn run_close_hook(&self, reason: CloseReason) {
        let Some(session) = self.session() else {
            return;
        };
        let close_reason = reason.clone();
        let spawned = self.spawn_hook("rpc on_close", move || {
            let retry = session.inner.service.hooks.on_close(&session, &reason);
            session.inner.after_close(&reason, retry);
        });
        if spawned.is_err() {
            self.after_close(&close_reason, Retry::Default);
        }
    }

    fn after_close(&self, reason: &CloseReason, retry: Retry) {
        let afterwards = self.afterwards(reason, retry);
        match self.transition(Event::CloseHandled(afterwards)) {
            Some(Action::Connect) => {
                self.connector.try_again(reason.to_string());
                self.connect_in_fiber();
            }
            Some(Action::FailQueued) => {
                self.connector.rest();
                self.fail_queued(|| reason.as_unsent_call());
            }
            Some(_) => self.closed_for_good(),
            None => {}
        }
    }

    /// The session's next step after a link that ended for `reason`.
    fn afterwards(&self, reason: &CloseReason, retry: Retry) -> Afterwards {
        if self.role == Role::Accepted || matches!(reason, CloseReason::Local) {
            return Afterwards::Finish;
        }
        let again = match retry {
            Retry::Yes => true,
            Retry::No => false,
            // Repeating the same request helps against a link that broke, not against a refusal.
            Retry::Default => self.options.reconnect && self.next_may_fare_better(reason),
        };
        if again {
            Afterwards::Reconnect
        } else {
            Afterwards::Rest
        }
    }

    /// Whether another link may be better than one that ended for `reason`.
    fn next_may_fare_better(&self, reason: &CloseReason) -> bool {
        match reason {
            CloseReason::Refused(_) | CloseReason::HookFailed(_) => false,
            CloseReason::Protocol { .. } => self.connector.may_speak_yet() || self.options.retry,
            _ => true,
        }
    }

    fn closed_for_good(&self) {
        self.fail_queued(|| self.closed_error());
        let gone = self.on_gone.take();
        if let Some(gone) = gone {
            gone();
        }
    }

    /// This side closes the session for good; a yue peer receives the reason.
    pub(super) fn close(&self, reason: &str) {
        if self.is_ungranted() {
            let reason = match reason {
                "" => "the server closed the connection before it was granted",
                reason => reason,
            };
            self.send_refusal(&Failure::of_kind(ErrorKind::NotGranted, reason));
        } else if matches!(
            self.phase.get(),
            Phase::Greeting | Phase::Accepting | Phase::Up
        ) {
            self.send_reason(reason);
        }
        match self.transition(Event::CloseRequested) {
            Some(Action::DrainLink) => self.drain_link(CloseReason::Local),
            Some(Action::DrainForGood) if self.ends_for_good() => {}
            Some(Action::DrainForGood) => {
                *self.link.draining_for.borrow_mut() = Some(CloseReason::Local);
                self.fail_queued(|| self.closed_error());
            }
            Some(Action::FinishConnecting) => {
                self.closed_for_good();
                self.stop_connecting();
            }
            Some(_) => self.closed_for_good(),
            None => {}
        }
    }
}

impl CloseReason {
    /// The error of a call that was written before the link ended.
    pub(super) fn as_lost_call(&self, retryable: bool) -> Error {
        let text = format!("the connection was lost before the answer came: {self}");
        let text = cut(&text, SHARED_TEXT_MAX);
        if retryable {
            Error::retryable(ErrorKind::ConnectionLost, text)
        } else {
            Error::new(ErrorKind::ConnectionLost, text)
        }
    }

    /// The error of a call that was still waiting for a link.
    fn as_unsent_call(&self) -> Error {
        let text = match self {
            CloseReason::Refused(error) => {
                format!(
                    "the server did not grant the connection: {}",
                    error.message()
                )
            }
            CloseReason::HandshakeTimeout | CloseReason::HookFailed(_) => {
                format!("the connection was not granted: {self}")
            }
            CloseReason::Protocol { .. } => {
                let text = format!("the peer does not speak msgpack-rpc: {self}");
                let text = cut(&text, SHARED_TEXT_MAX);
                return Error::retryable(ErrorKind::ConnectionLost, text);
            }
            _ => return self.as_lost_call(true),
        };
        Error::retryable(ErrorKind::NotGranted, cut(&text, SHARED_TEXT_MAX))
    }
}
