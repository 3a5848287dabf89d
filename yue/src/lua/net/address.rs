//! Addresses, from texts of programs and as texts for them.

use crate::lua::host::errors::error;
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddr;
use yue_luajit::Error;
use yue_rpc::{Address, ErrorKind};

/// Parses the address of a stream or of a listener.
pub(super) fn parse_stream(text: &[u8]) -> Result<Address, Error> {
    match parse(text)? {
        address @ (Address::Tcp { .. } | Address::Tls { .. } | Address::Unix { .. }) => Ok(address),
        Address::Udp { .. } => Err(unfit(text, "datagrams are sent by yue.net.udp")),
        _ => Err(unfit(text, "yue.net has tcp://, tls:// and unix://")),
    }
}

/// Parses the address of a datagram's receiver or of a socket for datagrams: its host and port.
pub(super) fn parse_datagram(text: &[u8]) -> Result<(String, u16), Error> {
    match parse(text)? {
        Address::Udp { host, port } => Ok((host, port)),
        Address::Mcast { .. } => Err(unfit(
            text,
            "members of a group are reached by yue.open and yue.listen",
        )),
        _ => Err(unfit(text, "datagrams have udp:// addresses")),
    }
}

fn parse(text: &[u8]) -> Result<Address, Error> {
    let text = String::from_utf8_lossy(text);
    text.parse()
        .map_err(|failure: yue_rpc::AddressError| error(ErrorKind::Address, failure.to_string()))
}

fn unfit(text: &[u8], why: &str) -> Error {
    let text = String::from_utf8_lossy(text);
    error(ErrorKind::Address, format!("{text} does not fit: {why}"))
}

/// The address of an internet socket as a text.
pub(super) fn inet_text(scheme: &str, address: &SocketAddr) -> String {
    format!("{scheme}://{address}")
}

/// The address of a Unix socket as a text; `None` if it has no name, as the client's end of a connection.
pub(super) fn unix_text(address: &UnixAddr) -> Option<String> {
    address
        .as_pathname()
        .map(|path| format!("unix://{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_has_brackets() {
        let text = inet_text("tcp", &"[::1]:80".parse().unwrap());
        assert_eq!(text, "tcp://[::1]:80");
        assert!(parse_stream(text.as_bytes()).is_ok());
    }

    #[test]
    fn each_kind_of_socket_has_its_addresses() {
        for text in ["tcp://a:1", "tls://a:1", "unix:///a"] {
            assert!(parse_stream(text.as_bytes()).is_ok());
            assert!(parse_datagram(text.as_bytes()).is_err());
        }
        assert!(parse_stream(b"udp://a:1").is_err());
        assert!(parse_stream(b"ws://a:1/").is_err());
        assert_eq!(parse_datagram(b"udp://a:1").ok(), Some(("a".to_owned(), 1)));
        assert!(parse_datagram(b"mcast://239.1.2.3:9000").is_err());
    }
}
