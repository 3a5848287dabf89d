//! The record of what happened on the network, in order.

use super::events::SocketId;
use super::hosts::HostId;
use yue_scheduler::Instant;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The virtual time.
    pub at: Instant,
    /// The kind.
    pub happened: Happened,
    /// The host that acted, or the sender.
    pub from: HostId,
    /// The other host; the same as `from` if only one is concerned.
    pub to: HostId,
    /// The number of the connection, which both ends share; 0 if none is concerned.
    pub connection: u64,
    /// The bytes of the payload.
    pub bytes: usize,
    /// The number of the packet, which its sending, loss and arrival share; 0 if none is concerned.
    pub packet: u64,
    /// The lower of the packet's two ports, as a rule that of the service; 0 if no packet is concerned.
    pub port: u16,
}

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A connection was requested.
    ConnectStarted,
    /// The request was answered.
    Connected,
    /// The attempt failed with that error number.
    ConnectFailed(i32),
    /// The listener's program took the connection.
    Accepted,
    /// Bytes of a connection were sent.
    SegmentSent,
    /// Bytes of a connection arrived.
    SegmentDelivered,
    /// Bytes of a connection were lost; they are sent again.
    SegmentLost,
    /// Lost bytes were sent again.
    Retransmitted,
    /// A datagram was sent.
    DatagramSent,
    /// A datagram arrived.
    DatagramDelivered,
    /// A datagram was lost.
    DatagramLost,
    /// A datagram was doubled on its way.
    DatagramDuplicated,
    /// A host aborted a connection, or refused a packet.
    ResetSent,
    /// A connection broke with that error number.
    Broken(i32),
    /// An end of a connection was closed.
    Closed,
    /// A host crashed.
    Crashed,
    /// A host was started again.
    Restarted,
    /// A host was paused.
    Frozen,
    /// A paused host continued.
    Thawed,
    /// Packets from `from` to `to` are lost from now on.
    Partitioned,
    /// Packets from `from` to `to` pass again.
    Healed,
}

/// The records, if they are wanted.
#[derive(Default)]
pub(crate) struct Trace {
    records: Option<Vec<Record>>,
}

impl Trace {
    /// Keeps records from now on, for [`Trace::take`].
    pub(crate) fn keep(&mut self) {
        self.records.get_or_insert_default();
    }

    /// Returns the records kept since the last call.
    pub(crate) fn take(&mut self) -> Vec<Record> {
        self.records
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(crate) fn length(&self) -> usize {
        self.records.as_ref().map_or(0, Vec::len)
    }

    pub(crate) fn add(&mut self, record: Record) {
        if let Some(records) = &mut self.records {
            records.push(record);
        }
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("records", &self.length())
            .finish()
    }
}

/// The number that a trace shows for a connection between two Unix sockets: that of its older socket.
pub(crate) fn pair_number(one: SocketId, other: SocketId) -> u64 {
    one.0.min(other.0)
}
