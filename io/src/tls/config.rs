//! Who we are, whom we trust, and making connections with that.

use super::stream::TlsStream;
use crate::fs;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An error of the program's own settings, which says what is wrong.
fn invalid(text: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_string())
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("a certificate cannot be read: {error}")))?;
    if all.is_empty() {
        return Err(invalid(
            "there is no certificate (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(all)
}

/// A certificate with those that lead to the root, and its private key.
///
/// ```
/// use yue::tls::{Acceptor, Identity};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let place = yue::Runtime::new()?.run(yue::fs::TempDir::new)?;
/// # let (chain, key) = (place.path().join("chain.pem"), place.path().join("key.pem"));
/// # std::fs::write(&chain, made.cert.pem())?;
/// # std::fs::write(&key, made.signing_key.serialize_pem())?;
/// let identity = Identity::from_pem_files(&chain, &key)?;
/// let acceptor = Acceptor::new(identity)?;
/// assert!(Identity::from_pem_files(&key, &chain).is_err()); // The wrong way round.
/// # drop(acceptor);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from files in the PEM format: the certificate first, then those that signed it.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> io::Result<Identity> {
        Identity::from_pem(fs::read(certificates)?, fs::read(key)?)
    }

    /// Takes both from memory.
    ///
    /// # Errors
    /// When they are not what they should be.
    pub fn from_pem(certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> io::Result<Identity> {
        Ok(Identity {
            certificates: self::certificates(certificates.as_ref())?,
            key: PrivateKeyDer::from_pem_slice(key.as_ref())
                .map_err(|error| invalid(format!("the private key cannot be read: {error}")))?,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

/// The certificates by which those of others must be signed.
///
/// ```
/// use yue::tls::{Connector, Roots};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let authority = made.cert.pem();
/// // Servers of one's own, signed by an authority of one's own; others are signed by `Roots::system()`.
/// let connector = Connector::new(Roots::from_pem(authority)?)?;
/// assert!(Roots::from_pem("no certificate").is_err());
/// # drop(connector);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
}

impl Roots {
    /// Those that the system trusts.
    ///
    /// # Errors
    /// When there are none.
    pub fn system() -> io::Result<Roots> {
        let found = crate::offload::offload("read the system's certificates", || {
            Ok(rustls_native_certs::load_native_certs())
        })?;
        let mut store = RootCertStore::empty();
        if store.add_parsable_certificates(found.certs).0 == 0 {
            let text = format!(
                "the system has no certificates to trust (install ca-certificates, or set SSL_CERT_FILE): {:?}",
                found.errors
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(Roots {
            store: Arc::new(store),
        })
    }

    /// Reads them from a file in the PEM format.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate.
    pub fn from_pem_file(path: impl AsRef<Path>) -> io::Result<Roots> {
        Roots::from_pem(fs::read(path)?)
    }

    /// Takes them from memory.
    ///
    /// # Errors
    /// When there is no certificate, or one that cannot be used.
    pub fn from_pem(certificates: impl AsRef<[u8]>) -> io::Result<Roots> {
        let mut store = RootCertStore::empty();
        for certificate in self::certificates(certificates.as_ref())? {
            store.add(certificate).map_err(invalid)?;
        }
        Ok(Roots {
            store: Arc::new(store),
        })
    }
}

/// Makes the client's side of connections.
///
/// Made once, for all connections; see [the module](super) for a whole connection.
///
/// ```
/// use yue::net::UnixStream;
/// use yue::tls::{Acceptor, Connector, Identity, Roots};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue::Runtime::new()?.run(move || -> std::io::Result<()> {
///     let (here, there) = UnixStream::pair()?;
///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
///     yue::spawn(move || acceptor.accept(there).map(drop));
///     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
///     // The server proves to be `localhost`, and so it is not `example.org`.
///     let error = connector.connect("example.org", here).unwrap_err();
///     assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// A client without a certificate.
    ///
    /// # Errors
    /// When the settings do not go together.
    pub fn new(roots: Roots) -> io::Result<Connector> {
        Connector::with(roots, None, &[])
    }

    /// A client that shows a certificate to servers that ask for one, and offers application protocols, the preferred
    /// first (ALPN; such as `h2` and `http/1.1`).
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn with(
        roots: Roots,
        identity: Option<Identity>,
        protocols: &[&str],
    ) -> io::Result<Connector> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(roots.store);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificates, key }) => builder
                .with_client_auth_cert(certificates, key)
                .map_err(invalid)?,
        };
        config.alpn_protocols = alpn(protocols);
        Ok(Connector::from(Arc::new(config)))
    }

    /// Does the client's part of the handshake over `stream`, and demands that the server is called `name` (a host name
    /// or an IP address).
    ///
    /// # Errors
    /// The stream's; of the kind `InvalidData` when the server is not to be trusted, or wants to go on otherwise;
    /// `InvalidInput` for a name that is none.
    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| invalid(format!("'{name}' is neither a host name nor an IP address")))?;
        let connection = ClientConnection::new(self.config.clone(), name).map_err(invalid)?;
        TlsStream::handshake(connection.into(), stream)
    }
}

impl From<Arc<ClientConfig>> for Connector {
    fn from(config: Arc<ClientConfig>) -> Self {
        Connector { config }
    }
}

/// Makes the server's side of connections.
///
/// Made once, for all connections. A client may take its time for the handshake, so a deadline belongs around it:
///
/// ```
/// use std::time::Duration;
/// use yue::net::UnixStream;
/// use yue::tls::{Acceptor, Identity};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue::Runtime::new()?.run(move || -> std::io::Result<()> {
///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
///     let (there, _silent) = UnixStream::pair()?;
///     let outcome = yue::timeout(Duration::from_millis(1), || acceptor.accept(there));
///     assert_eq!(outcome.err(), Some(yue::Elapsed));
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// A server for everybody.
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn new(identity: Identity) -> io::Result<Acceptor> {
        Acceptor::with(identity, None, &[])
    }

    /// A server that admits only clients with a certificate that is signed by one of `clients`, if that is given, and
    /// speaks application protocols, the preferred first (ALPN).
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn with(
        identity: Identity,
        clients: Option<Roots>,
        protocols: &[&str],
    ) -> io::Result<Acceptor> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.store, provider())
                    .build()
                    .map_err(invalid)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let Identity { certificates, key } = identity;
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(invalid)?;
        config.alpn_protocols = alpn(protocols);
        Ok(Acceptor::from(Arc::new(config)))
    }

    /// Does the server's part of the handshake over `stream`. A client may take its time: put a deadline around it.
    ///
    /// # Errors
    /// The stream's; of the kind `InvalidData` when the client is not to be trusted, or speaks no TLS.
    pub fn accept<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let connection = ServerConnection::new(self.config.clone()).map_err(invalid)?;
        TlsStream::handshake(connection.into(), stream)
    }
}

impl From<Arc<ServerConfig>> for Acceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Acceptor { config }
    }
}

fn alpn(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect()
}
