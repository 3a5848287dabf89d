//! The calls that change names: create, link, rename, remove; and the lists of directories.

use super::disk::{Disk, ROOT};
use super::inode::{DirectoryState, Ino, Kind, Name};
use super::journal::NameChange;
use super::path::{Last, Place, READ, SEARCH, WRITE};
use crate::simulated::errors::os;
use std::io;

/// Bytes of a link's target.
const TARGET_MAX: usize = 4095;

/// A name in a directory, the inode, and its type as in `st_mode`.
pub(crate) type Entry = (Name, Ino, u32);

impl Disk {
    /// The place of a name that is about to be created.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` for a name with a slash that is not a directory's.
    fn new_place(&self, path: &[u8], is_directory: bool) -> io::Result<(Ino, Name)> {
        let place = self.find_place(path)?;
        let Last::Name(name) = place.last else {
            return Err(os(libc::EEXIST));
        };
        if self.look_up(place.directory, &name)?.is_some() {
            return Err(os(libc::EEXIST));
        }
        if place.has_slash && !is_directory {
            return Err(os(libc::ENOENT));
        }
        self.permit(place.directory, WRITE | SEARCH)?;
        Ok((place.directory, name))
    }

    /// Gives a new inode its first name.
    pub(super) fn create_at(&mut self, directory: Ino, name: Name, kind: Kind, mode: u32) -> Ino {
        let ino = self.add_inode(kind, mode);
        if let Some(inode) = self.inodes.get_mut(&ino)
            && let Some(new) = inode.directory_mut()
        {
            new.parent = directory;
        }
        self.apply(NameChange::new(
            ino,
            vec![(directory, name.clone(), Some(ino))],
        ));
        self.notify_name(directory, &name, libc::IN_CREATE, ino, 0);
        ino
    }

    /// Makes a change of names visible to processes, and pending for the disk.
    fn apply(&mut self, change: NameChange) {
        for (directory, name, placed) in &change.sets {
            if let Some(inode) = placed.and_then(|placed| self.inodes.get_mut(&placed)) {
                inode.links += 1;
            }
            let state = self.inodes.get_mut(directory);
            let Some(state) = state.and_then(|inode| inode.directory_mut()) else {
                continue;
            };
            let before = match placed {
                Some(placed) => state.now.insert(name.clone(), *placed),
                None => state.now.remove(name),
            };
            if let Some(inode) = before.and_then(|before| self.inodes.get_mut(&before)) {
                inode.links = inode.links.saturating_sub(1);
            }
            self.touch(*directory, true);
        }
        let (subject, replaced) = (change.subject, change.replaced);
        self.touch(subject, false);
        self.log_names(change);
        for ino in [Some(subject), replaced].into_iter().flatten() {
            if self.inodes.get(&ino).is_some_and(|inode| !inode.is_alive()) {
                self.notify_end(ino);
            }
            self.release(ino);
        }
    }

    /// See `mkdir(2)`.
    pub(super) fn create_dir(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let (directory, name) = self.new_place(path, true)?;
        let kind = Kind::Directory(DirectoryState::default());
        self.create_at(directory, name, kind, mode);
        Ok(())
    }

    /// See `symlink(2)`.
    pub(super) fn symlink(&mut self, target: &[u8], path: &[u8]) -> io::Result<()> {
        match target.len() {
            0 => return Err(os(libc::ENOENT)),
            1..=TARGET_MAX => {}
            _ => return Err(os(libc::ENAMETOOLONG)),
        }
        let (directory, name) = self.new_place(path, false)?;
        self.create_at(directory, name, Kind::Link(target.to_vec()), 0o777);
        Ok(())
    }

    /// See `link(2)`.
    pub(super) fn hard_link(&mut self, original: &[u8], path: &[u8]) -> io::Result<()> {
        let ino = self.find_path(original, false)?;
        let (directory, name) = self.new_place(path, false)?;
        if self.inode(ino)?.is_directory() {
            return Err(os(libc::EPERM));
        }
        self.apply(NameChange::new(
            ino,
            vec![(directory, name.clone(), Some(ino))],
        ));
        self.notify(ino, libc::IN_ATTRIB);
        self.notify_name(directory, &name, libc::IN_CREATE, ino, 0);
        Ok(())
    }

    /// See `readlink(2)`.
    pub(super) fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        match &self.inode(self.find_path(path, false)?)?.kind {
            Kind::Link(target) => Ok(target.clone()),
            _ => Err(os(libc::EINVAL)),
        }
    }

    /// See `unlink(2)`.
    pub(super) fn remove_file(&mut self, path: &[u8]) -> io::Result<()> {
        let place = self.find_place(path)?;
        let Last::Name(name) = &place.last else {
            return Err(os(libc::EISDIR));
        };
        let found = self.look_up(place.directory, name)?;
        let ino = found.ok_or_else(|| os(libc::ENOENT))?;
        if self.inode(ino)?.is_directory() {
            return Err(os(libc::EISDIR));
        }
        if place.has_slash {
            return Err(os(libc::ENOTDIR));
        }
        self.permit(place.directory, WRITE | SEARCH)?;
        self.remove_at(place.directory, name, ino, None);
        Ok(())
    }

    /// See `rmdir(2)`.
    pub(super) fn remove_dir(&mut self, path: &[u8]) -> io::Result<()> {
        let place = self.find_place(path)?;
        let name = match &place.last {
            Last::Name(name) => name,
            Last::Dot => return Err(os(libc::EINVAL)),
            Last::DotDot => return Err(os(libc::ENOTEMPTY)),
            Last::Root => return Err(os(libc::EBUSY)),
        };
        let found = self.look_up(place.directory, name)?;
        let ino = found.ok_or_else(|| os(libc::ENOENT))?;
        self.permit(place.directory, WRITE | SEARCH)?;
        if !self.directory(ino)?.now.is_empty() {
            return Err(os(libc::ENOTEMPTY));
        }
        self.remove_at(place.directory, name, ino, Some(ino));
        Ok(())
    }

    fn remove_at(&mut self, directory: Ino, name: &[u8], ino: Ino, removed: Option<Ino>) {
        let bits = self.inodes.get(&ino).map_or(0, |inode| inode.type_bits());
        let mut change = NameChange::new(ino, vec![(directory, name.to_vec(), None)]);
        change.removed_directory = removed;
        self.notify_removed(ino);
        self.apply(change);
        self.notify_entry(directory, name, libc::IN_DELETE, bits, 0);
    }

    /// See `rename(2)`.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from, to) = (self.find_place(from)?, self.find_place(to)?);
        let (Last::Name(old_name), Last::Name(new_name)) = (&from.last, &to.last) else {
            return Err(os(libc::EBUSY));
        };
        let found = self.look_up(from.directory, old_name)?;
        let ino = found.ok_or_else(|| os(libc::ENOENT))?;
        let target = self.look_up(to.directory, new_name)?;
        let is_directory = self.inode(ino)?.is_directory();
        if !is_directory && (from.has_slash || to.has_slash) {
            return Err(os(libc::ENOTDIR));
        }
        let above = self.ancestors(to.directory);
        if above.contains(&ino) {
            return Err(os(libc::EINVAL));
        }
        if target.is_some_and(|target| self.ancestors(from.directory).contains(&target)) {
            return Err(os(libc::ENOTEMPTY));
        }
        if target == Some(ino) {
            return Ok(());
        }
        self.permit(from.directory, WRITE | SEARCH)?;
        self.permit(to.directory, WRITE | SEARCH)?;
        if let Some(target) = target {
            self.check_replace(is_directory, target)?;
        }
        self.move_name(&from, &to, (old_name, new_name), ino, target, above);
        Ok(())
    }

    fn check_replace(&self, is_directory: bool, target: Ino) -> io::Result<()> {
        match (is_directory, self.inode(target)?.directory()) {
            (true, None) => Err(os(libc::ENOTDIR)),
            (false, Some(_)) => Err(os(libc::EISDIR)),
            (true, Some(there)) if !there.now.is_empty() => Err(os(libc::ENOTEMPTY)),
            _ => Ok(()),
        }
    }

    fn move_name(
        &mut self,
        from: &Place,
        to: &Place,
        (old_name, new_name): (&[u8], &[u8]),
        ino: Ino,
        target: Option<Ino>,
        above: Vec<Ino>,
    ) {
        let is_directory = self
            .inodes
            .get(&ino)
            .is_some_and(|inode| inode.is_directory());
        let sets = vec![
            (from.directory, old_name.to_vec(), None),
            (to.directory, new_name.to_vec(), Some(ino)),
        ];
        let mut change = NameChange::new(ino, sets);
        change.replaced = target;
        change.removed_directory = target.filter(|_| is_directory);
        if from.directory != to.directory {
            change.ancestors = above;
            change.moves_directory = is_directory;
        }
        if let Some(target) = target {
            self.notify_removed(target);
        }
        self.apply(change);
        if let Some(moved) = self
            .inodes
            .get_mut(&ino)
            .and_then(|inode| inode.directory_mut())
        {
            moved.parent = to.directory;
        }
        for open in self.opens.values_mut() {
            if open.ino == ino && open.name.0 == from.directory && open.name.1 == old_name {
                open.name = (to.directory, new_name.to_vec());
            }
        }
        let cookie = self.watches.next_cookie();
        self.notify_name(from.directory, old_name, libc::IN_MOVED_FROM, ino, cookie);
        self.notify_name(to.directory, new_name, libc::IN_MOVED_TO, ino, cookie);
        self.notify(ino, libc::IN_MOVE_SELF);
    }

    /// A directory and all above it.
    fn ancestors(&self, directory: Ino) -> Vec<Ino> {
        let mut all = vec![directory];
        let mut at = directory;
        while at != ROOT
            && let Ok(state) = self.directory(at)
        {
            at = state.parent;
            all.push(at);
        }
        all
    }

    /// The entries of a directory, by name.
    pub(super) fn read_dir(&self, path: &[u8]) -> io::Result<Vec<Entry>> {
        let ino = self.find_path(path, true)?;
        let directory = self.directory(ino)?;
        self.permit(ino, READ)?;
        let entry = |(name, ino): (&Name, &Ino)| {
            let bits = self.inodes.get(ino).map_or(0, |inode| inode.type_bits());
            (name.clone(), *ino, bits)
        };
        Ok(directory.now.iter().map(entry).collect())
    }
}
