//! Options of TCP sockets, connecting to several addresses, halves and timeouts, on both drivers.

mod common;

use common::*;
use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::*;
use yue_scheduler::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = spawn(move || TcpStream::connect(address).unwrap());
    let (server, _) = listener.accept().unwrap();
    (client.join().unwrap(), server)
}

/// Returns an address that never answers: a listener whose queue is full, with the streams that fill it.
fn silent() -> (StdListener, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let listener = StdListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        held.push(stream);
        assert!(held.len() < 100, "the queue does not fill up");
    }
    (listener, held)
}

/// Returns an address that refuses connections.
fn refusing() -> SocketAddr {
    StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn options_are_read_back_as_set() {
    on_each_driver(|| {
        let (stream, _peer) = pair();
        assert!(!stream.nodelay().unwrap());
        stream.set_nodelay(true).unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(stream.keepalive().unwrap(), None);
        let keepalive = Keepalive {
            idle: Duration::from_secs(7),
            interval: Duration::from_secs(3),
            retries: 5,
        };
        stream.set_keepalive(Some(keepalive)).unwrap();
        assert_eq!(stream.keepalive().unwrap(), Some(keepalive));
        stream.set_keepalive(None).unwrap();
        assert_eq!(stream.keepalive().unwrap(), None);
        assert_eq!(stream.linger().unwrap(), None);
        stream.set_linger(Some(Duration::from_secs(2))).unwrap();
        assert_eq!(stream.linger().unwrap(), Some(Duration::from_secs(2)));
        stream.set_linger(None).unwrap();
        stream.set_ttl(33).unwrap();
        assert_eq!(stream.ttl().unwrap(), 33);
        stream.set_recv_buffer_size(40_000).unwrap();
        assert!(stream.recv_buffer_size().unwrap() >= 40_000);
        stream.set_send_buffer_size(30_000).unwrap();
        assert!(stream.send_buffer_size().unwrap() >= 30_000);
        assert!(stream.take_error().unwrap().is_none());
    });
}

#[test]
fn a_linger_of_zero_resets_the_connection() {
    on_each_driver(|| {
        let (stream, mut peer) = pair();
        stream.set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn timeouts_end_reads_and_writes_that_take_too_long() {
    on_each_driver(|| {
        let (mut stream, mut peer) = pair();
        assert_eq!(stream.read_timeout().unwrap(), None);
        let zero = stream.set_read_timeout(Some(Duration::ZERO)).unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
        let limit = Some(Duration::from_millis(5));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        assert_eq!(
            (
                stream.read_timeout().unwrap(),
                stream.write_timeout().unwrap()
            ),
            (limit, limit)
        );
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The timeout belongs to the read, not to the fiber.
        peer.write_all(b"ab").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");
        let clone = stream.try_clone().unwrap();
        assert_eq!(clone.read_timeout().unwrap(), limit);
        let chunk = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = stream.write_all(&chunk) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_read_timeout(limit).unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn timeouts_work_on_a_plain_thread() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn vectored_reads_and_writes_fill_and_empty_several_buffers() {
    on_each_driver(|| {
        let (stream, peer) = pair();
        let (mut reader, mut writer) = (&peer, &stream);
        let count = writer
            .write_vectored(&[
                IoSlice::new(b"one "),
                IoSlice::new(b""),
                IoSlice::new(b"two"),
            ])
            .unwrap();
        assert_eq!(count, 7);
        let (mut first, mut second) = ([0; 2], [0; 16]);
        let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(reader.read_vectored(&mut buffers).unwrap(), 7);
        assert_eq!((&first, &second[..5]), (b"on", &b"e two"[..]));
    });
}

#[test]
fn waiting_connections_are_accepted_together() {
    on_each_driver(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..5)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let some = listener.accept_many(3).unwrap();
        let rest = listener.accept_many(100).unwrap();
        assert_eq!((some.len(), rest.len()), (3, 2));
        let mut got: Vec<_> = some.iter().chain(&rest).map(|(_, from)| *from).collect();
        let mut wanted: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted);
        // The listener still works, and the next accept gets the next connection.
        let late = spawn(move || listener.accept().unwrap().1);
        yield_now().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(late.join().unwrap(), client.local_addr().unwrap());
    });
}

#[test]
fn halves_move_to_two_fibers_and_reunite() {
    on_each_driver(|| {
        let (mut stream, peer) = pair();
        {
            let (mut reader, mut writer) = stream.split();
            writer.write_all(b"ping").unwrap();
            let mut bytes = [0; 4];
            (&peer).read_exact(&mut bytes).unwrap();
            (&peer).write_all(&bytes).unwrap();
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"ping");
        }
        let (reader, writer) = stream.into_split();
        let (other_reader, other_writer) = peer.into_split();
        let NotTheSame(reader, other_writer) = reader.reunite(other_writer).unwrap_err();
        let stream = reader.reunite(writer).unwrap();
        let peer = other_reader.reunite(other_writer).unwrap();
        // Reuniting the halves did not shut down sending.
        (&stream).write_all(b"still").unwrap();
        let (mut reader, writer) = stream.into_split();
        let echo = spawn(move || io::copy(&mut &peer, &mut &peer).unwrap());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), echo.join().unwrap()), ("still", 5));
    });
}

#[test]
fn an_unanswered_connect_times_out() {
    on_each_driver(|| {
        let (listener, _held) = silent();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_millis(20);
        let error = TcpStream::connect_timeout(&address, limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(operations(), 0);
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect_timeout(&other.local_addr().unwrap(), LONG).unwrap();
    });
}

#[test]
fn an_address_that_does_not_answer_is_overtaken_by_one_that_does() {
    on_each_driver(|| {
        let (deaf, _held) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let options = ConnectOptions {
            attempt_delay: Duration::from_millis(5),
            ..ConnectOptions::default()
        };
        let addresses = [refusing(), deaf.local_addr().unwrap(), good, refusing()];
        let stream = TcpStream::connect_with(&addresses[..], &options).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        // No attempt is left running.
        assert_eq!((operations(), this_loop::counters().fibers), (0, 1));
    });
}

#[test]
fn the_first_address_wins_if_it_answers_in_time() {
    on_each_driver(|| {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        let options = ConnectOptions {
            attempt_delay: LONG,
            ..ConnectOptions::default()
        };
        let stream = TcpStream::connect_with(&addresses[..], &options).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[0]);
    });
}

#[test]
fn when_all_addresses_refuse_the_error_is_connection_refused() {
    on_each_driver(|| {
        let options = ConnectOptions {
            // The delay is skipped: a failed attempt starts the next.
            attempt_delay: LONG,
            ..ConnectOptions::default()
        };
        let error = TcpStream::connect_with(&[refusing(), refusing()][..], &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let none: [SocketAddr; 0] = [];
        let error = TcpStream::connect(&none[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_cancel_ends_all_attempts_to_connect() {
    on_each_driver(|| {
        let ((one, _held), (two, _too)) = (silent(), silent());
        let addresses = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        let fiber = spawn(move || {
            let options = ConnectOptions {
                attempt_delay: Duration::from_millis(1),
                ..ConnectOptions::default()
            };
            let result = TcpStream::connect_with(&addresses[..], &options).map(drop);
            flag.set(true);
            result
        });
        wait_until(|| operations() == 2);
        fiber.cancel();
        let error = fiber.join().unwrap().unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
        assert!(done.get());
        assert_eq!((operations(), this_loop::counters().fibers), (0, 1));
    });
}

#[test]
fn the_local_address_can_be_chosen() {
    on_each_driver(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ConnectOptions {
            local: Some(([127, 0, 0, 9], 0).into()),
            ..ConnectOptions::default()
        };
        let stream = TcpStream::connect_with(listener.local_addr().unwrap(), &options).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.9");
    });
}

#[test]
fn fast_open_connects_with_or_without_kernel_support() {
    on_each_driver(|| {
        let listening = ListenOptions {
            fast_open: 16,
            ..ListenOptions::default()
        };
        let listener = TcpListener::bind_with("127.0.0.1:0", &listening).unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn(move || {
            for stream in listener.incoming().take(3) {
                let stream = stream.unwrap();
                io::copy(&mut &stream, &mut &stream).unwrap();
            }
        });
        let options = ConnectOptions {
            fast_open: true,
            ..ConnectOptions::default()
        };
        for _ in 0..3 {
            let mut stream = TcpStream::connect_with(address, &options).unwrap();
            stream.write_all(b"early").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(io::read_to_string(stream).unwrap(), "early");
        }
        server.join().unwrap();
    });
}

#[test]
fn an_ipv6_listener_can_leave_ipv4_alone() {
    on_each_driver(|| {
        let options = ListenOptions {
            only_v6: Some(true),
            ..ListenOptions::default()
        };
        let Ok(listener) = TcpListener::bind_with("[::]:0", &options) else {
            eprintln!("skipped: IPv6 is not available");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        TcpStream::connect(("::1", port)).unwrap();
    });
}

/// Drops a socket a little later, like the kernel the sockets of a killed process.
fn drop_soon<T: Send + 'static>(socket: T) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        drop(socket);
    })
}

#[test]
fn a_port_whose_process_is_being_ended_is_bound_a_moment_later() {
    let bind_again = || {
        let ending = StdListener::bind("127.0.0.1:0").unwrap();
        let address = ending.local_addr().unwrap();
        let end = drop_soon(ending);
        let listener = TcpListener::bind(address).unwrap();
        end.join().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);

        let ending = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = ending.local_addr().unwrap();
        let end = drop_soon(ending);
        let socket = UdpSocket::bind(address).unwrap();
        end.join().unwrap();
        assert_eq!(socket.local_addr().unwrap(), address);
    };
    bind_again();
    on_each_driver(bind_again);
}

#[test]
fn a_port_that_stays_in_use_is_an_error_and_other_fibers_run_meanwhile() {
    on_each_driver(|| {
        let (listener, ran) = (
            StdListener::bind("127.0.0.1:0").unwrap(),
            Rc::new(Cell::new(false)),
        );
        let other = spawn({
            let ran = ran.clone();
            move || ran.set(true)
        });
        let error = TcpListener::bind(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(ran.get(), "the loop was free");
        other.join().unwrap();

        cancel(current_id());
        let error = TcpListener::bind(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}
