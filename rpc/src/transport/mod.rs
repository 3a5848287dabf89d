//! What carries a session's bytes: a socket, another loop of this process, or (for tests) a pair within one loop.
//!
//! A transport belongs to one loop. It calls its [`Events`] on that loop, outside fibers; they do not park. The session
//! gives whole buffers away and gets empty ones back, so that nothing is copied or allocated on the way.

pub mod hub;
pub mod memory;
pub mod socket;
pub mod thread;

use crate::address::Address;
use crate::error::Error;
use std::io;
use std::rc::Rc;

/// Bytes that arrived.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// The transport's own memory, to be copied.
    Borrowed(&'a [u8]),
    /// A buffer to keep.
    Owned(Vec<u8>),
}

/// The sending side of a link. All of its methods return at once.
pub trait Transport {
    /// Takes a buffer; buffers leave in order. It comes back through [`Events::sent`].
    fn send(&self, buffer: Vec<u8>);

    /// Bytes taken and not yet passed on, the measure of how far the other side lags behind.
    fn queued_bytes(&self) -> usize;

    /// The session waits for room: [`Events::sent`] must come when bytes are passed on, also if there is no buffer to
    /// give back. Transports that always say so need not do anything.
    fn tell_when_sent(&self) {}

    /// Reads no more, or again. What is read already may still arrive.
    fn set_reading(&self, on: bool);

    /// Says, after all that was sent, that no more will come. The other direction goes on.
    fn shutdown_write(&self);

    /// Ends the link in both directions, whatever is still queued. [`Events::closed`] follows.
    fn close(&self);
}

/// What a link tells its session, on the loop, outside fibers.
pub trait Events {
    /// Bytes arrived.
    fn data(&self, incoming: Incoming<'_>);

    /// Bytes left. The buffer, emptied or not, comes back if there is one.
    fn sent(&self, buffer: Option<Vec<u8>>);

    /// The link is over, for the reason given; `Ok` if the other side ended it in order. Called once, and last.
    fn closed(&self, result: io::Result<()>);
}

/// Makes links to one address, one after another.
pub trait Connect {
    /// Makes a link. Runs in a fiber and may park.
    ///
    /// # Errors
    /// Why there is none, of the kinds below `TransportError`.
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error>;

    /// The address, for messages.
    fn address(&self) -> &str;
}

/// The connector for an address.
pub fn connector(address: &Address) -> Rc<dyn Connect> {
    match address {
        Address::Tcp { .. } | Address::Unix { .. } => {
            Rc::new(socket::SocketConnector::new(address.clone()))
        }
        Address::Thread { name } => Rc::new(thread::ThreadConnector::new(name)),
    }
}
