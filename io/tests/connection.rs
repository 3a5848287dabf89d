//! Connections without a fiber, on both drivers.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::panic::catch_unwind;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_scheduler::*;

type OnData = Box<dyn Fn(&Connection, &[u8])>;

/// Records the callbacks; the test sets what `data` does.
#[derive(Default)]
struct Recorder {
    connection: RefCell<Option<Connection>>,
    on_data: RefCell<Option<OnData>>,
    data: RefCell<Vec<u8>>,
    sent: RefCell<Vec<usize>>,
    stay_at_end: Cell<bool>,
    ended: Cell<u32>,
    closed: RefCell<Vec<Result<(), io::ErrorKind>>>,
    inside: Cell<bool>,
    calls: Cell<u32>,
    panics_in: Cell<&'static str>,
}

impl Recorder {
    fn enter(&self) -> Inside<'_> {
        assert!(!self.inside.replace(true), "a callback inside a callback");
        assert!(self.closed.borrow().is_empty(), "a callback after `closed`");
        self.calls.set(self.calls.get() + 1);
        Inside(&self.inside)
    }

    fn panic_in(&self, callback: &str) {
        assert_ne!(self.panics_in.get(), callback, "on purpose");
    }

    fn connection(&self) -> Connection {
        self.connection.borrow().clone().unwrap()
    }

    fn is_closed(&self) -> bool {
        !self.closed.borrow().is_empty()
    }
}

struct Inside<'a>(&'a Cell<bool>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Sink for Recorder {
    fn data(&self, bytes: &[u8]) {
        let _inside = self.enter();
        self.data.borrow_mut().extend_from_slice(bytes);
        self.panic_in("data");
        self.panic_in("held back");
        if let Some(on_data) = &*self.on_data.borrow() {
            on_data(&self.connection(), bytes);
        }
    }

    fn sent(&self, buffer: Vec<u8>) {
        let _inside = self.enter();
        self.sent.borrow_mut().push(buffer.len());
        self.panic_in("sent");
    }

    fn end_of_input(&self) -> bool {
        let _inside = self.enter();
        self.ended.set(self.ended.get() + 1);
        self.panic_in("end of input");
        self.stay_at_end.get()
    }

    fn closed(&self, result: io::Result<()>) {
        let inside = self.enter();
        self.closed
            .borrow_mut()
            .push(result.map_err(|error| error.kind()));
        drop(inside);
        self.connection.take();
        self.panic_in("closed");
    }
}

/// Creates a connection under test and its peer.
fn started() -> (Connection, Rc<Recorder>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = spawn(move || TcpStream::connect(address).unwrap());
    let (server, _) = listener.accept().unwrap();
    let recorder = Rc::new(Recorder::default());
    let connection = Connection::start(server, recorder.clone()).unwrap();
    *recorder.connection.borrow_mut() = Some(connection.clone());
    (connection, recorder, client.join().unwrap())
}

fn echo(connection: &Connection, bytes: &[u8]) {
    connection.send(bytes.to_vec());
}

#[test]
fn answers_can_be_sent_from_the_data_callback() {
    on_each_driver(|| {
        let (_, recorder, mut peer) = started();
        *recorder.on_data.borrow_mut() = Some(Box::new(echo));
        for text in ["hello", "again"] {
            peer.write_all(text.as_bytes()).unwrap();
            let mut answer = [0; 5];
            peer.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, text.as_bytes());
        }
        drop(peer);
        wait_until(|| recorder.is_closed());
        assert_eq!(*recorder.closed.borrow(), [Ok(())]);
        assert_eq!(recorder.ended.get(), 1);
        assert_eq!(*recorder.sent.borrow(), [5, 5]);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn buffers_are_sent_in_order_and_returned() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        let mut expected = Vec::new();
        let sizes: Vec<usize> = (0..200).map(|n| 1 + n * 37 % 5000).collect();
        for (n, &size) in sizes.iter().enumerate() {
            connection.send(vec![n as u8; size]);
            expected.extend(vec![n as u8; size]);
            if n % 50 == 0 {
                yield_now().unwrap();
            }
        }
        assert!(connection.queued_bytes() > 0);
        let mut got = vec![0; expected.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == expected);
        wait_until(|| recorder.sent.borrow().len() == sizes.len());
        assert_eq!(*recorder.sent.borrow(), sizes);
        assert_eq!(connection.queued_bytes(), 0);
        connection.close();
        wait_until(|| recorder.is_closed());
        assert_eq!(operations(), 0);
    });
}

#[test]
fn large_buffers_survive_short_writes() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        let bytes: Vec<u8> = (0..6_000_000u32).map(|n| (n % 253) as u8).collect();
        connection.send(bytes.clone());
        connection.send(bytes.clone());
        connection.shutdown_write();
        connection.send(vec![1]);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert!(got == [&bytes[..], &bytes[..]].concat());
        wait_until(|| recorder.sent.borrow().len() == 2);
        assert!(connection.is_open());
        drop(peer);
        wait_until(|| recorder.is_closed());
        assert_eq!(*recorder.closed.borrow(), [Ok(())]);
    });
}

#[test]
fn no_data_is_delivered_while_reading_is_off_and_none_is_lost() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        *recorder.on_data.borrow_mut() =
            Some(Box::new(|connection, _| connection.set_reading(false)));
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 241) as u8).collect();
        let expected = bytes.clone();
        let writer = spawn(move || {
            peer.write_all(&bytes).unwrap();
            peer
        });
        let mut rounds = 0;
        while recorder.data.borrow().len() < expected.len() {
            let before = recorder.data.borrow().len();
            wait_until(|| recorder.data.borrow().len() > before);
            for _ in 0..3 {
                let length = recorder.data.borrow().len();
                sleep(Duration::from_micros(50)).unwrap();
                assert_eq!(recorder.data.borrow().len(), length);
            }
            rounds += 1;
            connection.set_reading(true);
        }
        assert!(rounds > 1);
        assert!(*recorder.data.borrow() == expected);
        drop(writer.join().unwrap());
        connection.set_reading(true);
        wait_until(|| recorder.is_closed());
        assert_eq!(operations(), 0);
    });
}

#[test]
fn a_connection_that_is_not_read_slows_its_peer_down() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        connection.set_reading(false);
        let chunk = vec![7; 1 << 20];
        let limit = now().saturating_add(Duration::from_millis(50));
        let mut written = 0;
        let error = with_deadline(limit, || {
            loop {
                match peer.write(&chunk) {
                    Ok(count) => written += count,
                    Err(error) => return error,
                }
            }
        });
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(recorder.data.borrow().len(), 0);
        peer.shutdown(Shutdown::Write).unwrap();
        connection.set_reading(true);
        wait_until(|| recorder.is_closed());
        assert_eq!(recorder.data.borrow().len(), written);
    });
}

#[test]
fn no_data_follows_a_close_in_a_callback() {
    on_each_driver(|| {
        let (_, recorder, mut peer) = started();
        *recorder.on_data.borrow_mut() = Some(Box::new(|connection, _| {
            connection.send(vec![0; 10_000_000]);
            connection.close();
            connection.close();
        }));
        peer.write_all(b"bye").unwrap();
        wait_until(|| recorder.is_closed());
        // The kernel may answer unread bytes with a reset.
        let _ = peer.write_all(b"still there?");
        sleep(Duration::from_millis(2)).unwrap();
        assert_eq!(*recorder.closed.borrow(), [Ok(())]);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn queued_bytes_are_sent_before_close_when_sent_closes() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        connection.send(vec![1; 3_000_000]);
        connection.close_when_sent();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 3_000_000);
        wait_until(|| recorder.is_closed());
        assert_eq!(*recorder.closed.borrow(), [Ok(())]);
        assert_eq!(*recorder.sent.borrow(), [3_000_000]);
    });
}

#[test]
fn the_end_of_input_may_leave_sending_open() {
    on_each_driver(|| {
        let (connection, recorder, mut peer) = started();
        recorder.stay_at_end.set(true);
        peer.write_all(b"question").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        wait_until(|| recorder.ended.get() == 1);
        assert_eq!(*recorder.data.borrow(), b"question");
        connection.send(b"answer".to_vec());
        connection.close_when_sent();
        assert_eq!(io::read_to_string(peer).unwrap(), "answer");
        wait_until(|| recorder.is_closed());
        assert_eq!(recorder.ended.get(), 1);
    });
}

#[test]
fn a_connection_whose_directions_have_both_ended_closes() {
    on_each_driver(|| {
        for peer_first in [true, false] {
            let (connection, recorder, mut peer) = started();
            recorder.stay_at_end.set(true);
            if peer_first {
                peer.shutdown(Shutdown::Write).unwrap();
                wait_until(|| recorder.ended.get() == 1);
            }
            connection.send(b"answer".to_vec());
            connection.shutdown_write();
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"answer");
            if !peer_first {
                assert!(!recorder.is_closed(), "the peer may still send");
                peer.shutdown(Shutdown::Write).unwrap();
            }
            wait_until(|| recorder.is_closed());
            assert_eq!(*recorder.closed.borrow(), [Ok(())]);
            assert_eq!(recorder.ended.get(), 1);
        }
    });
}

#[test]
fn a_reset_closes_with_an_error() {
    on_each_driver(|| {
        let (_, recorder, peer) = started();
        let peer = peer.into_std().unwrap();
        socket2::SockRef::from(&peer)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(peer);
        wait_until(|| recorder.is_closed());
        assert_eq!(
            *recorder.closed.borrow(),
            [Err(io::ErrorKind::ConnectionReset)]
        );
        assert_eq!(operations(), 0);
    });
}

#[test]
fn the_end_of_the_loop_closes_open_connections() {
    for choice in choices() {
        let recorders = run_on(choice, || {
            let (busy, first, _peer) = started();
            busy.send(vec![0; 20_000_000]);
            let (quiet, second, _other) = started();
            quiet.set_reading(false);
            yield_now().unwrap();
            assert_eq!(operations(), 2);
            std::mem::forget((_peer, _other));
            [first, second]
        });
        for recorder in recorders {
            assert_eq!(
                *recorder.closed.borrow(),
                [Err(io::ErrorKind::ConnectionAborted)]
            );
        }
    }
}

#[test]
fn a_flood_on_many_connections_exhausts_the_buffers_and_loses_nothing() {
    on_each_driver(|| {
        let size = 2_000_000;
        let all: Vec<_> = (0..24).map(|_| started()).collect();
        let mut writers = Vec::new();
        let mut recorders = Vec::new();
        for (n, (connection, recorder, mut peer)) in all.into_iter().enumerate() {
            connection.set_reading(false);
            recorders.push((connection, recorder));
            writers.push(spawn(move || {
                let bytes: Vec<u8> = (0..size).map(|i| (i + n) as u8).collect();
                peer.write_all(&bytes).unwrap();
            }));
        }
        sleep(Duration::from_millis(20)).unwrap();
        // The kernel's buffers are full on all connections; now all are read at once.
        recorders
            .iter()
            .for_each(|(connection, _)| connection.set_reading(true));
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        for (n, (_, recorder)) in recorders.iter().enumerate() {
            wait_until(|| recorder.is_closed());
            let data = recorder.data.borrow();
            assert_eq!(data.len(), size);
            assert!(
                data.iter()
                    .enumerate()
                    .all(|(i, &byte)| byte == (i + n) as u8)
            );
        }
        // Not where settings disable the ring's buffers or multishot receives.
        let settings = ["YUE_URING_OFF", "YUE_URING_ENTRIES"];
        let as_usual = settings.iter().all(|name| std::env::var_os(name).is_none());
        if this_choice() == yue_io::Choice::Uring && as_usual {
            let exhausted = yue_io::counters().unwrap().buffers_exhausted;
            assert!(exhausted > 0, "the test did not exhaust the buffers");
        }
    });
}

#[test]
fn a_unix_socket_works_too() {
    on_each_driver(|| {
        let (one, mut other) = UnixStream::pair().unwrap();
        let recorder = Rc::new(Recorder::default());
        let connection = Connection::start_unix(one, recorder.clone()).unwrap();
        *recorder.connection.borrow_mut() = Some(connection);
        *recorder.on_data.borrow_mut() = Some(Box::new(echo));
        other.write_all(b"unix").unwrap();
        let mut answer = [0; 4];
        other.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"unix");
        drop(other);
        wait_until(|| recorder.is_closed());
    });
}

#[test]
fn the_sink_is_dropped_after_the_end() {
    on_each_driver(|| {
        let (connection, recorder, peer) = started();
        let weak: Weak<Recorder> = Rc::downgrade(&recorder);
        drop((connection, recorder, peer));
        wait_until(|| weak.upgrade().is_none());
    });
}

#[test]
fn a_callback_that_panics_closes_its_connection_and_no_other() {
    on_each_driver(|| {
        let (_, other, mut other_peer) = started();
        *other.on_data.borrow_mut() = Some(Box::new(echo));
        for callback in ["data", "held back", "sent", "end of input", "closed"] {
            eprintln!("{callback} panics");
            let (connection, recorder, mut peer) = started();
            connection.set_reading(callback != "held back");
            recorder.panics_in.set(callback);
            *recorder.on_data.borrow_mut() = Some(Box::new(echo));
            // More than is delivered at once; a peer whose connection is closed may see an error while it writes.
            let writer = spawn(move || {
                let _ = peer.write_all(&[7; 200_000]);
                let _ = peer.shutdown(Shutdown::Write);
                let mut back = Vec::new();
                let _ = peer.read_to_end(&mut back);
            });
            sleep(Duration::from_millis(2)).unwrap();
            connection.set_reading(true);
            wait_until(|| recorder.is_closed());
            assert!(!connection.is_open());
            let expected = match callback {
                "closed" => Ok(()),
                _ => Err(io::ErrorKind::Other),
            };
            assert_eq!(*recorder.closed.borrow(), [expected]);
            let calls = recorder.calls.get();
            // The peer reads end of input.
            writer.join().unwrap();
            assert_eq!(recorder.calls.get(), calls, "a callback after `closed`");

            other_peer.write_all(b"still there").unwrap();
            let mut answer = [0; 11];
            other_peer.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"still there");
        }
        drop(other_peer);
        wait_until(|| other.is_closed());
        assert_eq!(operations(), 0);
    });
}

#[test]
fn a_drivers_turn_is_refused_in_a_fiber_and_in_a_callback() {
    on_each_driver(|| {
        let (_, recorder, mut peer) = started();
        let refused = spawn(|| this_loop::with_driver(|driver| driver.turn(Wait::Poll)));
        let error = refused.join().map(drop).unwrap_err().to_string();
        assert!(
            error.contains("only a loop may call its driver's turn"),
            "{error}"
        );
        *recorder.on_data.borrow_mut() = Some(Box::new(|_, _| {
            let turn = || this_loop::with_driver(|driver| driver.turn(Wait::Poll)).map(drop);
            let panic = catch_unwind(turn).unwrap_err();
            let text = panic.downcast_ref::<&str>().unwrap();
            assert!(
                text.contains("a callback called its driver's turn"),
                "{text}"
            );
        }));
        for _ in 0..3 {
            let before = recorder.data.borrow().len();
            peer.write_all(b"x").unwrap();
            wait_until(|| recorder.data.borrow().len() > before);
        }
        drop(peer);
        wait_until(|| recorder.is_closed());
        assert_eq!(*recorder.closed.borrow(), [Ok(())]);
    });
}
