//! Values in messages: from the Lua stack into the connection's output, and from a message onto the stack.

use crate::lua::host::with_host;
use crate::lua::native::register_raw;
use crate::lua::rpc::connections::Connection;
use crate::lua::rpc::references::Refs;
use std::ffi::c_int;
use std::rc::Rc;
use yue_luajit::codec::{DecodeError, EncodeFault, Reader};
use yue_luajit::{Codec, Exports, NoReferences, Stack, Vm, ffi, raise};
use yue_rpc::ErrorKind;
use yue_rpc::session::Response;

/// Appends the arguments from `first` to the top; makes room for functions among them if necessary.
///
/// # Safety
/// Lua runs the calling C function on `state`.
#[inline]
pub(crate) unsafe fn encode_arguments(
    connection: &Rc<Connection>,
    state: *mut ffi::lua_State,
    first: c_int,
    label: &str,
    out: &mut Vec<u8>,
) -> Result<u32, yue_rpc::Error> {
    // SAFETY: the caller's promise, for both calls.
    unsafe {
        let count = (ffi::lua_gettop(state) - first + 1).max(0);
        encode(connection, state, first, count, label, out)?;
        Ok(count as u32)
    }
}

/// Appends `count` values from `first` on.
///
/// # Safety
/// `state` is a state of the connection's VM with those values on it.
#[inline]
pub(crate) unsafe fn encode(
    connection: &Rc<Connection>,
    state: *mut ffi::lua_State,
    first: c_int,
    count: c_int,
    label: &str,
    out: &mut Vec<u8>,
) -> Result<(), yue_rpc::Error> {
    let codec = connection.codec();
    let refs = Refs::new(connection, connection.session.link());
    loop {
        // SAFETY: the caller's promise.
        let outcome = unsafe { codec.encode_values(state, first, count, label, &refs, out) };
        let Err(failure) = outcome else {
            return Ok(());
        };
        let kind = match failure.fault {
            // The room doubles each time, so this ends.
            EncodeFault::NoRoom if Exports::grow(&connection.exports) => continue,
            EncodeFault::NoRoom | EncodeFault::TooManyFunctions(_) => ErrorKind::MessageRefused,
            _ => ErrorKind::Argument,
        };
        return Err(yue_rpc::Error::new(kind, failure.to_string()));
    }
}

/// Pushes the values of an answer. May raise when out of memory.
#[inline]
pub(crate) fn decode_answer(
    stack: Stack<'_>,
    response: &Response,
    connection: &Rc<Connection>,
) -> Result<c_int, DecodeError> {
    let codec = connection.codec();
    let mut reader = Reader::new(response.bytes());
    stack.reserve(8);
    let refs = Refs::new(connection, response.link());
    codec.decode_values(stack, &mut reader, response.count(), &refs)
}

/// Like `decode_answer`, for an answer that came over a connection of another loop and contains no functions.
pub(crate) fn decode_foreign_answer(
    stack: Stack<'_>,
    response: &Response,
) -> Result<c_int, DecodeError> {
    // SAFETY: `Stack` promises a valid state. The handle of the VM is dropped before Lua may raise.
    let codec = unsafe { Vm::of(stack.raw()) }.map(|vm| vm.codec());
    let Some(codec) = codec else { return Ok(0) };
    stack.reserve(8);
    let mut reader = Reader::new(response.bytes());
    codec.decode_values(stack, &mut reader, response.count(), &NoReferences)
}

/// Marks the table at 1 by `mark`, and returns it.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn mark_raw(state: *mut ffi::lua_State, mark: fn(&Codec, Stack<'_>, c_int)) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        let codec = with_host(|host| host.vm.codec());
        match codec {
            Ok(codec) => mark(&codec, Stack::new(state), 1),
            Err(failure) => raise(state, failure),
        }
        ffi::lua_settop(state, 1);
        1
    }
}

/// `map(t)`: marks the table, and returns it.
unsafe extern "C-unwind" fn map_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { mark_raw(state, Codec::mark_map) }
}

/// `array(t)`: marks the table, and returns it.
unsafe extern "C-unwind" fn array_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { mark_raw(state, Codec::mark_array) }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "map", map_raw);
        register_raw(stack, "array", array_raw);
    }
}
