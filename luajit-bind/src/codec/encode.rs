//! Encoder: Lua values to bytes, with raw reads, no Lua allocation and no errors raised; a fault truncates the buffer.
//!
//! The shim flattens a value into a `Slot`, and walks tables by pointer, so nothing is pushed on the Lua stack.

use super::error::{EncodeError, EncodeFault};
use super::foreign_ext;
use super::marks::Codec;
use super::references::{NotGiven, Object, ObjectKind, Reference, ReferenceTable};
use super::walk::{Around, Trouble, array_length, bytes_of, too_deep};
use crate::shim::{self, GcTable, GcUserdata, Shape, Slot, kind};
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};
use std::{ptr, str};

impl Codec {
    /// Appends the `count` values from stack index `first` (positive) on, one after the other, without a header.
    /// `label` names them in errors: `args` makes `args[2]`.
    ///
    /// # Errors
    /// The first value that cannot be encoded. `out` is then unchanged, and `refs` has taken its references back.
    ///
    /// # Safety
    /// `state` is a valid state of this codec's VM, on its thread, and `first` is an index of the running function.
    pub unsafe fn encode_values(
        &self,
        state: *mut ffi::lua_State,
        first: c_int,
        count: c_int,
        label: &str,
        refs: &dyn ReferenceTable,
        out: &mut Vec<u8>,
    ) -> Result<(), Box<EncodeError>> {
        let start = out.len();
        let mut encoder = Encoder {
            codec: *self,
            refs,
            out,
            given: Vec::new(),
        };
        debug_assert!(first > 0, "an index of the running function");
        // SAFETY: the caller's promise; this only reads the number of values.
        let values = || unsafe { ffi::lua_gettop(state) };
        let top = if cfg!(debug_assertions) { values() } else { 0 };
        for index in first..first + count {
            let mut slot = Slot::EMPTY;
            // SAFETY: the caller's promise.
            unsafe { shim::yue_shim_slot(state, index, &mut slot) };
            if let Err(trouble) = encoder.value(&slot, None) {
                // In reverse order, because the table of references searches from the end.
                for reference in encoder.given.into_iter().rev() {
                    refs.take_back(reference);
                }
                out.truncate(start);
                let path = trouble.path(format!("{label}[{}]", index - first + 1));
                let fault = trouble.fault;
                return Err(Box::new(EncodeError { path, fault }));
            }
        }
        debug_assert_eq!(values(), top, "encoding pushes nothing");
        Ok(())
    }
}

type Outcome = Result<(), Box<Trouble<EncodeFault>>>;

struct Encoder<'a> {
    codec: Codec,
    refs: &'a dyn ReferenceTable,
    out: &'a mut Vec<u8>,
    /// References made in this call, to be taken back if it fails. Allocates nothing while it is empty.
    given: Vec<Reference>,
}

impl Encoder<'_> {
    fn value(&mut self, slot: &Slot, around: Option<&Around<'_>>) -> Outcome {
        match slot.kind {
            kind::STRING => return string(self.out, slot),
            kind::INTEGER => integer(self.out, slot.integer()),
            kind::NUMBER => with_marker(self.out, 0xcb, slot.number().to_be_bytes()),
            kind::NIL => self.out.push(0xc0),
            kind::FALSE => self.out.push(0xc2),
            kind::TRUE => self.out.push(0xc3),
            kind::UNSIGNED => with_marker(self.out, 0xcf, slot.payload.to_be_bytes()),
            kind::TABLE => return self.table(slot.pointer(), around),
            kind::FUNCTION => {
                let object = slot.pointer();
                let function = Object {
                    kind: ObjectKind::Function,
                    pointer: object,
                    metatable: ptr::null(),
                    object,
                };
                return match self.reference(function)? {
                    true => Ok(()),
                    false => Err(Trouble::new(EncodeFault::FunctionRefused)),
                };
            }
            kind::USERDATA => return self.userdata(slot.pointer()),
            kind::CDATA => return Err(Trouble::new(EncodeFault::Unsupported("cdata"))),
            kind::THREAD => return Err(Trouble::new(EncodeFault::Unsupported("coroutine"))),
            _ => return Err(Trouble::new(EncodeFault::Unsupported("light userdata"))),
        }
        Ok(())
    }

    /// Writes the object's reference. False if the table has none for such objects.
    fn reference(&mut self, object: Object) -> Result<bool, Box<Trouble<EncodeFault>>> {
        let fault = match self.refs.give(object) {
            Ok(reference) => {
                self.given.push(reference);
                self.out.extend_from_slice(&reference.to_bytes());
                return Ok(true);
            }
            Err(NotGiven::Unknown) => return Ok(false),
            Err(NotGiven::NoRoom) => EncodeFault::NoRoom,
            Err(NotGiven::TooMany(limit)) => EncodeFault::TooManyFunctions(limit),
            Err(NotGiven::Because(text)) => EncodeFault::Refused(text),
        };
        Err(Trouble::new(fault))
    }

    fn userdata(&mut self, userdata: *const GcUserdata) -> Outcome {
        let mut metatable = ptr::null();
        let mut length = 0;
        // SAFETY: the pointer comes from a live slot.
        let payload = unsafe { shim::yue_shim_userdata(userdata, &mut metatable, &mut length) };
        // Null in a codec that is not installed, and in userdata without a metatable.
        if metatable == self.codec.foreign_mark && !metatable.is_null() {
            // SAFETY: only `foreign_ext::push` makes userdata with this metatable.
            let (code, body) = unsafe { foreign_ext::parts(payload, length as usize) };
            ext(self.out, code, body);
            return Ok(());
        }
        let object = Object {
            kind: ObjectKind::Userdata,
            pointer: payload,
            metatable,
            object: userdata.cast(),
        };
        match self.reference(object)? {
            true => Ok(()),
            false => Err(Trouble::new(EncodeFault::Unsupported("userdata"))),
        }
    }

    fn table(&mut self, table: *const GcTable, around: Option<&Around<'_>>) -> Outcome {
        let depth = around.map_or(0, |outer| outer.depth + 1);
        let limit = self.codec.limits.nesting_max;
        if depth >= limit {
            return Err(too_deep(table, around, limit));
        }
        // SAFETY: it reads a thread-local.
        if unsafe { shim::yue_shim_low_stack() } != 0 {
            // This fiber's stack holds no more levels.
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
        // A table with any other metatable may be an object that has a reference. If it has none, it is plain data.
        if !shape.metatable.is_null() && !is_map && !is_array {
            let pointer: *const c_void = table.cast();
            let object = Object {
                kind: ObjectKind::Table,
                pointer,
                metatable: shape.metatable,
                object: pointer,
            };
            if self.reference(object)? {
                return Ok(());
            }
        }
        let here = Around {
            table,
            depth,
            outer: around,
        };
        // An empty table has the shape of a sequence, too: without a mark it travels as an array.
        if shape.sequence != 0 && !is_map {
            self.sequence(&here, shape.count)
        } else if is_array {
            let length = array_length(table, shape.count);
            self.sequence(
                &here,
                length.map_err(|text| Trouble::new(EncodeFault::Refused(text)))?,
            )
        } else {
            self.map(&here, shape.count)
        }
    }

    fn sequence(&mut self, here: &Around<'_>, count: u32) -> Outcome {
        array_header(self.out, count);
        for position in 1..=count {
            let mut slot = Slot::EMPTY;
            // SAFETY: as in `table`.
            unsafe { shim::yue_shim_item(here.table, position, &mut slot) };
            self.value(&slot, Some(here))
                .map_err(|trouble| trouble.step(here.depth, &Slot::of_integer(position.into())))?;
        }
        Ok(())
    }

    fn map(&mut self, here: &Around<'_>, count: u32) -> Outcome {
        match count {
            0..=15 => self.out.push(0x80 | count as u8),
            16..=0xffff => with_marker(self.out, 0xde, (count as u16).to_be_bytes()),
            _ => with_marker(self.out, 0xdf, count.to_be_bytes()),
        }
        let (mut cursor, mut key, mut value) = (0, Slot::EMPTY, Slot::EMPTY);
        // SAFETY: as in `table`.
        while unsafe { shim::yue_shim_pair(here.table, &mut cursor, &mut key, &mut value) } != 0 {
            self.value(&key, Some(here))
                .map_err(|trouble| trouble.step(here.depth, &key))?;
            self.value(&value, Some(here))
                .map_err(|trouble| trouble.step(here.depth, &key))?;
        }
        Ok(())
    }
}

fn with_marker<const N: usize>(out: &mut Vec<u8>, marker: u8, bytes: [u8; N]) {
    out.reserve(1 + N);
    out.push(marker);
    out.extend_from_slice(&bytes);
}

fn integer(out: &mut Vec<u8>, value: i64) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..=0xffff => with_marker(out, 0xcd, (value as u16).to_be_bytes()),
        0x1_0000..=0xffff_ffff => with_marker(out, 0xce, (value as u32).to_be_bytes()),
        0x1_0000_0000.. => with_marker(out, 0xcf, (value as u64).to_be_bytes()),
        -0x20..=-1 => out.push(value as u8),
        -0x80..=-0x21 => out.extend_from_slice(&[0xd0, value as u8]),
        -0x8000..=-0x81 => with_marker(out, 0xd1, (value as i16).to_be_bytes()),
        -0x8000_0000..=-0x8001 => with_marker(out, 0xd2, (value as i32).to_be_bytes()),
        _ => with_marker(out, 0xd3, value.to_be_bytes()),
    }
}

fn array_header(out: &mut Vec<u8>, count: u32) {
    match count {
        0..=15 => out.push(0x90 | count as u8),
        16..=0xffff => with_marker(out, 0xdc, (count as u16).to_be_bytes()),
        _ => with_marker(out, 0xdd, count.to_be_bytes()),
    }
}

fn string(out: &mut Vec<u8>, slot: &Slot) -> Outcome {
    // The str family is for UTF-8 text, bin for any bytes (https://github.com/msgpack/msgpack/blob/master/spec.md).
    // Peers in languages with text types refuse a str that is not UTF-8.
    let bytes = bytes_of(slot);
    // A Lua string is shorter than 2 GiB, so its length fits.
    let length = slot.length;
    let text = str::from_utf8(bytes).is_ok();
    match (text, length) {
        (true, 0..=31) => out.push(0xa0 | length as u8),
        (true, 32..=0xff) => out.extend_from_slice(&[0xd9, length as u8]),
        (true, 0x100..=0xffff) => with_marker(out, 0xda, (length as u16).to_be_bytes()),
        (true, _) => with_marker(out, 0xdb, length.to_be_bytes()),
        (false, 0..=0xff) => out.extend_from_slice(&[0xc4, length as u8]),
        (false, 0x100..=0xffff) => with_marker(out, 0xc5, (length as u16).to_be_bytes()),
        (false, _) => with_marker(out, 0xc6, length.to_be_bytes()),
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn ext(out: &mut Vec<u8>, code: i8, body: &[u8]) {
    let code = code as u8;
    match body.len() {
        1 => out.extend_from_slice(&[0xd4, code]),
        2 => out.extend_from_slice(&[0xd5, code]),
        4 => out.extend_from_slice(&[0xd6, code]),
        8 => out.extend_from_slice(&[0xd7, code]),
        16 => out.extend_from_slice(&[0xd8, code]),
        length @ 0..=0xff => out.extend_from_slice(&[0xc7, length as u8, code]),
        length @ 0x100..=0xffff => {
            with_marker(out, 0xc8, (length as u16).to_be_bytes());
            out.push(code);
        }
        length => {
            with_marker(out, 0xc9, (length as u32).to_be_bytes());
            out.push(code);
        }
    }
    out.extend_from_slice(body);
}
