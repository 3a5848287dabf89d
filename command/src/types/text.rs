//! A stranger's text in source code: names become identifiers, and comments stay comments.

use std::collections::{BTreeMap, HashMap, HashSet};

/// One line of a comment, without characters that could end it or change its direction.
pub(super) fn line(text: &str) -> String {
    let shown = text.chars().map(|character| match character {
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        character if character.is_control() => ' ',
        character => character,
    });
    shown.collect::<String>().trim_end().to_owned()
}

/// The text of a string literal between double quotes, as JavaScript and Python read it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            character
                if line(&character.to_string()).starts_with(character) || character == ' ' =>
            {
                quoted.push(character);
            }
            character => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a name is an identifier of ASCII, and none of the reserved words.
pub(super) fn is_identifier(name: &str, reserved: &[&str]) -> bool {
    let mut characters = name.chars();
    let starts_well = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    starts_well
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
        && !reserved.contains(&name)
}

/// An identifier that resembles a name.
pub(super) fn identifier(name: &str, reserved: &[&str]) -> String {
    let mut made: String = name
        .chars()
        .take(64)
        .map(|character| match character {
            character if character.is_ascii_alphanumeric() => character,
            _ => '_',
        })
        .collect();
    if !made.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        made.insert(0, '_');
    }
    if reserved.contains(&made.as_str()) {
        made.push('_');
    }
    made
}

/// Identifiers in one scope, each given once.
#[derive(Debug, Default)]
pub(super) struct Scope {
    used: HashSet<String>,
    /// The last number behind an identifier: a stranger's names may all become the same one.
    numbers: HashMap<String, u32>,
}

impl Scope {
    /// The wanted identifier, or one with a number at its end.
    pub(super) fn unique(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        while !self.used.insert(name.clone()) {
            let number = self.numbers.entry(wanted.clone()).or_insert(1);
            *number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }
}

/// Names of parameters: identifiers, each once.
pub(super) fn parameters<'a>(
    names: impl Iterator<Item = &'a str>,
    reserved: &[&str],
) -> Vec<String> {
    let mut scope = Scope::default();
    names
        .map(|name| scope.unique(identifier(name, reserved)))
        .collect()
}

/// The names that the types have in the output, by their names in the comments.
pub(super) type TypeNames = BTreeMap<String, String>;

/// The first line of every file.
pub(super) const HEADER: &str = "Made by `yue types`. Changes are lost when it runs again.";

/// The line of a file whose server has more than it lists.
pub(super) const MORE: &str = "The server has more functions or types than it lists.";

/// A text with a remark about types that are not known.
pub(super) fn with_remark(text: &str, unknown: &[&str]) -> String {
    let mut text = line(text);
    let names: Vec<String> = unknown
        .iter()
        .take(4)
        .map(|name| line(&name.chars().take(60).collect::<String>()))
        .filter(|name| !name.is_empty())
        .collect();
    if !names.is_empty() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("(unknown type: {})", names.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{identifier, is_identifier, line, parameters, quoted};

    #[test]
    fn lines_and_strings_cannot_be_left() {
        assert_eq!(line("a\nb\rc\u{2028}d\u{202e}e\0"), "a b c d e");
        assert_eq!(quoted("a\"b\\c\nd\u{2029}ü"), r#""a\"b\\c\u000ad\u2029ü""#);
        assert_eq!(quoted(" "), "\" \"");
    }

    #[test]
    fn names_become_identifiers() {
        assert!(
            is_identifier("join_2", &[]) && !is_identifier("2", &[]) && !is_identifier("", &[])
        );
        assert!(
            !is_identifier("end", &["end"])
                && !is_identifier("ü", &[])
                && !is_identifier("a b", &[])
        );
        assert_eq!(identifier("a-b", &[]), "a_b");
        assert_eq!(identifier("", &[]), "_");
        assert_eq!(identifier("7", &[]), "_7");
        assert_eq!(identifier("in", &["in"]), "in_");
        let names = parameters(["a", "a", "in", "in_", "a_2"].into_iter(), &["in"]);
        assert_eq!(names, ["a", "a_2", "in_", "in__2", "a_2_2"]);
    }
}
