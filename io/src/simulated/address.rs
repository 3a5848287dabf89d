//! Addresses of sockets.
//!
//! Inside the network an IPv4 address is written as one, whatever the socket: `::ffff:10.0.0.1` and `10.0.0.1` are the
//! same host. [`seen_by`] converts back for the program, because an IPv6 socket shows mapped addresses.

use super::errors::os;
use socket2::SockAddr;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

/// The address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    Inet(SocketAddr),
    Unix(UnixName),
}

/// The name of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnixName {
    Unnamed,
    /// A file's path.
    Path(Vec<u8>),
    /// A name outside the file system, without its leading zero.
    Abstract(Vec<u8>),
}

/// The address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    V4,
    V6,
    Unix,
}

/// The type of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Stream,
    Datagram,
}

impl Address {
    /// Returns the internet address.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` for an address of another family.
    pub(crate) fn inet(&self) -> io::Result<SocketAddr> {
        match self {
            Address::Inet(address) => Ok(*address),
            Address::Unix(_) => Err(os(libc::EAFNOSUPPORT)),
        }
    }

    /// Returns the name of a Unix socket.
    ///
    /// # Errors
    /// `EINVAL` for an address of another family.
    pub(crate) fn unix(&self) -> io::Result<&UnixName> {
        match self {
            Address::Unix(name) => Ok(name),
            Address::Inet(_) => Err(os(libc::EINVAL)),
        }
    }

    /// Returns the address in the form of a system call.
    pub(crate) fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Address::Inet(address) => Ok(SockAddr::from(*address)),
            Address::Unix(UnixName::Unnamed) => SockAddr::unix(""),
            Address::Unix(UnixName::Path(path)) => SockAddr::unix(OsStr::from_bytes(path)),
            Address::Unix(UnixName::Abstract(name)) => {
                SockAddr::unix(OsStr::from_bytes(&[b"\0", name.as_slice()].concat()))
            }
        }
    }

    /// Returns the address that a program passed to a system call.
    pub(crate) fn from_sock_addr(address: &SockAddr) -> io::Result<Address> {
        if let Some(inet) = address.as_socket() {
            return Ok(Address::Inet(inet));
        }
        if !address.is_unix() {
            return Err(os(libc::EAFNOSUPPORT));
        }
        let name = if let Some(path) = address.as_pathname() {
            UnixName::Path(path.as_os_str().as_bytes().to_vec())
        } else if let Some(name) = address.as_abstract_namespace() {
            UnixName::Abstract(name.to_vec())
        } else {
            UnixName::Unnamed
        };
        Ok(Address::Unix(name))
    }
}

/// Returns the address in the form that the network uses: mapped IPv4 addresses as IPv4, without scope and flow.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Returns the address in the form that a socket of that family shows.
pub(crate) fn seen_by(domain: Domain, address: SocketAddr) -> SocketAddr {
    match (domain, address.ip()) {
        (Domain::V6, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

/// The address that stands for all addresses of a family.
pub(crate) fn wildcard(domain: Domain) -> IpAddr {
    match domain {
        Domain::V6 => Ipv6Addr::UNSPECIFIED.into(),
        Domain::V4 | Domain::Unix => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// The loopback address of the family of `like`.
pub(crate) fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
