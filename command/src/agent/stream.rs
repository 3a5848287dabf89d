//! A connection to an owner, by the network or a Unix socket. Clones are the same connection: one fiber may read while
//! another writes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;
use yue::ReadinessBranch;
use yue::net::{Keepalive, TcpStream, UnixStream};

/// An owner whose machine is gone is noticed within this time and as much again. Its nodes end by their leases before.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection.
#[derive(Clone)]
pub(super) enum Stream {
    Tcp(Rc<TcpStream>),
    Unix(Rc<UnixStream>),
}

impl Stream {
    /// Makes the kernel watch over the connection. An error means that the connection has broken, as reading tells.
    pub(super) fn watch(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_user_timeout(Some(KEEPALIVE * 2));
            let _ = stream.set_keepalive(Some(Keepalive {
                idle: KEEPALIVE,
                interval: KEEPALIVE / 3,
                retries: 3,
            }));
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        }
    }

    /// Ready when the owner has sent something, or has gone.
    pub(super) fn readable_branch(&self) -> ReadinessBranch<'_> {
        match self {
            Stream::Tcp(stream) => stream.readable_branch(),
            Stream::Unix(stream) => stream.readable_branch(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&**stream).read(into),
            Stream::Unix(stream) => (&**stream).read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&**stream).write(bytes),
            Stream::Unix(stream) => (&**stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
