//! Reading directories.

use crate::offload::offload;
use std::collections::VecDeque;
use std::fmt;
use std::fs::DirEntry;
use std::io;
use std::path::Path;

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
        let mut rest = std::fs::read_dir(path)?;
        let batch = next_batch(&mut rest);
        Ok((rest, batch))
    })?;
    Ok(ReadDir { rest, batch })
}

/// The entries of a directory; see [`read_dir`].
pub struct ReadDir {
    rest: std::fs::ReadDir,
    batch: VecDeque<io::Result<DirEntry>>,
}

fn next_batch(rest: &mut std::fs::ReadDir) -> VecDeque<io::Result<DirEntry>> {
    rest.take(BATCH).collect()
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.is_empty() {
            match offload(REASON, || Ok(next_batch(&mut self.rest))) {
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
