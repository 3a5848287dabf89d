//! An open file.

use super::metadata::Metadata;
use super::open::OpenOptions;
use super::ring_or_pool::{Executor, executor, on_ring};
use crate::descriptor::clamp;
use crate::errors::cannot_wait;
use crate::offload::{is_unwinding, offload, offload_simulated, offload_transfer, writable_now};
use crate::simulated::files::{self, Handle};
use crate::sys;
use io_uring::{opcode, types};
use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use yue_scheduler::sync::{Mutex, MutexGuard};
use yue_scheduler::{in_fiber, this_loop};

const READ: &str = "read from a file";
const WRITE: &str = "write to a file";
const SYNC: &str = "put a file on its disk";

/// Tells io_uring to use the file's current position.
const CURRENT: u64 = u64::MAX;

/// An open file, like [`std::fs::File`]. A call that may wait for a disk parks the calling fiber.
///
/// Positional reads and writes come from [`std::os::unix::fs::FileExt`]. A fiber waits for its disk operation even
/// after it is cancelled: a disk that hangs holds its fiber.
///
/// ```
/// use std::io::{Read, Seek, Write};
/// use std::os::unix::fs::{FileExt, PermissionsExt};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let mut file = yue_io::fs::tempfile()?;
///     file.write_all(b"hello world")?;
///     file.write_all_at(b"W", 6)?;
///     file.sync_all()?;
///     file.rewind()?;
///     let mut text = String::new();
///     file.read_to_string(&mut text)?;
///     assert_eq!(text, "hello World");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Reads, writes and seeks at the file's current position are serialized, even when several fibers share the file or a
/// clone of it: no fiber reads the same bytes as another or overwrites another's. (A position shared with another
/// process, or with a descriptor that was duplicated by hand, is not protected in this way. Positional reads and
/// writes, and a file opened for appending, need no protection.)
///
/// In a [simulation](crate::simulation), the descriptor of a file ([`AsRawFd`], [`File::into_std`]) is a placeholder:
/// reads and writes of it fail with `EBADF`.
#[derive(Debug)]
pub struct File {
    /// The file on a simulated disk. `file` is a placeholder then, and is closed after it.
    simulated: Option<Handle>,
    file: std::fs::File,
    /// Serializes use of the file's current position. The kernel has a lock for that, but ring operations do not take
    /// it.
    position: Arc<Mutex<()>>,
}

impl File {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file for writing. Creates it, or truncates it.
    ///
    /// # Errors
    /// See [`File::open`].
    pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).open(path)
    }

    /// Creates a file for reading and writing. Fails if the file exists.
    ///
    /// # Errors
    /// See [`File::open`].
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).open(path)
    }

    /// Returns options for all other ways of opening a file.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Returns when all writes so far are on the disk (`fsync`).
    ///
    /// # Errors
    /// The system's error, after which earlier writes may be lost; or when the fiber is cancelled or its deadline
    /// passes.
    pub fn sync_all(&self) -> io::Result<()> {
        self.sync(types::FsyncFlags::empty(), |file| file.sync_all())
    }

    /// Like [`File::sync_all`], without metadata that is not needed for reading the data back, such as times
    /// (`fdatasync`).
    ///
    /// # Errors
    /// See [`File::sync_all`].
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync(types::FsyncFlags::DATASYNC, |file| file.sync_data())
    }

    fn sync(
        &self,
        flags: types::FsyncFlags,
        call: fn(&std::fs::File) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(file) = &self.simulated {
            return offload(SYNC, || file.sync());
        }
        match executor(opcode::Fsync::CODE)? {
            Executor::Ring(core) => {
                let entry = opcode::Fsync::new(self.entry_fd()).flags(flags).build();
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, SYNC, entry) }.map(drop)
            }
            Executor::Offload => offload(SYNC, || call(&self.file)),
        }
    }

    /// Reserves disk space for `length` bytes from `offset` on, so that writes there cannot run out of space, and
    /// extends the file to that length (`fallocate`).
    ///
    /// # Errors
    /// The system's error, `Unsupported` where the file system cannot do it; or when the fiber is cancelled or its
    /// deadline passes.
    pub fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        const REASON: &str = "allocate space for a file";
        if let Some(file) = &self.simulated {
            return offload(REASON, || file.allocate(offset, length));
        }
        match executor(opcode::Fallocate::CODE)? {
            Executor::Ring(core) => {
                let entry = opcode::Fallocate::new(self.entry_fd(), length).offset(offset);
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, REASON, entry.build()) }.map(drop)
            }
            Executor::Offload => offload(REASON, || sys::allocate(self.raw(), offset, length)),
        }
    }

    /// Truncates the file, or extends it with zeros.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        const REASON: &str = "set the length of a file";
        if let Some(file) = &self.simulated {
            return offload(REASON, || file.set_len(length));
        }
        match executor(opcode::Ftruncate::CODE)? {
            Executor::Ring(core) => {
                let entry = opcode::Ftruncate::new(self.entry_fd(), length).build();
                // SAFETY: the entry points to no memory.
                unsafe { on_ring(&core, REASON, entry) }.map(drop)
            }
            Executor::Offload => offload(REASON, || self.file.set_len(length)),
        }
    }

    /// Returns the file's metadata.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn metadata(&self) -> io::Result<Metadata> {
        // The ring would run this call on a kernel thread as well, and return a different type.
        offload("ask about a file", || match &self.simulated {
            Some(file) => file.facts().map(Metadata::from),
            None => self.file.metadata().map(Metadata::from),
        })
    }

    /// Sets the file's permissions.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        offload("set permissions", || match &self.simulated {
            Some(file) => file.set_mode(permissions.mode()),
            None => self.file.set_permissions(permissions),
        })
    }

    /// Sets the file's modification and access times.
    ///
    /// # Errors
    /// The system's error; or when the fiber is cancelled or its deadline passes.
    pub fn set_times(&self, times: std::fs::FileTimes) -> io::Result<()> {
        offload("set the times of a file", || match &self.simulated {
            Some(file) => {
                let [accessed, modified] = files::times_in(times)?;
                file.set_times(accessed, modified)
            }
            None => self.file.set_times(times),
        })
    }

    /// Takes an exclusive lock on the file if it is not locked. Does not wait.
    ///
    /// # Errors
    /// `WouldBlock` if it is locked; otherwise the system's error.
    pub fn try_lock(&self) -> Result<(), std::fs::TryLockError> {
        match &self.simulated {
            Some(file) => file.try_lock(),
            None => self.file.try_lock(),
        }
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// The system's error.
    pub fn unlock(&self) -> io::Result<()> {
        match &self.simulated {
            Some(file) => file.unlock(),
            None => self.file.unlock(),
        }
    }

    /// Returns a second handle on the same open file, which shares its position.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<File> {
        Ok(File {
            simulated: self.simulated.as_ref().map(Handle::duplicate).transpose()?,
            file: self.file.try_clone()?,
            position: self.position.clone(),
        })
    }

    /// A file on the disk of the calling thread's host.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(super) fn simulated(handle: Handle) -> io::Result<File> {
        Ok(File {
            simulated: Some(handle),
            file: sys::placeholder()?.into(),
            position: Arc::default(),
        })
    }

    /// Converts to the standard library's file.
    pub fn into_std(self) -> std::fs::File {
        self.file
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn entry_fd(&self) -> types::Fd {
        types::Fd(self.raw())
    }

    /// Locks the file's current position. Returns `None` where there is no position to guard: a file other than a
    /// regular one may be read by one fiber and written by another for any length of time.
    fn lock_position(&self) -> io::Result<Option<MutexGuard<'_, ()>>> {
        if let Some(guard) = self.position.try_lock() {
            return Ok(Some(guard));
        }
        // A callback cannot wait; the operation itself returns that error.
        let in_callback = !in_fiber() && this_loop::exists();
        if in_callback || !self.is_regular() {
            return Ok(None);
        }
        if is_unwinding() {
            return Err(cannot_wait());
        }
        Ok(Some(self.position.lock()?))
    }

    fn is_regular(&self) -> bool {
        self.simulated.is_some() || sys::is_regular_file(self.raw())
    }

    fn lock_position_for(&self, offset: u64) -> io::Result<Option<MutexGuard<'_, ()>>> {
        match offset {
            CURRENT => self.lock_position(),
            _ => Ok(None),
        }
    }

    /// Reads at an offset, or [`CURRENT`].
    fn read_from(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let _position = self.lock_position_for(offset)?;
        if let Some(file) = &self.simulated {
            let mut buffers = [IoSliceMut::new(buffer)];
            return offload_simulated(READ, || file.read(&mut buffers, at(offset)));
        }
        match executor(opcode::Read::CODE)? {
            Executor::Ring(core) => {
                let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
                let entry = opcode::Read::new(self.entry_fd(), start, length).offset(offset);
                // SAFETY: `buffer` is borrowed until the call returns.
                unsafe { on_ring(&core, READ, entry.build()) }
            }
            Executor::Offload => {
                offload_transfer(READ, self.raw(), libc::POLLIN, || match offset {
                    CURRENT => (&self.file).read(buffer),
                    offset => self.file.read_at(buffer, offset),
                })
            }
        }
    }

    /// Writes at an offset, or [`CURRENT`].
    fn write_from(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let _position = self.lock_position_for(offset)?;
        if let Some(file) = &self.simulated {
            return offload_simulated(WRITE, || file.write(&[IoSlice::new(bytes)], at(offset)));
        }
        match executor(opcode::Write::CODE)? {
            Executor::Ring(core) => {
                let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
                let entry = opcode::Write::new(self.entry_fd(), start, length).offset(offset);
                // SAFETY: `bytes` is borrowed until the call returns.
                unsafe { on_ring(&core, WRITE, entry.build()) }
            }
            Executor::Offload => {
                let bytes = writable_now(self.raw(), bytes);
                offload_transfer(WRITE, self.raw(), libc::POLLOUT, || match offset {
                    CURRENT => (&self.file).write(bytes),
                    offset => self.file.write_at(bytes, offset),
                })
            }
        }
    }
}

/// The offset of an operation on a simulated disk; `None` for the file's position.
fn at(offset: u64) -> Option<u64> {
    (offset != CURRENT).then_some(offset)
}

/// Checks an offset: from `i64::MAX + 1` on, offsets are negative to the kernel.
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
        self.read_from(buffer, CURRENT)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let _position = self.lock_position()?;
        if let Some(file) = &self.simulated {
            return offload_simulated(READ, || file.read(buffers, None));
        }
        match executor(opcode::Readv::CODE)? {
            Executor::Ring(core) => {
                let start = buffers.as_mut_ptr().cast_const().cast::<libc::iovec>();
                let count = buffers.len().min(sys::SLICES_MAX) as u32;
                let entry = opcode::Readv::new(self.entry_fd(), start, count).offset(CURRENT);
                // SAFETY: `IoSliceMut` has the layout of `iovec`; all of it is borrowed until the call returns.
                unsafe { on_ring(&core, READ, entry.build()) }
            }
            Executor::Offload => offload_transfer(READ, self.raw(), libc::POLLIN, || {
                (&self.file).read_vectored(buffers)
            }),
        }
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_from(bytes, CURRENT)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        if is_unwinding() {
            // Write one buffer at a time: only a write known not to wait is allowed here.
            let first = buffers.iter().find(|buffer| !buffer.is_empty());
            return self.write_from(first.map_or(&[], |first| first), CURRENT);
        }
        let _position = self.lock_position()?;
        if let Some(file) = &self.simulated {
            return offload_simulated(WRITE, || file.write(buffers, None));
        }
        match executor(opcode::Writev::CODE)? {
            Executor::Ring(core) => {
                let start = buffers.as_ptr().cast::<libc::iovec>();
                let count = buffers.len().min(sys::SLICES_MAX) as u32;
                let entry = opcode::Writev::new(self.entry_fd(), start, count).offset(CURRENT);
                // SAFETY: `IoSlice` has the layout of `iovec`; all of it is borrowed until the call returns.
                unsafe { on_ring(&core, WRITE, entry.build()) }
            }
            Executor::Offload => offload(WRITE, || (&self.file).write_vectored(buffers)),
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

/// Seeking only changes a number. It waits only for another fiber's operation at the file's position.
impl Seek for &File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let _position = self.lock_position()?;
        match &self.simulated {
            Some(file) => file.seek(position),
            None => (&self.file).seek(position),
        }
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
            simulated: None,
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
