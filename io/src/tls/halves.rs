//! The two directions of a connection with TLS, each for a fiber of its own.
//!
//! ```text
//!   reader:  stream ──▶ connection ──▶ the caller        what must be answered (a change of keys) ─┐
//!   writer:  the caller ──▶ connection ──▶ outbox ──▶ stream  ◀────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - The connection's cell is borrowed only between two suspensions; nothing waits while it is.
//! - What is encrypted leaves in the order in which it was encrypted: it is appended to the outbox and taken from its
//!   front by whoever has the `sending` lock. What a cancelled send left there goes out with the next.

use super::TlsStream;
use crate::errors::cannot_wait;
use crate::offload::unwinds;
use rustls::Connection;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::rc::Rc;
use yue_scheduler::sync::local::Mutex;
use yue_scheduler::unrefused;

/// What is read from the stream at once: one TLS record of the largest size.
const CHUNK: usize = 16 * 1024 + 512;

struct Shared<S> {
    connection: RefCell<Connection>,
    stream: S,
    outbox: RefCell<Vec<u8>>,
    sending: Mutex<()>,
}

/// The reading half of a connection with TLS; made by [`TlsStream::split`], which has an example.
pub struct TlsReader<S> {
    shared: Rc<Shared<S>>,
    chunk: Box<[u8]>,
    /// The part of the chunk that the connection has not taken yet.
    left: (usize, usize),
}

/// The writing half of a connection with TLS; made by [`TlsStream::split`], which has an example.
pub struct TlsWriter<S> {
    shared: Rc<Shared<S>>,
}

impl<S> TlsStream<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Splits the connection into its two directions, so that one fiber reads while another one writes. Both stay on
    /// this loop.
    ///
    /// ```
    /// # use std::io::{Read, Write};
    /// # use yue::net::UnixStream;
    /// # use yue::tls::{Acceptor, Connector, Identity, Roots};
    /// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    /// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    /// yue::Runtime::new()?.run(move || -> std::io::Result<()> {
    ///     let (here, there) = UnixStream::pair()?;
    ///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
    ///     let echo = yue::spawn(move || -> std::io::Result<()> {
    ///         let (mut reader, mut writer) = acceptor.accept(there)?.split();
    ///         std::io::copy(&mut reader, &mut writer)?;
    ///         writer.close()
    ///     });
    ///     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
    ///     let (mut reader, mut writer) = connector.connect("localhost", here)?.split();
    ///     let writing = yue::spawn(move || -> std::io::Result<()> {
    ///         writer.write_all(&[7; 1_000_000])?;
    ///         writer.close()
    ///     });
    ///     let mut back = Vec::new();
    ///     reader.read_to_end(&mut back)?;
    ///     assert_eq!(back.len(), 1_000_000);
    ///     writing.join()??;
    ///     echo.join()?
    /// })?;
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
            chunk: vec![0; CHUNK].into(),
            left: (0, 0),
        };
        (reader, TlsWriter { shared })
    }
}

impl<S> Shared<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Sends what is encrypted, and waits until it is on its way.
    fn send_pending(&self) -> io::Result<()> {
        loop {
            self.collect()?;
            if self.outbox.borrow().is_empty() {
                return Ok(());
            }
            let _sending = if unwinds() {
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
            // Back to the front, before what has been encrypted meanwhile.
            bytes.drain(..sent);
            bytes.append(&mut self.outbox.borrow_mut());
            self.outbox.replace(bytes);
            outcome?;
        }
    }

    /// Moves what the connection has encrypted to the outbox.
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
            // Answers to what came before, such as to a change of keys.
            self.shared.send_pending()?;
            if self.left.0 == self.left.1 {
                let count = (&self.shared.stream).read(&mut self.chunk)?;
                self.left = (0, count);
            }
            self.take_chunk()?;
        }
    }
}

impl<S> TlsReader<S>
where
    for<'a> &'a S: Read + Write,
{
    /// Hands the connection what came from the stream; nothing is the stream's end.
    fn take_chunk(&mut self) -> io::Result<()> {
        let mut bytes = &self.chunk[self.left.0..self.left.1];
        let outcome = {
            let mut connection = self.shared.connection.borrow_mut();
            connection.read_tls(&mut bytes)?;
            self.left.0 = self.left.1 - bytes.len();
            connection.process_new_packets().map(drop)
        };
        outcome.map_err(|error| {
            // The peer is told why, if it still listens.
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
        // An error here has taken none of `bytes`.
        self.shared.send_pending()?;
        let count = self.shared.connection.borrow_mut().writer().write(bytes)?;
        // These are taken, and go out with a later call if not now: an error that lasts is the next call's.
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
    /// Tells the peer that no more comes. What it sends can be read on.
    ///
    /// # Errors
    /// The stream's.
    pub fn close(&mut self) -> io::Result<()> {
        self.shared.connection.borrow_mut().send_close_notify();
        self.flush()
    }

    /// The stream below, for its settings; what is read or written past TLS breaks the connection.
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
