//! The two directions of a stream, for use by two fibers: borrowed from the stream, or owning it together.
//!
//! References to a stream can already read and write. Halves are for programs that hand one direction away. The
//! compiler then ensures that each direction has one user, and dropping the write half signals the end to the peer.

use super::tcp::TcpStream;
use super::unix::UnixStream;
use crate::readiness::ReadinessBranch;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

/// A stream that can be split.
///
/// Programs use it as a bound that accepts halves of any stream.
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::net::{Duplex, OwnedReadHalf, OwnedWriteHalf, UnixStream};
///
/// fn echo<S: Duplex>(stream: (OwnedReadHalf<S>, OwnedWriteHalf<S>)) -> std::io::Result<u64> {
///     let (mut reader, mut writer) = stream;
///     std::io::copy(&mut reader, &mut writer)
/// }
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (here, there) = UnixStream::pair()?;
///     let echo = yue_scheduler::spawn(|| echo(there.into_split()));
///     let (mut reader, mut writer) = here.into_split();
///     writer.write_all(b"hello")?;
///     drop(writer);
///     let mut back = String::new();
///     reader.read_to_string(&mut back)?;
///     assert_eq!(back, "hello");
///     assert_eq!(echo.join().unwrap()?, 5);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Duplex: fmt::Debug {
    #[doc(hidden)]
    fn read_from(&self, buffer: &mut [u8]) -> io::Result<usize>;
    #[doc(hidden)]
    fn read_vectored_from(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;
    #[doc(hidden)]
    fn write_to(&self, bytes: &[u8]) -> io::Result<usize>;
    #[doc(hidden)]
    fn write_vectored_to(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;
    #[doc(hidden)]
    fn end(&self, how: Shutdown) -> io::Result<()>;
    #[doc(hidden)]
    fn wait_readable(&self) -> io::Result<()>;
    #[doc(hidden)]
    fn wait_writable(&self) -> io::Result<()>;
    #[doc(hidden)]
    fn when_readable(&self) -> ReadinessBranch<'_>;
    #[doc(hidden)]
    fn when_writable(&self) -> ReadinessBranch<'_>;
}

macro_rules! duplex {
    ($($stream:ty),+) => {$(
        impl Duplex for $stream {
            fn read_from(&self, buffer: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buffer)
            }

            fn read_vectored_from(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&*self).read_vectored(buffers)
            }

            fn write_to(&self, bytes: &[u8]) -> io::Result<usize> {
                (&*self).write(bytes)
            }

            fn write_vectored_to(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
                (&*self).write_vectored(buffers)
            }

            fn end(&self, how: Shutdown) -> io::Result<()> {
                self.shutdown(how)
            }

            fn wait_readable(&self) -> io::Result<()> {
                self.readable()
            }

            fn wait_writable(&self) -> io::Result<()> {
                self.writable()
            }

            fn when_readable(&self) -> ReadinessBranch<'_> {
                self.readable_branch()
            }

            fn when_writable(&self) -> ReadinessBranch<'_> {
                self.writable_branch()
            }
        }

        impl $stream {
            /// Splits the stream into two borrowed halves.
            pub fn split(&mut self) -> (ReadHalf<'_, Self>, WriteHalf<'_, Self>) {
                (ReadHalf(self), WriteHalf(self))
            }

            /// Splits the stream into two owned halves, which may move to different fibers or loops. Dropping the write
            /// half shuts down sending, so that the peer reads end of input. Dropping both halves closes the stream.
            ///
            /// ```
            /// use std::io::{Read, Write};
            /// use yue_io::net::UnixStream;
            ///
            /// yue_io::run(|| -> std::io::Result<()> {
            ///     let (here, there) = UnixStream::pair()?;
            ///     let (mut reader, mut writer) = here.into_split();
            ///     writer.write_all(b"all")?;
            ///     drop(writer);
            ///     let mut peer = &there;
            ///     std::io::copy(&mut peer, &mut &there)?; // Ends, because the write half was dropped.
            ///     drop(there);
            ///     let mut text = String::new();
            ///     reader.read_to_string(&mut text)?;
            ///     assert_eq!(text, "all");
            ///     Ok(())
            /// })??;
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn into_split(self) -> (OwnedReadHalf<Self>, OwnedWriteHalf<Self>) {
                let both = Arc::new(self);
                let writer = OwnedWriteHalf { stream: both.clone(), ends: true };
                (OwnedReadHalf { stream: both }, writer)
            }
        }
    )+};
}

duplex!(TcpStream, UnixStream);

/// The borrowed read half of a stream.
#[derive(Debug)]
pub struct ReadHalf<'a, S>(&'a S);

/// The borrowed write half of a stream.
///
/// Unlike an [`OwnedWriteHalf`], dropping it does not shut down sending.
#[derive(Debug)]
pub struct WriteHalf<'a, S>(&'a S);

/// The owned read half of a stream.
#[derive(Debug)]
pub struct OwnedReadHalf<S: Duplex> {
    stream: Arc<S>,
}

/// The owned write half of a stream. Dropping it shuts down sending.
#[derive(Debug)]
pub struct OwnedWriteHalf<S: Duplex> {
    stream: Arc<S>,
    ends: bool,
}

/// The error for two halves of different streams. It returns the halves.
#[derive(Debug, thiserror::Error)]
#[error("the two halves belong to different streams")]
pub struct NotTheSame<S: Duplex>(pub OwnedReadHalf<S>, pub OwnedWriteHalf<S>);

impl<S: Duplex> OwnedReadHalf<S> {
    /// Reunites the two halves of one stream.
    ///
    /// # Errors
    /// When the halves belong to different streams.
    ///
    /// ```
    /// use yue_io::net::UnixStream;
    ///
    /// let (stream, _peer) = UnixStream::pair()?;
    /// let (reader, writer) = stream.into_split();
    /// let stream: UnixStream = reader.reunite(writer).unwrap();
    /// # drop(stream);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reunite(self, mut other: OwnedWriteHalf<S>) -> Result<S, NotTheSame<S>> {
        if !Arc::ptr_eq(&self.stream, &other.stream) {
            return Err(NotTheSame(self, other));
        }
        other.ends = false;
        drop(other);
        match Arc::try_unwrap(self.stream) {
            Ok(stream) => Ok(stream),
            Err(_) => unreachable!("a stream has exactly two halves"),
        }
    }
}

impl<S: Duplex> AsRef<S> for OwnedReadHalf<S> {
    fn as_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: Duplex> AsRef<S> for OwnedWriteHalf<S> {
    fn as_ref(&self) -> &S {
        &self.stream
    }
}

/// Implements waiting for readability for the read halves.
macro_rules! readable {
    ($([$($generics:tt)*] $half:ty, $stream:tt;)+) => {$(
        impl<$($generics)*> $half {
            /// Waits until a read would not wait. See [`TcpStream::readable`].
            ///
            /// # Errors
            /// See [`TcpStream::readable`].
            pub fn readable(&self) -> io::Result<()> {
                self.$stream.wait_readable()
            }

            /// `readable` as a branch of `select!`, written `readable(…)` there. See [`TcpStream::readable_branch`].
            pub fn readable_branch(&self) -> ReadinessBranch<'_> {
                self.$stream.when_readable()
            }
        }
    )+};
}

/// Implements waiting for writability for the write halves.
macro_rules! writable {
    ($([$($generics:tt)*] $half:ty, $stream:tt;)+) => {$(
        impl<$($generics)*> $half {
            /// Waits until a write would not wait. See [`TcpStream::writable`].
            ///
            /// # Errors
            /// See [`TcpStream::writable`].
            pub fn writable(&self) -> io::Result<()> {
                self.$stream.wait_writable()
            }

            /// `writable` as a branch of `select!`, written `writable(…)` there. See [`TcpStream::writable_branch`].
            pub fn writable_branch(&self) -> ReadinessBranch<'_> {
                self.$stream.when_writable()
            }
        }
    )+};
}

readable! {
    ['a, S: Duplex] ReadHalf<'a, S>, 0;
    [S: Duplex] OwnedReadHalf<S>, stream;
}
writable! {
    ['a, S: Duplex] WriteHalf<'a, S>, 0;
    [S: Duplex] OwnedWriteHalf<S>, stream;
}

impl<S: Duplex> Drop for OwnedWriteHalf<S> {
    fn drop(&mut self) {
        if self.ends {
            // The next read reports a broken connection.
            let _ = self.stream.end(Shutdown::Write);
        }
    }
}

impl<S: Duplex> Read for ReadHalf<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_from(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.read_vectored_from(buffers)
    }
}

impl<S: Duplex> Write for WriteHalf<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_to(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored_to(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Duplex> Read for OwnedReadHalf<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read_from(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.read_vectored_from(buffers)
    }
}

impl<S: Duplex> Write for OwnedWriteHalf<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_to(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored_to(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
