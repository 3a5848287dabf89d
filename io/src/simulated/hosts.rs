//! Hosts: their addresses, and what can happen to them as a whole.
//!
//! A host that *crashes* forgets its sockets without a word, like a machine without power: its peers learn of it when
//! they send to it after a restart (RST), or when nobody answers for long. A *frozen* host is a paused virtual machine:
//! its packets and timers wait until it is thawed.

use super::address::{Domain, UnixName, loopback};
use super::errors::os;
use super::events::{Content, Event, Packet, SocketId};
use super::network::Network;
use super::trace::Happened;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// The number of a host. The scenario itself is host 0, which has no address but its loopback.
pub(crate) type HostId = u32;

/// The protocols that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// Packets that a frozen host keeps: the queue of a virtual machine's network card. Further ones are lost.
const HELD_PACKETS: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) state: HostState,
    /// The sockets that use a port, by protocol and port.
    pub(super) ports: BTreeMap<(Protocol, u16), BTreeSet<SocketId>>,
    /// The Unix sockets by name. A path stays when its socket is closed, like its file; then it has no socket.
    pub(super) names: BTreeMap<UnixName, Option<SocketId>>,
    /// Packets that wait until the host is thawed.
    held: Vec<Packet>,
    /// Connections whose timers have run out meanwhile.
    held_timers: BTreeSet<SocketId>,
    pub(super) short_read: f64,
    pub(super) short_write: f64,
    faults: NetworkFaults,
}

/// The probabilities that calls on a host's sockets fail for want of resources. All are zero at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NetworkFaults {
    /// To create a socket fails: the process has too many descriptors (`EMFILE`).
    pub socket: f64,
    /// A connection is gone when it is accepted (`ECONNABORTED`).
    pub accept: f64,
    /// The kernel has no memory for what is sent: `ENOBUFS` for a UDP datagram, `ENOMEM` on a stream.
    pub send: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum HostState {
    #[default]
    Up,
    Frozen,
    Down,
}

impl Network {
    /// Adds a host with these addresses and returns its number.
    pub(crate) fn add_host(&mut self, addresses: &[IpAddr]) -> HostId {
        let host = self.hosts.len() as HostId;
        self.hosts.push(Host::default());
        for address in addresses {
            self.add_address(host, *address);
        }
        host
    }

    /// Adds an address to a host. An address that another host has moves to this one.
    pub(crate) fn add_address(&mut self, host: HostId, address: IpAddr) {
        let address = address.to_canonical();
        if let Some(before) = self.by_address.insert(address, host)
            && let Some(before) = self.hosts.get_mut(before as usize)
        {
            before.addresses.retain(|other| *other != address);
        }
        if let Some(host) = self.hosts.get_mut(host as usize) {
            host.addresses.push(address);
        }
    }

    /// Sets the probabilities that a read or a write on a stream of this host transfers less than it could.
    pub(crate) fn set_short_transfers(&mut self, host: HostId, read: f64, write: f64) {
        if let Some(host) = self.hosts.get_mut(host as usize) {
            (host.short_read, host.short_write) = (read, write);
        }
    }

    /// Sets the probabilities that calls of this host fail.
    pub(crate) fn set_faults(&mut self, host: HostId, faults: NetworkFaults) {
        if let Some(host) = self.hosts.get_mut(host as usize) {
            host.faults = faults;
        }
    }

    /// The probabilities that a read or a write on a stream of this host transfers less than it could.
    pub(crate) fn short_transfers(&self, host: HostId) -> (f64, f64) {
        let host = self.hosts.get(host as usize);
        host.map_or((0.0, 0.0), |host| (host.short_read, host.short_write))
    }

    /// The probabilities that calls of this host fail.
    pub(crate) fn faults(&self, host: HostId) -> NetworkFaults {
        let host = self.hosts.get(host as usize);
        host.map_or_else(NetworkFaults::default, |host| host.faults)
    }

    /// Whether a call of this host fails now.
    pub(super) fn is_faulty(&mut self, host: HostId, kind: fn(&NetworkFaults) -> f64) -> bool {
        let faults = self.hosts.get(host as usize).map(|host| host.faults);
        faults.is_some_and(|faults| self.random.chance(kind(&faults)))
    }

    /// Stops a host at once. Its sockets vanish; nobody is notified.
    pub(crate) fn crash_host(&mut self, host: HostId) {
        let Some(state) = self.hosts.get_mut(host as usize) else {
            return;
        };
        if state.state == HostState::Down {
            return;
        }
        state.state = HostState::Down;
        state.held.clear();
        state.held_timers.clear();
        let lost: Vec<SocketId> = (self.sockets.iter())
            .filter(|(_, socket)| socket.host == host)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.destroy(id);
        }
        self.record(Happened::Crashed, host, host, 0, 0);
    }

    /// Starts a host again after a crash. Its sockets are gone; the files of its Unix sockets remain.
    pub(crate) fn restart(&mut self, host: HostId) {
        if self.change_state(host, HostState::Down, HostState::Up) {
            self.record(Happened::Restarted, host, host, 0, 0);
        }
    }

    /// Pauses a host: packets to it and its timers wait.
    pub(crate) fn freeze(&mut self, host: HostId) {
        if self.change_state(host, HostState::Up, HostState::Frozen) {
            self.record(Happened::Frozen, host, host, 0, 0);
        }
    }

    /// Continues a frozen host.
    pub(crate) fn thaw(&mut self, host: HostId) {
        if !self.change_state(host, HostState::Frozen, HostState::Up) {
            return;
        }
        self.record(Happened::Thawed, host, host, 0, 0);
        let Some(state) = self.hosts.get_mut(host as usize) else {
            return;
        };
        let timers = std::mem::take(&mut state.held_timers);
        for packet in std::mem::take(&mut state.held) {
            self.handle_event(Event::Arrival(packet));
        }
        // A packet may have answered what a timer waits for.
        for id in timers {
            self.arm_timer_if_idle(id);
            self.arm_keepalive(id);
        }
    }

    /// Keeps an event of a frozen host until it is thawed.
    pub(super) fn hold(&mut self, host: HostId, event: Event) {
        let Some(state) = self.hosts.get_mut(host as usize) else {
            return;
        };
        match event {
            Event::Arrival(packet) if state.held.len() < HELD_PACKETS => state.held.push(packet),
            Event::Arrival(packet) => self.record_lost(&packet),
            Event::TcpTimer(id) | Event::KeepaliveTimer(id) => {
                state.held_timers.insert(id);
                self.note_timer_held(id);
            }
        }
    }

    fn change_state(&mut self, host: HostId, from: HostState, to: HostState) -> bool {
        match self.hosts.get_mut(host as usize) {
            Some(state) if state.state == from => {
                state.state = to;
                true
            }
            _ => false,
        }
    }

    /// The state of a host; down if there is no such host.
    /// Whether a host has crashed and was not restarted.
    pub(crate) fn is_down(&self, host: HostId) -> bool {
        self.host_state(host) == HostState::Down
    }

    pub(super) fn host_state(&self, host: HostId) -> HostState {
        self.hosts
            .get(host as usize)
            .map_or(HostState::Down, |host| host.state)
    }

    pub(super) fn host(&self, host: HostId) -> io::Result<&Host> {
        self.hosts
            .get(host as usize)
            .ok_or_else(|| os(libc::ENETDOWN))
    }

    /// Returns the host that has an address, as seen from `from`.
    ///
    /// # Errors
    /// `ENETUNREACH` if no host has it.
    pub(super) fn route(&self, from: HostId, to: IpAddr) -> io::Result<HostId> {
        if to.is_loopback() || to.is_unspecified() {
            return Ok(from);
        }
        let found = self.by_address.get(&to).copied();
        found.ok_or_else(|| os(libc::ENETUNREACH))
    }

    /// Returns the address from which a host sends to `to`.
    pub(super) fn source_address(&self, from: HostId, to: IpAddr) -> io::Result<IpAddr> {
        if to.is_loopback() || to.is_unspecified() {
            return Ok(loopback(to));
        }
        let addresses = &self.host(from)?.addresses;
        if addresses.contains(&to) {
            return Ok(to);
        }
        let family = |address: &&IpAddr| address.is_ipv4() == to.is_ipv4();
        let found = addresses.iter().find(family).copied();
        found.ok_or_else(|| os(libc::ENETUNREACH))
    }

    /// Whether a socket of that family may be bound to the address on this host.
    pub(super) fn has_address(&self, host: HostId, domain: Domain, address: IpAddr) -> bool {
        let family = match domain {
            Domain::V4 => address.is_ipv4(),
            Domain::V6 => true,
            Domain::Unix => false,
        };
        let local = address.is_unspecified()
            || address.is_loopback()
            || self.by_address.get(&address) == Some(&host);
        family && local
    }

    pub(super) fn record_lost(&mut self, packet: &Packet) {
        let happened = match packet.content {
            Content::Tcp(_) => Happened::SegmentLost,
            _ => Happened::DatagramLost,
        };
        self.record_packet(happened, packet);
    }
}
