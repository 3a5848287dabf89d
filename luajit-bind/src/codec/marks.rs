//! The codec of one VM: its marker tables, and its limits.

use super::foreign_ext;
use crate::shim;
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
    /// The maximum memory of one message's values, in bytes, as
    /// [`Reader::decoded_bytes`](super::Reader::decoded_bytes) counts it.
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

/// The codec of one VM, with that VM's marker tables.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// The metatable that marks a table as a map.
    pub(crate) map_mark: *const c_void,
    /// The metatable that marks a table as an array.
    pub(crate) array_mark: *const c_void,
    /// The metatable of foreign ext values, and its registry reference.
    pub(super) foreign_mark: *const c_void,
    pub(super) foreign_ref: c_int,
    pub(super) limits: Limits,
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
        shim::yue_shim_push_object(state, mark, shim::kind::TABLE);
        ffi::lua_setmetatable(state, index);
    }
}
