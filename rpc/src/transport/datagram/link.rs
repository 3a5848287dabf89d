//! One peer of a port: the transport of its session.

use super::port::{Owner, Port};
use super::{Inspector, Kind};
use crate::buffer;
use crate::error::Error;
use crate::transport::traits::{Events, Incoming, Transport};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use yue_io::net::Datagram;

/// A link to one peer.
pub(crate) struct Link {
    this: Weak<Link>,
    port: Rc<Port>,
    /// `None`: the socket is connected to the peer.
    to: Option<SocketAddr>,
    /// `None` before the session has it, and once it has ended.
    events: RefCell<Option<Rc<dyn Events>>>,
    reading: Cell<bool>,
    queued_bytes: Cell<usize>,
    /// The session wants to know when datagrams are sent,
    notifies: Cell<bool>,
    /// or the link ends when all are.
    ends_when_sent: Cell<bool>,
    ended: Cell<bool>,
    /// Called when the link ends.
    on_end: Cell<Option<Box<dyn FnOnce()>>>,
}

impl Link {
    /// Creates a link that ends with a call of `on_end`.
    pub(super) fn new(
        port: Rc<Port>,
        to: Option<SocketAddr>,
        on_end: impl FnOnce() + 'static,
    ) -> Rc<Link> {
        Rc::new_cyclic(|this| Link {
            this: this.clone(),
            port,
            to,
            events: RefCell::default(),
            reading: Cell::new(true),
            queued_bytes: Cell::new(0),
            notifies: Cell::new(false),
            ends_when_sent: Cell::new(false),
            ended: Cell::new(false),
            on_end: Cell::new(Some(Box::new(on_end))),
        })
    }

    /// Sets the session's events.
    pub(crate) fn set_events(&self, events: Rc<dyn Events>) {
        *self.events.borrow_mut() = Some(events);
    }

    pub(super) fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    fn events(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    /// Passes one message to the session.
    pub(super) fn deliver(&self, kind: Kind, bytes: &[u8]) {
        let Some(events) = self.events() else { return };
        // Requests that cannot be read now are lost; what a stream would leave to its peer's buffers is dropped here.
        if matches!(kind, Kind::Request { .. }) && !self.reading.get() {
            return events.dropped();
        }
        // A buffer of its own length: a session that holds a pooled one for each of thousands of peers would hold much
        // more memory than it accounts for.
        events.data(Incoming::Owned(bytes.to_vec()));
    }

    /// Passes an answer to the session of a group, with its sender.
    pub(super) fn deliver_from(&self, sender: SocketAddr, bytes: &[u8]) {
        if let Some(events) = self.events() {
            events.data_from(sender, Incoming::Owned(bytes.to_vec()));
        }
    }

    /// A datagram for the session was dropped.
    pub(super) fn count_dropped(&self) {
        if let Some(events) = self.events() {
            events.dropped();
        }
    }

    /// A datagram has left, or was given up.
    pub(super) fn on_sent(&self, bytes: usize) {
        let left = self.queued_bytes.get().saturating_sub(bytes);
        self.queued_bytes.set(left);
        if (self.notifies.get() || self.ends_when_sent.get())
            && let Some(this) = self.this.upgrade()
        {
            self.port.tell_progress(this);
        }
    }

    /// Outside fibers: datagrams were sent since the session asked.
    pub(super) fn on_progress(&self) {
        if self.notifies.take()
            && let Some(events) = self.events()
        {
            events.sent(None);
        }
        if self.ends_when_sent.get() && self.queued_bytes.get() == 0 {
            self.finish(Ok(()));
        }
    }

    /// Outside fibers: datagrams did not arrive. The link stays.
    pub(super) fn on_fault(&self, error: io::Error) {
        if let Some(events) = self.events() {
            events.undelivered(error);
        }
    }

    /// Ends the link.
    pub(super) fn finish(&self, result: io::Result<()>) {
        if self.ended.replace(true) {
            return;
        }
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
        let events = self.events.take();
        if let Some(events) = events {
            events.closed(result);
        }
    }
}

/// A small message that this side makes.
pub(super) fn message_of(encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Vec<u8> {
    let mut out = Vec::new();
    let encoded = encode(&mut out);
    debug_assert!(encoded.is_ok(), "an error that this side makes is small");
    out
}

/// An opened connection: all datagrams of its port are for its session.
pub(super) struct OnlyLink {
    pub(super) link: Rc<Link>,
    pub(super) inspector: Inspector,
}

impl Owner for OnlyLink {
    fn datagram(&self, datagram: Datagram<'_>) {
        match self.inspector.kind_of(&datagram) {
            Some(kind) => self.link.deliver(kind, datagram.bytes),
            None => self.link.count_dropped(),
        }
    }

    fn fault(&self, error: io::Error) {
        self.link.on_fault(error);
    }
}

impl Transport for Link {
    fn send(&self, message: Vec<u8>) {
        if let Some(this) = self.this.upgrade()
            && !self.ended.get()
        {
            self.queued_bytes
                .set(self.queued_bytes.get() + message.len());
            self.port.send(this, &message);
        }
        buffer::give_back(message);
    }

    fn is_datagram(&self) -> bool {
        true
    }

    fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    fn notify_when_sent(&self) {
        self.notifies.set(true);
    }

    fn set_reading(&self, on: bool) {
        self.reading.set(on);
    }

    fn shutdown_write(&self) {
        self.ends_when_sent.set(true);
        if let Some(this) = self.this.upgrade() {
            self.port.tell_progress(this);
        }
    }

    fn close(&self) {
        self.finish(Ok(()));
    }
}
