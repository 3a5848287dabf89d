//! A server's functions and types, as all writers see them: names are resolved, and the tree of namespaces is built.
//!
//! Everything here is finite and consistent: a named type is declared, an alias does not lead back to itself,
//! and a class has the fields of its parents.

use super::annotations::{self, Declared};
use super::luacats::{Field, Key, Signature, Type, parts, union_of};
use crate::description::{Description, Function};
use std::collections::{BTreeMap, HashSet};

/// A function.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) text: Vec<String>,
    pub(super) params: Vec<MethodParam>,
    /// The type of further arguments, if it takes any.
    pub(super) rest: Option<(Type, String)>,
    pub(super) results: Results,
    pub(super) is_deprecated: bool,
}

#[derive(Debug)]
pub(super) struct MethodParam {
    pub(super) name: String,
    pub(super) value: Type,
    /// Whether it may be left out. A parameter before one that may not is not: it may only be nil.
    pub(super) is_optional: bool,
    pub(super) text: String,
}

/// The results of a function.
#[derive(Debug)]
pub(super) enum Results {
    Unknown,
    /// With names and texts, as far as there are any.
    Known(Vec<(Type, String)>),
}

impl Results {
    /// The lists of results that a caller may get: those at the end that allow nil may be absent.
    pub(super) fn variants(&self) -> Vec<Vec<Type>> {
        let Results::Known(results) = self else {
            return Vec::new();
        };
        let types: Vec<Type> = results.iter().map(|(value, _)| value.clone()).collect();
        let absent = types
            .iter()
            .rev()
            .take_while(|value| value.allows_nil())
            .count();
        (types.len() - absent..=types.len())
            .map(|count| types[..count].to_vec())
            .collect()
    }
}

/// A namespace, a function, or both.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) method: Option<Method>,
    pub(super) children: BTreeMap<String, Node>,
}

/// A class, with the fields of its parents, or an alias.
#[derive(Debug)]
pub(super) enum Named {
    Class(Vec<Field>),
    Alias(Type),
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) root: Node,
    /// The declared types that functions refer to, with their comments.
    pub(super) types: BTreeMap<String, (Vec<String>, Named)>,
}

/// Fields of one class, with those of its parents. A stranger's classes could inherit each other's fields many times.
const FIELDS_MAX: usize = 256;

impl Model {
    pub(super) fn new(description: &Description) -> Model {
        let mut declared: BTreeMap<String, (Vec<String>, Declared)> = BTreeMap::new();
        let mut twice = HashSet::new();
        for declaration in &description.types {
            if let Some((name, text, kind)) = annotations::of_type(&declaration.doc)
                && declared.insert(name.clone(), (text, kind)).is_some()
            {
                twice.insert(name);
            }
        }
        declared.retain(|name, _| !twice.contains(name));
        let mut types = BTreeMap::new();
        for (name, (text, kind)) in &declared {
            let named = match kind {
                Declared::Class { .. } => match fields_of(name, &declared) {
                    Some(fields) => Named::Class(fields),
                    None => continue,
                },
                Declared::Alias(value) => Named::Alias(value.clone()),
            };
            types.insert(name.clone(), (text.clone(), named));
        }
        // An alias that leads back to itself stands for nothing.
        let circular: Vec<String> = types
            .keys()
            .filter(|name| is_circular(name, &types))
            .cloned()
            .collect();
        types.retain(|name, _| !circular.contains(name));
        let known = Known::new(&types);
        for (_, named) in types.values_mut() {
            match named {
                Named::Class(fields) => fields
                    .iter_mut()
                    .for_each(|field| resolve_field(field, &known)),
                Named::Alias(value) => resolve(value, &known),
            }
        }
        let mut model = Model {
            root: Node::default(),
            types,
        };
        for function in &description.functions {
            let method = method_of(function, &known);
            let mut node = &mut model.root;
            for segment in function.name.split('.') {
                node = node.children.entry(segment.to_owned()).or_default();
            }
            node.method = Some(method);
        }
        model
    }
}

fn method_of(function: &Function, known: &Known) -> Method {
    let comment = annotations::of_function(&function.doc);
    let find = |name: &str| comment.params.iter().find(|param| param.name == name);
    let mut params: Vec<MethodParam> = function
        .params
        .iter()
        .flatten()
        .map(|name| {
            let param = find(name);
            let mut value = param.map_or(Type::Any, |param| param.value.clone());
            resolve(&mut value, known);
            if param.is_some_and(|param| param.is_optional) {
                value = value.or_nil();
            }
            // Of a parameter without a type it is not known whether it may be left out: its name says that it exists.
            let is_open = matches!(value, Type::Any | Type::Unknown(_));
            let is_optional =
                param.is_some_and(|param| param.is_optional || !is_open && value.allows_nil());
            MethodParam {
                name: name.clone(),
                is_optional,
                value,
                text: param.map_or_else(String::new, |param| param.text.clone()),
            }
        })
        .collect();
    let needed = params.iter().rposition(|param| !param.is_optional);
    for param in params.iter_mut().take(needed.unwrap_or(0)) {
        param.is_optional = false;
    }
    let takes_more = function.vararg || function.params.is_none();
    let rest = takes_more.then(|| match find("...") {
        Some(param) => {
            let mut value = param.value.clone();
            resolve(&mut value, known);
            (value, param.text.clone())
        }
        None => (Type::Any, String::new()),
    });
    let results = match comment.results.is_empty() || comment.has_more_results {
        true => Results::Unknown,
        false => Results::Known(
            comment
                .results
                .into_iter()
                .map(|mut result| {
                    resolve(&mut result.value, known);
                    let text = [result.name, result.text];
                    let text: Vec<String> =
                        text.into_iter().filter(|text| !text.is_empty()).collect();
                    (result.value, text.join(": "))
                })
                .collect(),
        ),
    };
    Method {
        text: comment.text,
        params,
        rest,
        results,
        is_deprecated: comment.is_deprecated,
    }
}

/// The names that mean something.
#[derive(Debug)]
struct Known {
    names: HashSet<String>,
    /// The aliases of types that allow nil.
    nullable: HashSet<String>,
}

impl Known {
    fn new(types: &BTreeMap<String, (Vec<String>, Named)>) -> Known {
        let mut nullable: HashSet<String> = HashSet::new();
        // An alias of a nullable alias is one: each round finds some, or is the last.
        loop {
            let is_nullable = |value: &Type| {
                parts(value).iter().any(|part| match part {
                    Type::Named(name) => nullable.contains(name),
                    other => other.allows_nil(),
                })
            };
            let found: Vec<String> = types
                .iter()
                .filter(|(name, (_, named))| match named {
                    Named::Alias(value) => !nullable.contains(*name) && is_nullable(value),
                    Named::Class(_) => false,
                })
                .map(|(name, _)| name.clone())
                .collect();
            if found.is_empty() {
                let names = types.keys().cloned().collect();
                return Known { names, nullable };
            }
            nullable.extend(found);
        }
    }
}

/// The fields of a class and of its parents; its own win. `None` if a parent is not known: the class would lack fields.
fn fields_of(
    name: &str,
    declared: &BTreeMap<String, (Vec<String>, Declared)>,
) -> Option<Vec<Field>> {
    let mut fields: Vec<Field> = Vec::new();
    let mut keys = HashSet::new();
    let mut seen = HashSet::new();
    let mut waiting = vec![name.to_owned()];
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        // `@class A: table` adds nothing.
        if name == "table" {
            continue;
        }
        let Some((
            _,
            Declared::Class {
                parents,
                fields: own,
            },
        )) = declared.get(&name)
        else {
            return None;
        };
        for field in own {
            let key = match &field.key {
                Key::Name(name) => Some(name.clone()),
                Key::Index(_) => None,
            };
            if key.is_none_or(|key| keys.insert(key)) {
                fields.push(field.clone());
            }
        }
        if fields.len() > FIELDS_MAX {
            return None;
        }
        waiting.extend(parents.iter().rev().cloned());
    }
    Some(fields)
}

/// Whether an alias is, or is a union of, itself. Inside of arrays, tables and functions it may name itself.
fn is_circular(name: &str, types: &BTreeMap<String, (Vec<String>, Named)>) -> bool {
    let mut seen = HashSet::new();
    let mut waiting = vec![name.to_owned()];
    while let Some(next) = waiting.pop() {
        let Some((_, Named::Alias(value))) = types.get(&next) else {
            continue;
        };
        for part in parts(value) {
            if let Type::Named(other) = part {
                if other == name {
                    return true;
                }
                if seen.insert(other.clone()) {
                    waiting.push(other.clone());
                }
            }
        }
    }
    false
}

fn resolve_field(field: &mut Field, known: &Known) {
    resolve(&mut field.value, known);
    if let Key::Index(index) = &mut field.key {
        resolve(index, known);
    }
}

/// Makes names that nothing declares unknown.
fn resolve(value: &mut Type, known: &Known) {
    match value {
        Type::Named(name) if !known.names.contains(name) => *value = Type::Unknown(name.clone()),
        // Its users see that it may be absent.
        Type::Named(name) if known.nullable.contains(name) => {
            *value = Type::Union(vec![Type::Named(name.clone()), Type::Nil]);
        }
        Type::Array(inner) => resolve(inner, known),
        Type::Map(key, inner) => {
            resolve(key, known);
            resolve(inner, known);
        }
        Type::Record(fields) => fields
            .iter_mut()
            .for_each(|field| resolve_field(field, known)),
        Type::Tuple(types) | Type::Union(types) => {
            types.iter_mut().for_each(|one| resolve(one, known));
        }
        Type::Function(signature) => resolve_signature(signature, known),
        _ => {}
    }
}

fn resolve_signature(signature: &mut Signature, known: &Known) {
    for param in &mut signature.params {
        resolve(&mut param.value, known);
        if param.is_optional {
            let value = std::mem::replace(&mut param.value, Type::Any);
            param.value = union_of(vec![value, Type::Nil]);
        }
    }
    for result in signature.results.iter_mut().flatten() {
        resolve(result, known);
    }
}

/// The texts of unknown types in a type, for a remark.
pub(super) fn unknown_in(value: &Type) -> Vec<&str> {
    let mut found = Vec::new();
    walk(value, &mut |part| {
        if let Type::Unknown(text) = part {
            found.push(text.as_str());
        }
    });
    found
}

/// Visits a type and all types in it. They are nested as deeply as the parser allows.
pub(super) fn walk<'a>(value: &'a Type, visit: &mut impl FnMut(&'a Type)) {
    visit(value);
    match value {
        Type::Array(inner) => walk(inner, visit),
        Type::Map(key, inner) => {
            walk(key, visit);
            walk(inner, visit);
        }
        Type::Record(fields) => {
            for field in fields {
                if let Key::Index(index) = &field.key {
                    walk(index, visit);
                }
                walk(&field.value, visit);
            }
        }
        Type::Tuple(types) | Type::Union(types) => {
            types.iter().for_each(|one| walk(one, visit));
        }
        Type::Function(signature) => {
            for param in &signature.params {
                walk(&param.value, visit);
            }
            for result in signature.results.iter().flatten() {
                walk(result, visit);
            }
        }
        _ => {}
    }
}
