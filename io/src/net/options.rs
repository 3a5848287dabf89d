//! The names, options and connection calls of a socket: the kernel's, or those of a simulated network.

use crate::simulated::{self, Address, with_network};
use crate::sys;
use socket2::{SockAddr, SockRef, TcpKeepalive};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A view of a socket.
pub(crate) enum Options<'a> {
    Kernel(SockRef<'a>),
    Simulated(RawFd),
}

impl<'a> Options<'a> {
    pub(crate) fn of(socket: &'a impl AsFd) -> Options<'a> {
        match simulated::is_on() {
            true => Options::Simulated(socket.as_fd().as_raw_fd()),
            false => Options::Kernel(SockRef::from(socket)),
        }
    }

    pub(crate) fn bind(&self, address: &SockAddr) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.bind(address),
            Options::Simulated(fd) => {
                let address = Address::from_sock_addr(address)?;
                with_network(|network| network.bind(*fd, &address))
            }
        }
    }

    pub(crate) fn listen(&self, backlog: i32) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.listen(backlog),
            Options::Simulated(fd) => with_network(|network| network.listen(*fd, backlog)),
        }
    }

    /// Begins to connect. A simulated socket behaves as one in non-blocking mode.
    pub(crate) fn connect(&self, address: &SockAddr) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.connect(address),
            Options::Simulated(fd) => {
                let address = Address::from_sock_addr(address)?;
                with_network(|network| network.connect(*fd, &address))
            }
        }
    }

    pub(crate) fn accept(&self) -> io::Result<(OwnedFd, SockAddr)> {
        match self {
            Options::Kernel(socket) => {
                let (accepted, address) = socket.accept4(libc::SOCK_CLOEXEC)?;
                Ok((accepted.into(), address))
            }
            Options::Simulated(fd) => {
                let (accepted, address) =
                    simulated::new_socket(|network, new| network.accept(*fd, new))?;
                Ok((accepted, address.to_sock_addr()?))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SockAddr> {
        match self {
            Options::Kernel(socket) => socket.local_addr(),
            Options::Simulated(fd) => {
                with_network(|network| network.local_address(*fd))?.to_sock_addr()
            }
        }
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SockAddr> {
        match self {
            Options::Kernel(socket) => socket.peer_addr(),
            Options::Simulated(fd) => {
                with_network(|network| network.peer_address(*fd))?.to_sock_addr()
            }
        }
    }

    /// Returns the peer's address, even if the peer has reset the connection.
    pub(crate) fn last_peer_addr(&self) -> io::Result<SockAddr> {
        match self {
            Options::Kernel(socket) => sys::peer_address(socket),
            Options::Simulated(fd) => {
                with_network(|network| network.last_peer_address(*fd))?.to_sock_addr()
            }
        }
    }

    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Options::Kernel(socket) => socket.take_error(),
            Options::Simulated(fd) => with_network(|network| network.take_error(*fd)),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.shutdown(how),
            Options::Simulated(fd) => with_network(|network| network.shutdown(*fd, how)),
        }
    }

    pub(crate) fn set_recv_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.set_recv_buffer_size(bytes),
            Options::Simulated(fd) => {
                with_network(|network| network.set_receive_buffer(*fd, bytes))
            }
        }
    }

    pub(crate) fn recv_buffer_size(&self) -> io::Result<usize> {
        match self {
            Options::Kernel(socket) => socket.recv_buffer_size(),
            Options::Simulated(fd) => with_network(|network| network.receive_buffer(*fd)),
        }
    }

    pub(crate) fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.set_send_buffer_size(bytes),
            Options::Simulated(fd) => with_network(|network| network.set_send_buffer(*fd, bytes)),
        }
    }

    pub(crate) fn send_buffer_size(&self) -> io::Result<usize> {
        match self {
            Options::Kernel(socket) => socket.send_buffer_size(),
            Options::Simulated(fd) => with_network(|network| network.send_buffer(*fd)),
        }
    }

    pub(crate) fn set_keepalive(&self, on: bool) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => socket.set_keepalive(on),
            Options::Simulated(fd) => with_network(|network| {
                let keepalive = network.options(*fd)?.keepalive;
                network.set_keepalive(*fd, simulated::Keepalive { on, ..keepalive })
            }),
        }
    }

    /// Sets all values of `keepalive`, and switches it on.
    pub(crate) fn set_tcp_keepalive(&self, keepalive: &crate::net::Keepalive) -> io::Result<()> {
        match self {
            Options::Kernel(socket) => {
                let wanted = TcpKeepalive::new()
                    .with_time(keepalive.idle)
                    .with_interval(keepalive.interval)
                    .with_retries(keepalive.retries);
                socket.set_tcp_keepalive(&wanted)
            }
            Options::Simulated(fd) => with_network(|network| {
                let keepalive = simulated::Keepalive {
                    on: true,
                    idle: keepalive.idle,
                    interval: keepalive.interval,
                    retries: keepalive.retries,
                };
                network.set_keepalive(*fd, keepalive)
            }),
        }
    }

    /// Returns the values of keepalive, if it is on.
    pub(crate) fn tcp_keepalive(&self) -> io::Result<Option<crate::net::Keepalive>> {
        let keepalive = match self {
            Options::Kernel(socket) => {
                if !socket.keepalive()? {
                    return Ok(None);
                }
                crate::net::Keepalive {
                    idle: socket.tcp_keepalive_time()?,
                    interval: socket.tcp_keepalive_interval()?,
                    retries: socket.tcp_keepalive_retries()?,
                }
            }
            Options::Simulated(fd) => {
                let keepalive = with_network(|network| Ok(network.options(*fd)?.keepalive));
                let keepalive = keepalive.map_err(|error: io::Error| error)?;
                if !keepalive.on {
                    return Ok(None);
                }
                crate::net::Keepalive {
                    idle: keepalive.idle,
                    interval: keepalive.interval,
                    retries: keepalive.retries,
                }
            }
        };
        Ok(Some(keepalive))
    }
}

/// Options that a simulated socket only stores: a setter, and a getter if the program can read it.
macro_rules! stored {
    ($($set:ident($value:ty), $get:ident => $kernel_set:ident, $kernel_get:ident, $field:ident;)*) => {
        impl Options<'_> {
            $(
                pub(crate) fn $set(&self, value: $value) -> io::Result<()> {
                    match self {
                        Options::Kernel(socket) => socket.$kernel_set(value),
                        Options::Simulated(fd) => with_network(|network| {
                            network.options_mut(*fd)?.$field = value;
                            Ok(())
                        }),
                    }
                }

                pub(crate) fn $get(&self) -> io::Result<$value> {
                    match self {
                        Options::Kernel(socket) => socket.$kernel_get(),
                        Options::Simulated(fd) => {
                            with_network(|network| Ok(network.options(*fd)?.$field))
                        }
                    }
                }
            )*
        }
    };
}

stored! {
    set_tcp_nodelay(bool), tcp_nodelay => set_tcp_nodelay, tcp_nodelay, nodelay;
    set_linger(Option<Duration>), linger => set_linger, linger, linger;
    set_ttl_v4(u32), ttl_v4 => set_ttl_v4, ttl_v4, ttl;
    set_tcp_user_timeout(Option<Duration>), tcp_user_timeout =>
        set_tcp_user_timeout, tcp_user_timeout, user_timeout;
    set_broadcast(bool), broadcast => set_broadcast, broadcast, broadcast;
}

/// Options that a program only sets.
macro_rules! set_only {
    ($($set:ident, $field:ident;)*) => {
        impl Options<'_> {
            $(
                pub(crate) fn $set(&self, value: bool) -> io::Result<()> {
                    match self {
                        Options::Kernel(socket) => socket.$set(value),
                        Options::Simulated(fd) => with_network(|network| {
                            network.options_mut(*fd)?.$field = value;
                            Ok(())
                        }),
                    }
                }
            )*
        }
    };
}

set_only! {
    set_reuse_address, reuse_address;
    set_reuse_port, reuse_port;
    set_only_v6, only_v6;
}

/// Multicast, which only the kernel has.
macro_rules! multicast {
    ($($call:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Options<'_> {
            $(
                pub(crate) fn $call(&self $(, $argument: $type)*) -> io::Result<$result> {
                    match self {
                        Options::Kernel(socket) => socket.$call($($argument),*),
                        Options::Simulated(_) => Err(simulated::unsupported("multicast")),
                    }
                }
            )*
        }
    };
}

multicast! {
    join_multicast_v4(group: &Ipv4Addr, interface: &Ipv4Addr) -> ();
    leave_multicast_v4(group: &Ipv4Addr, interface: &Ipv4Addr) -> ();
    join_multicast_v6(group: &Ipv6Addr, interface: u32) -> ();
    leave_multicast_v6(group: &Ipv6Addr, interface: u32) -> ();
    set_multicast_if_v4(interface: &Ipv4Addr) -> ();
    set_multicast_loop_v4(on: bool) -> ();
    multicast_loop_v4() -> bool;
    set_multicast_loop_v6(on: bool) -> ();
    set_multicast_ttl_v4(ttl: u32) -> ();
    multicast_ttl_v4() -> u32;
}
