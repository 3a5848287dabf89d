//! The network of the simulation to which the calling thread belongs, and the loops that its events wake.
//!
//! The network lives in the simulation's layers. Each access first advances it to the present, and afterwards rings the
//! bells of the loops whose sockets became ready, and schedules the next event. While a crashed host is drained, time
//! is not the system's: the network stands still.

use super::errors::{os, unsupported};
use super::network::Network;
use super::readiness::{PollerId, Readiness};
use super::system_calls;
use crate::sys;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use yue_scheduler::{Bell as _, Instant, Wait, simulation};

/// Whether the calls of this thread go to a simulated network.
#[inline]
pub(crate) fn is_on() -> bool {
    simulation::is_on()
}

struct Layer {
    network: Network,
    bells: BTreeMap<PollerId, simulation::Bell>,
    /// The time of the earliest event that was scheduled.
    scheduled: Option<Instant>,
    names: BTreeMap<String, IpAddr>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer {
            network: Network::new(simulation::random()),
            bells: BTreeMap::new(),
            scheduled: None,
            names: BTreeMap::new(),
        }
    }
}

impl Layer {
    fn after_change(&mut self) {
        for poller in self.network.take_woken() {
            if let Some(bell) = self.bells.get(&poller) {
                bell.ring();
            }
        }
        let Some(next) = self.network.next_event() else {
            return;
        };
        if self.scheduled.is_none_or(|scheduled| next < scheduled) {
            self.scheduled = Some(next);
            simulation::at(next, on_event);
        }
    }
}

fn on_event() {
    with_layer(|layer| {
        if layer.scheduled.is_some_and(|at| at <= simulation::now()) {
            layer.scheduled = None;
        }
    });
}

fn with_layer<R>(f: impl FnOnce(&mut Layer) -> R) -> R {
    simulation::layer(|layer: &mut Layer| {
        if !simulation::is_draining() {
            layer.network.advance(simulation::now());
        }
        let result = f(layer);
        layer.after_change();
        result
    })
}

/// Passes the network to `f`.
pub(crate) fn with_network<R>(f: impl FnOnce(&mut Network) -> R) -> R {
    with_layer(|layer| f(&mut layer.network))
}

/// Passes the network to `f` with a new descriptor for a socket. It stays open if `f` succeeds.
pub(crate) fn new_socket<R>(
    f: impl FnOnce(&mut Network, RawFd) -> io::Result<R>,
) -> io::Result<(OwnedFd, R)> {
    // An eventfd: its number is unique in the process, and closing it costs nothing.
    let placeholder = sys::event_fd()?;
    let result = with_network(|network| f(network, placeholder.as_raw_fd()))?;
    Ok((placeholder, result))
}

/// Creates a socket of the calling thread's host.
///
/// # Errors
/// For families and types that the simulation does not have; when the host is down; `EMFILE` by the host's faults.
pub(crate) fn open_socket(domain: socket2::Domain, kind: socket2::Type) -> io::Result<OwnedFd> {
    let (domain, kind) = system_calls::kind(domain, kind)?;
    let host = simulation::host();
    if with_network(|network| network.is_faulty(host, |faults| faults.socket)) {
        return Err(os(libc::EMFILE));
    }
    let (fd, ()) = new_socket(|network, fd| network.socket(host, fd, domain, kind))?;
    Ok(fd)
}

/// Creates two Unix sockets of the calling thread's host, connected to each other.
pub(crate) fn open_pair(kind: socket2::Type) -> io::Result<(OwnedFd, OwnedFd)> {
    let (_, kind) = system_calls::kind(socket2::Domain::UNIX, kind)?;
    let (one, other) = (sys::event_fd()?, sys::event_fd()?);
    let host = simulation::host();
    with_network(|network| network.pair(host, one.as_raw_fd(), other.as_raw_fd(), kind))?;
    Ok((one, other))
}

/// Makes `new` another descriptor of the socket of `fd`.
pub(crate) fn duplicate(fd: RawFd, new: RawFd) -> io::Result<()> {
    with_network(|network| network.duplicate(fd, new))
}

/// Closes a descriptor that may name a simulated socket.
pub(crate) fn close(fd: RawFd) {
    // Other descriptors are not known there.
    let _ = with_network(|network| network.close(fd));
}

/// Removes the name of a Unix socket on the calling thread's host. Returns whether there was one.
pub(crate) fn remove_socket(path: &Path) -> bool {
    let host = simulation::host();
    with_network(|network| network.unlink(host, path.as_os_str().as_bytes()))
}

/// Names a host's address.
pub(crate) fn add_name(name: &str, address: IpAddr) {
    with_layer(|layer| layer.names.insert(name.to_owned(), address));
}

/// Returns the address of a name.
///
/// # Errors
/// When no host has it.
pub(crate) fn look_up(name: &str) -> io::Result<IpAddr> {
    let found = with_layer(|layer| layer.names.get(name).copied());
    found.ok_or_else(|| {
        let text = format!("the simulation has no host named '{name}'");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// Blocks a plain thread until one of the descriptors is ready for its events.
///
/// # Errors
/// `TimedOut` if that takes longer than until `until`; when the simulation has ended.
pub(crate) fn block_until_ready(
    entries: &[libc::pollfd],
    until: Option<Instant>,
) -> io::Result<()> {
    let mut poller = Poller::new();
    for (index, entry) in entries.iter().enumerate() {
        poller.register(entry.fd, index)?;
    }
    loop {
        let is_ready = |entry: &libc::pollfd| system_calls::level(entry.fd).answers(entry.events);
        if entries.iter().any(is_ready) {
            return Ok(());
        }
        if until.is_some_and(|until| until <= Instant::system()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        poller.wait(Wait::Block(until))?;
        poller.events().clear();
    }
}

/// A loop's poller.
#[derive(Debug)]
pub(crate) struct Poller {
    id: PollerId,
    bell: simulation::Bell,
    events: Vec<(usize, Readiness)>,
}

impl Poller {
    pub(crate) fn new() -> Poller {
        let bell = simulation::Bell::new();
        let id = with_layer(|layer| {
            let id = layer.network.add_poller();
            layer.bells.insert(id, bell.clone());
            id
        });
        Poller {
            id,
            bell,
            events: Vec::new(),
        }
    }

    pub(crate) fn bell(&self) -> simulation::Bell {
        self.bell.clone()
    }

    /// Registers a socket.
    ///
    /// # Errors
    /// For other descriptors.
    pub(crate) fn register(&self, fd: RawFd, token: usize) -> io::Result<()> {
        let registered = with_network(|network| network.register(self.id, fd, token));
        registered.map_err(|_| {
            unsupported("waiting for a pipe, or another descriptor that is not a socket,")
        })
    }

    pub(crate) fn deregister(&self, fd: RawFd) {
        with_network(|network| network.deregister(self.id, fd));
    }

    /// Gives the baton away, and takes the events afterwards.
    ///
    /// # Errors
    /// When the simulation has ended.
    pub(crate) fn wait(&mut self, wait: Wait) -> io::Result<()> {
        simulation::turn(&self.bell, wait)?;
        with_network(|network| network.take_events(self.id, &mut self.events));
        Ok(())
    }

    /// The events of the last waits, to be taken out.
    pub(crate) fn events(&mut self) -> &mut Vec<(usize, Readiness)> {
        &mut self.events
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if is_on() {
            with_layer(|layer| {
                layer.bells.remove(&self.id);
                layer.network.remove_poller(self.id);
            });
        }
    }
}
