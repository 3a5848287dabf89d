//! An open file.

use super::open::OpenOptions;
use super::way::{Way, on_ring, way};
use crate::descriptor::clamp;
use crate::errors::cannot_wait;
use crate::offload::{offload, offload_transfer, unwinds, writable_now};
use crate::sys;
use io_uring::{opcode, types};
use std::fs::{Metadata, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use yue_scheduler::sync::{Mutex, MutexGuard};
use yue_scheduler::{in_fiber, this_loop};

const READ: &str = "read from a file";
const WRITE: &str = "write to a file";
const SYNC: &str = "put a file on its disk";

/// Says to io_uring: at the file's own position.
const HERE: u64 = u64::MAX;

/// An open file, as [`std::fs::File`]; what may wait for a disk parks the calling fiber.
///
/// Positional reads and writes are those of [`std::os::unix::fs::FileExt`], which it implements. What the disk works on
/// is waited for, also by a fiber that is told to stop: a disk that hangs holds its fiber.
///
/// ```
/// use std::io::{Read, Seek, Write};
/// use std::os::unix::fs::FileExt;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let mut file = yue::fs::tempfile()?;
///     file.write_all(b"hello world")?;
///     file.write_all_at(b"W", 6)?;
///     file.sync_all()?;
///     file.rewind()?;
///     let mut text = String::new();
///     file.read_to_string(&mut text)?;
///     assert_eq!(text, "hello World");
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Reads, writes and seeks at the file's own position follow one after the other, also when several fibers share the
/// file or a clone of it: none gets what another has read, or writes over it. (A position that is shared with another
/// process, or with a descriptor that was duplicated by hand, is not guarded so; positional reads and writes, and a
/// file that is opened for appending, need no guard.)
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    /// Who uses the file's own position. The kernel has a lock for that, which the ring's operations do not take.
    position: Arc<Mutex<()>>,
}

impl File {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file for writing; makes it, or drops what it holds.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).open(path)
    }

    /// Makes a file for reading and writing; one that is there already is an error.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).open(path)
    }

    /// All other ways of opening a file.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Returns when all that was written is on the disk (`fsync`).
    ///
    /// # Errors
    /// The system's: what was written before may be lost then; or when the fiber is told to stop.
    pub fn sync_all(&self) -> io::Result<()> {
        self.sync(types::FsyncFlags::empty(), |file| file.sync_all())
    }

    /// As [`File::sync_all`], without what is not needed for reading it back, such as times (`fdatasync`).
    ///
    /// # Errors
    /// As [`File::sync_all`].
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync(types::FsyncFlags::DATASYNC, |file| file.sync_data())
    }

    fn sync(
        &self,
        flags: types::FsyncFlags,
        call: fn(&std::fs::File) -> io::Result<()>,
    ) -> io::Result<()> {
        match way(opcode::Fsync::CODE)? {
            Way::Ring(core) => {
                let entry = opcode::Fsync::new(self.entry_fd()).flags(flags).build();
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, SYNC, entry) }.map(drop)
            }
            Way::Offload => offload(SYNC, || call(&self.file)),
        }
    }

    /// Sees to it that the file can be written from `offset` on for `length` bytes without running out of room, and is
    /// that long (`fallocate`).
    ///
    /// # Errors
    /// The system's, `Unsupported` where the file system cannot; or when the fiber is told to stop.
    pub fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        const REASON: &str = "allocate room for a file";
        match way(opcode::Fallocate::CODE)? {
            Way::Ring(core) => {
                let entry = opcode::Fallocate::new(self.entry_fd(), length).offset(offset);
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
            }
            Way::Offload => offload(REASON, || sys::allocate(self.raw(), offset, length)),
        }
    }

    /// Cuts the file, or makes it longer with zeros.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        const REASON: &str = "set the length of a file";
        match way(opcode::Ftruncate::CODE)? {
            Way::Ring(core) => {
                let entry = opcode::Ftruncate::new(self.entry_fd(), length).build();
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, REASON, entry) }.map(drop)
            }
            Way::Offload => offload(REASON, || self.file.set_len(length)),
        }
    }

    /// What the file system knows about the file.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn metadata(&self) -> io::Result<Metadata> {
        // The ring has each of these calls made by a thread as well, and would answer in another type.
        offload("ask about a file", || self.file.metadata())
    }

    /// Sets who may do what with the file.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        offload("set permissions", || self.file.set_permissions(permissions))
    }

    /// Sets the times of the last change and access.
    ///
    /// # Errors
    /// The system's; or when the fiber is told to stop.
    pub fn set_times(&self, times: std::fs::FileTimes) -> io::Result<()> {
        offload("set the times of a file", || self.file.set_times(times))
    }

    /// Locks the file for this process alone if nobody has locked it. Does not wait.
    ///
    /// # Errors
    /// `WouldBlock` if somebody has; else the system's.
    pub fn try_lock(&self) -> Result<(), std::fs::TryLockError> {
        self.file.try_lock()
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// The system's.
    pub fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// A second handle on the same open file, which shares its position.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<File> {
        Ok(File {
            file: self.file.try_clone()?,
            position: self.position.clone(),
        })
    }

    /// The standard library's file.
    pub fn into_std(self) -> std::fs::File {
        self.file
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn entry_fd(&self) -> types::Fd {
        types::Fd(self.raw())
    }

    /// The turn to use the file's own position. `None` where there is no position to guard: what is no regular file may
    /// be read by one fiber and written by another for as long as they like.
    fn position_turn(&self) -> io::Result<Option<MutexGuard<'_, ()>>> {
        if let Some(turn) = self.position.try_lock() {
            return Ok(Some(turn));
        }
        // In a callback nothing can wait, and the operation itself says so.
        let in_callback = !in_fiber() && this_loop::exists();
        if in_callback || !sys::is_regular_file(self.raw()) {
            return Ok(None);
        }
        if unwinds() {
            return Err(cannot_wait());
        }
        Ok(Some(self.position.lock()?))
    }

    fn turn_at(&self, offset: u64) -> io::Result<Option<MutexGuard<'_, ()>>> {
        match offset {
            HERE => self.position_turn(),
            _ => Ok(None),
        }
    }

    /// Reads at an offset, or [`HERE`].
    fn read_from(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let _turn = self.turn_at(offset)?;
        match way(opcode::Read::CODE)? {
            Way::Ring(core) => {
                let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
                let entry = opcode::Read::new(self.entry_fd(), start, length).offset(offset);
                // SAFETY: `buffer` is borrowed until the call is over.
                unsafe { on_ring(&core, READ, entry.build()) }
            }
            Way::Offload => offload_transfer(READ, self.raw(), libc::POLLIN, || match offset {
                HERE => (&self.file).read(buffer),
                offset => self.file.read_at(buffer, offset),
            }),
        }
    }

    /// Writes at an offset, or [`HERE`].
    fn write_from(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let _turn = self.turn_at(offset)?;
        match way(opcode::Write::CODE)? {
            Way::Ring(core) => {
                let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
                let entry = opcode::Write::new(self.entry_fd(), start, length).offset(offset);
                // SAFETY: `bytes` is borrowed until the call is over.
                unsafe { on_ring(&core, WRITE, entry.build()) }
            }
            Way::Offload => {
                let bytes = writable_now(self.raw(), bytes);
                offload_transfer(WRITE, self.raw(), libc::POLLOUT, || match offset {
                    HERE => (&self.file).write(bytes),
                    offset => self.file.write_at(bytes, offset),
                })
            }
        }
    }
}

/// Offsets from here on are negative to the kernel.
fn checked(offset: u64) -> io::Result<u64> {
    if offset > i64::MAX as u64 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(offset)
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_from(buffer, checked(offset)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_from(bytes, checked(offset)?)
    }
}

impl Read for &File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_from(buffer, HERE)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let _turn = self.position_turn()?;
        match way(opcode::Readv::CODE)? {
            Way::Ring(core) => {
                let start = buffers.as_mut_ptr().cast_const().cast::<libc::iovec>();
                let count = buffers.len().min(sys::SLICES_MAX) as u32;
                let entry = opcode::Readv::new(self.entry_fd(), start, count).offset(HERE);
                // SAFETY: `IoSliceMut` has the layout of `iovec`; all is borrowed until the call is over.
                unsafe { on_ring(&core, READ, entry.build()) }
            }
            Way::Offload => offload_transfer(READ, self.raw(), libc::POLLIN, || {
                (&self.file).read_vectored(buffers)
            }),
        }
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_from(bytes, HERE)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if unwinds() {
            // One by one, as long as the next is known not to wait.
            let first = buffers.iter().find(|buffer| !buffer.is_empty());
            return self.write_from(first.map_or(&[], |first| first), HERE);
        }
        let _turn = self.position_turn()?;
        match way(opcode::Writev::CODE)? {
            Way::Ring(core) => {
                let start = buffers.as_ptr().cast::<libc::iovec>();
                let count = buffers.len().min(sys::SLICES_MAX) as u32;
                let entry = opcode::Writev::new(self.entry_fd(), start, count).offset(HERE);
                // SAFETY: `IoSlice` has the layout of `iovec`; all is borrowed until the call is over.
                unsafe { on_ring(&core, WRITE, entry.build()) }
            }
            Way::Offload => offload(WRITE, || (&self.file).write_vectored(buffers)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Seeking only moves a number, and waits for nothing but another fiber's operation at the file's position.
impl Seek for &File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let _turn = self.position_turn()?;
        (&self.file).seek(position)
    }
}

impl Seek for File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        (&*self).seek(position)
    }
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> Self {
        File {
            file,
            position: Arc::default(),
        }
    }
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> Self {
        File::from(std::fs::File::from(fd))
    }
}

impl From<File> for OwnedFd {
    fn from(file: File) -> Self {
        OwnedFd::from(file.file)
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.raw()
    }
}
