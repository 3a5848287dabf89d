//! Links come and go; the session stays. Connecting, losing, trying again, closing.

use super::service::{CloseReason, Moment, Retry};
use super::{Inner, Phase, Role};
use crate::error::{Error, ErrorKind};
use crate::session::options::count;
use crate::transport::{Events, Incoming, Transport};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{Builder, cancel, deadline_after, now, sleep, this_loop};

/// The wait before the first new attempt; every further one waits twice as long,
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// up to this. Of each wait a random half is left out, so that the clients of a server that went away do not all come
/// back in the same instant.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a link that is being closed may take to pass on what was said.
const DRAIN: Duration = Duration::from_secs(1);

/// The events of one link. Those of a link that is over do nothing.
struct LinkEvents {
    session: Rc<Inner>,
    epoch: u32,
}

impl LinkEvents {
    fn current(&self) -> Option<&Inner> {
        (self.session.epoch.get() == self.epoch).then_some(&*self.session)
    }
}

impl Events for LinkEvents {
    fn data(&self, incoming: Incoming<'_>) {
        if let Some(session) = self.current() {
            session.data(incoming);
            if let Some(waiting) = session.first_words.take() {
                waiting.wake();
            }
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        match self.current() {
            Some(session) => session.sent(buffer),
            None => drop(buffer.map(crate::buffer::give_back)),
        }
    }

    fn closed(&self, result: io::Result<()>) {
        if let Some(session) = self.current() {
            let draining = session.draining_for.take();
            session.end_link(match (draining, result) {
                (Some(reason), _) => reason,
                (None, Ok(())) => CloseReason::Peer,
                (None, Err(error)) => CloseReason::Lost(error.to_string()),
            });
        }
    }
}

impl Inner {
    /// The events for the link that is made next.
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
                epoch: self.epoch.get(),
            }),
            None => Rc::new(Gone),
        }
    }

    /// A link is there.
    pub(super) fn link_up(&self, link: Rc<dyn Transport>) {
        *self.link.borrow_mut() = Some(link);
        count(&self.counters.links);
        match self.role {
            Role::Accepted => self.begin_accepted(),
            Role::Opened => self.greet(),
        }
    }

    /// Client: a fiber makes the link.
    pub(super) fn start_connecting(&self) {
        self.phase.set(Phase::Connecting);
        let Some(this) = self.strong() else { return };
        let spawned = Builder::new().name("rpc connect").spawn(move || {
            // It works for the session, not for the request that happened to make the first call.
            yue_scheduler::set_context(None);
            this.connect();
        });
        match spawned {
            Ok(fiber) => self.life_fiber.set(Some(fiber.id())),
            Err(error) => {
                self.phase.set(Phase::Idle);
                let text = format!(
                    "cannot spawn a fiber to connect to {}: {error}",
                    self.address
                );
                self.fail_held(|| Error::retryable(ErrorKind::Transport, text.clone()));
            }
        }
    }

    fn connect(&self) {
        let Some(connector) = self.connector.clone() else {
            return;
        };
        loop {
            if self.attempts.get() != 0 && sleep(self.backoff()).is_err() {
                return self.give_up_connecting(&self.closed_error());
            }
            if self.phase.get() != Phase::Connecting {
                return;
            }
            self.attempts.set(self.attempts.get().saturating_add(1));
            match connector.connect(self.link_events()) {
                Ok(link) if self.phase.get() == Phase::Connecting => return self.link_up(link),
                Ok(link) => return link.close(),
                Err(error) if self.phase.get() == Phase::Connecting => {
                    let hopeless = error.kind() == ErrorKind::Address;
                    if yue_scheduler::is_cancelled()
                        || hopeless
                        || !(self.keep_trying.get() || self.options.retry)
                    {
                        return self.give_up_connecting(&error);
                    }
                    *self.last_trouble.borrow_mut() = Some(error.message());
                }
                Err(_) => return,
            }
        }
    }

    fn give_up_connecting(&self, error: &Error) {
        self.attempts.set(0);
        self.keep_trying.set(false);
        if self.phase.get() == Phase::Connecting {
            self.phase.set(Phase::Idle);
        }
        self.fail_held(|| error.clone());
    }

    /// How long to wait before the next attempt.
    fn backoff(&self) -> Duration {
        let doublings = self.attempts.get().saturating_sub(1).min(16);
        let longest = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
        // A hash of the moment and the session is random enough to spread clients.
        let mut seed = now().as_nanos() ^ (self as *const Inner as u64);
        seed = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let jitter = (seed >> 40) as f64 / f64::from(1u32 << 24);
        longest.mul_f64(0.5 + jitter / 2.0)
    }

    /// Sends what was said, then closes; nothing more is heard, and calls that wait fail now.
    pub(super) fn drain(&self, reason: CloseReason) {
        if matches!(
            self.phase.get(),
            Phase::Draining | Phase::Ending | Phase::Closed
        ) {
            return;
        }
        if self.link.borrow().is_none() {
            return self.end_link(reason);
        }
        self.phase.set(Phase::Draining);
        self.flush();
        *self.draining_for.borrow_mut() = Some(reason.clone());
        self.with_link(|link| {
            link.set_reading(true);
            link.shutdown_write();
        });
        self.timer.arm(deadline_after(DRAIN));
        self.wake_room_waiters();
        self.fail_calls(true, || reason.as_lost_call(false));
        if matches!(reason, CloseReason::Local) {
            self.fail_held(|| self.closed_error());
        }
    }

    /// The session's timer: what it was armed for follows from the phase.
    pub(super) fn time_is_over(&self) {
        match self.phase.get() {
            Phase::Greeting | Phase::Accepting => self.handshake_is_late(),
            Phase::Draining => {
                let reason = self.draining_for.take().unwrap_or(CloseReason::Local);
                self.end_link(reason);
            }
            Phase::Up if self.output.above_mark.get() => {
                count(&self.counters.stalls);
                self.end_link(CloseReason::Stalled);
            }
            _ => {}
        }
    }

    pub(super) fn cancel_life_fiber(&self) {
        if let Some(fiber) = self.life_fiber.take() {
            cancel(fiber);
        }
    }

    /// The link is over. Everything that belonged to it ends; then the session decides how it goes on.
    pub(super) fn end_link(&self, reason: CloseReason) {
        if matches!(self.phase.get(), Phase::Ending | Phase::Closed) {
            return;
        }
        self.phase.set(Phase::Ending);
        self.epoch.set(self.epoch.get().wrapping_add(1));
        let link = self.link.take();
        self.timer.cancel();
        self.draining_for.take();
        self.granted.take();
        self.refusal.take();
        self.peer_is_yue.set(false);
        self.input.borrow_mut().reset();
        self.clear_output();
        let dropped = self.queue.take();
        self.queued_bytes.set(0);
        self.in_flight.set(0);
        self.reading.set(true);
        let running = self.running.take();
        if let Some(link) = link {
            count(&self.counters.links_ended);
            link.close();
        }
        drop((dropped, running));
        self.end_references();
        self.wake_room_waiters();
        self.fail_calls(true, || reason.as_lost_call(false));
        self.tell_close(reason);
    }

    fn tell_close(&self, reason: CloseReason) {
        if !self.service.hooks.wants(Moment::Close) || !this_loop::exists() {
            return self.after_close(&reason, Retry::Default);
        }
        let Some(session) = self.session() else {
            return;
        };
        self.spawn_life("rpc on_close", move || {
            let retry = session.inner.service.hooks.on_close(&session, &reason);
            session.inner.after_close(&reason, retry);
        });
    }

    fn after_close(&self, reason: &CloseReason, retry: Retry) {
        if self.phase.get() != Phase::Ending {
            return;
        }
        let local = matches!(reason, CloseReason::Local);
        if self.role == Role::Accepted || local {
            return self.closed_for_good();
        }
        let again = match retry {
            Retry::Yes => true,
            Retry::No => false,
            // To ask again in the same words helps against a link that broke, not against a refusal.
            Retry::Default => {
                self.options.reconnect
                    && !matches!(reason, CloseReason::Refused(_) | CloseReason::HookFailed(_))
            }
        };
        if again {
            // A link that was refused, or broke at once, is not tried again without a pause.
            self.attempts.set(self.attempts.get().max(1));
            self.keep_trying.set(true);
            *self.last_trouble.borrow_mut() = Some(reason.to_string());
            return self.start_connecting();
        }
        self.attempts.set(0);
        self.phase.set(Phase::Idle);
        match reason {
            CloseReason::Refused(error) => {
                let text = format!(
                    "the server did not grant the connection: {}",
                    error.message()
                );
                self.fail_held(|| Error::retryable(ErrorKind::NotGranted, text.clone()));
            }
            CloseReason::HandshakeTimeout | CloseReason::HookFailed(_) => {
                let text = format!("the connection was not granted: {reason}");
                self.fail_held(|| Error::retryable(ErrorKind::NotGranted, text.clone()));
            }
            _ => self.fail_held(|| reason.as_lost_call(true)),
        }
    }

    fn closed_for_good(&self) {
        self.phase.set(Phase::Closed);
        self.fail_held(|| self.closed_error());
        let gone = self.on_gone.take();
        if let Some(gone) = gone {
            gone();
        }
    }

    /// This side closes the session for good.
    pub(super) fn close(&self) {
        match self.phase.get() {
            Phase::Closed | Phase::Draining => {}
            Phase::Idle => self.closed_for_good(),
            Phase::Connecting | Phase::Ending => {
                let connecting = self.phase.get() == Phase::Connecting;
                self.closed_for_good();
                if connecting {
                    self.cancel_life_fiber();
                }
            }
            Phase::Greeting | Phase::Accepting | Phase::Up => self.drain(CloseReason::Local),
        }
    }
}
