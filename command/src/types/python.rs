//! Stubs for Python: a class of the functions, as the procedures of `clients/python` are used.
//!
//! Each function has its prefixed forms, because Python has no types that compute names. Values are those of that
//! client: no result is None, several results are a tuple.

use super::docs::{Tags, lines_of_method, rest_name};
use super::luacats::{Field, Key, Literal, Signature, Type, parts};
use super::model::{Method, Model, Named, Node, Results, unknown_in, walk};
use super::text::{
    HEADER, MORE, Scope, TypeNames, identifier, is_identifier, line, parameters, quoted,
    with_remark,
};
use std::collections::{BTreeMap, HashSet};

/// Keywords, and names that the stubs use: in its class, a function of such a name would hide the type. Stubs use
/// `List` instead of `list`, because functions are often called `list`.
const RESERVED: [&str; 52] = [
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "async",
    "await",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "global",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "nonlocal",
    "not",
    "or",
    "pass",
    "raise",
    "return",
    "try",
    "while",
    "with",
    "yield",
    "self",
    "Any",
    "Awaitable",
    "Callable",
    "Literal",
    "NotRequired",
    "TypeAlias",
    "TypedDict",
    "annotations",
    "asyncio",
    "bool",
    "float",
    "int",
    "str",
    "Dict",
    "List",
    "Tuple",
];

/// Prefixes that the client takes off a name.
const PREFIXES: [&str; 3] = ["async_", "timed_", "notify_"];

const TAGS: Tags = Tags {
    param: |name, text| format!("{name}: {text}"),
    result: |text| format!("Returns: {text}"),
    deprecated: "Deprecated.",
};

const IMPORTS: &str = "\
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Dict, List, Literal, NotRequired, Tuple, TypeAlias, TypedDict
";

pub(super) fn write(model: &Model, root: &str, has_more: bool) -> String {
    let mut scope = Scope::default();
    let root = scope.unique(identifier(root, &RESERVED));
    let names: TypeNames = model
        .types
        .keys()
        .map(|name| (name.clone(), scope.unique(identifier(name, &RESERVED))))
        .collect();
    let mut writer = Writer {
        scope,
        names,
        types: String::new(),
        classes: String::new(),
    };
    for (name, (text, named)) in &model.types {
        if let Named::Class(fields) = named {
            writer.class_of_values(name, text, fields);
        }
    }
    let aliases = Aliases::of(model);
    for name in aliases.order {
        if let (text, Named::Alias(value)) = &model.types[name] {
            writer.alias_of(name, text, value, aliases.circular.contains(name));
        }
    }
    writer.class(&root, &model.root);
    let more = if has_more {
        format!("# {MORE}\n")
    } else {
        String::new()
    };
    let Writer { types, classes, .. } = writer;
    format!("# {HEADER}\n{more}{IMPORTS}{types}{classes}")
}

/// The aliases, each after those that it names, and those that name one behind them: circles have such.
#[derive(Default)]
struct Aliases<'a> {
    order: Vec<&'a String>,
    seen: HashSet<&'a String>,
    finished: HashSet<&'a String>,
    circular: HashSet<&'a String>,
}

impl<'a> Aliases<'a> {
    fn of(model: &'a Model) -> Aliases<'a> {
        let mut aliases = Aliases::default();
        for (name, (_, named)) in &model.types {
            aliases.visit(model, name, named);
        }
        aliases
    }

    /// Recursive, at most as deep as there are types, which the description bounds.
    fn visit(&mut self, model: &'a Model, name: &'a String, named: &'a Named) {
        let Named::Alias(value) = named else { return };
        if !self.seen.insert(name) {
            return;
        }
        let mut mentioned = Vec::new();
        walk(value, &mut |part| {
            if let Type::Named(other) = part {
                mentioned.push(other);
            }
        });
        for other in mentioned {
            let Some((other, (_, named @ Named::Alias(_)))) = model.types.get_key_value(other)
            else {
                continue;
            };
            self.visit(model, other, named);
            if !self.finished.contains(other) {
                self.circular.insert(name);
            }
        }
        self.finished.insert(name);
        self.order.push(name);
    }
}

/// The side that made a value: it decides the results of the functions in the value.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Server,
    Client,
}

struct Writer {
    scope: Scope,
    names: TypeNames,
    types: String,
    classes: String,
}

impl Writer {
    fn class_of_values(&mut self, name: &str, text: &[String], fields: &[Field]) {
        let shown = self.names[name].clone();
        match is_record(fields) {
            true => self.typed_dict(&shown, text, fields),
            false => self.alias(&shown, text, "Dict[Any, Any]", &[]),
        }
    }

    fn alias_of(&mut self, name: &str, text: &[String], value: &Type, is_circular: bool) {
        let shown = self.names[name].clone();
        let mut rendered = self.value(value, From::Client, &shown);
        if is_circular {
            // A string may name what follows.
            rendered = quoted(&rendered);
        }
        self.alias(&shown, text, &rendered, &unknown_in(value));
    }

    fn alias(&mut self, name: &str, text: &[String], value: &str, unknown: &[&str]) {
        self.types.push('\n');
        let remark = with_remark("", unknown);
        let texts = text.iter().map(|text| line(text));
        for line in texts.chain((!remark.is_empty()).then_some(remark)) {
            self.types.push_str(format!("# {line}").trim_end());
            self.types.push('\n');
        }
        self.types
            .push_str(&format!("{name}: TypeAlias = {value}\n"));
    }

    fn typed_dict(&mut self, name: &str, text: &[String], fields: &[Field]) {
        let mut members: BTreeMap<usize, (String, String, bool, String)> = BTreeMap::new();
        for (at, field) in fields.iter().enumerate() {
            let Key::Name(key) = &field.key else { continue };
            let hint = format!("{name}_{key}");
            let mut value = self.value(&field.value, From::Client, &hint);
            // A field that is nil is absent.
            let is_optional = field.is_optional || field.value.allows_nil();
            if is_optional {
                value = or_none(&value);
            }
            let text = with_remark(&field.text, &unknown_in(&field.value));
            members.insert(at, (key.clone(), value, is_optional, text));
        }
        let are_identifiers = members
            .values()
            .all(|(key, ..)| is_identifier(key, &RESERVED) && !key.starts_with("__"));
        let mut out = String::from("\n");
        if are_identifiers {
            out.push_str(&format!("\nclass {name}(TypedDict):\n"));
            out.push_str(&docstring(&lines_of(text), 1));
            for (key, value, is_optional, text) in members.values() {
                let remark = if text.is_empty() {
                    String::new()
                } else {
                    format!("  # {text}")
                };
                let value = match is_optional {
                    true => format!("NotRequired[{value}]"),
                    false => value.clone(),
                };
                out.push_str(&format!("    {key}: {value}{remark}\n"));
            }
            if members.is_empty() {
                out.push_str("    pass\n");
            }
        } else {
            lines_of(text)
                .iter()
                .for_each(|line| out.push_str(&format!("# {line}\n")));
            out.push_str(&format!("{name} = TypedDict({}, {{\n", quoted(name)));
            for (key, value, is_optional, text) in members.values() {
                let remark = if text.is_empty() {
                    String::new()
                } else {
                    format!("  # {text}")
                };
                let value = match is_optional {
                    true => format!("NotRequired[{}]", quoted(value)),
                    false => quoted(value),
                };
                out.push_str(&format!("    {}: {value},{remark}\n", quoted(key)));
            }
            out.push_str("})\n");
        }
        self.types.push_str(&out);
    }

    fn class(&mut self, name: &str, node: &Node) {
        let mut out = format!("\n\nclass {name}:\n");
        let mut is_empty = true;
        let mut inner = Vec::new();
        if let Some(method) = &node.method {
            out.push_str(&self.method("__call__", "", method, &|_| true));
            is_empty = false;
        }
        for (key, child) in &node.children {
            let has_prefix = PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            let can_be_attribute = is_identifier(key, &RESERVED) && !has_prefix;
            let class = match (&child.method, child.children.is_empty()) {
                (Some(method), true) if can_be_attribute => {
                    let is_free = |name: &str| !node.children.contains_key(name);
                    out.push_str(&self.method(key, name, method, &is_free));
                    is_empty = false;
                    continue;
                }
                (_, false) => self
                    .scope
                    .unique(identifier(&format!("{name}_{key}"), &RESERVED)),
                _ => String::new(),
            };
            if can_be_attribute {
                out.push_str(&format!("    {key}: {class}\n"));
                is_empty = false;
            } else {
                let key = if has_prefix {
                    format!("={key}")
                } else {
                    key.clone()
                };
                out.push_str(&format!(
                    "    # Not declared: procedures[{}]\n",
                    quoted(&key)
                ));
            }
            if !class.is_empty() {
                inner.push((class, child));
            }
        }
        if is_empty {
            out.push_str("    pass\n");
        }
        self.classes.push_str(&out);
        for (class, child) in inner {
            self.class(&class, child);
        }
    }

    /// A function, and its forms with prefixes, as far as no other function has such a name.
    fn method(
        &mut self,
        key: &str,
        class: &str,
        method: &Method,
        is_free: &dyn Fn(&str) -> bool,
    ) -> String {
        let hint = format!("{class}_{key}");
        let reserved = [&RESERVED[..], &["seconds"]].concat();
        let names = parameters(
            method.params.iter().map(|param| param.name.as_str()),
            &reserved,
        );
        let mut params = Vec::new();
        for (param, name) in method.params.iter().zip(&names) {
            let value = self.value(&param.value, From::Client, &format!("{hint}_{name}"));
            params.push(match param.is_optional {
                true => format!("{name}: {} = None", or_none(&value)),
                false => format!("{name}: {value}"),
            });
        }
        if !params.is_empty() {
            // The wire has no names of arguments.
            params.push("/".to_owned());
        }
        if let Some((value, _)) = &method.rest {
            let name = rest_name(&names);
            let value = self.value(value, From::Client, &format!("{hint}_{name}"));
            params.push(format!("*{name}: {value}"));
        }
        let results = self.results(&method.results, &hint);
        let all = |first: &str| {
            let mut list = vec!["self".to_owned()];
            list.extend((!first.is_empty()).then(|| first.to_owned()));
            list.extend(params.iter().cloned());
            list.join(", ")
        };
        let doc = docstring(&lines_of_method(method, &names, &TAGS), 2);
        let body = if doc.is_empty() {
            " ...\n".to_owned()
        } else {
            format!("\n{doc}")
        };
        let mut out = format!("    async def {key}({}) -> {results}:{body}", all(""));
        if key == "__call__" {
            return out;
        }
        let forms = [
            ("async_", "", format!("asyncio.Future[{results}]"), "def"),
            ("timed_", "seconds: float", results.clone(), "async def"),
            ("notify_", "", "bool".to_owned(), "def"),
        ];
        for (prefix, first, result, def) in forms {
            let name = format!("{prefix}{key}");
            if is_free(&name) {
                out.push_str(&format!(
                    "    {def} {name}({}) -> {result}: ...\n",
                    all(first)
                ));
            }
        }
        out
    }

    fn results(&mut self, results: &Results, hint: &str) -> String {
        let variants = results.variants();
        if variants.is_empty() {
            return "Any".to_owned();
        }
        let hint = format!("{hint}_result");
        let mut shown = Vec::new();
        for types in &variants {
            match types.as_slice() {
                [] => shown.push("None".to_owned()),
                [one] => {
                    for part in parts(one) {
                        shown.push(self.value(part, From::Server, &hint));
                    }
                }
                several => {
                    let list = self.list(several, From::Server, &hint);
                    shown.push(format!("Tuple[{list}]"));
                }
            }
        }
        union(shown)
    }

    /// A type; records get classes, named by the hint.
    fn value(&mut self, value: &Type, from: From, hint: &str) -> String {
        match value {
            Type::Any | Type::Unknown(_) => "Any".to_owned(),
            Type::Nil => "None".to_owned(),
            Type::Boolean => "bool".to_owned(),
            Type::Number => "float".to_owned(),
            Type::Integer => "int".to_owned(),
            Type::String => "str".to_owned(),
            Type::Table => "Dict[Any, Any] | List[Any]".to_owned(),
            Type::AnyFunction => "Callable[..., Any]".to_owned(),
            Type::Literal(Literal::String(text)) => format!("Literal[{}]", quoted(text)),
            Type::Literal(Literal::Integer(number)) => format!("Literal[{number}]"),
            Type::Literal(Literal::Boolean(true)) => "Literal[True]".to_owned(),
            Type::Literal(Literal::Boolean(false)) => "Literal[False]".to_owned(),
            Type::Named(name) => self.names[name].clone(),
            Type::Array(inner) => format!("List[{}]", self.value(inner, from, hint)),
            Type::Map(key, inner) => {
                let key = match **key {
                    Type::Integer => "int",
                    Type::String => "str",
                    _ => "Any",
                };
                format!("Dict[{key}, {}]", self.value(inner, from, hint))
            }
            Type::Record(fields) if is_record(fields) => {
                let name = self.scope.unique(identifier(hint, &RESERVED));
                self.typed_dict(&name, &[], fields);
                name
            }
            Type::Record(_) => "Dict[Any, Any]".to_owned(),
            Type::Tuple(types) => {
                let parts: Vec<String> = types
                    .iter()
                    .map(|one| self.value(one, from, hint))
                    .collect();
                match parts.is_empty() {
                    true => "List[Any]".to_owned(),
                    false => format!("List[{}]", union(parts)),
                }
            }
            Type::Union(types) => union(
                types
                    .iter()
                    .map(|one| self.value(one, from, hint))
                    .collect(),
            ),
            Type::Function(signature) => self.function(signature, from, hint),
        }
    }

    fn list(&mut self, types: &[Type], from: From, hint: &str) -> String {
        let shown: Vec<String> = types
            .iter()
            .map(|one| self.value(one, from, hint))
            .collect();
        shown.join(", ")
    }

    fn function(&mut self, signature: &Signature, from: From, hint: &str) -> String {
        let is_fixed =
            |param: &super::luacats::Parameter| param.name != "..." && !param.is_optional;
        let params = match signature.params.iter().all(is_fixed) {
            true => {
                let parts: Vec<String> = signature
                    .params
                    .iter()
                    .map(|param| self.value(&param.value, From::Client, hint))
                    .collect();
                format!("[{}]", parts.join(", "))
            }
            false => "...".to_owned(),
        };
        let results = match signature.results.as_deref() {
            None => "Any".to_owned(),
            Some([one]) => self.value(one, from, hint),
            Some(several) => format!("Tuple[{}]", self.list(several, from, hint)),
        };
        match from {
            From::Server => format!("Callable[{params}, Awaitable[{results}]]"),
            From::Client if results == "Any" => format!("Callable[{params}, Any]"),
            From::Client => format!("Callable[{params}, {results} | Awaitable[{results}]]"),
        }
    }
}

fn is_record(fields: &[Field]) -> bool {
    fields.iter().all(|field| matches!(field.key, Key::Name(_)))
}

fn lines_of(text: &[String]) -> Vec<String> {
    text.iter().map(|text| line(text)).collect()
}

fn or_none(value: &str) -> String {
    match value == "Any" || value.split(" | ").any(|part| part == "None") {
        true => value.to_owned(),
        false => format!("{value} | None"),
    }
}

fn union(parts: Vec<String>) -> String {
    if parts.iter().any(|part| part == "Any") {
        return "Any".to_owned();
    }
    let mut once: Vec<String> = Vec::new();
    // Literals share one pair of brackets.
    let mut literals: Option<usize> = None;
    for part in parts {
        if let Some(value) = part.strip_prefix("Literal[")
            && let Some(at) = literals
        {
            once[at].pop();
            once[at].push_str(&format!(", {value}"));
            continue;
        }
        if part.starts_with("Literal[") {
            literals = Some(once.len());
        }
        if once.len() > 64 || !once.contains(&part) {
            once.push(part);
        }
    }
    once.join(" | ")
}

/// A docstring. Backslashes and quotes in it are escaped.
fn docstring(lines: &[String], depth: usize) -> String {
    if lines.iter().all(String::is_empty) {
        return String::new();
    }
    let indent = "    ".repeat(depth);
    let lines: Vec<String> = lines
        .iter()
        .map(|line| line.replace('\\', "\\\\").replace('"', "\\\""))
        .collect();
    let text = lines.join(&format!("\n{indent}"));
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    let end = if lines.len() > 1 {
        format!("\n{indent}")
    } else {
        String::new()
    };
    format!("{indent}\"\"\"{}{end}\"\"\"\n", text.join("\n"))
}
