//! The attempts of an opened session to make links, and the waits between them.

use crate::trace::random;
use crate::transport::Connect;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{FiberId, Instant, cancel, now};

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
pub(crate) struct Connector {
    /// `None` in accepted sessions.
    pub(crate) connect: Option<Rc<dyn Connect>>,
    /// A link was lost and must be made again, however often that fails.
    pub(crate) keep_trying: Cell<bool>,
    /// Attempts since the last good link.
    pub(crate) attempts: Cell<u32>,
    /// Links that carried only malformed bytes, since the last one that was granted.
    garbled: Cell<u32>,
    /// The time when the present link was granted.
    up_since: Cell<Option<Instant>>,
    /// The reason why the last attempt failed, or the last link ended: calls that time out before the next link report
    /// it.
    pub(crate) last_trouble: RefCell<Option<String>>,
    /// The fiber that connects.
    pub(crate) fiber: Cell<Option<FiberId>>,
}

impl Connector {
    pub(crate) fn new(connect: Option<Rc<dyn Connect>>) -> Connector {
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

    /// Whether the links lead to a group of peers.
    pub(crate) fn leads_to_group(&self) -> bool {
        self.connect
            .as_ref()
            .is_some_and(|connect| connect.is_group())
    }

    /// The session is up. Its duration decides whether the next loss starts with the shortest wait.
    pub(crate) fn succeeded(&self) {
        self.keep_trying.set(false);
        self.garbled.set(0);
        self.up_since.set(Some(now()));
    }

    /// The session rests: the next call starts from the beginning.
    pub(crate) fn rest(&self) {
        self.keep_trying.set(false);
        self.attempts.set(0);
        self.up_since.set(None);
        self.garbled.set(0);
    }

    /// Called when a link has just ended because of the bytes that came over it. Returns whether the next one may be
    /// better. A server that has never spoken the protocol, however often it was tried, is not a msgpack-rpc server,
    /// and callers want to know that.
    pub(crate) fn may_speak_yet(&self) -> bool {
        if self.up_since.get().is_some() {
            return true;
        }
        self.garbled.set(self.garbled.get() + 1);
        self.garbled.get() < GARBLED_MAX
    }

    /// Retries after a lost link. A link that was refused, or broke at once, is retried only after a pause.
    pub(crate) fn try_again(&self, trouble: String) {
        let held = |since: Instant| now().saturating_since(since) >= HELD_MIN;
        if self.up_since.take().is_some_and(held) {
            self.attempts.set(0);
        }
        self.attempts.set(self.attempts.get().max(1));
        self.keep_trying.set(true);
        *self.last_trouble.borrow_mut() = Some(trouble);
    }

    /// The reason why there is no link yet, if known.
    pub(crate) fn last_trouble(&self) -> Option<String> {
        self.last_trouble.borrow().clone()
    }

    pub(crate) fn cancel(&self) {
        if let Some(fiber) = self.fiber.take() {
            cancel(fiber);
        }
    }

    /// The wait before the next attempt.
    pub(crate) fn backoff(&self) -> Duration {
        let doublings = self.attempts.get().saturating_sub(1).min(16);
        let longest = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
        let jitter = (random() >> 40) as f64 / f64::from(1u32 << 24);
        longest.mul_f64(0.5 + jitter / 2.0)
    }
}
