//! Libraries written for `Read` and `Write` of the standard library run unchanged on these streams.

mod common;

use common::*;
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tungstenite::Message;
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_io::tls::rustls;
use yue_scheduler::*;

/// Serves each connection on a fiber with `serve`, until the handle is cancelled.
fn server(serve: fn(TcpStream)) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fiber = spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            drop(spawn(move || serve(stream)));
        }
    });
    (address, fiber)
}

#[test]
fn the_standard_librarys_adapters_work() {
    on_each_driver(|| {
        let (client, server) = UnixStream::pair().unwrap();
        let other = spawn(move || {
            let mut writer = BufWriter::with_capacity(100, &server);
            for n in 0..1000 {
                writeln!(writer, "line {n}").unwrap();
            }
            writer.flush().unwrap();
            drop(writer);
            // Reads up to a limit, then the rest.
            server.shutdown(yue_io::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            (&server).take(5).read_to_string(&mut answer).unwrap();
            io::copy(&mut &server, &mut io::sink()).unwrap();
            answer
        });
        let mut lines = 0;
        for (n, line) in BufReader::new(&client).lines().enumerate() {
            assert_eq!(line.unwrap(), format!("line {n}"));
            lines += 1;
        }
        assert_eq!(lines, 1000);
        let mut source = (&b"first"[..]).chain(io::repeat(b'x').take(500_000));
        assert_eq!(io::copy(&mut source, &mut &client).unwrap(), 500_005);
        drop(client);
        assert_eq!(other.join().unwrap(), "first");
    });
}

/// Answers requests with their path until the client closes the connection.
fn serve_http(mut stream: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&buffer).unwrap() {
            httparse::Status::Complete(length) => {
                let path = request.path.unwrap().to_owned();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", path.len());
                stream.write_all((head + &path).as_bytes()).unwrap();
                buffer.drain(..length);
            }
            httparse::Status::Partial => {
                let mut more = [0; 256];
                match stream.read(&mut more).unwrap() {
                    0 => return,
                    count => buffer.extend(&more[..count]),
                }
            }
        }
    }
}

#[test]
fn httparse_reads_requests_that_arrive_in_pieces_and_together() {
    on_each_driver(|| {
        let (address, server) = server(serve_http);
        let stream = TcpStream::connect(address).unwrap();
        let request = |n: u32| format!("GET /{n} HTTP/1.1\r\nHost: here\r\n\r\n");
        // The first request byte by byte, the rest all at once.
        for byte in request(0).as_bytes() {
            (&stream).write_all(&[*byte]).unwrap();
        }
        let heap: String = (1..50).map(request).collect();
        (&stream).write_all(heap.as_bytes()).unwrap();
        let mut reader = BufReader::new(&stream);
        for n in 0..50 {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0);
            }
            let mut headers = [httparse::EMPTY_HEADER; 4];
            let mut response = httparse::Response::new(&mut headers);
            assert!(response.parse(head.as_bytes()).unwrap().is_complete());
            let length: usize = std::str::from_utf8(response.headers[0].value)
                .unwrap()
                .parse()
                .unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            assert_eq!(body, format!("/{n}").as_bytes());
        }
        server.cancel();
        server.join().unwrap();
    });
}

fn serve_websocket(stream: TcpStream) {
    let mut socket = tungstenite::accept(stream).unwrap();
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).unwrap(),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn tungstenite_speaks_websocket() {
    on_each_driver(|| {
        let (address, server) = server(serve_websocket);
        let clients: Vec<_> = (0..10)
            .map(|n| {
                spawn(move || {
                    let stream = TcpStream::connect(address).unwrap();
                    let (mut socket, _) = tungstenite::client("ws://here/", stream).unwrap();
                    for size in [0, 1, 126, 70_000] {
                        let sent = Message::binary(vec![n; size]);
                        socket.send(sent.clone()).unwrap();
                        assert_eq!(socket.read().unwrap(), sent);
                    }
                    socket.send(Message::text("bye")).unwrap();
                    assert_eq!(socket.read().unwrap().into_text().unwrap(), "bye");
                    socket.close(None).unwrap();
                    while socket.read().is_ok() {}
                })
            })
            .collect();
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        server.cancel();
        server.join().unwrap();
    });
}

#[test]
fn rustls_own_stream_works() {
    on_each_driver(|| {
        let made = rcgen::generate_simple_self_signed(["here".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (here, there) = UnixStream::pair().unwrap();
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        let fiber = spawn(move || {
            let connection = rustls::ServerConnection::new(Arc::new(server)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, there);
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
            flag.set(true);
        });
        let name = "here".try_into().unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, here);
        stream.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        fiber.join().unwrap();
        assert!(done.get());
    });
}
