//! What a run found, as written to the JSON: medians, spreads, ratios, goals.
//!
//! The table and the plots are drawn from this and from nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::{Against, Better, Case, Goal, Kind, Sample};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout.
    pub format: u32,
    /// The machine it ran on.
    pub machine: Machine,
    /// Measurements per contestant.
    pub rounds: usize,
    /// How much of the full work each did.
    pub effort: f64,
    /// The rows.
    pub rows: Vec<RowReport>,
}

/// The machine of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many processors this process may use.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
}

/// One row.
#[derive(Debug, Serialize, Deserialize)]
pub struct RowReport {
    /// Its number.
    pub number: u32,
    /// What was measured.
    pub title: String,
    /// How.
    pub method: String,
    /// The cases.
    pub cases: Vec<CaseReport>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// One case.
#[derive(Debug, Serialize, Deserialize)]
pub struct CaseReport {
    /// What the work is.
    pub name: String,
    /// What the figures are counted in.
    pub unit: String,
    /// Which way the unit is good.
    pub better: Better,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One contestant's result.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// Who.
    pub name: String,
    /// What it is to us.
    pub kind: Kind,
    /// One figure per round.
    pub samples: Vec<f64>,
    /// Their median, if there is any.
    pub median: Option<f64>,
    /// The first of ours divided by this one, as the medians stand.
    pub ours_to_this: Option<f64>,
    /// Medians of what else was seen.
    pub extra: BTreeMap<String, f64>,
    /// The goals that are about this line.
    pub goals: Vec<GoalReport>,
}

/// A goal and whether it was met.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoalReport {
    /// As printed.
    pub text: String,
    /// `None`: one of the two has no figure.
    pub met: Option<bool>,
}

/// The median of some figures.
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

/// Medians, ratios and goals of a case, from the samples of its contestants in the same order.
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

/// Writes a goal to the line it is about: ours if it is absolute, else the other one.
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
    fn a_time_goal_is_met_when_ours_takes_no_longer() {
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
    fn a_rate_goal_is_met_when_ours_does_no_fewer() {
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
