//! The interfaces of multicast groups.

use super::udp::UdpSocket;
use crate::simulated;
use socket2::{InterfaceIndexOrAddress, SockRef};
use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

/// The number of the network interface of that name.
///
/// ```
/// assert!(yue_io::net::interface_index("no such one").is_err());
/// ```
///
/// # Errors
/// The system's error: there is no such interface.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Refuses what a simulated network does not have.
fn check_real() -> io::Result<()> {
    match simulated::is_on() {
        true => Err(simulated::unsupported("multicast")),
        false => Ok(()),
    }
}

impl UdpSocket {
    /// Joins a multicast group on the interface with that number, like
    /// [`join_multicast_v4`](UdpSocket::join_multicast_v4) on the one with an address.
    ///
    /// # Errors
    /// The system's error.
    pub fn join_multicast_v4_on(&self, group: &Ipv4Addr, interface: u32) -> io::Result<()> {
        let interface = InterfaceIndexOrAddress::Index(interface);
        check_real()?;
        SockRef::from(self).join_multicast_v4_n(group, &interface)
    }

    /// Sets the interface through which multicast datagrams are sent, by its number.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_multicast_if_v4_index(&self, interface: u32) -> io::Result<()> {
        check_real()?;
        let request = libc::ip_mreqn {
            imr_multiaddr: libc::in_addr { s_addr: 0 },
            imr_address: libc::in_addr { s_addr: 0 },
            imr_ifindex: interface as libc::c_int,
        };
        // SAFETY: the option takes this structure, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MULTICAST_IF,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
