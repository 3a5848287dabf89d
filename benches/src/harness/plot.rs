//! Draws one row as an SVG: a group of bars per case, one bar per contestant, with the number at its end.
//!
//! Within a group, a bar's length is proportional to its figure. Handwritten: a bar chart is rectangles and text, and a
//! plotting library would be more to learn than this file.

use std::fmt::Write;

use super::model::Kind;
use super::report::{CaseReport, Line, RowReport};
use super::table::number;

const WIDTH: f64 = 860.0;
const NAMES: f64 = 230.0;
const BARS: f64 = 420.0;
const STEP: f64 = 20.0;
const TOP: f64 = 52.0;

/// Draws a row as an SVG.
pub fn svg(row: &RowReport) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for case in &row.cases {
        y = draw_case(&mut body, case, y);
    }
    let height = y + 8.0;
    let title = escape(&format!("{}. {}", row.number, row.title));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n{body}</svg>\n"
    )
}

fn draw_case(body: &mut String, case: &CaseReport, top: f64) -> f64 {
    let heading = escape(&format!("{} ({})", case.name, case.unit));
    let _ = writeln!(
        body,
        "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{heading}</text>",
        top + 12.0
    );
    let largest = case
        .lines
        .iter()
        .filter_map(|line| line.median)
        .fold(0.0, f64::max);
    let mut y = top + STEP;
    for line in &case.lines {
        draw_line(body, line, largest, y);
        y += STEP;
    }
    y + STEP / 2.0
}

fn draw_line(body: &mut String, line: &Line, largest: f64, y: f64) {
    let colour = match line.kind {
        Kind::Ours => "#c8641e",
        Kind::Peer => "#5b7fa6",
        Kind::Ceiling => "#8a8a8a",
        Kind::Aside => "#a7bccf",
        Kind::Seen => "#c4c4c4",
    };
    let text = y + 12.0;
    let name = escape(&line.name);
    let _ = writeln!(
        body,
        "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>",
        NAMES - 8.0
    );
    let Some(median) = line.median else {
        let _ = writeln!(
            body,
            "<text x=\"{NAMES}\" y=\"{text}\" fill=\"#8a8a8a\">not measured</text>"
        );
        return;
    };
    let length = if largest > 0.0 {
        (median / largest * BARS).max(1.0)
    } else {
        1.0
    };
    let _ = writeln!(
        body,
        "<rect x=\"{NAMES}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>",
        STEP - 4.0
    );
    // Only the table shows the ratio between two of our lines; in a plot it would be misread.
    let ratio = line.ours_to_this.filter(|_| line.kind != Kind::Ours);
    let ratio = ratio.map_or(String::new(), |ratio| {
        format!("  (ours is {} x)", number(ratio))
    });
    let label = escape(&format!("{}{ratio}", number(median)));
    let _ = writeln!(
        body,
        "<text x=\"{:.1}\" y=\"{text}\">{label}</text>",
        NAMES + length + 6.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::model::Better;
    use std::collections::BTreeMap;

    fn line(name: &str, median: Option<f64>) -> Line {
        Line {
            name: name.to_owned(),
            kind: Kind::Ours,
            samples: Vec::new(),
            median,
            ours_to_this: None,
            extra: BTreeMap::new(),
            goals: Vec::new(),
        }
    }

    #[test]
    fn bars_are_proportional_to_figures_and_names_are_escaped() {
        let row = RowReport {
            number: 1,
            title: "a < b".to_owned(),
            method: String::new(),
            cases: vec![CaseReport {
                name: "c".to_owned(),
                unit: "ns".to_owned(),
                better: Better::Lower,
                lines: vec![
                    line("half", Some(5.0)),
                    line("whole", Some(10.0)),
                    line("none", None),
                ],
            }],
            notes: Vec::new(),
        };
        let drawn = svg(&row);
        assert!(drawn.contains("a &lt; b"));
        assert!(drawn.contains(&format!("width=\"{:.1}\"", BARS / 2.0)));
        assert!(drawn.contains(&format!("width=\"{BARS:.1}\"")));
        assert!(drawn.contains("not measured"));
    }
}
