//! TLS over streams that a program reads and writes itself, with the options and the error texts of `tls://`.

use super::client::ClientTls;
use super::errors::{closed_in_handshake, of_rustls, truncated};
use super::server::ServerTls;
use crate::address::Address;
use crate::error::Error;
use crate::transport::tls_options::{Side, TlsOptions};
use std::io::{self, Read, Write};
use yue_io::tls::rustls::Error as TlsError;
use yue_io::tls::{Acceptor, Connector, TlsStream};

/// The client side of TLS over a program's own stream, with the options of `tls://` addresses.
///
/// ```
/// use std::io::{Read, Write};
/// use yue_io::net::UnixStream;
/// use yue_rpc::transport::{TlsClient, TlsOptions, TlsServer};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue_io::run(move || -> Result<(), Box<dyn std::error::Error>> {
///     let address = "tls://localhost:443".parse()?;
///     let ca = Some(cert.clone());
///     let client = TlsClient::load(&address, "localhost", &TlsOptions { ca, ..TlsOptions::default() })?;
///     let own = TlsOptions { cert: Some(cert), key: Some(key), ..TlsOptions::default() };
///     let server = TlsServer::load(&address, &own)?;
///     let (here, there) = UnixStream::pair()?;
///     yue_scheduler::spawn(move || {
///         let mut stream = server.accept(there)?;
///         stream.write_all(b"secret")?;
///         stream.close()
///     });
///     let mut text = String::new();
///     client.connect(here)?.read_to_string(&mut text)?;
///     assert_eq!(text, "secret");
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TlsClient {
    tls: ClientTls,
}

impl TlsClient {
    /// Reads the certificates for streams to `host`; `address` is for messages. With the option `insecure` it logs
    /// that the peer is not verified.
    ///
    /// # Errors
    /// `ArgumentError`, if the options are not those of a client, or a file cannot be used.
    pub fn load(address: &Address, host: &str, options: &TlsOptions) -> Result<TlsClient, Error> {
        let tls = ClientTls::load(address, host, options)?;
        Ok(TlsClient { tls })
    }

    /// Performs the client's handshake over `stream`. In a fiber.
    ///
    /// # Errors
    /// The stream's error; one that holds a [`LinkRefused`](crate::transport::LinkRefused) if a peer is not trusted or
    /// does not speak TLS.
    pub fn connect<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.tls.prepare()?;
        let config = self.tls.config()?;
        let name = self.tls.name().to_str();
        Connector::from(config)
            .connect(&name, stream)
            .map_err(|error| of_handshake(Side::Client, error))
    }

    /// The name that the certificate of each peer is verified to have; `None` with the option `insecure`.
    pub fn verified_name(&self) -> Option<String> {
        let name = self.tls.name().to_str().into_owned();
        self.tls.is_verified().then_some(name)
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

/// The server side of TLS over a program's own streams, with the options of `tls://` listeners. [`TlsClient`] has an
/// example.
pub struct TlsServer {
    address: Address,
    tls: ServerTls,
}

impl TlsServer {
    /// Reads certificate and key. Later they are read again when the files have changed; `address` is for messages.
    ///
    /// # Errors
    /// `ArgumentError`, if the options are not those of a server, or a file cannot be used.
    pub fn load(address: &Address, options: &TlsOptions) -> Result<TlsServer, Error> {
        let tls = ServerTls::load(address, options)?;
        let address = address.clone();
        Ok(TlsServer { address, tls })
    }

    /// Performs the server's handshake over `stream`. In a fiber. A client may delay it: put a deadline around it.
    ///
    /// # Errors
    /// See [`TlsClient::connect`].
    pub fn accept<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.tls.refresh(&self.address);
        Acceptor::from(self.tls.config())
            .accept(stream)
            .map_err(|error| of_handshake(Side::Server, error))
    }
}

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Describes the error of a [`TlsStream`] after its handshake, with the remedy.
pub fn describe_tls_error(is_server: bool, error: io::Error) -> io::Error {
    let side = match is_server {
        true => Side::Server,
        false => Side::Client,
    };
    match (inner(&error), error.kind()) {
        (Some(inner), _) => of_rustls(side, false, inner),
        (None, io::ErrorKind::UnexpectedEof) => truncated(),
        (None, _) => error,
    }
}

fn of_handshake(side: Side, error: io::Error) -> io::Error {
    match (inner(&error), error.kind()) {
        (Some(inner), _) => of_rustls(side, true, inner),
        (None, io::ErrorKind::UnexpectedEof) => closed_in_handshake(side, true),
        (None, _) => error,
    }
}

fn inner(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}
