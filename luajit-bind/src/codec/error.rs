//! Errors of the codec, each with its location.

/// A value that cannot be encoded; the buffer is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot send {path}: {fault}")]
pub struct EncodeError {
    /// The path of the value, such as `args[2].items[7]`.
    pub path: String,
    /// The fault.
    pub fault: EncodeFault,
}

/// The reason why a value cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFault {
    /// The table contains itself.
    #[error("the table contains itself")]
    Cycle,
    /// More levels of tables than the limit.
    #[error("tables are nested deeper than {0} levels")]
    TooDeep(u32),
    /// A value of this type has no form on the wire.
    #[error("a {0} has no form on the wire")]
    Unsupported(&'static str),
    /// The connection takes no function references (the peer is not a yue peer, or there is no peer).
    #[error("a function cannot be sent here: the peer does not support function references")]
    FunctionRefused,
    /// The table of references has no room for one more function: make room, and encode again.
    #[error("there is no memory for another function reference")]
    NoRoom,
    /// The peer holds the maximum number of functions.
    #[error("the peer would hold more than {0} functions, the limit")]
    TooManyFunctions(usize),
    /// The reason that the table of references returned.
    #[error("{0}")]
    Refused(&'static str),
}

/// Invalid bytes; `at` is the offset of the faulty value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("the message ends in the middle of the value at byte {at}")]
    Truncated {
        /// Offset of the value's first byte.
        at: usize,
    },
    /// 0xc1, which msgpack never uses.
    #[error("byte {at} is 0xc1, which begins no value")]
    BadMarker {
        /// Its offset.
        at: usize,
    },
    /// More levels of arrays and maps than the limit.
    #[error("nested deeper than {limit} levels at byte {at}")]
    TooDeep {
        /// Offset of the array or map that exceeds the limit.
        at: usize,
        /// The limit.
        limit: u32,
    },
    /// The values would take more memory than the limit.
    #[error(
        "the values up to byte {at} take more than {limit} bytes of memory, the limit for one message"
    )]
    TooLarge {
        /// Offset of the value that exceeds the limit.
        at: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many map keys have the same hash: a table of them would be unusably slow.
    #[error("the map key at byte {at} collides with too many other keys")]
    Crowded {
        /// Offset of the key.
        at: usize,
    },
    /// A map key that Lua cannot have: nil or NaN.
    #[error("the map key at byte {at} is nil or NaN")]
    BadKey {
        /// Offset of the key.
        at: usize,
    },
    /// More values side by side than a Lua stack holds.
    #[error("{count} values are more than a call can take")]
    TooManyValues {
        /// The number of values.
        count: u32,
    },
    /// A malformed reference.
    #[error("the reference at byte {at} is malformed")]
    BadReference {
        /// Offset of its body.
        at: usize,
    },
    /// A reference whose id is unknown.
    #[error("the reference {id} at byte {at} is unknown here")]
    UnknownReference {
        /// Offset of its body.
        at: usize,
        /// Its id.
        id: u64,
    },
    /// Bytes after the last value.
    #[error("{count} bytes are left over at byte {at}")]
    LeftOver {
        /// Offset of the first of them.
        at: usize,
        /// The number of bytes.
        count: usize,
    },
}
