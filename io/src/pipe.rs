//! Pipes between fibers, threads and processes, like [`std::io::pipe`].
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use yue_io::pipe::pipe;
//!
//! yue_io::run(|| -> std::io::Result<()> {
//!     let (reader, mut writer) = pipe()?;
//!     // A plain thread at the other end: it blocks where a fiber would park.
//!     let thread = std::thread::spawn(move || writer.write_all(b"one\ntwo\n"));
//!     assert_eq!(BufReader::new(reader).lines().count(), 2);
//!     thread.join().unwrap()
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

use crate::descriptor::Descriptor;
use crate::readiness::waits_until;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

const READ: &str = "read from a pipe";
const WRITE: &str = "write to a pipe";

/// Creates a pipe. Bytes written to the writer are read from the reader.
///
/// # Errors
/// When the process is out of descriptors.
pub fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// The read end of a pipe. Reading parks the calling fiber. Input ends when all writers are closed.
///
/// A `PipeReader` can be made from any pollable descriptor except a socket, such as a FIFO or a terminal. On the mio
/// driver the open file becomes non-blocking, also for others who share it.
///
/// ```
/// use yue_io::pipe::pipe;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (reader, writer) = pipe()?;
///     let other = writer.try_clone()?;
///     drop(writer);
///     let reading = yue_scheduler::spawn(move || std::io::read_to_string(reader));
///     drop(other); // The last writer closes: the reader's input ends.
///     assert_eq!(reading.join().unwrap()?, "");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct PipeReader {
    descriptor: Descriptor,
}

/// The write end of a pipe. Writing parks the calling fiber while the pipe is full. See [`PipeReader`].
///
/// ```
/// use std::io::Write;
/// use yue_io::pipe::pipe;
/// use yue_io::process::{Command, Stdio};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (reader, mut writer) = pipe()?;
///     let mut sort = Command::new("sort")
///         .stdin(reader.into_std()?)
///         .stdout(Stdio::piped())
///         .spawn()?;
///     writer.write_all(b"b\na\n")?;
///     drop(writer); // `sort` begins when its input ends.
///     let sorted = std::io::read_to_string(sort.stdout.take().unwrap())?;
///     assert_eq!(sorted, "a\nb\n");
///     assert!(sort.wait()?.success());
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct PipeWriter {
    descriptor: Descriptor,
}

macro_rules! reads {
    ($($reader:ty),+) => {$(
        impl Read for $reader {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.descriptor.read(buffer, READ)
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.descriptor.read_vectored(buffers, READ)
            }
        }
    )+};
}

macro_rules! writes {
    ($($writer:ty),+) => {$(
        impl Write for $writer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.descriptor.write(bytes, WRITE)
            }

            fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
                self.descriptor.write_vectored(buffers, WRITE)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    )+};
}

macro_rules! descriptor_of {
    ($end:ty, $standard:ty) => {
        impl AsFd for $end {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.descriptor.as_fd()
            }
        }

        impl AsRawFd for $end {
            fn as_raw_fd(&self) -> RawFd {
                self.descriptor.raw()
            }
        }

        impl From<OwnedFd> for $end {
            fn from(fd: OwnedFd) -> Self {
                Self {
                    descriptor: Descriptor::from(fd),
                }
            }
        }

        impl From<$standard> for $end {
            fn from(end: $standard) -> Self {
                Self::from(OwnedFd::from(end))
            }
        }

        impl $end {
            /// Returns a second handle on the same end.
            ///
            /// # Errors
            /// When the process is out of descriptors.
            pub fn try_clone(&self) -> io::Result<Self> {
                Ok(Self::from(self.as_fd().try_clone_to_owned()?))
            }

            /// Converts the end to the standard library's type, in blocking mode.
            ///
            /// The mode belongs to the open file, not to the handle: a clone that is still used on the mio driver makes
            /// the file non-blocking again.
            ///
            /// # Errors
            /// When the process is out of descriptors.
            pub fn into_std(self) -> io::Result<$standard> {
                Ok(<$standard>::from(self.descriptor.into_fd()?))
            }
        }
    };
}

reads!(PipeReader, &PipeReader);
writes!(PipeWriter, &PipeWriter);
descriptor_of!(PipeReader, io::PipeReader);
descriptor_of!(PipeWriter, io::PipeWriter);
waits_until!(
    readable,
    PipeReader,
    descriptor,
    "a read would not wait: bytes are available, input has ended, or there is an error"
);
waits_until!(
    writable,
    PipeWriter,
    descriptor,
    "a write would not wait: the pipe has room, or its reader is closed"
);

impl PipeReader {
    /// The read end for a child's output.
    pub(crate) fn from_child(end: impl Into<OwnedFd>) -> PipeReader {
        PipeReader::from(end.into())
    }
}

impl PipeWriter {
    /// The write end for a child's input.
    pub(crate) fn from_child(end: impl Into<OwnedFd>) -> PipeWriter {
        PipeWriter::from(end.into())
    }
}
