//! The links between hosts: how long packets travel, which are lost, and which hosts cannot reach each other.

use super::events::{Content, Event, Packet};
use super::hosts::HostId;
use super::network::Network;
use super::trace::Happened;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use yue_scheduler::Instant;

/// The properties of the way between two hosts. They are the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// The time that every packet travels.
    pub latency: Duration,
    /// The additional time, chosen for each packet from zero to this.
    pub jitter: Duration,
    /// The probability that a packet is lost. TCP sends it again.
    pub loss: f64,
    /// The probability that a datagram arrives twice.
    pub duplicate: f64,
    /// The probability that a datagram is delayed, so that later ones overtake it.
    pub reorder: f64,
    /// Bytes per second in each direction; `None` for no limit.
    pub bandwidth: Option<u64>,
}

impl Default for Link {
    /// A quiet local network.
    fn default() -> Self {
        Link {
            latency: Duration::from_micros(200),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            bandwidth: None,
        }
    }
}

/// The link of a host to itself.
const LOOPBACK: Link = Link {
    latency: Duration::from_micros(10),
    jitter: Duration::ZERO,
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    bandwidth: None,
};

/// Bytes of headers that a packet takes of the bandwidth: Ethernet, IP and TCP.
const HEADER_BYTES: u64 = 66;

/// The time that datagrams may wait for a busy link. Later ones are lost, as in a router with a full queue.
const QUEUE_TIME: Duration = Duration::from_millis(500);

/// The least additional delay of a reordered datagram: those sent directly after it overtake it.
const REORDER_DELAY: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(crate) struct Links {
    default: Link,
    /// By the pair of hosts, the lower number first.
    pairs: BTreeMap<(HostId, HostId), Link>,
    /// The directions in which all packets are lost.
    cut: BTreeSet<(HostId, HostId)>,
    /// The time until which a direction of a link with limited bandwidth is busy.
    busy_until: BTreeMap<(HostId, HostId), Instant>,
    /// The arrival of the last datagram of each direction, which later ones do not overtake by jitter alone.
    last_datagram: BTreeMap<(HostId, HostId), Instant>,
}

impl Links {
    fn between(&self, a: HostId, b: HostId) -> Link {
        if a == b {
            return LOOPBACK;
        }
        let pair = (a.min(b), a.max(b));
        self.pairs.get(&pair).copied().unwrap_or(self.default)
    }
}

impl Network {
    /// Sets the link of all pairs of hosts that have none of their own.
    pub(crate) fn set_default_link(&mut self, link: Link) {
        self.links.default = link;
    }

    /// Sets the link between two hosts.
    pub(crate) fn set_link(&mut self, a: HostId, b: HostId, link: Link) {
        self.links.pairs.insert((a.min(b), a.max(b)), link);
    }

    /// Returns the link between two hosts, or of a host to itself.
    pub(crate) fn link(&self, a: HostId, b: HostId) -> Link {
        self.links.between(a, b)
    }

    /// Loses all packets between two hosts, also those on their way, until [`Network::heal`].
    pub(crate) fn partition(&mut self, a: HostId, b: HostId) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Loses all packets from one host to another until [`Network::heal`].
    pub(crate) fn partition_one_way(&mut self, from: HostId, to: HostId) {
        if from != to && self.links.cut.insert((from, to)) {
            self.record(Happened::Partitioned, from, to, 0, 0);
        }
    }

    /// Ends the partitions between two hosts.
    pub(crate) fn heal(&mut self, a: HostId, b: HostId) {
        for (from, to) in [(a, b), (b, a)] {
            if self.links.cut.remove(&(from, to)) {
                self.record(Happened::Healed, from, to, 0, 0);
            }
        }
    }

    /// Whether packets from one host to the other are lost.
    pub(super) fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.links.cut.contains(&(from, to))
    }

    /// The time that a packet and its answer take on the link, without queues.
    pub(super) fn round_trip(&self, a: HostId, b: HostId) -> Duration {
        let link = self.links.between(a, b);
        (link.latency + link.jitter).saturating_mul(2)
    }

    /// Sends a packet of a TCP connection, which arrives after `after`, the arrival of the packet before it. Returns
    /// the time of arrival, or `None` if the packet is lost.
    pub(super) fn transmit_segment(&mut self, packet: Packet, after: Instant) -> Option<Instant> {
        let link = self.links.between(packet.from, packet.to);
        let leaves = self.leave_time(&packet, link);
        if self.is_cut(packet.from, packet.to) || self.random.chance(link.loss) {
            self.record_packet(Happened::SegmentLost, &packet);
            return None;
        }
        let travels = link.latency + self.random.up_to(link.jitter);
        let next = Instant::from_nanos(after.as_nanos().saturating_add(1));
        let arrives = leaves.saturating_add(travels).max(next);
        self.schedule(arrives, Event::Arrival(packet));
        Some(arrives)
    }

    /// Sends a datagram, or an ICMP message, which may be lost, duplicated or reordered.
    pub(super) fn transmit_datagram(&mut self, packet: Packet) {
        let link = self.links.between(packet.from, packet.to);
        let leaves = self.leave_time(&packet, link);
        let queued = leaves.saturating_since(self.now);
        let lost = self.is_cut(packet.from, packet.to)
            || queued > QUEUE_TIME
            || self.random.chance(link.loss);
        if lost {
            return self.record_packet(Happened::DatagramLost, &packet);
        }
        if self.random.chance(link.duplicate) {
            self.record_packet(Happened::DatagramDuplicated, &packet);
            self.deliver_datagram(packet.clone(), leaves, link);
        }
        self.deliver_datagram(packet, leaves, link);
    }

    fn deliver_datagram(&mut self, packet: Packet, leaves: Instant, link: Link) {
        let direction = (packet.from, packet.to);
        let mut arrives = leaves.saturating_add(link.latency + self.random.up_to(link.jitter));
        if self.random.chance(link.reorder) {
            let longest = (link.latency + link.jitter).saturating_mul(4);
            arrives = arrives.saturating_add(REORDER_DELAY + self.random.up_to(longest));
        } else {
            let last = self.links.last_datagram.entry(direction);
            let last = last.or_insert(Instant::from_nanos(0));
            arrives = arrives.max(Instant::from_nanos(last.as_nanos().saturating_add(1)));
            *last = arrives;
        }
        self.schedule(arrives, Event::Arrival(packet));
    }

    /// Returns the time at which the last bit of the packet leaves the host.
    fn leave_time(&mut self, packet: &Packet, link: Link) -> Instant {
        let Some(bandwidth) = link.bandwidth else {
            return self.now;
        };
        let direction = (packet.from, packet.to);
        let busy = self.links.busy_until.get(&direction).copied();
        let begins = busy.unwrap_or(self.now).max(self.now);
        // A datagram beyond the limit of the queue is lost, and takes no bandwidth.
        let is_datagram = matches!(packet.content, Content::Datagram(_));
        if is_datagram && begins.saturating_since(self.now) > QUEUE_TIME {
            return begins;
        }
        let bytes = packet.bytes() as u64 + HEADER_BYTES;
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let leaves = begins.saturating_add(takes);
        self.links.busy_until.insert(direction, leaves);
        leaves
    }
}
