//! The faults of bytes that are not a message.

/// The reason why bytes are not a message. The connection must end: the start of the next message is unknown.
///
/// ```
/// use yue_rpc::{CloseReason, ProtocolError};
///
/// // The reason that a hook receives when a browser connects to the port.
/// let error = ProtocolError::NotAMessage { byte: b'G' };
/// let reason = CloseReason::Protocol { error, received: "GET / HTTP/1.1".to_owned() };
/// assert_eq!(
///     reason.to_string(),
///     "the bytes are not a msgpack-rpc message (0x47 where one begins): received \"GET / HTTP/1.1\"",
/// );
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The bytes do not begin a msgpack-rpc message.
    #[error("the bytes are not a msgpack-rpc message (0x{byte:02x} where one begins)")]
    NotAMessage {
        /// The first byte that does not fit.
        byte: u8,
    },
    /// An element of the message has a type that the protocol does not allow there.
    #[error("a message's {element} is invalid")]
    WrongType {
        /// The element's name in the protocol.
        element: &'static str,
    },
    /// The message is larger than the limit, or claims to be.
    #[error("a message is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The limit in force.
        limit_bytes: usize,
    },
    /// Arrays or maps are nested deeper than the limit.
    #[error("a message is nested deeper than the limit of {limit}")]
    TooDeep {
        /// The limit in force.
        limit: usize,
    },
    /// A message began and was not completed in time.
    #[error("a message began, but did not grow by 1 KiB in {} s", limit.as_secs_f64())]
    Unfinished {
        /// The time limit.
        limit: std::time::Duration,
    },
    /// A part of an answer that is sent in parts does not fit.
    #[error("a chunk {fault}")]
    Chunk {
        /// The fault, as the predicate of a sentence.
        fault: &'static str,
    },
    /// The byte 0xc1, which msgpack never uses.
    #[error("a message contains the byte 0xc1, which msgpack does not use")]
    ReservedByte,
}
