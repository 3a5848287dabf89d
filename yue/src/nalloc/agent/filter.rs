//! The owner's end of a node's link: a session's transport above, and the events of a socket to an agent below.
//!
//! ```text
//!   session ──send(bytes)──▶ Filter ──send(frames)──▶ socket ──▶ agent
//!   session ◀──data(bytes)── Filter ◀──data(frames)── socket ◀── agent
//!                              └──▶ the lines of the node's output
//! ```
//!
//! No fiber is involved. Like the filter of TLS, it makes no callback from `send`, `set_reading` and `close`; a resumed
//! link delivers what it held by its timer. While the session does not read, nothing is opened and the socket is
//! paused, so it holds at most one read and the rest of a frame.
//!
//! The link ends in order when the agent has said that the node sends no more, or how it ended. The end of the socket
//! without either is an error: the agent is gone.

use super::channel::{Channel, answer_of};
use super::codec::{Codec, Kind, first_frame};
use super::message::Answer;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_io::net::{TcpStream, UnixStream};
use yue_rpc::transport::{
    Events, Incoming, ProcessEnded, SocketOptions, Transport, start_tcp, start_unix,
};
use yue_scheduler::{Timer, deadline_after, now};

/// The time after the end of a node's messages in which the agent is expected to say how the node ended.
const STATUS_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The node sends no more; the link ends with the agent's last word, or after [`STATUS_TIME`].
    Ending,
    Closed,
}

/// A stream to an agent.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl io::Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The receiver of what a node prints.
type Output = Box<dyn Fn(&[u8])>;

/// The link to a node behind an agent.
pub(super) struct Filter {
    codec: RefCell<Codec>,
    /// Removed when the link has ended: the two hold each other.
    lower: RefCell<Option<Rc<dyn Transport>>>,
    events: RefCell<Option<Rc<dyn Events>>>,
    /// The node, for messages.
    node: String,
    /// Receives what the node prints.
    output: Output,
    phase: Cell<Phase>,
    /// Whether the session reads.
    reading: Cell<bool>,
    /// Bytes that wait for the rest of their frame, or for the session to read.
    held: RefCell<Vec<u8>>,
    /// The session sends no more.
    output_ended: Cell<bool>,
    /// The agent sends no more.
    lower_ended: Cell<bool>,
    /// The error that `closed` reports.
    failure: RefCell<Option<io::Error>>,
    /// `Open`: delivers what was held. `Ending`: closes.
    timer: Timer,
}

/// A frame that is not data.
enum Control {
    End,
    Ended(String),
}

impl Filter {
    /// Turns a channel, on which the node has been started, into the node's link.
    ///
    /// # Errors
    /// If the loop's driver refuses the socket.
    pub(super) fn start(
        channel: Channel<Stream>,
        node: String,
        output: impl Fn(&[u8]) + 'static,
        events: Rc<dyn Events>,
    ) -> io::Result<Rc<dyn Transport>> {
        let (stream, codec) = channel.into_parts();
        let filter = Rc::new_cyclic(|this: &Weak<Filter>| {
            let timed = this.clone();
            Filter {
                codec: RefCell::new(codec),
                lower: RefCell::default(),
                events: RefCell::new(Some(events)),
                node,
                output: Box::new(output),
                phase: Cell::new(Phase::Open),
                reading: Cell::new(true),
                held: RefCell::default(),
                output_ended: Cell::new(false),
                lower_ended: Cell::new(false),
                failure: RefCell::default(),
                timer: Timer::new(move || {
                    if let Some(filter) = timed.upgrade() {
                        filter.on_timer();
                    }
                }),
            }
        });
        let lower = match stream {
            Stream::Tcp(stream) => {
                start_tcp(stream, SocketOptions::default().keepalive, filter.clone())?
            }
            Stream::Unix(stream) => start_unix(stream, filter.clone())?,
        };
        *filter.lower.borrow_mut() = Some(lower);
        Ok(filter)
    }

    /// Calls `f` with the socket, while there is one.
    fn below<R>(&self, f: impl FnOnce(&dyn Transport) -> R) -> Option<R> {
        let lower = self.lower.borrow().clone();
        lower.map(|lower| f(&*lower))
    }

    fn events(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    fn seal(&self, kind: Kind, payload: &[u8]) {
        let mut out = Vec::with_capacity(payload.len() + 64);
        match self.codec.borrow_mut().seal(kind, payload, &mut out) {
            Ok(()) => drop(self.below(|lower| lower.send(out))),
            Err(error) => self.fail(error),
        }
    }

    /// Whether frames may be opened now.
    fn may_deliver(&self) -> bool {
        self.phase.get() != Phase::Closed
            && (self.reading.get() || self.phase.get() == Phase::Ending)
    }

    /// Opens the frames at the beginning of `bytes`, up to the first that is not data; the rest is held.
    fn open_frames(&self, bytes: &[u8], data: &mut Vec<u8>) -> io::Result<Option<Control>> {
        let (mut rest, mut control) = (bytes, None);
        let mut outcome = Ok(());
        while control.is_none() {
            let frame = match first_frame(rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            rest = &rest[2 + frame.len()..];
            let before = data.len();
            let kind = match self.codec.borrow_mut().open(frame, data) {
                Ok(kind) => kind,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            if kind == Kind::Data {
                continue;
            }
            let payload = data.split_off(before);
            match kind {
                Kind::Output => (self.output)(&payload),
                Kind::End => control = Some(Control::End),
                // A later agent may say more.
                Kind::Message => {
                    if let Ok(Answer::Ended(how)) = answer_of(&payload) {
                        control = Some(Control::Ended(how));
                    }
                }
                Kind::Data | Kind::Binary => {}
            }
        }
        *self.held.borrow_mut() = rest.to_vec();
        outcome.map(|()| control)
    }

    /// Delivers what arrived, behind what was held.
    fn receive(&self, bytes: &[u8]) {
        let mut held = self.held.take();
        let mut next = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held[..]
        };
        let mut again;
        loop {
            let mut data = Vec::new();
            let opened = self.open_frames(next, &mut data);
            if !data.is_empty()
                && self.phase.get() == Phase::Open
                && let Some(events) = self.events()
            {
                events.data(Incoming::Owned(data));
            }
            match opened {
                // The session may have closed the link.
                _ if self.phase.get() == Phase::Closed => return,
                Err(error) => return self.fail(error),
                Ok(None) => return,
                Ok(Some(Control::End)) => self.on_end(),
                Ok(Some(Control::Ended(how))) => return self.on_node_end(&how),
            }
            if !self.may_deliver() {
                return;
            }
            again = self.held.take();
            next = &again;
        }
    }

    /// The node sends no more.
    fn on_end(&self) {
        if self.phase.get() != Phase::Open {
            return;
        }
        let stays = self.events().is_some_and(|events| events.end_of_input());
        if !stays && self.phase.get() == Phase::Open {
            self.phase.set(Phase::Ending);
            self.end_output();
            self.below(|lower| lower.set_reading(true));
            self.timer.arm(deadline_after(STATUS_TIME));
        }
    }

    /// The agent says that nothing is left of the node.
    fn on_node_end(&self, how: &str) {
        let text = format!("{} {how}", self.node);
        self.fail(io::Error::other(ProcessEnded(text)));
    }

    fn fail(&self, error: io::Error) {
        self.phase.set(Phase::Ending);
        self.failure.borrow_mut().get_or_insert(error);
        self.held.take();
        self.below(|lower| lower.close());
    }

    fn end_output(&self) {
        if !self.output_ended.replace(true) {
            self.seal(Kind::End, &[]);
            self.below(|lower| lower.shutdown_write());
        }
    }

    fn on_timer(&self) {
        match self.phase.get() {
            Phase::Open if self.reading.get() => {
                self.receive(&[]);
                if self.phase.get() == Phase::Open && self.reading.get() && self.lower_ended.get() {
                    self.fail(agent_gone());
                }
            }
            Phase::Ending => drop(self.below(|lower| lower.close())),
            Phase::Open | Phase::Closed => {}
        }
    }
}

fn agent_gone() -> io::Error {
    let text = "the agent closed the connection without a word about its node";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

impl Transport for Filter {
    fn send(&self, buffer: Vec<u8>) {
        if self.phase.get() == Phase::Open && !self.output_ended.get() {
            self.seal(Kind::Data, &buffer);
        }
    }

    fn queued_bytes(&self) -> usize {
        self.below(|lower| lower.queued_bytes()).unwrap_or(0)
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
        if self.phase.get() == Phase::Open {
            self.end_output();
        }
    }

    fn silence_max(&self) -> Option<Duration> {
        self.below(|lower| lower.silence_max()).flatten()
    }

    fn close(&self) {
        self.phase.set(Phase::Closed);
        self.timer.cancel();
        self.held.take();
        self.below(|lower| lower.close());
    }
}

impl Events for Filter {
    fn data(&self, incoming: Incoming<'_>) {
        let bytes = match &incoming {
            Incoming::Borrowed(bytes) => bytes,
            Incoming::Owned(bytes) => &bytes[..],
        };
        let waits = self.phase.get() == Phase::Open && self.timer.is_armed();
        if waits || !self.may_deliver() {
            self.held.borrow_mut().extend_from_slice(bytes);
        } else {
            self.receive(bytes);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(events) = self.events() {
            events.sent(buffer);
        }
    }

    fn end_of_input(&self) -> bool {
        self.lower_ended.set(true);
        match self.phase.get() {
            // What is held may be the node's end.
            Phase::Open if !self.reading.get() || self.timer.is_armed() => true,
            Phase::Open => {
                self.failure.borrow_mut().get_or_insert_with(agent_gone);
                self.phase.set(Phase::Ending);
                false
            }
            Phase::Ending | Phase::Closed => false,
        }
    }

    fn closed(&self, result: io::Result<()>) {
        let phase = self.phase.replace(Phase::Closed);
        self.timer.cancel();
        self.held.take();
        let lower = self.lower.take();
        let events = self.events.take();
        let result = match (self.failure.take(), result) {
            (Some(failure), _) => Err(failure),
            // The node had sent all.
            (None, Err(_)) if phase == Phase::Ending => Ok(()),
            (None, result) => result,
        };
        drop(lower);
        if let Some(events) = events {
            events.closed(result);
        }
    }
}
