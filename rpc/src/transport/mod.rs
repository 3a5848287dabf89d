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

pub(crate) mod datagram;
pub(crate) mod handshake;
#[doc(hidden)] // For the tests, which speak the wire themselves.
pub mod memory;
#[cfg(any(feature = "ws", feature = "http"))]
pub(crate) mod origin;
pub(crate) mod pipes;
mod popen;
#[cfg(any(feature = "ws", feature = "http"))]
pub(crate) mod sniffer;
pub(crate) mod socket;
pub(crate) mod thread;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub(crate) mod tls;
mod tls_options;
mod traits;
#[cfg(feature = "ws")]
#[doc(hidden)] // Frames and upgrades, for the fuzz targets.
pub mod websocket;

#[cfg(feature = "http")]
pub use crate::http::{
    AnswerFault, Bytes, HttpAnswer, HttpConnection, HttpFault, HttpHead, HttpLimits, HttpOptions,
    HttpRequest, Serve,
};
pub use datagram::DatagramOptions;
pub use pipes::start_pipes;
pub use socket::{SocketOptions, start_tcp, start_unix};
#[cfg(feature = "tls")]
pub use tls::{TlsClient, TlsServer, describe_tls_error};
pub use tls_options::TlsOptions;
pub use traits::{
    ClosedByPeer, Connect, Ending, Events, Incoming, LinkRefused, ProcessEnded, Transport,
};
#[cfg(feature = "ws")]
pub use websocket::{WebSocketConnector, WebSocketOptions};

use crate::address::Address;
use crate::error::{Error, ErrorKind};
use std::rc::Rc;
use yue_scheduler::{Builder, FiberId, set_context};

/// Creates the connector for an address.
pub fn connector(address: &Address) -> Rc<dyn Connect> {
    connector_with(address, &SocketOptions::default())
}

/// Like [`connector`], with options for its sockets. Calls report a fault in the options; see [`try_connector`].
pub fn connector_with(address: &Address, options: &SocketOptions) -> Rc<dyn Connect> {
    try_connector(address, options).unwrap_or_else(|error| {
        let address = address.to_string();
        Rc::new(Unusable { address, error })
    })
}

/// Like [`connector_with`], and reads the certificates that the options name.
///
/// ```
/// use yue_rpc::ErrorKind;
/// use yue_rpc::transport::{SocketOptions, TlsOptions, try_connector};
///
/// yue_io::run(|| {
///     let tls = TlsOptions { ca: Some("/nowhere/ca.pem".to_owned()), ..TlsOptions::default() };
///     let options = SocketOptions { tls, ..SocketOptions::default() };
///     let address = "tcp://127.0.0.1:80".parse().unwrap();
///     let error = try_connector(&address, &options).err().unwrap();
///     assert_eq!(error.kind(), ErrorKind::Argument);
///     assert!(error.message().contains("the option ca is for tls://"));
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `ArgumentError` for options that do not fit the address, or certificates that cannot be read; `AddressError` if this
/// program was built without the transport.
pub fn try_connector(address: &Address, options: &SocketOptions) -> Result<Rc<dyn Connect>, Error> {
    Ok(match address {
        Address::Tls { .. } => tls::connector(address, options)?,
        Address::Tcp { .. } | Address::Unix { .. } => {
            options.tls.check_unused(address)?;
            Rc::new(socket::SocketConnector::new(address.clone(), options))
        }
        Address::Thread { name } => {
            options.tls.check_unused(address)?;
            Rc::new(thread::ThreadConnector::new(name))
        }
        #[cfg(feature = "ws")]
        Address::Ws { host, port, path } => {
            options.tls.check_unused(address)?;
            let text = address.to_string();
            let below = socket::SocketConnector::named(address.clone(), text.clone(), options);
            let peer = (host.as_str(), *port);
            let websocket = &options.websocket;
            Rc::new(WebSocketConnector::new(
                Rc::new(below),
                peer,
                path,
                text,
                websocket,
            ))
        }
        #[cfg(feature = "ws")]
        Address::Wss { host, port, path } => Rc::new(WebSocketConnector::new(
            tls::connector(address, options)?,
            (host.as_str(), *port),
            path,
            address.to_string(),
            &options.websocket,
        )),
        #[cfg(not(feature = "ws"))]
        Address::Ws { .. } | Address::Wss { .. } => {
            let missing = crate::address::missing_feature("ws");
            return Err(Error::from_connect(&address.to_string(), &missing));
        }
        Address::Udp { host, port } => {
            options.tls.check_unused(address)?;
            Rc::new(datagram::UdpConnector::new(
                host,
                *port,
                address.to_string(),
            ))
        }
        Address::Mcast { group, port } => {
            options.tls.check_unused(address)?;
            let text = address.to_string();
            Rc::new(datagram::GroupConnector::new(
                group,
                *port,
                &options.datagram,
                text,
            ))
        }
        Address::Stdio => {
            let text = "stdio:// can only be listened at: whoever started this process opens the connection";
            return Err(Error::new(ErrorKind::Address, text));
        }
        Address::Popen { command } => {
            options.tls.check_unused(address)?;
            Rc::new(popen::PopenConnector::new(command))
        }
    })
}

/// Spawns a fiber of a transport, which inherits nothing from the fiber that causes it.
pub(crate) fn spawn_own(name: &str, body: impl FnOnce() + 'static) -> std::io::Result<FiberId> {
    let run = move || {
        set_context(None);
        body();
    };
    Ok(Builder::new().name(name).spawn(run)?.id())
}

/// Makes no link, because its options are wrong.
struct Unusable {
    address: String,
    error: Error,
}

impl Connect for Unusable {
    fn connect(&self, _: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        Err(self.error.clone())
    }

    fn address(&self) -> &str {
        &self.address
    }
}
