//! The minimum cost of messages between threads: one bounded ring per producer, and nothing else.
//!
//! Each ring has one writer and one reader. Each side caches the other's position, so a position's cache line is
//! transferred only when the cached copy is too old. No wake-ups, growth or reclamation: a real mailbox has to do these
//! as well.

use std::cell::UnsafeCell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_utils::{Backoff, CachePadded};

use crate::harness::{Problem, Sample};

/// Slots in a ring: 64 KiB, which fits in the caches.
const SLOTS: usize = 1 << 13;

/// If a round yields fewer messages than this, the consumer spins this many times.
const GATHER: u64 = 64;

struct Ring {
    slots: Box<[UnsafeCell<u64>]>,
    /// Written by the producer only.
    tail: CachePadded<AtomicUsize>,
    /// Written by the consumer only.
    head: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is written by the producer while it is outside [head, tail) and read by the consumer while it is
// inside; the positions are published with Release and read with Acquire.
unsafe impl Sync for Ring {}

impl Ring {
    fn new() -> Ring {
        let slots = (0..SLOTS).map(|_| UnsafeCell::new(0)).collect();
        Ring {
            slots,
            tail: CachePadded::default(),
            head: CachePadded::default(),
        }
    }

    /// Pushes the numbers below `each`, publishing `step` of them at a time.
    fn produce(&self, each: u64, step: usize) {
        let backoff = Backoff::new();
        let (mut tail, mut head_seen) = (
            self.tail.load(Ordering::Relaxed),
            self.head.load(Ordering::Relaxed),
        );
        for first in (0..each).step_by(step) {
            while tail + step - head_seen > SLOTS {
                // Acquire: pairs with the consumer's Release of `head`; it has read the slots below.
                head_seen = self.head.load(Ordering::Acquire);
                if tail + step - head_seen > SLOTS {
                    backoff.snooze();
                }
            }
            backoff.reset();
            for offset in 0..step {
                // SAFETY: the slot is outside [head, tail), so the consumer does not touch it.
                unsafe { *self.slots[(tail + offset) % SLOTS].get() = first + offset as u64 };
            }
            tail += step;
            // Release: pairs with the consumer's Acquire of `tail`; it sees the slots written above.
            self.tail.store(tail, Ordering::Release);
        }
    }

    /// Takes all available messages. Returns their number and sum.
    fn drain(&self) -> (u64, u64) {
        // Relaxed: only this thread writes it.
        let head = self.head.load(Ordering::Relaxed);
        // Acquire: pairs with the producer's Release of `tail`.
        let tail = self.tail.load(Ordering::Acquire);
        if head == tail {
            return (0, 0);
        }
        // SAFETY: slots in [head, tail) are published, and are not written before `head` advances.
        let sum = (head..tail)
            .map(|position| unsafe { *self.slots[position % SLOTS].get() })
            .sum();
        // Release: pairs with the producer's Acquire of `head`; it may write these slots again.
        self.head.store(tail, Ordering::Release);
        ((tail - head) as u64, sum)
    }
}

/// Measures ns per message for `producers` rings and one consumer that visits them in turn.
///
/// # Errors
///
/// When the received messages have the wrong sum.
pub fn messages(producers: u64, each: u64, step: usize) -> Result<Sample, Problem> {
    let rings: Vec<Ring> = (0..producers).map(|_| Ring::new()).collect();
    let each = each / step as u64 * step as u64;
    round(
        &rings,
        each / 10 / step as u64 * step as u64 + step as u64,
        step,
    )?;
    round(&rings, each, step)
}

fn round(rings: &[Ring], each: u64, step: usize) -> Result<Sample, Problem> {
    let all = rings.len() as u64 * each;
    let barrier = Barrier::new(rings.len() + 1);
    let (elapsed, sum) = std::thread::scope(|scope| {
        for ring in rings {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                ring.produce(each, step);
            });
        }
        barrier.wait();
        let start = Instant::now();
        let sum = consume(rings, all);
        (start.elapsed(), sum)
    });
    let expected = rings.len() as u64 * (each * (each - 1) / 2);
    if sum != expected {
        return Err(Problem::failed(format!(
            "messages were lost or invented: sum {sum}, not {expected}"
        )));
    }
    Ok(Sample::of(elapsed.as_nanos() as f64 / all as f64))
}

fn consume(rings: &[Ring], all: u64) -> u64 {
    let backoff = Backoff::new();
    let (mut count, mut sum) = (0, 0);
    while count < all {
        let before = count;
        for ring in rings {
            let (some, part) = ring.drain();
            count += some;
            sum += part;
        }
        if count == before {
            backoff.snooze();
        } else {
            backoff.reset();
        }
        // A consumer close behind the producer takes its cache line away at every message. Letting some messages gather
        // costs a little time and saves most transfers.
        if count - before < GATHER {
            (0..GATHER).for_each(|_| std::hint::spin_loop());
        }
    }
    sum
}
