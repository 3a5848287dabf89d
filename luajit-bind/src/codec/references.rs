//! References: functions that cross a connection without their code.
//!
//! [`yue_wire`] has their form on the wire.
//!
//! The codec does not know the connections. It calls a [`ReferenceTable`], which the layer above keeps per connection:
//! the table assigns ids, counts crossings, and turns an id that arrives into a callable.

use crate::stack::Stack;
use std::ffi::c_void;
pub use yue_wire::{Owner, Reference};

/// The kind of a Lua object that the encoder passes to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A function of any kind.
    Function,
    /// A table that has a metatable (it is sent as plain data if the table of references has no reference for it).
    Table,
    /// A userdata of a type that the codec does not know.
    Userdata,
}

/// A Lua object by identity. LuaJIT never moves objects, so the address identifies the object while it is alive, which
/// it is during encoding.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// The kind of the object.
    pub kind: ObjectKind,
    /// Its address, as `lua_topointer` returns it (for a userdata: the address of its payload, as `lua_touserdata`
    /// does).
    pub pointer: *const c_void,
    /// Its metatable's address; null for functions and where there is none.
    pub metatable: *const c_void,
    /// The collector's object, which [`Exports`](crate::Exports) anchors.
    pub(crate) object: *const c_void,
}

/// The reason why an object gets no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGiven {
    /// The table has no references for such objects. The encoder acts as if there were no table: a function or a
    /// userdata is refused, a table is sent as plain data.
    Unknown,
    /// The table must make room first, which it cannot do in the middle of encoding. The message fails with
    /// [`EncodeFault::NoRoom`](super::EncodeFault::NoRoom); the caller of the encoder makes room and encodes again.
    NoRoom,
    /// The peer holds the maximum number of references, which is this.
    TooMany(usize),
    /// Another reason, as a text that follows the value's path and a colon.
    Because(&'static str),
}

/// One connection's references, kept by the layer above the codec.
pub trait ReferenceTable {
    /// A function, or another object that the codec cannot encode, is about to cross. Returns its reference and counts
    /// the crossing. Must not call Lua.
    ///
    /// # Errors
    /// The reason why it does not cross.
    fn give(&self, object: Object) -> Result<Reference, NotGiven>;

    /// Undoes a crossing that `give` counted: the message was not encoded after all. Must not call Lua.
    fn take_back(&self, reference: Reference);

    /// A reference arrived (the message determines its `owner`: `Receiver` is this side). Pushes exactly one value and
    /// returns true, or pushes nothing and returns false if it is unknown. May raise; no destructor may be alive then.
    fn arrive(&self, stack: Stack<'_>, reference: Reference) -> bool;
}

/// A table without references: functions are refused in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReferences;

impl ReferenceTable for NoReferences {
    fn give(&self, _object: Object) -> Result<Reference, NotGiven> {
        Err(NotGiven::Unknown)
    }

    fn take_back(&self, _reference: Reference) {}

    fn arrive(&self, _stack: Stack<'_>, _reference: Reference) -> bool {
        false
    }
}
