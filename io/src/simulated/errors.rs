//! The errors of the simulated kernel's calls.

use std::io;

/// Returns the error of a system call.
pub(crate) fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Returns the error of a call that the simulation does not support.
pub(crate) fn unsupported(what: &str) -> io::Error {
    let text = format!(
        "{what} is not simulated; remove it from the scenario, or run it on the real network"
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}
