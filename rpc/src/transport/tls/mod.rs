//! TLS over any link: `tls://` is TLS over TCP.
//!
//! `filter.rs` encrypts and decrypts between a session and the link below, by rustls. `settings.rs` turns options into
//! rustls's configurations, and renews a server's when its files change. `errors.rs` describes failed handshakes.

mod errors;
mod filter;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use settings::{ServerTls, connector};
