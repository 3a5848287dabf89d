//! Writers that write when they are dropped, in handlers that fail. The process survives, the joiner gets the handler's
//! own panic, and the other fibers continue. All cases run in a child process, which a second panic would end.

#[path = "common/child.rs"]
mod child;
mod common;

use child::in_child;
use common::*;
use std::cell::Cell;
use std::io::{self, BufWriter, LineWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_io::tls::{Acceptor, Connector, Identity, Roots, TlsStream};
use yue_scheduler::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Buffered,
    Lines,
    /// Writes its trailer when it is dropped, like an encoder of a compressed format.
    Encoder,
    /// Notifies the peer of the end when it is dropped.
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Panic,
    Timeout,
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Idle,
    Busy,
    FullSocket,
}

/// The time limit of a handler's request.
const SHORT: Duration = Duration::from_millis(5);

const ANSWER: &[u8] = b"half an answer";

struct Encoder<W: Write>(W);

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Drop for Encoder<W> {
    fn drop(&mut self) {
        let _ = self.0.write_all(b", and the end");
    }
}

struct ClosedInDrop(TlsStream<TcpStream>);

impl Drop for ClosedInDrop {
    fn drop(&mut self) {
        let _ = self.0.close();
    }
}

/// Fills the kernel's buffer.
fn fill(socket: RawFd) {
    let bytes = [0u8; 4096];
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the bytes live during the call.
    while unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) } > 0 {}
}

/// Creates both sides of TLS over a connection, the server's first.
fn secured(server: TcpStream, client: TcpStream) -> (TlsStream<TcpStream>, TlsStream<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key).unwrap()).unwrap();
    let connector = Connector::new(Roots::from_pem(&certificate).unwrap()).unwrap();
    let server = spawn(move || acceptor.accept(server).unwrap());
    let mut client = connector.connect("localhost", client).unwrap();
    let mut server = server.join().unwrap();
    // Nothing from the handshake remains to be sent or read.
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (server, client)
}

/// Fails as a handler that has written a part of its answer.
fn fail(writer: &mut impl Write, stream: &TcpStream, ending: Ending, load: Load) {
    writer.write_all(ANSWER).unwrap();
    if load == Load::FullSocket {
        fill(stream.as_raw_fd());
    }
    if ending == Ending::Panic {
        panic!("a handler's bug");
    }
    let mut stream = stream;
    stream.read_exact(&mut [0]).unwrap();
}

fn handle(
    writer: Writer,
    ending: Ending,
    load: Load,
    stream: TcpStream,
    tls: Option<TlsStream<TcpStream>>,
) {
    match writer {
        Writer::Buffered => fail(&mut BufWriter::new(&stream), &stream, ending, load),
        Writer::Lines => fail(&mut LineWriter::new(&stream), &stream, ending, load),
        Writer::Encoder => {
            let mut encoder = Encoder(BufWriter::new(&stream));
            fail(&mut encoder, &stream, ending, load);
        }
        Writer::Tls => {
            let mut closed = ClosedInDrop(tls.unwrap());
            fail(&mut BufWriter::new(&mut closed.0), &stream, ending, load);
        }
    }
}

/// Starts fibers that send each other bytes and count them.
fn neighbours(count: Rc<Cell<u64>>) -> Vec<JoinHandle<()>> {
    let pass_on = |mut stream: UnixStream, count: Rc<Cell<u64>>| {
        let mut byte = [0];
        while stream
            .read_exact(&mut byte)
            .and_then(|()| stream.write_all(&byte))
            .is_ok()
        {
            count.set(count.get() + 1);
        }
    };
    let mut fibers = Vec::new();
    for _ in 0..8 {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"x").unwrap();
        for stream in [one, other] {
            let count = count.clone();
            fibers.push(spawn(move || pass_on(stream, count)));
        }
    }
    fibers
}

/// Reads until the end. Returns the bytes, and whether TLS announced the end (as opposed to TCP alone).
fn received(peer: &mut impl Read) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let outcome = peer.read_to_end(&mut bytes);
    (bytes, outcome.is_ok())
}

fn one_case(writer: Writer, ending: Ending, load: Load) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut tls = (writer == Writer::Tls)
        .then(|| secured(stream.try_clone().unwrap(), peer.try_clone().unwrap()));
    let (tls, mut tls_peer) = tls.take().unzip();

    let limit = match ending {
        Ending::Timeout => SHORT,
        _ => Duration::MAX,
    };
    let handler = spawn(move || timeout(limit, move || handle(writer, ending, load, stream, tls)));
    if ending == Ending::Cancel {
        sleep(Duration::from_millis(1)).unwrap();
        handler.cancel();
    }
    let error = handler.join().unwrap_err().to_string();
    let reason = match ending {
        Ending::Panic => "a handler's bug",
        Ending::Timeout => "Deadline",
        Ending::Cancel => "Cancelled",
    };
    assert!(error.contains(reason), "{error}");

    if load == Load::FullSocket {
        return;
    }
    let (bytes, end_was_told) = match &mut tls_peer {
        Some(tls_peer) => received(tls_peer),
        None => received(&mut peer),
    };
    let expected = match (ending, writer) {
        // The socket has room, so nothing has to wait.
        (Ending::Panic, Writer::Encoder) => b"half an answer, and the end".to_vec(),
        (Ending::Panic, _) => ANSWER.to_vec(),
        // A stopped fiber begins no operation.
        _ => Vec::new(),
    };
    assert_eq!(bytes, expected);
    if writer == Writer::Tls {
        assert_eq!(end_was_told, ending == Ending::Panic);
    }
}

/// Runs all writers and endings under that load, on each driver.
fn all_cases(load: Load) {
    for choice in choices() {
        run_on(choice, move || {
            let count = Rc::new(Cell::new(0));
            let busy = match load {
                Load::Busy => neighbours(count.clone()),
                _ => Vec::new(),
            };
            for writer in [
                Writer::Buffered,
                Writer::Lines,
                Writer::Encoder,
                Writer::Tls,
            ] {
                for ending in [Ending::Panic, Ending::Timeout, Ending::Cancel] {
                    eprintln!("{choice:?}, {writer:?}, {ending:?}, {load:?}");
                    one_case(writer, ending, load);
                    let before = count.get();
                    wait_until(|| busy.is_empty() || count.get() > before + 100);
                }
            }
            busy.iter().for_each(JoinHandle::cancel);
            busy.into_iter().for_each(|fiber| fiber.join().unwrap());
        });
    }
}

#[test]
fn a_handler_that_fails_while_its_writer_holds_bytes_fails_alone() {
    in_child(
        "a_handler_that_fails_while_its_writer_holds_bytes_fails_alone",
        || {
            all_cases(Load::Idle);
        },
    );
}

#[test]
fn a_failing_handler_fails_alone_among_busy_neighbours() {
    in_child(
        "a_failing_handler_fails_alone_among_busy_neighbours",
        || all_cases(Load::Busy),
    );
}

#[test]
fn a_failing_handler_fails_alone_when_the_socket_is_full() {
    in_child(
        "a_failing_handler_fails_alone_when_the_socket_is_full",
        || {
            all_cases(Load::FullSocket);
        },
    );
}
