//! The protocol core against messages that are whole, cut anywhere, and wrong.

use super::encode::{self, ErrorValue};
use super::value::Reader;
use super::*;
use crate::error::{Error, ErrorKind};
use proptest::prelude::*;

fn scan_all(bytes: &[u8]) -> Result<Vec<Frame>, ProtocolError> {
    let mut scanner = Scanner::new(ScanLimits::default());
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(frame) = scanner.advance(&bytes[at..])? {
        at += frame.len;
        frames.push(frame);
    }
    Ok(frames)
}

/// Feeds the bytes with one more at each call, as the slowest network would.
fn scan_byte_by_byte(bytes: &[u8]) -> Result<Vec<Frame>, ProtocolError> {
    let mut scanner = Scanner::new(ScanLimits::default());
    let (mut frames, mut at) = (Vec::new(), 0);
    for end in 0..=bytes.len() {
        while let Some(frame) = scanner.advance(&bytes[at..end])? {
            at += frame.len;
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn one_int(out: &mut Vec<u8>) -> Result<u32, Error> {
    encode::int(out, -7);
    Ok(1)
}

fn parse_one(bytes: &[u8]) -> Message<'_> {
    let frames = scan_all(bytes).unwrap();
    assert_eq!(frames.len(), 1, "{bytes:02x?}");
    assert_eq!(frames[0].len, bytes.len());
    Message::parse(bytes, &frames[0]).unwrap()
}

#[test]
fn a_request_comes_back_as_it_was_written() {
    let mut out = Vec::new();
    encode::request(
        &mut out,
        u32::MAX,
        Method::Name(b"a.b"),
        Some(5000),
        one_int,
    )
    .unwrap();
    let Message::Request {
        msgid,
        method,
        params,
        extensions,
    } = parse_one(&out)
    else {
        panic!()
    };
    assert_eq!((msgid, method), (u32::MAX, Method::Name(b"a.b")));
    assert_eq!(
        params,
        Params {
            count: 1,
            bytes: &[0xf9],
            array: &[0x91, 0xf9]
        }
    );
    assert_eq!(
        message::read_extensions(extensions.unwrap()),
        (Some(5000), None)
    );
}

#[test]
fn more_than_fifteen_arguments_get_a_longer_header() {
    for count in [15u32, 16, 70_000] {
        let mut out = vec![];
        let many = |out: &mut Vec<u8>| {
            (0..count).for_each(|n| out.push((n % 100) as u8));
            Ok(count)
        };
        encode::notification(&mut out, Method::Name(b"f"), many).unwrap();
        let Message::Notification { params, .. } = parse_one(&out) else {
            panic!()
        };
        assert_eq!((params.count, params.bytes.len()), (count, count as usize));
    }
}

#[test]
fn results_travel_bare_counted_or_as_an_array() {
    let encoded = |counted, count: u32| {
        let mut out = vec![];
        let results = |out: &mut Vec<u8>| {
            out.resize(out.len() + count as usize, 5);
            Ok(count)
        };
        encode::response(&mut out, 1, counted, results).unwrap();
        out
    };
    assert_eq!(encoded(false, 1), [0x94, 1, 1, 0xc0, 5]);
    assert_eq!(encoded(true, 1), [0x94, 1, 1, 0xc0, 5]);
    assert_eq!(encoded(false, 0), [0x94, 1, 1, 0xc0, 0xc0]);
    assert_eq!(encoded(false, 2), [0x94, 1, 1, 0xc0, 0x92, 5, 5]);
    for count in [0, 2, 20] {
        let out = encoded(true, count);
        let Message::Response {
            msgid: 1,
            error: None,
            result,
            count: n,
        } = parse_one(&out)
        else {
            panic!()
        };
        assert_eq!((n, result.len()), (count, count as usize));
    }
}

#[test]
fn an_error_value_keeps_its_parts() {
    let mut out = vec![];
    let mut value = ErrorValue::of_kind(ErrorKind::NoMethod, "no method f");
    (value.traceback, value.retryable) = (Some("here"), true);
    encode::error_response(&mut out, 9, |out| {
        value.encode(out);
        Ok(1)
    })
    .unwrap();
    let Message::Response {
        msgid: 9,
        error: Some(error),
        ..
    } = parse_one(&out)
    else {
        panic!()
    };
    let mut reader = Reader::new(error);
    assert_eq!(reader.read_array(), Some(3));
    assert_eq!(reader.read_int(), Some(ErrorKind::NoMethod.code()));
    assert_eq!(reader.read_str(), Some("no method f"));
    assert_eq!(
        reader.find_key("traceback").unwrap().read_str(),
        Some("here")
    );
    assert_eq!(
        reader.find_key("retryable").unwrap().read_bool(),
        Some(true)
    );
    assert!(reader.find_key("value").is_none());
}

#[test]
fn an_encoder_that_fails_leaves_nothing_behind() {
    let fail = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"rubbish");
        Err(Error::new(ErrorKind::Argument, "args[1]: no"))
    };
    let mut out = vec![1, 2, 3];
    assert!(encode::request(&mut out, 1, Method::Name(b"f"), None, fail).is_err());
    assert!(encode::notification(&mut out, Method::Name(b"f"), fail).is_err());
    assert!(encode::response(&mut out, 1, true, fail).is_err());
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_gigabyte_is_refused_at_its_length_prefix() {
    let too_large = Err(ProtocolError::TooLarge {
        limit_bytes: 4 * 1024 * 1024,
    });
    assert_eq!(scan_all(&[0x94, 0, 1, 0xdb, 0x40, 0, 0, 0]), too_large);
    assert_eq!(
        scan_all(&[0x94, 0, 1, 0xa1, b'f', 0xdd, 0x40, 0, 0, 0]),
        too_large
    );
    assert_eq!(
        scan_all(&[0x94, 0, 1, 0xa1, b'f', 0xdf, 0xff, 0xff, 0xff, 0xff]),
        too_large
    );
    assert_eq!(
        scan_all(&[0x94, 0, 1, 0xa1, b'f', 0xc9, 0xff, 0xff, 0xff, 0xff]),
        too_large
    );
}

#[test]
fn ten_thousand_nested_arrays_are_refused() {
    let mut bytes = vec![0x94, 0, 1, 0xa1, b'f'];
    bytes.resize(bytes.len() + 10_000, 0x91);
    assert_eq!(scan_all(&bytes), Err(ProtocolError::TooDeep { limit: 128 }));
    let mut allowed = vec![0x94, 0, 1, 0xa1, b'f'];
    allowed.resize(allowed.len() + 128, 0x91);
    allowed.push(0xc0);
    assert_eq!(scan_all(&allowed).unwrap().len(), 1);
}

#[test]
fn bytes_that_are_not_a_message_are_refused_at_once() {
    assert_eq!(
        scan_all(b"GET / HTTP/1.1"),
        Err(ProtocolError::NotAMessage { byte: b'G' })
    );
    assert_eq!(
        scan_all(&[0x92]),
        Err(ProtocolError::NotAMessage { byte: 0x92 })
    );
    assert_eq!(
        scan_all(&[0x94, 3]),
        Err(ProtocolError::NotAMessage { byte: 3 })
    );
    assert_eq!(
        scan_all(&[0x94, 0xc4]),
        Err(ProtocolError::NotAMessage { byte: 0xc4 })
    );
    assert_eq!(scan_all(&[0x94, 0, 0xc1]), Err(ProtocolError::ReservedByte));
}

#[test]
fn elements_of_the_wrong_type_are_errors() {
    for bytes in [
        &[0x94, 0, 0xa0, 0xa1, b'f', 0x90][..],
        &[0x94, 0, 0xff, 0xa1, b'f', 0x90],
        &[0x94, 0, 0xcf, 0, 0, 0, 1, 0, 0, 0, 0, 0xa1, b'f', 0x90],
        &[0x94, 0, 1, 0xc0, 0x90],
        &[0x94, 0, 1, 0xa1, b'f', 5],
        &[0x95, 0, 1, 0xa1, b'f', 0x90, 7],
        &[0x95, 1, 1, 0xc0, 5, 2],
        &[0x93, 0, 1, 0xa1],
        &[0x93, 1, 1, 0xc0],
        &[0x95, 2, 0xa1, b'f', 0x90, 0xc0, 0xc0],
    ] {
        let frame = scan_all(bytes).unwrap().first().copied();
        let outcome = frame.map(|frame| Message::parse(bytes, &frame));
        assert!(
            matches!(outcome, None | Some(Err(ProtocolError::WrongType { .. }))),
            "{bytes:02x?}: {outcome:?}"
        );
    }
}

#[test]
fn names_may_be_bin_and_ids_of_any_width() {
    for bytes in [
        &[0x94, 0, 0, 0xc4, 1, b'f', 0x90][..],
        &[0x94, 0, 0xcc, 0, 0xd9, 1, b'f', 0x90],
        &[0x94, 0, 0xcd, 0, 0, 0xda, 0, 1, b'f', 0xdc, 0, 0],
        &[
            0xdc, 0, 4, 0, 0xce, 0, 0, 0, 0, 0xdb, 0, 0, 0, 1, b'f', 0xdd, 0, 0, 0, 0,
        ],
    ] {
        let Message::Request {
            msgid: 0,
            method: Method::Name(b"f"),
            params,
            ..
        } = parse_one(bytes)
        else {
            panic!()
        };
        assert_eq!(params.count, 0);
    }
}

#[test]
fn a_long_message_in_single_bytes_takes_work_in_proportion() {
    // A scanner that began anew with each byte would walk 2 * 10^10 values here, and the test would not end.
    let mut bytes = vec![0x93, 2, 0xa1, b'f', 0xdd, 0, 3, 0x0d, 0x40];
    bytes.resize(bytes.len() + 200_000, 1);
    assert_eq!(scan_byte_by_byte(&bytes).unwrap().len(), 1);
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| {
            let mut out = vec![];
            encode::int(&mut out, n);
            out
        }),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| {
            let mut out = vec![];
            encode::str_or_bin(&mut out, &bytes);
            out
        }),
        Just(vec![0xc0]),
        Just(vec![0xca, 1, 2, 3, 4]),
        Just(vec![0xd6, 0x59, 1, 2, 3, 4]),
        Just(vec![0xc7, 3, 0x59, 1, 2, 3]),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        proptest::collection::vec(inner, 0..20).prop_map(|values| {
            let mut out = vec![];
            let count = values.len() as u32;
            encode::array(&mut out, |out| {
                values.iter().for_each(|value| out.extend_from_slice(value));
                Ok(count)
            })
            .unwrap();
            out
        })
    })
}

proptest! {
    #[test]
    fn messages_are_found_however_the_bytes_are_cut(
        messages in proptest::collection::vec((any::<u32>(), "[a-z.]{0,40}", value()), 1..6)
    ) {
        let (mut bytes, mut lengths) = (vec![], vec![]);
        for (msgid, method, value) in &messages {
            let before = bytes.len();
            let one = |out: &mut Vec<u8>| { out.extend_from_slice(value); Ok(1) };
            encode::request(&mut bytes, *msgid, Method::Name(method.as_bytes()), None, one).unwrap();
            lengths.push(bytes.len() - before);
        }
        let whole = scan_all(&bytes).unwrap();
        prop_assert_eq!(whole.iter().map(|frame| frame.len).collect::<Vec<_>>(), lengths);
        prop_assert_eq!(&scan_byte_by_byte(&bytes).unwrap(), &whole);
        let mut at = 0;
        for (frame, (msgid, method, value)) in whole.iter().zip(&messages) {
            let Message::Request { msgid: m, method: name, params, .. } =
                Message::parse(&bytes[at..], frame).unwrap() else { panic!() };
            prop_assert_eq!(m, *msgid);
            prop_assert_eq!(name, Method::Name(method.as_bytes()));
            prop_assert_eq!(params.bytes, &value[..]);
            at += frame.len;
        }
    }

    #[test]
    fn no_bytes_make_the_core_panic(start in prop_oneof![Just(vec![]), Just(vec![0x94, 0]), Just(vec![0x95, 1, 7])],
                                    noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [start, noise].concat();
        let whole = scan_all(&bytes);
        prop_assert_eq!(&scan_byte_by_byte(&bytes), &whole);
        let mut at = 0;
        for frame in whole.unwrap_or_default() {
            if let Ok(Message::Request { extensions: Some(map), .. }) = Message::parse(&bytes[at..], &frame) {
                let _ = message::read_extensions(map);
            }
            at += frame.len;
        }
        let mut reader = Reader::new(&bytes);
        while reader.skip().is_some() {}
        let _ = Reader::new(&bytes).find_key("t");
    }
}
