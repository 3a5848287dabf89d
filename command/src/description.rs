//! A server's description of itself: the answer to `$yue/describe`.
//!
//! The server may be anybody's, so everything in it is text of a stranger: [`printable`] for terminals, and the writers
//! of `types/` for files. Names that no call could reach are dropped.

use crate::table::acts_on_terminal;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use std::fmt;
use yue_rpc::session::Session;
use yue_rpc::typed::Caller;
use yue_rpc::{Error, ErrorKind};

/// Bytes of a name, and the tables that it leads through. yue's servers describe no more.
const NAME_BYTES_MAX: usize = 256;
const NAME_DEPTH_MAX: usize = 24;

/// Limits of parameters, functions and types. yue's servers describe no more.
const PARAMS_MAX: usize = 250;
const FUNCTIONS_MAX: usize = 4096;
const TYPES_MAX: usize = 1024;

/// Bytes of a comment. yue's servers cut them at this length, perhaps in the middle of a type.
pub(crate) const COMMENT_BYTES_MAX: usize = 4096;

/// The functions of a server, in the order of their names, and the types that their comments mention.
#[derive(Debug, Clone, Default)]
pub(crate) struct Description {
    pub(crate) functions: Vec<Function>,
    pub(crate) types: Vec<Declaration>,
    /// Whether the server has more than it lists.
    pub(crate) more: bool,
}

/// A function that can be called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Function {
    /// Dots lead through tables.
    pub(crate) name: String,
    /// The names of the parameters, if they are known.
    pub(crate) params: Option<Vec<String>>,
    /// Whether it takes more.
    pub(crate) vararg: bool,
    /// The comment above it.
    pub(crate) doc: String,
}

/// A class or an alias, as a comment declares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declaration {
    /// The comment, which names it.
    pub(crate) doc: String,
}

impl Function {
    /// The names of the parameters; `...` for more of them.
    pub(crate) fn parameters(&self) -> Vec<String> {
        let known = self.params.iter().flatten().cloned();
        let open = self.vararg || self.params.is_none();
        known.chain(open.then(|| "...".to_owned())).collect()
    }

    /// The first line of its comment that is not an annotation.
    pub(crate) fn summary(&self) -> &str {
        let lines = self.doc.lines().map(str::trim);
        lines
            .take_while(|line| !line.starts_with('@'))
            .find(|line| !line.is_empty())
            .unwrap_or("")
    }
}

/// Asks the peer.
///
/// # Errors
/// Those of a call; `NoMethodError` from a server that does not describe itself.
pub(crate) fn fetch(session: &Session) -> Result<Description, Error> {
    let caller = Caller::new(session.clone());
    let answer: Answer = caller
        .call("$yue/describe", ())
        .map_err(|error| match error.kind() {
            ErrorKind::Argument => {
                Error::new(ErrorKind::Rpc, "the server's description is malformed")
            }
            _ => error,
        })?;
    Ok(answer.into())
}

/// Escapes what would act on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        match acts_on_terminal(character) {
            true => shown.extend(character.escape_unicode()),
            false => shown.push(character),
        }
    }
    shown
}

/// The answer as it travels. Strings may be any bytes.
#[derive(Deserialize)]
struct Answer {
    functions: Vec<FunctionAnswer>,
    #[serde(default)]
    types: Vec<DeclarationAnswer>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct FunctionAnswer {
    name: Text,
    #[serde(default)]
    params: Option<Vec<Text>>,
    #[serde(default)]
    vararg: Option<bool>,
    #[serde(default)]
    doc: Option<Text>,
}

#[derive(Deserialize)]
struct DeclarationAnswer {
    doc: Text,
}

impl From<Answer> for Description {
    fn from(answer: Answer) -> Description {
        let more =
            answer.more || answer.functions.len() > FUNCTIONS_MAX || answer.types.len() > TYPES_MAX;
        let mut functions: Vec<Function> = answer
            .functions
            .into_iter()
            .filter(|function| can_be_called(&function.name.0))
            .take(FUNCTIONS_MAX)
            .map(|function| Function {
                name: function.name.0,
                params: function.params.map(|names| {
                    names
                        .into_iter()
                        .take(PARAMS_MAX)
                        .map(|name| name.0)
                        .collect()
                }),
                vararg: function.vararg.unwrap_or(false),
                doc: function.doc.map_or_else(String::new, |doc| cut(doc.0)),
            })
            .collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        functions.dedup_by(|a, b| a.name == b.name);
        let types = answer
            .types
            .into_iter()
            .take(TYPES_MAX)
            .map(|declaration| Declaration {
                doc: cut(declaration.doc.0),
            });
        Description {
            functions,
            types: types.collect(),
            more,
        }
    }
}

fn can_be_called(name: &str) -> bool {
    let mut segments = name.split('.');
    name.len() <= NAME_BYTES_MAX
        && segments.clone().count() <= NAME_DEPTH_MAX
        && segments.all(|segment| !segment.is_empty() && !segment.starts_with('_'))
}

/// Drops the rest of a comment that is as long as a server lets it be: its last line may be half a type.
fn cut(mut doc: String) -> String {
    if doc.len() >= COMMENT_BYTES_MAX {
        doc.truncate(doc.floor_char_boundary(COMMENT_BYTES_MAX));
        doc.truncate(doc.rfind('\n').unwrap_or(0));
    }
    doc
}

/// A string; bytes that are not UTF-8 are replaced.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}
