//! Files and directories, as in `std::fs`, on fibers: what may wait for a disk parks the fiber.
//!
//! On io_uring, opening, reading, writing, syncing, allocating, renaming and removing are operations of the ring. The
//! rest, and all of it on mio, are calls on the threads of the scheduler's blocking pool. Either way a call that has
//! begun is waited for, also by a fiber that is told to stop, and reports what really happened.
//!
//! ```
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let place = yue::fs::TempDir::new()?;
//!     let (draft, done) = (place.path().join("draft"), place.path().join("done"));
//!     yue::fs::write(&draft, "text")?;
//!     yue::fs::rename(&draft, &done)?;
//!     assert_eq!(yue::fs::read_to_string(&done)?, "text");
//!     assert!(!yue::fs::exists(&draft)?);
//!     Ok(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod directory;
mod file;
mod open;
mod temporary;
mod way;

pub use directory::{ReadDir, read_dir};
pub use file::File;
pub use open::OpenOptions;
pub use std::fs::{DirEntry, FileTimes, FileType, Metadata, Permissions};
pub use temporary::{NamedTempFile, TempDir, tempfile};

use crate::offload::offload;
use io_uring::{opcode, types};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use way::{Way, c_path, on_ring, way};

/// Bytes of a file that is read as a whole, at the first call; each one after doubles it.
const FIRST_READ: usize = 16 * 1024;

/// Bytes of such a call at the most.
const READ_MOST: usize = 1024 * 1024;

const CWD: types::Fd = types::Fd(libc::AT_FDCWD);

/// All that a file holds.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("data");
/// fs::write(&path, [1, 2, 3])?;
/// assert_eq!(fs::read(&path)?, [1, 2, 3]);
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    if let Way::Offload = way(opcode::Read::CODE)? {
        return offload("read a file", || std::fs::read(path));
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut chunk = FIRST_READ;
    loop {
        let start = bytes.len();
        bytes.resize(start + chunk, 0);
        let count = match file.read(&mut bytes[start..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Ok(0) => {
                bytes.truncate(start);
                return Ok(bytes);
            }
            other => other?,
        };
        bytes.truncate(start + count);
        chunk = (2 * chunk).min(READ_MOST);
    }
}

/// All that a file holds, as text.
///
/// # Errors
/// As [`read`]; of the kind `InvalidData` if it is not UTF-8.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("settings");
/// fs::write(&path, "port = 80")?;
/// assert_eq!(fs::read_to_string(&path)?, "port = 80");
/// fs::write(&path, [0xff])?;
/// let error = fs::read_to_string(&path).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Makes a file, or replaces what it holds.
///
/// # Errors
/// The system's; or when the fiber is told to stop. The file may hold a part of it then.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("state");
/// fs::write(&path, "a longer text")?;
/// fs::write(&path, "short")?;
/// assert_eq!(fs::read_to_string(&path)?, "short");
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, bytes) = (path.as_ref(), bytes.as_ref());
    match way(opcode::Write::CODE)? {
        Way::Ring(_) => File::create(path)?.write_all(bytes),
        Way::Offload => offload("write a file", || std::fs::write(path, bytes)),
    }
}

/// Gives a file another name, at which whatever was there is replaced in one step.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// So a file is replaced as a whole: readers see the old one or the new one.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let (draft, state) = (place.path().join("draft"), place.path().join("state"));
/// fs::write(&state, "old")?;
/// fs::write(&draft, "new")?;
/// fs::rename(&draft, &state)?;
/// assert_eq!(fs::read_to_string(&state)?, "new");
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "rename a file";
    let (from, to) = (from.as_ref(), to.as_ref());
    match way(opcode::RenameAt::CODE)? {
        Way::Ring(core) => {
            let (from, to) = (c_path(from)?, c_path(to)?);
            let entry = opcode::RenameAt::new(CWD, from.as_ptr(), CWD, to.as_ptr()).build();
            // SAFETY: the paths are in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Way::Offload => offload(REASON, || std::fs::rename(from, to)),
    }
}

/// Removes a file.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("lock");
/// fs::write(&path, "")?;
/// fs::remove_file(&path)?;
/// assert!(!fs::exists(&path)?);
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    unlink(path.as_ref(), 0, |path| std::fs::remove_file(path))
}

/// Removes an empty directory.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("queue");
/// fs::create_dir(&path)?;
/// fs::write(path.join("job"), "")?;
/// assert!(fs::remove_dir(&path).is_err()); // It is not empty.
/// fs::remove_file(path.join("job"))?;
/// fs::remove_dir(&path)?;
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let flags = libc::AT_REMOVEDIR;
    unlink(path.as_ref(), flags, |path| std::fs::remove_dir(path))
}

fn unlink(path: &Path, flags: i32, call: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    const REASON: &str = "remove a file";
    match way(opcode::UnlinkAt::CODE)? {
        Way::Ring(core) => {
            let path = c_path(path)?;
            let entry = opcode::UnlinkAt::new(CWD, path.as_ptr()).flags(flags);
            // SAFETY: the path is in this frame.
            unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
        }
        Way::Offload => offload(REASON, || call(path)),
    }
}

/// Makes a directory.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("queue");
/// fs::create_dir(&path)?;
/// let error = fs::create_dir(&path).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "make a directory";
    let path = path.as_ref();
    match way(opcode::MkDirAt::CODE)? {
        Way::Ring(core) => {
            let path = c_path(path)?;
            let entry = opcode::MkDirAt::new(CWD, path.as_ptr()).mode(0o777);
            // SAFETY: the path is in this frame.
            unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
        }
        Way::Offload => offload(REASON, || std::fs::create_dir(path)),
    }
}

/// Makes a second name for a file.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let (one, other) = (place.path().join("one"), place.path().join("other"));
/// fs::write(&one, "kept")?;
/// fs::hard_link(&one, &other)?;
/// fs::remove_file(&one)?;
/// assert_eq!(fs::read_to_string(&other)?, "kept");
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn hard_link(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "link a file";
    let (original, link) = (original.as_ref(), link.as_ref());
    match way(opcode::LinkAt::CODE)? {
        Way::Ring(core) => {
            let (original, link) = (c_path(original)?, c_path(link)?);
            let entry = opcode::LinkAt::new(CWD, original.as_ptr(), CWD, link.as_ptr()).build();
            // SAFETY: the paths are in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Way::Offload => offload(REASON, || std::fs::hard_link(original, link)),
    }
}

/// Makes a symbolic link at `link` that leads to `original`.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let (release, current) = (place.path().join("1.0"), place.path().join("current"));
/// fs::write(&release, "one")?;
/// fs::symlink(&release, &current)?;
/// assert_eq!(fs::read_to_string(&current)?, "one");
/// assert!(fs::symlink_metadata(&current)?.is_symlink());
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn symlink(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    const REASON: &str = "make a symbolic link";
    let (original, link) = (original.as_ref(), link.as_ref());
    match way(opcode::SymlinkAt::CODE)? {
        Way::Ring(core) => {
            let (original, link) = (c_path(original)?, c_path(link)?);
            let entry = opcode::SymlinkAt::new(CWD, original.as_ptr(), link.as_ptr()).build();
            // SAFETY: the paths are in this frame.
            unsafe { on_ring(&core, REASON, entry) }.map(drop)
        }
        Way::Offload => offload(REASON, || std::os::unix::fs::symlink(original, link)),
    }
}

/// The functions of `std::fs` of the same name, on the blocking pool.
macro_rules! offloaded {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $path:ty),+) -> $result:ty;)+) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The system's; or when the fiber is told to stop.
        pub fn $name($($argument: $path),+) -> io::Result<$result> {
            $(let $argument = $argument.as_ref();)+
            offload(concat!("fs::", stringify!($name)), || std::fs::$name($($argument),+))
        }
    )+};
}

offloaded! {
    /// Makes a directory and those above it that are missing.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let deep = place.path().join("a/b/c");
    /// fs::create_dir_all(&deep)?;
    /// fs::create_dir_all(&deep)?; // That it is there already is no error.
    /// assert!(fs::metadata(&deep)?.is_dir());
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn create_dir_all(path: impl AsRef<Path>) -> ();
    /// Removes a directory with all that is in it.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let build = place.path().join("build");
    /// fs::create_dir_all(build.join("debug"))?;
    /// fs::remove_dir_all(&build)?;
    /// assert!(!fs::exists(&build)?);
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn remove_dir_all(path: impl AsRef<Path>) -> ();
    /// What the file system knows about a file; symbolic links are followed.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let path = place.path().join("page");
    /// fs::write(&path, "hello")?;
    /// let known = fs::metadata(&path)?;
    /// assert!(known.is_file());
    /// assert_eq!(known.len(), 5);
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn metadata(path: impl AsRef<Path>) -> Metadata;
    /// What the file system knows about a file, or a symbolic link itself.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let link = place.path().join("link");
    /// fs::symlink("nowhere", &link)?;
    /// assert!(fs::symlink_metadata(&link)?.is_symlink());
    /// assert!(fs::metadata(&link).is_err()); // It leads nowhere.
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn symlink_metadata(path: impl AsRef<Path>) -> Metadata;
    /// Whether there is a file; an error when that cannot be told.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// assert!(fs::exists(place.path())?);
    /// assert!(!fs::exists(place.path().join("file"))?);
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn exists(path: impl AsRef<Path>) -> bool;
    /// The absolute path without symbolic links.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// fs::create_dir(place.path().join("a"))?;
    /// let whole = fs::canonicalize(place.path().join("a/.."))?;
    /// assert_eq!(whole, fs::canonicalize(place.path())?);
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn canonicalize(path: impl AsRef<Path>) -> PathBuf;
    /// Where a symbolic link leads.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use std::path::Path;
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let current = place.path().join("current");
    /// fs::symlink("1.0", &current)?;
    /// assert_eq!(fs::read_link(&current)?, Path::new("1.0"));
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn read_link(path: impl AsRef<Path>) -> PathBuf;
    /// Copies what a file holds, and its permissions, to another; returns the number of bytes.
    ///
    /// ```
    /// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
    /// use yue::fs;
    ///
    /// let place = fs::TempDir::new()?;
    /// let (one, other) = (place.path().join("one"), place.path().join("other"));
    /// fs::write(&one, "hello")?;
    /// assert_eq!(fs::copy(&one, &other)?, 5);
    /// assert_eq!(fs::read(&other)?, fs::read(&one)?);
    /// #     Ok(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> u64;
}

/// Sets who may do what with a file.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use yue::fs;
///
/// let place = fs::TempDir::new()?;
/// let path = place.path().join("secret");
/// fs::write(&path, "")?;
/// let mut permissions = fs::metadata(&path)?.permissions();
/// permissions.set_readonly(true);
/// fs::set_permissions(&path, permissions)?;
/// assert!(fs::metadata(&path)?.permissions().readonly());
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn set_permissions(path: impl AsRef<Path>, permissions: Permissions) -> io::Result<()> {
    let path = path.as_ref();
    offload("set permissions", || {
        std::fs::set_permissions(path, permissions)
    })
}
