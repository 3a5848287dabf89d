//! The arguments of the call: converts a JSON array into msgpack values.

use serde_json::Value;
use yue_rpc::proto::encode;

/// Returns the values in msgpack, one after the other, and their number.
///
/// # Errors
/// A message about the fault in the text.
pub(super) fn encode(text: &str) -> Result<(Vec<u8>, u32), String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("the arguments are not valid JSON ({error}): {text}"))?;
    let Value::Array(values) = value else {
        return Err(format!(
            "the arguments must be a JSON array, such as '[1, \"two\"]', not {text}"
        ));
    };
    let mut out = Vec::new();
    for value in &values {
        append(&mut out, value);
    }
    Ok((
        out,
        u32::try_from(values.len()).map_err(|_| "too many arguments".to_owned())?,
    ))
}

fn append(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => append_number(out, number),
        Value::String(text) => encode::str_or_bin(out, text.as_bytes()),
        Value::Array(values) => {
            header(out, values.len(), 0x90, 0xdc);
            values.iter().for_each(|value| append(out, value));
        }
        Value::Object(pairs) => {
            header(out, pairs.len(), 0x80, 0xde);
            for (key, value) in pairs {
                encode::str_or_bin(out, key.as_bytes());
                append(out, value);
            }
        }
    }
}

fn append_number(out: &mut Vec<u8>, number: &serde_json::Number) {
    if let Some(value) = number.as_u64() {
        encode::uint(out, value);
    } else if let Some(value) = number.as_i64() {
        encode::int(out, value);
    } else {
        out.push(0xcb);
        out.extend_from_slice(&number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
    }
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
    fn text_that_is_not_an_array_is_refused() {
        assert!(encode("{}").unwrap_err().contains("must be a JSON array"));
        assert!(encode("[1,").unwrap_err().contains("not valid JSON"));
    }
}
