//! Files that are served: opened below a folder and nowhere else, and sent piece by piece.
//!
//! A path is walked segment by segment, from the descriptor of the folder, and no link is followed on the way. So
//! whatever names a client sends, and whatever is renamed meanwhile, the file lies in the folder.

use super::answer::sent;
use super::server::find;
use crate::lua::host::failure::{failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{Results, native, register};
use std::ffi::{CString, OsStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use yue_io::fs::{self, File, Metadata};
use yue_luajit::Stack;
use yue_rpc::transport::Bytes;
use yue_scheduler::{blocking_borrowed, simulation};

/// Bytes that are read and sent at a time.
const PIECE_BYTES: u64 = 64 * 1024;

thread_local! {
    static FILES: Handles<File> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    FILES.with(Handles::clear);
}

/// The outcome of looking for a file.
enum Found {
    File(File, Box<Metadata>),
    /// A folder with an index, whose path lacks the `/` at its end.
    Folder,
    Nothing,
}

/// Opens `name` in the folder `at`, without following a link.
fn open_at(at: &OwnedFd, name: &[u8], flags: c_int) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // A pipe must not wait for its writer.
    let flags = flags | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the name is a C string, and the descriptor is open.
    let opened = unsafe { libc::openat(at.as_raw_fd(), name.as_ptr(), flags) };
    match opened {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just returned it.
        opened => Ok(unsafe { OwnedFd::from_raw_fd(opened) }),
    }
}

/// Looks for a file below `root`. The segments are neither empty nor `.` nor `..`.
fn look(root: &Path, path: &[u8], index: &[u8]) -> io::Result<Found> {
    let mut at: OwnedFd = std::fs::File::open(root)?.into();
    let is_folder = path.is_empty() || path.ends_with(b"/");
    let mut segments = path
        .split(|byte| *byte == b'/')
        .filter(|segment| !segment.is_empty())
        .peekable();
    while let Some(segment) = segments.next() {
        let flags = match segments.peek() {
            Some(_) => libc::O_DIRECTORY,
            None => 0,
        };
        at = open_at(&at, segment, flags)?;
    }
    let mut file = std::fs::File::from(at);
    let mut facts = file.metadata()?;
    if facts.is_dir() {
        if index.is_empty() {
            return Ok(Found::Nothing);
        }
        file = open_at(&file.into(), index, 0)?.into();
        facts = file.metadata()?;
        if !is_folder {
            return Ok(Found::Folder);
        }
    } else if is_folder {
        return Ok(Found::Nothing);
    }
    match facts.is_file() {
        true => Ok(Found::File(file.into(), Box::new(facts.into()))),
        false => Ok(Found::Nothing),
    }
}

/// Like [`look`] on a simulated disk, where nobody has to be kept from renaming folders meanwhile.
fn look_simulated(root: &Path, path: &[u8], index: &[u8]) -> io::Result<Found> {
    let mut at = root.to_owned();
    let is_folder = path.is_empty() || path.ends_with(b"/");
    let segments = path.split(|byte| *byte == b'/');
    for segment in segments.filter(|segment| !segment.is_empty()) {
        at.push(OsStr::from_bytes(segment));
        if fs::symlink_metadata(&at)?.is_symlink() {
            return Ok(Found::Nothing);
        }
    }
    let mut facts = fs::metadata(&at)?;
    if facts.is_dir() {
        if index.is_empty() {
            return Ok(Found::Nothing);
        }
        at.push(OsStr::from_bytes(index));
        facts = fs::symlink_metadata(&at)?;
        if !is_folder {
            return Ok(Found::Folder);
        }
    } else if is_folder {
        return Ok(Found::Nothing);
    }
    match facts.is_file() {
        true => Ok(Found::File(File::open(&at)?, Box::new(facts))),
        false => Ok(Found::Nothing),
    }
}

/// Whether an error says that there is no file that may be served.
fn is_missing(error: &io::Error) -> bool {
    let missing = [
        libc::ENOENT,
        libc::ENOTDIR,
        libc::ELOOP,
        libc::EACCES,
        libc::ENAMETOOLONG,
        libc::ENXIO,
    ];
    error.kind() == io::ErrorKind::InvalidInput
        || error
            .raw_os_error()
            .is_some_and(|number| missing.contains(&number))
}

/// The file's number, its size, and the time of its last change in seconds and nanoseconds. Or true for a folder, nil
/// for nothing.
pub(crate) enum Looked {
    File(f64, f64, f64, f64),
    Folder,
    Nothing,
}

impl Results for Looked {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        match *self {
            Looked::Nothing => stack.push_nil(),
            Looked::Folder => stack.push_boolean(true),
            Looked::File(number, size, time, nanoseconds) => {
                for value in [number, size, time, nanoseconds] {
                    stack.push_number(value);
                }
                return 4;
            }
        }
        1
    }
}

native! {
    /// `http_file(folder, path, index)`: opens a file that is served.
    HttpFile = "http_file", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2), stack.bytes(3)) }
    run((root, path, index)) -> Looked {
        let folder = Path::new(OsStr::from_bytes(root));
        // One call on the pool for all segments.
        let look = if simulation::is_on() { look_simulated } else { look };
        let found = blocking_borrowed(|| look(folder, path, index)).map_err(io::Error::from).and_then(|found| found);
        match found {
            Ok(Found::File(file, facts)) => {
                let number = FILES.with(|files| files.add(file));
                let (time, nanoseconds) = (facts.mtime() as f64, facts.mtime_nsec() as f64);
                Ok(Looked::File(number, facts.size() as f64, time, nanoseconds))
            }
            Ok(Found::Folder) => Ok(Looked::Folder),
            Ok(Found::Nothing) => Ok(Looked::Nothing),
            Err(failure) if is_missing(&failure) => Ok(Looked::Nothing),
            Err(failure) => Err(failed(&format!("cannot serve a file of {}", quoted(root)), &failure)),
        }
    }
}

native! {
    HttpFileClose = "http_file_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let file = FILES.with(|files| files.remove(number));
        drop(file);
        Ok(())
    }
}

native! {
    /// `http_send_file(connection, file, offset, length)`: sends a part of a file; false if it ended early, or the
    /// connection.
    HttpSendFile = "http_send_file", suspends: true;
    read(stack) -> (f64, f64, f64, f64) {
        (stack.number(1), stack.number(2), stack.number(3), stack.number(4))
    }
    run((number, file, offset, length)) -> bool {
        let open = find(number)?;
        let Some(file) = FILES.with(|files| files.find(file)) else {
            return Ok(false);
        };
        let (mut offset, mut left) = (offset as u64, length as u64);
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE_BYTES) as usize];
            let count = file.read_at(&mut piece, offset).map_err(|failure| failed("cannot read a file", &failure))?;
            if count == 0 {
                return Ok(false);
            }
            piece.truncate(count);
            offset += count as u64;
            left -= count as u64;
            if !sent(open.connection.send(Bytes::from(piece)))? {
                // The client took all that was announced, or has gone.
                return Ok(left == 0);
            }
        }
        Ok(true)
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; HttpFile, HttpFileClose, HttpSendFile);
}
