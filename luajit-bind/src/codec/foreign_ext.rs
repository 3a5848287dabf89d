//! Foreign ext values: opaque userdata that are encoded as they were received.
//!
//! The payload is the type byte, then the bytes. `tostring` describes it; `.type` and `.data` return its parts.

use crate::stack::Stack;
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};
use std::{ptr, slice};

/// Pushes the metatable of foreign ext values. Raises.
pub(super) fn push_metatable(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: `Stack` promises a valid state where errors may be raised.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_pushcclosure(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_pushcclosure(state, describe, 0);
        ffi::lua_setfield(state, -2, c"__tostring".as_ptr());
        ffi::lua_pushcclosure(state, equals, 0);
        ffi::lua_setfield(state, -2, c"__eq".as_ptr());
        // Programs cannot reach the metatable, so these functions receive only values of this type.
        ffi::lua_pushlstring(state, c"ext".as_ptr(), 3);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
    }
}

/// Pushes a foreign ext value. `metatable` is the registry's reference to its metatable. Raises when out of memory.
pub(super) fn push(metatable: c_int, stack: Stack<'_>, code: i8, body: &[u8]) {
    let state = stack.raw();
    // SAFETY: the userdata has room for the code and the body.
    unsafe {
        let payload: *mut u8 = ffi::lua_newuserdata(state, body.len() + 1).cast();
        payload.write(code as u8);
        ptr::copy_nonoverlapping(body.as_ptr(), payload.add(1), body.len());
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, metatable.into());
        ffi::lua_setmetatable(state, -2);
    }
}

/// The code and body of a foreign ext value.
///
/// # Safety
/// `payload` is the payload, of `length` bytes, of a userdata with the metatable above.
pub(super) unsafe fn parts<'a>(payload: *const c_void, length: usize) -> (i8, &'a [u8]) {
    // SAFETY: `push` wrote at least the code.
    unsafe {
        let payload: *const u8 = payload.cast();
        (
            payload.read() as i8,
            slice::from_raw_parts(payload.add(1), length - 1),
        )
    }
}

/// The parts of the argument at `index`. Raises if it is not a userdata.
///
/// # Safety
/// Called from a metamethod of the metatable above.
unsafe fn argument<'a>(state: *mut ffi::lua_State, index: c_int) -> Option<(i8, &'a [u8])> {
    // SAFETY: a userdata whose metatable has our `index` function is ours.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TUSERDATA
            || ffi::lua_getmetatable(state, index) == 0
        {
            return None;
        }
        ffi::lua_pushlstring(state, c"__index".as_ptr(), 7);
        ffi::lua_rawget(state, -2);
        let ours =
            ffi::lua_tocfunction(state, -1).is_some_and(|f| ptr::fn_addr_eq(f, index_function()));
        ffi::lua_settop(state, -3);
        ours.then(|| {
            parts(
                ffi::lua_touserdata(state, index),
                ffi::lua_objlen(state, index),
            )
        })
    }
}

fn index_function() -> ffi::lua_CFunction {
    index
}

unsafe extern "C-unwind" fn index(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a metamethod of this metatable; nothing here has a destructor.
    unsafe {
        let Some((code, body)) = argument(state, 1) else {
            return 0;
        };
        let stack = Stack::new(state);
        match stack.bytes(2) {
            b"type" => stack.push_number(code.into()),
            b"data" => stack.push_bytes(body),
            _ => stack.push_nil(),
        }
        1
    }
}

unsafe extern "C-unwind" fn describe(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        let Some((code, body)) = argument(state, 1) else {
            return 0;
        };
        ffi::lua_pushfstring(
            state,
            c"ext(%d, %d bytes)".as_ptr(),
            c_int::from(code),
            body.len() as c_int,
        );
        1
    }
}

unsafe extern "C-unwind" fn equals(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        let same = match (argument(state, 1), argument(state, 2)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        };
        ffi::lua_pushboolean(state, same.into());
        1
    }
}
