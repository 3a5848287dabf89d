//! UDP sockets.
//!
//! A datagram that reaches a host without a socket for it causes an ICMP message, which a connected sender reports as
//! `ECONNREFUSED` at its next call.

use super::address::{Address, Domain, canonical, seen_by};
use super::buffer::{gather, length, length_mut, scatter};
use super::calls::Received;
use super::errors::{os, unsupported};
use super::events::{Content, Packet, SocketId};
use super::hosts::{HostId, Protocol};
use super::network::Network;
use super::readiness::Readiness;
use super::sockets::{Socket, State};
use super::tcp::{match_rank, spread};
use super::trace::Happened;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The largest payload: 65 535 bytes less the headers of IPv4 and UDP.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The memory that a queued datagram takes of the receive buffer besides its bytes (`sizeof(struct sk_buff)` and more).
const OVERHEAD_BYTES: usize = 768;

#[derive(Debug, Default)]
pub(crate) struct Udp {
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    queued_bytes: usize,
    pub(super) peer: Option<SocketAddr>,
}

impl Udp {
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.queued_bytes
    }
}

impl Socket {
    pub(super) fn udp_level(&self) -> Readiness {
        let queued = match &self.state {
            State::Udp(udp) => !udp.queue.is_empty(),
            _ => false,
        };
        let level = Readiness {
            readable: queued || self.shutdown_read,
            writable: true,
            read_closed: self.shutdown_read,
            write_closed: false,
            error: self.error.is_some(),
        };
        match self.shutdown_read && self.shutdown_write {
            true => level.hang_up(),
            false => level,
        }
    }

    fn udp_mut(&mut self) -> Option<&mut Udp> {
        match &mut self.state {
            State::Udp(udp) => Some(udp),
            _ => None,
        }
    }
}

impl Network {
    pub(super) fn udp_connect(&mut self, id: SocketId, address: &Address) -> io::Result<()> {
        let peer = canonical(address.inet()?);
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        let host = socket.host;
        check_family(socket, peer)?;
        self.route(host, peer.ip())?;
        let source = self.source_address(host, peer.ip())?;
        let peer = match peer.ip().is_unspecified() {
            true => SocketAddr::new(source, peer.port()),
            false => peer,
        };
        self.bind_to_any(id)?;
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let local = socket.local_inet();
        if let Some(udp) = socket.udp_mut() {
            udp.peer = Some(peer);
        }
        if local.ip().is_unspecified() {
            self.set_local(id, SocketAddr::new(source, local.port()));
        }
        Ok(())
    }

    pub(super) fn udp_send(
        &mut self,
        id: SocketId,
        slices: &[IoSlice<'_>],
        to: Option<&Address>,
    ) -> io::Result<usize> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        socket.check_may_send()?;
        let host = socket.host;
        let peer = socket.udp_mut().and_then(|udp| udp.peer);
        let target = match to {
            Some(address) => canonical(address.inet()?),
            None => peer.ok_or_else(|| os(libc::EDESTADDRREQ))?,
        };
        let count = length(slices);
        if count > DATAGRAM_BYTES_MAX {
            return Err(os(libc::EMSGSIZE));
        }
        check_family(socket, target)?;
        if target.port() == 0 {
            return Err(os(libc::EINVAL));
        }
        if target.ip().is_multicast() {
            return Err(unsupported("a multicast datagram"));
        }
        if target.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(match socket.options.broadcast {
                true => unsupported("a broadcast datagram"),
                false => os(libc::EACCES),
            });
        }
        let remote = self.route(host, target.ip())?;
        let source = self.source_address(host, target.ip())?;
        let target = match target.ip().is_unspecified() {
            true => SocketAddr::new(source, target.port()),
            false => target,
        };
        let port = self.bind_to_any(id)?;
        let local = self.sockets.get(&id).map(|socket| socket.local_inet().ip());
        let from = match local {
            Some(ip) if !ip.is_unspecified() => ip,
            _ => source,
        };
        let packet = Packet {
            number: self.next_packet(),
            from: host,
            to: remote,
            source: SocketAddr::new(from, port),
            target,
            content: Content::Datagram(gather(slices, count)),
        };
        self.record_packet(Happened::DatagramSent, &packet);
        self.transmit_datagram(packet);
        Ok(count)
    }

    pub(super) fn udp_recv(
        &mut self,
        id: SocketId,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<Received> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        if let Some(error) = socket.error.take() {
            return Err(os(error));
        }
        let (domain, shut) = (socket.domain, socket.shutdown_read);
        let Some(udp) = socket.udp_mut() else {
            return Err(os(libc::EBADF));
        };
        let Some((from, bytes)) = udp.queue.front() else {
            return match shut {
                true => Ok(Received::default()),
                false => Err(os(libc::EAGAIN)),
            };
        };
        let limit = length_mut(slices);
        let received = Received {
            bytes: scatter(bytes, slices, limit),
            length: bytes.len(),
            from: Some(Address::Inet(seen_by(domain, *from))),
        };
        if !peek {
            udp.queued_bytes -= bytes.len() + OVERHEAD_BYTES;
            udp.queue.pop_front();
        }
        Ok(received)
    }

    /// Handles a datagram that has arrived.
    pub(super) fn on_datagram(&mut self, packet: Packet) {
        let Some(id) = self.find_receiver(packet.to, packet.target, packet.source) else {
            self.record_lost(&packet);
            let number = self.next_packet();
            return self.transmit_datagram(Packet {
                number,
                from: packet.to,
                to: packet.from,
                source: packet.target,
                target: packet.source,
                content: Content::Unreachable,
            });
        };
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let capacity = socket.options.receive_buffer;
        let cost = packet.bytes() + OVERHEAD_BYTES;
        let Some(udp) = socket.udp_mut() else {
            return;
        };
        if udp.queued_bytes + cost > capacity {
            return self.record_lost(&packet);
        }
        self.record_packet(Happened::DatagramDelivered, &packet);
        let Content::Datagram(bytes) = packet.content else {
            return;
        };
        if let Some(udp) = self.sockets.get_mut(&id).and_then(Socket::udp_mut) {
            udp.queued_bytes += cost;
            udp.queue.push_back((packet.source, bytes));
        }
        self.wake(id);
    }

    /// Handles the message that an earlier datagram met no socket.
    pub(super) fn on_unreachable(&mut self, packet: &Packet) {
        let Some(id) = self.find_receiver(packet.to, packet.target, packet.source) else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        // Only a connected socket is told: another could not know which datagram is meant.
        if socket.udp_mut().and_then(|udp| udp.peer) == Some(packet.source) {
            socket.error = Some(libc::ECONNREFUSED);
            self.wake(id);
        }
    }

    /// Returns the socket for a datagram: one connected to the sender before any other, then the closest address.
    fn find_receiver(
        &self,
        host: HostId,
        local: SocketAddr,
        sender: SocketAddr,
    ) -> Option<SocketId> {
        let mut best: Vec<SocketId> = Vec::new();
        let mut best_rank = 0;
        for id in self.at_port(host, Protocol::Udp, local.port()) {
            let Some(socket) = self.sockets.get(&id) else {
                continue;
            };
            let State::Udp(udp) = &socket.state else {
                continue;
            };
            let rank = match (match_rank(socket, local.ip()), udp.peer) {
                (0, _) => 0,
                (rank, None) => rank,
                (rank, Some(peer)) if peer == sender => rank + 4,
                (_, Some(_)) => 0,
            };
            if rank > best_rank {
                (best, best_rank) = (vec![id], rank);
            } else if rank > 0 && rank == best_rank {
                best.push(id);
            }
        }
        let index = spread(self.seed, sender, best.len());
        best.get(index).copied()
    }

    /// Binds a socket to a port of the kernel's choice, unless it is bound. Returns its port.
    fn bind_to_any(&mut self, id: SocketId) -> io::Result<u16> {
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        let local = socket.local_inet();
        if local.port() != 0 {
            return Ok(local.port());
        }
        let port = self.free_port(id, local.ip())?;
        self.set_local(id, SocketAddr::new(local.ip(), port));
        Ok(port)
    }
}

fn check_family(socket: &Socket, peer: SocketAddr) -> io::Result<()> {
    match (socket.domain, peer.is_ipv4()) {
        (Domain::V4, false) => Err(os(libc::EAFNOSUPPORT)),
        (Domain::V6, true) if socket.options.only_v6 => Err(os(libc::ENETUNREACH)),
        _ => Ok(()),
    }
}
