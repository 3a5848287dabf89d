//! Resolves host names and address texts to socket addresses without blocking a loop.
//!
//! Numbers and `localhost` are resolved at once. Any other name takes the system's resolver, which blocks: a fiber
//! parks while a thread of the blocking pool calls it. If the fiber is cancelled meanwhile, it abandons the thread.

use crate::simulated;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use yue_scheduler::{blocking, in_fiber};

/// A value that resolves to socket addresses: an address, `(host, port)`, or `"host:port"`.
///
/// The standard library's trait of this name would block the loop for as long as a lookup takes.
///
/// ```
/// use yue_io::net::ToSocketAddrs;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     assert_eq!("127.0.0.1:80".resolve()?, ["127.0.0.1:80".parse().unwrap()]);
///     assert_eq!(("::1", 80).resolve()?, ["[::1]:80".parse().unwrap()]);
///     let error = "localhost".resolve().unwrap_err();
///     assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput); // The port is missing.
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait ToSocketAddrs {
    /// Returns the addresses, in the order in which they should be tried.
    ///
    /// # Errors
    /// When a text is not an address, a name is unknown, or the calling fiber is cancelled during the lookup.
    fn resolve(&self) -> io::Result<Vec<SocketAddr>>;
}

impl ToSocketAddrs for SocketAddr {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![*self])
    }
}

impl ToSocketAddrs for SocketAddrV4 {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::V4(*self)])
    }
}

impl ToSocketAddrs for SocketAddrV6 {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::V6(*self)])
    }
}

impl ToSocketAddrs for (IpAddr, u16) {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(*self)])
    }
}

impl ToSocketAddrs for (Ipv4Addr, u16) {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(*self)])
    }
}

impl ToSocketAddrs for (Ipv6Addr, u16) {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![SocketAddr::from(*self)])
    }
}

impl ToSocketAddrs for [SocketAddr] {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(self.to_vec())
    }
}

impl ToSocketAddrs for (&str, u16) {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = *self;
        let mut addresses = match known(host)? {
            Some(addresses) => addresses,
            None if simulated::is_on() => vec![SocketAddr::new(simulated::look_up(host)?, 0)],
            None => look_up(host.to_owned())?,
        };
        addresses
            .iter_mut()
            .for_each(|address| address.set_port(port));
        Ok(addresses)
    }
}

impl ToSocketAddrs for str {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.parse() {
            return Ok(vec![address]);
        }
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("'{self}' is not an address; write host:port"),
            )
        };
        let (host, port) = self.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        (host, port).resolve()
    }
}

impl ToSocketAddrs for String {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        self.as_str().resolve()
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        (**self).resolve()
    }
}

/// Resolves a host that needs no lookup, with port 0.
fn known(host: &str) -> io::Result<Option<Vec<SocketAddr>>> {
    let at = |address: IpAddr| SocketAddr::new(address, 0);
    if host == "localhost" {
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(Some(both.map(at).to_vec()));
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Some((address, zone)) = bare.split_once('%')
        && let Ok(address) = address.parse()
    {
        let address = SocketAddrV6::new(address, 0, 0, zone_index(zone)?);
        return Ok(Some(vec![address.into()]));
    }
    Ok(bare.parse().ok().map(|address| vec![at(address)]))
}

/// The number of a zone (RFC 4007): it is given as such, or as the name of an interface.
fn zone_index(zone: &str) -> io::Result<u32> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    let unknown = || {
        let text = format!("there is no network interface '{zone}'");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let name = CString::new(zone).map_err(|_| unknown())?;
    // SAFETY: the name is a C string; the call only reads it.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(unknown()),
        index => Ok(index),
    }
}

fn look_up(host: String) -> io::Result<Vec<SocketAddr>> {
    if !in_fiber() {
        return ask_system(&host);
    }
    blocking(move || ask_system(&host))?
}

fn ask_system(host: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = std::net::ToSocketAddrs::to_socket_addrs(&(host, 0))?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the host '{host}' has no address"),
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_localhost_need_no_lookup() {
        let one = |text: &str| text.resolve().unwrap()[0].to_string();
        assert_eq!(one("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(one("[::1]:80"), "[::1]:80");
        assert_eq!(one("localhost:7"), "127.0.0.1:7");
        assert_eq!(("::1", 7).resolve().unwrap()[0].to_string(), "[::1]:7");
        assert_eq!(
            (Ipv4Addr::UNSPECIFIED, 7).resolve().unwrap()[0].to_string(),
            "0.0.0.0:7"
        );
    }

    #[test]
    fn a_zone_is_a_number_or_the_name_of_an_interface() {
        let zone = |text: &str| match text.resolve().unwrap()[..] {
            [SocketAddr::V6(address)] => (address.ip().to_string(), address.scope_id()),
            _ => panic!("{text} is one IPv6 address"),
        };
        assert_eq!(zone("[fe80::1%7]:80"), ("fe80::1".to_owned(), 7));
        // The loopback interface has this name and number on every Linux.
        assert_eq!(zone("[fe80::1%lo]:80"), ("fe80::1".to_owned(), 1));
        assert_eq!(zone("fe80::2%lo:80"), ("fe80::2".to_owned(), 1));
        for text in ["[fe80::1%nosuch]:80", "[fe80::1%]:80", "[fe80::1%l\0]:80"] {
            let error = text.resolve().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn the_error_for_an_invalid_address_quotes_it() {
        for text in ["", "host", "host:", "host:99999", "host:http"] {
            let error = text.resolve().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(&format!("'{text}'")));
        }
    }
}
