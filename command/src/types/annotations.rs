//! Reads the comments above functions and types: text for people, and annotations.

use super::luacats::{Field, Key, Type, key_of, name, parse, union_of};

/// The comment above a function.
#[derive(Debug, Default)]
pub(super) struct Comment {
    /// The lines for people.
    pub(super) text: Vec<String>,
    pub(super) params: Vec<Param>,
    /// The results; empty if the comment says nothing about them.
    pub(super) results: Vec<Returned>,
    /// Whether more results follow.
    pub(super) has_more_results: bool,
    pub(super) is_deprecated: bool,
}

/// `@param name[?] type [text]`
#[derive(Debug, Clone)]
pub(super) struct Param {
    /// `...` for the rest of the parameters.
    pub(super) name: String,
    pub(super) is_optional: bool,
    pub(super) value: Type,
    pub(super) text: String,
}

/// `@return type [name] [text]`
#[derive(Debug, Clone)]
pub(super) struct Returned {
    pub(super) value: Type,
    pub(super) name: String,
    pub(super) text: String,
}

/// A declared type.
#[derive(Debug, Clone)]
pub(super) enum Declared {
    Class {
        parents: Vec<String>,
        fields: Vec<Field>,
    },
    Alias(Type),
}

/// Parses the comment above a function.
pub(super) fn of_function(doc: &str) -> Comment {
    let mut comment = Comment::default();
    let mut generics: Vec<String> = Vec::new();
    // The type that a line `| type` continues.
    let mut last = Last::None;
    // The lines of a class or an alias that stands in the same comment belong to that.
    let mut is_declaration = false;
    for line in doc.lines() {
        let line = line.trim_end();
        let Some((tag, rest)) = tag(line.trim_start()) else {
            match (alternative(line), last) {
                (Some(value), Last::Param) => {
                    if let Some(param) = comment.params.last_mut() {
                        widen(&mut param.value, value);
                    }
                }
                (Some(value), Last::Result) => {
                    if let Some(result) = comment.results.last_mut() {
                        widen(&mut result.value, value);
                    }
                }
                (Some(_), Last::None) if is_declaration => {}
                _ => {
                    last = Last::None;
                    comment.text.push(line.to_owned());
                }
            }
            continue;
        };
        last = Last::None;
        is_declaration = false;
        match tag {
            "param" => comment
                .params
                .extend(param(rest).inspect(|_| last = Last::Param)),
            "vararg" => {
                let (value, text) = parse(rest);
                comment.params.push(Param {
                    name: "...".to_owned(),
                    is_optional: false,
                    value,
                    text: described(text),
                });
            }
            "return" => {
                results(rest, &mut comment);
                last = Last::Result;
            }
            "deprecated" => comment.is_deprecated = true,
            "generic" => generics.extend(rest.split(',').filter_map(|one| {
                let (name, _) = name(one.trim_start())?;
                Some(name.to_owned())
            })),
            "class" | "alias" | "enum" | "field" => is_declaration = true,
            _ => {}
        }
    }
    trim_empty_lines(&mut comment.text);
    let hide = |value: &mut Type| hide_generics(value, &generics);
    if !generics.is_empty() {
        comment
            .params
            .iter_mut()
            .for_each(|one| hide(&mut one.value));
        comment
            .results
            .iter_mut()
            .for_each(|one| hide(&mut one.value));
    }
    comment
}

/// Parses the comment that declares a type; returns its name and its text for people, too. `None` for one that is not
/// understood.
pub(super) fn of_type(doc: &str) -> Option<(String, Vec<String>, Declared)> {
    let mut lines = doc.lines().map(str::trim);
    let (tag_name, rest) = tag(lines.next()?)?;
    let rest = rest.strip_prefix("(exact)").unwrap_or(rest).trim_start();
    let (type_name, rest) = name(rest)?;
    let mut text = Vec::new();
    let declared = match tag_name {
        "class" => class(rest, lines, &mut text)?,
        "alias" => alias(rest, lines, &mut text)?,
        _ => return None,
    };
    trim_empty_lines(&mut text);
    Some((type_name.to_owned(), text, declared))
}

fn class<'a>(
    rest: &str,
    lines: impl Iterator<Item = &'a str>,
    text: &mut Vec<String>,
) -> Option<Declared> {
    // A generic class has fields of types that only its users know.
    if rest.starts_with('<') {
        return None;
    }
    let parents = match rest.trim_start().strip_prefix(':') {
        Some(list) => list
            .split('#')
            .next()?
            .split(',')
            .map(|one| Some(name(one.trim_start())?.0.to_owned()))
            .collect::<Option<Vec<_>>>()?,
        None => Vec::new(),
    };
    let mut fields = Vec::new();
    for line in lines {
        match tag(line) {
            Some(("field", rest)) => fields.push(field(rest)?),
            Some(_) => {}
            None => match (alternative(line), fields.last_mut()) {
                (Some(value), Some(Field { value: before, .. })) => widen(before, value),
                _ => text.push(line.to_owned()),
            },
        }
    }
    Some(Declared::Class { parents, fields })
}

fn alias<'a>(
    rest: &str,
    lines: impl Iterator<Item = &'a str>,
    text: &mut Vec<String>,
) -> Option<Declared> {
    if rest.starts_with('<') {
        return None;
    }
    let mut types = Vec::new();
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        types.push(parse(rest).0);
    }
    for line in lines {
        match alternative(line) {
            Some(value) => types.push(value),
            None if tag(line).is_none() => text.push(line.to_owned()),
            None => {}
        }
    }
    (!types.is_empty()).then(|| Declared::Alias(union_of(types)))
}

/// `@field [scope] name[?] type [text]` or `@field [scope] [type] type [text]`. `None` if it is not understood: a class
/// without one of its fields would be another class.
fn field(rest: &str) -> Option<Field> {
    let mut rest = rest;
    for scope in ["private", "protected", "public", "package"] {
        if let Some(behind) = rest.strip_prefix(scope)
            && behind.starts_with(' ')
        {
            rest = behind.trim_start();
            break;
        }
    }
    let (key, rest) = match rest.strip_prefix('[') {
        Some(inner) => {
            let end = inner.find(']')?;
            let (index, behind) = parse(&inner[..end]);
            if !behind.is_empty() {
                return None;
            }
            (key_of(index), &inner[end + 1..])
        }
        None => {
            let (name, behind) = name(rest)?;
            (Key::Name(name.to_owned()), behind)
        }
    };
    let (is_optional, rest) = match rest.strip_prefix('?') {
        Some(behind) => (true, behind),
        None => (false, rest),
    };
    let (value, text) = parse(rest);
    Some(Field {
        key,
        is_optional,
        value,
        text: described(text),
    })
}

fn param(rest: &str) -> Option<Param> {
    let (name, rest) = match rest.strip_prefix("...") {
        Some(rest) => ("...", rest),
        None => name(rest)?,
    };
    let (is_optional, rest) = match rest.strip_prefix('?') {
        Some(behind) => (true, behind),
        None => (false, rest),
    };
    let (value, text) = parse(rest);
    // `@param name` alone says nothing of its type.
    let value = match value {
        Type::Unknown(text) if text.is_empty() => Type::Any,
        other => other,
    };
    Some(Param {
        name: name.to_owned(),
        is_optional,
        value,
        text: described(text),
    })
}

/// Results, of which one line may have several: `@return string name, number age`.
fn results(rest: &str, comment: &mut Comment) {
    let mut rest = rest;
    loop {
        if rest.starts_with("...") {
            comment.has_more_results = true;
            return;
        }
        let (value, behind) = parse(rest);
        let (result_name, behind) = match behind.strip_prefix("...") {
            Some(behind) => {
                comment.has_more_results = true;
                ("", behind)
            }
            None => match name(behind) {
                Some((name, behind)) => (name, behind.trim_start()),
                None => ("", behind),
            },
        };
        if !comment.has_more_results {
            comment.results.push(Returned {
                value,
                name: result_name.to_owned(),
                text: described(behind.trim_start_matches(',')),
            });
        }
        match behind.strip_prefix(',') {
            Some(next) if !comment.has_more_results => {
                if let Some(last) = comment.results.last_mut() {
                    last.text.clear();
                }
                rest = next.trim_start();
            }
            _ => return,
        }
    }
}

/// The annotation that a line `| type` belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    None,
    Param,
    Result,
}

/// A tag and the text behind it.
fn tag(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix('@')?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (tag, rest) = rest.split_at(end);
    Some((tag, rest.trim()))
}

/// The type of a line `| type`, which continues a union.
fn alternative(line: &str) -> Option<Type> {
    let rest = line.trim_start().strip_prefix('|')?;
    // `|>` marks the default, `|+` an addition.
    let rest = rest.strip_prefix(['>', '+']).unwrap_or(rest);
    Some(parse(rest).0)
}

fn widen(before: &mut Type, value: Type) {
    let old = std::mem::replace(before, Type::Any);
    *before = match old {
        // `@param mode` and then the alternatives.
        Type::Any => value,
        Type::Unknown(text) if text.is_empty() => value,
        other => union_of(vec![other, value]),
    };
}

/// The text behind a type.
fn described(text: &str) -> String {
    let text = text.trim();
    text.strip_prefix(['#', '-', ':'])
        .unwrap_or(text)
        .trim()
        .to_owned()
}

fn trim_empty_lines(lines: &mut Vec<String>) {
    while lines.last().is_some_and(|line| line.trim().is_empty()) {
        lines.pop();
    }
    let start = lines.iter().position(|line| !line.trim().is_empty());
    lines.drain(..start.unwrap_or(0));
}

/// Makes the names of type parameters unknown.
fn hide_generics(value: &mut Type, generics: &[String]) {
    match value {
        Type::Named(name) if generics.contains(name) => *value = Type::Unknown(name.clone()),
        Type::Array(inner) => hide_generics(inner, generics),
        Type::Map(key, inner) => {
            hide_generics(key, generics);
            hide_generics(inner, generics);
        }
        Type::Record(fields) => {
            for field in fields {
                hide_generics(&mut field.value, generics);
                if let Key::Index(index) = &mut field.key {
                    hide_generics(index, generics);
                }
            }
        }
        Type::Tuple(types) | Type::Union(types) => {
            types
                .iter_mut()
                .for_each(|one| hide_generics(one, generics));
        }
        Type::Function(signature) => {
            let params = signature.params.iter_mut();
            params.for_each(|one| hide_generics(&mut one.value, generics));
            let results = signature.results.iter_mut().flatten();
            results.for_each(|one| hide_generics(one, generics));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::luacats::{Key, Literal, Type};
    use super::{Declared, of_function, of_type};

    #[test]
    fn a_comment_is_text_and_annotations() {
        let comment = of_function(
            "\nSays hello.\n\n  Indented.\n@param name string Who is greeted.\n@param age? integer # years\n\
             @param ... any\n@return string greeting The text.\n@return number? count\n@deprecated\n@see other",
        );
        assert_eq!(comment.text, ["Says hello.", "", "  Indented."]);
        let params: Vec<_> = comment
            .params
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.is_optional,
                    &one.value,
                    one.text.as_str(),
                )
            })
            .collect();
        assert_eq!(
            params,
            [
                ("name", false, &Type::String, "Who is greeted."),
                ("age", true, &Type::Integer, "years"),
                ("...", false, &Type::Any, ""),
            ]
        );
        let results: Vec<_> = comment
            .results
            .iter()
            .map(|one| (&one.value, one.name.as_str(), one.text.as_str()))
            .collect();
        let count = Type::Union(vec![Type::Number, Type::Nil]);
        assert_eq!(
            results,
            [
                (&Type::String, "greeting", "The text."),
                (&count, "count", "")
            ]
        );
        assert!(comment.is_deprecated && !comment.has_more_results);
    }

    #[test]
    fn alternatives_continue_a_type_and_generics_are_unknown() {
        let comment = of_function(
            "@generic T : table, U\n@param mode\n| 'r' # read\n|> 'w'\nText.\n@param value T[]\n@return string, number",
        );
        let literal = |text: &str| Type::Literal(Literal::String(text.to_owned()));
        assert_eq!(
            comment.params[0].value,
            Type::Union(vec![literal("r"), literal("w")])
        );
        assert_eq!(
            comment.params[1].value,
            Type::Array(Box::new(Type::Unknown("T".to_owned())))
        );
        assert_eq!(comment.text, ["Text."]);
        assert_eq!(comment.results.len(), 2);
        assert!(of_function("@return string ...").has_more_results);
        assert!(of_function("@return ...").has_more_results);
    }

    #[test]
    fn declarations_are_read() {
        let (name, text, declared) = of_type(
            "@class (exact) game.Player: Thing, Other # a player\nOf a game.\n@field name string\n\
             @field private hp? integer points\n@field [string] boolean\n@field ['a-b'] nil",
        )
        .unwrap();
        assert_eq!(
            (name.as_str(), text),
            ("game.Player", vec!["Of a game.".to_owned()])
        );
        let Declared::Class { parents, fields } = declared else {
            panic!()
        };
        assert_eq!(parents, ["Thing", "Other"]);
        let keys: Vec<_> = fields
            .iter()
            .map(|field| (field.key.clone(), field.is_optional))
            .collect();
        assert_eq!(
            keys,
            [
                (Key::Name("name".to_owned()), false),
                (Key::Name("hp".to_owned()), true),
                (Key::Index(Type::String), false),
                (Key::Name("a-b".to_owned()), false),
            ]
        );
        let (name, _, declared) = of_type("@alias Mood 'happy'\n| 'sad' # very").unwrap();
        assert_eq!(name, "Mood");
        let Declared::Alias(Type::Union(types)) = declared else {
            panic!()
        };
        assert_eq!(types.len(), 2);
    }

    #[test]
    fn declarations_that_are_not_understood_are_none() {
        for doc in [
            "",
            "@class",
            "@class Set<T>",
            "@enum Name",
            "@alias Name",
            "text",
            "@class A\n@field !",
        ] {
            assert!(of_type(doc).is_none(), "{doc}");
        }
    }

    #[test]
    fn a_class_in_the_comment_of_a_function_is_no_text() {
        let comment = of_function("@class A\n@field x number\n@alias B\n| 'x'\nJoins.\n@param a A");
        assert_eq!(comment.text, ["Joins."]);
        assert_eq!(comment.params.len(), 1);
    }
}
