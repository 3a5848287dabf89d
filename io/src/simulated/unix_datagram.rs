//! Unix datagram sockets: messages within one host. They arrive at once, in order, and none is lost.

use super::address::{Address, UnixName};
use super::buffer::{gather, length, length_mut, scatter};
use super::calls::Received;
use super::errors::os;
use super::events::SocketId;
use super::network::Network;
use super::sockets::State;
use super::trace::{Happened, pair_number};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};

/// Messages that a receiver's queue holds (`net.unix.max_dgram_qlen`, and one more).
const QUEUE_MAX: usize = 11;

/// Bytes of the send buffer that a message cannot use.
const RESERVED_BYTES: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct UnixDatagram {
    queue: VecDeque<(UnixName, Vec<u8>)>,
    /// The socket to which this one is connected.
    pub(super) peer: Option<SocketId>,
    pub(super) peer_name: Option<UnixName>,
    /// The sockets that are connected to this one.
    senders: BTreeSet<SocketId>,
}

impl UnixDatagram {
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.queue.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Network {
    fn unix_datagram(&self, id: SocketId) -> Option<&UnixDatagram> {
        match &self.sockets.get(&id)?.state {
            State::UnixDatagram(datagrams) => Some(datagrams),
            _ => None,
        }
    }

    fn unix_datagram_mut(&mut self, id: SocketId) -> Option<&mut UnixDatagram> {
        match &mut self.sockets.get_mut(&id)?.state {
            State::UnixDatagram(datagrams) => Some(datagrams),
            _ => None,
        }
    }

    /// Whether the queue of the connected receiver is full: then the sender is not writable.
    pub(super) fn is_peer_full(&self, sender: &UnixDatagram) -> bool {
        let peer = sender.peer.and_then(|peer| self.unix_datagram(peer));
        peer.is_some_and(|peer| peer.queue.len() >= QUEUE_MAX)
    }

    pub(super) fn join_datagrams(&mut self, one: SocketId, other: SocketId) {
        for (socket, peer) in [(one, other), (other, one)] {
            self.set_datagram_peer(socket, peer, UnixName::Unnamed);
        }
    }

    fn set_datagram_peer(&mut self, id: SocketId, peer: SocketId, name: UnixName) {
        self.leave_datagram_peer(id);
        if let Some(datagrams) = self.unix_datagram_mut(id) {
            datagrams.peer = Some(peer);
            datagrams.peer_name = Some(name);
        }
        if let Some(receiver) = self.unix_datagram_mut(peer) {
            receiver.senders.insert(id);
        }
    }

    /// Ends the association of a sender with its receiver, if it has one.
    fn leave_datagram_peer(&mut self, id: SocketId) {
        let before = self.unix_datagram_mut(id).and_then(|datagrams| {
            datagrams.peer_name = None;
            datagrams.peer.take()
        });
        if let Some(receiver) = before.and_then(|before| self.unix_datagram_mut(before)) {
            receiver.senders.remove(&id);
        }
    }

    pub(super) fn unix_datagram_connect(
        &mut self,
        id: SocketId,
        address: &Address,
    ) -> io::Result<()> {
        let name = address.unix()?.clone();
        let target = self.find_datagram_receiver(id, &name)?;
        self.set_datagram_peer(id, target, name);
        Ok(())
    }

    /// Returns the socket of that name, if this sender may send to it.
    fn find_datagram_receiver(&self, id: SocketId, name: &UnixName) -> io::Result<SocketId> {
        let host = self.sockets.get(&id).map_or(0, |socket| socket.host);
        let target = self.find_name(host, name)?;
        let Some(receiver) = self.unix_datagram(target) else {
            return Err(os(libc::EPROTOTYPE));
        };
        match receiver.peer.is_none_or(|peer| peer == id) {
            true => Ok(target),
            // It is connected, and receives from its peer alone.
            false => Err(os(libc::EPERM)),
        }
    }

    pub(super) fn unix_datagram_send(
        &mut self,
        id: SocketId,
        slices: &[IoSlice<'_>],
        to: Option<&Address>,
    ) -> io::Result<usize> {
        let count = length(slices);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        socket.check_may_send()?;
        if count > socket.options.send_buffer - RESERVED_BYTES {
            return Err(os(libc::EMSGSIZE));
        }
        let (host, name) = (socket.host, socket.unix_name());
        let connected = self.unix_datagram(id).and_then(|datagrams| datagrams.peer);
        let was_connected = (self.unix_datagram(id)).is_some_and(|d| d.peer_name.is_some());
        let target = match to {
            Some(address) => self.find_datagram_receiver(id, address.unix()?)?,
            None => match connected {
                Some(peer) => peer,
                None if was_connected => {
                    self.leave_datagram_peer(id);
                    return Err(os(libc::ECONNREFUSED));
                }
                None => return Err(os(libc::ENOTCONN)),
            },
        };
        let Some(receiver) = self.sockets.get_mut(&target) else {
            return Err(os(libc::ECONNREFUSED));
        };
        if receiver.shutdown_read {
            return Err(os(libc::EPIPE));
        }
        let State::UnixDatagram(datagrams) = &mut receiver.state else {
            return Err(os(libc::EPROTOTYPE));
        };
        if datagrams.queue.len() >= QUEUE_MAX {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.starved = true;
            }
            return Err(os(libc::EAGAIN));
        }
        datagrams.queue.push_back((name, gather(slices, count)));
        let number = pair_number(id, target);
        self.record(Happened::DatagramDelivered, host, host, number, count);
        self.wake(target);
        Ok(count)
    }

    pub(super) fn unix_datagram_recv(
        &mut self,
        id: SocketId,
        slices: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> io::Result<Received> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Err(os(libc::EBADF));
        };
        let State::UnixDatagram(datagrams) = &mut socket.state else {
            return Err(os(libc::EBADF));
        };
        let Some((from, bytes)) = datagrams.queue.front() else {
            return socket.receive_nothing().map(|()| Received::default());
        };
        let limit = length_mut(slices);
        let received = Received {
            bytes: scatter(bytes, slices, limit),
            length: bytes.len(),
            from: Some(Address::Unix(from.clone())),
        };
        if !peek {
            datagrams.queue.pop_front();
            for sender in datagrams.senders.clone() {
                self.wake_if_room(sender);
            }
        }
        Ok(received)
    }

    pub(super) fn close_unix_datagram(&mut self, id: SocketId) {
        self.leave_datagram_peer(id);
        let senders = self
            .unix_datagram_mut(id)
            .map(|d| std::mem::take(&mut d.senders));
        self.destroy(id);
        for sender in senders.unwrap_or_default() {
            // The sender finds out when it sends: it stays connected to a name without a socket.
            if let Some(datagrams) = self.unix_datagram_mut(sender) {
                datagrams.peer = None;
            }
            self.wake_if_room(sender);
        }
    }
}
