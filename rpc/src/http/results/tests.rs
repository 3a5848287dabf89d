//! The forms of values in JSON.

use super::{Style, results_to_text};
use crate::proto::encode;

fn write_results(bytes: &[u8], count: u32, style: Style) -> Option<String> {
    results_to_text(bytes, count, style, |c| c.is_control() || c == '\u{202e}')
}

fn line(bytes: &[u8]) -> String {
    write_results(bytes, 1, Style::Line).expect("a whole value")
}

#[test]
fn each_value_has_a_form() {
    for (bytes, text) in [
        (&[0xc0][..], "null"),
        (&[0xc3], "true"),
        (&[0xe0], "-32"),
        (
            &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255],
            "18446744073709551615",
        ),
        (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808"),
        (&[0xca, 0x3f, 0xc0, 0, 0], "1.5"),
        (
            &[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0],
            r#"{"$number":"inf"}"#,
        ),
        (
            &[0xcb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0],
            r#"{"$number":"-inf"}"#,
        ),
        (
            &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
            r#"{"$number":"nan"}"#,
        ),
        (&[0xc4, 2, b'h', b'i'], r#""hi""#),
        (&[0xc4, 2, 0xff, 0], r#"{"$base64":"/wA="}"#),
        (&[0xa1, 0xff], r#"{"$base64":"/w=="}"#),
        (&[0xd4, 5, 1], r#"{"$ext":[5,"AQ=="]}"#),
        (&[0xd7, 0x59, 1, 0, 0, 0, 0, 0, 0, 7], r#"{"$function":7}"#),
        (&[0x90], "[]"),
        (&[0x80], "{}"),
        (&[0x92, 1, 0x91, 2], "[1,[2]]"),
        (&[0x82, 0xa1, b'k', 1, 5, 2], r#"{"k":1,"5":2}"#),
        (&[0x81, 0x91, 1, 2], r#"{"[1]":2}"#),
    ] {
        assert_eq!(line(bytes), text, "{bytes:02x?}");
    }
}

#[test]
fn several_values_are_an_array_and_none_is_null() {
    assert_eq!(write_results(&[], 0, Style::Line).unwrap(), "null");
    assert_eq!(
        write_results(&[1, 0xc0], 2, Style::Line).unwrap(),
        "[1,null]"
    );
}

#[test]
fn people_get_lines() {
    // {"list": [1, [2, 3]], "none": []}
    let mut bytes = vec![0x82];
    encode::str(&mut bytes, "list");
    bytes.extend_from_slice(&[0x92, 1, 0x92, 2, 3]);
    encode::str(&mut bytes, "none");
    bytes.push(0x90);
    let text = write_results(&bytes, 1, Style::Pretty).unwrap();
    assert_eq!(
        text,
        "{\n  \"list\": [\n    1,\n    [2,3]\n  ],\n  \"none\": []\n}"
    );
}

#[test]
fn strings_cannot_act_on_a_terminal() {
    let mut bytes = Vec::new();
    encode::str(&mut bytes, "\u{1b}[31m\u{9b}2J\u{202e}\u{7f}\n\"\\ü");
    let text = line(&bytes);
    assert_eq!(text, r#""\u001b[31m\u009b2J\u202e\u007f\n\"\\ü""#);
    let parsed: String = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed, "\u{1b}[31m\u{9b}2J\u{202e}\u{7f}\n\"\\ü");
}

#[test]
fn deep_values_and_cut_ones_do_not_panic() {
    let mut deep = vec![0x91; 100];
    deep.push(0x90);
    for style in [Style::Line, Style::Pretty] {
        assert!(write_results(&deep, 1, style).is_some());
        for length in 0..deep.len() {
            assert_eq!(write_results(&deep[..length], 1, style), None);
        }
    }
    for bytes in [&[0xc1][..], &[0xdb, 255, 255, 255, 255], &[0xc7, 3, 1]] {
        assert_eq!(write_results(bytes, 1, Style::Line), None);
    }
}

#[test]
fn keys_in_keys_do_not_grow_without_limit() {
    // Each level of {{{…: 1}: 1}: 1} would double the backslashes.
    let nested = |levels: usize| {
        let mut bytes = vec![0x81; levels];
        bytes.extend(std::iter::repeat_n(1, levels + 1));
        write_results(&bytes, 1, Style::Line)
    };
    assert_eq!(nested(2).as_deref(), Some(r#"{"{\"1\":1}":1}"#));
    assert!(nested(5).is_some());
    assert_eq!(nested(100), None);
}
