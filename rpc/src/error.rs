//! Everything that can go wrong with a call, as one enum whose variants are the leaves of the error tree.
//!
//! [`ErrorKind`] is the node of that tree with its name and its number; the number is what travels as the `code` of an
//! error on the wire. An error that came from the other side keeps the bytes it came in ([`RemoteError`]), so that a
//! layer above decodes from them whatever values it understands.

use crate::buffer::Response;
use crate::proto::value::Reader;
use std::fmt;
use std::io;
use yue_scheduler::Stopped;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $parent:expr;)*) => {
        /// What kind of failure it is: a node of the error tree, which Lua and the wire know by the same names.
        ///
        /// ```text
        /// RPCError ─ TimeoutError · CancelledError · RuntimeError
        ///          ─ ClientError ─ TransportError ─ NetworkUnreachableError · ConnectionRefusedError
        ///          │             │                  · ConnectionTimeoutError · ConnectionLostError · AddressError
        ///          │             ─ MessageRefusedError ─ MessageTooLargeError
        ///          │             ─ CallError ─ NoMethodError · ArgumentError · NotGrantedError
        ///          ─ ServerError ─ ServerBusyError · QueueFullError
        /// ```
        ///
        /// [`Error::kind`] gives it; [`ErrorKind::is_a`] tests for a whole branch.
        ///
        /// ```
        /// use yue::rpc::{Error, ErrorKind};
        ///
        /// fn advice(error: &Error) -> &'static str {
        ///     match error.kind() {
        ///         ErrorKind::NoMethod => "ask the server's author",
        ///         kind if kind.is_a(ErrorKind::Transport) => "look at the network",
        ///         _ => "read the message",
        ///     }
        /// }
        ///
        /// let error = Error::new(ErrorKind::ConnectionRefused, "nobody listens there");
        /// assert_eq!(advice(&error), "look at the network");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorKind {
            /// Every kind, parents before children.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$variant),*];

            /// The number that stands for the kind on the wire.
            pub const fn code(self) -> i64 {
                match self { $(ErrorKind::$variant => $code),* }
            }

            /// The name, as programs test for it.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorKind::$variant => $name),* }
            }

            /// The kind one step up the tree; `None` at the top.
            pub const fn parent(self) -> Option<ErrorKind> {
                match self { $(ErrorKind::$variant => $parent),* }
            }
        }
    };
}

kinds! {
    /// Any failure of a remote call; the kind of a foreign error that says no more.
    Rpc = -100, "RPCError", None;
    /// The time for the call was over.
    Timeout = -101, "TimeoutError", Some(ErrorKind::Rpc);
    /// The call, or the fiber that made it, was cancelled.
    Cancelled = -102, "CancelledError", Some(ErrorKind::Rpc);
    /// The handler failed.
    Runtime = -103, "RuntimeError", Some(ErrorKind::Rpc);
    /// The caller's side failed.
    Client = -200, "ClientError", Some(ErrorKind::Rpc);
    /// The link failed.
    Transport = -210, "TransportError", Some(ErrorKind::Client);
    /// No way leads to the address.
    NetworkUnreachable = -211, "NetworkUnreachableError", Some(ErrorKind::Transport);
    /// Nobody listens there.
    ConnectionRefused = -212, "ConnectionRefusedError", Some(ErrorKind::Transport);
    /// Nobody answered in time.
    ConnectionTimeout = -213, "ConnectionTimeoutError", Some(ErrorKind::Transport);
    /// The link broke after the call was written: it may or may not have run.
    ConnectionLost = -214, "ConnectionLostError", Some(ErrorKind::Transport);
    /// The address means nothing.
    Address = -215, "AddressError", Some(ErrorKind::Transport);
    /// A limit does not admit the message.
    MessageRefused = -220, "MessageRefusedError", Some(ErrorKind::Client);
    /// The message is larger than the limit.
    MessageTooLarge = -221, "MessageTooLargeError", Some(ErrorKind::MessageRefused);
    /// The call itself is wrong.
    Call = -230, "CallError", Some(ErrorKind::Client);
    /// The other side offers nothing by that name.
    NoMethod = -231, "NoMethodError", Some(ErrorKind::Call);
    /// An argument cannot be sent, or is not what the method takes.
    Argument = -232, "ArgumentError", Some(ErrorKind::Call);
    /// The other side did not grant the connection.
    NotGranted = -233, "NotGrantedError", Some(ErrorKind::Call);
    /// The server's side failed.
    Server = -300, "ServerError", Some(ErrorKind::Rpc);
    /// The server has more to do than its limits allow.
    ServerBusy = -301, "ServerBusyError", Some(ErrorKind::Server);
    /// Too much waits to be sent to the peer already; what was to be sent was not taken.
    QueueFull = -302, "QueueFullError", Some(ErrorKind::Server);
}

impl ErrorKind {
    /// The kind with that number.
    pub fn from_code(code: i64) -> Option<ErrorKind> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether this is `other` or below it in the tree.
    ///
    /// ```
    /// use yue::rpc::ErrorKind;
    ///
    /// assert!(ErrorKind::ConnectionLost.is_a(ErrorKind::Transport));
    /// assert!(ErrorKind::ConnectionLost.is_a(ErrorKind::Rpc));
    /// assert!(!ErrorKind::Timeout.is_a(ErrorKind::Transport));
    /// ```
    pub fn is_a(self, other: ErrorKind) -> bool {
        let mut kind = Some(self);
        while let Some(this) = kind {
            if this == other {
                return true;
            }
            kind = this.parent();
        }
        false
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call, or a connection, failed.
///
/// Two words: results with it are returned in registers.
///
/// ```
/// use yue::rpc::typed::{Client, Server};
/// use yue::rpc::{Error, ErrorKind};
///
/// yue::Runtime::new()?.run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("order", |dish: String| Err::<(), _>(format!("no {dish} today").into()))
///         .listen("tcp://127.0.0.1:0")?;
///     let kitchen = Client::open(&listener.address().to_string())?;
///
///     let error = kitchen.call::<_, ()>("order", "soup").unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::Runtime); // The handler failed.
///     assert_eq!(error.message(), "no soup today");
///     let error = kitchen.call::<_, ()>("pay", ()).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::NoMethod);
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It failed on this side of the connection.
    #[error("{}: {}", .0.kind, .0.message)]
    Local(Box<LocalError>),
    /// The other side answered with an error.
    #[error("{0}")]
    Remote(Box<RemoteError>),
}

/// An error that this side found.
///
/// ```
/// use yue::rpc::{Error, ErrorKind};
///
/// let error = yue::rpc::typed::Server::new().listen("tcp://localhost").unwrap_err();
/// let Error::Local(local) = error else { panic!("nobody else was asked") };
/// assert_eq!(local.kind, ErrorKind::Address);
/// assert!(local.message.contains("the port is missing"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalError {
    /// Its place in the tree.
    pub kind: ErrorKind,
    /// What happened, and what to do about it.
    pub message: String,
    /// Whether the same call may be made again without the danger that it runs twice.
    pub retryable: bool,
}

impl Error {
    /// An error of this side.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::Local(Box::new(LocalError {
            kind,
            message: message.into(),
            retryable: false,
        }))
    }

    /// As [`Error::new`], for a call that certainly did not run.
    pub fn retryable(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::Local(Box::new(LocalError {
            kind,
            message: message.into(),
            retryable: true,
        }))
    }

    /// The error that a response carries.
    pub(crate) fn remote(response: Response) -> Error {
        Error::Remote(Box::new(RemoteError { response }))
    }

    /// The error's place in the tree.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Local(error) => error.kind,
            Error::Remote(error) => error.kind(),
        }
    }

    /// The number that stands for it on the wire; a foreign error's own, if it has one.
    pub fn code(&self) -> i64 {
        match self {
            Error::Local(error) => error.kind.code(),
            Error::Remote(error) => error.code().unwrap_or(ErrorKind::Rpc.code()),
        }
    }

    /// What happened.
    pub fn message(&self) -> String {
        match self {
            Error::Local(error) => error.message.clone(),
            Error::Remote(error) => error.message(),
        }
    }

    /// Whether the same call may be made again without the danger that it runs twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Local(error) => error.retryable,
            Error::Remote(error) => error.retryable(),
        }
    }

    /// What a failed attempt to connect means to the caller.
    ///
    /// ```
    /// use std::io;
    /// use yue::rpc::{Error, ErrorKind};
    ///
    /// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// let error = Error::from_connect("tcp://10.0.0.1:80", &refused);
    /// assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    /// assert!(error.is_retryable());
    /// ```
    pub fn from_connect(address: &str, error: &io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                ErrorKind::ConnectionRefused
            }
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                ErrorKind::NetworkUnreachable
            }
            io::ErrorKind::TimedOut => ErrorKind::ConnectionTimeout,
            io::ErrorKind::InvalidInput => ErrorKind::Address,
            _ => ErrorKind::Transport,
        };
        Error::retryable(kind, format!("cannot connect to {address}: {error}"))
    }
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Error {
        match stopped {
            Stopped::Cancelled => {
                Error::new(ErrorKind::Cancelled, "the calling fiber was cancelled")
            }
            Stopped::Deadline => Error::new(
                ErrorKind::Timeout,
                "the calling fiber's deadline has passed",
            ),
        }
    }
}

/// An error that came over the wire: any value. Ours is `[code, message, {type, traceback, retryable, value}]`.
///
/// ```
/// use yue::rpc::typed::{Client, Server};
/// use yue::rpc::Error;
///
/// yue::Runtime::new()?.run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("fail", |()| Err::<(), _>("out of eggs".into()))
///         .listen("tcp://127.0.0.1:0")?;
///     let kitchen = Client::open(&listener.address().to_string())?;
///     match kitchen.call::<_, ()>("fail", ()) {
///         Err(Error::Remote(error)) => {
///             assert_eq!(error.type_name().as_deref(), Some("RuntimeError"));
///             assert_eq!(error.message(), "out of eggs");
///             assert!(!error.retryable());
///         }
///         other => panic!("{other:?}"),
///     }
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RemoteError {
    response: Response,
}

impl RemoteError {
    /// The error value in msgpack, for a layer that decodes values.
    pub fn bytes(&self) -> &[u8] {
        self.response.bytes()
    }

    /// The number, if the error has our form, or is an array that begins with a number.
    pub fn code(&self) -> Option<i64> {
        self.element(0)?.read_int()
    }

    /// The name of the type that the other side gave.
    pub fn type_name(&self) -> Option<String> {
        Some(self.data("type")?.read_str()?.to_owned())
    }

    /// The traceback on the other side, if it sent one.
    pub fn traceback(&self) -> Option<String> {
        Some(self.data("traceback")?.read_str()?.to_owned())
    }

    /// The raised value in msgpack, if something else than a text was raised. Of a foreign error that is neither a text
    /// nor `[code, message]` this is the whole error.
    pub fn value(&self) -> Option<&[u8]> {
        if self.is_foreign() {
            return Some(self.bytes());
        }
        self.data("value")?.read_raw()
    }

    /// Whether message and details do not hold all of it.
    fn is_foreign(&self) -> bool {
        if Reader::new(self.bytes()).read_str().is_some() {
            return false;
        }
        let count = Reader::new(self.bytes()).read_array();
        let text = || self.element(1)?.read_str().map(drop);
        let details = || self.element(2)?.read_map().map(drop);
        match count {
            Some(2) => self.code().is_none() || text().is_none(),
            Some(3) => self.code().is_none() || text().is_none() || details().is_none(),
            _ => true,
        }
    }

    /// Whether the other side says that the call may be made again.
    pub fn retryable(&self) -> bool {
        self.data("retryable")
            .and_then(|mut reader| reader.read_bool())
            .unwrap_or(false)
    }

    /// The message: ours, or the closest thing to one that a foreign error has.
    pub fn message(&self) -> String {
        let text = self
            .element(1)
            .and_then(|mut reader| reader.read_str().map(str::to_owned));
        let whole = Reader::new(self.bytes());
        let text = text.or_else(|| { whole }.read_str().map(str::to_owned));
        let named = |key| Some(whole.find_key(key)?.read_str()?.to_owned());
        let text = text.or_else(|| named("message")).or_else(|| named("msg"));
        text.unwrap_or_else(|| "the other side answered with an error of its own form".to_owned())
    }

    /// The place in the tree: by the type's name, else by the number, else `RPCError`.
    pub fn kind(&self) -> ErrorKind {
        let by_name = self
            .type_name()
            .and_then(|name| ErrorKind::from_name(&name));
        by_name
            .or_else(|| self.code().and_then(ErrorKind::from_code))
            .unwrap_or(ErrorKind::Rpc)
    }

    fn element(&self, index: u32) -> Option<Reader<'_>> {
        let mut reader = Reader::new(self.bytes());
        let count = reader.read_array()?;
        if index >= count {
            return None;
        }
        for _ in 0..index {
            reader.skip()?;
        }
        Some(reader)
    }

    fn data(&self, key: &str) -> Option<Reader<'_>> {
        self.element(2)?.find_key(key)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.type_name() {
            Some(name) => write!(f, "{name}: {}", self.message()),
            None => write!(f, "{}: {}", self.kind(), self.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_lead_back() {
        for &kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(kind));
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
            assert!(kind.is_a(ErrorKind::Rpc));
        }
    }

    #[test]
    fn the_tree_is_walked_upwards_only() {
        assert!(ErrorKind::ConnectionLost.is_a(ErrorKind::Client));
        assert!(!ErrorKind::Client.is_a(ErrorKind::ConnectionLost));
        assert!(!ErrorKind::ServerBusy.is_a(ErrorKind::Client));
    }
}
