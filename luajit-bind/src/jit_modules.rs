//! The Lua modules of LuaJIT (`jit.v`, `jit.dump`, `jit.p`, …). An installed LuaJIT has them in files; here their
//! sources are part of the program, compiled when they are first required.

use crate::stack::Stack;
use mlua_sys as ffi;
use std::ffi::{CString, c_int};

/// Name and source.
const MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/jit_modules.rs"));

/// Adds the loaders to `package.preload` of a fresh VM. Raises.
pub(crate) fn install(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: a valid stack where errors may be raised; nothing here has a destructor.
    unsafe {
        ffi::lua_getfield(state, ffi::LUA_GLOBALSINDEX, c"package".as_ptr());
        ffi::lua_getfield(state, -1, c"preload".as_ptr());
        for (name, _) in MODULES {
            stack.push_bytes(name.as_bytes());
            ffi::lua_pushcclosure(state, load, 0);
            ffi::lua_rawset(state, -3);
        }
        ffi::lua_settop(state, -3);
    }
}

/// `load(name)`: runs the module and returns its result. The name is the loader's only argument, as for a file.
unsafe extern "C-unwind" fn load(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this with a name that `require` has checked to be a string; no destructor is pending where an
    // error may be raised.
    unsafe {
        let stack = Stack::new(state);
        let name = stack.bytes(1);
        let found = MODULES.iter().find(|(known, _)| known.as_bytes() == name);
        let Some((name, source)) = found else {
            return 0;
        };
        let status = {
            let chunk = CString::new(format!("={name}")).unwrap_or_default();
            let start = source.as_ptr().cast();
            ffi::luaL_loadbufferx(state, start, source.len(), chunk.as_ptr(), c"t".as_ptr())
        };
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, 1, 1);
        1
    }
}
