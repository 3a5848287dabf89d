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

/// Shortens a name to that many characters. Names of many hosts differ at their ends.
fn clip_middle(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= most {
        return name.to_owned();
    }
    let back = most / 2;
    let front = most.saturating_sub(back + 1);
    let (front, back) = (&letters[..front], &letters[letters.len() - back..]);
    front.iter().chain(&['…']).chain(back).collect()
}

#[cfg(test)]
mod tests {
    use super::{clip, clip_middle, escape};

    #[test]
    fn names_are_shortened_where_they_are_alike_and_texts_at_their_end() {
        assert_eq!(clip_middle("a-bot-with-a-long-name12", 8), "a-b…me12");
        assert_eq!(clip_middle("short", 8), "short");
        assert_eq!(clip("a long text", 7), "a long…");
        assert_eq!(clip("a text", 6), "a text");
    }

    #[test]
    fn no_text_of_a_program_is_taken_for_an_element() {
        assert_eq!(
            escape("<b class='x'>\"&\u{1b}\u{fffe}"),
            "&lt;b class=&#39;x&#39;&gt;&quot;&amp;  "
        );
    }
}
