//! The model of the table: a row has cases, a case has contestants and goals, and a contestant can be measured.
//!
//! All of this is data except [`Contestant::measure`], which does the work. It runs in a separate process, so nothing
//! here is shared between threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The direction in which a unit improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Times: less is better.
    Lower,
    /// Rates: more is better.
    Higher,
}

/// The unit of a case's figures.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// The text printed after the number, e.g. `ns/yield`.
    pub name: &'static str,
    /// The direction in which it improves.
    pub better: Better,
}

impl Unit {
    /// Creates a unit of time: less is better.
    pub const fn time(name: &'static str) -> Unit {
        Unit {
            name,
            better: Better::Lower,
        }
    }

    /// Creates a unit of rate: more is better.
    pub const fn rate(name: &'static str) -> Unit {
        Unit {
            name,
            better: Better::Higher,
        }
    }
}

/// The role of a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of yue.
    Ours,
    /// An alternative that a user might choose.
    Peer,
    /// The same work without a runtime: no contestant should beat it.
    Ceiling,
    /// Serves the same purpose by doing less; shown for scale. No goal or ceiling refers to it.
    Aside,
    /// A figure measured earlier on this kind of machine, not in this run.
    Seen,
}

/// The result of one measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The figure, in the case's unit.
    pub value: f64,
    /// Further values measured along the way. The key ends in the unit, e.g. `p99_us`.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
}

impl Sample {
    /// Creates a sample with just the figure.
    pub fn of(value: f64) -> Sample {
        Sample {
            value,
            extra: BTreeMap::new(),
        }
    }

    /// Adds a further value.
    pub fn with(mut self, key: &str, value: f64) -> Sample {
        self.extra.insert(key.to_owned(), value);
        self
    }
}

/// The reason why a contestant has no figure.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A required program is not installed.
    #[error("{0} was not found on the PATH")]
    NotFound(String),
    /// The operating system refused a call.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Any other reason; the text describes it.
    #[error("{0}")]
    Failed(String),
}

impl Problem {
    /// Creates a problem described by `text`.
    pub fn failed(text: impl Into<String>) -> Problem {
        Problem::Failed(text.into())
    }
}

/// The amount of work of a measurement: 1 is the published amount; `--quick` does a tenth of it.
#[derive(Clone, Copy, Debug)]
pub struct Effort(pub f64);

impl Effort {
    /// Scales a count: `full` at full effort, less otherwise, at least 1.
    pub fn count(self, full: usize) -> usize {
        ((full as f64 * self.0) as usize).max(1)
    }

    /// Scales the duration of time-bounded work: `full` seconds at full effort, at least 0.2 s, or less below
    /// the effort of `--quick`.
    pub fn seconds(self, full: f64) -> f64 {
        (full * self.0).max(f64::min(0.2, 2.0 * self.0))
    }
}

/// The work of a contestant: warms up, measures, and returns one sample.
pub type Measure = Box<dyn Fn(Effort) -> Result<Sample, Problem>>;

/// One line of a case.
pub struct Contestant {
    /// Its name, unique within the case.
    pub name: String,
    /// Its role.
    pub kind: Kind,
    /// Does the work.
    pub measure: Measure,
}

impl std::fmt::Debug for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contestant")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish()
    }
}

/// The reference that our figure is compared with.
#[derive(Clone, Debug)]
pub enum Against {
    /// A number in the case's unit.
    Absolute,
    /// The ratio ours / theirs.
    Contestant(String),
    /// The same ratio, for each peer of the case.
    EveryPeer,
}

/// A goal: at most `limit` where less is better, at least `limit` where more is better.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The name of our contestant.
    pub ours: String,
    /// The reference that it is compared with.
    pub against: Against,
    /// The bound.
    pub limit: f64,
}

/// One set of contestants that do the same work.
#[derive(Debug)]
pub struct Case {
    /// A description of the work.
    pub name: String,
    /// The unit of its figures.
    pub unit: Unit,
    /// The contestants. Ratios are relative to our first one.
    pub contestants: Vec<Contestant>,
    /// The goals.
    pub goals: Vec<Goal>,
}

impl Case {
    /// Creates a case without contestants.
    pub fn new(name: impl Into<String>, unit: Unit) -> Case {
        Case {
            name: name.into(),
            unit,
            contestants: Vec::new(),
            goals: Vec::new(),
        }
    }

    fn add(
        mut self,
        kind: Kind,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.contestants.push(Contestant {
            name: name.into(),
            kind,
            measure: Box::new(measure),
        });
        self
    }

    /// Adds one of our contestants.
    pub fn ours(
        self,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.add(Kind::Ours, name, measure)
    }

    /// Adds a peer.
    pub fn peer(
        self,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.add(Kind::Peer, name, measure)
    }

    /// Adds a ceiling.
    pub fn ceiling(
        self,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.add(Kind::Ceiling, name, measure)
    }

    /// Adds a contestant that serves the same purpose by doing less: it is measured, but not compared with.
    pub fn aside(
        self,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.add(Kind::Aside, name, measure)
    }

    /// Adds a figure that was measured earlier and cannot be measured here.
    pub fn seen(self, name: impl Into<String>, value: f64) -> Case {
        self.add(Kind::Seen, name, move |_| Ok(Sample::of(value)))
    }

    /// Adds a goal.
    pub fn goal(mut self, ours: &str, against: Against, limit: f64) -> Case {
        self.goals.push(Goal {
            ours: ours.to_owned(),
            against,
            limit,
        });
        self
    }

    /// Adds a goal against one contestant.
    pub fn goal_against(self, ours: &str, theirs: &str, limit: f64) -> Case {
        self.goal(ours, Against::Contestant(theirs.to_owned()), limit)
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// Its number in the table of performance goals.
    pub number: u32,
    /// The subject of the measurement.
    pub title: &'static str,
    /// The method in a sentence or two: what one unit of work is.
    pub method: &'static str,
    /// The cases.
    pub cases: Vec<Case>,
    /// Notes about this run, e.g. which programs were not found.
    pub notes: Vec<String>,
}
