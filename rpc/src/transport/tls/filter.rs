//! The filter: a session's transport above, and the events of another transport below.
//!
//! ```text
//!   session ──send(plaintext)──▶ Filter ──send(records)──▶ lower transport ──▶ the peer
//!   session ◀──data(plaintext)── Filter ◀──data(records)── lower transport ◀── the peer
//! ```
//!
//! rustls does no I/O here: it gets the bytes that arrived, and its own bytes are queued below. No fiber is involved.
//!
//! # Invariants
//!
//! - rustls's cell is borrowed only between callbacks: the session may send, pause or close in each of them.
//! - `send`, `set_reading` and `close` make no callback. A resumed link delivers what it held by its timer.
//! - Order: records that wait (`held`) come before all that arrive later; early plaintext comes before all that is sent
//!   later.
//! - Bounded: while the session does not read, nothing is decrypted, and the lower transport is paused. So the filter
//!   holds at most the rest of one read. Before the handshake rustls holds at most one message of it, of up to 64 KiB.
//!   Output is never kept: encrypted bytes are queued below, where `queued_bytes` counts them.
//! - A link ends in order only if both sides have sent `close_notify`, or this side has closed it. An end of input
//!   without it is an error: bytes may be missing.

use super::errors;
use crate::buffer;
use crate::transport::tls_options::Side;
use crate::transport::{Events, Incoming, Transport};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use yue_io::tls::certificate_name;
use yue_io::tls::rustls::pki_types::ServerName;
use yue_io::tls::rustls::{
    self, ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
};
use yue_scheduler::{Timer, deadline_after, now};

/// The time that the last bytes (an alert, or `close_notify`) have to leave, and the peer to close its side. A socket
/// that is closed while bytes of the peer arrive would be reset, and the alert lost.
const LINGER: Duration = Duration::from_secs(1);

/// The bytes that a record adds to its plaintext, at most: header, explicit nonce, tag, content type (RFC 8446, 5.2).
const RECORD_OVERHEAD: usize = 40;

/// The plaintext of a record, at most.
const RECORD_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshake,
    Open,
    /// The last bytes leave, and what arrives is dropped. The link ends when the peer has closed its side, or after
    /// `LINGER`.
    Ending,
    /// Closed by this side, or by the lower transport.
    Closed,
}

/// One TLS connection over another transport.
pub(super) struct Filter {
    side: Side,
    connection: RefCell<Connection>,
    /// Removed when the link has ended: the two hold each other.
    lower: RefCell<Option<Rc<dyn Transport>>>,
    events: RefCell<Option<Rc<dyn Events>>>,
    phase: Cell<Phase>,
    /// Whether the session reads.
    reading: Cell<bool>,
    /// Records that arrived and wait until the session reads.
    held: RefCell<Vec<u8>>,
    /// Plaintext that was sent before the end of the handshake.
    early: RefCell<Vec<Vec<u8>>>,
    early_bytes: Cell<usize>,
    /// Bytes have arrived.
    heard: Cell<bool>,
    /// The session sends no more.
    output_ended: Cell<bool>,
    /// The peer's `close_notify` was passed on.
    input_ended: Cell<bool>,
    /// The lower transport gets no more bytes.
    lower_ended: Cell<bool>,
    /// `Ending`: close as soon as everything is sent.
    close_when_sent: Cell<bool>,
    /// The bytes that were queued below when the timer of `Ending` was armed.
    queued_then: Cell<usize>,
    /// The error that `closed` reports.
    failure: RefCell<Option<io::Error>>,
    /// The name that a client demands of its server, if it verifies it.
    server_name: Option<String>,
    /// `Open`: delivers what was held. `Ending`: closes.
    timer: Timer,
}

impl Filter {
    /// Starts the client's side. `start` starts the lower transport, with the events that it receives.
    ///
    /// # Errors
    /// Those of `start`; a configuration that does not suffice.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        is_verified: bool,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        let server_name = is_verified.then(|| name.to_str().into_owned());
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Filter::start(Side::Client, connection.into(), server_name, events, start)
    }

    /// Starts the server's side.
    ///
    /// # Errors
    /// See [`Filter::client`].
    pub(super) fn server(
        config: Arc<ServerConfig>,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Filter::start(Side::Server, connection.into(), None, events, start)
    }

    fn start(
        side: Side,
        connection: Connection,
        server_name: Option<String>,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        let filter = Rc::new_cyclic(|this: &Weak<Filter>| {
            let timed = this.clone();
            Filter {
                side,
                connection: RefCell::new(connection),
                lower: RefCell::default(),
                events: RefCell::new(Some(events)),
                phase: Cell::new(Phase::Handshake),
                reading: Cell::new(false),
                held: RefCell::default(),
                early: RefCell::default(),
                early_bytes: Cell::new(0),
                heard: Cell::new(false),
                output_ended: Cell::new(false),
                input_ended: Cell::new(false),
                lower_ended: Cell::new(false),
                close_when_sent: Cell::new(false),
                queued_then: Cell::new(0),
                failure: RefCell::default(),
                server_name,
                timer: Timer::new(move || {
                    if let Some(filter) = timed.upgrade() {
                        filter.on_timer();
                    }
                }),
            }
        });
        let lower = start(filter.clone())?;
        *filter.lower.borrow_mut() = Some(lower);
        // The client's hello.
        filter.flush();
        Ok(filter)
    }

    /// Calls `f` with the lower transport, while there is one.
    fn below<R>(&self, f: impl FnOnce(&dyn Transport) -> R) -> Option<R> {
        let lower = self.lower.borrow().clone();
        lower.map(|lower| f(&*lower))
    }

    fn events(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    /// Queues rustls's bytes below.
    fn flush(&self) {
        let mut out = Vec::new();
        take_output(&mut self.connection.borrow_mut(), &mut out);
        self.send_below(out);
    }

    fn send_below(&self, records: Vec<u8>) {
        if records.is_empty() {
            return buffer::give_back(records);
        }
        self.below(|lower| lower.send(records));
    }

    fn encrypt(&self, plaintext: Vec<u8>) {
        let mut out = buffer::take();
        let records = plaintext.len() / RECORD_BYTES + 1;
        out.reserve(plaintext.len() + records * RECORD_OVERHEAD);
        let mut rest = &plaintext[..];
        {
            let mut connection = self.connection.borrow_mut();
            while !rest.is_empty() {
                // rustls takes as much as its own buffer holds, which is emptied each time.
                match connection.writer().write(rest) {
                    Ok(count @ 1..) => rest = &rest[count..],
                    _ => break,
                }
                take_output(&mut connection, &mut out);
            }
        }
        let is_whole = rest.is_empty();
        debug_assert!(is_whole, "rustls takes bytes after the handshake");
        buffer::give_back(plaintext);
        self.send_below(out);
        if !is_whole {
            self.fail(io::Error::other(
                "rustls does not take the bytes to be sent",
            ));
        }
    }

    /// Ends the sending direction, after all that was sent.
    fn end_output(&self) {
        self.connection.borrow_mut().send_close_notify();
        self.flush();
        self.below(|lower| lower.shutdown_write());
    }

    /// Decrypts what arrived, and what rustls still has; delivers it.
    fn receive(&self, mut records: &[u8]) {
        loop {
            let mut received = Received::default();
            self.decrypt(&mut records, &mut received);
            self.send_below(received.output);
            if received.is_ready {
                self.open();
                if self.may_deliver() {
                    continue;
                }
                if self.phase.get() == Phase::Open {
                    // Not delivered before the session has the link, and reads.
                    self.held.borrow_mut().extend_from_slice(records);
                }
                return;
            }
            if received.plaintext.is_empty() {
                buffer::give_back(received.plaintext);
            } else if let Some(events) = self.events() {
                debug_assert_eq!(self.phase.get(), Phase::Open);
                events.data(Incoming::Owned(received.plaintext));
            }
            // The session may have closed the link.
            if !matches!(self.phase.get(), Phase::Handshake | Phase::Open) {
                return;
            }
            if let Some(error) = received.error {
                let is_handshake = self.phase.get() == Phase::Handshake;
                return self.fail(errors::of_rustls(self.side, is_handshake, &error));
            }
            if received.has_ended {
                self.on_close_notify();
            }
            return;
        }
    }

    /// Feeds rustls, up to the end of the handshake, or of the records.
    fn decrypt(&self, records: &mut &[u8], received: &mut Received) {
        let mut connection = self.connection.borrow_mut();
        let handshake = connection.is_handshaking();
        // First what was decrypted with the end of the handshake.
        received.has_ended = take_plaintext(&mut connection, &mut received.plaintext);
        while !records.is_empty() && !received.has_ended {
            // rustls takes what its own buffer has room for.
            match connection.read_tls(records) {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) => {
                    received.error = Some(rustls::Error::General(error.to_string()));
                    break;
                }
            }
            match connection.process_new_packets() {
                Ok(_) => {}
                Err(error) => {
                    received.error = Some(error);
                    // What came before the fault is delivered.
                    take_plaintext(&mut connection, &mut received.plaintext);
                    break;
                }
            }
            if handshake && !connection.is_handshaking() {
                received.is_ready = true;
                break;
            }
            received.has_ended = take_plaintext(&mut connection, &mut received.plaintext);
        }
        take_output(&mut connection, &mut received.output);
    }

    /// The handshake is complete.
    fn open(&self) {
        debug_assert_eq!(self.phase.get(), Phase::Handshake);
        self.phase.set(Phase::Open);
        let early = self.early.take();
        self.early_bytes.set(0);
        for plaintext in early {
            self.encrypt(plaintext);
        }
        if self.output_ended.get() {
            self.end_output();
        }
        if self.phase.get() == Phase::Open
            && let Some(events) = self.events()
        {
            events.ready();
        }
        if self.phase.get() == Phase::Open && !self.reading.get() {
            self.below(|lower| lower.set_reading(false));
        }
    }

    fn may_deliver(&self) -> bool {
        self.phase.get() == Phase::Open && self.reading.get()
    }

    /// The peer sends no more.
    fn on_close_notify(&self) {
        if self.input_ended.replace(true) {
            return;
        }
        let stays = self.events().is_some_and(|events| events.end_of_input());
        if !stays && self.phase.get() == Phase::Open {
            self.close_in_order();
        }
    }

    /// Sends what is queued and `close_notify`, then closes.
    fn close_in_order(&self) {
        self.phase.set(Phase::Ending);
        self.close_when_sent.set(true);
        if !self.output_ended.replace(true) {
            self.end_output();
        }
        self.linger();
        self.below(|lower| lower.notify_when_sent());
        self.close_if_sent();
    }

    fn linger(&self) {
        self.queued_then.set(self.queued_bytes());
        self.timer.arm(deadline_after(LINGER));
    }

    fn close_if_sent(&self) {
        if self.close_when_sent.get() && self.below(|lower| lower.queued_bytes()) == Some(0) {
            self.below(|lower| lower.close());
        }
    }

    /// The connection is broken. The alert, if rustls has made one, leaves before the socket is closed.
    fn fail(&self, error: io::Error) {
        debug_assert_ne!(self.phase.get(), Phase::Closed);
        self.phase.set(Phase::Ending);
        *self.failure.borrow_mut() = Some(error);
        self.forget_waiting();
        self.flush();
        self.output_ended.set(true);
        self.below(|lower| {
            // What arrives is dropped, but only reading shows that the peer has closed its side.
            lower.set_reading(true);
            lower.shutdown_write();
        });
        self.linger();
    }

    fn forget_waiting(&self) {
        self.held.take();
        self.early_bytes.set(0);
        self.early.take().into_iter().for_each(buffer::give_back);
    }

    fn on_timer(&self) {
        match self.phase.get() {
            Phase::Open => self.resume(),
            // A slow reader gets what was queued before an orderly end.
            Phase::Ending
                if self.close_when_sent.get() && self.queued_bytes() < self.queued_then.get() =>
            {
                self.linger();
            }
            Phase::Ending => drop(self.below(|lower| lower.close())),
            Phase::Handshake | Phase::Closed => {}
        }
    }

    /// Delivers what was held.
    fn resume(&self) {
        if !self.reading.get() {
            return;
        }
        let held = self.held.take();
        self.receive(&held);
        if self.may_deliver() && self.lower_ended.get() && !self.input_ended.get() {
            self.truncated();
            self.below(|lower| lower.close());
        }
    }

    /// The peer closed the socket, but did not end the connection.
    fn truncated(&self) {
        self.phase.set(Phase::Ending);
        *self.failure.borrow_mut() = Some(errors::truncated());
        self.linger();
    }
}

/// The outcome of feeding rustls.
#[derive(Default)]
struct Received {
    plaintext: Vec<u8>,
    output: Vec<u8>,
    /// The handshake has just ended.
    is_ready: bool,
    /// The peer's `close_notify` was the last record.
    has_ended: bool,
    error: Option<rustls::Error>,
}

/// Appends rustls's bytes to `out`.
fn take_output(connection: &mut Connection, out: &mut Vec<u8>) {
    while connection.wants_write() {
        if out.capacity() == 0 {
            *out = buffer::take();
        }
        // A vector takes everything.
        if connection.write_tls(out).is_err() {
            break;
        }
    }
}

/// Appends the decrypted bytes to `out`. Returns whether the peer sends no more.
fn take_plaintext(connection: &mut Connection, out: &mut Vec<u8>) -> bool {
    let mut reader = connection.reader();
    loop {
        let count = match reader.fill_buf() {
            Ok([]) => return true,
            Ok(bytes) => {
                if out.capacity() == 0 {
                    *out = buffer::take();
                }
                out.extend_from_slice(bytes);
                bytes.len()
            }
            // Nothing now.
            Err(_) => return false,
        };
        reader.consume(count);
    }
}

impl Transport for Filter {
    fn send(&self, buffer: Vec<u8>) {
        match self.phase.get() {
            _ if self.output_ended.get() => buffer::give_back(buffer),
            Phase::Open => self.encrypt(buffer),
            Phase::Handshake => {
                self.early_bytes.set(self.early_bytes.get() + buffer.len());
                self.early.borrow_mut().push(buffer);
            }
            Phase::Ending | Phase::Closed => buffer::give_back(buffer),
        }
    }

    fn queued_bytes(&self) -> usize {
        self.early_bytes.get() + self.below(|lower| lower.queued_bytes()).unwrap_or(0)
    }

    fn notify_when_sent(&self) {
        self.below(|lower| lower.notify_when_sent());
    }

    fn set_reading(&self, on: bool) {
        if self.reading.replace(on) == on || self.phase.get() != Phase::Open {
            return;
        }
        self.below(|lower| lower.set_reading(on));
        if on {
            self.timer.arm(now());
        }
    }

    fn shutdown_write(&self) {
        if !self.output_ended.replace(true) && self.phase.get() == Phase::Open {
            self.end_output();
        }
    }

    fn silence_max(&self) -> Option<Duration> {
        self.below(|lower| lower.silence_max()).flatten()
    }

    fn peer_name(&self) -> Option<String> {
        if self.side == Side::Client {
            return self.server_name.clone();
        }
        let connection = self.connection.borrow();
        certificate_name(connection.peer_certificates()?.first()?)
    }

    fn close(&self) {
        if self.phase.replace(Phase::Closed) != Phase::Closed {
            self.timer.cancel();
            self.forget_waiting();
        }
        self.below(|lower| lower.close());
    }
}

impl Events for Filter {
    fn data(&self, incoming: Incoming<'_>) {
        self.heard.set(true);
        let records = match &incoming {
            Incoming::Borrowed(records) => records,
            Incoming::Owned(records) => &records[..],
        };
        debug_assert!(
            self.held.borrow().is_empty() || !self.reading.get() || self.timer.is_armed()
        );
        let waits = !self.reading.get() || !self.held.borrow().is_empty();
        match self.phase.get() {
            Phase::Open if waits => self.held.borrow_mut().extend_from_slice(records),
            Phase::Handshake | Phase::Open => self.receive(records),
            Phase::Ending | Phase::Closed => {}
        }
        if let Incoming::Owned(buffer) = incoming {
            buffer::give_back(buffer);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        match self.events() {
            Some(events) => events.sent(buffer),
            None => drop(buffer.map(buffer::give_back)),
        }
        self.close_if_sent();
    }

    fn end_of_input(&self) -> bool {
        self.lower_ended.set(true);
        match self.phase.get() {
            Phase::Handshake => {
                let error = errors::closed_in_handshake(self.side, self.heard.get());
                *self.failure.borrow_mut() = Some(error);
                self.phase.set(Phase::Ending);
                false
            }
            // The session knows of the end already, and has more to send.
            Phase::Open if self.input_ended.get() => true,
            // The session has not read all yet: `close_notify` may be among what is held.
            Phase::Open if !self.reading.get() || self.timer.is_armed() => true,
            Phase::Open => {
                self.truncated();
                false
            }
            Phase::Ending | Phase::Closed => false,
        }
    }

    fn closed(&self, result: io::Result<()>) {
        let phase = self.phase.replace(Phase::Closed);
        self.timer.cancel();
        self.forget_waiting();
        let lower = self.lower.take();
        let events = self.events.take();
        let result = match (self.failure.take(), result) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) if phase == Phase::Handshake => {
                Err(errors::broken_in_handshake(self.heard.get(), error))
            }
            // Both sides were done: a reset that follows loses nothing.
            (None, Err(_)) if phase == Phase::Ending => Ok(()),
            (None, result) => result,
        };
        drop(lower);
        if let Some(events) = events {
            events.closed(result);
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("side", &self.side)
            .field("phase", &self.phase.get())
            .finish_non_exhaustive()
    }
}
