//! The bytes of TCP connections, and their ends.

use super::*;
use crate::simulated::links::Link;
use crate::simulated::options::Keepalive;
use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;

#[test]
fn bytes_arrive_after_the_latency_and_can_be_peeked() {
    let mut world = World::new(1);
    let (client, server, _) = world.connection();
    assert_eq!(world.network.send(client, b"hello").unwrap(), 5);
    assert_eq!(
        errno(world.network.recv(server, &mut [0; 8], 0)),
        libc::EAGAIN
    );
    let took = world.run_until(|network| network.level(server).unwrap().readable);
    assert_eq!(took, Duration::from_micros(200));
    let mut buffer = [0; 8];
    assert_eq!(
        world
            .network
            .recv(server, &mut buffer, libc::MSG_PEEK)
            .unwrap(),
        5
    );
    let (mut one, mut other) = ([0; 2], [0; 8]);
    let slices = &mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut other)];
    assert_eq!(
        world
            .network
            .receive_message(server, slices, false)
            .unwrap()
            .bytes,
        5
    );
    assert_eq!((&one[..], &other[..3]), (&b"he"[..], &b"llo"[..]));
    let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
    assert_eq!(
        world.network.send_message(server, &slices, None).unwrap(),
        4
    );
    world.run_for(MILLISECOND);
    assert_eq!(world.read(client), b"abcd");
}

#[test]
fn a_writer_without_a_reader_is_stopped_by_full_buffers() {
    let mut world = World::new(2);
    let (client, server, _) = world.connection();
    world.network.set_send_buffer(client, 10_000).unwrap();
    assert_eq!(world.network.send_buffer(client).unwrap(), 20_000);
    let pattern: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0;
    for _ in 0..100 {
        while let Ok(count) = world.network.send(client, &pattern[sent..]) {
            sent += count;
        }
        world.run_for(10 * MILLISECOND);
    }
    let capacity = 20_000 + world.network.receive_buffer(server).unwrap();
    assert_eq!(sent, capacity);
    assert!(!world.network.level(client).unwrap().writable);
    let mut received = Vec::new();
    while sent < pattern.len() || received.len() < pattern.len() {
        received.extend(world.read(server));
        while let Ok(count) = world.network.send(client, &pattern[sent..]) {
            sent += count;
            if sent == pattern.len() {
                break;
            }
        }
        let next = world.network.next_event();
        if let Some(next) = next {
            world.network.advance(next);
        }
    }
    assert_eq!(received, pattern);
    assert_eq!(world.network.buffered_bytes(), 0);
}

#[test]
fn a_lost_announcement_of_room_is_found_by_a_probe() {
    let mut world = World::new(3);
    let (client, server, _) = world.connection();
    loop {
        while world.network.send(client, &[7; 5000]).is_ok() {}
        world.run_for(MILLISECOND);
        if world.network.send(client, &[7; 5000]).is_err() {
            break;
        }
    }
    world.network.partition_one_way(2, 1);
    world.read(server);
    world.run_for(MILLISECOND);
    world.network.heal(1, 2);
    let took = world.run_until(|network| network.level(client).unwrap().writable);
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn a_half_closed_connection_still_delivers_in_the_other_direction() {
    let mut world = World::new(4);
    let (client, server, _) = world.connection();
    world.network.send(client, b"question").unwrap();
    world.network.shutdown(client, Shutdown::Write).unwrap();
    assert_eq!(errno(world.network.send(client, b"more")), libc::EPIPE);
    world.run_for(MILLISECOND);
    assert_eq!(world.drain(server).unwrap(), (b"question".to_vec(), true));
    let level = world.network.level(server).unwrap();
    assert!(level.readable && level.read_closed && level.writable && !level.write_closed);
    world.network.send(server, b"answer").unwrap();
    world.network.close(server).unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(world.drain(client).unwrap(), (b"answer".to_vec(), true));
    let level = world.network.level(client).unwrap();
    assert!(
        level.read_closed && level.write_closed,
        "both directions have ended"
    );
    world.network.close(client).unwrap();
    world.run_for(2 * MINUTE);
    assert_eq!(world.network.socket_count(), 1, "only the listener is left");
    assert_eq!(world.network.event_count(), 0);
}

#[test]
fn closing_with_unread_bytes_resets_the_connection() {
    let mut world = World::new(5);
    let (client, server, _) = world.connection();
    world.network.send(server, b"read me").unwrap();
    world.network.send(client, b"unread").unwrap();
    world.run_for(MILLISECOND);
    world.network.close(server).unwrap();
    world.run_for(MILLISECOND);
    // What had arrived is still readable, then comes the error, then the end.
    let mut buffer = [0; 16];
    assert_eq!(world.network.recv(client, &mut buffer, 0).unwrap(), 7);
    assert_eq!(
        errno(world.network.recv(client, &mut buffer, 0)),
        libc::ECONNRESET
    );
    assert_eq!(world.network.recv(client, &mut buffer, 0).unwrap(), 0);
    assert_eq!(errno(world.network.send(client, b"x")), libc::EPIPE);
    assert_eq!(errno(world.network.peer_address(client)), libc::ENOTCONN);
    assert_eq!(
        world.network.last_peer_address(client).unwrap(),
        inet("10.0.0.2:80")
    );
}

#[test]
fn a_linger_time_of_zero_resets_the_connection() {
    let mut world = World::new(6);
    let (client, server, _) = world.connection();
    world.network.options_mut(client).unwrap().linger = Some(Duration::ZERO);
    world.network.close(client).unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(errno(world.network.send(server, b"x")), libc::ECONNRESET);
    assert_eq!(errno(world.network.send(server, b"x")), libc::EPIPE);
    assert_eq!(world.network.recv(server, &mut [0], 0).unwrap(), 0);
}

#[test]
fn bytes_for_a_closed_socket_are_answered_by_a_reset() {
    let mut world = World::new(7);
    let (client, server, _) = world.connection();
    world.network.close(server).unwrap();
    world.run_for(MILLISECOND);
    // The first send succeeds: the peer's FIN says only that it will not send.
    assert_eq!(world.network.send(client, b"late").unwrap(), 4);
    world.run_for(MILLISECOND);
    assert_eq!(
        world.network.socket_count(),
        2,
        "the server's socket has ended"
    );
    assert_eq!(errno(world.network.send(client, b"x")), libc::EPIPE);
}

#[test]
fn a_lost_last_acknowledgment_does_not_break_the_peer() {
    let mut world = World::new(13);
    let (client, server, _) = world.connection();
    world.network.shutdown(client, Shutdown::Write).unwrap();
    world.run_for(MILLISECOND);
    world.network.shutdown(server, Shutdown::Write).unwrap();
    world.network.partition_one_way(1, 2);
    world.run_for(MILLISECOND);
    assert_eq!(world.drain(client).unwrap(), (Vec::new(), true));
    world.network.close(client).unwrap();
    world.run_for(10 * MILLISECOND);
    world.network.heal(1, 2);
    world.run_for(SECOND);
    assert!(world.network.take_error(server).unwrap().is_none());
    let level = world.network.level(server).unwrap();
    assert!(level.read_closed && level.write_closed && !level.error);
    world.network.close(server).unwrap();
    world.run_for(2 * MINUTE);
    assert_eq!(world.network.socket_count(), 1);
}

#[test]
fn a_closed_socket_still_delivers_what_was_sent() {
    let mut world = World::new(8);
    let (client, server, _) = world.connection();
    world.network.partition(1, 2);
    world.network.send(client, &[1; 50_000]).unwrap();
    world.network.close(client).unwrap();
    world.run_for(SECOND);
    world.network.heal(1, 2);
    let mut received = 0;
    for _ in 0..100 {
        world.run_for(SECOND);
        let (bytes, ended) = world.drain(server).unwrap();
        received += bytes.len();
        if ended {
            assert_eq!(received, 50_000);
            return;
        }
    }
    panic!("the stream did not end; {received} bytes arrived");
}

#[test]
fn bandwidth_limits_the_rate_of_a_stream() {
    let mut world = World::new(9);
    let bandwidth = Some(100_000);
    world.network.set_link(
        1,
        2,
        Link {
            bandwidth,
            ..Link::default()
        },
    );
    let (client, server, _) = world.connection();
    world.network.send(client, &[5; 100_000]).unwrap();
    let mut received = 0;
    let mut buffer = vec![0; 100_000];
    let took = world.run_until(|network| {
        if let Ok(count) = network.recv(server, &mut buffer, 0) {
            received += count;
        }
        received == 100_000
    });
    assert!(took > SECOND && took < SECOND + SECOND / 10, "{took:?}");
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::Retransmitted), 0);
}

#[test]
fn keepalive_finds_a_peer_that_is_gone_and_keeps_one_that_is_there() {
    let keepalive = Keepalive {
        on: true,
        idle: 30 * SECOND,
        interval: 10 * SECOND,
        retries: 3,
    };
    let mut world = World::new(10);
    let (client, _, _) = world.connection();
    world.network.set_keepalive(client, keepalive).unwrap();
    assert_eq!(world.network.options(client).unwrap().keepalive, keepalive);
    world.run_for(10 * MINUTE);
    assert!(world.network.level(client).unwrap().writable);
    world.network.partition(1, 2);
    let took = world.run_until(|network| network.level(client).unwrap().error);
    assert!(took >= 30 * SECOND && took <= 90 * SECOND, "{took:?}");
    assert_eq!(errno(world.drain(client)), libc::ETIMEDOUT);
}

#[test]
fn options_are_stored() {
    let mut world = World::new(11);
    let fd = world.tcp(1);
    let options = world.network.options_mut(fd).unwrap();
    assert_eq!(
        (options.ttl, options.nodelay, options.linger),
        (64, false, None)
    );
    (options.ttl, options.nodelay) = (9, true);
    world.network.set_receive_buffer(fd, 1).unwrap();
    assert_eq!(world.network.receive_buffer(fd).unwrap(), 2304);
    world.network.set_send_buffer(fd, usize::MAX).unwrap();
    assert_eq!(world.network.send_buffer(fd).unwrap(), 425_984);
    assert_eq!(world.network.options(fd).unwrap().ttl, 9);
}

#[test]
fn a_small_receive_buffer_slows_the_sender_and_loses_nothing() {
    let mut world = World::new(12);
    let (client, server, _) = world.connection();
    // The window that was offered is not taken back, so it is used up first.
    world.network.set_receive_buffer(server, 1).unwrap();
    let pattern: Vec<u8> = (0..300_000u32).map(|n| (n % 249) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < pattern.len() {
        if sent < pattern.len()
            && let Ok(count) = world.network.send(client, &pattern[sent..])
        {
            sent += count;
        }
        let mut buffer = [0; 700];
        if let Ok(count) = world.network.recv(server, &mut buffer, 0) {
            received.extend_from_slice(&buffer[..count]);
        }
        world.run_for(Duration::from_micros(100));
    }
    assert_eq!(received, pattern);
}
