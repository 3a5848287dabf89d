//! Shrinking: from a schedule that makes a run fail to a small one that makes it fail in the same way.
//!
//! Delta debugging (Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", 2002) removes faults in
//! halves, quarters and so on, down to single ones. Then the faults that are left are made shorter and simpler, and
//! their times rounder. Each attempt is a run. A run with other faults makes other choices, so what is tested is the
//! outcome alone.

use super::faults::simpler_forms;
use super::{Failure, Fault, Report, Schedule, Scheduled};
use std::time::{Duration, Instant};

/// Limits of [`shrink`].
#[derive(Debug, Clone, Copy)]
pub struct ShrinkLimits {
    /// The number of runs; 400 by default.
    pub runs: usize,
    /// The time, of the system's clock; a minute by default. The run that exceeds it is the last.
    pub time: Duration,
}

impl Default for ShrinkLimits {
    fn default() -> Self {
        ShrinkLimits {
            runs: 400,
            time: Duration::from_secs(60),
        }
    }
}

/// The outcome of [`shrink`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shrunk {
    /// The failure of the run with the smallest schedule, which is in its report.
    pub failure: Failure,
    /// The number of runs that it took.
    pub runs: usize,
}

/// Looks for a smaller schedule than that of `failure` with which `run` fails [in the same way](Failure::is_like).
/// `run` is called with schedules until none smaller is found, or a limit is reached.
pub fn shrink(
    failure: &Failure,
    limits: ShrinkLimits,
    run: impl FnMut(&Schedule) -> Result<Report, Failure>,
) -> Shrunk {
    let mut shrinking = Shrinking {
        best: failure.clone(),
        runs: 0,
        limits,
        began: Instant::now(),
        run,
    };
    shrinking.remove_faults();
    shrinking.simplify_faults();
    Shrunk {
        failure: shrinking.best,
        runs: shrinking.runs,
    }
}

struct Shrinking<F> {
    best: Failure,
    runs: usize,
    limits: ShrinkLimits,
    began: Instant,
    run: F,
}

impl<F: FnMut(&Schedule) -> Result<Report, Failure>> Shrinking<F> {
    fn faults(&self) -> Vec<Scheduled> {
        self.best.report.schedule.faults().to_vec()
    }

    /// Runs with these faults, and keeps them if the run fails in the same way.
    fn still_fails(&mut self, faults: Vec<Scheduled>) -> bool {
        if self.runs >= self.limits.runs || self.began.elapsed() > self.limits.time {
            return false;
        }
        self.runs += 1;
        let schedule: Schedule = faults.into_iter().collect();
        match (self.run)(&schedule) {
            Err(mut failure) if failure.is_like(&self.best) => {
                failure.report.schedule = schedule;
                self.best = failure;
                true
            }
            _ => false,
        }
    }

    fn remove_faults(&mut self) {
        if self.faults().is_empty() || self.still_fails(Vec::new()) {
            return;
        }
        // What happens after the failure has no part in it.
        let elapsed = self.best.report.elapsed;
        let before: Vec<_> = (self.faults().into_iter())
            .filter(|one| one.at <= elapsed)
            .collect();
        if before.len() < self.faults().len() {
            self.still_fails(before);
        }
        let mut parts = 2;
        loop {
            let faults = self.faults();
            if faults.len() < 2 {
                return;
            }
            parts = parts.min(faults.len());
            let size = faults.len().div_ceil(parts);
            let chunks = faults.chunks(size);
            let alone = parts > 2 || faults.len() > 2;
            if alone && chunks.clone().any(|chunk| self.still_fails(chunk.to_vec())) {
                parts = 2;
                continue;
            }
            let without = |index: usize| {
                let (before, rest) = faults.split_at(index * size);
                [before, &rest[size.min(rest.len())..]].concat()
            };
            if (0..chunks.len()).any(|index| self.still_fails(without(index))) {
                parts = (parts - 1).max(2);
                continue;
            }
            if size == 1 {
                return;
            }
            parts *= 2;
        }
    }

    fn simplify_faults(&mut self) {
        for index in 0..self.faults().len() {
            self.shorten(index);
            self.simplify(index);
            for unit in [
                1_000_000_000,
                100_000_000,
                10_000_000,
                1_000_000,
                100_000,
                10_000,
            ] {
                if self.change(index, |one| round(one, unit)) {
                    break;
                }
            }
        }
    }

    /// Replaces a fault by simpler forms, as long as there is one with which the run fails.
    fn simplify(&mut self, index: usize) {
        loop {
            let faults = self.faults();
            let Some(one) = faults.get(index) else {
                return;
            };
            let forms = simpler_forms(&one.fault);
            let mut is_simpler = |form: &Fault| self.change(index, |one| one.fault = form.clone());
            if !forms.iter().any(&mut is_simpler) {
                return;
            }
        }
    }

    /// Makes a fault shorter, first by much.
    fn shorten(&mut self, index: usize) {
        for divisor in [100, 10, 2] {
            while self.change(index, |one| {
                if let Some(until) = one.until {
                    one.until = Some(one.at + (until - one.at) / divisor);
                }
            }) {}
        }
    }

    /// Changes one fault, and returns whether the run still fails with it. A change that changes nothing is not tried.
    fn change(&mut self, index: usize, change: impl Fn(&mut Scheduled)) -> bool {
        let mut faults = self.faults();
        let Some(one) = faults.get_mut(index) else {
            return false;
        };
        let before = one.clone();
        change(one);
        let lasts = one.until.is_none_or(|until| until > one.at + SHORTEST);
        *one != before && lasts && self.still_fails(faults)
    }
}

/// A shorter fault is not simpler.
const SHORTEST: Duration = Duration::from_micros(1);

/// Rounds the times of a fault to multiples of `unit_ns`, its end upwards.
fn round(one: &mut Scheduled, unit_ns: u64) {
    let unit = u128::from(unit_ns);
    let times = |count: u128| Duration::from_nanos(u64::try_from(count * unit).unwrap_or(u64::MAX));
    let at = times((one.at.as_nanos() + unit / 2) / unit);
    one.until = one.until.map(|until| {
        let lasts = times((until - one.at).as_nanos().div_ceil(unit));
        at + lasts
    });
    one.at = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::recorder::Recorded;
    use crate::sim::{Cause, Chaos};

    fn outcome(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Result<Report, Failure> {
        let recorded = Recorded {
            elapsed: Duration::from_secs(25),
            schedule: schedule.clone(),
            ..Recorded::default()
        };
        let report = Report::new(1, recorded);
        match fails(schedule) {
            true => Err(Failure::new(Cause::Scenario("broken".to_owned()), report)),
            false => Ok(report),
        }
    }

    fn shrunk(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> (Schedule, usize) {
        let failure = outcome(schedule, &fails).unwrap_err();
        let limits = ShrinkLimits::default();
        let shrunk = shrink(&failure, limits, |schedule| outcome(schedule, &fails));
        assert!(fails(&shrunk.failure.report.schedule));
        (shrunk.failure.report.schedule, shrunk.runs)
    }

    fn has(schedule: &Schedule, fault: &Scheduled) -> bool {
        let same = |one: &Scheduled| one.fault.hosts() == fault.fault.hosts();
        schedule
            .faults()
            .iter()
            .any(|one| same(one) && one.fault == fault.fault)
    }

    #[test]
    fn the_faults_that_matter_are_found_among_many() {
        let chaos = Chaos::level(4).within(Duration::from_secs(20));
        for seed in 0..50 {
            let schedule = chaos.schedule(seed, &["bank", "bot1", "bot2"]);
            let crash = |one: &&Scheduled| {
                matches!(one.fault, Fault::Crash(_) | Fault::ResetConnections(..))
            };
            let needed: Vec<_> = schedule.faults().iter().filter(crash).take(2).collect();
            let (small, runs) = shrunk(&schedule, |tried| needed.iter().all(|one| has(tried, one)));
            // Two crashes of one host are one to the program.
            assert!((1..=needed.len()).contains(&small.len()), "{small}");
            assert!(runs < 150, "{runs} runs");
        }
    }

    #[test]
    fn no_fault_is_left_if_none_matters_and_few_runs_are_enough() {
        let schedule = Chaos::level(5).schedule(1, &["a", "b"]);
        assert_eq!(shrunk(&schedule, |_| true), (Schedule::new(), 1));
    }

    #[test]
    fn faults_become_short_and_their_times_round() {
        let schedule: Schedule = "1.203114s partition a b until 19.5s".parse().unwrap();
        let covers = |tried: &Schedule| {
            let covers = |one: &Scheduled| {
                one.at <= Duration::from_millis(1_300) && one.until > Some(Duration::from_secs(2))
            };
            tried.faults().iter().any(covers)
        };
        let (small, _) = shrunk(&schedule, covers);
        assert_eq!(small.to_string(), "1.2s partition a b until 2.2s\n");
        let link = "1s link a b latency=5ms jitter=1ms loss=0.2 bandwidth=1000 until 2s";
        let (small, _) = shrunk(&link.parse().unwrap(), |tried| tried.len() == 1);
        assert!(
            small.to_string().contains("link a b latency=5ms until"),
            "{small}"
        );
    }

    #[test]
    fn limits_end_the_attempts() {
        let schedule = Chaos::level(5).schedule(1, &["a", "b"]);
        let fails = |tried: &Schedule| tried.len() > 50;
        let failure = outcome(&schedule, fails).unwrap_err();
        let limits = ShrinkLimits {
            runs: 7,
            ..ShrinkLimits::default()
        };
        let shrunk = shrink(&failure, limits, |schedule| outcome(schedule, fails));
        assert_eq!(shrunk.runs, 7);
        let limits = ShrinkLimits {
            time: Duration::ZERO,
            ..ShrinkLimits::default()
        };
        assert_eq!(
            shrink(&failure, limits, |schedule| outcome(schedule, fails)).runs,
            0
        );
    }

    #[test]
    fn another_failure_is_another_matter() {
        let schedule = Chaos::level(5).schedule(1, &["a", "b"]);
        let failure = outcome(&schedule, |_| true).unwrap_err();
        let other = |tried: &Schedule| {
            let mut other = outcome(tried, |_| true);
            if let Err(failure) = &mut other {
                failure.cause = Cause::Scenario("something else".to_owned());
            }
            other
        };
        let shrunk = shrink(&failure, ShrinkLimits::default(), other);
        assert_eq!(shrunk.failure.report.schedule, schedule);
    }
}
