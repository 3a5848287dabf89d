//! Timers of connections: retransmission, probes, and the waits at the end.

use super::{Fin, Phase, SegmentKind};
use crate::simulated::events::{Event, EventKey, SocketId};
use crate::simulated::network::Network;
use std::time::Duration;

/// The pause before a request is repeated for the first time. It doubles each time.
const SYN_PAUSE: Duration = Duration::from_secs(1);

/// Repetitions of a request (`tcp_syn_retries`): the attempt fails after 127 s.
const SYN_RETRIES: u32 = 6;

/// Repetitions of the answer to a request (`tcp_synack_retries`).
const SYN_ACKNOWLEDGMENT_RETRIES: u32 = 5;

/// The shortest pause before a retransmission (`TCP_RTO_MIN`), to which the round trip is added.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause (`TCP_RTO_MAX`).
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Retransmissions without an answer, after which the connection breaks (`tcp_retries2`): after some 15 minutes.
const RETRIES: u32 = 15;

/// The same if no descriptor names the socket any more (`tcp_orphan_retries`).
const ORPHAN_RETRIES: u32 = 8;

/// The time that a closed socket waits for the peer's FIN (`tcp_fin_timeout`), and the time in `TIME_WAIT`.
const FIN_WAIT: Duration = Duration::from_secs(60);

impl Network {
    /// Records that the peer has answered: pauses begin anew.
    pub(super) fn note_answer(&mut self, id: SocketId) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        (connection.backoff, connection.unanswered) = (0, 0);
        connection.unanswered_since = None;
        let timer = connection.timer.take();
        self.cancel(timer);
    }

    /// Arms the timer that the state of the connection needs, and cancels any other.
    pub(super) fn arm_timer(&mut self, id: SocketId) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let timer = connection.timer.take();
        self.cancel(timer);
        self.arm_timer_if_idle(id);
    }

    /// Arms the timer that the state of the connection needs, unless one is armed.
    pub(in crate::simulated) fn arm_timer_if_idle(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        let host = socket.host;
        let Some(connection) = socket.connection().filter(|c| c.timer.is_none()) else {
            return;
        };
        let doubled = |pause: Duration| pause.saturating_mul(1 << connection.backoff.min(16));
        let waits = match connection.phase {
            Phase::SynSent | Phase::SynReceived => doubled(SYN_PAUSE),
            Phase::TimeWait => FIN_WAIT,
            Phase::Closed => return,
            Phase::Established if connection.is_in_flight() || !connection.outgoing.is_empty() => {
                let pause = PAUSE_MIN + self.round_trip(host, connection.remote);
                doubled(pause).min(PAUSE_MAX)
            }
            // The peer has yet to end its direction.
            Phase::Established if connection.orphan => FIN_WAIT,
            Phase::Established => return,
        };
        // On a slow link the last packet may still be on its way. A request is repeated at fixed times.
        let from = match connection.phase {
            Phase::SynSent | Phase::SynReceived => self.now,
            _ => self.now.max(connection.last_arrival),
        };
        let at = from.saturating_add(waits);
        let key = self.schedule(at, Event::TcpTimer(id));
        if let Some(connection) = self.connection_mut(id) {
            connection.timer = Some(key);
        }
    }

    /// Forgets the timers that have run out while the host was frozen.
    pub(in crate::simulated) fn note_timer_held(&mut self, id: SocketId) {
        let now = self.now;
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let is_past = |key: &mut EventKey| key.at() <= now;
        connection.timer.take_if(is_past);
        connection.keepalive_timer.take_if(is_past);
    }

    /// Handles the end of a pause.
    pub(in crate::simulated) fn on_tcp_timer(&mut self, id: SocketId) {
        let now = self.now;
        let limit = self
            .sockets
            .get(&id)
            .and_then(|socket| socket.options.user_timeout);
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        connection.timer = None;
        let (phase, orphan, in_flight) = (
            connection.phase,
            connection.orphan,
            connection.is_in_flight(),
        );
        let waits_for_fin = !in_flight && connection.outgoing.is_empty();
        let retries = match phase {
            Phase::SynSent => SYN_RETRIES,
            Phase::SynReceived => SYN_ACKNOWLEDGMENT_RETRIES,
            Phase::Established if orphan && waits_for_fin => return self.destroy(id),
            Phase::Established if orphan => ORPHAN_RETRIES,
            Phase::Established => RETRIES,
            Phase::TimeWait => return self.destroy_or_close(id),
            Phase::Closed => return,
        };
        let since = *connection.unanswered_since.get_or_insert(now);
        let silence = now.saturating_since(since);
        if connection.unanswered >= retries
            || (phase == Phase::Established && limit.is_some_and(|limit| silence >= limit))
        {
            return self.fail(id, libc::ETIMEDOUT);
        }
        connection.unanswered += 1;
        connection.backoff += 1;
        match phase {
            Phase::SynSent => self.send_segment(id, SegmentKind::Syn, 0, Vec::new(), false),
            Phase::SynReceived => {
                self.send_segment(id, SegmentKind::SynAcknowledgment, 0, Vec::new(), false);
            }
            _ if in_flight => {
                connection.recovers_until = connection.sent;
                connection.repeated = 0;
                self.retransmit_first(id);
            }
            _ => self.probe(id),
        }
        self.arm_timer(id);
    }

    /// Asks the peer whether it has room, or whether it is there at all.
    fn probe(&mut self, id: SocketId) {
        if let Some(sent) = self.connection_mut(id).map(|connection| connection.sent) {
            self.send_segment(id, SegmentKind::Probe, sent, Vec::new(), false);
        }
    }

    /// Arms the timer of keepalive probes, if the program wants them.
    pub(in crate::simulated) fn arm_keepalive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let keepalive = socket.options.keepalive;
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let established = connection.phase == Phase::Established;
        let timer = connection.keepalive_timer.take();
        let waits = match connection.keepalive_probes {
            0 => keepalive.idle,
            _ => keepalive.interval,
        };
        let at = match connection.keepalive_probes {
            0 => connection.heard_at.saturating_add(waits).max(self.now),
            _ => self.now.saturating_add(waits),
        };
        self.cancel(timer);
        if keepalive.on && established {
            let key = self.schedule(at, Event::KeepaliveTimer(id));
            if let Some(connection) = self.connection_mut(id) {
                connection.keepalive_timer = Some(key);
            }
        }
    }

    /// Probes an idle connection, and breaks it after too many probes without an answer.
    pub(in crate::simulated) fn on_keepalive_timer(&mut self, id: SocketId) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let keepalive = socket.options.keepalive;
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        connection.keepalive_timer = None;
        // While bytes are on their way, their retransmission finds a lost peer.
        let busy = connection.is_in_flight() || connection.fin >= Fin::Queued;
        if busy {
            connection.heard_at = now;
        }
        let silent = now.saturating_since(connection.heard_at);
        if silent >= keepalive.idle && !busy {
            if connection.keepalive_probes >= keepalive.retries.max(1) {
                return self.fail(id, libc::ETIMEDOUT);
            }
            connection.keepalive_probes += 1;
            self.probe(id);
        }
        self.arm_keepalive(id);
    }
}
