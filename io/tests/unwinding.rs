//! I/O in destructors that run during a panic: what need not wait is done, what would have to wait is an error. A panic
//! would end the process, so the cases run in a child.

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
use yue_io::net::{
    Datagrams, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
use yue_io::process::{Command, Stdio};
use yue_io::watch::Watcher;
use yue_scheduler::*;

/// Calls `call` in a destructor that runs during a panic.
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
fn would_have_to_wait<T: Debug>(call: impl FnOnce() -> io::Result<T>) {
    let error = during_a_panic(call).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
    let text = error.to_string();
    assert!(text.contains("while unwinding from a panic"), "{text}");
}

#[track_caller]
fn need_not_wait<T>(call: impl FnOnce() -> io::Result<T>) -> T {
    during_a_panic(call).unwrap()
}

fn on_each_driver_in_child(name: &str, body: fn()) {
    in_child(name, || on_each_driver(body));
}

#[test]
fn sockets_do_what_need_not_wait_and_answer_an_error_else() {
    on_each_driver_in_child(
        "sockets_do_what_need_not_wait_and_answer_an_error_else",
        || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            would_have_to_wait(|| listener.accept());
            would_have_to_wait(|| listener.readable());
            would_have_to_wait(|| listener.incoming().next().unwrap());
            let mut peer = TcpStream::connect(address).unwrap();
            listener.readable().unwrap();
            let mut stream = need_not_wait(|| listener.accept()).0;
            would_have_to_wait(|| stream.read(&mut [0]));
            would_have_to_wait(|| stream.peek(&mut [0]));
            would_have_to_wait(|| stream.readable());
            need_not_wait(|| stream.write_all(b"12"));
            peer.readable().unwrap();
            let mut bytes = [0; 2];
            need_not_wait(|| peer.read_exact(&mut bytes));
            assert_eq!(&bytes, b"12");
            need_not_wait(|| stream.write_vectored(&[IoSlice::new(b"34"), IoSlice::new(b"5")]));
            need_not_wait(|| stream.writable());
            // Afterwards both are as good as before.
            peer.read_exact(&mut [0; 3]).unwrap();
            stream.write_all(b"6").unwrap();
            peer.read_exact(&mut [0]).unwrap();

            // Of several addresses, none is waited for.
            let silent = "192.0.2.1:9".parse().unwrap();
            would_have_to_wait(|| TcpStream::connect(&[silent, silent][..]));
            would_have_to_wait(|| TcpStream::connect("a-name.invalid:9"));

            let folder = fs::TempDir::new().unwrap();
            let path = folder.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let mut peer = need_not_wait(|| UnixStream::connect(&path));
            let (mut stream, _) = need_not_wait(|| listener.accept());
            would_have_to_wait(|| peer.read(&mut [0]));
            need_not_wait(|| stream.write_all(b"1"));
            need_not_wait(|| peer.read_exact(&mut [0]));
        },
    );
}

#[test]
fn datagrams_do_what_need_not_wait_and_answer_an_error_else() {
    on_each_driver_in_child(
        "datagrams_do_what_need_not_wait_and_answer_an_error_else",
        || {
            let one = UdpSocket::bind("127.0.0.1:0").unwrap();
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            one.connect(other.local_addr().unwrap()).unwrap();
            let mut batch = Datagrams::new(4, 16);
            would_have_to_wait(|| other.recv(&mut [0]));
            would_have_to_wait(|| other.recv_from(&mut [0]));
            would_have_to_wait(|| other.recv_batch(&mut batch));
            need_not_wait(|| one.send(b"1"));
            need_not_wait(|| {
                one.send_to(b"2", other.local_addr().unwrap())
                    .or_else(|_| one.send(b"2"))
            });
            other.readable().unwrap();
            need_not_wait(|| other.recv_from(&mut [0]));
            other.readable().unwrap();
            need_not_wait(|| other.recv_batch(&mut batch));

            let (one, other) = UnixDatagram::pair().unwrap();
            would_have_to_wait(|| other.recv(&mut [0]));
            need_not_wait(|| one.send(b"1"));
            need_not_wait(|| other.recv(&mut [0]));
        },
    );
}

#[test]
fn pipes_and_processes_do_what_need_not_wait_and_answer_an_error_else() {
    let name = "pipes_and_processes_do_what_need_not_wait_and_answer_an_error_else";
    on_each_driver_in_child(name, || {
        let (mut reader, mut writer) = yue_io::pipe::pipe().unwrap();
        would_have_to_wait(|| reader.read(&mut [0]));
        need_not_wait(|| writer.write_all(b"1"));
        need_not_wait(|| reader.read_exact(&mut [0]));
        // Until it takes no more.
        would_have_to_wait(|| writer.write_all(&[0; 1 << 20]));

        let start = || {
            let mut command = Command::new("cat");
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let (mut child, input) = (start(), Cell::new(None));
        input.set(child.stdin.take());
        would_have_to_wait(|| child.wait());
        would_have_to_wait(|| child.wait_with_output());
        drop(input.take());
        let mut child = start();
        need_not_wait(|| child.stdin.as_mut().unwrap().write_all(b"1"));
        assert_eq!(child.wait_with_output().unwrap().stdout, b"1");

        need_not_wait(|| yue_io::stdio::stderr().write_all(b"a line\n"));
        let watcher = Watcher::new().unwrap();
        would_have_to_wait(|| watcher.next());
        would_have_to_wait(|| Ok(blocking(|| ())?));
    });
}

#[test]
fn files_of_a_disk_are_read_and_written_and_what_needs_the_pool_is_an_error() {
    let name = "files_of_a_disk_are_read_and_written_and_what_needs_the_pool_is_an_error";
    on_each_driver_in_child(name, || {
        let folder = fs::TempDir::new().unwrap();
        let path = folder.path().join("log");
        let mut file = fs::File::create_new(&path).unwrap();
        need_not_wait(|| file.write_all(b"first "));
        need_not_wait(|| file.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"second")]));
        need_not_wait(|| file.write_at(b"F", 0));
        file.rewind().unwrap();
        let mut text = String::new();
        need_not_wait(|| file.read_to_string(&mut text));
        assert_eq!(text, "First second");
        would_have_to_wait(|| file.sync_all());
        would_have_to_wait(|| file.metadata());
        would_have_to_wait(|| fs::File::open(&path));
        would_have_to_wait(|| fs::read(&path));
        would_have_to_wait(|| fs::remove_file(&path));

        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        let mut options = fs::OpenOptions::new();
        let mut both_ends = options.read(true).write(true).open(&fifo).unwrap();
        would_have_to_wait(|| both_ends.read(&mut [0]));
        need_not_wait(|| both_ends.write_all(b"12"));
        need_not_wait(|| both_ends.read_exact(&mut [0; 2]));
        would_have_to_wait(|| both_ends.write_all(&[0; 1 << 20]));
    });
}

#[test]
fn a_call_that_need_not_wait_is_made_in_no_suspend_however_many_came_before() {
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
        // And what would have to wait is still a panic there.
        let fiber = spawn(move || no_suspend(|| one.recv_batch(&mut batch)));
        let error = fiber.join().unwrap_err().to_string();
        assert!(error.contains("inside no_suspend"), "{error}");
        sleep(Duration::from_millis(1)).unwrap();
    });
}
