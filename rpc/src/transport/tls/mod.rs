//! TLS over any link: `tls://` is TLS over TCP.
//!
//! `filter.rs` encrypts and decrypts between a session and the link below, by rustls. `server.rs` and `client.rs` turn
//! options into rustls's configurations, with `pem.rs`. `errors.rs` describes failed handshakes. `streams.rs` is for
//! streams that a program reads and writes itself.
//!
//! Another filter above, such as WebSocket's, is passed as the events of [`ServerTls::start`] or `ClientTls::start`. It
//! starts its own handshake, and begins to read, when it is `ready`.

mod client;
mod errors;
mod filter;
mod pem;
mod server;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use client::connector;
pub(crate) use server::ServerTls;
pub use streams::{TlsClient, TlsServer, describe_tls_error};
