//! Files that an owner gives to its nodes: read below a folder, without any way out of it.
//!
//! Each segment of the path is opened in the folder of the one before, and no link is followed. So neither `..` nor a
//! link that somebody puts there between a check and a read leads out.

use crate::lua::files::path_of;
use crate::lua::host::errors::stopped;
use crate::lua::host::failure::failed;
use crate::lua::native::{native, register};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use yue_luajit::{Error, Stack};
use yue_scheduler::{BlockingError, blocking};

/// Opens a regular file below `root`, a folder.
fn open_beneath(root: &std::path::Path, relative: &[u8]) -> io::Result<File> {
    let outside = || io::Error::from_raw_os_error(libc::ENOENT);
    let mut at = File::open(root)?;
    let mut segments = relative.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // No empty segment, no `.`, no `..`, no hidden file.
        if segment.first().is_none_or(|byte| *byte == b'.') {
            return Err(outside());
        }
        let name = CString::new(segment).map_err(|_| outside())?;
        let folder = if segments.peek().is_some() {
            libc::O_DIRECTORY
        } else {
            0
        };
        // A FIFO would block without the last flag.
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | folder;
        // SAFETY: the name outlives the call.
        let opened = unsafe { libc::openat(at.as_raw_fd(), name.as_ptr(), flags) };
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        at = unsafe { File::from_raw_fd(opened) };
    }
    match at.metadata()?.is_file() {
        true => Ok(at),
        false => Err(outside()),
    }
}

/// Reads up to `max` bytes from `offset` on; returns them, and the file's size.
fn read_beneath(
    root: PathBuf,
    relative: Vec<u8>,
    offset: u64,
    max: usize,
) -> io::Result<(Vec<u8>, f64)> {
    let file = open_beneath(&root, &relative)?;
    let size = file.metadata()?.len();
    let length = size.saturating_sub(offset).min(max as u64) as usize;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            // It has become shorter.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok((bytes, size as f64))
}

native! {
    /// `read_beneath(folder, path, offset, max)`: bytes of a file in the folder, and its size; nil if there is none, or
    /// a link is on the way.
    ReadBeneath = "read_beneath", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8], f64, f64) {
        (stack.bytes(1), stack.bytes(2), stack.number(3), stack.number(4))
    }
    run((folder, path, offset, max)) -> Option<(Vec<u8>, f64)> {
        let (root, relative) = (path_of(folder).to_owned(), path.to_vec());
        let read = blocking(move || read_beneath(root, relative, offset as u64, max as usize));
        match read {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if is_absent(&error) => Ok(None),
            Ok(Err(error)) => Err(refused(path, &error)),
            Err(BlockingError::Stopped(why)) => Err(stopped(why)),
            Err(other) => Err(refused(path, &io::Error::other(other.to_string()))),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [
        libc::ENOENT,
        libc::ENOTDIR,
        libc::ELOOP,
        libc::EACCES,
        libc::ENXIO,
        libc::ENAMETOOLONG,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| absent.contains(&code))
}

fn refused(path: &[u8], error: &io::Error) -> Error {
    let path = String::from_utf8_lossy(path);
    failed(&format!("cannot read {path} for a node"), error)
}

/// Adds the native to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; ReadBeneath);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out_of_the_folder() {
        let place = tempfile();
        let root = place.join("root");
        std::fs::create_dir_all(root.join("assets")).unwrap();
        std::fs::write(place.join("secret"), "secret").unwrap();
        std::fs::write(root.join("assets/map"), "map").unwrap();
        std::fs::write(root.join(".env"), "key").unwrap();
        symlink(place.join("secret"), root.join("link")).unwrap();
        symlink(&place, root.join("up")).unwrap();
        let read = |path: &str| read_beneath(root.clone(), path.as_bytes().to_vec(), 0, 100);
        assert_eq!(read("assets/map").unwrap().0, b"map");
        for path in [
            "../secret",
            "assets/../../secret",
            "link",
            "up/secret",
            ".env",
            "",
            "/etc/passwd",
            "assets",
            "assets/",
            "./assets/map",
            "a\0b",
            "missing",
        ] {
            assert!(read(path).is_err(), "{path} was read");
        }
        std::fs::remove_dir_all(place).unwrap();
    }

    fn tempfile() -> PathBuf {
        let path = std::env::temp_dir().join(format!("yue-beneath-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}
