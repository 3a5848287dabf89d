//! Reading directories.

use super::metadata::{FileType, Metadata};
use super::system;
use crate::offload::offload;
use crate::simulated::{self, files};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// Entries that one call reads: about as many as the kernel returns at once.
const BATCH: usize = 256;

const REASON: &str = "read a directory";

/// Returns the entries of a directory, in unspecified order.
///
/// # Errors
/// The system's error; or when the fiber is cancelled or its deadline passes.
///
/// ```
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     yue_io::fs::write(dir.path().join("one"), "1")?;
///     let names: Vec<_> = yue_io::fs::read_dir(dir.path())?
///         .map(|entry| Ok(entry?.file_name()))
///         .collect::<std::io::Result<_>>()?;
///     assert_eq!(names, ["one"]);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    let path = path.as_ref();
    let (rest, batch) = offload(REASON, || {
        if simulated::is_on() {
            return Ok((None, simulated_entries(path)?));
        }
        let mut rest = std::fs::read_dir(path)?;
        let batch = next_batch(&mut rest);
        Ok((Some(rest), batch))
    })?;
    Ok(ReadDir { rest, batch })
}

/// All entries at once: the simulated disk has no limit for one call.
fn simulated_entries(path: &Path) -> io::Result<VecDeque<io::Result<DirEntry>>> {
    let entry = |(name, ino, mode)| {
        Ok(DirEntry(Source::Simulated {
            directory: path.to_owned(),
            name: OsString::from_vec(name),
            ino,
            mode,
        }))
    };
    Ok(files::read_dir(path)?.into_iter().map(entry).collect())
}

/// The entries of a directory; see [`read_dir`].
pub struct ReadDir {
    rest: Option<std::fs::ReadDir>,
    batch: VecDeque<io::Result<DirEntry>>,
}

fn next_batch(rest: &mut std::fs::ReadDir) -> VecDeque<io::Result<DirEntry>> {
    let entry = |entry: io::Result<_>| Ok(DirEntry(Source::System(entry?)));
    rest.take(BATCH).map(entry).collect()
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.is_empty()
            && let Some(rest) = &mut self.rest
        {
            match offload(REASON, || Ok(next_batch(rest))) {
                Ok(batch) => self.batch = batch,
                Err(error) => return Some(Err(error)),
            }
        }
        self.batch.pop_front()
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir")
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

enum Source {
    System(std::fs::DirEntry),
    Simulated {
        directory: PathBuf,
        name: OsString,
        ino: u64,
        mode: u32,
    },
}

/// An entry of a directory, like [`std::fs::DirEntry`]; see [`read_dir`].
pub struct DirEntry(Source);

impl DirEntry {
    /// The path: that of the directory, with the name.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            Source::System(entry) => entry.path(),
            Source::Simulated {
                directory, name, ..
            } => directory.join(name),
        }
    }

    /// The name, without the directory.
    pub fn file_name(&self) -> OsString {
        match &self.0 {
            Source::System(entry) => entry.file_name(),
            Source::Simulated { name, .. } => name.clone(),
        }
    }

    /// The type, mostly without a call. Does not follow a symbolic link.
    ///
    /// # Errors
    /// The system's error.
    pub fn file_type(&self) -> io::Result<FileType> {
        match &self.0 {
            Source::System(entry) => entry.file_type().map(FileType::from),
            Source::Simulated { mode, .. } => Ok(FileType::from_mode(*mode)),
        }
    }

    /// The metadata. Does not follow a symbolic link.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn metadata(&self) -> io::Result<Metadata> {
        offload("ask about a file", || match &self.0 {
            Source::System(entry) => entry.metadata().map(Metadata::from),
            Source::Simulated { .. } => system::symlink_metadata(&self.path()),
        })
    }
}

impl DirEntryExt for DirEntry {
    fn ino(&self) -> u64 {
        match &self.0 {
            Source::System(entry) => entry.ino(),
            Source::Simulated { ino, .. } => *ino,
        }
    }
}

impl fmt::Debug for DirEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirEntry").field(&self.path()).finish()
    }
}
