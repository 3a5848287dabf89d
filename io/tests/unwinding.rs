//! I/O in destructors that run during a panic: operations that need not wait work, and operations that would have to
//! wait fail. A second panic would end the process, so the cases run in a child.

#[path = "common/child.rs"]
mod child;
mod common;

use child::in_child;
use common::*;
use std::cell::Cell;
use std::fmt::Debug;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;
use yue_io::fs;
use yue_io::inotify::Watcher;
use yue_io::net::{
    Datagrams, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
use yue_io::process::{Command, Stdio};
use yue_scheduler::*;

/// Runs `call` in a destructor during a panic.
fn during_a_panic<T>(call: impl FnOnce() -> T) -> T {
    struct InDrop<T, F: FnOnce() -> T>(Option<F>, Rc<Cell<Option<T>>>);
    impl<T, F: FnOnce() -> T> Drop for InDrop<T, F> {
        fn drop(&mut self) {
            self.1.set(self.0.take().map(|call| call()));
        }
    }
    let answer = Rc::new(Cell::new(None));
    let in_drop = InDrop(Some(call), answer.clone());
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _in_drop = in_drop;
        resume_unwind(Box::new(()));
    }));
    assert!(caught.is_err());
    answer.take().unwrap()
}

#[track_caller]
fn assert_would_wait<T: Debug>(call: impl FnOnce() -> io::Result<T>) {
    let error = during_a_panic(call).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
    let text = error.to_string();
    assert!(text.contains("while unwinding from a panic"), "{text}");
}

#[track_caller]
fn assert_does_not_wait<T>(call: impl FnOnce() -> io::Result<T>) -> T {
    during_a_panic(call).unwrap()
}

fn on_each_driver_in_child(name: &str, body: fn()) {
    in_child(name, || on_each_driver(body));
}

#[test]
fn sockets_do_what_need_not_wait_and_fail_otherwise() {
    on_each_driver_in_child("sockets_do_what_need_not_wait_and_fail_otherwise", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_would_wait(|| listener.accept());
        assert_would_wait(|| listener.readable());
        assert_would_wait(|| listener.incoming().next().unwrap());
        let mut peer = TcpStream::connect(address).unwrap();
        listener.readable().unwrap();
        let mut stream = assert_does_not_wait(|| listener.accept()).0;
        assert_would_wait(|| stream.read(&mut [0]));
        assert_would_wait(|| stream.peek(&mut [0]));
        assert_would_wait(|| stream.readable());
        assert_does_not_wait(|| stream.write_all(b"12"));
        peer.readable().unwrap();
        let mut bytes = [0; 2];
        assert_does_not_wait(|| peer.read_exact(&mut bytes));
        assert_eq!(&bytes, b"12");
        assert_does_not_wait(|| stream.write_vectored(&[IoSlice::new(b"34"), IoSlice::new(b"5")]));
        assert_does_not_wait(|| stream.writable());
        // Afterwards both still work.
        peer.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(b"6").unwrap();
        peer.read_exact(&mut [0]).unwrap();

        // Several addresses are not waited for either.
        let silent = "192.0.2.1:9".parse().unwrap();
        assert_would_wait(|| TcpStream::connect(&[silent, silent][..]));
        assert_would_wait(|| TcpStream::connect("a-name.invalid:9"));

        let folder = fs::TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut peer = assert_does_not_wait(|| UnixStream::connect(&path));
        let (mut stream, _) = assert_does_not_wait(|| listener.accept());
        assert_would_wait(|| peer.read(&mut [0]));
        assert_does_not_wait(|| stream.write_all(b"1"));
        assert_does_not_wait(|| peer.read_exact(&mut [0]));
    });
}

#[test]
fn datagrams_do_what_need_not_wait_and_fail_otherwise() {
    on_each_driver_in_child("datagrams_do_what_need_not_wait_and_fail_otherwise", || {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        one.connect(other.local_addr().unwrap()).unwrap();
        let mut batch = Datagrams::new(4, 16);
        assert_would_wait(|| other.recv(&mut [0]));
        assert_would_wait(|| other.recv_from(&mut [0]));
        assert_would_wait(|| other.recv_batch(&mut batch));
        assert_does_not_wait(|| one.send(b"1"));
        assert_does_not_wait(|| {
            one.send_to(b"2", other.local_addr().unwrap())
                .or_else(|_| one.send(b"2"))
        });
        other.readable().unwrap();
        assert_does_not_wait(|| other.recv_from(&mut [0]));
        other.readable().unwrap();
        assert_does_not_wait(|| other.recv_batch(&mut batch));

        let (one, other) = UnixDatagram::pair().unwrap();
        assert_would_wait(|| other.recv(&mut [0]));
        assert_does_not_wait(|| one.send(b"1"));
        assert_does_not_wait(|| other.recv(&mut [0]));
    });
}

#[test]
fn pipes_and_processes_do_what_need_not_wait_and_fail_otherwise() {
    let name = "pipes_and_processes_do_what_need_not_wait_and_fail_otherwise";
    on_each_driver_in_child(name, || {
        let (mut reader, mut writer) = yue_io::pipe::pipe().unwrap();
        assert_would_wait(|| reader.read(&mut [0]));
        assert_does_not_wait(|| writer.write_all(b"1"));
        assert_does_not_wait(|| reader.read_exact(&mut [0]));
        // Write until the pipe is full.
        assert_would_wait(|| writer.write_all(&[0; 1 << 20]));

        let start = || {
            let mut command = Command::new("cat");
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let (mut child, input) = (start(), Cell::new(None));
        input.set(child.stdin.take());
        assert_would_wait(|| child.wait());
        assert_would_wait(|| child.wait_with_output());
        drop(input.take());
        let mut child = start();
        assert_does_not_wait(|| child.stdin.as_mut().unwrap().write_all(b"1"));
        assert_eq!(child.wait_with_output().unwrap().stdout, b"1");

        assert_does_not_wait(|| yue_io::stdio::stderr().write_all(b"a line\n"));
        let watcher = Watcher::new().unwrap();
        assert_would_wait(|| watcher.next());
        assert_would_wait(|| Ok(blocking(|| ())?));
    });
}

#[test]
fn disk_files_are_read_and_written_and_calls_that_need_the_pool_fail() {
    let name = "disk_files_are_read_and_written_and_calls_that_need_the_pool_fail";
    on_each_driver_in_child(name, || {
        let folder = fs::TempDir::new().unwrap();
        let path = folder.path().join("log");
        let mut file = fs::File::create_new(&path).unwrap();
        assert_does_not_wait(|| file.write_all(b"first "));
        assert_does_not_wait(|| file.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"second")]));
        assert_does_not_wait(|| file.write_at(b"F", 0));
        file.rewind().unwrap();
        let mut text = String::new();
        assert_does_not_wait(|| file.read_to_string(&mut text));
        assert_eq!(text, "First second");
        assert_would_wait(|| file.sync_all());
        assert_would_wait(|| file.metadata());
        assert_would_wait(|| fs::File::open(&path));
        assert_would_wait(|| fs::read(&path));
        assert_would_wait(|| fs::remove_file(&path));

        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        let mut options = fs::OpenOptions::new();
        let mut both_ends = options.read(true).write(true).open(&fifo).unwrap();
        assert_would_wait(|| both_ends.read(&mut [0]));
        assert_does_not_wait(|| both_ends.write_all(b"12"));
        assert_does_not_wait(|| both_ends.read_exact(&mut [0; 2]));
        assert_would_wait(|| both_ends.write_all(&[0; 1 << 20]));
    });
}

#[test]
fn a_call_that_need_not_wait_works_in_no_suspend_after_any_number_of_calls() {
    on_each_driver(|| {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = one.local_addr().unwrap();
        let mut batch = Datagrams::new(1, 1);
        no_suspend(|| {
            for _ in 0..1000 {
                one.send_batch(&[(b"x", Some(address))]).unwrap();
                one.recv_batch(&mut batch).unwrap();
            }
        });
        // A call that would have to wait still panics there.
        let fiber = spawn(move || no_suspend(|| one.recv_batch(&mut batch)));
        let error = fiber.join().unwrap_err().to_string();
        assert!(error.contains("inside no_suspend"), "{error}");
        sleep(Duration::from_millis(1)).unwrap();
    });
}
