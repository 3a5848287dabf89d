//! The generator of a simulation: every choice of a run comes from it, in order.

use std::time::Duration;

/// A sequence of numbers that a seed determines (SplitMix64: <https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Returns the next number, of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: without a division, and without a bias that a simulation could notice.
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns true with the given probability. An impossible or certain outcome takes no number: a run without losses
    /// is the same whether or not there could be any.
    pub fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 || probability >= 1.0 {
            return probability > 0.0;
        }
        // 53 bits: every such number is a double.
        let unit = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }

    /// Returns a duration up to `longest`, inclusive.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        if longest.is_zero() {
            return longest;
        }
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// The finalizer of SplitMix64: a bijection that spreads its input over all bits.
pub fn mix(input: u64) -> u64 {
    let mut mixed = input;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;
    use std::time::Duration;

    #[test]
    fn a_seed_determines_the_sequence() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        let numbers: Vec<u64> = (0..100).map(|_| one.number()).collect();
        assert!(numbers.iter().all(|number| *number == other.number()));
        assert_ne!(Random::new(8).number(), numbers[0]);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [0; 10];
        (0..1000).for_each(|_| seen[random.below(10) as usize] += 1);
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(random.below(0), 0);
        let heads = (0..1000).filter(|_| random.chance(0.25)).count();
        assert!((150..350).contains(&heads), "{heads}");
        assert!(random.chance(1.0) && !random.chance(0.0));
        let longest = Duration::from_micros(3);
        assert!((0..100).all(|_| random.up_to(longest) <= longest));
        let mut bytes = [0; 13];
        random.fill(&mut bytes);
        assert!(bytes[8..].iter().any(|byte| *byte != 0));
    }
}
