//! Runs calls that the kernel offers only in blocking form on the blocking pool, while the fiber parks.

use crate::descriptor::check_not_stopped;
use crate::errors::cannot_wait;
use crate::sys;
use std::io;
use std::os::fd::RawFd;
use std::thread;
use yue_scheduler::{blocking_borrowed, in_fiber, this_loop};

/// Bytes that a pipe accepts without blocking once it is writable (`PIPE_BUF`).
pub(crate) const WRITE_BYTES_MAX: usize = 4096;

/// Makes a blocking call: on the pool for a fiber, directly on a plain thread. A call that has begun is waited for, so
/// that its real outcome is reported, even to a fiber that was stopped.
pub(crate) fn offload<T: Send>(
    reason: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if in_fiber() {
        check_not_stopped(reason)?;
        return blocking_borrowed(work)?;
    }
    if this_loop::exists() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    work()
}

/// Like [`offload`], for a read or a write of `fd` that may wait for `events`.
///
/// An unwinding fiber cannot wait for the pool, but the contents of a buffer should reach its file. So it makes the
/// call itself: always on a disk file, like the standard library, and elsewhere only if the descriptor is ready.
pub(crate) fn offload_transfer<T: Send>(
    reason: &'static str,
    fd: RawFd,
    events: i16,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if !is_unwinding() {
        return offload(reason, work);
    }
    check_not_stopped(reason)?;
    if !sys::is_regular_file(fd) {
        match sys::check_ready(fd, events) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(cannot_wait()),
            other => other?,
        }
    }
    work()
}

/// Like [`offload`], for a read or a write of a simulated disk, with the same exception as [`offload_transfer`].
pub(crate) fn offload_simulated<T: Send>(
    reason: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if !is_unwinding() {
        return offload(reason, work);
    }
    check_not_stopped(reason)?;
    work()
}

/// Returns the part of `bytes` that [`offload_transfer`] may write to `fd` here.
pub(crate) fn writable_now(fd: RawFd, bytes: &[u8]) -> &[u8] {
    if is_unwinding() && !sys::is_regular_file(fd) {
        &bytes[..bytes.len().min(WRITE_BYTES_MAX)]
    } else {
        bytes
    }
}

/// Whether a fiber runs here and is unwinding.
pub(crate) fn is_unwinding() -> bool {
    thread::panicking() && in_fiber()
}
