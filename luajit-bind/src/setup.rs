//! Creates a VM and installs what its programs find: libraries, codec, error handler, `require`, LuaJIT's Lua modules.

use crate::arena::Arena;
use crate::codec::Codec;
use crate::fiber;
use crate::function::{Error, raise, suspending};
use crate::interrupt;
use crate::jit_modules;
use crate::require;
use crate::shim;
use crate::vm::{Vm, VmError, VmInner};
use mlua_sys as ffi;
use std::ffi::{c_char, c_int, c_void};
use std::io::Write;
use std::ptr;
use std::sync::OnceLock;
use yue_scheduler::simulation::{self, Random, mix};

impl Vm {
    /// Creates a VM with all of Lua's and LuaJIT's libraries, changed as fibers need it: `require` waits for a module
    /// that another fiber is loading, `os.exit` flushes and exits at once, and library functions that call Lua back
    /// raise an error when the native stack runs low.
    ///
    /// # Errors
    /// [`VmError`] if LuaJIT cannot be set up.
    pub fn new() -> Result<Vm, VmError> {
        let vm = match simulation::is_on() {
            true => new_simulated()?,
            // SAFETY: creates a new state, or returns null.
            false => Vm::of_new_state(unsafe { ffi::luaL_newstate() }, None)?,
        };
        // SAFETY: the shim's function is made for signal handlers, and writes within its buffer.
        unsafe { yue_scheduler::inspect::set_probe(shim::yue_shim_where) };
        interrupt::install();
        let inner: &VmInner = &vm.0;
        vm.protect(|stack| {
            // SAFETY: protected, on the main state.
            unsafe {
                ffi::luaL_openlibs(stack.raw());
                shim::yue_shim_setup(stack.raw());
                // Creates the registry's free list, so that no later luaL_unref allocates.
                stack.push_boolean(true);
                let reference = ffi::luaL_ref(stack.raw(), ffi::LUA_REGISTRYINDEX);
                ffi::luaL_unref(stack.raw(), ffi::LUA_REGISTRYINDEX, reference);
            }
            inner.codec.set(Codec::install(stack));
            fiber::install(stack, &inner.handler, &inner.trampoline);
            require::install(stack);
            jit_modules::install(stack);
        })?;
        Ok(vm)
    }
}

/// A VM that is a function of the simulation's seed: its memory, and the numbers by which it hashes strings.
fn new_simulated() -> Result<Vm, VmError> {
    let mut arena = Arena::new().ok_or(VmError::OutOfMemory)?;
    let mut random = Random::new(simulation::hash_seed() ^ mix(u64::from(arena.number()) + 1));
    let seeds = [(); 5].map(|()| random.number());
    let memory: *mut c_void = ptr::from_mut(&mut *arena).cast();
    // SAFETY: the arena lives as long as the VM, which owns it.
    let main = unsafe { ffi::lua_newstate(Arena::allocate, memory) };
    let vm = Vm::of_new_state(main, Some(arena))?;
    let seeds_at = seeds.as_ptr();
    // SAFETY: protected; nothing but `lua_newstate` has used the state. The seeds outlive the call.
    match vm.protect(|stack| unsafe { shim::yue_shim_reseed(stack.raw(), seeds_at) })? {
        0 => Err(VmError::Lua("this LuaJIT cannot be simulated".to_owned())),
        _ => Ok(vm),
    }
}

static EXIT_HOOK: OnceLock<fn()> = OnceLock::new();

/// Sets what `os.exit` calls before it ends the process. The first call counts. The hook must not suspend; no
/// destructor and no `atexit` function runs after it.
pub fn set_exit_hook(hook: fn()) {
    EXIT_HOOK.get_or_init(|| hook);
}

/// Called by the shim's `os.exit`. An output that cannot be written has been reported by its writer.
#[unsafe(no_mangle)]
extern "C" fn yue_flush_rust() {
    let _ = std::io::stdout().flush();
    if let Some(hook) = EXIT_HOOK.get() {
        hook();
    }
}

/// Writes a line, or returns the error that `print` raises.
type PrintHook = fn(&[u8]) -> Result<(), Error>;

static PRINT_HOOK: OnceLock<PrintHook> = OnceLock::new();

/// Sets what Lua's `print` calls with each line, instead of writing it to the C library's standard output. The first
/// call counts. The hook may suspend where [`may_suspend`](crate::may_suspend) permits it, but must have copied the
/// line before: it is in a buffer of the VM, which other fibers use meanwhile.
pub fn set_print_hook(hook: fn(&[u8]) -> Result<(), Error>) {
    PRINT_HOOK.get_or_init(|| hook);
}

/// Called by the shim's `print`. Returns whether the line has been written; raises the hook's error.
///
/// # Safety
/// Called by a C function that Lua is running on `state`, with `length` bytes at `line`, and without anything that the
/// error would skip.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn yue_print_line(
    state: *mut ffi::lua_State,
    line: *const c_char,
    length: usize,
) -> c_int {
    let Some(hook) = PRINT_HOOK.get() else {
        return 0;
    };
    // SAFETY: the caller's promise. The hook gets no Lua state, and has finished when the error is raised.
    unsafe {
        let line = std::slice::from_raw_parts(line.cast::<u8>(), length);
        match suspending(state, "print", || hook(line)) {
            Ok(()) => 1,
            Err(failure) => raise(state, failure),
        }
    }
}
