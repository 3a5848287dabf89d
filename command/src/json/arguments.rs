//! Converts JSON into the msgpack values of a call's arguments.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use yue_rpc::proto::encode;

/// Returns the elements of a JSON array in msgpack, one after the other, and their number.
///
/// # Errors
/// A message about the fault in the text.
pub(crate) fn encode(text: &str) -> Result<(Vec<u8>, u32), String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("the arguments are not valid JSON ({error}): {text}"))?;
    let Value::Array(values) = value else {
        return Err(format!(
            "the arguments must be a JSON array, such as '[1, \"two\"]', not {text}"
        ));
    };
    encode_values(&values)
}

/// Returns values in msgpack, one after the other, and their number.
///
/// # Errors
/// A message about a value that has no form in msgpack.
pub(crate) fn encode_values(values: &[Value]) -> Result<(Vec<u8>, u32), String> {
    let mut out = Vec::new();
    for value in values {
        append(&mut out, value)?;
    }
    let count = u32::try_from(values.len()).map_err(|_| "too many arguments".to_owned())?;
    Ok((out, count))
}

/// Appends a value in msgpack. It is nested at most 128 deep, the limit of the JSON parser.
///
/// # Errors
/// A message about an object that stands for another value, and is malformed.
pub(crate) fn append(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => append_number(out, number),
        Value::String(text) => encode::str_or_bin(out, text.as_bytes()),
        Value::Array(values) => {
            header(out, values.len(), 0x90, 0xdc);
            values.iter().try_for_each(|value| append(out, value))?;
        }
        Value::Object(pairs) => {
            if let Some((kind, value)) = special(pairs) {
                return append_special(out, kind, value)
                    .ok_or_else(|| format!("{} stands for no value", Value::from(pairs.clone())));
            }
            header(out, pairs.len(), 0x80, 0xde);
            for (key, value) in pairs {
                encode::str_or_bin(out, key.as_bytes());
                append(out, value)?;
            }
        }
    }
    Ok(())
}

/// The key and the value of an object that stands for a value which JSON lacks.
fn special(pairs: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (key, value) = pairs.iter().next().filter(|_| pairs.len() == 1)?;
    let known = ["$base64", "$number", "$ext", "$function"];
    known.contains(&key.as_str()).then_some((key, value))
}

/// Appends it; returns `None`, and appends nothing, if it is malformed.
fn append_special(out: &mut Vec<u8>, kind: &str, value: &Value) -> Option<()> {
    let bytes = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    match kind {
        "$base64" => encode::str_or_bin(out, &bytes(value)?),
        "$number" => {
            let number: f64 = match value.as_str()? {
                "nan" => f64::NAN,
                "inf" => f64::INFINITY,
                "-inf" => f64::NEG_INFINITY,
                _ => return None,
            };
            append_float(out, number);
        }
        "$ext" => {
            let [number, body] = value.as_array()?.as_slice() else {
                return None;
            };
            let number = i8::try_from(number.as_i64()?).ok()?;
            // Such a value would be a reference to a function that nobody holds.
            if number == yue_wire::EXT_CODE {
                return None;
            }
            let body = bytes(body)?;
            let length = u32::try_from(body.len()).ok()?;
            rmp::encode::write_ext_meta(out, length, number).ok()?;
            out.extend_from_slice(&body);
        }
        _ => return None,
    }
    Some(())
}

fn append_number(out: &mut Vec<u8>, number: &serde_json::Number) {
    if let Some(value) = number.as_u64() {
        encode::uint(out, value);
    } else if let Some(value) = number.as_i64() {
        encode::int(out, value);
    } else {
        append_float(out, number.as_f64().unwrap_or(f64::NAN));
    }
}

fn append_float(out: &mut Vec<u8>, number: f64) {
    out.push(0xcb);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends an array's or a map's header: the short form by marker, or the form with two bytes of length.
fn header(out: &mut Vec<u8>, length: usize, short: u8, medium: u8) {
    match length {
        0..=15 => out.push(short | length as u8),
        16..=0xffff => {
            out.push(medium);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(medium + 1);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn values_of_every_json_type_are_encoded() {
        let (bytes, count) =
            encode(r#"[1, -2, 1.5, "a", null, true, [false], {"k": 300}]"#).unwrap();
        assert_eq!(count, 8);
        let expected: &[&[u8]] = &[
            &[1],
            &[0xfe],
            &[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0],
            &[0xa1, b'a', 0xc0, 0xc3],
            &[0x91, 0xc2],
            &[0x81, 0xa1, b'k', 0xcd, 1, 44],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn large_integers_are_exact_and_larger_ones_are_doubles() {
        let (bytes, _) = encode("[18446744073709551615, -9223372036854775808, 1e400]")
            .unwrap_or_else(|error| (error.into_bytes(), 0));
        // The parser refuses a number that is above all doubles.
        assert!(String::from_utf8_lossy(&bytes).contains("not valid JSON"));
        let (bytes, _) =
            encode("[18446744073709551615, -9223372036854775808, 18446744073709551616]").unwrap();
        let expected: &[&[u8]] = &[
            &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0xcb, 0x43, 0xf0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn objects_stand_for_the_values_that_json_lacks() {
        let (bytes, _) =
            encode(r#"[{"$base64": "/wA="}, {"$number": "-inf"}, {"$ext": [5, "AQ=="]}]"#).unwrap();
        let expected: &[&[u8]] = &[
            &[0xc4, 2, 0xff, 0],
            &[0xcb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0],
            &[0xd4, 5, 1],
        ];
        assert_eq!(bytes, expected.concat());
        for text in [
            r#"[{"$base64": "no base64!"}]"#,
            r#"[{"$number": 5}]"#,
            r#"[{"$ext": [89, "AQ=="]}]"#,
            r#"[{"$ext": [500, "AQ=="]}]"#,
            r#"[{"$function": 1}]"#,
        ] {
            assert!(
                encode(text).unwrap_err().contains("stands for no value"),
                "{text}"
            );
        }
        let (bytes, _) = encode(r#"[{"$number": "nan", "x": 1}]"#).unwrap();
        assert_eq!(bytes[0], 0x82, "a map of two pairs is one");
    }

    #[test]
    fn text_that_is_not_an_array_is_refused() {
        assert!(encode("{}").unwrap_err().contains("must be a JSON array"));
        assert!(encode("[1,").unwrap_err().contains("not valid JSON"));
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(encode(&deep).unwrap_err().contains("recursion limit"));
    }
}
