//! TLS over this crate's streams, on both drivers.

#![cfg(feature = "tls")]

mod common;

use common::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_io::tls::{Acceptor, Connector, Identity, Roots, TlsStream};
use yue_scheduler::*;

/// A root certificate with its key.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn roots(&self) -> Roots {
        Roots::from_pem(self.0.pem()).unwrap()
    }

    /// A certificate for a name, and its key.
    fn pem(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn identity(&self, name: &str) -> Identity {
        let (certificate, key) = self.pem(name);
        Identity::from_pem(certificate, key).unwrap()
    }
}

type Pair = (TlsStream<UnixStream>, TlsStream<UnixStream>);

/// Creates both sides of a connection to `localhost`.
fn connect(connector: Connector, acceptor: Acceptor) -> (io::Result<Pair>, io::Result<()>) {
    let (here, there) = UnixStream::pair().unwrap();
    let server = spawn(move || acceptor.accept(there));
    let client = connector.connect("localhost", here);
    let server = server.join().unwrap();
    match (client, server) {
        (Ok(client), Ok(server)) => (Ok((client, server)), Ok(())),
        (Err(client), Err(server)) => (Err(client), Err(server)),
        // With TLS 1.3 a client finishes before the server has verified its certificate.
        (Ok(mut client), Err(server)) => (Err(client.read(&mut [0]).unwrap_err()), Err(server)),
        (Err(client), Ok(_)) => (Err(client), Ok(())),
    }
}

fn pair() -> Pair {
    let authority = Authority::new();
    let connector = Connector::new(authority.roots()).unwrap();
    let acceptor = Acceptor::new(authority.identity("localhost")).unwrap();
    connect(connector, acceptor).0.unwrap()
}

#[test]
fn bytes_flow_both_ways_and_the_end_is_announced() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        assert_eq!(server.server_name(), Some("localhost"));
        assert!(client.protocol_version().is_some());
        assert_eq!(client.peer_certificates().unwrap().len(), 1);
        assert!(server.peer_certificates().is_none());
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let echo = spawn(move || {
            let mut got = Vec::new();
            server.read_to_end(&mut got).unwrap();
            server.write_all(&got).unwrap();
            server.close().unwrap();
        });
        client.write_all(&bytes).unwrap();
        client.close().unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == expected);
        echo.join().unwrap();
    });
}

#[test]
fn tls_runs_over_tcp_with_the_standard_librarys_readers() {
    on_each_driver(|| {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(authority.identity("127.0.0.1")).unwrap();
        let server = spawn(move || {
            let mut stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
            let mut line = String::new();
            BufReader::new(&mut stream).read_line(&mut line).unwrap();
            stream.write_all(line.to_uppercase().as_bytes()).unwrap();
            stream.close().unwrap();
        });
        let connector = Connector::new(authority.roots()).unwrap();
        let tcp = TcpStream::connect(address).unwrap();
        let mut stream = connector.connect("127.0.0.1", tcp).unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), address);
        writeln!(stream, "over tcp").unwrap();
        assert_eq!(io::read_to_string(stream).unwrap(), "OVER TCP\n");
        server.join().unwrap();
    });
}

#[test]
fn certificates_come_from_files() {
    on_each_driver(|| {
        let authority = Authority::new();
        let dir = yue_io::fs::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (certificate, key) = authority.pem("localhost");
        yue_io::fs::write(at("root.pem"), authority.0.pem()).unwrap();
        yue_io::fs::write(at("cert.pem"), certificate).unwrap();
        yue_io::fs::write(at("key.pem"), key).unwrap();
        let identity = Identity::from_pem_files(at("cert.pem"), at("key.pem")).unwrap();
        let connector = Connector::new(Roots::from_pem_file(at("root.pem")).unwrap()).unwrap();
        let (pair, _) = connect(connector, Acceptor::new(identity).unwrap());
        pair.unwrap();
        // The errors say what is wrong.
        let missing = Identity::from_pem_files(at("none"), at("key.pem")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let no_certificate = Roots::from_pem_file(at("key.pem")).unwrap_err();
        assert!(no_certificate.to_string().contains("no certificate"));
        let no_key = Identity::from_pem_files(at("cert.pem"), at("cert.pem")).unwrap_err();
        assert!(no_key.to_string().contains("private key"));
        let (certificate, _) = authority.pem("localhost");
        let (_, other_key) = authority.pem("localhost");
        let mixed = Identity::from_pem(certificate, other_key).unwrap();
        assert_eq!(
            Acceptor::new(mixed).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn an_untrusted_server_is_refused() {
    on_each_driver(|| {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let connector = Connector::new(authority.roots()).unwrap();
        let acceptor = Acceptor::new(stranger.identity("localhost")).unwrap();
        let (client, server) = connect(connector.clone(), acceptor);
        assert_eq!(client.err().unwrap().kind(), ErrorKind::InvalidData);
        // The peer received the reason.
        assert_eq!(server.unwrap_err().kind(), ErrorKind::InvalidData);
        let misnamed = Acceptor::new(authority.identity("example.org")).unwrap();
        let (client, _) = connect(connector.clone(), misnamed);
        assert_eq!(client.err().unwrap().kind(), ErrorKind::InvalidData);
        let (stream, _peer) = UnixStream::pair().unwrap();
        let error = connector.connect("not a name", stream).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn clients_show_certificates_where_the_server_requires_them() {
    on_each_driver(|| {
        let authority = Authority::new();
        let server = || {
            let identity = authority.identity("localhost");
            Acceptor::with(identity, Some(authority.roots()), &[]).unwrap()
        };
        let known = authority.identity("somebody");
        let connector = Connector::with(authority.roots(), Some(known), &[]).unwrap();
        let (pair, _) = connect(connector, server());
        let (mut client, mut there) = pair.unwrap();
        assert_eq!(there.peer_certificates().unwrap().len(), 1);
        client.write_all(b"x").unwrap();
        there.read_exact(&mut [0]).unwrap();
        let nobody = Connector::new(authority.roots()).unwrap();
        let (client, refused) = connect(nobody, server());
        assert!(client.is_err());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidData);
        let stranger = Authority::new().identity("stranger");
        let connector = Connector::with(authority.roots(), Some(stranger), &[]).unwrap();
        let (client, refused) = connect(connector, server());
        assert!(client.is_err() && refused.is_err());
    });
}

#[test]
fn the_peers_agree_on_a_protocol() {
    on_each_driver(|| {
        let authority = Authority::new();
        let server = |protocols: &[&str]| {
            Acceptor::with(authority.identity("localhost"), None, protocols).unwrap()
        };
        let client =
            |protocols: &[&str]| Connector::with(authority.roots(), None, protocols).unwrap();
        let (pair, _) = connect(client(&["one", "two"]), server(&["two", "three"]));
        let (here, there) = pair.unwrap();
        assert_eq!(here.alpn_protocol(), Some(&b"two"[..]));
        assert_eq!(there.alpn_protocol(), Some(&b"two"[..]));
        let (pair, _) = connect(client(&[]), server(&["two"]));
        assert_eq!(pair.unwrap().0.alpn_protocol(), None);
        let (nothing, refused) = connect(client(&["one"]), server(&["two"]));
        assert!(nothing.is_err() && refused.is_err());
    });
}

#[test]
fn a_broken_connection_is_not_mistaken_for_the_end() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        server.write_all(b"half").unwrap();
        drop(server);
        let mut got = Vec::new();
        let error = client.read_to_end(&mut got).unwrap_err();
        assert_eq!(
            (&got[..], error.kind()),
            (&b"half"[..], ErrorKind::UnexpectedEof)
        );
    });
}

#[test]
fn garbage_and_silence_end_a_handshake() {
    on_each_driver(|| {
        let authority = Authority::new();
        let acceptor = Acceptor::new(authority.identity("localhost")).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let error = acceptor.accept(server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let (client, server) = UnixStream::pair().unwrap();
        let at = now().saturating_add(Duration::from_millis(5));
        let error = with_deadline(at, || acceptor.accept(server)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(client);
        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        let error = acceptor.accept(server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn cancelled_reads_and_writes_lose_and_repeat_nothing() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        // Far more than the sockets hold, in parts that sometimes time out.
        let bytes: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let writer = spawn(move || {
            let mut sent = 0;
            while sent < bytes.len() {
                let at = now().saturating_add(Duration::from_micros(300));
                match with_deadline(at, || client.write(&bytes[sent..])) {
                    Ok(count) => sent += count,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
                }
            }
            client.close().unwrap();
        });
        let mut got = Vec::<u8>::new();
        let mut buffer = vec![0; 10_000];
        loop {
            let at = now().saturating_add(Duration::from_micros(200));
            match with_deadline(at, || server.read(&mut buffer)) {
                Ok(0) => break,
                Ok(count) => got.extend(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
            }
            sleep(Duration::from_micros(50)).unwrap();
        }
        writer.join().unwrap();
        assert!(got == expected);
    });
}

/// Writes `bytes`, retrying each part that times out.
#[test]
fn a_reader_knows_of_decrypted_bytes_and_its_buffer_grows_and_shrinks() {
    on_each_driver(|| {
        let (client, server) = pair();
        let ((mut reader, _writer), (_, mut sender)) = (client.split(), server.split());
        let mut buffer = vec![0; 100_000];
        for length in [10, 100_000, 10, 5_000, 10] {
            let sending = spawn(move || {
                sender.write_all(&vec![7; length]).unwrap();
                sender.flush().unwrap();
                sender
            });
            assert!(!reader.has_bytes());
            reader.read_exact(&mut buffer[..1]).unwrap();
            assert!(
                reader.has_bytes(),
                "the rest of the record of {length} bytes"
            );
            reader.read_exact(&mut buffer[1..length]).unwrap();
            assert!(!reader.has_bytes());
            assert!(buffer[..length].iter().all(|byte| *byte == 7));
            sender = sending.join().unwrap();
        }
    });
}

fn write_all_in_time(mut write: impl FnMut(&[u8]) -> io::Result<usize>, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        if let Ok(count) = timeout(Duration::from_micros(300), || write(&bytes[sent..])) {
            sent += count.unwrap();
        }
    }
}

#[test]
fn a_write_that_times_out_has_sent_nothing_and_is_not_sent_twice() {
    on_each_driver(|| {
        for split in [false, true] {
            let (mut client, mut server) = pair();
            let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
            let expected = bytes.clone();
            let writer = spawn(move || {
                if split {
                    let (_reader, mut writer) = client.split();
                    write_all_in_time(|part| writer.write(part), &bytes);
                    return writer.close().unwrap();
                }
                write_all_in_time(|part| client.write(part), &bytes);
                client.close().unwrap();
            });
            let mut got = Vec::<u8>::new();
            let mut buffer = vec![0; 10_000];
            while let count @ 1.. = server.read(&mut buffer).unwrap() {
                got.extend(&buffer[..count]);
                assert!(expected.starts_with(&got), "bytes were sent twice");
                // The writer waits for room.
                sleep(Duration::from_micros(300)).unwrap();
            }
            writer.join().unwrap();
            assert_eq!(got.len(), expected.len());
        }
    });
}
