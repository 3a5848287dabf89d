//! Names of sockets: ports, their conflicts, and the paths of Unix sockets.

use super::address::{Address, Domain, UnixName, canonical, seen_by};
use super::errors::os;
use super::events::SocketId;
use super::hosts::{HostId, Protocol};
use super::network::Network;
use super::sockets::{Socket, State};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// The ports from which the kernel chooses (`net.ipv4.ip_local_port_range`).
const PORT_FIRST: u16 = 32_768;
const PORT_COUNT: u16 = 28_232;

impl Network {
    /// Binds a socket to an address. Port 0 chooses a free port.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, `EINVAL` if the socket has an address, `EAFNOSUPPORT`.
    pub(crate) fn bind(&mut self, fd: RawFd, address: &Address) -> io::Result<()> {
        let id = self.find(fd)?;
        let socket = self.find_socket(fd)?;
        if socket.domain == Domain::Unix {
            let name = address.unix()?.clone();
            return self.bind_name(id, name);
        }
        let address = canonical(address.inet()?);
        let has_address = match socket.state {
            State::Tcp(_) | State::TcpListener(_) => true,
            State::Udp(_) => socket.local_inet().port() != 0,
            _ => false,
        };
        if socket.bound || has_address {
            return Err(os(libc::EINVAL));
        }
        // A mapped address belongs to a dual-stack socket only.
        let mapped = socket.domain == Domain::V6 && address.is_ipv4();
        if (socket.domain == Domain::V4 && !address.is_ipv4()) || (mapped && socket.options.only_v6)
        {
            return Err(os(libc::EAFNOSUPPORT));
        }
        if !self.has_address(socket.host, socket.domain, address.ip()) {
            return Err(os(libc::EADDRNOTAVAIL));
        }
        let port = match address.port() {
            0 => self.free_port(id, address.ip())?,
            port if self.conflicts(id, SocketAddr::new(address.ip(), port)) => {
                return Err(os(libc::EADDRINUSE));
            }
            port => port,
        };
        self.set_local(id, SocketAddr::new(address.ip(), port));
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.bound = true;
        }
        Ok(())
    }

    /// Returns the address of a socket, in the form that its family shows.
    pub(crate) fn local_address(&self, fd: RawFd) -> io::Result<Address> {
        let socket = self.find_socket(fd)?;
        Ok(match &socket.local {
            // An unbound IPv6 socket shows `::`; a mapped wildcard only exists if it was bound that way.
            Address::Inet(address) => Address::Inet(seen_by(socket.domain, *address)),
            name => name.clone(),
        })
    }

    /// Removes the file of a Unix socket, which may still be bound. Returns whether there was one.
    pub(crate) fn unlink(&mut self, host: HostId, path: &[u8]) -> bool {
        let name = UnixName::Path(path.to_vec());
        match self.hosts.get_mut(host as usize) {
            Some(host) => host.names.remove(&name).is_some(),
            None => false,
        }
    }

    /// Gives a socket its local address and its entry in the table of ports.
    pub(super) fn set_local(&mut self, id: SocketId, local: SocketAddr) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let before = socket.local_inet().port();
        socket.local = Address::Inet(local);
        let (host, protocol) = (socket.host, socket.protocol());
        if let (Some(protocol), Some(host)) = (protocol, self.hosts.get_mut(host as usize)) {
            if before != 0 && before != local.port() {
                leave_port(&mut host.ports, (protocol, before), id);
            }
            let sockets = host.ports.entry((protocol, local.port())).or_default();
            sockets.insert(id);
        }
    }

    /// Removes a destroyed socket's port or name.
    pub(super) fn release_name(&mut self, id: SocketId, socket: &Socket) {
        let Some(host) = self.hosts.get_mut(socket.host as usize) else {
            return;
        };
        match (&socket.local, socket.protocol()) {
            (Address::Inet(local), Some(protocol)) => {
                leave_port(&mut host.ports, (protocol, local.port()), id);
            }
            (Address::Unix(name), _) if host.names.get(name) == Some(&Some(id)) => match name {
                // The file stays until it is unlinked.
                UnixName::Path(_) => drop(host.names.insert(name.clone(), None)),
                _ => drop(host.names.remove(name)),
            },
            _ => {}
        }
    }

    /// Whether another socket prevents this one from using the address: to bind it, or to listen on it.
    pub(super) fn conflicts(&self, id: SocketId, address: SocketAddr) -> bool {
        let Some(socket) = self.sockets.get(&id) else {
            return false;
        };
        let Some(protocol) = socket.protocol() else {
            return false;
        };
        self.at_port(socket.host, protocol, address.port())
            .any(|other| {
                let Some(held) = self.sockets.get(&other).filter(|_| other != id) else {
                    return false;
                };
                overlap(
                    (socket.domain, socket.options.only_v6, address.ip()),
                    (held.domain, held.options.only_v6, held.local_inet().ip()),
                ) && !may_share(socket, held)
            })
    }

    /// The sockets that use a port.
    pub(super) fn at_port(
        &self,
        host: HostId,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = SocketId> + '_ {
        let host = self.hosts.get(host as usize);
        let sockets = host.and_then(|host| host.ports.get(&(protocol, port)));
        sockets.into_iter().flatten().copied()
    }

    /// Chooses a port on which the socket conflicts with no other.
    pub(super) fn free_port(&mut self, id: SocketId, ip: IpAddr) -> io::Result<u16> {
        let start = self.random.below(u64::from(PORT_COUNT)) as u16;
        (0..PORT_COUNT)
            .map(|n| {
                PORT_FIRST + ((u32::from(start) + u32::from(n)) % u32::from(PORT_COUNT)) as u16
            })
            .find(|port| {
                // A port that is chosen is never shared, whatever the options allow.
                let host = self.sockets.get(&id).map_or(0, |socket| socket.host);
                let protocol = self.sockets.get(&id).and_then(Socket::protocol);
                let taken = protocol.is_some_and(|protocol| {
                    self.at_port(host, protocol, *port).any(|other| other != id)
                });
                !taken && !self.conflicts(id, SocketAddr::new(ip, *port))
            })
            .ok_or_else(|| os(libc::EADDRINUSE))
    }

    /// Chooses a port for a connection from `ip` to `peer`: connections to different peers may share one.
    pub(super) fn connecting_port(
        &mut self,
        id: SocketId,
        ip: IpAddr,
        peer: SocketAddr,
    ) -> io::Result<u16> {
        let host = self.sockets.get(&id).map_or(0, |socket| socket.host);
        let start = self.random.below(u64::from(PORT_COUNT)) as u16;
        (0..PORT_COUNT)
            .map(|n| {
                PORT_FIRST + ((u32::from(start) + u32::from(n)) % u32::from(PORT_COUNT)) as u16
            })
            .find(|port| {
                let local = SocketAddr::new(ip, *port);
                // Never a port that a program has bound, and never the peer itself.
                let bound = self.at_port(host, Protocol::Tcp, *port).any(|other| {
                    let other = self.sockets.get(&other);
                    other.is_some_and(|other| other.bound)
                });
                !bound && local != peer && !self.connections.contains_key(&(host, local, peer))
            })
            .ok_or_else(|| os(libc::EADDRNOTAVAIL))
    }

    fn bind_name(&mut self, id: SocketId, name: UnixName) -> io::Result<()> {
        let Some(socket) = self.sockets.get(&id) else {
            return Err(os(libc::EBADF));
        };
        if socket.bound {
            return Err(os(libc::EINVAL));
        }
        let host = socket.host;
        let name = match name {
            UnixName::Unnamed => self.free_name(host),
            name => name,
        };
        let Some(host) = self.hosts.get_mut(host as usize) else {
            return Err(os(libc::ENETDOWN));
        };
        if host.names.contains_key(&name) {
            return Err(os(libc::EADDRINUSE));
        }
        host.names.insert(name.clone(), Some(id));
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.local = Address::Unix(name);
            socket.bound = true;
        }
        Ok(())
    }

    /// Returns an unused abstract name, like the kernel for a bind without a name (`unix(7)`, autobind).
    fn free_name(&mut self, host: HostId) -> UnixName {
        loop {
            let number = self.random.below(1 << 20);
            let name = UnixName::Abstract(format!("{number:05x}").into_bytes());
            let host = self.hosts.get(host as usize);
            if host.is_none_or(|host| !host.names.contains_key(&name)) {
                return name;
            }
        }
    }
}

type Ports = std::collections::BTreeMap<(Protocol, u16), std::collections::BTreeSet<SocketId>>;

fn leave_port(ports: &mut Ports, key: (Protocol, u16), id: SocketId) {
    if let Some(sockets) = ports.get_mut(&key) {
        sockets.remove(&id);
        if sockets.is_empty() {
            ports.remove(&key);
        }
    }
}

/// Whether two addresses, each with its socket's family and whether that is restricted to IPv6, have one in common.
fn overlap(one: (Domain, bool, IpAddr), other: (Domain, bool, IpAddr)) -> bool {
    let covers = |(domain, only_v6, ip): (Domain, bool, IpAddr), like: IpAddr| {
        let dual = domain == Domain::V6 && ip.is_ipv6() && !only_v6;
        ip.is_unspecified() && (ip.is_ipv4() == like.is_ipv4() || (dual && like.is_ipv4()))
    };
    one.2 == other.2 || covers(one, other.2) || covers(other, one.2)
}

/// Whether two sockets may use one port (`socket(7)`, `SO_REUSEADDR` and `SO_REUSEPORT`).
fn may_share(one: &Socket, held: &Socket) -> bool {
    let ports = one.options.reuse_port && held.options.reuse_port;
    let addresses = one.options.reuse_address && held.options.reuse_address;
    // Only `SO_REUSEPORT` allows a socket beside a listener.
    ports || (addresses && !matches!(held.state, State::TcpListener(_)))
}
