//! The reasons why a link ends, and the errors of the calls that end with it.

use crate::error::{Error, ErrorKind};
use crate::proto::ProtocolError;
use crate::text::{SHARED_TEXT_MAX, cut};
use crate::transport::Ending;
use std::fmt;

/// The reason why a link ended.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::Session;
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{CloseReason, Error, Hooks, Moment, Retry};
///
/// struct Log(yue_scheduler::sync::local::Sender<String>);
///
/// impl Hooks for Log {
///     fn wants(&self, moment: Moment) -> bool {
///         moment == Moment::Close
///     }
///
///     fn on_close(&self, _session: &Session, reason: &CloseReason) -> Retry {
///         drop(self.0.try_send(reason.to_string()));
///         Retry::Default
///     }
/// }
///
/// yue_io::run(|| -> Result<(), Error> {
///     let (sender, log) = yue_scheduler::sync::local::channel(1);
///     let server = Server::new().hooks(Rc::new(Log(sender))).handler("ping", |()| Ok(()));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     client.call::<_, ()>("ping", ())?;
///     drop(client);
///     assert_eq!(log.recv().unwrap(), "closed by the peer");
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    Local,
    /// The peer ended it in order.
    Peer,
    /// The peer ended it, and sent the reason.
    PeerBecause(String),
    /// It broke: the system's error.
    Lost(String),
    /// The process that the peer ran in has ended: which, and how.
    ProcessEnded(String),
    /// The server did not grant the connection: its error, on both sides.
    Refused(Error),
    /// The peer sent bytes that violate the protocol or the limits.
    Protocol {
        /// The fault.
        error: ProtocolError,
        /// The beginning of what it sent instead of a message, in printable characters.
        received: String,
    },
    /// The handshake took longer than the limit.
    HandshakeTimeout,
    /// The peer read nothing for too long.
    Stalled,
    /// The peer read too slowly for the notifications that were sent to it.
    TooSlow,
    /// The peer called too often, and continued after refusals.
    TooManyCalls,
    /// A hook failed: its message.
    HookFailed(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Local => f.write_str("closed by this side"),
            CloseReason::Peer => f.write_str("closed by the peer"),
            CloseReason::PeerBecause(why) => write!(f, "closed by the peer: {why}"),
            CloseReason::Lost(what) => write!(f, "the link broke: {what}"),
            CloseReason::ProcessEnded(how) => f.write_str(how),
            CloseReason::Refused(error) => {
                write!(f, "the connection was not granted: {}", error.message())
            }
            CloseReason::Protocol { error, received } => {
                write!(f, "{error}: received \"{received}\"{}", tls_hint(received))
            }
            CloseReason::HandshakeTimeout => f.write_str("the handshake took too long"),
            CloseReason::Stalled => f.write_str("the peer reads nothing"),
            CloseReason::TooSlow => f.write_str("too slow"),
            CloseReason::TooManyCalls => f.write_str("too many calls"),
            CloseReason::HookFailed(what) => {
                write!(f, "a callback of the connection failed: {what}")
            }
        }
    }
}

/// Explains bytes of TLS on a link without it: a client's handshake, or a server's alert (RFC 8446, 5.1 and 6).
fn tls_hint(received: &str) -> &'static str {
    if received.starts_with(r"\x16\x03") {
        ", the beginning of a TLS handshake: the peer must use tcp://, or this side must listen at tls://"
    } else if received.starts_with(r"\x15\x03") {
        ", a TLS alert: the peer speaks TLS, so use tls://"
    } else {
        ""
    }
}

impl CloseReason {
    /// The kind of reason, for transports that send one to the peer.
    pub(super) fn ending(&self) -> Ending {
        match self {
            CloseReason::Protocol {
                error: ProtocolError::TooLarge { .. },
                ..
            } => Ending::TooLarge,
            CloseReason::Protocol { .. } => Ending::Protocol,
            CloseReason::Refused(_)
            | CloseReason::HandshakeTimeout
            | CloseReason::Stalled
            | CloseReason::TooSlow
            | CloseReason::TooManyCalls => Ending::Policy,
            CloseReason::HookFailed(_) => Ending::Failure,
            CloseReason::Local
            | CloseReason::Peer
            | CloseReason::PeerBecause(_)
            | CloseReason::Lost(_)
            | CloseReason::ProcessEnded(_) => Ending::Ordinary,
        }
    }

    /// The error of a call that was written before the link ended.
    pub(super) fn as_lost_call(&self, retryable: bool) -> Error {
        let text = format!("the connection was lost before the answer came: {self}");
        let text = cut(&text, SHARED_TEXT_MAX);
        if retryable || yue_scheduler::planted!("written call called retryable") {
            Error::retryable(ErrorKind::ConnectionLost, text)
        } else {
            Error::new(ErrorKind::ConnectionLost, text)
        }
    }

    /// The error of a call that was still waiting for a link.
    pub(super) fn as_unsent_call(&self) -> Error {
        let text = match self {
            // Not by the server's hook, but by the link.
            CloseReason::Refused(error) if error.kind() == ErrorKind::Tls => return error.clone(),
            CloseReason::Refused(error) => {
                format!(
                    "the server did not grant the connection: {}",
                    error.message()
                )
            }
            CloseReason::HandshakeTimeout | CloseReason::HookFailed(_) => {
                format!("the connection was not granted: {self}")
            }
            CloseReason::Protocol { .. } => {
                let text = format!("the peer does not speak msgpack-rpc: {self}");
                let text = cut(&text, SHARED_TEXT_MAX);
                return Error::retryable(ErrorKind::ConnectionLost, text);
            }
            _ => return self.as_lost_call(true),
        };
        Error::retryable(ErrorKind::NotGranted, cut(&text, SHARED_TEXT_MAX))
    }
}
