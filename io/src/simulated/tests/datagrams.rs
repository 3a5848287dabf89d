//! UDP sockets.

use super::*;
use crate::simulated::calls::Received;
use crate::simulated::links::Link;
use std::io::{IoSlice, IoSliceMut};

fn send_to(world: &mut World, fd: RawFd, bytes: &[u8], to: &str) -> io::Result<usize> {
    world
        .network
        .send_message(fd, &[IoSlice::new(bytes)], Some(&inet(to)))
}

fn receive(world: &mut World, fd: RawFd, size: usize) -> io::Result<(Vec<u8>, Received)> {
    let mut buffer = vec![0; size];
    let received = world
        .network
        .receive_message(fd, &mut [IoSliceMut::new(&mut buffer)], false)?;
    buffer.truncate(received.bytes);
    Ok((buffer, received))
}

#[test]
fn a_datagram_arrives_with_its_senders_address() {
    let mut world = World::new(1);
    let receiver = world.udp(2, "0.0.0.0:53");
    let sender = world.socket(1, Domain::V4, Type::Datagram);
    assert_eq!(errno(world.network.send(sender, b"x")), libc::EDESTADDRREQ);
    assert_eq!(
        send_to(&mut world, sender, b"query", "10.0.0.2:53").unwrap(),
        5
    );
    assert_eq!(errno(receive(&mut world, receiver, 9)), libc::EAGAIN);
    world.run_for(MILLISECOND);
    assert!(world.network.level(receiver).unwrap().readable);
    let mut peeked = [0; 9];
    assert_eq!(
        world
            .network
            .recv(receiver, &mut peeked, libc::MSG_PEEK)
            .unwrap(),
        5
    );
    let (bytes, received) = receive(&mut world, receiver, 9).unwrap();
    let from = received.from.unwrap().inet().unwrap();
    assert_eq!(
        (bytes, from.ip()),
        (b"query".to_vec(), "10.0.0.1".parse().unwrap())
    );
    assert_eq!(from.port(), world.local(sender).port());
    assert_eq!(errno(receive(&mut world, receiver, 9)), libc::EAGAIN);
}

#[test]
fn a_datagram_that_is_longer_than_the_buffer_is_truncated() {
    let mut world = World::new(2);
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    for text in ["too long", "next", ""] {
        send_to(&mut world, sender, text.as_bytes(), "10.0.0.2:53").unwrap();
    }
    world.run_for(MILLISECOND);
    let (bytes, received) = receive(&mut world, receiver, 3).unwrap();
    assert_eq!((bytes, received.length), (b"too".to_vec(), 8));
    assert_eq!(receive(&mut world, receiver, 9).unwrap().0, b"next");
    assert_eq!(receive(&mut world, receiver, 9).unwrap().1.length, 0);
}

#[test]
fn a_connected_socket_learns_of_a_closed_port() {
    let mut world = World::new(3);
    let connected = world.socket(1, Domain::V4, Type::Datagram);
    world
        .network
        .connect(connected, &inet("10.0.0.2:53"))
        .unwrap();
    assert_eq!(
        world.network.peer_address(connected).unwrap(),
        inet("10.0.0.2:53")
    );
    let unconnected = world.udp(1, "10.0.0.1:0");
    world.network.send(connected, b"x").unwrap();
    send_to(&mut world, unconnected, b"x", "10.0.0.2:53").unwrap();
    world.run_for(MILLISECOND);
    assert!(world.network.level(connected).unwrap().error);
    assert_eq!(errno(receive(&mut world, connected, 9)), libc::ECONNREFUSED);
    assert_eq!(errno(receive(&mut world, connected, 9)), libc::EAGAIN);
    assert_eq!(errno(receive(&mut world, unconnected, 9)), libc::EAGAIN);
}

#[test]
fn a_connected_socket_receives_from_its_peer_alone() {
    let mut world = World::new(4);
    let server = world.udp(2, "10.0.0.2:53");
    let stranger = world.udp(2, "10.0.0.2:54");
    let client = world.udp(1, "10.0.0.1:1000");
    world.network.connect(client, &inet("10.0.0.2:53")).unwrap();
    send_to(&mut world, stranger, b"spoofed", "10.0.0.1:1000").unwrap();
    send_to(&mut world, server, b"genuine", "10.0.0.1:1000").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(receive(&mut world, client, 9).unwrap().0, b"genuine");
    assert_eq!(errno(receive(&mut world, client, 9)), libc::EAGAIN);
}

#[test]
fn a_link_loses_duplicates_and_reorders_datagrams() {
    let mut world = World::new(5);
    let (loss, duplicate, reorder) = (0.2, 0.2, 0.2);
    let link = Link {
        loss,
        duplicate,
        reorder,
        ..Link::default()
    };
    world.network.set_link(1, 2, link);
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    let mut numbers = Vec::new();
    for n in 0..500u32 {
        send_to(&mut world, sender, &n.to_le_bytes(), "10.0.0.2:53").unwrap();
        world.run_for(MILLISECOND / 2);
        while let Ok((bytes, _)) = receive(&mut world, receiver, 4) {
            numbers.push(u32::from_le_bytes(bytes.try_into().unwrap()));
        }
    }
    let distinct: std::collections::BTreeSet<u32> = numbers.iter().copied().collect();
    assert!(
        (300..480).contains(&distinct.len()),
        "some were lost: {}",
        distinct.len()
    );
    assert!(numbers.len() > distinct.len() + 30, "some came twice");
    assert!(!numbers.is_sorted(), "some overtook others");
}

#[test]
fn jitter_alone_does_not_reorder_datagrams() {
    let mut world = World::new(6);
    let jitter = 50 * MILLISECOND;
    world.network.set_link(
        1,
        2,
        Link {
            jitter,
            ..Link::default()
        },
    );
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    for n in 0..100u8 {
        send_to(&mut world, sender, &[n], "10.0.0.2:53").unwrap();
    }
    world.run_for(SECOND);
    let numbers: Vec<u8> = (0..100)
        .map(|_| receive(&mut world, receiver, 1).unwrap().0[0])
        .collect();
    assert!(numbers.is_sorted());
}

#[test]
fn datagrams_beyond_the_receive_buffer_are_lost() {
    let mut world = World::new(7);
    let receiver = world.udp(2, "10.0.0.2:53");
    world.network.set_receive_buffer(receiver, 10_000).unwrap();
    let sender = world.udp(1, "10.0.0.1:0");
    for _ in 0..100 {
        send_to(&mut world, sender, &[0; 1000], "10.0.0.2:53").unwrap();
    }
    world.run_for(MILLISECOND);
    assert!(world.network.buffered_bytes() <= 20_000);
    let mut count = 0;
    while receive(&mut world, receiver, 1000).is_ok() {
        count += 1;
    }
    assert_eq!(count, 20_000 / 1768);
    assert_eq!(world.network.buffered_bytes(), 0);
}

#[test]
fn a_slow_link_delays_datagrams_and_drops_those_that_would_wait_long() {
    let mut world = World::new(8);
    let bandwidth = Some(10_000);
    world.network.set_link(
        1,
        2,
        Link {
            bandwidth,
            ..Link::default()
        },
    );
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    for _ in 0..100 {
        send_to(&mut world, sender, &[0; 934], "10.0.0.2:53").unwrap();
    }
    world.run_for(10 * SECOND);
    let mut count = 0;
    while receive(&mut world, receiver, 1000).is_ok() {
        count += 1;
    }
    assert_eq!(count, 5, "a tenth of a second each, for half a second");
    send_to(&mut world, sender, &[0; 934], "10.0.0.2:53").unwrap();
    world.run_for(SECOND);
    assert!(
        receive(&mut world, receiver, 1000).is_ok(),
        "the link is free again"
    );
}

#[test]
fn errors_of_datagrams_are_those_of_the_kernel() {
    let mut world = World::new(9);
    let sender = world.udp(1, "10.0.0.1:0");
    let long = vec![0; 65_508];
    assert_eq!(
        errno(send_to(&mut world, sender, &long, "10.0.0.2:53")),
        libc::EMSGSIZE
    );
    assert_eq!(
        errno(send_to(&mut world, sender, b"x", "10.9.9.9:53")),
        libc::ENETUNREACH
    );
    assert_eq!(
        errno(send_to(&mut world, sender, b"x", "255.255.255.255:53")),
        libc::EACCES
    );
    assert_eq!(
        errno(send_to(&mut world, sender, b"x", "10.0.0.2:0")),
        libc::EINVAL
    );
    let multicast = send_to(&mut world, sender, b"x", "224.0.0.1:53").unwrap_err();
    assert_eq!(multicast.kind(), io::ErrorKind::Unsupported);
    assert!(multicast.to_string().contains("multicast"));
    let connected = world.network.shutdown(sender, std::net::Shutdown::Write);
    assert_eq!(errno(connected), libc::ENOTCONN);
    assert_eq!(errno(world.network.listen(sender, 1)), libc::EOPNOTSUPP);
    let taken = world.local(sender).to_string();
    let other = world.socket(1, Domain::V4, Type::Datagram);
    assert_eq!(
        errno(world.network.bind(other, &inet(&taken))),
        libc::EADDRINUSE
    );
}

#[test]
fn sockets_that_share_a_port_each_receive_from_some_senders() {
    let mut world = World::new(10);
    let receivers = [0, 1].map(|_| {
        let fd = world.socket(2, Domain::V4, Type::Datagram);
        world.network.options_mut(fd).unwrap().reuse_port = true;
        world.network.bind(fd, &inet("10.0.0.2:53")).unwrap();
        fd
    });
    for _ in 0..40 {
        let sender = world.udp(1, "10.0.0.1:0");
        send_to(&mut world, sender, b"1", "10.0.0.2:53").unwrap();
        send_to(&mut world, sender, b"2", "10.0.0.2:53").unwrap();
    }
    world.run_for(MILLISECOND);
    for receiver in receivers {
        let mut senders = Vec::new();
        while let Ok((_, received)) = receive(&mut world, receiver, 1) {
            senders.push(received.from.unwrap());
        }
        assert!(senders.len() > 10);
        senders.sort();
        assert!(
            senders.chunks(2).all(|pair| pair[0] == pair[1]),
            "a sender stays with a socket"
        );
    }
}
