//! Encoder: a Lua value to JSON text, with raw reads, no Lua allocation and no errors raised.

use super::error::{JsonEncodeError, JsonEncodeFault};
use super::scan::plain_prefix;
use crate::codec::Codec;
use crate::codec::walk::{Around, Trouble, array_length, bytes_of, too_deep};
use crate::codec::{EncodeFault, NESTING_MAX};
use crate::shim::{self, GcTable, Shape, Slot, kind};
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};
use std::{ptr, str};

/// The form of an encoded text.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonStyle<'a> {
    /// The text by which each level is indented, on lines of its own. Empty: everything is on one line, without spaces.
    pub indent: &'a [u8],
    /// Sort the keys of objects by their bytes. Otherwise their order is that of the Lua table.
    pub sort: bool,
    /// Returns why a table with this metatable is not data, if it is not.
    pub refuse: Option<fn(*const c_void) -> Option<&'static str>>,
}

impl Codec {
    /// Appends the value at stack index `index` (positive) as JSON.
    ///
    /// # Errors
    /// The first value that cannot be encoded. `out` then holds a part of the text.
    ///
    /// # Safety
    /// `state` is a valid state of this codec's VM, on its thread, and `index` is an index of the running function.
    pub unsafe fn encode_json(
        &self,
        state: *mut ffi::lua_State,
        index: c_int,
        style: JsonStyle<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Box<JsonEncodeError>> {
        let mut slot = Slot::EMPTY;
        // SAFETY: the caller's promise.
        unsafe { shim::yue_shim_slot(state, index, &mut slot) };
        let mut encoder = Encoder {
            codec: *self,
            style,
            out,
        };
        encoder.value(&slot, None).map_err(|trouble| {
            let (path, fault) = (trouble.path(String::new()), trouble.fault);
            Box::new(JsonEncodeError { path, fault })
        })
    }
}

type Outcome = Result<(), Box<Trouble<JsonEncodeFault>>>;

struct Encoder<'a> {
    codec: Codec,
    style: JsonStyle<'a>,
    out: &'a mut Vec<u8>,
}

#[cold]
fn refused(fault: JsonEncodeFault) -> Outcome {
    Err(Trouble::new(fault))
}

impl Encoder<'_> {
    fn value(&mut self, slot: &Slot, around: Option<&Around<'_>>) -> Outcome {
        match slot.kind {
            kind::STRING => return self.string(bytes_of(slot)),
            kind::INTEGER => self.integer(slot.integer()),
            kind::NUMBER => return self.float(slot.number()),
            kind::TABLE => return self.table(slot.pointer(), around),
            kind::NIL => self.out.extend_from_slice(b"null"),
            kind::FALSE => self.out.extend_from_slice(b"false"),
            kind::TRUE => self.out.extend_from_slice(b"true"),
            kind::UNSIGNED => {
                let mut buffer = itoa::Buffer::new();
                self.out
                    .extend_from_slice(buffer.format(slot.payload).as_bytes());
            }
            other => return refused(JsonEncodeFault::Unsupported(name_of(other))),
        }
        Ok(())
    }

    #[inline]
    fn integer(&mut self, value: i64) {
        let mut buffer = itoa::Buffer::new();
        self.out.extend_from_slice(buffer.format(value).as_bytes());
    }

    fn float(&mut self, value: f64) -> Outcome {
        if !value.is_finite() {
            let name = if value.is_nan() { "NaN" } else { "infinity" };
            return refused(JsonEncodeFault::NotFinite(name));
        }
        let mut buffer = zmij::Buffer::new();
        self.out
            .extend_from_slice(buffer.format_finite(value).as_bytes());
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Outcome {
        self.out.reserve(bytes.len() + 2);
        self.out.push(b'"');
        let mut rest = bytes;
        let mut is_valid = false;
        loop {
            let length = plain_prefix::<true>(rest);
            self.out.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
            let Some(byte) = rest.first().copied() else {
                break;
            };
            if byte < 0x80 {
                self.escape(byte);
                rest = &rest[1..];
                continue;
            }
            // Checked once, from the first byte above ASCII on.
            if !is_valid && str::from_utf8(rest).is_err() {
                return refused(JsonEncodeFault::NotUtf8);
            }
            is_valid = true;
            let above = rest.iter().take_while(|byte| **byte >= 0x80).count();
            self.out.extend_from_slice(&rest[..above]);
            rest = &rest[above..];
        }
        self.out.push(b'"');
        Ok(())
    }

    fn escape(&mut self, byte: u8) {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
                let escape = [b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)];
                return self.out.extend_from_slice(&escape);
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    fn table(&mut self, table: *const GcTable, around: Option<&Around<'_>>) -> Outcome {
        let depth = around.map_or(0, |outer| outer.depth + 1);
        // SAFETY: it reads a thread-local.
        let is_low = unsafe { shim::yue_shim_low_stack() } != 0;
        if depth >= NESTING_MAX || is_low {
            return Err(too_deep(table, around, depth));
        }
        let mut shape = Shape {
            metatable: ptr::null(),
            count: 0,
            sequence: 0,
        };
        // SAFETY: the table comes from a live slot, and nothing changes it during the walk.
        unsafe { shim::yue_shim_table(table, &mut shape) };
        let is_map = shape.metatable == self.codec.map_mark;
        let is_array = shape.metatable == self.codec.array_mark;
        if !shape.metatable.is_null()
            && !is_map
            && !is_array
            && let Some(reason) = self.style.refuse.and_then(|refuse| refuse(shape.metatable))
        {
            return refused(EncodeFault::Refused(reason).into());
        }
        let here = Around {
            table,
            depth,
            outer: around,
        };
        if is_array && shape.sequence == 0 {
            let length = array_length(table, shape.count);
            let length = length.map_err(|text| Trouble::new(EncodeFault::Refused(text).into()))?;
            self.array(&here, length)
        } else if shape.sequence != 0 && !is_map && (shape.count > 0 || is_array) {
            self.array(&here, shape.count)
        } else if self.style.sort {
            self.sorted_object(&here)
        } else {
            self.object(&here, shape.count)
        }
    }

    /// Begins a new line, indented by `depth` levels, if the style has lines.
    #[inline]
    fn line(&mut self, depth: u32) {
        if !self.style.indent.is_empty() {
            self.out.push(b'\n');
            for _ in 0..depth {
                self.out.extend_from_slice(self.style.indent);
            }
        }
    }

    /// Writes what is before an element: its line, and a comma if it is not the first.
    #[inline]
    fn separate(&mut self, is_first: bool, depth: u32) {
        if !is_first {
            self.out.push(b',');
        }
        self.line(depth + 1);
    }

    fn array(&mut self, here: &Around<'_>, count: u32) -> Outcome {
        self.out.push(b'[');
        for position in 1..=count {
            self.separate(position == 1, here.depth);
            let mut slot = Slot::EMPTY;
            // SAFETY: as in `table`.
            unsafe { shim::yue_shim_item(here.table, position, &mut slot) };
            self.value(&slot, Some(here))
                .map_err(|trouble| trouble.step(here.depth, &Slot::of_integer(position.into())))?;
        }
        if count > 0 {
            self.line(here.depth);
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, here: &Around<'_>, count: u32) -> Outcome {
        self.out.push(b'{');
        let (mut cursor, mut key, mut value) = (0, Slot::EMPTY, Slot::EMPTY);
        let mut is_first = true;
        // SAFETY: as in `table`.
        while unsafe { shim::yue_shim_pair(here.table, &mut cursor, &mut key, &mut value) } != 0 {
            self.separate(is_first, here.depth);
            is_first = false;
            self.key(&key)
                .map_err(|trouble| trouble.step(here.depth, &key))?;
            self.after_key();
            self.value(&value, Some(here))
                .map_err(|trouble| trouble.step(here.depth, &key))?;
        }
        if count > 0 {
            self.line(here.depth);
        }
        self.out.push(b'}');
        Ok(())
    }

    fn sorted_object(&mut self, here: &Around<'_>) -> Outcome {
        let (mut cursor, mut key, mut value) = (0, Slot::EMPTY, Slot::EMPTY);
        let mut pairs: Vec<(Vec<u8>, Slot, Slot)> = Vec::new();
        // SAFETY: as in `table`.
        while unsafe { shim::yue_shim_pair(here.table, &mut cursor, &mut key, &mut value) } != 0 {
            let start = self.out.len();
            self.key(&key)
                .map_err(|trouble| trouble.step(here.depth, &key))?;
            pairs.push((self.out.split_off(start), key, value));
        }
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        self.out.push(b'{');
        for (index, (text, key, value)) in pairs.iter().enumerate() {
            self.separate(index == 0, here.depth);
            self.out.extend_from_slice(text);
            self.after_key();
            self.value(value, Some(here))
                .map_err(|trouble| trouble.step(here.depth, key))?;
        }
        if !pairs.is_empty() {
            self.line(here.depth);
        }
        self.out.push(b'}');
        Ok(())
    }

    #[inline]
    fn after_key(&mut self) {
        self.out.push(b':');
        if !self.style.indent.is_empty() {
            self.out.push(b' ');
        }
    }

    fn key(&mut self, key: &Slot) -> Outcome {
        match key.kind {
            kind::STRING => return self.string(bytes_of(key)),
            kind::INTEGER => {
                self.out.push(b'"');
                self.integer(key.integer());
            }
            kind::NUMBER => {
                self.out.push(b'"');
                self.float(key.number())?;
            }
            other => return refused(JsonEncodeFault::BadKey(name_of(other))),
        }
        self.out.push(b'"');
        Ok(())
    }
}

/// The name of a kind of value, for messages.
fn name_of(kind: u32) -> &'static str {
    match kind {
        kind::FALSE | kind::TRUE => "boolean",
        kind::TABLE => "table",
        kind::FUNCTION => "function",
        kind::USERDATA => "userdata",
        kind::CDATA | kind::UNSIGNED => "cdata",
        kind::THREAD => "coroutine",
        _ => "light userdata",
    }
}
