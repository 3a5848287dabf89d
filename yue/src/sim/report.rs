//! The outcome of a run: its report, and the cause if it failed.

use super::recorder::{Mark, Recorded};
use super::{Line, Record, Schedule, trace};
use std::fmt;
use std::time::Duration;
use yue_scheduler::Instant;

/// The record of a run.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The virtual time that the scenario took, until the failure if the run failed.
    pub elapsed: Duration,
    /// A hash of all choices of the run, until the failure if the run failed. It is equal for equal runs.
    pub digest: u64,
    /// The names of the hosts, by the numbers that records have. The first is `scenario`.
    pub hosts: Vec<String>,
    /// The faults that the run was given.
    pub schedule: Schedule,
    /// The records of the network, in order, until the failure if the run failed.
    pub trace: Vec<Record>,
    /// The virtual time at its beginning.
    pub(super) began: Instant,
    /// The lines that hosts with Lua programs have printed and logged, in order.
    pub output: Vec<Line>,
    /// The failures of Lua fibers that nobody has read until the end of the run, in order. The time is that of the
    /// failure; the text has several lines, with the traceback.
    pub unread: Vec<Line>,
    /// Faults and notes, in order.
    pub(super) marks: Vec<Mark>,
}

/// A run that failed.
#[derive(Clone, PartialEq, thiserror::Error)]
#[error("{cause}")]
#[non_exhaustive]
pub struct Failure {
    /// The reason.
    pub cause: Cause,
    /// The record of the run until then.
    pub report: Box<Report>,
}

/// The reason why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// An invariant did not hold.
    #[error("after {at:?}: {name}")]
    Invariant {
        /// Its name, as given to [`Control::always`](super::Control::always) or
        /// [`Control::eventually`](super::Control::eventually).
        name: String,
        /// The virtual time since the beginning.
        at: Duration,
    },
    /// The main function of a host panicked.
    #[error("the host {host} panicked: {text}")]
    Panicked {
        /// The name of the host.
        host: String,
        /// The panic message.
        text: String,
    },
    /// The script of a host raised an error.
    #[error("the program of the host {host} failed: {text}")]
    Raised {
        /// The name of the host.
        host: String,
        /// The error, with its traceback.
        text: String,
    },
    /// The scenario panicked, or the simulation could not continue.
    #[error("{0}")]
    Scenario(String),
}

/// More unread failures than anybody reads are counted.
const MOST_UNREAD: usize = 10;

impl Report {
    pub(super) fn new(seed: u64, seen: Recorded) -> Report {
        Report {
            seed,
            elapsed: seen.elapsed,
            digest: seen.digest,
            hosts: seen.hosts,
            schedule: seen.schedule,
            trace: seen.trace,
            began: seen.began,
            output: seen.output,
            unread: seen.unread,
            marks: seen.marks,
        }
    }

    /// The trace as text: a line for each message, connection, fault and [`note`](super::note), with the virtual time.
    /// Lines that repeat are shown once, with the number of their repetitions. Packets without a payload are left out,
    /// unless they are lost.
    ///
    /// ```text
    ///     1.203114s  customer -> bank  #1 tcp 7000  sent 31 B
    ///     1.203200s  *** partition bank customer
    /// ```
    pub fn trace_text(&self) -> String {
        trace::text(self, usize::MAX)
    }

    /// The last lines of [`Report::trace_text`].
    pub fn last_lines(&self, lines: usize) -> String {
        trace::text(self, lines)
    }

    /// The timeline: an HTML page with a drawing of the trace, complete in itself. Each host is a lane, time runs
    /// downwards, and messages are arrows. Long times without events are shortened, and of a long trace only what is
    /// near faults, notes and the failure is drawn.
    pub fn timeline(&self) -> String {
        trace::timeline(self)
    }

    /// [`Report::unread`] as text: a heading, and the first line of each. Empty if there are none.
    pub fn unread_text(&self) -> String {
        if self.unread.is_empty() {
            return String::new();
        }
        let mut text = "failures that nobody has read:\n".to_owned();
        for line in self.unread.iter().take(MOST_UNREAD) {
            let first = line.text.lines().next().unwrap_or("");
            let shown = Line {
                text: first.to_owned(),
                ..line.clone()
            };
            text += &format!("    {shown}\n");
        }
        if self.unread.len() > MOST_UNREAD {
            text += &format!("    and {} more\n", self.unread.len() - MOST_UNREAD);
        }
        text
    }

    /// The name of a host by its number.
    pub(super) fn host(&self, number: u32) -> &str {
        self.hosts.get(number as usize).map_or("?", String::as_str)
    }
}

impl fmt::Debug for Report {
    /// Shows the number of records, which may be a million, instead of all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("seed", &self.seed)
            .field("elapsed", &self.elapsed)
            .field("digest", &self.digest)
            .field("hosts", &self.hosts)
            .field("faults", &self.schedule.len())
            .field("records", &self.trace.len())
            .finish()
    }
}

impl Failure {
    pub(super) fn new(cause: Cause, report: Report) -> Failure {
        Failure {
            cause,
            report: Box::new(report),
        }
    }

    /// Whether the other run failed in the same way: the same invariant, or a panic with the same text but for numbers.
    pub fn is_like(&self, other: &Failure) -> bool {
        match (&self.cause, &other.cause) {
            (Cause::Invariant { name: one, .. }, Cause::Invariant { name: other, .. }) => {
                one == other
            }
            (Cause::Panicked { text: one, .. }, Cause::Panicked { text: other, .. })
            | (Cause::Raised { text: one, .. }, Cause::Raised { text: other, .. })
            | (Cause::Scenario(one), Cause::Scenario(other)) => {
                without_numbers(one) == without_numbers(other)
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Failure {
    /// Writes the line that `unwrap` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.report.seed, self.cause)
    }
}

/// Returns the first line without its digits: `client17 got 3` and `client2 got 4` are one fault.
fn without_numbers(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}
