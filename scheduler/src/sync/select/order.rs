//! The random order in which a select polls its branches, so that none starves.

use crate::fiber::{begin_wait_number, in_fiber};
use std::cell::Cell;

/// Returns a pseudo-random number below `count`. In a fiber it is a function of the fiber's number and of its count of
/// waits, which this call increments.
pub(super) fn random_below(count: usize) -> usize {
    let number = if in_fiber() {
        mix(begin_wait_number())
    } else if cfg!(loom) {
        // A model must not depend on what ran before it.
        0
    } else {
        THREAD_SELECTS.set(THREAD_SELECTS.get().wrapping_add(1));
        mix(THREAD_SELECTS.get())
    };
    // The upper half, as a fraction of one, times the count. This needs no division.
    (((number >> 32) * count as u64) >> 32) as usize
}

thread_local! {
    /// Number of selects of this plain thread.
    static THREAD_SELECTS: Cell<u64> = const { Cell::new(0) };
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(mut number: u64) -> u64 {
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
