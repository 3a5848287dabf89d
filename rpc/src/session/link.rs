//! The link under a session: its events, its end, and what the session does after it.

use super::close_reason::CloseReason;
use super::failure::Failure;
use super::inner::Inner;
use super::options::count;
use super::service::{Moment, Retry};
use super::state::phase::{Action, Afterwards, Event, Phase, Role};
use crate::error::{Error, ErrorKind};
use crate::proto::{Method, encode};
use crate::release_order::Era;
use crate::transport::{
    ClosedByPeer, Ending, Events, Incoming, LinkRefused, ProcessEnded, Transport,
};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{deadline_after, this_loop};

/// The time that a closing link has to send what was written.
const DRAIN: Duration = Duration::from_secs(1);

/// The events of one link. After the link's end they do nothing.
struct LinkEvents {
    session: Rc<Inner>,
    epoch: u32,
}

impl LinkEvents {
    fn current(&self) -> Option<&Inner> {
        let is_current = self.session.link.epoch.get() == self.epoch
            || yue_scheduler::planted!("epoch not checked");
        is_current.then_some(&*self.session)
    }
}

impl Events for LinkEvents {
    fn data(&self, incoming: Incoming<'_>) {
        if let Some(session) = self.current() {
            session.on_data(incoming);
            // Even if the data has ended the link: the fiber that waits must then find out.
            if let Some(waiting) = session.handshake.first_message_waiter.take() {
                waiting.wake();
            }
        }
    }

    fn data_from(&self, sender: SocketAddr, incoming: Incoming<'_>) {
        self.session.link.sender.set(Some(sender));
        self.data(incoming);
        self.session.link.sender.set(None);
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

    fn undelivered(&self, error: io::Error) {
        if let Some(session) = self.current() {
            let error = Error::from_undelivered(&session.address, &error);
            session.fail_calls(true, || error.clone());
        }
    }

    fn dropped(&self) {
        if let Some(session) = self.current() {
            count(&session.counters.datagrams_dropped);
        }
    }

    fn closed(&self, result: io::Result<()>) {
        if let Some(session) = self.current() {
            session.end_link(match result {
                Ok(()) => CloseReason::Peer,
                Err(error) => reason_of(&error),
            });
        }
    }
}

/// The reason for a link's end, by the transport's error.
fn reason_of(error: &io::Error) -> CloseReason {
    if let Some(refused) = LinkRefused::of(error) {
        CloseReason::Refused(Error::new(refused.kind, &*refused.message))
    } else if let Some(ClosedByPeer(why)) = ClosedByPeer::of(error) {
        CloseReason::PeerBecause(why.clone())
    } else if let Some(ProcessEnded(how)) = ProcessEnded::of(error) {
        CloseReason::ProcessEnded(how.clone())
    } else {
        CloseReason::Lost(error.to_string())
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
        self.link.is_datagram.set(transport.is_datagram());
        let before = self.link.transport.replace(Some(transport));
        debug_assert!(before.is_none(), "a link came up beside another");
        debug_assert!(self.phase.get().has_link() && self.inbox.queue.borrow().is_empty());
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

    /// Sends the reason why the link, or the session, ends to a yue peer.
    pub(super) fn send_reason(&self, reason: &str) {
        // Once it has read the reason, the peer reads no more.
        self.send_all_chunks();
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
        debug_assert_eq!(self.phase.get(), Phase::Draining);
        debug_assert!(self.link.exists());
        *self.link.draining_for.borrow_mut() = Some(reason.clone());
        self.leave_groups_at_end();
        self.send_all_chunks();
        self.flush();
        self.explain_end(&reason);
        self.link.with(|link| {
            // Nothing is processed any more, but only reading shows that the peer has closed its side.
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

    /// Passes the reason for the link's end to the transport. One that the program gave was passed before.
    fn explain_end(&self, reason: &CloseReason) {
        if !matches!(reason, CloseReason::Local | CloseReason::Peer) {
            self.link
                .with(|link| link.explain_end(reason.ending(), &reason.to_string()));
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
            Phase::Draining => self.end_link(CloseReason::Local),
            // A slow reader is not dead: it gets the time anew whenever it has read something.
            Phase::Up if !self.output.above_mark.get() && !self.streams_may_stall() => {}
            Phase::Up if self.output_moves() => self.arm_stall(),
            Phase::Up => {
                count(&self.counters.stalls);
                self.end_link(CloseReason::Stalled);
            }
            _ => {}
        }
    }

    /// The link has ended, and everything that belonged to it ends; then the session decides what to do next. `reason`
    /// counts unless the link drained for another one.
    pub(super) fn end_link(&self, reason: CloseReason) {
        if self.transition(Event::LinkEnded).is_none() {
            return;
        }
        self.leave_groups_at_end();
        // A link that drains has its reason already. Whatever ends it, a session that was closed for good stays closed.
        let reason = self.link.draining_for.take().unwrap_or(reason);
        self.explain_end(&reason);
        // The order matters: once the epoch has changed, nothing below can reach the old link by a callback.
        let transport = self.link.end();
        debug_assert!(!self.phase.get().has_link() && !self.link.exists());
        self.keepalive.end();
        self.handshake.reset();
        let era = Era::new(self.this.clone(), self.link.epoch.get());
        self.input.borrow_mut().reset(era);
        self.output.clear(&self.options.limits);
        // Dropping requests may end an era and so call back: not before every cell is free.
        let dropped = (self.inbox.reset(), self.running.take());
        if let Some(transport) = transport {
            self.inbox.accounts.close_connection();
            self.memory_was_freed();
            count(&self.counters.links_ended);
            transport.close();
        }
        drop(dropped);
        debug_assert_eq!(self.inbox.queued_bytes.get(), 0);
        debug_assert_eq!(self.output_bytes(), 0, "output of a link that has ended");
        self.end_references();
        self.output.wake_room_waiters();
        self.fail_calls(true, || reason.as_lost_call(false));
        self.notify_close(reason);
    }

    fn notify_close(&self, reason: CloseReason) {
        // The program never learned of this connection, so it does not learn of its end.
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
        self.leave_groups_at_end();
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
        self.link
            .with(|link| link.explain_end(Ending::Ordinary, reason));
        match self.transition(Event::CloseRequested) {
            Some(Action::DrainLink) => self.drain_link(CloseReason::Local),
            Some(Action::DrainForGood) if self.ends_for_good() => {}
            Some(Action::DrainForGood) => {
                *self.link.draining_for.borrow_mut() = Some(CloseReason::Local);
                self.leave_groups_at_end();
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
