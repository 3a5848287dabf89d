//! Connecting, listening, accepting, and ports.

use super::*;
use crate::simulated::readiness::Readiness;
use std::net::Shutdown;

#[test]
fn a_connection_takes_a_round_trip_and_both_ends_know_each_other() {
    let mut world = World::new(1);
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    assert!(world.network.level(client).unwrap().is_empty());
    assert_eq!(errno(world.network.peer_address(client)), libc::ENOTCONN);
    let fd = world.fd();
    assert_eq!(errno(world.network.accept(listener, fd)), libc::EAGAIN);
    let again = world.network.connect(client, &inet("10.0.0.2:80"));
    assert_eq!(errno(again), libc::EALREADY);

    let took = world.run_until(|network| network.level(client).unwrap().writable);
    assert_eq!(took, Duration::from_micros(400));
    assert_eq!(
        world.network.peer_address(client).unwrap(),
        inet("10.0.0.2:80")
    );
    world.run_for(MILLISECOND);
    assert!(world.network.level(listener).unwrap().readable);
    let server = world.fd();
    let peer = world.network.accept(listener, server).unwrap();
    assert_eq!(peer.inet().unwrap(), world.local(client));
    assert_eq!(
        world.local(client).ip(),
        "10.0.0.1".parse::<IpAddr>().unwrap()
    );
    assert_eq!(world.local(server), "10.0.0.2:80".parse().unwrap());
    let again = world.network.connect(client, &inet("10.0.0.2:80"));
    assert_eq!(errno(again), libc::EISCONN);
}

#[test]
fn a_port_without_a_listener_refuses_the_connection() {
    let mut world = World::new(2);
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(MILLISECOND);
    let level = world.network.level(client).unwrap();
    assert!(level.error && level.answers(libc::POLLOUT));
    let error = world.network.take_error(client).unwrap().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert!(world.network.take_error(client).unwrap().is_none());
    // Another attempt may follow.
    world.listener(2, "10.0.0.2:80");
    let begun = world.network.connect(client, &inet("10.0.0.2:80"));
    assert_eq!(errno(begun), libc::EINPROGRESS);
    world.run_for(MILLISECOND);
    assert!(world.network.peer_address(client).is_ok());
}

#[test]
fn an_address_that_no_host_has_is_unreachable() {
    let mut world = World::new(3);
    let client = world.tcp(1);
    let connect = world.network.connect(client, &inet("10.9.9.9:80"));
    assert_eq!(errno(connect), libc::ENETUNREACH);
    let wrong_family = world.network.connect(client, &inet("[::1]:80"));
    assert_eq!(errno(wrong_family), libc::EAFNOSUPPORT);
}

#[test]
fn a_request_to_a_host_that_is_down_is_repeated_and_times_out() {
    let mut world = World::new(4);
    world.network.crash_host(2);
    let client = world.start_connect(1, "10.0.0.2:80");
    let took = world.run_until(|network| network.level(client).unwrap().error);
    assert_eq!(took, 127 * SECOND);
    let error = world.network.take_error(client).unwrap().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    let trace = world.network.take_trace();
    let sent: Vec<u64> = (trace.iter())
        .filter(|record| record.happened == Happened::SegmentSent)
        .map(|record| record.at.as_nanos() / 1_000_000_000)
        .collect();
    assert_eq!(sent, [0, 1, 3, 7, 15, 31, 63]);
}

#[test]
fn a_lost_request_is_repeated_after_a_second() {
    let mut world = World::new(5);
    world.listener(2, "10.0.0.2:80");
    world.network.partition(1, 2);
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(MILLISECOND);
    world.network.heal(1, 2);
    let took = world.run_until(|network| network.level(client).unwrap().writable);
    assert!(
        took >= SECOND - MILLISECOND && took < 2 * SECOND,
        "{took:?}"
    );
}

#[test]
fn a_lost_last_acknowledgment_is_repaired_by_either_side() {
    let mut world = World::new(6);
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(Duration::from_micros(300));
    world.network.partition_one_way(1, 2);
    world.run_for(MILLISECOND);
    assert!(world.network.level(client).unwrap().writable);
    assert!(!world.network.level(listener).unwrap().readable);
    world.network.heal(1, 2);
    // The server repeats its answer, and the client its acknowledgment.
    world.run_for(2 * SECOND);
    assert!(world.network.level(listener).unwrap().readable);
}

#[test]
fn a_full_backlog_drops_requests_and_the_client_repeats_them() {
    let mut world = World::new(7);
    let listener = world.tcp(2);
    world.network.bind(listener, &inet("0.0.0.0:80")).unwrap();
    world.network.listen(listener, 1).unwrap();
    let clients: Vec<RawFd> = (0..3)
        .map(|_| world.start_connect(1, "10.0.0.2:80"))
        .collect();
    world.run_for(10 * MILLISECOND);
    let connected = |world: &World| {
        let done = |fd: &&RawFd| world.network.peer_address(**fd).is_ok();
        clients.iter().filter(done).count()
    };
    assert_eq!(connected(&world), 2);
    world.accept(listener);
    world.run_for(5 * SECOND);
    assert_eq!(connected(&world), 3);
}

#[test]
fn closing_a_listener_resets_the_connections_that_wait() {
    let mut world = World::new(8);
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(10 * MILLISECOND);
    world.network.close(listener).unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(errno(world.drain(client)), libc::ECONNRESET);
    world.network.close(client).unwrap();
    assert_eq!(world.network.socket_count(), 0);
}

#[test]
fn a_client_that_leaves_early_is_accepted_and_found_closed() {
    let mut world = World::new(9);
    let listener = world.listener(2, "10.0.0.2:80");
    let client = world.start_connect(1, "10.0.0.2:80");
    world.run_for(10 * MILLISECOND);
    world.network.send(client, b"bye").unwrap();
    world.network.close(client).unwrap();
    world.run_for(10 * MILLISECOND);
    let server = world.accept(listener);
    assert_eq!(world.drain(server).unwrap(), (b"bye".to_vec(), true));
}

#[test]
fn addresses_conflict_like_in_the_kernel() {
    let mut world = World::new(10);
    let bind = |world: &mut World, address: &str, reuse: bool, reuse_port: bool| {
        let address = inet(address);
        let v6 = address.inet().unwrap().is_ipv6();
        let domain = if v6 { Domain::V6 } else { Domain::V4 };
        let fd = world.socket(1, domain, Type::Stream);
        let options = world.network.options_mut(fd).unwrap();
        (options.reuse_address, options.reuse_port) = (reuse, reuse_port);
        world.network.bind(fd, &address).map(|()| fd)
    };
    let first = bind(&mut world, "10.0.0.1:80", true, false).unwrap();
    assert_eq!(
        errno(bind(&mut world, "10.0.0.1:80", false, false)),
        libc::EADDRINUSE
    );
    assert_eq!(
        errno(bind(&mut world, "0.0.0.0:80", false, false)),
        libc::EADDRINUSE
    );
    assert_eq!(
        errno(bind(&mut world, "[::]:80", false, false)),
        libc::EADDRINUSE
    );
    assert!(bind(&mut world, "127.0.0.1:80", false, false).is_ok());
    assert!(bind(&mut world, "10.0.0.1:81", false, false).is_ok());
    assert_eq!(
        errno(bind(&mut world, "10.0.0.7:82", false, false)),
        libc::EADDRNOTAVAIL
    );
    // Both may bind with SO_REUSEADDR, but only one may listen.
    let second = bind(&mut world, "10.0.0.1:80", true, false).unwrap();
    world.network.listen(first, 1).unwrap();
    assert_eq!(errno(world.network.listen(second, 1)), libc::EADDRINUSE);
    assert_eq!(
        errno(bind(&mut world, "10.0.0.1:80", true, false)),
        libc::EADDRINUSE
    );
    // With SO_REUSEPORT both may.
    let shared = [0, 1].map(|_| bind(&mut world, "10.0.0.1:90", false, true).unwrap());
    for fd in shared {
        world.network.listen(fd, 1).unwrap();
    }
    assert_eq!(
        errno(bind(&mut world, "10.0.0.1:90", false, false)),
        libc::EADDRINUSE
    );
    assert_eq!(
        errno(world.network.bind(first, &inet("10.0.0.1:99"))),
        libc::EINVAL
    );
}

#[test]
fn listeners_that_share_a_port_share_the_clients() {
    let mut world = World::new(11);
    let listeners = [0, 1].map(|_| {
        let fd = world.tcp(2);
        world.network.options_mut(fd).unwrap().reuse_port = true;
        world.network.bind(fd, &inet("10.0.0.2:80")).unwrap();
        world.network.listen(fd, 64).unwrap();
        fd
    });
    for _ in 0..40 {
        world.start_connect(1, "10.0.0.2:80");
    }
    world.run_for(10 * MILLISECOND);
    let mut counts = [0, 0];
    for (listener, count) in listeners.iter().zip(&mut counts) {
        loop {
            let fd = world.fd();
            if world.network.accept(*listener, fd).is_err() {
                break;
            }
            *count += 1;
        }
    }
    assert_eq!(counts[0] + counts[1], 40);
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

#[test]
fn a_restarted_server_binds_its_port_at_once() {
    let mut world = World::new(12);
    let (client, server, listener) = world.connection();
    world.network.close(listener).unwrap();
    world.network.close(server).unwrap();
    world.run_for(MILLISECOND);
    let strict = world.tcp(2);
    let bound = world.network.bind(strict, &inet("10.0.0.2:80"));
    assert_eq!(
        errno(bound),
        libc::EADDRINUSE,
        "the old connection has not ended"
    );
    let listener = world.listener(2, "10.0.0.2:80");
    world.network.close(client).unwrap();
    world.start_connect(1, "10.0.0.2:80");
    world.run_for(10 * MILLISECOND);
    world.accept(listener);
}

#[test]
fn an_ipv6_socket_serves_both_families_unless_it_is_restricted() {
    let mut world = World::new(13);
    world.network.add_address(1, "fd00::1".parse().unwrap());
    world.network.add_address(2, "fd00::2".parse().unwrap());
    let listener = world.socket(2, Domain::V6, Type::Stream);
    world.network.bind(listener, &inet("[::]:80")).unwrap();
    world.network.listen(listener, 4).unwrap();
    let four = world.start_connect(1, "10.0.0.2:80");
    let six = world.socket(1, Domain::V6, Type::Stream);
    assert_eq!(
        errno(world.network.connect(six, &inet("[fd00::2]:80"))),
        libc::EINPROGRESS
    );
    let mapped = world.socket(1, Domain::V6, Type::Stream);
    let begun = world.network.connect(mapped, &inet("[::ffff:10.0.0.2]:80"));
    assert_eq!(errno(begun), libc::EINPROGRESS);
    world.run_for(10 * MILLISECOND);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let fd = world.fd();
        peers.push(
            world
                .network
                .accept(listener, fd)
                .unwrap()
                .inet()
                .unwrap()
                .ip()
                .to_string(),
        );
    }
    peers.sort();
    assert_eq!(peers, ["::ffff:10.0.0.1", "::ffff:10.0.0.1", "fd00::1"]);
    assert_eq!(
        world.network.peer_address(mapped).unwrap(),
        inet("[::ffff:10.0.0.2]:80")
    );
    assert_eq!(
        world.network.peer_address(four).unwrap(),
        inet("10.0.0.2:80")
    );

    let restricted = world.socket(2, Domain::V6, Type::Stream);
    world.network.options_mut(restricted).unwrap().only_v6 = true;
    world.network.bind(restricted, &inet("[::]:81")).unwrap();
    world.network.listen(restricted, 4).unwrap();
    let refused = world.start_connect(1, "10.0.0.2:81");
    world.run_for(10 * MILLISECOND);
    let error = world.network.take_error(refused).unwrap().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    // The other family's wildcard is free.
    world.listener(2, "0.0.0.0:81");
}

#[test]
fn each_host_has_its_own_loopback() {
    let mut world = World::new(14);
    world.listener(1, "127.0.0.1:80");
    let own = world.start_connect(1, "127.0.0.1:80");
    let own_address = world.start_connect(1, "0.0.0.0:80");
    let other = world.start_connect(2, "127.0.0.1:80");
    world.run_for(MILLISECOND);
    assert!(world.network.peer_address(own).is_ok());
    assert_eq!(
        world.network.peer_address(own_address).unwrap(),
        inet("127.0.0.1:80")
    );
    assert!(world.network.take_error(other).unwrap().is_some());
}

#[test]
fn calls_on_sockets_in_the_wrong_state_fail_like_in_the_kernel() {
    let mut world = World::new(15);
    let fresh = world.tcp(1);
    let level = world.network.level(fresh).unwrap();
    let expected = Readiness {
        writable: true,
        ..Readiness::default()
    }
    .hang_up();
    assert_eq!(level, expected);
    assert_eq!(errno(world.network.send(fresh, b"x")), libc::EPIPE);
    assert_eq!(
        errno(world.network.recv(fresh, &mut [0], 0)),
        libc::ENOTCONN
    );
    assert_eq!(
        errno(world.network.shutdown(fresh, Shutdown::Both)),
        libc::ENOTCONN
    );
    assert_eq!(errno(world.network.peer_address(fresh)), libc::ENOTCONN);
    assert_eq!(world.local(fresh), "0.0.0.0:0".parse().unwrap());
    let fd = world.fd();
    assert_eq!(errno(world.network.accept(fresh, fd)), libc::EINVAL);
    assert_eq!(errno(world.network.recv(9999, &mut [0], 0)), libc::EBADF);
    assert_eq!(errno(world.network.close(9999)), libc::EBADF);

    let connecting = world.start_connect(1, "10.0.0.2:80");
    assert_eq!(errno(world.network.send(connecting, b"x")), libc::EAGAIN);
    assert_eq!(
        errno(world.network.recv(connecting, &mut [0], 0)),
        libc::EAGAIN
    );

    let listener = world.listener(1, "10.0.0.1:80");
    assert_eq!(
        errno(world.network.connect(listener, &inet("10.0.0.2:80"))),
        libc::EISCONN
    );
    world.network.shutdown(listener, Shutdown::Both).unwrap();
    let fd = world.fd();
    assert_eq!(errno(world.network.accept(listener, fd)), libc::EINVAL);
}

#[test]
fn a_descriptor_lives_as_long_as_its_last_duplicate() {
    let mut world = World::new(16);
    let (client, server, _) = world.connection();
    let copy = world.fd();
    world.network.duplicate(client, copy).unwrap();
    world.network.close(client).unwrap();
    assert!(world.network.knows(copy) && !world.network.knows(client));
    assert_eq!(world.network.host_of(copy).unwrap(), 1);
    let kind = world.network.kind_of(copy).unwrap();
    assert_eq!(kind, (Domain::V4, Type::Stream));
    world.network.send(copy, b"still here").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(
        world.drain(server).unwrap(),
        (b"still here".to_vec(), false)
    );
    // The number is used again without a close: the socket before it is closed.
    world
        .network
        .socket(1, copy, Domain::V4, Type::Datagram)
        .unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(world.drain(server).unwrap(), (Vec::new(), true));
}

#[test]
fn a_socket_does_not_connect_to_itself() {
    let mut world = World::new(17);
    let fd = world.tcp(1);
    world.network.bind(fd, &inet("127.0.0.1:4000")).unwrap();
    let begun = world.network.connect(fd, &inet("127.0.0.1:4000"));
    assert_eq!(errno(begun), libc::EINPROGRESS);
    world.run_for(SECOND);
    let error = world.network.take_error(fd).unwrap().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
}
