//! The program's part of its sessions: the dispatcher of requests, and the hooks of a connection's life.

use super::close_reason::CloseReason;
use super::failure::Failure;
use super::inner::{RequestContext, Session};
use super::state::inbox::Request;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{Instant, deadline_after, is_past};

/// Answers requests. Each runs in a fiber with its own identity, and may park, call back, and spawn.
///
/// A closure is a `Dispatch`, as [the module](super) shows. A custom type is also notified of releases:
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use yue_rpc::session::{Call, CallMethod, Dispatch, Replied, Reply, Service};
///
/// #[derive(Default)]
/// struct Functions {
///     free: RefCell<Vec<u64>>,
/// }
///
/// impl Dispatch for Functions {
///     fn call(&self, call: &mut Call, reply: Reply) -> Replied {
///         match call.method() {
///             CallMethod::Token(token) => reply.results(|out| {
///                 out.push(token as u8);
///                 Ok(1)
///             }),
///             CallMethod::Name(_) => reply.no_method(call),
///         }
///     }
///
///     fn release(&self, tokens: &[u64]) {
///         self.free.borrow_mut().extend(tokens);
///     }
/// }
///
/// let service = Service::new(Rc::new(Functions::default()));
/// # drop(service);
/// ```
pub trait Dispatch {
    /// Serves one request or notification. [`Reply`] must be used: each of its methods returns the [`Replied`].
    ///
    /// Names with a segment that begins with `_` are not dispatched; they are answered with `NoMethodError`.
    fn call(&self, call: &mut Call, reply: Reply) -> Replied;

    /// The peer holds no more references to these functions, named by the tokens that were passed to
    /// [`Session::export_reference`].
    fn release(&self, tokens: &[u64]) {
        let _ = tokens;
    }

    /// The peer of `session` sent bytes that are not acceptable, and its link ends because of that. `text` describes it
    /// on one line, in printable characters. Called outside fibers. By default it is printed to standard error, at most
    /// once a second for each loop.
    fn malformed(&self, session: &Session, text: &str) {
        let _ = session;
        say_seldom(text);
    }
}

/// Writes a warning, at most once a second for each loop: strangers can cause these messages at will.
pub(crate) fn say_seldom(text: &str) {
    const SILENCE: Duration = Duration::from_secs(1);
    thread_local!(static SILENT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) });
    if SILENT_UNTIL.get().is_none_or(is_past) {
        SILENT_UNTIL.set(Some(deadline_after(SILENCE)));
        yue_scheduler::log(yue_scheduler::LogLevel::Warn, format_args!("{text}"));
    }
}

impl<F: Fn(&mut Call, Reply) -> Replied> Dispatch for F {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        self(call, reply)
    }
}

/// A request that is being served.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::Error;
/// use yue_rpc::session::{Call, Reply, Service, Session};
/// use yue_rpc::MemoryListener;
/// use yue_rpc::{Options, Timeout};
/// yue_io::run(|| -> Result<(), Error> {
///     let count = |call: &mut Call, reply: Reply| {
///         let count = call.params().count as u8;
///         call.release_params(); // They are not needed any more; the handler may take its time.
///         reply.results(|out| {
///             out.push(count);
///             Ok(1)
///         })
///     };
///     let listener = MemoryListener::new(Service::new(Rc::new(count)), Options::default());
///     let session = Session::open(listener, Service::none(), Options::default());
///     let answer = session.call("count", Timeout::Default, |out| {
///         out.extend_from_slice(&[10, 20, 30]);
///         Ok(3)
///     })?;
///     assert_eq!(answer.bytes(), [3]);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Call {
    pub(super) request: Request,
    pub(super) token: Option<u64>,
    pub(super) session: Session,
    pub(super) epoch: u32,
    pub(super) decoded_bytes: usize,
}

/// Proof that a [`Reply`] was used.
///
/// So a handler that forgets to answer does not compile:
///
/// ```compile_fail
/// use yue_rpc::session::{Call, Reply, Service};
///
/// Service::new(std::rc::Rc::new(|_: &mut Call, _: Reply| {}));
/// ```
#[derive(Debug)]
#[must_use]
pub struct Replied(pub(super) ());

/// The right, and the duty, to answer one request. Answers to a notification, or after the link's end, are dropped.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::{Call, Reply, Service, Session};
/// use yue_rpc::MemoryListener;
/// use yue_rpc::{Error, ErrorKind, Failure, Options, Timeout};
/// yue_io::run(|| -> Result<(), Error> {
///     let divide = |call: &mut Call, reply: Reply| match call.params().bytes {
///         &[_, 0] => reply.fail(&Failure::new("division by zero")),
///         &[a, b] => reply.results(|out| {
///             out.push(a / b);
///             Ok(1)
///         }),
///         _ => reply.fail(&Failure::of_kind(ErrorKind::Argument, "two small numbers, please")),
///     };
///     let listener = MemoryListener::new(Service::new(Rc::new(divide)), Options::default());
///     let session = Session::open(listener, Service::none(), Options::default());
///     let divide = |a, b| {
///         session.call("divide", Timeout::Default, |out| {
///             out.extend_from_slice(&[a, b]);
///             Ok(2)
///         })
///     };
///     assert_eq!(divide(42, 6)?.bytes(), [7]);
///     assert_eq!(divide(1, 0).unwrap_err().message(), "division by zero");
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reply {
    pub(super) session: Session,
    pub(super) context: Rc<RequestContext>,
    pub(super) epoch: u32,
    pub(super) msgid: Option<u32>,
}

/// An event in a connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The transport is up.
    Open,
    /// The peer must be granted, or has granted the connection.
    Accept,
    /// The link has ended.
    Close,
    /// An outgoing call timed out.
    Timeout,
    /// A notification was dropped because too much waits to be sent.
    Full,
    /// There is room for more, as requested by [`Session::request_room`].
    Room,
}

/// The decision of `on_accept`.
///
/// ```
/// use yue_rpc::{ErrorKind, Failure, Verdict};
///
/// let verdict = |password: &str| match password {
///     "mellon" => Verdict::granted(),
///     _ => Verdict::Refuse(Failure::of_kind(ErrorKind::NotGranted, "wrong password")),
/// };
/// assert!(matches!(verdict("mellon"), Verdict::Grant(_)));
/// assert!(matches!(verdict("sesame"), Verdict::Refuse(why) if why.message == "wrong password"));
/// ```
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Continue. On the server, the msgpack value (exactly one) travels to the client.
    Grant(Vec<u8>),
    /// Send the failure and close.
    Refuse(Failure),
}

impl Verdict {
    /// Grants with the value `true`.
    pub fn granted() -> Verdict {
        Verdict::Grant(vec![0xc3])
    }
}

/// Whether to make a lost connection again.
///
/// ```
/// use yue_rpc::session::Session;
/// use yue_rpc::{CloseReason, Hooks, Moment, Retry};
///
/// struct Stubborn;
///
/// impl Hooks for Stubborn {
///     fn wants(&self, moment: Moment) -> bool {
///         moment == Moment::Close
///     }
///
///     fn on_close(&self, _session: &Session, reason: &CloseReason) -> Retry {
///         match reason {
///             CloseReason::Refused(_) => Retry::Yes, // The password may be another by then.
///             _ => Retry::Default,
///         }
///     }
/// }
/// # drop(Stubborn);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// Follow [`Options::reconnect`](crate::Options::reconnect); a link that was refused is not retried.
    #[default]
    Default,
    /// Yes.
    Yes,
    /// No: held calls fail.
    No,
}

/// The hooks of a connection's life. Every method runs in a fiber and may call over the connection.
///
/// A method is called only if [`Hooks::wants`] returned true just before, so a connection without hooks costs no fiber.
///
/// The server asks each client for a password, as straight-line code, before it grants the connection:
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::Session;
/// use yue_rpc::typed::{Caller, Client, Server};
/// use yue_rpc::{Error, ErrorKind, Failure, Hooks, Moment, Verdict};
///
/// struct Door;
///
/// impl Hooks for Door {
///     fn wants(&self, moment: Moment) -> bool {
///         moment == Moment::Accept
///     }
///
///     fn on_accept(&self, session: &Session, _granted: Option<&[u8]>) -> Verdict {
///         match Caller::new(session.clone()).call::<_, String>("password", ()) {
///             Ok(word) if word == "mellon" => Verdict::granted(),
///             _ => Verdict::Refuse(Failure::new("wrong password")),
///         }
///     }
/// }
///
/// yue_io::run(|| -> Result<(), Error> {
///     let server = Server::new().hooks(Rc::new(Door)).handler("treasure", |()| Ok("mithril"));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let open = |password: &'static str| {
///         let us = Server::new().handler("password", move |()| Ok(password));
///         Client::open_with(&listener.address().to_string(), us, Default::default())
///     };
///     assert_eq!(open("mellon")?.call::<_, String>("treasure", ())?, "mithril");
///     let error = open("sesame")?.call::<_, String>("treasure", ()).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::NotGranted);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Hooks {
    /// Whether to call the method for that event.
    fn wants(&self, moment: Moment) -> bool {
        let _ = moment;
        false
    }

    /// The transport is up. An error closes the link.
    ///
    /// # Errors
    /// The reason to close the link.
    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        let _ = session;
        Ok(())
    }

    /// On the server: decides whether the connection is granted; meanwhile its requests wait, and calls to it work. On
    /// the client: the server has granted with the msgpack value `granted`; calls made before wait until this returns,
    /// calls made in here go out at once.
    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        let _ = (session, granted);
        Verdict::granted()
    }

    /// The link has ended. On the client the result decides whether to make it again.
    fn on_close(&self, session: &Session, reason: &CloseReason) -> Retry {
        let _ = (session, reason);
        Retry::Default
    }

    /// An outgoing call timed out.
    fn on_timeout(&self, session: &Session) {
        let _ = session;
    }

    /// A notification was dropped ([`WhenFull::Drop`](crate::WhenFull::Drop)) because too much waits to be sent. Called
    /// only for the first one since there was room.
    fn on_full(&self, session: &Session) {
        let _ = session;
    }

    /// [`Session::request_room`] was called, and there is room now; or no link could be made: [`Session::room`] tells
    /// the two apart.
    fn on_room(&self, session: &Session) {
        let _ = session;
    }
}

struct NoHooks;

impl Hooks for NoHooks {}

/// The dispatcher and the hooks that the sessions of one listener, or one opened connection, share.
#[derive(Clone)]
pub struct Service {
    /// The dispatcher, which answers requests.
    pub dispatch: Rc<dyn Dispatch>,
    /// The hooks of a connection's life.
    pub hooks: Rc<dyn Hooks>,
}

impl Service {
    /// A service that answers through `dispatch`, without hooks.
    pub fn new(dispatch: Rc<dyn Dispatch>) -> Service {
        Service {
            dispatch,
            hooks: Rc::new(NoHooks),
        }
    }

    /// A service that offers no methods.
    pub fn none() -> Service {
        Service::new(Rc::new(|call: &mut Call, reply: Reply| {
            reply.no_method(call)
        }))
    }

    /// Sets the hooks.
    pub fn with_hooks(mut self, hooks: Rc<dyn Hooks>) -> Service {
        self.hooks = hooks;
        self
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
