//! The calls of `sys` on simulated sockets.

use super::address::{Address, Domain, Type};
use super::environment::with_network;
use super::errors::{os, unsupported};
use super::readiness::Readiness;
use socket2::{SockAddr, SockAddrStorage};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;
use yue_scheduler::simulation;

pub(crate) fn recv(fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    with_network(|network| network.recv(fd, buffer, flags))
}

pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    with_network(|network| network.send(fd, bytes))
}

/// # Safety
/// All memory that the header names is valid and writable.
pub(crate) unsafe fn recv_message(
    fd: RawFd,
    header: *mut libc::msghdr,
    flags: i32,
) -> io::Result<usize> {
    // SAFETY: the caller upholds the contract, and nothing else refers to the header.
    let header = unsafe { &mut *header };
    let slices: &mut [IoSliceMut<'_>] = match header.msg_iovlen {
        0 => &mut [],
        // SAFETY: as above; `IoSliceMut` has the layout of `iovec`.
        count => unsafe { std::slice::from_raw_parts_mut(header.msg_iov.cast(), count) },
    };
    let peek = flags & libc::MSG_PEEK != 0;
    let received = with_network(|network| network.receive_message(fd, slices, peek))?;
    header.msg_flags = match received.length > received.bytes {
        true => libc::MSG_TRUNC,
        false => 0,
    };
    header.msg_controllen = 0;
    if !header.msg_name.is_null() {
        let from = received
            .from
            .as_ref()
            .map(Address::to_sock_addr)
            .transpose()?;
        let length = from
            .as_ref()
            .map_or(0, |from| from.len().min(header.msg_namelen));
        if let Some(from) = &from {
            // SAFETY: both are valid for that length, and distinct.
            unsafe {
                let into = header.msg_name.cast::<u8>();
                into.copy_from_nonoverlapping(from.as_ptr().cast(), length as usize);
            }
        }
        header.msg_namelen = length;
    }
    Ok(match flags & libc::MSG_TRUNC != 0 {
        true => received.length,
        false => received.bytes,
    })
}

/// # Safety
/// All memory that the header names is valid.
pub(crate) unsafe fn send_message(fd: RawFd, header: &libc::msghdr) -> io::Result<usize> {
    if header.msg_controllen > 0 {
        return Err(unsupported("passing descriptors"));
    }
    let slices: &[IoSlice<'_>] = match header.msg_iovlen {
        0 => &[],
        // SAFETY: the caller upholds the contract; `IoSlice` has the layout of `iovec`.
        count => unsafe { std::slice::from_raw_parts(header.msg_iov.cast(), count) },
    };
    let to = match header.msg_name.is_null() {
        true => None,
        false => {
            let mut storage = SockAddrStorage::zeroed();
            let length = header.msg_namelen.min(storage.size_of());
            // SAFETY: both are valid for that length, and distinct.
            let to = unsafe {
                let into = (&raw mut storage).cast::<u8>();
                into.copy_from_nonoverlapping(header.msg_name.cast(), length as usize);
                SockAddr::new(storage, length)
            };
            Some(Address::from_sock_addr(&to)?)
        }
    };
    with_network(|network| network.send_message(fd, slices, to.as_ref()))
}

/// # Safety
/// All memory that the headers name is valid and writable.
pub(crate) unsafe fn recv_messages(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let mut count = 0;
    for header in headers {
        // SAFETY: the caller upholds the contract.
        match unsafe { recv_message(fd, &raw mut header.msg_hdr, 0) } {
            Ok(bytes) => header.msg_len = bytes as u32,
            Err(error) if count == 0 => return Err(error),
            Err(_) => break,
        }
        count += 1;
    }
    Ok(count)
}

/// # Safety
/// All memory that the headers name is valid.
pub(crate) unsafe fn send_messages(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let mut count = 0;
    for header in headers {
        // SAFETY: the caller upholds the contract.
        match unsafe { send_message(fd, &header.msg_hdr) } {
            Ok(bytes) => header.msg_len = bytes as u32,
            Err(error) if count == 0 => return Err(error),
            Err(_) => break,
        }
        count += 1;
    }
    Ok(count)
}

/// Returns the readiness of a descriptor. One that is not known was that of a host that has crashed: it is broken.
pub(crate) fn level(fd: RawFd) -> Readiness {
    with_network(|network| network.level(fd)).unwrap_or(Readiness {
        error: true,
        ..Readiness::default()
    })
}

/// The process at the other end of a Unix socket: on the simulated system, the host's own.
pub(crate) fn peer_credentials(fd: RawFd) -> io::Result<libc::ucred> {
    with_network(|network| network.peer_address(fd))?;
    Ok(libc::ucred {
        pid: simulation::host() as libc::pid_t + 1,
        uid: 1000,
        gid: 1000,
    })
}

/// Converts the parameters of `socket(2)`.
///
/// # Errors
/// For families and types that the simulation does not have.
pub(crate) fn kind(domain: socket2::Domain, kind: socket2::Type) -> io::Result<(Domain, Type)> {
    let domain = match domain {
        socket2::Domain::IPV4 => Domain::V4,
        socket2::Domain::IPV6 => Domain::V6,
        socket2::Domain::UNIX => Domain::Unix,
        _ => return Err(os(libc::EAFNOSUPPORT)),
    };
    let kind = match kind {
        socket2::Type::STREAM => Type::Stream,
        socket2::Type::DGRAM => Type::Datagram,
        _ => return Err(unsupported("sockets of this type")),
    };
    Ok((domain, kind))
}

/// The reverse of [`kind`], for a descriptor that the simulation knows.
pub(crate) fn kind_of(fd: RawFd) -> Option<(socket2::Domain, socket2::Type)> {
    let (domain, kind) = with_network(|network| network.kind_of(fd)).ok()?;
    let domain = match domain {
        Domain::V4 => socket2::Domain::IPV4,
        Domain::V6 => socket2::Domain::IPV6,
        Domain::Unix => socket2::Domain::UNIX,
    };
    Some(match kind {
        Type::Stream => (domain, socket2::Type::STREAM),
        Type::Datagram => (domain, socket2::Type::DGRAM),
    })
}
