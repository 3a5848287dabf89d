//! Files and directories for fibers, like `std::fs`. A call that may wait for a disk parks the fiber.
//!
//! On io_uring, the ring opens, reads, writes, syncs, allocates, renames and removes. Other calls, and all calls on
//! mio, run on the scheduler's blocking pool; but a whole file that the page cache holds is read at once. Either way a
//! call that has begun is waited for, even by a cancelled fiber, and reports its real outcome. In a
//! [simulation](crate::simulation), files are those of the host's disk in memory.
//!
//! ```
//! yue_io::run(|| -> std::io::Result<()> {
//!     let dir = yue_io::fs::TempDir::new()?;
//!     let (draft, done) = (dir.path().join("draft"), dir.path().join("done"));
//!     yue_io::fs::write(&draft, "text")?;
//!     yue_io::fs::rename(&draft, &done)?;
//!     assert_eq!(yue_io::fs::read_to_string(&done)?, "text");
//!     assert!(!yue_io::fs::exists(&draft)?);
//!     Ok(())
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

mod cached;
mod directory;
mod file;
mod metadata;
mod open;
mod ring_or_pool;
mod system;
mod temporary;

pub use directory::{DirEntry, ReadDir, read_dir};
pub use file::File;
pub use metadata::{FileType, Metadata};
pub use open::OpenOptions;
pub use std::fs::{FileTimes, Permissions};
pub use temporary::{NamedTempFile, TempDir, tempfile};

use crate::descriptor::{check_not_stopped, yield_if_over_budget};
use crate::driver::caller;
use crate::offload::{is_unwinding, offload};
use crate::simulated;
use io_uring::{opcode, types};
use ring_or_pool::{Executor, c_path, executor, on_ring};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use yue_scheduler::in_fiber;

/// The size of the first buffer of a whole-file read. It doubles as long as the file is larger.
const FIRST_READ: usize = 64 * 1024;

const CWD: types::Fd = types::Fd(libc::AT_FDCWD);

/// Reads a whole file.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    let length = read_into(path, &mut buffer, usize::MAX - 1)?;
    buffer.truncate(length.unwrap_or_default());
    Ok(buffer)
}

/// Reads a whole file into a buffer that is used again. Returns the number of bytes at its beginning that are the
/// file's; the rest is left over from growing it, or from an earlier file. `None` if the file has more than `bytes_max`
/// bytes.
///
/// ```
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     yue_io::fs::write(dir.path().join("a"), "text")?;
///     let mut buffer = Vec::new();
///     let length = yue_io::fs::read_into(dir.path().join("a"), &mut buffer, 1000)?;
///     assert_eq!(&buffer[..length.unwrap()], b"text");
///     assert_eq!(yue_io::fs::read_into(dir.path().join("a"), &mut buffer, 3)?, None);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn read_into(
    path: impl AsRef<Path>,
    buffer: &mut Vec<u8>,
    bytes_max: usize,
) -> io::Result<Option<usize>> {
    let path = path.as_ref();
    match executor(opcode::Read::CODE)? {
        Executor::Ring(_) => read_all(File::open(path)?, buffer, bytes_max),
        Executor::Offload => {
            if simulated::is_on() {
                return offload("read a file", || {
                    read_all(File::open(path)?, buffer, bytes_max)
                });
            }
            if in_fiber() && !is_unwinding() {
                check_not_stopped("read a file")?;
                yield_if_over_budget(&caller()?)?;
                if let Some(length) = cached::read_cached(path, buffer, bytes_max) {
                    return Ok(Some(length));
                }
            }
            offload("read a file", || {
                read_all(std::fs::File::open(path)?, buffer, bytes_max)
            })
        }
    }
}

fn read_all(
    mut file: impl Read,
    buffer: &mut Vec<u8>,
    bytes_max: usize,
) -> io::Result<Option<usize>> {
    let mut length = 0;
    loop {
        if length > bytes_max {
            return Ok(None);
        }
        if length == buffer.len() {
            // One byte more tells a file that is too large.
            buffer.resize((2 * length).max(FIRST_READ).min(bytes_max + 1), 0);
        }
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(Some(length)),
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a whole file as text.
///
/// # Errors
/// See [`read`]; `InvalidData` if the contents are not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Writes a whole file. Creates it, or replaces its contents.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes. The file may then hold a part of the
/// bytes.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, bytes) = (path.as_ref(), bytes.as_ref());
    match executor(opcode::Write::CODE)? {
        Executor::Ring(_) => File::create(path)?.write_all(bytes),
        Executor::Offload => offload("write a file", || match simulated::is_on() {
            true => File::create(path)?.write_all(bytes),
            false => std::fs::write(path, bytes),
        }),
    }
}

/// Renames a file, atomically replacing the destination.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
///
/// This replaces a file as a whole: readers see the old contents or the new ones.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "rename a file";
    let (from, to) = (from.as_ref(), to.as_ref());
    match executor(opcode::RenameAt::CODE)? {
        Executor::Ring(core) => {
            let (from, to) = (c_path(from)?, c_path(to)?);
            let entry = opcode::RenameAt::new(CWD, from.as_ptr(), CWD, to.as_ptr()).build();
            // SAFETY: the paths live in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Executor::Offload => offload(REASON, || system::rename(from, to)),
    }
}

/// Removes a file.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    if simulated::is_on() && simulated::remove_socket(path.as_ref()) {
        return Ok(());
    }
    unlink(path.as_ref(), 0, system::remove_file)
}

/// Removes an empty directory.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    unlink(path.as_ref(), libc::AT_REMOVEDIR, system::remove_dir)
}

fn unlink(path: &Path, flags: i32, call: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    const REASON: &str = "remove a file";
    match executor(opcode::UnlinkAt::CODE)? {
        Executor::Ring(core) => {
            let path = c_path(path)?;
            let entry = opcode::UnlinkAt::new(CWD, path.as_ptr()).flags(flags);
            // SAFETY: the path lives in this frame.
            unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
        }
        Executor::Offload => offload(REASON, || call(path)),
    }
}

/// Creates a directory.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "create a directory";
    let path = path.as_ref();
    match executor(opcode::MkDirAt::CODE)? {
        Executor::Ring(core) => {
            let path = c_path(path)?;
            let entry = opcode::MkDirAt::new(CWD, path.as_ptr()).mode(0o777);
            // SAFETY: the path lives in this frame.
            unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
        }
        Executor::Offload => offload(REASON, || system::create_dir(path)),
    }
}

/// Creates a hard link: a second name for a file.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn hard_link(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "link a file";
    let (original, link) = (original.as_ref(), link.as_ref());
    match executor(opcode::LinkAt::CODE)? {
        Executor::Ring(core) => {
            let (original, link) = (c_path(original)?, c_path(link)?);
            let entry = opcode::LinkAt::new(CWD, original.as_ptr(), CWD, link.as_ptr()).build();
            // SAFETY: the paths live in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Executor::Offload => offload(REASON, || system::hard_link(original, link)),
    }
}

/// Creates a symbolic link at `link` that points to `original`.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn symlink(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "create a symbolic link";
    let (original, link) = (original.as_ref(), link.as_ref());
    match executor(opcode::SymlinkAt::CODE)? {
        Executor::Ring(core) => {
            let (original, link) = (c_path(original)?, c_path(link)?);
            let entry = opcode::SymlinkAt::new(CWD, original.as_ptr(), link.as_ptr()).build();
            // SAFETY: the paths live in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Executor::Offload => offload(REASON, || system::symlink(original, link)),
    }
}

/// Defines functions that call the functions of the same name in [`system`] on the blocking pool.
macro_rules! offloaded {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $path:ty),+) -> $result:ty;)+) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The system's error; or when the fiber is cancelled or its deadline passes.
        pub fn $name($($argument: $path),+) -> io::Result<$result> {
            $(let $argument = $argument.as_ref();)+
            offload(concat!("fs::", stringify!($name)), || system::$name($($argument),+))
        }
    )+};
}

offloaded! {
    /// Creates a directory and its missing parents.
    fn create_dir_all(path: impl AsRef<Path>) -> ();
    /// Removes a directory and its contents.
    fn remove_dir_all(path: impl AsRef<Path>) -> ();
    /// Returns a file's metadata. Follows symbolic links.
    fn metadata(path: impl AsRef<Path>) -> Metadata;
    /// Returns the metadata of a file or of a symbolic link itself.
    fn symlink_metadata(path: impl AsRef<Path>) -> Metadata;
    /// Whether a file exists. Fails when that cannot be determined.
    fn exists(path: impl AsRef<Path>) -> bool;
    /// Returns the absolute path without symbolic links.
    fn canonicalize(path: impl AsRef<Path>) -> PathBuf;
    /// Returns the target of a symbolic link.
    fn read_link(path: impl AsRef<Path>) -> PathBuf;
    /// Copies a file's contents and permissions to another file. Returns the number of bytes.
    fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> u64;
}

/// Sets a file's permissions.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
pub fn set_permissions(path: impl AsRef<Path>, permissions: Permissions) -> io::Result<()> {
    let path = path.as_ref();
    offload("set permissions", || {
        system::set_permissions(path, permissions)
    })
}
