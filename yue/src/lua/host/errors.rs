//! Errors for Lua: every failure becomes an error object of the prelude's classes.

use crate::lua::host;
use crate::lua::host::entries::Entry;
use crate::lua::host::values::{push_decoded_within, text_at};
use crate::lua::simulation::steps;
use std::ffi::c_int;
use std::ops::{Deref, DerefMut};
use yue_luajit::codec::Limits;
use yue_luajit::{Ended, Error, NoReferences, Raise, Stack, Vm, VmError, ffi};
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::{Stopped, simulation};

/// A failure that will become an error object. Plain data: it is built where no Lua runs, and pushed later.
#[derive(Debug, Clone)]
pub(crate) struct ErrorObject {
    failure: Box<Failure>,
    /// The limits for decoding its value.
    limits: Limits,
}

impl Deref for ErrorObject {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.failure
    }
}

impl DerefMut for ErrorObject {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.failure
    }
}

impl ErrorObject {
    pub(crate) fn of_kind(kind: ErrorKind, message: impl Into<String>) -> ErrorObject {
        ErrorObject {
            failure: Box::new(Failure::of_kind(kind, message)),
            limits: Limits::default(),
        }
    }

    /// A failure of the program's machinery.
    pub(crate) fn runtime(message: impl Into<String>) -> ErrorObject {
        ErrorObject::of_kind(ErrorKind::Runtime, message)
    }

    /// The error of a call over a connection whose codec has these limits.
    pub(crate) fn of_call(error: &yue_rpc::Error, limits: Limits) -> ErrorObject {
        let mut failure = Failure::of_kind(error.kind(), error.message());
        failure.code = error.code();
        failure.retryable = error.is_retryable();
        if let yue_rpc::Error::Remote(remote) = error {
            if let Some(name) = remote.type_name() {
                failure.type_name = name;
            }
            failure.traceback = remote.traceback();
            failure.value = remote.value().map(<[u8]>::to_vec);
        }
        ErrorObject {
            failure: Box::new(failure),
            limits,
        }
    }

    /// The parts, for the peer.
    pub(crate) fn into_failure(self) -> Failure {
        *self.failure
    }

    /// The text of an uncaught error, as a program's user sees it.
    pub(crate) fn report(&self) -> String {
        let traceback = self.traceback.as_deref().map(str::trim);
        match traceback.filter(|text| !text.is_empty()) {
            Some(traceback) => format!("{}: {}\n{}", self.type_name, self.message, traceback),
            None => format!("{}: {}", self.type_name, self.message),
        }
    }
}

/// Errors of the prelude itself are internal; this converts them to the form that programs see.
impl From<VmError> for ErrorObject {
    fn from(error: VmError) -> ErrorObject {
        ErrorObject::runtime(error.to_string())
    }
}

impl Raise for ErrorObject {
    /// Calls the prelude's `make_error`. May raise. Nothing here has a destructor of its own.
    fn push(&self, stack: Stack<'_>) {
        let state = stack.raw();
        stack.reserve(10);
        // SAFETY: `Stack` promises a valid state where errors may be raised; there is room.
        unsafe {
            if Entry::MakeError.reference().is_none() {
                return stack.push_bytes(self.message.as_bytes());
            }
            Entry::MakeError.push(state);
            stack.push_bytes(self.type_name.as_bytes());
            stack.push_bytes(self.message.as_bytes());
            let message = stack.top();
            stack.push_number(self.code as f64);
            match &self.traceback {
                Some(text) => stack.push_bytes(text.as_bytes()),
                None => stack.push_nil(),
            }
            stack.push_boolean(self.retryable);
            let decoded = match &self.value {
                Some(bytes) => push_decoded_within(stack, bytes, self.limits),
                None => false,
            };
            if !decoded {
                stack.push_nil();
                if self.value.is_some() {
                    stack.push_copy(message);
                    stack.push_bytes(b" (the value that was raised cannot be read here)");
                    ffi::lua_concat(state, 2);
                    ffi::lua_replace(state, message);
                }
            }
            ffi::lua_call(state, 6, 1);
        }
    }
}

/// Replaces the error message on top of the stack, which a native raised, by its error object: for refusals to suspend,
/// panics, interruptions. May raise.
pub(crate) fn form_of(stack: Stack<'_>, stopped: Option<Stopped>) {
    if Entry::MakeError.reference().is_none() {
        return;
    }
    let (state, message) = (stack.raw(), stack.top());
    let kind = match stopped {
        Some(Stopped::Cancelled) => ErrorKind::Cancelled,
        Some(Stopped::Deadline) => ErrorKind::Timeout,
        Some(_) => ErrorKind::Cancelled,
        None => ErrorKind::Runtime,
    };
    stack.reserve(3);
    // SAFETY: `Stack` promises a valid state where errors may be raised; there is room.
    unsafe {
        Entry::MakeError.push(state);
        stack.push_bytes(kind.name().as_bytes());
        stack.push_copy(message);
        ffi::lua_call(state, 2, 1);
        ffi::lua_replace(state, message);
    }
}

/// A failure of a given kind, to be raised.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::value(ErrorObject::of_kind(kind, message))
}

/// A failure of the RPC layer, to be raised.
pub(crate) fn rpc_error(error: &yue_rpc::Error) -> Error {
    call_error(error, Limits::default())
}

/// A failed call over a connection whose codec has these limits, to be raised.
pub(crate) fn call_error(error: &yue_rpc::Error, limits: Limits) -> Error {
    // A caller that tries until it succeeds never ends by itself.
    if simulation::is_on() {
        steps::count_failed_call();
        host::end_stubborn_fiber();
    }
    Error::value(ErrorObject::of_call(error, limits))
}

/// The reason why a fiber was stopped. Out of line, since its frame would otherwise be part of every suspending
/// function's.
#[cold]
#[inline(never)]
pub(crate) fn stopped_object(stopped: Stopped) -> ErrorObject {
    if simulation::is_on() {
        steps::count_failed_call();
        if stopped == Stopped::Cancelled {
            host::end_stubborn_fiber();
        }
    }
    match stopped {
        Stopped::Cancelled => ErrorObject::of_kind(ErrorKind::Cancelled, "the fiber was cancelled"),
        Stopped::Deadline => ErrorObject::of_kind(ErrorKind::Timeout, "the time limit has passed"),
        _ => ErrorObject::of_kind(ErrorKind::Cancelled, "the fiber was stopped"),
    }
}

/// The same, to be raised.
#[cold]
#[inline(never)]
pub(crate) fn stopped(stopped: Stopped) -> Error {
    Error::value(stopped_object(stopped))
}

/// The error that ended a fiber, in parts that may cross threads.
pub(crate) fn error_of(ended: &Ended) -> ErrorObject {
    describe_failure(ended.state.raw())
}

/// Splits the error value on top of `state` into its parts. Runs Lua, but nothing that suspends.
pub(crate) fn describe_failure(state: *mut ffi::lua_State) -> ErrorObject {
    describe_failure_within(state, Limits::default())
}

/// Like `describe_failure`, for a connection whose codec has these limits.
pub(crate) fn describe_failure_within(state: *mut ffi::lua_State, limits: Limits) -> ErrorObject {
    let unknown = || ErrorObject::runtime("an error of unknown form was raised");
    if Entry::DescribeFailure.reference().is_none() {
        return plain_text(state);
    }
    // SAFETY: `state` is a state of this thread's VM that runs no Lua, with a value on top; the call is protected.
    unsafe {
        if ffi::lua_checkstack(state, 12) == 0 {
            return unknown();
        }
        let top = ffi::lua_gettop(state);
        Entry::DescribeFailure.push(state);
        ffi::lua_pushvalue(state, top);
        if ffi::lua_pcall(state, 1, 6, 0) != ffi::LUA_OK {
            // There is no memory for the parts. The text of that very error needs none.
            ffi::lua_settop(state, top);
            return plain_text(state);
        }
        let text = |index: c_int| text_at(state, top + index);
        let failure = Failure {
            type_name: text(1).unwrap_or_default(),
            code: ffi::lua_tonumber(state, top + 2) as i64,
            message: text(3).unwrap_or_default(),
            traceback: text(4),
            retryable: ffi::lua_toboolean(state, top + 5) != 0,
            value: encode_value(state, top + 6, limits),
        };
        ffi::lua_settop(state, top);
        ErrorObject {
            failure: Box::new(failure),
            limits,
        }
    }
}

/// Encodes the value at the index as msgpack. Returns `None` for nil, and for a value that cannot travel.
///
/// # Safety
/// `state` must be a valid state, and `index` a valid index.
unsafe fn encode_value(
    state: *mut ffi::lua_State,
    index: c_int,
    limits: Limits,
) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::lua_type(state, index) == ffi::LUA_TNIL {
            return None;
        }
        let codec = Vm::of(state)?.codec().with_limits(limits);
        let mut bytes = Vec::new();
        let encoded = codec.encode_values(state, index, 1, "value", &NoReferences, &mut bytes);
        encoded.ok().map(|_| bytes)
    }
}

/// The error value on top, if it is a string: used while there is no prelude yet.
fn plain_text(state: *mut ffi::lua_State) -> ErrorObject {
    // SAFETY: as in `describe_failure`.
    let text = unsafe { text_at(state, ffi::lua_gettop(state)) };
    ErrorObject::runtime(text.unwrap_or_else(|| "an error that is not a string was raised".into()))
}
