//! A stand-in for TLS where the feature is not enabled: an error that says so.

use super::stream::{Encrypted, Link};
use std::io::{self, Read, Write};
use yue_rpc::transport::TlsOptions;
use yue_rpc::{Address, Error, ErrorKind};

/// There is none.
pub(super) enum Reader {}

/// There is none.
pub(super) enum Writer {}

/// The client's side; there is none.
pub(super) enum Client {}

/// The server's side; there is none.
pub(super) enum Server {}

impl Client {
    pub(super) fn load(address: &Address, _: &str, _: &TlsOptions) -> Result<Client, Error> {
        Err(not_enabled(address))
    }

    pub(super) fn connect(&self, _: Link) -> io::Result<Encrypted> {
        match *self {}
    }
}

impl Server {
    pub(super) fn load(address: &Address, _: &TlsOptions) -> Result<Server, Error> {
        Err(not_enabled(address))
    }

    pub(super) fn accept(&self, _: Link) -> io::Result<Encrypted> {
        match *self {}
    }
}

impl Reader {
    pub(super) fn has_bytes(&self) -> bool {
        match *self {}
    }
}

impl Read for Reader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl Write for Writer {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match *self {}
    }
}

/// Ends this side's direction.
pub(super) fn finish(writer: &mut Writer) -> io::Result<()> {
    match *writer {}
}

/// Describes an error of an encrypted stream.
pub(super) fn describe(_: bool, error: io::Error) -> io::Error {
    error
}

fn not_enabled(address: &Address) -> Error {
    let text = format!(
        "{address}: TLS is not built into this program; build it with the feature `tls` of the crate yue"
    );
    Error::new(ErrorKind::Address, text)
}
