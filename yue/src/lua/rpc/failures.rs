//! Failures of handlers and callbacks: logged here, and sent to the peer without internal details.

use crate::lua::host::errors::ErrorObject;
use crate::lua::host::log;
use crate::lua::rpc::methods::FUNCTIONS;
use smallvec::SmallVec;
use std::borrow::Cow;
use yue_rpc::session::{CallMethod, Session};
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::LogLevel;

/// Bytes of a method's name that are kept for the log; longer names are cut.
const NAME_SHOWN: usize = 64;

/// The method of a request, for the log: the buffer that holds its name is returned before the handler runs.
pub(crate) struct Called {
    name: Option<SmallVec<[u8; NAME_SHOWN]>>,
}

impl Called {
    #[inline]
    pub(crate) fn of(method: CallMethod<'_>) -> Called {
        let name = match method {
            CallMethod::Name(name) => {
                Some(SmallVec::from_slice(&name[..name.len().min(NAME_SHOWN)]))
            }
            CallMethod::Token(_) => None,
        };
        Called { name }
    }

    /// The name, for counters.
    #[inline]
    pub(crate) fn counted_name(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(FUNCTIONS)
    }

    /// The name, or a stand-in for a function without a name.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(b"a passed function")
    }

    pub(crate) fn text(&self) -> Cow<'_, str> {
        match &self.name {
            Some(name) => String::from_utf8_lossy(name),
            None => "a function that was passed as a value".into(),
        }
    }
}

/// An error as it is sent to the peer.
pub(crate) fn failure_of(object: ErrorObject, with_traceback: bool) -> Failure {
    let failure = object.into_failure();
    let traceback = failure.traceback.filter(|_| with_traceback);
    Failure {
        message: without_addresses(&failure.message).into_owned(),
        traceback: traceback.map(|text| without_addresses(&text).into_owned()),
        ..failure
    }
}

/// Whether the peer is certainly on this machine.
pub(crate) fn is_local(session: &Session) -> bool {
    let address = session.address();
    address.starts_with("unix://") || address.starts_with("thread://")
}

/// Logs the error that a callback of a connection raised.
pub(crate) fn log_callback(session: &Session, callback: &str, failure: &ErrorObject) {
    let kind = ErrorKind::from_name(&failure.type_name);
    let what = || format!("{callback} failed, for {}", session.address());
    if kind.is_some_and(|kind| kind.is_a(ErrorKind::Transport)) {
        // The peer has gone: a health check, or a port scan.
        log::write_limited(LogLevel::Info, || {
            format!("{}: {}: {}", what(), failure.type_name, failure.message)
        });
    } else {
        let peer = session.address();
        log_failure(
            failure,
            false,
            &what(),
            &[("callback", callback), ("peer", peer)],
        );
    }
}

/// Logs the error of a handler or a callback. One that was stopped from outside is logged only if everything is logged.
/// `facts` are the parts of `what`.
pub(crate) fn log_failure(
    failure: &ErrorObject,
    stopped: bool,
    what: &str,
    facts: &[(&str, &str)],
) {
    let stopped = stopped || failure.type_name == ErrorKind::Cancelled.name();
    let level = if stopped {
        LogLevel::Debug
    } else {
        LogLevel::Error
    };
    log::write_failure_limited(level, what, facts, failure);
}

/// The minimum of digits in an address; a pointer as LuaJIT prints it above 4 GiB has exactly this many.
const ADDRESS_DIGITS_MIN: usize = 8;
const POINTER_DIGITS: usize = 12;

/// Removes addresses of code and memory from a text for readers outside the process: addresses would help an attacker.
/// LuaJIT puts them into tracebacks (`[C]: at 0x55be114544f0`) and into texts of values (`table: 0x7f2a10c8f2b0`).
fn without_addresses(text: &str) -> Cow<'_, str> {
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
            // These are not addresses.
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
