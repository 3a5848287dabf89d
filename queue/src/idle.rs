//! Which of several consumers of one queue sleep, so that who adds work can wake exactly one.
//!
//! ```text
//!   consumer                                   producer
//!   --------                                   --------
//!   own SleepFlag::prepare_sleep()             push the work into the Injector
//!   announce(place)   set the own bit          take_one()   clear somebody's bit, if one is set
//!   queues empty?                                the own flag of that consumer: notify(), ring its bell
//!     yes: block on the bell                   none set: everybody is awake, and will look
//!   withdraw(place)   clear the own bit
//! ```
//!
//! Both sides do a read-modify-write on the same word, so one of them comes first. If the producer's does, the
//! consumer's reads from it and its second look finds the work; if the consumer's does, the producer finds the bit. A
//! bit is cleared by one thread only, so of many producers each wakes another consumer. A consumer whose bit was taken
//! while it woke up by itself is awake, and looks at the queue before it sleeps again; one that leaves for good instead
//! must look once more after its `withdraw`, and wake another if there is work.
//!
//! # Threads
//!
//! `announce` and `withdraw` belong to the consumer of that place; `take_one` to anybody.

use crate::sync::{AtomicU64, Ordering};

const BITS: usize = u64::BITS as usize;

/// A bit for each consumer that sleeps, or is about to after one more look.
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
    /// A set for that many consumers, with places from 0, all of them awake.
    pub fn new(places: usize) -> Self {
        let words = places.div_ceil(BITS);
        IdleSet {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The consumer says that it will sleep. It must then look at its queues *again*, and block only if they are empty;
    /// in both cases it calls [`IdleSet::withdraw`] before it goes on.
    pub fn announce(&self, place: usize) {
        // AcqRel: Acquire pairs with the Release half of `take_one`: the second look sees what was pushed before a
        // `take_one` that came first. Release: nothing of before moves behind the announcement.
        self.words[place / BITS].fetch_or(1 << (place % BITS), Ordering::AcqRel);
    }

    /// The consumer is awake again.
    pub fn withdraw(&self, place: usize) {
        // AcqRel: Acquire pairs with the Release half of `take_one`: who leaves for good sees what was pushed before
        // its bit was taken.
        self.words[place / BITS].fetch_and(!(1 << (place % BITS)), Ordering::AcqRel);
    }

    /// A producer, after its push, asks for a consumer that sleeps: it must wake that one. `None`: all are awake.
    #[must_use = "the consumer relies on being woken"]
    pub fn take_one(&self) -> Option<usize> {
        self.words.iter().enumerate().find_map(|(index, word)| {
            // A read-modify-write, not a load: see the head of this file. AcqRel: Release pairs with `announce` and
            // `withdraw`, Acquire with who took a bit before and relies on nothing more.
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
        let places = [0, 63, 64, 129];
        places.into_iter().for_each(|place| idle.announce(place));
        let taken: Vec<_> = std::iter::from_fn(|| idle.take_one()).collect();
        assert_eq!(taken, places);
        idle.announce(64);
        idle.withdraw(63);
        assert_eq!(idle.take_one(), Some(64));
    }
}
