//! Traces and call chains in Lua: `yue.trace`.

use crate::lua::fibers::fiber_id;
use crate::lua::fibers::waits::{call_around, in_fiber_inside};
use crate::lua::native::{native, register, register_raw};
use std::ffi::c_int;
use std::fmt::Write;
use yue_luajit::{Stack, ffi};
use yue_rpc::trace::{self, TraceParent};
use yue_scheduler::this_loop;

native! {
    /// `trace()`: the trace of the running fiber, as text.
    Trace = "trace", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<String> { Ok(trace::current().map(|trace| trace.to_string())) }
}

native! {
    /// `call_chain()`: the call chain of the running handler, as text.
    Chain = "call_chain", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<String> { Ok(trace::call_chain().map(|chain| chain.to_string())) }
}

native! {
    /// `call_chain_of(fiber)`: the call chain of the handler that a waiting fiber runs.
    ChainOf = "call_chain_of", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> {
        let context = this_loop::context_of(fiber_id(number));
        let chain = context.and_then(|context| trace::call_chain_of(&*context));
        Ok(chain.map(|chain| chain.to_string()))
    }
}

/// `with_trace(traceparent, fn, ...)`: runs the function in a trace; in a new one if the text is not a `traceparent`.
unsafe extern "C-unwind" fn with_trace_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; only `Copy` values are alive.
    unsafe {
        let mut length = 0;
        let start = ffi::lua_tolstring(state, 1, &mut length);
        let text = match start.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(start.cast(), length),
        };
        let begun = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        let trace = begun.unwrap_or_else(TraceParent::begin);
        call_around(state, 2, |call| {
            in_fiber_inside(|call| trace::with(trace, call), call)
        })
    }
}

/// The ids that the log adds to the failure of a handler: its call chain and its trace, where it has them.
pub(crate) fn suffix() -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    if let Some(chain) = trace::call_chain() {
        let _ = write!(text, ", call chain {chain}");
    }
    if let Some(trace) = trace::current() {
        let _ = write!(text, ", trace {trace}");
    }
    text
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Trace, Chain, ChainOf);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "with_trace", with_trace_raw) };
}
