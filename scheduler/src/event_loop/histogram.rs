//! A histogram of durations that one thread fills and any thread reads.
//!
//! The bucket bounds are powers of two of 1.024 us, up to 8.6 s: the resolution that a dashboard needs, at the cost of
//! one addition to one of 25 words. The atomics are relaxed: each word is meaningful by itself, and a reader that sees
//! the sum before the count is off by one observation.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first bucket holds durations below 2^10 ns.
const FIRST_SHIFT: u32 = 10;
/// The number of buckets with a bound; the last bound is 2^33 ns, 8.6 s.
const BOUNDS: usize = 24;

pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) const fn new() -> Self {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BOUNDS + 1],
            sum_ns: AtomicU64::new(0),
        }
    }

    /// Records one duration. Only one thread may call it.
    pub(crate) fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bits = u64::BITS - ns.leading_zeros();
        let bucket = (bits.saturating_sub(FIRST_SHIFT) as usize).min(BOUNDS);
        add(&self.buckets[bucket], 1);
        add(&self.sum_ns, ns);
    }

    /// Writes the histogram in Prometheus' text format, without the HELP and TYPE lines.
    pub(crate) fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = if index == BOUNDS {
                "+Inf".to_owned()
            } else {
                seconds(1 << (FIRST_SHIFT as usize + index))
            };
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let sum = seconds(self.sum_ns.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

/// Adds without a locked instruction, because there is only one writer.
fn add(word: &AtomicU64, amount: u64) {
    let sum = word.load(Ordering::Relaxed).wrapping_add(amount);
    word.store(sum, Ordering::Relaxed);
}

fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_the_next_larger_bound() {
        let histogram = Histogram::new();
        for ns in [0, 1_023, 1_024, 5_000_000_000, u64::MAX / 2] {
            histogram.record(Duration::from_nanos(ns));
        }
        let mut text = String::new();
        histogram.write(&mut text, "x", "loop=\"1\"");
        assert!(
            text.contains("x_bucket{loop=\"1\",le=\"0.000001024\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("x_bucket{loop=\"1\",le=\"0.000002048\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("x_bucket{loop=\"1\",le=\"8.589934592\"} 4\n"),
            "{text}"
        );
        assert!(
            text.contains("x_bucket{loop=\"1\",le=\"+Inf\"} 5\n"),
            "{text}"
        );
        assert!(text.contains("x_count{loop=\"1\"} 5\n"), "{text}");
    }
}
