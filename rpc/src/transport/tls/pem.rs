//! Certificates and keys, from PEM files or PEM text.

use crate::error::{Error, ErrorKind};
use crate::transport::tls_options::TlsOptions;
use std::fmt;
use std::io;
use yue_io::tls::{Identity, Roots};

/// The beginning of PEM text, which no path has.
pub(super) const PEM_MARK: &str = "-----BEGIN";

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

/// The place of a fault: the option, and its file.
fn place(name: &str, value: &str) -> String {
    match value.contains(PEM_MARK) {
        true => format!("the option {name}"),
        false => format!("'{value}' (option {name})"),
    }
}

/// The certificate with its key, if they are given.
pub(super) fn identity(options: &TlsOptions) -> io::Result<Option<Identity>> {
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
        return Ok(None);
    };
    let identity = Identity::from_pem(read("cert", cert)?, read("key", key)?);
    let in_options = |error: io::Error| {
        let place = format!("{} and {}", place("cert", cert), place("key", key));
        io::Error::new(error.kind(), format!("in {place}: {error}"))
    };
    identity.map(Some).map_err(in_options)
}

/// The authorities in an option.
pub(super) fn roots(name: &str, value: &str) -> io::Result<Roots> {
    Roots::from_pem(read(name, value)?).map_err(|error| {
        let place = place(name, value);
        io::Error::new(error.kind(), format!("in {place}: {error}"))
    })
}

/// The error of options that cannot be used.
pub(super) fn argument_error(address: &dyn fmt::Display, error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Argument, format!("{address}: {error}"))
}

/// Certificate and key are those of two pairs, or of a kind that rustls does not know.
pub(super) fn unusable(error: io::Error) -> io::Error {
    let text = format!("cert and key cannot be used together: {error}");
    io::Error::new(error.kind(), text)
}
