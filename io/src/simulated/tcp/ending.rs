//! The ends of connections: shutdown, close, reset, errors.

use super::{Fin, Phase, SegmentKind};
use crate::simulated::errors::os;
use crate::simulated::events::SocketId;
use crate::simulated::hosts::HostId;
use crate::simulated::network::Network;
use crate::simulated::sockets::State;
use crate::simulated::trace::Happened;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

impl Network {
    pub(in crate::simulated) fn tcp_shutdown(
        &mut self,
        id: SocketId,
        how: Shutdown,
    ) -> io::Result<()> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let reads = how != Shutdown::Write;
        let writes = how != Shutdown::Read;
        let Some(connection) = socket.connection_mut() else {
            return match socket.state {
                // Shutting down a listener's input ends its listening.
                State::TcpListener(_) if reads => {
                    self.refuse_waiting(id);
                    if let Some(socket) = self.sockets.get_mut(&id) {
                        socket.state = State::TcpIdle;
                    }
                    self.wake(id);
                    Ok(())
                }
                State::TcpListener(_) => Ok(()),
                _ => Err(os(libc::ENOTCONN)),
            };
        };
        match connection.phase {
            Phase::Closed | Phase::TimeWait => return Err(os(libc::ENOTCONN)),
            Phase::SynSent => {
                self.end(id);
                self.wake(id);
                return Ok(());
            }
            Phase::SynReceived | Phase::Established => {}
        }
        if writes && connection.fin == Fin::Open {
            connection.fin = Fin::Queued;
        }
        socket.shutdown_read |= reads;
        socket.shutdown_write |= writes;
        self.transmit_more(id);
        self.wake(id);
        self.finish_if_done(id);
        Ok(())
    }

    pub(in crate::simulated) fn close_connection(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let host = socket.host;
        let resets = socket.options.linger == Some(Duration::ZERO);
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let (number, remote, phase) = (connection.number, connection.remote, connection.phase);
        let unread = !connection.received.is_empty();
        connection.orphan = true;
        self.record(Happened::Closed, host, remote, number, 0);
        match phase {
            Phase::SynSent | Phase::Closed => self.destroy(id),
            // Unread bytes are lost, and the peer must learn of it (RFC 2525, 2.17).
            _ if resets || unread => self.abort(id),
            Phase::TimeWait => {}
            Phase::SynReceived | Phase::Established => {
                if let Some(connection) = self.connection_mut(id)
                    && connection.fin == Fin::Open
                {
                    connection.fin = Fin::Queued;
                }
                self.transmit_more(id);
                self.finish_if_done(id);
            }
        }
    }

    pub(in crate::simulated) fn close_listener(&mut self, id: SocketId) {
        self.refuse_waiting(id);
        self.destroy(id);
    }

    /// Resets the connections that a listener's program has not accepted.
    fn refuse_waiting(&mut self, listener: SocketId) {
        let waiting: Vec<SocketId> = (self.sockets.iter())
            .filter(|(_, socket)| {
                socket
                    .connection()
                    .is_some_and(|c| c.listener == Some(listener))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.abort(id);
        }
    }

    /// Ends a connection at once and tells the peer.
    pub(super) fn abort(&mut self, id: SocketId) {
        let phase = self.connection_mut(id).map(|connection| connection.phase);
        if matches!(phase, Some(Phase::SynReceived | Phase::Established)) {
            self.send_segment(id, SegmentKind::Reset, 0, Vec::new(), false);
        }
        self.destroy(id);
    }

    /// Breaks all TCP connections between two hosts, as a middlebox does that has forgotten them.
    pub(crate) fn reset_connections(&mut self, a: HostId, b: HostId) {
        let between: Vec<SocketId> = (self.sockets.iter())
            .filter(|(_, socket)| {
                let remote = socket.connection().map(|connection| connection.remote);
                let ends = (socket.host, remote);
                ends == (a, Some(b)) || ends == (b, Some(a))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in between {
            let phase = self.connection_mut(id).map(|connection| connection.phase);
            if let Some(phase) = phase {
                self.on_reset(id, phase);
            }
        }
    }

    /// Handles the peer's reset.
    pub(super) fn on_reset(&mut self, id: SocketId, phase: Phase) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let half_closed = connection.fin_received && connection.fin == Fin::Open;
        match phase {
            Phase::SynSent => self.fail(id, libc::ECONNREFUSED),
            Phase::TimeWait => self.destroy_or_close(id),
            Phase::Closed => {}
            _ if half_closed => self.fail(id, libc::EPIPE),
            _ => self.fail(id, libc::ECONNRESET),
        }
    }

    /// Breaks a connection. The program finds the error at its next call, after the bytes that have arrived.
    pub(super) fn fail(&mut self, id: SocketId, error: i32) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let host = socket.host;
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let (number, remote, orphan) = (connection.number, connection.remote, connection.orphan);
        let (phase, listener) = (connection.phase, connection.listener);
        let happened = match phase {
            Phase::SynSent => Happened::ConnectFailed(error),
            _ => Happened::Broken(error),
        };
        self.record(happened, host, remote, number, 0);
        if orphan {
            return self.destroy(id);
        }
        if phase == Phase::SynReceived {
            if let Some(queue) = listener.and_then(|listener| self.listener_mut(listener)) {
                queue.half_open = queue.half_open.saturating_sub(1);
            }
            return self.destroy(id);
        }
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.error = Some(error);
        }
        self.end(id);
        self.wake(id);
    }

    /// Ends a connection whose socket remains. Received bytes can still be read.
    fn end(&mut self, id: SocketId) {
        self.forget_connection(id);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        (socket.shutdown_read, socket.shutdown_write) = (true, true);
        if let Some(connection) = socket.connection_mut() {
            connection.phase = Phase::Closed;
            connection.outgoing.clear();
            connection.early.clear();
        }
    }

    /// Ends a connection both of whose directions have ended.
    pub(super) fn finish_if_done(&mut self, id: SocketId) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        if connection.phase != Phase::Established {
            return;
        }
        if connection.fin != Fin::Acknowledged || !connection.fin_received {
            return self.arm_timer_if_idle(id);
        }
        if !connection.closed_first {
            // This end has received the last acknowledgment: nothing can be asked of it.
            return self.destroy_or_close(id);
        }
        connection.phase = Phase::TimeWait;
        self.arm_timer(id);
        self.wake(id);
    }

    /// Removes a connection that has ended, or ends it if a descriptor still names its socket.
    pub(super) fn destroy_or_close(&mut self, id: SocketId) {
        match self.connection_mut(id).map(|connection| connection.orphan) {
            Some(true) => self.destroy(id),
            _ => {
                self.end(id);
                self.wake(id);
            }
        }
    }

    /// Removes a connection from the tables by which packets and timers find it.
    pub(in crate::simulated) fn forget_connection(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let host = socket.host;
        let Some(connection) = socket.connection_mut() else {
            return;
        };
        let key = (host, connection.local, connection.peer);
        let timers = [connection.timer.take(), connection.keepalive_timer.take()];
        for timer in timers {
            self.cancel(timer);
        }
        if self.connections.get(&key) == Some(&id) {
            self.connections.remove(&key);
        }
    }
}
