//! Msgpack: the natives under `yue.msgpack`, on the codec of the wire, without references to functions.

use super::{Data, Encoded, buffer};
use crate::lua::host::errors::error;
use crate::lua::native::{native, register, register_raw};
use std::ffi::c_int;
use yue_luajit::codec::{DECODED_BYTES_MAX, EncodeError, EncodeFault, Limits, Reader};
use yue_luajit::{NoReferences, Stack, Vm, check_native_stack, ffi, raise};
use yue_rpc::ErrorKind;

/// The maximum number of values side by side: they are the results of one call, and a C function has 8 000 slots.
const VALUES_MAX: c_int = 4000;

/// Memory that the values may take, by the size of the bytes. See [`DECODED_BYTES_MAX`], the minimum.
const MEMORY_FACTOR: usize = 8;

native! {
    /// `msgpack_encode(...)`: the values, one after the other.
    MsgpackEncode = "msgpack_encode", suspends: false;
    read(stack) -> (*mut ffi::lua_State, c_int) { (stack.raw(), stack.top()) }
    run((state, count)) -> Encoded {
        // SAFETY: Lua runs this function on the state.
        let codec = unsafe { Vm::of(state) }.map(|vm| vm.codec())
            .ok_or_else(|| error(ErrorKind::Runtime, "the program has ended on this thread"))?;
        let mut out = buffer();
        out.clear();
        // SAFETY: the values are the arguments; encoding raises nothing.
        match unsafe { codec.encode_values(state, 1, count, "args", &Data, &mut out) } {
            Ok(()) => Ok(Encoded(out)),
            Err(failure) => Err(error(ErrorKind::Argument, text_of(&failure))),
        }
    }
}

fn text_of(failure: &EncodeError) -> String {
    let path = &failure.path;
    match failure.fault {
        EncodeFault::FunctionRefused => {
            format!("cannot encode {path}: a function has no form in msgpack")
        }
        EncodeFault::Unsupported(kind) => {
            format!("cannot encode {path}: a {kind} has no form in msgpack")
        }
        fault => format!("cannot encode {path}: {fault}"),
    }
}

/// `msgpack_decode(bytes)`: all values in the bytes.
unsafe extern "C-unwind" fn decode_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this. The handle of the VM is dropped before Lua may raise, and nothing else has a destructor
    // until the error is built, which `raise` takes care of.
    unsafe {
        check_native_stack(state);
        let stack = Stack::new(state);
        let bytes = stack.bytes(1);
        let limits = Limits {
            decoded_bytes_max: DECODED_BYTES_MAX.max(bytes.len().saturating_mul(MEMORY_FACTOR)),
            ..Limits::default()
        };
        let Some(codec) = Vm::of(state).map(|vm| vm.codec().with_limits(limits)) else {
            return 0;
        };
        let mut reader = Reader::new(bytes);
        let mut count = 0;
        while !reader.rest().is_empty() {
            if count == VALUES_MAX {
                let text = format!("cannot decode: more than {VALUES_MAX} values side by side");
                raise(state, error(ErrorKind::Argument, text));
            }
            // Two more for the decoder.
            stack.reserve(3);
            if let Err(fault) = codec.decode_values(stack, &mut reader, 1, &NoReferences) {
                let text = format!("cannot decode the msgpack bytes: {fault}");
                raise(state, error(ErrorKind::Argument, text));
            }
            count += 1;
        }
        count
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; MsgpackEncode);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "msgpack_decode", decode_raw) };
}
