//! `incoming`: on io_uring one operation accepts connections as they arrive, and no accepted connection may be lost.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use yue_scheduler::*;

const CLIENTS: usize = 10;

/// Creates a listener on which a lost connection shows as a failure.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_read_timeout(Some(LONG)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let one = |_| TcpStream::connect(address).unwrap();
    (0..count).map(one).collect()
}

fn local(stream: &TcpStream) -> SocketAddr {
    stream.local_addr().unwrap()
}

fn peer(stream: &TcpStream) -> SocketAddr {
    stream.peer_addr().unwrap()
}

/// Lets the loop turn without accepting.
fn turn_without_accepting() {
    (0..5).for_each(|_| sleep(Duration::from_millis(1)).unwrap());
}

#[test]
fn connections_accepted_in_advance_are_returned_next_and_in_order() {
    on_each_driver(|| {
        let (listener, address) = listener();
        let clients = connect(address, CLIENTS);
        let first = listener.incoming().next().unwrap().unwrap();
        assert_eq!(peer(&first), local(&clients[0]));
        let late = TcpStream::connect(address).unwrap();
        for client in &clients[1..4] {
            listener.readable().unwrap();
            let (_, from) = listener.accept().unwrap();
            assert_eq!(from, local(client));
        }
        let batch = listener.accept_many(3).unwrap();
        let expected: Vec<_> = clients[4..7].iter().map(local).collect();
        assert_eq!(
            batch.iter().map(|(_, from)| *from).collect::<Vec<_>>(),
            expected
        );
        let rest: Vec<_> = listener.incoming().take(4).map(Result::unwrap).collect();
        let expected: Vec<_> = clients[7..].iter().chain([&late]).map(local).collect();
        assert_eq!(rest.iter().map(peer).collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_clone_returns_connections_that_the_first_handle_accepted() {
    on_each_driver(|| {
        let (listener, address) = listener();
        let clone = listener.try_clone().unwrap();
        let clients = connect(address, CLIENTS);
        drop(listener.incoming().next().unwrap().unwrap());
        drop(listener);
        for client in &clients[1..] {
            clone.readable().unwrap();
            assert_eq!(peer(&clone.accept().unwrap().0), local(client));
        }
        clone
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        assert_eq!(
            clone.readable().unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    });
}

#[test]
fn a_listener_dropped_after_its_iterator_stops_listening() {
    on_each_driver(|| {
        let (listener, address) = listener();
        for _ in 0..20 {
            let client = TcpStream::connect(address).unwrap();
            drop(listener.incoming().next().unwrap().unwrap());
            drop(client);
        }
        let mut left = connect(address, 3);
        drop(listener.incoming().next().unwrap().unwrap());
        drop(listener);
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        // Connections accepted in advance are closed with the listener.
        for client in &mut left {
            assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
        // The port is free at once.
        drop(TcpListener::bind(address).unwrap());
    });
}

#[test]
fn no_connection_is_accepted_while_the_fiber_does_something_else() {
    on_each_driver(|| {
        let (listener, address) = listener();
        let first = TcpStream::connect(address).unwrap();
        let mut incoming = listener.incoming();
        let accepted = incoming.next().unwrap().unwrap();
        assert_eq!(peer(&accepted), local(&first));
        turn_without_accepting();
        assert_eq!(operations(), 0);
        let clients = connect(address, 3);
        turn_without_accepting();
        // All three are still in the backlog: a direct accept finds them.
        let other = listener.try_clone().unwrap().into_std().unwrap();
        other.set_nonblocking(true).unwrap();
        for client in &clients {
            assert_eq!(other.accept().unwrap().1, local(client));
        }
        // The iterator still works, though its descriptor is now non-blocking.
        let last = TcpStream::connect(address).unwrap();
        assert_eq!(peer(&incoming.next().unwrap().unwrap()), local(&last));
    });
}

#[test]
fn a_deadline_ends_the_wait_and_not_the_iterator() {
    on_each_driver(|| {
        let (listener, address) = listener();
        let mut incoming = listener.incoming();
        listener
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        for _ in 0..3 {
            let error = incoming.next().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        listener.set_read_timeout(Some(LONG)).unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(peer(&incoming.next().unwrap().unwrap()), local(&client));
    });
}

/// Accepts until the fiber is cancelled, and records the peers.
fn serve(listener: &TcpListener, served: &Rc<RefCell<Vec<SocketAddr>>>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        served.borrow_mut().push(peer(&stream));
    }
}

#[test]
fn a_cancel_during_accepts_loses_no_connection() {
    on_each_driver(|| {
        for round in 0..60 {
            let (listener, address) = listener();
            let listener = Rc::new(listener);
            let served = Rc::new(RefCell::new(Vec::new()));
            let server = {
                let (listener, served) = (listener.clone(), served.clone());
                spawn(move || serve(&listener, &served))
            };
            let mut clients = Vec::new();
            for n in 0..CLIENTS {
                if n == round % CLIENTS {
                    server.cancel();
                }
                clients.push(TcpStream::connect(address).unwrap());
            }
            server.join().unwrap();
            let mut seen = served.take();
            while seen.len() < CLIENTS {
                seen.push(listener.accept().unwrap().1);
            }
            assert_eq!(seen, clients.iter().map(local).collect::<Vec<_>>());
        }
    });
}

#[test]
fn fibers_and_loops_share_a_listener_and_each_connection_is_accepted_once() {
    for choice in choices() {
        let (handle, thread) = worker(choice);
        run_on(choice, move || {
            const MANY: usize = 300;
            let (listener, address) = listener();
            let listener = Arc::new(listener);
            // One byte for each accepted connection.
            let answer = |listener: &TcpListener| {
                for stream in listener.incoming() {
                    stream.unwrap().write_all(b"x").unwrap();
                }
            };
            let shared = listener.clone();
            let elsewhere = handle.spawn(move || answer(&shared));
            let here: Vec<_> = (0..2)
                .map(|_| {
                    let listener = listener.clone();
                    spawn(move || answer(&listener))
                })
                .collect();
            for batch in [1, 7, MANY - 8] {
                for mut client in connect(address, batch) {
                    let mut got = Vec::new();
                    client.read_to_end(&mut got).unwrap();
                    assert_eq!(got, b"x");
                }
            }
            for fiber in here {
                fiber.cancel();
                fiber.join().unwrap();
            }
            drop(listener);
            elsewhere.cancel_and_join().unwrap();
            handle.shutdown();
        });
        assert_eq!(thread.join().unwrap(), StopReport::default());
    }
}

#[test]
fn unix_listeners_accept_in_the_same_way() {
    on_each_driver(|| {
        let path = std::env::temp_dir().join(format!("yue-incoming-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let count = Rc::new(Cell::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let server = {
            let count = count.clone();
            spawn(move || {
                for stream in listener.incoming() {
                    stream.unwrap().write_all(b"x").unwrap();
                    count.set(count.get() + 1);
                }
            })
        };
        for mut client in clients {
            assert_eq!(client.read(&mut [0; 2]).unwrap(), 1);
        }
        server.cancel();
        server.join().unwrap();
        assert_eq!(count.get(), CLIENTS);
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_loop_that_ends_during_an_accept_releases_the_listener() {
    for choice in choices() {
        let address = run_on(choice, || {
            let (listener, address) = listener();
            drop(spawn(move || listener.incoming().for_each(drop)));
            drop(TcpStream::connect(address).unwrap());
            turn_without_accepting();
            address
        });
        drop(std::net::TcpListener::bind(address).unwrap());
    }
}
