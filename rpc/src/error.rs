//! Errors of calls and connections: one enum, and a tree of kinds.
//!
//! [`ErrorKind`] is a node of the tree, with a name and a number. The number travels as the `code` of an error on the
//! wire. An error that the peer sent keeps its bytes ([`RemoteError`]), so that a layer above can decode any values it
//! understands.

use crate::address::Address;
use crate::buffer::Response;
use crate::proto::value::Reader;
use crate::transport::LinkRefused;
use std::fmt;
use std::io;
use yue_scheduler::Stopped;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $parent:expr;)*) => {
        /// The kind of a failure: a node of the error tree. Lua and the wire use the same names.
        ///
        /// ```text
        /// RPCError ─ TimeoutError · CancelledError · RuntimeError
        ///          ─ ClientError ─ TransportError ─ NetworkUnreachableError · ConnectionRefusedError
        ///          │             │                  · ConnectionTimeoutError · ConnectionLostError · AddressError
        ///          │             │                  · TLSError
        ///          │             ─ MessageRefusedError ─ MessageTooLargeError
        ///          │             ─ CallError ─ NoMethodError · ArgumentError · NotGrantedError
        ///          ─ ServerError ─ ServerBusyError · QueueFullError
        /// AllocationError
        /// ```
        ///
        /// [`Error::kind`] returns it; [`ErrorKind::is_a`] tests for a whole branch.
        ///
        /// ```
        /// use yue_rpc::{Error, ErrorKind};
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
        #[non_exhaustive]
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
    /// The call timed out.
    Timeout = -101, "TimeoutError", Some(ErrorKind::Rpc);
    /// The call, or the fiber that made it, was cancelled.
    Cancelled = -102, "CancelledError", Some(ErrorKind::Rpc);
    /// The handler failed.
    Runtime = -103, "RuntimeError", Some(ErrorKind::Rpc);
    /// The failure arose on the caller's side.
    Client = -200, "ClientError", Some(ErrorKind::Rpc);
    /// The link failed.
    Transport = -210, "TransportError", Some(ErrorKind::Client);
    /// There is no route to the address.
    NetworkUnreachable = -211, "NetworkUnreachableError", Some(ErrorKind::Transport);
    /// Nobody listens there.
    ConnectionRefused = -212, "ConnectionRefusedError", Some(ErrorKind::Transport);
    /// Nobody answered in time.
    ConnectionTimeout = -213, "ConnectionTimeoutError", Some(ErrorKind::Transport);
    /// The link broke after the call was written: it may or may not have run.
    ConnectionLost = -214, "ConnectionLostError", Some(ErrorKind::Transport);
    /// The address is invalid.
    Address = -215, "AddressError", Some(ErrorKind::Transport);
    /// The TLS handshake failed: a certificate is not trusted, or the peer does not speak TLS.
    Tls = -216, "TLSError", Some(ErrorKind::Transport);
    /// The message is refused because of a limit.
    MessageRefused = -220, "MessageRefusedError", Some(ErrorKind::Client);
    /// The message is larger than the limit.
    MessageTooLarge = -221, "MessageTooLargeError", Some(ErrorKind::MessageRefused);
    /// The call itself is wrong.
    Call = -230, "CallError", Some(ErrorKind::Client);
    /// The peer offers no method of that name.
    NoMethod = -231, "NoMethodError", Some(ErrorKind::Call);
    /// An argument cannot be sent, or is not what the method takes.
    Argument = -232, "ArgumentError", Some(ErrorKind::Call);
    /// The peer did not grant the connection.
    NotGranted = -233, "NotGrantedError", Some(ErrorKind::Call);
    /// The failure arose on the server's side.
    Server = -300, "ServerError", Some(ErrorKind::Rpc);
    /// The server has reached a limit on its load.
    ServerBusy = -301, "ServerBusyError", Some(ErrorKind::Server);
    /// Too much is queued for the peer already; the message was not queued.
    QueueFull = -302, "QueueFullError", Some(ErrorKind::Server);
    /// A node could not be allocated.
    Allocation = -400, "AllocationError", None;
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

/// The reason why a call, or a connection, failed.
///
/// Two machine words: results with it are returned in registers.
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind};
///
/// yue_io::run(|| -> Result<(), Error> {
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
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The failure was found on this side of the connection.
    #[error("{}: {}", .0.kind, .0.message)]
    Local(Box<LocalError>),
    /// The peer answered with an error.
    #[error("{0}")]
    Remote(Box<RemoteError>),
}

/// An error that this side found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalError {
    /// The node of the error tree.
    pub kind: ErrorKind,
    /// A description of the failure, and of the remedy.
    pub message: String,
    /// Whether the call can be repeated without the risk that it runs twice.
    pub retryable: bool,
}

impl Error {
    /// Creates an error of this side.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::Local(Box::new(LocalError {
            kind,
            message: message.into(),
            retryable: false,
        }))
    }

    /// Like [`Error::new`], for a call that certainly did not run.
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

    /// The error's node in the tree.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Local(error) => error.kind,
            Error::Remote(error) => error.kind(),
        }
    }

    /// The number that stands for it on the wire. A foreign error keeps its number, if it has one.
    pub fn code(&self) -> i64 {
        match self {
            Error::Local(error) => error.kind.code(),
            Error::Remote(error) => error.code().unwrap_or(ErrorKind::Rpc.code()),
        }
    }

    /// The message that describes the failure.
    pub fn message(&self) -> String {
        match self {
            Error::Local(error) => error.message.clone(),
            Error::Remote(error) => error.message(),
        }
    }

    /// Whether the call can be repeated without the risk that it runs twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Local(error) => error.retryable,
            Error::Remote(error) => error.retryable(),
        }
    }

    /// Translates the error of a failed attempt to connect.
    pub fn from_connect(address: &str, error: &io::Error) -> Error {
        if let Some(refused) = LinkRefused::of(error) {
            return Error::new(
                refused.kind,
                format!("cannot connect to {address}: {refused}"),
            );
        }
        let text = format!("cannot connect to {address}: {error}");
        Error::retryable(kind_of_link(error), text)
    }

    /// Translates the error of datagrams that did not arrive. It does not say which ones, so a call may have run.
    pub(crate) fn from_undelivered(address: &str, error: &io::Error) -> Error {
        let text = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("nothing listens at {address}, says its machine: {error}")
            }
            _ => format!("cannot send to {address}: {error}"),
        };
        Error::new(kind_of_link(error), text)
    }

    /// Translates the error of a failed attempt to listen.
    pub(crate) fn from_listen(address: &Address, error: &io::Error) -> Error {
        let text = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen at {address}: another listens there")
            }
            _ => format!("cannot listen at {address}: {error}"),
        };
        Error::new(ErrorKind::Address, text)
    }
}

/// The kind of an error of the system about a link.
fn kind_of_link(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ErrorKind::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            ErrorKind::NetworkUnreachable
        }
        io::ErrorKind::TimedOut => ErrorKind::ConnectionTimeout,
        io::ErrorKind::InvalidInput => ErrorKind::Address,
        _ => ErrorKind::Transport,
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
            other => Error::new(ErrorKind::Cancelled, other.to_string()),
        }
    }
}

/// An error that came over the wire: any value. yue sends `[code, message, {type, traceback, retryable, value}]`.
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::Error;
///
/// yue_io::run(|| -> Result<(), Error> {
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
/// })??;
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

    /// The number, if the error has yue's form, or is an array that begins with a number.
    pub fn code(&self) -> Option<i64> {
        self.element(0)?.read_int()
    }

    /// The name of the type that the peer sent.
    pub fn type_name(&self) -> Option<String> {
        Some(self.data("type")?.read_str()?.to_owned())
    }

    /// The peer's traceback, if it sent one.
    pub fn traceback(&self) -> Option<String> {
        Some(self.data("traceback")?.read_str()?.to_owned())
    }

    /// The raised value in msgpack, if the handler raised anything but a string. For a foreign error that is neither a
    /// string nor `[code, message]` this is the whole error.
    pub fn value(&self) -> Option<&[u8]> {
        if self.is_foreign() {
            return Some(self.bytes());
        }
        self.data("value")?.read_raw()
    }

    /// Whether the error holds more than message and details can express.
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

    /// Whether the peer says that the call can be repeated.
    pub fn retryable(&self) -> bool {
        self.data("retryable")
            .and_then(|mut reader| reader.read_bool())
            .unwrap_or(false)
    }

    /// The message, or the closest thing to one that a foreign error has.
    pub fn message(&self) -> String {
        let text = self
            .element(1)
            .and_then(|mut reader| reader.read_str().map(str::to_owned));
        let whole = Reader::new(self.bytes());
        let text = text.or_else(|| { whole }.read_str().map(str::to_owned));
        let named = |key| Some(whole.find_key(key)?.read_str()?.to_owned());
        let text = text.or_else(|| named("message")).or_else(|| named("msg"));
        text.unwrap_or_else(|| "the peer answered with an error of an unknown form".to_owned())
    }

    /// The node of the tree: by the type's name, else by the number, else `RPCError`.
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
            // All but one are failures of calls.
            assert_eq!(kind.is_a(ErrorKind::Rpc), kind != ErrorKind::Allocation);
        }
    }

    #[test]
    fn the_tree_is_walked_upwards_only() {
        assert!(ErrorKind::ConnectionLost.is_a(ErrorKind::Client));
        assert!(!ErrorKind::Client.is_a(ErrorKind::ConnectionLost));
        assert!(!ErrorKind::ServerBusy.is_a(ErrorKind::Client));
    }
}
