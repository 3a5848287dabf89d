//! TCP listeners and streams, on both drivers.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_io::net::{ListenOptions, TcpListener, TcpStream, ToSocketAddrs};
use yue_scheduler::*;

/// Starts an echo server with a fiber for each connection.
fn echo_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            drop(spawn(move || io::copy(&mut &stream, &mut &stream)));
        }
    });
    (address, server)
}

/// Returns both ends of one connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = spawn(move || TcpStream::connect(address).unwrap());
    let (server, from) = listener.accept().unwrap();
    let client = client.join().unwrap();
    assert_eq!(client.local_addr().unwrap(), from);
    (client, server)
}

#[test]
fn sent_bytes_are_echoed() {
    on_each_driver(|| {
        let (address, server) = echo_server();
        let mut stream = TcpStream::connect(address).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        for text in ["hello", "again"] {
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, text.as_bytes());
        }
        drop(stream);
        server.cancel();
        server.join().unwrap();
        wait_until(|| operations() == 0);
    });
}

#[test]
fn many_connections_are_served_at_once() {
    on_each_driver(|| {
        let (address, server) = echo_server();
        let clients: Vec<_> = (0..200u32)
            .map(|n| {
                spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    for round in 0..20u32 {
                        let message = [n.to_le_bytes(), round.to_le_bytes()].concat();
                        stream.write_all(&message).unwrap();
                        let mut answer = [0; 8];
                        stream.read_exact(&mut answer).unwrap();
                        assert_eq!(answer[..], message);
                    }
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
fn a_cancelled_read_fails_and_the_stream_still_works() {
    on_each_driver(|| {
        let (mut client, server) = pair();
        let server = Rc::new(server);
        let reader = server.clone();
        let fiber = spawn(move || (&*reader).read(&mut [0; 16]));
        yield_now().unwrap();
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(operations(), 1);
        fiber.cancel();
        let error = fiber.join().unwrap().unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
        assert_eq!(operations(), 0);
        client.write_all(b"late").unwrap();
        let mut bytes = [0; 4];
        (&*server).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"late");
    });
}

#[test]
fn a_cancelled_read_keeps_the_bytes_it_got() {
    on_each_driver(|| {
        for _ in 0..100 {
            let (mut client, server) = pair();
            let server = Rc::new(server);
            let reader = server.clone();
            let fiber = spawn(move || {
                let mut bytes = [0; 1];
                (&*reader)
                    .read(&mut bytes)
                    .map(|count| bytes[..count].to_vec())
            });
            yield_now().unwrap();
            client.write_all(b"x").unwrap();
            fiber.cancel();
            // Either the read got the byte, or the next read gets it: it is never lost.
            let first = fiber.join().unwrap().unwrap_or_default();
            client.write_all(b"y").unwrap();
            drop(client);
            let mut rest = Vec::new();
            (&*server).read_to_end(&mut rest).unwrap();
            assert_eq!([first, rest].concat(), b"xy");
        }
    });
}

#[test]
fn a_deadline_ends_a_read_and_a_write() {
    on_each_driver(|| {
        let (mut client, _server) = pair();
        let limit = Duration::from_millis(5);
        assert_eq!(
            timeout(limit, || client
                .read(&mut [0; 1])
                .map_err(|error| error.kind()))
            .unwrap_err(),
            Elapsed
        );
        let error =
            with_deadline(now().saturating_add(limit), || client.read(&mut [0; 1])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let chunk = vec![0; 1 << 20];
        let error = with_deadline(now().saturating_add(limit), || {
            loop {
                if let Err(error) = client.write_all(&chunk) {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn a_socket_timeout_starts_with_the_call_and_excludes_earlier_computing() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        let limit = Duration::from_millis(300);
        client.set_read_timeout(Some(limit)).unwrap();
        let peer = spawn(move || {
            let mut question = [0; 1];
            server.read_exact(&mut question).unwrap();
            sleep(Duration::from_millis(20)).unwrap();
            server.write_all(b"answer").unwrap();
            server
        });
        yield_now().unwrap();
        let end = Instant::system().saturating_add(limit * 2);
        while Instant::system() < end {}
        client.write_all(b"?").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        drop(peer.join().unwrap());
    });
}

#[test]
fn a_large_transfer_with_short_writes_arrives_whole() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let writer = spawn(move || {
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).unwrap();
        assert!(got == expected);
        writer.join().unwrap();
    });
}

#[test]
fn one_direction_may_end_before_the_other() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(io::read_to_string(client).unwrap(), "answer");
        assert_eq!(text, "question");
    });
}

#[test]
fn a_shutdown_from_another_fiber_ends_a_read() {
    on_each_driver(|| {
        let (client, _server) = pair();
        let client = Rc::new(client);
        let reader = client.clone();
        let fiber = spawn(move || (&*reader).read(&mut [0; 16]).unwrap());
        yield_now().unwrap();
        client.shutdown(Shutdown::Both).unwrap();
        assert_eq!(fiber.join().unwrap(), 0);
    });
}

#[test]
fn a_reset_is_an_error_for_reader_and_writer() {
    on_each_driver(|| {
        let (mut client, server) = pair();
        let server = server.into_std().unwrap();
        socket2::SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(server);
        assert_eq!(
            client.read(&mut [0; 16]).unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!(
            client.write(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    });
}

#[test]
fn a_refused_connection_returns_connection_refused() {
    on_each_driver(|| {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert_eq!(
            TcpStream::connect(address).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn vectored_calls_and_peek_work() {
    on_each_driver(|| {
        let (mut client, mut server) = pair();
        let count = client
            .write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")])
            .unwrap();
        assert_eq!(count, 5);
        let mut peeked = [0; 2];
        assert_eq!(server.peek(&mut peeked).unwrap(), 2);
        assert_eq!(&peeked, b"ab");
        let (mut one, mut other) = ([0; 1], [0; 9]);
        let count = server
            .read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut other)])
            .unwrap();
        assert_eq!((count, one, &other[..4]), (5, *b"a", &b"bcde"[..]));
    });
}

#[test]
fn the_standard_librarys_readers_work_on_a_stream() {
    on_each_driver(|| {
        let (address, server) = echo_server();
        let stream =
            TcpStream::connect("localhost:".to_owned() + &address.port().to_string()).unwrap();
        let mut lines = BufReader::new(&stream).lines();
        for n in 0..100 {
            writeln!(&stream, "line {n}").unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), format!("line {n}"));
        }
        server.cancel();
        server.join().unwrap();
    });
}

#[test]
fn descriptors_in_non_blocking_mode_work_too() {
    on_each_driver(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from(listener);
        let server = spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        yield_now().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut client = TcpStream::from(client);
        let peek = timeout(Duration::from_millis(2), || client.peek(&mut [0]));
        assert_eq!(peek.unwrap_err(), Elapsed);
        // More than fits into the socket's buffer.
        let text = "text ".repeat(2_000_000);
        client.write_all(text.as_bytes()).unwrap();
        drop(client);
        assert!(server.join().unwrap() == text);
    });
}

#[test]
fn an_empty_buffer_does_not_wait() {
    on_each_driver(|| {
        let (mut client, _server) = pair();
        assert_eq!(client.read(&mut []).unwrap(), 0);
        assert_eq!(client.write(&[]).unwrap(), 0);
    });
}

#[test]
fn a_name_lookup_does_not_block_the_loop() {
    on_each_driver(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ticks = Rc::new(Cell::new(0));
        let count = ticks.clone();
        drop(spawn(move || {
            while yield_now().is_ok() {
                count.set(count.get() + 1);
            }
        }));
        // In capitals the name is not resolved without a lookup, but the system's resolver knows it.
        let look_up = || ("LOCALHOST", port).resolve().unwrap();
        // An answer may arrive before the fiber waits, but not every time.
        let addresses = (0..10_000)
            .map(|_| look_up())
            .find(|_| ticks.get() > 0)
            .unwrap_or_default();
        assert!(ticks.get() > 0, "the loop stood still");
        let stream = TcpStream::connect(&addresses[..]).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
    });
}

#[test]
fn a_fiber_whose_writes_never_wait_does_not_starve_others() {
    on_each_driver(|| {
        let (mut client, server) = pair();
        let stop = Rc::new(Cell::new(false));
        let flag = stop.clone();
        // A thread empties the socket, so that the writer never waits.
        let sink = server.into_std().unwrap();
        let drain = std::thread::spawn(move || io::copy(&mut &sink, &mut io::sink()).unwrap());
        let writer = spawn(move || {
            let mut count = 0;
            while !flag.get() {
                count += client.write(b"x").unwrap() as u64;
            }
            count
        });
        for _ in 0..10 {
            yield_now().unwrap();
            sleep(Duration::from_micros(10)).unwrap();
        }
        stop.set(true);
        assert_eq!(writer.join().unwrap(), drain.join().unwrap());
    });
}

#[test]
fn a_cancel_ends_incoming() {
    on_each_driver(|| {
        let (_address, server) = echo_server();
        yield_now().unwrap();
        server.cancel();
        server.join().unwrap();
    });
}

#[test]
fn two_listeners_share_a_port() {
    on_each_driver(|| {
        let options = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let first = TcpListener::bind_with("127.0.0.1:0", &options).unwrap();
        let address = first.local_addr().unwrap();
        let second = TcpListener::bind_with(address, &options).unwrap();
        assert!(TcpListener::bind(address).is_err());
        let accepted = Rc::new(Cell::new(0));
        let fibers: Vec<_> = [first, second]
            .into_iter()
            .map(|listener| {
                let accepted = accepted.clone();
                spawn(move || {
                    listener
                        .incoming()
                        .for_each(|_| accepted.set(accepted.get() + 1))
                })
            })
            .collect();
        for _ in 0..20 {
            TcpStream::connect(address).unwrap();
        }
        wait_until(|| accepted.get() == 20);
        for fiber in fibers {
            fiber.cancel();
            fiber.join().unwrap();
        }
    });
}

#[test]
fn a_stream_is_used_on_another_loop_and_on_a_plain_thread() {
    on_each_driver(|| {
        let (client, mut server) = pair();
        // The stream is registered on this loop first.
        let echo = spawn(move || {
            let mut bytes = [0; 3];
            for _ in 0..3 {
                server.read_exact(&mut bytes).unwrap();
                server.write_all(&bytes).unwrap();
            }
        });
        let client = Arc::new(client);
        fn exchange(stream: &TcpStream) {
            let (mut reader, mut writer) = (stream, stream);
            let mut bytes = [0; 3];
            writer.write_all(b"abc").unwrap();
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"abc");
        }
        exchange(&client);
        let (handle, thread) = worker(this_choice());
        let there = client.clone();
        handle.spawn(move || exchange(&there)).join().unwrap();
        handle.shutdown();
        assert_eq!(thread.join().unwrap(), StopReport::default());
        // A plain thread blocks; the loop continues meanwhile.
        let (done, waiting) = (
            Arc::new(std::sync::Mutex::new(None)),
            prepare_park().remote(),
        );
        let result = done.clone();
        std::thread::spawn(move || {
            exchange(&client);
            drop(client);
            *result.lock().unwrap() = Some(());
            waiting.wake();
        });
        park("the thread").unwrap();
        assert!(done.lock().unwrap().is_some());
        echo.join().unwrap();
    });
}

#[test]
fn in_a_callback_a_read_returns_would_block() {
    on_each_driver(|| {
        let (client, _server) = pair();
        let seen = Rc::new(RefCell::new(None));
        let outcome = seen.clone();
        let waker = prepare_park();
        let timer = Timer::new(move || {
            *outcome.borrow_mut() = Some((&client).read(&mut [0; 1]).unwrap_err().kind());
            waker.wake();
        });
        timer.arm(now());
        park("the timer").unwrap();
        assert_eq!(*seen.borrow(), Some(io::ErrorKind::WouldBlock));
    });
}

#[test]
fn a_reused_descriptor_number_is_not_confused_with_the_old_one() {
    on_each_driver(|| {
        for round in 0..50u8 {
            let (mut client, mut server) = pair();
            let writer = spawn(move || {
                yield_now().unwrap();
                client.write_all(&[round]).unwrap();
            });
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [round]);
            writer.join().unwrap();
        }
        assert_eq!(operations(), 0);
    });
}

#[test]
fn without_an_io_driver_the_error_says_what_to_do() {
    Loop::new(Config::default()).unwrap().run(|| {
        let error = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .accept()
            .unwrap_err();
        assert!(error.to_string().contains("yue_io::driver"), "{error}");
    });
}
