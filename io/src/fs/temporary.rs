//! Temporary files and directories.

use super::file::File;
use super::system;
use crate::offload::offload;
use crate::simulated::{self, files};
use std::io;
use std::path::{Path, PathBuf};

/// Creates an unnamed file for reading and writing. It disappears when it is closed, however the process ends.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
///
/// ```
/// # yue_io::run(|| -> std::io::Result<()> {
/// use std::io::{Read, Seek, Write};
///
/// let mut file = yue_io::fs::tempfile()?;
/// file.write_all(b"for now")?;
/// file.rewind()?;
/// let mut text = String::new();
/// file.read_to_string(&mut text)?;
/// assert_eq!(text, "for now");
/// #     Ok(())
/// # })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn tempfile() -> io::Result<File> {
    offload("create a temporary file", || match simulated::is_on() {
        true => File::simulated(files::tempfile()?),
        false => tempfile::tempfile().map(File::from),
    })
}

/// The path of a file or a directory on a simulated disk, which is removed when it is dropped.
#[derive(Debug)]
struct SimulatedPath {
    path: PathBuf,
    is_directory: bool,
    kept: bool,
}

impl SimulatedPath {
    fn create_dir(parent: &Path) -> io::Result<SimulatedPath> {
        let (path, ()) = files::temporary(parent, files::create_dir)?;
        Ok(SimulatedPath {
            path,
            is_directory: true,
            kept: false,
        })
    }

    /// The path, which is not removed any more.
    fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for SimulatedPath {
    fn drop(&mut self) {
        match (self.kept || !simulated::is_on(), self.is_directory) {
            (true, _) => {}
            (false, true) => files::remove_dir_all_now(&self.path),
            (false, false) => files::remove_file_now(&self.path),
        }
    }
}

#[derive(Debug)]
enum Directory {
    System(tempfile::TempDir),
    Simulated(SimulatedPath),
}

/// A directory with a unique name, removed with its contents when dropped.
///
/// Dropping blocks the loop for as long as the removal takes; [`TempDir::close`] does not.
///
/// ```
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     yue_io::fs::write(dir.path().join("notes"), "for now")?;
///     let path = dir.path().to_owned();
///     dir.close()?;
///     assert!(!path.exists());
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TempDir {
    inner: Directory,
}

impl TempDir {
    /// Creates a directory in the system's temporary directory (`TMPDIR`).
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn new() -> io::Result<TempDir> {
        let inner = offload("create a temporary directory", || {
            match simulated::is_on() {
                true => SimulatedPath::create_dir(Path::new("/tmp")).map(Directory::Simulated),
                false => tempfile::tempdir().map(Directory::System),
            }
        })?;
        Ok(TempDir { inner })
    }

    /// Creates a directory inside another directory.
    ///
    /// # Errors
    /// See [`TempDir::new`].
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<TempDir> {
        let parent = parent.as_ref();
        let inner = offload("create a temporary directory", || {
            match simulated::is_on() {
                true => SimulatedPath::create_dir(parent).map(Directory::Simulated),
                false => tempfile::tempdir_in(parent).map(Directory::System),
            }
        })?;
        Ok(TempDir { inner })
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        match &self.inner {
            Directory::System(inner) => inner.path(),
            Directory::Simulated(inner) => &inner.path,
        }
    }

    /// Keeps the directory permanently.
    pub fn keep(self) -> PathBuf {
        match self.inner {
            Directory::System(inner) => inner.keep(),
            Directory::Simulated(inner) => inner.keep(),
        }
    }

    /// Removes the directory now.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes. A part of the directory may then
    /// remain.
    pub fn close(self) -> io::Result<()> {
        offload("remove a temporary directory", move || match self.inner {
            Directory::System(inner) => inner.close(),
            Directory::Simulated(inner) => system::remove_dir_all(&inner.keep()),
        })
    }
}

/// A file with a unique name, removed when dropped. Write it first and give it its final name afterwards, so that
/// readers never see a partial file.
///
/// ```
/// use std::io::Write;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     let goal = dir.path().join("config");
///     let mut file = yue_io::fs::NamedTempFile::new_in(dir.path())?;
///     file.file().write_all(b"whole")?;
///     file.persist(&goal)?;
///     assert_eq!(yue_io::fs::read_to_string(goal)?, "whole");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct NamedTempFile {
    file: File,
    path: TempPath,
}

#[derive(Debug)]
enum TempPath {
    System(tempfile::TempPath),
    Simulated(SimulatedPath),
}

impl NamedTempFile {
    /// Creates a file in a directory. The directory must be on the same file system as the final name.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<NamedTempFile> {
        let parent = parent.as_ref();
        offload("create a temporary file", || {
            if simulated::is_on() {
                return NamedTempFile::simulated(parent);
            }
            let (file, path) = tempfile::NamedTempFile::new_in(parent)?.into_parts();
            Ok(NamedTempFile {
                file: File::from(file),
                path: TempPath::System(path),
            })
        })
    }

    fn simulated(parent: &Path) -> io::Result<NamedTempFile> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let create = |path: &Path| files::Handle::open(path, flags, 0o600);
        let (path, handle) = files::temporary(parent, create)?;
        let path = SimulatedPath {
            path,
            is_directory: false,
            kept: false,
        };
        Ok(NamedTempFile {
            file: File::simulated(handle)?,
            path: TempPath::Simulated(path),
        })
    }

    /// Returns the file, for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Returns the file's current path.
    pub fn path(&self) -> &Path {
        match &self.path {
            TempPath::System(path) => path,
            TempPath::Simulated(path) => &path.path,
        }
    }

    /// Renames the file, atomically replacing the destination.
    ///
    /// # Errors
    /// The system's error, such as a name on another file system; the file is then removed. Or when the fiber is
    /// cancelled or its deadline passes.
    pub fn persist(self, path: impl AsRef<Path>) -> io::Result<File> {
        let (path, here) = (path.as_ref(), self.path);
        offload("name a temporary file", move || match here {
            TempPath::System(here) => Ok(here.persist(path)?),
            TempPath::Simulated(here) => {
                // A failed one is removed.
                files::rename(&here.path, path)?;
                drop(here.keep());
                Ok(())
            }
        })?;
        Ok(self.file)
    }
}
