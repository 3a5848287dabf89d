//! The page around the drawing: what failed, the faults, the meaning of the signs.

use super::drawing::Drawing;
use super::escape;
use super::story::Story;
use crate::sim::Report;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The signs, each with an element that shows it.
const LEGEND: [(&str, &str); 8] = [
    (
        r#"<path class="m c1" d="M2 4L26 12M20 7.1L26 12L18.6 13.2"/>"#,
        "message",
    ),
    (
        r#"<path class="m connect" d="M2 4L26 12M20 7.1L26 12L18.6 13.2"/>"#,
        "connection request",
    ),
    (
        r#"<path class="m c1" d="M2 4L18 10"/><path class="lost" d="M14 6L22 14M14 14L22 6"/>"#,
        "lost",
    ),
    (
        r#"<rect class="area partition" x="2" y="1" width="26" height="15"/>"#,
        "partition",
    ),
    (
        r#"<rect class="area link" x="2" y="1" width="26" height="15"/>"#,
        "slow or lossy link",
    ),
    (
        r#"<rect class="area crash" x="6" y="1" width="18" height="15"/>
<path class="edge crash" d="M10 4L20 14M10 14L20 4"/>"#,
        "crash",
    ),
    (
        r#"<rect class="area freeze" x="6" y="1" width="18" height="15"/>"#,
        "freeze",
    ),
    (r#"<circle class="note" cx="15" cy="9" r="4"/>"#, "note"),
];

/// The number of faults that are listed; the rest is counted.
const MOST_FAULTS: usize = 40;

pub(super) fn write(report: &Report, story: &Story, drawing: &Drawing) -> String {
    let (class, outcome) = match &story.failure {
        Some((_, text)) => ("failed", text.as_str()),
        None => ("passed", "passed"),
    };
    let outcome = escape(outcome);
    let seed = report.seed;
    let (width, height) = (drawing.width, drawing.height);
    let facts = facts(report, story);
    let (faults, legend) = (faults(report), legend());
    let (head, body) = (&drawing.head, &drawing.body);
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>seed {seed}: {outcome}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>seed {seed} <span class="{class}">{outcome}</span></h1>
<p class="facts">{facts}</p>
{faults}<p class="legend">{legend}</p>
</header>
<div class="lanes" style="width:{width:.0}px"><svg width="{width:.0}" height="32" role="presentation">
{head}</svg></div>
<svg width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="timeline">
{body}</svg>
</body>
</html>
"#
    )
}

fn facts(report: &Report, story: &Story) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let (hosts, messages) = (report.hosts.len() - 1, story.messages.len());
    let mut text = format!(
        "{seconds:.6} s of virtual time, {hosts} hosts, {} records; ",
        report.trace.len()
    );
    // Writing to a String cannot fail.
    let _ = match story.omitted.len() {
        0 => write!(text, "{messages} messages"),
        omitted => write!(
            text,
            "{messages} of {} messages, those near faults, notes and the end",
            messages + omitted
        ),
    };
    if story.omitted_marks > 0 {
        let _ = write!(
            text,
            "; {} earlier marks are not drawn",
            story.omitted_marks
        );
    }
    text
}

fn faults(report: &Report) -> String {
    let all = report.schedule.faults();
    if all.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = all
        .iter()
        .take(MOST_FAULTS)
        .map(|one| escape(&one.to_string()))
        .collect();
    let more = match all.len().saturating_sub(MOST_FAULTS) {
        0 => String::new(),
        more => format!("\n… and {more} more"),
    };
    format!("<pre>{}{more}</pre>\n", lines.join("\n"))
}

fn legend() -> String {
    let sign = |(drawing, text): &(&str, &str)| {
        format!(r#"<span><svg width="30" height="17">{drawing}</svg> {text}</span>"#)
    };
    LEGEND.iter().map(sign).collect()
}
