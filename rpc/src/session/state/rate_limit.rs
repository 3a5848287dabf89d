//! The limit on a peer's rate of calls: a bucket of tokens, and a second one that fills with refused calls.
//!
//! Both are pure: the caller passes the time. A call takes a token; tokens return at the rate, up to the burst. A call
//! that finds no token is refused, and counts as excess. Excess is forgiven at a tenth of the rate; ten bursts of it
//! count as malice, or as a program that will not stop by itself.

use crate::session::options::Rate;
use std::cell::Cell;
use yue_scheduler::Instant;

/// This number of bursts of refused calls ends the link,
const EXCESS_BURSTS: f64 = 10.0;

/// forgiven at this share of the rate.
const FORGIVEN: f64 = 0.1;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    Refuse,
    /// Refuse, and end the link.
    End,
}

#[derive(Debug, Clone, Copy)]
struct Buckets {
    tokens: f64,
    excess: f64,
    /// The time of the last update of both; `None` before the first call.
    at: Option<Instant>,
}

pub(crate) struct RateLimit {
    pub(crate) rate: Rate,
    buckets: Cell<Buckets>,
}

impl RateLimit {
    pub(crate) fn new(mut rate: Rate) -> RateLimit {
        rate.burst = rate.burst.max(1);
        // NaN and negative numbers must not fill a bucket.
        rate.calls_per_second = rate.calls_per_second.max(0.0);
        let buckets = Buckets {
            tokens: f64::from(rate.burst),
            excess: 0.0,
            at: None,
        };
        RateLimit {
            rate,
            buckets: Cell::new(buckets),
        }
    }

    pub(crate) fn ask(&self, time: Instant) -> Verdict {
        let (rate, burst) = (self.rate.calls_per_second, f64::from(self.rate.burst));
        let mut buckets = self.buckets.get();
        let passed = buckets
            .at
            .map_or(0.0, |at| time.saturating_since(at).as_secs_f64());
        buckets.at = Some(time);
        buckets.tokens = (buckets.tokens + passed * rate).min(burst);
        buckets.excess = (buckets.excess - passed * rate * FORGIVEN).max(0.0);
        let verdict = if buckets.tokens >= 1.0 {
            buckets.tokens -= 1.0;
            Verdict::Take
        } else {
            buckets.excess += 1.0;
            if buckets.excess > burst * EXCESS_BURSTS {
                // No more, so that a peer that keeps its link is forgiven in the end.
                buckets.excess = burst * EXCESS_BURSTS + 1.0;
                Verdict::End
            } else {
                Verdict::Refuse
            }
        };
        self.buckets.set(buckets);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn limit(calls_per_second: f64, burst: u32) -> RateLimit {
        RateLimit::new(Rate {
            calls_per_second,
            burst,
        })
    }

    /// An arbitrary start time.
    fn start() -> Instant {
        Instant::from_nanos(1_000_000_000)
    }

    fn after(seconds: f64) -> Instant {
        start().saturating_add(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limit = limit(10.0, 5);
        for _ in 0..5 {
            assert_eq!(limit.ask(start()), Verdict::Take);
        }
        assert_eq!(limit.ask(start()), Verdict::Refuse);
        assert_eq!(limit.ask(after(0.11)), Verdict::Take);
        assert_eq!(limit.ask(after(0.12)), Verdict::Refuse);
        for _ in 0..5 {
            assert_eq!(limit.ask(after(60.0)), Verdict::Take);
        }
        assert_eq!(limit.ask(after(60.0)), Verdict::Refuse);
    }

    #[test]
    fn a_flood_ends_the_link_and_a_slightly_fast_peer_does_not() {
        let flood = limit(10.0, 5);
        let verdicts: Vec<_> = (0..56).map(|_| flood.ask(start())).collect();
        assert!(
            verdicts[5..55]
                .iter()
                .all(|verdict| *verdict == Verdict::Refuse)
        );
        assert_eq!(verdicts[55], Verdict::End);
        // Of 10.9 calls a second 0.9 are refused, and 1 is forgiven.
        let eager = limit(10.0, 5);
        for n in 0..100_000 {
            assert_ne!(eager.ask(after(f64::from(n) / 10.9)), Verdict::End);
        }
    }

    #[test]
    fn a_rate_of_zero_ends_no_peer_before_it_calls() {
        for calls_per_second in [0.0, -1.0, f64::NAN] {
            let limit = limit(calls_per_second, 0);
            assert_eq!(limit.ask(start()), Verdict::Take);
            assert_eq!(limit.ask(after(1e6)), Verdict::Refuse);
        }
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass_in_any_time(
            calls_per_second in 0.1f64..1e5,
            burst in 1u32..1000,
            pauses in prop::collection::vec(0.0f64..0.01, 1..2000),
        ) {
            let limit = limit(calls_per_second, burst);
            let (mut time, mut taken) = (0.0, 0.0);
            for pause in pauses {
                time += pause;
                taken += f64::from(u8::from(limit.ask(after(time)) == Verdict::Take));
                let most = f64::from(burst) + time * calls_per_second;
                prop_assert!(taken <= most + 1e-3 * (1.0 + most), "{} of {}", taken, most);
            }
        }
    }
}
