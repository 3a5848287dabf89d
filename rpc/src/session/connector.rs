//! Makes links: the first one when it is needed, and new ones after a loss.

use super::phase::{Action, Event};
use super::{Inner, Phase};
use crate::error::{Error, ErrorKind};
use crate::transport::Connect;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{Builder, FiberId, Instant, cancel, now, sleep};

/// The wait before the first retry; each further wait is twice as long,
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// up to this. A random half of each wait is left out, so that the clients of a server that went away do not all
/// reconnect at the same instant.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A link that lasted this long was good: after its loss the waits start from the beginning. Without this limit, a
/// server that grants and drops connections would have its clients reconnect without a pause.
const HELD_MIN: Duration = Duration::from_secs(5);

/// After this number of links on which only nonsense arrived, the waiting calls fail. With the first pauses this takes
/// a fifth of a second.
const GARBLED_MAX: u32 = 3;

/// The state of an opened session's attempts to make links.
pub(super) struct Connector {
    /// `None` in accepted sessions.
    connect: Option<Rc<dyn Connect>>,
    /// A link was lost and must be made again, however often that fails.
    keep_trying: Cell<bool>,
    /// Attempts since the last good link.
    attempts: Cell<u32>,
    /// Links on which only nonsense arrived, since one was granted.
    garbled: Cell<u32>,
    /// The time when the present link was granted.
    up_since: Cell<Option<Instant>>,
    /// The reason why the last attempt failed, or the last link ended: calls that time out before the next link report
    /// it.
    last_trouble: RefCell<Option<String>>,
    /// The fiber that connects.
    fiber: Cell<Option<FiberId>>,
}

impl Connector {
    pub(super) fn new(connect: Option<Rc<dyn Connect>>) -> Connector {
        Connector {
            connect,
            keep_trying: Cell::new(false),
            attempts: Cell::new(0),
            garbled: Cell::new(0),
            up_since: Cell::new(None),
            last_trouble: RefCell::default(),
            fiber: Cell::new(None),
        }
    }

    /// The session is up. Its duration decides whether the next loss starts with the shortest wait.
    pub(super) fn succeeded(&self) {
        self.keep_trying.set(false);
        self.garbled.set(0);
        self.up_since.set(Some(now()));
    }

    /// The session rests: the next call starts from the beginning.
    pub(super) fn rest(&self) {
        self.keep_trying.set(false);
        self.attempts.set(0);
        self.up_since.set(None);
        self.garbled.set(0);
    }

    /// Called when a link has just ended because of the bytes that came over it. Returns whether the next one may be
    /// better. A server that has never spoken the protocol, however often it was tried, is not a msgpack-rpc server,
    /// and callers want to know that.
    pub(super) fn may_speak_yet(&self) -> bool {
        if self.up_since.get().is_some() {
            return true;
        }
        self.garbled.set(self.garbled.get() + 1);
        self.garbled.get() < GARBLED_MAX
    }

    /// Retries after a lost link. A link that was refused, or broke at once, is retried only after a pause.
    pub(super) fn try_again(&self, trouble: String) {
        let held = |since: Instant| now().saturating_since(since) >= HELD_MIN;
        if self.up_since.take().is_some_and(held) {
            self.attempts.set(0);
        }
        self.attempts.set(self.attempts.get().max(1));
        self.keep_trying.set(true);
        *self.last_trouble.borrow_mut() = Some(trouble);
    }

    /// The reason why there is no link yet, if known.
    pub(super) fn last_trouble(&self) -> Option<String> {
        self.last_trouble.borrow().clone()
    }

    fn cancel(&self) {
        if let Some(fiber) = self.fiber.take() {
            cancel(fiber);
        }
    }

    /// The wait before the next attempt.
    fn backoff(&self) -> Duration {
        let doublings = self.attempts.get().saturating_sub(1).min(16);
        let longest = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
        // A hash of the time and the session's address is random enough to spread clients.
        let mut seed = now().as_nanos() ^ (self as *const Connector as u64);
        seed = (seed ^ seed >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let jitter = (seed >> 40) as f64 / f64::from(1u32 << 24);
        longest.mul_f64(0.5 + jitter / 2.0)
    }
}

impl Inner {
    /// A call needs a link: spawns a fiber that makes one.
    pub(super) fn start_connecting(&self) {
        if self.transition(Event::Called) == Some(Action::Connect) {
            self.connect_in_fiber();
        }
    }

    pub(super) fn connect_in_fiber(&self) {
        let Some(this) = self.strong() else { return };
        let spawned = Builder::new().name("rpc connect").spawn(move || {
            // The fiber works for the session, not for the request that happened to make the first call.
            yue_scheduler::set_context(None);
            this.connect();
        });
        match spawned {
            Ok(fiber) => self.connector.fiber.set(Some(fiber.id())),
            Err(error) => {
                let text = format!(
                    "cannot spawn a fiber to connect to {}: {error}",
                    self.address
                );
                self.give_up_connecting(&Error::retryable(ErrorKind::Transport, text));
            }
        }
    }

    fn connect(&self) {
        let connector = &self.connector;
        let Some(connect) = connector.connect.clone() else {
            return;
        };
        loop {
            if connector.attempts.get() != 0 && sleep(connector.backoff()).is_err() {
                return self.give_up_connecting(&self.closed_error());
            }
            if self.phase.get() != Phase::Connecting {
                return;
            }
            connector
                .attempts
                .set(connector.attempts.get().saturating_add(1));
            let epoch = self.link.epoch.get();
            let attempt = connect.connect(self.link_events());
            let wanted = self.phase.get() == Phase::Connecting && self.link.epoch.get() == epoch;
            match attempt {
                Ok(link) if wanted => return self.on_link_up(link),
                Ok(link) => return link.close(),
                Err(error) if wanted => {
                    let hopeless = error.kind() == ErrorKind::Address;
                    if yue_scheduler::is_cancelled()
                        || hopeless
                        || !(connector.keep_trying.get() || self.options.retry)
                    {
                        return self.give_up_connecting(&error);
                    }
                    *connector.last_trouble.borrow_mut() = Some(error.message());
                }
                Err(_) => return,
            }
        }
    }

    fn give_up_connecting(&self, error: &Error) {
        self.connector.rest();
        self.transition(Event::ConnectFailed);
        self.fail_queued(|| error.clone());
    }

    /// Stops connecting because the session is closed.
    pub(super) fn stop_connecting(&self) {
        self.connector.cancel();
    }
}
