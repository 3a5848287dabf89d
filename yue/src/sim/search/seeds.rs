//! The search itself.

use super::super::settings::{self, FAULTS};
use super::super::shrink::{ShrinkLimits, Shrunk, shrink};
use super::super::{Cause, Failure, Report, Schedule, recorder};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use yue_scheduler::simulation;

/// The number of first seeds that run twice.
const TWICE: usize = 5;

/// The number of the trace's last lines that a failure shows.
const LAST_LINES: usize = 20;

/// Seeds to run, one after the other.
#[derive(Debug, Clone)]
pub struct Search {
    seeds: Range<u64>,
    step: u64,
    faults: Option<Schedule>,
    twice: usize,
    limits: ShrinkLimits,
}

/// A seed that fails.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// The failure, with the smallest schedule of faults that was found.
    pub failure: Failure,
    /// The number of faults before they were shrunk.
    pub faults: usize,
    /// The number of runs that shrinking took; 0 if there was nothing to shrink.
    pub shrink_runs: usize,
}

impl Search {
    /// A search of these seeds.
    pub fn new(seeds: Range<u64>) -> Search {
        Search {
            seeds,
            step: 1,
            faults: None,
            twice: TWICE,
            limits: ShrinkLimits::default(),
        }
    }

    /// Parses what `YUE_SIM_SEED` may contain: `17`, `10..20`, or `10..20/2` for every second seed.
    pub fn parse(text: &str) -> Option<Search> {
        let (seeds, step) = parse(text)?;
        Some(Search {
            step,
            ..Search::new(seeds)
        })
    }

    /// Replaces the faults of all runs. They are not shrunk: somebody has chosen them.
    pub fn faults(mut self, faults: Schedule) -> Search {
        self.faults = Some(faults);
        self
    }

    /// Sets how many of the first seeds run twice, to see that the outcome is the same; 5 by default.
    pub fn twice(mut self, seeds: usize) -> Search {
        self.twice = seeds;
        self
    }

    /// Runs the seeds, and returns the report of the last.
    ///
    /// # Errors
    /// The first seed that failed, with its faults shrunk.
    pub fn run(
        &self,
        run: impl Fn(u64) -> Result<Report, Failure>,
    ) -> Result<Option<Report>, Box<Found>> {
        silence_panics_of_failed_runs();
        let mut last = None;
        let seeds = self.seeds.clone().step_by(self.step.max(1) as usize);
        for (index, seed) in seeds.enumerate() {
            let attempt = || settings::in_search(self.faults.clone(), || run(seed));
            let outcome = attempt();
            if index < self.twice {
                let again = attempt();
                if outcome != again {
                    return Err(Box::new(found_difference(seed, outcome, &again)));
                }
            }
            match outcome {
                Ok(report) => last = Some(report),
                Err(failure) => return Err(Box::new(self.shrink(seed, failure, &run))),
            }
        }
        Ok(last)
    }

    /// Whether there is one seed alone.
    pub(super) fn is_single(&self) -> bool {
        self.seeds.end - self.seeds.start == 1
    }

    fn shrink(
        &self,
        seed: u64,
        failure: Failure,
        run: &impl Fn(u64) -> Result<Report, Failure>,
    ) -> Found {
        let mut limits = self.limits;
        if self.faults.is_some() || std::env::var_os(FAULTS).is_some() {
            limits.runs = 0;
        }
        IS_SHRINKING.store(true, Ordering::Relaxed);
        let Shrunk {
            failure: smallest,
            runs,
        } = shrink(&failure, limits, |schedule| {
            settings::in_search(Some(schedule.clone()), || run(seed))
        });
        IS_SHRINKING.store(false, Ordering::Relaxed);
        Found {
            seed,
            faults: failure.report.schedule.len(),
            failure: smallest,
            shrink_runs: runs,
        }
    }
}

/// A seed with two outcomes is a failure of its own kind, and tells nothing about faults.
fn found_difference(
    seed: u64,
    outcome: Result<Report, Failure>,
    again: &Result<Report, Failure>,
) -> Found {
    let text = format!(
        "there are two outcomes, so the run depends on more than its seed: a clock, random numbers or files of the \
         system, or the order of a hash table\n  {}\n  {}",
        shown(&outcome),
        shown(again)
    );
    let report = outcome.unwrap_or_else(|failure| *failure.report);
    Found {
        seed,
        faults: report.schedule.len(),
        failure: Failure::new(Cause::Scenario(text), report),
        shrink_runs: 0,
    }
}

fn shown(outcome: &Result<Report, Failure>) -> String {
    match outcome {
        Ok(report) => format!(
            "well, after {:?}, digest {:x}",
            report.elapsed, report.digest
        ),
        Err(failure) => failure.to_string(),
    }
}

impl Found {
    /// Describes the run that failed: the reason, the faults, the end of the trace, and how to see it again. `command`
    /// repeats the run; the variable with the faults is put before it. `more` says where more is to be seen.
    pub fn describe(&self, command: &str, more: &str) -> String {
        let report = &self.failure.report;
        let mut text = format!("seed {}: {}\n", self.seed, self.failure);
        // Writing to a String cannot fail.
        let _ = match (self.faults, self.shrink_runs, report.schedule.len()) {
            (0, ..) => Ok(()),
            (_, 0, _) => writeln!(text, "faults:"),
            (all, runs, 0) => writeln!(
                text,
                "it fails without any of its {all} faults, too ({runs} runs)"
            ),
            (all, runs, left) => {
                writeln!(
                    text,
                    "the faults that matter, {left} of {all} after {runs} runs:"
                )
            }
        };
        for fault in report.schedule.faults() {
            let _ = writeln!(text, "    {fault}");
        }
        let _ = write!(text, "{}", report.unread_text());
        let lines = report.last_lines(LAST_LINES);
        let _ = writeln!(text, "the end of the trace:\n{}", lines.trim_end());
        let _ = writeln!(text, "{}", more.trim_end());
        let _ = write!(text, "run it again: {}{command}", self.variable());
        text
    }

    /// The variable with the faults, as a shell takes it, and a blank; empty if the run had none.
    fn variable(&self) -> String {
        let faults = self.failure.report.schedule.faults().iter();
        let faults: Vec<_> = faults.map(|one| one.to_string()).collect();
        match self.faults {
            0 => String::new(),
            // Names of hosts have no quotes, and nothing else in a schedule has any.
            _ => format!("{FAULTS}='{}' ", faults.join("; ")),
        }
    }
}

/// Whether runs fail by the hundred.
static IS_SHRINKING: AtomicBool = AtomicBool::new(false);

/// Keeps panics off standard error that nobody needs to see: those of a run that has failed already, whose waits all
/// fail, and those of runs with fewer faults.
fn silence_panics_of_failed_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_known = IS_SHRINKING.load(Ordering::Relaxed) || recorder::has_failed();
            if !(is_known && simulation::is_on()) {
                before(info);
            }
        }));
    });
}

/// Parses `17`, `10..20` and `10..20/2`.
fn parse(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, step) = text.split_once('/').unwrap_or((text, "1"));
    let step = step.parse().ok().filter(|step| *step > 0)?;
    let range = match range.split_once("..") {
        Some((first, end)) => first.trim().parse().ok()?..end.trim().parse().ok()?,
        None => {
            let seed: u64 = range.trim().parse().ok()?;
            seed..seed.checked_add(1)?
        }
    };
    Some((range, step))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn seeds_are_written_alone_or_as_a_range() {
        assert_eq!(parse("17"), Some((17..18, 1)));
        assert_eq!(parse("10..20"), Some((10..20, 1)));
        assert_eq!(parse("10..20/2"), Some((10..20, 2)));
        for wrong in ["", "x", "1..", "1/0", "-1", "18446744073709551615"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
