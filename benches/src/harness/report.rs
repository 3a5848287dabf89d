//! The results of a run, as written to the JSON file: medians, spreads, ratios, goals.
//!
//! The table and the plots are drawn only from this.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::{Against, Better, Case, Goal, Kind, Sample};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout.
    pub format: u32,
    /// The machine of the run.
    pub machine: Machine,
    /// Measurements per contestant.
    pub rounds: usize,
    /// The share of the full work that each measurement did.
    pub effort: f64,
    /// The rows.
    pub rows: Vec<RowReport>,
}

/// The machine of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of processors that this process may use.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
}

/// One row.
#[derive(Debug, Serialize, Deserialize)]
pub struct RowReport {
    /// Its number.
    pub number: u32,
    /// The subject of the measurement.
    pub title: String,
    /// The method.
    pub method: String,
    /// The cases.
    pub cases: Vec<CaseReport>,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

/// One case.
#[derive(Debug, Serialize, Deserialize)]
pub struct CaseReport {
    /// A description of the work.
    pub name: String,
    /// The unit of the figures.
    pub unit: String,
    /// The direction in which the unit improves.
    pub better: Better,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One contestant's result.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// The contestant's name.
    pub name: String,
    /// Its role.
    pub kind: Kind,
    /// One figure per round.
    pub samples: Vec<f64>,
    /// The median of the samples, if there are any.
    pub median: Option<f64>,
    /// Our first line's median divided by this line's median.
    pub ours_to_this: Option<f64>,
    /// Medians of the further values.
    pub extra: BTreeMap<String, f64>,
    /// The goals for this line.
    pub goals: Vec<GoalReport>,
}

/// A goal and whether it was met.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoalReport {
    /// The goal as printed.
    pub text: String,
    /// Whether it was met; `None` if one of the two has no figure.
    pub met: Option<bool>,
}

/// Returns the median of some figures.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Computes medians, ratios and goals of a case, from its contestants' samples in the same order.
pub fn summarize(case: &Case, samples: Vec<Vec<Sample>>) -> CaseReport {
    let mut lines: Vec<Line> = case
        .contestants
        .iter()
        .zip(samples)
        .map(|(c, s)| line(&c.name, c.kind, s))
        .collect();
    let ours = lines
        .iter()
        .find(|line| line.kind == Kind::Ours)
        .and_then(|line| line.median);
    for line in &mut lines {
        line.ours_to_this = ours.zip(line.median).map(|(ours, this)| ours / this);
    }
    if let Some(first) = lines.iter_mut().find(|line| line.kind == Kind::Ours) {
        first.ours_to_this = None;
    }
    for goal in &case.goals {
        judge(goal, case.unit.better, case.unit.name, &mut lines);
    }
    CaseReport {
        name: case.name.clone(),
        unit: case.unit.name.to_owned(),
        better: case.unit.better,
        lines,
    }
}

fn line(name: &str, kind: Kind, samples: Vec<Sample>) -> Line {
    let figures: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    let mut seen: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, value) in samples.iter().flat_map(|sample| &sample.extra) {
        seen.entry(key.clone()).or_default().push(*value);
    }
    let extra = seen
        .into_iter()
        .filter_map(|(key, values)| Some((key, median(&values)?)))
        .collect();
    let median = median(&figures);
    Line {
        name: name.to_owned(),
        kind,
        samples: figures,
        median,
        ours_to_this: None,
        extra,
        goals: Vec::new(),
    }
}

/// Adds a goal to its line: to ours if the goal is absolute, otherwise to the other contestant's.
fn judge(goal: &Goal, better: Better, unit: &str, lines: &mut [Line]) {
    let several_of_ours = lines.iter().filter(|line| line.kind == Kind::Ours).count() > 1;
    let ours = lines
        .iter()
        .find(|line| line.name == goal.ours)
        .and_then(|line| line.median);
    let (sign, fits): (&str, fn(f64, f64) -> bool) = match better {
        Better::Lower => ("<=", |figure, limit| figure <= limit),
        Better::Higher => (">=", |figure, limit| figure >= limit),
    };
    for line in lines {
        let (about, figure, text) = match &goal.against {
            Against::Absolute => (
                line.name == goal.ours,
                ours,
                format!("{sign} {} {unit}", super::table::number(goal.limit)),
            ),
            Against::Contestant(name) => (
                &line.name == name,
                ratio(ours, line.median),
                times(sign, goal.limit),
            ),
            Against::EveryPeer => (
                line.kind == Kind::Peer,
                ratio(ours, line.median),
                times(sign, goal.limit),
            ),
        };
        if about {
            let whose = if several_of_ours {
                format!("{} ", goal.ours)
            } else {
                String::new()
            };
            let met = figure.map(|figure| fits(figure, goal.limit));
            line.goals.push(GoalReport {
                text: format!("{whose}{text}"),
                met,
            });
        }
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    ours.zip(theirs).map(|(ours, theirs)| ours / theirs)
}

fn times(sign: &str, limit: f64) -> String {
    format!("{sign} {limit} x")
}

/// Describes this machine.
pub fn machine() -> Machine {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let name = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        processor: name.map_or("unknown", |(_, name)| name).to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::model::Unit;

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().copied().map(Sample::of).collect()
    }

    fn unused(_: crate::harness::Effort) -> Result<Sample, crate::harness::Problem> {
        Ok(Sample::of(0.0))
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_time_goal_is_met_when_ours_is_at_most_the_limit() {
        let case = Case::new("c", Unit::time("ns"))
            .ours("yue", unused)
            .peer("may", unused)
            .peer("tokio", unused)
            .goal("yue", Against::Absolute, 20.0)
            .goal_against("yue", "may", 0.3)
            .goal("yue", Against::EveryPeer, 0.5);
        let report = summarize(
            &case,
            vec![
                samples(&[30.0, 10.0, 20.0]),
                samples(&[100.0]),
                samples(&[30.0]),
            ],
        );
        let met = |line: usize| {
            report.lines[line]
                .goals
                .iter()
                .map(|goal| goal.met)
                .collect::<Vec<_>>()
        };
        assert_eq!(met(0), [Some(true)]);
        assert_eq!(met(1), [Some(true), Some(true)]);
        assert_eq!(met(2), [Some(false)]);
        assert_eq!(report.lines[1].ours_to_this, Some(0.2));
    }

    #[test]
    fn a_rate_goal_is_met_when_ours_is_at_least_the_limit() {
        let case = Case::new("c", Unit::rate("calls/s"))
            .ours("yue", unused)
            .peer("p", unused)
            .goal_against("yue", "p", 10.0);
        let report = summarize(&case, vec![samples(&[99.0]), samples(&[10.0])]);
        assert_eq!(report.lines[1].goals[0].met, Some(false));
    }

    #[test]
    fn a_goal_without_a_figure_is_neither_met_nor_missed() {
        let case = Case::new("c", Unit::time("ns"))
            .ours("yue", unused)
            .peer("p", unused)
            .goal_against("yue", "p", 1.0);
        let report = summarize(&case, vec![samples(&[1.0]), Vec::new()]);
        assert_eq!(report.lines[1].goals[0].met, None);
    }
}
