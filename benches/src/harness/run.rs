//! Runs the rows: interleaves rounds between contestants, and runs each measurement in a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use super::model::{Case, Contestant, Effort, Kind, Problem, Row, Sample};
use super::process;
use super::report::{self, CaseReport, RowReport};

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Measurements per contestant; the figure is their median.
    pub rounds: usize,
    /// The amount of work of each measurement.
    pub effort: Effort,
}

/// Measures every contestant of every row.
pub fn run_rows(rows: Vec<Row>, settings: Settings) -> Vec<RowReport> {
    rows.into_iter().map(|row| run_row(row, settings)).collect()
}

fn run_row(row: Row, settings: Settings) -> RowReport {
    let mut cases: Vec<CaseReport> = Vec::new();
    let mut missing = Missing::default();
    for (index, case) in row.cases.iter().enumerate() {
        cases.push(run_case(&row, index, case, settings, &mut missing));
    }
    progress("");
    let notes = row.notes.iter().cloned().chain(missing.notes()).collect();
    RowReport {
        number: row.number,
        title: row.title.to_owned(),
        method: row.method.to_owned(),
        cases,
        notes,
    }
}

fn run_case(
    row: &Row,
    index: usize,
    case: &Case,
    settings: Settings,
    missing: &mut Missing,
) -> CaseReport {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); case.contestants.len()];
    let mut problems: Vec<Option<Problem>> = case.contestants.iter().map(|_| None).collect();
    for round in 0..settings.rounds {
        for step in 0..case.contestants.len() {
            // Each round starts with a different contestant, so that none always follows the heaviest one.
            let which = (step + round) % case.contestants.len();
            let contestant = &case.contestants[which];
            if problems[which].is_some() || (contestant.kind == Kind::Seen && round > 0) {
                continue;
            }
            progress(&format!(
                "row {} · {} · round {}/{} · {}",
                row.number,
                case.name,
                round + 1,
                settings.rounds,
                contestant.name
            ));
            match measure(row.number, index, contestant, settings) {
                Ok(sample) => samples[which].push(sample),
                Err(problem) => problems[which] = Some(problem),
            }
        }
    }
    for (contestant, problem) in case.contestants.iter().zip(&problems) {
        if let Some(problem) = problem {
            missing.add(&contestant.name, &case.name, problem);
        }
    }
    report::summarize(case, samples)
}

fn measure(
    row: u32,
    case: usize,
    contestant: &Contestant,
    settings: Settings,
) -> Result<Sample, Problem> {
    if contestant.kind == Kind::Seen {
        return (contestant.measure)(settings.effort);
    }
    let arguments = [
        "measure".to_owned(),
        row.to_string(),
        case.to_string(),
        contestant.name.clone(),
        format!("--effort={}", settings.effort.0),
    ];
    let command = process::own_program(&arguments.each_ref().map(String::as_str))?;
    run_measurement(command)
}

/// The contestants without a figure, and the reasons. Each reason is printed once.
#[derive(Debug, Default)]
struct Missing(BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>);

impl Missing {
    fn add(&mut self, contestant: &str, case: &str, problem: &Problem) {
        let (contestants, cases) = self.0.entry(problem.to_string()).or_default();
        contestants.insert(contestant.to_owned());
        cases.insert(case.to_owned());
    }

    fn notes(self) -> impl Iterator<Item = String> {
        let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
        self.0
            .into_iter()
            .map(move |(problem, (contestants, cases))| {
                format!(
                    "no figure for {} ({}): {problem}",
                    list(contestants),
                    list(cases)
                )
            })
    }
}

/// Runs a measuring child. The last line of its output is the sample.
fn run_measurement(mut command: Command) -> Result<Sample, Problem> {
    process::die_with_parent(&mut command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let mut lines = complaint
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        // A panic prints its location in the first line and its message in the second.
        let why = match lines.next() {
            Some(first) if first.contains("panicked at") => lines.next().unwrap_or(first),
            first => first.unwrap_or("no message"),
        };
        // If the child reported a reason, pass it on; if it died, add its exit status.
        return Err(Problem::failed(match why.strip_prefix("yue-figures: ") {
            Some(reason) => reason.to_owned(),
            None => format!("{} ({why})", output.status),
        }));
    }
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line)
        .map_err(|error| Problem::failed(format!("not a sample: {line:?} ({error})")))
}

/// Runs in the child: measures one contestant in this process and prints the sample.
///
/// # Errors
///
/// When there is no such contestant, or measuring it fails.
pub fn measure_here(
    rows: Vec<Row>,
    row: u32,
    case: usize,
    name: &str,
    effort: Effort,
) -> Result<(), Problem> {
    let found = rows
        .iter()
        .find(|candidate| candidate.number == row)
        .and_then(|row| row.cases.get(case))
        .and_then(|case| {
            case.contestants
                .iter()
                .find(|contestant| contestant.name == name)
        });
    let contestant = found.ok_or_else(|| {
        Problem::failed(format!("no contestant {name:?} in row {row}, case {case}"))
    })?;
    let sample = (contestant.measure)(effort)?;
    let line =
        serde_json::to_string(&sample).map_err(|error| Problem::failed(error.to_string()))?;
    println!("{line}");
    Ok(())
}

/// Shows one line on stderr if it is a terminal; the next call replaces it.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Failing to show progress is harmless.
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}
