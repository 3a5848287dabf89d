//! The failure of a handler or of a hook, on its way to the peer.

use crate::error::{Error, ErrorKind};
use crate::proto::encode::ErrorValue;
use crate::text::{TEXT_MAX, cut};

/// The failure of a handler, as it travels to the caller.
///
/// A handler of [`typed`](crate::typed) returns it as its error; strings, and errors of calls, convert by `?` or
/// `into()`.
///
/// ```
/// use yue_rpc::{ErrorKind, Failure};
///
/// let parse = |text: &str| -> Result<i64, Failure> {
///     text.parse().map_err(|_| Failure::of_kind(ErrorKind::Argument, format!("'{text}' is not a number")))
/// };
/// assert_eq!(parse("42").unwrap(), 42);
/// assert_eq!(parse("x").unwrap_err().type_name, "ArgumentError");
/// assert_eq!(Failure::from("out of eggs").code, ErrorKind::Runtime.code());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The number of the type.
    pub code: i64,
    /// The type's name.
    pub type_name: String,
    /// The message.
    pub message: String,
    /// Whether the call can be repeated without the risk that it runs twice.
    pub retryable: bool,
    /// The traceback.
    pub traceback: Option<String>,
    /// The raised value in msgpack (one value), if it was not a string.
    pub value: Option<Vec<u8>>,
}

impl Failure {
    /// A failure of a known kind. A message of more than 64 KiB is cut.
    pub fn of_kind(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure {
            code: kind.code(),
            type_name: kind.name().to_owned(),
            message: match message.into() {
                long if long.len() > TEXT_MAX => cut(&long, TEXT_MAX).into_owned(),
                message => message,
            },
            retryable: false,
            traceback: None,
            value: None,
        }
    }

    /// A failure of the handler itself: `RuntimeError`.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure::of_kind(ErrorKind::Runtime, message)
    }

    /// Appends it as one msgpack value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        ErrorValue {
            code: self.code,
            message: &self.message,
            type_name: &self.type_name,
            retryable: self.retryable,
            traceback: self.traceback.as_deref(),
            value: self.value.as_deref(),
        }
        .encode(out);
    }
}

impl From<Error> for Failure {
    /// A failed onward call, passed on unchanged.
    fn from(error: Error) -> Failure {
        let mut failure = Failure::of_kind(error.kind(), error.message());
        failure.code = error.code();
        if let Error::Remote(remote) = &error {
            failure.type_name = remote.type_name().unwrap_or(failure.type_name);
            let cut = |text: String| cut(&text, TEXT_MAX).into_owned();
            failure.traceback = remote.traceback().map(cut);
            failure.value = remote.value().map(<[u8]>::to_vec);
        }
        failure
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::new(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Failure {
        Failure::new(message)
    }
}

impl From<yue_scheduler::Stopped> for Failure {
    fn from(stopped: yue_scheduler::Stopped) -> Failure {
        Failure::from(Error::from(stopped))
    }
}
