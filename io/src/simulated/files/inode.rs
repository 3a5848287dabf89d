//! Files, directories and symbolic links, as processes see them and as the disk has them.

use super::content::{Content, PAGE_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

/// The number of a file, a directory or a link on its disk. Numbers are not used again.
pub(crate) type Ino = u64;

/// An open file description, as in `open(2)`.
pub(crate) type OpenId = u64;

pub(super) type Name = Vec<u8>;

/// Facts that do not concern the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    /// The permissions, without the type.
    pub(super) mode: u32,
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
    pub(super) changed: SystemTime,
    pub(super) created: SystemTime,
}

impl Attributes {
    pub(super) fn new(mode: u32, now: SystemTime) -> Attributes {
        Attributes {
            mode: mode & 0o7777,
            accessed: now,
            modified: now,
            changed: now,
            created: now,
        }
    }
}

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    pub(super) durable_attributes: Attributes,
    /// Names that processes see.
    pub(super) links: u32,
    /// Open file descriptions.
    pub(super) opens: u32,
    /// Names that the disk has.
    pub(super) durable_links: u32,
    /// Pending changes of names that mention it.
    pub(super) pending_names: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    File(FileState),
    Directory(DirectoryState),
    Link(Vec<u8>),
}

/// A change of a file's contents that is not on the disk yet.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Change {
    /// The memory that it takes, about.
    pub(super) fn bytes(&self) -> u64 {
        let payload = match self {
            Change::Write { bytes, .. } => bytes.len(),
            Change::SetLen(_) => 0,
        };
        (payload + size_of::<Change>()) as u64
    }
}

#[derive(Debug, Default)]
pub(super) struct FileState {
    pub(super) now: Content,
    pub(super) durable: Content,
    /// In the order in which the program made them.
    pub(super) pending: VecDeque<Change>,
    /// The number of write-backs that have failed (`errseq_t`).
    pub(super) failures: u64,
    /// The holder of the exclusive lock (`flock(2)`).
    pub(super) lock: Option<OpenId>,
}

#[derive(Debug, Default)]
pub(super) struct DirectoryState {
    pub(super) parent: Ino,
    pub(super) now: BTreeMap<Name, Ino>,
    pub(super) durable: BTreeMap<Name, Ino>,
}

impl Inode {
    pub(super) fn new(kind: Kind, mode: u32, now: SystemTime) -> Inode {
        let attributes = Attributes::new(mode, now);
        Inode {
            attributes,
            durable_attributes: attributes,
            links: 0,
            opens: 0,
            durable_links: 0,
            pending_names: 0,
            kind,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    pub(super) fn file(&self) -> Option<&FileState> {
        match &self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }

    pub(super) fn file_mut(&mut self) -> Option<&mut FileState> {
        match &mut self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }

    pub(super) fn directory(&self) -> Option<&DirectoryState> {
        match &self.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self) -> Option<&mut DirectoryState> {
        match &mut self.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Whether a process can reach it.
    pub(super) fn is_alive(&self) -> bool {
        self.links > 0 || self.opens > 0
    }

    /// Whether a crash can bring it back, if no process reaches it.
    pub(super) fn may_return(&self) -> bool {
        self.durable_links > 0 || self.pending_names > 0
    }

    /// The type, as in `st_mode`.
    pub(super) fn type_bits(&self) -> u32 {
        match self.kind {
            Kind::File(_) => libc::S_IFREG,
            Kind::Directory(_) => libc::S_IFDIR,
            Kind::Link(_) => libc::S_IFLNK,
        }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(file) => file.now.len(),
            Kind::Directory(_) => PAGE_BYTES,
            Kind::Link(target) => target.len() as u64,
        }
    }

    pub(super) fn page_count(&self) -> u64 {
        self.file().map_or(0, |file| file.now.page_count())
    }
}

/// The answer of `stat(2)`.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) device: u64,
    pub(crate) ino: Ino,
    /// The type and the permissions.
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) size: u64,
    /// Blocks of 512 bytes that it takes.
    pub(crate) blocks: u64,
    pub(crate) accessed: SystemTime,
    pub(crate) modified: SystemTime,
    pub(crate) changed: SystemTime,
    pub(crate) created: SystemTime,
}
