//! Functions that Lua calls and that may block, in three stages.
//!
//! LuaJIT raises an error by unwinding the native stack as a foreign exception. Rust aborts the process when such an
//! exception meets a `catch_unwind`, and Lua is corrupted when a Rust panic crosses its frames. So the two worlds
//! alternate inside one call:
//!
//! ```text
//!   1  read      Lua calls that may raise; no catch_unwind, no value with a destructor (the input is `Copy`)
//!   2  run       Rust under catch_unwind; no Lua call that may raise; THE ONLY PLACE WHERE THE FIBER MAY SUSPEND
//!   3  push      Lua calls that may raise again: the results, or the error value; their source is in a
//!                `ManuallyDrop`, so that an error in the middle (out of memory) leaks it instead of dropping it
//! ```
//!
//! A panic in stage 2 becomes a Lua error. The shim knows when stage 2 begins and ends, and refuses every switch
//! outside it. So an FFI call, or a destructor run by an unwinding Lua error, cannot suspend by accident.

use crate::shim;
use crate::stack::Stack;
use crate::vm::Vm;
use mlua_sys as ffi;
use std::any::Any;
use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;
use yue_scheduler::{Stopped, in_fiber};

/// A function that Lua can call, in the three stages of the module's documentation.
///
/// ```
/// use yue_luajit::{Error, Frame, Function, Stack};
///
/// /// `add(a, b)`, slowly.
/// struct Add;
///
/// impl Function for Add {
///     const NAME: &'static str = "add";
///     type Input<'a> = (f64, f64);
///     type Output = f64;
///
///     fn read<'a>(arguments: Stack<'a>) -> (f64, f64) {
///         (arguments.number(1), arguments.number(2))
///     }
///
///     fn run(_frame: Frame<'_>, (a, b): (f64, f64)) -> Result<f64, Error> {
///         yue_scheduler::yield_now()?;
///         Ok(a + b)
///     }
///
///     fn push(sum: &mut f64, results: Stack<'_>) -> i32 {
///         results.push_number(*sum);
///         1
///     }
/// }
/// ```
pub trait Function: 'static {
    /// The function's name in messages.
    const NAME: &'static str;

    /// Whether `run` may suspend. If so, the call is refused with an error where the fiber must not be switched (in a
    /// `__gc` finalizer, for example), before `run` starts. A function that suspends only sometimes sets this to
    /// `false` and calls [`may_suspend`] itself.
    const SUSPENDS: bool = true;

    /// The values that stage 1 passes to stage 2; they may borrow the arguments.
    type Input<'a>: Copy;

    /// The value that stage 2 passes to stage 3.
    type Output;

    /// Stage 1: reads the arguments. May raise.
    fn read<'a>(arguments: Stack<'a>) -> Self::Input<'a>;

    /// Stage 2: the work. May suspend, may panic.
    ///
    /// # Errors
    /// The error to raise in Lua.
    fn run(frame: Frame<'_>, input: Self::Input<'_>) -> Result<Self::Output, Error>;

    /// Stage 3: pushes the results and returns their number. May raise.
    fn push(output: &mut Self::Output, results: Stack<'_>) -> c_int;
}

/// The calling frame in stage 2, where no Lua call may raise.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a>(Stack<'a>);

impl Frame<'_> {
    /// The raw state. Only functions that cannot raise an error may be called on it here.
    pub fn raw(self) -> *mut ffi::lua_State {
        self.0.raw()
    }

    /// The number of arguments that the function received.
    pub fn arguments(self) -> c_int {
        self.0.top()
    }
}

/// A value that becomes its own Lua error value (a table with fields, for example).
pub trait Raise: 'static {
    /// Pushes exactly one value. May raise.
    fn push(&self, stack: Stack<'_>);
}

/// An error on its way to Lua.
#[non_exhaustive]
pub enum Error {
    /// A message; the position of the calling Lua line is prepended. See [`set_error_form`].
    Text(Cow<'static, str>),
    /// The fiber was cancelled or its deadline passed. See [`set_error_form`].
    Stopped(Stopped),
    /// A custom value.
    Value(Box<dyn Raise>),
}

impl Error {
    /// An error with a message.
    pub fn text(message: impl Into<Cow<'static, str>>) -> Error {
        Error::Text(message.into())
    }

    /// An error with a custom value.
    pub fn value(value: impl Raise) -> Error {
        Error::Value(Box::new(value))
    }

    fn panic(name: &str, payload: &(dyn Any + Send)) -> Error {
        let message = yue_scheduler::panic_text(payload);
        Error::Text(format!("panic in {name}: {message}").into())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Text(text) => f.debug_tuple("Text").field(text).finish(),
            Error::Stopped(stopped) => f.debug_tuple("Stopped").field(stopped).finish(),
            Error::Value(_) => f.write_str("Value(..)"),
        }
    }
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Error {
        Error::Stopped(stopped)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Text(refusal.0.into())
    }
}

/// Replaces the message on top of the stack by an error value made from it. May raise. Its argument is set if the fiber
/// was stopped.
pub type ErrorForm = fn(Stack<'_>, Option<Stopped>);

static ERROR_FORM: OnceLock<ErrorForm> = OnceLock::new();

/// Sets the Lua form of [`Error::Text`] and [`Error::Stopped`], instead of plain strings: for refusals to suspend,
/// panics, interruptions, and for functions that return them. The first call decides, for all VMs of the process.
pub fn set_error_form(form: ErrorForm) {
    let _ = ERROR_FORM.set(form);
}

/// The reason why the running fiber must not suspend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub(crate) &'static str);

/// The shim's reason too.
const IN_FINALIZER: &str = "cannot suspend inside a __gc finalizer";

/// Checks that the running fiber may suspend here. It always may where no Lua is running.
///
/// # Errors
/// The reason why not. A function that is about to park checks this first and so raises a Lua error; a park that is
/// refused anyway panics.
pub fn may_suspend() -> Result<(), Refusal> {
    if let Err(reason) = yue_scheduler::may_suspend() {
        // The collector also works while the loop is idle, and when the VM is closed: then a finalizer is not in a
        // fiber. It gets the reason that it gets in one.
        let in_finalizer = !in_fiber() && Vm::in_finalizer();
        return Err(Refusal(if in_finalizer { IN_FINALIZER } else { reason }));
    }
    // SAFETY: reads the state of this thread's running fiber, if any.
    let why = unsafe { shim::yue_shim_may_switch() };
    if why.is_null() {
        return Ok(());
    }
    // SAFETY: the shim's reasons are string literals in ASCII.
    Err(Refusal(
        unsafe { CStr::from_ptr(why) }
            .to_str()
            .unwrap_or("cannot suspend here"),
    ))
}

/// Stage 2 alone, for raw functions: runs `work` so that it may suspend and panic.
///
/// # Errors
/// The error of `work`, or its panic.
///
/// # Safety
/// Called from a C function that Lua is running on `state`; `work` makes no Lua call that may raise.
pub unsafe fn suspending<R>(
    state: *mut ffi::lua_State,
    name: &str,
    work: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    let mut old = ptr::null_mut();
    let mut old_at = 0;
    // SAFETY: `state` is running the calling C function.
    unsafe { shim::yue_shim_inside(state, &mut old, &mut old_at) };
    // A Rust panic must not cross Lua's frames, and a foreign exception, such as a Lua error, must not meet this
    // `catch_unwind`, which may abort (https://doc.rust-lang.org/std/panic/fn.catch_unwind.html).
    let outcome = catch_unwind(AssertUnwindSafe(work));
    // SAFETY: undoes the call above, on the same fiber.
    unsafe { shim::yue_shim_outside(old, old_at) };
    outcome.unwrap_or_else(|payload| Err(Error::panic(name, &*payload)))
}

/// Raises Lua's `stack overflow` if little native stack is left. A raw function that calls Lua back does this first:
/// unlike Lua's own recursion, recursion through C functions has no other limit.
///
/// # Safety
/// Called from a C function that Lua is running on `state`, with no destructor alive in it.
pub unsafe fn check_native_stack(state: *mut ffi::lua_State) {
    // SAFETY: the caller's promise.
    unsafe { shim::yue_shim_check_stack(state) };
}

/// Stage 3 of a failed call: pushes the error and raises it.
///
/// # Safety
/// Called from a C function that Lua is running on `state`, with no destructor alive in it.
pub unsafe fn raise(state: *mut ffi::lua_State, error: Error) -> ! {
    let mut error = ManuallyDrop::new(error);
    let form = ERROR_FORM.get().copied().unwrap_or(|_, _| ());
    // SAFETY: the state is running the caller, unprotected by any catch_unwind.
    unsafe {
        // LuaJIT unwinds native frames like a C++ exception (https://luajit.org/extensions.html#exceptions).
        // Destructors in this frame would run, or not, depending on the platform: so the error is in a `ManuallyDrop`.
        //
        // An error handler must never find the stack full.
        if ffi::lua_checkstack(state, 4) != 0 {
            match &*error {
                Error::Text(text) => {
                    ffi::luaL_where(state, 1);
                    ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
                    ffi::lua_concat(state, 2);
                    form(Stack::new(state), None);
                }
                Error::Stopped(stopped) => {
                    let text = match stopped {
                        Stopped::Cancelled => "the fiber was cancelled",
                        Stopped::Deadline => "the deadline has passed",
                        _ => "the fiber was stopped",
                    };
                    ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
                    form(Stack::new(state), Some(*stopped));
                }
                Error::Value(value) => value.push(Stack::new(state)),
            }
        } else {
            ffi::lua_settop(state, 0);
            ffi::lua_pushnil(state);
        }
        ManuallyDrop::drop(&mut error);
        ffi::lua_error(state)
    }
}

/// The C function that runs `F`'s stages; push it with `lua_pushcfunction`, or as a closure whose upvalues `read` uses.
///
/// # Safety
/// Only Lua calls it.
pub unsafe extern "C-unwind" fn entry<F: Function>(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua is running this function on `state`. No value with a destructor lives in this frame except in a
    // `ManuallyDrop`, and `suspending` has ended before anything may raise again.
    unsafe {
        shim::yue_shim_check_stack(state);
        let stack = Stack::new(state);
        // Raises for wrong arguments: nothing in this frame has a destructor yet.
        let input = F::read(stack);
        let outcome = suspending(state, F::NAME, || {
            if F::SUSPENDS {
                may_suspend()?;
            }
            F::run(Frame(stack), input)
        });
        match outcome {
            Ok(output) => {
                let mut output = ManuallyDrop::new(output);
                let count = F::push(&mut output, stack);
                // Reached only if `push` did not raise; otherwise the output leaks, which is safe.
                ManuallyDrop::drop(&mut output);
                debug_assert!(
                    count >= 0 && count <= stack.top(),
                    "the results are on the stack"
                );
                count
            }
            Err(error) => raise(state, error),
        }
    }
}
