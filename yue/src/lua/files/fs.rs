//! Files and directories: the natives under `yue.fs`.

use super::path_of;
use crate::lua::host::failure::{coded, failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{Results, native, register};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use yue_io::fs::{self, File, FileType, Metadata, OpenOptions, TempDir};
use yue_luajit::{Error, Stack, ffi};
use yue_scheduler::blocking_borrowed;

/// The largest file that one call reads. A file without an end, such as `/dev/zero`, must not take all memory.
const READ_MAX: usize = 1 << 30;

/// A buffer that grew beyond this is not kept for the next read.
const READ_KEPT_MAX: usize = 2 << 20;

/// Bytes of one read of an open file.
const CHUNK: usize = 64 << 10;

thread_local! {
    /// The buffer of the last read: a new one would have to be filled with zeros first.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static FILES: Handles<File> = Handles::default();
    /// The directories of `yue.fs.temp`, removed at the end of the loop.
    static TEMPORARY: RefCell<HashMap<PathBuf, TempDir>> = RefCell::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    FILES.with(Handles::clear);
    BUFFER.take();
    let temporary = TEMPORARY.take();
    drop(temporary);
}

/// The contents of a file: the first bytes of a buffer that is used again.
pub(crate) struct Contents {
    buffer: Vec<u8>,
    length: usize,
}

impl Results for Contents {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_bytes(&self.buffer[..self.length]);
        if self.buffer.len() <= READ_KEPT_MAX {
            BUFFER.set(std::mem::take(&mut self.buffer));
        }
        1
    }
}

/// Reads a whole file. `None` if it is larger than [`READ_MAX`].
fn read_whole(path: &Path) -> io::Result<Option<Contents>> {
    let mut buffer = BUFFER.take();
    let length = fs::read_into(path, &mut buffer, READ_MAX)?;
    Ok(length.map(|length| Contents { buffer, length }))
}

/// Maps an error of an operation on a path.
fn about<'p>(what: &'static str, path: &'p [u8]) -> impl FnOnce(io::Error) -> Error + 'p {
    move |failure| failed(&format!("cannot {what} {}", quoted(path)), &failure)
}

native! {
    FsRead = "fs_read", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(path) -> Contents {
        read_whole(path_of(path)).map_err(about("read", path))?.ok_or_else(|| {
            let text = format!("cannot read {}: it is larger than {READ_MAX} bytes; use yue.fs.lines", quoted(path));
            coded("EFBIG", text)
        })
    }
}

native! {
    /// `fs_write(path, text)`.
    FsWrite = "fs_write", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((path, text)) -> () { fs::write(path_of(path), text).map_err(about("write", path)) }
}

native! {
    /// `fs_append(path, text)`.
    FsAppend = "fs_append", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((path, text)) -> () {
        OpenOptions::new().append(true).create(true).open(path_of(path))
            .and_then(|mut file| file.write_all(text))
            .map_err(about("append to", path))
    }
}

native! {
    /// Opens a file for `fs_chunk`: returns its number.
    FsOpen = "fs_open", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(path) -> f64 {
        let file = File::open(path_of(path)).map_err(about("read", path))?;
        Ok(FILES.with(|files| files.add(file)))
    }
}

native! {
    /// `fs_chunk(file, path)`: the next bytes of an open file; nil at its end, and when it is closed.
    FsChunk = "fs_chunk", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, path)) -> Option<Vec<u8>> {
        let Some(file) = FILES.with(|files| files.find(number)) else { return Ok(None) };
        let mut bytes = vec![0; CHUNK];
        let count = (&*file).read(&mut bytes).map_err(about("read", path))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

native! {
    FsClose = "fs_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let file = FILES.with(|files| files.remove(number));
        drop(file);
        Ok(())
    }
}

fn kind_of(kind: FileType) -> &'static str {
    if kind.is_file() {
        "file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "link"
    } else {
        "other"
    }
}

/// The names in a directory, sorted, and their kinds if they were asked for.
pub(crate) struct Listing {
    entries: Vec<(Vec<u8>, &'static str)>,
    with_kinds: bool,
}

impl Results for Listing {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        let count = c_int::try_from(self.entries.len()).unwrap_or(c_int::MAX);
        stack.reserve(5);
        // SAFETY: stage 3, where Lua errors may be raised; there is room.
        unsafe {
            ffi::lua_createtable(state, count, 0);
            for (index, (name, _)) in self.entries.iter().enumerate() {
                stack.push_bytes(name);
                ffi::lua_rawseti(state, -2, index as i64 + 1);
            }
            if !self.with_kinds {
                return 1;
            }
            ffi::lua_createtable(state, 0, count);
            for (name, kind) in &self.entries {
                stack.push_bytes(name);
                stack.push_bytes(kind.as_bytes());
                ffi::lua_rawset(state, -3);
            }
        }
        2
    }
}

fn list(path: &Path) -> io::Result<Vec<(Vec<u8>, &'static str)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Without a kind the entry has just been removed.
        let kind = entry.file_type().map_or("other", kind_of);
        entries.push((entry.file_name().into_vec(), kind));
    }
    entries.sort_unstable();
    Ok(entries)
}

native! {
    /// `fs_list(path, with_kinds)`.
    FsList = "fs_list", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((path, with_kinds)) -> Listing {
        // One call on the pool for all names and kinds, instead of one for each.
        let listed = blocking_borrowed(|| list(path_of(path))).map_err(io::Error::from);
        let entries = listed.and_then(|entries| entries).map_err(about("list", path))?;
        Ok(Listing { entries, with_kinds })
    }
}

/// Facts about a file: the prelude makes a table of them.
pub(crate) struct Facts(Metadata);

impl Results for Facts {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let facts = &self.0;
        let time = |seconds: i64, nanoseconds: i64| seconds as f64 + nanoseconds as f64 / 1e9;
        let numbers = [
            facts.size() as f64,
            f64::from(facts.mode() & 0o7777),
            time(facts.mtime(), facts.mtime_nsec()),
            time(facts.atime(), facts.atime_nsec()),
            time(facts.ctime(), facts.ctime_nsec()),
            f64::from(facts.uid()),
            f64::from(facts.gid()),
            facts.ino() as f64,
            facts.nlink() as f64,
        ];
        stack.reserve(numbers.len() as c_int + 1);
        stack.push_bytes(kind_of(facts.file_type()).as_bytes());
        for number in numbers {
            stack.push_number(number);
        }
        numbers.len() as c_int + 1
    }
}

native! {
    /// `fs_stat(path, is_link_itself)`: nothing if there is no such file.
    FsStat = "fs_stat", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((path, is_link_itself)) -> Option<Facts> {
        let file = path_of(path);
        let outcome = if is_link_itself { fs::symlink_metadata(file) } else { fs::metadata(file) };
        match outcome {
            Ok(facts) => Ok(Some(Facts(facts))),
            Err(failure) if matches!(failure.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(failure) => Err(about("examine", path)(failure)),
        }
    }
}

native! {
    /// `fs_rename(from, to)`.
    FsRename = "fs_rename", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((from, to)) -> () {
        fs::rename(path_of(from), path_of(to)).map_err(|failure| {
            failed(&format!("cannot rename {} to {}", quoted(from), quoted(to)), &failure)
        })
    }
}

/// Removes a file, a link or a directory.
fn remove(path: &Path, is_recursive: bool) -> io::Result<()> {
    match fs::remove_file(path) {
        // A directory: Linux says EISDIR, POSIX EPERM.
        Err(failure) if matches!(failure.raw_os_error(), Some(libc::EISDIR | libc::EPERM)) => {}
        other => return other,
    }
    let removed = if is_recursive {
        fs::remove_dir_all(path)
    } else {
        fs::remove_dir(path)
    };
    // A file that this user may not unlink: the first reason is the true one.
    removed.map_err(|failure| match failure.raw_os_error() {
        Some(libc::ENOTDIR) => io::Error::from_raw_os_error(libc::EPERM),
        _ => failure,
    })
}

native! {
    /// `fs_remove(path, is_recursive)`.
    FsRemove = "fs_remove", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((path, is_recursive)) -> () {
        remove(path_of(path), is_recursive).map_err(about("remove", path))?;
        let temporary = TEMPORARY.with_borrow_mut(|all| all.remove(path_of(path)));
        temporary.map(TempDir::keep);
        Ok(())
    }
}

native! {
    /// `fs_mkdir(path, with_parents)`.
    FsMkdir = "fs_mkdir", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((path, with_parents)) -> () {
        let file = path_of(path);
        let made = if with_parents { fs::create_dir_all(file) } else { fs::create_dir(file) };
        made.map_err(about("create the directory", path))
    }
}

native! {
    /// Creates a temporary directory and returns its path.
    FsTemp = "fs_temp", suspends: true;
    read(_stack) -> () {}
    run(()) -> Vec<u8> {
        let directory = TempDir::new()
            .map_err(|failure| failed("cannot create a temporary directory", &failure))?;
        let path = directory.path().to_owned();
        let bytes = path.as_os_str().as_bytes().to_vec();
        TEMPORARY.with_borrow_mut(|all| all.insert(path, directory));
        Ok(bytes)
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; FsRead, FsWrite, FsAppend, FsOpen, FsChunk, FsClose, FsList, FsStat, FsRename, FsRemove, FsMkdir,
        FsTemp,
    );
}
