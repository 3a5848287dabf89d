//! Errors on their way to Lua: every failure becomes an error object of the prelude's classes.

use super::host;
use std::borrow::Cow;
use yue_luajit::codec::Limits;
use yue_luajit::{Error, Raise, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::Stopped;

/// A failure that will be an error object. Plain data: it is built where no Lua runs, and pushed later.
#[derive(Debug, Clone)]
pub(crate) struct ErrorObject {
    pub(crate) type_name: String,
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
    pub(crate) retryable: bool,
    /// A raised value in msgpack.
    pub(crate) value: Option<Vec<u8>>,
    /// What may be decoded of it.
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
            limits: Limits::default(),
        }
    }

    /// The error of a call over a connection whose codec has these limits.
    pub(crate) fn of_call(error: &yue_rpc::Error, limits: Limits) -> ErrorObject {
        ErrorObject {
            limits,
            ..ErrorObject::from(error)
        }
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
            if !host::push_decoded_within(stack, self.value.as_deref(), self.limits) {
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
            object.value = remote.value().map(<[u8]>::to_vec);
        }
        object
    }
}

/// A failure of a given kind, to be raised.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::value(ErrorObject::of_kind(kind, message))
}

/// What failed in the RPC layer, to be raised.
pub(crate) fn rpc_error(error: &yue_rpc::Error) -> Error {
    Error::value(ErrorObject::from(error))
}

/// A failed call over a connection whose codec has these limits, to be raised.
pub(crate) fn call_error(error: &yue_rpc::Error, limits: Limits) -> Error {
    Error::value(ErrorObject::of_call(error, limits))
}

/// Digits that an address has at least, and a pointer as LuaJIT prints it above 4 GiB has exactly.
const ADDRESS_DIGITS_MIN: usize = 8;
const POINTER_DIGITS: usize = 12;

/// A text for somebody outside of the process, without addresses of its code and memory: they would help an attacker.
/// LuaJIT puts them into tracebacks (`[C]: at 0x55be114544f0`) and into texts of values (`table: 0x7f2a10c8f2b0`).
pub(crate) fn without_addresses(text: &str) -> Cow<'_, str> {
    if !text.contains("0x") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let (before, number) = rest.split_at(at);
        let digits = number[2..]
            .bytes()
            .take_while(u8::is_ascii_hexdigit)
            .count();
        let (number, behind) = number.split_at(2 + digits);
        let named = [" at ", ": "]
            .into_iter()
            .find(|name| before.ends_with(name));
        match named {
            Some(name) if digits >= ADDRESS_DIGITS_MIN => {
                out.push_str(
                    before
                        .strip_suffix(name)
                        .unwrap_or(before)
                        .trim_end_matches(':'),
                );
            }
            None if digits == POINTER_DIGITS
                && !before.ends_with(|c: char| c.is_alphanumeric()) =>
            {
                out.push_str(before);
                out.push_str("0x?");
            }
            _ => {
                out.push_str(before);
                out.push_str(number);
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::without_addresses;

    #[test]
    fn addresses_of_code_and_memory_are_left_out() {
        for (text, shown) in [
            ("no number", "no number"),
            ("\t[C]: at 0x55be114544f0\n\tx.lua:5", "\t[C]\n\tx.lua:5"),
            ("table: 0x7f2a10c8f2b0", "table"),
            (
                "function: 0x7f2a10c8f2b0 and thread: 0x41234567",
                "function and thread",
            ),
            ("cdata<int (*)>: 0x7f2a10c8f2b0!", "cdata<int (*)>!"),
            ("bad object 0x7f2a10c8f2b0.", "bad object 0x?."),
            ("0x7f2a10c8f2b0", "0x?"),
            // These are no addresses.
            (
                "colour 0xff00ff00, flags: 0x1f",
                "colour 0xff00ff00, flags: 0x1f",
            ),
            ("id 0x0123456789abcdef", "id 0x0123456789abcdef"),
            ("0x", "0x"),
            ("x0x7f2a10c8f2b0 \u{fc}0x", "x0x7f2a10c8f2b0 \u{fc}0x"),
        ] {
            assert_eq!(without_addresses(text), shown, "{text}");
        }
    }
}

/// Why a fiber was told to stop. Out of line, since its frame would be that of every suspending function.
#[cold]
#[inline(never)]
pub(crate) fn stopped_object(stopped: Stopped) -> ErrorObject {
    match stopped {
        Stopped::Cancelled => ErrorObject::of_kind(ErrorKind::Cancelled, "the fiber was cancelled"),
        Stopped::Deadline => ErrorObject::of_kind(ErrorKind::Timeout, "the time is over"),
    }
}

/// The same, to be raised.
#[cold]
#[inline(never)]
pub(crate) fn stopped(stopped: Stopped) -> Error {
    Error::value(stopped_object(stopped))
}
