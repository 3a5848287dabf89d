//! The way into a loop from other threads: the inbox, the sleep flag, the bell.
//!
//! A sender pushes, then notifies: it rings the bell if the loop is asleep or about to sleep and no other sender has
//! rung. The loop arms the flag, checks the inbox once more, and blocks. Whichever comes first, either the loop sees
//! the message or the sender sees the armed flag. The queue crate's models show it.

use super::group::Membership;
use super::shared::{Message, Shared};
use crate::driver::Driver;
use std::cell::RefCell;
use std::sync::Arc;
use yue_queue::{Receiver, mailbox};

/// The loop's half of the inbox.
pub(super) struct Inbox {
    pub(super) shared: Arc<Shared>,
    receiver: RefCell<Receiver<Message>>,
    /// The loop's membership in a group whose work any of its loops may run.
    pub(super) group: RefCell<Option<Membership>>,
}

impl Inbox {
    pub(super) fn new(id: u32, driver: &dyn Driver, group: Option<Membership>) -> Self {
        let (sender, receiver) = mailbox();
        let shared = Arc::new(Shared::new(id, sender, driver));
        Inbox {
            shared,
            receiver: RefCell::new(receiver),
            group: RefCell::new(group),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.receiver.borrow().is_empty()
    }

    pub(super) fn pop(&self) -> Option<Message> {
        self.receiver.borrow_mut().pop()
    }

    /// Closes the inbox: from now on senders drop their messages themselves.
    pub(super) fn close(&self) {
        let (_, closed) = mailbox();
        let receiver = self.receiver.replace(closed);
        drop(receiver);
    }

    /// Announces that the loop is about to block. Returns whether it may; if so, [`Inbox::disarm`] must follow.
    pub(super) fn arm(&self) -> bool {
        self.shared.flag.prepare_sleep();
        let group = self.group.borrow();
        // The flag and the idle bit are both set before the recheck of either queue.
        let no_work = group.as_ref().is_none_or(Membership::may_sleep);
        drop(group);
        let may_block = no_work && self.is_empty();
        if !may_block {
            self.disarm();
        }
        may_block
    }

    /// Marks the loop as awake again, after [`Inbox::arm`].
    pub(super) fn disarm(&self) {
        self.shared.flag.wake_up();
        if let Some(group) = &*self.group.borrow() {
            group.disarm();
        }
    }

    /// Runs one piece of the group's work. Returns whether there was one.
    pub(super) fn take_work(&self) -> bool {
        let group = self.group.borrow();
        group.as_ref().is_some_and(Membership::take)
    }
}
