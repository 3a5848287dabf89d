//! The timeline: a page with a drawing of a run, complete in itself.
//!
//! ```text
//!   Report ──▶ story.rs    messages, spans of faults, points; of a long trace what is near faults and the failure
//!                 │
//!                 ▼
//!              axis.rs     times to heights; long times without events are shortened
//!                 │
//!                 ▼
//!              drawing.rs  SVG: a lane for each host, time runs downwards
//!                 │
//!                 ▼
//!              page.rs     HTML around it, with page.css
//! ```
//!
//! The size is bounded by the number of messages and marks that are drawn, whatever the length of the trace. All text
//! of programs passes through [`escape`].

mod axis;
mod drawing;
mod page;
mod story;

use crate::sim::Report;

/// Writes the page.
pub(in crate::sim) fn timeline(report: &Report) -> String {
    let story = story::Story::of(report);
    let axis = axis::Axis::new(&story);
    let drawing = drawing::draw(report, &story, &axis);
    page::write(report, &story, &drawing)
}

/// Makes text safe as the content or an attribute of an element. Characters that XML does not allow are replaced.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Shortens a text to that many characters.
fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}
