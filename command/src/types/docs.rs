//! The comment of a function in the declarations: its text, and lines about parameters and results.

use super::model::{Method, Results, unknown_in};
use super::text::{Scope, line, with_remark};

/// The forms of a language's lines.
pub(super) struct Tags {
    /// The line about a parameter, from its name and its text.
    pub(super) param: fn(&str, &str) -> String,
    /// The line about a result, from its text.
    pub(super) result: fn(&str) -> String,
    pub(super) deprecated: &'static str,
}

/// The name of the parameter that takes the rest of the arguments, beside parameters of these names.
pub(super) fn rest_name(names: &[String]) -> String {
    let mut scope = Scope::default();
    names
        .iter()
        .for_each(|name| drop(scope.unique(name.clone())));
    scope.unique("args".to_owned())
}

/// The lines of a function's comment, whose parameters have these names in the output.
pub(super) fn lines_of_method(method: &Method, names: &[String], tags: &Tags) -> Vec<String> {
    let mut lines: Vec<String> = method.text.iter().map(|text| line(text)).collect();
    let rest = rest_name(names);
    let params = method.params.iter().zip(names);
    let params = params.map(|(param, name)| (name, &param.value, &param.text));
    let rest = method.rest.iter().map(|(value, text)| (&rest, value, text));
    let mut more = Vec::new();
    for (name, value, text) in params.chain(rest) {
        let text = with_remark(text, &unknown_in(value));
        if !text.is_empty() {
            more.push((tags.param)(name, &text));
        }
    }
    if let Results::Known(results) = &method.results {
        for (value, text) in results {
            let text = with_remark(text, &unknown_in(value));
            if !text.is_empty() {
                more.push((tags.result)(&text));
            }
        }
    }
    if method.is_deprecated {
        more.push(tags.deprecated.to_owned());
    }
    if !lines.is_empty() && !more.is_empty() {
        lines.push(String::new());
    }
    lines.extend(more);
    lines
}
