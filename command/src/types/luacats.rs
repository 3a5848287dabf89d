//! The types of LuaCATS annotations, as the Lua language server reads them, and a parser for them.
//!
//! The text is a stranger's. The parser works in linear time, to a limited depth. A type that it does not understand is
//! [`Type::Unknown`]: a wrong type would be worse than none.
//!
//! ```text
//!   union  = suffixed { "|" suffixed }
//!   suffixed = unit { "[]" | "?" }
//!   unit   = name | table<K, V> | fun(…): … | { field: type, … } | [type, …] | 'literal' | number | ( union )
//! ```
//!
//! <https://luals.github.io/wiki/annotations/> describes the language.

/// Nesting of types that is read.
const DEPTH_MAX: u32 = 24;

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Any,
    Nil,
    Boolean,
    Number,
    Integer,
    String,
    /// Any table.
    Table,
    /// A function of which no more is known.
    AnyFunction,
    Literal(Literal),
    /// A class or an alias.
    Named(String),
    Array(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// A table with these fields.
    Record(Vec<Field>),
    Tuple(Vec<Type>),
    /// At least two types.
    Union(Vec<Type>),
    Function(Box<Signature>),
    /// A text that is not a type, or one that means nothing to a peer.
    Unknown(String),
}

/// A value that is a type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    String(String),
    Integer(i64),
    Boolean(bool),
}

/// A field of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) key: Key,
    pub(super) is_optional: bool,
    pub(super) value: Type,
    /// The text behind it.
    pub(super) text: String,
}

/// The key of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key {
    Name(String),
    /// All keys of a type.
    Index(Type),
}

/// A type of functions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signature {
    pub(super) params: Vec<Parameter>,
    /// `None`: unknown, or any number of results.
    pub(super) results: Option<Vec<Type>>,
}

/// A parameter of a type of functions; its name is `...` for the rest of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) is_optional: bool,
    pub(super) value: Type,
}

impl Type {
    /// Whether nil is one of its values, as far as it says.
    pub(super) fn allows_nil(&self) -> bool {
        match self {
            Type::Nil | Type::Any | Type::Unknown(_) => true,
            Type::Union(types) => types.iter().any(Type::allows_nil),
            _ => false,
        }
    }

    /// The same type without nil, where something else says that it may be absent.
    pub(super) fn without_nil(&self) -> Type {
        let left: Vec<Type> = parts(self)
            .iter()
            .filter(|part| **part != Type::Nil)
            .cloned()
            .collect();
        match left.is_empty() {
            true => self.clone(),
            false => union_of(left),
        }
    }

    /// The same type with nil.
    pub(super) fn or_nil(self) -> Type {
        match self.allows_nil() {
            true => self,
            false => union_of(vec![self, Type::Nil]),
        }
    }
}

/// The parts of a union; of another type, that type.
pub(super) fn parts(value: &Type) -> &[Type] {
    match value {
        Type::Union(parts) => parts,
        other => std::slice::from_ref(other),
    }
}

/// A union without repetitions; of one type, that type.
pub(super) fn union_of(types: Vec<Type>) -> Type {
    let mut flat: Vec<Type> = Vec::new();
    for one in types {
        let parts = match one {
            Type::Union(parts) => parts,
            other => vec![other],
        };
        for part in parts {
            // Comparing all pairs of a long union would be quadratic; a repetition does no harm there.
            if flat.len() > 64 || !flat.contains(&part) {
                flat.push(part);
            }
        }
    }
    match flat.len() {
        1 => flat.remove(0),
        _ => Type::Union(flat),
    }
}

/// Parses the type at the beginning of a text; returns it and the text behind it. If there is none, the whole text is
/// unknown.
pub(super) fn parse(text: &str) -> (Type, &str) {
    let mut parser = Parser {
        rest: text.trim_start(),
        depth: 0,
    };
    let parsed = parser.union();
    // `string(` is not a type; `string, number` are two.
    let ends_well = |rest: &str| rest.is_empty() || rest.starts_with([',', '#', ' ', '\t']);
    match parsed.filter(|_| ends_well(parser.rest)) {
        Some(parsed) => (parsed, parser.rest.trim_start()),
        None => (Type::Unknown(text.trim().to_owned()), ""),
    }
}

/// Reads a name at the beginning of a text, as annotations write them; returns it and the text behind it.
pub(super) fn name(text: &str) -> Option<(&str, &str)> {
    let is_part =
        |character: char| character.is_alphanumeric() || matches!(character, '_' | '.' | '*' | '-');
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    // A name in a sentence may be its last word.
    let end = text[..end].trim_end_matches(['.', '-']).len();
    let starts_well = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    starts_well.then(|| text.split_at(end))
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips blanks and then the word, if it is next.
    fn eat(&mut self, word: &str) -> bool {
        match self.rest.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn union(&mut self) -> Option<Type> {
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let mut types = vec![self.suffixed()?];
        while self.eat("|") {
            types.push(self.suffixed()?);
        }
        self.depth -= 1;
        Some(union_of(types))
    }

    fn suffixed(&mut self) -> Option<Type> {
        let mut parsed = self.unit()?;
        // Each suffix adds a level.
        for _ in 0..DEPTH_MAX {
            if let Some(rest) = self.rest.strip_prefix("[]") {
                self.rest = rest;
                parsed = Type::Array(Box::new(parsed));
            } else if let Some(rest) = self.rest.strip_prefix('?') {
                self.rest = rest;
                parsed = parsed.or_nil();
            } else {
                return Some(parsed);
            }
        }
        None
    }

    fn unit(&mut self) -> Option<Type> {
        self.blanks();
        match self.rest.chars().next()? {
            '(' => {
                self.eat("(");
                let inner = self.union()?;
                self.eat(")").then_some(inner)
            }
            '{' => self.record(),
            '[' => {
                self.eat("[");
                Some(Type::Tuple(self.list("]")?))
            }
            quote @ ('\'' | '"') => self
                .string(quote)
                .map(|text| Type::Literal(Literal::String(text))),
            '0'..='9' | '-' => self.number(),
            _ => self.named(),
        }
    }

    /// Types up to a closing bracket.
    fn list(&mut self, end: &str) -> Option<Vec<Type>> {
        let mut types = Vec::new();
        while !self.eat(end) {
            types.push(self.union()?);
            if !self.eat(",") && !self.rest.trim_start().starts_with(end) {
                return None;
            }
        }
        Some(types)
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let inner = &self.rest[1..];
        let end = inner.find(quote)?;
        let text = &inner[..end];
        // An escape sequence would have to be interpreted as Lua does.
        if text.contains('\\') {
            return None;
        }
        self.rest = &inner[end + 1..];
        Some(text.to_owned())
    }

    fn number(&mut self) -> Option<Type> {
        let digits = self.rest.strip_prefix('-').unwrap_or(self.rest);
        let signs = self.rest.len() - digits.len();
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        let (text, rest) = self.rest.split_at(signs + end);
        if rest.starts_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_') {
            return None;
        }
        self.rest = rest;
        Some(Type::Literal(Literal::Integer(text.parse().ok()?)))
    }

    fn named(&mut self) -> Option<Type> {
        let (name, rest) = name(self.rest)?;
        // `async fun(…)` is a function that yields.
        if name == "async" && rest.trim_start().starts_with("fun(") {
            self.rest = rest;
            self.blanks();
            return self.named();
        }
        self.rest = rest;
        if rest.starts_with('<') {
            return self.generic(name);
        }
        Some(match name {
            "any" | "unknown" => Type::Any,
            "nil" | "void" => Type::Nil,
            "boolean" | "bool" => Type::Boolean,
            "number" => Type::Number,
            "integer" => Type::Integer,
            "string" => Type::String,
            "table" => Type::Table,
            "function" => Type::AnyFunction,
            "fun" if rest.starts_with('(') => self.function()?,
            "fun" => Type::AnyFunction,
            "true" => Type::Literal(Literal::Boolean(true)),
            "false" => Type::Literal(Literal::Boolean(false)),
            "userdata" | "lightuserdata" | "thread" | "self" => Type::Unknown(name.to_owned()),
            name => Type::Named(name.to_owned()),
        })
    }

    fn generic(&mut self, name: &str) -> Option<Type> {
        self.eat("<");
        let mut arguments = self.list(">")?;
        match (name, arguments.len()) {
            ("table", 2) => {
                let value = Box::new(arguments.pop()?);
                Some(Type::Map(Box::new(arguments.pop()?), value))
            }
            ("table", 1) => Some(Type::Table),
            // The declaration of a generic class is not understood.
            _ => Some(Type::Unknown(format!("{name}<…>"))),
        }
    }

    fn record(&mut self) -> Option<Type> {
        self.eat("{");
        let mut fields = Vec::new();
        while !self.eat("}") {
            self.blanks();
            let key = if self.rest.starts_with('[') {
                self.eat("[");
                let index = self.union()?;
                if !self.eat("]") {
                    return None;
                }
                key_of(index)
            } else {
                let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                let (name, rest) = self.rest.split_at(end?);
                if name.is_empty() {
                    return None;
                }
                self.rest = rest;
                Key::Name(name.to_owned())
            };
            let is_optional = self.eat("?");
            if !self.eat(":") {
                return None;
            }
            fields.push(Field {
                key,
                is_optional,
                value: self.union()?,
                text: String::new(),
            });
            if !self.eat(",") && !self.eat(";") && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(match fields.is_empty() {
            true => Type::Table,
            false => Type::Record(fields),
        })
    }

    fn function(&mut self) -> Option<Type> {
        self.eat("(");
        let mut params = Vec::new();
        while !self.eat(")") {
            self.blanks();
            let (name, rest) = match self.rest.strip_prefix("...") {
                Some(rest) => ("...", rest),
                None => name(self.rest)?,
            };
            self.rest = rest;
            let is_optional = self.eat("?");
            let value = match self.eat(":") {
                true => self.union()?,
                false => Type::Any,
            };
            params.push(Parameter {
                name: name.to_owned(),
                is_optional,
                value,
            });
            if !self.eat(",") && !self.rest.trim_start().starts_with(')') {
                return None;
            }
        }
        let results = match self.eat(":") {
            true => self.results()?,
            false => None,
        };
        Some(Type::Function(Box::new(Signature { params, results })))
    }

    /// The results of a type of functions: types with or without names. Outer `None`: no results; inner: any number.
    fn results(&mut self) -> Option<Option<Vec<Type>>> {
        let mut results = Vec::new();
        loop {
            self.blanks();
            if self.rest.starts_with("...") {
                self.rest = &self.rest[3..];
                return Some(None);
            }
            // `fun(): name: type`
            if let Some((word, rest)) = name(self.rest)
                && let Some(behind) = rest.strip_prefix(':')
                && !word.is_empty()
            {
                self.rest = behind;
            }
            results.push(self.union()?);
            if self.rest.starts_with("...") {
                self.rest = &self.rest[3..];
                return Some(None);
            }
            let before = self.rest;
            // In a list of types of an outer function, what follows the comma may be a parameter: `a: fun(): T, b: U`.
            if !self.eat(",") || self.depth > 1 {
                self.rest = before;
                return Some(Some(results));
            }
        }
    }
}

/// `["name"]` is a field of that name.
pub(super) fn key_of(index: Type) -> Key {
    match index {
        Type::Literal(Literal::String(name)) => Key::Name(name),
        other => Key::Index(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Key, Literal, Parameter, Signature, Type, parse};

    fn whole(text: &str) -> Type {
        let (parsed, rest) = parse(text);
        assert_eq!(rest, "", "{text}");
        parsed
    }

    fn boxed(one: Type) -> Box<Type> {
        Box::new(one)
    }

    #[test]
    fn types_are_read() {
        let literal = |text: &str| Type::Literal(Literal::String(text.to_owned()));
        for (text, expected) in [
            ("string", Type::String),
            ("yue.Future", Type::Named("yue.Future".to_owned())),
            ("string[]", Type::Array(boxed(Type::String))),
            (
                "integer[][]",
                Type::Array(boxed(Type::Array(boxed(Type::Integer)))),
            ),
            ("number?", Type::Union(vec![Type::Number, Type::Nil])),
            ("any?", Type::Any),
            (
                "string | number",
                Type::Union(vec![Type::String, Type::Number]),
            ),
            ("'a'|\"b\"", Type::Union(vec![literal("a"), literal("b")])),
            (
                "(string|number)[]",
                Type::Array(boxed(Type::Union(vec![Type::String, Type::Number]))),
            ),
            (
                "table<string, number>",
                Type::Map(boxed(Type::String), boxed(Type::Number)),
            ),
            (
                "[string, number]",
                Type::Tuple(vec![Type::String, Type::Number]),
            ),
            ("-5", Type::Literal(Literal::Integer(-5))),
            ("true", Type::Literal(Literal::Boolean(true))),
            ("{}", Type::Table),
            ("function", Type::AnyFunction),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    #[test]
    fn records_and_functions_are_read() {
        let field = |key, is_optional, value| Field {
            key,
            is_optional,
            value,
            text: String::new(),
        };
        let name = |name: &str| Key::Name(name.to_owned());
        assert_eq!(
            whole("{ x: number, y?: string, ['a-b']: boolean, [integer]: any }"),
            Type::Record(vec![
                field(name("x"), false, Type::Number),
                field(name("y"), true, Type::String),
                field(name("a-b"), false, Type::Boolean),
                field(Key::Index(Type::Integer), false, Type::Any),
            ])
        );
        let parameter = |name: &str, is_optional, value| Parameter {
            name: name.to_owned(),
            is_optional,
            value,
        };
        assert_eq!(
            whole("fun(a: string, b?: number, ...: any): boolean, string"),
            Type::Function(Box::new(Signature {
                params: vec![
                    parameter("a", false, Type::String),
                    parameter("b", true, Type::Number),
                    parameter("...", false, Type::Any),
                ],
                results: Some(vec![Type::Boolean, Type::String]),
            }))
        );
        let nested = whole("fun(done: fun(): string, more: number)");
        let Type::Function(signature) = nested else {
            panic!("{nested:?}")
        };
        assert_eq!(signature.params.len(), 2, "{signature:?}");
        assert_eq!(signature.results, None);
        let Type::Function(any) = whole("fun(): string...") else {
            panic!()
        };
        assert_eq!(any.results, None);
    }

    #[test]
    fn the_text_behind_a_type_is_returned() {
        assert_eq!(parse("string the name").1, "the name");
        assert_eq!(parse("string? # the name").1, "# the name");
        assert_eq!(parse("fun(x) a callback").1, "a callback");
        assert_eq!(parse("number, string").1, ", string");
    }

    #[test]
    fn what_is_no_type_is_unknown() {
        for text in [
            "",
            "!",
            "(string",
            "{ x }",
            "{ x: }",
            "table<string",
            "'open",
            "'\\x41'",
            "fun(",
            "...",
            "5x",
            "|",
            "`T`",
            "{ x: number y: number }",
            "[string number]",
            "é\u{301}(",
            "99999999999999999999",
        ] {
            let (parsed, rest) = parse(text);
            assert!(matches!(parsed, Type::Unknown(_)), "{text}: {parsed:?}");
            assert_eq!(rest, "");
        }
        assert!(matches!(parse("Set<string>").0, Type::Unknown(_)));
    }

    #[test]
    fn deep_and_long_texts_end() {
        for open in [
            "(", "{ x: ", "[", "fun(a: ", "table<", "fun():", "string|(", "string[",
        ] {
            let text = open.repeat(100_000);
            assert!(
                matches!(parse(&text).0, Type::Unknown(_) | Type::String),
                "{open}"
            );
        }
        assert!(matches!(
            parse(&format!("string{}", "[]".repeat(100_000))).0,
            Type::Unknown(_)
        ));
        let long = "'a'|".repeat(100_000) + "'a'";
        assert!(matches!(parse(&long).0, Type::Literal(_)));
    }
}
