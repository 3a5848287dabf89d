//! Watches of files (`inotify(7)`): each watcher gets the kernel's records through a pair of simulated sockets.
//!
//! ```text
//!   change ──▶ watches of the inode and of its directory ──▶ one datagram for each record ──▶ `inotify::Watcher`
//! ```

use super::disk::Disk;
use super::inode::{Ino, Name};
use super::open::OpenFile;
use crate::simulated;
use crate::simulated::errors::os;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) type WatcherId = u64;

/// Watches of a user (`fs.inotify.max_user_watches`).
const WATCHES_MAX: usize = 65_536;

/// The alignment of a record's name.
const ALIGNMENT: usize = size_of::<libc::inotify_event>();

/// The kinds that may be asked for.
const ALL: u32 = libc::IN_ALL_EVENTS;

#[derive(Debug)]
struct Watcher {
    /// The sender's end.
    writer: OwnedFd,
    last_watch: i32,
    watches: BTreeMap<i32, (Ino, u32)>,
    /// The last record, which is not repeated while nothing else happens.
    last: Vec<u8>,
    overflowed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Watches {
    watchers: BTreeMap<WatcherId, Watcher>,
    last_watcher: WatcherId,
    last_cookie: u32,
}

impl Watches {
    pub(super) fn next_cookie(&mut self) -> u32 {
        self.last_cookie += 1;
        self.last_cookie
    }

    /// Drops all watchers.
    pub(super) fn clear(&mut self) {
        std::mem::take(&mut self.watchers)
            .into_values()
            .for_each(Watcher::close);
    }
}

impl Watcher {
    fn close(self) {
        simulated::close(self.writer.as_raw_fd());
    }

    /// Sends a record, or notes that one was lost.
    fn send(&mut self, watch: i32, mask: u32, cookie: u32, name: &[u8]) {
        if self.overflowed {
            let lost = record(-1, libc::IN_Q_OVERFLOW, 0, b"");
            if simulated::send(self.writer.as_raw_fd(), &lost).is_err() {
                return;
            }
            self.overflowed = false;
        }
        let bytes = record(watch, mask, cookie, name);
        if bytes == self.last {
            return;
        }
        self.overflowed = simulated::send(self.writer.as_raw_fd(), &bytes).is_err();
        self.last = bytes;
    }
}

/// A record as the kernel writes it.
fn record(watch: i32, mask: u32, cookie: u32, name: &[u8]) -> Vec<u8> {
    let length = match name.len() {
        0 => 0,
        length => (length + 1).next_multiple_of(ALIGNMENT),
    };
    let numbers = [watch as u32, mask, cookie, length as u32];
    let mut bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect();
    let end = bytes.len() + length;
    bytes.extend_from_slice(name);
    bytes.resize(end, 0);
    bytes
}

impl Disk {
    /// Adds a watcher that sends its records through `writer`.
    pub(super) fn add_watcher(&mut self, writer: OwnedFd) -> WatcherId {
        self.watches.last_watcher += 1;
        let watcher = Watcher {
            writer,
            last_watch: 0,
            watches: BTreeMap::new(),
            last: Vec::new(),
            overflowed: false,
        };
        self.watches
            .watchers
            .insert(self.watches.last_watcher, watcher);
        self.watches.last_watcher
    }

    pub(super) fn remove_watcher(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watches.watchers.remove(&id) {
            watcher.close();
        }
    }

    fn watcher(&mut self, id: WatcherId) -> io::Result<&mut Watcher> {
        self.watches
            .watchers
            .get_mut(&id)
            .ok_or_else(|| os(libc::EBADF))
    }

    /// See `inotify_add_watch(2)`.
    pub(super) fn add_watch(&mut self, id: WatcherId, path: &[u8], mask: u32) -> io::Result<i32> {
        let ino = self.find_path(path, mask & libc::IN_DONT_FOLLOW == 0)?;
        if mask & libc::IN_ONLYDIR != 0 {
            self.directory(ino)?;
        }
        self.permit(ino, super::path::READ)?;
        if mask & ALL == 0 {
            return Err(os(libc::EINVAL));
        }
        let watcher = self.watcher(id)?;
        let known = watcher
            .watches
            .iter_mut()
            .find(|(_, (watched, _))| *watched == ino);
        if let Some((number, (_, wanted))) = known {
            *wanted = mask & ALL;
            return Ok(*number);
        }
        if watcher.watches.len() >= WATCHES_MAX {
            return Err(os(libc::ENOSPC));
        }
        watcher.last_watch += 1;
        let number = watcher.last_watch;
        watcher.watches.insert(number, (ino, mask & ALL));
        Ok(number)
    }

    /// See `inotify_rm_watch(2)`.
    pub(super) fn remove_watch(&mut self, id: WatcherId, watch: i32) -> io::Result<()> {
        let watcher = self.watcher(id)?;
        watcher
            .watches
            .remove(&watch)
            .ok_or_else(|| os(libc::EINVAL))?;
        watcher.send(watch, libc::IN_IGNORED, 0, b"");
        Ok(())
    }

    fn send_event(
        &mut self,
        watched: Ino,
        mask: u32,
        is_directory: bool,
        cookie: u32,
        name: &[u8],
    ) {
        let flag = if is_directory { libc::IN_ISDIR } else { 0 };
        for watcher in self.watches.watchers.values_mut() {
            let wanted = (watcher.watches.iter())
                .find(|(_, (ino, wanted))| *ino == watched && wanted & mask != 0)
                .map(|(number, _)| *number);
            if let Some(number) = wanted {
                watcher.send(number, mask | flag, cookie, name);
            }
        }
    }

    fn is_watched(&self) -> bool {
        !self.watches.watchers.is_empty()
    }

    /// Reports an event of an inode, to its watches and those of the directories in which it has a name.
    pub(super) fn notify(&mut self, ino: Ino, mask: u32) {
        if !self.is_watched() {
            return;
        }
        let is_directory = self
            .inodes
            .get(&ino)
            .is_some_and(|inode| inode.is_directory());
        if mask & libc::IN_MOVE_SELF == 0 {
            for (directory, name) in self.names_of(ino) {
                self.send_event(directory, mask, is_directory, 0, &name);
            }
        }
        let is_directory = is_directory && mask & libc::IN_MOVE_SELF == 0;
        self.send_event(ino, mask, is_directory, 0, b"");
    }

    /// Reports an event of a file that was opened by this name.
    pub(super) fn notify_file(&mut self, ino: Ino, (directory, name): &(Ino, Name), mask: u32) {
        if self.is_watched() {
            self.send_event(*directory, mask, false, 0, name);
            self.send_event(ino, mask, false, 0, b"");
        }
    }

    pub(super) fn notify_open(&mut self, open: &OpenFile, mask: u32) {
        self.notify_file(open.ino, &open.name, mask);
    }

    /// Reports an event of a name in a directory.
    pub(super) fn notify_name(
        &mut self,
        directory: Ino,
        name: &[u8],
        mask: u32,
        ino: Ino,
        cookie: u32,
    ) {
        let bits = self.inodes.get(&ino).map_or(0, |inode| inode.type_bits());
        self.notify_entry(directory, name, mask, bits, cookie);
    }

    /// Reports an event of a name in a directory, of an inode of this type.
    pub(super) fn notify_entry(
        &mut self,
        directory: Ino,
        name: &[u8],
        mask: u32,
        bits: u32,
        cookie: u32,
    ) {
        if self.is_watched() {
            self.send_event(directory, mask, bits == libc::S_IFDIR, cookie, name);
        }
    }

    /// Reports that a file is about to lose a name.
    pub(super) fn notify_removed(&mut self, ino: Ino) {
        if self.is_watched()
            && self
                .inodes
                .get(&ino)
                .is_some_and(|inode| !inode.is_directory())
        {
            self.send_event(ino, libc::IN_ATTRIB, false, 0, b"");
        }
    }

    /// Ends the watches of an inode that no process reaches any more.
    pub(super) fn notify_end(&mut self, ino: Ino) {
        if !self.is_watched() {
            return;
        }
        self.send_event(ino, libc::IN_DELETE_SELF, false, 0, b"");
        for watcher in self.watches.watchers.values_mut() {
            let ended: Vec<i32> = (watcher.watches.iter())
                .filter(|(_, (watched, _))| *watched == ino)
                .map(|(number, _)| *number)
                .collect();
            for number in ended {
                watcher.watches.remove(&number);
                watcher.send(number, libc::IN_IGNORED, 0, b"");
            }
        }
    }

    /// The names of an inode in directories that are watched.
    fn names_of(&self, ino: Ino) -> Vec<(Ino, Name)> {
        let watchers = self.watches.watchers.values();
        let watched = watchers.flat_map(|watcher| watcher.watches.values().map(|(ino, _)| *ino));
        let mut directories: Vec<Ino> = watched.collect();
        directories.sort_unstable();
        directories.dedup();
        let mut names = Vec::new();
        for directory in directories {
            let state = self
                .inodes
                .get(&directory)
                .and_then(|inode| inode.directory());
            let entries = state.into_iter().flat_map(|state| &state.now);
            let named = entries.filter(|(_, entry)| **entry == ino);
            names.extend(named.map(|(name, _)| (directory, name.clone())));
        }
        names
    }
}
