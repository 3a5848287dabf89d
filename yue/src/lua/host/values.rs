//! Lua values that are made from bytes: msgpack from other threads and peers, bytecode.

use crate::lua::host::entries::Entry;
use std::ffi::c_int;
use yue_luajit::codec::{Limits, Reader};
use yue_luajit::{NoReferences, Stack, Vm, ffi};

/// LuaJIT's maximum number of upvalues per function.
const UPVALUES_MAX: c_int = 60;

/// Decodes one msgpack value and pushes it; pushes nothing and returns false if there is none, or it is invalid. May
/// raise.
pub(crate) fn push_decoded(stack: Stack<'_>, bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| push_decoded_within(stack, bytes, Limits::default()))
}

/// Like `push_decoded`, within the limits of a connection.
pub(crate) fn push_decoded_within(stack: Stack<'_>, bytes: &[u8], limits: Limits) -> bool {
    // SAFETY: `Stack` promises a valid state. The handle of the VM is dropped before Lua may raise.
    let codec = unsafe { Vm::of(stack.raw()) }.map(|vm| vm.codec().with_limits(limits));
    let Some(codec) = codec else {
        return false;
    };
    let top = stack.top();
    match codec.decode_values(stack, &mut Reader::new(bytes), 1, &NoReferences) {
        Ok(_) => true,
        Err(_) => {
            // SAFETY: drops the partly decoded values.
            unsafe { ffi::lua_settop(stack.raw(), top) };
            false
        }
    }
}

/// Loads the output of `string.dump` for a function whose upvalues were all `yue`, and sets them to this VM's `yue`.
/// Leaves the function, or an error message, on the stack, and returns LuaJIT's status.
///
/// # Safety
/// `state` is a state of the calling thread's VM with room for two values; the bytecode was made in this process.
pub(crate) unsafe fn load_function(state: *mut ffi::lua_State, bytecode: &[u8]) -> c_int {
    // SAFETY: the caller's promise; loading is protected by itself, and the rest raises nothing.
    unsafe {
        let (start, length) = (bytecode.as_ptr().cast(), bytecode.len());
        let status =
            ffi::luaL_loadbufferx(state, start, length, c"=thread".as_ptr(), c"b".as_ptr());
        if status != ffi::LUA_OK {
            return status;
        }
        let function = ffi::lua_gettop(state);
        for index in 1..=UPVALUES_MAX {
            Entry::Yue.push(state);
            if ffi::lua_setupvalue(state, function, index).is_null() {
                ffi::lua_settop(state, function);
                break;
            }
        }
        status
    }
}

/// The string at the index, if it is one.
///
/// # Safety
/// A valid state and index.
pub(crate) unsafe fn text_at(state: *mut ffi::lua_State, index: c_int) -> Option<String> {
    // SAFETY: the caller's promise; the bytes are copied at once.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, index, &mut length);
        Some(String::from_utf8_lossy(std::slice::from_raw_parts(start.cast(), length)).into_owned())
    }
}
