//! System errors as error objects: the code is the error's name, and the text says what to do.

use crate::lua::host::entries::Entry;
use crate::lua::host::errors::stopped;
use std::borrow::Cow;
use std::fmt;
use std::io;
use yue_luajit::{Error, Raise, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::transport::LinkRefused;
use yue_scheduler::Stopped;

/// The names of the errors that files and processes have, and advice where there is some.
const NAMES: &[(i32, &str, &str)] = &[
    (
        libc::ENOENT,
        "ENOENT",
        "check the path; a relative one begins at the current folder",
    ),
    (
        libc::EACCES,
        "EACCES",
        "check the permissions of the file and of its folders",
    ),
    (libc::EPERM, "EPERM", "this user may not do that"),
    (
        libc::EEXIST,
        "EEXIST",
        "choose another name, or remove what is there",
    ),
    (
        libc::EISDIR,
        "EISDIR",
        "list a directory with yue.fs.list, remove it with yue.fs.remove",
    ),
    (
        libc::ENOTDIR,
        "ENOTDIR",
        "a part of the path is a file, not a directory",
    ),
    (
        libc::ENOTEMPTY,
        "ENOTEMPTY",
        "remove what is in it first, or pass { recursive = true }",
    ),
    (
        libc::EXDEV,
        "EXDEV",
        "the new name is on another file system: write the file there, then remove this one",
    ),
    (
        libc::EMFILE,
        "EMFILE",
        "close files, or raise the limit of open files (ulimit -n)",
    ),
    (libc::ENFILE, "ENFILE", "the system has too many open files"),
    (
        libc::ENOSPC,
        "ENOSPC",
        "free space, or raise the limit that is exhausted",
    ),
    (libc::EDQUOT, "EDQUOT", "the user's quota is exhausted"),
    (libc::EROFS, "EROFS", "the file system is read-only"),
    (libc::EFBIG, "EFBIG", "read it in parts"),
    (libc::ELOOP, "ELOOP", "symbolic links lead in a circle"),
    (libc::ENAMETOOLONG, "ENAMETOOLONG", "use a shorter path"),
    (
        libc::ETXTBSY,
        "ETXTBSY",
        "the program is running, or still open for writing",
    ),
    (
        libc::ENOEXEC,
        "ENOEXEC",
        "it is not a program; a script begins with #! and its interpreter",
    ),
    (
        libc::E2BIG,
        "E2BIG",
        "pass long arguments through standard input",
    ),
    (libc::EPIPE, "EPIPE", "the reader has closed its end"),
    (libc::EINVAL, "EINVAL", ""),
    (libc::EBUSY, "EBUSY", ""),
    (libc::EIO, "EIO", ""),
    (libc::EAGAIN, "EAGAIN", ""),
    (libc::ENOMEM, "ENOMEM", ""),
    (libc::ENXIO, "ENXIO", ""),
    (libc::ENODEV, "ENODEV", ""),
    (libc::ESRCH, "ESRCH", ""),
    (libc::EBADF, "EBADF", ""),
    (libc::EOPNOTSUPP, "EOPNOTSUPP", ""),
];

/// The errors that sockets have, with advice and the class of the error object. The table above has the others.
const NETWORK: &[(i32, &str, &str, ErrorKind)] = &[
    (
        libc::ECONNREFUSED,
        "ECONNREFUSED",
        "nothing listens there: check the address, and whether the server runs",
        ErrorKind::ConnectionRefused,
    ),
    (
        libc::ENOENT,
        "ENOENT",
        "there is no socket at the path: check it, and whether the server runs",
        ErrorKind::ConnectionRefused,
    ),
    (
        libc::ECONNRESET,
        "ECONNRESET",
        "the peer has ended the connection, perhaps before it had read everything",
        ErrorKind::ConnectionLost,
    ),
    (
        libc::EPIPE,
        "EPIPE",
        "the peer has closed the connection, or this side has ended its direction",
        ErrorKind::ConnectionLost,
    ),
    (
        libc::ECONNABORTED,
        "ECONNABORTED",
        "",
        ErrorKind::ConnectionLost,
    ),
    (
        libc::ENOTCONN,
        "ENOTCONN",
        "the connection has ended",
        ErrorKind::ConnectionLost,
    ),
    (
        libc::ETIMEDOUT,
        "ETIMEDOUT",
        "the peer, or a network on the way, does not answer",
        ErrorKind::ConnectionTimeout,
    ),
    (
        libc::ENETUNREACH,
        "ENETUNREACH",
        "this machine has no route to that network",
        ErrorKind::NetworkUnreachable,
    ),
    (
        libc::EHOSTUNREACH,
        "EHOSTUNREACH",
        "the network does not reach that machine",
        ErrorKind::NetworkUnreachable,
    ),
    (
        libc::ENETDOWN,
        "ENETDOWN",
        "the network interface is down",
        ErrorKind::NetworkUnreachable,
    ),
    (
        libc::EADDRINUSE,
        "EADDRINUSE",
        "another socket has this address: choose another port, or end the program that has it",
        ErrorKind::Address,
    ),
    (
        libc::EADDRNOTAVAIL,
        "EADDRNOTAVAIL",
        "this machine does not have that address",
        ErrorKind::Address,
    ),
    (
        libc::EAFNOSUPPORT,
        "EAFNOSUPPORT",
        "the socket is for the other family of addresses: bind udp://[::]:0 for IPv6",
        ErrorKind::Address,
    ),
    (
        libc::EDESTADDRREQ,
        "EDESTADDRREQ",
        "give the address of the receiver, or connect the socket first",
        ErrorKind::Address,
    ),
    (
        libc::EACCES,
        "EACCES",
        "ports below 1024 and the files of sockets need permission, and broadcasts the option broadcast",
        ErrorKind::Address,
    ),
    (
        libc::EPERM,
        "EPERM",
        "a firewall of this machine may forbid it",
        ErrorKind::Address,
    ),
    (
        libc::EMSGSIZE,
        "EMSGSIZE",
        "a datagram has at most 65507 bytes",
        ErrorKind::Argument,
    ),
    (libc::ENOBUFS, "ENOBUFS", "", ErrorKind::Runtime),
];

/// An error object whose code is the name of a system error.
struct SystemError {
    kind: ErrorKind,
    code: Cow<'static, str>,
    message: String,
}

impl Raise for SystemError {
    /// Calls the prelude's `make_error`. May raise. Nothing here has a destructor of its own.
    fn push(&self, stack: Stack<'_>) {
        stack.reserve(4);
        // SAFETY: `Stack` promises a valid state where errors may be raised; there is room.
        unsafe {
            Entry::MakeError.push(stack.raw());
            stack.push_bytes(self.kind.name().as_bytes());
            stack.push_bytes(self.message.as_bytes());
            stack.push_bytes(self.code.as_bytes());
            ffi::lua_call(stack.raw(), 3, 1);
        }
    }
}

/// The error with that code, to be raised.
pub(crate) fn coded(code: &'static str, message: String) -> Error {
    coded_as(ErrorKind::Runtime, code, message)
}

/// The error of that class with that code, to be raised.
pub(crate) fn coded_as(kind: ErrorKind, code: &'static str, message: String) -> Error {
    Error::value(SystemError {
        kind,
        code: code.into(),
        message,
    })
}

/// A failed operation, to be raised; `what` says which: `cannot read '/etc/x'`.
pub(crate) fn failed(what: &str, failure: &io::Error) -> Error {
    if let Some(reason) = stop_of(failure) {
        return stopped(reason);
    }
    let number = number_of(failure);
    let known = NAMES.iter().find(|(known, _, _)| Some(*known) == number);
    let code = match (known, number) {
        (Some((_, name, _)), _) => Cow::Borrowed(*name),
        (None, Some(number)) => Cow::Owned(format!("E{number}")),
        (None, None) => Cow::Borrowed("EIO"),
    };
    let advice = known.map_or("", |(_, _, advice)| advice);
    Error::value(SystemError {
        kind: ErrorKind::Runtime,
        code,
        message: message_of(what, failure, advice),
    })
}

/// Like `failed`, for an operation of a socket.
pub(crate) fn network_failed(what: &str, failure: &io::Error) -> Error {
    let inner = failure.get_ref();
    if let Some(reason) = stop_of(failure) {
        return stopped(reason);
    }
    if inner.is_some_and(|inner| inner.is::<Closed>()) {
        return coded("EBADF", message_of(what, failure, ""));
    }
    if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<LinkRefused>()) {
        return coded_as(refused.kind, "EPROTO", message_of(what, failure, ""));
    }
    let number = number_of(failure);
    let known = NETWORK.iter().find(|known| Some(known.0) == number);
    if let Some((_, code, advice, kind)) = known {
        return coded_as(*kind, code, message_of(what, failure, advice));
    }
    let text = failure.to_string();
    match failure.kind() {
        // TLS without its end.
        io::ErrorKind::UnexpectedEof => coded_as(
            ErrorKind::ConnectionLost,
            "ECONNRESET",
            message_of(what, failure, ""),
        ),
        io::ErrorKind::InvalidInput if failure.raw_os_error().is_none() => {
            coded_as(ErrorKind::Address, "EINVAL", message_of(what, failure, ""))
        }
        io::ErrorKind::InvalidData => {
            coded_as(ErrorKind::Tls, "EPROTO", message_of(what, failure, ""))
        }
        _ if text.starts_with(LOOKUP_FAILED) => {
            let text = text.trim_start_matches(LOOKUP_FAILED);
            let message = format!("{what}: the name cannot be resolved{text}");
            coded_as(ErrorKind::Transport, "ENOTFOUND", message)
        }
        _ => failed(what, failure),
    }
}

/// The beginning of the standard library's text when a name cannot be resolved; the error has no number.
const LOOKUP_FAILED: &str = "failed to lookup address information";

/// The error of an operation on a resource that another fiber has closed.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is closed")
    }
}

impl std::error::Error for Closed {}

impl From<Closed> for io::Error {
    fn from(closed: Closed) -> io::Error {
        io::Error::other(closed)
    }
}

/// The reason of a stopped fiber, if that is the failure.
pub(crate) fn stop_of(failure: &io::Error) -> Option<Stopped> {
    failure.get_ref()?.downcast_ref::<Stopped>().copied()
}

/// The number of the system's error.
fn number_of(failure: &io::Error) -> Option<i32> {
    let of_kind = || match failure.kind() {
        // A zero byte in a path is refused before the system sees it.
        io::ErrorKind::InvalidInput => Some(libc::EINVAL),
        // yue's own checks return these without a number.
        io::ErrorKind::AddrInUse => Some(libc::EADDRINUSE),
        io::ErrorKind::ConnectionRefused => Some(libc::ECONNREFUSED),
        io::ErrorKind::AlreadyExists => Some(libc::EEXIST),
        _ => None,
    };
    failure.raw_os_error().or_else(of_kind)
}

fn message_of(what: &str, failure: &io::Error, advice: &str) -> String {
    let mut message = format!("{what}: {}", reason(failure));
    if !advice.is_empty() {
        message.push_str("; ");
        message.push_str(advice);
    }
    message
}

/// The system's text, without the number that the standard library appends.
pub(crate) fn reason(failure: &io::Error) -> String {
    let text = failure.to_string();
    let text = text
        .split_once(" (os error")
        .map_or(&*text, |(text, _)| text);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

/// The number of the system error with that name. Other failures count as a failed operation.
pub(crate) fn errno_named(name: &[u8]) -> i32 {
    let known = NAMES.iter().find(|(_, known, _)| known.as_bytes() == name);
    known.map_or(libc::EIO, |(number, _, _)| *number)
}

/// A path or a name, for messages.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    format!("'{}'", String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_no_number_and_begins_in_lower_case() {
        let failure = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(reason(&failure), "no such file or directory");
        assert_eq!(reason(&io::Error::other("")), "");
    }

    #[test]
    fn each_error_has_one_name() {
        for (index, (number, name, _)) in NAMES.iter().enumerate() {
            assert!(
                NAMES[..index]
                    .iter()
                    .all(|(other, known, _)| other != number && known != name)
            );
        }
        for (index, (number, name, _, _)) in NETWORK.iter().enumerate() {
            let before = NETWORK[..index].iter().map(|known| (known.0, known.1));
            let elsewhere = NAMES.iter().map(|known| (known.0, known.1));
            assert!(
                before
                    .chain(elsewhere.filter(|known| known != &(*number, *name)))
                    .all(|(other, known)| other != *number && known != *name)
            );
        }
    }
}
