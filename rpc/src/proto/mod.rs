//! The protocol without I/O: bytes in, messages out; messages in, bytes out. See `docs/` for the wire itself.
//!
//! ```text
//!   bytes ──▶ Scanner ──▶ Frame (where the message and its elements are) ──▶ Message<'_> (slices of those bytes)
//!   Vec<u8> ◀── encode::request / response / error_response / notification
//! ```
//!
//! Nothing here panics on any bytes or allocates by a length that a peer claims. Each byte is examined at most a
//! constant number of times, however the bytes are cut.

pub mod encode;
mod error;
pub mod message;
pub mod scan;
pub mod value;

pub use error::ProtocolError;
pub use message::{Message, Method, Params};
pub use scan::{Frame, ScanLimits, Scanner};

#[cfg(test)]
mod tests;
