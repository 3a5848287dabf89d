//! Unix sockets.

use super::*;
use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;

fn stream(world: &mut World, host: HostId) -> RawFd {
    world.socket(host, Domain::Unix, Type::Stream)
}

fn unix_listener(world: &mut World, host: HostId, name: &Address, backlog: i32) -> RawFd {
    let fd = stream(world, host);
    world.network.bind(fd, name).unwrap();
    world.network.listen(fd, backlog).unwrap();
    fd
}

fn pair(world: &mut World, kind: Type) -> (RawFd, RawFd) {
    let (one, other) = (world.fd(), world.fd());
    world.network.pair(1, one, other, kind).unwrap();
    (one, other)
}

#[test]
fn a_stream_connects_by_path_within_its_host_and_bytes_arrive_at_once() {
    let mut world = World::new(1);
    for name in [path("/run/service"), abstract_name("service")] {
        let listener = unix_listener(&mut world, 1, &name, 4);
        assert_eq!(world.network.local_address(listener).unwrap(), name);
        let client = stream(&mut world, 1);
        world.network.connect(client, &name).unwrap();
        world.network.send(client, b"before accept").unwrap();
        assert!(world.network.level(listener).unwrap().readable);
        let server = world.accept(listener);
        assert_eq!(world.read(server), b"before accept");
        world.network.send(server, b"answer").unwrap();
        assert_eq!(world.read(client), b"answer");
        assert_eq!(world.network.peer_address(client).unwrap(), name);
        assert_eq!(world.network.local_address(server).unwrap(), name);
        let other_host = stream(&mut world, 2);
        assert!(world.network.connect(other_host, &name).is_err());
    }
}

#[test]
fn addresses_keep_their_form_in_system_calls() {
    let unnamed = Address::Unix(UnixName::Unnamed);
    for address in [
        inet("10.0.0.1:80"),
        inet("[fd00::1]:80"),
        path("/run/service"),
        abstract_name("name"),
        unnamed,
    ] {
        let converted = address.to_sock_addr().unwrap();
        assert_eq!(Address::from_sock_addr(&converted).unwrap(), address);
    }
    let long = path(&"x".repeat(200));
    assert!(long.to_sock_addr().is_err());
}

#[test]
fn a_path_outlives_its_socket_until_it_is_unlinked() {
    let mut world = World::new(2);
    let name = path("/run/service");
    let client = stream(&mut world, 1);
    assert_eq!(errno(world.network.connect(client, &name)), libc::ENOENT);
    let listener = unix_listener(&mut world, 1, &name, 4);
    world.network.close(listener).unwrap();
    assert_eq!(
        errno(world.network.connect(client, &name)),
        libc::ECONNREFUSED
    );
    let next = stream(&mut world, 1);
    assert_eq!(errno(world.network.bind(next, &name)), libc::EADDRINUSE);
    assert!(world.network.unlink(1, b"/run/service"));
    assert!(!world.network.unlink(1, b"/run/service"));
    world.network.bind(next, &name).unwrap();
    // An abstract name ends with its socket.
    let name = abstract_name("service");
    assert_eq!(
        errno(world.network.connect(client, &name)),
        libc::ECONNREFUSED
    );
    let listener = unix_listener(&mut world, 1, &name, 4);
    world.network.close(listener).unwrap();
    unix_listener(&mut world, 1, &name, 4);
}

#[test]
fn a_full_backlog_refuses_for_the_moment() {
    let mut world = World::new(3);
    let name = path("/run/service");
    let listener = unix_listener(&mut world, 1, &name, 1);
    for _ in 0..2 {
        let client = stream(&mut world, 1);
        world.network.connect(client, &name).unwrap();
    }
    let client = stream(&mut world, 1);
    assert_eq!(errno(world.network.connect(client, &name)), libc::EAGAIN);
    world.accept(listener);
    world.network.connect(client, &name).unwrap();
    world.network.close(listener).unwrap();
    assert_eq!(
        errno(world.network.recv(client, &mut [0], 0)),
        libc::ECONNRESET
    );
}

#[test]
fn a_stream_is_limited_by_the_senders_buffer() {
    let mut world = World::new(4);
    let (one, other) = pair(&mut world, Type::Stream);
    world.network.set_send_buffer(one, 5000).unwrap();
    assert_eq!(world.network.send(one, &[1; 20_000]).unwrap(), 10_000);
    assert_eq!(errno(world.network.send(one, &[1])), libc::EAGAIN);
    assert!(!world.network.level(one).unwrap().writable);
    let mut buffer = [0; 7000];
    world.network.recv(other, &mut buffer, 0).unwrap();
    assert!(
        !world.network.level(one).unwrap().writable,
        "a quarter must be free"
    );
    assert_eq!(world.network.recv(other, &mut buffer, 0).unwrap(), 3000);
    assert!(world.network.level(one).unwrap().writable);
}

#[test]
fn the_ends_of_a_stream_are_those_of_the_kernel() {
    let mut world = World::new(5);
    let (one, other) = pair(&mut world, Type::Stream);
    world.network.send(one, b"last").unwrap();
    world.network.shutdown(one, Shutdown::Write).unwrap();
    assert_eq!(errno(world.network.send(one, b"x")), libc::EPIPE);
    assert_eq!(world.drain(other).unwrap(), (b"last".to_vec(), true));
    world.network.send(other, b"unread").unwrap();
    world.network.close(one).unwrap();
    assert_eq!(errno(world.network.send(other, b"x")), libc::EPIPE);
    assert_eq!(
        errno(world.network.recv(other, &mut [0], 0)),
        libc::ECONNRESET
    );
    assert_eq!(world.network.recv(other, &mut [0], 0).unwrap(), 0);

    let (one, other) = pair(&mut world, Type::Stream);
    world.network.close(one).unwrap();
    assert_eq!(world.drain(other).unwrap(), (Vec::new(), true));
    let fresh = stream(&mut world, 1);
    assert_eq!(errno(world.network.send(fresh, b"x")), libc::ENOTCONN);
    assert_eq!(errno(world.network.recv(fresh, &mut [0], 0)), libc::EINVAL);
    assert_eq!(errno(world.network.listen(fresh, 1)), libc::EINVAL);
}

#[test]
fn datagrams_keep_their_boundaries_and_tell_their_senders() {
    let mut world = World::new(6);
    let receiver = world.socket(1, Domain::Unix, Type::Datagram);
    world.network.bind(receiver, &path("/run/log")).unwrap();
    let sender = world.socket(1, Domain::Unix, Type::Datagram);
    assert_eq!(errno(world.network.send(sender, b"x")), libc::ENOTCONN);
    assert_eq!(
        errno(world.network.connect(sender, &path("/none"))),
        libc::ENOENT
    );
    world.network.bind(sender, &abstract_name("me")).unwrap();
    world.network.connect(sender, &path("/run/log")).unwrap();
    world.network.send(sender, b"one").unwrap();
    world.network.send(sender, b"two").unwrap();
    let mut buffer = [0; 2];
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    let received = world
        .network
        .receive_message(receiver, slices, false)
        .unwrap();
    assert_eq!((received.bytes, received.length), (2, 3));
    assert_eq!(received.from, Some(abstract_name("me")));
    assert_eq!(world.network.recv(receiver, &mut [0; 9], 0).unwrap(), 3);
    let wrong = stream(&mut world, 1);
    assert_eq!(
        errno(world.network.connect(wrong, &path("/run/log"))),
        libc::EPROTOTYPE
    );
    let long = vec![0; 300_000];
    assert_eq!(errno(world.network.send(sender, &long)), libc::EMSGSIZE);
    world.network.close(receiver).unwrap();
    assert_eq!(errno(world.network.send(sender, b"x")), libc::ECONNREFUSED);
    assert_eq!(errno(world.network.send(sender, b"x")), libc::ENOTCONN);
}

#[test]
fn a_full_receiver_stops_its_senders_until_it_reads() {
    let mut world = World::new(7);
    let (one, other) = pair(&mut world, Type::Datagram);
    let mut count = 0;
    while world.network.send(one, b"message").is_ok() {
        count += 1;
    }
    assert_eq!(count, 11);
    assert!(!world.network.level(one).unwrap().writable);
    let poller = world.network.add_poller();
    world.network.register(poller, one, 1).unwrap();
    world.network.recv(other, &mut [0; 9], 0).unwrap();
    let mut events = Vec::new();
    world.network.take_events(poller, &mut events);
    assert!(events[0].1.writable);
    // A socket that is connected receives from its peer alone.
    world.network.bind(other, &path("/run/pair")).unwrap();
    let stranger = world.socket(1, Domain::Unix, Type::Datagram);
    let slices = [IoSlice::new(b"x")];
    let sent = world
        .network
        .send_message(stranger, &slices, Some(&path("/run/pair")));
    assert_eq!(errno(sent), libc::EPERM);
}
