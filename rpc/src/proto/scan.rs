//! Finds the end of a message and the start of its elements, in bytes that arrive in pieces.
//!
//! The scanner walks the values of the top-level array without recursion: a stack holds the number of values that each
//! open array or map still lacks. Its state survives between calls, so bytes that arrive one by one are not examined
//! again (except the few bytes of a header that was cut). A string's payload is skipped, even beyond the bytes at hand.
//!
//! A length is compared with the limit when its header is read, long before its bytes arrive: a message that claims a
//! gigabyte is refused at once. An array that claims n elements takes at least n bytes, and these count in the same
//! way.

use super::error::ProtocolError;
use rmp::Marker;
use yue_wire::{EXT_CODE, Owner, Reference};

/// The limits above which the scanner refuses a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// The size of a message in bytes.
    pub message_bytes_max: usize,
    /// The nesting of arrays and maps, below the message's own array.
    pub nesting_max: usize,
}

impl Default for ScanLimits {
    /// 4 MiB and 128 levels, as the protocol's document says.
    fn default() -> Self {
        ScanLimits {
            message_bytes_max: 4 * 1024 * 1024,
            nesting_max: 128,
        }
    }
}

/// The most elements a message has: a request with its map of extensions.
const FIELDS_MAX: usize = 5;

/// The positions of a whole message and its elements, relative to its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The message's length in bytes.
    pub len: usize,
    /// The number of its elements: 3 to 5.
    pub fields: usize,
    /// The start of each element.
    pub starts: [usize; FIELDS_MAX],
}

impl Frame {
    /// The end of element `index`.
    pub fn end_of(&self, index: usize) -> usize {
        if index + 1 < self.fields {
            self.starts[index + 1]
        } else {
            self.len
        }
    }
}

/// Finds messages. One scanner serves one stream; after each message it is ready for the next.
#[derive(Debug)]
pub struct Scanner {
    limits: ScanLimits,
    walk: Walk,
    /// The number of values still lacking for each array or map around the innermost one; the message's own array is
    /// the first.
    outer: Vec<u32>,
    /// The number of the message's elements; 0 before its own header.
    fields: usize,
    seen: usize,
    starts: [usize; FIELDS_MAX],
}

/// The part of the scanner's state that changes with every value; [`Scanner::advance`] keeps it in registers.
#[derive(Debug, Clone, Copy, Default)]
struct Walk {
    /// The position reached; beyond the bytes at hand while a payload is outstanding.
    at: u64,
    /// The number of values still lacking for the innermost open array or map.
    left: u32,
    /// The sum of `left` and `outer`: each lacking value takes at least one byte.
    lacking: u64,
}

/// The contents of one header.
struct Header {
    header_bytes: usize,
    payload_bytes: u64,
    values: u64,
}

impl Scanner {
    /// A scanner at the beginning of a message.
    pub fn new(limits: ScanLimits) -> Scanner {
        Scanner {
            limits,
            walk: Walk::default(),
            outer: Vec::with_capacity(limits.nesting_max.min(1024)),
            fields: 0,
            seen: 0,
            starts: [0; FIELDS_MAX],
        }
    }

    /// Continues in `bytes`, which begin where the message begins and hold everything that has arrived of it, earlier
    /// pieces included. `None` means that more bytes are needed. A frame means that the message is whole, and that the
    /// next call begins with the bytes behind it.
    ///
    /// # Errors
    /// If no continuation of the bytes is an acceptable message. The stream cannot continue then.
    #[inline]
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<Frame>, ProtocolError> {
        if self.fields == 0 {
            if bytes.is_empty() {
                return Ok(None);
            }
            if !self.begin(bytes)? {
                return Ok(None);
            }
        }
        let mut walk = self.walk;
        // `left` is 0 only behind the last value.
        while walk.left != 0 {
            let rest = usize::try_from(walk.at).ok().and_then(|at| bytes.get(at..));
            let Some(rest @ [first, ..]) = rest else {
                self.walk = walk;
                return Ok(None);
            };
            let short = SHORT[usize::from(*first)];
            let (value_bytes, values) = if short.bytes != 0 {
                (u64::from(short.bytes), u64::from(short.values))
            } else if self.seen == 0 {
                return Err(ProtocolError::NotAMessage { byte: *first });
            } else if let Some(header) = read_sized_header(rest)? {
                (
                    header.header_bytes as u64 + header.payload_bytes,
                    header.values,
                )
            } else {
                self.walk = walk;
                return Ok(None);
            };
            if self.outer.is_empty() {
                if self.seen == 0 && *first > 2 {
                    // The first element is the message's kind, a number from 0 to 2.
                    return Err(ProtocolError::NotAMessage { byte: *first });
                }
                // `seen` stays below `fields`: the loop ends behind the array's last value.
                self.starts[self.seen] = walk.at as usize;
                self.seen += 1;
            }
            // No overflow: a position exceeds the bytes at hand by less than 2^33.
            walk.at += value_bytes;
            walk.lacking = walk.lacking - 1 + values;
            if walk.at + walk.lacking > self.limits.message_bytes_max as u64 {
                return Err(ProtocolError::TooLarge {
                    limit_bytes: self.limits.message_bytes_max,
                });
            }
            walk.left -= 1;
            if values != 0 {
                if self.outer.len() >= self.limits.nesting_max {
                    return Err(ProtocolError::TooDeep {
                        limit: self.limits.nesting_max,
                    });
                }
                self.outer.push(walk.left);
                walk.left = values as u32;
            }
            // The end of a value is the end of every array or map of which it was the last value.
            while walk.left == 0 {
                match self.outer.pop() {
                    Some(left) => walk.left = left,
                    None => break,
                }
            }
        }
        self.walk = walk;
        if walk.at > bytes.len() as u64 {
            return Ok(None);
        }
        debug_assert_eq!((walk.lacking, self.seen), (0, self.fields));
        let frame = Frame {
            len: walk.at as usize,
            fields: self.fields,
            starts: self.starts,
        };
        self.reset();
        Ok(Some(frame))
    }

    /// The elements seen so far of a message that was refused or is not whole yet: their starts.
    pub fn seen(&self) -> &[usize] {
        &self.starts[..self.seen]
    }

    fn reset(&mut self) {
        debug_assert!(self.outer.is_empty());
        self.walk = Walk::default();
        self.fields = 0;
        self.seen = 0;
    }

    /// Reads the message's own array header. Returns `false` if the header is not whole.
    #[inline]
    fn begin(&mut self, bytes: &[u8]) -> Result<bool, ProtocolError> {
        let not_a_message = ProtocolError::NotAMessage { byte: bytes[0] };
        if !matches!(bytes[0], 0x90..=0x9f | 0xdc | 0xdd) {
            return Err(not_a_message);
        }
        let Some(header) = read_header(bytes)? else {
            return Ok(false);
        };
        if !(3..=FIELDS_MAX as u64).contains(&header.values) {
            return Err(not_a_message);
        }
        self.fields = header.values as usize;
        self.walk = Walk {
            at: header.header_bytes as u64,
            left: header.values as u32,
            lacking: header.values,
        };
        Ok(true)
    }
}

/// A value whose first byte says everything: its length with header and payload, and the number of values in it.
#[derive(Clone, Copy)]
struct Short {
    /// 0: the size follows the first byte, or the byte is reserved: see [`read_sized_header`].
    bytes: u8,
    values: u8,
}

/// By a value's first byte. Most values are of this kind, and one load replaces a decision for each.
static SHORT: [Short; 256] = {
    let mut table = [Short {
        bytes: 0,
        values: 0,
    }; 256];
    let mut byte = 0;
    while byte < 256 {
        let (bytes, values) = match byte as u8 {
            map @ 0x80..=0x8f => (1, (map - 0x80) * 2),
            array @ 0x90..=0x9f => (1, array - 0x90),
            string @ 0xa0..=0xbf => (1 + string - 0xa0, 0),
            // nil, false, true
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (1, 0),
            0xcc | 0xd0 => (2, 0),        // 8 bits
            0xcd | 0xd1 => (3, 0),        // 16 bits
            0xca | 0xce | 0xd2 => (5, 0), // 32 bits
            0xcb | 0xcf | 0xd3 => (9, 0), // 64 bits
            0xd4 => (3, 0),               // fixext: the type, then 1, 2, 4, 8 or 16 bytes
            0xd5 => (4, 0),
            0xd6 => (6, 0),
            0xd7 => (10, 0),
            0xd8 => (18, 0),
            _ => (0, 0),
        };
        table[byte] = Short { bytes, values };
        byte += 1;
    }
    table
};

/// Reads the header at the start of `bytes`, which must not be empty. Returns `None` if the header is cut.
#[inline]
fn read_header(bytes: &[u8]) -> Result<Option<Header>, ProtocolError> {
    match SHORT[usize::from(bytes[0])] {
        Short { bytes: 0, .. } => read_sized_header(bytes),
        short => Ok(Some(Header {
            header_bytes: 1,
            payload_bytes: u64::from(short.bytes - 1),
            values: u64::from(short.values),
        })),
    }
}

/// Reads a header in which the size follows the first byte. The other first bytes are in [`SHORT`].
fn read_sized_header(bytes: &[u8]) -> Result<Option<Header>, ProtocolError> {
    match Marker::from_u8(bytes[0]) {
        Marker::Str8 | Marker::Bin8 => sized(bytes, 1, |length| (length, 0)),
        Marker::Str16 | Marker::Bin16 => sized(bytes, 2, |length| (length, 0)),
        Marker::Str32 | Marker::Bin32 => sized(bytes, 4, |length| (length, 0)),
        Marker::Ext8 => sized(bytes, 1, |length| (length + 1, 0)),
        Marker::Ext16 => sized(bytes, 2, |length| (length + 1, 0)),
        Marker::Ext32 => sized(bytes, 4, |length| (length + 1, 0)),
        Marker::Array16 => sized(bytes, 2, |count| (0, count)),
        Marker::Array32 => sized(bytes, 4, |count| (0, count)),
        Marker::Map16 => sized(bytes, 2, |count| (0, 2 * count)),
        Marker::Map32 => sized(bytes, 4, |count| (0, 2 * count)),
        _ => Err(ProtocolError::ReservedByte),
    }
}

/// A header with a big-endian size of `width` bytes behind the marker; `meaning` returns (payload bytes, values).
#[inline]
fn sized(
    bytes: &[u8],
    width: usize,
    meaning: impl FnOnce(u64) -> (u64, u64),
) -> Result<Option<Header>, ProtocolError> {
    let Some(size) = bytes.get(1..1 + width) else {
        return Ok(None);
    };
    let size = size
        .iter()
        .fold(0, |size, byte| size << 8 | u64::from(*byte));
    let (payload_bytes, values) = meaning(size);
    Ok(Some(Header {
        header_bytes: 1 + width,
        payload_bytes,
        values,
    }))
}

/// The ids of the sender's functions in whole values, once for each occurrence.
pub(crate) fn functions(mut bytes: &[u8]) -> impl Iterator<Item = u64> {
    // The contents of an array or a map come right behind its header, so nesting need not be followed.
    std::iter::from_fn(move || {
        loop {
            let header = read_header(Some(bytes).filter(|bytes| !bytes.is_empty())?).ok()??;
            let payload = header.header_bytes;
            let end = usize::try_from(header.payload_bytes).ok()?;
            let end = payload.checked_add(end)?;
            let value = bytes.get(..end)?;
            let is_ext = matches!(value[0], 0xc7..=0xc9 | 0xd4..=0xd8);
            bytes = &bytes[end..];
            if is_ext
                && let [code, body @ ..] = &value[payload..]
                && *code as i8 == EXT_CODE
                && let Some(reference) = Reference::parse(body)
                && reference.owner == Owner::Sender
            {
                return Some(reference.id);
            }
        }
    })
}

/// The length of the single value at the start of `bytes`; `None` if it is cut, malformed, or nested too deep.
pub(crate) fn value_len(bytes: &[u8], nesting_max: usize) -> Option<usize> {
    let limits = ScanLimits {
        message_bytes_max: bytes.len(),
        nesting_max,
    };
    let mut scanner = Scanner::new(limits);
    // One value, as if it were the second and last element of an array.
    (scanner.fields, scanner.seen) = (2, 1);
    scanner.walk = Walk {
        at: 0,
        left: 1,
        lacking: 1,
    };
    scanner.advance(bytes).ok().flatten().map(|frame| frame.len)
}
