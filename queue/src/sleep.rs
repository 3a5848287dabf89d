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
//! Consumer and producer do a read-modify-write on the same word, so one of them comes first. If the producer's comes
//! first, the consumer's swap reads from it, and the recheck finds the value. If the consumer's comes first, the
//! producer sees IDLE and rings; the bell remembers a ring that comes before the wait. Either way no wake-up is lost,
//! and of several producers only the first rings. The recheck must come *after* the swap: `tests/loom.rs` shows that
//! the protocol fails without it.
//!
//! # Threads
//!
//! The consumer calls `prepare_sleep` and `wake_up`; any thread calls `notify`.

use crate::sync::{AtomicU8, Ordering};

/// The consumer runs, and will look at its queues before it sleeps.
const ACTIVE: u8 = 0;
/// The consumer sleeps, or will sleep after one more look at its queues.
const IDLE: u8 = 1;
/// A producer has pushed since the consumer last changed the flag. This bit is added to the other states.
const NOTIFIED: u8 = 2;

/// Tells producers whether the consumer sleeps, so that they ring its bell only then.
///
/// ```
/// let flag = yue_queue::SleepFlag::new();
/// assert!(!flag.notify()); // active: the consumer will look anyway
/// flag.prepare_sleep();
/// assert!(flag.notify()); // asleep: ring
/// assert!(!flag.notify()); // another producer already rings
/// flag.wake_up();
/// ```
#[derive(Debug)]
pub struct SleepFlag {
    state: AtomicU8,
}

impl SleepFlag {
    /// Creates a flag whose consumer is active.
    pub fn new() -> Self {
        Self {
            state: AtomicU8::new(ACTIVE),
        }
    }

    /// Announces that the consumer is about to sleep. It must then look at its queues *again*, and block only if they
    /// are empty. In both cases it calls [`SleepFlag::wake_up`] before it continues.
    pub fn prepare_sleep(&self) {
        // AcqRel: Acquire pairs with the Release half of `notify`, so the recheck sees what was pushed before a notify
        // that came first. Release: nothing written before moves behind the announcement.
        self.state.swap(IDLE, Ordering::AcqRel);
    }

    /// Marks the consumer active again, after it slept or because its recheck found something.
    pub fn wake_up(&self) {
        // A swap, not a store: a store would not read from a notify that came in between, and a value pushed before
        // that notify might stay unseen, even by the next recheck. Acquire pairs with the Release half of `notify`.
        if crate::planted!("store instead of swap") {
            return self.state.store(ACTIVE, Ordering::Release);
        }
        self.state.swap(ACTIVE, Ordering::AcqRel);
    }

    /// Announces a push. A producer calls this after each push. If it returns `true`, the consumer was about to sleep,
    /// and the caller must ring its bell; every other producer may rely on that ring.
    #[must_use = "if it is true the bell must be rung"]
    pub fn notify(&self) -> bool {
        // AcqRel: Release pairs with the consumer's swaps, so that it sees what we pushed. Acquire: a producer that
        // finds NOTIFIED relies on the ring of the producer before it.
        self.state.fetch_or(NOTIFIED, Ordering::AcqRel) == IDLE && !crate::planted!("dropped wake")
    }
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}
