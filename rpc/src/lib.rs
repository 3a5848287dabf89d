//! Symmetric, pipelined msgpack-rpc on fibers.
//!
//! Two programs, or two loops of one program, share a connection, and each calls what the other offers: a call is one
//! line, parks its fiber until the answer is there, and may be answered by a handler that calls back meanwhile.
//!
//! ```text
//!   typed/       serde on both sides: Server, Client
//!   listener.rs  accepts connections as sessions
//!   session/     one connection over as many links as it takes: calls, requests, handshake, limits
//!   transport/   sockets, threads, memory
//!   proto/       bytes in, messages out; no I/O
//! ```
//!
//! The wire is plain msgpack-rpc, with extensions that are used only between peers that know them.

pub mod address;
pub mod buffer;
pub mod error;
mod listener;
pub mod proto;
pub mod session;
pub mod transport;
pub mod typed;

pub use address::{Address, AddressError};
pub use buffer::Response;
pub use error::{Error, ErrorKind, LocalError, RemoteError};
pub use listener::Listener;
pub use session::{Options, Service, Session, Target, Timeout, peer};
pub use yue_io::net::ListenOptions;
