//! A stand-in for TLS where the feature is not enabled: an error that says so.

use super::tls_options::TlsOptions;
use super::{Connect, Events, SocketOptions, Transport};
use crate::address::Address;
use crate::error::{Error, ErrorKind};
use std::io;
use std::rc::Rc;

/// The server side of TLS; there is none.
pub(crate) enum ServerTls {}

impl ServerTls {
    /// # Errors
    /// Always.
    pub(crate) fn load(address: &Address, _: &TlsOptions) -> Result<ServerTls, Error> {
        Err(not_enabled(address))
    }

    pub(crate) fn refresh(&self, _: &Address) {
        match *self {}
    }

    pub(crate) fn reload(&self, _: &Address) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn start(
        &self,
        _: Rc<dyn Events>,
        _: impl FnOnce(Rc<dyn Events>) -> io::Result<Rc<dyn Transport>>,
    ) -> io::Result<Rc<dyn Transport>> {
        match *self {}
    }
}

/// # Errors
/// Always.
pub(super) fn connector(address: &Address, _: &SocketOptions) -> Result<Rc<dyn Connect>, Error> {
    Err(not_enabled(address))
}

fn not_enabled(address: &Address) -> Error {
    let text = format!(
        "{address}: TLS is not built into this program; build it with the feature `tls` of the crate yue (or yue-rpc)"
    );
    Error::new(ErrorKind::Address, text)
}
