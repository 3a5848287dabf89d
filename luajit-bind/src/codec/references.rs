//! References: functions that cross a connection without their code.
//!
//! On the wire a reference is `ext 0x59` with eight bytes, so that its header is a `fixext 8`:
//!
//! ```text
//!   d7  59  | sub-type (1 byte) | id (7 bytes, big endian) |
//!             1 = the sender owns it      2 = the receiver owns it: it is sent back
//! ```
//!
//! The codec does not know the connections. It calls a [`RefTable`], which the layer above keeps per connection: the
//! table assigns ids, counts crossings, and turns an id that arrives into a callable.

use crate::codec::{DecodeError, EXT_CODE};
use crate::stack::Stack;
use std::ffi::c_void;

/// The largest id: seven bytes on the wire.
pub(crate) const ID_MAX: u64 = (1 << 56) - 1;

const SENDER_OWNS: u8 = 1;
const RECEIVER_OWNS: u8 = 2;

/// The owner of the function behind a reference, seen from the message that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The side that encodes the message.
    Sender,
    /// The side that decodes it: one of its own functions comes back.
    Receiver,
}

/// A function as it crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    /// The side that runs it.
    pub owner: Owner,
    /// The owner's name for it; at most 2^56 - 1.
    pub id: u64,
}

impl Ref {
    /// The ten bytes of the reference.
    pub(crate) fn bytes(self) -> [u8; 10] {
        let kind = match self.owner {
            Owner::Sender => SENDER_OWNS,
            Owner::Receiver => RECEIVER_OWNS,
        };
        let [_, id @ ..] = (self.id & ID_MAX).to_be_bytes();
        let [a, b, c, d, e, f, g] = id;
        [0xd7, EXT_CODE as u8, kind, a, b, c, d, e, f, g]
    }

    /// Reads the body of an ext 0x59.
    pub(crate) fn parse(body: &[u8], at: usize) -> Result<Ref, DecodeError> {
        let &[kind, a, b, c, d, e, f, g] = body else {
            return Err(DecodeError::BadReference { at });
        };
        let owner = match kind {
            SENDER_OWNS => Owner::Sender,
            RECEIVER_OWNS => Owner::Receiver,
            _ => return Err(DecodeError::BadReference { at }),
        };
        Ok(Ref {
            owner,
            id: u64::from_be_bytes([0, a, b, c, d, e, f, g]),
        })
    }
}

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
pub trait RefTable {
    /// A function, or another object that the codec cannot encode, is about to cross. Returns its reference and counts
    /// the crossing. Must not call Lua.
    ///
    /// # Errors
    /// The reason why it does not cross.
    fn give(&self, object: Object) -> Result<Ref, NotGiven>;

    /// Undoes a crossing that `give` counted: the message was not encoded after all. Must not call Lua.
    fn take_back(&self, reference: Ref);

    /// A reference arrived (the message determines its `owner`: `Receiver` is this side). Pushes exactly one value and
    /// returns true, or pushes nothing and returns false if it is unknown. May raise; no destructor may be alive then.
    fn arrive(&self, stack: Stack<'_>, reference: Ref) -> bool;
}

/// A table without references: functions are refused in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRefs;

impl RefTable for NoRefs {
    fn give(&self, _object: Object) -> Result<Ref, NotGiven> {
        Err(NotGiven::Unknown)
    }

    fn take_back(&self, _reference: Ref) {}

    fn arrive(&self, _stack: Stack<'_>, _reference: Ref) -> bool {
        false
    }
}
