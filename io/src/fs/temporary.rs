//! Temporary files and directories.

use super::file::File;
use crate::offload::offload;
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
    offload("create a temporary file", tempfile::tempfile).map(File::from)
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
    inner: tempfile::TempDir,
}

impl TempDir {
    /// Creates a directory in the system's temporary directory (`TMPDIR`).
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn new() -> io::Result<TempDir> {
        let inner = offload("create a temporary directory", tempfile::tempdir)?;
        Ok(TempDir { inner })
    }

    /// Creates a directory inside another directory.
    ///
    /// # Errors
    /// See [`TempDir::new`].
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<TempDir> {
        let parent = parent.as_ref();
        let make = || tempfile::tempdir_in(parent);
        let inner = offload("create a temporary directory", make)?;
        Ok(TempDir { inner })
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// Keeps the directory permanently.
    pub fn keep(self) -> PathBuf {
        self.inner.keep()
    }

    /// Removes the directory now.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes. A part of the directory may then
    /// remain.
    pub fn close(self) -> io::Result<()> {
        offload("remove a temporary directory", move || self.inner.close())
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
    path: tempfile::TempPath,
}

impl NamedTempFile {
    /// Creates a file in a directory. The directory must be on the same file system as the final name.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn new_in(parent: impl AsRef<Path>) -> io::Result<NamedTempFile> {
        let parent = parent.as_ref();
        let make = || tempfile::NamedTempFile::new_in(parent);
        let (file, path) = offload("create a temporary file", make)?.into_parts();
        Ok(NamedTempFile {
            file: File::from(file),
            path,
        })
    }

    /// Returns the file, for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Returns the file's current path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file, atomically replacing the destination.
    ///
    /// # Errors
    /// The system's error, such as a name on another file system; the file is then removed. Or when the fiber is
    /// cancelled or its deadline passes.
    pub fn persist(self, path: impl AsRef<Path>) -> io::Result<File> {
        let (path, here) = (path.as_ref(), self.path);
        offload("name a temporary file", move || Ok(here.persist(path)?))?;
        Ok(self.file)
    }
}
