//! Multicast groups: `mcast://group:port`.
//!
//! ```text
//!   caller ── request, to group:port ──▶ member 1, member 2, …     each has a socket that is bound to group:port,
//!      ▲ ◀──── answer, to the caller ─────┘         │              and one of its own, from which it answers
//!      └────── answer ──────────────────────────────┘
//! ```
//!
//! A member is a listener, and a caller is a peer of it like one over `udp://`. So a member can be called at the
//! address from which it answered. A caller has one link, to the group: it takes answers from everybody, and no
//! requests.

use super::link::{Link, message_of};
use super::port::{Owner, Port};
use super::{DATAGRAM_BYTES_MAX, DatagramOptions, Inspector, Kind};
use crate::error::{Error, ErrorKind};
use crate::proto::encode::{self, ErrorValue};
use crate::transport::traits::{Connect, Events, Transport};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use yue_io::net::{Datagram, UdpSocket, interface_index};

/// The number of datagrams that a caller receives at a time: all members answer at once.
const BATCH: usize = 64;

/// A group, and the interface over which it is reached.
struct Group {
    address: SocketAddr,
    interface: Interface,
}

/// A network interface.
#[derive(Clone, Copy)]
enum Interface {
    /// The system chooses.
    Any,
    Address(Ipv4Addr),
    Index(u32),
}

impl Group {
    fn new(group: &str, port: u16, options: &DatagramOptions) -> io::Result<Group> {
        let (address, zone) = match group.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (group, None),
        };
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let ip: IpAddr = address
            .parse()
            .map_err(|_| invalid(format!("{address} is not an address")))?;
        let interface = match options.interface.as_deref().or(zone) {
            None => Interface::Any,
            Some(name) => match (name.parse::<IpAddr>(), ip) {
                (Ok(IpAddr::V4(address)), IpAddr::V4(_)) => Interface::Address(address),
                (Ok(_), _) => {
                    let text = format!("the interface {name} is named like eth0 for this group");
                    return Err(invalid(text));
                }
                (Err(_), _) => Interface::Index(index_of(name)?),
            },
        };
        let address = match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, interface.index()).into(),
        };
        Ok(Group { address, interface })
    }

    /// A socket of an own port, for datagrams to one peer, or to the group.
    fn own_socket(&self, options: &DatagramOptions) -> io::Result<UdpSocket> {
        let own: IpAddr = match (self.address, self.interface) {
            (SocketAddr::V4(_), Interface::Address(address)) => address.into(),
            (SocketAddr::V4(_), _) => Ipv4Addr::UNSPECIFIED.into(),
            (SocketAddr::V6(_), _) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((own, 0))?;
        let settings = SockRef::from(&socket);
        if self.address.is_ipv4() {
            match self.interface {
                Interface::Any => {}
                Interface::Address(address) => socket.set_multicast_if_v4(&address)?,
                Interface::Index(index) => socket.set_multicast_if_v4_index(index)?,
            }
            if let Some(ttl) = options.ttl {
                socket.set_multicast_ttl_v4(ttl)?;
            }
            socket.set_multicast_loop_v4(options.loopback)?;
        } else {
            settings.set_multicast_if_v6(self.interface.index())?;
            if let Some(ttl) = options.ttl {
                settings.set_multicast_hops_v6(ttl)?;
            }
            socket.set_multicast_loop_v6(options.loopback)?;
        }
        Ok(socket)
    }

    /// A socket that receives what is sent to the group, and nothing else.
    fn group_socket(&self) -> io::Result<UdpSocket> {
        // Other members of this machine bind the same port.
        let socket = UdpSocket::bind_with(self.address, true)?;
        match (self.address.ip(), self.interface) {
            (IpAddr::V4(group), Interface::Any) => {
                socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
            }
            (IpAddr::V4(group), Interface::Address(address)) => {
                socket.join_multicast_v4(&group, &address)?;
            }
            (IpAddr::V4(group), Interface::Index(index)) => {
                socket.join_multicast_v4_on(&group, index)?;
            }
            (IpAddr::V6(group), interface) => {
                socket.join_multicast_v6(&group, interface.index())?;
            }
        }
        Ok(socket)
    }
}

impl Interface {
    /// The interface's number; 0 if the system chooses.
    fn index(self) -> u32 {
        match self {
            Interface::Index(index) => index,
            Interface::Any | Interface::Address(_) => 0,
        }
    }
}

fn index_of(name: &str) -> io::Result<u32> {
    // A zone may be a number, too.
    if let Ok(index) = name.parse() {
        return Ok(index);
    }
    interface_index(name).map_err(|error| {
        let text = format!("there is no network interface {name}: {error}");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// Adds to an error what usually helps.
fn explained(error: io::Error, options: &DatagramOptions) -> io::Error {
    let no_route =
        error.kind() == io::ErrorKind::NetworkUnreachable || error.raw_os_error() == Some(ENODEV);
    if options.interface.is_some() || !no_route {
        return error;
    }
    let text = format!(
        "{error}: the system has no route for multicast; name a network interface in the option interface"
    );
    io::Error::new(error.kind(), text)
}

/// The system's number for an unknown device, for which `std` has no kind.
const ENODEV: i32 = 19;

/// Joins a group: returns the socket that sends, and the one that receives what is sent to the group.
///
/// # Errors
/// The system's error.
pub(crate) fn join(
    group: &str,
    port: u16,
    options: &DatagramOptions,
) -> io::Result<Vec<UdpSocket>> {
    let join = || {
        let group = Group::new(group, port, options)?;
        Ok(vec![group.own_socket(options)?, group.group_socket()?])
    };
    join().map_err(|error| explained(error, options))
}

/// Makes links to a group.
pub(crate) struct GroupConnector {
    group: String,
    port: u16,
    options: DatagramOptions,
    text: String,
}

impl GroupConnector {
    pub(crate) fn new(
        group: &str,
        port: u16,
        options: &DatagramOptions,
        text: String,
    ) -> GroupConnector {
        GroupConnector {
            group: group.to_owned(),
            port,
            options: options.clone(),
            text,
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        let group = Group::new(&self.group, self.port, &self.options)?;
        let socket = group.own_socket(&self.options)?;
        let port = Port::start(vec![socket], BATCH)?;
        let stopping = Rc::downgrade(&port);
        let link = Link::new(port.clone(), Some(group.address), move || {
            if let Some(port) = stopping.upgrade() {
                port.stop();
            }
        });
        link.set_events(events);
        port.set_owner(Rc::new(Caller {
            port: port.clone(),
            link: link.clone(),
            inspector: Inspector::new(),
        }));
        Ok(link)
    }
}

impl Connect for GroupConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        self.try_connect(events)
            .map_err(|error| Error::from_connect(&self.text, &explained(error, &self.options)))
    }

    fn address(&self) -> &str {
        &self.text
    }

    fn message_bytes_max(&self) -> usize {
        DATAGRAM_BYTES_MAX
    }

    fn is_group(&self) -> bool {
        true
    }
}

/// Takes the answers of all members.
struct Caller {
    port: Rc<Port>,
    link: Rc<Link>,
    inspector: Inspector,
}

impl Owner for Caller {
    fn datagram(&self, datagram: Datagram<'_>) {
        match self.inspector.kind_of(&datagram) {
            Some(Kind::Response) => self.link.deliver_from(datagram.from, datagram.bytes),
            Some(Kind::Request { msgid }) => {
                self.link.count_dropped();
                if let Some(msgid) = msgid {
                    let link = Link::new(self.port.clone(), Some(datagram.from), || {});
                    link.send(no_functions(msgid));
                }
            }
            None => self.link.count_dropped(),
        }
    }

    fn fault(&self, error: io::Error) {
        self.link.on_fault(error);
    }
}

/// The answer to a member that calls the caller.
fn no_functions(msgid: u32) -> Vec<u8> {
    let text = "a connection to a multicast group offers no functions";
    message_of(|out| {
        encode::error_response(out, msgid, |out| {
            ErrorValue::of_kind(ErrorKind::NoMethod, text).encode(out);
            Ok(1)
        })
    })
}
