//! Errors for Lua: every failure becomes an error object of the prelude's classes.

use crate::lua::host;
use yue_luajit::codec::Limits;
use yue_luajit::{Error, Raise, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::Stopped;

/// A failure that will become an error object. Plain data: it is built where no Lua runs, and pushed later.
#[derive(Debug, Clone)]
pub(crate) struct ErrorObject {
    pub(crate) type_name: String,
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
    pub(crate) retryable: bool,
    pub(crate) value: Option<Box<RaisedValue>>,
}

/// A value that was raised.
#[derive(Debug, Clone)]
pub(crate) struct RaisedValue {
    /// In msgpack.
    pub(crate) bytes: Vec<u8>,
    /// The limits for decoding it.
    pub(crate) limits: Limits,
}

impl ErrorObject {
    pub(crate) fn of_kind(kind: ErrorKind, message: impl Into<String>) -> ErrorObject {
        ErrorObject {
            type_name: kind.name().to_owned(),
            code: kind.code(),
            message: message.into(),
            traceback: None,
            retryable: false,
            value: None,
        }
    }

    /// The error of a call over a connection whose codec has these limits.
    pub(crate) fn of_call(error: &yue_rpc::Error, limits: Limits) -> ErrorObject {
        let mut object = ErrorObject::from(error);
        if let Some(value) = &mut object.value {
            value.limits = limits;
        }
        object
    }

    /// Pushes the object: a call of the prelude's `make_error`. May raise. Nothing here has a destructor of its own.
    pub(crate) fn push(&self, stack: Stack<'_>) {
        let state = stack.raw();
        stack.reserve(10);
        // SAFETY: `Stack` promises a valid state where errors may be raised; there is room.
        unsafe {
            let Some(make) = host::make_error_ref() else {
                return stack.push_bytes(self.message.as_bytes());
            };
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, make.into());
            stack.push_bytes(self.type_name.as_bytes());
            stack.push_bytes(self.message.as_bytes());
            let message = stack.top();
            stack.push_number(self.code as f64);
            match &self.traceback {
                Some(text) => stack.push_bytes(text.as_bytes()),
                None => stack.push_nil(),
            }
            stack.push_boolean(self.retryable);
            let decoded = match self.value.as_deref() {
                Some(value) => host::push_decoded_within(stack, &value.bytes, value.limits),
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
    let Some(make) = host::make_error_ref() else {
        return;
    };
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
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, make.into());
        stack.push_bytes(kind.name().as_bytes());
        stack.push_copy(message);
        ffi::lua_call(state, 2, 1);
        ffi::lua_replace(state, message);
    }
}

impl Raise for ErrorObject {
    fn push(&self, stack: Stack<'_>) {
        ErrorObject::push(self, stack);
    }
}

impl From<&yue_rpc::Error> for ErrorObject {
    fn from(error: &yue_rpc::Error) -> ErrorObject {
        let mut object = ErrorObject::of_kind(error.kind(), error.message());
        object.code = error.code();
        object.retryable = error.is_retryable();
        if let yue_rpc::Error::Remote(remote) = error {
            if let Some(name) = remote.type_name() {
                object.type_name = name;
            }
            object.traceback = remote.traceback();
            object.value = remote.value().map(|bytes| {
                Box::new(RaisedValue {
                    bytes: bytes.to_vec(),
                    limits: Limits::default(),
                })
            });
        }
        object
    }
}

/// A failure of a given kind, to be raised.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::value(ErrorObject::of_kind(kind, message))
}

/// A failure of the RPC layer, to be raised.
pub(crate) fn rpc_error(error: &yue_rpc::Error) -> Error {
    Error::value(ErrorObject::from(error))
}

/// A failed call over a connection whose codec has these limits, to be raised.
pub(crate) fn call_error(error: &yue_rpc::Error, limits: Limits) -> Error {
    Error::value(ErrorObject::of_call(error, limits))
}

/// The reason why a fiber was stopped. Out of line, since its frame would otherwise be part of every suspending
/// function's.
#[cold]
#[inline(never)]
pub(crate) fn stopped_object(stopped: Stopped) -> ErrorObject {
    match stopped {
        Stopped::Cancelled => ErrorObject::of_kind(ErrorKind::Cancelled, "the fiber was cancelled"),
        Stopped::Deadline => ErrorObject::of_kind(ErrorKind::Timeout, "the time is over"),
        _ => ErrorObject::of_kind(ErrorKind::Cancelled, "the fiber was stopped"),
    }
}

/// The same, to be raised.
#[cold]
#[inline(never)]
pub(crate) fn stopped(stopped: Stopped) -> Error {
    Error::value(stopped_object(stopped))
}
