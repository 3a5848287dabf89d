//! Facts about files: those of the system, or of a simulated disk.

use crate::simulated::files::{Facts, USER};
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::{SystemTime, UNIX_EPOCH};

/// The type of a file, like [`std::fs::FileType`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileType(u32);

impl FileType {
    pub(super) fn from_mode(mode: u32) -> FileType {
        FileType(mode & libc::S_IFMT)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.0 == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.0 == libc::S_IFREG
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.0 == libc::S_IFLNK
    }
}

impl FileTypeExt for FileType {
    fn is_block_device(&self) -> bool {
        self.0 == libc::S_IFBLK
    }

    fn is_char_device(&self) -> bool {
        self.0 == libc::S_IFCHR
    }

    fn is_fifo(&self) -> bool {
        self.0 == libc::S_IFIFO
    }

    fn is_socket(&self) -> bool {
        self.0 == libc::S_IFSOCK
    }
}

impl From<std::fs::FileType> for FileType {
    fn from(kind: std::fs::FileType) -> Self {
        let kinds = [
            (kind.is_file(), libc::S_IFREG),
            (kind.is_dir(), libc::S_IFDIR),
            (kind.is_symlink(), libc::S_IFLNK),
            (kind.is_block_device(), libc::S_IFBLK),
            (kind.is_char_device(), libc::S_IFCHR),
            (kind.is_fifo(), libc::S_IFIFO),
            (kind.is_socket(), libc::S_IFSOCK),
        ];
        let found = kinds.into_iter().find(|(is_it, _)| *is_it);
        FileType(found.map_or(0, |(_, bits)| bits))
    }
}

impl fmt::Debug for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileType")
            .field("is_file", &self.is_file())
            .field("is_dir", &self.is_dir())
            .field("is_symlink", &self.is_symlink())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Source {
    System(std::fs::Metadata),
    Simulated(Facts),
}

/// Facts about a file, like [`std::fs::Metadata`]. [`MetadataExt`] has those that only Unix systems know.
///
/// ```
/// use std::os::unix::fs::MetadataExt;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     yue_io::fs::write(dir.path().join("a"), "text")?;
///     let facts = yue_io::fs::metadata(dir.path().join("a"))?;
///     assert!(facts.is_file() && facts.len() == 4 && facts.nlink() == 1);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Metadata(Source);

impl Metadata {
    /// The type of the file.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode())
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type().is_dir()
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type().is_file()
    }

    /// Whether it is a symbolic link; see [`symlink_metadata`](super::symlink_metadata).
    pub fn is_symlink(&self) -> bool {
        self.file_type().is_symlink()
    }

    /// The number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "as in the standard library")]
    pub fn len(&self) -> u64 {
        self.size()
    }

    /// The permissions.
    pub fn permissions(&self) -> Permissions {
        Permissions::from_mode(self.mode())
    }

    /// The time of the last change of the contents.
    ///
    /// # Errors
    /// Where the system does not know it; like the other times.
    pub fn modified(&self) -> io::Result<SystemTime> {
        match &self.0 {
            Source::System(facts) => facts.modified(),
            Source::Simulated(facts) => Ok(facts.modified),
        }
    }

    /// The time of the last access.
    ///
    /// # Errors
    /// See [`Metadata::modified`].
    pub fn accessed(&self) -> io::Result<SystemTime> {
        match &self.0 {
            Source::System(facts) => facts.accessed(),
            Source::Simulated(facts) => Ok(facts.accessed),
        }
    }

    /// The time of the creation.
    ///
    /// # Errors
    /// See [`Metadata::modified`].
    pub fn created(&self) -> io::Result<SystemTime> {
        match &self.0 {
            Source::System(facts) => facts.created(),
            Source::Simulated(facts) => Ok(facts.created),
        }
    }
}

impl From<std::fs::Metadata> for Metadata {
    fn from(facts: std::fs::Metadata) -> Self {
        Metadata(Source::System(facts))
    }
}

impl From<Facts> for Metadata {
    fn from(facts: Facts) -> Self {
        Metadata(Source::Simulated(facts))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("file_type", &self.file_type())
            .field("permissions", &self.permissions())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Seconds and nanoseconds since 1970.
fn since_epoch(time: SystemTime) -> (i64, i64) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, i64::from(after.subsec_nanos())),
        Err(error) => {
            // Before 1970 the nanoseconds count upwards, too.
            let before = error.duration();
            let nanoseconds = i64::from(before.subsec_nanos());
            match nanoseconds {
                0 => (-(before.as_secs() as i64), 0),
                _ => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// Defines the methods of `MetadataExt`: the name, the type, and the value on a simulated disk.
macro_rules! unix_facts {
    ($($name:ident: $type:ty = |$facts:ident| $simulated:expr;)+) => {
        impl MetadataExt for Metadata {
            $(fn $name(&self) -> $type {
                match &self.0 {
                    Source::System(facts) => facts.$name(),
                    Source::Simulated($facts) => $simulated,
                }
            })+
        }
    };
}

unix_facts! {
    dev: u64 = |facts| facts.device;
    ino: u64 = |facts| facts.ino;
    mode: u32 = |facts| facts.mode;
    nlink: u64 = |facts| facts.links;
    uid: u32 = |_facts| USER;
    gid: u32 = |_facts| USER;
    rdev: u64 = |_facts| 0;
    size: u64 = |facts| facts.size;
    atime: i64 = |facts| since_epoch(facts.accessed).0;
    atime_nsec: i64 = |facts| since_epoch(facts.accessed).1;
    mtime: i64 = |facts| since_epoch(facts.modified).0;
    mtime_nsec: i64 = |facts| since_epoch(facts.modified).1;
    ctime: i64 = |facts| since_epoch(facts.changed).0;
    ctime_nsec: i64 = |facts| since_epoch(facts.changed).1;
    blksize: u64 = |_facts| 4096;
    blocks: u64 = |facts| facts.blocks;
}

#[cfg(test)]
mod tests {
    use super::since_epoch;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        let ns = Duration::from_nanos;
        assert_eq!(since_epoch(UNIX_EPOCH + ns(1_000_000_005)), (1, 5));
        assert_eq!(since_epoch(UNIX_EPOCH - ns(1)), (-1, 999_999_999));
        assert_eq!(since_epoch(UNIX_EPOCH - ns(2_000_000_000)), (-2, 0));
    }
}
