//! The bytes of a connection: the program's calls, the peer's acknowledgments, and received bytes.

use super::{Fin, Phase, SEGMENT_BYTES, Segment};
use crate::simulated::buffer::{gather, length, length_mut};
use crate::simulated::errors::os;
use crate::simulated::events::SocketId;
use crate::simulated::network::Network;
use std::io::{self, IoSlice, IoSliceMut};

/// Repeated acknowledgments after which a segment counts as lost (RFC 5681, fast retransmit).
const REPEATED_MAX: u32 = 3;

impl Network {
    pub(in crate::simulated) fn tcp_send(
        &mut self,
        id: SocketId,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let wanted = length(slices);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        if let Some(error) = socket.error.take() {
            return Err(os(error));
        }
        let (host, capacity, shut) = (
            socket.host,
            socket.options.send_buffer,
            socket.shutdown_write,
        );
        let Some(connection) = socket.connection_mut() else {
            return Err(os(libc::EPIPE));
        };
        if shut || matches!(connection.phase, Phase::Closed | Phase::TimeWait) {
            return Err(os(libc::EPIPE));
        }
        let room = match connection.phase {
            Phase::SynSent => 0,
            _ => capacity.saturating_sub(connection.outgoing.len()),
        };
        if room == 0 && wanted > 0 {
            socket.starved = true;
            return Err(os(libc::EAGAIN));
        }
        let possible = wanted.min(room);
        let count = self.shortened(id, possible, |host| host.short_write, host);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        if count < wanted && count == room {
            socket.starved = true;
        }
        if let Some(connection) = socket.connection_mut() {
            connection.outgoing.push(&gather(slices, count));
        }
        self.transmit_more(id);
        Ok(count)
    }

    pub(in crate::simulated) fn tcp_recv(
        &mut self,
        id: SocketId,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<usize> {
        let wanted = length_mut(slices);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let host = socket.host;
        let Some(connection) = socket.connection_mut() else {
            return Err(os(libc::ENOTCONN));
        };
        let available = connection.received.len();
        if available == 0 {
            return socket.receive_nothing().map(|()| 0);
        }
        let count = self.shortened(id, wanted.min(available), |host| host.short_read, host);
        let Some(connection) = self.connection_mut(id) else {
            return Err(os(libc::EBADF));
        };
        let count = connection.received.read(slices, count, peek);
        if !peek {
            self.update_window(id);
        }
        Ok(count)
    }

    /// Returns the number of bytes that a call transfers of those that it could. Fewer than possible look like bytes
    /// that arrive, or room that appears, directly after the call: so there is an edge (`epoll(7)`, question 9).
    pub(in crate::simulated) fn shortened(
        &mut self,
        id: SocketId,
        possible: usize,
        probability: impl Fn(&crate::simulated::hosts::Host) -> f64,
        host: crate::simulated::hosts::HostId,
    ) -> usize {
        let probability = self.hosts.get(host as usize).map_or(0.0, probability);
        if possible < 2 || !self.random.chance(probability) {
            return possible;
        }
        self.wake(id);
        1 + self.random.below(possible as u64 - 1) as usize
    }

    /// Announces room in the receive buffer, once there is enough for it to be worth a packet.
    pub(in crate::simulated) fn update_window(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        let capacity = socket.options.receive_buffer;
        let Some(connection) = socket.connection() else {
            return;
        };
        let grown = connection.window_end(capacity) - connection.offered;
        let enough = (capacity / 2).clamp(1, 2 * SEGMENT_BYTES) as u64;
        if connection.phase == Phase::Established && !connection.fin_received && grown >= enough {
            self.acknowledge(id);
        }
    }

    /// Handles the acknowledgment and the limit in a packet.
    pub(super) fn on_acknowledgment(&mut self, id: SocketId, segment: &Segment) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let end = connection.end();
        let same_limit = segment.limit <= connection.limit;
        connection.limit = connection.limit.max(segment.limit);
        if !same_limit && !connection.is_in_flight() {
            // The timer of the probes must not delay the retransmissions that may follow.
            self.note_answer(id);
        }
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let bytes_acknowledged = segment.acknowledgment.min(end);
        let progress = bytes_acknowledged.saturating_sub(connection.acknowledged);
        let fin_acknowledged = connection.fin == Fin::Sent && segment.acknowledgment > end;
        if progress == 0 && !fin_acknowledged {
            // An answer to a probe, too, says that the peer is there.
            connection.unanswered = 0;
            let repeats = segment.is_pure_acknowledgment()
                && same_limit
                && connection.is_in_flight()
                && segment.acknowledgment == connection.acknowledged;
            if repeats && connection.acknowledged >= connection.recovers_until {
                connection.repeated += 1;
                if connection.repeated == REPEATED_MAX {
                    connection.recovers_until = connection.sent;
                    self.retransmit_first(id);
                }
            }
            return;
        }
        connection.outgoing.drop_front(progress as usize);
        connection.acknowledged = bytes_acknowledged;
        connection.sent = connection.sent.max(bytes_acknowledged);
        connection.repeated = 0;
        if fin_acknowledged {
            connection.fin = Fin::Acknowledged;
        }
        let recovering = connection.acknowledged < connection.recovers_until;
        self.note_answer(id);
        if recovering {
            // A partial acknowledgment: the next segment was lost as well (RFC 6582).
            self.retransmit_first(id);
        }
        self.arm_timer(id);
        self.wake_if_room(id);
    }

    /// Takes the bytes and the FIN of a packet.
    pub(super) fn receive(&mut self, id: SocketId, segment: &Segment) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let end = segment.sequence + segment.bytes.len() as u64;
        let before = (connection.received.len(), connection.fin_received);
        if segment.fin {
            connection.fin_at = Some(end);
        }
        // Bytes beyond the offered limit did not fit; they are sent again.
        let usable =
            (connection.offered.saturating_sub(segment.sequence) as usize).min(segment.bytes.len());
        if usable > 0 && segment.sequence + usable as u64 > connection.expected {
            let known = connection.early.get(&segment.sequence);
            if known.is_none_or(|known| known.len() < usable) {
                let bytes = segment.bytes[..usable].to_vec();
                connection.early.insert(segment.sequence, bytes);
            }
        }
        while let Some(entry) = connection.early.first_entry() {
            if *entry.key() > connection.expected {
                break;
            }
            let (start, bytes) = entry.remove_entry();
            let known = (connection.expected - start) as usize;
            if let Some(new) = bytes.get(known..) {
                connection.received.push(new);
                connection.expected += new.len() as u64;
            }
        }
        if connection.fin_at == Some(connection.expected) && !connection.fin_received {
            connection.fin_received = true;
            connection.closed_first = connection.fin >= Fin::Sent;
            connection.expected += 1;
        }
        let ended = connection.fin_received;
        if (connection.received.len(), ended) == before {
            return;
        }
        if ended && let Some(socket) = self.sockets.get_mut(&id) {
            socket.shutdown_read = true;
        }
        self.wake(id);
    }
}
