//! Chooses how a file operation runs: on the ring if possible, otherwise as a call on the blocking pool.

use crate::driver::{Caller, caller};
use crate::uring::Core;
use io_uring::squeue;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

pub(super) enum Executor {
    Ring(Rc<Core>),
    /// See [`offload`](crate::offload::offload).
    Offload,
}

/// Returns the executor for an operation with that io_uring opcode.
pub(super) fn executor(code: u8) -> io::Result<Executor> {
    Ok(match caller()? {
        Caller::Uring(core) if core.supports_file_operation(code) => Executor::Ring(core),
        _ => Executor::Offload,
    })
}

/// Performs an operation on the ring.
///
/// # Safety
/// The memory that the entry points to stays valid for as long as this call runs.
pub(super) unsafe fn on_ring(
    core: &Core,
    reason: &'static str,
    entry: squeue::Entry,
) -> io::Result<usize> {
    crate::descriptor::check_not_stopped(reason)?;
    // SAFETY: the caller upholds the contract.
    unsafe { core.run_operation(entry, reason) }.map(|count| count as usize)
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        let text = format!("the path {path:?} contains a zero byte");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}
