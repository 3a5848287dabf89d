//! The state of a link's keepalive.

use std::cell::Cell;
use std::time::Duration;
use yue_scheduler::{Timer, deadline_after};

/// The keepalive of one link.
pub(crate) struct Keepalive {
    timer: Timer,
    /// The maximum silence of the peer.
    pub(crate) limit: Cell<Duration>,
    /// Bytes that had arrived when the timer was armed.
    pub(crate) bytes_seen: Cell<u64>,
    /// The peer has been pinged since.
    pub(crate) pinged: Cell<bool>,
}

impl Keepalive {
    pub(crate) fn new(timer: Timer) -> Keepalive {
        Keepalive {
            timer,
            limit: Cell::new(Duration::ZERO),
            bytes_seen: Cell::new(0),
            pinged: Cell::new(false),
        }
    }

    /// The link has ended.
    pub(crate) fn end(&self) {
        self.timer.cancel();
    }

    pub(crate) fn arm(&self, fifths: u32) {
        debug_assert!((1..=5).contains(&fifths));
        self.timer
            .arm(deadline_after(self.limit.get() / 5 * fifths));
    }
}
