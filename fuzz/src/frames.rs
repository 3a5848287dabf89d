//! The decoder of WebSocket frames: it finds the same as a plain reading of the RFC, however the bytes are cut, and
//! what it finds is encoded to the same again.
//!
//! ```text
//!   input:  who sends (1 bit) and the size of the pieces (7 bits) | frames
//! ```

use yue_rpc::transport::websocket::frame::{self, Close, Decoder, FrameError, Item, Key, Opcode};

/// A part of the stream, unmasked; data that follows data is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Close),
}

/// Decodes the bytes and checks the result.
///
/// # Panics
/// If the decoder does not keep its promises.
pub fn check(data: &[u8]) {
    let [first, bytes @ ..] = data else {
        return;
    };
    let (masked, piece) = (first & 1 != 0, usize::from(first >> 1).max(1));
    let (found, error) = decode(masked, bytes.chunks(bytes.len().max(1)));
    let cut = decode(masked, bytes.chunks(piece));
    assert_eq!(
        (&found, error),
        (&cut.0, cut.1),
        "cut into pieces of {piece}"
    );
    let (expected, fault) = read(masked, bytes);
    assert_eq!(error.is_some(), fault, "{error:?}");
    assert_eq!(found, expected);
    if let Some(error) = error {
        assert!(matches!(error.code, 1002 | 1003 | 1007), "{error:?}");
        assert!(error.text.len() <= frame::REASON_MAX, "{error:?}");
    }
    check_encoder(found);
}

fn decode<'a>(
    masked: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Found>, Option<FrameError>) {
    let mut decoder = Decoder::new(masked);
    let mut found = Vec::new();
    for mut input in pieces {
        loop {
            let item = match decoder.next(&mut input) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            };
            match item {
                Item::Data { bytes, key } => {
                    assert_eq!(key.is_some(), masked);
                    let mut bytes = bytes.to_vec();
                    key.unwrap_or_default().apply(&mut bytes);
                    append(&mut found, &bytes);
                }
                Item::Ping(payload) => found.push(Found::Ping(payload)),
                Item::Pong => found.push(Found::Pong),
                Item::Close(close) => found.push(Found::Close(close)),
            }
        }
        assert!(input.is_empty(), "bytes were left without an item");
    }
    (found, None)
}

fn append(found: &mut Vec<Found>, bytes: &[u8]) {
    match found.last_mut() {
        _ if bytes.is_empty() => {}
        Some(Found::Data(last)) => last.extend_from_slice(bytes),
        _ => found.push(Found::Data(bytes.to_vec())),
    }
}

/// Reads the frames by the letter of RFC 6455, section 5.2, one whole frame at a time. Returns the items, and whether a
/// fault follows them.
fn read(masked: bool, mut bytes: &[u8]) -> (Vec<Found>, bool) {
    let (mut found, mut in_message) = (Vec::new(), false);
    while let [first, second, rest @ ..] = bytes {
        let (fin, opcode, short) = (first & 0x80 != 0, first & 0x0f, second & 0x7f);
        let control = opcode >= 8;
        let continues = opcode == 0;
        let wrong = first & 0x70 != 0
            || !matches!(opcode, 0 | 2 | 8..=10)
            || control && (!fin || short > 125)
            || !control && continues != in_message
            || (second & 0x80 != 0) != masked;
        if wrong {
            return (found, true);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = extended + if masked { 4 } else { 0 };
        if rest.len() < header {
            return (found, false);
        }
        let (header, payload) = rest.split_at(header);
        let (length, key) = header.split_at(extended);
        let length = match extended {
            0 => u64::from(short),
            _ => length
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        };
        let shortest = match extended {
            0 => true,
            2 => length > 125,
            _ => length > 0xffff,
        };
        if !shortest || length > i64::MAX as u64 {
            return (found, true);
        }
        let whole = payload.len() as u64 >= length;
        let (payload, rest) = match whole {
            true => payload.split_at(length as usize),
            false => (payload, &[][..]),
        };
        let unmask = |(index, byte): (usize, &u8)| byte ^ if masked { key[index % 4] } else { 0 };
        let payload: Vec<u8> = payload.iter().enumerate().map(unmask).collect();
        match opcode {
            0 | 2 => {
                append(&mut found, &payload);
                in_message = !fin;
            }
            _ if !whole => {}
            9 => found.push(Found::Ping(payload)),
            10 => found.push(Found::Pong),
            _ => match read_close(&payload) {
                Some(close) => found.push(Found::Close(close)),
                None => return (found, true),
            },
        }
        bytes = rest;
    }
    (found, false)
}

fn read_close(payload: &[u8]) -> Option<Close> {
    if payload.is_empty() {
        return Some(Close::default());
    }
    let code = u16::from_be_bytes([payload[0], *payload.get(1)?]);
    let never = [1004, 1005, 1006, 1015];
    let allowed =
        (1000..=1014).contains(&code) && !never.contains(&code) || (3000..5000).contains(&code);
    let reason = String::from_utf8(payload[2..].to_vec()).ok()?;
    let code = Some(code);
    allowed.then_some(Close { code, reason })
}

/// Encodes what was found, and decodes it again.
fn check_encoder(found: Vec<Found>) {
    for key in [None, Some(Key([0xa5, 0x01, 0xff, 0x7e]))] {
        let mut bytes = Vec::new();
        for item in &found {
            match item {
                Found::Data(payload) => {
                    let (header, payload) = frame::binary(payload.clone(), key);
                    bytes.extend(header.unwrap_or_default());
                    bytes.extend(payload);
                }
                Found::Ping(payload) => bytes.extend(frame::control(Opcode::Ping, payload, key)),
                Found::Pong => bytes.extend(frame::control(Opcode::Pong, b"", key)),
                Found::Close(Close { code: None, .. }) => {
                    bytes.extend(frame::control(Opcode::Close, b"", key));
                }
                Found::Close(Close {
                    code: Some(code),
                    reason,
                }) => {
                    bytes.extend(frame::close(*code, reason, key));
                }
            }
        }
        let (again, error) = decode(key.is_some(), std::iter::once(&bytes[..]));
        assert_eq!((&again, error), (&found, None));
    }
}
