//! Datagrams: `udp://` and `mcast://` addresses, one msgpack-rpc message in each datagram.
//!
//! ```text
//!   session ──▶ Link ──▶ Port: outbox ──▶ writer fiber ──▶ socket
//!   session ◀── Link ◀── Owner ◀── tick's end ◀── reader fiber ◀── socket
//! ```
//!
//! A `Port` is a socket with the two fibers that use it. An opened connection has a port of its own, whose socket is
//! connected: the kernel drops datagrams from other senders, and reports that nothing listens at the peer's port. A
//! listener has one port for all of its peers. It makes a link, and so a session, for each sender of a request, and
//! drops the least recently used idle one when it has no room for another (`server.rs`).
//!
//! Nothing is sent again, and nothing is put in order. The session knows that its link has datagrams
//! (`Transport::is_datagram`): it hands over each message at once, greets nobody, and drops what it cannot accept
//! instead of ending the link.
//!
//! Everything here runs on one loop.

mod connector;
mod link;
mod multicast;
mod peers;
mod port;
mod server;

pub(crate) use connector::UdpConnector;
pub(crate) use link::Link;
pub(crate) use multicast::{GroupConnector, join};
pub(crate) use server::{DatagramServer, bind};

use crate::proto::{Message, ScanLimits, Scanner};
use crate::session::options::Options;
use std::cell::RefCell;
use std::time::Duration;
use yue_io::net::Datagram;

/// The most bytes of a message: a datagram over IPv4 has 65 535 bytes, with headers of 20 and 8.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The time after which a silent peer of a listener is forgotten, unless the options say otherwise. Longer than the
/// pauses of most protocols, and about as long as a router keeps its own entry for a flow of UDP.
const PEER_IDLE: Duration = Duration::from_secs(60);

/// The most peers of a listener, unless the options say otherwise. Each costs a sender of forged addresses one
/// datagram, and a program in Lua about 8 KiB.
const PEERS_MAX: usize = 16_384;

/// Options of `udp://` and `mcast://` addresses.
///
/// ```
/// use yue_rpc::transport::{DatagramOptions, SocketOptions};
///
/// // A group for the programs of this machine.
/// let datagram = DatagramOptions { interface: Some("127.0.0.1".to_owned()), ..DatagramOptions::default() };
/// let sockets = SocketOptions { datagram, ..SocketOptions::default() };
/// # drop(sockets);
/// ```
#[derive(Debug, Clone)]
pub struct DatagramOptions {
    /// Listeners: a peer that sends nothing for this time is forgotten, unless a request of it is still served.
    pub peer_idle: Duration,
    /// Listeners: the most peers at a time, if [`Limits::connections_max`](crate::Limits::connections_max) allows them.
    pub peers_max: usize,
    /// `mcast://`: the network interface, by its name or, for an IPv4 group, its address. `None`: the system chooses.
    pub interface: Option<String>,
    /// `mcast://`: the number of networks that datagrams to the group may cross. `None`: the system's default, 1, the
    /// local network.
    pub ttl: Option<u32>,
    /// `mcast://`: whether members on this machine get what is sent from it, too.
    pub loopback: bool,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        DatagramOptions {
            peer_idle: PEER_IDLE,
            peers_max: PEERS_MAX,
            interface: None,
            ttl: None,
            loopback: true,
        }
    }
}

/// Options of a session whose messages travel as datagrams.
pub(crate) fn fit(mut options: Options) -> Options {
    let limit = &mut options.limits.message_bytes_max;
    *limit = (*limit).min(DATAGRAM_BYTES_MAX);
    options
}

/// The kind of the message in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request, or a notification without a msgid.
    Request {
        msgid: Option<u32>,
    },
    Response,
}

/// Checks that a datagram holds exactly one message.
struct Inspector(RefCell<Scanner>);

impl Inspector {
    fn new() -> Inspector {
        Inspector(RefCell::new(new_scanner()))
    }

    /// The kind of the datagram's message; `None` if it is malformed, cut, or followed by other bytes.
    fn kind_of(&self, datagram: &Datagram<'_>) -> Option<Kind> {
        if datagram.cut {
            return None;
        }
        let mut scanner = self.0.borrow_mut();
        let Ok(Some(frame)) = scanner.advance(datagram.bytes) else {
            // It stopped in the middle of a message, of which nothing more comes.
            *scanner = new_scanner();
            return None;
        };
        if frame.len != datagram.bytes.len() {
            return None;
        }
        match Message::parse(datagram.bytes, &frame).ok()? {
            Message::Response { .. } => Some(Kind::Response),
            Message::Request { msgid, .. } => Some(Kind::Request { msgid: Some(msgid) }),
            Message::Notification { .. } => Some(Kind::Request { msgid: None }),
        }
    }
}

/// The session has its own limits; this one only finds the end of the message.
fn new_scanner() -> Scanner {
    Scanner::new(ScanLimits {
        message_bytes_max: usize::from(u16::MAX),
        nesting_max: usize::from(u16::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_one_whole_message() {
        let inspector = Inspector::new();
        let kind_of = |bytes: &[u8], cut| {
            let from = "127.0.0.1:1".parse().unwrap();
            inspector.kind_of(&Datagram { bytes, from, cut })
        };
        let request: &[u8] = &[0x94, 0, 7, 0xa1, b'f', 0x90];
        let response: &[u8] = &[0x94, 1, 7, 0xc0, 0xc0];
        assert_eq!(
            kind_of(request, false),
            Some(Kind::Request { msgid: Some(7) })
        );
        assert_eq!(kind_of(response, false), Some(Kind::Response));
        assert_eq!(kind_of(request, true), None);
        for length in 0..request.len() {
            assert_eq!(kind_of(&request[..length], false), None, "{length} bytes");
            // The next one is not spoilt by it.
            assert_eq!(kind_of(response, false), Some(Kind::Response));
        }
        let two = [request, response].concat();
        assert_eq!(kind_of(&two, false), None);
        assert_eq!(kind_of(&[0x94, 0, 7, 0xc0, 0x90], false), None);
        assert_eq!(kind_of(b"GET / HTTP/1.1\r\n", false), None);
        assert_eq!(
            kind_of(request, false),
            Some(Kind::Request { msgid: Some(7) })
        );
    }
}
