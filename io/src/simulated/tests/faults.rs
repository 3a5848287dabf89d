//! Partitions, losses, resets.

use super::*;
use crate::simulated::links::Link;

#[test]
fn bytes_flow_again_when_a_partition_heals() {
    for one_way in [None, Some((1, 2)), Some((2, 1))] {
        let mut world = World::new(1);
        let (client, server, _) = world.connection();
        match one_way {
            None => world.network.partition(1, 2),
            Some((from, to)) => world.network.partition_one_way(from, to),
        }
        world.network.send(client, b"through the wall").unwrap();
        world.run_for(5 * MINUTE);
        let arrived = !world.read(server).is_empty();
        assert_eq!(arrived, one_way == Some((2, 1)), "{one_way:?}");
        world.network.heal(1, 2);
        world.run_for(3 * MINUTE);
        assert_eq!(!world.read(server).is_empty(), !arrived);
        world.network.send(server, b"and back").unwrap();
        world.run_for(MILLISECOND);
        assert_eq!(world.read(client), b"and back");
        world.run_for(MINUTE);
        assert_eq!(world.network.event_count(), 0, "everything is acknowledged");
    }
}

#[test]
fn a_partition_loses_packets_that_are_on_their_way() {
    let mut world = World::new(2);
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    world.network.connect(sender, &inet("10.0.0.2:53")).unwrap();
    world.network.send(sender, b"x").unwrap();
    world.network.partition(1, 2);
    world.run_for(MILLISECOND);
    world.network.heal(1, 2);
    world.run_for(MILLISECOND);
    assert!(!world.network.level(receiver).unwrap().readable);
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::Partitioned), 2);
    assert_eq!(World::count(&trace, Happened::Healed), 2);
    assert_eq!(World::count(&trace, Happened::DatagramLost), 1);
}

#[test]
fn a_long_partition_breaks_both_ends_that_have_something_to_say() {
    let mut world = World::new(3);
    let (client, server, _) = world.connection();
    world.network.partition(1, 2);
    world.network.send(client, b"x").unwrap();
    world.run_for(20 * MINUTE);
    assert_eq!(errno(world.drain(client)), libc::ETIMEDOUT);
    // The silent end knows nothing: its connection is half open until it sends.
    assert_eq!(errno(world.network.recv(server, &mut [0], 0)), libc::EAGAIN);
    world.network.heal(1, 2);
    world.network.send(server, b"y").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(errno(world.drain(server)), libc::ECONNRESET);
}

#[test]
fn connections_between_two_hosts_can_be_reset() {
    let mut world = World::new(4);
    let third = world.host("10.0.0.3");
    let (client, server, listener) = world.connection();
    let bystander = world.start_connect(third, "10.0.0.2:80");
    let connecting = world.tcp(1);
    world.run_for(MILLISECOND);
    world.accept(listener);
    let begun = world.network.connect(connecting, &inet("10.0.0.2:80"));
    assert_eq!(errno(begun), libc::EINPROGRESS);
    world.network.reset_connections(2, 1);
    assert_eq!(errno(world.drain(client)), libc::ECONNRESET);
    assert_eq!(errno(world.drain(server)), libc::ECONNRESET);
    assert!(world.network.take_error(connecting).unwrap().is_some());
    world.run_for(MILLISECOND);
    assert!(world.network.peer_address(bystander).is_ok());
}

#[test]
fn a_lossy_link_delivers_a_stream_completely_and_in_order() {
    let mut world = World::new(5);
    let (loss, jitter) = (0.1, 3 * MILLISECOND);
    world.network.set_default_link(Link {
        loss,
        jitter,
        ..Link::default()
    });
    assert_eq!(world.network.link(1, 2).loss, 0.1);
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_until(|network| network.level(listener).unwrap().readable);
    let server = world.accept(listener);
    let pattern: Vec<u8> = (0..2_000_000u32).map(|n| (n % 241) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    let mut closed = false;
    loop {
        while sent < pattern.len()
            && let Ok(count) = world.network.send(client, &pattern[sent..])
        {
            sent += count;
        }
        if sent == pattern.len() && !closed {
            world.network.close(client).unwrap();
            closed = true;
        }
        let (bytes, ended) = world.drain(server).unwrap();
        received.extend(bytes);
        if ended {
            break;
        }
        let next = world
            .network
            .next_event()
            .expect("the stream has not ended");
        world.network.advance(next);
    }
    assert!(
        received == pattern,
        "{} of {} bytes",
        received.len(),
        pattern.len()
    );
    let trace = world.network.take_trace();
    assert!(World::count(&trace, Happened::SegmentLost) > 5);
    assert!(World::count(&trace, Happened::Retransmitted) > 5);
}

#[test]
fn jitter_does_not_reorder_the_segments_of_a_stream() {
    let mut world = World::new(7);
    let jitter = 20 * MILLISECOND;
    world.network.set_link(
        1,
        2,
        Link {
            jitter,
            ..Link::default()
        },
    );
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(SECOND);
    let server = world.accept(listener);
    let mut expected = Vec::new();
    for n in 0..100u8 {
        world.network.send(client, &[n]).unwrap();
        expected.push(n);
        world.run_for(MILLISECOND);
        let received = world.read(server);
        assert_eq!(received, expected[..received.len()]);
        expected.drain(..received.len());
    }
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::Retransmitted), 0);
}

#[test]
fn a_trace_shows_a_connection_from_its_request_to_its_end() {
    let mut world = World::new(6);
    let (client, server, _) = world.connection();
    world.network.send(client, b"12345").unwrap();
    world.run_for(MILLISECOND);
    world.network.close(server).unwrap();
    let trace = world.network.take_trace();
    let kinds: Vec<Happened> = trace.iter().map(|record| record.happened).collect();
    for happened in [
        Happened::ConnectStarted,
        Happened::Connected,
        Happened::Accepted,
        Happened::Closed,
    ] {
        assert!(kinds.contains(&happened), "{happened:?}: {kinds:?}");
    }
    let sent = |record: &&Record| record.bytes == 5 && record.happened == Happened::SegmentSent;
    let sent = trace.iter().find(sent).unwrap();
    assert_eq!((sent.from, sent.to), (1, 2));
    assert!(sent.connection > 0);
}
