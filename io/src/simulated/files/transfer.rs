//! Reads, writes and syncs of open files.

use super::content::{PAGE_BYTES, pages_of};
use super::disk::Disk;
use super::inode::{Change, Ino, Kind, OpenId};
use crate::simulated::errors::os;
use std::io::{self, IoSlice, IoSliceMut, SeekFrom};

/// The longest file: offsets are signed.
const LENGTH_MAX: u64 = i64::MAX as u64;

impl Disk {
    /// Reads at an offset, or at the position of the open file, which moves.
    ///
    /// # Errors
    /// Those of `preadv(2)`.
    pub(super) fn read(
        &mut self,
        id: OpenId,
        buffers: &mut [IoSliceMut<'_>],
        offset: Option<u64>,
    ) -> io::Result<usize> {
        let open = self.opened(id)?;
        if !open.reads {
            return Err(os(libc::EBADF));
        }
        let (ino, start) = (open.ino, offset.unwrap_or(open.position));
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut left = self.shortened_read(wanted);
        let file = match &self.inode(ino)?.kind {
            Kind::File(file) => file,
            Kind::Directory(_) => return Err(os(libc::EISDIR)),
            Kind::Link(_) => return Err(os(libc::EINVAL)),
        };
        let mut done = 0;
        for buffer in buffers {
            let part = buffer.len().min(left);
            let count = file.now.read(start + done as u64, &mut buffer[..part]);
            (done, left) = (done + count, left - count);
            if count < part || left == 0 {
                break;
            }
        }
        if offset.is_none() {
            self.opened_mut(id)?.position = start + done as u64;
        }
        Ok(done)
    }

    /// Writes at an offset, or at the position of the open file, which moves; for appending, at the end.
    ///
    /// # Errors
    /// Those of `pwritev(2)`.
    pub(super) fn write(
        &mut self,
        id: OpenId,
        buffers: &[IoSlice<'_>],
        offset: Option<u64>,
    ) -> io::Result<usize> {
        let open = self.opened(id)?;
        if !open.writes {
            return Err(os(libc::EBADF));
        }
        let (ino, appends, syncs) = (open.ino, open.appends, open.syncs);
        let position = offset.unwrap_or(open.position);
        let file = self.inode(ino)?.file().ok_or_else(|| os(libc::EISDIR))?;
        // Even with an offset: see the bugs in `pwrite(2)`.
        let start = if appends { file.now.len() } else { position };
        let mut bytes: Vec<u8> = Vec::new();
        buffers
            .iter()
            .for_each(|buffer| bytes.extend_from_slice(buffer));
        if bytes.is_empty() {
            return Ok(0);
        }
        bytes.truncate(self.shortened_write(bytes.len()));
        let room = LENGTH_MAX.saturating_sub(start);
        if room == 0 {
            return Err(os(libc::EFBIG));
        }
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let fits = self.fitting(ino, start, bytes.len() as u64)?;
        bytes.truncate(fits as usize);
        if bytes.is_empty() {
            return Err(os(libc::ENOSPC));
        }
        let count = bytes.len();
        let Some(file) = self.inode_mut(ino)?.file_mut() else {
            return Err(os(libc::EISDIR));
        };
        let before = file.now.page_count();
        file.now.write(start, &bytes);
        let after = file.now.page_count();
        self.count_pages(before, after);
        self.log_change(
            ino,
            Change::Write {
                offset: start,
                bytes,
            },
        );
        self.touch(ino, true);
        if syncs {
            self.write_back(ino);
        }
        let open = self.opened_mut(id)?;
        if offset.is_none() {
            open.position = start + count as u64;
        }
        if let Some(open) = self.opens.get(&id) {
            let name = open.name.clone();
            self.notify_file(ino, &name, libc::IN_MODIFY);
        }
        Ok(count)
    }

    /// The bytes of a write for which there is space.
    fn fitting(&self, ino: Ino, offset: u64, length: u64) -> io::Result<u64> {
        let free = self.pages_free();
        let file = self.inode(ino)?.file().ok_or_else(|| os(libc::EISDIR))?;
        if file.now.missing(offset, length) <= free {
            return Ok(length);
        }
        let mut taken = 0;
        for page in pages_of(offset, length) {
            taken += file.now.missing(page * PAGE_BYTES, 1);
            if taken > free {
                return Ok((page * PAGE_BYTES).saturating_sub(offset));
            }
        }
        Ok(length)
    }

    /// Keeps a change of contents until it is written back.
    pub(super) fn log_change(&mut self, ino: Ino, change: Change) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        // A file without any name does not outlive a crash.
        if inode.links == 0 && !inode.may_return() {
            return;
        }
        let bytes = change.bytes();
        if let Some(file) = inode.file_mut() {
            file.pending.push_back(change);
            self.pending_bytes += bytes;
        }
        self.limit_pending();
    }

    /// See `lseek(2)`.
    pub(super) fn seek(&mut self, id: OpenId, to: SeekFrom) -> io::Result<u64> {
        let open = self.opened(id)?;
        let length = self.inode(open.ino)?.size();
        let (base, distance) = match to {
            SeekFrom::Start(at) => (0, i64::try_from(at).map_err(|_| os(libc::EINVAL))?),
            SeekFrom::Current(distance) => (open.position, distance),
            SeekFrom::End(distance) => (length, distance),
        };
        let position = base.checked_add_signed(distance);
        let position = position.filter(|position| *position <= LENGTH_MAX);
        let position = position.ok_or_else(|| os(libc::EINVAL))?;
        self.opened_mut(id)?.position = position;
        Ok(position)
    }

    /// See `ftruncate(2)`.
    pub(super) fn set_len(&mut self, id: OpenId, length: u64) -> io::Result<()> {
        let open = self.opened(id)?;
        if !open.writes || length > LENGTH_MAX {
            return Err(os(libc::EINVAL));
        }
        self.set_len_of(open.ino, length)
    }

    /// See `fallocate(2)`.
    pub(super) fn allocate(&mut self, id: OpenId, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= LENGTH_MAX);
        let open = self.opened(id)?;
        if length == 0 || offset > LENGTH_MAX {
            return Err(os(libc::EINVAL));
        }
        if !open.writes {
            return Err(os(libc::EBADF));
        }
        let ino = open.ino;
        let end = end.ok_or_else(|| os(libc::EFBIG))?;
        let file = self.inode(ino)?.file().ok_or_else(|| os(libc::EISDIR))?;
        if file.now.missing(offset, length) > self.pages_free() {
            return Err(os(libc::ENOSPC));
        }
        let Some(file) = self.inode_mut(ino)?.file_mut() else {
            return Err(os(libc::EISDIR));
        };
        let before = file.now.page_count();
        let grows = end > file.now.len();
        file.now.reserve(offset, length);
        let after = file.now.page_count();
        self.count_pages(before, after);
        if grows {
            return self.set_len_of(ino, end);
        }
        self.touch(ino, false);
        Ok(())
    }

    // -- Durability ---------------------------------------------------------------------------------------------------

    /// Writes all pending changes of a file's contents, in order.
    pub(super) fn write_back(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        inode.durable_attributes = inode.attributes;
        let Some(file) = inode.file_mut() else {
            return;
        };
        for change in file.pending.drain(..) {
            self.pending_bytes = self.pending_bytes.saturating_sub(change.bytes());
            match change {
                Change::Write { offset, bytes } => file.durable.write(offset, &bytes),
                Change::SetLen(length) => file.durable.set_len(length),
            }
        }
    }

    /// Writes all that is pending, like `sync(2)`.
    pub(super) fn write_back_all(&mut self) {
        let all: Vec<Ino> = self.inodes.keys().copied().collect();
        all.into_iter().for_each(|ino| self.write_back(ino));
        self.write_all_names();
    }

    /// See `fsync(2)`. With `fails`, the disk does not take the pages.
    ///
    /// # Errors
    /// `EIO` if it fails, or if an earlier write-back has failed and this open file has not reported that.
    pub(super) fn sync(&mut self, id: OpenId, fails: bool) -> io::Result<()> {
        let ino = self.opened(id)?.ino;
        if fails && self.inode(ino)?.file().is_some() {
            self.fail_write_back(ino);
        } else if fails {
            return Err(os(libc::EIO));
        } else if self.inode(ino)?.is_directory() {
            self.sync_directory(ino);
        } else {
            self.write_back(ino);
        }
        let failures = self.inode(ino)?.file().map_or(0, |file| file.failures);
        let open = self.opened_mut(id)?;
        match std::mem::replace(&mut open.failures_seen, failures) == failures {
            true => Ok(()),
            false => Err(os(libc::EIO)),
        }
    }

    /// Lets a write-back fail: some pages may have been written, and all count as clean afterwards.
    fn fail_write_back(&mut self, ino: Ino) {
        self.settle_contents(ino);
        if let Some(file) = self.inodes.get_mut(&ino).and_then(|inode| inode.file_mut()) {
            file.failures += 1;
        }
    }
}
