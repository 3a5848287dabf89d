//! Watches files and directories for changes (`inotify`).
//!
//! ```text
//!   kernel ──▶ records in the inotify descriptor ──▶ Watcher::next, one record a call
//!   record:  watch, mask, cookie, length of the name, name and zeros
//! ```
//!
//! A watch on a directory reports events of the files in it, but not of deeper levels: watch each directory.

use crate::descriptor::Descriptor;
use crate::identity::Direction;
use crate::simulated::{self, files};
use crate::sys;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Bytes of records that one read takes. A record with the longest name takes 272 bytes.
const READ_BYTES: usize = 4096;

/// Bytes of a record without its name.
const HEADER: usize = size_of::<libc::inotify_event>();

/// A set of event kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Events(u32);

impl Events {
    /// The contents of a file changed.
    pub const MODIFIED: Events = Events(libc::IN_MODIFY);
    /// A file that was open for writing was closed: the write is complete.
    pub const WRITTEN: Events = Events(libc::IN_CLOSE_WRITE);
    /// A file was created in the directory.
    pub const CREATED: Events = Events(libc::IN_CREATE);
    /// A file was removed from the directory.
    pub const REMOVED: Events = Events(libc::IN_DELETE);
    /// A file was renamed from this name.
    pub const MOVED_FROM: Events = Events(libc::IN_MOVED_FROM);
    /// A file was renamed to this name. The event with the same cookie has the old name.
    pub const MOVED_TO: Events = Events(libc::IN_MOVED_TO);
    /// Permissions, times or owner changed.
    pub const ATTRIBUTES: Events = Events(libc::IN_ATTRIB);
    /// The watched file or directory was itself removed.
    pub const SELF_REMOVED: Events = Events(libc::IN_DELETE_SELF);
    /// The watched file or directory was itself renamed.
    pub const SELF_MOVED: Events = Events(libc::IN_MOVE_SELF);
    /// The event concerns a directory. Set in events only; it cannot be requested.
    pub const DIRECTORY: Events = Events(libc::IN_ISDIR);
    /// The watch has ended: it was removed, or its target no longer exists. Always reported.
    pub const UNWATCHED: Events = Events(libc::IN_IGNORED);
    /// Events were lost because they were not read in time: rescan everything. Always reported.
    pub const OVERFLOW: Events = Events(libc::IN_Q_OVERFLOW);
    /// All events that change a file or a directory.
    pub const CHANGES: Events = Events(
        libc::IN_CLOSE_WRITE
            | libc::IN_MODIFY
            | libc::IN_CREATE
            | libc::IN_DELETE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_DELETE_SELF
            | libc::IN_MOVE_SELF,
    );

    /// Whether the set contains all kinds in `other`.
    pub fn contains(self, other: Events) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

/// A watched file or directory, identified by a number of its [`Watcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watch(i32);

/// A change to a watched file or directory.
///
/// ```
/// use yue_io::inotify::{Events, Watcher};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     let (draft, page) = (dir.path().join("draft"), dir.path().join("page"));
///     yue_io::fs::write(&draft, "text")?;
///     let watcher = Watcher::new()?;
///     watcher.add(dir.path(), Events::MOVED_FROM | Events::MOVED_TO)?;
///     yue_io::fs::rename(&draft, &page)?;
///     let (from, to) = (watcher.next()?, watcher.next()?);
///     assert_eq!((from.name.unwrap(), to.name.unwrap()), ("draft".into(), "page".into()));
///     assert_eq!(from.cookie, to.cookie); // One rename.
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The watch that the event belongs to; meaningless for [`Events::OVERFLOW`].
    pub watch: Watch,
    /// The kinds of the event.
    pub events: Events,
    /// The name of the file within the watched directory.
    pub name: Option<OsString>,
    /// Equal in the two events of one rename, otherwise 0.
    pub cookie: u32,
}

/// Receives events of files and directories. Waiting parks the calling fiber.
///
/// ```
/// use yue_io::inotify::{Events, Watcher};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     let watcher = Watcher::new()?;
///     let watch = watcher.add(dir.path(), Events::WRITTEN | Events::REMOVED)?;
///     yue_io::fs::write(dir.path().join("config"), "new")?;
///     let event = watcher.next()?;
///     assert_eq!((event.watch, event.events), (watch, Events::WRITTEN));
///     assert_eq!(event.name.unwrap(), "config");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Watcher {
    /// The watcher of a simulated disk, which sends the kernel's records to `descriptor`.
    simulated: Option<files::Watcher>,
    descriptor: Descriptor,
    read: Mutex<VecDeque<Event>>,
}

impl Watcher {
    /// Creates a watcher without watches.
    ///
    /// # Errors
    /// When the process is out of descriptors, or the user out of inotify instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Watcher> {
        let (simulated, descriptor) = match simulated::is_on() {
            true => {
                let (reader, writer) = simulated::open_pair(socket2::Type::DGRAM)?;
                (Some(files::Watcher::new(writer)), reader)
            }
            false => (None, sys::inotify_fd()?),
        };
        Ok(Watcher {
            simulated,
            descriptor: Descriptor::from(descriptor),
            read: Mutex::default(),
        })
    }

    /// Watches a file or a directory. If it is already watched, the event mask is replaced.
    ///
    /// # Errors
    /// The system's error, such as a missing file or too many watches (`fs.inotify.max_user_watches`).
    pub fn add(&self, path: impl AsRef<Path>, events: Events) -> io::Result<Watch> {
        if let Some(watcher) = &self.simulated {
            return watcher.add(path.as_ref(), events.0).map(Watch);
        }
        let path = CString::new(path.as_ref().as_os_str().as_bytes())?;
        sys::inotify_add(self.descriptor.raw(), &path, events.0).map(Watch)
    }

    /// Removes a watch. [`Events::UNWATCHED`] follows the events that are already queued.
    ///
    /// # Errors
    /// When the watch does not exist.
    pub fn remove(&self, watch: Watch) -> io::Result<()> {
        match &self.simulated {
            Some(watcher) => watcher.remove(watch.0),
            None => sys::inotify_remove(self.descriptor.raw(), watch.0),
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn next(&self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.queue().pop_front() {
                return Ok(event);
            }
            let mut buffer = [0; READ_BYTES];
            let count = self.read_records(&mut buffer)?;
            self.queue().extend(events(&buffer[..count]));
        }
    }

    fn read_records(&self, buffer: &mut [u8]) -> io::Result<usize> {
        const REASON: &str = "watch files";
        if self.simulated.is_none() {
            return self.descriptor.read(buffer, REASON);
        }
        let call = || sys::recv(self.descriptor.raw(), buffer, 0);
        self.descriptor.by_readiness(Direction::Read, REASON, call)
    }

    /// Locks the queue. None of the program's code runs under the lock, so a poisoned lock still holds a consistent
    /// value.
    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        yue_scheduler::lock(&self.read)
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Parses the records in a read's bytes.
fn events(mut bytes: &[u8]) -> Vec<Event> {
    let mut all = Vec::new();
    let number = |bytes: &[u8], at: usize| {
        bytes[at..at + 4]
            .try_into()
            .map(u32::from_ne_bytes)
            .unwrap_or(0)
    };
    while bytes.len() >= HEADER {
        let (watch, mask) = (number(bytes, 0) as i32, number(bytes, 4));
        let (cookie, length) = (number(bytes, 8), number(bytes, 12) as usize);
        let end = (HEADER + length).min(bytes.len());
        let name = CStr::from_bytes_until_nul(&bytes[HEADER..end]).ok();
        let name = name.filter(|name| !name.is_empty());
        all.push(Event {
            watch: Watch(watch),
            events: Events(mask),
            name: name.map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
            cookie,
        });
        bytes = &bytes[end..];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parsed_in_order_and_garbage_is_harmless() {
        let record = |watch: i32, mask: u32, cookie: u32, name: &[u8]| {
            let length = name.len() as u32;
            let numbers = [watch as u32, mask, cookie, length];
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
            bytes.extend(name);
            bytes
        };
        let bytes = [
            record(1, libc::IN_CREATE | libc::IN_ISDIR, 0, b"sub\0\0\0\0\0"),
            record(2, libc::IN_MODIFY, 0, b""),
            record(-1, libc::IN_Q_OVERFLOW, 0, b""),
        ]
        .concat();
        let all = events(&bytes);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].name.as_deref(), Some(OsStr::new("sub")));
        assert!(all[0].events.contains(Events::CREATED | Events::DIRECTORY));
        assert_eq!((all[1].watch, &all[1].name), (Watch(2), &None));
        assert_eq!(all[2].events, Events::OVERFLOW);
        for cut in 0..bytes.len() {
            assert!(events(&bytes[..cut]).len() <= 3);
        }
        assert_eq!(events(&[0xff; 40]).len(), 1);
    }
}
