//! Symmetric, pipelined msgpack-rpc on fibers

pub mod address;
pub mod buffer;
pub mod error;
pub mod proto;
pub mod session;
pub mod transport;

pub use address::{Address, AddressError};
pub use buffer::Response;
pub use error::{Error, ErrorKind, LocalError, RemoteError};
pub use session::{Options, Service, Session, Target, Timeout, peer};
