//! Interrupting Lua code that never waits, from another thread; see `../shim/interrupt.c`.

use crate::function::{Error, raise};
use crate::shim;
use mlua_sys::lua_State;
use std::time::Duration;
use yue_scheduler::{Stopped, inspect};

/// How long an interruption lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The error is raised once. What catches it goes on: clean-up can run.
    Once,
    /// The error is raised before each further bytecode, until the fiber has left its outermost call: also what catches
    /// it and goes on is ended.
    UntilUnwound,
}

/// Raises an error in the Lua fibers that `threads` (the kernel's numbers of threads of this process) run at this
/// moment; where one runs none, nothing happens. The error comes at the fiber's next bytecode, so that C functions go
/// on, and so do finalizers. Should another Lua fiber of the VM run before, nobody is interrupted there.
///
/// All are told at once, and given `patience` to take note; returns how many threads have. The others are gone, block
/// SIGURG, or got no processor in that time.
///
/// It is for the end of a program: a fiber that is interrupted between any two bytecodes may leave its data half
/// changed. It replaces a debug hook that the program has set in that VM.
///
/// # Errors
/// Why no thread could be told: the program handles SIGURG itself.
pub fn interrupt(
    threads: &[libc::pid_t],
    how: Interrupt,
    patience: Duration,
) -> Result<usize, &'static str> {
    inspect::interrupt_threads(threads, usize::from(how == Interrupt::Once), patience)
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
    // SAFETY: Lua calls the hook on `state`; the error is given away.
    unsafe { raise(state, Error::Stopped(Stopped::Cancelled)) }
}
