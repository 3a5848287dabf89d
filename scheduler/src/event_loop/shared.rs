//! The part of a loop that all threads share: the way in, and the counters.

use super::vitals::Vitals;
use crate::driver::{Bell, Driver};
use crate::fiber::RemoteWaker;
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use yue_queue::{Sender, SleepFlag};

/// A request from another thread to a loop.
pub(crate) enum Message {
    /// End the wait of a fiber.
    Wake(RemoteWaker),
    /// Run this on the loop, outside any fiber.
    Run(Box<dyn FnOnce() + Send>),
    /// Begin the shutdown.
    Shutdown,
}

/// The half of the inbox that other threads use.
pub(crate) struct Shared {
    pub(super) id: u32,
    sender: Sender<Message>,
    pub(super) flag: SleepFlag,
    bell: Arc<dyn Bell>,
    pub(super) loans: Loans,
    /// On separate cache lines: the loop writes to it in every tick, and senders read the fields above.
    vitals: CachePadded<Vitals>,
}

impl Shared {
    /// Creates the shared part of a loop for the calling thread.
    pub(super) fn new(id: u32, sender: Sender<Message>, driver: &dyn Driver) -> Self {
        Shared {
            id,
            sender,
            flag: SleepFlag::new(),
            bell: driver.bell(),
            loans: Loans::default(),
            vitals: CachePadded::new(Vitals::new(driver.name())),
        }
    }

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

    /// Ends the loop's sleep, if it sleeps or is about to sleep.
    pub(super) fn ring(&self) {
        if self.flag.notify() {
            self.bell.ring();
        }
    }
}

/// Number of blocking calls that borrow from fibers of a loop.
#[derive(Debug, Default)]
pub(super) struct Loans(pub(super) AtomicUsize);
