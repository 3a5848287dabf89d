//! TLS settings: certificates, trusted roots, and the connectors and acceptors built from them.

use super::insecure::AnyServer;
use super::provider::provider;
use super::stream::TlsStream;
use crate::fs;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use yue_scheduler::simulation;

/// An error in the program's settings, with a text that says what is wrong.
fn invalid(text: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_string())
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("cannot read a certificate: {error}")))?;
    if all.is_empty() {
        return Err(invalid(
            "found no certificate (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(all)
}

/// A certificate with its chain to the root, and its private key.
///
/// ```
/// use yue_io::tls::{Acceptor, Identity};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let dir = yue_io::run(yue_io::fs::TempDir::new)??;
/// # let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
/// # std::fs::write(&chain, made.cert.pem())?;
/// # std::fs::write(&key, made.signing_key.serialize_pem())?;
/// let identity = Identity::from_pem_files(&chain, &key)?;
/// let acceptor = Acceptor::new(identity)?;
/// assert!(Identity::from_pem_files(&key, &chain).is_err()); // Swapped by mistake.
/// # drop(acceptor);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files. The certificate file starts with the certificate itself, followed by its signers.
    ///
    /// # Errors
    /// When a file cannot be read, or does not contain what it should.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> io::Result<Identity> {
        Identity::from_pem(fs::read(certificates)?, fs::read(key)?)
    }

    /// Parses both from PEM in memory.
    ///
    /// # Errors
    /// When one of them is invalid.
    pub fn from_pem(certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> io::Result<Identity> {
        Ok(Identity {
            certificates: self::certificates(certificates.as_ref())?,
            key: private_key(key.as_ref())?,
        })
    }
}

fn private_key(pem: &[u8]) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let is_encrypted = pem
            .windows(ENCRYPTED.len())
            .any(|window| window == ENCRYPTED);
        if is_encrypted {
            let text = "the private key is encrypted with a pass phrase; decrypt it: openssl pkey -in KEY -out NEW_KEY";
            return invalid(text);
        }
        invalid(format!("cannot read the private key: {error}"))
    })
}

/// The label of a key that needs a pass phrase, in both of its forms (RFC 7468, RFC 1421).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

/// The root certificates that a connection trusts.
///
/// ```
/// use yue_io::tls::{Connector, Roots};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let authority = made.cert.pem();
/// // For your servers, signed by your authority. For public servers use `Roots::system()`.
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
    fn none() -> Roots {
        Roots {
            store: Arc::new(RootCertStore::empty()),
        }
    }

    /// Loads the roots that the system trusts.
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

    /// Reads roots from a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, or contains no certificate.
    pub fn from_pem_file(path: impl AsRef<Path>) -> io::Result<Roots> {
        Roots::from_pem(fs::read(path)?)
    }

    /// Parses roots from PEM in memory.
    ///
    /// # Errors
    /// When there is no certificate, or one is unusable.
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

/// Creates the client side of TLS connections.
///
/// One connector serves all connections. See [the module](super) for a complete connection.
///
/// ```
/// use yue_io::net::UnixStream;
/// use yue_io::tls::{Acceptor, Connector, Identity, Roots};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue_io::run(move || -> std::io::Result<()> {
///     let (here, there) = UnixStream::pair()?;
///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
///     yue_scheduler::spawn(move || acceptor.accept(there).map(drop));
///     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
///     // The server's certificate is for `localhost`, not for `example.org`.
///     let error = connector.connect("example.org", here).unwrap_err();
///     assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Creates a client without a certificate.
    ///
    /// # Errors
    /// When the settings contradict each other.
    pub fn new(roots: Roots) -> io::Result<Connector> {
        Connector::with(roots, None, &[])
    }

    /// Creates a client that shows a certificate to servers that ask for one, and offers application protocols, the
    /// preferred one first (ALPN; such as `h2` and `http/1.1`).
    ///
    /// # Errors
    /// When certificate and key do not match.
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

    /// Creates a client that accepts every server, whatever its certificate. The connection is encrypted, but anybody
    /// between the two can be its other end: for tests.
    ///
    /// # Errors
    /// When certificate and key do not match.
    pub fn insecure(identity: Option<Identity>, protocols: &[&str]) -> io::Result<Connector> {
        let connector = Connector::with(Roots::none(), identity, protocols)?;
        let mut config = Arc::unwrap_or_clone(connector.config);
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(AnyServer::new(provider())));
        Ok(Connector::from(Arc::new(config)))
    }

    /// Returns the configuration, for code that drives rustls itself.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The configuration of the next connection.
    fn config_of_next(&self) -> Arc<ClientConfig> {
        if !simulation::is_on() {
            return self.config.clone();
        }
        // A session that an earlier run has left would make the handshakes of this one shorter.
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// Performs the client's handshake over `stream`, and verifies that the server's certificate is for `name` (a host
    /// name or an IP address).
    ///
    /// # Errors
    /// The stream's error; `InvalidData` when the server is not trusted or violates the protocol; `InvalidInput` for an
    /// invalid name.
    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| invalid(format!("'{name}' is neither a host name nor an IP address")))?;
        let connection = ClientConnection::new(self.config_of_next(), name).map_err(invalid)?;
        TlsStream::handshake(connection.into(), stream)
    }
}

impl From<Arc<ClientConfig>> for Connector {
    fn from(config: Arc<ClientConfig>) -> Self {
        Connector { config }
    }
}

/// Creates the server side of TLS connections.
///
/// One acceptor serves all connections. A client may delay the handshake, so put a deadline around it:
///
/// ```
/// use std::time::Duration;
/// use yue_io::net::UnixStream;
/// use yue_io::tls::{Acceptor, Identity};
///
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// yue_io::run(move || -> std::io::Result<()> {
///     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
///     let (there, _silent) = UnixStream::pair()?;
///     let outcome = yue_scheduler::timeout(Duration::from_millis(1), || acceptor.accept(there));
///     assert_eq!(outcome.err(), Some(yue_scheduler::Elapsed));
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Creates a server that accepts all clients.
    ///
    /// # Errors
    /// When certificate and key do not match.
    pub fn new(identity: Identity) -> io::Result<Acceptor> {
        Acceptor::with(identity, None, &[])
    }

    /// Creates a server that speaks application protocols, the preferred one first (ALPN). With `clients` it admits
    /// only clients whose certificate is signed by one of these roots.
    ///
    /// # Errors
    /// When certificate and key do not match.
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

    /// Returns the configuration, for code that drives rustls itself.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Performs the server's handshake over `stream`. A client may delay it: put a deadline around it.
    ///
    /// # Errors
    /// The stream's error; `InvalidData` when the client is not trusted, or does not speak TLS.
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
