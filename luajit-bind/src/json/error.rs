//! Errors of JSON, each with its location.

use crate::codec::EncodeFault;

/// A value that has no form in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode {}: {fault}", if path.is_empty() { "the value" } else { path })]
pub struct JsonEncodeError {
    /// The path of the value below the outermost one, such as `[2].items`; empty for that one itself.
    pub path: String,
    /// The fault.
    pub fault: JsonEncodeFault,
}

/// The reason why a value cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonEncodeFault {
    /// NaN and the infinities.
    #[error("{0} is not a number in JSON")]
    NotFinite(&'static str),
    /// A value of another type.
    #[error("a {0} has no form in JSON")]
    Unsupported(&'static str),
    /// A key that is neither a string nor a number.
    #[error("a {0} cannot be the key of an object")]
    BadKey(&'static str),
    /// A string of arbitrary bytes.
    #[error("the string is not UTF-8; encode bytes as base64 or hex")]
    NotUtf8,
    /// Faults of tables that msgpack has too.
    #[error("{0}")]
    Table(EncodeFault),
}

impl From<EncodeFault> for JsonEncodeFault {
    fn from(fault: EncodeFault) -> JsonEncodeFault {
        JsonEncodeFault::Table(fault)
    }
}

/// A fault in a JSON text, at a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// The offset of the byte.
    pub at: usize,
    /// The fault.
    pub error: JsonDecodeError,
}

impl JsonFault {
    /// Describes the fault, with its line and column in the text.
    pub fn describe(&self, text: &[u8]) -> String {
        let before = &text[..self.at.min(text.len())];
        let line_at = before.iter().rposition(|byte| *byte == b'\n');
        let in_line = &before[line_at.map_or(0, |at| at + 1)..];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        // Continuation bytes of UTF-8 are not characters.
        let column = 1 + in_line.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        format!("line {line}, column {column}: {}", self.error)
    }
}

/// The kind of a fault in a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonDecodeError {
    /// The text ended too early.
    #[error("the text ends here, but {0} is expected")]
    Ended(&'static str),
    /// Another character was expected.
    #[error("{0} is expected")]
    Expected(&'static str),
    /// Text after the value.
    #[error("there is text after the value")]
    Trailing,
    /// A number as JSON does not write it.
    #[error("the number is malformed: {0}")]
    Number(&'static str),
    /// A number beyond the range of doubles.
    #[error("the number is too large")]
    NumberTooLarge,
    /// A control character in a string.
    #[error("a string contains a control character, which must be escaped, such as \\n")]
    Control,
    /// An unknown escape.
    #[error("the escape is unknown: \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\uXXXX are allowed")]
    Escape,
    /// Half of a pair of surrogates.
    #[error("the escape is one half of a surrogate pair, which is not a character")]
    LoneSurrogate,
    /// Bytes that are not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// More levels of arrays and objects than the limit.
    #[error("arrays and objects are nested deeper than {0} levels")]
    TooDeep(u32),
    /// Too many keys of an object have the same hash.
    #[error("the object's keys collide with too many others")]
    Crowded,
}
