//! A stream: bytes in both directions, over TCP or a Unix socket, encrypted or not.
//!
//! ```text
//!   one reader  ──▶ reading (borrowed while it waits; a second reader is refused)
//!   writers     ──▶ writing (a fair lock: one text after the other, never mixed)
//!   handshake   ──▶ takes both
//! ```
//!
//! Invariant: `reading` and `writing` are both encrypted, or neither is.

use super::address::{inet_text, unix_text};
use super::chunk::{Chunk, SMALL};
use super::closing::Closing;
use super::tls;
use crate::lua::host::errors::{error, stopped};
use crate::lua::host::failure::{coded, network_failed};
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{TcpStream, UnixStream};
use yue_luajit::Error;
use yue_rpc::{Address, ErrorKind};
use yue_scheduler::sync::local::{Mutex, MutexGuard};
use yue_scheduler::{deadline_after, is_past, with_deadline};

/// The time for the end of a TLS connection to be sent when the stream is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// The socket of a stream.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A reference to a socket that reads and writes, for TLS.
pub(super) struct Link(Rc<Socket>);

macro_rules! each {
    ($socket:expr, $stream:ident => $result:expr) => {
        match $socket {
            Socket::Tcp($stream) => $result,
            Socket::Unix($stream) => $result,
        }
    };
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => { let mut stream = stream; stream.read(buffer) })
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => { let mut stream = stream; stream.write(bytes) })
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, stream => { let mut stream = stream; stream.write_vectored(slices) })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! link {
    ($link:ty) => {
        impl Read for $link {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&*self.0).read(buffer)
            }
        }

        impl Write for $link {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (&*self.0).write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}
link!(Link);
link!(&Link);

/// The name of a stream in messages.
pub(super) enum Label {
    /// The address that the program connected to.
    Connected(String),
    /// The address of a client that was accepted.
    Client(&'static str, SocketAddr),
    /// The address of the listener that accepted it.
    Local(String),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Connected(address) => write!(f, "the stream to {address}"),
            Label::Client(scheme, address) => write!(f, "the stream from {scheme}://{address}"),
            Label::Local(address) => write!(f, "a stream from {address}"),
        }
    }
}

impl Label {
    /// The address in it, for the messages of TLS.
    pub(super) fn address(&self) -> Address {
        let text = match self {
            Label::Connected(address) | Label::Local(address) => address.clone(),
            Label::Client(scheme, address) => inet_text(scheme, address),
        };
        text.parse().unwrap_or(Address::Unix { path: text })
    }
}

/// This program's side of a handshake.
pub(super) enum Side {
    Client(tls::Client),
    Server(Rc<tls::Server>),
}

/// An encrypted stream.
pub(super) struct Encrypted {
    pub(super) reader: tls::Reader,
    pub(super) writer: tls::Writer,
    /// The name in the peer's certificate, if it was verified.
    pub(super) peer_name: Option<String>,
}

/// The receiving direction.
#[derive(Default)]
struct Reading {
    /// The last read filled its buffer, so more is expected.
    is_bulk: bool,
    tls: Option<tls::Reader>,
}

/// The TLS handshake of a client that was accepted, until somebody uses the stream.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) server: Rc<tls::Server>,
    pub(super) limit: Duration,
}

/// A stream.
pub(crate) struct Stream {
    socket: Rc<Socket>,
    label: Label,
    closing: Closing,
    reading: RefCell<Reading>,
    writing: Mutex<Option<tls::Writer>>,
    pending: RefCell<Option<Pending>>,
    /// The name in the peer's verified certificate.
    peer_name: RefCell<Option<String>>,
    /// Whether this is the server of a TLS connection.
    is_server: Cell<bool>,
}

impl Stream {
    pub(super) fn new(socket: Socket, label: Label, pending: Option<Pending>) -> Stream {
        Stream {
            socket: Rc::new(socket),
            label,
            closing: Closing::default(),
            reading: RefCell::default(),
            writing: Mutex::new(None),
            pending: RefCell::new(pending),
            peer_name: RefCell::default(),
            is_server: Cell::default(),
        }
    }

    pub(super) fn label(&self) -> &Label {
        &self.label
    }

    fn failed(&self, doing: &str, failure: &io::Error) -> Error {
        network_failed(&format!("cannot {doing} {}", self.label), failure)
    }

    /// Sends small texts at once.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match &*self.socket {
            Socket::Tcp(stream) => stream.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    // -- Reading

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// If another fiber reads; those of the socket.
    #[inline(never)]
    pub(super) fn read(&self) -> Result<Option<Chunk>, Error> {
        self.finish_handshake()?;
        let Ok(mut reading) = self.reading.try_borrow_mut() else {
            let text = format!(
                "another fiber reads from {}; one fiber at a time can",
                self.label
            );
            return Err(coded("EBUSY", text));
        };
        let outcome = self.closing.run(|| self.read_chunk(&mut reading));
        outcome.map_err(|failure| self.failed("read from", &failure))
    }

    fn read_chunk(&self, reading: &mut Reading) -> io::Result<Option<Chunk>> {
        let is_there = match &reading.tls {
            // TLS holds bytes that the socket does not know of.
            Some(reader) => reader.has_bytes(),
            None if reading.is_bulk => {
                each!(&*self.socket, stream => stream.readable())?;
                true
            }
            None => false,
        };
        let mut chunk = match is_there {
            true => Chunk::large(),
            false => Chunk::small(),
        };
        let count = chunk.fill(|buffer| match &mut reading.tls {
            Some(reader) => reader.read(buffer).map_err(|error| self.describe(error)),
            None => (&*self.socket).read(buffer),
        })?;
        reading.is_bulk = count >= SMALL;
        Ok((count > 0).then_some(chunk))
    }

    // -- Writing

    /// Writes the texts as one: waits until the kernel has them. Texts of other fibers come before or after them.
    #[inline(never)]
    pub(super) fn write(&self, texts: &mut [IoSlice<'_>]) -> Result<(), Error> {
        self.finish_handshake()?;
        let mut writing = self.lock_writing()?;
        let outcome = self.closing.run(|| match &mut *writing {
            Some(writer) => write_encrypted(writer, texts).map_err(|error| self.describe(error)),
            None => write_plain(&self.socket, texts),
        });
        outcome.map_err(|failure| self.failed("write to", &failure))
    }

    fn lock_writing(&self) -> Result<MutexGuard<'_, Option<tls::Writer>>, Error> {
        self.writing.lock().map_err(stopped)
    }

    /// Ends this side's direction, after the texts that other fibers write.
    pub(super) fn shutdown(&self) -> Result<(), Error> {
        self.finish_handshake()?;
        let mut writing = self.lock_writing()?;
        let outcome = self.closing.run(|| {
            if let Some(writer) = &mut *writing {
                tls::finish(writer).map_err(|error| self.describe(error))?;
            }
            each!(&*self.socket, stream => stream.shutdown(Shutdown::Write))
        });
        outcome.map_err(|failure| self.failed("end", &failure))
    }

    // -- TLS

    /// Performs the handshake of a client that was accepted, unless that has happened.
    pub(super) fn finish_handshake(&self) -> Result<(), Error> {
        if self.pending.borrow().is_none() {
            return Ok(());
        }
        let mut writing = self.lock_writing()?;
        // Another fiber may have done it meanwhile. Until it is done, readers come here, too.
        let Some(pending) = self.pending.borrow().clone() else {
            return Ok(());
        };
        let at = deadline_after(pending.limit);
        let shake = |link| with_deadline(at, || pending.server.accept(link));
        self.is_server.set(true);
        let outcome = self.encrypt(&mut writing, shake);
        self.pending.take();
        outcome.map_err(|failure| {
            self.close();
            match is_past(at) {
                true => error(
                    ErrorKind::Timeout,
                    format!("{}: the TLS handshake took too long", self.label),
                ),
                false => self.failed("make a TLS connection of", &failure),
            }
        })
    }

    /// Makes this a TLS connection, as its client or its server.
    ///
    /// # Errors
    /// If it is one, or is in use; those of the handshake, after which it is closed.
    pub(super) fn start_tls(&self, side: &Side) -> Result<(), Error> {
        let busy = || {
            let text = format!(
                "another fiber uses {}; it must not when TLS begins",
                self.label
            );
            coded("EBUSY", text)
        };
        let mut writing = self.writing.try_lock().ok_or_else(busy)?;
        if writing.is_some() || self.pending.borrow().is_some() {
            let text = format!("{} is a TLS connection already", self.label);
            return Err(coded("EALREADY", text));
        }
        if self.reading.try_borrow_mut().is_err() {
            return Err(busy());
        }
        self.is_server.set(matches!(side, Side::Server(_)));
        let shake = |link| match side {
            Side::Client(client) => client.connect(link),
            Side::Server(server) => server.accept(link),
        };
        self.encrypt(&mut writing, shake).map_err(|failure| {
            self.close();
            self.failed("make a TLS connection of", &failure)
        })
    }

    fn encrypt(
        &self,
        writing: &mut Option<tls::Writer>,
        shake: impl FnOnce(Link) -> io::Result<Encrypted>,
    ) -> io::Result<()> {
        let made = self.closing.run(|| {
            // Nobody else reads meanwhile.
            let mut reading = self.reading.try_borrow_mut().map_err(io::Error::other)?;
            let made = shake(Link(self.socket.clone()))?;
            reading.tls = Some(made.reader);
            Ok((made.writer, made.peer_name))
        });
        let (writer, peer_name) = made?;
        *writing = Some(writer);
        *self.peer_name.borrow_mut() = peer_name;
        Ok(())
    }

    /// Describes an error of an encrypted stream.
    fn describe(&self, error: io::Error) -> io::Error {
        tls::describe(self.is_server.get(), error)
    }

    pub(super) fn peer_name(&self) -> Option<String> {
        self.peer_name.borrow().clone()
    }

    // -- The end

    /// Tells the peer of a TLS connection that this is the end, if nobody writes and the peer takes it soon.
    pub(super) fn say_goodbye(&self) {
        let Some(mut writing) = self.writing.try_lock() else {
            return;
        };
        if let Some(writer) = &mut *writing {
            let at = deadline_after(GOODBYE);
            // The stream ends in any case.
            let _ = self
                .closing
                .run(|| with_deadline(at, || tls::finish(writer)));
        }
    }

    /// Ends all operations. The socket is closed when they have ended.
    pub(super) fn close(&self) {
        self.closing.close();
    }

    // -- Addresses

    fn scheme(&self) -> &'static str {
        match &self.label {
            Label::Client(scheme, _) => scheme,
            Label::Connected(address) if address.starts_with("tls:") => "tls",
            _ => "tcp",
        }
    }

    /// The address of this end; `None` if it has no name.
    pub(super) fn local_text(&self) -> Result<Option<String>, Error> {
        let outcome = match &*self.socket {
            Socket::Tcp(stream) => stream
                .local_addr()
                .map(|address| Some(inet_text(self.scheme(), &address))),
            Socket::Unix(stream) => stream.local_addr().map(|address| unix_text(&address)),
        };
        outcome.map_err(|failure| self.failed("find the address of", &failure))
    }

    /// The address of the peer; `None` if it has no name.
    pub(super) fn peer_text(&self) -> Result<Option<String>, Error> {
        if let Label::Client(scheme, address) = &self.label {
            // Known even when the connection has ended.
            return Ok(Some(inet_text(scheme, address)));
        }
        let outcome = match &*self.socket {
            Socket::Tcp(stream) => stream
                .peer_addr()
                .map(|address| Some(inet_text(self.scheme(), &address))),
            Socket::Unix(stream) => stream.peer_addr().map(|address| unix_text(&address)),
        };
        outcome.map_err(|failure| self.failed("find the peer's address of", &failure))
    }
}

fn write_plain(mut socket: &Socket, mut texts: &mut [IoSlice<'_>]) -> io::Result<()> {
    if let [text] = texts {
        return socket.write_all(text);
    }
    // Leaves empty texts out: a write of nothing is not the end.
    IoSlice::advance_slices(&mut texts, 0);
    while !texts.is_empty() {
        match socket.write_vectored(texts)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut texts, count),
        }
    }
    Ok(())
}

fn write_encrypted(writer: &mut tls::Writer, texts: &[IoSlice<'_>]) -> io::Result<()> {
    let outcome = match texts {
        [text] => writer.write_all(text),
        // One record instead of several.
        _ => writer.write_all(
            &texts
                .iter()
                .flat_map(|text| text.iter().copied())
                .collect::<Vec<u8>>(),
        ),
    };
    outcome.and_then(|()| writer.flush())
}

/// The error of a stream that is closed.
pub(super) fn closed_error(what: &str) -> Error {
    coded("EBADF", format!("{what} is closed"))
}
