//! Creates a VM and installs what its programs find: libraries, codec, error handler, `require`, LuaJIT's Lua modules.

use crate::codec::Codec;
use crate::fiber;
use crate::interrupt;
use crate::jit_modules;
use crate::require;
use crate::shim;
use crate::vm::{Vm, VmError, VmInner};
use mlua_sys as ffi;
use std::io::Write;
use std::sync::OnceLock;

impl Vm {
    /// Creates a VM with all of Lua's and LuaJIT's libraries, changed as fibers need it: `require` waits for a module
    /// that another fiber is loading, `os.exit` flushes and exits at once, and library functions that call Lua back
    /// raise an error when the native stack runs low.
    ///
    /// # Errors
    /// [`VmError`] if LuaJIT cannot be set up.
    pub fn new() -> Result<Vm, VmError> {
        // SAFETY: creates a new state, or returns null.
        let main = unsafe { ffi::luaL_newstate() };
        if main.is_null() {
            return Err(VmError::OutOfMemory);
        }
        let vm = Vm::of_new_state(main);
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

static EXIT_HOOK: OnceLock<fn()> = OnceLock::new();

/// Sets what `os.exit` calls before it ends the process. The first call counts. The hook must be quick and must not
/// suspend; no destructor and no `atexit` function runs after it.
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
