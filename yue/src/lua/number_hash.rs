//! A hasher for tables whose keys are numbers that nobody chooses to collide.

use std::hash::{BuildHasher, Hasher};

/// 2^64 divided by the golden ratio: multiples of it are spread evenly (Knuth, volume 3, 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Multiplies the numbers of a key, so that the upper bits differ too, which the table uses.
#[derive(Default, Clone)]
pub(crate) struct NumberHash;

impl BuildHasher for NumberHash {
    type Hasher = NumberHasher;
    fn build_hasher(&self) -> NumberHasher {
        NumberHasher(0)
    }
}

/// The hasher of [`NumberHash`].
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(MULTIPLIER);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}
