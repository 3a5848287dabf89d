//! Unix sockets: streams, datagrams, and passing descriptors, on both drivers.

#[path = "common/child.rs"]
mod child;
mod common;

use common::*;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use yue_io::net::{UnixDatagram, UnixListener, UnixStream};
use yue_io::pipe::{PipeWriter, pipe};
use yue_scheduler::*;

/// An unused path, removed when dropped.
struct TempPath(PathBuf);

impl TempPath {
    fn new() -> TempPath {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("yue-io-{}-{number}.sock", std::process::id());
        TempPath(std::env::temp_dir().join(name))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn streams_connect_at_a_path() {
    on_each_driver(|| {
        let path = TempPath::new();
        let listener = UnixListener::bind(&path.0).unwrap();
        assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(&*path.0));
        let served = Rc::new(Cell::new(false));
        let flag = served.clone();
        let server = spawn(move || {
            let (stream, from) = listener.accept().unwrap();
            assert!(from.is_unnamed());
            io::copy(&mut &stream, &mut &stream).unwrap();
            flag.set(true);
            assert!(listener.incoming().next().is_none());
        });
        let mut stream = UnixStream::connect(&path.0).unwrap();
        assert_eq!(stream.peer_addr().unwrap().as_pathname(), Some(&*path.0));
        assert!(stream.local_addr().unwrap().is_unnamed());
        stream.write_all(b"echo").unwrap();
        let mut bytes = [0; 4];
        while stream.peek(&mut bytes).unwrap() < 4 {}
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"echo");
        drop(stream);
        wait_until(|| served.get());
        server.cancel();
        server.join().unwrap();
        let gone = UnixStream::connect(std::env::temp_dir().join("yue-io-none.sock"));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn streams_connect_at_an_abstract_name() {
    on_each_driver(|| {
        let name = format!("yue-io-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let bound = listener.local_addr().unwrap();
        assert_eq!(bound.as_abstract_name(), Some(name.as_bytes()));
        let server = spawn(move || listener.accept().unwrap().0.write_all(b"hi").unwrap());
        let stream = UnixStream::connect_addr(&address).unwrap();
        assert_eq!(io::read_to_string(stream).unwrap(), "hi");
        server.join().unwrap();
        let nowhere = SocketAddr::from_pathname("").unwrap();
        let error = UnixStream::connect_addr(&nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn datagrams_reach_a_path_and_answers_return() {
    on_each_driver(|| {
        let (server_path, client_path) = (TempPath::new(), TempPath::new());
        let server = UnixDatagram::bind(&server_path.0).unwrap();
        let fiber = spawn(move || {
            let mut buffer = [0; 16];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to_addr(&buffer[..count], &from).unwrap();
            let (_, from) = server.peek_from(&mut buffer).unwrap();
            assert!(from.is_unnamed());
            server.recv(&mut buffer).unwrap()
        });
        let client = UnixDatagram::bind(&client_path.0).unwrap();
        client.connect(&server_path.0).unwrap();
        let peer = client.peer_addr().unwrap();
        assert_eq!(peer.as_pathname(), Some(&*server_path.0));
        client.send(b"question").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(client.peek(&mut buffer).unwrap(), 8);
        assert_eq!(client.recv(&mut buffer).unwrap(), 8);
        let nobody = UnixDatagram::unbound().unwrap();
        nobody.send_to(b"anonymous", &server_path.0).unwrap();
        assert_eq!(fiber.join().unwrap(), 9);
    });
}

#[test]
fn a_sender_waits_until_the_receiver_has_room() {
    on_each_driver(|| {
        let (one, other) = UnixDatagram::pair().unwrap();
        let sender = spawn(move || {
            (0..2000u32).for_each(|n| {
                one.send(&n.to_le_bytes()).unwrap();
            })
        });
        yield_now().unwrap();
        let mut bytes = [0; 8];
        for n in 0..2000u32 {
            assert_eq!(other.recv(&mut bytes).unwrap(), 4);
            assert_eq!(bytes[..4], n.to_le_bytes());
        }
        sender.join().unwrap();
        other
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        let error = other.recv(&mut bytes).unwrap_err();
        // The sender was dropped, and on some systems a read reports that.
        assert!(matches!(
            error.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset
        ));
    });
}

#[test]
fn descriptors_are_passed_over_streams() {
    on_each_driver(|| {
        let (here, there) = UnixStream::pair().unwrap();
        let fiber = spawn(move || {
            let mut buffer = [0; 16];
            let got = there.recv_with_fds(&mut buffer).unwrap();
            assert_eq!((&buffer[..got.count], got.lost), (&b"two"[..], false));
            got.descriptors
        });
        yield_now().unwrap();
        let ((reader, writer), (other_reader, other_writer)) = (pipe().unwrap(), pipe().unwrap());
        let passed = [writer.as_fd(), other_writer.as_fd()];
        assert_eq!(here.send_with_fds(b"two", &passed).unwrap(), 3);
        drop((writer, other_writer));
        for (n, fd) in fiber.join().unwrap().into_iter().enumerate() {
            let flags = fd.try_clone().map(|_| ());
            flags.unwrap();
            write!(PipeWriter::from(fd), "number {n}").unwrap();
        }
        assert_eq!(io::read_to_string(reader).unwrap(), "number 0");
        assert_eq!(io::read_to_string(other_reader).unwrap(), "number 1");
    });
}

#[test]
fn descriptors_are_passed_over_datagrams_even_without_bytes() {
    on_each_driver(|| {
        let (here, there) = UnixDatagram::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        here.send_with_fds(b"none", &[]).unwrap();
        here.send_with_fds(b"", &[writer.as_fd()]).unwrap();
        drop(writer);
        let first = there.recv_with_fds(&mut [0; 8]).unwrap();
        assert_eq!((first.count, first.descriptors.len()), (4, 0));
        let second = there.recv_with_fds(&mut [0; 8]).unwrap();
        assert_eq!((second.count, second.descriptors.len()), (0, 1));
        drop(second);
        assert_eq!(io::read_to_string(reader).unwrap(), "");
    });
}

#[test]
fn descriptors_that_cannot_be_passed_are_an_error() {
    on_each_driver(|| {
        let (here, _there) = UnixStream::pair().unwrap();
        let fd = here.as_fd();
        let empty = here.send_with_fds(b"", &[fd]).unwrap_err();
        let many = here.send_with_fds(b"x", &vec![fd; 254]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(many.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(here.send_with_fds(b"x", &vec![fd; 253]).unwrap(), 1);
    });
}

#[test]
fn descriptors_beyond_the_limit_are_reported_lost() {
    let test = "descriptors_beyond_the_limit_are_reported_lost";
    child::in_child(test, || {
        on_each_driver(|| {
            let (here, there) = UnixStream::pair().unwrap();
            here.send_with_fds(b"x", &vec![here.as_fd(); 200]).unwrap();
            let mut held = Vec::new();
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: a live, writable rlimit.
            let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
            assert_eq!(got, 0);
            let before = limit;
            limit.rlim_cur = 100;
            // SAFETY: a live rlimit.
            let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            assert_eq!(set, 0);
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            held.pop();
            let got = there.recv_with_fds(&mut [0; 8]).unwrap();
            assert_eq!((got.count, got.descriptors.len(), got.lost), (1, 1, true));
            // SAFETY: a live rlimit.
            let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &before) };
            assert_eq!(set, 0);
        });
    });
}

#[test]
fn a_cancelled_receive_keeps_the_descriptors_it_got() {
    on_each_driver(|| {
        for _ in 0..50 {
            let (here, there) = UnixStream::pair().unwrap();
            let there = Rc::new(there);
            let other = there.clone();
            let fiber = spawn(move || other.recv_with_fds(&mut [0; 1]));
            yield_now().unwrap();
            let (reader, writer) = pipe().unwrap();
            here.send_with_fds(b"x", &[writer.as_fd()]).unwrap();
            drop(writer);
            fiber.cancel();
            let got = match fiber.join().unwrap() {
                Ok(got) => got,
                Err(_) => there.recv_with_fds(&mut [0; 1]).unwrap(),
            };
            assert_eq!((got.count, got.descriptors.len()), (1, 1));
            drop(got);
            assert_eq!(io::read_to_string(reader).unwrap(), "");
        }
    });
}
