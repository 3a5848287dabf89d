//! The model of the table: a row has cases, a case has contestants and goals, a contestant can be measured.
//!
//! All of this is data but [`Contestant::measure`], which does the work. It runs in a process of its own, so nothing
//! here is shared between threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which way a unit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Times: less is better.
    Lower,
    /// Rates: more is better.
    Higher,
}

/// What a case's figures are counted in.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// As printed after the number, e.g. `ns/yield`.
    pub name: &'static str,
    /// Which way it is good.
    pub better: Better,
}

impl Unit {
    /// A time: less is better.
    pub const fn time(name: &'static str) -> Unit {
        Unit {
            name,
            better: Better::Lower,
        }
    }

    /// A rate: more is better.
    pub const fn rate(name: &'static str) -> Unit {
        Unit {
            name,
            better: Better::Higher,
        }
    }
}

/// What a contestant is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of yue.
    Ours,
    /// What a user would pick instead.
    Peer,
    /// The same work with nothing around it: nobody should beat it.
    Ceiling,
    /// Serves the same purpose by doing less, and is shown for scale: no goal and no ceiling is about it.
    Aside,
    /// A figure seen earlier on this kind of machine; it was not measured in this run.
    Seen,
}

/// One measurement's result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The figure, in the case's unit.
    pub value: f64,
    /// What else was seen on the way; the key ends in its unit, e.g. `p99_us`.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
}

impl Sample {
    /// A sample of nothing but the figure.
    pub fn of(value: f64) -> Sample {
        Sample {
            value,
            extra: BTreeMap::new(),
        }
    }

    /// The same with one more thing that was seen.
    pub fn with(mut self, key: &str, value: f64) -> Sample {
        self.extra.insert(key.to_owned(), value);
        self
    }
}

/// Why a contestant has no figure.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Something that must be installed is not.
    #[error("{0} was not found on the PATH")]
    NotFound(String),
    /// The operating system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Anything else; the text says what.
    #[error("{0}")]
    Failed(String),
}

impl Problem {
    /// A problem described by `text`.
    pub fn failed(text: impl Into<String>) -> Problem {
        Problem::Failed(text.into())
    }
}

/// How much work a measurement does: 1 is the published amount, `--quick` a tenth of it.
#[derive(Clone, Copy, Debug)]
pub struct Effort(pub f64);

impl Effort {
    /// `full` pieces of work at full effort, fewer at less, never none.
    pub fn count(self, full: usize) -> usize {
        ((full as f64 * self.0) as usize).max(1)
    }

    /// How long to measure where the work is bounded by time: `full` seconds at full effort, never under 0.2 s.
    pub fn seconds(self, full: f64) -> f64 {
        (full * self.0).max(0.2)
    }
}

/// The work of a contestant: warms up, measures, gives one sample.
pub type Measure = Box<dyn Fn(Effort) -> Result<Sample, Problem>>;

/// One line of a case.
pub struct Contestant {
    /// Its name, unique within the case.
    pub name: String,
    /// What it is to us.
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

/// What a figure of ours is held against.
#[derive(Clone, Debug)]
pub enum Against {
    /// A number in the case's unit.
    Absolute,
    /// The ratio ours / theirs.
    Contestant(String),
    /// The same ratio, for each peer of the case.
    EveryPeer,
}

/// A goal: at most `limit` where less is better, at least where more is.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Which of ours it is about.
    pub ours: String,
    /// What it is held against.
    pub against: Against,
    /// The bound.
    pub limit: f64,
}

/// One set of contestants that do the same work.
#[derive(Debug)]
pub struct Case {
    /// What the work is.
    pub name: String,
    /// What its figures are counted in.
    pub unit: Unit,
    /// Who does it. The first of ours is the one that ratios are taken of.
    pub contestants: Vec<Contestant>,
    /// What is aimed at.
    pub goals: Vec<Goal>,
}

impl Case {
    /// A case with nobody in it yet.
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

    /// Adds one of ours.
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

    /// Adds something that serves the same purpose by doing less: it is measured, but nothing is held to it.
    pub fn aside(
        self,
        name: impl Into<String>,
        measure: impl Fn(Effort) -> Result<Sample, Problem> + 'static,
    ) -> Case {
        self.add(Kind::Aside, name, measure)
    }

    /// Adds a figure that was seen earlier and cannot be measured here.
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
    /// What is measured.
    pub title: &'static str,
    /// How, in a sentence or two: what one unit of work is.
    pub method: &'static str,
    /// The cases.
    pub cases: Vec<Case>,
    /// What a reader should know about this run, e.g. which programs were not found.
    pub notes: Vec<String>,
}
