//! Codec between Lua values and msgpack bytes, directly between the Lua stack and a buffer, without a tree in between.
//!
//! The mapping:
//!
//! ```text
//!   Lua                                            msgpack
//!   nil, true, false                               nil, true, false
//!   a light userdata that is NULL                  nil
//!   integral number within ±2^53 (but not -0)      the smallest int
//!   any other number                               float 64
//!   int64_t, uint64_t cdata                        the smallest int; beyond ±2^53 it arrives as such a cdata again
//!   string                                         str if it is valid UTF-8, else bin; both arrive as a string
//!   table with the keys 1..n, and the empty table  array
//!   a table marked with `array{}`                  array, with nil for each hole
//!   any other table, and one marked with `map{}`   map
//!   function, remote callable                      ext 0x59, through a RefTable
//!   a decoded foreign ext                          that ext
//! ```
//!
//! Encoding reads tables raw: no metamethod runs, nothing is allocated in Lua, nothing can raise. Decoding allocates,
//! so it may raise (out of memory) and belongs inside a protected call; it checks every length against the available
//! bytes and never panics, whatever they are.

mod decode;
mod encode;
mod error;
mod foreign_ext;
mod references;

pub use decode::Reader;
pub use error::{DecodeError, EncodeError, EncodeFault};
pub use references::{NoRefs, NotGiven, Object, ObjectKind, Owner, Ref, RefTable};

use crate::stack::Stack;
use mlua_sys as ffi;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// The default nesting limit of arrays and maps, in both directions.
pub const NESTING_MAX: u32 = 128;

/// The largest message that [`DECODED_BYTES_MAX`] is made for.
const MESSAGE_BYTES: usize = 4 << 20;

/// The default memory limit of one message's values: eight times the largest message. An empty array is one byte on the
/// wire and 64 bytes in Lua, so a message's own size says little.
pub const DECODED_BYTES_MAX: usize = 8 * MESSAGE_BYTES;

/// The limits of a codec. The nesting limit holds in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum nesting of arrays and maps in one value.
    pub nesting_max: u32,
    /// The maximum memory of one message's values, in bytes, by [`Reader::decoded_bytes`].
    pub decoded_bytes_max: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Limits = Limits {
        nesting_max: NESTING_MAX,
        decoded_bytes_max: DECODED_BYTES_MAX,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// The ext code of all of yue's types.
pub const EXT_CODE: i8 = 0x59;

/// The codec of one VM, with that VM's marker tables.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// The metatable that marks a table as a map.
    map_mark: *const c_void,
    /// The metatable that marks a table as an array.
    array_mark: *const c_void,
    /// The metatable of foreign ext values, and its registry reference.
    foreign_mark: *const c_void,
    foreign_ref: c_int,
    limits: Limits,
}

impl Codec {
    /// Creates the VM's marker tables and anchors them. Raises.
    pub(crate) fn install(stack: Stack<'_>) -> Codec {
        let state = stack.raw();
        // SAFETY: a valid stack, and errors may be raised here.
        unsafe {
            let mark = |name: &CStr| {
                ffi::lua_createtable(state, 0, 1);
                ffi::lua_pushstring(state, name.as_ptr());
                ffi::lua_setfield(state, -2, c"__name".as_ptr());
                let mark = ffi::lua_topointer(state, -1);
                ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
                mark
            };
            let (map_mark, array_mark) = (mark(c"map"), mark(c"array"));
            foreign_ext::push_metatable(stack);
            let foreign_mark = ffi::lua_topointer(state, -1);
            let foreign_ref = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
            Codec {
                map_mark,
                array_mark,
                foreign_mark,
                foreign_ref,
                limits: Limits::DEFAULT,
            }
        }
    }

    /// The same codec with other limits. A fiber's native stack holds some thousand levels of nesting; more are refused
    /// whatever the limit.
    pub fn with_limits(self, limits: Limits) -> Codec {
        Codec { limits, ..self }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Marks the table at `index` so that it is encoded as a map even when it is empty or a sequence; this is what
    /// `yue.map` does. Raises if there is no memory.
    pub fn mark_map(&self, stack: Stack<'_>, index: c_int) {
        mark(self.map_mark, stack, index);
    }

    /// Marks the table at `index` so that it is encoded as an array even when it has holes, which become nil; this is
    /// what `yue.array` does. Raises if there is no memory.
    pub fn mark_array(&self, stack: Stack<'_>, index: c_int) {
        mark(self.array_mark, stack, index);
    }

    pub(crate) const UNSET: Codec = Codec {
        map_mark: ptr::null(),
        array_mark: ptr::null(),
        foreign_mark: ptr::null(),
        foreign_ref: 0,
        limits: Limits::DEFAULT,
    };
}

/// Sets one of a codec's marks on the table at `index`. May raise.
fn mark(mark: *const c_void, stack: Stack<'_>, index: c_int) {
    let state = stack.raw();
    // SAFETY: `Stack` promises a valid state; the mark is anchored in the registry and so alive.
    unsafe {
        let index = if index < 0 {
            ffi::lua_gettop(state) + index + 1
        } else {
            index
        };
        crate::shim::yue_shim_push_object(state, mark, crate::shim::kind::TABLE);
        ffi::lua_setmetatable(state, index);
    }
}
