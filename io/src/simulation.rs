//! The network of a simulation: its hosts and links, and what happens to them.
//!
//! A [simulation](yue_scheduler::simulation) runs a program's threads in virtual time. On its threads, every socket of
//! this crate belongs to a simulated network, and every loop to a driver of it. The functions here, called on such a
//! thread, shape that network. `yue::sim` is the convenient way to use them.
//!
//! Simulated: TCP, UDP, Unix stream and datagram sockets, with the buffers, backlogs and errors of Linux. Not
//! simulated: files, pipes, child processes, signals, multicast, and the passing of descriptors.

use crate::simulated::{self, with_network};
use std::net::IpAddr;

pub use simulated::{Happened, Link, Record};

/// Adds a host with this address, and returns its number. Host 0, the scenario's own, exists from the beginning.
///
/// # Panics
/// On a thread that belongs to no simulation; like all functions of this module.
pub fn add_host(address: IpAddr) -> u32 {
    with_network(|network| network.add_host(&[address]))
}

/// Gives a host another address.
pub fn add_address(host: u32, address: IpAddr) {
    with_network(|network| network.add_address(host, address));
}

/// Names an address: `name:80` then resolves to it.
pub fn add_name(name: &str, address: IpAddr) {
    simulated::add_name(name, address);
}

/// Sets the link between all pairs of hosts that have none of their own.
pub fn set_default_link(link: Link) {
    with_network(|network| network.set_default_link(link));
}

/// Sets the link between two hosts.
pub fn set_link(one: u32, other: u32, link: Link) {
    with_network(|network| network.set_link(one, other, link));
}

/// Returns the link between two hosts, or of a host to itself.
pub fn link(one: u32, other: u32) -> Link {
    with_network(|network| network.link(one, other))
}

/// Loses all packets between two hosts until [`heal`].
pub fn partition(one: u32, other: u32) {
    with_network(|network| network.partition(one, other));
}

/// Loses all packets from one host to another until [`heal`].
pub fn partition_one_way(from: u32, to: u32) {
    with_network(|network| network.partition_one_way(from, to));
}

/// Ends the partition of two hosts.
pub fn heal(one: u32, other: u32) {
    with_network(|network| network.heal(one, other));
}

/// Resets all TCP connections between two hosts.
pub fn reset_connections(one: u32, other: u32) {
    with_network(|network| network.reset_connections(one, other));
}

/// Switches a host off: its sockets vanish, and nobody is notified. New ones are refused until [`restart`].
pub fn crash(host: u32) {
    with_network(|network| network.crash_host(host));
}

/// Lets a host that has crashed have sockets again.
pub fn restart(host: u32) {
    with_network(|network| network.restart(host));
}

/// Whether a host has crashed and was not restarted.
pub fn is_down(host: u32) -> bool {
    with_network(|network| network.is_down(host))
}

/// Lets packets to a host, and its timers, wait until [`thaw`].
pub fn freeze(host: u32) {
    with_network(|network| network.freeze(host));
}

/// Ends the wait of a frozen host.
pub fn thaw(host: u32) {
    with_network(|network| network.thaw(host));
}

/// Sets the probabilities that a read or a write of a host's stream transfers fewer bytes than it could.
pub fn set_short_transfers(host: u32, read: f64, write: f64) {
    with_network(|network| network.set_short_transfers(host, read, write));
}

/// Records what happens from now on, for [`take_trace`].
pub fn keep_trace() {
    with_network(|network| network.keep_trace());
}

/// The number of records that [`take_trace`] would return.
pub fn trace_length() -> usize {
    with_network(|network| network.trace_length())
}

/// Returns what has happened since the last call, in order.
pub fn take_trace() -> Vec<Record> {
    with_network(|network| network.take_trace())
}
