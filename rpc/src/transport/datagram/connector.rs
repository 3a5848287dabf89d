//! Opened connections over UDP.

use super::link::{Link, OnlyLink};
use super::port::Port;
use super::{DATAGRAM_BYTES_MAX, Inspector};
use crate::error::Error;
use crate::transport::traits::{Connect, Events, Transport};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use yue_io::net::{ToSocketAddrs, UdpSocket};

/// The number of datagrams that are received at a time. One peer sends few at once.
const BATCH: usize = 16;

/// Makes links to one address.
pub(crate) struct UdpConnector {
    host: String,
    port: u16,
    text: String,
}

impl UdpConnector {
    pub(crate) fn new(host: &str, port: u16, text: String) -> UdpConnector {
        UdpConnector {
            host: host.to_owned(),
            port,
            text,
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        if self.port == 0 {
            let text = "a port to send to cannot be 0";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let port = Port::start(vec![connected(&self.host, self.port)?], BATCH)?;
        let stopping = Rc::downgrade(&port);
        let link = Link::new(port.clone(), None, move || {
            if let Some(port) = stopping.upgrade() {
                port.stop();
            }
        });
        link.set_events(events);
        let inspector = Inspector::new();
        port.set_owner(Rc::new(OnlyLink {
            link: link.clone(),
            inspector,
        }));
        Ok(link)
    }
}

/// A socket that is connected to the first address of the host for which this machine has a route.
fn connected(host: &str, port: u16) -> io::Result<UdpSocket> {
    let mut outcome = Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the name has no address",
    ));
    for address in (host, port).resolve()? {
        outcome = connect_to(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn connect_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own)?;
    socket.connect(address)?;
    Ok(socket)
}

impl Connect for UdpConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        self.try_connect(events)
            .map_err(|error| Error::from_connect(&self.text, &error))
    }

    fn address(&self) -> &str {
        &self.text
    }

    fn message_bytes_max(&self) -> usize {
        DATAGRAM_BYTES_MAX
    }
}
