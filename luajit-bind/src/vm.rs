//! One LuaJIT VM, for one loop and its thread.
//!
//! The VM uses LuaJIT's own allocator, which is up to twice as fast as mlua's. mlua is attached on request. Every
//! path that may suspend uses LuaJIT's C API directly, because mlua keeps state in last-in-first-out order, which
//! interleaved fibers would break. mlua's handles may outlive the [`Vm`], so a VM that mlua has seen is never closed.
//!
//! The VM keeps a pool of `lua_State`s (coroutines that the registry anchors). A Lua fiber borrows one for its lifetime
//! and returns it; see `fiber.rs`. Layout of such a state's stack:
//!
//! ```text
//!   1  the error handler        2  the C function that enters Rust under protection        3 …  values
//! ```

use crate::arena::Arena;
use crate::codec::Codec;
use crate::function::{Function, entry};
use crate::loading::Loading;
use crate::shim;
use crate::stack::Stack;
use mlua_sys as ffi;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::needs_drop;
use std::rc::{Rc, Weak};
use std::{fmt, slice};
use yue_scheduler::no_suspend;

/// The reason why a VM, or a state of it, could not be created or entered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// A Lua error, as text.
    #[error("{0}")]
    Lua(String),
    /// LuaJIT could get no memory.
    #[error("LuaJIT is out of memory")]
    OutOfMemory,
}

/// The number of idle states that are kept for the next fibers; after a burst, more would only be work for the
/// collector.
const POOL_MAX: usize = 512;

/// Idle-time collection begins a new cycle when this much was allocated since the last one ended, in KiB.
const IDLE_CYCLE_AFTER_KIB: c_int = 512;

pub(crate) struct VmInner {
    main: *mut ffi::lua_State,
    /// Whether mlua has seen the VM.
    mlua: Cell<bool>,
    pub(crate) codec: Cell<Codec>,
    /// Registry references: the error handler, and the function that enters Rust.
    pub(crate) handler: Cell<c_int>,
    pub(crate) trampoline: Cell<c_int>,
    /// Unused states, with their anchors in the registry.
    pool: RefCell<Vec<(*mut ffi::lua_State, c_int)>>,
    pub(crate) loading: RefCell<Loading>,
    /// The collector at idle time: memory in use when the last cycle ended (KiB), and the number of cycles still to
    /// run.
    idle_kib: Cell<c_int>,
    idle_cycles: Cell<u32>,
    /// The VM's memory, in a simulation.
    arena: Cell<Option<Box<Arena>>>,
}

/// A LuaJIT VM. Clones are handles on the same VM; dropping the last one closes it.
#[derive(Clone)]
pub struct Vm(pub(crate) Rc<VmInner>);

thread_local! {
    /// The VMs of this thread, by main state: a C function that is not on a Lua fiber finds its VM here.
    static VMS: RefCell<Vec<(*mut ffi::lua_State, Weak<VmInner>)>> = const { RefCell::new(Vec::new()) };
}

impl Vm {
    /// A handle on a state that has just been created, without libraries, and the memory that it uses in a simulation.
    ///
    /// # Errors
    /// If the state is null: there was no memory for it.
    pub(crate) fn of_new_state(
        main: *mut ffi::lua_State,
        arena: Option<Box<Arena>>,
    ) -> Result<Vm, VmError> {
        if main.is_null() {
            return Err(VmError::OutOfMemory);
        }
        let vm = Vm(Rc::new(VmInner {
            main,
            mlua: Cell::new(false),
            codec: Cell::new(Codec::UNSET),
            handler: Cell::new(0),
            trampoline: Cell::new(0),
            pool: RefCell::new(Vec::new()),
            loading: RefCell::new(Loading::default()),
            idle_kib: Cell::new(0),
            idle_cycles: Cell::new(0),
            arena: Cell::new(arena),
        }));
        VMS.with_borrow_mut(|vms| vms.push((main, Rc::downgrade(&vm.0))));
        Ok(vm)
    }

    /// The VM that a state belongs to, if it is one of this thread's.
    ///
    /// # Safety
    /// `state` is a valid state.
    pub unsafe fn of(state: *mut ffi::lua_State) -> Option<Vm> {
        // SAFETY: the caller's promise.
        let main = unsafe { shim::yue_shim_main(state) };
        VMS.with_borrow(|vms| vms.iter().find(|(own, _)| *own == main)?.1.upgrade())
            .map(Vm)
    }

    /// Returns whether a VM of this thread is running a finalizer.
    pub(crate) fn in_finalizer() -> bool {
        // SAFETY: a state is in the list until it has been closed.
        let is_in = |main| unsafe { shim::yue_shim_in_finalizer(main) } != 0;
        VMS.try_with(|vms| vms.borrow().iter().any(|(main, _)| is_in(*main)))
            .unwrap_or(false)
    }

    /// Runs `f` with mlua's interface to this VM, for set-up and other sections that do not suspend: a suspension in it
    /// panics. After this call, dropping the last handle does not close the VM (nor run its finalizers), since mlua's
    /// values may be kept longer; its memory is then kept until the process ends.
    pub fn with_mlua<R>(&self, f: impl FnOnce(&mlua::Lua) -> R) -> R {
        self.0.mlua.set(true);
        // SAFETY: the main state is valid, and from now on for as long as the process lives.
        no_suspend(|| f(unsafe { mlua::Lua::get_or_init_from_ptr(self.0.main) }))
    }

    /// The main state. It runs no fiber; use it inside [`protect`](Vm::protect).
    pub fn main_state(&self) -> *mut ffi::lua_State {
        self.0.main
    }

    /// The codec between this VM's values and bytes.
    pub fn codec(&self) -> Codec {
        self.0.codec.get()
    }

    /// Runs `f` on the main state, protected: it may make any Lua call, and its error is returned. It must not suspend,
    /// and must not keep a value with a destructor alive across a call that may raise.
    ///
    /// # Errors
    /// The Lua error that `f` raised.
    pub fn protect<R, F: FnOnce(Stack<'_>) -> R>(&self, f: F) -> Result<R, VmError> {
        const {
            assert!(
                !needs_drop::<F>(),
                "a Lua error would not run the closure's destructors"
            )
        };
        let mut call = Protected {
            f: Some(f),
            result: None,
        };
        let argument: *mut c_void = (&raw mut call).cast();
        // SAFETY: the pointer is used during the call only, by the function made for its type. No other fiber may run
        // in between, because all protected calls share the main state.
        let status = no_suspend(|| unsafe {
            shim::yue_shim_protect(self.0.main, run_protected::<R, F>, argument)
        });
        match (status, call.result) {
            (ffi::LUA_OK, Some(result)) => Ok(result),
            // SAFETY: a failed protected call leaves its error on top.
            _ => Err(unsafe { take_error(self.0.main, status) }),
        }
    }

    /// Registers a [`Function`] as a field of the table on top of `stack`. May raise.
    pub fn register<F: Function>(stack: Stack<'_>, name: &str) {
        let state = stack.raw();
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            stack.push_bytes(name.as_bytes());
            ffi::lua_pushcclosure(state, entry::<F>, 0);
            ffi::lua_rawset(state, -3);
        }
    }

    /// Pops the function on top of the stack and makes it the error handler at the root of every fiber that starts from
    /// now on. The handler receives the error value and returns the value to pass on. May raise.
    pub fn set_error_handler(&self, stack: Stack<'_>) {
        // SAFETY: `Stack` promises a valid state where errors may be raised. The old handler stays anchored: running
        // fibers may still use it, and programs set this once.
        let reference = unsafe { ffi::luaL_ref(stack.raw(), ffi::LUA_REGISTRYINDEX) };
        self.0.handler.set(reference);
    }

    /// Takes a state from the pool, or creates one, with error handler and trampoline on its stack. Returns it with its
    /// anchor in the registry.
    pub(crate) fn take_state(&self) -> Result<(*mut ffi::lua_State, c_int), VmError> {
        let (state, anchor) = match self.0.take_pooled() {
            Some(pooled) => pooled,
            None => self.protect(|stack| {
                // SAFETY: protected; the new state is anchored before anything else can collect it.
                unsafe {
                    let state = ffi::lua_newthread(stack.raw());
                    shim::yue_shim_mark_lendable(state);
                    (state, ffi::luaL_ref(stack.raw(), ffi::LUA_REGISTRYINDEX))
                }
            })?,
        };
        // SAFETY: an idle state of this VM, with room for these two, which exist: nothing is allocated.
        unsafe {
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.0.handler.get().into());
            ffi::lua_rawgeti(
                state,
                ffi::LUA_REGISTRYINDEX,
                self.0.trampoline.get().into(),
            );
        }
        Ok((state, anchor))
    }

    /// Returns a state to the pool.
    pub(crate) fn give_back(&self, state: *mut ffi::lua_State, anchor: c_int) {
        // SAFETY: the state's owner is done with it.
        let is_idle = unsafe { shim::yue_shim_reset(state) } != 0;
        let mut pool = self.0.pool.borrow_mut();
        // A state in which C code still has a call must live on.
        if !is_idle || pool.len() < POOL_MAX {
            pool.push((state, anchor));
        } else {
            // SAFETY: the anchor belongs to the state; setting an existing registry slot allocates nothing and runs no
            // code. The collector frees the state when nothing else holds it.
            unsafe { ffi::luaL_unref(self.0.main, ffi::LUA_REGISTRYINDEX, anchor) };
        }
    }

    /// Memory in use by Lua values, in bytes.
    pub fn memory(&self) -> usize {
        // SAFETY: counting raises nothing.
        let (kib, rest) = unsafe {
            (
                ffi::lua_gc(self.0.main, ffi::LUA_GCCOUNT, 0),
                ffi::lua_gc(self.0.main, ffi::LUA_GCCOUNTB, 0),
            )
        };
        (kib as usize) << 10 | rest as usize
    }

    /// Stops the collector, for work that makes no garbage, or lets it continue.
    pub fn set_collecting(&self, on: bool) {
        let what = if on {
            ffi::LUA_GCRESTART
        } else {
            ffi::LUA_GCSTOP
        };
        // SAFETY: both set a threshold, and raise nothing.
        unsafe { ffi::lua_gc(self.0.main, what, 0) };
    }

    /// Runs one step of the collector, for an idle loop: install it as the loop's idle hook. Returns whether it should
    /// be called again soon: not when a cycle has ended and little was allocated since, or when the program has stopped
    /// the collector.
    pub fn gc_step_idle(&self) -> bool {
        let inner: &VmInner = &self.0;
        // SAFETY: counting raises nothing.
        let kib = || unsafe { ffi::lua_gc(inner.main, ffi::LUA_GCCOUNT, 0) };
        let resting =
            inner.idle_cycles.get() == 0 && kib() - inner.idle_kib.get() < IDLE_CYCLE_AFTER_KIB;
        // SAFETY: reads the collector's state.
        if resting || unsafe { shim::yue_shim_gc_stopped(inner.main) } != 0 {
            return false;
        }
        if inner.idle_cycles.get() == 0 {
            // The cycle in progress may keep objects that became garbage since it began; the next one finds them.
            inner.idle_cycles.set(2);
        }
        // SAFETY: protected; finalizers may run, and cannot suspend.
        let step =
            self.protect(|stack| unsafe { ffi::lua_gc(stack.raw(), ffi::LUA_GCSTEP, 0) } != 0);
        match step {
            Ok(false) => return true,
            Ok(true) => inner.idle_cycles.set(inner.idle_cycles.get() - 1),
            // LuaJIT catches a finalizer's errors, so there is no memory. Stop for now.
            Err(_) => inner.idle_cycles.set(0),
        }
        inner.idle_kib.set(kib());
        inner.idle_cycles.get() > 0
    }
}

impl VmInner {
    /// Takes a state without values for the next fiber. C modules may keep states that were lent and call Lua on them:
    /// a state in such a call at this moment stays in the pool.
    #[inline]
    fn take_pooled(&self) -> Option<(*mut ffi::lua_State, c_int)> {
        let mut pool = self.pool.borrow_mut();
        // SAFETY: the registry keeps the states of the pool alive.
        let is_idle = |state| unsafe { shim::yue_shim_reset(state) != 0 };
        let at = pool.iter().rposition(|(state, _)| is_idle(*state))?;
        Some(pool.swap_remove(at))
    }
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("main", &self.0.main)
            .field("pooled", &self.0.pool.borrow().len())
            .finish()
    }
}

impl Drop for VmInner {
    fn drop(&mut self) {
        let main = self.main;
        let arena = self.arena.take();
        if self.mlua.get() {
            // It is used as long as mlua's values are.
            std::mem::forget(arena);
        } else {
            // SAFETY: every fiber and thread of the VM holds a handle on it, so none is left; mlua never saw it.
            unsafe { ffi::lua_close(main) };
            drop(arena);
        }
        // After the last finalizers, whose waits are refused by name. A thread that is ending has no list any more, and
        // needs none.
        let _ = VMS.try_with(|vms| vms.borrow_mut().retain(|(own, _)| *own != main));
    }
}

struct Protected<R, F> {
    f: Option<F>,
    result: Option<R>,
}

unsafe extern "C-unwind" fn run_protected<R, F: FnOnce(Stack<'_>) -> R>(
    state: *mut ffi::lua_State,
) -> c_int {
    // SAFETY: `Vm::protect` passes its own `Protected` of this very type, and waits.
    unsafe {
        let call: *mut Protected<R, F> = ffi::lua_touserdata(state, 1).cast();
        ffi::lua_settop(state, 0);
        if let Some(f) = (*call).f.take() {
            let result = f(Stack::new(state));
            (*call).result = Some(result);
        }
    }
    0
}

/// Pops the error value, as text.
///
/// # Safety
/// A protected call on `state` has just failed with `status`.
pub(crate) unsafe fn take_error(state: *mut ffi::lua_State, status: c_int) -> VmError {
    if status == ffi::LUA_ERRMEM {
        // SAFETY: the caller's promise: there is an error value.
        unsafe { ffi::lua_settop(state, -2) };
        return VmError::OutOfMemory;
    }
    // SAFETY: a string is only read; other values are not converted, which could allocate.
    let text = unsafe {
        let text = if ffi::lua_type(state, -1) == ffi::LUA_TSTRING {
            let mut length = 0;
            let start = ffi::lua_tolstring(state, -1, &mut length);
            String::from_utf8_lossy(slice::from_raw_parts(start.cast(), length)).into_owned()
        } else {
            "(an error value that is not a string)".to_owned()
        };
        ffi::lua_settop(state, -2);
        text
    };
    VmError::Lua(text)
}
