//! Declarations in TypeScript: an interface of the functions, as the type parameter of `open<World>()` of `clients/js`.
//!
//! Its values are those of that client: nil is `null`, no result is `undefined`, several results are a tuple. A
//! function that the server passes returns a promise, and one that it gets may return one.

use super::docs::{Tags, lines_of_method, rest_name};
use super::luacats::{Field, Key, Literal, Signature, Type, parts};
use super::model::{Method, Model, Named, Node, Results, unknown_in};
use super::text::{
    HEADER, MORE, Scope, TypeNames, identifier, is_identifier, line, parameters, quoted,
    with_remark,
};

/// Words that cannot name parameters or types, or mean something else there.
const RESERVED: [&str; 78] = [
    "abstract",
    "any",
    "arguments",
    "as",
    "asserts",
    "async",
    "await",
    "bigint",
    "boolean",
    "break",
    "case",
    "catch",
    "class",
    "const",
    "constructor",
    "continue",
    "debugger",
    "declare",
    "default",
    "delete",
    "do",
    "else",
    "enum",
    "eval",
    "export",
    "extends",
    "false",
    "finally",
    "for",
    "function",
    "if",
    "implements",
    "import",
    "in",
    "infer",
    "instanceof",
    "interface",
    "is",
    "keyof",
    "let",
    "module",
    "namespace",
    "never",
    "new",
    "null",
    "number",
    "object",
    "package",
    "private",
    "protected",
    "public",
    "readonly",
    "require",
    "return",
    "static",
    "string",
    "super",
    "switch",
    "symbol",
    "this",
    "throw",
    "true",
    "try",
    "type",
    "typeof",
    "undefined",
    "unique",
    "unknown",
    "using",
    "var",
    "void",
    "while",
    "with",
    "yield",
    "Array",
    "Promise",
    "Record",
    "Object",
];

const TAGS: Tags = Tags {
    param: |name, text| format!("@param {name} - {text}"),
    result: |text| format!("@returns {text}"),
    deprecated: "@deprecated",
};

/// Properties that would be something else than methods if they were not quoted.
const QUOTED: [&str; 2] = ["new", "constructor"];

pub(super) fn write(model: &Model, root: &str, has_more: bool) -> String {
    let mut scope = Scope::default();
    let root = scope.unique(identifier(root, &RESERVED));
    let names: TypeNames = model
        .types
        .keys()
        .map(|name| (name.clone(), scope.unique(identifier(name, &RESERVED))))
        .collect();
    let mut writer = Writer {
        out: format!("// {HEADER}\n"),
        names,
    };
    if has_more {
        writer.out.push_str(&format!("// {MORE}\n"));
    }
    for (name, (text, named)) in &model.types {
        writer.out.push('\n');
        writer.named(name, text, named);
    }
    writer
        .out
        .push_str(&format!("\nexport interface {root} {{\n"));
    writer.members(&model.root, 1);
    writer.out.push_str("}\n");
    writer.out
}

/// The side that made a value: it decides the results of the functions in the value.
#[derive(Clone, Copy, PartialEq)]
enum From {
    /// The server.
    Server,
    /// The client, or either.
    Client,
}

struct Writer {
    out: String,
    names: TypeNames,
}

impl Writer {
    fn named(&mut self, name: &str, text: &[String], named: &Named) {
        let shown = self.names[name].clone();
        let mut lines: Vec<String> = text.iter().map(|text| line(text)).collect();
        match named {
            Named::Class(fields) => {
                self.comment(&lines, 0);
                if fields
                    .iter()
                    .any(|field| matches!(field.key, Key::Index(_)))
                {
                    let value = self.record(fields);
                    self.out
                        .push_str(&format!("export type {shown} = {value};\n"));
                    return;
                }
                self.out.push_str(&format!("export interface {shown} {{\n"));
                for field in fields {
                    let text = with_remark(&field.text, &unknown_in(&field.value));
                    self.comment(&[text], 1);
                    let member = self.field(field);
                    self.out.push_str(&format!("  {member};\n"));
                }
                self.out.push_str("}\n");
            }
            Named::Alias(value) => {
                let remark = with_remark("", &unknown_in(value));
                lines.extend((!remark.is_empty()).then_some(remark));
                self.comment(&lines, 0);
                let value = self.value(value, From::Client);
                self.out
                    .push_str(&format!("export type {shown} = {value};\n"));
            }
        }
    }

    fn members(&mut self, node: &Node, depth: usize) {
        let indent = "  ".repeat(depth);
        for (name, child) in &node.children {
            let key = property(name);
            match (&child.method, child.children.is_empty()) {
                (Some(method), true) => self.method(&key, method, depth),
                (method, _) => {
                    self.out.push_str(&format!("{indent}{key}: {{\n"));
                    if let Some(method) = method {
                        self.method("", method, depth + 1);
                    }
                    self.members(child, depth + 1);
                    self.out.push_str(&format!("{indent}}};\n"));
                }
            }
        }
    }

    fn method(&mut self, key: &str, method: &Method, depth: usize) {
        let names = method.params.iter().map(|param| param.name.as_str());
        let names = parameters(names, &RESERVED);
        let mut params = Vec::new();
        for (param, name) in method.params.iter().zip(&names) {
            let mark = if param.is_optional { "?" } else { "" };
            params.push(format!(
                "{name}{mark}: {}",
                self.value(&param.value, From::Client)
            ));
        }
        if let Some((value, _)) = &method.rest {
            let name = rest_name(&names);
            params.push(format!("...{name}: {}", self.array(value, From::Client)));
        }
        self.comment(&lines_of_method(method, &names, &TAGS), depth);
        let indent = "  ".repeat(depth);
        let results = self.results(&method.results);
        let params = params.join(", ");
        self.out
            .push_str(&format!("{indent}{key}({params}): Promise<{results}>;\n"));
    }

    /// The value of a promise: the results as the client has them.
    fn results(&self, results: &Results) -> String {
        let variants = results.variants();
        if variants.is_empty() {
            return "unknown".to_owned();
        }
        let shown = variants.iter().flat_map(|types| match types.as_slice() {
            [] => vec!["undefined".to_owned()],
            [one] if variants.len() == 1 => vec![self.value(one, From::Server)],
            [one] => parts(one)
                .iter()
                .map(|part| self.part(part, From::Server))
                .collect(),
            several => vec![self.tuple(several, From::Server)],
        });
        union(shown.collect())
    }

    fn value(&self, value: &Type, from: From) -> String {
        match value {
            Type::Any | Type::Unknown(_) => "unknown".to_owned(),
            Type::Nil => "null".to_owned(),
            Type::Boolean => "boolean".to_owned(),
            Type::Number | Type::Integer => "number".to_owned(),
            Type::String => "string".to_owned(),
            Type::Table => "object".to_owned(),
            Type::AnyFunction => "(...args: any[]) => unknown".to_owned(),
            Type::Literal(Literal::String(text)) => quoted(text),
            Type::Literal(Literal::Integer(number)) => number.to_string(),
            Type::Literal(Literal::Boolean(value)) => value.to_string(),
            Type::Named(name) => self.names[name].clone(),
            Type::Array(inner) => self.array(inner, from),
            Type::Map(key, inner) => {
                format!("{{ [key: {}]: {} }}", index(key), self.value(inner, from))
            }
            Type::Record(fields) => self.record(fields),
            Type::Tuple(types) => self.tuple(types, from),
            Type::Union(types) => union(types.iter().map(|one| self.part(one, from)).collect()),
            Type::Function(signature) => self.function(signature, from),
        }
    }

    /// A type as a part of a larger one.
    fn part(&self, value: &Type, from: From) -> String {
        let shown = self.value(value, from);
        match value {
            Type::Function(_) | Type::AnyFunction | Type::Union(_) => format!("({shown})"),
            _ => shown,
        }
    }

    fn array(&self, inner: &Type, from: From) -> String {
        format!("{}[]", self.part(inner, from))
    }

    fn tuple(&self, types: &[Type], from: From) -> String {
        let types: Vec<String> = types.iter().map(|one| self.value(one, from)).collect();
        format!("[{}]", types.join(", "))
    }

    fn record(&self, fields: &[Field]) -> String {
        let named = fields
            .iter()
            .filter(|field| matches!(field.key, Key::Name(_)));
        let named: Vec<String> = named.map(|field| self.field(field)).collect();
        let mut indices = fields.iter().filter_map(|field| match &field.key {
            Key::Index(key) => Some((key, &field.value)),
            Key::Name(_) => None,
        });
        let open = match (indices.next(), indices.next()) {
            (None, _) => None,
            (Some((key, value)), None) if named.is_empty() => Some(format!(
                "{{ [key: {}]: {} }}",
                index(key),
                self.value(value, From::Client)
            )),
            // All members of an interface would have to be of the type of its index.
            _ => Some("{ [key: string]: unknown }".to_owned()),
        };
        match (named.is_empty(), open) {
            (true, Some(open)) => open,
            (false, Some(open)) => format!("{{ {} }} & {open}", named.join("; ")),
            (true, None) => "object".to_owned(),
            (false, None) => format!("{{ {} }}", named.join("; ")),
        }
    }

    /// A named member.
    fn field(&self, field: &Field) -> String {
        let Key::Name(name) = &field.key else {
            return "[key: string]: unknown".to_owned();
        };
        // A field that is nil is absent.
        let is_optional = field.is_optional || field.value.allows_nil();
        let value = match is_optional {
            true => self.value(&field.value.clone().or_nil(), From::Client),
            false => self.value(&field.value, From::Client),
        };
        let mark = if is_optional { "?" } else { "" };
        format!("{}{mark}: {value}", property(name))
    }

    fn function(&self, signature: &Signature, from: From) -> String {
        let rest = signature.params.iter().find(|param| param.name == "...");
        let params: Vec<_> = signature
            .params
            .iter()
            .filter(|param| param.name != "...")
            .collect();
        let names = parameters(params.iter().map(|param| param.name.as_str()), &RESERVED);
        let needed = params.iter().rposition(|param| !param.is_optional);
        let mut shown = Vec::new();
        for (at, (param, name)) in params.iter().zip(&names).enumerate() {
            let may_be_absent = needed.is_none_or(|needed| at > needed);
            let mark = if may_be_absent { "?" } else { "" };
            shown.push(format!(
                "{name}{mark}: {}",
                self.value(&param.value, From::Client)
            ));
        }
        if let Some(rest) = rest {
            let mut scope = Scope::default();
            names
                .iter()
                .for_each(|name| drop(scope.unique(name.clone())));
            let name = scope.unique("args".to_owned());
            shown.push(format!(
                "...{name}: {}",
                self.array(&rest.value, From::Client)
            ));
        }
        let results = match signature.results.as_deref() {
            None => "unknown".to_owned(),
            Some([one]) => self.value(one, from),
            Some(several) if from == From::Server => self.tuple(several, from),
            // A client says by other means that it returns several.
            Some(_) => "unknown".to_owned(),
        };
        let results = match from {
            From::Server => format!("Promise<{results}>"),
            From::Client if results == "unknown" => results,
            From::Client => {
                let part = match signature.results.as_deref() {
                    Some([one]) => self.part(one, from),
                    _ => results.clone(),
                };
                format!("{part} | Promise<{results}>")
            }
        };
        format!("({}) => {results}", shown.join(", "))
    }

    fn comment(&mut self, lines: &[String], depth: usize) {
        let indent = "  ".repeat(depth);
        let lines: Vec<String> = lines
            .iter()
            .map(|line| line.replace("*/", "*\\/"))
            .collect();
        match lines.as_slice() {
            [] => {}
            [one] if one.is_empty() => {}
            [one] => self.out.push_str(&format!("{indent}/** {one} */\n")),
            several => {
                self.out.push_str(&format!("{indent}/**\n"));
                for line in several {
                    let text = format!("{indent} * {line}");
                    self.out.push_str(text.trim_end());
                    self.out.push('\n');
                }
                self.out.push_str(&format!("{indent} */\n"));
            }
        }
    }
}

fn property(name: &str) -> String {
    match is_identifier(name, &QUOTED) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// The type of an object's keys: all keys but numbers are strings.
fn index(key: &Type) -> &'static str {
    match key {
        Type::Number | Type::Integer => "number",
        _ => "string",
    }
}

fn union(parts: Vec<String>) -> String {
    if parts.iter().any(|part| part == "unknown") {
        return "unknown".to_owned();
    }
    let mut once: Vec<String> = Vec::new();
    for part in parts {
        if once.len() > 64 || !once.contains(&part) {
            once.push(part);
        }
    }
    once.join(" | ")
}
