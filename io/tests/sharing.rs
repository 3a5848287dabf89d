//! Handles that share an open file, on both drivers: no handle makes another block its loop.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use yue_io::pipe::{PipeReader, PipeWriter, pipe};
use yue_scheduler::*;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Runs `wait` on a fiber, and `go_on` after it has begun to wait. If the call blocks the loop instead, a watchdog
/// thread unblocks it with `free` after a while, and the test fails.
fn does_not_block_its_loop<T: 'static>(
    wait: impl FnOnce() -> T + 'static,
    go_on: impl FnOnce(),
    free: impl FnOnce() + Send + 'static,
) -> T {
    let (over, is_over) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let blocked =
            is_over.recv_timeout(Duration::from_secs(5)) == Err(mpsc::RecvTimeoutError::Timeout);
        if blocked {
            free();
        }
        blocked
    });
    let waiting = spawn(wait);
    sleep(Duration::from_millis(5)).unwrap();
    drop(over);
    assert!(!watchdog.join().unwrap(), "the loop was blocked");
    go_on();
    timeout(LONG, || waiting.join()).unwrap().unwrap()
}

#[test]
fn a_listener_whose_clone_is_converted_does_not_block_its_loop() {
    on_each_driver(|| {
        let (listener, address) = listener();
        drop(TcpStream::connect(address).unwrap());
        // The listener has accepted before, so its mode is set already.
        listener.accept().unwrap();
        let standard = listener.try_clone().unwrap().into_std().unwrap();
        let connect = move || drop(std::net::TcpStream::connect(address).unwrap());
        does_not_block_its_loop(move || listener.accept().unwrap(), connect, connect);
        drop(standard);
    });
}

#[test]
fn a_pipe_whose_clone_is_converted_does_not_block_its_loop() {
    on_each_driver(|| {
        let (mut reader, mut writer) = pipe().unwrap();
        writer.write_all(b"x").unwrap();
        reader.read_exact(&mut [0]).unwrap();
        let standard = reader.try_clone().unwrap().into_std().unwrap();
        let (mut one, mut other) = (writer.try_clone().unwrap(), writer.try_clone().unwrap());
        let read = move || {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte
        };
        let got = does_not_block_its_loop(
            read,
            move || one.write_all(b"y").unwrap(),
            move || other.write_all(b"z").unwrap(),
        );
        assert_eq!(&got, b"y");
        drop(standard);
    });
}

#[test]
fn a_full_pipe_whose_clone_is_converted_does_not_block_its_loop() {
    on_each_driver(|| {
        let (reader, writer) = pipe().unwrap();
        (&writer).write_all(b"x").unwrap();
        let standard = writer.try_clone().unwrap().into_std().unwrap();
        let (mut one, mut other) = (reader.try_clone().unwrap(), reader.try_clone().unwrap());
        let write = move || (&writer).write_all(&[7; 200_000]).unwrap();
        does_not_block_its_loop(
            write,
            move || one.read_exact(&mut [0; 200_001]).unwrap(),
            move || other.read_exact(&mut [0; 200_001]).unwrap(),
        );
        drop((standard, reader));
    });
}

#[test]
fn a_changed_mode_does_not_block_a_fiber_that_already_waits() {
    on_each_driver(|| {
        let (mut reader, writer) = pipe().unwrap();
        let other_reader = reader.try_clone().unwrap();
        let (one, other) = (writer.try_clone().unwrap(), writer.try_clone().unwrap());
        let waiting = spawn(move || {
            let mut bytes = [0; 2];
            reader.read_exact(&mut bytes).unwrap();
            bytes
        });
        yield_now().unwrap();
        // Set to blocking mode while the fiber waits, and take the first byte away from it if possible.
        let standard = other_reader.into_std().unwrap();
        let half = move || (&one).write_all(b"a").unwrap();
        half();
        let bytes = does_not_block_its_loop(
            move || waiting.join().unwrap(),
            move || (&writer).write_all(b"b").unwrap(),
            move || (&other).write_all(b"c").unwrap(),
        );
        assert_eq!(&bytes, b"ab");
        drop(standard);
    });
}

#[test]
fn a_duplicated_descriptor_set_to_blocking_does_not_block_a_loop() {
    on_each_driver(|| {
        let path = fresh_path();
        let listener = UnixListener::bind(&path).unwrap();
        let duplicate = listener.as_fd().try_clone_to_owned().unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        let standard = std::os::unix::net::UnixListener::from(duplicate);
        standard.set_nonblocking(false).unwrap();
        let (one, other) = (path.clone(), path.clone());
        does_not_block_its_loop(
            move || listener.accept().unwrap(),
            move || drop(std::os::unix::net::UnixStream::connect(one).unwrap()),
            move || drop(std::os::unix::net::UnixStream::connect(other).unwrap()),
        );
        std::fs::remove_file(path).unwrap();
    });
}

fn fresh_path() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("yue-sharing-{}-{number}.sock", std::process::id()))
}

#[test]
fn a_fifo_whose_clone_is_converted_does_not_block_its_loop() {
    on_each_driver(|| {
        let path = fresh_path();
        let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: a live, terminated string.
        assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
        // Opened for reading and writing, so that neither open waits for the other.
        let both = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let fifo = OwnedFd::from(both);
        let mut reader = PipeReader::from(fifo.try_clone().unwrap());
        PipeWriter::from(fifo.try_clone().unwrap())
            .write_all(b"x")
            .unwrap();
        reader.read_exact(&mut [0]).unwrap();
        let standard = reader.try_clone().unwrap().into_std().unwrap();
        let writer = || PipeWriter::from(fifo.try_clone().unwrap());
        let (one, other) = (writer(), writer());
        let read = move || {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte
        };
        let got = does_not_block_its_loop(
            read,
            move || (&one).write_all(b"y").unwrap(),
            move || (&other).write_all(b"z").unwrap(),
        );
        assert_eq!(&got, b"y");
        drop(standard);
        std::fs::remove_file(path).unwrap();
    });
}
