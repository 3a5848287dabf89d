//! Lua fibers: a native fiber plus one borrowed `lua_State`.
//!
//! ```text
//!   native stack                           lua_State
//!   ┌────────────────────┐
//!   │ the fiber's root   │                 1 error handler   2 trampoline
//!   │ LuaState::attach   │  <- sets the switch hook, which reports every switch to the shim
//!   │ lua_pcall          │                 3 the function, its arguments …
//!   │ LuaJIT's frames    │                 … Lua frames
//!   │ a C function       │
//!   │ park               │  <- the native switch, under LuaJIT's frames
//!   └────────────────────┘
//! ```
//!
//! A fiber that serves many calls one after the other (an RPC worker) attaches once and calls often: between two calls
//! no Lua runs on it, and it may park there too.

use crate::lua_state::{FIRST, LuaState};
use crate::shim::{self, FiberState};
use crate::stack::Stack;
use crate::vm::Vm;
use mlua_sys as ffi;
use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int};
use std::mem::needs_drop;
use std::{fmt, ptr};
use yue_scheduler::{FiberId, SwitchHook, stack_limit, this_loop, with_switch_hook};

/// The native stack that must be left when C calls Lua back, in bytes: enough for the library's largest frame (a `gsub`
/// has 8 KiB of buffer), an error's unwinding and a traceback.
pub const NATIVE_STACK_RESERVE: usize = 32 << 10;

/// The maximum bytes of a file's name and a line in a list of fibers; longer ones are cut at the end.
const ORIGIN_MAX: usize = 512;

/// The maximum bytes of a traceback in a report.
const TRACEBACK_MAX: usize = 4096;

impl LuaState {
    /// Makes the calling fiber a Lua fiber with this state while `f` runs. Its stack should be of
    /// [`StackClass::Deep`](yue_scheduler::StackClass::Deep): C code needs the room.
    ///
    /// # Panics
    /// Outside a fiber, and on a fiber that is a Lua fiber already.
    pub fn attach<R>(&mut self, f: impl FnOnce(&mut Running<'_>) -> R) -> R {
        // SAFETY: reads a thread-local.
        let nested = !unsafe { shim::yue_shim_current() }.is_null();
        assert!(
            !nested,
            "this fiber runs Lua already; call on its own state instead"
        );
        // Below this, library functions that call Lua back raise an error, instead of overflowing the stack.
        let floor =
            ptr::with_exposed_provenance_mut::<c_char>(stack_limit() + NATIVE_STACK_RESERVE);
        let context = Context {
            fiber: UnsafeCell::new(FiberState::new(self.raw(), floor)),
            vm: self.vm(),
            pending: Cell::new(None),
            called: Cell::new(false),
        };
        with_switch_hook(context, |context| {
            // Also after a panic in `f`: the shim must not keep a pointer into this frame.
            let _end = EndOnDrop(context);
            context.enter();
            f(&mut Running {
                state: self,
                context,
            })
        })
    }
}

/// A Lua function raised: the error value, as the error handler returned it, is on top of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Lua error was raised")]
pub struct Raised;

/// A Lua fiber between calls, as [`LuaState::attach`] passes it.
#[derive(Debug)]
pub struct Running<'a> {
    state: &'a mut LuaState,
    context: &'a Context,
}

impl Running<'_> {
    /// The state and its values.
    pub fn state(&mut self) -> &mut LuaState {
        self.state
    }

    /// Runs `f`; meanwhile reports show that the fiber is in the handler `what`, called by `client`.
    pub fn working_on<R>(
        &mut self,
        what: &[u8],
        client: &str,
        f: impl FnOnce(&mut Running<'_>) -> R,
    ) -> R {
        let fiber = self.context.fiber.get();
        // SAFETY: the state is this fiber's; only the shim reads these, on this thread, and both texts live until they
        // are removed again, even by a panic.
        unsafe {
            (*fiber).work_length = what.len();
            (*fiber).client_length = client.len();
            (*fiber).client = client.as_ptr();
            (*fiber).work = what.as_ptr();
        }
        let _done = NoWorkOnDrop(fiber);
        f(self)
    }

    /// Calls the function on the stack with the values above it. The results replace them, and their number is
    /// returned.
    ///
    /// # Errors
    /// The function raised: the error value replaces the values.
    pub fn call(&mut self) -> Result<c_int, Raised> {
        let arguments = self.state.count() - 1;
        if arguments < 0 {
            // Only `debug` can have removed the function. The error value is nil.
            self.state.clear();
            self.state.push_nil();
            return Err(Raised);
        }
        // SAFETY: a function and its arguments are on top; the handler is at 1. This is the fiber's own state.
        match unsafe { ffi::lua_pcall(self.state.raw(), arguments, ffi::LUA_MULTRET, 1) } {
            ffi::LUA_OK => Ok(self.state.count()),
            _ => Err(self.raised()),
        }
    }

    /// Runs `push` under protection with an empty frame. If `push` pushes a function and its arguments and returns
    /// true, the function is called; if it returns false, nothing is called. The results are on the stack afterwards.
    /// `push` may make any Lua call, but nothing in it may have a destructor. `None` means that nothing was called.
    ///
    /// # Errors
    /// An error was raised, in `push` or in the function.
    pub fn enter<F: FnOnce(Stack<'_>) -> bool>(
        &mut self,
        push: F,
    ) -> Result<Option<c_int>, Raised> {
        const {
            assert!(
                !needs_drop::<F>(),
                "a Lua error would not run the closure's destructors"
            )
        };
        // The trampoline takes the closure by pointer, because `lua_cpcall` would allocate a function for it each time.
        let mut push = Some(push);
        let work: Pending = Pending {
            run: run_pending::<F>,
            closure: (&raw mut push).cast(),
        };
        let state = self.state.raw();
        self.context.pending.set(Some(work));
        self.context.called.set(false);
        // SAFETY: the trampoline is at 2; it takes `pending`, which outlives the call.
        unsafe {
            ffi::lua_settop(state, FIRST - 1);
            ffi::lua_pushvalue(state, FIRST - 1);
            let status = ffi::lua_pcall(state, 0, ffi::LUA_MULTRET, 1);
            debug_assert!(
                status != ffi::LUA_OK || self.context.pending.get().is_none(),
                "the closure did not run"
            );
            match status {
                ffi::LUA_OK if self.context.called.get() => {
                    Ok(Some(ffi::lua_gettop(state) - (FIRST - 1)))
                }
                ffi::LUA_OK => Ok(None),
                _ => Err(self.raised()),
            }
        }
    }

    /// Handles an error of the outermost call.
    #[cold]
    fn raised(&self) -> Raised {
        // SAFETY: this is the fiber's own state, on which no Lua runs now.
        unsafe { shim::yue_shim_unwound(self.state.raw()) };
        Raised
    }
}

struct NoWorkOnDrop(*mut FiberState);

impl Drop for NoWorkOnDrop {
    fn drop(&mut self) {
        // SAFETY: made by `working_on`, for the state of the running fiber.
        unsafe { (*self.0).work = ptr::null() };
    }
}

/// A closure on its way through the trampoline.
#[derive(Clone, Copy)]
struct Pending {
    run: unsafe fn(Stack<'_>, *mut ()) -> bool,
    closure: *mut (),
}

unsafe fn run_pending<F: FnOnce(Stack<'_>) -> bool>(stack: Stack<'_>, closure: *mut ()) -> bool {
    // SAFETY: `enter` passes a pointer to its own Option<F>.
    let closure: &mut Option<F> = unsafe { &mut *closure.cast() };
    match closure.take() {
        Some(push) => push(stack),
        None => false,
    }
}

/// The shim's and the C functions' record of the running fiber. It lies on that fiber's native stack.
#[repr(C)]
struct Context {
    /// First, so that the shim's pointer is a pointer to this.
    fiber: UnsafeCell<FiberState>,
    vm: *const Vm,
    pending: Cell<Option<Pending>>,
    /// Whether the closure of the last `enter` pushed a function.
    called: Cell<bool>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl SwitchHook for Context {
    fn leave(&self) -> Result<(), &'static str> {
        // SAFETY: the shim writes only to this fiber's state, and returns null or a literal.
        unsafe {
            let why = shim::yue_shim_leave(self.fiber.get());
            if why.is_null() {
                Ok(())
            } else {
                Err(CStr::from_ptr(why)
                    .to_str()
                    .unwrap_or("cannot suspend here"))
            }
        }
    }

    fn enter(&self) {
        // SAFETY: as above.
        unsafe { shim::yue_shim_enter(self.fiber.get()) }
    }

    fn describe(&self) -> Option<String> {
        let text = Parked(self).traceback();
        (!text.is_empty()).then(|| format!("Lua:\n{text}"))
    }

    fn record(&self) -> *const () {
        ptr::from_ref(self).cast()
    }

    fn origin(&self) -> Option<Box<str>> {
        let mut text = [0; ORIGIN_MAX];
        // SAFETY: as above.
        let bytes =
            unsafe { shim::yue_shim_origin(self.fiber.get(), text.as_mut_ptr(), text.len()) };
        (bytes > 0).then(|| String::from_utf8_lossy(&text[..bytes]).into())
    }
}

/// A parked Lua fiber of this loop, for reports.
///
/// It is examined from the loop's thread, and is valid until the loop continues.
#[derive(Clone, Copy, Debug)]
pub struct Parked<'a>(&'a Context);

impl Parked<'_> {
    /// Finds the fiber and passes it to `look`, which must not suspend. `None` if it runs no Lua, or is not parked.
    pub fn find<R>(fiber: FiberId, look: impl FnOnce(Parked<'_>) -> R) -> Option<R> {
        let record: *const Context = this_loop::hook_record(fiber).cast();
        // SAFETY: only `Context` makes a record; it lies on the stack of a fiber that is parked while `look` runs.
        unsafe { record.as_ref() }.map(|context| look(Parked(context)))
    }

    /// Lua's traceback: a line for each call, innermost first. Empty between two calls.
    pub fn traceback(self) -> String {
        let mut text = vec![0; TRACEBACK_MAX];
        // SAFETY: the fiber is parked, so its Lua state does not change; the shim writes within the buffer.
        let bytes =
            unsafe { shim::yue_shim_traceback(self.0.fiber.get(), text.as_mut_ptr(), text.len()) };
        text.truncate(bytes);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The fiber's work, and its client: see [`Running::working_on`]. Empty if not known.
    pub fn work(self) -> String {
        let mut text = vec![0; ORIGIN_MAX];
        // SAFETY: as above.
        let bytes =
            unsafe { shim::yue_shim_work(self.0.fiber.get(), text.as_mut_ptr(), text.len()) };
        text.truncate(bytes);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Pushes copies of the first values (at most `count`) on the stack of the function that the fiber waits in: its
    /// arguments, if that function has left them there. Returns their number. May raise, if the stack cannot grow.
    pub fn push_arguments(self, stack: Stack<'_>, count: c_int) -> c_int {
        stack.reserve(count);
        // SAFETY: as above; there is room.
        unsafe { shim::yue_shim_arguments(self.0.fiber.get(), stack.raw(), count) }
    }

    /// Pushes the first argument of each call (at most `count`) of the function at the index `function` of `stack` that
    /// the fiber is in. Returns their number. May raise, if the stack cannot grow.
    pub fn push_calls_of(self, stack: Stack<'_>, function: c_int, count: c_int) -> c_int {
        stack.reserve(count);
        // SAFETY: as above; there is room.
        unsafe { shim::yue_shim_calls_of(self.0.fiber.get(), stack.raw(), function, count) }
    }
}

struct EndOnDrop<'a>(&'a Context);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        // SAFETY: drops this fiber's state from the shim, if it is the running one.
        unsafe { shim::yue_shim_end(self.0.fiber.get()) };
    }
}

fn running_context<'a>() -> Option<&'a Context> {
    // SAFETY: the shim's current state, if any, is the first field of a live Context on this fiber's stack; callers use
    // it before they return to that stack's lower frames.
    unsafe { shim::yue_shim_current().cast::<Context>().as_ref() }
}

impl Vm {
    /// The VM that is running on this thread: that of the running Lua fiber.
    pub fn current() -> Option<Vm> {
        // SAFETY: the context's VM handle outlives the context.
        running_context().map(|context| unsafe { (*context.vm).clone() })
    }
}

/// Creates the error handler and the trampoline of a fresh VM. Raises.
pub(crate) fn install(stack: Stack<'_>, handler: &Cell<c_int>, trampoline: &Cell<c_int>) {
    let state = stack.raw();
    // SAFETY: a valid stack where errors may be raised.
    unsafe {
        ffi::lua_pushcclosure(state, traceback, 0);
        handler.set(ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX));
        ffi::lua_pushcclosure(state, through_trampoline, 0);
        trampoline.set(ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX));
    }
}

/// The default error handler: a message gets a traceback, other values stay unchanged.
unsafe extern "C-unwind" fn traceback(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this with the error value; it may raise (no memory), which LuaJIT handles.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TSTRING {
            ffi::luaL_traceback(state, state, ffi::lua_tostring(state, 1), 1);
        }
    }
    1
}

/// Called through `lua_pcall` by [`Running::enter`].
unsafe extern "C-unwind" fn through_trampoline(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: `enter` has set the pending closure, and waits. Nothing here has a destructor.
    unsafe {
        let Some(context) = running_context() else {
            return 0;
        };
        let Some(work) = context.pending.take() else {
            return 0;
        };
        if !(work.run)(Stack::new(state), work.closure) {
            return 0;
        }
        debug_assert!(ffi::lua_gettop(state) >= 1, "a function was pushed");
        ffi::lua_call(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET);
        context.called.set(true);
        ffi::lua_gettop(state)
    }
}
