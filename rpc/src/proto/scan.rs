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
    /// The position that the walk has reached; beyond the bytes at hand while a payload is outstanding.
    at: usize,
    /// The number of values still lacking for each open array or map; the message's own array is the first.
    open: Vec<u32>,
    /// The sum of `open`: each lacking value takes at least one byte.
    lacking: u64,
    fields: usize,
    seen: usize,
    starts: [usize; FIELDS_MAX],
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
        let open = Vec::with_capacity(limits.nesting_max.min(1024) + 1);
        Scanner {
            limits,
            at: 0,
            open,
            lacking: 0,
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
        while !self.open.is_empty() {
            if self.at >= bytes.len() {
                return Ok(None);
            }
            let Some(header) = read_header(&bytes[self.at..])? else {
                if self.seen == 0 {
                    // The first element, a message's kind, has a header of one byte, which cannot be cut.
                    let byte = bytes[self.at];
                    return Err(ProtocolError::NotAMessage { byte });
                }
                return Ok(None);
            };
            self.step(bytes[self.at], &header)?;
        }
        if self.at > bytes.len() {
            return Ok(None);
        }
        let frame = Frame {
            len: self.at,
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
        self.at = 0;
        self.lacking = 0;
        self.fields = 0;
        self.seen = 0;
    }

    /// Reads the message's own array header. Returns `false` if the header is not whole.
    fn begin(&mut self, bytes: &[u8]) -> Result<bool, ProtocolError> {
        let not_a_message = ProtocolError::NotAMessage { byte: bytes[0] };
        if !matches!(
            Marker::from_u8(bytes[0]),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32
        ) {
            return Err(not_a_message);
        }
        let Some(header) = read_header(bytes)? else {
            return Ok(false);
        };
        if !(3..=FIELDS_MAX as u64).contains(&header.values) {
            return Err(not_a_message);
        }
        self.fields = header.values as usize;
        self.at = header.header_bytes;
        self.lacking = header.values;
        self.open.clear();
        self.open.push(header.values as u32);
        Ok(true)
    }

    #[inline]
    fn step(&mut self, first: u8, header: &Header) -> Result<(), ProtocolError> {
        if self.open.len() == 1 {
            if self.seen == 0 && first > 2 {
                return Err(ProtocolError::NotAMessage { byte: first });
            }
            // `seen` stays below `fields`: the array is removed from `open` with its last value.
            self.starts[self.seen] = self.at;
            self.seen += 1;
        }
        self.lacking = self.lacking - 1 + header.values;
        let end = (self.at as u64)
            .saturating_add(header.header_bytes as u64)
            .saturating_add(header.payload_bytes);
        if end.saturating_add(self.lacking) > self.limits.message_bytes_max as u64 {
            return Err(ProtocolError::TooLarge {
                limit_bytes: self.limits.message_bytes_max,
            });
        }
        self.at = end as usize;
        if header.values != 0 {
            if self.open.len() > self.limits.nesting_max {
                return Err(ProtocolError::TooDeep {
                    limit: self.limits.nesting_max,
                });
            }
            self.open.push(header.values as u32);
        } else {
            self.close_value();
        }
        Ok(())
    }

    /// Ends a value, and every array or map of which it was the last value.
    #[inline]
    fn close_value(&mut self) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left != 0 {
                return;
            }
            self.open.pop();
        }
    }
}

/// Reads the header at the start of `bytes`, which must not be empty. Returns `None` if the header is cut.
#[inline]
fn read_header(bytes: &[u8]) -> Result<Option<Header>, ProtocolError> {
    let whole = |header_bytes, payload_bytes, values| {
        Ok(Some(Header {
            header_bytes,
            payload_bytes,
            values,
        }))
    };
    match Marker::from_u8(bytes[0]) {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
            whole(1, 0, 0)
        }
        Marker::FixStr(length) => whole(1, u64::from(length), 0),
        Marker::FixArray(count) => whole(1, 0, u64::from(count)),
        Marker::FixMap(count) => whole(1, 0, 2 * u64::from(count)),
        Marker::U8 | Marker::I8 => whole(1, 1, 0),
        Marker::U16 | Marker::I16 => whole(1, 2, 0),
        Marker::U32 | Marker::I32 | Marker::F32 => whole(1, 4, 0),
        Marker::U64 | Marker::I64 | Marker::F64 => whole(1, 8, 0),
        Marker::FixExt1 => whole(1, 2, 0),
        Marker::FixExt2 => whole(1, 3, 0),
        Marker::FixExt4 => whole(1, 5, 0),
        Marker::FixExt8 => whole(1, 9, 0),
        Marker::FixExt16 => whole(1, 17, 0),
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
        Marker::Reserved => Err(ProtocolError::ReservedByte),
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
    // One value, as if it were an array's last: `seen` is past the checks that apply only to a message's first element.
    (scanner.open, scanner.lacking, scanner.fields, scanner.seen) = (vec![1], 1, 1, 1);
    scanner.advance(bytes).ok().flatten().map(|frame| frame.len)
}
