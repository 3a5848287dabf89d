//! UDP sockets, on both drivers.

mod common;

use common::*;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{Datagrams, UdpSocket};
use yue_scheduler::*;

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn datagrams_reach_an_address_and_carry_their_senders_address() {
    on_each_driver(|| {
        let ((one, from), (other, to)) = (socket(), socket());
        let fiber = spawn(move || {
            let mut buffer = [0; 16];
            let got = other.recv_from(&mut buffer).unwrap();
            other.send_to(&buffer[..got.0], got.1).unwrap();
            got
        });
        yield_now().unwrap();
        assert_eq!(one.send_to(b"ping", to).unwrap(), 4);
        let mut buffer = [0; 16];
        assert_eq!(one.recv_from(&mut buffer).unwrap(), (4, to));
        assert_eq!(&buffer[..4], b"ping");
        assert_eq!(fiber.join().unwrap(), (4, from));
    });
}

#[test]
fn a_connected_socket_has_one_peer() {
    on_each_driver(|| {
        let ((one, from), (other, to), (stranger, _)) = (socket(), socket(), socket());
        assert!(one.peer_addr().is_err());
        one.connect(to).unwrap();
        assert_eq!(one.peer_addr().unwrap(), to);
        stranger.send_to(b"not for you", from).unwrap();
        other.send_to(b"for you", from).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(one.recv(&mut buffer).unwrap(), 7);
        assert_eq!(one.send(b"thanks").unwrap(), 6);
        assert_eq!(other.recv_from(&mut buffer).unwrap(), (6, from));
    });
}

#[test]
fn datagrams_keep_their_boundaries() {
    on_each_driver(|| {
        let ((one, _), (other, to)) = (socket(), socket());
        for size in [0, 1, 1000, 3, 0, 60_000] {
            one.send_to(&vec![7; size], to).unwrap();
        }
        let mut buffer = vec![0; 65_536];
        // The first datagram is empty: a receive with an empty buffer takes it.
        assert_eq!(other.recv(&mut []).unwrap(), 0);
        assert_eq!(other.recv(&mut buffer).unwrap(), 1);
        // Truncated to the buffer; the rest is lost.
        assert_eq!(other.recv(&mut buffer[..10]).unwrap(), 10);
        assert_eq!(other.recv(&mut buffer).unwrap(), 3);
        assert_eq!(other.recv(&mut buffer).unwrap(), 0);
        assert_eq!(other.recv(&mut buffer).unwrap(), 60_000);
    });
}

#[test]
fn a_peek_leaves_the_datagram() {
    on_each_driver(|| {
        let ((one, from), (other, to)) = (socket(), socket());
        let other = Rc::new(other);
        let late = other.clone();
        let fiber = spawn(move || late.peek_from(&mut [0; 16]).unwrap());
        yield_now().unwrap();
        one.send_to(b"look", to).unwrap();
        assert_eq!(fiber.join().unwrap(), (4, from));
        let mut buffer = [0; 2];
        assert_eq!(other.peek(&mut buffer).unwrap(), 2);
        let mut buffer = [0; 16];
        assert_eq!(other.recv(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"look");
    });
}

#[test]
fn cancels_deadlines_and_timeouts_end_a_receive_and_lose_nothing() {
    on_each_driver(|| {
        let ((one, _), (other, to)) = (socket(), socket());
        let other = Rc::new(other);
        for round in 0..50u8 {
            let late = other.clone();
            let fiber = spawn(move || {
                let mut byte = [0];
                late.recv(&mut byte).map(|_| byte[0])
            });
            yield_now().unwrap();
            one.send_to(&[round], to).unwrap();
            fiber.cancel();
            let got = fiber.join().unwrap();
            let mut byte = [0];
            let value = got.unwrap_or_else(|_| {
                other.recv(&mut byte).unwrap();
                byte[0]
            });
            assert_eq!(value, round);
        }
        let limit = Duration::from_millis(5);
        let error = with_deadline(now().saturating_add(limit), || other.recv(&mut [0; 1]));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        other.set_read_timeout(Some(limit)).unwrap();
        let error = other.recv_batch(&mut Datagrams::new(4, 4)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn a_connected_sender_gets_an_error_for_a_closed_port() {
    on_each_driver(|| {
        let ((one, _), (other, to)) = (socket(), socket());
        drop(other);
        one.connect(to).unwrap();
        one.send(b"hello?").unwrap();
        let error = one.recv(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_batch_is_sent_and_received_in_one_call() {
    on_each_driver(|| {
        let ((one, from), (other, to)) = (socket(), socket());
        let fiber = spawn(move || {
            let mut batch = Datagrams::new(64, 8);
            let mut all = Vec::new();
            while all.len() < 100 {
                let count = other.recv_batch(&mut batch).unwrap();
                assert!(count > 0 && count == batch.len() && !batch.is_empty());
                for datagram in batch.iter() {
                    assert_eq!(datagram.from, from);
                    all.push((datagram.bytes.to_vec(), datagram.cut));
                }
            }
            all
        });
        yield_now().unwrap();
        let texts: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; usize::from(n % 10)]).collect();
        let datagrams: Vec<_> = texts.iter().map(|text| (&text[..], Some(to))).collect();
        let mut sent = 0;
        while sent < datagrams.len() {
            sent += one.send_batch(&datagrams[sent..]).unwrap();
        }
        for (n, (bytes, cut)) in fiber.join().unwrap().into_iter().enumerate() {
            // Nine bytes do not fit into eight.
            assert_eq!(
                (&bytes[..], cut),
                (&texts[n][..texts[n].len().min(8)], n % 10 == 9)
            );
        }
        assert_eq!(one.send_batch(&[]).unwrap(), 0);
        let (peer, at) = socket();
        one.connect(at).unwrap();
        assert_eq!(one.send_batch(&[(b"a", None), (b"bc", None)]).unwrap(), 2);
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 1);
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 2);
    });
}

#[test]
fn oversized_batch_dimensions_are_clamped() {
    on_each_driver(|| {
        let ((one, _), (other, to)) = (socket(), socket());
        // The product of the second pair is 1024, as far as 64 bits can hold it.
        for (count, size) in [(usize::MAX, usize::MAX), (1024, (1 << 54) + 1)] {
            let mut batch = Datagrams::new(count, size);
            one.send_to(&[0x55; 4000], to).unwrap();
            assert_eq!(other.recv_batch(&mut batch).unwrap(), 1);
            let datagram = batch.iter().next().unwrap();
            assert_eq!(datagram.bytes, [0x55; 4000]);
            assert!(!datagram.cut);
        }
    });
}

#[test]
fn multicast_reaches_the_members_of_a_group() {
    on_each_driver(|| {
        let group = Ipv4Addr::new(239, 255, 77, 77);
        let member = UdpSocket::bind_with("0.0.0.0:0", true).unwrap();
        let address = member.local_addr().unwrap();
        let second = UdpSocket::bind_with(address, true).unwrap();
        for socket in [&member, &second] {
            socket
                .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
                .unwrap();
        }
        let (sender, from) = socket();
        sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        sender.set_multicast_ttl_v4(1).unwrap();
        assert_eq!(sender.multicast_ttl_v4().unwrap(), 1);
        assert!(sender.multicast_loop_v4().unwrap());
        sender.send_to(b"all", (group, address.port())).unwrap();
        for socket in [&member, &second] {
            let mut buffer = [0; 8];
            assert_eq!(socket.recv_from(&mut buffer).unwrap(), (3, from));
        }
        member
            .leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .unwrap();
    });
}

#[test]
fn options_are_read_back_as_set() {
    on_each_driver(|| {
        let (one, address) = socket();
        assert!(!one.broadcast().unwrap());
        one.set_broadcast(true).unwrap();
        assert!(one.broadcast().unwrap());
        one.set_ttl(9).unwrap();
        assert_eq!(one.ttl().unwrap(), 9);
        one.set_recv_buffer_size(50_000).unwrap();
        assert!(one.recv_buffer_size().unwrap() >= 50_000);
        let clone = one.try_clone().unwrap();
        assert_eq!(clone.local_addr().unwrap(), address);
        assert_eq!(clone.into_std().unwrap().local_addr().unwrap(), address);
        assert!(one.send_to(b"", &[][..] as &[SocketAddr]).is_err());
    });
}

#[test]
fn a_plain_thread_sends_and_receives() {
    let ((one, _), (other, to)) = (socket(), socket());
    let thread = std::thread::spawn(move || {
        let mut batch = Datagrams::new(2, 16);
        other.recv_batch(&mut batch).unwrap();
        batch.iter().next().unwrap().bytes.to_vec()
    });
    one.send_to(b"plain", to).unwrap();
    assert_eq!(thread.join().unwrap(), b"plain");
}
