//! The calls of `std::fs` on the disk of the calling thread's host. Those that take several calls of the system take as
//! many operations here, so that a crash or a fault may come between them.

use super::disk::Disk;
use super::disks::{perform, with_disk};
use super::faults::Operation;
use super::handle::Handle;
use super::inode::Facts;
use super::names::Entry;
use super::watches::WatcherId;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use yue_scheduler::simulation;

/// Bytes that a copy transfers at a time.
const COPY_BYTES: usize = 64 * 1024;

/// The bytes of a path.
///
/// # Errors
/// `InvalidInput` if it contains a zero byte.
pub(super) fn bytes_of(path: &Path) -> io::Result<&[u8]> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        let text = format!("the path {path:?} contains a zero byte");
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(bytes)
}

fn path_from(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn change<R>(f: impl FnOnce(&mut Disk) -> io::Result<R>) -> io::Result<R> {
    perform(simulation::host(), Operation::Change, f)
}

fn inspect<R>(f: impl FnOnce(&mut Disk) -> io::Result<R>) -> io::Result<R> {
    perform(simulation::host(), Operation::Inspect, f)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (bytes_of(from)?, bytes_of(to)?);
    change(|disk| disk.rename(from, to))
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    let path = bytes_of(path)?;
    change(|disk| disk.remove_file(path))
}

pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    let path = bytes_of(path)?;
    change(|disk| disk.remove_dir(path))
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    let path = bytes_of(path)?;
    change(|disk| disk.create_dir(path, 0o777))
}

pub(crate) fn hard_link(original: &Path, link: &Path) -> io::Result<()> {
    let (original, link) = (bytes_of(original)?, bytes_of(link)?);
    change(|disk| disk.hard_link(original, link))
}

pub(crate) fn symlink(original: &Path, link: &Path) -> io::Result<()> {
    let (original, link) = (bytes_of(original)?, bytes_of(link)?);
    change(|disk| disk.symlink(original, link))
}

pub(crate) fn metadata(path: &Path) -> io::Result<Facts> {
    facts(path, true)
}

pub(crate) fn symlink_metadata(path: &Path) -> io::Result<Facts> {
    facts(path, false)
}

fn facts(path: &Path, follows: bool) -> io::Result<Facts> {
    let path = bytes_of(path)?;
    inspect(|disk| {
        let ino = disk.find_path(path, follows)?;
        disk.facts(ino)
    })
}

pub(crate) fn exists(path: &Path) -> io::Result<bool> {
    match metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    let path = bytes_of(path)?;
    inspect(|disk| disk.canonicalize(path)).map(path_from)
}

pub(crate) fn read_link(path: &Path) -> io::Result<PathBuf> {
    let path = bytes_of(path)?;
    inspect(|disk| disk.read_link(path)).map(path_from)
}

/// The entries of a directory, by name.
pub(crate) fn read_dir(path: &Path) -> io::Result<Vec<Entry>> {
    let path = bytes_of(path)?;
    inspect(|disk| disk.read_dir(path))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let path = bytes_of(path)?;
    change(|disk| {
        let ino = disk.find_path(path, true)?;
        disk.set_mode(ino, mode)
    })
}

fn is_directory(path: &Path) -> bool {
    let is_directory = |facts: Facts| facts.mode & libc::S_IFMT == libc::S_IFDIR;
    metadata(path).is_ok_and(is_directory)
}

pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    match create_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) if is_directory(path) => return Ok(()),
        other => return other,
    }
    match path.parent() {
        Some(parent) => create_dir_all(parent)?,
        None => return Err(io::Error::other("failed to create whole tree")),
    }
    match create_dir(path) {
        Err(_) if is_directory(path) => Ok(()),
        other => other,
    }
}

pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    let facts = symlink_metadata(path)?;
    match facts.mode & libc::S_IFMT {
        libc::S_IFLNK => remove_file(path),
        _ => remove_tree(path),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for (name, _, bits) in read_dir(path)? {
        let inside = path.join(path_from(name));
        match bits {
            libc::S_IFDIR => remove_tree(&inside)?,
            _ => remove_file(&inside)?,
        }
    }
    remove_dir(path)
}

/// Removes a directory and its contents at once, for a destructor, which does not wait.
pub(crate) fn remove_dir_all_now(path: &Path) {
    let host = simulation::host();
    let bytes = path.as_os_str().as_bytes();
    let entries = with_disk(host, |disk| match disk.is_down() {
        true => Vec::new(),
        false => disk.read_dir(bytes).unwrap_or_default(),
    });
    for (name, _, bits) in entries {
        let inside = path.join(path_from(name));
        match bits {
            libc::S_IFDIR => remove_dir_all_now(&inside),
            _ => remove_file_now(&inside),
        }
    }
    // Whatever the reason: a destructor reports no errors.
    let _ = with_disk(host, |disk| match disk.is_down() {
        true => Ok(()),
        false => disk.remove_dir(bytes),
    });
}

/// Removes a file at once; see [`remove_dir_all_now`].
pub(crate) fn remove_file_now(path: &Path) {
    let _ = with_disk(simulation::host(), |disk| match disk.is_down() {
        true => Ok(()),
        false => disk.remove_file(path.as_os_str().as_bytes()),
    });
}

pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let reader = Handle::open(from, libc::O_RDONLY, 0)?;
    let mode = reader.facts()?.mode;
    if mode & libc::S_IFMT != libc::S_IFREG {
        let text = "the source path is neither a regular file nor a symlink to a regular file";
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
    let writer = Handle::open(to, flags, mode)?;
    writer.set_mode(mode)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        let count = reader.read(&mut [IoSliceMut::new(&mut buffer)], None)?;
        if count == 0 {
            return Ok(total);
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let written = writer.write(&[IoSlice::new(rest)], None)?;
            rest = &rest[written..];
            total += written as u64;
        }
    }
}

/// Creates an unnamed file for reading and writing.
pub(crate) fn tempfile() -> io::Result<Handle> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let (path, handle) = temporary(Path::new("/tmp"), |path| Handle::open(path, flags, 0o600))?;
    remove_file(&path)?;
    Ok(handle)
}

/// Creates something with a name that is not used yet, as the crate `tempfile` does.
pub(crate) fn temporary<R>(
    parent: &Path,
    mut create: impl FnMut(&Path) -> io::Result<R>,
) -> io::Result<(PathBuf, R)> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        let path = parent.join(format!(".tmp{:06x}", simulation::random() & 0xff_ffff));
        match create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(|made| (path, made)),
        }
    }
    let text = "too many temporary files exist";
    Err(io::Error::new(ErrorKind::AlreadyExists, text))
}

// -- Watches ----------------------------------------------------------------------------------------------------------

/// A watcher of files on a host, which sends its records to the other end of a pair of sockets.
#[derive(Debug)]
pub(crate) struct Watcher {
    host: u32,
    id: WatcherId,
}

impl Watcher {
    pub(crate) fn new(writer: OwnedFd) -> Watcher {
        let host = simulation::host();
        let id = with_disk(host, |disk| disk.add_watcher(writer));
        Watcher { host, id }
    }

    pub(crate) fn add(&self, path: &Path, mask: u32) -> io::Result<i32> {
        let path = bytes_of(path)?;
        with_disk(self.host, |disk| disk.add_watch(self.id, path, mask))
    }

    pub(crate) fn remove(&self, watch: i32) -> io::Result<()> {
        with_disk(self.host, |disk| disk.remove_watch(self.id, watch))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if simulation::is_on() {
            with_disk(self.host, |disk| disk.remove_watcher(self.id));
        }
    }
}

/// The times in a set that only the standard library can read: a scratch file gets them.
///
/// # Errors
/// When the process is out of descriptors.
pub(crate) fn times_in(times: std::fs::FileTimes) -> io::Result<[Option<SystemTime>; 2]> {
    let scratch = std::fs::File::from(crate::sys::memory_file()?);
    let unset = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    scratch.set_times(
        std::fs::FileTimes::new()
            .set_accessed(unset)
            .set_modified(unset),
    )?;
    scratch.set_times(times)?;
    let facts = scratch.metadata()?;
    let set = |time: SystemTime| (time != unset).then_some(time);
    Ok([set(facts.accessed()?), set(facts.modified()?)])
}
