//! Files with a position: the natives under `io.open`, `os.remove` and their relatives on a simulated host, whose disk
//! LuaJIT's own library does not know.

use super::path_of;
use super::standard::{Outcome, unless_stopped};
use crate::lua::host::failure::{failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{native, register};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use yue_io::fs::{self, File, NamedTempFile, OpenOptions};
use yue_luajit::Stack;
use yue_scheduler::simulation;

/// Bytes of one read.
const CHUNK: usize = 64 << 10;

thread_local! {
    static STREAMS: Handles<File> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    STREAMS.with(Handles::clear);
}

fn find(number: f64) -> io::Result<Rc<File>> {
    let found = STREAMS.with(|streams| streams.find(number));
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
}

fn add(file: io::Result<File>) -> io::Result<f64> {
    file.map(|file| STREAMS.with(|streams| streams.add(file)))
}

/// Opens a file as `fopen(3)` does. Lua has checked the mode.
fn open(path: &Path, mode: &[u8]) -> io::Result<File> {
    let updates = mode.contains(&b'+');
    let mut options = OpenOptions::new();
    match mode.first() {
        Some(b'w') => options
            .write(true)
            .create(true)
            .truncate(true)
            .read(updates),
        Some(b'a') => options.append(true).create(true).read(updates),
        _ => options.read(true).write(updates),
    };
    options.open(path)
}

/// A file, or an empty directory; see `remove(3)`.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(failure) if failure.raw_os_error() == Some(libc::EISDIR) => fs::remove_dir(path),
        other => other,
    }
}

native! {
    /// Whether the program runs on a simulated host.
    IsSimulated = "is_simulated", suspends: false;
    read(_stack) -> () {}
    run(()) -> bool { Ok(simulation::is_on()) }
}

native! {
    /// `stream_open(path, mode)`: a number; or nil, a text and the error's number, like most of them.
    StreamOpen = "stream_open", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((path, mode)) -> Outcome<f64> { unless_stopped(add(open(path_of(path), mode))) }
}

native! {
    /// An unnamed temporary file.
    StreamTemporary = "stream_temporary", suspends: true;
    read(_stack) -> () {}
    run(()) -> Outcome<f64> { unless_stopped(add(fs::tempfile())) }
}

native! {
    /// `stream_read(stream, path)`: the next bytes; nil at the end. It raises its errors.
    StreamRead = "stream_read", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, path)) -> Option<Vec<u8>> {
        let mut bytes = vec![0; CHUNK];
        let read = find(number).and_then(|file| (&*file).read(&mut bytes));
        let count = read.map_err(|failure| failed(&format!("cannot read {}", quoted(path)), &failure))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

native! {
    /// `stream_write(stream, text)`.
    StreamWrite = "stream_write", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, text)) -> Outcome<bool> {
        unless_stopped(find(number).and_then(|file| (&*file).write_all(text)).map(|()| true))
    }
}

native! {
    /// `stream_seek(stream, whence, offset)`: the new position.
    StreamSeek = "stream_seek", suspends: true;
    read(stack) -> (f64, &'a [u8], f64) { (stack.number(1), stack.bytes(2), stack.number(3)) }
    run((number, whence, offset)) -> Outcome<f64> {
        unless_stopped(find(number).and_then(|file| {
            let to = match whence {
                // A negative one is refused there.
                b"set" => SeekFrom::Start(offset as i64 as u64),
                b"end" => SeekFrom::End(offset as i64),
                _ => SeekFrom::Current(offset as i64),
            };
            Ok((&*file).seek(to)? as f64)
        }))
    }
}

native! {
    StreamClose = "stream_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let file = STREAMS.with(|streams| streams.remove(number));
        drop(file);
        Ok(())
    }
}

native! {
    /// `path_remove(path)`: removes a file or an empty directory.
    PathRemove = "path_remove", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(path) -> Outcome<bool> { unless_stopped(remove(path_of(path)).map(|()| true)) }
}

native! {
    /// `path_rename(from, to)`.
    PathRename = "path_rename", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((from, to)) -> Outcome<bool> {
        unless_stopped(fs::rename(path_of(from), path_of(to)).map(|()| true))
    }
}

native! {
    /// The path of a new empty file.
    PathTemporary = "path_temporary", suspends: true;
    read(_stack) -> () {}
    run(()) -> Outcome<Vec<u8>> {
        unless_stopped(NamedTempFile::new_in("/tmp").and_then(|file| {
            // Under the same name, it stays.
            let path = file.path().to_owned();
            file.persist(&path)?;
            Ok(path.as_os_str().as_bytes().to_vec())
        }))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; IsSimulated, StreamOpen, StreamTemporary, StreamRead, StreamWrite, StreamSeek, StreamClose, PathRemove,
        PathRename, PathTemporary,
    );
}
