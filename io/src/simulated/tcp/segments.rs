//! Sending and receiving the packets of connections.

use super::{Connection, Phase, SEGMENT_BYTES, Segment, SegmentKind};
use crate::simulated::events::{Content, Packet, SocketId};
use crate::simulated::network::Network;
use crate::simulated::trace::Happened;

impl Network {
    pub(super) fn connection_mut(&mut self, id: SocketId) -> Option<&mut Connection> {
        self.sockets.get_mut(&id)?.connection_mut()
    }

    /// Sends a packet of a connection, with the current acknowledgment and limit.
    pub(super) fn send_segment(
        &mut self,
        id: SocketId,
        kind: SegmentKind,
        sequence: u64,
        bytes: Vec<u8>,
        fin: bool,
    ) {
        let number = self.next_packet();
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let (host, capacity) = (socket.host, socket.options.receive_buffer);
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let limit = connection.window_end(capacity);
        connection.offered = limit;
        let packet = Packet {
            number,
            from: host,
            to: connection.remote,
            source: connection.local,
            target: connection.peer,
            content: Content::Tcp(Segment {
                connection: connection.number,
                kind,
                sequence,
                bytes,
                fin,
                acknowledgment: connection.expected,
                limit,
            }),
        };
        let after = connection.last_arrival;
        let happened = match kind {
            SegmentKind::Reset => Happened::ResetSent,
            _ => Happened::SegmentSent,
        };
        self.record_packet(happened, &packet);
        let arrives = self.transmit_segment(packet, after);
        if let (Some(arrives), Some(connection)) = (arrives, self.connection_mut(id)) {
            connection.last_arrival = arrives;
        }
    }

    /// Tells the peer what has been received, and how much more fits.
    pub(super) fn acknowledge(&mut self, id: SocketId) {
        if let Some(sent) = self.connection_mut(id).map(|connection| connection.sent) {
            self.send_segment(id, SegmentKind::Data, sent, Vec::new(), false);
        }
    }

    /// Refuses a packet that belongs to no connection.
    pub(super) fn reply_with_reset(&mut self, packet: &Packet, connection: u64) {
        let answer = Packet {
            number: self.next_packet(),
            from: packet.to,
            to: packet.from,
            source: packet.target,
            target: packet.source,
            content: Content::Tcp(Segment {
                connection,
                kind: SegmentKind::Reset,
                sequence: 0,
                bytes: Vec::new(),
                fin: false,
                acknowledgment: 0,
                limit: 0,
            }),
        };
        self.record_packet(Happened::ResetSent, &answer);
        let now = self.now;
        self.transmit_segment(answer, now);
    }

    /// Handles a packet that has arrived.
    pub(in crate::simulated) fn on_segment(&mut self, packet: Packet) {
        self.record_packet(Happened::SegmentDelivered, &packet);
        let Content::Tcp(segment) = &packet.content else {
            return;
        };
        let key = (packet.to, packet.target, packet.source);
        let found = self.connections.get(&key).copied();
        let found = found.and_then(|id| {
            let connection = self.sockets.get(&id)?.connection()?;
            Some((id, connection.number, connection.phase))
        });
        match found {
            Some((id, number, phase)) if number == segment.connection => {
                self.on_own_segment(id, phase, &packet, segment);
            }
            Some((id, _, phase)) if segment.kind == SegmentKind::Syn => {
                self.replace_connection(id, phase, &packet, segment);
            }
            None if segment.kind == SegmentKind::Syn => self.on_syn(&packet, segment),
            // A packet of an earlier connection with these addresses, or of one that this host has forgotten.
            _ if segment.kind != SegmentKind::Reset => {
                self.reply_with_reset(&packet, segment.connection);
            }
            _ => {}
        }
    }

    /// Handles a request from a peer that has forgotten a connection with the same addresses.
    fn replace_connection(
        &mut self,
        id: SocketId,
        phase: Phase,
        packet: &Packet,
        segment: &Segment,
    ) {
        match phase {
            // Both have chosen the other's address: the attempts fail, as if nobody listened.
            Phase::SynSent => return self.reply_with_reset(packet, segment.connection),
            Phase::TimeWait => self.destroy(id),
            _ => self.fail(id, libc::ECONNRESET),
        }
        self.on_syn(packet, segment);
    }

    fn on_own_segment(&mut self, id: SocketId, phase: Phase, packet: &Packet, segment: &Segment) {
        if let Some(connection) = self.sockets.get_mut(&id).and_then(|s| s.connection_mut()) {
            connection.heard_at = self.now;
            connection.keepalive_probes = 0;
        }
        match (segment.kind, phase) {
            (SegmentKind::Reset, _) => self.on_reset(id, phase),
            // The socket has connected to itself, which the kernel allows and yue refuses.
            (SegmentKind::Syn, Phase::SynSent) => {
                self.reply_with_reset(packet, segment.connection);
            }
            (SegmentKind::Syn, Phase::SynReceived) => {
                self.send_segment(id, SegmentKind::SynAcknowledgment, 0, Vec::new(), false);
            }
            (SegmentKind::Syn, _) => self.acknowledge(id),
            (SegmentKind::SynAcknowledgment, _) => self.on_syn_acknowledgment(id, segment),
            (SegmentKind::Data | SegmentKind::Probe, Phase::SynSent | Phase::Closed) => {}
            (SegmentKind::Data | SegmentKind::Probe, Phase::TimeWait) => {
                if segment.fin || segment.kind == SegmentKind::Probe {
                    self.acknowledge(id);
                }
            }
            (SegmentKind::Data | SegmentKind::Probe, _) => {
                if phase == Phase::SynReceived {
                    self.complete_handshake(id);
                }
                self.on_data(id, packet, segment);
            }
        }
    }

    /// Handles bytes, a FIN, an acknowledgment or a probe.
    fn on_data(&mut self, id: SocketId, packet: &Packet, segment: &Segment) {
        self.on_acknowledgment(id, segment);
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let end = segment.sequence + segment.bytes.len() as u64;
        if connection.orphan && end > connection.expected && !segment.bytes.is_empty() {
            // Nobody will read it: the peer must learn that its bytes are lost.
            self.reply_with_reset(packet, segment.connection);
            return self.destroy(id);
        }
        let asks = segment.kind == SegmentKind::Probe || segment.fin || !segment.bytes.is_empty();
        self.receive(id, segment);
        if asks {
            self.acknowledge(id);
        }
        self.transmit_more(id);
        self.finish_if_done(id);
    }

    /// Sends what the peer's limit allows, and the FIN after the last byte.
    pub(super) fn transmit_more(&mut self, id: SocketId) {
        loop {
            let Some(connection) = self.connection_mut(id) else {
                return;
            };
            if connection.phase != Phase::Established {
                return;
            }
            let end = connection.end();
            let until = end.min(connection.limit.max(connection.sent));
            let count = ((until - connection.sent) as usize).min(SEGMENT_BYTES);
            let sequence = connection.sent;
            let fin = connection.fin == super::Fin::Queued && sequence + count as u64 == end;
            if count == 0 && !fin {
                break;
            }
            let start = (sequence - connection.acknowledged) as usize;
            let bytes = connection.outgoing.copy(start, count);
            connection.sent += count as u64;
            if fin {
                connection.fin = super::Fin::Sent;
            }
            self.send_segment(id, SegmentKind::Data, sequence, bytes, fin);
        }
        self.arm_timer_if_idle(id);
    }

    /// Sends the first segment that is not acknowledged again.
    pub(super) fn retransmit_first(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let host = socket.host;
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let in_flight = (connection.sent - connection.acknowledged) as usize;
        let sequence = connection.acknowledged;
        let bytes = connection.outgoing.copy(0, in_flight.min(SEGMENT_BYTES));
        let reaches_end = sequence + bytes.len() as u64 == connection.end();
        let fin = connection.fin == super::Fin::Sent && reaches_end;
        let (number, remote, count) = (connection.number, connection.remote, bytes.len());
        if bytes.is_empty() && !fin {
            return;
        }
        self.record(Happened::Retransmitted, host, remote, number, count);
        self.send_segment(id, SegmentKind::Data, sequence, bytes, fin);
    }
}
