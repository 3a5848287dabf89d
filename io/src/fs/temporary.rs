//! Files and directories that are gone in the end.

use super::File;
use crate::offload::offload;
use std::io;
use std::path::{Path, PathBuf};

/// A file without a name, for reading and writing; it is gone when it is closed, however the process ends.
///
/// # Errors
/// The system's; or when the fiber is told to stop.
///
/// ```
/// # yue::Runtime::new()?.run(|| -> std::io::Result<()> {
/// use std::io::{Read, Seek, Write};
///
/// let mut file = yue::fs::tempfile()?;
/// file.write_all(b"for now")?;
/// file.rewind()?;
/// let mut text = String::new();
/// file.read_to_string(&mut text)?;
/// assert_eq!(text, "for now");
/// #     Ok(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn tempfile() -> io::Result<File> {
    offload("make a temporary file", tempfile::tempfile).map(File::from)
}

/// A directory with a name of its own, removed with all that is in it when it is dropped.
///
/// Dropping blocks the loop for as long as the removal takes; [`TempDir::close`] does not.
///
/// ```
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let place = yue::fs::TempDir::new()?;
///     yue::fs::write(place.path().join("notes"), "for now")?;
///     let path = place.path().to_owned();
///     place.close()?;
///     assert!(!path.exists());
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TempDir {
    inner: tempfile::TempDir,
}

impl TempDir {
    /// A directory where the system keeps what is temporary (`TMPDIR`).
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn new() -> io::Result<TempDir> {
        let inner = offload("make a temporary directory", tempfile::tempdir)?;
        Ok(TempDir { inner })
    }

    /// A directory in another one.
    ///
    /// # Errors
    /// As [`TempDir::new`].
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<TempDir> {
        let parent = parent.as_ref();
        let make = || tempfile::tempdir_in(parent);
        let inner = offload("make a temporary directory", make)?;
        Ok(TempDir { inner })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// Keeps it for good.
    pub fn keep(self) -> PathBuf {
        self.inner.keep()
    }

    /// Removes it now.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop. It may be there still, in part.
    pub fn close(self) -> io::Result<()> {
        offload("remove a temporary directory", move || self.inner.close())
    }
}

/// A file with a name of its own, removed when it is dropped: to be written first and given its real name after, so
/// that nobody ever sees half of it.
///
/// ```
/// use std::io::Write;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let place = yue::fs::TempDir::new()?;
///     let goal = place.path().join("config");
///     let mut file = yue::fs::NamedTempFile::new_in(place.path())?;
///     file.file().write_all(b"whole")?;
///     file.persist(&goal)?;
///     assert_eq!(yue::fs::read_to_string(goal)?, "whole");
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct NamedTempFile {
    file: File,
    path: tempfile::TempPath,
}

impl NamedTempFile {
    /// A file in a directory: of the same file system as the name that it will get.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<NamedTempFile> {
        let parent = parent.as_ref();
        let make = || tempfile::NamedTempFile::new_in(parent);
        let (file, path) = offload("make a temporary file", make)?.into_parts();
        Ok(NamedTempFile {
            file: File::from(file),
            path,
        })
    }

    /// The file, to read and write.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another name, at which whatever was there is replaced in one step.
    ///
    /// # Errors
    /// The system's, as when the name is on another file system; the file is removed then. Or when the fiber is told to
    /// stop.
    pub fn persist(self, path: impl AsRef<Path>) -> io::Result<File> {
        let (path, here) = (path.as_ref(), self.path);
        offload("name a temporary file", move || Ok(here.persist(path)?))?;
        Ok(self.file)
    }
}
