//! The scanner, held against a reference that walks whole messages by recursion; and the parser behind it.
//!
//! ```text
//!   input:  limits (1 byte) | how the stream is cut (1 byte) | the stream
//! ```

use yue_rpc::proto::message::read_extensions;
use yue_rpc::proto::value::Reader;
use yue_rpc::proto::{Frame, Message, ProtocolError, ScanLimits, Scanner, encode};

/// Scans the bytes whole and in pieces, and checks what comes of it.
///
/// # Panics
/// If the scanner disagrees with the reference, or with itself.
pub fn check(data: &[u8]) {
    let [limits, cut, stream @ ..] = data else {
        return;
    };
    let limits = ScanLimits {
        message_bytes_max: [4 << 20, 64, 300, 1 << 16][usize::from(limits & 3)],
        nesting_max: [128, 0, 3, 1000][usize::from(limits >> 2 & 3)],
    };
    let whole = scan(stream, limits, |_| usize::MAX);
    assert_eq!(whole, scan_by_reference(stream, limits));
    let pieces = scan(stream, limits, cutting_by(*cut));
    assert_eq!(whole.frames, pieces.frames, "the same in pieces");
    assert_eq!(whole.error, pieces.error, "the same in pieces");
    let mut at = 0;
    for frame in &whole.frames {
        check_message(&stream[at..at + frame.len], frame);
        at += frame.len;
    }
    check_reader(stream);
}

/// The messages of a stream, and the error that ended it.
#[derive(Debug, Default)]
struct Scanned {
    frames: Vec<Frame>,
    error: Option<ProtocolError>,
}

impl PartialEq for Scanned {
    /// The reference knows that there is a fault, but not which of several comes first.
    fn eq(&self, other: &Scanned) -> bool {
        self.frames == other.frames && self.error.is_some() == other.error.is_some()
    }
}

/// Hands the scanner more and more of the stream; `next` says how many bytes more.
fn scan(stream: &[u8], limits: ScanLimits, mut next: impl FnMut(usize) -> usize) -> Scanned {
    let mut scanner = Scanner::new(limits);
    let mut scanned = Scanned::default();
    let (mut begin, mut end) = (0, 0);
    loop {
        match scanner.advance(&stream[begin..end]) {
            Ok(Some(mut frame)) => {
                begin += frame.len;
                // What is behind its last element may be left from another message.
                frame.starts[frame.fields..].fill(0);
                scanned.frames.push(frame);
            }
            Ok(None) if end == stream.len() => return scanned,
            Ok(None) => end = end.saturating_add(next(end).max(1)).min(stream.len()),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                scanned.error = Some(error);
                return scanned;
            }
        }
        assert!(begin <= end, "a frame of bytes that are not there");
    }
}

/// Byte by byte, or by lengths that the seed decides.
fn cutting_by(seed: u8) -> impl FnMut(usize) -> usize {
    let mut random = u64::from(seed) << 32 | 0x9e37_79b9;
    move |_| {
        if seed == 0 {
            return 1;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % u64::from(seed)) as usize
    }
}

fn scan_by_reference(stream: &[u8], limits: ScanLimits) -> Scanned {
    let mut scanned = Scanned::default();
    let mut begin = 0;
    loop {
        let mut walk = Walk {
            bytes: &stream[begin..],
            at: 0,
            lacking: 1,
        };
        match walk.message(limits) {
            Ok(frame) => {
                begin += frame.len;
                scanned.frames.push(frame);
            }
            Err(Stop::Lacks) if !walk.is_too_large(limits) => return scanned,
            Err(_) => {
                scanned.error = Some(ProtocolError::ReservedByte);
                return scanned;
            }
        }
    }
}

/// The reason why no message was found.
enum Stop {
    /// It is not whole.
    Lacks,
    /// It never will be one.
    Bad,
}

/// The reference: it walks one message from its beginning.
struct Walk<'a> {
    bytes: &'a [u8],
    at: u64,
    /// Values that must follow.
    lacking: u64,
}

/// A header: its bytes, the bytes of payload behind it, and the values that follow.
type Header = (u64, u64, u64);

impl Walk<'_> {
    fn message(&mut self, limits: ScanLimits) -> Result<Frame, Stop> {
        let marker = *self.bytes.first().ok_or(Stop::Lacks)?;
        if !matches!(marker, 0x90..=0x9f | 0xdc | 0xdd) {
            return Err(Stop::Bad);
        }
        let (header, _, fields) = self.header()?;
        if !(3..=5).contains(&fields) {
            return Err(Stop::Bad);
        }
        (self.at, self.lacking) = (header, fields);
        let mut starts = [0; 5];
        for (index, start) in starts[..fields as usize].iter_mut().enumerate() {
            *start = self.at as usize;
            let first = self.bytes.get(self.at as usize);
            if index == 0 && first.is_some_and(|kind| *kind > 2) {
                return Err(Stop::Bad);
            }
            self.value(limits, 1)?;
        }
        if self.is_too_large(limits) {
            return Err(Stop::Bad);
        }
        if self.at > self.bytes.len() as u64 {
            return Err(Stop::Lacks);
        }
        Ok(Frame {
            len: self.at as usize,
            fields: fields as usize,
            starts,
        })
    }

    fn value(&mut self, limits: ScanLimits, depth: usize) -> Result<(), Stop> {
        let (header, payload, values) = self.header()?;
        self.at += header + payload;
        self.lacking = self.lacking - 1 + values;
        if self.is_too_large(limits) || (values > 0 && depth > limits.nesting_max) {
            return Err(Stop::Bad);
        }
        (0..values).try_for_each(|_| self.value(limits, depth + 1))
    }

    /// Whether even the shortest continuation is above the limit.
    fn is_too_large(&self, limits: ScanLimits) -> bool {
        self.at + self.lacking > limits.message_bytes_max as u64
    }

    fn header(&self) -> Result<Header, Stop> {
        let bytes = &self.bytes[self.bytes.len().min(self.at as usize)..];
        let marker = *bytes.first().ok_or(Stop::Lacks)?;
        let size = |width: usize| {
            let digits = bytes.get(1..=width).ok_or(Stop::Lacks)?;
            Ok(digits
                .iter()
                .fold(0, |sum, digit| sum * 256 + u64::from(*digit)))
        };
        Ok(match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (1, 0, 0),
            0x80..=0x8f => (1, 0, 2 * u64::from(marker - 0x80)),
            0x90..=0x9f => (1, 0, u64::from(marker - 0x90)),
            0xa0..=0xbf => (1, u64::from(marker - 0xa0), 0),
            0xc1 => return Err(Stop::Bad),
            0xc4 | 0xd9 => (2, size(1)?, 0),
            0xc5 | 0xda => (3, size(2)?, 0),
            0xc6 | 0xdb => (5, size(4)?, 0),
            0xc7 => (2, size(1)? + 1, 0),
            0xc8 => (3, size(2)? + 1, 0),
            0xc9 => (5, size(4)? + 1, 0),
            0xca => (1, 4, 0),
            0xcb => (1, 8, 0),
            0xcc..=0xcf => (1, 1 << (marker - 0xcc), 0),
            0xd0..=0xd3 => (1, 1 << (marker - 0xd0), 0),
            0xd4..=0xd8 => (1, (1 << (marker - 0xd4)) + 1, 0),
            0xdc => (3, 0, size(2)?),
            0xdd => (5, 0, size(4)?),
            0xde => (3, 0, 2 * size(2)?),
            0xdf => (5, 0, 2 * size(4)?),
        })
    }
}

/// A message that parses is the same after it was written again.
fn check_message(bytes: &[u8], frame: &Frame) {
    let Ok(message) = Message::parse(bytes, frame) else {
        return;
    };
    let mut out = Vec::new();
    match message {
        Message::Request {
            msgid,
            method,
            params,
            extensions,
        } => {
            let remaining = extensions.and_then(|map| read_extensions(map).0);
            encode::request(&mut out, msgid, method, remaining, |out| {
                out.extend_from_slice(params.bytes);
                Ok(params.count)
            })
            .expect("nothing is refused");
            let Message::Request {
                msgid: msgid_again,
                method: method_again,
                params: params_again,
                extensions: extensions_again,
            } = parse_one(&out)
            else {
                panic!("no request any more");
            };
            assert_eq!((msgid, method), (msgid_again, method_again));
            assert_eq!(
                (params.count, params.bytes),
                (params_again.count, params_again.bytes)
            );
            assert_eq!(
                remaining,
                extensions_again.and_then(|map| read_extensions(map).0)
            );
        }
        Message::Notification { method, params } => {
            encode::notification(&mut out, method, |out| {
                out.extend_from_slice(params.bytes);
                Ok(params.count)
            })
            .expect("nothing is refused");
            let Message::Notification {
                method: method_again,
                params: params_again,
            } = parse_one(&out)
            else {
                panic!("no notification any more");
            };
            assert_eq!(method, method_again);
            assert_eq!(
                (params.count, params.bytes),
                (params_again.count, params_again.bytes)
            );
        }
        Message::Response {
            msgid,
            error: None,
            result,
            count,
        } => {
            encode::response(&mut out, msgid, true, |out| {
                out.extend_from_slice(result);
                Ok(count)
            })
            .expect("nothing is refused");
            assert_eq!(parse_one(&out), message);
        }
        Message::Response { error: Some(_), .. } => {}
    }
}

fn parse_one(bytes: &[u8]) -> Message<'_> {
    let limits = ScanLimits {
        message_bytes_max: 16 << 20,
        nesting_max: 2000,
    };
    let frame = Scanner::new(limits).advance(bytes);
    let frame = frame.expect("a message").expect("a whole one");
    assert_eq!(frame.len, bytes.len());
    Message::parse(bytes, &frame).expect("a message")
}

/// Checks that the reader of single values never passes the end, and advances whenever it reads a value.
fn check_reader(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let _ = reader.find_key("t");
    loop {
        let before = reader.rest().len();
        let mut other = reader;
        let _ = other.read_nil();
        let _ = (other.read_bool(), other.read_int(), other.read_uint());
        let _ = (other.read_str(), other.read_array(), other.read_map());
        match reader.read_raw() {
            Some(raw) => assert_eq!(raw.len(), before - reader.rest().len()),
            None => return assert_eq!(reader.rest().len(), before),
        }
        if reader.rest().is_empty() {
            return;
        }
    }
}
