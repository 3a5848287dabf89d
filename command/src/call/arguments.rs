//! The arguments of calls: words of the command line, or a stream of JSON on standard input.

use super::failure::Failure;
use crate::json::{append, encode_values};
use serde_json::de::IoRead;
use serde_json::{StreamDeserializer, Value};
use std::io::BufReader;
use std::io::Stdin;

/// The arguments of one call in msgpack.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
}

/// The arguments of all calls.
pub(super) enum Input {
    Once(Encoded),
    Stream(Stream),
}

/// The words behind the method.
pub(super) struct Words<'a> {
    pub(super) words: &'a [String],
    /// Whether JSON in them is text, too.
    pub(super) are_strings: bool,
}

impl Words<'_> {
    /// # Errors
    /// A message about the word that is wrong.
    pub(super) fn read(&self) -> Result<Input, String> {
        if !self.are_strings {
            match self.words {
                [word] if word == "-" => return Ok(Input::Stream(Stream::new())),
                words if words.iter().any(|word| word == "-") => {
                    return Err(
                        "- reads all arguments and must be the only one; the string is '\"-\"'"
                            .to_owned(),
                    );
                }
                _ => {}
            }
        }
        let mut bytes = Vec::new();
        for word in self.words {
            let value = match self.are_strings {
                true => Value::String(word.clone()),
                false => parse_word(word)?,
            };
            append(&mut bytes, &value)?;
        }
        let count = u32::try_from(self.words.len()).map_err(|_| "too many arguments".to_owned())?;
        Ok(Input::Once(Encoded { bytes, count }))
    }
}

/// A word is JSON, or a string. One that begins like a string, an array or an object in JSON was meant to be one.
fn parse_word(word: &str) -> Result<Value, String> {
    match serde_json::from_str(word) {
        Ok(value) => Ok(value),
        Err(error) if word.trim_start().starts_with(['"', '[', '{']) => Err(format!(
            "{word} is not valid JSON ({error}); -s takes all arguments as strings"
        )),
        Err(_) => Ok(Value::String(word.to_owned())),
    }
}

/// The values on standard input.
pub(super) struct Stream {
    values: StreamDeserializer<'static, IoRead<BufReader<Stdin>>, Value>,
}

impl Stream {
    fn new() -> Stream {
        let stdin = BufReader::new(std::io::stdin());
        Stream {
            values: serde_json::Deserializer::from_reader(stdin).into_iter(),
        }
    }

    /// Waits for the arguments of the next call; `None` at the end. The blocking pool parses them: the parser is
    /// recursive, and stacks of fibers are small.
    pub(super) fn next(&mut self) -> Result<Option<Encoded>, Failure> {
        let values = &mut self.values;
        let next = yue_scheduler::blocking_borrowed(|| values.next().map(encode));
        match next.map_err(|error| Failure::other(error.to_string()))? {
            None => Ok(None),
            Some(Ok(encoded)) => Ok(Some(encoded)),
            Some(Err(text)) => Err(Failure::other(text)),
        }
    }
}

fn encode(value: serde_json::Result<Value>) -> Result<Encoded, String> {
    let value = value.map_err(|error| format!("standard input is not valid JSON: {error}"))?;
    let values = match value {
        Value::Array(values) => values,
        other => vec![other],
    };
    let (bytes, count) = encode_values(&values)?;
    Ok(Encoded { bytes, count })
}

#[cfg(test)]
mod tests {
    use super::{Input, Words};

    fn read(words: &[&str], are_strings: bool) -> Result<Vec<u8>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let words = Words {
            words: &words,
            are_strings,
        };
        match words.read()? {
            Input::Once(encoded) => Ok(encoded.bytes),
            Input::Stream(_) => Ok(b"stream".to_vec()),
        }
    }

    #[test]
    fn words_are_json_or_strings() {
        let bytes = read(&["5", "five", "null", "\"5\"", "[1]", "-1", "nan"], false);
        let expected = b"\x05\xa4five\xc0\xa15\x91\x01\xff\xa3nan";
        assert_eq!(bytes.unwrap(), expected);
        let bytes = read(&["5", "[1", "-"], true);
        assert_eq!(bytes.unwrap(), b"\xa15\xa2[1\xa1-");
    }

    #[test]
    fn broken_json_is_no_string() {
        for word in ["[1,", "{", "\"open", " [x]"] {
            let text = read(&[word], false).unwrap_err();
            assert!(text.contains("is not valid JSON"), "{text}");
        }
    }

    #[test]
    fn standard_input_comes_alone() {
        assert_eq!(read(&["-"], false).unwrap(), b"stream");
        assert!(
            read(&["1", "-"], false)
                .unwrap_err()
                .contains("the only one")
        );
        assert_eq!(read(&["\"-\""], false).unwrap(), b"\xa1-");
    }
}
