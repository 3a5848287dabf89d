//! Pollers: which sockets became ready, reported like edge-triggered `epoll(7)`.
//!
//! - A *level* is the state that `poll(2)` would show. An *edge* is an occasion on which the state may have become
//!   ready: bytes have arrived, there is room again, the peer has hung up.
//! - An edge puts the registration into the poller's list, once, however many edges follow. [`Network::take_events`]
//!   then reports the level of that moment, or nothing if the socket is not ready any more. So the report may show a
//!   direction that had no edge, as in the kernel.
//! - A new registration of a ready socket has an edge.
//! - Reports come in the order of the first edges.

use super::errors::os;
use super::events::SocketId;
use super::network::Network;
use super::sockets::State;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::RawFd;

/// The number of a poller, one for each loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PollerId(pub(crate) u32);

/// The state of a socket, as `poll(2)` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Nothing more will arrive than what is here (`EPOLLRDHUP`, `EPOLLHUP`).
    pub(crate) read_closed: bool,
    /// Nothing more can be sent (`EPOLLHUP`).
    pub(crate) write_closed: bool,
    pub(crate) error: bool,
}

impl Readiness {
    /// The state of a socket that was shut down in both directions, or was never connected (`EPOLLHUP`).
    pub(super) fn hang_up(self) -> Readiness {
        Readiness {
            read_closed: true,
            write_closed: true,
            ..self
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Readiness::default()
    }

    /// Whether `poll(2)` for these events (`POLLIN`, `POLLOUT`) would report the descriptor.
    pub(crate) fn answers(self, events: i16) -> bool {
        let broken = self.error || (self.read_closed && self.write_closed);
        let wanted = (events & libc::POLLIN != 0 && self.readable)
            || (events & libc::POLLOUT != 0 && self.writable);
        broken || wanted
    }
}

#[derive(Debug)]
struct Watch {
    socket: SocketId,
    token: usize,
    listed: bool,
}

#[derive(Debug, Default)]
struct Poller {
    watches: BTreeMap<RawFd, Watch>,
    /// The registrations with an edge, in the order of their edges.
    ready: VecDeque<RawFd>,
}

#[derive(Debug, Default)]
pub(crate) struct Pollers {
    pollers: BTreeMap<PollerId, Poller>,
    last: u32,
    /// The pollers that had an edge since the last [`Network::take_woken`].
    woken: BTreeSet<PollerId>,
}

impl Pollers {
    fn edge(&mut self, id: PollerId, fd: RawFd) {
        let Some(poller) = self.pollers.get_mut(&id) else {
            return;
        };
        let Some(watch) = poller.watches.get_mut(&fd) else {
            return;
        };
        if !watch.listed {
            watch.listed = true;
            poller.ready.push_back(fd);
        }
        self.woken.insert(id);
    }

    pub(super) fn remove_watch(&mut self, id: PollerId, fd: RawFd) {
        if let Some(poller) = self.pollers.get_mut(&id)
            && poller.watches.remove(&fd).is_some_and(|watch| watch.listed)
        {
            poller.ready.retain(|listed| *listed != fd);
        }
    }
}

impl Network {
    pub(crate) fn add_poller(&mut self) -> PollerId {
        self.pollers.last += 1;
        let id = PollerId(self.pollers.last);
        self.pollers.pollers.insert(id, Poller::default());
        id
    }

    /// Removes a poller and its registrations.
    pub(crate) fn remove_poller(&mut self, id: PollerId) {
        self.pollers.woken.remove(&id);
        let Some(poller) = self.pollers.pollers.remove(&id) else {
            return;
        };
        for watch in poller.watches.values() {
            if let Some(socket) = self.sockets.get_mut(&watch.socket) {
                socket.watches.retain(|(poller, _)| *poller != id);
            }
        }
    }

    /// Reports the readiness of a descriptor under `token` from now on. An earlier registration is replaced.
    ///
    /// # Errors
    /// `EBADF` if the descriptor or the poller is not known.
    pub(crate) fn register(&mut self, id: PollerId, fd: RawFd, token: usize) -> io::Result<()> {
        let socket = self.find(fd)?;
        self.deregister(id, fd);
        let poller = self.pollers.pollers.get_mut(&id);
        let poller = poller.ok_or_else(|| os(libc::EBADF))?;
        let listed = false;
        poller.watches.insert(
            fd,
            Watch {
                socket,
                token,
                listed,
            },
        );
        if let Some(socket) = self.sockets.get_mut(&socket) {
            socket.watches.push((id, fd));
        }
        if !self.level_of(socket).is_empty() {
            self.pollers.edge(id, fd);
        }
        Ok(())
    }

    /// Ends a registration, if there is one.
    pub(crate) fn deregister(&mut self, id: PollerId, fd: RawFd) {
        self.pollers.remove_watch(id, fd);
        if let Some(socket) = self.descriptors.get(&fd)
            && let Some(socket) = self.sockets.get_mut(socket)
        {
            socket.watches.retain(|watch| *watch != (id, fd));
        }
    }

    /// Appends the events of a poller to `events`, and returns their number.
    pub(crate) fn take_events(
        &mut self,
        id: PollerId,
        events: &mut Vec<(usize, Readiness)>,
    ) -> usize {
        let before = events.len();
        self.pollers.woken.remove(&id);
        let Some(poller) = self.pollers.pollers.get_mut(&id) else {
            return 0;
        };
        for fd in std::mem::take(&mut poller.ready) {
            let poller = self.pollers.pollers.get_mut(&id);
            let Some(watch) = poller.and_then(|poller| poller.watches.get_mut(&fd)) else {
                continue;
            };
            watch.listed = false;
            let (token, socket) = (watch.token, watch.socket);
            let level = self.level_of(socket);
            if !level.is_empty() {
                events.push((token, level));
            }
        }
        events.len() - before
    }

    /// Whether [`Network::take_events`] would report something.
    #[cfg(test)]
    pub(crate) fn has_events(&self, id: PollerId) -> bool {
        self.pollers.pollers.get(&id).is_some_and(|poller| {
            let mut ready = poller.ready.iter().filter_map(|fd| poller.watches.get(fd));
            ready.any(|watch| !self.level_of(watch.socket).is_empty())
        })
    }

    /// Returns the pollers that had an edge since the last call, so that the caller can wake their loops.
    pub(crate) fn take_woken(&mut self) -> Vec<PollerId> {
        std::mem::take(&mut self.pollers.woken)
            .into_iter()
            .collect()
    }

    /// Returns the state of a descriptor, like `poll(2)`.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not known.
    pub(crate) fn level(&self, fd: RawFd) -> io::Result<Readiness> {
        Ok(self.level_of(self.find(fd)?))
    }

    pub(super) fn level_of(&self, id: SocketId) -> Readiness {
        let Some(socket) = self.sockets.get(&id) else {
            return Readiness::default();
        };
        match &socket.state {
            State::TcpIdle | State::TcpListener(_) | State::Tcp(_) => socket.tcp_level(),
            State::Udp(_) => socket.udp_level(),
            _ => self.unix_level(socket),
        }
    }

    /// Reports an edge of a socket to all pollers that watch it.
    pub(super) fn wake(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get(&id) {
            for (poller, fd) in &socket.watches {
                self.pollers.edge(*poller, *fd);
            }
        }
    }

    /// Reports an edge if the socket has refused bytes and has room again.
    pub(super) fn wake_if_room(&mut self, id: SocketId) {
        if self.sockets.get(&id).is_some_and(|socket| socket.starved) && self.level_of(id).writable
        {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.starved = false;
            }
            self.wake(id);
        }
    }
}
