//! The lease of a node on another machine, where the end of a connection proves nothing.
//!
//! ```text
//!   node    sends renew at t1, may live until t1 + lease          by its own clock
//!   owner   answers at t2, believes it alive until t2 + lease + 1 % by its own clock
//! ```
//!
//! The request is sent before it is answered, so the node is dead before its owner believes so, whatever the network
//! delays. Only the rates of the two clocks matter; the owner's hundredth covers their difference. Both clocks run
//! while the machine is suspended.
//!
//! Invariant of the owner: no other node of the allocation starts before [`OwnerLease::dead_at`], unless the node's end
//! is proven.

use std::cell::Cell;
use std::time::Duration;
use yue_scheduler::simulation;

/// The share of a lease by which two clocks may differ in it.
const CLOCK_DIFFERENCE: u32 = 100;

/// A node renews so many times in a lease.
pub(crate) const RENEWALS: u32 = 4;

/// The time of a clock that also runs while the machine is suspended, from an unspecified start.
pub(crate) fn clock() -> Duration {
    if simulation::is_on() {
        return Duration::from_nanos(yue_scheduler::now().as_nanos());
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer outlives the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The owner's side of a lease. `now` is the present by [`clock`].
pub(crate) struct OwnerLease {
    lease: Duration,
    /// The time at which the node is certainly dead; `None` if it has none, or its end is proven.
    dead_at: Cell<Option<Duration>>,
}

impl OwnerLease {
    pub(crate) fn new(lease: Duration) -> OwnerLease {
        OwnerLease {
            lease,
            dead_at: Cell::new(None),
        }
    }

    /// The owner answers a renewal.
    pub(crate) fn renew(&self, now: Duration) {
        let margin = self.lease / CLOCK_DIFFERENCE;
        self.dead_at
            .set(Some(now.saturating_add(self.lease + margin)));
    }

    /// The node's end is proven.
    pub(crate) fn end(&self) {
        self.dead_at.set(None);
    }

    /// The time at which the node is certainly dead; `None` if it is dead now.
    pub(crate) fn dead_at(&self, now: Duration) -> Option<Duration> {
        self.dead_at.get().filter(|at| *at > now)
    }

    /// Whether a lease has run out without a proof of the node's end.
    pub(crate) fn has_run_out(&self, now: Duration) -> bool {
        self.dead_at.get().is_some_and(|at| at <= now)
    }
}

/// The time until which a node may live that asked at `asked_at`, by its own clock, and was answered.
pub(crate) fn node_until(asked_at: Duration, lease: Duration) -> Duration {
    asked_at.saturating_add(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeatable sequence of numbers (xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    /// A machine's clock: it starts anywhere, and is wrong by some millionths.
    struct Wrong {
        start: u64,
        ppm: i64,
    }

    impl Wrong {
        fn at(&self, true_ns: u64) -> Duration {
            let drift = true_ns as i128 * i128::from(self.ppm) / 1_000_000;
            Duration::from_nanos((i128::from(self.start) + i128::from(true_ns) + drift) as u64)
        }

        /// The true time at which the clock shows `shown`.
        fn true_time(&self, shown: Duration) -> u64 {
            let since = shown.as_nanos() as i128 - i128::from(self.start);
            (since * 1_000_000 / (1_000_000 + i128::from(self.ppm))) as u64
        }
    }

    #[test]
    fn a_node_is_dead_before_its_owner_believes_so() {
        const SECOND: u64 = 1_000_000_000;
        for seed in 1..=5000 {
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed) | 1);
            let lease = Duration::from_millis(100 + numbers.below(20_000));
            // Together they differ by less than the hundredth that the owner adds.
            let mut clock = || Wrong {
                start: numbers.below(1000 * SECOND),
                ppm: numbers.below(9000) as i64 - 4500,
            };
            let (of_node, of_owner) = (clock(), clock());
            let owner = OwnerLease::new(lease);
            let (mut at, mut node_dies) = (SECOND, 0);
            for renewal in 0..20 {
                // Each way of the network takes anything, and each message may be lost, but for the first question.
                let mut travel = || numbers.below(3 * lease.as_nanos() as u64 / 2);
                let (asked, there) = (at, travel());
                let (back, lost) = (travel(), renewal > 0 && numbers.below(4) == 0);
                if lost {
                    at = asked + lease.as_nanos() as u64 / u64::from(RENEWALS);
                    continue;
                }
                let answered = asked + there;
                owner.renew(of_owner.at(answered));
                let returned = answered + back;
                // An answer that comes after its end finds no node.
                if renewal == 0 || returned < node_dies {
                    node_dies = of_node.true_time(node_until(of_node.at(asked), lease));
                }
                at = returned.max(asked + 1);
                let dead_at = owner.dead_at(Duration::ZERO).expect("it was renewed");
                let believed = of_owner.true_time(dead_at);
                assert!(
                    node_dies < believed,
                    "seed {seed}: lives until {node_dies}, {believed}"
                );
                assert!(owner.has_run_out(dead_at) && !owner.has_run_out(of_owner.at(answered)));
            }
        }
    }
}
