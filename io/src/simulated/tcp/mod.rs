//! TCP: connections and listeners.
//!
//! A connection is a pair of byte streams over packets that can be lost. It has what decides the behaviour that a
//! program sees: the handshake, sequence numbers, windows, retransmission with growing pauses, FIN and RST. It has no
//! congestion control, no delayed acknowledgments and no Nagle algorithm: they change when bytes arrive, not which.
//!
//! ```text
//!             connect: SYN ──▶
//!   SynSent                      SynReceived      timers.rs: SYN after 1, 3, 7, … s; ETIMEDOUT after 127 s
//!             ◀── SYN+ACK
//!   Established  ACK ──▶         Established      transfer.rs: bytes, acknowledgments, windows
//!             close: FIN ──▶     (EOF)            ending.rs
//!   TimeWait  ◀── FIN            destroyed
//! ```
//!
//! Sequence numbers have 64 bits and count from zero. Each attempt to connect has a number, which every packet carries:
//! it does what random initial sequence numbers do, so a packet of an earlier connection with the same addresses is
//! recognized.

mod ending;
mod handshake;
mod segments;
mod timers;
mod transfer;

pub(super) use handshake::{match_rank, spread};

use super::buffer::Bytes;
use super::events::{EventKey, SocketId};
use super::hosts::HostId;
use super::readiness::Readiness;
use super::sockets::{Socket, State};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use yue_scheduler::Instant;

/// The bytes of a segment. A network card sends such a burst of packets of 1448 bytes for one call of the kernel.
const SEGMENT_BYTES: usize = 10 * 1448;

/// The host of a socket, its local address, and its peer's.
pub(crate) type ConnectionKey = (HostId, SocketAddr, SocketAddr);

/// A packet of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) connection: u64,
    kind: SegmentKind,
    /// The position of the first byte.
    sequence: u64,
    pub(crate) bytes: Vec<u8>,
    /// Whether the sender's stream ends after these bytes.
    fin: bool,
    /// The number of bytes that the sender has received, counting a FIN as one.
    acknowledgment: u64,
    /// The position up to which the sender accepts bytes.
    limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SegmentKind {
    Syn,
    SynAcknowledgment,
    /// Bytes, a FIN, or an acknowledgment alone.
    Data,
    /// A question whether the peer is there, and what it has received.
    Probe,
    Reset,
}

impl Segment {
    pub(crate) fn is_pure_acknowledgment(&self) -> bool {
        let carries = !self.bytes.is_empty() || self.fin;
        matches!(self.kind, SegmentKind::Data | SegmentKind::Probe) && !carries
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    backlog: usize,
    /// Connections that wait to be accepted.
    ready: VecDeque<SocketId>,
    /// Connections in the middle of their handshake.
    half_open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SynSent,
    SynReceived,
    /// Connected, until both directions have ended.
    Established,
    /// Both directions have ended, and the peer may still ask for the last acknowledgment.
    TimeWait,
    /// Ended, by both sides or by an error. The socket remains until the program closes it.
    Closed,
}

/// The end of the outgoing stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fin {
    Open,
    /// The program has shut down the direction; bytes may have to be sent first.
    Queued,
    Sent,
    Acknowledged,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// The number of the connection, which both ends share.
    pub(super) number: u64,
    phase: Phase,
    local: SocketAddr,
    peer: SocketAddr,
    remote: HostId,
    /// The listener whose program has not accepted the connection yet.
    listener: Option<SocketId>,
    /// Whether no descriptor names the socket any more.
    orphan: bool,

    /// Outgoing bytes from position `acknowledged` on: first those on their way, then those to be sent.
    outgoing: Bytes,
    acknowledged: u64,
    /// The position of the next byte to send.
    sent: u64,
    /// The position up to which the peer accepts bytes.
    limit: u64,
    fin: Fin,
    /// After a loss: the position at which everything that was sent before has been acknowledged.
    recovers_until: u64,
    /// Acknowledgments in a row that repeated the last one.
    repeated: u32,

    received: Bytes,
    /// The position of the next byte to receive, counting a FIN as one.
    expected: u64,
    /// Bytes after a gap, by position. They lie within the window, so their number is limited.
    early: BTreeMap<u64, Vec<u8>>,
    /// The position of the peer's FIN, once known.
    fin_at: Option<u64>,
    fin_received: bool,
    /// Whether this end sent its FIN before it received the peer's: then it waits in `TIME_WAIT`.
    closed_first: bool,
    /// The largest position that a packet has offered to the peer as its limit.
    offered: u64,

    /// The arrival of the last packet sent: the next one arrives later.
    last_arrival: Instant,
    /// The time of the last packet from the peer.
    heard_at: Instant,
    timer: Option<EventKey>,
    /// The number of times that the retransmission pause has doubled.
    backoff: u32,
    /// Retransmissions and probes since the peer was last heard.
    unanswered: u32,
    /// The first end of the timer without an answer.
    unanswered_since: Option<Instant>,
    keepalive_timer: Option<EventKey>,
    keepalive_probes: u32,
}

impl Connection {
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        let early: usize = self.early.values().map(Vec::len).sum();
        self.outgoing.len() + self.received.len() + early
    }

    fn new(number: u64, phase: Phase, key: ConnectionKey, remote: HostId, now: Instant) -> Self {
        Connection {
            number,
            phase,
            local: key.1,
            peer: key.2,
            remote,
            listener: None,
            orphan: false,
            outgoing: Bytes::default(),
            acknowledged: 0,
            sent: 0,
            limit: 0,
            fin: Fin::Open,
            recovers_until: 0,
            repeated: 0,
            received: Bytes::default(),
            expected: 0,
            early: BTreeMap::new(),
            fin_at: None,
            fin_received: false,
            closed_first: false,
            offered: 0,
            last_arrival: Instant::from_nanos(0),
            heard_at: now,
            timer: None,
            backoff: 0,
            unanswered: 0,
            unanswered_since: None,
            keepalive_timer: None,
            keepalive_probes: 0,
        }
    }

    /// The peer's address, if the connection is one (`getpeername(2)`).
    pub(super) fn connected_peer(&self) -> Option<SocketAddr> {
        let connected = matches!(self.phase, Phase::SynReceived | Phase::Established);
        connected.then_some(self.peer)
    }

    /// The peer's address, even if the connection has ended (`SO_PEERNAME`).
    pub(super) fn last_peer(&self) -> SocketAddr {
        self.peer
    }

    /// The position after the last outgoing byte, which is that of the FIN.
    fn end(&self) -> u64 {
        self.acknowledged + self.outgoing.len() as u64
    }

    /// Whether bytes or a FIN are on their way, as far as is known.
    fn is_in_flight(&self) -> bool {
        self.sent > self.acknowledged || self.fin == Fin::Sent
    }

    /// The position up to which received bytes fit, which never moves back.
    fn window_end(&self, capacity: usize) -> u64 {
        let room = capacity.saturating_sub(self.received.len()) as u64;
        (self.expected + room).max(self.offered)
    }
}

impl Socket {
    /// The state of a TCP socket, like the kernel's `tcp_poll`.
    pub(super) fn tcp_level(&self) -> Readiness {
        let error = self.error.is_some();
        let connection = match &self.state {
            State::TcpListener(listener) => {
                let readable = !listener.ready.is_empty();
                return Readiness {
                    readable,
                    error,
                    ..Readiness::default()
                };
            }
            State::Tcp(connection) => connection,
            _ => {
                let writable = true;
                let level = Readiness {
                    writable,
                    error,
                    ..Readiness::default()
                };
                return level.hang_up();
            }
        };
        if connection.phase == Phase::SynSent {
            return Readiness {
                error,
                ..Readiness::default()
            };
        }
        // The kernel reports room only when a third is free, so that a writer is not woken for every byte.
        let room = connection.outgoing.len() * 3 <= self.options.send_buffer * 2;
        let level = Readiness {
            readable: !connection.received.is_empty() || self.shutdown_read,
            writable: room || self.shutdown_write,
            read_closed: self.shutdown_read,
            write_closed: false,
            error,
        };
        let closed = matches!(connection.phase, Phase::Closed | Phase::TimeWait);
        match closed || (self.shutdown_read && self.shutdown_write) {
            true => level.hang_up(),
            false => level,
        }
    }
}
