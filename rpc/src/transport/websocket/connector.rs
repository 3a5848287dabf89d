//! Makes WebSocket links: a link below, and an upgrade over it.

use super::filter::WebSocket;
use super::keys;
use super::opening::AnswerHandler;
use super::options::WebSocketOptions;
use super::upgrade::{self, EXCERPT_MAX, HEAD_MAX, Rejection};
use crate::error::{Error, ErrorKind};
use crate::transport::traits::{Connect, Events, LinkRefused, Transport};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{LocalWaker, Wakeup, deadline_after, park_until, prepare_park};

/// The time for which the body of a refusal is awaited: it only makes the error clearer.
const BODY_WAIT: Duration = Duration::from_millis(500);

/// Makes links to a WebSocket server, over the links of another connector.
pub struct WebSocketConnector {
    below: Rc<dyn Connect>,
    host: String,
    port: u16,
    path: String,
    text: String,
    options: WebSocketOptions,
}

impl WebSocketConnector {
    /// Creates a connector. `below` makes links to `host` and `port`; errors name the address `text`.
    pub fn new(
        below: Rc<dyn Connect>,
        (host, port): (&str, u16),
        path: &str,
        text: String,
        options: &WebSocketOptions,
    ) -> WebSocketConnector {
        WebSocketConnector {
            below,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            text,
            options: options.clone(),
        }
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::retryable(kind, format!("cannot connect to {}: {what}", self.text))
    }

    /// Waits for the answer to the request.
    fn wait(&self, answer: &Answer) -> Result<(), Error> {
        let mut limit = deadline_after(self.options.upgrade_time);
        let mut awaits_body = false;
        loop {
            // Before the look: an answer that comes in between wakes the fiber.
            answer.waiting.set(Some(prepare_park()));
            if let Some(outcome) = answer.outcome.take() {
                return outcome.map_err(|why| match why {
                    NoWebSocket::Text(text) => self.error(ErrorKind::Transport, &text),
                    NoWebSocket::Refused(refused) => Error::from_connect(&self.text, &refused),
                });
            }
            if answer.refused.borrow().is_some() && !awaits_body {
                awaits_body = true;
                limit = deadline_after(BODY_WAIT);
            }
            match park_until("the answer to a WebSocket upgrade", Some(limit))? {
                Wakeup::Woken => {}
                Wakeup::TimedOut if awaits_body => answer.finish_refused(),
                Wakeup::TimedOut => {
                    let text = "the server did not answer the request for a WebSocket in time";
                    return Err(self.error(ErrorKind::ConnectionTimeout, text));
                }
            }
        }
    }
}

impl Connect for WebSocketConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let random = keys::random().map_err(|error| Error::from_connect(&self.text, &error))?;
        let key = upgrade::key_of(random);
        let request = upgrade::request(&self.host, self.port, &self.path, &key);
        let answer = Rc::new(Answer {
            key,
            outcome: RefCell::default(),
            refused: RefCell::default(),
            waiting: Cell::default(),
        });
        let socket = WebSocket::client(answer.clone());
        let link = self.below.connect(socket.clone())?;
        socket.send_request(link.clone(), request);
        let waited = self.wait(&answer);
        if let Err(error) = waited {
            link.close();
            return Err(error);
        }
        if socket.link().is_none() {
            let text = "the connection ended behind the answer";
            return Err(self.error(ErrorKind::Transport, text));
        }
        socket.start(events);
        Ok(socket)
    }

    fn address(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for WebSocketConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebSocketConnector")
            .field(&self.text)
            .finish()
    }
}

/// A refusal whose body is still arriving.
struct Refused {
    status: String,
    body: Vec<u8>,
    body_bytes: usize,
}

/// Whether this answer means that the path leads to something else than a WebSocket: a page, or nothing.
fn serves_no_calls(status: &str) -> bool {
    status.starts_with('2') || ["404", "405"].iter().any(|code| status.starts_with(code))
}

/// The reason why there is no WebSocket.
enum NoWebSocket {
    Text(String),
    /// The layer below was refused, as by TLS.
    Refused(io::Error),
}

/// The answer that a fiber waits for.
struct Answer {
    key: String,
    outcome: RefCell<Option<Result<(), NoWebSocket>>>,
    refused: RefCell<Option<Refused>>,
    waiting: Cell<Option<LocalWaker>>,
}

impl Answer {
    fn finish(&self, outcome: Result<(), String>) {
        self.end(outcome.map_err(NoWebSocket::Text));
    }

    fn end(&self, outcome: Result<(), NoWebSocket>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// The body is there, or as much of it as an error shows.
    fn finish_refused(&self) {
        let refused = self.refused.take();
        if let Some(refused) = refused {
            let status = refused.status;
            let body = upgrade::excerpt(&refused.body);
            self.finish(Err(match (serves_no_calls(&status), body.is_empty()) {
                // The page or its absence explains nothing.
                (true, _) => format!(
                    "the server answered {status}: there is no WebSocket at this path; calls often have the path /rpc"
                ),
                (false, true) => format!("the server answered {status}"),
                (false, false) => format!("the server answered {status}: {body}"),
            }));
        }
    }

    fn append_body(&self, head: &mut Vec<u8>) {
        let is_complete = self.refused.borrow_mut().as_mut().is_some_and(|refused| {
            refused.body.append(head);
            refused.body.len() >= refused.body_bytes
        });
        if is_complete {
            self.finish_refused();
        }
    }
}

impl AnswerHandler for Answer {
    fn on_bytes(&self, head: &mut Vec<u8>, seen: usize) -> Option<Vec<u8>> {
        if self.outcome.borrow().is_some() {
            head.clear();
            return None;
        }
        if self.refused.borrow().is_some() {
            self.append_body(head);
            return None;
        }
        let Some(end) = upgrade::find_end(head, seen).filter(|end| *end <= HEAD_MAX) else {
            let is_http = head
                .iter()
                .zip(b"HTTP/")
                .all(|(byte, expected)| byte == expected);
            if !is_http {
                let received = upgrade::excerpt(head);
                let text = format!("the server does not speak HTTP: it answered \"{received}\"");
                self.finish(Err(text));
            } else if head.len() > HEAD_MAX {
                let text = format!("the server's answer has more than {HEAD_MAX} bytes of headers");
                self.finish(Err(text));
            }
            return None;
        };
        match upgrade::check_answer(&head[..end], &self.key) {
            Ok(()) => {
                let rest = head.split_off(end);
                self.finish(Ok(()));
                return Some(rest);
            }
            Err(Rejection::Fault(text)) => {
                self.finish(Err(format!("the server is at fault: {text}")))
            }
            Err(Rejection::Status { text, body_bytes }) => {
                head.drain(..end);
                *self.refused.borrow_mut() = Some(Refused {
                    status: text,
                    body: Vec::new(),
                    // One more than is shown, so that a cut is marked.
                    body_bytes: body_bytes.unwrap_or(usize::MAX).min(EXCERPT_MAX + 1),
                });
                self.append_body(head);
                self.wake();
            }
        }
        None
    }

    fn on_end(&self, head: &[u8], error: Option<io::Error>) {
        if self.refused.borrow().is_some() {
            return self.finish_refused();
        }
        if self.outcome.borrow().is_some() {
            return;
        }
        let error = match error {
            Some(refused) if LinkRefused::of(&refused).is_some() => {
                return self.end(Err(NoWebSocket::Refused(refused)));
            }
            error => error,
        };
        let mut text =
            "the server ended the connection before it answered the request for a WebSocket"
                .to_owned();
        if let Some(error) = error {
            text += &format!(": {error}");
        }
        if !head.is_empty() {
            text += &format!("; it sent \"{}\"", upgrade::excerpt(head));
        }
        self.finish(Err(text));
    }
}
