//! A TLS-terminating proxy: decrypts a client's bytes and forwards them to a server, and encrypts the answers.
//!
//! `cargo run --release -p yue --features tls --example tls_proxy -- 127.0.0.1:8443 127.0.0.1:8080 cert.pem key.pem`.
//! rustls does not know fibers: it reads and writes a stream like any other.
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;
use yue::net::{TcpListener, TcpStream};
use yue::tls::{Acceptor, Identity};

/// The time limit of a client's handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, backend, certificate, key] =
        <[String; 4]>::try_from(arguments).unwrap_or_else(|_| {
            eprintln!("usage: tls_proxy ADDRESS BACKEND CERTIFICATE.pem KEY.pem");
            std::process::exit(2)
        });
    yue::Runtime::new()?.run(move || {
        let acceptor = Acceptor::new(Identity::from_pem_files(certificate, key)?)?;
        let acceptor = Rc::new(acceptor);
        let listener = TcpListener::bind(address)?;
        println!("serving at {}", listener.local_addr()?);
        for stream in listener.incoming() {
            let (stream, acceptor, backend) = (stream?, acceptor.clone(), backend.clone());
            drop(yue::spawn(move || {
                if let Err(error) = converse(stream, &acceptor, &backend) {
                    eprintln!("a connection ended: {error}");
                }
            }));
        }
        Ok(())
    })
}

/// Forwards one connection in both directions at once, until both have ended.
fn converse(stream: TcpStream, acceptor: &Acceptor, backend: &str) -> io::Result<()> {
    let stream = yue::timeout(HANDSHAKE, || acceptor.accept(stream))
        .map_err(|yue::Elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let backend = &TcpStream::connect(backend)?;
    let (mut reader, mut writer) = stream.split();
    yue::try_scope(|s| {
        s.spawn(move || -> io::Result<()> {
            io::copy(&mut reader, &mut &*backend)?;
            backend.shutdown(Shutdown::Write)
        });
        io::copy(&mut &*backend, &mut writer)?;
        writer.close()?;
        writer.get_ref().shutdown(Shutdown::Write)
    })
}
