//! Tests of the frame codec.

use super::*;
use proptest::prelude::*;

/// An item with its data unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Read {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Close),
}

/// Decodes the pieces one after another; data that follows data is joined.
fn decode_pieces<'a>(
    masked: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Read>, FrameError> {
    let mut decoder = Decoder::new(masked);
    let mut found = Vec::new();
    for mut input in pieces {
        while let Some(item) = decoder.next(&mut input)? {
            match item {
                Item::Data { bytes, key } => {
                    assert_eq!(key.is_some(), masked);
                    let mut bytes = bytes.to_vec();
                    if let Some(key) = key {
                        key.apply(&mut bytes);
                    }
                    match found.last_mut() {
                        Some(Read::Data(last)) => last.extend(bytes),
                        _ => found.push(Read::Data(bytes)),
                    }
                }
                Item::Ping(payload) => found.push(Read::Ping(payload)),
                Item::Pong => found.push(Read::Pong),
                Item::Close(close) => found.push(Read::Close(close)),
            }
        }
        assert!(input.is_empty(), "what is not taken is lost");
    }
    Ok(found)
}

fn decode(masked: bool, bytes: &[u8]) -> Result<Vec<Read>, FrameError> {
    decode_pieces(masked, std::iter::once(bytes))
}

/// Decodes unmasked frames, which must fail; returns the code and the text.
fn fault(bytes: &[u8]) -> (u16, &'static str) {
    let error = decode(false, bytes).expect_err("it is refused");
    (error.code, error.text)
}

fn message(payload: &[u8], key: Option<Key>) -> Vec<u8> {
    let (header, payload) = binary(payload.to_vec(), key);
    [header.unwrap_or_default(), payload].concat()
}

const KEY: Key = Key([0x37, 0xfa, 0x21, 0x3d]);

#[test]
fn the_rfcs_examples_are_read() {
    // Section 5.7, with binary frames for the text.
    let hello = Read::Data(b"Hello".to_vec());
    assert_eq!(
        decode(false, b"\x82\x05Hello").unwrap(),
        std::slice::from_ref(&hello)
    );
    let masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(true, masked).unwrap(), std::slice::from_ref(&hello));
    assert_eq!(message(b"Hello", Some(KEY)), masked);
    let fragments = b"\x02\x03Hel\x80\x02lo";
    assert_eq!(decode(false, fragments).unwrap(), [hello]);
    let ping = Read::Ping(b"Hello".to_vec());
    assert_eq!(
        decode(false, b"\x89\x05Hello").unwrap(),
        std::slice::from_ref(&ping)
    );
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(true, pong).unwrap(), [Read::Pong]);
    assert_eq!(control(Opcode::Pong, b"Hello", Some(KEY)), pong);
}

#[test]
fn each_length_has_its_shortest_header() {
    for (length, unmasked) in [
        (0, 2),
        (1, 2),
        (125, 2),
        (126, 4),
        (127, 4),
        (4096, 4),
        (4097, 4),
        (65_535, 4),
        (65_536, 10),
        (1_000_000, 10),
    ] {
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let expected = match length {
            0 => vec![],
            _ => vec![Read::Data(payload.clone())],
        };
        let plain = message(&payload, None);
        assert_eq!(plain.len(), length + unmasked);
        assert_eq!(decode(false, &plain).unwrap(), expected);
        let masked = message(&payload, Some(KEY));
        assert_eq!(masked.len(), length + unmasked + 4);
        assert_eq!(decode(true, &masked).unwrap(), expected);
    }
}

#[test]
fn frames_may_be_cut_anywhere() {
    let mut stream = message(b"first", Some(KEY));
    stream.extend(control(Opcode::Ping, b"are you there?", Some(KEY)));
    stream.extend(message(&[7; 300], Some(Key([1, 2, 3, 4]))));
    stream.extend(message(b"", Some(KEY)));
    stream.extend(control(Opcode::Pong, b"yes", Some(KEY)));
    stream.extend(close(4321, "bye", Some(KEY)));
    let whole = decode(true, &stream).unwrap();
    assert_eq!(whole.len(), 5);
    for cut in 0..=stream.len() {
        let (a, b) = stream.split_at(cut);
        let cut = decode_pieces(true, [a, b].into_iter()).unwrap();
        assert_eq!(cut, whole);
    }
    assert_eq!(decode_pieces(true, stream.chunks(1)).unwrap(), whole);
}

#[test]
fn control_frames_may_stand_between_fragments() {
    let stream = b"\x02\x01a\x89\x01p\x00\x01b\x8a\x00\x00\x00\x80\x01c";
    let expected = [
        Read::Data(b"a".to_vec()),
        Read::Ping(b"p".to_vec()),
        Read::Data(b"b".to_vec()),
        Read::Pong,
        Read::Data(b"c".to_vec()),
    ];
    assert_eq!(decode(false, stream).unwrap(), expected);
    assert_eq!(decode_pieces(false, stream.chunks(1)).unwrap(), expected);
}

#[test]
fn what_the_rfc_forbids_is_refused_as_soon_as_it_is_seen() {
    for reserved in [0x40, 0x20, 0x10] {
        assert_eq!(fault(&[0x82 | reserved, 0]).0, code::PROTOCOL);
        assert!(fault(&[0x89 | reserved, 0]).1.contains("reserved bit"));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert!(fault(&[0x80 | opcode, 0]).1.contains("unknown opcode"));
    }
    for opcode in [8, 9, 10] {
        assert!(fault(&[opcode, 0]).1.contains("fragmented"));
        assert!(fault(&[0x80 | opcode, 126]).1.contains("125 bytes"));
        assert!(fault(&[0x80 | opcode, 127]).1.contains("125 bytes"));
    }
    assert!(fault(b"\x80\x00").1.contains("continues no message"));
    assert!(
        fault(b"\x82\x00\x00\x00")
            .1
            .contains("continues no message")
    );
    assert!(fault(b"\x02\x00\x82\x00").1.contains("inside another"));
    assert!(fault(b"\x02\x00\x81\x00").1.contains("inside another"));
    assert!(fault(b"\x82\x80").1.contains("server's frame is masked"));
    let unmasked = decode(true, b"\x82\x00").unwrap_err();
    assert!(unmasked.text.contains("not masked"));
    let (text_code, text) = fault(b"\x81\x05");
    assert_eq!(text_code, code::UNSUPPORTED);
    assert!(text.contains("binary"));
}

#[test]
fn lengths_are_checked() {
    assert!(fault(b"\x82\x7e\x00\x7d").1.contains("shortest"));
    assert!(
        fault(b"\x82\x7f\0\0\0\0\0\0\xff\xff")
            .1
            .contains("shortest")
    );
    assert!(fault(b"\x82\x7f\x80\0\0\0\0\0\0\0").1.contains("63 bits"));
    assert!(
        fault(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff")
            .1
            .contains("63 bits")
    );
    // The longest frame that may exist begins like any other, and takes no memory.
    let mut longest = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec();
    longest.extend([1; 1000]);
    let expected = [Read::Data(vec![1; 1000])];
    assert_eq!(decode(false, &longest).unwrap(), expected);
}

#[test]
fn close_frames_are_read_and_checked() {
    let read = |payload: &[u8]| decode(false, &control(Opcode::Close, payload, None));
    let expected = |code, reason: &str| {
        let reason = reason.to_owned();
        Ok(vec![Read::Close(Close { code, reason })])
    };
    assert_eq!(read(b""), expected(None, ""));
    assert_eq!(read(b"\x03\xe8"), expected(Some(1000), ""));
    assert_eq!(read(b"\x03\xe9so long"), expected(Some(1001), "so long"));
    assert_eq!(read(b"\x0f\xa0"), expected(Some(4000), ""));
    assert_eq!(read(b"\x03").unwrap_err().code, code::PROTOCOL);
    for bad in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let error = read(&bad.to_be_bytes()).unwrap_err();
        assert_eq!(error.code, code::PROTOCOL, "{bad}");
    }
    assert_eq!(read(b"\x03\xe8\xff").unwrap_err().code, code::NOT_UTF8);
}

#[test]
fn a_reason_is_cut_at_a_character() {
    let frame = close(code::POLICY, &"ä".repeat(100), None);
    let reason = "ä".repeat(61);
    let code = Some(code::POLICY);
    assert_eq!(
        decode(false, &frame).unwrap(),
        [Read::Close(Close { code, reason })]
    );
}

#[test]
fn a_close_is_shown_with_what_it_has() {
    let show = |code, reason: &str| {
        let reason = reason.to_owned();
        Close { code, reason }.to_string()
    };
    assert_eq!(show(Some(1000), "done"), "done");
    assert_eq!(show(Some(1008), "too fast"), "too fast (code 1008)");
    assert_eq!(show(Some(1001), ""), "code 1001");
}

#[test]
fn masking_is_the_same_at_every_length_and_offset() {
    for length in 0..40 {
        for offset in 0..5 {
            let bytes: Vec<u8> = (0..length).map(|n| n * 3).collect();
            let mut masked = bytes.clone();
            KEY.after(offset).apply(&mut masked);
            let slow = bytes.iter().enumerate();
            let slow: Vec<u8> = slow
                .map(|(n, byte)| byte ^ KEY.0[(n + offset) % 4])
                .collect();
            assert_eq!(masked, slow);
        }
    }
}

/// A frame as a peer may send it.
#[derive(Debug, Clone)]
enum Sent {
    /// A message in fragments, with a ping before each but the first.
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        proptest::collection::vec(bytes(300), 1..4).prop_map(Sent::Message),
        bytes(126).prop_map(Sent::Ping),
        bytes(126).prop_map(Sent::Pong),
    ]
}

fn encode(sent: &Sent, key: Option<Key>, out: &mut Vec<u8>, expected: &mut Vec<Read>) {
    match sent {
        Sent::Ping(payload) => {
            out.extend(control(Opcode::Ping, payload, key));
            expected.push(Read::Ping(payload.clone()));
        }
        Sent::Pong(payload) => {
            out.extend(control(Opcode::Pong, payload, key));
            expected.push(Read::Pong);
        }
        Sent::Message(fragments) => {
            for (index, fragment) in fragments.iter().enumerate() {
                if index != 0 {
                    encode(&Sent::Ping(vec![index as u8]), key, out, expected);
                }
                let start = out.len();
                out.extend(message(fragment, key));
                let fin = if index + 1 == fragments.len() { FIN } else { 0 };
                let opcode = if index == 0 { 2 } else { 0 };
                out[start] = fin | opcode;
                match expected.last_mut() {
                    _ if fragment.is_empty() => {}
                    Some(Read::Data(last)) => last.extend(fragment),
                    _ => expected.push(Read::Data(fragment.clone())),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded(
        frames in proptest::collection::vec(sent(), 0..20),
        key in proptest::option::of(any::<[u8; 4]>()),
        piece in 1_usize..500,
    ) {
        let key = key.map(Key);
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for sent in &frames {
            encode(sent, key, &mut out, &mut expected);
        }
        let found = decode_pieces(key.is_some(), out.chunks(piece)).unwrap();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        masked in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        piece in 1_usize..50,
    ) {
        let whole = decode(masked, &bytes);
        let pieces = decode_pieces(masked, bytes.chunks(piece));
        prop_assert_eq!(whole, pieces);
    }
}
