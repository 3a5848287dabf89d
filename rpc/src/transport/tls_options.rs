//! The certificates of TLS connections, as a program gives them.

use crate::address::Address;
use crate::error::{Error, ErrorKind};
use std::fmt;

/// Certificates and keys for `tls://` and `wss://` (feature `tls`). Each is the path of a PEM file, or PEM text itself.
///
/// A server has `cert` and `key`. A client has `ca`, unless an authority that the system trusts has signed the server's
/// certificate.
///
/// ```
/// # #[cfg(feature = "tls")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use yue_rpc::Error;
/// use yue_rpc::transport::{SocketOptions, TlsOptions};
/// use yue_rpc::typed::{Client, Server};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue_io::run(move || -> Result<(), Error> {
///     let tls = TlsOptions { cert: Some(certificate.clone()), key: Some(key), ..TlsOptions::default() };
///     let listener = Server::new()
///         .handler("ping", |()| Ok("pong"))
///         .sockets(SocketOptions { tls, ..SocketOptions::default() })
///         .listen("tls://localhost:0")?;
///
///     let tls = TlsOptions { ca: Some(certificate), ..TlsOptions::default() };
///     let offers = Server::new().sockets(SocketOptions { tls, ..SocketOptions::default() });
///     let client = Client::open_with(&listener.address().to_string(), offers, Default::default())?;
///     assert_eq!(client.call::<_, String>("ping", ())?, "pong");
///     Ok(())
/// })??;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "tls"))]
/// # fn main() {}
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate, followed by those of its signers, without the root. A server needs one. A client shows it to a
    /// server that demands it.
    pub cert: Option<String>,
    /// The private key of `cert`.
    pub key: Option<String>,
    /// Clients: the authorities that may have signed the server's certificate, instead of those that the system trusts.
    pub ca: Option<String>,
    /// Servers: only clients whose certificate was signed by one of these authorities are served.
    pub client_ca: Option<String>,
    /// Clients: the name that the server's certificate must have, instead of the address's host.
    pub server_name: Option<String>,
    /// Clients: accept every server, whatever its certificate. For tests.
    pub insecure: bool,
}

/// The side of a connection, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl TlsOptions {
    fn given(&self) -> impl Iterator<Item = (&'static str, Option<Side>)> {
        [
            ("cert", None, self.cert.is_some()),
            ("key", None, self.key.is_some()),
            ("ca", Some(Side::Client), self.ca.is_some()),
            ("client_ca", Some(Side::Server), self.client_ca.is_some()),
            (
                "server_name",
                Some(Side::Client),
                self.server_name.is_some(),
            ),
            ("insecure", Some(Side::Client), self.insecure),
        ]
        .into_iter()
        .filter_map(|(name, side, given)| given.then_some((name, side)))
    }

    /// Checks that no option is given, for an address that has no certificates: a server must not believe that it
    /// encrypts.
    ///
    /// # Errors
    /// `ArgumentError`, if one is given.
    pub fn check_unused(&self, address: &Address) -> Result<(), Error> {
        match self.given().next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                ErrorKind::Argument,
                format!(
                    "the option {name} is for tls:// and wss:// addresses, and this one is {address}"
                ),
            )),
        }
    }

    /// # Errors
    /// If options are given that only the peer has, or certificate and key not both.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) fn check(&self, side: Side) -> Result<(), Error> {
        let fault = |text: String| Err(Error::new(ErrorKind::Argument, text));
        for (name, of) in self.given() {
            match (of, name) {
                (Some(of), _) if of == side => {}
                (None, _) => {}
                (_, "ca") => {
                    return fault(
                        "the option ca is for clients; to demand certificates of clients, give client_ca".to_owned(),
                    );
                }
                (Some(Side::Client), _) => {
                    return fault(format!(
                        "the option {name} is for clients, not for a listener"
                    ));
                }
                (Some(Side::Server), _) => {
                    return fault(format!(
                        "the option {name} is for a listener, not for clients"
                    ));
                }
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => fault("the option cert needs the option key: its private key".to_owned()),
            (None, Some(_)) => {
                fault("the option key needs the option cert: its certificate".to_owned())
            }
            (None, None) if side == Side::Server => fault(
                "a listener with TLS needs a certificate: give the options cert and key, each a PEM file or its text"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for TlsOptions {
    /// Names the options that are given, never a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.given().map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}
