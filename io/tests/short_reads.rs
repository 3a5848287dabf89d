//! Reads that end early: at passed descriptors, at urgent data, at a message boundary. The bytes that follow are still
//! read, on both drivers, by fibers and by connections without one.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_scheduler::*;

/// Records received bytes.
#[derive(Default)]
struct Noted {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
}

impl Sink for Noted {
    fn data(&self, bytes: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(bytes);
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, _: io::Result<()>) {
        self.closed.set(true);
    }
}

fn is_noted(noted: &Noted, expected: &[u8]) -> bool {
    noted.bytes.borrow().as_slice() == expected
}

/// Reads `expected` in a fiber with `read`, after `write` sends the bytes. By then the fiber waits and has read before,
/// so that all bytes cause one event.
fn a_fiber_reads(
    read: impl Fn(&mut [u8]) -> io::Result<usize> + 'static,
    write: impl FnOnce(),
    expected: &'static [u8],
) {
    let noted = Rc::new(Noted::default());
    let sink = noted.clone();
    let reader = spawn(move || -> io::Result<()> {
        loop {
            let mut buffer = [0; 64];
            let count = read(&mut buffer)?;
            sink.data(&buffer[..count]);
        }
    });
    sleep(Duration::from_millis(2)).unwrap();
    write();
    wait_until(|| is_noted(&noted, expected));
    reader.cancel_and_join().unwrap().unwrap_err();
}

/// Does the same with a connection without a fiber.
fn a_connection_reads(
    start: impl FnOnce(Rc<Noted>) -> Connection,
    write: impl FnOnce(),
    expected: &'static [u8],
) {
    let noted = Rc::new(Noted::default());
    let connection = start(noted.clone());
    sleep(Duration::from_millis(2)).unwrap();
    write();
    wait_until(|| is_noted(&noted, expected));
    connection.close();
    wait_until(|| noted.closed.get());
}

/// Writes two messages with descriptors, and plain bytes before, between and after them.
fn write_with_descriptors(stream: &UnixStream) {
    let passed = std::fs::File::open("/dev/null").unwrap();
    let mut writer = stream;
    writer.write_all(b"0").unwrap();
    stream.send_with_fds(b"a", &[passed.as_fd()]).unwrap();
    writer.write_all(b"bc").unwrap();
    stream.send_with_fds(b"d", &[passed.as_fd()]).unwrap();
    writer.write_all(b"efg").unwrap();
}

#[test]
fn bytes_after_passed_descriptors_are_read() {
    on_each_driver(|| {
        let (one, other) = UnixStream::pair().unwrap();
        a_fiber_reads(
            move |buffer| (&one).read(buffer),
            || write_with_descriptors(&other),
            b"0abcdefg",
        );
        let (one, other) = UnixStream::pair().unwrap();
        a_connection_reads(
            |sink| Connection::start_unix(one, sink).unwrap(),
            || write_with_descriptors(&other),
            b"0abcdefg",
        );
    });
}

fn tcp_pair() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Writes an urgent byte between plain ones. It is not part of the stream.
fn write_with_urgent_data(mut stream: &std::net::TcpStream) {
    stream.write_all(b"abc").unwrap();
    // SAFETY: one live byte.
    let sent = unsafe { libc::send(stream.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    stream.write_all(b"def").unwrap();
    // On loopback the reader's socket has all of it by now, and it causes one event in the loop's next turn.
    std::thread::sleep(Duration::from_millis(5));
}

#[test]
fn bytes_after_urgent_data_are_read() {
    on_each_driver(|| {
        for _ in 0..10 {
            let (reader, writer) = tcp_pair();
            a_fiber_reads(
                move |buffer| (&reader).read(buffer),
                || write_with_urgent_data(&writer),
                b"abcdef",
            );
            let (reader, writer) = tcp_pair();
            // With io_uring, a connection may stall at the mark until its peer's next byte: see ARCHITECTURE.md.
            let may_stall = this_choice() == Choice::Uring;
            let write = || {
                write_with_urgent_data(&writer);
                if may_stall {
                    let mut later = writer.try_clone().unwrap();
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(50));
                        later.write_all(b"g").unwrap();
                    });
                }
            };
            a_connection_reads(
                |sink| Connection::start(reader, sink).unwrap(),
                write,
                if may_stall { b"abcdefg" } else { b"abcdef" },
            );
        }
    });
}

#[test]
fn urgent_data_that_arrives_late_hides_no_bytes() {
    on_each_driver(|| {
        let (reader, writer) = tcp_pair();
        let write = move || {
            (&writer).write_all(b"first").unwrap();
            sleep(Duration::from_millis(2)).unwrap();
            write_with_urgent_data(&writer);
            sleep(Duration::from_millis(2)).unwrap();
            write_with_urgent_data(&writer);
            writer
        };
        let kept = RefCell::new(None);
        a_fiber_reads(
            move |buffer| (&reader).read(buffer),
            || drop(kept.replace(Some(write()))),
            b"firstabcdefabcdef",
        );
    });
}

#[test]
fn a_connection_needs_a_stream_and_a_message_has_a_buffer_limit() {
    on_each_driver(|| {
        let (kind, domain) = (socket2::Type::SEQPACKET, socket2::Domain::UNIX);
        let (one, other) = socket2::Socket::pair(domain, kind, None).unwrap();
        let one = UnixStream::from(OwnedFd::from(one));
        let many = [io::IoSlice::new(b"x"); 65];
        let error = (&one).write_vectored(&many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!((&one).write_vectored(&many[..64]).unwrap(), 64);
        let error = Connection::start_unix(one, Rc::new(Noted::default())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        drop(other);
    });
}

#[test]
fn a_stream_type_reads_messages_after_a_short_one() {
    on_each_driver(|| {
        let (kind, domain) = (socket2::Type::SEQPACKET, socket2::Domain::UNIX);
        let (one, other) = socket2::Socket::pair(domain, kind, None).unwrap();
        let stream = |socket: socket2::Socket| UnixStream::from(OwnedFd::from(socket));
        let (reader, writer) = (stream(one), stream(other));
        a_fiber_reads(
            move |buffer| (&reader).read(buffer),
            || {
                for message in [&b"one"[..], b"two", b"three"] {
                    (&writer).write_all(message).unwrap();
                }
            },
            b"onetwothree",
        );
    });
}
