//! Answers to the line editor while a line is edited: completion, colours, and whether the input is complete.

use super::highlight::highlight;
use super::link::Link;
use rustyline::completion::Completer;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use std::borrow::Cow;
use std::cell::Cell;
use yue::lua::{Syntax, check_syntax};

/// The commands, with their arguments and what they do.
pub(super) const COMMANDS: [(&str, &str, &str); 4] = [
    (".help", "", "this list"),
    (".loops", "", "the loops of the program"),
    (
        ".loop",
        "N",
        "run the next lines on loop N; without N, on the first",
    ),
    (".quit", "", "leave, as Ctrl-D does"),
];

/// Bytes before the cursor that completion looks at.
const LOOKED_AT_MAX: usize = 1000;

/// Answers the editor.
pub(super) struct Assistant {
    pub(super) link: Link,
    pub(super) loop_id: Cell<Option<u32>>,
    pub(super) has_colours: bool,
}

/// Whether a line is a command of the console. `.5` is a number.
pub(super) fn is_command(line: &str) -> bool {
    let mut characters = line.trim_start().chars();
    characters.next() == Some('.') && characters.next().is_none_or(|c| c.is_ascii_alphabetic())
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let text = &line[..position];
        if is_command(text) {
            return Ok((0, commands_that_begin_with(text)));
        }
        let from = begin_of_last_part(text);
        // A program that does not answer completes nothing.
        let Ok(found) = self.link.complete(&text[from..], self.loop_id.get()) else {
            return Ok((position, Vec::new()));
        };
        let start = from + found.start;
        match text.is_char_boundary(start) {
            true => Ok((start, found.candidates)),
            false => Ok((position, Vec::new())),
        }
    }
}

fn commands_that_begin_with(text: &str) -> Vec<String> {
    let names = COMMANDS.iter().map(|(name, ..)| *name);
    names
        .filter(|name| name.starts_with(text))
        .map(str::to_owned)
        .collect()
}

/// The beginning of the part that completion looks at: in the last line, and not too far from its end.
fn begin_of_last_part(text: &str) -> usize {
    let line = text.rfind('\n').map_or(0, |at| at + 1);
    line.max(text.ceil_char_boundary(text.len().saturating_sub(LOOKED_AT_MAX)))
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        match self.has_colours && !is_command(line) {
            true => Cow::Owned(highlight(line)),
            false => Cow::Borrowed(line),
        }
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        match self.has_colours {
            true => Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m")),
            false => Cow::Borrowed(prompt),
        }
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        // A moved cursor changes no colour.
        self.has_colours && kind != CmdKind::MoveCursor
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        let is_complete = is_command(input) || check_syntax(input) != Syntax::Incomplete;
        Ok(match is_complete {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_lua() {
        for line in [".help", " .loop 2", "."] {
            assert!(is_command(line), "{line}");
        }
        for line in ["", ".5 + 1", "x.y", "...", "=.5"] {
            assert!(!is_command(line), "{line}");
        }
        assert_eq!(commands_that_begin_with(".lo"), [".loops", ".loop"]);
        assert_eq!(commands_that_begin_with(".x"), [""; 0]);
    }

    #[test]
    fn completion_looks_at_the_end_of_the_last_line() {
        assert_eq!(begin_of_last_part("if x then\n  y.z"), 10);
        assert_eq!(begin_of_last_part("y"), 0);
        let long = "ä".repeat(1000) + "x";
        assert!(long.is_char_boundary(begin_of_last_part(&long)));
        assert!(long.len() - begin_of_last_part(&long) <= LOOKED_AT_MAX);
    }
}
