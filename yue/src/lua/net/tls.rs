//! TLS for streams.

use super::stream::{Encrypted, Link};
use std::io;
use yue_io::tls::{TlsReader, TlsStream, TlsWriter, certificate_name};
use yue_rpc::transport::{TlsClient, TlsOptions, TlsServer, describe_tls_error};
use yue_rpc::{Address, Error};

pub(super) type Reader = TlsReader<Link>;
pub(super) type Writer = TlsWriter<Link>;

/// The client's side.
pub(super) struct Client(TlsClient);

/// The server's side: a certificate, which is read again when its files have changed.
pub(super) struct Server {
    server: TlsServer,
    verifies_clients: bool,
}

impl Client {
    pub(super) fn load(
        address: &Address,
        host: &str,
        options: &TlsOptions,
    ) -> Result<Client, Error> {
        TlsClient::load(address, host, options).map(Client)
    }

    pub(super) fn connect(&self, link: Link) -> io::Result<Encrypted> {
        let stream = self.0.connect(link)?;
        Ok(Encrypted::new(stream, self.0.verified_name()))
    }
}

impl Server {
    pub(super) fn load(address: &Address, options: &TlsOptions) -> Result<Server, Error> {
        Ok(Server {
            server: TlsServer::load(address, options)?,
            verifies_clients: options.client_ca.is_some(),
        })
    }

    pub(super) fn accept(&self, link: Link) -> io::Result<Encrypted> {
        let stream = self.server.accept(link)?;
        let certificate = stream.peer_certificates().and_then(<[_]>::first);
        let name = certificate
            .filter(|_| self.verifies_clients)
            .and_then(certificate_name);
        Ok(Encrypted::new(stream, name))
    }
}

impl Encrypted {
    fn new(stream: TlsStream<Link>, peer_name: Option<String>) -> Encrypted {
        let (reader, writer) = stream.split();
        Encrypted {
            reader,
            writer,
            peer_name,
        }
    }
}

/// Ends this side's direction.
pub(super) fn finish(writer: &mut Writer) -> io::Result<()> {
    writer.close()
}

/// Describes an error of an encrypted stream.
pub(super) fn describe(is_server: bool, error: io::Error) -> io::Error {
    describe_tls_error(is_server, error)
}
