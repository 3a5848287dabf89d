//! The messages between sessions themselves: `$yue/…`.

use super::inner::Inner;
use super::state::phase::{Phase, Role};
use crate::buffer::{Response, Segment};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::proto::value::Reader;
use crate::proto::{Method, Params, ProtocolError};
use crate::text::quoted;
use std::ops::Range;

/// The name of the request by which a peer asks for the functions that it may call. Unlike the other names of this
/// kind it is passed to [`Dispatch`](super::Dispatch), as a request like any other.
///
/// The answer is a map: `functions` is an array of maps, with `name` (text), and where they are known `params` (an
/// array of names), `vararg` (true if the function takes more) and `doc` (text); `more` is true if there are functions
/// that it does not list.
pub const DESCRIBE: &[u8] = b"$yue/describe";

/// The beginning of the names of requests between a node and its owner. They are passed to
/// [`Dispatch`](super::Dispatch), too; a service that is neither does not know them.
pub const NODE: &[u8] = b"$yue/node/";

/// Whether a request of that name, which begins with `$yue/`, is passed to [`Dispatch`](super::Dispatch).
pub(super) fn is_for_program(name: &[u8]) -> bool {
    name == DESCRIBE || name.starts_with(NODE)
}

/// The version of the extensions that this side speaks.
pub(super) const VERSION: u64 = 1;

impl Inner {
    /// Appends the contents of a hello, both as question and as answer: the version, and the features beyond it.
    pub(super) fn hello(&self, out: &mut Vec<u8>) -> Result<u32, Error> {
        encode::uint(out, VERSION);
        self.encode_features(out);
        Ok(2)
    }

    pub(super) fn handle_control_request(&self, msgid: u32, name: &[u8], params: Params<'_>) {
        match name {
            // A list of functions would be a large answer to a small request, whose sender may be somebody else.
            _ if self.link.is_datagram.get() => self.answer_no_method(msgid, name),
            b"$yue/hello" => {
                self.link.peer_is_yue.set(true);
                self.answer_control(msgid, |out| {
                    encode::array(out, |out| self.hello(out)).map(|_| 1)
                });
                // Only now: the client takes chunks when it has this answer.
                self.read_hello(params.bytes);
                if self.role == Role::Accepted && self.phase.get() == Phase::Up {
                    self.send_granted();
                    self.start_keepalive();
                }
            }
            b"$yue/ping" => self.answer_control(msgid, |out| {
                out.push(0xc0);
                Ok(1)
            }),
            _ => self.answer_no_method(msgid, name),
        }
    }

    fn answer_no_method(&self, msgid: u32, name: &[u8]) {
        let text = format!("there is no method '{}'", quoted(name));
        self.answer_error(msgid, &ErrorValue::of_kind(ErrorKind::NoMethod, &text));
    }

    fn answer_control(&self, msgid: u32, result: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>) {
        let written = self.write(|out| encode::response(out, msgid, false, result));
        debug_assert!(written.is_ok(), "control answers are small");
        self.watch_output();
    }

    /// Unknown ones, and those that make no sense in this state, are ignored, like every unknown notification.
    pub(super) fn handle_control_notification(
        &self,
        segment: &Segment,
        name: Range<usize>,
        params: (u32, Range<usize>),
    ) -> Result<(), ProtocolError> {
        if self.link.is_datagram.get() {
            return Ok(());
        }
        let bytes = &segment.bytes()[params.1.clone()];
        match &segment.bytes()[name] {
            b"$yue/granted" => {
                let value = Reader::new(bytes).read_raw().map(<[u8]>::to_vec);
                self.handle_granted(value);
            }
            b"$yue/refused" => {
                let value = Reader::new(bytes).read_raw().map_or(0, <[u8]>::len);
                let start = params.1.start;
                let range = start..start + value;
                self.handle_refused(Error::remote(Response::new(segment.clone(), range, 1)));
            }
            b"$yue/cancel" => {
                if let Some(msgid) = Reader::new(bytes)
                    .read_uint()
                    .and_then(|id| u32::try_from(id).ok())
                {
                    self.handle_cancel(msgid);
                }
            }
            b"$yue/release" => self.handle_release(bytes),
            b"$yue/chunk" => return self.handle_chunk(params.0, bytes),
            _ => {}
        }
        Ok(())
    }

    fn handle_release(&self, bytes: &[u8]) {
        let mut reader = Reader::new(bytes);
        let count = reader.read_array().unwrap_or(0);
        let given_back = (0..count).map_while(|_| match reader.read_array() {
            Some(2) => Some((reader.read_uint()?, reader.read_uint()?)),
            _ => None,
        });
        let accepted = self.references.borrow_mut().accept_releases(given_back);
        if yue_scheduler::planted!("release applied early") {
            self.release_exports(accepted.into_iter());
        } else if !accepted.is_empty() {
            self.input.borrow_mut().release_later(accepted);
        }
    }

    /// Notifies the peer that no caller waits for a call's answer any more.
    pub(super) fn send_cancel(&self, id: u32) {
        if !self.link.peer_is_yue.get() || !self.link.exists() {
            return;
        }
        let written = self.write(|out| {
            encode::notification(out, Method::Name(b"$yue/cancel"), |out| {
                encode::uint(out, u64::from(id));
                Ok(1)
            })
        });
        debug_assert!(written.is_ok(), "a cancel is small");
    }
}
