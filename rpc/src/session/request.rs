//! A request of the peer, from the queue to its reply.
//!
//! Each request has its own identity, the [`RequestContext`]: it is the fiber's context while the handler runs, and the
//! fibers that the handler spawns inherit it. The worker under it is only a stack. A context that nobody has kept
//! serves the worker's next request, so the steady state allocates none.

use super::failure::Failure;
use super::inherited;
use super::inner::{Inner, RequestContext, Session};
use super::options::count;
use super::service::{Call, Replied, Reply};
use super::spans::Outcome;
use super::state::inbox::{Request, Span};
use super::state::phase::Role;
use super::state::write_buffer::Writes;
use crate::error::{Error, ErrorKind};
use crate::inspect::ServedRequest;
use crate::inspect::calls::Failed;
use crate::proto::Params;
use crate::proto::encode::{self, ErrorValue};
use crate::release_order::LinkNumber;
use crate::text::quoted;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::thread;
use yue_scheduler::{CancelScope, FiberId, Instant, current_id, in_fiber};

impl RequestContext {
    pub(super) fn new() -> Rc<RequestContext> {
        Rc::new(RequestContext {
            session: RefCell::default(),
            epoch: Cell::new(0),
            deadline: Cell::new(Instant::NEVER),
            fiber: Cell::new(in_fiber().then(current_id)),
            msgid: Cell::new(None),
            scope: CancelScope::new(),
            obeys_caller: Cell::new(false),
            handshake: Cell::new(false),
            replied: Cell::new(false),
            chain: Cell::new(None),
            trace: Cell::new(None),
            outcome: Outcome::default(),
            failed: Cell::default(),
        })
    }

    /// Makes it the context of a new request.
    #[inline]
    pub(super) fn begin(&self, session: Rc<Inner>, deadline: Instant) {
        self.epoch.set(session.link.epoch.get());
        self.deadline.set(deadline);
        self.msgid.set(None);
        self.replied.set(false);
        self.chain.set(None);
        self.trace.set(None);
        self.outcome.begin();
        *self.session.borrow_mut() = Some(session);
    }

    /// Clears the request.
    #[inline]
    pub(super) fn end(&self) {
        let session = self.session.take();
        self.scope.reset();
        drop(session);
    }

    /// The context of the request that the calling fiber works for.
    #[inline]
    pub fn current() -> Option<Rc<RequestContext>> {
        match yue_scheduler::context()?.downcast() {
            Ok(request) => Some(request),
            Err(other) => inherited::request_of(&*other),
        }
    }

    /// Describes the request for tools, if that fiber serves it: others inherit the context.
    pub(crate) fn served_by(&self, fiber: FiberId) -> Option<ServedRequest> {
        let session = self.session.borrow();
        let inner = session.as_ref()?;
        let serves = self.fiber.get() == Some(fiber) && !self.handshake.get();
        let waited_for = !self.replied.get() && self.epoch.get() == inner.link.epoch.get();
        (serves && waited_for).then(|| ServedRequest {
            address: inner.address.clone(),
            link: inner.link.number.get(),
            is_opened: inner.role == Role::Opened,
            msgid: self.msgid.get(),
            chain: self.chain.get(),
        })
    }

    /// The connection that the request came over.
    pub fn session(&self) -> Option<Session> {
        self.session.borrow().clone().map(|inner| Session { inner })
    }

    /// The time when the caller stops waiting; [`Instant::NEVER`] if it sent none.
    ///
    /// A handler that has started keeps running after that, unless [`Options::cancel`](crate::Options::cancel) is set.
    /// A handler that does long work only for its caller may check here whether the work is still worthwhile.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue_rpc::session::RequestContext;
    /// use yue_rpc::typed::{Client, Server};
    /// use yue_rpc::{Error, Timeout};
    ///
    /// yue_io::run(|| -> Result<(), Error> {
    ///     let time_left = |()| {
    ///         let request = RequestContext::current().ok_or("no request")?;
    ///         Ok(request.deadline().saturating_since(yue_scheduler::now()).as_secs_f64())
    ///     };
    ///     let listener = Server::new().handler("time_left", time_left).listen("tcp://127.0.0.1:0")?;
    ///     let client = Client::open(&listener.address().to_string())?;
    ///     let minute = Timeout::After(Duration::from_secs(60));
    ///     let left: f64 = client.call_within(minute, "time_left", ())?;
    ///     assert!(left > 30.0 && left < 61.0);
    ///     Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// The deadline that the caller's time sets for the calls of this request.
    #[inline]
    pub(super) fn limit_of_calls(&self) -> Instant {
        if self.obeys_caller.get() {
            self.deadline.get()
        } else {
            Instant::NEVER
        }
    }

    /// Whether the request's connection is lost, or, with [`Options::cancel`](crate::Options::cancel), the caller has
    /// given the request up.
    pub fn is_cancelled(&self) -> bool {
        let lost = |session: &Rc<Inner>| session.link.epoch.get() != self.epoch.get();
        self.scope.is_cancelled() || self.session.borrow().as_ref().is_none_or(lost)
    }
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("deadline", &self.deadline.get())
            .finish_non_exhaustive()
    }
}

/// The connection through which the running handler was called; `None` outside of handlers. Fibers that a handler
/// spawns inherit it.
///
/// # Panics
/// Never; outside a loop there is no peer.
///
/// ```
/// use yue_rpc::Error;
/// use yue_rpc::session::peer;
/// use yue_rpc::typed::{Client, Server};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("where_from", |()| Ok(peer().ok_or("no peer")?.address().to_owned()))
///         .listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     let address: String = client.call("where_from", ())?;
///     assert!(address.starts_with("tcp://127.0.0.1:"));
///     assert!(peer().is_none());
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn peer() -> Option<Session> {
    RequestContext::current()?.session()
}

/// The target of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallMethod<'a> {
    /// A name, perhaps dotted.
    Name(&'a [u8]),
    /// A function of this side that was passed as a value: the token of its export.
    Token(u64),
}

impl Call {
    pub(super) fn new(session: Rc<Inner>, request: Request, token: Option<u64>) -> Call {
        Call {
            request,
            token,
            epoch: session.link.epoch.get(),
            session: Session { inner: session },
            decoded_bytes: 0,
        }
    }

    /// The called method. Empty after [`Call::release_params`], if it was a name.
    #[inline]
    pub fn method(&self) -> CallMethod<'_> {
        match self.token {
            Some(token) => CallMethod::Token(token),
            None => CallMethod::Name(self.request.name()),
        }
    }

    /// The arguments. None after [`Call::release_params`].
    #[inline]
    pub fn params(&self) -> Params<'_> {
        let Request {
            params,
            first,
            count,
            ..
        } = self.request;
        let bytes = self.request.slice(Span {
            start: first,
            end: params.end,
        });
        Params {
            count,
            bytes,
            array: self.request.slice(params),
        }
    }

    /// Returns the buffer that holds name and arguments. Call it when they are decoded, before the handler runs: a
    /// handler that waits for long then holds no buffer.
    #[inline]
    pub fn release_params(&mut self) {
        self.request.segment = None;
        self.request.count = 0;
    }

    /// Records the memory of the decoded arguments, in bytes, which the handler keeps until it has ended. It counts for
    /// [`Limits::memory_max`](crate::Limits::memory_max) until then.
    #[inline]
    pub fn count_memory(&mut self, bytes: usize) {
        self.decoded_bytes += bytes;
        self.session.inner.inbox.decoded(bytes);
    }

    #[inline]
    pub(super) fn decoded_bytes(&self) -> usize {
        self.decoded_bytes
    }

    /// The connection that the request came over.
    #[inline]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The time when the caller stops waiting; [`Instant::NEVER`] if it sent none. With
    /// [`Options::cancel`](crate::Options::cancel) the handler already runs under this deadline.
    pub fn deadline(&self) -> Instant {
        self.request.deadline
    }

    /// The link that it came over. References among its arguments belong to that link.
    #[inline]
    pub fn link(&self) -> LinkNumber {
        LinkNumber(self.epoch)
    }

    /// Whether no caller waits for a reply.
    pub fn is_notification(&self) -> bool {
        self.request.msgid.is_none()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method())
            .field("count", &self.request.count)
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// Answers with values.
    ///
    /// If they cannot be encoded, or are too large, an error is the answer instead. Parks while the output is full.
    #[inline]
    pub fn results(self, encoder: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>) -> Replied {
        let inner = &self.session.inner;
        if let Some(msgid) = self.open_msgid() {
            let counted = inner.link.peer_is_yue.get();
            let written = inner.write(|out| encode::response(out, msgid, counted, encoder));
            if let Err(error) = written {
                return self.fail(&Failure::from(error));
            }
        }
        self.context.replied.set(true);
        Replied(())
    }

    /// Answers with an error.
    pub fn fail(self, failure: &Failure) -> Replied {
        self.fail_as(failure, false)
    }

    fn fail_as(self, failure: &Failure, no_method: bool) -> Replied {
        count(&self.session.inner.counters.requests_failed);
        self.context.outcome.fail(&failure.type_name);
        Failed::note(&self.context.failed, &failure.type_name, no_method);
        if let Some(msgid) = self.open_msgid() {
            let encode = |out: &mut Vec<u8>| {
                failure.encode(out);
                Ok(1)
            };
            let inner = &self.session.inner;
            if inner
                .write(|out| encode::error_response(out, msgid, encode))
                .is_err()
            {
                let text = format!(
                    "{} (the rest of the error is too large to be sent)",
                    failure.type_name
                );
                inner.answer_error(
                    msgid,
                    &ErrorValue::of_kind(ErrorKind::MessageTooLarge, &text),
                );
            }
        }
        self.context.replied.set(true);
        Replied(())
    }

    /// Answers that there is no method of the called name. Functions among the arguments are returned to the peer,
    /// unless [`Call::release_params`] was called, which means that they were decoded.
    pub fn no_method(self, call: &Call) -> Replied {
        if self.session.inner.link.epoch.get() == self.epoch {
            self.session.inner.release_unread(call.params().array);
        }
        let text = match call.method() {
            CallMethod::Name(name) => {
                format!("there is no method '{}'", quoted(name))
            }
            CallMethod::Token(_) => "the function is not there any more".to_owned(),
        };
        self.fail_as(&Failure::of_kind(ErrorKind::NoMethod, text), true)
    }

    /// The msgid to answer, if the caller still waits. Waits for room in the output.
    #[inline]
    fn open_msgid(&self) -> Option<u32> {
        let msgid = self.msgid?;
        let inner = &self.session.inner;
        if inner.link.epoch.get() == self.epoch && inner.output_is_full() {
            // Even a cancelled handler must answer, so the wait is shielded; the stall limit bounds it.
            let waited =
                yue_scheduler::shield(|| inner.wait_for_room(Writes::Answer, Instant::NEVER));
            // A fiber that unwinds cannot wait. Its answer may exceed the limit: one answer for a request that was
            // accepted.
            if waited.is_err() && !thread::panicking() {
                return None;
            }
        }
        let is_current = inner.link.epoch.get() == self.epoch
            || yue_scheduler::planted!("answer on another link");
        is_current.then_some(msgid)
    }
}
