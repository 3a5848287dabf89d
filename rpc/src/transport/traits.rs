//! The interface between a session and its transport.

use crate::error::{Error, ErrorKind};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Bytes that arrived.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// The transport's own memory, to be copied.
    Borrowed(&'a [u8]),
    /// A buffer to keep.
    Owned(Vec<u8>),
}

/// The sending side of a link. None of its methods wait.
///
/// A transport that wraps another one and counts its bytes:
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use yue_rpc::transport::Transport;
///
/// struct Metered {
///     inner: Rc<dyn Transport>,
///     bytes: Cell<usize>,
/// }
///
/// impl Transport for Metered {
///     fn send(&self, buffer: Vec<u8>) {
///         self.bytes.set(self.bytes.get() + buffer.len());
///         self.inner.send(buffer);
///     }
///
///     fn queued_bytes(&self) -> usize {
///         self.inner.queued_bytes()
///     }
///
///     fn notify_when_sent(&self) {
///         self.inner.notify_when_sent();
///     }
///
///     fn set_reading(&self, on: bool) {
///         self.inner.set_reading(on);
///     }
///
///     fn shutdown_write(&self) {
///         self.inner.shutdown_write();
///     }
///
///     fn close(&self) {
///         self.inner.close();
///     }
/// }
/// ```
pub trait Transport {
    /// Queues a buffer; buffers are sent in order. The buffer comes back through [`Events::sent`].
    fn send(&self, buffer: Vec<u8>);

    /// Bytes queued and not yet sent: the measure of how far the peer lags behind.
    fn queued_bytes(&self) -> usize;

    /// The session waits for room: from now on [`Events::sent`] must be called whenever bytes are sent, even without a
    /// buffer to return. Transports that always call it need not do anything.
    fn notify_when_sent(&self) {}

    /// Whether each buffer travels as a datagram, which may be lost, or arrive twice or out of order. The session then
    /// sends one message in a buffer, speaks plain msgpack-rpc, and drops what it cannot accept instead of ending the
    /// link. By default it is a stream.
    fn is_datagram(&self) -> bool {
        false
    }

    /// Pauses or resumes reading. Bytes that were read already may still arrive.
    fn set_reading(&self, on: bool);

    /// Ends the sending direction after all queued bytes. The other direction stays open.
    fn shutdown_write(&self);

    /// The time after which a silent yue peer, one that does not even answer a ping, counts as lost. `None`, the
    /// default: the transport itself notices when its peer is gone.
    fn silence_max(&self) -> Option<Duration> {
        None
    }

    /// The name of the peer that the link itself has verified, such as the one in a TLS certificate. `None`, the
    /// default: it verifies none.
    fn peer_name(&self) -> Option<String> {
        None
    }

    /// The process of the peer, as the kernel tells it: over Unix sockets, the one that connected. `None`, the default:
    /// not known.
    fn peer_process(&self) -> Option<u32> {
        None
    }

    /// Pings the peer, in a transport whose protocol has pings of its own.
    fn ping(&self) {}

    /// The number of signs of life without data that the peer has sent, such as answers to pings. `None`, the default:
    /// the transport has no pings.
    fn signs_of_life(&self) -> Option<u64> {
        None
    }

    /// Called before `shutdown_write` or `close`, with the reason. Transports whose protocol has room for it send the
    /// first one that they are given. `text` may be empty.
    fn explain_end(&self, _ending: Ending, _text: &str) {}

    /// Ends the link in both directions and drops what is still queued. [`Events::closed`] follows.
    fn close(&self);
}

/// The kind of reason for which this side ends a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The connection has served its purpose.
    Ordinary,
    /// The peer violated the protocol.
    Protocol,
    /// The peer sent too large a message.
    TooLarge,
    /// The peer was refused, or violated a limit.
    Policy,
    /// This side failed.
    Failure,
}

/// The peer ended the link, and sent this reason. The error of [`Events::closed`] may carry it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClosedByPeer(pub String);

impl ClosedByPeer {
    /// The peer's reason in the error of a link, if there is one.
    pub(crate) fn of(error: &io::Error) -> Option<&ClosedByPeer> {
        error.get_ref()?.downcast_ref()
    }
}

/// The process that the peer ran in has ended, in the way that the text describes. The error of [`Events::closed`] may
/// carry it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProcessEnded(pub String);

impl ProcessEnded {
    /// The description in the error of a link, if there is one.
    pub(crate) fn of(error: &io::Error) -> Option<&ProcessEnded> {
        error.get_ref()?.downcast_ref()
    }
}

/// The events of a link, which its session receives on the loop, outside fibers.
///
/// A session implements them; a filter between session and link passes them on:
///
/// ```
/// use std::io;
/// use std::rc::Rc;
/// use yue_rpc::transport::{Events, Incoming};
///
/// /// Undoes the masking by the peer's filter.
/// struct Unmask(Rc<dyn Events>);
///
/// impl Events for Unmask {
///     fn data(&self, incoming: Incoming<'_>) {
///         let mut bytes = match incoming {
///             Incoming::Borrowed(bytes) => bytes.to_vec(),
///             Incoming::Owned(bytes) => bytes,
///         };
///         bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
///         self.0.data(Incoming::Owned(bytes));
///     }
///
///     fn sent(&self, buffer: Option<Vec<u8>>) {
///         self.0.sent(buffer);
///     }
///
///     fn closed(&self, result: io::Result<()>) {
///         self.0.closed(result);
///     }
/// }
/// ```
pub trait Events {
    /// The link's own handshake is complete, such as that of TLS. Called once, before any data, by links that have one.
    /// Such a link is passed to a session afterwards: it delivers nothing until it is first told to
    /// [read](Transport::set_reading). A session need not do anything.
    fn ready(&self) {}

    /// Bytes arrived.
    fn data(&self, incoming: Incoming<'_>);

    /// Bytes of one sender among many arrived, such as a member of a multicast group.
    fn data_from(&self, sender: SocketAddr, incoming: Incoming<'_>) {
        let _ = sender;
        self.data(incoming);
    }

    /// Bytes were sent. The buffer, emptied or not, is returned if there is one.
    fn sent(&self, buffer: Option<Vec<u8>>);

    /// The peer sends no more. `true` keeps the link open for sending; by default the queued bytes are sent, and then
    /// the link ends.
    fn end_of_input(&self) -> bool {
        false
    }

    /// Sent messages may not have arrived, for the reason given; the link stays. Calls in flight fail. Links of
    /// datagrams call it. A filter passes it on.
    fn undelivered(&self, error: io::Error) {
        let _ = error;
    }

    /// The link has dropped a datagram from the peer: it held no whole message, or the session does not read.
    fn dropped(&self) {}

    /// The link has ended, for the reason given; `Ok` if the peer ended it in order. An error that holds a
    /// [`LinkRefused`] means that another attempt would fail, too. Called once, and last.
    fn closed(&self, result: io::Result<()>);
}

/// The error of a link that was refused, and would be refused again: a certificate that is not trusted, a peer that
/// does not speak the link's protocol. Its calls fail at once. No other attempt is made before the next call, unless an
/// earlier link was lost.
///
/// ```
/// use std::io;
/// use yue_rpc::transport::LinkRefused;
/// use yue_rpc::{Error, ErrorKind};
///
/// let refused = LinkRefused::new(ErrorKind::Tls, "the server's certificate has expired");
/// let error = Error::from_connect("tls://example.org:443", &io::Error::from(refused));
/// assert_eq!(error.kind(), ErrorKind::Tls);
/// assert!(!error.is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LinkRefused {
    /// The kind of the error that calls get.
    pub kind: ErrorKind,
    /// A description of the reason, and of the remedy.
    pub message: String,
}

impl LinkRefused {
    /// A refusal of that kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> LinkRefused {
        LinkRefused {
            kind,
            message: message.into(),
        }
    }

    /// The refusal in the error of a link, if there is one.
    pub(crate) fn of(error: &io::Error) -> Option<&LinkRefused> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<LinkRefused> for io::Error {
    fn from(refused: LinkRefused) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, refused)
    }
}

/// Makes links to one address, one after another.
///
/// [The module](super) has an example of one that wraps another.
pub trait Connect {
    /// Makes a link. Runs in a fiber and may park.
    ///
    /// # Errors
    /// The reason why no link could be made, of the kinds below `TransportError`.
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error>;

    /// The address, for messages.
    fn address(&self) -> &str;

    /// The most bytes of a message that its links can carry. By default there is no limit.
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Whether its links lead to a group of peers, all of which may answer. By default they lead to one peer.
    fn is_group(&self) -> bool {
        false
    }
}
