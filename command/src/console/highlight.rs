//! Colours for Lua: of the line that is edited, and of results, which look like Lua.

use std::fmt::Write;

/// The kinds of words that have a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keyword,
    /// `true`, `false`, `nil`, numbers.
    Constant,
    Text,
    Comment,
    Other,
}

impl Kind {
    /// The parameters of the escape sequence that begins it; those are the terminal's own colours.
    fn style(self) -> Option<&'static str> {
        match self {
            Kind::Keyword => Some("35"),
            Kind::Constant => Some("36"),
            Kind::Text => Some("32"),
            Kind::Comment => Some("2"),
            Kind::Other => None,
        }
    }
}

const KEYWORDS: [&str; 19] = [
    "and", "break", "do", "else", "elseif", "end", "for", "function", "goto", "if", "in", "local",
    "not", "or", "repeat", "return", "then", "until", "while",
];

/// Returns the text with escape sequences.
pub(super) fn highlight(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, bytes) = next_word(rest);
        let (word, after) = rest.split_at(bytes);
        // Writing to a String cannot fail.
        let _ = match kind.style() {
            Some(style) => write!(out, "\x1b[{style}m{word}\x1b[0m"),
            None => write!(out, "{word}"),
        };
        rest = after;
    }
    out
}

/// The kind and the length, above 0, of the first word of a text that is not empty.
fn next_word(text: &str) -> (Kind, usize) {
    let first = text.chars().next().unwrap_or(' ');
    let length_while = |fits: fn(char) -> bool| text.find(|c| !fits(c)).unwrap_or(text.len());
    if let Some(comment) = text.strip_prefix("--") {
        let length = long_bracket(comment).or_else(|| comment.find('\n'));
        return (Kind::Comment, 2 + length.unwrap_or(comment.len()));
    }
    if let Some(length) = long_bracket(text) {
        return (Kind::Text, length);
    }
    match first {
        '"' | '\'' => (Kind::Text, quoted(text, first)),
        'a'..='z' | 'A'..='Z' | '_' => {
            let length = length_while(|c| c.is_ascii_alphanumeric() || c == '_');
            let kind = match &text[..length] {
                "true" | "false" | "nil" => Kind::Constant,
                word if KEYWORDS.contains(&word) => Kind::Keyword,
                _ => Kind::Other,
            };
            (kind, length)
        }
        '0'..='9' => {
            let length = length_while(|c| c.is_ascii_alphanumeric() || c == '.');
            (Kind::Constant, length)
        }
        other => (Kind::Other, other.len_utf8()),
    }
}

/// The length of a text in quotes, which ends with its line if the quote is missing.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '\n' => return at,
            end if end == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of `[[…]]` or `[==[…]==]` at the beginning of the text; up to its end if that is missing.
fn long_bracket(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('[')?;
    let level = inner.find(|c| c != '=')?;
    let body = inner[level..].strip_prefix('[')?;
    let end = format!("]{}]", "=".repeat(level));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(2 + level + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        let mut rest = text;
        let mut words = Vec::new();
        while !rest.is_empty() {
            let (kind, bytes) = next_word(rest);
            let (word, after) = rest.split_at(bytes);
            if kind != Kind::Other {
                words.push((kind, word));
            }
            rest = after;
        }
        words
    }

    #[test]
    fn words_get_their_kinds() {
        use Kind::{Comment, Constant, Keyword, Text};
        assert_eq!(
            kinds("local x = 'a\\'b' .. 12.5 -- end"),
            [
                (Keyword, "local"),
                (Text, "'a\\'b'"),
                (Constant, "12.5"),
                (Comment, "-- end")
            ]
        );
        assert_eq!(
            kinds("[==[ a ]] ]==] nil"),
            [(Text, "[==[ a ]] ]==]"), (Constant, "nil")]
        );
        assert_eq!(
            kinds("--[[ a\nb ]] if"),
            [(Comment, "--[[ a\nb ]]"), (Keyword, "if")]
        );
    }

    #[test]
    fn only_escape_sequences_are_added() {
        for text in [
            "",
            "'",
            "\"\\",
            "[",
            "[=",
            "[[",
            "ä = 'ö",
            "a[b[1]]",
            "--",
            "1e5..2",
            "=x\n'y\nz",
        ] {
            let mut plain = highlight(text);
            for style in ["35", "36", "32", "2", "0"] {
                plain = plain.replace(&format!("\x1b[{style}m"), "");
            }
            assert_eq!(plain, text);
        }
    }
}
