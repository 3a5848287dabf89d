//! The walk over nested tables: what the encoders of msgpack and of JSON share.
//!
//! The path of a bad value costs nothing until there is one: it is assembled on the way back out of the recursion.

use super::error::EncodeFault;
use crate::shim::{self, GcTable, Slot, kind};
use std::fmt::Write;
use std::slice;

/// The maximum by which an array's holes may exceed its values: each hole is a byte in the message, and a table with
/// one large key is small.
const HOLES_MAX: u32 = 4096;

/// The tables around the value being encoded, innermost first.
pub(crate) struct Around<'a> {
    pub(crate) table: *const GcTable,
    pub(crate) depth: u32,
    pub(crate) outer: Option<&'a Around<'a>>,
}

/// The number of keys in the path of a bad value. Of more, those in the middle are left out: a message about tables
/// that are nested too deeply would be mostly path.
const STEPS_SHOWN: usize = 16;

/// A fault with the path so far, innermost first. `visible` is the number of levels that belong in the path: those of a
/// cycle are named once.
pub(crate) struct Trouble<F> {
    pub(crate) fault: F,
    steps: Vec<String>,
    visible: u32,
}

impl<F> Trouble<F> {
    #[cold]
    pub(crate) fn new(fault: F) -> Box<Trouble<F>> {
        Box::new(Trouble {
            fault,
            steps: Vec::new(),
            visible: u32::MAX,
        })
    }

    #[cold]
    pub(crate) fn step(mut self: Box<Self>, depth: u32, key: &Slot) -> Box<Trouble<F>> {
        if depth < self.visible {
            self.steps.push(key_text(key));
        }
        self
    }

    /// The path of the value; `root` is the name of the outermost one.
    #[cold]
    pub(crate) fn path(&self, root: String) -> String {
        let mut path = root;
        let (count, half) = (self.steps.len(), STEPS_SHOWN / 2);
        for (index, step) in self.steps.iter().rev().enumerate() {
            if count <= STEPS_SHOWN || index < half || index >= count - half {
                path.push_str(step);
            } else if index == half {
                path.push_str("...");
            }
        }
        path
    }
}

/// The length of a table marked as an array that has holes.
pub(crate) fn array_length(table: *const GcTable, count: u32) -> Result<u32, &'static str> {
    // SAFETY: the table comes from a live slot, and nothing changes it during the walk.
    let largest = unsafe { shim::yue_shim_largest_key(table) };
    match u32::try_from(largest) {
        Ok(length) if length <= count.saturating_mul(2).saturating_add(HOLES_MAX) => Ok(length),
        Err(_) if largest < 0 => Err("an array may have only whole numbers from 1 on as keys"),
        _ => Err("too many elements of the array are nil"),
    }
}

/// Distinguishes a cycle from real nesting, which look alike, once the limit is hit.
#[cold]
pub(crate) fn too_deep<F: From<EncodeFault>>(
    table: *const GcTable,
    around: Option<&Around<'_>>,
    limit: u32,
) -> Box<Trouble<F>> {
    let mut chain = vec![table];
    let mut next = around;
    while let Some(level) = next {
        chain.push(level.table);
        next = level.outer;
    }
    chain.reverse();
    for (depth, table) in chain.iter().enumerate() {
        if chain[..depth].contains(table) {
            let mut trouble = Trouble::new(EncodeFault::Cycle.into());
            trouble.visible = depth as u32;
            return trouble;
        }
    }
    Trouble::new(EncodeFault::TooDeep(limit).into())
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

/// The bytes of a string's slot.
pub(crate) fn bytes_of(slot: &Slot) -> &[u8] {
    // SAFETY: a string slot points to a live Lua string of this length.
    unsafe { slice::from_raw_parts(slot.pointer(), slot.length as usize) }
}
