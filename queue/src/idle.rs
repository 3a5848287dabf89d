//! Tracks the sleeping consumers of one queue, so that a producer can wake exactly one.
//!
//! ```text
//!   consumer                                   producer
//!   --------                                   --------
//!   its SleepFlag::prepare_sleep()             push the work into the Injector
//!   announce(consumer)   set its bit           take_one()   clear one consumer's bit, if any is set
//!   queues empty?                                that consumer's SleepFlag: notify(), ring its bell
//!     yes: block on the bell                   none set: all consumers are awake, and will look
//!   withdraw(consumer)   clear its bit
//! ```
//!
//! Consumer and producer do a read-modify-write on the same word, so one of them comes first. If the producer's comes
//! first, the consumer's reads from it, and its second look finds the work. If the consumer's comes first, the producer
//! finds the bit. Only one thread clears a bit, so several producers each wake a different consumer. A consumer whose
//! bit was taken while it woke up for another reason is awake, and looks at the queue before it sleeps again. A
//! consumer that leaves for good must look once more after its `withdraw`, and wake another one if there is work.
//!
//! # Threads
//!
//! Only the consumer itself calls `announce` and `withdraw`; any thread calls `take_one`.

use crate::sync::{AtomicU64, Ordering};

const BITS: usize = u64::BITS as usize;

/// A bit for each consumer that sleeps, or that will sleep after one more look at its queues.
///
/// ```
/// let idle = yue_queue::IdleSet::new(100);
/// idle.announce(7);
/// idle.announce(70);
/// assert_eq!(idle.take_one(), Some(7));
/// idle.withdraw(70);
/// assert_eq!(idle.take_one(), None);
/// ```
#[derive(Debug)]
pub struct IdleSet {
    words: Box<[AtomicU64]>,
}

impl IdleSet {
    /// Creates a set for consumers numbered from 0, all of them awake.
    pub fn new(consumers: usize) -> Self {
        let words = consumers.div_ceil(BITS);
        IdleSet {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Announces that the consumer is about to sleep. It must then look at its queues *again*, and block only if they
    /// are empty. In both cases it calls [`IdleSet::withdraw`] before it continues.
    pub fn announce(&self, consumer: usize) {
        // AcqRel: Acquire pairs with the Release half of `take_one`, so the second look sees what was pushed before a
        // `take_one` that came first. Release: nothing written before moves behind the announcement.
        self.words[consumer / BITS].fetch_or(1 << (consumer % BITS), Ordering::AcqRel);
    }

    /// Announces that the consumer is awake again.
    pub fn withdraw(&self, consumer: usize) {
        // AcqRel: Acquire pairs with the Release half of `take_one`, so a consumer that leaves for good sees what was
        // pushed before its bit was taken.
        self.words[consumer / BITS].fetch_and(!(1 << (consumer % BITS)), Ordering::AcqRel);
    }

    /// Picks a sleeping consumer, which the producer must wake. A producer calls this after its push. `None`: all are
    /// awake.
    #[must_use = "the consumer relies on being woken"]
    pub fn take_one(&self) -> Option<usize> {
        self.words.iter().enumerate().find_map(|(index, word)| {
            // A read-modify-write, not a load: see the head of this file. AcqRel: Release pairs with `announce` and
            // `withdraw`; Acquire pairs with the thread that took a bit before, and nothing more relies on it.
            let mut seen = word.fetch_or(0, Ordering::AcqRel);
            while seen != 0 {
                let bit = seen & seen.wrapping_neg();
                let before = word.fetch_and(!bit, Ordering::AcqRel);
                if before & bit != 0 {
                    return Some(index * BITS + bit.trailing_zeros() as usize);
                }
                seen = before & !bit;
            }
            None
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_sleeper_is_taken_once() {
        let idle = IdleSet::new(130);
        let consumers = [0, 63, 64, 129];
        consumers
            .into_iter()
            .for_each(|consumer| idle.announce(consumer));
        let taken: Vec<_> = std::iter::from_fn(|| idle.take_one()).collect();
        assert_eq!(taken, consumers);
        idle.announce(64);
        idle.withdraw(63);
        assert_eq!(idle.take_one(), Some(64));
    }
}
