//! Renders the table for standard output.

use std::fmt::Write;

use super::model::Kind;
use super::report::{CaseReport, GoalReport, Line, Report, RowReport};

const HEAD: [&str; 5] = [
    "contestant",
    "median",
    "lowest .. highest",
    "ours / this",
    "goal",
];

/// Renders the whole report as text.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "{} processors ({}), Linux {}; medians of {} rounds",
        machine.processors, machine.processor, machine.kernel, report.rounds
    );
    for row in &report.rows {
        render_row(&mut text, row);
    }
    text
}

fn render_row(text: &mut String, row: &RowReport) {
    let _ = writeln!(text, "\n{}. {}\n   {}", row.number, row.title, row.method);
    let cases: Vec<(&CaseReport, Vec<[String; 5]>)> = row
        .cases
        .iter()
        .map(|case| {
            (
                case,
                case.lines.iter().map(|line| cells(case, line)).collect(),
            )
        })
        .collect();
    let mut widths = HEAD.map(|title| title.chars().count());
    for cells in cases.iter().flat_map(|(_, lines)| lines) {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    write_cells(text, &HEAD.map(str::to_owned), &widths);
    for (case, lines) in &cases {
        let _ = writeln!(text, "   {} ({})", case.name, case.unit);
        for (cells, line) in lines.iter().zip(&case.lines) {
            write_cells(text, cells, &widths);
            write_extra(text, line);
        }
    }
    for note in &row.notes {
        let _ = writeln!(text, "   note: {note}");
    }
}

fn cells(case: &CaseReport, line: &Line) -> [String; 5] {
    let (low, high) = line
        .samples
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| {
            (low.min(*figure), high.max(*figure))
        });
    let range = match line.kind {
        Kind::Seen => "seen earlier, not in this run".to_owned(),
        _ if line.samples.is_empty() => String::new(),
        _ => format!("{} .. {}", number(low), number(high)),
    };
    let median = line.median.map_or("-".to_owned(), number);
    let ratio = line
        .ours_to_this
        .map_or(String::new(), |ratio| format!("{} x", number(ratio)));
    let role = match line.kind {
        Kind::Ours => "",
        Kind::Peer => " (peer)",
        Kind::Ceiling => " (ceiling)",
        Kind::Aside => " (for scale)",
        Kind::Seen => " (seen)",
    };
    let name = format!("{}{role}", line.name);
    let beaten = line.kind == Kind::Ceiling && is_beaten(case, line);
    let mut goal = line
        .goals
        .iter()
        .map(goal_text)
        .collect::<Vec<_>>()
        .join(", ");
    if beaten {
        goal.push_str(if goal.is_empty() {
            "beaten by a peer: not a ceiling"
        } else {
            "; beaten by a peer: not a ceiling"
        });
    }
    [name, median, range, ratio, goal]
}

/// Whether a peer beats a ceiling by more than noise; the table then says so. If a case has several ceilings, only the
/// best one is compared.
fn is_beaten(case: &CaseReport, ceiling: &Line) -> bool {
    const NOISE: f64 = 1.05;
    let lower = case.better == super::model::Better::Lower;
    // Inverted where more is better, so that the smallest is always the best.
    let cost = |figure: f64| if lower { figure } else { 1.0 / figure };
    let best = |kind: Kind| {
        let figures = case
            .lines
            .iter()
            .filter(|line| line.kind == kind)
            .filter_map(|line| line.median);
        figures.map(cost).fold(f64::INFINITY, f64::min)
    };
    let this = ceiling.median.map_or(f64::INFINITY, cost);
    this.is_finite() && this <= best(Kind::Ceiling) && best(Kind::Peer) * NOISE < this
}

fn goal_text(goal: &GoalReport) -> String {
    let verdict = match goal.met {
        Some(true) => "met",
        Some(false) => "NOT met",
        None => "not measured",
    };
    format!("{}: {verdict}", goal.text)
}

fn write_cells(text: &mut String, cells: &[String; 5], widths: &[usize; 5]) {
    let [name, median, range, ratio, goal] = cells;
    let [w0, w1, w2, w3, _] = widths;
    let line = format!("     {name:<w0$}  {median:>w1$}  {range:<w2$}  {ratio:>w3$}  {goal}");
    let _ = writeln!(text, "{}", line.trim_end());
}

fn write_extra(text: &mut String, line: &Line) {
    if !line.extra.is_empty() {
        let all: Vec<String> = line
            .extra
            .iter()
            .map(|(key, value)| format!("{key} {}", number(*value)))
            .collect();
        let _ = writeln!(text, "       {}", all.join(", "));
    }
}

/// Formats a count with its thousands separated.
pub fn count(value: usize) -> String {
    grouped(&value.to_string())
}

/// Formats a number with about three significant digits and its thousands separated.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 || value == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 0.1 => 2,
        _ => 4,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain
        .split_once('.')
        .map_or((plain.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, whole) = whole
        .strip_prefix('-')
        .map_or(("", whole), |whole| ("-", whole));
    match rest {
        Some(rest) => format!("{sign}{}.{rest}", grouped(whole)),
        None => format!("{sign}{}", grouped(whole)),
    }
}

fn grouped(digits: &str) -> String {
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_group_thousands() {
        assert_eq!(number(1_234_567.8), "1 234 568");
        assert_eq!(number(100.0), "100");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.456), "0.46");
        assert_eq!(number(0.0123), "0.0123");
        assert_eq!(number(-1234.0), "-1 234");
        assert_eq!(count(64), "64");
        assert_eq!(count(10_000), "10 000");
    }
}
