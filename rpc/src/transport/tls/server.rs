//! The server side: a listener's certificate, which is renewed when its files change.
//!
//! A certificate is renewed every few weeks, and the server must not be restarted for it. So a listener compares the
//! files' times when a client connects, at most once a second. New files that cannot be used leave the old certificate
//! in place.

use super::filter::Filter;
use super::pem::{PEM_MARK, argument_error, identity, roots, unusable};
use crate::address::Address;
use crate::error::Error;
use crate::transport::tls_options::{Side, TlsOptions};
use crate::transport::{Events, Transport};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_io::tls::Acceptor;
use yue_io::tls::rustls::ServerConfig;
use yue_scheduler::{Instant, LogLevel, deadline_after, log, now};

/// A listener looks at its files at most this often.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// The server side of TLS: the certificate of a listener, and its files.
pub(crate) struct ServerTls {
    options: TlsOptions,
    config: RefCell<Arc<ServerConfig>>,
    /// The state of the files when they were read.
    stamps: RefCell<Vec<Stamp>>,
    /// The earliest time of the next look at them.
    check_at: Cell<Instant>,
    /// The fault of the present files, which was logged.
    fault: RefCell<Option<String>>,
}

/// The state of a file, which changes when it is written or replaced; `None` if it cannot be read.
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
            options: options.clone(),
            config: RefCell::new(config),
            stamps: RefCell::new(stamps),
            check_at: Cell::new(now()),
            fault: RefCell::default(),
        })
    }

    /// The present configuration.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.borrow().clone()
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
        Filter::server(self.config(), events, start)
    }

    /// Reads the files again if they have changed. New files that cannot be used are logged, and tried again later.
    pub(crate) fn refresh(&self, address: &Address) {
        if now() < self.check_at.get() {
            return;
        }
        self.check_at.set(deadline_after(CHECK_PAUSE));
        // After a fault even unchanged files are read: they may have been written at the same time as they were read.
        let present = stamps(&self.options);
        let is_same = *self.stamps.borrow() == present;
        if !is_same || self.fault.borrow().is_some() {
            let _ = self.reload(address);
        }
    }

    /// Reads the files again. Connections that exist keep the old certificate.
    ///
    /// # Errors
    /// `ArgumentError`, if a file cannot be used. The old certificate stays.
    pub(crate) fn reload(&self, address: &Address) -> Result<(), Error> {
        let before = stamps(&self.options);
        let loaded = server_config(&self.options);
        *self.stamps.borrow_mut() = before;
        let config = match loaded {
            Ok(config) => config,
            // The listener was closed while it read them.
            Err(error) if yue_scheduler::is_cancelled() => {
                return Err(argument_error(address, &error));
            }
            Err(error) => {
                let text = error.to_string();
                let known = self.fault.replace(Some(text.clone()));
                if known.as_ref() != Some(&text) {
                    log(
                        LogLevel::Error,
                        format_args!("{address} keeps its old certificate: {text}"),
                    );
                }
                return Err(argument_error(address, &text));
            }
        };
        self.fault.take();
        *self.config.borrow_mut() = config;
        log(
            LogLevel::Info,
            format_args!("{address} has read its certificate again"),
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
