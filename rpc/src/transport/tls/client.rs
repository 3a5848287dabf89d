//! The client side: whom it trusts, and the connector for `tls://`.

use super::filter::Filter;
use super::pem::{argument_error, identity, roots, unusable};
use crate::address::Address;
use crate::error::{Error, ErrorKind};
use crate::transport::handshake::establish;
use crate::transport::tls_options::{Side, TlsOptions};
use crate::transport::{Connect, Events, LinkRefused, SocketOptions, Transport, socket};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use yue_io::net::TcpStream;
use yue_io::tls::rustls::ClientConfig;
use yue_io::tls::rustls::pki_types::ServerName;
use yue_io::tls::{Connector, Roots};
use yue_scheduler::{LogLevel, log};

/// The client side of TLS: the name that the server must have, and the authorities that may have signed it.
pub(crate) struct ClientTls {
    name: ServerName<'static>,
    is_verified: bool,
    /// `None`: trusts the system's authorities, which are read when they are first needed.
    config: RefCell<Option<Arc<ClientConfig>>>,
}

impl ClientTls {
    /// Reads the certificates for connections to `host` at `address`.
    ///
    /// # Errors
    /// `ArgumentError`, if the options are not those of a client, or a file cannot be used.
    pub(crate) fn load(
        address: &Address,
        host: &str,
        options: &TlsOptions,
    ) -> Result<ClientTls, Error> {
        options
            .check(Side::Client)
            .map_err(|error| argument_error(address, &error.message()))?;
        let named = options.server_name.as_deref().unwrap_or(host);
        // A zone belongs to this machine, not to the certificate.
        let bare = named.split_once('%').map_or(named, |(address, _)| address);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| {
            let text = format!("'{named}' is neither a host name nor an IP address (server_name)");
            argument_error(address, &text)
        })?;
        let config = client_config(options).map_err(|error| argument_error(address, &error))?;
        if options.insecure {
            let text = "is not secure: its server is not verified (insecure = true)";
            log(
                LogLevel::Warn,
                format_args!("the connection to {address} {text}"),
            );
        }
        Ok(ClientTls {
            name,
            is_verified: !options.insecure,
            config: RefCell::new(config),
        })
    }

    /// Reads what was not needed before. In a fiber.
    ///
    /// # Errors
    /// `LinkRefused`, if the system trusts no authorities.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if self.config.borrow().is_some() {
            return Ok(());
        }
        let connector = system_roots().and_then(Connector::new);
        let connector =
            connector.map_err(|error| LinkRefused::new(ErrorKind::Tls, error.to_string()))?;
        *self.config.borrow_mut() = Some(connector.config().clone());
        Ok(())
    }

    /// The name that the server must have.
    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Whether the server's certificate is verified.
    pub(crate) fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// The configuration. After [`ClientTls::prepare`].
    pub(crate) fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let missing = || io::Error::other("the system's authorities were not read");
        self.config.borrow().clone().ok_or_else(missing)
    }

    /// Starts the client's side of a link over the one that `start` starts. After [`ClientTls::prepare`].
    ///
    /// # Errors
    /// Those of `start`.
    pub(crate) fn start(
        &self,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        Filter::client(
            self.config()?,
            self.name.clone(),
            self.is_verified,
            events,
            start,
        )
    }
}

/// The configuration, unless it needs the system's authorities.
fn client_config(options: &TlsOptions) -> io::Result<Option<Arc<ClientConfig>>> {
    let identity = identity(options)?;
    let connector = if options.insecure {
        Connector::insecure(identity, &[])
    } else if let Some(value) = &options.ca {
        Connector::with(roots("ca", value)?, identity, &[])
    } else if identity.is_none() {
        return Ok(None);
    } else {
        Connector::with(system_roots()?, identity, &[])
    };
    Ok(Some(connector.map_err(unusable)?.config().clone()))
}

/// The system's authorities, which all connections of the process share.
fn system_roots() -> io::Result<Roots> {
    static ROOTS: OnceLock<Roots> = OnceLock::new();
    match ROOTS.get() {
        Some(roots) => Ok(roots.clone()),
        None => {
            let roots = Roots::system()?;
            Ok(ROOTS.get_or_init(|| roots).clone())
        }
    }
}

/// Makes links to a `tls://` address, and the links below `wss://`.
struct TlsConnector {
    text: String,
    host: String,
    port: u16,
    tls: ClientTls,
    keepalive: Option<Duration>,
    handshake: Duration,
}

/// Creates a connector, and reads its certificates.
///
/// # Errors
/// See [`ClientTls::load`].
pub(crate) fn connector(
    address: &Address,
    options: &SocketOptions,
) -> Result<Rc<dyn Connect>, Error> {
    let Some((host, port)) = address.host_and_port().filter(|_| address.is_tls()) else {
        return Err(argument_error(address, &"this is not an address with TLS"));
    };
    Ok(Rc::new(TlsConnector {
        text: address.to_string(),
        host: host.to_owned(),
        port,
        tls: ClientTls::load(address, host, &options.tls)?,
        keepalive: options.keepalive,
        handshake: options.handshake,
    }))
}

impl TlsConnector {
    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        self.tls.prepare()?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))?;
        establish(events, self.handshake, |events| {
            self.tls.start(events, |events| {
                socket::start_tcp(stream, self.keepalive, events)
            })
        })
    }
}

impl Connect for TlsConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        self.try_connect(events)
            .map_err(|error| Error::from_connect(&self.text, &error))
    }

    fn address(&self) -> &str {
        &self.text
    }
}
