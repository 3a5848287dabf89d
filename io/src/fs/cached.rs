//! Reads files that the page cache holds, on the loop's own thread: for the driver mio, whose other reads take a job of
//! the blocking pool. io_uring does the same by itself.
//!
//! No call here waits for a disk: the path is looked up in the kernel's cache alone (`RESOLVE_CACHED`, Linux 5.12), and
//! the contents are read with `RWF_NOWAIT`. If something is missing there, or the kernel or the file system cannot
//! tell, the pool reads the file.

use super::ring_or_pool::c_path;
use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// A larger file is read by the pool: the copy itself would hold the loop.
const CACHED_MAX: u64 = 4 << 20;

/// Opens a regular file of at most [`CACHED_MAX`] bytes without waiting, and returns its size.
fn open(path: &Path) -> io::Result<Option<(OwnedFd, u64)>> {
    let path = c_path(path)?;
    // Not opened yet: to open a named pipe would be noticed at its other end.
    let found = sys::open_cached(&path, libc::O_PATH)?;
    let Some(size) = sys::regular_file_size(found.as_raw_fd()).filter(|size| *size <= CACHED_MAX)
    else {
        return Ok(None);
    };
    let file = sys::open_cached(&path, libc::O_RDONLY | libc::O_NONBLOCK)?;
    let is_regular = sys::is_regular_file(file.as_raw_fd());
    Ok(is_regular.then_some((file, size)))
}

/// Reads a whole file into a buffer, and returns the number of its bytes. `None` if that might wait, or if the file has
/// more than `bytes_max` bytes.
pub(super) fn read_cached(path: &Path, buffer: &mut Vec<u8>, bytes_max: usize) -> Option<usize> {
    let (file, size) = open(path).ok()??;
    // One byte more finds the end.
    let room = size as usize + 1;
    if size as usize > bytes_max {
        return None;
    }
    if buffer.len() < room {
        buffer.resize(room, 0);
    }
    let mut length = 0;
    loop {
        match sys::read_cached(file.as_raw_fd(), &mut buffer[length..], length as u64) {
            Ok(0) => return Some(length),
            Ok(count) => length += count,
            Err(_) => return None,
        }
        if length == buffer.len() || length > bytes_max {
            // It has grown meanwhile.
            return None;
        }
    }
}
