//! The Lua stack as the C functions of this crate see it: a thin, `Copy` handle on a `lua_State`.
//!
//! Most methods may raise a Lua error (a wrong argument, no memory). A Lua error unwinds the native stack up to the
//! nearest protected call as a foreign exception: it must not meet a `catch_unwind`, and no value with a destructor
//! should be alive. So a [`Stack`] is passed only to the stages of a [`Function`](crate::Function) that may raise, and
//! to protected calls.

use crate::shim;
use mlua_sys as ffi;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::slice;

/// The values of one running C function: arguments at 1, 2, …, results pushed on top.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    state: *mut ffi::lua_State,
    frame: PhantomData<&'a ()>,
}

impl<'a> Stack<'a> {
    /// A handle on the frame that is now running on `state`.
    ///
    /// # Safety
    /// `state` is valid, belongs to this thread, and is running the frame for all of `'a`; a protected call of this
    /// VM is below it, with no `catch_unwind` between.
    pub unsafe fn new(state: *mut ffi::lua_State) -> Stack<'a> {
        Stack {
            state,
            frame: PhantomData,
        }
    }

    /// The raw state, for calls that this type does not offer.
    pub fn raw(self) -> *mut ffi::lua_State {
        self.state
    }

    /// The number of values.
    pub fn top(self) -> c_int {
        // SAFETY: `new` promises a valid state; the same holds for every call below.
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// The value's type, as `LUA_TNIL` and so on; `LUA_TNONE` beyond the top.
    pub fn kind(self, index: c_int) -> c_int {
        // SAFETY: see `top`.
        unsafe { ffi::lua_type(self.state, index) }
    }

    /// Whether the value is missing or nil.
    pub fn is_none_or_nil(self, index: c_int) -> bool {
        self.kind(index) <= ffi::LUA_TNIL
    }

    /// The truth of a value.
    pub fn boolean(self, index: c_int) -> bool {
        // SAFETY: see `top`.
        unsafe { ffi::lua_toboolean(self.state, index) != 0 }
    }

    /// A number argument. Raises for any other type.
    pub fn number(self, index: c_int) -> f64 {
        // SAFETY: see `top`.
        unsafe { ffi::luaL_checknumber(self.state, index) }
    }

    /// A string argument (numbers convert). Raises for any other type. The bytes stay valid while the value is on the
    /// stack, which for an argument is the whole call.
    pub fn bytes(self, index: c_int) -> &'a [u8] {
        let mut length = 0;
        // SAFETY: see `top`; Lua strings never move, and the argument keeps it alive.
        unsafe {
            let start = ffi::luaL_checklstring(self.state, index, &mut length);
            slice::from_raw_parts(start.cast(), length)
        }
    }

    /// Whether the value is a loaded module: a value of `package.loaded`, such as `os`, or `_G`. It compares all of
    /// them. Raises when out of memory.
    pub fn is_loaded_module(self, index: c_int) -> bool {
        // SAFETY: see `top`. The registry's table of modules is a plain one; it is on the stack while it is read.
        unsafe {
            let object = ffi::lua_topointer(self.state, index);
            ffi::lua_getfield(self.state, ffi::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
            let found = ffi::lua_type(self.state, -1) == ffi::LUA_TTABLE
                && shim::yue_shim_has_value(ffi::lua_topointer(self.state, -1).cast(), object) != 0;
            ffi::lua_settop(self.state, -2);
            found
        }
    }

    /// Makes room for `count` more values. Raises if the stack cannot grow so far.
    pub fn reserve(self, count: c_int) {
        // SAFETY: see `top`.
        unsafe { ffi::luaL_checkstack(self.state, count, c"too many values".as_ptr()) }
    }

    /// Pushes nil. (A C function has room for 20 values; `reserve` more.)
    pub fn push_nil(self) {
        // SAFETY: see `top`.
        unsafe { ffi::lua_pushnil(self.state) }
    }

    /// Pushes a boolean.
    pub fn push_boolean(self, value: bool) {
        // SAFETY: see `top`.
        unsafe { ffi::lua_pushboolean(self.state, value.into()) }
    }

    /// Pushes a number.
    pub fn push_number(self, value: f64) {
        // SAFETY: see `top`.
        unsafe { ffi::lua_pushnumber(self.state, value) }
    }

    /// Pushes a string. Raises when out of memory.
    pub fn push_bytes(self, value: &[u8]) {
        // SAFETY: see `top`.
        unsafe {
            ffi::lua_pushlstring(self.state, value.as_ptr().cast(), value.len());
        }
    }

    /// Pushes a copy of the value at `index`.
    pub fn push_copy(self, index: c_int) {
        // SAFETY: see `top`.
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }
}
