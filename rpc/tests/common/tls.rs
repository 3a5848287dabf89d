//! Certificates for tests, and listeners and connections that use them.

use super::methods;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use yue_io::tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use yue_io::tls::{Connector, Identity, Roots};
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::{Connect, SocketOptions, TlsOptions, connector_with, try_connector};
use yue_rpc::{Address, Error, Listener, Options};
use yue_scheduler::blocking;

/// A root certificate with its key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Authority::named(&format!("authority {number}"))
    }

    pub fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for the names, and its key. `change` may change its contents.
    pub fn sign(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Options of a server with a certificate for the names.
    pub fn server(&self, names: &[&str]) -> TlsOptions {
        let (cert, key) = self.sign(names, |_| {});
        TlsOptions {
            cert: Some(cert),
            key: Some(key),
            ..TlsOptions::default()
        }
    }

    /// Options of a client that trusts this authority.
    pub fn client(&self) -> TlsOptions {
        TlsOptions {
            ca: Some(self.pem()),
            ..TlsOptions::default()
        }
    }

    /// Options of such a client with a certificate of its own.
    pub fn known_client(&self, name: &str) -> TlsOptions {
        let (cert, key) = self.sign(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
        });
        TlsOptions {
            cert: Some(cert),
            key: Some(key),
            ..self.client()
        }
    }
}

/// The name of the suite's authority.
pub const SUITE: &str = "the suite";

/// The authority that the suite's servers and clients have in common.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::named(SUITE))
}

pub fn with_tls(tls: TlsOptions) -> SocketOptions {
    SocketOptions {
        tls,
        ..SocketOptions::default()
    }
}

/// Listens, with the suite's certificate if the address needs one.
pub fn bind(address: &Address, service: Service, options: Options) -> Result<Listener, Error> {
    static SERVER: OnceLock<TlsOptions> = OnceLock::new();
    let tls = match address {
        Address::Tls { .. } | Address::Wss { .. } => SERVER
            .get_or_init(|| authority().server(&["localhost", "127.0.0.1"]))
            .clone(),
        _ => TlsOptions::default(),
    };
    Listener::bind_with(address, service, options, &with_tls(tls))
}

/// A connector that trusts the suite's certificate.
pub fn connector(address: &Address) -> Rc<dyn Connect> {
    let tls = match address {
        Address::Tls { .. } | Address::Wss { .. } => authority().client(),
        _ => TlsOptions::default(),
    };
    connector_with(address, &with_tls(tls))
}

/// Any port of this machine.
pub const ANY: &str = "tls://127.0.0.1:0";

pub fn listen(tls: TlsOptions, options: Options) -> Listener {
    let address = ANY.parse().unwrap();
    Listener::bind_with(&address, methods(), options, &with_tls(tls)).unwrap()
}

pub fn open(address: &Address, tls: TlsOptions, options: Options) -> Session {
    let connector = try_connector(address, &with_tls(tls)).unwrap();
    Session::open(connector, methods(), options)
}

/// Runs code that blocks, on the pool.
pub fn elsewhere<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    blocking(f).unwrap()
}

pub fn port_of(listener: &Listener) -> u16 {
    listener.address().host_and_port().expect("a port").1
}

/// A client over a blocking socket, without yue.
pub fn plain_client(host: &str, port: u16) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    plain_client_with(host, port, None)
}

/// The same, with a certificate of its own.
pub fn plain_client_with(
    host: &str,
    port: u16,
    identity: Option<Identity>,
) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let roots = Roots::from_pem(authority().pem()).unwrap();
    let connector = Connector::with(roots, identity, &[]).unwrap();
    let config: Arc<ClientConfig> = connector.config().clone();
    let name = host.to_owned().try_into().unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    StreamOwned::new(
        connection,
        std::net::TcpStream::connect((host, port)).unwrap(),
    )
}
