//! Interrupting Lua code that never waits, from another thread; see `../shim/interrupt.c`.

use crate::function::{Error, raise};
use crate::shim;
use mlua_sys::lua_State;
use std::sync::OnceLock;
use yue_scheduler::inspect;

/// How long an interruption lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The error is raised once. What catches it goes on: clean-up can run.
    Once,
    /// The error is raised before each further bytecode, until the fiber has left its outermost call: also what catches
    /// it and goes on is ended.
    UntilUnwound,
}

static ERROR: OnceLock<fn() -> Error> = OnceLock::new();

/// Sets what an interruption raises; the first call decides.
pub fn set_interrupt_error(error: fn() -> Error) {
    let _ = ERROR.set(error);
}

/// Raises an error in the Lua fiber that `thread` (the kernel's number of a thread of this process) runs at this
/// moment; if it runs none, nothing happens. The error comes at the fiber's next bytecode, so that C functions go on,
/// and so do finalizers. Should another Lua fiber of the VM run before, nobody is interrupted.
///
/// It is for the end of a program: a fiber that is interrupted between any two bytecodes may leave its data half
/// changed. It replaces a debug hook that the program has set in that VM.
///
/// # Errors
/// Why the thread could not be told: it is gone, or blocks SIGURG, or the program handles SIGURG itself.
pub fn interrupt(thread: libc::pid_t, how: Interrupt) -> Result<(), &'static str> {
    inspect::interrupt_thread(thread, usize::from(how == Interrupt::Once))
}

pub(crate) fn install() {
    // SAFETY: the shim's function is made for signal handlers; the other one is called by the shim's hook.
    unsafe {
        inspect::set_interruption(shim::yue_shim_interrupt);
        shim::yue_shim_set_interruption(interrupted);
    }
}

/// Raises. In a hook: with room for some values, and no destructor pending.
unsafe extern "C-unwind" fn interrupted(state: *mut lua_State) {
    let error = match ERROR.get() {
        Some(error) => error(),
        None => Error::text("interrupted"),
    };
    // SAFETY: Lua calls the hook on `state`; the error is given away.
    unsafe { raise(state, error) }
}
