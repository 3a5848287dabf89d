//! Stubs for Lua: LuaCATS annotations of the functions, as `yue.open` returns them.
//!
//! Each function has its prefixed forms, because LuaCATS has no types that compute names.

use super::luacats::{Field, Key, Literal, Signature, Type};
use super::model::{Method, Model, Named, Node, Results, unknown_in};
use super::text::{
    HEADER, MORE, Scope, TypeNames, identifier, is_identifier, line, parameters, with_remark,
};

const KEYWORDS: [&str; 22] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
    "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
];

/// Types of the language, and the name of the table that a stub assigns to.
const RESERVED: [&str; 16] = [
    "any",
    "boolean",
    "bool",
    "fun",
    "function",
    "integer",
    "lightuserdata",
    "nil",
    "number",
    "self",
    "string",
    "table",
    "thread",
    "unknown",
    "userdata",
    "void",
];

/// Prefixes that `yue.open` takes off a name.
const PREFIXES: [&str; 4] = ["async_", "timed_", "notify_", "mcast_"];

pub(super) fn write(model: &Model, root: &str, has_more: bool) -> String {
    let mut scope = Scope::default();
    let root = scope.unique(dotted(root));
    let names: TypeNames = model
        .types
        .keys()
        .map(|name| (name.clone(), scope.unique(dotted(name))))
        .collect();
    let mut writer = Writer {
        out: format!("---@meta\n-- {HEADER}\n"),
        scope,
        names,
    };
    if has_more {
        writer.out.push_str(&format!("-- {MORE}\n"));
    }
    for (name, (text, named)) in &model.types {
        writer.named(name, text, named);
    }
    writer.class(&root, &model.root);
    writer.out
}

struct Writer {
    out: String,
    scope: Scope,
    names: TypeNames,
}

impl Writer {
    fn annotate(&mut self, text: &str) {
        self.out.push_str(format!("---{text}").trim_end());
        self.out.push('\n');
    }

    fn text(&mut self, lines: &[String]) {
        for text in lines {
            // What began as text must not become an annotation.
            let shown = line(text);
            let is_plain = !shown.trim_start().starts_with(['@', '|']);
            self.annotate(if is_plain { &shown } else { "" });
        }
    }

    fn named(&mut self, name: &str, text: &[String], named: &Named) {
        let shown = self.names[name].clone();
        self.out.push('\n');
        self.text(text);
        match named {
            Named::Class(fields) => {
                self.annotate(&format!("@class {shown}"));
                for field in fields {
                    let text = with_remark(&field.text, &unknown_in(&field.value));
                    let (key, mark) = match &field.key {
                        Key::Name(name) if is_identifier(name, &KEYWORDS) => (name.clone(), true),
                        Key::Name(name) => (format!("[{}]", string(name)), true),
                        Key::Index(index) => (format!("[{}]", self.value(index)), false),
                    };
                    let mark = if mark && field.is_optional { "?" } else { "" };
                    let value = self.value(&field.value);
                    self.annotate(&format!("@field {key}{mark} {value} {text}"));
                }
            }
            Named::Alias(value) => {
                let text = with_remark("", &unknown_in(value));
                let value = self.value(value);
                self.annotate(&format!("@alias {shown} {value} {text}"));
            }
        }
    }

    fn class(&mut self, name: &str, node: &Node) {
        let mut inner = Vec::new();
        self.out.push_str("\ndo\n");
        self.annotate(&format!("@class {name}"));
        for (key, child) in &node.children {
            if !child.children.is_empty() {
                let class = self.scope.unique(dotted(&format!("{name}.{key}")));
                self.annotate(&format!("@field {} {class}", field_key(key)));
                inner.push((class, child));
            }
            if let Some(method) = &child.method {
                self.forms(key, method, node);
            }
        }
        if let Some(method) = &node.method {
            let signature = self.signature(method, "", None);
            self.annotate(&format!("@overload {signature}"));
        }
        self.out.push_str("local procs = {}\n");
        for (key, child) in &node.children {
            if let (Some(method), true) = (&child.method, child.children.is_empty()) {
                self.method(key, method);
            }
        }
        self.out.push_str("end\n");
        for (class, child) in inner {
            self.class(&class, child);
        }
    }

    /// The forms with prefixes, as far as no other function has such a name.
    fn forms(&mut self, key: &str, method: &Method, node: &Node) {
        if PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return;
        }
        let forms = [
            ("async_", "", Some("yue.Future")),
            ("timed_", "seconds: number", None),
            ("notify_", "", Some("boolean")),
        ];
        for (prefix, first, result) in forms {
            let name = format!("{prefix}{key}");
            if !node.children.contains_key(&name) {
                let signature = self.signature(method, first, result);
                self.annotate(&format!("@field {} {signature}", field_key(&name)));
            }
        }
    }

    fn signature(&mut self, method: &Method, first: &str, result: Option<&str>) -> String {
        let reserved = [&KEYWORDS[..], &["seconds"]].concat();
        let names = parameters(
            method.params.iter().map(|param| param.name.as_str()),
            &reserved,
        );
        let mut params: Vec<String> = Vec::new();
        params.extend((!first.is_empty()).then(|| first.to_owned()));
        for (param, name) in method.params.iter().zip(&names) {
            let mark = if param.is_optional { "?" } else { "" };
            params.push(format!(
                "{name}{mark}: {}",
                self.optional(&param.value, param.is_optional)
            ));
        }
        if let Some((value, _)) = &method.rest {
            params.push(format!("...: {}", self.value(value)));
        }
        let result = match (result, &method.results) {
            (Some(result), _) => format!(": {result}"),
            (None, Results::Unknown) => ": any".to_owned(),
            (None, Results::Known(results)) => {
                let types: Vec<String> =
                    results.iter().map(|(value, _)| self.part(value)).collect();
                format!(": {}", types.join(", "))
            }
        };
        format!("fun({}){result}", params.join(", "))
    }

    fn method(&mut self, key: &str, method: &Method) {
        self.out.push('\n');
        self.text(&method.text);
        let names = parameters(
            method.params.iter().map(|param| param.name.as_str()),
            &KEYWORDS,
        );
        for (param, name) in method.params.iter().zip(&names) {
            let mark = if param.is_optional { "?" } else { "" };
            let text = with_remark(&param.text, &unknown_in(&param.value));
            let value = self.optional(&param.value, param.is_optional);
            self.annotate(&format!("@param {name}{mark} {value} {text}"));
        }
        if let Some((value, text)) = &method.rest {
            let text = with_remark(text, &unknown_in(value));
            let value = self.value(value);
            self.annotate(&format!("@param ... {value} {text}"));
        }
        match &method.results {
            Results::Unknown => self.annotate("@return any ..."),
            Results::Known(results) => {
                for (value, text) in results {
                    let text = with_remark(text, &unknown_in(value));
                    let text = if text.is_empty() {
                        text
                    } else {
                        format!("# {text}")
                    };
                    let value = self.value(value);
                    self.annotate(&format!("@return {value} {text}"));
                }
            }
        }
        if method.is_deprecated {
            self.annotate("@deprecated");
        }
        let mut params = names;
        params.extend(method.rest.iter().map(|_| "...".to_owned()));
        let params = params.join(", ");
        let has_prefix = PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        let literal = if has_prefix {
            format!("={key}")
        } else {
            key.to_owned()
        };
        let head = match is_identifier(&literal, &KEYWORDS) {
            true => format!("function procs.{literal}({params}) end\n"),
            false => format!("procs[{}] = function({params}) end\n", string(&literal)),
        };
        self.out.push_str(&head);
    }

    fn value(&self, value: &Type) -> String {
        match value {
            Type::Any | Type::Unknown(_) => "any".to_owned(),
            Type::Nil => "nil".to_owned(),
            Type::Boolean => "boolean".to_owned(),
            Type::Number => "number".to_owned(),
            Type::Integer => "integer".to_owned(),
            Type::String => "string".to_owned(),
            Type::Table => "table".to_owned(),
            Type::AnyFunction => "function".to_owned(),
            Type::Literal(Literal::String(text)) => literal(text),
            Type::Literal(Literal::Integer(number)) => number.to_string(),
            Type::Literal(Literal::Boolean(value)) => value.to_string(),
            Type::Named(name) => self.names[name].clone(),
            Type::Array(inner) => format!("{}[]", self.part(inner)),
            Type::Map(key, inner) => format!("table<{}, {}>", self.value(key), self.value(inner)),
            Type::Record(fields) => self.record(fields),
            Type::Tuple(types) => {
                let types: Vec<String> = types.iter().map(|one| self.value(one)).collect();
                format!("[{}]", types.join(", "))
            }
            Type::Union(types) => {
                let types: Vec<String> = types.iter().map(|one| self.part(one)).collect();
                types.join("|")
            }
            Type::Function(signature) => self.function(signature),
        }
    }

    /// The type of something that a `?` may mark as optional.
    fn optional(&self, value: &Type, is_optional: bool) -> String {
        match is_optional {
            true => self.value(&value.without_nil()),
            false => self.value(value),
        }
    }

    /// A type as a part of a larger one.
    fn part(&self, value: &Type) -> String {
        let shown = self.value(value);
        match value {
            Type::Union(_) | Type::Function(_) => format!("({shown})"),
            _ => shown,
        }
    }

    fn record(&self, fields: &[Field]) -> String {
        let fields: Vec<String> = fields
            .iter()
            .map(|field| {
                let key = match &field.key {
                    Key::Name(name) => field_key(name),
                    Key::Index(index) => format!("[{}]", self.value(index)),
                };
                let mark = if field.is_optional { "?" } else { "" };
                format!("{key}{mark}: {}", self.value(&field.value))
            })
            .collect();
        format!("{{ {} }}", fields.join(", "))
    }

    fn function(&self, signature: &Signature) -> String {
        let names = signature.params.iter().map(|param| param.name.as_str());
        let names = parameters(names.filter(|name| *name != "..."), &KEYWORDS);
        let mut names = names.into_iter();
        let params: Vec<String> = signature
            .params
            .iter()
            .map(|param| {
                let name = match param.name.as_str() {
                    "..." => "...".to_owned(),
                    _ => names.next().unwrap_or_default(),
                };
                let mark = if param.is_optional { "?" } else { "" };
                format!(
                    "{name}{mark}: {}",
                    self.optional(&param.value, param.is_optional)
                )
            })
            .collect();
        let results: Vec<String> = match &signature.results {
            Some(results) => results.iter().map(|one| self.part(one)).collect(),
            None => Vec::new(),
        };
        let colon = if results.is_empty() { "" } else { ": " };
        format!("fun({}){colon}{}", params.join(", "), results.join(", "))
    }
}

/// A name of a class; dots stay.
fn dotted(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(|part| identifier(part, &[])).collect();
    let joined = parts.join(".");
    match RESERVED.contains(&joined.as_str()) {
        true => format!("{joined}_"),
        false => joined,
    }
}

fn field_key(name: &str) -> String {
    match is_identifier(name, &KEYWORDS) {
        true => name.to_owned(),
        false => format!("[{}]", string(name)),
    }
}

/// A string of Lua.
fn string(text: &str) -> String {
    let mut quoted = String::from("'");
    for byte in text.bytes() {
        match byte {
            b'\'' | b'\\' => {
                quoted.push('\\');
                quoted.push(char::from(byte));
            }
            0x20..=0x7e => quoted.push(char::from(byte)),
            byte => quoted.push_str(&format!("\\{byte:03}")),
        }
    }
    quoted.push('\'');
    quoted
}

/// A string as a type, which knows no escapes.
fn literal(text: &str) -> String {
    let is_plain = line(text) == text && !text.contains('\\');
    match (is_plain, text.contains('\''), text.contains('"')) {
        (true, false, _) => format!("'{text}'"),
        (true, true, false) => format!("\"{text}\""),
        _ => "string".to_owned(),
    }
}
