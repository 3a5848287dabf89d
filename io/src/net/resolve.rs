//! From what a user writes to socket addresses, without blocking a loop.
//!
//! Numbers and `localhost` are answered at once. Any other name takes the system's resolver, which blocks: a fiber has
//! it asked on a thread of the blocking pool, and parks. A fiber that is told to stop meanwhile leaves the thread to
//! itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use yue_scheduler::{blocking, in_fiber};

/// What can be turned into socket addresses: addresses, `(host, port)`, `"host:port"`.
///
/// The standard library's trait of this name would block the loop for as long as a lookup takes.
///
/// ```
/// use yue::net::ToSocketAddrs;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     assert_eq!("127.0.0.1:80".resolve()?, ["127.0.0.1:80".parse().unwrap()]);
///     assert_eq!(("::1", 80).resolve()?, ["[::1]:80".parse().unwrap()]);
///     let error = "localhost".resolve().unwrap_err();
///     assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput); // The port is missing.
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait ToSocketAddrs {
    /// The addresses, in the order in which they should be tried.
    ///
    /// # Errors
    /// When a text is no address, a name is unknown, or the calling fiber is told to stop during the lookup.
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
        let addresses = match known(host) {
            Some(addresses) => addresses,
            None => look_up(host.to_owned())?,
        };
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
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
                format!("'{self}' is not of the form host:port"),
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

/// What needs no lookup.
fn known(host: &str) -> Option<Vec<IpAddr>> {
    if host == "localhost" {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok().map(|address| vec![address])
}

fn look_up(host: String) -> io::Result<Vec<IpAddr>> {
    if !in_fiber() {
        return ask_system(&host);
    }
    blocking(move || ask_system(&host))?
}

fn ask_system(host: &str) -> io::Result<Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = std::net::ToSocketAddrs::to_socket_addrs(&(host, 0))?
        .map(|a| a.ip())
        .collect();
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
    fn a_text_that_is_no_address_is_an_error_that_shows_it() {
        for text in ["", "host", "host:", "host:99999", "host:http"] {
            let error = text.resolve().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(&format!("'{text}'")));
        }
    }
}
