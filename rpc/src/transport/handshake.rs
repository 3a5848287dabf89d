//! Links with a handshake of their own (TLS), before a session has them.
//!
//! ```text
//!   socket ──▶ filters ──▶ Handshake ──▶ (from `ready` on) the session's events
//!                              └──▶ ended(Ok), or ended(Err) if the link breaks or times out; once
//! ```
//!
//! `Handshake` is the topmost `Events` of such a link, whatever filters lie below. A client's connecting fiber waits
//! for its outcome (`establish`). A listener makes no session, and runs no callback of the program, before the
//! handshake is complete (`Handshakes`).
//!
//! Everything here runs on one loop.

use super::traits::{Ending, Events, Incoming, LinkRefused, Transport};
use crate::buffer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_scheduler::{
    Instant, LocalWaker, LogLevel, Timer, deadline_after, log, now, park, prepare_park,
};

/// Failed handshakes are logged once in this time; the line counts the others.
const LOG_PAUSE: Duration = Duration::from_secs(1);

type Ended = Box<dyn FnOnce(&Rc<Handshake>, io::Result<()>)>;

/// The events of a link during its handshake, and its forwarder afterwards.
pub(crate) struct Handshake {
    this: Weak<Handshake>,
    /// The session's events, once there is a session.
    events: RefCell<Option<Rc<dyn Events>>>,
    /// Called with the outcome; `None` afterwards.
    ended: Cell<Option<Ended>>,
    timer: Timer,
}

impl Handshake {
    /// Creates the events of a link that begins its handshake now and has to be ready within `limit`.
    pub(crate) fn new(
        limit: Duration,
        ended: impl FnOnce(&Rc<Handshake>, io::Result<()>) + 'static,
    ) -> Rc<Handshake> {
        let new = |this: &Weak<Handshake>| {
            let late = this.clone();
            Handshake {
                this: this.clone(),
                events: RefCell::default(),
                ended: Cell::new(Some(Box::new(ended))),
                timer: Timer::new(move || {
                    if let Some(this) = late.upgrade() {
                        let text = format!("it took longer than {} s", limit.as_secs_f64());
                        this.end(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
                    }
                }),
            }
        };
        let this = Rc::new_cyclic(new);
        this.timer.arm(deadline_after(limit));
        this
    }

    /// From now on `events` receives what happens.
    pub(crate) fn set_events(&self, events: Rc<dyn Events>) {
        let before = self.events.replace(Some(events));
        debug_assert!(before.is_none(), "a link has one session");
    }

    /// Whether the link has a session.
    pub(crate) fn has_events(&self) -> bool {
        self.events.borrow().is_some()
    }

    fn end(&self, outcome: io::Result<()>) {
        self.timer.cancel();
        if let Some(ended) = self.ended.take()
            && let Some(this) = self.this.upgrade()
        {
            ended(&this, outcome);
        }
    }

    fn events(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }
}

impl Events for Handshake {
    fn ready(&self) {
        self.end(Ok(()));
    }

    fn data(&self, incoming: Incoming<'_>) {
        debug_assert!(self.events.borrow().is_some(), "data before a session");
        if let Some(events) = self.events() {
            events.data(incoming);
        }
    }

    fn sent(&self, sent: Option<Vec<u8>>) {
        match self.events() {
            Some(events) => events.sent(sent),
            None => drop(sent.map(buffer::give_back)),
        }
    }

    fn end_of_input(&self) -> bool {
        self.events().is_some_and(|events| events.end_of_input())
    }

    fn closed(&self, result: io::Result<()>) {
        self.timer.cancel();
        let events = self.events.take();
        let ended = self.ended.take();
        if let Some(ended) = ended {
            // The handshake was still under way, and the session has no link.
            if let Some(this) = self.this.upgrade() {
                ended(&this, Err(result.err().unwrap_or_else(closed_early)));
            }
        } else if let Some(events) = events {
            events.closed(result);
        }
    }
}

/// The end of a client's link before its first request was whole. `silent`: nothing had arrived.
#[cfg(any(feature = "ws", feature = "http"))]
pub(crate) fn before_request(silent: bool, result: io::Result<()>) -> io::Result<()> {
    let kind = match &result {
        // Perhaps only a probe of the port.
        Ok(()) if silent => io::ErrorKind::NotConnected,
        Err(error) if silent && error.kind() == io::ErrorKind::ConnectionReset => {
            io::ErrorKind::NotConnected
        }
        Ok(()) => io::ErrorKind::UnexpectedEof,
        Err(_) => return result,
    };
    let text = "the client closed the connection before its first request was whole";
    Err(io::Error::new(kind, text))
}

fn closed_early() -> io::Error {
    let text = "the peer closed the connection during the handshake";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// Starts a link, and waits until it is ready for the session with these events. For the fiber that connects.
///
/// # Errors
/// Those of `start`, of the handshake, and of a cancelled fiber.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) fn establish(
    events: Rc<dyn Events>,
    limit: Duration,
    start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
) -> io::Result<Rc<dyn Transport>> {
    #[derive(Default)]
    struct Waiting {
        outcome: RefCell<Option<io::Result<()>>>,
        waker: Cell<Option<LocalWaker>>,
    }
    let waiting = Rc::new(Waiting::default());
    let notified = waiting.clone();
    let handshake = Handshake::new(limit, move |_, outcome| {
        *notified.outcome.borrow_mut() = Some(outcome);
        if let Some(waker) = notified.waker.take() {
            waker.wake();
        }
    });
    handshake.set_events(events);
    let link = start(handshake.clone())?;
    let outcome = loop {
        let outcome = waiting.outcome.take();
        if let Some(outcome) = outcome {
            break outcome;
        }
        waiting.waker.set(Some(prepare_park()));
        if let Err(stopped) = park("the handshake of a link") {
            break Err(stopped.into());
        }
    };
    if let Err(error) = outcome {
        // The session never had this link, so it must not learn of its end.
        handshake.events.take();
        handshake.end(Ok(()));
        link.close();
        return Err(error);
    }
    link.set_reading(true);
    Ok(link)
}

/// The links of a listener that are in their handshakes.
#[derive(Default)]
pub(crate) struct Handshakes {
    links: RefCell<BTreeMap<u64, Rc<dyn Transport>>>,
    last_key: Cell<u64>,
    failed: Cell<u64>,
    /// The time of the last line in the log, and the failures since then.
    logged: Cell<Option<(Instant, u64)>>,
}

impl Handshakes {
    /// The number of links in their handshakes.
    pub(crate) fn count(&self) -> usize {
        self.links.borrow().len()
    }

    /// Handshakes that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Starts a link from `address`. When it is ready, `accept` is called with the link and its `Handshake`, which then
    /// needs the session's events.
    pub(crate) fn begin(
        self: &Rc<Self>,
        address: String,
        limit: Duration,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
        accept: impl FnOnce(String, &Rc<Handshake>, Rc<dyn Transport>) + 'static,
    ) {
        let key = self.last_key.get() + 1;
        self.last_key.set(key);
        let this = Rc::downgrade(self);
        let handshake = Handshake::new(limit, move |handshake, outcome| {
            let Some(this) = this.upgrade() else { return };
            let Some(link) = this.links.borrow_mut().remove(&key) else {
                return;
            };
            match outcome {
                Ok(()) => accept(address, handshake, link),
                Err(error) => {
                    this.note_failure(&address, &error);
                    link.explain_end(Ending::Policy, "The request did not arrive in time.");
                    link.close();
                }
            }
        });
        // A link that cannot even be started has broken already; nobody waits for it.
        if let Ok(link) = start(handshake.clone()) {
            self.links.borrow_mut().insert(key, link);
        }
    }

    /// Closes the links that are not ready yet.
    pub(crate) fn close(&self) {
        let links = self.links.take();
        for link in links.values() {
            link.explain_end(Ending::Failure, "The server stops listening.");
            link.close();
        }
    }

    fn note_failure(&self, address: &str, error: &io::Error) {
        self.failed.set(self.failed.get() + 1);
        // A probe of the port, such as a health check, is not worth a line.
        if error.kind() == io::ErrorKind::NotConnected {
            return;
        }
        let unlogged = match self.logged.get() {
            Some((at, unlogged)) if now().saturating_since(at) < LOG_PAUSE => {
                self.logged.set(Some((at, unlogged + 1)));
                return;
            }
            Some((_, unlogged)) => unlogged,
            None => 0,
        };
        self.logged.set(Some((now(), 0)));
        let others = match unlogged {
            0 => String::new(),
            count => format!(" (and {count} other handshakes since the last such line)"),
        };
        let reason: &dyn std::fmt::Display = match LinkRefused::of(error) {
            Some(refused) => refused,
            None => error,
        };
        let text = format_args!("the handshake with {address} failed: {reason}{others}");
        log(LogLevel::Warn, text);
    }
}
