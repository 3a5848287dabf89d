//! The network: its state, its time, and the order of its events.

use super::events::{Content, Event, EventKey, Events, Packet, SocketId};
use super::hosts::{Host, HostId, HostState};
use super::links::Links;
use super::readiness::Pollers;
use super::sockets::Socket;
use super::tcp::ConnectionKey;
use super::trace::{Happened, Record, Trace};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::RawFd;
use yue_scheduler::Instant;
use yue_scheduler::simulation::Random;

/// All hosts of a simulation, their sockets, and the packets between them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(super) now: Instant,
    pub(super) random: Random,
    /// For choices that must depend on addresses alone, such as the listener of a group.
    pub(super) seed: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) by_address: BTreeMap<IpAddr, HostId>,
    pub(super) links: Links,
    pub(super) sockets: BTreeMap<SocketId, Socket>,
    pub(super) descriptors: BTreeMap<RawFd, SocketId>,
    /// The TCP connections by host, local address and peer's address.
    pub(super) connections: BTreeMap<ConnectionKey, SocketId>,
    pub(super) pollers: Pollers,
    pub(super) numbers: u64,
    packets: u64,
    events: Events,
    trace: Trace,
}

impl Network {
    /// Creates a network with the scenario as its only host.
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            now: Instant::from_nanos(0),
            random: Random::new(seed),
            seed,
            hosts: vec![Host::default()],
            by_address: BTreeMap::new(),
            links: Links::default(),
            sockets: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            connections: BTreeMap::new(),
            pollers: Pollers::default(),
            numbers: 0,
            packets: 0,
            events: Events::default(),
            trace: Trace::default(),
        }
    }

    /// The time of the last call of [`Network::advance`].
    #[cfg(test)]
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The time of the next event. A timer may turn out to have nothing to do.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.events.next_at()
    }

    /// Handles all events up to that time, in order. Time does not run backwards: an earlier time does nothing.
    pub(crate) fn advance(&mut self, to: Instant) {
        while let Some((at, event)) = self.events.pop(to) {
            self.now = self.now.max(at);
            self.dispatch_event(event);
        }
        self.now = self.now.max(to);
    }

    /// The number of events to come.
    #[cfg(test)]
    pub(crate) fn event_count(&self) -> usize {
        self.events.len()
    }

    /// Keeps a record of everything that happens, for [`Network::take_trace`].
    pub(crate) fn keep_trace(&mut self) {
        self.trace.keep();
    }

    /// Returns the records since the last call, in order.
    pub(crate) fn take_trace(&mut self) -> Vec<Record> {
        self.trace.take()
    }

    /// The number of records since the last call of [`Network::take_trace`].
    pub(crate) fn trace_length(&self) -> usize {
        self.trace.length()
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) -> EventKey {
        self.events.schedule(at, &mut self.random, event)
    }

    pub(super) fn cancel(&mut self, key: Option<EventKey>) {
        if let Some(key) = key {
            self.events.cancel(key);
        }
    }

    /// Returns a number that was not used before, for a socket or a connection.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Returns a number that was not used before, for a packet.
    pub(super) fn next_packet(&mut self) -> u64 {
        self.packets += 1;
        self.packets
    }

    pub(super) fn record(
        &mut self,
        happened: Happened,
        from: HostId,
        to: HostId,
        connection: u64,
        bytes: usize,
    ) {
        self.trace.add(Record {
            at: self.now,
            happened,
            from,
            to,
            connection,
            bytes,
            packet: 0,
            port: 0,
        });
    }

    /// Records an event of a packet. Acknowledgments without a payload are left out.
    pub(super) fn record_packet(&mut self, happened: Happened, packet: &Packet) {
        if let Content::Tcp(segment) = &packet.content
            && segment.is_pure_acknowledgment()
        {
            return;
        }
        self.trace.add(Record {
            at: self.now,
            happened,
            from: packet.from,
            to: packet.to,
            connection: packet.connection(),
            bytes: packet.bytes(),
            packet: packet.number,
            port: packet.source.port().min(packet.target.port()),
        });
    }

    /// Handles an event, unless its host is frozen or down.
    fn dispatch_event(&mut self, event: Event) {
        let host = match &event {
            Event::Arrival(packet) => packet.to,
            Event::TcpTimer(id) | Event::KeepaliveTimer(id) => match self.sockets.get(id) {
                Some(socket) => socket.host,
                None => return,
            },
        };
        match (self.host_state(host), event) {
            (HostState::Up, event) => self.handle_event(event),
            (HostState::Frozen, event) => self.hold(host, event),
            (HostState::Down, Event::Arrival(packet)) => self.record_lost(&packet),
            (HostState::Down, _) => {}
        }
    }

    pub(super) fn handle_event(&mut self, event: Event) {
        match event {
            Event::Arrival(packet) => self.on_arrival(packet),
            Event::TcpTimer(id) => self.on_tcp_timer(id),
            Event::KeepaliveTimer(id) => self.on_keepalive_timer(id),
        }
    }

    fn on_arrival(&mut self, packet: Packet) {
        if self.is_cut(packet.from, packet.to) {
            // The partition began while the packet was on its way.
            return self.record_lost(&packet);
        }
        match packet.content {
            Content::Tcp(_) => self.on_segment(packet),
            Content::Datagram(_) => self.on_datagram(packet),
            Content::Unreachable => self.on_unreachable(&packet),
        }
    }
}
