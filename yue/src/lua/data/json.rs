//! JSON: the natives under `yue.json`.

use super::{Encoded, buffer, refusal};
use crate::lua::host::errors::error;
use crate::lua::native::{native, register, register_raw};
use std::ffi::c_int;
use yue_luajit::json::JsonStyle;
use yue_luajit::{Stack, Vm, check_native_stack, ffi, raise};
use yue_rpc::ErrorKind;

native! {
    /// `json_encode(value, indent, sort)`: `indent` is a string, empty for text on one line.
    JsonEncode = "json_encode", suspends: false;
    read(stack) -> (*mut ffi::lua_State, JsonStyle<'a>) {
        let style = JsonStyle { indent: stack.bytes(2), sort: stack.boolean(3), refuse: Some(refusal) };
        (stack.raw(), style)
    }
    run((state, style)) -> Encoded {
        // SAFETY: Lua runs this function on the state.
        let codec = unsafe { Vm::of(state) }.map(|vm| vm.codec())
            .ok_or_else(|| error(ErrorKind::Runtime, "the program has ended on this thread"))?;
        let mut out = buffer();
        out.clear();
        // SAFETY: the value is the first argument; encoding raises nothing.
        match unsafe { codec.encode_json(state, 1, style, &mut out) } {
            Ok(()) => Ok(Encoded(out)),
            Err(failure) => Err(error(ErrorKind::Argument, failure.to_string())),
        }
    }
}

/// `json_decode(text)`.
unsafe extern "C-unwind" fn decode_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this. The handle of the VM is dropped before Lua may raise, and nothing else has a destructor
    // until the error is built, which `raise` takes care of.
    unsafe {
        check_native_stack(state);
        let stack = Stack::new(state);
        let text = stack.bytes(1);
        let Some(codec) = Vm::of(state).map(|vm| vm.codec()) else {
            return 0;
        };
        match codec.decode_json(stack, text) {
            Ok(()) => 1,
            Err(fault) => raise(
                state,
                error(ErrorKind::Argument, message(&fault.describe(text))),
            ),
        }
    }
}

fn message(fault: &str) -> String {
    format!("cannot decode the JSON text: {fault}")
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; JsonEncode);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "json_decode", decode_raw) };
}
