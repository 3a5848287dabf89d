//! The handshake between a consumer that wants to sleep and producers that must wake it.
//!
//! ```text
//!   consumer                                   producer
//!   --------                                   --------
//!   prepare_sleep()   swap(IDLE)               push the value
//!   all queues empty?                          notify()  fetch_or(NOTIFIED)
//!     yes: block on the bell                     was it IDLE?  ring the bell
//!   wake_up()         swap(ACTIVE)
//! ```
//!
//! Both sides do a read-modify-write on the same word, so one of them comes first. If the producer's does, the
//! consumer's swap reads from it and its recheck finds the value. If the consumer's does, the producer sees IDLE and
//! rings; and the bell remembers a ring that comes before the wait. Either way no wake-up is lost, and of many
//! producers only the first rings. The recheck must come *after* the swap: `tests/loom.rs` shows that the protocol
//! fails without it.
//!
//! # Threads
//!
//! `prepare_sleep` and `wake_up` belong to the consumer; `notify` to anybody.

use crate::sync::{AtomicU8, Ordering};

/// The consumer runs and will look at its queues before it sleeps.
const ACTIVE: u8 = 0;
/// The consumer sleeps, or is about to after one more look.
const IDLE: u8 = 1;
/// Somebody has pushed since the consumer last changed the flag. A bit beside the others.
const NOTIFIED: u8 = 2;

/// Says whether a consumer sleeps, so that producers ring its bell only then.
///
/// ```
/// let flag = yue_queue::SleepFlag::new();
/// assert!(!flag.notify()); // active: it will look by itself
/// flag.prepare_sleep();
/// assert!(flag.notify()); // asleep: ring
/// assert!(!flag.notify()); // somebody rings already
/// flag.wake_up();
/// ```
#[derive(Debug)]
pub struct SleepFlag {
    state: AtomicU8,
}

impl SleepFlag {
    /// A flag whose consumer is active.
    pub fn new() -> Self {
        Self {
            state: AtomicU8::new(ACTIVE),
        }
    }

    /// The consumer announces that it will sleep. It must then look at its queues *again*, and block only if they are
    /// empty; in both cases it calls [`SleepFlag::wake_up`] before it goes on.
    pub fn prepare_sleep(&self) {
        // AcqRel: Acquire pairs with the Release half of `notify`: the recheck sees what was pushed before a notify
        // that came first. Release: nothing of before moves behind the announcement.
        self.state.swap(IDLE, Ordering::AcqRel);
    }

    /// The consumer is active again, after it slept or because its second look found something.
    pub fn wake_up(&self) {
        // A swap, not a store: a store would not read from a notify that came between, and what was pushed before it
        // might stay unseen up to and in the next recheck. Acquire pairs with the Release half of `notify`.
        self.state.swap(ACTIVE, Ordering::AcqRel);
    }

    /// A producer says, after its push, that there is something. If this answers `true`, the consumer was going to
    /// sleep and the caller must ring its bell; every other producer may rely on that ring.
    #[must_use = "if it is true the bell must be rung"]
    pub fn notify(&self) -> bool {
        // AcqRel: Release pairs with the swaps of the consumer: it sees what we pushed. Acquire: a producer that finds
        // NOTIFIED relies on the ring of the one before it.
        self.state.fetch_or(NOTIFIED, Ordering::AcqRel) == IDLE
    }
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}
