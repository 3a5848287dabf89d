//! Values in JSON and in msgpack.
//!
//! Arguments: null is nil; a number without a fraction is an integer if its double is exact (within 2^53), or if it is
//! written as an integer of 64 bits; an object is a map; of a key that comes twice, the decoder decides.
//!
//! Results: JSON has no form for bytes that are not UTF-8, for NaN and the infinities, for functions and other
//! extension types, and for keys other than strings and integers. A result with one of these is an error that names
//! it: a value that silently became another would be found by the user's users. Integers are written in full; a client
//! that reads them as doubles, such as a browser, loses digits above 2^53.
//!
//! Both directions are bounded in bytes and in nesting.

use rmp::Marker;
use rmp::decode;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;

/// A fault of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not JSON, or holds something else than is expected.
    #[error("the body is not a JSON array of arguments: {0}")]
    Body(String),
    /// The arguments are larger than a message may be.
    #[error("the arguments are larger than {0} bytes in msgpack, the server's limit of a message")]
    TooLarge(usize),
    /// The result is larger than a message may be.
    #[error("the result is larger than {0} bytes in JSON, the limit of a message")]
    ResultTooLarge(usize),
    /// The result has no form in JSON.
    #[error("the result cannot be sent as JSON: {0}")]
    Result(&'static str),
}

/// The limits of a value.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in msgpack, or in JSON.
    pub bytes_max: usize,
    /// Nesting of arrays and objects.
    pub nesting_max: usize,
}

/// Doubles up to this hold integers exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends the elements of a JSON array to `out`, in msgpack; returns their number, 0 for nothing but blanks.
///
/// # Errors
/// If the text is not an array of JSON, or a limit is passed.
pub fn read_arguments(text: &[u8], limits: Limits, out: &mut Vec<u8>) -> Result<u32, Fault> {
    if text.trim_ascii().is_empty() {
        return Ok(0);
    }
    let start = out.len();
    let too_large = Cell::new(false);
    let mut json = serde_json::Deserializer::from_slice(text);
    let writer = Writer {
        end: start.saturating_add(limits.bytes_max),
        out,
        depth_left: limits.nesting_max,
        too_large: &too_large,
    };
    let outcome = Arguments(writer)
        .deserialize(&mut json)
        .and_then(|count| json.end().map(|()| count));
    match outcome {
        Ok(count) => Ok(count),
        Err(_) if too_large.get() => Err(Fault::TooLarge(limits.bytes_max)),
        Err(error) => Err(Fault::Body(error.to_string())),
    }
}

/// Appends values to a buffer of msgpack.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// The length that the buffer must not pass.
    end: usize,
    depth_left: usize,
    too_large: &'a Cell<bool>,
}

impl Writer<'_> {
    fn below(&mut self) -> Writer<'_> {
        Writer {
            out: self.out,
            end: self.end,
            depth_left: self.depth_left.saturating_sub(1),
            too_large: self.too_large,
        }
    }

    fn check<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.out.len() <= self.end {
            return Ok(());
        }
        self.too_large.set(true);
        Err(E::custom("too large"))
    }

    /// Writes a header whose count follows later; returns the position of the count.
    fn begin<E: serde::de::Error>(&mut self, marker: Marker) -> Result<usize, E> {
        if self.depth_left == 0 {
            return Err(E::custom("arrays and objects are nested too deeply"));
        }
        self.out.push(marker.to_u8());
        self.out.extend_from_slice(&[0; 4]);
        self.check()?;
        Ok(self.out.len() - 4)
    }

    fn end(&mut self, at: usize, count: u32) {
        self.out[at..at + 4].copy_from_slice(&count.to_be_bytes());
    }

    /// Writes the elements of an array, and returns their number.
    fn elements<'de, A: SeqAccess<'de>>(&mut self, mut elements: A) -> Result<u32, A::Error> {
        let mut count = 0;
        while elements.next_element_seed(Value(self.below()))?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn string<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        // Writing to a `Vec` does not fail.
        drop(rmp::encode::write_str(self.out, text));
        self.check()
    }
}

/// The outer array, whose elements are the arguments.
struct Arguments<'a>(Writer<'a>);

impl<'de> DeserializeSeed<'de> for Arguments<'_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u32, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Arguments<'_> {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, elements: A) -> Result<u32, A::Error> {
        self.0.elements(elements)
    }
}

/// One value.
struct Value<'a>(Writer<'a>);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        drop(rmp::encode::write_nil(self.0.out));
        self.0.check()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        drop(rmp::encode::write_bool(self.0.out, value));
        self.0.check()
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        drop(rmp::encode::write_sint(self.0.out, value));
        self.0.check()
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        drop(rmp::encode::write_uint(self.0.out, value));
        self.0.check()
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            // The cast is exact.
            return self.visit_i64(value as i64);
        }
        drop(rmp::encode::write_f64(self.0.out, value));
        self.0.check()
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<(), E> {
        self.0.string(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, elements: A) -> Result<(), A::Error> {
        let at = self.0.begin(Marker::Array32)?;
        let count = self.0.elements(elements)?;
        self.0.end(at, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<(), A::Error> {
        let at = self.0.begin(Marker::Map32)?;
        let mut count = 0;
        while pairs.next_key_seed(Key(self.0.below()))?.is_some() {
            pairs.next_value_seed(Value(self.0.below()))?;
            count += 1;
        }
        self.0.end(at, count);
        Ok(())
    }
}

/// The key of an object.
struct Key<'a>(Writer<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(mut self, text: &str) -> Result<(), E> {
        self.0.string(text)
    }
}

/// An array or a map that the writer of a result is inside.
struct Level {
    is_map: bool,
    /// Values that follow; a map counts its pairs.
    left: u32,
    is_first: bool,
}

/// Appends `count` values in msgpack to `out` as JSON: null for none, one as it is, several as an array.
///
/// # Errors
/// If a value has no form in JSON, or a limit is passed.
pub fn write_results(
    mut values: &[u8],
    count: u32,
    limits: Limits,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let end = out.len().saturating_add(limits.bytes_max);
    let mut levels: Vec<Level> = Vec::new();
    match count {
        0 => out.extend_from_slice(b"null"),
        1 => write_value(&mut values, &mut levels, out)?,
        several => open(&mut levels, false, several, out),
    }
    // Not recursive: the nesting of a result may be configured to be larger than a stack allows.
    while let Some(level) = levels.last_mut() {
        if out.len() > end {
            return Err(Fault::ResultTooLarge(limits.bytes_max));
        }
        if level.left == 0 {
            out.push(if level.is_map { b'}' } else { b']' });
            levels.pop();
            continue;
        }
        level.left -= 1;
        if !std::mem::take(&mut level.is_first) {
            out.push(b',');
        }
        if level.is_map {
            write_key(&mut values, out)?;
            out.push(b':');
        }
        if levels.len() > limits.nesting_max {
            return Err(Fault::Result("it is nested too deeply"));
        }
        write_value(&mut values, &mut levels, out)?;
    }
    match out.len() > end {
        true => Err(Fault::ResultTooLarge(limits.bytes_max)),
        false => Ok(()),
    }
}

const NOT_WHOLE: Fault = Fault::Result("it is not whole");
const NOT_UTF8: Fault =
    Fault::Result("a string in it is not UTF-8; encode bytes as text first, for example in base64");

fn open(levels: &mut Vec<Level>, is_map: bool, left: u32, out: &mut Vec<u8>) {
    out.push(if is_map { b'{' } else { b'[' });
    levels.push(Level {
        is_map,
        left,
        is_first: true,
    });
}

fn write_value(
    values: &mut &[u8],
    levels: &mut Vec<Level>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let marker = values.first().map(|byte| Marker::from_u8(*byte));
    match marker.ok_or(NOT_WHOLE)? {
        Marker::Null => {
            *values = &values[1..];
            out.extend_from_slice(b"null");
        }
        marker @ (Marker::True | Marker::False) => {
            *values = &values[1..];
            let text: &[u8] = if marker == Marker::True {
                b"true"
            } else {
                b"false"
            };
            out.extend_from_slice(text);
        }
        Marker::F32 => {
            let value = decode::read_f32(values).map_err(|_| NOT_WHOLE)?;
            write_number(value.into(), out)?;
        }
        Marker::F64 => {
            let value = decode::read_f64(values).map_err(|_| NOT_WHOLE)?;
            write_number(value, out)?;
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let count = decode::read_array_len(values).map_err(|_| NOT_WHOLE)?;
            open(levels, false, count, out);
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let count = decode::read_map_len(values).map_err(|_| NOT_WHOLE)?;
            open(levels, true, count, out);
        }
        Marker::FixStr(_)
        | Marker::Str8
        | Marker::Str16
        | Marker::Str32
        | Marker::Bin8
        | Marker::Bin16
        | Marker::Bin32 => write_string(values, out)?,
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => out.extend_from_slice(read_integer(values)?.to_string().as_bytes()),
        _ => {
            return Err(Fault::Result(
                "it holds a function, or another value that has no form in JSON",
            ));
        }
    }
    Ok(())
}

fn write_key(values: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let marker = values.first().map(|byte| Marker::from_u8(*byte));
    match marker.ok_or(NOT_WHOLE)? {
        Marker::FixStr(_)
        | Marker::Str8
        | Marker::Str16
        | Marker::Str32
        | Marker::Bin8
        | Marker::Bin16
        | Marker::Bin32 => write_string(values, out),
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => {
            let text = format!("\"{}\"", read_integer(values)?);
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        _ => Err(Fault::Result(
            "a table in it has a key that is neither a string nor an integer",
        )),
    }
}

fn read_integer(values: &mut &[u8]) -> Result<i128, Fault> {
    decode::read_int(values).map_err(|_| NOT_WHOLE)
}

fn write_number(value: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
    if !value.is_finite() {
        return Err(Fault::Result("a number in it is not finite"));
    }
    serde_json::to_writer(out, &value).map_err(|_| NOT_WHOLE)
}

fn write_string(values: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut reader = crate::proto::value::Reader::new(values);
    let bytes = reader.read_bytes().ok_or(NOT_WHOLE)?;
    *values = reader.rest();
    let text = str::from_utf8(bytes).map_err(|_| NOT_UTF8)?;
    serde_json::to_writer(out, text).map_err(|_| NOT_WHOLE)
}
