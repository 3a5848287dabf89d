//! The disk of a host: its inodes, open files, space, and what is not durable yet.

use super::faults::Script;
use super::inode::{Attributes, DirectoryState, Facts, Ino, Inode, Kind, OpenId};
use super::journal::Journal;
use super::open::OpenFile;
use super::watches::Watches;
use crate::simulated::errors::os;
use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;
use yue_scheduler::simulation::Random;

/// The root directory.
pub(super) const ROOT: Ino = 2;

/// The memory that pending changes of contents may take. Beyond it the disk writes everything back, as a kernel does
/// with too many dirty pages (`vm.dirty_bytes`).
const PENDING_BYTES_MAX: u64 = 64 << 20;

/// The permissions that a process takes away from what it creates (`umask(2)`).
const UMASK: u32 = 0o022;

/// The user of all processes.
pub(crate) const USER: u32 = 1000;

/// The disk of a host; see the [module](super).
#[derive(Debug)]
pub(crate) struct Disk {
    pub(super) device: u64,
    pub(super) random: Random,
    /// The host's wall clock at the present operation.
    pub(super) now: SystemTime,
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) opens: BTreeMap<OpenId, OpenFile>,
    pub(super) journal: Journal,
    pub(super) watches: Watches,
    pub(crate) script: Script,
    pub(super) last_ino: Ino,
    /// The memory of pending changes of contents.
    pub(super) pending_bytes: u64,
    /// Pages that may be taken, and are.
    pub(super) pages_max: u64,
    pub(super) pages_used: u64,
    /// Whether nothing more fits, whatever the space.
    is_full: bool,
    is_down: bool,
}

impl Disk {
    /// An empty disk with the directory `/tmp`.
    pub(crate) fn new(host: u32, seed: u64, now: SystemTime) -> Disk {
        let mut disk = Disk {
            device: u64::from(host) + 1,
            random: Random::new(seed),
            now,
            inodes: BTreeMap::new(),
            opens: BTreeMap::new(),
            journal: Journal::default(),
            watches: Watches::default(),
            script: Script::default(),
            last_ino: ROOT,
            pending_bytes: 0,
            pages_max: u64::MAX,
            pages_used: 0,
            is_full: false,
            is_down: false,
        };
        let mut root = Inode::new(Kind::Directory(DirectoryState::default()), 0o755, now);
        (root.links, root.durable_links) = (1, 1);
        if let Some(directory) = root.directory_mut() {
            directory.parent = ROOT;
        }
        disk.inodes.insert(ROOT, root);
        let made = disk.create_dir(b"/tmp", 0o1777);
        debug_assert!(made.is_ok(), "an empty disk has room for a directory");
        if let Ok(tmp) = disk.find_path(b"/tmp", false)
            && let Ok(inode) = disk.inode_mut(tmp)
        {
            inode.attributes.mode = 0o1777;
        }
        disk.write_back_all();
        disk
    }

    /// Whether the host has crashed and was not restarted.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down
    }

    pub(crate) fn set_down(&mut self, is_down: bool) {
        self.is_down = is_down;
    }

    /// Sets the time of what happens next.
    pub(crate) fn set_now(&mut self, now: SystemTime) {
        self.now = now;
    }

    /// Sets the space. A disk that has more keeps it.
    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.pages_max = bytes / super::content::PAGE_BYTES;
    }

    /// Lets nothing more fit, or all for which there is space.
    pub(crate) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    pub(super) fn inode(&self, ino: Ino) -> io::Result<&Inode> {
        self.inodes.get(&ino).ok_or_else(|| os(libc::EIO))
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| os(libc::EIO))
    }

    /// # Errors
    /// `ENOTDIR`.
    pub(super) fn directory(&self, ino: Ino) -> io::Result<&DirectoryState> {
        self.inode(ino)?
            .directory()
            .ok_or_else(|| os(libc::ENOTDIR))
    }

    /// Adds an inode without a name.
    pub(super) fn add_inode(&mut self, kind: Kind, mode: u32) -> Ino {
        self.last_ino += 1;
        let inode = Inode::new(kind, mode & !UMASK, self.now);
        self.inodes.insert(self.last_ino, inode);
        self.last_ino
    }

    /// The number of pages that are free.
    pub(super) fn pages_free(&self) -> u64 {
        if self.is_full {
            return 0;
        }
        self.pages_max.saturating_sub(self.pages_used)
    }

    /// Counts a change of the pages that an inode takes.
    pub(super) fn count_pages(&mut self, before: u64, after: u64) {
        self.pages_used = (self.pages_used + after).saturating_sub(before);
    }

    /// Frees what no process reaches and no crash brings back. Call it after a count of the inode has fallen.
    pub(super) fn release(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        if inode.is_alive() {
            return;
        }
        let pages = inode.page_count();
        if let Some(file) = inode.file_mut() {
            // After a crash the durable contents and the pending changes count.
            file.now = Default::default();
        }
        let returns = inode.may_return();
        self.count_pages(pages, 0);
        if !returns && let Some(gone) = self.inodes.remove(&ino) {
            let pending = gone.file().into_iter().flat_map(|file| &file.pending);
            let freed: u64 = pending.map(super::inode::Change::bytes).sum();
            self.pending_bytes = self.pending_bytes.saturating_sub(freed);
            let inside = gone.directory().map(|directory| directory.durable.values());
            for ino in inside.into_iter().flatten() {
                self.drop_durable_link(*ino);
            }
        }
    }

    /// Writes everything back if too much is pending.
    pub(super) fn limit_pending(&mut self) {
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.write_back_all();
        }
    }

    /// Sets the times of a change. `modifies` says whether the contents changed.
    pub(super) fn touch(&mut self, ino: Ino, modifies: bool) {
        let now = self.now;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.attributes.changed = now;
            if modifies {
                inode.attributes.modified = now;
            }
        }
    }

    /// See `stat(2)`.
    pub(super) fn facts(&self, ino: Ino) -> io::Result<Facts> {
        let inode = self.inode(ino)?;
        let Attributes {
            mode,
            accessed,
            modified,
            changed,
            created,
        } = inode.attributes;
        let links = match inode.directory() {
            Some(directory) => {
                let is_directory =
                    |ino: &&Ino| self.inodes.get(ino).is_some_and(Inode::is_directory);
                2 + directory.now.values().filter(is_directory).count() as u64
            }
            None => u64::from(inode.links),
        };
        Ok(Facts {
            device: self.device,
            ino,
            mode: inode.type_bits() | mode,
            links,
            size: inode.size(),
            blocks: inode.page_count() * (super::content::PAGE_BYTES / 512),
            accessed,
            modified,
            changed,
            created,
        })
    }

    /// See `chmod(2)`.
    pub(super) fn set_mode(&mut self, ino: Ino, mode: u32) -> io::Result<()> {
        self.inode_mut(ino)?.attributes.mode = mode & 0o7777;
        self.touch(ino, false);
        self.notify(ino, libc::IN_ATTRIB);
        Ok(())
    }

    /// See `utimensat(2)`.
    pub(super) fn set_times(
        &mut self,
        ino: Ino,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> io::Result<()> {
        let attributes = &mut self.inode_mut(ino)?.attributes;
        attributes.accessed = accessed.unwrap_or(attributes.accessed);
        attributes.modified = modified.unwrap_or(attributes.modified);
        self.touch(ino, false);
        self.notify(ino, libc::IN_ATTRIB);
        Ok(())
    }
}
