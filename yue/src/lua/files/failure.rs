//! System errors as error objects: the code is the error's name, and the text says what to do.

use crate::lua::host::entries::Entry;
use crate::lua::host::errors::stopped;
use std::borrow::Cow;
use std::io;
use yue_luajit::{Error, Raise, Stack, ffi};
use yue_rpc::ErrorKind;
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

/// A `RuntimeError` whose code is the name of a system error.
struct SystemError {
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
            stack.push_bytes(ErrorKind::Runtime.name().as_bytes());
            stack.push_bytes(self.message.as_bytes());
            stack.push_bytes(self.code.as_bytes());
            ffi::lua_call(stack.raw(), 3, 1);
        }
    }
}

/// The error with that code, to be raised.
pub(super) fn coded(code: &'static str, message: String) -> Error {
    Error::value(SystemError {
        code: code.into(),
        message,
    })
}

/// A failed operation, to be raised; `what` says which: `cannot read '/etc/x'`.
pub(super) fn failed(what: &str, failure: &io::Error) -> Error {
    let inner = failure.get_ref();
    if let Some(reason) = inner.and_then(|inner| inner.downcast_ref::<Stopped>()) {
        return stopped(*reason);
    }
    // A zero byte in a path is refused before the system sees it.
    let is_invalid = failure.kind() == io::ErrorKind::InvalidInput;
    let number = failure
        .raw_os_error()
        .or(is_invalid.then_some(libc::EINVAL));
    let known = NAMES.iter().find(|(known, _, _)| Some(*known) == number);
    let code = match (known, number) {
        (Some((_, name, _)), _) => Cow::Borrowed(*name),
        (None, Some(number)) => Cow::Owned(format!("E{number}")),
        (None, None) => Cow::Borrowed("EIO"),
    };
    let advice = known.map_or("", |(_, _, advice)| advice);
    let mut message = format!("{what}: {}", reason(failure));
    if !advice.is_empty() {
        message.push_str("; ");
        message.push_str(advice);
    }
    Error::value(SystemError { code, message })
}

/// The system's text, without the number that the standard library appends.
fn reason(failure: &io::Error) -> String {
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

/// A path or a name, for messages.
pub(super) fn quoted(bytes: &[u8]) -> String {
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
    }
}
