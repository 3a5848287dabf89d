//! The filter: frames of the link below are data of the session above.

use super::frame::{self, Close, Decoder, FrameError, Item, Key, Opcode, code};
use super::keys;
use super::opening::{Handler, Upgrade};
use crate::buffer;
use crate::transport::traits::{ClosedByPeer, Ending, Events, Incoming, LinkRefused, Transport};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_scheduler::{Timer, deadline_after, now};

/// The time for which a link lingers after its end.
const LINGER: Duration = Duration::from_secs(1);

/// The number of links of a loop that linger at a time; others are closed at once.
const LINGERING_MAX: usize = 1024;

thread_local! {
    static LINGERING: Cell<usize> = const { Cell::new(0) };
}

/// The progress of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The request, or its answer, is awaited.
    Upgrading,
    Open,
    /// The reason of the end was sent; input is dropped.
    Lingering,
}

/// The side of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A connection that is, or becomes, a WebSocket.
pub(crate) struct WebSocket {
    pub(super) this: Weak<WebSocket>,
    side: Side,
    pub(super) stage: Cell<Stage>,
    /// The link below, until it has ended.
    pub(super) link: RefCell<Option<Rc<dyn Transport>>>,
    /// The session above, or the events of its handshake, until notified of the end.
    pub(super) events: RefCell<Option<Rc<dyn Events>>>,
    pub(super) upgrade: RefCell<Option<Box<Upgrade>>>,
    /// Client: bytes that arrived with the answer to the upgrade, before there was a session.
    pub(super) early: RefCell<Option<Vec<u8>>>,
    /// The session wants data.
    pub(super) reading: Cell<bool>,
    /// A session has read, so this is its link.
    pub(super) was_read: Cell<bool>,
    decoder: RefCell<Decoder>,
    close_sent: Cell<bool>,
    /// The peer sends nothing more: its close frame has arrived, or the link's end.
    input_ended: Cell<bool>,
    /// The reason for which the session ends the link.
    pub(super) farewell: RefCell<Option<Box<(u16, String)>>>,
    /// The reason that the peer gave.
    outcome: Cell<Option<io::Error>>,
    /// Timer of the upgrade, then of lingering.
    pub(super) timer: RefCell<Option<Timer>>,
    /// Control frames received.
    signs_of_life: Cell<u64>,
    /// Bytes passed to the link.
    bytes_out: Cell<u64>,
    /// The value of `bytes_out` behind the last pong.
    pong_end: Cell<u64>,
    /// The payload of a ping that is answered when the last pong has left.
    waiting_pong: RefCell<Option<Vec<u8>>>,
    /// Both sides have sent their close frames: the link ends when this side's has left.
    ends_when_sent: Cell<bool>,
}

impl WebSocket {
    pub(super) fn new(side: Side, handler: Handler) -> Rc<WebSocket> {
        let upgrade = Upgrade {
            head: Vec::new(),
            handler,
        };
        Rc::new_cyclic(|this| WebSocket {
            this: this.clone(),
            side,
            stage: Cell::new(Stage::Upgrading),
            link: RefCell::default(),
            events: RefCell::default(),
            upgrade: RefCell::new(Some(Box::new(upgrade))),
            early: RefCell::default(),
            reading: Cell::new(true),
            was_read: Cell::new(false),
            decoder: RefCell::new(Decoder::new(side == Side::Server)),
            close_sent: Cell::new(false),
            input_ended: Cell::new(false),
            farewell: RefCell::default(),
            outcome: Cell::default(),
            timer: RefCell::default(),
            signs_of_life: Cell::new(0),
            bytes_out: Cell::new(0),
            pong_end: Cell::new(0),
            waiting_pong: RefCell::default(),
            ends_when_sent: Cell::new(false),
        })
    }

    /// Sets the session that receives the data.
    pub(crate) fn set_events(&self, events: Rc<dyn Events>) {
        let before = self.events.replace(Some(events));
        debug_assert!(before.is_none(), "a WebSocket has one session");
    }

    pub(super) fn link(&self) -> Option<Rc<dyn Transport>> {
        self.link.borrow().clone()
    }

    pub(super) fn session(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    pub(super) fn arm(&self, wait: Duration, then: impl Fn(&WebSocket) + 'static) {
        let this = self.this.clone();
        let timer = Timer::new(move || {
            if let Some(socket) = this.upgrade() {
                // Its memory is not needed while the connection is idle.
                let timer = socket.timer.take();
                then(&socket);
                drop(timer);
            }
        });
        timer.arm(match wait {
            Duration::ZERO => now(),
            wait => deadline_after(wait),
        });
        *self.timer.borrow_mut() = Some(timer);
    }

    pub(super) fn close_link(&self) {
        if let Some(link) = self.link() {
            link.close();
        }
    }

    pub(super) fn send_below(&self, bytes: Vec<u8>) {
        if let Some(link) = self.link() {
            let sent = self.bytes_out.get().wrapping_add(bytes.len() as u64);
            self.bytes_out.set(sent);
            link.send(bytes);
        }
    }

    /// The key for the next frame. If there is none, the link ends.
    fn key(&self) -> Result<Option<Key>, ()> {
        match self.side {
            Side::Server => Ok(None),
            Side::Client => keys::fresh().map(Some).map_err(|error| {
                self.outcome.set(Some(error));
                if let Some(link) = self.link() {
                    link.close();
                }
            }),
        }
    }

    fn may_send(&self) -> bool {
        self.stage.get() == Stage::Open && !self.close_sent.get()
    }

    fn send_control(&self, opcode: Opcode, payload: &[u8]) {
        if let Ok(key) = self.key() {
            self.send_below(frame::control(opcode, payload, key));
        }
    }

    pub(super) fn send_close(&self, code: u16, reason: &str) {
        debug_assert!(!self.close_sent.get(), "a close frame is the last one");
        if let Ok(key) = self.key() {
            self.close_sent.set(true);
            self.send_below(frame::close(code, reason, key));
        }
    }

    /// The end that the session has explained, or an ordinary one.
    fn send_farewell(&self) {
        match self.farewell.take() {
            Some(farewell) => self.send_close(farewell.0, &farewell.1),
            None => self.send_close(code::NORMAL, ""),
        }
    }
}

/// Incoming frames.
impl WebSocket {
    pub(super) fn decode_early(&self) {
        let early = self.early.take();
        if let Some(early) = early {
            self.decode(&early);
        }
    }

    pub(super) fn decode(&self, mut input: &[u8]) {
        // The unmasked payload of all frames, which the session takes over as it is.
        let mut data = Vec::new();
        while self.stage.get() == Stage::Open && !self.input_ended.get() {
            let item = self.decoder.borrow_mut().next(&mut input);
            match item {
                Ok(None) => break,
                Ok(Some(Item::Data { bytes, key: None })) => {
                    self.deliver(Incoming::Borrowed(bytes))
                }
                Ok(Some(Item::Data {
                    bytes,
                    key: Some(key),
                })) => {
                    if data.capacity() == 0 {
                        data = buffer::take();
                    }
                    let start = data.len();
                    data.extend_from_slice(bytes);
                    key.apply(&mut data[start..]);
                }
                Ok(Some(Item::Ping(payload))) => self.on_ping(payload),
                Ok(Some(Item::Pong)) => self.note_sign_of_life(),
                Ok(Some(Item::Close(close))) => {
                    self.deliver_all(&mut data);
                    self.on_close_frame(&close);
                }
                Err(error) => {
                    self.deliver_all(&mut data);
                    self.fail(error);
                }
            }
        }
        self.deliver_all(&mut data);
    }

    fn deliver_all(&self, data: &mut Vec<u8>) {
        if !data.is_empty() {
            self.deliver(Incoming::Owned(std::mem::take(data)));
        }
    }

    fn deliver(&self, incoming: Incoming<'_>) {
        if self.stage.get() == Stage::Open
            && let Some(session) = self.session()
        {
            session.data(incoming);
        }
    }

    fn note_sign_of_life(&self) {
        self.signs_of_life.set(self.signs_of_life.get() + 1);
    }

    /// Answers a ping. While an earlier pong has not left, only the newest ping is remembered (section 5.5.3).
    fn on_ping(&self, payload: Vec<u8>) {
        self.note_sign_of_life();
        if !self.may_send() {
            return;
        }
        if self.has_queued_pong() {
            *self.waiting_pong.borrow_mut() = Some(payload);
            if let Some(link) = self.link() {
                link.notify_when_sent();
            }
        } else {
            self.send_pong(&payload);
        }
    }

    fn send_pong(&self, payload: &[u8]) {
        self.send_control(Opcode::Pong, payload);
        self.pong_end.set(self.bytes_out.get());
    }

    fn has_queued_pong(&self) -> bool {
        let behind = self.bytes_out.get().wrapping_sub(self.pong_end.get());
        self.pong_end.get() != 0 && self.queued_bytes() as u64 > behind
    }

    fn send_waiting_pong(&self) {
        if self.waiting_pong.borrow().is_some() && self.may_send() && !self.has_queued_pong() {
            let payload = self.waiting_pong.take().unwrap_or_default();
            self.send_pong(&payload);
        }
    }

    /// The peer has closed in order, or for a reason.
    fn on_close_frame(&self, close: &Close) {
        let orderly = matches!(close.code, None | Some(code::NORMAL | code::GOING_AWAY));
        if !orderly || !close.reason.is_empty() {
            let reason = ClosedByPeer(close.to_string());
            self.outcome.set(Some(io::Error::other(reason)));
        }
        if self.end_input() || self.stage.get() != Stage::Open {
            return;
        }
        if self.may_send() {
            // The code is echoed, as section 5.5.1 recommends.
            self.send_close(close.code.unwrap_or(code::NORMAL), "");
        }
        // The link below ends when everything has left. For the session it ends now: a call that it made meanwhile
        // would be lost.
        self.ends_when_sent.set(true);
        self.linger();
        let (session, outcome) = (self.events.take(), self.outcome.take());
        if let Some(session) = session {
            session.closed(outcome.map_or(Ok(()), Err));
        }
    }

    /// Notifies the session that the peer sends no more. Returns whether it still has something to send.
    fn end_input(&self) -> bool {
        self.input_ended.set(true);
        let session = self.session();
        !self.close_sent.get() && session.is_some_and(|session| session.end_of_input())
    }

    /// Both sides have sent their close frames: the link ends when everything has left.
    fn finish(&self) {
        let Some(link) = self.link() else { return };
        if self.ends_when_sent.replace(true) {
            return;
        }
        link.shutdown_write();
        if link.queued_bytes() == 0 {
            link.close();
        } else {
            link.notify_when_sent();
        }
    }

    /// The peer violates the protocol: it is told so, and the session's link ends now.
    fn fail(&self, error: FrameError) {
        if self.may_send() {
            self.send_close(error.code, error.text);
        }
        self.linger();
        let session = self.events.take();
        if let Some(session) = session {
            let text = format!("the peer broke the WebSocket protocol: {error}");
            session.closed(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
    }

    /// Everything was said: drops what the peer still sends until it closes, for a while.
    pub(super) fn linger(&self) {
        self.stage.set(Stage::Lingering);
        self.waiting_pong.take();
        let Some(link) = self.link() else { return };
        let lingering = LINGERING.get() + 1;
        LINGERING.set(lingering);
        if lingering > LINGERING_MAX {
            return link.close();
        }
        link.set_reading(true);
        link.shutdown_write();
        if self.ends_when_sent.get() && link.queued_bytes() == 0 {
            return link.close();
        }
        link.notify_when_sent();
        self.linger_while_bytes_leave(usize::MAX);
    }

    /// Ends the link after a while in which it has sent nothing.
    fn linger_while_bytes_leave(&self, before: usize) {
        self.arm(LINGER, move |socket| {
            let Some(link) = socket.link() else { return };
            match link.queued_bytes() {
                queued if 0 < queued && queued < before => socket.linger_while_bytes_leave(queued),
                _ => link.close(),
            }
        });
    }
}

impl Transport for WebSocket {
    fn send(&self, buffer: Vec<u8>) {
        if !self.may_send() || buffer.is_empty() {
            return buffer::give_back(buffer);
        }
        if let Ok(key) = self.key() {
            let (header, payload) = frame::binary(buffer, key);
            if let Some(header) = header {
                self.send_below(header);
            }
            self.send_below(payload);
        }
    }

    fn queued_bytes(&self) -> usize {
        self.link().map_or(0, |link| link.queued_bytes())
    }

    fn notify_when_sent(&self) {
        if let Some(link) = self.link() {
            link.notify_when_sent();
        }
    }

    fn set_reading(&self, on: bool) {
        self.reading.set(on);
        self.was_read.set(self.was_read.get() || on);
        // The timer that delivers what came early sets it, too.
        let early = self.early.borrow().is_some();
        if let Some(link) = self.link().filter(|_| !early) {
            link.set_reading(on);
        }
    }

    fn shutdown_write(&self) {
        if self.may_send() {
            self.send_farewell();
            if self.input_ended.get() {
                self.finish();
            }
        }
    }

    fn silence_max(&self) -> Option<Duration> {
        self.link().and_then(|link| link.silence_max())
    }

    fn peer_name(&self) -> Option<String> {
        self.link().and_then(|link| link.peer_name())
    }

    fn ping(&self) {
        // Bytes that wait to leave ask the same.
        if self.may_send() && self.queued_bytes() == 0 {
            self.send_control(Opcode::Ping, b"");
        }
    }

    fn signs_of_life(&self) -> Option<u64> {
        Some(self.signs_of_life.get())
    }

    fn explain_end(&self, ending: Ending, text: &str) {
        let mut farewell = self.farewell.borrow_mut();
        if farewell.is_none() {
            let code = match ending {
                Ending::Ordinary => code::NORMAL,
                Ending::Protocol => code::PROTOCOL,
                Ending::TooLarge => code::TOO_BIG,
                Ending::Policy => code::POLICY,
                Ending::Failure => code::FAILED,
            };
            *farewell = Some(Box::new((code, text.to_owned())));
        }
    }

    fn close(&self) {
        match self.stage.get() {
            Stage::Lingering => {}
            Stage::Upgrading => self.close_upgrade(),
            // The peer reads, so that it can learn of the end; or nobody wanted the link, and it has just begun.
            Stage::Open
                if self.may_send() && (self.queued_bytes() == 0 || !self.was_read.get()) =>
            {
                self.send_farewell();
                self.ends_when_sent.set(self.input_ended.get());
                self.linger();
            }
            Stage::Open => self.close_link(),
        }
    }
}

impl Events for WebSocket {
    fn ready(&self) {
        // A link with a handshake of its own, such as TLS, delivers nothing before it is told to.
        if let Some(link) = self.link() {
            link.set_reading(true);
        }
    }

    fn data(&self, incoming: Incoming<'_>) {
        let bytes = match &incoming {
            Incoming::Borrowed(bytes) => bytes,
            Incoming::Owned(bytes) => &bytes[..],
        };
        match self.stage.get() {
            Stage::Upgrading => self.on_upgrade_bytes(bytes),
            Stage::Open if self.session().is_none() => {
                // Client: it was read before reading was paused.
                if let Some(early) = &mut *self.early.borrow_mut() {
                    early.extend_from_slice(bytes);
                }
            }
            Stage::Open => {
                self.decode_early();
                self.decode(bytes);
            }
            Stage::Lingering => {}
        }
        if let Incoming::Owned(emptied) = incoming {
            buffer::give_back(emptied);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if self.ends_when_sent.get()
            && let Some(link) = self.link().filter(|link| link.queued_bytes() == 0)
        {
            return link.close();
        }
        self.send_waiting_pong();
        match self.session().filter(|_| self.stage.get() == Stage::Open) {
            Some(session) => session.sent(buffer),
            None => drop(buffer.map(buffer::give_back)),
        }
    }

    fn end_of_input(&self) -> bool {
        match self.stage.get() {
            Stage::Upgrading => {
                self.end_upgrade(None);
                false
            }
            Stage::Open => {
                self.decode_early();
                if self.input_ended.get() {
                    // The session still owes answers, and a close frame.
                    return self.may_send();
                }
                let orderly = self.close_sent.get() || self.decoder.borrow().is_between_messages();
                if !orderly {
                    let text = "the connection ended inside a message";
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, text);
                    self.outcome.set(Some(error));
                }
                self.end_input()
            }
            Stage::Lingering => false,
        }
    }

    fn closed(&self, result: io::Result<()>) {
        self.timer.take();
        if self.stage.get() == Stage::Lingering {
            LINGERING.set(LINGERING.get().saturating_sub(1));
        }
        let result = match (self.stage.get(), self.side) {
            (Stage::Upgrading, Side::Server) => self.ended_early(result),
            _ => result,
        };
        if self.stage.get() == Stage::Upgrading {
            self.end_upgrade(result.as_ref().err().map(copy_of));
        }
        self.early.take();
        self.waiting_pong.take();
        let (link, session) = (self.link.take(), self.events.take());
        drop(link);
        if let Some(session) = session {
            session.closed(match self.outcome.take() {
                Some(reason) => Err(reason),
                None => result,
            });
        }
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    match LinkRefused::of(error) {
        Some(refused) => refused.clone().into(),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("side", &self.side)
            .field("stage", &self.stage.get())
            .finish_non_exhaustive()
    }
}
