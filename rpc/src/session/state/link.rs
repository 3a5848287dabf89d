//! The present link of a session, and facts about its peer.

use crate::session::close_reason::CloseReason;
use crate::transport::Transport;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use yue_scheduler::Timer;

/// The present link, if there is one, and facts about its peer.
pub(crate) struct Link {
    /// Counts the links. It identifies objects that belong to an earlier one.
    pub(crate) epoch: Cell<u32>,
    pub(crate) transport: RefCell<Option<Rc<dyn Transport>>>,
    /// The sender of the message that is handled now, on a link to a group.
    pub(crate) sender: Cell<Option<SocketAddr>>,
    /// It carries datagrams.
    pub(crate) is_datagram: Cell<bool>,
    /// The peer sent hello, or answered this side's.
    pub(crate) peer_is_yue: Cell<bool>,
    /// The bytes of answers in chunks that the peer takes at once. 0: it takes none.
    pub(crate) peer_chunks: Cell<usize>,
    /// The number by which tools recognize the two ends of a link: the client chooses it and sends it in its hello. 0:
    /// none.
    pub(crate) number: Cell<u64>,
    /// The reason why the session drains.
    pub(crate) draining_for: RefCell<Option<CloseReason>>,
    /// Timer for handshake, draining and stalls, one at a time: the phase determines which.
    pub(crate) timer: Timer,
}

impl Link {
    pub(crate) fn new(timer: Timer) -> Link {
        Link {
            epoch: Cell::new(0),
            transport: RefCell::default(),
            sender: Cell::new(None),
            is_datagram: Cell::new(false),
            peer_is_yue: Cell::new(false),
            peer_chunks: Cell::new(0),
            number: Cell::new(0),
            draining_for: RefCell::default(),
            timer,
        }
    }

    /// Whether a link exists.
    pub(crate) fn exists(&self) -> bool {
        self.transport.borrow().is_some()
    }

    /// Calls `f` with the transport, if there is one.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&dyn Transport) -> R) -> Option<R> {
        let transport = self.transport.borrow().clone();
        transport.map(|transport| f(&*transport))
    }

    /// Drops the link; the next one has another epoch.
    pub(crate) fn end(&self) -> Option<Rc<dyn Transport>> {
        // Before anything else: events and replies of this link find another epoch from now on.
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.timer.cancel();
        self.draining_for.take();
        self.peer_is_yue.set(false);
        self.peer_chunks.set(0);
        self.number.set(0);
        self.transport.take()
    }
}
