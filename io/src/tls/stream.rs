//! A TLS connection.
//!
//! ```text
//!   read:    stream ──▶ read_tls ──▶ process_new_packets ──▶ reader ──▶ the caller
//!   write:   the caller ──▶ writer (encrypts into a bounded buffer) ──▶ write_tls ──▶ stream
//! ```
//!
//! Encrypted bytes must be sent exactly once, even when a write to the stream is cancelled. The rest stays in rustls's
//! buffer, and the next call starts with it.

use rustls::pki_types::CertificateDer;
use rustls::{Connection, ProtocolVersion};
use std::fmt;
use std::io::{self, Read, Write};
use yue_scheduler::unrefused;

/// A TLS stream, created by [`Connector::connect`](super::Connector::connect) and
/// [`Acceptor::accept`](super::Acceptor::accept).
///
/// Dropping it ends the connection without notifying the peer, which then cannot know whether data is missing. Call
/// [`TlsStream::close`] first.
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::net::UnixStream;
/// use yue_io::tls::{Acceptor, Connector, Identity, Roots};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue_io::run(move || -> std::io::Result<()> {
///     let (here, there) = UnixStream::pair()?;
///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
///     let server = yue_scheduler::spawn(move || -> std::io::Result<String> {
///         std::io::read_to_string(acceptor.accept(there)?)
///     });
///     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
///     let mut stream = connector.connect("localhost", here)?;
///     stream.write_all(b"secret")?;
///     stream.close()?; // Without this, the server's read fails: data might be missing.
///     assert_eq!(server.join().unwrap()?, "secret");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TlsStream<S> {
    connection: Connection,
    stream: S,
}

impl<S: Read + Write> TlsStream<S> {
    pub(super) fn handshake(connection: Connection, stream: S) -> io::Result<TlsStream<S>> {
        let mut tls = TlsStream { connection, stream };
        while tls.connection.is_handshaking() {
            tls.send_pending()?;
            if tls.connection.is_handshaking() && !tls.receive()? {
                let text = "the peer closed the connection during the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        tls.send_pending()?;
        tls.stream.flush()?;
        Ok(tls)
    }

    /// Sends the encrypted bytes.
    fn send_pending(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.stream)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Receives bytes from the peer. Returns `false` at the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        let count = self.connection.read_tls(&mut self.stream)?;
        if let Err(error) = self.connection.process_new_packets() {
            // Send the reason to the peer, if it still reads.
            let _ = unrefused(|| self.send_pending());
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(count > 0)
    }

    /// Signals the end of the data to the peer, so that the peer can tell it from a broken connection. The peer's data
    /// can still be read.
    ///
    /// # Errors
    /// The stream's error.
    pub fn close(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.send_pending()?;
        self.stream.flush()
    }
}

impl<S> TlsStream<S> {
    pub(super) fn into_parts(self) -> (Connection, S) {
        (self.connection, self.stream)
    }

    /// Returns the application protocol that the peers agreed on, if any.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Returns the peer's certificate and its chain, if it sent any.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.connection.peer_certificates()
    }

    /// Returns the negotiated TLS version.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.connection.protocol_version()
    }

    /// Returns the server name that the client requested, if any.
    pub fn server_name(&self) -> Option<&str> {
        match &self.connection {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// Returns the rustls connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns the underlying stream, for its settings. Reading or writing it directly breaks the connection.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // Send pending answers first, such as to a change of keys.
            self.send_pending()?;
            self.receive()?;
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // If this fails, none of `bytes` has been taken.
        self.send_pending()?;
        let count = self.connection.writer().write(bytes)?;
        // `count` bytes are taken, and a later call sends them if this one cannot. It also meets a lasting error again.
        let _ = unrefused(|| self.send_pending());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.writer().flush()?;
        self.send_pending()?;
        self.stream.flush()
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("stream", &self.stream)
            .field("version", &self.protocol_version())
            .finish_non_exhaustive()
    }
}
