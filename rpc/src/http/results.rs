//! Converts the msgpack values of an answer into JSON.
//!
//! Integers are exact. A string is a JSON string if it is UTF-8, whatever its type on the wire. JSON has no form for
//! other bytes, for NaN and the infinities, for functions and other extension types, and for keys other than strings
//! and integers. For programs, a result with one of these is an error that names it: a value that silently became
//! another would be found by the user's users. For people who look at a result, an object with one key that begins with
//! `$` stands for the value:
//!
//! ```text
//!   {"$base64": "/wA="}     bytes that are not UTF-8
//!   {"$number": "nan"}      nan, inf or -inf
//!   {"$ext": [5, "AQ=="]}   an extension type of another program: its number, and its bytes
//!   {"$function": 7}        a function of the peer
//! ```
//!
//! and a key is the JSON text of its value: `{[{1}] = true}` is `{"[1]": true}`.

use super::json::{Fault, Limits};
use crate::proto::value::Reader;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rmp::{Marker, decode};
use std::io::Write;
use yue_wire::{EXT_CODE, Reference};

/// The form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One line. Values that JSON lacks are errors.
    Plain,
    /// One line. Values that JSON lacks have tags.
    Line,
    /// Indented, for people. Values that JSON lacks have tags.
    Pretty,
}

/// Bytes of an array or a map in msgpack that is written on one line, and columns of that line.
const SHORT_BYTES: usize = 60;
const SHORT_COLUMNS: usize = 72;

/// The nesting of keys in keys. Each level doubles the backslashes of the level below.
const KEYS_MAX: usize = 4;

const UNLIMITED: Limits = Limits {
    bytes_max: usize::MAX,
    nesting_max: usize::MAX,
};

const NOT_WHOLE: Fault = Fault::Result("it is not whole");
const NOT_UTF8: Fault =
    Fault::Result("a string in it is not UTF-8; encode bytes as text first, for example in base64");
const NOT_FINITE: Fault = Fault::Result("a number in it is not finite");
const NO_FORM: Fault =
    Fault::Result("it holds a function, or another value that has no form in JSON");
const NO_KEY: Fault =
    Fault::Result("a table in it has a key that is neither a string nor an integer");
const TOO_DEEP: Fault = Fault::Result("it is nested too deeply");

/// Appends `count` values in msgpack to `out` as JSON: null for none, one as it is, several as an array.
///
/// # Errors
/// If the bytes are not so many whole values, a value has no form in JSON, or a limit is passed.
pub(super) fn write_results(
    values: &[u8],
    count: u32,
    limits: Limits,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let end = out.len().saturating_add(limits.bytes_max);
    let mut writer = Writer {
        reader: Reader::new(values),
        levels: Vec::new(),
        out,
        style: Style::Plain,
        escapes: |_| false,
        limits,
        end,
        keys_left: KEYS_MAX,
    };
    writer.values(count)?;
    match out.len() > end {
        true => Err(Fault::ResultTooLarge(limits.bytes_max)),
        false => Ok(()),
    }
}

/// Returns `count` values in msgpack as JSON: null for none, one as it is, several as an array. `None` if the bytes are
/// not so many whole values, or one has no form. `escapes` names characters that are escaped beside those of which JSON
/// demands it.
pub fn results_to_text(
    values: &[u8],
    count: u32,
    style: Style,
    escapes: fn(char) -> bool,
) -> Option<String> {
    let mut out = Vec::new();
    let mut writer = Writer {
        reader: Reader::new(values),
        levels: Vec::new(),
        out: &mut out,
        style,
        escapes,
        limits: UNLIMITED,
        end: usize::MAX,
        keys_left: KEYS_MAX,
    };
    writer.values(count).ok()?;
    String::from_utf8(out).ok()
}

/// An array or a map that the writer is inside.
struct Level {
    is_map: bool,
    /// Values that follow; a map counts its pairs.
    left: u32,
    is_empty: bool,
}

/// Not recursive, except for keys: a value is nested as deeply as the connection's limit allows.
struct Writer<'a> {
    reader: Reader<'a>,
    levels: Vec<Level>,
    out: &'a mut Vec<u8>,
    style: Style,
    escapes: fn(char) -> bool,
    limits: Limits,
    /// The length that the text must not pass.
    end: usize,
    keys_left: usize,
}

impl Writer<'_> {
    fn values(&mut self, count: u32) -> Result<(), Fault> {
        match count {
            0 => self.text("null"),
            1 => self.value()?,
            several => self.open(false, several),
        }
        self.close_levels()
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn open(&mut self, is_map: bool, left: u32) {
        self.out.push(if is_map { b'{' } else { b'[' });
        self.levels.push(Level {
            is_map,
            left,
            is_empty: true,
        });
    }

    /// Writes the rest of all open arrays and maps.
    fn close_levels(&mut self) -> Result<(), Fault> {
        while let Some(level) = self.levels.last_mut() {
            if self.out.len() > self.end {
                return Err(Fault::ResultTooLarge(self.limits.bytes_max));
            }
            let (is_map, was_empty) = (level.is_map, level.is_empty);
            if level.left == 0 {
                self.levels.pop();
                if !was_empty {
                    self.new_line();
                }
                self.out.push(if is_map { b'}' } else { b']' });
                continue;
            }
            level.left -= 1;
            level.is_empty = false;
            if !was_empty {
                self.out.push(b',');
            }
            self.new_line();
            if is_map {
                self.key()?;
                self.text(self.colon());
            }
            if self.levels.len() > self.limits.nesting_max {
                return Err(TOO_DEEP);
            }
            self.value()?;
        }
        Ok(())
    }

    fn new_line(&mut self) {
        if self.style == Style::Pretty {
            self.out.push(b'\n');
            let columns = 2 * self.levels.len();
            self.out.extend(std::iter::repeat_n(b' ', columns));
        }
    }

    fn colon(&self) -> &'static str {
        match self.style {
            Style::Pretty => ": ",
            Style::Plain | Style::Line => ":",
        }
    }

    fn raw(&mut self) -> Result<&'_ [u8], Fault> {
        self.reader.read_raw().ok_or(NOT_WHOLE)
    }

    fn marker(&self) -> Result<Marker, Fault> {
        let first = self.reader.rest().first();
        first.map(|byte| Marker::from_u8(*byte)).ok_or(NOT_WHOLE)
    }

    /// Writes one value, or the opening of an array or a map.
    fn value(&mut self) -> Result<(), Fault> {
        match self.marker()? {
            Marker::Null => {
                self.reader.skip().ok_or(NOT_WHOLE)?;
                self.text("null");
            }
            Marker::True | Marker::False => {
                let value = self.reader.read_bool().ok_or(NOT_WHOLE)?;
                self.text(if value { "true" } else { "false" });
            }
            Marker::F32 => {
                let mut raw = self.raw()?;
                let number = decode::read_f32(&mut raw).map_err(|_| NOT_WHOLE)?;
                self.float(number.into())?;
            }
            Marker::F64 => {
                let mut raw = self.raw()?;
                let number = decode::read_f64(&mut raw).map_err(|_| NOT_WHOLE)?;
                self.float(number)?;
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                if !self.short_form() {
                    let count = self.reader.read_array().ok_or(NOT_WHOLE)?;
                    self.open(false, count);
                }
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                if !self.short_form() {
                    let count = self.reader.read_map().ok_or(NOT_WHOLE)?;
                    self.open(true, count);
                }
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => self.extension()?,
            Marker::Reserved => return Err(NO_FORM),
            marker if is_string(marker) => self.bytes()?,
            _ => {
                let number = self.integer()?;
                self.text(&number.to_string());
            }
        }
        Ok(())
    }

    fn integer(&mut self) -> Result<i128, Fault> {
        let mut raw = self.raw()?;
        decode::read_int(&mut raw).map_err(|_| NOT_WHOLE)
    }

    fn bytes(&mut self) -> Result<(), Fault> {
        let bytes = self.reader.read_bytes().ok_or(NOT_WHOLE)?;
        match (str::from_utf8(bytes), self.style) {
            (Ok(text), _) => self.string(text),
            (Err(_), Style::Plain) => return Err(NOT_UTF8),
            (Err(_), _) => self.tagged("$base64", &format!("\"{}\"", STANDARD.encode(bytes))),
        }
        Ok(())
    }

    /// Writes a whole array or map on one line, if it is short and the style has several; returns whether it did.
    fn short_form(&mut self) -> bool {
        if self.style != Style::Pretty {
            return false;
        }
        let mut ahead = self.reader;
        let Some(raw) = ahead.read_raw().filter(|raw| raw.len() <= SHORT_BYTES) else {
            return false;
        };
        let Some(line) = results_to_text(raw, 1, Style::Line, self.escapes) else {
            return false;
        };
        let is_flat = !line[1..].contains(['[', '{']);
        if !is_flat || line.len() + 2 * self.levels.len() > SHORT_COLUMNS {
            return false;
        }
        self.reader = ahead;
        self.text(&line);
        true
    }

    fn float(&mut self, number: f64) -> Result<(), Fault> {
        if number.is_finite() {
            return serde_json::to_writer(&mut *self.out, &number).map_err(|_| NOT_WHOLE);
        }
        if self.style == Style::Plain {
            return Err(NOT_FINITE);
        }
        let text = match number {
            number if number.is_nan() => "\"nan\"",
            number if number > 0.0 => "\"inf\"",
            _ => "\"-inf\"",
        };
        self.tagged("$number", text);
        Ok(())
    }

    fn extension(&mut self) -> Result<(), Fault> {
        let mut body = self.reader.read_raw().ok_or(NOT_WHOLE)?;
        let number = decode::read_ext_meta(&mut body).map_err(|_| NOT_WHOLE)?;
        let number = number.typeid;
        if self.style == Style::Plain {
            return Err(NO_FORM);
        }
        match Reference::parse(body) {
            Some(reference) if number == EXT_CODE => {
                self.tagged("$function", &reference.id.to_string());
            }
            _ => {
                let body = STANDARD.encode(body);
                self.tagged("$ext", &format!("[{number},\"{body}\"]"));
            }
        }
        Ok(())
    }

    fn tagged(&mut self, tag: &str, json: &str) {
        let colon = self.colon();
        self.text(&format!("{{\"{tag}\"{colon}{json}}}"));
    }

    fn key(&mut self) -> Result<(), Fault> {
        let marker = self.marker()?;
        if is_string(marker) {
            let mut ahead = self.reader;
            let is_text = ahead
                .read_bytes()
                .is_some_and(|bytes| str::from_utf8(bytes).is_ok());
            if is_text || self.style == Style::Plain {
                return self.bytes();
            }
        }
        let is_integer = matches!(
            marker,
            Marker::FixPos(_)
                | Marker::FixNeg(_)
                | Marker::U8
                | Marker::U16
                | Marker::U32
                | Marker::U64
                | Marker::I8
                | Marker::I16
                | Marker::I32
                | Marker::I64
        );
        if is_integer {
            let number = self.integer()?;
            self.text(&format!("\"{number}\""));
            return Ok(());
        }
        if self.style == Style::Plain {
            return Err(NO_KEY);
        }
        let text = self.key_text()?;
        self.string(&text);
        Ok(())
    }

    /// The JSON text of a key that is not a string.
    fn key_text(&mut self) -> Result<String, Fault> {
        let keys_left = self.keys_left.checked_sub(1).ok_or(TOO_DEEP)?;
        let raw = self.reader.read_raw().ok_or(NOT_WHOLE)?;
        let mut out = Vec::new();
        let mut writer = Writer {
            reader: Reader::new(raw),
            levels: Vec::new(),
            out: &mut out,
            style: Style::Line,
            escapes: self.escapes,
            limits: self.limits,
            end: self.end,
            keys_left,
        };
        writer.values(1)?;
        String::from_utf8(out).map_err(|_| NOT_WHOLE)
    }

    /// Writes a JSON string.
    fn string(&mut self, text: &str) {
        // Writing to a `Vec` does not fail, and a text has a form.
        if !text.chars().any(self.escapes) {
            drop(serde_json::to_writer(&mut *self.out, text));
            return;
        }
        self.out.push(b'"');
        for character in text.chars() {
            match character {
                '"' => self.text("\\\""),
                '\\' => self.text("\\\\"),
                '\n' => self.text("\\n"),
                '\r' => self.text("\\r"),
                '\t' => self.text("\\t"),
                character if character < ' ' || (self.escapes)(character) => {
                    let mut units = [0; 2];
                    for unit in character.encode_utf16(&mut units) {
                        drop(write!(self.out, "\\u{unit:04x}"));
                    }
                }
                character => self.text(character.encode_utf8(&mut [0; 4])),
            }
        }
        self.out.push(b'"');
    }
}

fn is_string(marker: Marker) -> bool {
    matches!(
        marker,
        Marker::FixStr(_)
            | Marker::Str8
            | Marker::Str16
            | Marker::Str32
            | Marker::Bin8
            | Marker::Bin16
            | Marker::Bin32
    )
}

#[cfg(test)]
mod tests;
