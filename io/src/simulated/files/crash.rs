//! A power failure: what is left of the pending changes.

use super::content::Content;
use super::disk::{Disk, ROOT};
use super::inode::{Change, Ino, Kind};
use std::collections::{BTreeMap, BTreeSet};
use yue_scheduler::simulation::Random;

/// Bytes that a disk writes as a whole, or not at all.
const SECTOR_BYTES: u64 = 512;

/// The probability that a lost write left the length that it would have had.
const LENGTH_STAYS: f64 = 0.25;

/// The probability that a change which was neither lost nor done as a whole is torn.
const TORN: f64 = 0.5;

/// Chooses how likely a pending change is done: mostly one of the extremes, which find most errors.
fn likelihood(random: &mut Random) -> f64 {
    match random.below(4) {
        0 => 0.0,
        1 => 1.0,
        _ => 0.5,
    }
}

/// Does some of the changes.
fn settle(random: &mut Random, durable: &mut Content, changes: impl Iterator<Item = Change>) {
    let done = likelihood(random);
    // The length of the earliest truncation that was lost. Writes beyond it went to blocks that the truncated file does
    // not have.
    let mut lost_beyond = u64::MAX;
    for change in changes {
        match change {
            Change::SetLen(length) => {
                let shrinks = length < durable.len();
                if length <= lost_beyond && random.chance(done) {
                    durable.set_len(length);
                } else if shrinks {
                    lost_beyond = lost_beyond.min(length);
                }
            }
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len() as u64;
                if end > lost_beyond {
                    continue;
                }
                if random.chance(done) {
                    durable.write(offset, &bytes);
                    continue;
                }
                if done > 0.0 && random.chance(TORN) {
                    write_torn(random, durable, offset, &bytes);
                }
                if end > durable.len() && random.chance(LENGTH_STAYS) {
                    durable.set_len(end);
                }
            }
        }
    }
}

/// Writes some of the sectors.
fn write_torn(random: &mut Random, durable: &mut Content, offset: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let part = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let part = part.min(bytes.len() - done);
        if random.chance(0.5) {
            durable.write(at, &bytes[done..done + part]);
        }
        done += part;
    }
}

impl Disk {
    /// Does some of a file's pending changes, and forgets the others.
    pub(super) fn settle_contents(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        if self.random.chance(0.5) {
            inode.durable_attributes = inode.attributes;
        }
        if let Some(file) = inode.file_mut()
            && !file.pending.is_empty()
        {
            let changes = std::mem::take(&mut file.pending);
            let freed: u64 = changes.iter().map(Change::bytes).sum();
            self.pending_bytes = self.pending_bytes.saturating_sub(freed);
            settle(&mut self.random, &mut file.durable, changes.into_iter());
        }
    }

    /// Switches the power off: from now on processes see what a disk may have kept.
    pub(crate) fn crash(&mut self) {
        self.opens.clear();
        self.watches.clear();
        let done = likelihood(&mut self.random);
        self.settle_names(done);
        let all: Vec<Ino> = self.inodes.keys().copied().collect();
        all.into_iter().for_each(|ino| self.settle_contents(ino));
        self.load();
    }

    /// Lets processes see the durable state, and nothing else.
    fn load(&mut self) {
        let mut links: BTreeMap<Ino, u32> = BTreeMap::from([(ROOT, 1)]);
        let mut parents = BTreeMap::from([(ROOT, ROOT)]);
        let mut rest = BTreeSet::from([ROOT]);
        while let Some(ino) = rest.pop_first() {
            let directory = self.inodes.get(&ino).and_then(|inode| inode.directory());
            for entry in directory
                .into_iter()
                .flat_map(|directory| directory.durable.values())
            {
                *links.entry(*entry).or_default() += 1;
                if self
                    .inodes
                    .get(entry)
                    .is_some_and(|inode| inode.is_directory())
                {
                    let is_new = parents.insert(*entry, ino).is_none();
                    debug_assert!(is_new, "a directory has one name");
                    if is_new {
                        rest.insert(*entry);
                    }
                }
            }
        }
        self.inodes.retain(|ino, _| links.contains_key(ino));
        self.pages_used = 0;
        self.pending_bytes = 0;
        for (ino, inode) in &mut self.inodes {
            inode.links = links.get(ino).copied().unwrap_or_default();
            inode.durable_links = inode.links;
            (inode.opens, inode.pending_names) = (0, 0);
            inode.attributes = inode.durable_attributes;
            match &mut inode.kind {
                Kind::File(file) => {
                    file.now = file.durable.clone();
                    file.lock = None;
                    self.pages_used += file.now.page_count();
                }
                Kind::Directory(directory) => {
                    directory.now = directory.durable.clone();
                    directory.parent = parents.get(ino).copied().unwrap_or(ROOT);
                }
                Kind::Link(_) => {}
            }
        }
    }
}
