//! The state of a link's handshake.

use crate::session::close_reason::CloseReason;
use crate::session::failure::Failure;
use std::cell::{Cell, RefCell};
use yue_scheduler::{FiberId, LocalWaker, cancel};

/// The state of the present link's handshake.
#[derive(Default)]
pub(crate) struct Handshake {
    /// A whole message has arrived.
    pub(crate) peer_spoke: Cell<bool>,
    /// The listener had too many connections for this one. The program never learns of it.
    pub(crate) turned_away: Cell<bool>,
    /// A refusal that waits for the peer's first message, and its reason.
    pub(crate) refusal: RefCell<Option<(Failure, CloseReason)>>,
    /// The server's grant, for a hello that arrives after it.
    pub(crate) granted: RefCell<Option<Vec<u8>>>,
    /// The fiber that lets the client speak first.
    pub(crate) first_message_waiter: Cell<Option<LocalWaker>>,
    /// The fiber that runs a hook of the handshake.
    pub(crate) fiber: Cell<Option<FiberId>>,
    /// Hooks of the handshake that run,
    pub(crate) hooks: Cell<u32>,
    /// and the action that waits for their end: `on_close` must not run beside `on_accept`.
    pub(crate) afterwards: Cell<Option<Box<dyn FnOnce()>>>,
}

impl Handshake {
    /// Clears the state of a link that has ended.
    pub(crate) fn reset(&self) {
        self.peer_spoke.set(false);
        self.granted.take();
        self.refusal.take();
    }

    /// Calls `then` when no hook of the handshake runs; running ones are cancelled.
    pub(crate) fn after_hooks(&self, then: impl FnOnce() + 'static) {
        if self.hooks.get() == 0 {
            return then();
        }
        let before = self.afterwards.replace(Some(Box::new(then)));
        debug_assert!(before.is_none(), "two links end while a hook runs");
        self.cancel();
    }

    pub(crate) fn cancel(&self) {
        if let Some(fiber) = self.fiber.take() {
            cancel(fiber);
        }
    }
}
