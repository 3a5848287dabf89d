//! Encoder: Lua values to bytes, with raw reads, no Lua allocation and no errors raised; a fault truncates the buffer.
//!
//! The shim flattens a value into a `Slot`, and walks tables by pointer, so nothing is pushed on the Lua stack. The
//! path of a bad value costs nothing until there is one: it is assembled on the way back out of the recursion.

use super::error::{EncodeError, EncodeFault};
use super::foreign_ext;
use super::marks::Codec;
use super::references::{NotGiven, Object, ObjectKind, Reference, ReferenceTable};
use crate::shim::{self, GcTable, GcUserdata, Shape, Slot, kind};
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};
use std::fmt::Write;
use std::{ptr, slice, str};

/// The maximum by which an array's holes may exceed its values: each hole is a byte in the message, and a table with
/// one large key is small.
const HOLES_MAX: u32 = 4096;

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
                return Err(trouble.into_error(label, index - first + 1));
            }
        }
        debug_assert_eq!(values(), top, "encoding pushes nothing");
        Ok(())
    }
}

/// The tables around the value being encoded, innermost first.
struct Around<'a> {
    table: *const GcTable,
    depth: u32,
    outer: Option<&'a Around<'a>>,
}

/// The number of keys in the path of a bad value. Of more, those in the middle are left out: a message about tables
/// that are nested too deeply would be mostly path.
const STEPS_SHOWN: usize = 16;

/// A fault with the path so far, innermost first. `visible` is the number of levels that belong in the path: those of a
/// cycle are named once.
struct Trouble {
    fault: EncodeFault,
    steps: Vec<String>,
    visible: u32,
}

impl Trouble {
    #[cold]
    fn new(fault: EncodeFault) -> Box<Trouble> {
        Box::new(Trouble {
            fault,
            steps: Vec::new(),
            visible: u32::MAX,
        })
    }

    #[cold]
    fn step(mut self: Box<Self>, depth: u32, key: &Slot) -> Box<Trouble> {
        if depth < self.visible {
            self.steps.push(key_text(key));
        }
        self
    }

    #[cold]
    fn into_error(self, label: &str, position: c_int) -> Box<EncodeError> {
        let mut path = format!("{label}[{position}]");
        let (count, half) = (self.steps.len(), STEPS_SHOWN / 2);
        for (index, step) in self.steps.iter().rev().enumerate() {
            if count <= STEPS_SHOWN || index < half || index >= count - half {
                path.push_str(step);
            } else if index == half {
                path.push_str("...");
            }
        }
        Box::new(EncodeError {
            path,
            fault: self.fault,
        })
    }
}

type Outcome = Result<(), Box<Trouble>>;

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
    fn reference(&mut self, object: Object) -> Result<bool, Box<Trouble>> {
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
            self.sequence(&here, array_length(table, shape.count)?)
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
            self.value(&slot, Some(here)).map_err(|trouble| {
                trouble.step(
                    here.depth,
                    &Slot {
                        kind: kind::INTEGER,
                        payload: position.into(),
                        ..Slot::EMPTY
                    },
                )
            })?;
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

/// The length of a table marked as an array that has holes.
fn array_length(table: *const GcTable, count: u32) -> Result<u32, Box<Trouble>> {
    // SAFETY: as in `Encoder::table`.
    let largest = unsafe { shim::yue_shim_largest_key(table) };
    let fault = match u32::try_from(largest) {
        Ok(length) if length <= count.saturating_mul(2).saturating_add(HOLES_MAX) => {
            return Ok(length);
        }
        Err(_) if largest < 0 => "an array may have only whole numbers from 1 on as keys",
        _ => "too many elements of the array are nil",
    };
    Err(Trouble::new(EncodeFault::Refused(fault)))
}

/// Distinguishes a cycle from real nesting, which look alike, once the limit is hit.
#[cold]
fn too_deep(table: *const GcTable, around: Option<&Around<'_>>, limit: u32) -> Box<Trouble> {
    let mut trouble = Trouble::new(EncodeFault::TooDeep(limit));
    let mut chain = vec![table];
    let mut next = around;
    while let Some(level) = next {
        chain.push(level.table);
        next = level.outer;
    }
    chain.reverse();
    for (depth, table) in chain.iter().enumerate() {
        if chain[..depth].contains(table) {
            trouble.fault = EncodeFault::Cycle;
            trouble.visible = depth as u32;
            break;
        }
    }
    trouble
}

/// Formats a key as it is written in Lua: `.name`, `[7]`, `["odd name"]`.
fn key_text(key: &Slot) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match key.kind {
        kind::STRING => {
            let name = String::from_utf8_lossy(bytes_of(key));
            let plain = name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
                && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
            if plain {
                write!(text, ".{name}")
            } else {
                write!(text, "[{name:?}]")
            }
        }
        kind::INTEGER => write!(text, "[{}]", key.integer()),
        kind::NUMBER => write!(text, "[{}]", key.number()),
        kind::TRUE => write!(text, "[true]"),
        kind::FALSE => write!(text, "[false]"),
        _ => write!(text, "[?]"),
    };
    text
}

fn bytes_of(slot: &Slot) -> &[u8] {
    // SAFETY: a string slot points to a live Lua string of this length.
    unsafe { slice::from_raw_parts(slot.pointer(), slot.length as usize) }
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
