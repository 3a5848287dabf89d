//! The queue of events, ordered by time. Events of the same instant run in an order that the seed decides.

use super::hosts::HostId;
use super::tcp::Segment;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use yue_scheduler::Instant;
use yue_scheduler::simulation::Random;

/// The number of a socket. It is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SocketId(pub(crate) u64);

/// The key of a scheduled event: time, seeded tie-break, and a number that is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventKey(Instant, u64, u64);

impl EventKey {
    pub(crate) fn at(self) -> Instant {
        self.0
    }
}

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet arrives at a host.
    Arrival(Packet),
    /// A TCP connection retransmits, gives up, or ends its wait.
    TcpTimer(SocketId),
    /// A TCP connection may have to probe its peer.
    KeepaliveTimer(SocketId),
}

/// A packet between two hosts, or from a host to itself.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// Its number in the trace.
    pub(crate) number: u64,
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Tcp(Segment),
    Datagram(Vec<u8>),
    /// The ICMP message that no socket is bound to the port of an earlier datagram.
    Unreachable,
}

impl Packet {
    /// The bytes of the payload.
    pub(crate) fn bytes(&self) -> usize {
        match &self.content {
            Content::Tcp(segment) => segment.bytes.len(),
            Content::Datagram(bytes) => bytes.len(),
            Content::Unreachable => 0,
        }
    }

    /// The number of the TCP connection; 0 for other packets.
    pub(crate) fn connection(&self) -> u64 {
        match &self.content {
            Content::Tcp(segment) => segment.connection,
            Content::Datagram(_) | Content::Unreachable => 0,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: BTreeMap<EventKey, Event>,
    numbers: u64,
}

impl Events {
    pub(crate) fn schedule(&mut self, at: Instant, random: &mut Random, event: Event) -> EventKey {
        self.numbers += 1;
        let key = EventKey(at, random.number(), self.numbers);
        self.queue.insert(key, event);
        key
    }

    pub(crate) fn cancel(&mut self, key: EventKey) {
        self.queue.remove(&key);
    }

    /// The time of the next event.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    /// Removes the next event, if it happens at `until` or earlier.
    pub(crate) fn pop(&mut self, until: Instant) -> Option<(Instant, Event)> {
        if self.next_at()? > until {
            return None;
        }
        self.queue.pop_first().map(|(key, event)| (key.0, event))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
