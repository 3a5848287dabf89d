//! The pending changes of names: those that are not on the disk yet, and which of them need which others.
//!
//! ```text
//!   mkdir a            ──▶ 1: /a = inode 7
//!   write a/f          ──▶ 2: 7/f = inode 8                   fsync of 7 writes 2; /a itself stays pending
//!   rename a/f to /f   ──▶ 3: 7/f = none, /f = inode 8        needs 2, because it moves the same inode
//! ```
//!
//! Changes reach the disk in any order, except that one needs an earlier one
//! - if both concern the same name, or the same inode;
//! - if it removes a directory from which the earlier one took a name: otherwise the file would have neither name;
//! - if it moves something into a directory that the earlier one created or moved, or into one below it: likewise;
//! - if both move a directory: otherwise two directories could end inside each other.

use super::disk::Disk;
use super::inode::{Ino, Name};
use std::collections::{BTreeMap, BTreeSet};

/// Pending changes of names. Beyond it the older half is written, as by the periodic commit of a journal.
const CHANGES_MAX: usize = 4096;

/// An entry of a directory, and what it becomes.
pub(super) type Set = (Ino, Name, Option<Ino>);

/// A change of one name, or of two at once.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub(super) sets: Vec<Set>,
    /// The inode that is created, moved, or removed.
    pub(super) subject: Ino,
    /// The inode that a rename replaces.
    pub(super) replaced: Option<Ino>,
    /// The directory that disappears.
    pub(super) removed_directory: Option<Ino>,
    /// For a move between directories: the one of the new name and all above it.
    pub(super) ancestors: Vec<Ino>,
    pub(super) moves_directory: bool,
    /// The earlier changes that it needs.
    needs: Vec<u64>,
}

impl NameChange {
    pub(super) fn new(subject: Ino, sets: Vec<Set>) -> NameChange {
        NameChange {
            sets,
            subject,
            replaced: None,
            removed_directory: None,
            ancestors: Vec::new(),
            moves_directory: false,
            needs: Vec::new(),
        }
    }

    fn touches(&self, directory: Ino) -> bool {
        self.sets
            .iter()
            .any(|(in_directory, _, _)| *in_directory == directory)
    }

    fn mentioned(&self) -> impl Iterator<Item = Ino> + use<> {
        [Some(self.subject), self.replaced].into_iter().flatten()
    }

    fn needs(&self, earlier: &NameChange) -> bool {
        let same_name = |(directory, name, _): &Set| {
            let other = |(other, other_name, _): &Set| (other, other_name) == (directory, name);
            earlier.sets.iter().any(other)
        };
        let places_ancestor =
            |(_, _, placed): &Set| placed.is_some_and(|placed| self.ancestors.contains(&placed));
        self.subject == earlier.subject
            || self.sets.iter().any(same_name)
            || self
                .removed_directory
                .is_some_and(|gone| earlier.touches(gone))
            || earlier.sets.iter().any(places_ancestor)
            || (self.moves_directory && earlier.moves_directory)
    }
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    pending: BTreeMap<u64, NameChange>,
    last: u64,
}

impl Disk {
    /// Notes a change of names that processes already see.
    pub(super) fn log_names(&mut self, mut change: NameChange) {
        let earlier = self.journal.pending.iter();
        let needed = earlier.filter(|(_, earlier)| change.needs(earlier));
        change.needs = needed.map(|(number, _)| *number).collect();
        for ino in change.mentioned() {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.pending_names += 1;
            }
        }
        self.journal.last += 1;
        self.journal.pending.insert(self.journal.last, change);
        if self.journal.pending.len() > CHANGES_MAX {
            let older: Vec<u64> = (self.journal.pending.keys().copied())
                .take(CHANGES_MAX / 2)
                .collect();
            older
                .into_iter()
                .for_each(|number| self.write_names(number));
        }
    }

    /// Writes the changes in a directory, and those that they need.
    pub(super) fn sync_directory(&mut self, directory: Ino) {
        let mut wanted = BTreeSet::new();
        for (number, change) in self.journal.pending.iter().rev() {
            if change.touches(directory) || wanted.contains(number) {
                wanted.insert(*number);
                wanted.extend(change.needs.iter().copied());
            }
        }
        wanted
            .into_iter()
            .for_each(|number| self.write_names(number));
        if let Some(inode) = self.inodes.get_mut(&directory) {
            inode.durable_attributes = inode.attributes;
        }
    }

    /// Writes all changes of names.
    pub(super) fn write_all_names(&mut self) {
        while let Some(number) = self.journal.pending.keys().next().copied() {
            self.write_names(number);
        }
    }

    /// Decides for each pending change whether it was written before a crash.
    pub(super) fn settle_names(&mut self, probability: f64) {
        let mut lost = BTreeSet::new();
        while let Some((number, change)) = self.journal.pending.pop_first() {
            let is_possible = change.needs.iter().all(|needed| !lost.contains(needed));
            if is_possible && self.random.chance(probability) {
                self.journal.pending.insert(number, change);
                self.write_names(number);
            } else {
                lost.insert(number);
                self.forget(&change);
            }
        }
    }

    /// Writes one change, if it is still pending.
    fn write_names(&mut self, number: u64) {
        let Some(change) = self.journal.pending.remove(&number) else {
            return;
        };
        let mut gone = Vec::new();
        for (directory, name, placed) in &change.sets {
            if let Some(inode) = placed.and_then(|placed| self.inodes.get_mut(&placed)) {
                inode.durable_links += 1;
            }
            let Some(state) =
                (self.inodes.get_mut(directory)).and_then(|inode| inode.directory_mut())
            else {
                gone.extend(*placed);
                continue;
            };
            gone.extend(match placed {
                Some(placed) => state.durable.insert(name.clone(), *placed),
                None => state.durable.remove(name),
            });
        }
        for ino in gone {
            self.drop_durable_link(ino);
        }
        self.forget(&change);
    }

    /// Counts that the disk has one name less for an inode.
    pub(super) fn drop_durable_link(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.durable_links = inode.durable_links.saturating_sub(1);
        }
        self.release(ino);
    }

    /// Counts that a change no longer mentions its inodes.
    fn forget(&mut self, change: &NameChange) {
        for ino in change.mentioned() {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.pending_names = inode.pending_names.saturating_sub(1);
            }
            self.release(ino);
        }
    }
}
