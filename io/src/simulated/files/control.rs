//! The scenario's access to the disks of its hosts.

use super::disk::Disk;
use super::disks::{PlannedCrash, with_disk};
use super::faults::{DiskFaults, DiskLatency};
use super::inode::{Change, FileState, Ino, Inode, Kind};
use super::path::Last;
use crate::simulated::errors::os;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub(crate) fn set_faults(host: u32, faults: DiskFaults) {
    with_disk(host, |disk| disk.script.faults = faults);
}

pub(crate) fn set_latency(host: u32, latency: DiskLatency) {
    with_disk(host, |disk| disk.script.latency = latency);
}

pub(crate) fn faults_of(host: u32) -> DiskFaults {
    with_disk(host, |disk| disk.script.faults)
}

pub(crate) fn latency_of(host: u32) -> DiskLatency {
    with_disk(host, |disk| disk.script.latency)
}

/// Lets nothing more fit on a disk, or all for which there is space.
pub(crate) fn set_full(host: u32, is_full: bool) {
    with_disk(host, |disk| disk.set_full(is_full));
}

pub(crate) fn set_capacity(host: u32, bytes: u64) {
    with_disk(host, |disk| disk.set_capacity(bytes));
}

/// Lets operations wait, or continue.
pub(crate) fn set_frozen(host: u32, frozen: bool) {
    with_disk(host, |disk| disk.script.gate.set_frozen(frozen));
}

pub(crate) fn operations(host: u32) -> u64 {
    with_disk(host, |disk| disk.script.count())
}

pub(crate) fn fail_at_operation(host: u32, nth: u64) {
    with_disk(host, |disk| disk.script.plan_failure(nth));
}

pub(crate) fn crash_at_operation(host: u32, nth: u64) -> PlannedCrash {
    PlannedCrash(with_disk(host, |disk| disk.script.plan_crash(nth)))
}

/// Switches the power of a host's disk off.
pub(crate) fn crash(host: u32) {
    with_disk(host, |disk| {
        disk.switch_off();
        disk.end_waits();
    });
}

pub(crate) fn restart(host: u32) {
    with_disk(host, Disk::switch_on);
}

/// Makes a durable file, and the directories above it.
pub(crate) fn write_file(host: u32, path: &Path, bytes: &[u8]) -> io::Result<()> {
    with_disk(host, |disk| disk.put(path, bytes))
}

pub(crate) fn read_file(host: u32, path: &Path) -> io::Result<Vec<u8>> {
    with_disk(host, |disk| {
        let ino = disk.find_path(path.as_os_str().as_bytes(), true)?;
        match disk.inode(ino)?.file() {
            Some(file) => Ok(file.now.to_vec()),
            None => Err(os(libc::EISDIR)),
        }
    })
}

/// The files by their paths, as processes see them.
pub(crate) fn files(host: u32) -> BTreeMap<PathBuf, Vec<u8>> {
    with_disk(host, |disk| disk.visible_files())
}

/// The files by their paths, if all that is pending were lost.
pub(crate) fn durable_files(host: u32) -> BTreeMap<PathBuf, Vec<u8>> {
    with_disk(host, |disk| disk.durable_files())
}

type Entries = BTreeMap<Vec<u8>, Ino>;

impl Disk {
    fn put(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let absolute = Path::new("/").join(path);
        let mut above: Vec<&Path> = absolute.ancestors().skip(1).collect();
        above.reverse();
        let mut changed = vec![super::disk::ROOT];
        for directory in above {
            let directory = directory.as_os_str().as_bytes();
            match self.create_dir(directory, 0o777) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => changed.push(self.find_path(directory, true)?),
            }
        }
        let path = absolute.as_os_str().as_bytes();
        let ino = match self.find_path(path, true) {
            Ok(ino) => ino,
            Err(_) => {
                let place = self.find_place(path)?;
                let Last::Name(name) = place.last else {
                    return Err(os(libc::EISDIR));
                };
                let kind = Kind::File(FileState::default());
                self.create_at(place.directory, name, kind, 0o666)
            }
        };
        self.set_len_of(ino, 0)?;
        let file = self
            .inode_mut(ino)?
            .file_mut()
            .ok_or_else(|| os(libc::EISDIR))?;
        let before = file.now.page_count();
        file.now.write(0, bytes);
        let after = file.now.page_count();
        self.count_pages(before, after);
        let bytes = bytes.to_vec();
        self.log_change(ino, Change::Write { offset: 0, bytes });
        self.write_back(ino);
        changed
            .into_iter()
            .for_each(|directory| self.sync_directory(directory));
        Ok(())
    }

    pub(super) fn visible_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = |inode: &Inode| inode.directory().map(|directory| directory.now.clone());
        self.list(entries, |file| file.now.to_vec())
    }

    pub(super) fn durable_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = |inode: &Inode| inode.directory().map(|directory| directory.durable.clone());
        self.list(entries, |file| file.durable.to_vec())
    }

    fn list(
        &self,
        entries: impl Fn(&Inode) -> Option<Entries>,
        contents: impl Fn(&FileState) -> Vec<u8>,
    ) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut rest = vec![(PathBuf::from("/"), super::disk::ROOT)];
        while let Some((path, ino)) = rest.pop() {
            let inside = self.inodes.get(&ino).and_then(&entries);
            for (name, entry) in inside.into_iter().flatten() {
                let path = path.join(OsString::from_vec(name));
                match self.inodes.get(&entry).map(|inode| &inode.kind) {
                    Some(Kind::File(file)) => {
                        all.insert(path, contents(file));
                    }
                    Some(Kind::Directory(_)) => rest.push((path, entry)),
                    _ => {}
                }
            }
        }
        all
    }
}
