//! Addresses: `tcp://host:port`, `tls://host:port`, `unix:///path`, `ws://host:port/path`, `wss://…`,
//! `thread://name`, `popen://command`, `stdio://`, `udp://host:port`, `mcast://group:port`; IPv6 in brackets.
//!
//! A bad address is an error that shows where:
//!
//! ```text
//! tcp://[::1:8080
//!       ^ this bracket is not closed
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The address that a listener binds or a connection is made to.
///
/// ```
/// use yue_rpc::Address;
///
/// let address: Address = "tcp://[::1]:8080".parse().unwrap();
/// assert_eq!(address, Address::Tcp { host: "::1".into(), port: 8080 });
/// assert_eq!(address.to_string(), "tcp://[::1]:8080");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP: a name or a numeric address (without brackets), and a port; port 0 lets the system choose.
    Tcp {
        /// Name, IPv4 or IPv6 address.
        host: String,
        /// The port.
        port: u16,
    },
    /// TLS over TCP (feature `tls`).
    Tls {
        /// Name, IPv4 or IPv6 address. A client verifies that the server's certificate is for it.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket in the file system.
    Unix {
        /// Its path.
        path: String,
    },
    /// A loop of this process that listens under a name.
    Thread {
        /// The name.
        name: String,
    },
    /// This process's standard input and output. It can only be listened at, and has one connection.
    Stdio,
    /// A program to start, to which the link is its standard input and output. It can only be opened.
    Popen {
        /// The command, for the shell.
        command: String,
    },
    /// WebSocket over TCP (feature `ws`).
    Ws {
        /// Name, IPv4 or IPv6 address.
        host: String,
        /// The port.
        port: u16,
        /// The path of the request, from its first `/`.
        path: String,
    },
    /// WebSocket over TLS over TCP (features `ws` and `tls`).
    Wss {
        /// Name, IPv4 or IPv6 address. A client verifies that the server's certificate is for it.
        host: String,
        /// The port.
        port: u16,
        /// The path of the request, from its first `/`.
        path: String,
    },
    /// Datagrams: UDP, one message in each.
    Udp {
        /// Name, IPv4 or IPv6 address.
        host: String,
        /// The port; port 0 lets the system choose.
        port: u16,
    },
    /// Datagrams to all members of a multicast group.
    Mcast {
        /// The group's address, perhaps with a zone.
        group: String,
        /// The port.
        port: u16,
    },
}

impl Address {
    /// Host and port of an address over TCP or UDP.
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        match self {
            Address::Tcp { host, port }
            | Address::Tls { host, port }
            | Address::Ws { host, port, .. }
            | Address::Udp { host, port }
            | Address::Wss { host, port, .. } => Some((host, *port)),
            _ => None,
        }
    }

    /// The same address with another port, if it has one.
    #[must_use]
    pub fn with_port(&self, to: u16) -> Address {
        let mut changed = self.clone();
        if let Address::Tcp { port, .. }
        | Address::Tls { port, .. }
        | Address::Ws { port, .. }
        | Address::Udp { port, .. }
        | Address::Wss { port, .. } = &mut changed
        {
            *port = to;
        }
        changed
    }

    /// Whether its links have certificates.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Address::Tls { .. } | Address::Wss { .. })
    }
}

/// The error of an address whose transport is not part of this build.
#[cfg(not(feature = "ws"))]
pub(crate) fn missing_feature(feature: &str) -> std::io::Error {
    let text = format!("this program was built without it; enable the feature `{feature}` of yue");
    std::io::Error::new(std::io::ErrorKind::InvalidInput, text)
}

/// A fault in an address, and its position.
///
/// ```
/// let error = "tcp://[::1:8080".parse::<yue_rpc::Address>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "bad address: this bracket is not closed\n  tcp://[::1:8080\n        ^",
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad address: {reason}\n  {address}\n  {:>width$}", "^", width = .at + 1)]
pub struct AddressError {
    /// The address as it was given.
    pub address: String,
    /// The position of the fault, in characters (not bytes).
    pub at: usize,
    /// The fault.
    pub reason: &'static str,
}

impl AddressError {
    fn new(address: &str, byte: usize, reason: &'static str) -> AddressError {
        let at = address
            .char_indices()
            .take_while(|(index, _)| *index < byte)
            .count();
        // A line break or a tab would move the marker, and an address never has one.
        let address = address
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        AddressError {
            address,
            at,
            reason,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let Some(scheme_end) = text.find("://") else {
            return Err(AddressError::new(
                text,
                0,
                "it must begin with tcp://, tls://, unix://, ws://, wss://, udp://, mcast://, thread://, popen:// or \
                 stdio://",
            ));
        };
        let rest_at = scheme_end + "://".len();
        let rest = &text[rest_at..];
        let has_blanks = text[..scheme_end] == *"popen";
        if let Some(at) = text.find(|c: char| c.is_control() || (c == ' ' && !has_blanks)) {
            return Err(AddressError::new(
                text,
                at,
                "an address has no blanks or control characters",
            ));
        }
        match &text[..scheme_end] {
            "tcp" => {
                let (host, port) = parse_host_and_port(text, rest_at)?;
                Ok(Address::Tcp { host, port })
            }
            "tls" => {
                let (host, port) = parse_host_and_port(text, rest_at)?;
                Ok(Address::Tls { host, port })
            }
            "udp" => {
                let (host, port) = parse_host_and_port(text, rest_at)?;
                Ok(Address::Udp { host, port })
            }
            "mcast" => {
                let (group, port) = parse_group(text, rest_at)?;
                Ok(Address::Mcast { group, port })
            }
            "ws" => {
                let (host, port, path) = parse_url(text, rest_at)?;
                Ok(Address::Ws { host, port, path })
            }
            "wss" => {
                let (host, port, path) = parse_url(text, rest_at)?;
                Ok(Address::Wss { host, port, path })
            }
            "unix" if rest.is_empty() => {
                Err(AddressError::new(text, rest_at, "the path is missing"))
            }
            "unix" => Ok(Address::Unix {
                path: rest.to_owned(),
            }),
            "thread" if rest.is_empty() => Err(AddressError::new(
                text,
                rest_at,
                "the thread's name is missing",
            )),
            "thread" => Ok(Address::Thread {
                name: rest.to_owned(),
            }),
            "stdio" if rest.is_empty() => Ok(Address::Stdio),
            "stdio" => Err(AddressError::new(text, rest_at, "nothing follows stdio://")),
            "popen" if rest.trim().is_empty() => {
                Err(AddressError::new(text, rest_at, "the command is missing"))
            }
            "popen" => Ok(Address::Popen {
                command: rest.to_owned(),
            }),
            _ => Err(AddressError::new(
                text,
                0,
                "this scheme is not known; use tcp, tls, unix, ws, wss, udp, mcast, thread, popen or stdio",
            )),
        }
    }
}

/// Parses `host:port/path`; the path is `/` if it is missing.
fn parse_url(text: &str, rest_at: usize) -> Result<(String, u16, String), AddressError> {
    let path_at = text[rest_at..]
        .find('/')
        .map_or(text.len(), |at| rest_at + at);
    let (front, path) = text.split_at(path_at);
    if let Some(at) = path.find(['?', '#']) {
        let reason = "a path here has no query and no fragment";
        return Err(AddressError::new(text, path_at + at, reason));
    }
    if let Some(at) = path.find(|c: char| !c.is_ascii_graphic()) {
        let reason = "a path has ASCII letters; others are written like %C3%A4";
        return Err(AddressError::new(text, path_at + at, reason));
    }
    // A fault is shown in the whole address.
    let (host, port) = parse_host_and_port(front, rest_at)
        .map_err(|error| AddressError::new(text, byte_of(front, error.at), error.reason))?;
    let path = if path.is_empty() { "/" } else { path };
    Ok((host, port, path.to_owned()))
}

/// The position in bytes of the character with that number.
fn byte_of(text: &str, character: usize) -> usize {
    let mut positions = text.char_indices().map(|(at, _)| at);
    positions.nth(character).unwrap_or(text.len())
}

fn parse_host_and_port(text: &str, rest_at: usize) -> Result<(String, u16), AddressError> {
    let rest = &text[rest_at..];
    let (host, port_at) = if let Some(inner) = rest.strip_prefix('[') {
        let Some(end) = inner.find(']') else {
            return Err(AddressError::new(
                text,
                rest_at,
                "this bracket is not closed",
            ));
        };
        if !is_ipv6(&inner[..end]) {
            return Err(AddressError::new(
                text,
                rest_at + 1,
                "this is not an IPv6 address; a zone follows it, like [fe80::1%eth0]",
            ));
        }
        (&inner[..end], rest_at + end + 2)
    } else {
        let end = rest.rfind(':').unwrap_or(rest.len());
        if let Some(first) = rest[..end].find(':') {
            return Err(AddressError::new(
                text,
                rest_at + first,
                "an IPv6 address goes in brackets: [::1]:80",
            ));
        }
        (&rest[..end], rest_at + end)
    };
    if host.is_empty() {
        return Err(AddressError::new(
            text,
            rest_at,
            "the host is missing; 0.0.0.0 means every interface",
        ));
    }
    if let Some(at) = host.find(['/', '?', '#', '@', '[', ']']) {
        return Err(AddressError::new(
            text,
            rest_at + at,
            "a host name has no such character",
        ));
    }
    let Some(port) = text[port_at..].strip_prefix(':') else {
        return Err(AddressError::new(
            text,
            port_at,
            "the port is missing, as in :8080",
        ));
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok((host.to_owned(), port)),
        _ => Err(AddressError::new(
            text,
            port_at + 1,
            "the port must be a number from 0 to 65535",
        )),
    }
}

/// Parses `group:port` of a multicast address.
fn parse_group(text: &str, rest_at: usize) -> Result<(String, u16), AddressError> {
    let (group, port) = parse_host_and_port(text, rest_at)?;
    let address = group.split('%').next().unwrap_or_default();
    let is_group = match address.parse() {
        Ok(IpAddr::V4(address)) => address.is_multicast(),
        Ok(IpAddr::V6(address)) => address.is_multicast(),
        Err(_) => false,
    };
    if !is_group {
        let reason = "this is not a multicast group; those are 224.0.0.0 to 239.255.255.255, and IPv6 from ff00::";
        return Err(AddressError::new(text, rest_at, reason));
    }
    if port == 0 {
        let port_at = text.len() - 1;
        let reason = "a group's members must know its port, so it cannot be 0";
        return Err(AddressError::new(text, port_at, reason));
    }
    Ok((group, port))
}

/// Whether the text is an IPv6 address, with or without a zone (RFC 4007: `fe80::1%eth0`, `fe80::1%2`). Whether the
/// zone exists turns out when the address is used.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = match host.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (host, None),
    };
    let names_a_zone = |zone: &str| {
        (1..=ZONE_MAX).contains(&zone.len())
            && zone
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"/%[]".contains(&byte))
    };
    address.parse::<std::net::Ipv6Addr>().is_ok() && zone.is_none_or(names_a_zone)
}

/// The longest name that Linux allows for a network interface, in bytes.
const ZONE_MAX: usize = 15;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } => write_url(f, "tcp", host, *port, ""),
            Address::Tls { host, port } => write_url(f, "tls", host, *port, ""),
            Address::Unix { path } => write!(f, "unix://{path}"),
            Address::Ws { host, port, path } => write_url(f, "ws", host, *port, path),
            Address::Wss { host, port, path } => write_url(f, "wss", host, *port, path),
            Address::Udp { host, port } => write_url(f, "udp", host, *port, ""),
            Address::Mcast { group, port } => write_url(f, "mcast", group, *port, ""),
            Address::Thread { name } => write!(f, "thread://{name}"),
            Address::Popen { command } => write!(f, "popen://{command}"),
            Address::Stdio => write!(f, "stdio://"),
        }
    }
}

fn write_url(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    host: &str,
    port: u16,
    path: &str,
) -> fmt::Result {
    if host.contains(':') {
        write!(f, "{scheme}://[{host}]:{port}{path}")
    } else {
        write!(f, "{scheme}://{host}:{port}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> (usize, &'static str) {
        let error = text.parse::<Address>().unwrap_err();
        (error.at, error.reason)
    }

    #[test]
    fn good_addresses_parse_and_print_the_same() {
        for text in [
            "tcp://localhost:80",
            "tcp://[::1]:0",
            "tcp://[fe80::1%eth0]:80",
            "tcp://[fe80::1%2]:80",
            "tcp://10.0.0.1:65535",
            "tls://example.org:443",
            "tls://[::1]:0",
            "unix:///tmp/a",
            "thread://worker",
            "stdio://",
            "popen://python3 server.py --port 5 | tee 'a b'",
            "ws://localhost:80/",
            "ws://[::1]:0/rpc",
            "ws://[fe80::1%eth0]:80/a/%C3%A4",
            "wss://localhost:443/",
            "wss://[::1]:0/rpc",
            "udp://localhost:80",
            "udp://[::1]:0",
            "mcast://239.1.2.3:9000",
            "mcast://[ff02::1%eth0]:9000",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let short: Address = "ws://a:1".parse().unwrap();
        assert_eq!(short.to_string(), "ws://a:1/");
        assert_eq!(short.with_port(2).host_and_port(), Some(("a", 2)));
    }

    #[test]
    fn a_bad_address_shows_where() {
        assert_eq!(fault("localhost:80").0, 0);
        assert_eq!(fault("http://localhost").0, 0);
        assert_eq!(
            fault("tcp://localhost"),
            (15, "the port is missing, as in :8080")
        );
        assert_eq!(fault("tcp://localhost:99999").0, 16);
        assert_eq!(fault("tcp://localhost:+80").0, 16);
        assert_eq!(fault("tcp://::1:80").0, 6);
        assert_eq!(fault("tcp://[::1:80").0, 6);
        assert_eq!(fault("tcp://[zz]:80").0, 7);
        assert_eq!(fault("tcp://[fe80::1%]:80").0, 7);
        assert_eq!(fault("tcp://[fe80::1%eth0%1]:80").0, 7);
        assert_eq!(fault("tcp://[fe80::1%an-interface-too-long]:80").0, 7);
        assert_eq!(fault("tcp://:80").0, 6);
        assert_eq!(fault("tls://:80").0, 6);
        assert_eq!(fault("tcp://a b:80").0, 7);
        assert_eq!(fault("thread://").0, 9);
        assert_eq!(fault("stdio://1").0, 8);
        assert_eq!(fault("popen:// "), (8, "the command is missing"));
        assert_eq!(fault("popen://a\nb").0, 9);
        assert_eq!(fault("ws://localhost").0, 14);
        assert_eq!(fault("ws://localhost/rpc").0, 14);
        assert_eq!(fault("ws://localhost:x/rpc").0, 15);
        assert_eq!(fault("ws://häst:x/rpc").0, 10);
        assert_eq!(fault("ws:///rpc").0, 5);
        assert_eq!(fault("udp://a").0, 7);
        assert_eq!(fault("mcast://10.1.2.3:80").0, 8);
        assert_eq!(fault("mcast://all-hosts:80").0, 8);
        assert_eq!(fault("mcast://[fe80::1]:80").0, 8);
        assert_eq!(fault("mcast://239.1.2.3:0").0, 18);
        assert_eq!(fault("ws://a:1/b?c").0, 10);
        assert_eq!(fault("ws://a:1/ä").0, 9);
        assert_eq!(fault("wss://a/rpc").0, 7);
        let shown = "tcp://häst:x".parse::<Address>().unwrap_err().to_string();
        assert!(
            shown.ends_with("\n  tcp://häst:x\n             ^"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "((tcp|tls|unix|thread|popen|wss?|udp|mcast)://)?\\PC{0,40}") {
            if let Err(error) = text.parse::<Address>() {
                prop_assert!(error.at <= text.chars().count());
                let _ = error.to_string();
            }
        }
    }
}
