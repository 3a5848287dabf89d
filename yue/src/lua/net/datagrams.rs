//! UDP sockets: the natives under `yue.net.udp`.

use super::address::{inet_text, parse_datagram};
use super::chunk::Chunk;
use super::closing::Closing;
use super::stream::closed_error;
use crate::lua::host::failure::network_failed;
use crate::lua::host::handles::Handles;
use crate::lua::native::{native, register};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use yue_io::net::{ToSocketAddrs, UdpSocket};
use yue_luajit::{Error, Stack};

thread_local! {
    static SOCKETS: Handles<Datagrams> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    SOCKETS.with(Handles::clear);
}

fn find(number: f64) -> Result<Rc<Datagrams>, Error> {
    SOCKETS
        .with(|sockets| sockets.find(number))
        .ok_or_else(|| closed_error("the UDP socket"))
}

/// A UDP socket.
struct Datagrams {
    socket: UdpSocket,
    closing: Closing,
    /// The last receiver: its text, and its address if that needed no lookup.
    receiver: RefCell<Option<(Vec<u8>, SocketAddr)>>,
}

impl Datagrams {
    fn send(&self, bytes: &[u8], to: Option<&[u8]>) -> Result<(), Error> {
        let Some(text) = to else {
            let outcome = self.closing.run(|| self.socket.send(bytes));
            return outcome
                .map(drop)
                .map_err(|failure| network_failed("cannot send a datagram", &failure));
        };
        let to = self.receiver(text)?;
        let outcome = self.closing.run(|| self.socket.send_to(bytes, to));
        outcome.map(drop).map_err(|failure| {
            let text = String::from_utf8_lossy(text);
            network_failed(&format!("cannot send a datagram to {text}"), &failure)
        })
    }

    fn receiver(&self, text: &[u8]) -> Result<SocketAddr, Error> {
        if let Some((known, address)) = &*self.receiver.borrow()
            && known == text
        {
            return Ok(*address);
        }
        let (host, port) = parse_datagram(text)?;
        let found = (host.as_str(), port).resolve();
        let address = found.and_then(|found| self.same_family(found));
        let address = address.map_err(|failure| {
            let text = String::from_utf8_lossy(text);
            network_failed(&format!("cannot send a datagram to {text}"), &failure)
        })?;
        if address.ip().to_string() == host {
            *self.receiver.borrow_mut() = Some((text.to_vec(), address));
        }
        Ok(address)
    }

    /// The first address of the socket's own family, or the first at all.
    fn same_family(&self, found: Vec<SocketAddr>) -> io::Result<SocketAddr> {
        let own = self.socket.local_addr()?;
        let fits = |address: &&SocketAddr| address.is_ipv4() == own.is_ipv4();
        let address = found.iter().find(fits).or(found.first());
        address
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address"))
    }

    fn receive(&self) -> Result<(Chunk, String), Error> {
        let outcome = self.closing.run(|| {
            // Without a buffer, so that idle sockets cost little.
            self.socket.readable()?;
            let mut chunk = Chunk::large();
            let mut from = None;
            chunk.fill(|buffer| {
                let (count, sender) = self.socket.recv_from(buffer)?;
                from = Some(sender);
                Ok::<_, io::Error>(count)
            })?;
            let from = from.map(|from| inet_text("udp", &from));
            Ok((chunk, from.unwrap_or_default()))
        });
        outcome.map_err(|failure| network_failed("cannot receive a datagram", &failure))
    }
}

native! {
    /// `udp_open(address, broadcast)`: the number of a socket, and its address.
    UdpOpen = "udp_open", suspends: true;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((text, broadcast)) -> (f64, String) {
        let (host, port) = parse_datagram(text)?;
        let failed = |failure: io::Error| {
            network_failed(&format!("cannot bind {}", String::from_utf8_lossy(text)), &failure)
        };
        let socket = UdpSocket::bind((host.as_str(), port)).map_err(failed)?;
        if broadcast {
            socket.set_broadcast(true).map_err(failed)?;
        }
        let address = inet_text("udp", &socket.local_addr().map_err(failed)?);
        let datagrams = Datagrams { socket, closing: Closing::default(), receiver: RefCell::default() };
        Ok((SOCKETS.with(|sockets| sockets.add(datagrams)), address))
    }
}

native! {
    /// `udp_connect(socket, address)`: the receiver of datagrams without an address; those of others are dropped.
    UdpConnect = "udp_connect", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, text)) -> () {
        let datagrams = find(number)?;
        let to = datagrams.receiver(text)?;
        datagrams.socket.connect(to).map_err(|failure| {
            network_failed(&format!("cannot connect to {}", String::from_utf8_lossy(text)), &failure)
        })
    }
}

native! {
    /// `udp_send(socket, text, address or nil)`.
    UdpSend = "udp_send", suspends: true;
    read(stack) -> (f64, &'a [u8], Option<&'a [u8]>) {
        let to = if stack.is_none_or_nil(3) { None } else { Some(stack.bytes(3)) };
        (stack.number(1), stack.bytes(2), to)
    }
    run((number, bytes, to)) -> () { find(number)?.send(bytes, to) }
}

native! {
    /// `udp_receive(socket)`: the next datagram and its sender.
    UdpReceive = "udp_receive", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> (Chunk, String) { find(number)?.receive() }
}

native! {
    /// `udp_close(socket)`: ends its operations and closes it. Finalizers call it, too.
    UdpClose = "udp_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        if let Some(datagrams) = SOCKETS.with(|sockets| sockets.remove(number)) {
            datagrams.closing.close();
        }
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; UdpOpen, UdpConnect, UdpSend, UdpReceive, UdpClose);
}
