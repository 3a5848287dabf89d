//! Sockets: the natives under `yue.net`.
//!
//! ```text
//!   stream.rs    a stream, over TCP, Unix sockets or TLS       streams.rs   its natives, connecting
//!   listener.rs  listeners                                    datagrams.rs UDP sockets
//!   chunk.rs     received bytes on their way to Lua           closing.rs   ends the waits of a closed socket
//!   address.rs   addresses as texts                           tls.rs       TLS; no_tls.rs without that feature
//! ```
//!
//! A socket belongs to its loop, and Lua knows it by a number. Each operation waits in the fiber that calls it, borrows
//! the socket meanwhile, and ends when another fiber closes the socket.

mod address;
mod chunk;
mod closing;
mod datagrams;
mod listener;
mod stream;
mod streams;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;

use yue_luajit::Stack;

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    streams::clear();
    listener::clear();
    datagrams::clear();
    chunk::clear();
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    streams::register_all(stack);
    listener::register_all(stack);
    datagrams::register_all(stack);
}
