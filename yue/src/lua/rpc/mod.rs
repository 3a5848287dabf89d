//! Remote calls in Lua: connections and listeners, calls, requests that are served, functions as values.
//!
//! ```text
//!   endpoints.rs    open, listen                        dispatch.rs          serving requests, callbacks
//!   options.rs      options of both                     lookup.rs            the function that a request names
//!   ports.rs        protocols that share a port
//!   service.rs      a namespace and its settings        failures.rs          what handlers raise, logged and sent
//!   connections.rs  connections by number               methods.rs           counters of methods
//!   calls.rs        calling: the hot path               async_calls.rs       calls with futures
//!   messages.rs     values in messages
//!   references.rs   functions in messages               remote_functions.rs  the peer's functions in Lua
//!   imports.rs      the peer's functions, by slot       groups.rs            sets of connections
//!   traces.rs       traces and call chains
//! ```

pub(crate) mod async_calls;
pub(crate) mod calls;
pub(crate) mod connections;
pub(crate) mod dispatch;
pub(crate) mod endpoints;
pub(crate) mod failures;
pub(crate) mod groups;
pub(crate) mod imports;
pub(crate) mod lookup;
pub(crate) mod messages;
pub(crate) mod methods;
pub(crate) mod options;
pub(crate) mod ports;
pub(crate) mod references;
pub(crate) mod remote_functions;
pub(crate) mod service;
pub(crate) mod traces;

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    groups::clear();
    connections::clear();
    async_calls::clear();
    lookup::clear();
}
