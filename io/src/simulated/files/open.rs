//! Open files: opening, closing, locks.

use super::disk::Disk;
use super::inode::{Change, FileState, Ino, Kind, Name, OpenId};
use super::path::{Last, Place, READ, WRITE};
use crate::simulated::errors::{os, unsupported};
use std::io;

/// An open file description.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: Ino,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) appends: bool,
    /// Whether a write is durable when it returns.
    pub(super) syncs: bool,
    pub(super) position: u64,
    /// The failures of the file that this description has reported, or that were before its time.
    pub(super) failures_seen: u64,
    /// Handles that share it.
    pub(super) handles: u32,
    /// The directory and the name of its last opening or renaming, for events.
    pub(super) name: (Ino, Name),
}

impl Disk {
    /// Opens a file under the number `id`; see `open(2)`.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub(super) fn open(
        &mut self,
        id: OpenId,
        path: &[u8],
        flags: i32,
        mode: u32,
    ) -> io::Result<()> {
        let has = |flag: i32| flags & flag == flag && flag != 0;
        if has(libc::O_PATH) || has(libc::O_TMPFILE) {
            return Err(unsupported("opening a file with O_PATH or O_TMPFILE"));
        }
        let access = flags & libc::O_ACCMODE;
        let (reads, writes) = (access != libc::O_WRONLY, access != libc::O_RDONLY);
        let (ino, name, is_new) = self.open_inode(path, flags, mode)?;
        let inode = self.inode(ino)?;
        if !is_new {
            if has(libc::O_DIRECTORY) && !inode.is_directory() {
                return Err(os(libc::ENOTDIR));
            }
            match &inode.kind {
                Kind::Link(_) => return Err(os(libc::ELOOP)),
                Kind::Directory(_) if writes || has(libc::O_CREAT) => return Err(os(libc::EISDIR)),
                _ => {}
            }
            let wanted = [(reads, READ), (writes, WRITE)];
            for (_, permission) in wanted.into_iter().filter(|(wants, _)| *wants) {
                self.permit(ino, permission)?;
            }
        }
        let failures_seen = self.inode(ino)?.file().map_or(0, |file| file.failures);
        self.inode_mut(ino)?.opens += 1;
        let open = OpenFile {
            ino,
            reads,
            writes,
            appends: has(libc::O_APPEND),
            syncs: has(libc::O_DSYNC) || has(libc::O_SYNC),
            position: 0,
            failures_seen,
            handles: 1,
            name,
        };
        self.opens.insert(id, open);
        if has(libc::O_TRUNC) && !is_new && self.inode(ino)?.file().is_some() {
            self.set_len_of(ino, 0)?;
        }
        Ok(())
    }

    /// Finds the inode to open, or creates it. Returns its last name, too, and whether it is new.
    fn open_inode(
        &mut self,
        path: &[u8],
        flags: i32,
        mode: u32,
    ) -> io::Result<(Ino, (Ino, Name), bool)> {
        let creates = flags & libc::O_CREAT != 0;
        let is_exclusive = creates && flags & libc::O_EXCL != 0;
        let follows = !is_exclusive && flags & libc::O_NOFOLLOW == 0;
        let mut links = 0;
        let mut place = self.find_place(path)?;
        if creates && place.has_slash && matches!(place.last, Last::Name(_)) {
            return Err(os(libc::EISDIR));
        }
        // A link at the end leads to the place where the file is, or is created.
        while follows
            && let Last::Name(name) = &place.last
            && let Some(found) = self.look_up(place.directory, name)?
            && let Kind::Link(target) = &self.inode(found)?.kind
        {
            let has_slash = place.has_slash;
            place = self.follow(place.directory, target, &mut links)?;
            if creates && place.has_slash && matches!(place.last, Last::Name(_)) {
                return Err(os(libc::EISDIR));
            }
            place.has_slash |= has_slash;
        }
        let last = match &place.last {
            Last::Name(name) => name.clone(),
            _ => Name::new(),
        };
        let name = (place.directory, last);
        match self.resolve(&place, follows, &mut links) {
            Ok(_) if is_exclusive => Err(os(libc::EEXIST)),
            Ok(found) => Ok((found, name, false)),
            Err(error) if creates && error.raw_os_error() == Some(libc::ENOENT) => {
                let ino = self.create_file(&place, mode)?;
                Ok((ino, name, true))
            }
            Err(error) => Err(error),
        }
    }

    fn create_file(&mut self, place: &Place, mode: u32) -> io::Result<Ino> {
        let Last::Name(name) = &place.last else {
            return Err(os(libc::EISDIR));
        };
        if place.has_slash {
            return Err(os(libc::EISDIR));
        }
        self.permit(place.directory, WRITE | super::path::SEARCH)?;
        let kind = Kind::File(FileState::default());
        Ok(self.create_at(place.directory, name.clone(), kind, mode))
    }

    /// # Errors
    /// `EIO` if the host has crashed since it was opened.
    pub(super) fn opened(&self, id: OpenId) -> io::Result<&OpenFile> {
        self.opens.get(&id).ok_or_else(|| os(libc::EIO))
    }

    pub(super) fn opened_mut(&mut self, id: OpenId) -> io::Result<&mut OpenFile> {
        self.opens.get_mut(&id).ok_or_else(|| os(libc::EIO))
    }

    /// Counts another handle; see `dup(2)`.
    pub(super) fn share(&mut self, id: OpenId) -> io::Result<()> {
        self.opened_mut(id)?.handles += 1;
        Ok(())
    }

    /// Closes a handle. With the last one, the file is closed.
    pub(super) fn close(&mut self, id: OpenId) {
        let Some(open) = self.opens.get_mut(&id) else {
            return;
        };
        open.handles -= 1;
        if open.handles > 0 {
            return;
        }
        let Some(open) = self.opens.remove(&id) else {
            return;
        };
        if open.writes {
            self.notify_open(&open, libc::IN_CLOSE_WRITE);
        }
        let Some(inode) = self.inodes.get_mut(&open.ino) else {
            return;
        };
        inode.opens = inode.opens.saturating_sub(1);
        if let Some(file) = inode.file_mut()
            && file.lock == Some(id)
        {
            file.lock = None;
        }
        if !inode.is_alive() {
            self.notify_end(open.ino);
        }
        self.release(open.ino);
    }

    /// Takes the exclusive lock. Returns false if another open file has it; see `flock(2)`.
    pub(super) fn try_lock(&mut self, id: OpenId) -> io::Result<bool> {
        let ino = self.opened(id)?.ino;
        let Some(file) = self.inode_mut(ino)?.file_mut() else {
            return Err(unsupported("locking a directory"));
        };
        let is_free = file.lock.is_none_or(|holder| holder == id);
        if is_free {
            file.lock = Some(id);
        }
        Ok(is_free)
    }

    pub(super) fn unlock(&mut self, id: OpenId) -> io::Result<()> {
        let ino = self.opened(id)?.ino;
        if let Some(file) = self.inode_mut(ino)?.file_mut()
            && file.lock == Some(id)
        {
            file.lock = None;
        }
        Ok(())
    }

    /// Sets the length of a file.
    pub(super) fn set_len_of(&mut self, ino: Ino, length: u64) -> io::Result<()> {
        let inode = self.inode_mut(ino)?;
        let file = inode.file_mut().ok_or_else(|| os(libc::EINVAL))?;
        let before = file.now.page_count();
        let changes = file.now.len() != length;
        file.now.set_len(length);
        let after = file.now.page_count();
        self.count_pages(before, after);
        if changes {
            self.log_change(ino, Change::SetLen(length));
        }
        self.touch(ino, true);
        self.notify(ino, libc::IN_MODIFY);
        Ok(())
    }
}
