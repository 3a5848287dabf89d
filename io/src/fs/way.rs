//! How an operation on files is done: by the ring where it can, else by a call on the blocking pool.

use crate::driver::{Here, here};
use crate::uring::Core;
use io_uring::squeue;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

pub(super) enum Way {
    Ring(Rc<Core>),
    /// See [`offload`](crate::offload::offload).
    Offload,
}

/// The way of an operation with that code of io_uring's.
pub(super) fn way(code: u8) -> io::Result<Way> {
    Ok(match here()? {
        Here::Uring(core) if core.does_files(code) => Way::Ring(core),
        _ => Way::Offload,
    })
}

/// Does an operation on the ring.
///
/// # Safety
/// What the entry points to is valid for as long as this call runs.
pub(super) unsafe fn on_ring(
    core: &Core,
    reason: &'static str,
    entry: squeue::Entry,
) -> io::Result<usize> {
    crate::descriptor::not_stopped(reason)?;
    // SAFETY: passed on to the caller.
    unsafe { core.run(entry, reason) }.map(|count| count as usize)
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        let text = format!("the path {path:?} has a zero byte in it");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}
