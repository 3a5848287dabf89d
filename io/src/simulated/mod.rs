//! The network of a simulated system, as its kernels would show it: hosts, links, sockets, and their faults. The disks
//! of the hosts are a system of their own, in [`files`].
//!
//! ```text
//!   calls (socket, bind, connect, send, recv, …)          poller: take_events
//!        │                                                     ▲
//!        ▼                                                     │ edges
//!   descriptors ──▶ sockets: tcp/  unix.rs  udp.rs  unix_datagram.rs
//!                      │ packets            ▲ packets
//!                      ▼                    │
//!                 links.rs (latency, loss, partitions) ──▶ events.rs (by time) ──▶ advance
//! ```
//!
//! Invariants:
//! - The network is plain data. It reads no clock, no random numbers of the system and no thread-locals: the caller
//!   passes the virtual time, and the seed decides the rest. The same calls at the same times have the same results.
//! - No call blocks. A call that would have to wait returns `EAGAIN` or `EINPROGRESS`, like a kernel's call on a
//!   non-blocking descriptor, and a later event makes the socket ready.
//! - Every table is ordered, so that no iteration depends on a hash.
//! - Memory is bounded by what the sockets may buffer: queues and buffers have the kernel's limits.
//!
//! ```text
//!   network.rs    the network, its time and events    events.rs     the queue of events
//!   hosts.rs      hosts: crash, restart, freeze       links.rs      links between hosts, partitions, routing
//!   sockets.rs    descriptors, sockets, closing       options.rs    socket options
//!   address.rs    addresses                           binding.rs    names, ports, conflicts
//!   calls.rs      send, recv, connect, accept, …      readiness.rs  pollers, levels and edges
//!   tcp/          TCP connections and listeners       unix.rs       Unix stream sockets
//!   udp.rs        UDP sockets                         unix_datagram.rs  Unix datagram sockets
//!   buffer.rs     bytes between calls                 trace.rs      the record of what happened
//!   environment.rs  the network of this thread, and its loops    system_calls.rs  the calls of `sys`
//!   errors.rs     the errors of calls             files/        the disks
//! ```

mod address;
mod binding;
mod buffer;
mod calls;
mod environment;
mod errors;
mod events;
pub(crate) mod files;
mod hosts;
mod links;
mod network;
mod options;
mod readiness;
mod sockets;
mod system_calls;
mod tcp;
mod trace;
mod udp;
mod unix;
mod unix_datagram;

pub(crate) use address::Address;
pub(crate) use environment::{
    Poller, add_name, block_until_ready, close, duplicate, is_on, look_up, new_socket, open_pair,
    open_socket, remove_socket, with_network,
};
pub(crate) use errors::unsupported;
pub use hosts::NetworkFaults;
pub use links::Link;
pub(crate) use options::Keepalive;
pub(crate) use system_calls::{
    kind_of, level, peer_credentials, recv, recv_message, recv_messages, send, send_message,
    send_messages,
};
pub use trace::{Happened, Record};

#[cfg(test)]
mod tests;
