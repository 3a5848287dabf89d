//! Symmetric, pipelined msgpack-rpc on fibers

pub mod address;
pub mod buffer;
pub mod error;
pub mod proto;

pub use address::{Address, AddressError};
pub use buffer::Response;
pub use error::{Error, ErrorKind, LocalError, RemoteError};
