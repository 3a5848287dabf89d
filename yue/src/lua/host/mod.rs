//! The host: one loop's state of the Lua program that runs on it.
//!
//! There is one per loop, reached through a thread-local, like the loop itself. It owns the VM, the tables that assign
//! Lua numbers to Rust objects (waits, connections), and the count of holds that keep the program running.

pub(crate) mod errors;
pub(crate) mod log;
pub(crate) mod modules;
pub(crate) mod shared;

use crate::lua::fibers::signals::Signals;
use crate::lua::fibers::waits::Waits;
use crate::lua::fibers::{signals, waits};
use crate::lua::host::errors::{ErrorObject, RaisedValue, form_of};
use crate::lua::program::Program;
use crate::lua::program::threads;
use crate::lua::rpc::calls::AsyncCalls;
use crate::lua::rpc::connections::{Connections, Identity};
use crate::lua::{fibers, program, rpc};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_luajit::codec::{Limits, Reader};
use yue_luajit::{Error, LuaState, NoReferences, Stack, Vm, VmError, ffi, set_error_form};
use yue_rpc::ErrorKind;
use yue_scheduler::{Builder, FiberId, LocalWaker, StackClass};

/// LuaJIT's maximum number of upvalues per function.
const UPVALUES_MAX: c_int = 60;

/// The number of remarks that are compared: a thousand fibers with the same failure are one remark, even if a few kinds
/// of failures alternate.
const REMARKS_COMPARED: usize = 16;

/// The default time limit of a call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A text to log, and the number of times it came.
struct Remark {
    text: String,
    times: usize,
}

/// The role of a loop in the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of the loops that run the program's script: its index, from 1.
    Main(usize),
    /// A worker thread.
    Worker {
        name: String,
        /// Callers can stop the handlers of its namespace.
        cancel: bool,
    },
}

/// One loop's side of a Lua program.
pub(crate) struct Host {
    pub(crate) vm: Vm,
    pub(crate) program: Arc<Program>,
    pub(crate) role: Role,
    pub(crate) waits: Waits,
    pub(crate) signals: Signals,
    pub(crate) connections: Connections,
    /// `yue.config.timeout`.
    pub(crate) call_timeout: Cell<Duration>,
    holds: Cell<usize>,
    /// The main fiber, when it waits for the end of the program.
    main_waiter: Cell<Option<LocalWaker>>,
    /// Set by `yue.die`, by a shutdown, by `yue.thread.current:exit`.
    pub(crate) dying: Cell<bool>,
    /// Texts that finalizers left, to be logged where Lua may run.
    tell: RefCell<Vec<Remark>>,
    /// Registry references to functions of the prelude.
    pub(crate) make_error: Cell<Option<c_int>>,
    pub(crate) error_handler: Cell<Option<c_int>>,
    pub(crate) describe_failure: Cell<Option<c_int>>,
    pub(crate) import_symbols: Cell<Option<c_int>>,
    pub(crate) at_end: Cell<Option<c_int>>,
    pub(crate) fiber_over: Cell<Option<c_int>>,
    pub(crate) repl: Cell<Option<c_int>>,
    pub(crate) report: Cell<Option<c_int>>,
    /// Fibers whose record the prelude made itself.
    pub(crate) records: Records,
    /// The registry reference of the table that programs see as `yue`.
    pub(crate) yue: Cell<Option<c_int>>,
    pub(crate) async_calls: AsyncCalls,
}

thread_local! {
    static HOST: RefCell<Option<Rc<Host>>> = const { RefCell::new(None) };
}

/// Keeps the program running while it lives.
pub(crate) struct Hold(Rc<Host>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
        if self.0.holds.get() == 0 {
            self.0.wake_main();
        }
    }
}

impl Host {
    /// Creates the host of the calling thread's loop, and runs the prelude. In a fiber.
    pub(crate) fn start(program: Arc<Program>, role: Role) -> Result<Rc<Host>, VmError> {
        let vm = Vm::new()?;
        let host = Rc::new(Host {
            vm: vm.clone(),
            program,
            role,
            waits: Waits::default(),
            signals: Signals::default(),
            connections: Connections::new(&vm),
            call_timeout: Cell::new(CALL_TIMEOUT),
            holds: Cell::new(0),
            main_waiter: Cell::new(None),
            dying: Cell::new(false),
            tell: RefCell::new(Vec::new()),
            make_error: Cell::new(None),
            error_handler: Cell::new(None),
            describe_failure: Cell::new(None),
            import_symbols: Cell::new(None),
            at_end: Cell::new(None),
            fiber_over: Cell::new(None),
            repl: Cell::new(None),
            report: Cell::new(None),
            records: Records::default(),
            yue: Cell::new(None),
            async_calls: AsyncCalls::default(),
        });
        HOST.set(Some(host.clone()));
        set_error_form(form_of);
        modules::install(&host)?;
        Ok(host)
    }

    /// Drops the calling thread's host.
    pub(crate) fn end() {
        // Dropped outside the cell: destructors may look for the host.
        let host = HOST.take();
        if let Some(host) = host {
            host.connections.clear();
            host.signals.clear();
        }
    }

    /// Keeps the program running while the result lives: something that could still call it is open.
    pub(crate) fn hold(self: &Rc<Self>) -> Hold {
        self.holds.set(self.holds.get() + 1);
        Hold(self.clone())
    }

    /// Whether nothing is left that could call the program.
    pub(crate) fn is_idle(&self) -> bool {
        self.holds.get() == 0
    }

    pub(crate) fn set_main_waiter(&self, waker: LocalWaker) {
        self.main_waiter.set(Some(waker));
    }

    pub(crate) fn wake_main(&self) {
        if let Some(waker) = self.main_waiter.take() {
            waker.wake();
        }
    }

    /// Called when the loop is idle: processes the records of finalizers, and lets the collector continue. Returns
    /// whether there is more to do.
    pub(crate) fn idle(&self) -> bool {
        self.connections.tidy();
        let more = self.vm.gc_step_idle();
        if !more {
            self.tell_remarks();
            log::flush_limited();
        }
        more
    }

    /// Logs the remarks of finalizers. The collector finds a thousand fibers with the same failure in many steps;
    /// logged after the last of them, they are one line.
    pub(crate) fn tell_remarks(&self) {
        for Remark { text, times } in self.tell.take() {
            let line = match times {
                1 => text,
                _ => format!("{times} times: {text}"),
            };
            log::write(log::Level::Warn, line.as_bytes());
        }
    }

    /// Records a text to be logged soon; usable in finalizers.
    pub(crate) fn tell_later(&self, text: String) {
        let mut remarks = self.tell.borrow_mut();
        let compared = remarks.len().saturating_sub(REMARKS_COMPARED);
        match remarks[compared..].iter_mut().find(|one| one.text == text) {
            Some(same) => same.times += 1,
            None => remarks.push(Remark { text, times: 1 }),
        }
    }

    /// Pushes the function of the interactive mode on an empty stack.
    pub(crate) fn push_repl(&self, thread: &mut LuaState) -> Result<(), VmError> {
        let (state, repl) = (thread.raw(), self.repl.get());
        let repl = repl.ok_or_else(|| VmError::Lua("there is no interactive mode".to_owned()))?;
        // SAFETY: an idle state owned here, with room for one value; reading the registry raises nothing.
        unsafe { ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, repl.into()) };
        Ok(())
    }

    /// Pushes the program's arguments on a stack that has room for them.
    pub(crate) fn push_arguments(&self, thread: &mut LuaState) -> Result<(), VmError> {
        let (state, program) = (thread.raw(), &*self.program);
        let count = c_int::try_from(program.script.args.len()).unwrap_or(c_int::MAX);
        // SAFETY: growing the stack is protected by itself.
        if unsafe { ffi::lua_checkstack(state, count) } == 0 {
            return Err(VmError::Lua("too many arguments".to_owned()));
        }
        self.vm.protect(|stack| {
            stack.reserve(count);
            for argument in &program.script.args {
                stack.push_bytes(argument);
            }
            // SAFETY: protected; both are states of this VM, and that one has room.
            unsafe { ffi::lua_xmove(stack.raw(), state, count) };
        })
    }

    /// The loop's name in logs.
    pub(crate) fn name(&self) -> String {
        match &self.role {
            Role::Main(index) if self.program.script.loops > 1 => format!("loop {index}"),
            Role::Main(_) => String::new(),
            Role::Worker { name, .. } => name.clone(),
        }
    }
}

/// Fibers whose end the prelude needs to know; see `note_record`.
#[derive(Default)]
pub(crate) struct Records(RefCell<HashSet<FiberId, Identity>>);

impl Records {
    pub(crate) fn note(&self, fiber: FiberId) {
        self.0.borrow_mut().insert(fiber);
    }

    #[inline]
    pub(crate) fn take(&self, fiber: FiberId) -> bool {
        let mut fibers = self.0.borrow_mut();
        !fibers.is_empty() && fibers.remove(&fiber)
    }
}

/// The calling thread's host.
pub(crate) fn current() -> Option<Rc<Host>> {
    HOST.try_with(|host| host.borrow().clone()).ok().flatten()
}

/// Runs `f` with the calling thread's host. `f` must not suspend and must not call Lua.
pub(crate) fn with_host<R>(f: impl FnOnce(&Rc<Host>) -> R) -> Result<R, Error> {
    HOST.with_borrow(|host| host.as_ref().map(f))
        .ok_or_else(|| {
            crate::lua::host::errors::error(
                ErrorKind::Runtime,
                "the program is over on this thread",
            )
        })
}

/// The registry reference of the prelude's `make_error`.
pub(crate) fn make_error_ref() -> Option<c_int> {
    HOST.with_borrow(|host| host.as_ref().and_then(|host| host.make_error.get()))
}

/// Pushes the prelude's error handler, or nil while there is none.
///
/// # Safety
/// `state` is a state of the host's VM with room for one value.
pub(crate) unsafe fn push_error_handler(state: *mut ffi::lua_State) {
    let handler = HOST.with_borrow(|host| host.as_ref().and_then(|host| host.error_handler.get()));
    // SAFETY: the caller's promise; the reference is never freed.
    unsafe {
        match handler {
            Some(handler) => drop(ffi::lua_rawgeti(
                state,
                ffi::LUA_REGISTRYINDEX,
                handler.into(),
            )),
            None => ffi::lua_pushnil(state),
        }
    }
}

/// Loads the output of `string.dump` for a function whose upvalues were all `yue`, and sets them to this VM's `yue`.
/// Leaves the function, or an error message, on the stack, and returns LuaJIT's status.
///
/// # Safety
/// `state` is a state of the host's VM with room for two values; the bytecode was made in this process.
pub(crate) unsafe fn load_function(state: *mut ffi::lua_State, bytecode: &[u8]) -> c_int {
    let yue = HOST.with_borrow(|host| host.as_ref().and_then(|host| host.yue.get()));
    // SAFETY: the caller's promise; loading is protected by itself, and the rest raises nothing.
    unsafe {
        let (start, length) = (bytecode.as_ptr().cast(), bytecode.len());
        let status =
            ffi::luaL_loadbufferx(state, start, length, c"=thread".as_ptr(), c"b".as_ptr());
        if status != ffi::LUA_OK {
            return status;
        }
        let function = ffi::lua_gettop(state);
        for index in 1..=UPVALUES_MAX {
            match yue {
                Some(yue) => drop(ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, yue.into())),
                None => ffi::lua_pushnil(state),
            }
            if ffi::lua_setupvalue(state, function, index).is_null() {
                ffi::lua_settop(state, function);
                break;
            }
        }
        status
    }
}

/// Decodes one msgpack value and pushes it; pushes nothing and returns false if there is none, or it is invalid. May
/// raise.
pub(crate) fn push_decoded(stack: Stack<'_>, bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| push_decoded_within(stack, bytes, Limits::default()))
}

/// Like `push_decoded`, within the limits of a connection.
pub(crate) fn push_decoded_within(stack: Stack<'_>, bytes: &[u8], limits: Limits) -> bool {
    let codec = HOST.with_borrow(|host| host.as_ref().map(|host| host.vm.codec()));
    let Some(codec) = codec.map(|codec| codec.with_limits(limits)) else {
        return false;
    };
    let top = stack.top();
    match codec.decode_values(stack, &mut Reader::new(bytes), 1, &NoReferences) {
        Ok(_) => true,
        Err(_) => {
            // SAFETY: drops the partly decoded values.
            unsafe { ffi::lua_settop(stack.raw(), top) };
            false
        }
    }
}

/// Splits the error value on top of `state` into its parts. Runs Lua, but nothing that suspends.
pub(crate) fn describe_failure(state: *mut ffi::lua_State) -> ErrorObject {
    describe_failure_within(state, Limits::default())
}

/// Like `describe_failure`, for a connection whose codec has these limits.
pub(crate) fn describe_failure_within(state: *mut ffi::lua_State, limits: Limits) -> ErrorObject {
    let unknown =
        || ErrorObject::of_kind(ErrorKind::Runtime, "an error of unknown form was raised");
    let Some(host) = current() else {
        return unknown();
    };
    let Some(describe) = host.describe_failure.get() else {
        return plain_text(state);
    };
    // SAFETY: `state` is a state of this thread's VM that runs no Lua, with a value on top; the call is protected.
    unsafe {
        if ffi::lua_checkstack(state, 12) == 0 {
            return unknown();
        }
        let top = ffi::lua_gettop(state);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, describe.into());
        ffi::lua_pushvalue(state, top);
        if ffi::lua_pcall(state, 1, 6, 0) != ffi::LUA_OK {
            // There is no memory for the parts. The text of that very error needs none.
            ffi::lua_settop(state, top);
            return plain_text(state);
        }
        let text = |index: c_int| text_at(state, top + index);
        let mut object = ErrorObject {
            type_name: text(1).unwrap_or_default(),
            code: ffi::lua_tonumber(state, top + 2) as i64,
            message: text(3).unwrap_or_default(),
            traceback: text(4),
            retryable: ffi::lua_toboolean(state, top + 5) != 0,
            value: None,
        };
        if ffi::lua_type(state, top + 6) != ffi::LUA_TNIL {
            let mut bytes = Vec::new();
            if host
                .vm
                .codec()
                .with_limits(limits)
                .encode_values(state, top + 6, 1, "value", &NoReferences, &mut bytes)
                .is_ok()
            {
                object.value = Some(Box::new(RaisedValue { bytes, limits }));
            }
        }
        ffi::lua_settop(state, top);
        object
    }
}

/// The error value on top, if it is a string: used while there is no prelude yet.
fn plain_text(state: *mut ffi::lua_State) -> ErrorObject {
    // SAFETY: as in `describe_failure`.
    let text = unsafe { text_at(state, ffi::lua_gettop(state)) };
    ErrorObject::of_kind(
        ErrorKind::Runtime,
        text.unwrap_or_else(|| "an error that is no text was raised".to_owned()),
    )
}

/// The string at the index, if it is one.
///
/// # Safety
/// A valid state and index.
unsafe fn text_at(state: *mut ffi::lua_State, index: c_int) -> Option<String> {
    // SAFETY: the caller's promise; the bytes are copied at once.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, index, &mut length);
        Some(String::from_utf8_lossy(std::slice::from_raw_parts(start.cast(), length)).into_owned())
    }
}

/// Calls a function of the prelude with one msgpack value, in a new fiber, and waits for it.
pub(crate) fn call_prelude(
    host: &Rc<Host>,
    function: Option<c_int>,
    argument: Vec<u8>,
) -> Result<(), ErrorObject> {
    let Some(function) = function else {
        return Ok(());
    };
    let mut thread = host.vm.borrow_state()?;
    let work = move || {
        thread.attach(|running| {
            let argument_at: *const [u8] = &raw const *argument;
            let outcome = running.enter(move |stack| {
                // SAFETY: protected by `enter`, which the bytes outlive.
                unsafe {
                    ffi::lua_rawgeti(stack.raw(), ffi::LUA_REGISTRYINDEX, function.into());
                    if !push_decoded(stack, Some(&*argument_at)) {
                        stack.push_nil();
                    }
                }
                true
            });
            outcome
                .map(drop)
                .map_err(|_| describe_failure(running.state().raw()))
        })
    };
    let spawned = Builder::new()
        .stack(StackClass::Deep)
        .name("prelude")
        .spawn(work);
    let runtime = |text: String| ErrorObject::of_kind(ErrorKind::Runtime, text);
    match spawned.map_err(|error| runtime(error.to_string()))?.join() {
        Ok(outcome) => outcome,
        Err(error) => Err(runtime(error.to_string())),
    }
}

/// Adds every native to the `core` table on top of the stack. May raise.
pub(crate) fn register_natives(stack: Stack<'_>) {
    waits::register_all(stack);
    fibers::register_all(stack);
    log::register_all(stack);
    signals::register_all(stack);
    threads::register_all(stack);
    program::register_all(stack);
    rpc::connections::register_all(stack);
    program::repl::register_all(stack);
    program::report::register_all(stack);
}
