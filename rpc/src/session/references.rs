//! References: functions that crossed the connection as values.
//!
//! The program names one of its functions by a *token*; the peer gets an *id* for it. Each crossing adds one to the
//! id's count, and `$yue/release` returns crossings. With the last one, or with the link, the program is notified that
//! the token is free. The ids of each link begin at a random number, so an id of an earlier link finds nothing. The
//! exports of a queued call are kept apart until the call is written.
//!
//! A release takes effect after everything that the peer sent before it: see `release_order.rs`. A function that a
//! decoder finds belongs to the link that its message came over ([`LinkNumber`]), whichever link is up when it decodes.
//!
//! Functions of the peer are [`ImportedReference`]s. A collector that finds one dead only records that
//! ([`Session::release_reference`]); the records leave together, in small messages.

use super::inner::{Inner, Session};
use super::options::count;
use crate::error::{Error, ErrorKind};
use crate::proto::Method;
use crate::proto::encode;
use crate::proto::scan::functions;
use crate::release_order::{LinkNumber, ReleaseSink};
use std::fmt;
use std::rc::{Rc, Weak};

/// A collector may record hundreds of thousands of releases at once. A message of this many takes at most 650 bytes, so
/// it fits into the limits of both sides, which a program may have lowered.
const RELEASES_PER_MESSAGE: usize = 32;

/// A function of the peer. It is valid until the link that it came over ends.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::{Call, CallMethod, Reply, Service, Session, Target};
/// use yue_rpc::MemoryListener;
/// use yue_rpc::{Error, Options, Timeout};
/// yue_io::run(|| -> Result<(), Error> {
///     // The server calls the function whose id it is given (as a msgpack uint 64) and gives it back.
///     let twice = |call: &mut Call, reply: Reply| {
///         let session = call.session().clone();
///         let id = u64::from_be_bytes(call.params().bytes[1..9].try_into().unwrap());
///         let function = session.import_reference(id, call.link());
///         let answer = session.call(Target::Reference(&function), Timeout::Default, |_| Ok(0));
///         session.release_reference(&function, 1);
///         match answer {
///             Ok(answer) => reply.results(|out| {
///                 out.push(2 * answer.bytes()[0]);
///                 Ok(1)
///             }),
///             Err(error) => reply.fail(&error.into()),
///         }
///     };
///     let server = MemoryListener::new(Service::new(Rc::new(twice)), Options::default());
///
///     // The client names its function by a token of its own choice.
///     let functions = |call: &mut Call, reply: Reply| match call.method() {
///         CallMethod::Token(7) => reply.results(|out| {
///             out.push(21);
///             Ok(1)
///         }),
///         _ => reply.no_method(call),
///     };
///     let session = Session::open(server, Service::new(Rc::new(functions)), Options::default());
///     let exporting = session.clone();
///     let answer = session.call("twice", Timeout::Default, move |out| {
///         out.push(0xcf);
///         out.extend_from_slice(&exporting.export_reference(7)?.to_be_bytes());
///         Ok(1)
///     })?;
///     assert_eq!(answer.bytes(), [42]);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ImportedReference {
    session: Weak<Inner>,
    epoch: u32,
    id: u64,
}

impl ImportedReference {
    /// The number that its owner assigned.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The connection that it came over; `None` if that no longer exists.
    pub fn session(&self) -> Option<Session> {
        self.session.upgrade().map(|inner| Session { inner })
    }

    pub(super) fn is_of(&self, session: &Inner) -> bool {
        std::ptr::eq(self.session.as_ptr(), session) && self.epoch == session.link.epoch.get()
    }
}

impl fmt::Debug for ImportedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedReference")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The reason why no function can be sent to a peer that has not said hello.
    pub(super) fn why_no_functions(&self) -> &'static str {
        match self.link.is_datagram.get() {
            true => "cannot send a function: datagrams carry plain values only",
            false => "cannot send a function: the peer is not a yue peer",
        }
    }
}

impl Session {
    /// The id under which the peer may call the function that the program names by `token`. An encoder calls it once
    /// for each crossing.
    ///
    /// # Errors
    /// `ArgumentError` if the peer is not a yue peer, `MessageRefusedError` if it holds too many references.
    pub fn export_reference(&self, token: u64) -> Result<u64, Error> {
        let inner = &*self.inner;
        let mut references = inner.references.borrow_mut();
        if !references.holding && !inner.link.peer_is_yue.get() {
            let text = inner.why_no_functions();
            return Err(Error::new(ErrorKind::Argument, text));
        }
        references.export(token).ok_or_else(|| {
            count(&inner.counters.refused_references);
            let limit = inner.options.limits.references_max;
            let text = format!("the peer holds {limit} functions already, the limit");
            Error::new(ErrorKind::MessageRefused, text)
        })
    }

    /// Undoes one [`export_reference`](Session::export_reference): the encoder gave the message up, or starts it again.
    pub fn take_back_reference(&self, id: u64) {
        let unused = {
            let mut references = self.inner.references.borrow_mut();
            let Some(at) = references
                .in_message
                .iter()
                .rposition(|(given, _)| *given == id)
            else {
                return;
            };
            // The last one of that id: a function may cross several times in one message.
            references.in_message.remove(at);
            references.take_back(id)
        };
        if let Some(token) = unused {
            self.inner.service.dispatch.release(&[token]);
        }
    }

    /// The token of a function of this side that is sent back, by the id that a decoder found.
    pub fn exported_token(&self, id: u64) -> Option<u64> {
        self.inner.references.borrow().token(id)
    }

    /// A function of the peer, by the id that a decoder found in a message that came over `link`
    /// ([`Response::link`](super::Response::link), [`Call::link`](super::Call::link)).
    pub fn import_reference(&self, id: u64, link: LinkNumber) -> ImportedReference {
        ImportedReference {
            session: Rc::downgrade(&self.inner),
            epoch: link.0,
            id,
        }
    }

    /// The id by which a function of the peer is sent back among the values of a message. An encoder calls it.
    ///
    /// # Errors
    /// `ConnectionLostError`, retryable, if the function came over a link that is lost, or over another connection.
    pub fn return_reference(&self, reference: &ImportedReference) -> Result<u64, Error> {
        if !reference.is_of(&self.inner) {
            return Err(stale_reference());
        }
        // A queued call with it is valid only for this link.
        self.inner.references.borrow_mut().names_imports = true;
        Ok(reference.id)
    }

    /// The present link, or the next one.
    pub fn link(&self) -> LinkNumber {
        LinkNumber(self.inner.link.epoch.get())
    }

    /// Records that `crossings` of a function of the peer are not needed any more. It only records, so a finalizer may
    /// call it.
    pub fn release_reference(&self, reference: &ImportedReference, crossings: u64) {
        if reference.is_of(&self.inner) {
            self.inner
                .references
                .borrow_mut()
                .releases
                .push((reference.id, crossings));
            self.inner.flush_soon();
        }
    }

    /// The number of this side's functions that the peer holds.
    pub fn references_held(&self) -> usize {
        self.inner.references.borrow().exports.len()
    }
}

impl Inner {
    /// Returns the functions among values that nobody decodes: those of a refused request, or of an answer that comes
    /// too late. Their owner would keep them for as long as the link lasts.
    #[cold]
    pub(super) fn release_unread(&self, values: &[u8]) {
        if !self.link.peer_is_yue.get() {
            return;
        }
        // Only the sender's functions: those of this side that come back carry no crossing.
        let before = self.references.borrow().releases.len();
        let unread = functions(values).map(|id| (id, 1));
        self.references.borrow_mut().releases.extend(unread);
        if self.references.borrow().releases.len() != before {
            self.flush_soon();
        }
    }

    /// Applies the releases that are due.
    #[inline]
    pub(super) fn apply_releases(&self) {
        if self.inbox.released.borrow().is_empty() {
            return;
        }
        // Not when they become due, but before the next write: no borrow is held then, and the program may be called.
        let released = self.inbox.released.take();
        self.release_exports(released.into_iter());
    }

    /// Processes returned crossings.
    pub(super) fn release_exports(&self, released: impl Iterator<Item = (u64, u64)>) {
        let tokens: Vec<u64> = {
            let mut references = self.references.borrow_mut();
            released
                .filter_map(|(id, crossings)| references.release(id, crossings))
                .collect()
        };
        if !tokens.is_empty() {
            self.service.dispatch.release(&tokens);
        }
    }

    /// The message that was encoded was sent, or was taken back.
    #[inline]
    pub(super) fn settle_exports(&self, sent: bool) {
        if self.references.borrow().in_message.is_empty() {
            return;
        }
        let exported = self.references.borrow_mut().take_held_exports();
        if !sent {
            self.release_exports(exported.into_iter().map(|(id, _)| (id, 1)));
        }
    }

    /// The link has ended, and every reference with it.
    pub(super) fn end_references(&self) {
        let tokens = self.references.borrow_mut().end_link();
        if !tokens.is_empty() {
            self.service.dispatch.release(&tokens);
        }
    }

    /// Writes the releases that collectors have recorded.
    #[inline]
    pub(super) fn send_releases(&self) {
        // A queued call may name a function whose last proxy has been collected meanwhile: the release must not
        // overtake it.
        if self.references.borrow().releases.is_empty()
            || self.queued_calls.borrow().name_imports()
            || self.backlog.timed.borrow().name_imports()
        {
            return;
        }
        let releases = std::mem::take(&mut self.references.borrow_mut().releases);
        for some in releases.chunks(RELEASES_PER_MESSAGE) {
            let written = self.write(|out| {
                encode::notification(out, Method::Name(b"$yue/release"), |out| {
                    encode::array(out, |out| {
                        for &(id, crossings) in some {
                            out.push(0x92);
                            encode::uint(out, id);
                            encode::uint(out, crossings);
                        }
                        Ok(some.len() as u32)
                    })?;
                    Ok(1)
                })
            });
            debug_assert!(written.is_ok() || !self.link.exists(), "releases are small");
        }
    }
}

/// The error for a function of an earlier link, which can be neither called nor sent back.
pub(super) fn stale_reference() -> Error {
    let text = "the function belonged to a connection that is lost; get it from the peer again";
    Error::retryable(ErrorKind::ConnectionLost, text)
}

impl ReleaseSink for Inner {
    fn releases_due(&self, link: LinkNumber, releases: Vec<(u64, u64)>) {
        if self.link.epoch.get() == link.0 {
            self.inbox.released.borrow_mut().extend(releases);
            self.flush_soon();
        }
    }
}
