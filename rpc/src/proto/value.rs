//! Reads single msgpack values from bytes that the scanner has found to be whole.
//!
//! Every method returns `None` for a value that is missing or of another type, and then does not move the reader.

use super::scan::ScanLimits;
use rmp::decode;

/// A position in msgpack bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a nil if one is next, and says whether it did.
    pub fn read_nil(&mut self) -> bool {
        let nil = self.rest.first() == Some(&0xc0);
        if nil {
            self.rest = &self.rest[1..];
        }
        nil
    }

    /// Reads a boolean.
    pub fn read_bool(&mut self) -> Option<bool> {
        self.read_with(|rest| decode::read_bool(rest).ok())
    }

    /// Reads an integer in any of msgpack's forms.
    pub fn read_int(&mut self) -> Option<i64> {
        self.read_with(|rest| decode::read_int(rest).ok())
    }

    /// Reads a non-negative integer in any of msgpack's forms.
    #[inline]
    pub fn read_uint(&mut self) -> Option<u64> {
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Some(u64::from(*byte));
        }
        self.read_with(|rest| decode::read_int(rest).ok())
    }

    /// Reads the bytes of a str or a bin.
    #[inline]
    pub fn read_bytes(&mut self) -> Option<&'a [u8]> {
        self.read_with(|rest| {
            let length = match rest.first()? {
                0xc4..=0xc6 => decode::read_bin_len(rest).ok()?,
                _ => decode::read_str_len(rest).ok()?,
            };
            let (bytes, behind) = rest.split_at_checked(length as usize)?;
            *rest = behind;
            Some(bytes)
        })
    }

    /// Reads a str or a bin that is valid UTF-8.
    pub fn read_str(&mut self) -> Option<&'a str> {
        let mut ahead = *self;
        let text = std::str::from_utf8(ahead.read_bytes()?).ok()?;
        *self = ahead;
        Some(text)
    }

    /// Reads an array's header: the number of values that follow.
    #[inline]
    pub fn read_array(&mut self) -> Option<u32> {
        self.read_with(|rest| decode::read_array_len(rest).ok())
    }

    /// Reads a map's header: the number of pairs that follow.
    pub fn read_map(&mut self) -> Option<u32> {
        self.read_with(|rest| decode::read_map_len(rest).ok())
    }

    /// Reads the next value's bytes, whatever its type.
    pub fn read_raw(&mut self) -> Option<&'a [u8]> {
        let before = self.rest;
        self.skip()?;
        Some(&before[..before.len() - self.rest.len()])
    }

    /// Skips one value.
    pub fn skip(&mut self) -> Option<()> {
        let length = value_len(self.rest)?;
        self.rest = &self.rest[length..];
        Some(())
    }

    /// If a map is next, returns a reader at the value of `key`.
    pub fn find_key(&self, key: &str) -> Option<Reader<'a>> {
        let mut reader = *self;
        for _ in 0..reader.read_map()? {
            let mut here = reader;
            if here.read_bytes() == Some(key.as_bytes()) {
                return Some(here);
            }
            reader.skip()?;
            reader.skip()?;
        }
        None
    }

    #[inline]
    fn read_with<T>(&mut self, read: impl FnOnce(&mut &'a [u8]) -> Option<T>) -> Option<T> {
        let mut rest = self.rest;
        let value = read(&mut rest)?;
        self.rest = rest;
        Some(value)
    }
}

/// The length of the first value in `bytes`, if it is whole.
fn value_len(bytes: &[u8]) -> Option<usize> {
    super::scan::value_len(bytes, ScanLimits::default().nesting_max)
}
