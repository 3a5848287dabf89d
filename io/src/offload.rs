//! What the kernel offers only as a call that blocks: made on a thread of the blocking pool, while the fiber parks.

use crate::descriptor::not_stopped;
use crate::errors::cannot_wait;
use crate::sys;
use std::io;
use std::os::fd::RawFd;
use std::thread;
use yue_scheduler::{blocking_borrowed, in_fiber, this_loop};

/// Bytes that a pipe takes without blocking when it says that it is writable (`PIPE_BUF`).
pub(crate) const WRITE_MOST: usize = 4096;

/// Makes a call that blocks: from a fiber on the pool, on a plain thread here. Once it has begun it is waited for, so
/// that what really happened is what is reported, also to a fiber that is told to stop.
pub(crate) fn offload<T: Send>(
    reason: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if in_fiber() {
        not_stopped(reason)?;
        return blocking_borrowed(work)?;
    }
    if this_loop::exists() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    work()
}

/// As [`offload`], for a read or a write of `fd`, which waits for `events` if it waits.
///
/// A fiber that unwinds cannot wait for the pool, but what a buffer holds should reach its file. So it makes the call
/// itself: on a file of a disk, as the standard library does, and on what is ready.
pub(crate) fn offload_transfer<T: Send>(
    reason: &'static str,
    fd: RawFd,
    events: i16,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if !unwinds() {
        return offload(reason, work);
    }
    not_stopped(reason)?;
    if !sys::is_regular_file(fd) {
        match sys::demand_ready(fd, events) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(cannot_wait()),
            other => other?,
        }
    }
    work()
}

/// As much of `bytes` as [`offload_transfer`] may write to `fd` here.
pub(crate) fn writable_now(fd: RawFd, bytes: &[u8]) -> &[u8] {
    if unwinds() && !sys::is_regular_file(fd) {
        &bytes[..bytes.len().min(WRITE_MOST)]
    } else {
        bytes
    }
}

/// Whether a fiber runs here, and unwinds.
pub(crate) fn unwinds() -> bool {
    thread::panicking() && in_fiber()
}
