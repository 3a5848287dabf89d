//! Named pipes, terminals and devices: the natives under `io.open` for a path that is not a file on disk.
//!
//! They are opened in non-blocking mode, in an open file of their own, so that no wait needs a thread: the wait for the
//! other end of a named pipe ends with its fiber, too.
//!
//! ```text
//!   reading   open ─▶ wait for the first writer (a read would return the end of input before) ─▶ read …
//!   writing   open ─ no reader yet: ENXIO ─▶ sleep, and again
//! ```

use super::path_of;
use crate::lua::host::errors::stopped;
use crate::lua::host::failure::{failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{native, register};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;
use yue_io::pipe::{PipeReader, PipeWriter};
use yue_luajit::{Error, Stack};
use yue_scheduler::sync::Mutex;
use yue_scheduler::{simulation, sleep};

/// Bytes of one read: a device such as `/dev/urandom` fills any buffer.
const CHUNK: usize = 4 << 10;

/// The time between two looks whether a named pipe has a reader.
const READER_POLL: Duration = Duration::from_millis(5);

thread_local! {
    static SPECIAL: Handles<Special> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    SPECIAL.with(Handles::clear);
}

enum Special {
    Reader {
        pipe: PipeReader,
        /// A named pipe whose first writer has not come yet.
        awaits_writer: Cell<bool>,
    },
    Writer {
        pipe: PipeWriter,
        /// Held for each text that is written, so that those of several fibers do not mix.
        writing: Mutex<()>,
    },
}

impl Special {
    fn open(path: &[u8], writes: bool) -> io::Result<Special> {
        let mut options = OpenOptions::new();
        options.read(!writes).write(writes);
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        loop {
            match options.open(path_of(path)) {
                Err(error) if writes && error.raw_os_error() == Some(libc::ENXIO) => {
                    sleep(READER_POLL).map_err(io::Error::from)?;
                }
                Err(error) => return Err(error),
                Ok(file) if writes => {
                    let (pipe, writing) = (OwnedFd::from(file).into(), Mutex::new(()));
                    return Ok(Special::Writer { pipe, writing });
                }
                Ok(file) => {
                    let awaits_writer = Cell::new(file.metadata()?.file_type().is_fifo());
                    let pipe = OwnedFd::from(file).into();
                    return Ok(Special::Reader {
                        pipe,
                        awaits_writer,
                    });
                }
            }
        }
    }
}

/// Describes a failed operation with the path.
fn about(verb: &str, path: &[u8]) -> impl Fn(io::Error) -> Error {
    let what = format!("cannot {verb} {}", quoted(path));
    move |failure| failed(&what, &failure)
}

native! {
    /// Whether there is something at the path that is neither a file nor a directory: a pipe, a terminal, a device.
    IsSpecial = "is_special", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(path) -> bool {
        if simulation::is_on() {
            // A simulated disk has none of them.
            return Ok(false);
        }
        let kind = std::fs::metadata(path_of(path)).map(|facts| facts.file_type());
        Ok(kind.is_ok_and(|kind| !kind.is_file() && !kind.is_dir()))
    }
}

native! {
    /// `special_open(path, writes)`: opens a pipe, a terminal or a device. A named pipe is opened for writing when it
    /// has a reader.
    SpecialOpen = "special_open", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((path, writes)) -> f64 {
        let special = Special::open(path, writes).map_err(about("open", path))?;
        Ok(SPECIAL.with(|all| all.add(special)))
    }
}

native! {
    /// `special_read(handle, path)`: the next bytes; nil at the end, and when it is closed.
    SpecialRead = "special_read", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, path)) -> Option<Vec<u8>> {
        let Some(special) = SPECIAL.with(|all| all.find(number)) else { return Ok(None) };
        let Special::Reader { pipe, awaits_writer } = &*special else { return Ok(None) };
        if awaits_writer.get() {
            pipe.readable().map_err(about("read", path))?;
            awaits_writer.set(false);
        }
        let mut bytes = vec![0; CHUNK];
        let count = (&*pipe).read(&mut bytes).map_err(about("read", path))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

native! {
    /// `special_write(handle, path, text)`: waits until all of it is taken.
    SpecialWrite = "special_write", suspends: true;
    read(stack) -> (f64, &'a [u8], &'a [u8]) { (stack.number(1), stack.bytes(2), stack.bytes(3)) }
    run((number, path, text)) -> () {
        let special = SPECIAL.with(|all| all.find(number));
        match special.as_deref() {
            Some(Special::Writer { pipe, writing }) => {
                let _writing = writing.lock().map_err(stopped)?;
                (&*pipe).write_all(text).map_err(about("write", path))
            }
            _ => Ok(()),
        }
    }
}

native! {
    SpecialClose = "special_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let special = SPECIAL.with(|all| all.remove(number));
        drop(special);
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; IsSpecial, SpecialOpen, SpecialRead, SpecialWrite, SpecialClose);
}
