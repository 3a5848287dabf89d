//! Full receivers and full backlogs, on both drivers: a fiber that waits for room loses no data and uses no processor
//! time.

mod common;

use common::*;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use yue_io::net::{UnixDatagram, UnixListener, UnixStream};
use yue_scheduler::*;

/// Returns an unused abstract address.
fn fresh_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("yue-full-{}-{number}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

/// More messages than a receiver's queue holds.
const MANY: u32 = 300;

fn message(number: u32) -> Vec<u8> {
    format!("message {number:04}").into_bytes()
}

/// Sends [`MANY`] messages with `send`, while `receive` receives them and gets less time than the sender.
fn arrive_whole_and_in_order(
    send: impl Fn(&[u8]) -> io::Result<usize> + 'static,
    receive: impl Fn(&mut [u8]) -> io::Result<usize>,
) {
    let sender = spawn(move || {
        for number in 0..MANY {
            let message = message(number);
            assert_eq!(send(&message).unwrap(), message.len());
        }
    });
    let received = timeout(LONG, || {
        for number in 0..MANY {
            if number % 7 == 0 {
                sleep(Duration::from_micros(200)).unwrap();
            }
            let mut buffer = [0; 64];
            let count = receive(&mut buffer).unwrap();
            assert_eq!(buffer[..count], message(number));
        }
    });
    received.unwrap();
    sender.join().unwrap();
}

type Sending = Box<dyn Fn(&[u8]) -> io::Result<usize> + Send + Sync>;

/// A receiver at an address, and a function that sends to it.
struct Bound {
    receiver: UnixDatagram,
    address: SocketAddr,
    sender: Arc<UnixDatagram>,
    send: Sending,
}

/// Creates a receiver with a connected sender.
fn connected() -> Bound {
    let mut bound = named();
    bound.sender.connect_addr(&bound.address).unwrap();
    let sender = bound.sender.clone();
    bound.send = Box::new(move |bytes| sender.send(bytes));
    bound
}

/// Creates a receiver with an unconnected sender, which names the receiver in each call.
fn named() -> Bound {
    let address = fresh_address();
    let receiver = UnixDatagram::bind_addr(&address).unwrap();
    let sender = Arc::new(UnixDatagram::unbound().unwrap());
    let (from, to) = (sender.clone(), address.clone());
    Bound {
        receiver,
        address,
        sender,
        send: Box::new(move |bytes| from.send_to_addr(bytes, &to)),
    }
}

#[test]
fn datagrams_for_a_full_receiver_arrive_whole_and_in_order() {
    on_each_driver(|| {
        for Bound { receiver, send, .. } in [connected(), named()] {
            arrive_whole_and_in_order(send, |buffer| receiver.recv(buffer));
        }
    });
}

#[test]
fn datagrams_with_descriptors_for_a_full_receiver_arrive_whole_and_in_order() {
    on_each_driver(|| {
        let Bound {
            receiver, sender, ..
        } = connected();
        let passed = std::fs::File::open("/dev/null").unwrap();
        arrive_whole_and_in_order(
            move |bytes| sender.send_with_fds(bytes, &[passed.as_fd()]),
            |buffer| {
                let received = receiver.recv_with_fds(buffer)?;
                assert_eq!(received.descriptors.len(), 1);
                Ok(received.count)
            },
        );
    });
}

#[test]
fn a_stream_type_over_a_socket_with_message_boundaries_sends_messages_whole() {
    on_each_driver(|| {
        let (kind, domain) = (socket2::Type::SEQPACKET, socket2::Domain::UNIX);
        let (one, other) = socket2::Socket::pair(domain, kind, None).unwrap();
        one.set_send_buffer_size(1).unwrap();
        let stream = |socket: socket2::Socket| UnixStream::from(OwnedFd::from(socket));
        let (writer, reader) = (stream(one), stream(other));
        arrive_whole_and_in_order(
            move |bytes| (&writer).write(bytes),
            move |buffer| (&reader).read(buffer),
        );
    });
}

#[test]
fn a_cancelled_sender_has_sent_nothing() {
    on_each_driver(|| {
        for Bound { receiver, send, .. } in [connected(), named()] {
            let mut sent = 0;
            // As many as fit, and one more.
            while let Ok(Ok(_)) = timeout(Duration::from_millis(20), || send(b"one")) {
                sent += 1;
            }
            let cancelled = spawn(move || send(b"two"));
            yield_now().unwrap();
            let error = cancelled.cancel_and_join().unwrap().unwrap_err();
            assert!(error.downcast::<Stopped>().is_ok());
            for _ in 0..sent {
                assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 3);
            }
            let nothing = timeout(Duration::from_millis(5), || receiver.recv(&mut [0; 8]));
            assert_eq!(nothing.unwrap_err(), Elapsed);
        }
    });
}

#[test]
fn a_plain_thread_waits_for_a_full_receiver_as_long_as_its_timeout_allows() {
    for Bound {
        receiver,
        send,
        sender,
        ..
    } in [connected(), named()]
    {
        sender
            .set_write_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let error = loop {
            if let Err(error) = send(b"one") {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        sender.set_write_timeout(None).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| send(b"last"));
            let mut buffer = [0; 8];
            while receiver.recv(&mut buffer).unwrap() != 4 {}
            assert_eq!(waiting.join().unwrap().unwrap(), 4);
        });
    }
}

/// Returns a listener whose backlog is full, and the clients in it.
fn full_listener() -> (
    UnixListener,
    SocketAddr,
    Vec<std::os::unix::net::UnixStream>,
) {
    let address = fresh_address();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let connect = || std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    // The kernel admits one more than the backlog.
    let clients = vec![connect(), connect()];
    (listener.into(), address, clients)
}

#[test]
fn a_connect_waits_for_room_in_the_backlog_and_then_succeeds() {
    on_each_driver(|| {
        let (listener, address, queued) = full_listener();
        let connecting = spawn(move || UnixStream::connect_addr(&address));
        sleep(Duration::from_millis(30)).unwrap();
        assert!(!connecting.is_done());
        let accepting =
            spawn(move || -> Vec<_> { (0..3).map(|_| listener.accept().unwrap()).collect() });
        let mut stream = timeout(LONG, || connecting.join())
            .unwrap()
            .unwrap()
            .unwrap();
        stream.write_all(b"in").unwrap();
        let mut accepted = accepting.join().unwrap();
        drop(queued);
        let mut texts: Vec<_> = accepted
            .iter_mut()
            .map(|(stream, _)| {
                let mut bytes = [0; 2];
                stream
                    .read(&mut bytes)
                    .map(|count| bytes[..count].to_vec())
                    .unwrap()
            })
            .collect();
        texts.sort();
        assert_eq!(texts, [&b""[..], b"", b"in"]);
    });
}

#[test]
fn a_connect_to_a_full_backlog_is_cancelled_and_times_out() {
    on_each_driver(|| {
        let (_listener, address, _queued) = full_listener();
        let address = Rc::new(address);
        let late = timeout(Duration::from_millis(20), || {
            UnixStream::connect_addr(&address)
        });
        assert_eq!(late.unwrap_err(), Elapsed);
        let connecting = {
            let address = address.clone();
            spawn(move || UnixStream::connect_addr(&address))
        };
        sleep(Duration::from_millis(5)).unwrap();
        let error = connecting.cancel_and_join().unwrap().unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
    });
}

#[test]
fn a_connect_is_cancelled_in_every_state_of_the_kernels_attempt() {
    on_each_driver(|| {
        // io_uring retries the connect many times before it hands it to a worker thread.
        for round in 0..40 {
            let (_listener, address, _queued) = full_listener();
            let connecting: Vec<_> = (0..6)
                .map(|_| {
                    let address = address.clone();
                    spawn(move || UnixStream::connect_addr(&address))
                })
                .collect();
            (0..round % 8).for_each(|_| yield_now().unwrap());
            sleep(Duration::from_micros(10 * round)).unwrap();
            connecting.iter().for_each(JoinHandle::cancel);
            wait_until(|| connecting.iter().all(JoinHandle::is_done));
            for connecting in connecting {
                let error = connecting.join().unwrap().unwrap_err();
                assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
            }
        }
    });
}

/// Counts the loop's ticks while a fiber runs `wait` for a while and is then cancelled.
fn ticks_while_waiting<T: 'static>(wait: impl FnOnce() -> io::Result<T> + 'static) -> u64 {
    let waiting = spawn(wait);
    sleep(Duration::from_millis(20)).unwrap();
    let before = this_loop::counters().ticks;
    sleep(Duration::from_millis(200)).unwrap();
    let ticks = this_loop::counters().ticks - before;
    assert!(waiting.cancel_and_join().unwrap().is_err());
    ticks
}

#[test]
fn a_fiber_that_waits_for_room_does_not_keep_the_loop_busy() {
    on_each_driver(|| {
        let (_listener, address, _queued) = full_listener();
        let ticks = ticks_while_waiting(move || UnixStream::connect_addr(&address));
        assert!(ticks < 200, "a full backlog: {ticks} ticks");
        for (how, bound) in [("connected", connected()), ("named", named())] {
            // Filled by another socket.
            let other = UnixDatagram::unbound().unwrap().into_std().unwrap();
            other.set_nonblocking(true).unwrap();
            while other.send_to_addr(b"x", &bound.address).is_ok() {}
            let _receiver = bound.receiver;
            let ticks = ticks_while_waiting(move || (bound.send)(b"x"));
            assert!(ticks < 200, "a full receiver, {how}: {ticks} ticks");
        }
    });
}
