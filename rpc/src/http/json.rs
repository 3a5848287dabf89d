//! The arguments of calls, from JSON into msgpack; `results.rs` has the way back.
//!
//! null is nil; a number without a fraction is an integer if its double is exact (within 2^53), or if it is
//! written as an integer of 64 bits; an object is a map; of a key that comes twice, the decoder decides.
//!
//! Both directions are bounded in bytes and in nesting.

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
    let end = out.len().saturating_add(limits.bytes_max);
    let too_large = Cell::new(false);
    let mut headers = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(text);
    let writer = Writer {
        end,
        out,
        headers: &mut headers,
        depth_left: limits.nesting_max,
        too_large: &too_large,
    };
    let outcome = Arguments(writer)
        .deserialize(&mut json)
        .and_then(|count| json.end().map(|()| count));
    match outcome {
        Ok(count) => {
            compact(out, &headers);
            match out.len() <= end {
                true => Ok(count),
                false => Err(Fault::TooLarge(limits.bytes_max)),
            }
        }
        Err(_) if too_large.get() => Err(Fault::TooLarge(limits.bytes_max)),
        Err(error) => Err(Fault::Body(error.to_string())),
    }
}

/// The header of an array or a map, whose count is known at its end alone: until then it has the longest form.
#[derive(Clone, Copy)]
struct Header {
    at: usize,
    count: u32,
    is_map: bool,
}

/// The bytes of the longest form, and those that the shortest has less.
const LONGEST: usize = 5;
const SAVED_MAX: usize = LONGEST - 1;

/// Gives all headers their shortest forms. They are in the order of their positions.
fn compact(out: &mut Vec<u8>, headers: &[Header]) {
    let Some(first) = headers.first() else { return };
    let mut to = first.at;
    for (index, header) in headers.iter().enumerate() {
        let mut short = [0; LONGEST];
        let mut rest = &mut short[..];
        // A header fits into its longest form.
        let written = match header.is_map {
            true => rmp::encode::write_map_len(&mut rest, header.count),
            false => rmp::encode::write_array_len(&mut rest, header.count),
        };
        drop(written);
        let length = LONGEST - rest.len();
        out[to..to + length].copy_from_slice(&short[..length]);
        to += length;
        let from = header.at + LONGEST;
        let next = headers.get(index + 1).map_or(out.len(), |next| next.at);
        out.copy_within(from..next, to);
        to += next - from;
    }
    out.truncate(to);
}

/// Appends values to a buffer of msgpack.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// The length that the buffer must not pass.
    end: usize,
    headers: &'a mut Vec<Header>,
    depth_left: usize,
    too_large: &'a Cell<bool>,
}

impl Writer<'_> {
    fn below(&mut self) -> Writer<'_> {
        Writer {
            out: self.out,
            end: self.end,
            headers: self.headers,
            depth_left: self.depth_left.saturating_sub(1),
            too_large: self.too_large,
        }
    }

    fn check<E: serde::de::Error>(&self) -> Result<(), E> {
        // The headers may become shorter; `read_arguments` knows the exact length.
        let least = self.out.len() - SAVED_MAX * self.headers.len();
        if least <= self.end {
            return Ok(());
        }
        self.too_large.set(true);
        Err(E::custom("too large"))
    }

    /// Writes a header whose count follows later; returns its index.
    fn begin<E: serde::de::Error>(&mut self, is_map: bool) -> Result<usize, E> {
        if self.depth_left == 0 {
            return Err(E::custom("arrays and objects are nested too deeply"));
        }
        self.headers.push(Header {
            at: self.out.len(),
            count: 0,
            is_map,
        });
        self.out.extend_from_slice(&[0; LONGEST]);
        self.check()?;
        Ok(self.headers.len() - 1)
    }

    fn end(&mut self, index: usize, count: u32) {
        self.headers[index].count = count;
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
        let at = self.0.begin(false)?;
        let count = self.0.elements(elements)?;
        self.0.end(at, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<(), A::Error> {
        let at = self.0.begin(true)?;
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
