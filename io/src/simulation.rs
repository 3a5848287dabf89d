//! The network and the disks of a simulation: its hosts and links, and what happens to them.
//!
//! A [simulation](yue_scheduler::simulation) runs a program's threads in virtual time. On its threads, every socket of
//! this crate belongs to a simulated network, every file to the disk of its host, and every loop to a driver of them.
//! The functions here, called on such a thread, shape both. `yue::sim` is the convenient way to use them.
//!
//! Simulated: TCP, UDP, Unix stream and datagram sockets, with the buffers, backlogs and errors of Linux; files,
//! directories and their watches, with what a power failure leaves of them. Not simulated: pipes, child processes,
//! signals, multicast, and the passing of descriptors.

use crate::simulated::{self, files, with_network};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use files::{DiskFaults, DiskLatency, PlannedCrash};
pub use simulated::{Happened, Link, NetworkFaults, Record};

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

/// Switches a host off: its sockets vanish, and nobody is notified. New ones are refused until [`restart`]. Its disk
/// keeps what is durable, and any part of what is not.
pub fn crash(host: u32) {
    with_network(|network| network.crash_host(host));
    files::crash(host);
}

/// Lets a host that has crashed have sockets again, and its files.
pub fn restart(host: u32) {
    with_network(|network| network.restart(host));
    files::restart(host);
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

/// Sets the probabilities that calls on a host's sockets fail.
pub fn set_network_faults(host: u32, faults: NetworkFaults) {
    with_network(|network| network.set_faults(host, faults));
}

/// Returns the probabilities of [`set_short_transfers`].
pub fn short_transfers(host: u32) -> (f64, f64) {
    with_network(|network| network.short_transfers(host))
}

/// Returns the probabilities of [`set_network_faults`].
pub fn network_faults(host: u32) -> NetworkFaults {
    with_network(|network| network.faults(host))
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

/// Sets the probabilities that operations of a host's disk fail.
pub fn set_disk_faults(host: u32, faults: DiskFaults) {
    files::set_faults(host, faults);
}

/// Sets the time that operations of a host's disk take.
pub fn set_disk_latency(host: u32, latency: DiskLatency) {
    files::set_latency(host, latency);
}

/// Returns the probabilities that operations of a host's disk fail.
pub fn disk_faults(host: u32) -> DiskFaults {
    files::faults_of(host)
}

/// Returns the time that operations of a host's disk take.
pub fn disk_latency(host: u32) -> DiskLatency {
    files::latency_of(host)
}

/// Sets the space of a host's disk in bytes. There is no limit at the beginning.
pub fn set_disk_capacity(host: u32, bytes: u64) {
    files::set_capacity(host, bytes);
}

/// Lets nothing more fit on a host's disk: writes that take space fail with `ENOSPC`. With false, there is the space of
/// its [capacity](set_disk_capacity) again.
pub fn set_disk_full(host: u32, is_full: bool) {
    files::set_full(host, is_full);
}

/// Lets all operations of a host's disk wait until [`thaw_disk`].
pub fn freeze_disk(host: u32) {
    files::set_frozen(host, true);
}

/// Ends the wait of a frozen disk.
pub fn thaw_disk(host: u32) {
    files::set_frozen(host, false);
}

/// The number of operations that a host's disk has begun.
pub fn disk_operations(host: u32) -> u64 {
    files::operations(host)
}

/// Lets the `nth` operation from now on a host's disk fail with `EIO`; 1 is the next one.
pub fn fail_at_operation(host: u32, nth: u64) {
    files::fail_at_operation(host, nth);
}

/// Lets a host crash at the `nth` operation from now on its disk; 1 is the next one. The operation may have been done,
/// but nobody learns of its outcome.
pub fn crash_at_operation(host: u32, nth: u64) -> PlannedCrash {
    files::crash_at_operation(host, nth)
}

/// Creates a durable file on a host's disk, with the directories above it, or replaces its contents.
///
/// # Errors
/// When there is something else at the path.
pub fn write_file(host: u32, path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::write_file(host, path, bytes)
}

/// Reads a file of a host's disk, as its processes would.
///
/// # Errors
/// When there is no such file.
pub fn read_file(host: u32, path: &Path) -> io::Result<Vec<u8>> {
    files::read_file(host, path)
}

/// The files of a host's disk by their paths, as its processes see them.
pub fn files(host: u32) -> BTreeMap<PathBuf, Vec<u8>> {
    files::files(host)
}

/// The files of a host's disk as a crash would leave them that loses all that may be lost.
pub fn durable_files(host: u32) -> BTreeMap<PathBuf, Vec<u8>> {
    files::durable_files(host)
}
