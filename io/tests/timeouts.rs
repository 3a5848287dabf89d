//! A timeout never loses the result of an operation: the call returns it, or the next call does.

#[path = "common/child.rs"]
mod child;
mod common;

use child::child_output;
use common::*;
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;
use yue_io::fs;
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_scheduler::*;

const SHORT: Duration = Duration::from_millis(5);

/// The moment at which an event meets a fiber's operation.
#[derive(Clone, Copy)]
enum Moment {
    /// The fiber's deadline has passed, and the fiber has not been woken yet.
    Before,
    /// The fiber has requested its operation's cancel, and the loop has not submitted it yet.
    After,
}

/// Makes a call under a short timeout, and runs `meanwhile` in the tick in which the timeout passes.
fn at_the_last_moment<T: 'static>(
    moment: Moment,
    call: impl FnOnce() -> T + 'static,
    meanwhile: impl FnOnce() + 'static,
) -> Result<T, Elapsed> {
    let until = now().saturating_add(SHORT);
    let caller = spawn(move || timeout(SHORT, call));
    let other = spawn(move || {
        // This fiber is the first one of that tick.
        set_priority(Priority::High);
        sleep_until(until.saturating_add(SHORT)).unwrap();
        if let Moment::After = moment {
            set_priority(Priority::Low);
            yield_now().unwrap();
        }
        meanwhile();
    });
    // The call has begun, and its operation is in the kernel.
    sleep(SHORT / 5).unwrap();
    // Block the loop, so that both fibers' timers are due in one tick.
    while Instant::system() < until.saturating_add(2 * SHORT) {
        std::thread::yield_now();
    }
    other.join().unwrap();
    caller.join().unwrap()
}

fn a_socket_loses_nothing(moment: Moment) {
    let (mut stream, peer) = UnixStream::pair().unwrap();
    let mut copy = stream.try_clone().unwrap();
    let first = at_the_last_moment(
        moment,
        move || copy.read(&mut [0; 16]),
        move || {
            let bytes = b"precious";
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: the bytes live during the call.
            let sent =
                unsafe { libc::send(peer.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
            assert_eq!(sent, 8);
        },
    );
    match first {
        Ok(count) => assert_eq!(count.unwrap(), 8),
        Err(Elapsed) => stream.read_exact(&mut [0; 8]).unwrap(),
    }
}

fn a_listener_loses_nothing(moment: Moment) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = listener.try_clone().unwrap();
    let client = Rc::new(Cell::new(None));
    let slot = client.clone();
    let first = at_the_last_moment(
        moment,
        move || other.incoming().next(),
        // The kernel completes the handshake by itself.
        move || slot.set(Some(std::net::TcpStream::connect(address).unwrap())),
    );
    let mut stream = match first {
        Ok(connection) => connection.unwrap().unwrap(),
        Err(Elapsed) => timeout(LONG, || listener.accept()).unwrap().unwrap().0,
    };
    stream.write_all(b"hello").unwrap();
    drop(stream);
    let client = TcpStream::from(client.take().unwrap());
    assert_eq!(std::io::read_to_string(client).unwrap(), "hello");
}

fn nothing_is_lost() {
    for moment in [Moment::Before, Moment::After] {
        a_socket_loses_nothing(moment);
        a_listener_loses_nothing(moment);
    }
}

#[test]
fn a_socket_and_a_listener_lose_nothing_to_a_timeout() {
    on_each_driver(nothing_is_lost);
}

#[test]
fn no_loss_where_the_kernel_completes_at_any_time() {
    child_output(
        "no_loss_where_the_kernel_completes_at_any_time",
        |command| {
            command.env("YUE_URING_OFF", "defer-taskrun");
        },
        || {
            on_each_driver(nothing_is_lost);
        },
    );
}

#[test]
fn a_file_that_waits_loses_nothing_to_a_timeout() {
    on_each_driver(|| {
        let folder = fs::TempDir::new().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let mut writer = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut file = fs::File::open(&path).unwrap();
        let reader = spawn(move || {
            let mut text = Vec::new();
            let mut buffer = [0; 6];
            while text.len() < 12 {
                if let Ok(count) = timeout(Duration::from_millis(1), || file.read(&mut buffer)) {
                    text.extend_from_slice(&buffer[..count.unwrap()]);
                }
            }
            text
        });
        for part in ["first ", "second"] {
            // By then the reader's timeout has usually passed.
            sleep(4 * SHORT).unwrap();
            writer.write_all(part.as_bytes()).unwrap();
        }
        let bytes = timeout(LONG, || reader.join().unwrap());
        assert_eq!(bytes.unwrap(), b"first second");
    });
}

#[test]
fn a_connection_accepted_in_advance_survives_a_timeout_during_a_yield() {
    on_each_driver(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| std::net::TcpStream::connect(address).unwrap();
        let clients: Vec<_> = (0..2).map(connect).collect();
        let mut incoming = listener.incoming();
        let first = incoming.next().unwrap().unwrap();
        // On io_uring the second connection was accepted too.
        sleep(SHORT / 5).unwrap();
        // Make so many calls without waiting that the next one yields first.
        let (ready, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(b"x").unwrap();
        (0..70).for_each(|_| ready.readable().unwrap());
        let until = now().saturating_add(2 * SHORT);
        let busy = spawn(move || while now() < until {});
        let mut second = match timeout(SHORT, || incoming.next()) {
            Ok(connection) => connection.unwrap().unwrap(),
            Err(Elapsed) => {
                let next = timeout(LONG, || incoming.next());
                next.expect("the connection was lost").unwrap().unwrap()
            }
        };
        busy.join().unwrap();
        second.write_all(b"hello").unwrap();
        drop((first, second));
        let received: Vec<_> = clients
            .into_iter()
            .map(|client| std::io::read_to_string(TcpStream::from(client)).unwrap())
            .collect();
        assert_eq!(received, ["", "hello"]);
    });
}
