//! Values in JSON and msgpack.

use super::json::{Fault, Limits, read_arguments};
use super::results::write_results;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    bytes_max: 1000,
    nesting_max: 8,
};

/// The arguments in JSON again, as results.
fn there_and_back(json: &str) -> Result<String, Fault> {
    let mut packed = Vec::new();
    let count = read_arguments(json.as_bytes(), LIMITS, &mut packed)?;
    let mut out = Vec::new();
    write_results(&packed, count, LIMITS, &mut out)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

fn written(packed: &[u8]) -> Result<String, Fault> {
    let mut out = Vec::new();
    write_results(packed, 1, LIMITS, &mut out)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

#[test]
fn values_keep_their_meaning() {
    for (json, back) in [
        ("", "null"),
        (" [ ] ", "null"),
        ("[null]", "null"),
        ("[1, 2]", "[1,2]"),
        ("[[]]", "[]"),
        ("[{\"a\":{\"b\":[1,{}]}}]", "{\"a\":{\"b\":[1,{}]}}"),
        (
            "[[[],[1,{\"a\":[[2]]}],[]],{}]",
            "[[[],[1,{\"a\":[[2]]}],[]],{}]",
        ),
        ("[\"\\u00e4\\n\"]", "\"\u{e4}\\n\""),
        ("[1.0, -2e2]", "[1,-200]"),
        ("[1.5]", "1.5"),
        ("[-0.0]", "0"),
        ("[9007199254740993]", "9007199254740993"),
        ("[-9223372036854775808]", "-9223372036854775808"),
        ("[18446744073709551615]", "18446744073709551615"),
        ("[18446744073709551616]", "1.8446744073709552e+19"),
    ] {
        assert_eq!(there_and_back(json).as_deref(), Ok(back), "{json}");
    }
}

#[test]
fn what_is_no_array_of_json_is_an_error() {
    for json in [
        "1",
        "{}",
        "null",
        "\"a\"",
        "[",
        "[1,]",
        "[1]]",
        "[NaN]",
        "[1e999]",
        "\u{feff}[]",
        "[01]",
        "[\"\n\"]",
    ] {
        assert!(
            matches!(there_and_back(json), Err(Fault::Body(_))),
            "{json}"
        );
    }
    assert!(read_arguments(b"[\"\xff\"]", LIMITS, &mut Vec::new()).is_err());
}

#[test]
fn results_without_a_form_in_json_are_errors() {
    for (packed, text) in [
        (&b"\xc4\x01\xff"[..], "UTF-8"),
        (b"\xa1\xff", "UTF-8"),
        (b"\xcb\x7f\xf8\0\0\0\0\0\0", "finite"),
        (b"\xca\x7f\x80\0\0", "finite"),
        (b"\xd4\x59\0", "function"),
        (b"\x91\xc7\0\x59", "function"),
        (b"\x81\xc0\x01", "key"),
        (b"\x81\x90\x01", "key"),
        (b"\x92\x01", "whole"),
        (b"", "whole"),
    ] {
        let error = written(packed).unwrap_err();
        assert!(error.to_string().contains(text), "{packed:x?}: {error}");
    }
    assert_eq!(written(b"\x81\xff\x01").as_deref(), Ok("{\"-1\":1}"));
    assert_eq!(written(b"\xc4\x01a").as_deref(), Ok("\"a\""));
}

#[test]
fn both_directions_are_bounded() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(there_and_back(&deep(8)).is_ok());
    assert!(matches!(there_and_back(&deep(9)), Err(Fault::Body(_))));
    assert!(matches!(
        there_and_back(&deep(100_000)),
        Err(Fault::Body(_))
    ));
    // Each empty array is one byte.
    let long = |count: usize| format!("[{}1]", "[],".repeat(count));
    assert!(there_and_back(&long(300)).is_ok());
    assert_eq!(
        read_arguments(long(999).as_bytes(), LIMITS, &mut Vec::new()),
        Ok(1000)
    );
    assert_eq!(there_and_back(&long(1000)), Err(Fault::TooLarge(1000)));
    // A count above 15 takes more, which is known at the end alone.
    let wide = |count: usize| format!("[[{}1]]", "1,".repeat(count - 1));
    assert_eq!(
        read_arguments(wide(997).as_bytes(), LIMITS, &mut Vec::new()),
        Ok(1)
    );
    assert_eq!(there_and_back(&wide(998)), Err(Fault::TooLarge(1000)));
    let mut packed = b"\xda\x01\0".to_vec();
    packed.extend([1; 256]);
    assert_eq!(written(&packed), Err(Fault::ResultTooLarge(1000)));
    let nested = [&[0x91; 9][..], &[0xc0]].concat();
    assert!(written(&nested).is_err());
    // A count that the bytes do not have.
    assert!(written(b"\xdd\xff\xff\xff\xff").is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_them_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut out = Vec::new();
        let _ = read_arguments(&bytes, LIMITS, &mut out);
        prop_assert!(out.len() <= LIMITS.bytes_max + bytes.len() + 9);
        let _ = write_results(&bytes, 1, LIMITS, &mut Vec::new());
        let _ = write_results(&bytes, 1000, LIMITS, &mut Vec::new());
    }
}
