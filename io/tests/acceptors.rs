//! Several acceptors of one listener: fibers, clones, loops and threads. No acceptor sleeps while a connection waits
//! for another one that is busy, and no connection is lost. On both drivers.

#[path = "common/child.rs"]
mod child;
mod common;

use child::child_output;
use common::*;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::Choice;
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::*;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The ways in which a second acceptor waits for a connection.
const WAITS: [&str; 5] = ["incoming", "accept", "accept_many", "readable", "select"];

/// Waits for a connection in the given way, and returns it.
fn next_connection(listener: &TcpListener, way: &str) -> io::Result<TcpStream> {
    match way {
        // The iteration ends when the fiber is cancelled.
        "incoming" => listener
            .incoming()
            .next()
            .unwrap_or_else(|| Err(Stopped::Deadline.into())),
        "accept" => listener.accept().map(|(stream, _)| stream),
        "accept_many" => listener.accept_many(1).map(|mut all| all.remove(0).0),
        "readable" => {
            listener.readable()?;
            listener.accept().map(|(stream, _)| stream)
        }
        _ => {
            select! { ready = readable(listener) => ready }??;
            listener.accept().map(|(stream, _)| stream)
        }
    }
}

fn was_stopped(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// Makes two clients connect before the loop looks.
fn two_clients(address: SocketAddr) -> [std::net::TcpStream; 2] {
    [(), ()].map(|()| std::net::TcpStream::connect(address).unwrap())
}

/// One fiber serves the first connection with `incoming` until the second is served. So the second must be served by
/// the other acceptor, which is idle.
fn idle_acceptor_serves(
    listener: TcpListener,
    address: SocketAddr,
    start_other: impl FnOnce(TcpListener),
) {
    let clone = listener.try_clone().unwrap();
    let busy = spawn(move || -> io::Result<()> {
        let mut stream = listener.incoming().next().unwrap()?;
        let mut byte = [0];
        // The client continues when the other connection was served.
        stream.read_exact(&mut byte)?;
        stream.write_all(b"x")
    });
    yield_now().unwrap();
    start_other(clone);
    sleep(Duration::from_millis(5)).unwrap();
    let clients = two_clients(address);
    let mut clients = clients.map(TcpStream::from);
    let served = Rc::new(Cell::new(None));
    // The idle acceptor writes at once, whichever of the two connections it got.
    let readers: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(n, client)| {
            let (client, served) = (client.try_clone().unwrap(), served.clone());
            spawn(move || {
                let got = (&client).read(&mut [0; 1]);
                if matches!(got, Ok(1)) {
                    served.set(Some(n));
                }
            })
        })
        .collect();
    wait_until(|| served.get().is_some());
    let waiting = 1 - served.get().unwrap();
    clients[waiting].write_all(b"go").unwrap();
    busy.join().unwrap().unwrap();
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_connection_goes_to_an_acceptor_that_is_idle_and_not_to_one_that_is_busy() {
    on_each_driver(|| {
        for way in WAITS {
            eprintln!("{way}");
            let (listener, address) = listener();
            idle_acceptor_serves(listener, address, |listener| {
                drop(spawn(move || {
                    next_connection(&listener, way).unwrap().write_all(b"y")
                }));
            });
        }
    });
}

#[test]
fn a_connection_goes_to_an_acceptor_that_is_idle_on_another_loop_or_thread() {
    for choice in choices() {
        // Loops with either driver may share a listener.
        for other in choices() {
            let (handle, thread) = worker(other);
            run_on(choice, move || {
                for way in WAITS {
                    eprintln!("{choice:?}, {other:?}: {way}");
                    let (listener, address) = listener();
                    idle_acceptor_serves(listener, address, |listener| {
                        let serve =
                            move || next_connection(&listener, way).unwrap().write_all(b"y");
                        drop(handle.spawn(serve));
                    });
                }
                handle.shutdown();
            });
            thread.join().unwrap();
        }
        run_on(choice, || {
            for way in WAITS.into_iter().filter(|way| *way != "select") {
                eprintln!("{way}, on a thread");
                let (listener, address) = listener();
                idle_acceptor_serves(listener, address, |listener| {
                    let serve = move || next_connection(&listener, way).unwrap().write_all(b"y");
                    drop(std::thread::spawn(serve));
                });
            }
        });
    }
}

/// As many clients as acceptors. Each acceptor serves one client until all others are served.
fn each_acceptor_serves_one_client(ways: &[&'static str]) {
    let (listener, address) = listener();
    let all_served = Rc::new(sync::local::Barrier::new(ways.len()));
    let acceptors: Vec<_> = ways
        .iter()
        .map(|&way| {
            let (listener, all_served) = (listener.try_clone().unwrap(), all_served.clone());
            spawn(move || {
                let _stream = next_connection(&listener, way).unwrap();
                all_served.wait().map(drop)
            })
        })
        .collect();
    yield_now().unwrap();
    let connect = |_: &&str| std::net::TcpStream::connect(address).unwrap();
    let _clients: Vec<_> = ways.iter().map(connect).collect();
    wait_until(|| acceptors.iter().all(JoinHandle::is_done));
    for acceptor in acceptors {
        acceptor.join().unwrap().unwrap();
    }
}

#[test]
fn an_accept_that_ends_passes_on_the_wakes_of_others() {
    // With few ring entries, accepts end at any time.
    for entries in ["1", "2", "1024"] {
        let prepare = |command: &mut std::process::Command| {
            command.env("YUE_URING_ENTRIES", entries);
        };
        let test = "an_accept_that_ends_passes_on_the_wakes_of_others";
        let child = child_output(test, prepare, || {
            on_each_driver(|| {
                for round in 0..50 {
                    let ways: Vec<_> = (0..5)
                        .map(|n| WAITS[(n * round + n) % WAITS.len()])
                        .collect();
                    each_acceptor_serves_one_client(&ways);
                    each_acceptor_serves_one_client(&[
                        "incoming", "incoming", "accept", "incoming",
                    ]);
                }
            });
        });
        if child.is_none() {
            return;
        }
    }
}

#[test]
fn acceptors_of_all_kinds_that_start_and_stop_lose_no_connection() {
    const CLIENTS: usize = 60;
    for choice in choices() {
        let (handle, thread) = worker(choice);
        run_on(choice, move || {
            let (listener, address) = listener();
            let served = Arc::new(Mutex::new(Vec::new()));
            let serve =
                |listener: TcpListener, way: &'static str, served: Arc<Mutex<Vec<SocketAddr>>>| {
                    move || {
                        for round in 0.. {
                            let soon = now().saturating_add(Duration::from_millis(1 + round % 3));
                            // A deadline ends the wait, but a connection that arrived in time is returned.
                            match with_deadline(soon, || next_connection(&listener, way)) {
                                Ok(stream) => {
                                    served.lock().unwrap().push(stream.peer_addr().unwrap());
                                    let _ = sleep(Duration::from_micros(300));
                                }
                                Err(error) => assert!(was_stopped(&error), "{way}: {error}"),
                            }
                            if is_cancelled() {
                                return;
                            }
                        }
                    }
                };
            let fibers: Vec<_> = WAITS
                .iter()
                .map(|way| spawn(serve(listener.try_clone().unwrap(), way, served.clone())))
                .collect();
            let elsewhere: Vec<_> = WAITS
                .iter()
                .map(|way| handle.spawn(serve(listener.try_clone().unwrap(), way, served.clone())))
                .collect();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    if n % 5 == 0 {
                        sleep(Duration::from_millis(1)).unwrap();
                    }
                    std::net::TcpStream::connect(address).unwrap()
                })
                .collect();
            wait_until(|| served.lock().unwrap().len() >= CLIENTS);
            for fiber in fibers {
                fiber.cancel_and_join().unwrap();
            }
            for fiber in elsewhere {
                fiber.cancel_and_join().unwrap();
            }
            let mut got = served.lock().unwrap().clone();
            let mut expected: Vec<_> = clients
                .iter()
                .map(|client| client.local_addr().unwrap())
                .collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected);
            handle.shutdown();
        });
        thread.join().unwrap();
    }
}

/// Whether `incoming` accepts in advance: on io_uring, unless the environment disables it.
fn accepts_in_advance() -> bool {
    let off = std::env::var("YUE_URING_OFF").unwrap_or_default();
    this_choice() == Choice::Uring && !off.contains("multishot")
}

#[test]
fn the_last_handle_of_a_listener_is_not_converted_while_connections_are_left() {
    on_each_driver(|| {
        let (listener, address) = listener();
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let first = listener.incoming().next().unwrap().unwrap();
        assert_eq!(first.peer_addr().unwrap(), clients[0].local_addr().unwrap());
        // A clone can be converted, because this handle still accepts them.
        drop(listener.try_clone().unwrap().into_std().unwrap());
        let mut served = vec![first.peer_addr().unwrap()];
        if !accepts_in_advance() {
            assert!(listener.accept_queued().is_none());
            let standard = listener.into_std().unwrap();
            for client in &clients[1..] {
                assert_eq!(standard.accept().unwrap().1, client.local_addr().unwrap());
            }
            return;
        }
        let last = listener.try_clone().unwrap();
        served.push(listener.accept().unwrap().1);
        drop(listener);
        let (_, from) = last.accept_queued().unwrap();
        served.push(from);
        assert!(last.accept_queued().is_none());
        last.into_std().unwrap();
        let expected: Vec<_> = clients
            .iter()
            .map(|client| client.local_addr().unwrap())
            .collect();
        assert_eq!(served, expected);
    });
}

#[test]
fn a_conversion_that_would_lose_connections_is_refused() {
    run_on(Choice::Auto, || {
        if !accepts_in_advance() {
            return;
        }
        let (listener, address) = listener();
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        drop(listener.incoming().next().unwrap().unwrap());
        let error = listener.into_std().unwrap_err();
        assert!(error.to_string().contains("2 connections"), "{error}");
        drop(clients);
    });
}

#[test]
fn a_client_that_reset_its_connection_is_accepted_with_its_address() {
    on_each_driver(|| {
        let (listener, address) = listener();
        for by_incoming_first in [false, true] {
            let clients: Vec<_> = (0..3)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let expected: Vec<_> = clients
                .iter()
                .map(|client| client.local_addr().unwrap())
                .collect();
            let mut served = Vec::new();
            if by_incoming_first {
                served.push(
                    listener
                        .incoming()
                        .next()
                        .unwrap()
                        .unwrap()
                        .peer_addr()
                        .unwrap(),
                );
            }
            for client in clients {
                client.set_linger(Some(Duration::ZERO)).unwrap();
            }
            while served.len() < expected.len() {
                served.push(timeout(LONG, || listener.accept()).unwrap().unwrap().1);
            }
            assert_eq!(served, expected);
        }
    });
}
