//! From options to rustls's configurations, and connections from these.
//!
//! A server's files may change while it listens: a certificate is renewed every few weeks, and the server must not be
//! restarted for it. So a listener compares the files' times when a client connects, at most once a second. New files
//! that cannot be used leave the old certificate in place.

use super::filter::Filter;
use crate::address::Address;
use crate::error::{Error, ErrorKind};
use crate::transport::handshake::establish;
use crate::transport::tls_options::{Side, TlsOptions};
use crate::transport::{Connect, Events, LinkRefused, SocketOptions, Transport, socket};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use yue_io::net::TcpStream;
use yue_io::tls::rustls::pki_types::ServerName;
use yue_io::tls::rustls::{ClientConfig, ServerConfig};
use yue_io::tls::{Acceptor, Connector, Identity, Roots};
use yue_scheduler::{Instant, LogLevel, deadline_after, log, now};

/// A listener looks at its files at most this often.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// The beginning of PEM text, which no path has.
const PEM_MARK: &str = "-----BEGIN";

/// Reads one of the options: a PEM file, or PEM text.
fn read(name: &str, value: &str) -> io::Result<Vec<u8>> {
    if value.contains(PEM_MARK) {
        return Ok(value.as_bytes().to_vec());
    }
    yue_io::fs::read(value).map_err(|error| {
        let text = format!("cannot read the file '{value}' (option {name}): {error}");
        io::Error::new(error.kind(), text)
    })
}

/// Adds the option's name to the fault of its content.
fn in_option(name: &str, value: &str) -> impl Fn(io::Error) -> io::Error {
    let place = match value.contains(PEM_MARK) {
        true => format!("in the option {name}"),
        false => format!("in '{value}' (option {name})"),
    };
    move |error| io::Error::new(error.kind(), format!("{place}: {error}"))
}

fn identity(options: &TlsOptions) -> io::Result<Option<Identity>> {
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
        return Ok(None);
    };
    let (cert_pem, key_pem) = (read("cert", cert)?, read("key", key)?);
    // Each alone, for an error that names the option.
    let in_cert = in_option("cert", cert);
    Roots::from_pem(&cert_pem).map_err(&in_cert)?;
    let identity = Identity::from_pem(cert_pem, key_pem).map_err(in_option("key", key))?;
    Ok(Some(identity))
}

fn roots(name: &str, value: &str) -> io::Result<Roots> {
    Roots::from_pem(read(name, value)?).map_err(in_option(name, value))
}

fn argument_error(address: &dyn fmt::Display, error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Argument, format!("{address}: {error}"))
}

// -- Servers --

/// The server side of TLS: the certificate of a listener, and its files.
pub(crate) struct ServerTls {
    address: String,
    options: TlsOptions,
    config: RefCell<Arc<ServerConfig>>,
    /// The state of the files when they were read.
    stamps: RefCell<Vec<Stamp>>,
    /// The earliest time of the next look at them.
    check_at: Cell<Instant>,
    /// The fault of the present files, which was logged.
    fault: RefCell<Option<String>>,
}

/// What changes when a file is written or replaced; `None` if it cannot be read.
type Stamp = Option<(u64, u64, i64, i64)>;

impl ServerTls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// `ArgumentError`, if the options are not those of a server, or a file cannot be used.
    pub(crate) fn load(address: &Address, options: &TlsOptions) -> Result<ServerTls, Error> {
        options
            .check(Side::Server)
            .map_err(|error| argument_error(address, &error.message()))?;
        let stamps = stamps(options);
        let config = server_config(options).map_err(|error| argument_error(address, &error))?;
        Ok(ServerTls {
            address: address.to_string(),
            options: options.clone(),
            config: RefCell::new(config),
            stamps: RefCell::new(stamps),
            check_at: Cell::new(now()),
            fault: RefCell::default(),
        })
    }

    /// Starts the server's side of a link over the one that `start` starts.
    ///
    /// # Errors
    /// Those of `start`.
    pub(crate) fn start(
        &self,
        events: Rc<dyn Events>,
        start: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        Filter::server(self.config.borrow().clone(), events, start)
    }

    /// Reads the files again if they have changed. New files that cannot be used are logged, and tried again later.
    pub(crate) fn refresh(&self) {
        if now() < self.check_at.get() {
            return;
        }
        self.check_at.set(deadline_after(CHECK_PAUSE));
        // After a fault even unchanged files are read: they may have been written at the same time as they were read.
        let is_same = *self.stamps.borrow() == stamps(&self.options);
        if !is_same || self.fault.borrow().is_some() {
            let _ = self.reload();
        }
    }

    /// Reads the files again. Connections that exist keep the old certificate.
    ///
    /// # Errors
    /// `ArgumentError`, if a file cannot be used. The old certificate stays.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let before = stamps(&self.options);
        let loaded = server_config(&self.options);
        *self.stamps.borrow_mut() = before;
        let config = match loaded {
            Ok(config) => config,
            // The listener was closed while it read them.
            Err(error) if yue_scheduler::is_cancelled() => {
                return Err(argument_error(&self.address, &error));
            }
            Err(error) => {
                let text = error.to_string();
                let known = self.fault.replace(Some(text.clone()));
                if known.as_ref() != Some(&text) {
                    let address = &self.address;
                    log(
                        LogLevel::Error,
                        format_args!("{address} keeps its old certificate: {text}"),
                    );
                }
                return Err(argument_error(&self.address, &text));
            }
        };
        self.fault.take();
        *self.config.borrow_mut() = config;
        log(
            LogLevel::Info,
            format_args!("{} has read its certificate again", self.address),
        );
        Ok(())
    }
}

fn server_config(options: &TlsOptions) -> io::Result<Arc<ServerConfig>> {
    let clients = match &options.client_ca {
        Some(value) => Some(roots("client_ca", value)?),
        None => None,
    };
    let Some(identity) = identity(options)? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "cert and key are missing",
        ));
    };
    let acceptor = Acceptor::with(identity, clients, &[]).map_err(unusable)?;
    Ok(acceptor.config().clone())
}

fn unusable(error: io::Error) -> io::Error {
    let text = format!("cert and key cannot be used together: {error}");
    io::Error::new(error.kind(), text)
}

/// The present state of the files among the options.
fn stamps(options: &TlsOptions) -> Vec<Stamp> {
    let values = [&options.cert, &options.key, &options.client_ca];
    let files = values
        .into_iter()
        .flatten()
        .filter(|value| !value.contains(PEM_MARK));
    files
        .map(|path| {
            let about = yue_io::fs::metadata(path).ok()?;
            Some((about.ino(), about.size(), about.mtime(), about.mtime_nsec()))
        })
        .collect()
}

// -- Clients --

/// Makes links to a `tls://` address.
struct TlsConnector {
    text: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    is_verified: bool,
    /// `None`: trusts the system's authorities, which are read when they are first needed.
    config: RefCell<Option<Arc<ClientConfig>>>,

    keepalive: Option<Duration>,
    handshake: Duration,
}

/// Creates a connector, and reads its certificates.
///
/// # Errors
/// `ArgumentError`, if the options are not those of a client, or a file cannot be used.
pub(crate) fn connector(
    address: &Address,
    options: &SocketOptions,
) -> Result<Rc<dyn Connect>, Error> {
    let Address::Tls { host, port } = address else {
        return Err(argument_error(address, &"this is not a tls:// address"));
    };
    let tls = &options.tls;
    tls.check(Side::Client)
        .map_err(|error| argument_error(address, &error.message()))?;
    let named = tls.server_name.as_deref().unwrap_or(host);
    // A zone belongs to this machine, not to the certificate.
    let bare = named.split_once('%').map_or(named, |(address, _)| address);
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| {
        let text = format!("'{named}' is neither a host name nor an IP address (server_name)");
        argument_error(address, &text)
    })?;
    let config = client_config(tls).map_err(|error| argument_error(address, &error))?;
    if tls.insecure {
        log(
            LogLevel::Warn,
            format_args!(
                "the connection to {address} is not secure: its server is not verified (insecure = true)"
            ),
        );
    }
    Ok(Rc::new(TlsConnector {
        text: address.to_string(),
        host: host.clone(),
        port: *port,
        name,
        is_verified: !tls.insecure,
        config: RefCell::new(config),
        keepalive: options.keepalive,
        handshake: options.handshake,
    }))
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

impl TlsConnector {
    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let known = self.config.borrow().clone();
        match known {
            Some(config) => Ok(config),
            None => {
                let connector = system_roots().and_then(Connector::new);
                let config = connector
                    .map_err(|error| LinkRefused::new(ErrorKind::Tls, error.to_string()))?
                    .config()
                    .clone();
                *self.config.borrow_mut() = Some(config.clone());
                Ok(config)
            }
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        let config = self.config()?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))?;
        establish(events, self.handshake, |events| {
            Filter::client(
                config,
                self.name.clone(),
                self.is_verified,
                events,
                |events| socket::start_tcp(stream, self.keepalive, events),
            )
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
