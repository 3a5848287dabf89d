//! Decoder: bytes to Lua values, pushed directly onto the stack.
//!
//! Any bytes are accepted as input: each length is checked against the remaining bytes before anything is made of it,
//! and nesting, memory and the work of filling maps are limited. A table is made with room for all its elements, so it
//! is never rehashed while it is filled. Besides a `DecodeError`, a Lua error (out of memory) may occur, which unwinds
//! through these frames: so nothing in them has a destructor.

use super::error::DecodeError;
use super::foreign_ext;
use super::marks::Codec;
use super::references::{Reference, ReferenceTable};
use crate::shim::{self, map_set};
use crate::stack::Stack;
use mlua_sys as ffi;
use std::ffi::c_int;
use yue_wire::EXT_CODE;

/// Memory of values in LuaJIT, in bytes: what `Reader::decoded_bytes` adds up. Headers come with their alignment.
mod memory {
    pub const TABLE: usize = 64;
    pub const ARRAY_SLOT: usize = 8;
    /// Key, value and the link of a chain.
    pub const NODE: usize = 24;
    /// Plus the string's bytes. Includes the string's share of the table of all strings.
    pub const STRING: usize = 40;
    pub const INT64: usize = 32;
    /// Plus the ext's bytes.
    pub const EXT: usize = 64;
    /// A userdata, and the memory that the layer above keeps for it.
    pub const REFERENCE: usize = 160;
}

/// The nodes of hash chains that a message may walk beyond the allowance of its keys: a few maps of a thousand honest
/// keys that LuaJIT hashes badly (see `yue_shim_map_set`) need no more.
const STEPS_FIRST: u32 = 1 << 20;

/// The largest integer, of either sign, that a Lua number holds together with all smaller ones.
const EXACT_MAX: i64 = 1 << 53;

/// A message that is being decoded: its bytes, the position, and the memory so far.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Memory of the values decoded so far.
    decoded: usize,
    /// Nodes of hash chains that may still be walked.
    steps: u32,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            decoded: 0,
            steps: STEPS_FIRST,
        }
    }

    /// The offset of the next value.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The memory of the values decoded so far, in bytes: an upper estimate, which counts every string as if it were
    /// the only one of its kind.
    pub fn decoded_bytes(&self) -> usize {
        self.decoded
    }

    /// The remaining bytes.
    pub fn rest(&self) -> &'a [u8] {
        // `at` never passes the end.
        &self.bytes[self.at..]
    }

    /// Checks that no bytes are left.
    ///
    /// # Errors
    /// [`DecodeError::LeftOver`].
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            count => Err(DecodeError::LeftOver { at: self.at, count }),
        }
    }

    #[inline]
    fn take(&mut self, count: usize, value_at: usize) -> Result<&'a [u8], DecodeError> {
        debug_assert!(self.at <= self.bytes.len(), "the reader passed the end");
        let rest = &self.bytes[self.at..];
        // Before anything is allocated: a header may claim 4 GiB.
        if rest.len() < count {
            return Err(DecodeError::Truncated { at: value_at });
        }
        self.at += count;
        Ok(&rest[..count])
    }

    #[inline]
    fn array<const N: usize>(&mut self, value_at: usize) -> Result<[u8; N], DecodeError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, value_at)?);
        Ok(bytes)
    }

    fn u8(&mut self, value_at: usize) -> Result<u8, DecodeError> {
        Ok(self.take(1, value_at)?[0])
    }

    fn u16(&mut self, value_at: usize) -> Result<u16, DecodeError> {
        self.array(value_at).map(u16::from_be_bytes)
    }

    fn u32(&mut self, value_at: usize) -> Result<u32, DecodeError> {
        self.array(value_at).map(u32::from_be_bytes)
    }
}

impl Codec {
    /// Pushes the next `count` values. Raises when out of memory; run it inside a protected call.
    ///
    /// # Errors
    /// The fault in the bytes. The values on the stack are then useless.
    pub fn decode_values(
        &self,
        stack: Stack<'_>,
        reader: &mut Reader<'_>,
        count: u32,
        refs: &dyn ReferenceTable,
    ) -> Result<c_int, DecodeError> {
        Decoder {
            codec: self,
            stack,
            state: stack.raw(),
            reader,
            refs,
        }
        .values(count)
    }
}

struct Decoder<'a, 'r, 'b> {
    codec: &'a Codec,
    stack: Stack<'a>,
    state: *mut ffi::lua_State,
    reader: &'r mut Reader<'b>,
    refs: &'a dyn ReferenceTable,
}

impl Decoder<'_, '_, '_> {
    fn values(&mut self, count: u32) -> Result<c_int, DecodeError> {
        let too_many = DecodeError::TooManyValues { count };
        let slots = c_int::try_from(count).map_err(|_| too_many)?;
        // SAFETY: `Stack` promises a valid state, here and below; this call raises nothing.
        if slots > 8 && unsafe { ffi::lua_checkstack(self.state, slots) } == 0 {
            return Err(too_many);
        }
        let top = if cfg!(debug_assertions) {
            self.stack.top()
        } else {
            0
        };
        for _ in 0..count {
            self.value(0)?;
        }
        debug_assert_eq!(self.stack.top(), top + slots, "each value is one slot");
        Ok(slots)
    }

    /// Counts the memory that the value at `at` will take.
    #[inline]
    fn charge(&mut self, at: usize, bytes: usize) -> Result<(), DecodeError> {
        let limit = self.codec.limits.decoded_bytes_max;
        let decoded = self.reader.decoded.saturating_add(bytes);
        if decoded > limit {
            return Err(DecodeError::TooLarge { at, limit });
        }
        self.reader.decoded = decoded;
        Ok(())
    }

    /// Pushes one value; the caller has made room for it.
    fn value(&mut self, depth: u32) -> Result<(), DecodeError> {
        let at = self.reader.at;
        let marker = self.reader.u8(at)?;
        match marker {
            0x00..=0x7f => self.stack.push_number(marker.into()),
            0xe0..=0xff => self.stack.push_number((marker as i8).into()),
            0xa0..=0xbf => return self.string(at, usize::from(marker & 0x1f)),
            0x80..=0x8f => return self.map(at, u32::from(marker & 0x0f), depth),
            0x90..=0x9f => return self.sequence(at, u32::from(marker & 0x0f), depth),
            0xc0 => self.stack.push_nil(),
            0xc1 => return Err(DecodeError::BadMarker { at }),
            0xc2 => self.stack.push_boolean(false),
            0xc3 => self.stack.push_boolean(true),
            0xca..=0xd3 => return self.number(at, marker),
            _ => return self.sized(at, marker, depth),
        }
        Ok(())
    }

    fn number(&mut self, at: usize, marker: u8) -> Result<(), DecodeError> {
        let reader = &mut *self.reader;
        let number = match marker {
            0xca => f32::from_be_bytes(reader.array(at)?).into(),
            0xcb => f64::from_be_bytes(reader.array(at)?),
            0xcc => reader.u8(at)?.into(),
            0xcd => reader.u16(at)?.into(),
            0xce => reader.u32(at)?.into(),
            0xd0 => i8::from_be_bytes(reader.array(at)?).into(),
            0xd1 => i16::from_be_bytes(reader.array(at)?).into(),
            0xd2 => i32::from_be_bytes(reader.array(at)?).into(),
            _ => {
                let bits = i64::from_be_bytes(reader.array(at)?);
                return self.wide(at, bits, marker == 0xcf);
            }
        };
        // LuaJIT keeps its tags in the payloads of NaNs (`lj_obj.h`, "Internal object tags"), so only the canonical NaN
        // is a number to it. A peer's NaN with another payload would become a value of another type.
        self.stack
            .push_number(if number.is_nan() { f64::NAN } else { number });
        Ok(())
    }

    /// A 64-bit integer: a number if it is exact, else a cdata.
    fn wide(&mut self, at: usize, bits: i64, unsigned: bool) -> Result<(), DecodeError> {
        // Lua numbers are doubles: beyond 2^53 they would silently be rounded, so larger integers become cdata.
        let exact = if unsigned {
            bits as u64 <= EXACT_MAX as u64
        } else {
            (-EXACT_MAX..=EXACT_MAX).contains(&bits)
        };
        if exact {
            self.stack.push_number(bits as f64);
        } else {
            self.charge(at, memory::INT64)?;
            // SAFETY: a valid state; it raises as this function's callers expect.
            unsafe { shim::yue_shim_push_int64(self.state, bits, (unsigned && bits < 0).into()) }
        }
        Ok(())
    }

    /// The markers that are followed by a length.
    fn sized(&mut self, at: usize, marker: u8, depth: u32) -> Result<(), DecodeError> {
        let reader = &mut *self.reader;
        match marker {
            0xc4 | 0xd9 => {
                let length = reader.u8(at)?;
                self.string(at, length.into())
            }
            0xc5 | 0xda => {
                let length = reader.u16(at)?;
                self.string(at, length.into())
            }
            0xc6 | 0xdb => {
                let length = reader.u32(at)?;
                self.string(at, length as usize)
            }
            0xc7 => {
                let length = reader.u8(at)?;
                self.ext(at, length.into())
            }
            0xc8 => {
                let length = reader.u16(at)?;
                self.ext(at, length.into())
            }
            0xc9 => {
                let length = reader.u32(at)?;
                self.ext(at, length as usize)
            }
            0xd4..=0xd8 => self.ext(at, 1 << (marker - 0xd4)),
            0xdc => {
                let count = reader.u16(at)?;
                self.sequence(at, count.into(), depth)
            }
            0xdd => {
                let count = reader.u32(at)?;
                self.sequence(at, count, depth)
            }
            0xde => {
                let count = reader.u16(at)?;
                self.map(at, count.into(), depth)
            }
            _ => {
                let count = reader.u32(at)?;
                self.map(at, count, depth)
            }
        }
    }

    fn string(&mut self, at: usize, length: usize) -> Result<(), DecodeError> {
        // A str need not be UTF-8 here: Lua strings are bytes, and str and bin arrive alike.
        let bytes = self.reader.take(length, at)?;
        self.charge(at, memory::STRING + length)?;
        self.stack.push_bytes(bytes);
        Ok(())
    }

    /// Checks a table's size, depth and memory, and makes room for it, a key and a value.
    fn enter(
        &mut self,
        at: usize,
        bytes_min: u64,
        bytes_of_memory: usize,
        depth: u32,
    ) -> Result<(), DecodeError> {
        // A value takes at least one byte, so a table with more elements than bytes is refused before it is allocated.
        if bytes_min > self.reader.rest().len() as u64 {
            return Err(DecodeError::Truncated { at });
        }
        let limit = self.codec.limits.nesting_max;
        if depth >= limit {
            return Err(DecodeError::TooDeep { at, limit });
        }
        // SAFETY: a valid state; neither call raises.
        // Tables nest by recursion: both stacks must have room, Lua's and this fiber's native one.
        let room =
            unsafe { shim::yue_shim_low_stack() == 0 && ffi::lua_checkstack(self.state, 4) != 0 };
        if !room {
            // This fiber's stack holds no more levels.
            return Err(DecodeError::TooDeep { at, limit: depth });
        }
        self.charge(at, memory::TABLE + bytes_of_memory)
    }

    fn sequence(&mut self, at: usize, count: u32, depth: u32) -> Result<(), DecodeError> {
        // Index 0 has a slot, too.
        let slots = count as usize + 1;
        self.enter(at, count.into(), slots * memory::ARRAY_SLOT, depth)?;
        // SAFETY: a valid state with room; `count` is below 2^31, because there are at least that many bytes.
        unsafe {
            ffi::lua_createtable(self.state, count as c_int, 0);
            for position in 1..=count {
                self.value(depth + 1)?;
                ffi::lua_rawseti(self.state, -2, position.into());
            }
        }
        Ok(())
    }

    fn map(&mut self, at: usize, count: u32, depth: u32) -> Result<(), DecodeError> {
        let nodes = match count {
            0 => 0,
            _ => (count as usize).next_power_of_two().max(2),
        };
        let (bytes_min, memory) = (2 * u64::from(count), nodes * memory::NODE);
        self.enter(at, bytes_min, memory, depth)?;
        // SAFETY: as above; table, key and value are on top for `map_set`.
        unsafe {
            ffi::lua_createtable(self.state, 0, count as c_int);
            for _ in 0..count {
                let key_at = self.reader.at;
                self.value(depth + 1)?;
                self.value(depth + 1)?;
                // Not `lua_rawset`: LuaJIT hashes number keys without a secret, so a peer could choose keys that
                // collide. The shim counts the nodes that it walks.
                match shim::yue_shim_map_set(self.state, &mut self.reader.steps) {
                    map_set::DONE => {}
                    map_set::BAD_KEY => return Err(DecodeError::BadKey { at: key_at }),
                    _ => return Err(DecodeError::Crowded { at: key_at }),
                }
            }
        }
        Ok(())
    }

    fn ext(&mut self, at: usize, length: usize) -> Result<(), DecodeError> {
        let code = self.reader.u8(at)? as i8;
        let body_at = self.reader.at;
        let body = self.reader.take(length, at)?;
        if code != EXT_CODE {
            // Another program's type, which is kept as it is: an application may define ext codes 0 to 127
            // (https://github.com/msgpack/msgpack/blob/master/spec.md#extension-types).
            // A second slot, for the metatable.
            self.check_stack(at, 3)?;
            self.charge(at, memory::EXT + length)?;
            foreign_ext::push(self.codec.foreign_ref, self.stack, code, body);
            return Ok(());
        }
        let bad = DecodeError::BadReference { at: body_at };
        let reference = Reference::parse(body).ok_or(bad)?;
        self.check_stack(at, 8)?;
        self.charge(at, memory::REFERENCE)?;
        if self.refs.arrive(self.stack, reference) {
            Ok(())
        } else {
            Err(DecodeError::UnknownReference {
                at: body_at,
                id: reference.id,
            })
        }
    }

    /// Makes room for `slots` more values on the Lua stack, which holds about 65 000.
    fn check_stack(&self, at: usize, slots: c_int) -> Result<(), DecodeError> {
        // SAFETY: a valid state; it raises nothing.
        match unsafe { ffi::lua_checkstack(self.state, slots) } {
            0 => Err(DecodeError::TooDeep {
                at,
                limit: self.codec.limits.nesting_max,
            }),
            _ => Ok(()),
        }
    }
}
