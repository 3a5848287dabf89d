//! Handles: what an open [`File`](crate::fs::File) has of a simulated disk.

use super::calls::bytes_of;
use super::disks::{next_open, perform, perform_judged, with_disk};
use super::faults::Operation;
use super::inode::{Facts, OpenId};
use std::fs::TryLockError;
use std::io::{self, IoSlice, IoSliceMut, SeekFrom};
use std::path::Path;
use std::time::SystemTime;
use yue_scheduler::simulation;

/// A handle on an open file of a host's disk. The file is closed with its last handle.
#[derive(Debug)]
pub(crate) struct Handle {
    host: u32,
    id: OpenId,
}

impl Handle {
    /// Opens a file on the calling thread's host; see `open(2)`.
    ///
    /// # Errors
    /// Those of `open(2)`; those of the disk's faults, like all operations.
    pub(crate) fn open(path: &Path, flags: i32, mode: u32) -> io::Result<Handle> {
        let (host, id) = (simulation::host(), next_open());
        let path = bytes_of(path)?;
        let creates = flags & libc::O_CREAT != 0;
        perform_judged(
            host,
            Operation::Open,
            creates,
            |disk, failure| match failure {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => disk.open(id, path, flags, mode),
            },
        )?;
        Ok(Handle { host, id })
    }

    fn perform<R>(
        &self,
        operation: Operation,
        f: impl FnOnce(&mut super::disk::Disk) -> io::Result<R>,
    ) -> io::Result<R> {
        perform(self.host, operation, f)
    }

    /// Reads at an offset, or at the file's position.
    pub(crate) fn read(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        offset: Option<u64>,
    ) -> io::Result<usize> {
        self.perform(Operation::Read, |disk| disk.read(self.id, buffers, offset))
    }

    /// Writes at an offset, or at the file's position.
    pub(crate) fn write(&self, buffers: &[IoSlice<'_>], offset: Option<u64>) -> io::Result<usize> {
        self.perform(Operation::Write, |disk| {
            disk.write(self.id, buffers, offset)
        })
    }

    /// Takes no time.
    pub(crate) fn seek(&self, to: SeekFrom) -> io::Result<u64> {
        with_disk(self.host, |disk| disk.seek(self.id, to))
    }

    /// Syncs contents and metadata. `fdatasync` is the same: only times distinguish them.
    pub(crate) fn sync(&self) -> io::Result<()> {
        perform_judged(self.host, Operation::Sync, false, |disk, failure| {
            disk.sync(self.id, failure.is_some())
        })
    }

    pub(crate) fn set_len(&self, length: u64) -> io::Result<()> {
        self.perform(Operation::Change, |disk| disk.set_len(self.id, length))
    }

    pub(crate) fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.perform(Operation::Change, |disk| {
            disk.allocate(self.id, offset, length)
        })
    }

    pub(crate) fn facts(&self) -> io::Result<Facts> {
        self.perform(Operation::Inspect, |disk| {
            let ino = disk.opened(self.id)?.ino;
            disk.facts(ino)
        })
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.perform(Operation::Change, |disk| {
            let ino = disk.opened(self.id)?.ino;
            disk.set_mode(ino, mode)
        })
    }

    pub(crate) fn set_times(
        &self,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> io::Result<()> {
        self.perform(Operation::Change, |disk| {
            let ino = disk.opened(self.id)?.ino;
            disk.set_times(ino, accessed, modified)
        })
    }

    /// Takes no time.
    pub(crate) fn try_lock(&self) -> Result<(), TryLockError> {
        match with_disk(self.host, |disk| disk.try_lock(self.id)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }

    pub(crate) fn unlock(&self) -> io::Result<()> {
        with_disk(self.host, |disk| disk.unlock(self.id))
    }

    /// Another handle on the same open file; see `dup(2)`.
    pub(crate) fn duplicate(&self) -> io::Result<Handle> {
        with_disk(self.host, |disk| disk.share(self.id))?;
        Ok(Handle {
            host: self.host,
            id: self.id,
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // After the end of the simulation there is nothing to close.
        if simulation::is_on() {
            with_disk(self.host, |disk| disk.close(self.id));
        }
    }
}
