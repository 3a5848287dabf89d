//! The two directions of a TLS connection, for use by two fibers.
//!
//! ```text
//!   reader:  stream ──▶ connection ──▶ the caller        required answers (a change of keys) ───────┐
//!   writer:  the caller ──▶ connection ──▶ outbox ──▶ stream  ◀────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - The connection's cell is borrowed only between suspensions; no code waits while it is borrowed.
//! - Encrypted bytes leave in the order in which they were encrypted: they are appended to the outbox, and the holder
//!   of the `sending` lock takes them from its front. The next send also sends what a cancelled send left there.

use super::stream::TlsStream;
use crate::errors::cannot_wait;
use crate::offload::is_unwinding;
use rustls::Connection;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::rc::Rc;
use yue_scheduler::sync::local::Mutex;
use yue_scheduler::unrefused;

/// Bytes read from the stream at once: one TLS record of the maximum size.
const CHUNK: usize = 16 * 1024 + 512;

/// The same while the peer sends little: an idle connection waits with such a buffer.
const CHUNK_SMALL: usize = 2 * 1024;

struct Shared<S> {
    connection: RefCell<Connection>,
    stream: S,
    outbox: RefCell<Vec<u8>>,
    sending: Mutex<()>,
}

/// The read half of a TLS connection, created by [`TlsStream::split`], which has an example.
pub struct TlsReader<S> {
    shared: Rc<Shared<S>>,
    chunk: Box<[u8]>,
    /// The part of the chunk that the connection has not taken yet.
    left: (usize, usize),
}

/// The write half of a TLS connection, created by [`TlsStream::split`], which has an example.
pub struct TlsWriter<S> {
    shared: Rc<Shared<S>>,
}

impl<S> TlsStream<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Splits the connection into its two directions, so that one fiber reads while another writes. Both halves stay on
    /// this loop.
    ///
    /// ```
    /// # use std::io::{Read, Write};
    /// # use yue_io::net::UnixStream;
    /// # use yue_io::tls::{Acceptor, Connector, Identity, Roots};
    /// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    /// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    /// yue_io::run(move || -> std::io::Result<()> {
    ///     let (here, there) = UnixStream::pair()?;
    ///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
    ///     let echo = yue_scheduler::spawn(move || -> std::io::Result<()> {
    ///         let (mut reader, mut writer) = acceptor.accept(there)?.split();
    ///         std::io::copy(&mut reader, &mut writer)?;
    ///         writer.close()
    ///     });
    ///     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
    ///     let (mut reader, mut writer) = connector.connect("localhost", here)?.split();
    ///     let writing = yue_scheduler::spawn(move || -> std::io::Result<()> {
    ///         writer.write_all(&[7; 1_000_000])?;
    ///         writer.close()
    ///     });
    ///     let mut back = Vec::new();
    ///     reader.read_to_end(&mut back)?;
    ///     assert_eq!(back.len(), 1_000_000);
    ///     writing.join()??;
    ///     echo.join()?
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn split(self) -> (TlsReader<S>, TlsWriter<S>) {
        let (connection, stream) = self.into_parts();
        let shared = Rc::new(Shared {
            connection: RefCell::new(connection),
            stream,
            outbox: RefCell::default(),
            sending: Mutex::new(()),
        });
        let reader = TlsReader {
            shared: shared.clone(),
            chunk: vec![0; CHUNK_SMALL].into(),
            left: (0, 0),
        };
        (reader, TlsWriter { shared })
    }
}

impl<S> Shared<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Sends the encrypted bytes, and waits until the stream has taken them.
    fn send_pending(&self) -> io::Result<()> {
        loop {
            self.collect()?;
            if self.outbox.borrow().is_empty() {
                return Ok(());
            }
            let _sending = if is_unwinding() {
                self.sending.try_lock().ok_or_else(cannot_wait)?
            } else {
                self.sending.lock()?
            };
            let mut bytes = self.outbox.take();
            let mut sent = 0;
            let outcome = loop {
                if sent == bytes.len() {
                    break Ok(());
                }
                match (&self.stream).write(&bytes[sent..]) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => sent += count,
                    Err(error) => break Err(error),
                }
            };
            // Put the rest back to the front, before bytes that were encrypted meanwhile.
            bytes.drain(..sent);
            bytes.append(&mut self.outbox.borrow_mut());
            self.outbox.replace(bytes);
            outcome?;
        }
    }

    /// Moves encrypted bytes from the connection to the outbox.
    fn collect(&self) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        let mut outbox = self.outbox.borrow_mut();
        while connection.wants_write() {
            connection.write_tls(&mut *outbox)?;
        }
        Ok(())
    }
}

impl<S> Read for TlsReader<S>
where
    for<'a> &'a S: Read + Write,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.shared.connection.borrow_mut().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // Send pending answers first, such as to a change of keys.
            self.shared.send_pending()?;
            if self.left.0 == self.left.1 {
                self.resize_chunk();
                let count = (&self.shared.stream).read(&mut self.chunk)?;
                self.left = (0, count);
            }
            self.process_chunk()?;
        }
    }
}

impl<S> TlsReader<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Whether the next read returns decrypted bytes without waiting. If not, it may still find some that have come.
    pub fn has_bytes(&self) -> bool {
        let mut connection = self.shared.connection.borrow_mut();
        let decrypted = connection.reader().into_first_chunk();
        decrypted.is_ok_and(|bytes| !bytes.is_empty())
    }

    /// Chooses the buffer for the next read by the size of the last one.
    fn resize_chunk(&mut self) {
        let (last, length) = (self.left.1, self.chunk.len());
        if last == length && length < CHUNK {
            self.chunk = vec![0; CHUNK].into();
        } else if last < CHUNK_SMALL && length > CHUNK_SMALL {
            self.chunk = vec![0; CHUNK_SMALL].into();
        }
        self.left = (0, 0);
    }

    /// Feeds received bytes to the connection. An empty chunk means the end of the stream.
    fn process_chunk(&mut self) -> io::Result<()> {
        let mut bytes = &self.chunk[self.left.0..self.left.1];
        let outcome = {
            let mut connection = self.shared.connection.borrow_mut();
            connection.read_tls(&mut bytes)?;
            self.left.0 = self.left.1 - bytes.len();
            connection.process_new_packets().map(drop)
        };
        outcome.map_err(|error| {
            // Send the reason to the peer, if it still reads.
            let _ = unrefused(|| self.shared.send_pending());
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

impl<S> Write for TlsWriter<S>
where
    for<'a> &'a S: Read + Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // If this fails, none of `bytes` has been taken.
        self.shared.send_pending()?;
        let count = self.shared.connection.borrow_mut().writer().write(bytes)?;
        // `count` bytes are taken, and a later call sends them if this one cannot. It also meets a lasting error again.
        let _ = unrefused(|| self.shared.send_pending());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shared.send_pending()?;
        (&self.shared.stream).flush()
    }
}

impl<S> TlsWriter<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Signals the end of the data to the peer. The peer's data can still be read.
    ///
    /// # Errors
    /// The stream's error.
    pub fn close(&mut self) -> io::Result<()> {
        self.shared.connection.borrow_mut().send_close_notify();
        self.flush()
    }

    /// Returns the underlying stream, for its settings. Reading or writing it directly breaks the connection.
    pub fn get_ref(&self) -> &S {
        &self.shared.stream
    }
}

impl<S> fmt::Debug for TlsReader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsReader").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for TlsWriter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsWriter").finish_non_exhaustive()
    }
}
