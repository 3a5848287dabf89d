//! HTTP: the natives under `yue.http`.
//!
//! ```text
//!   client.rs   requests to servers, and connections that are kept for the next ones
//!   server.rs   listeners whose requests Lua answers, in the fibers of their connections
//!   answer.rs   the answers of such a request
//!   files.rs    files that are served
//! ```

mod answer;
mod client;
mod files;
mod server;

#[cfg(feature = "ws")]
pub(crate) use server::address_of;

use yue_luajit::Stack;

/// Stops listening, at the end of the program: connections end after the requests that they serve.
pub(crate) fn stop_listening() {
    server::stop_listening();
}

/// The number of connections of servers that have not ended.
pub(crate) fn open_connections() -> usize {
    server::open_connections()
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    client::clear();
    files::clear();
    server::clear();
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    client::register_all(stack);
    server::register_all(stack);
    answer::register_all(stack);
    files::register_all(stack);
}
