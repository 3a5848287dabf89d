//! The two directions of a stream, for two fibers: borrowed from it, or owning it together.
//!
//! References to a stream read and write by themselves; halves are for programs that hand one direction away and want
//! the compiler to see to it that each has one user, and that dropping the writing half tells the peer.

use super::{TcpStream, UnixStream};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

/// A stream that can be split.
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
        }

        impl $stream {
            /// The two directions, borrowed.
            pub fn split(&mut self) -> (ReadHalf<'_, Self>, WriteHalf<'_, Self>) {
                (ReadHalf(self), WriteHalf(self))
            }

            /// The two directions, each to be moved to a fiber (or a loop) of its own. Dropping the writing half ends
            /// the sending side, so that the peer reads its end; when both are dropped the stream is closed.
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
            ///     std::io::copy(&mut peer, &mut &there)?; // Ends, because the writing half is gone.
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

/// The reading direction of a stream.
#[derive(Debug)]
pub struct ReadHalf<'a, S>(&'a S);

/// The writing direction of a stream.
#[derive(Debug)]
pub struct WriteHalf<'a, S>(&'a S);

/// The reading direction of a stream, on its own.
#[derive(Debug)]
pub struct OwnedReadHalf<S: Duplex> {
    stream: Arc<S>,
}

/// The writing direction of a stream, on its own. Dropping it ends the sending side.
#[derive(Debug)]
pub struct OwnedWriteHalf<S: Duplex> {
    stream: Arc<S>,
    ends: bool,
}

/// Two halves that do not belong to one stream; they come back.
#[derive(Debug, thiserror::Error)]
#[error("the two halves are not of the same stream")]
pub struct NotTheSame<S: Duplex>(pub OwnedReadHalf<S>, pub OwnedWriteHalf<S>);

impl<S: Duplex> OwnedReadHalf<S> {
    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    /// When they are not of the same stream.
    pub fn reunite(self, mut other: OwnedWriteHalf<S>) -> Result<S, NotTheSame<S>> {
        if !Arc::ptr_eq(&self.stream, &other.stream) {
            return Err(NotTheSame(self, other));
        }
        other.ends = false;
        drop(other);
        match Arc::try_unwrap(self.stream) {
            Ok(stream) => Ok(stream),
            Err(_) => unreachable!("there are two halves of a stream"),
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

impl<S: Duplex> Drop for OwnedWriteHalf<S> {
    fn drop(&mut self) {
        if self.ends {
            // A connection that is broken says so where it is read.
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
