//! Interrupts Lua code that never waits, from another thread, and counts its steps; see `../shim/interrupt.c`.

use crate::function::{Error, raise};
use crate::shim;
use crate::vm::Vm;
use mlua_sys::lua_State;
use std::ffi::c_int;
use std::time::Duration;
use yue_scheduler::{Stopped, inspect};

/// The duration of an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The error is raised once. Code that catches it continues: clean-up can run.
    Once,
    /// The error is raised before each further bytecode, until the fiber has left its outermost call: code that catches
    /// it and continues is ended, too.
    UntilUnwound,
}

/// Raises an error in the Lua fibers that `threads` (kernel thread ids of this process) run at this moment; a thread
/// that runs none is not affected. The error comes at the fiber's next bytecode, so C functions and finalizers
/// continue. If another Lua fiber of the VM runs before that, none is interrupted there.
///
/// All threads are signalled at once, and have `patience` to react; returns the number that did. The others have ended,
/// block SIGURG, or got no processor in that time.
///
/// It is for the end of a program: a fiber that is interrupted between any two bytecodes may leave its data half
/// changed. It replaces a debug hook that the program has set in that VM.
///
/// # Errors
/// The reason why no thread could be signalled: the program handles SIGURG itself.
pub fn interrupt(
    threads: &[libc::pid_t],
    how: Interrupt,
    patience: Duration,
) -> Result<usize, &'static str> {
    interrupt_marked(threads, 0, how, patience)
}

/// Like [`interrupt`], but only fibers with this mark are interrupted: see [`mark_fiber`]. 0 means any fiber.
///
/// # Errors
/// Like [`interrupt`].
pub fn interrupt_marked(
    threads: &[libc::pid_t],
    mark: usize,
    how: Interrupt,
    patience: Duration,
) -> Result<usize, &'static str> {
    let argument = mark << 1 | usize::from(how == Interrupt::Once);
    inspect::interrupt_threads(threads, argument, patience)
}

/// Interrupts the calling Lua fiber, if it is one, as soon as it runs Lua again: see [`Interrupt::UntilUnwound`].
pub fn interrupt_self() {
    // SAFETY: made for signal handlers of this thread, and so for any place on it.
    unsafe { shim::yue_shim_interrupt(0) };
}

/// Calls `report` in the calling thread, which owns the VM, after each `every` bytecodes that the VM has executed,
/// between two of them. The argument is the state that runs. This makes Lua code about a third slower; compiled code
/// counts nothing. A debug hook that the program sets replaces it.
///
/// `report` is called where no Lua error may be raised, and must not wait.
pub fn watch_steps(vm: &Vm, every: u16, report: unsafe extern "C" fn(*mut lua_State)) {
    // SAFETY: the main state of a VM of this thread.
    unsafe { shim::yue_shim_watch_steps(vm.main_state(), c_int::from(every), report) };
}

/// The number of times that a fiber has begun or continued to run Lua on this thread. While it stays the same, one
/// fiber runs without a pause.
pub fn turns() -> usize {
    // SAFETY: reads a counter of this thread.
    unsafe { shim::yue_shim_entered() }
}

/// Lets the function that [`watch_steps`] has set be called before the VM's next bytecode.
pub fn report_steps(vm: &Vm) {
    // SAFETY: the main state of a VM of this thread.
    unsafe { shim::yue_shim_report_steps(vm.main_state()) };
}

/// Describes where a state is, in a traceback of the Lua functions that run there.
///
/// # Safety
/// `state` is a valid state of the calling thread, in a function that [`watch_steps`] calls.
pub unsafe fn traceback(state: *mut lua_State) -> String {
    // SAFETY: the caller's promise. A hook has room for some values. What raises is a lack of memory alone, which ends
    // the process of a simulation.
    unsafe {
        mlua_sys::luaL_traceback(state, state, std::ptr::null(), 0);
        let mut length = 0;
        let text = mlua_sys::lua_tolstring(state, -1, &mut length);
        let bytes = std::slice::from_raw_parts(text.cast::<u8>(), length);
        let text = String::from_utf8_lossy(bytes).into_owned();
        mlua_sys::lua_settop(state, -2);
        text
    }
}

/// Marks the calling Lua fiber for [`interrupt_marked`], until its end. The highest bit of a mark is not used.
pub fn mark_fiber(mark: usize) {
    // SAFETY: sets a number of the running fiber, if there is one.
    unsafe { shim::yue_shim_mark(mark) };
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
    // SAFETY: Lua calls the hook on `state`; ownership of the error is passed on.
    unsafe { raise(state, Error::Stopped(Stopped::Cancelled)) }
}
