//! The way to an open WebSocket: a server's wait for the request, and a client's for the answer.

use super::filter::{Side, Stage, WebSocket};
use super::upgrade::{self, HEAD_MAX, Refusal, Rules};
use crate::transport::handshake::before_request;
use crate::transport::traits::{Events, Transport};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// The bytes of a head so far, and the use of the whole.
pub(super) struct Upgrade {
    pub(super) head: Vec<u8>,
    pub(super) handler: Handler,
}

pub(super) enum Handler {
    Server(Rc<Rules>),
    Client(Rc<dyn AnswerHandler>),
}

/// The connector's part of an upgrade.
pub(super) trait AnswerHandler {
    /// More of the answer has arrived. `Some`: the connection is a WebSocket, and these bytes follow the answer.
    fn on_bytes(&self, head: &mut Vec<u8>, seen: usize) -> Option<Vec<u8>>;

    /// The server sends no more.
    fn on_end(&self, head: &[u8], error: Option<io::Error>);
}

impl WebSocket {
    /// Waits, on the link that `start` makes, for a request for a WebSocket. When it has been answered, the link is
    /// ready: `events` then reads or closes it. The caller limits the time.
    ///
    /// # Errors
    /// If `start` fails.
    pub(crate) fn accept(
        rules: Rc<Rules>,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        let socket = WebSocket::new(Side::Server, Handler::Server(rules));
        socket.set_events(events);
        let link = start(socket.clone())?;
        *socket.link.borrow_mut() = Some(link);
        Ok(socket)
    }

    /// A client's end, whose answer goes to `handler`.
    pub(super) fn client(handler: Rc<dyn AnswerHandler>) -> Rc<WebSocket> {
        WebSocket::new(Side::Client, Handler::Client(handler))
    }

    /// Client: the link below is there, and the request goes out.
    pub(super) fn send_request(&self, link: Rc<dyn Transport>, request: Vec<u8>) {
        let before = self.link.replace(Some(link));
        debug_assert!(before.is_none());
        self.send_below(request);
    }

    /// Client: the session is there. What arrived with the answer follows in a later turn, as from a socket.
    pub(super) fn start(&self, events: Rc<dyn Events>) {
        self.set_events(events);
        self.arm(Duration::ZERO, |socket| {
            socket.decode_early();
            if let Some(link) = socket.link() {
                link.set_reading(socket.reading.get());
            }
        });
    }

    pub(super) fn on_upgrade_bytes(&self, bytes: &[u8]) {
        let Some(mut upgrade) = self.upgrade.take() else {
            return;
        };
        let seen = upgrade.head.len();
        upgrade.head.extend_from_slice(bytes);
        match &upgrade.handler {
            Handler::Client(handler) => {
                let handler = handler.clone();
                match handler.on_bytes(&mut upgrade.head, seen) {
                    Some(rest) => self.open_client(rest),
                    None => *self.upgrade.borrow_mut() = Some(upgrade),
                }
            }
            Handler::Server(rules) => {
                let rules = rules.clone();
                self.on_request_bytes(upgrade, &rules, seen);
            }
        }
    }

    /// Client: the server agrees. Nothing is read until there is a session.
    fn open_client(&self, rest: Vec<u8>) {
        self.stage.set(Stage::Open);
        *self.early.borrow_mut() = Some(rest);
        if let Some(link) = self.link() {
            link.set_reading(false);
        }
    }

    fn on_request_bytes(&self, mut upgrade: Box<Upgrade>, rules: &Rules, seen: usize) {
        let end = upgrade::find_end(&upgrade.head, seen);
        let Some(end) = end.filter(|end| *end <= HEAD_MAX) else {
            if !upgrade::may_be_request(&upgrade.head) {
                let text = "This address speaks WebSocket, which begins with HTTP.";
                return self.refuse(&Refusal::new(400, text));
            }
            if end.is_some() || upgrade.head.len() > HEAD_MAX {
                let text = format!("The headers of a request have at most {HEAD_MAX} bytes.");
                return self.refuse(&Refusal::new(431, text));
            }
            *self.upgrade.borrow_mut() = Some(upgrade);
            return;
        };
        let rest = upgrade.head.split_off(end);
        match upgrade::answer(&upgrade.head, rules) {
            Err(refusal) => self.refuse(&refusal),
            Ok(response) => {
                self.stage.set(Stage::Open);
                self.send_below(response);
                if let Some(events) = self.session() {
                    events.ready();
                }
                debug_assert!(
                    self.was_read.get() || self.stage.get() != Stage::Open,
                    "a link that is ready is read or closed"
                );
                self.decode(&rest);
            }
        }
    }

    /// Server: sends the refusal, and ends the link. For the events it ends now.
    fn refuse(&self, refusal: &Refusal) {
        self.upgrade.take();
        self.send_below(refusal.to_bytes());
        self.linger();
        let events = self.events.take();
        if let Some(events) = events {
            let Refusal {
                status,
                text,
                origin,
            } = refusal;
            let page = origin.as_ref();
            let page = page.map_or(String::new(), |origin| format!(" for a page of {origin}"));
            let text = format!("its request was refused with {status}{page}: {text}");
            events.closed(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
    }

    /// This side ends the link before it is a WebSocket. A client that has begun its request learns why.
    pub(super) fn close_upgrade(&self) {
        let has_begun = self.upgrade.borrow().as_ref().is_some_and(|upgrade| {
            matches!(upgrade.handler, Handler::Server(_)) && !upgrade.head.is_empty()
        });
        let farewell = self.farewell.take().filter(|_| has_begun);
        match farewell {
            Some(farewell) => self.refuse(&Refusal::of_close(farewell.0, &farewell.1)),
            None => self.close_link(),
        }
    }

    /// The error of a server's link that ended before it was a WebSocket.
    pub(super) fn ended_early(&self, result: io::Result<()>) -> io::Result<()> {
        let silent = self
            .upgrade
            .borrow()
            .as_ref()
            .is_none_or(|upgrade| upgrade.head.is_empty());
        before_request(silent, result)
    }

    /// The link ended before it was a WebSocket.
    pub(super) fn end_upgrade(&self, error: Option<io::Error>) {
        let upgrade = self.upgrade.take();
        if let Some(upgrade) = upgrade
            && let Handler::Client(handler) = &upgrade.handler
        {
            handler.on_end(&upgrade.head, error);
        }
    }
}
