//! The peer's functions as callable userdata. The finalizer only records that the userdata was collected; the loop
//! processes the record in its next idle phase.

use crate::lua::host;
use crate::lua::host::errors::{call_error, error};
use crate::lua::native::register_raw;
use crate::lua::rpc::calls::finish_call;
use crate::lua::rpc::connections::{connection, with_connections};
use crate::lua::rpc::imports::{FINALIZED, RemoteFunction};
use crate::lua::rpc::messages::encode_arguments;
use crate::lua::rpc::references::{GONE, is_metatable, set_metatable};
use std::ffi::c_int;
use yue_luajit::{Stack, ffi, may_suspend, suspending};
use yue_rpc::session::Target;
use yue_rpc::{ErrorKind, Timeout};

/// The function behind the userdata at index 1, as a metamethod receives it.
///
/// # Safety
/// Lua runs the calling metamethod on `state`.
unsafe fn argument(state: *mut ffi::lua_State) -> Option<RemoteFunction> {
    // SAFETY: the caller's promise; a userdata with this metatable holds a RemoteFunction.
    unsafe {
        let payload = ffi::lua_touserdata(state, 1);
        if payload.is_null() || ffi::lua_getmetatable(state, 1) == 0 {
            return None;
        }
        let is_function = is_metatable(state, -1);
        ffi::lua_settop(state, -2);
        is_function.then(|| *payload.cast::<RemoteFunction>())
    }
}

/// `f(...)`: calls a function of the peer.
unsafe extern "C-unwind" fn call_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; `finish_call` takes over what has a destructor.
    unsafe {
        let function = argument(state);
        let outcome = suspending(state, "a remote function", || {
            may_suspend()?;
            let function = function
                .ok_or_else(|| error(ErrorKind::Argument, "this is not a function of a peer"))?;
            let connection = connection(f64::from(function.connection))?;
            let reference = connection.imports.borrow().get(function.slot);
            let reference = reference.ok_or_else(|| error(ErrorKind::NoMethod, GONE))?;
            let timeout = Timeout::After(connection.timeout());
            let response = connection
                .session
                .call(Target::Reference(&reference), timeout, |out| {
                    // SAFETY: Lua runs this very function on the state.
                    encode_arguments(&connection, state, 2, "args", out)
                });
            response
                .map(|response| (response, connection.clone()))
                .map_err(|failure| call_error(&failure, connection.codec().limits()))
        });
        finish_call(state, outcome)
    }
}

unsafe extern "C-unwind" fn collect_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this finalizer; it only records a number.
    unsafe {
        if let Some(function) = argument(state)
            && host::current().is_some()
        {
            with_connections(|all| all.note_dead(function));
            // Its slot will be reused, so it must not be found there if somebody still holds this userdata.
            let payload: *mut RemoteFunction = ffi::lua_touserdata(state, 1).cast();
            (*payload).slot = FINALIZED;
        }
    }
    0
}

unsafe extern "C-unwind" fn describe_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::lua_pushstring(state, c"remote function".as_ptr());
        1
    }
}

/// Creates the metatable of callable userdata. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: `Stack` promises a valid state where errors may be raised.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        register_raw(stack, "__call", call_remote);
        register_raw(stack, "__gc", collect_remote);
        register_raw(stack, "__tostring", describe_remote);
        stack.push_bytes(b"__metatable");
        stack.push_bytes(b"remote function");
        ffi::lua_rawset(state, -3);
    }
    set_metatable(stack);
}
