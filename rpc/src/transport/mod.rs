//! Transports carry a session's bytes: a socket, another loop of this process, or (for tests) a pair within one loop.
//!
//! A transport belongs to one loop. It calls its [`Events`] on that loop, outside fibers; they do not park. The session
//! passes whole buffers to the transport and gets empty ones back, so nothing is copied or allocated on the way.
//!
//! ```
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use yue_rpc::session::{Service, Session};
//! use yue_rpc::transport::{Connect, Events, Transport};
//! use yue_rpc::typed::{Caller, Server};
//! use yue_rpc::{Error, MemoryListener, Options};
//!
//! /// Counts the links that are made through it.
//! struct Counting(Rc<dyn Connect>, Cell<u32>);
//!
//! impl Connect for Counting {
//!     fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
//!         self.1.set(self.1.get() + 1);
//!         self.0.connect(events)
//!     }
//!
//!     fn address(&self) -> &str {
//!         self.0.address()
//!     }
//! }
//!
//! yue_io::run(|| -> Result<(), Error> {
//!     let service = Server::new().handler("ping", |()| Ok(())).into_service();
//!     let listener = MemoryListener::new(service, Options::default());
//!     let counting = Rc::new(Counting(listener.clone(), Cell::new(0)));
//!     let session = Session::open(counting.clone(), Service::none(), Options::default());
//!     let caller = Caller::new(session.clone());
//!     caller.call::<_, ()>("ping", ())?;
//!     listener.break_last(); // As a cable would.
//!     caller.call::<_, ()>("ping", ()).ok(); // It may meet the break,
//!     caller.call::<_, ()>("ping", ())?; // and this one has a new link.
//!     assert_eq!(counting.1.get(), 2);
//!     session.close();
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[doc(hidden)] // For the tests, which speak the wire themselves.
pub mod memory;
pub(crate) mod socket;
pub(crate) mod thread;
mod traits;

pub use socket::SocketOptions;
pub use traits::{Connect, Events, Incoming, Transport};

use crate::address::Address;
use std::rc::Rc;

/// Creates the connector for an address.
pub fn connector(address: &Address) -> Rc<dyn Connect> {
    connector_with(address, &SocketOptions::default())
}

/// Like [`connector`], with options for its sockets.
pub fn connector_with(address: &Address, options: &SocketOptions) -> Rc<dyn Connect> {
    match address {
        Address::Tcp { .. } | Address::Unix { .. } => {
            Rc::new(socket::SocketConnector::new(address.clone(), options))
        }
        Address::Thread { name } => Rc::new(thread::ThreadConnector::new(name)),
    }
}
