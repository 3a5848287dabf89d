//! Finds what a path names, as `path_resolution(7)` says.

use super::disk::{Disk, ROOT};
use super::inode::{DirectoryState, Ino, Kind, Name};
use crate::simulated::errors::os;
use std::io;

/// Bytes of a name (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// Bytes of a path with the zero at its end (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// Symbolic links that are followed on the way (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// Permission bits of the owner, which every process is.
pub(super) const READ: u32 = 0o400;
pub(super) const WRITE: u32 = 0o200;
pub(super) const SEARCH: u32 = 0o100;

/// The last component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Last {
    Root,
    Dot,
    DotDot,
    Name(Name),
}

/// A path up to its last component.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) directory: Ino,
    pub(super) last: Last,
    /// Whether a slash follows: it must be a directory.
    pub(super) has_slash: bool,
}

/// Checks the length of a name.
fn checked(name: &[u8]) -> io::Result<&[u8]> {
    match name.len() > NAME_MAX {
        true => Err(os(libc::ENAMETOOLONG)),
        false => Ok(name),
    }
}

impl Disk {
    /// Finds the directory of a path's last component, which need not exist.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`; like all lookups.
    pub(super) fn find_place(&self, path: &[u8]) -> io::Result<Place> {
        self.place_from(ROOT, path, &mut 0)
    }

    /// Finds what a path names, and follows a link at its end if `follows`.
    ///
    /// # Errors
    /// See [`Disk::find_place`].
    pub(super) fn find_path(&self, path: &[u8], follows: bool) -> io::Result<Ino> {
        let mut links = 0;
        let place = self.place_from(ROOT, path, &mut links)?;
        self.resolve(&place, follows, &mut links)
    }

    fn place_from(&self, start: Ino, path: &[u8], links: &mut u32) -> io::Result<Place> {
        if path.is_empty() {
            return Err(os(libc::ENOENT));
        }
        if path.len() >= PATH_MAX {
            return Err(os(libc::ENAMETOOLONG));
        }
        let mut at = match path[0] {
            b'/' => ROOT,
            _ => start,
        };
        let has_slash = path.ends_with(b"/");
        let parts = path.split(|byte| *byte == b'/');
        let mut parts = parts.filter(|part| !part.is_empty()).peekable();
        let mut last = Last::Root;
        while let Some(part) = parts.next() {
            self.searchable(at)?;
            let step = match part {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                name => Last::Name(name.to_vec()),
            };
            if parts.peek().is_none() {
                last = step;
                break;
            }
            let place = Place {
                directory: at,
                last: step,
                has_slash: false,
            };
            at = self.resolve(&place, true, links)?;
        }
        Ok(Place {
            directory: at,
            last,
            has_slash,
        })
    }

    /// Finds what is at a place.
    pub(super) fn resolve(&self, place: &Place, follows: bool, links: &mut u32) -> io::Result<Ino> {
        let found = match &place.last {
            Last::Root => ROOT,
            Last::Dot => place.directory,
            Last::DotDot => self.directory(place.directory)?.parent,
            Last::Name(name) => {
                let found = self.look_up(place.directory, name)?;
                let found = found.ok_or_else(|| os(libc::ENOENT))?;
                match &self.inode(found)?.kind {
                    Kind::Link(target) if follows || place.has_slash => {
                        let next = self.follow(place.directory, target, links)?;
                        self.resolve(&next, true, links)?
                    }
                    _ => found,
                }
            }
        };
        if place.has_slash && !self.inode(found)?.is_directory() {
            return Err(os(libc::ENOTDIR));
        }
        Ok(found)
    }

    /// The place to which a link in `directory` leads.
    pub(super) fn follow(
        &self,
        directory: Ino,
        target: &[u8],
        links: &mut u32,
    ) -> io::Result<Place> {
        *links += 1;
        if *links > LINKS_MAX {
            return Err(os(libc::ELOOP));
        }
        self.place_from(directory, target, links)
    }

    /// Returns the entry of a directory.
    ///
    /// # Errors
    /// When the name is too long.
    pub(super) fn look_up(&self, directory: Ino, name: &[u8]) -> io::Result<Option<Ino>> {
        let name = checked(name)?;
        Ok(self.directory(directory)?.now.get(name).copied())
    }

    /// Checks that names in a directory may be looked up.
    fn searchable(&self, directory: Ino) -> io::Result<&DirectoryState> {
        let state = self.directory(directory)?;
        self.permit(directory, SEARCH)?;
        Ok(state)
    }

    /// Checks the owner's permission.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn permit(&self, ino: Ino, wanted: u32) -> io::Result<()> {
        match self.inode(ino)?.attributes.mode & wanted == wanted {
            true => Ok(()),
            false => Err(os(libc::EACCES)),
        }
    }

    /// The path without links, as `realpath(3)` returns it.
    pub(super) fn path_of(&self, mut ino: Ino) -> io::Result<Vec<u8>> {
        let mut parts: Vec<Name> = Vec::new();
        while ino != ROOT {
            let parent = match self.inode(ino)?.directory() {
                Some(directory) => directory.parent,
                None => return Err(os(libc::ENOTDIR)),
            };
            let entries = &self.directory(parent)?.now;
            let name = entries.iter().find(|(_, entry)| **entry == ino);
            let (name, _) = name.ok_or_else(|| os(libc::ENOENT))?;
            parts.push(name.clone());
            ino = parent;
        }
        parts.reverse();
        let mut path = Vec::new();
        for part in &parts {
            path.push(b'/');
            path.extend(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// See `realpath(3)`.
    pub(super) fn canonicalize(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let mut links = 0;
        let mut place = self.place_from(ROOT, path, &mut links)?;
        let found = self.resolve(&place, true, &mut links)?;
        if self.inode(found)?.is_directory() {
            return self.path_of(found);
        }
        // A file has no parent of its own: the name at the end of the chain of links is its.
        links = 0;
        loop {
            let Last::Name(name) = &place.last else {
                return Err(os(libc::ENOENT));
            };
            let entry = self.look_up(place.directory, name)?;
            let entry = entry.ok_or_else(|| os(libc::ENOENT))?;
            let Kind::Link(target) = &self.inode(entry)?.kind else {
                let mut path = self.path_of(place.directory)?;
                if path != b"/" {
                    path.push(b'/');
                }
                path.extend(name);
                return Ok(path);
            };
            place = self.follow(place.directory, target, &mut links)?;
        }
    }
}
