//! What other threads send to a loop: the inbox, the sleep flag, the bell.
//!
//! Sending is push, then notify: if the loop was asleep, or about to be, and nobody has told it yet, ring the bell.
//! The loop's side is: arm the flag, look into the inbox once more, block. Whichever order the two meet in, either the
//! loop sees the message or the sender sees the armed flag; the queue crate's models show it.

use super::group::Membership;
use super::loans::Loans;
use crate::driver::{Bell, Driver};
use crate::fiber::RemoteWaker;
use crate::inspect::vitals::Vitals;
use crossbeam_utils::CachePadded;
use std::cell::RefCell;
use std::sync::Arc;
use yue_queue::{Receiver, Sender, SleepFlag, mailbox};

/// One thing that another thread asks of a loop.
pub(crate) enum Message {
    /// End a wait.
    Wake(RemoteWaker),
    /// Run this on the loop, outside any fiber.
    Run(Box<dyn FnOnce() + Send>),
    /// Begin to shut down.
    Shutdown,
}

/// The half that other threads see.
pub(crate) struct Shared {
    pub(super) id: u32,
    sender: Sender<Message>,
    flag: SleepFlag,
    bell: Arc<dyn Bell>,
    pub(super) loans: Loans,
    /// On cache lines of its own: the loop writes to it in every tick, and whoever sends reads the fields above.
    vitals: CachePadded<Vitals>,
}

impl Shared {
    /// The loop's number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    pub(crate) fn send(&self, message: Message) {
        self.sender.push(message);
        self.ring();
    }

    /// Ends the loop's sleep, if it sleeps or is about to.
    pub(super) fn ring(&self) {
        if self.flag.notify() {
            self.bell.ring();
        }
    }
}

/// The loop's half.
pub(super) struct Inbox {
    pub(super) shared: Arc<Shared>,
    receiver: RefCell<Receiver<Message>>,
    /// Where work comes from that any loop may do.
    pub(super) group: RefCell<Option<Membership>>,
}

impl Inbox {
    pub(super) fn new(id: u32, driver: &dyn Driver, group: Option<Membership>) -> Self {
        let (sender, receiver) = mailbox();
        let shared = Arc::new(Shared {
            id,
            sender,
            flag: SleepFlag::new(),
            bell: driver.bell(),
            loans: Loans::default(),
            vitals: CachePadded::new(Vitals::new(driver.name())),
        });
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

    /// From here on whoever sends drops the message itself.
    pub(super) fn close(&self) {
        let (_, closed) = mailbox();
        let receiver = self.receiver.replace(closed);
        drop(receiver);
    }

    /// Says that the loop is about to block. Returns whether it still may; then [`Inbox::awake`] must follow.
    pub(super) fn arm(&self) -> bool {
        self.shared.flag.prepare_sleep();
        let group = self.group.borrow();
        // Both flags are set before the second look at either queue.
        let no_work = group.as_ref().is_none_or(Membership::may_sleep);
        drop(group);
        let may_block = no_work && self.is_empty();
        if !may_block {
            self.awake();
        }
        may_block
    }

    pub(super) fn awake(&self) {
        self.shared.flag.wake_up();
        if let Some(group) = &*self.group.borrow() {
            group.awake();
        }
    }

    /// Runs a piece of work that any loop may do, if there is one.
    pub(super) fn take_work(&self) -> bool {
        let group = self.group.borrow();
        group.as_ref().is_some_and(Membership::take)
    }
}
