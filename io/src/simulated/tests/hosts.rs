//! Crashes, restarts, and frozen hosts.

use super::*;

#[test]
fn a_crash_is_silent_and_a_restarted_host_answers_with_resets() {
    let mut world = World::new(1);
    let (client, server, listener) = world.connection();
    world.network.crash_host(2);
    world.run_for(MINUTE);
    assert_eq!(
        errno(world.network.recv(client, &mut [0], 0)),
        libc::EAGAIN,
        "nothing was said"
    );
    for fd in [server, listener] {
        assert_eq!(errno(world.network.close(fd)), libc::EBADF);
    }
    assert_eq!(
        errno(world.network.socket(2, 50, Domain::V4, Type::Stream)),
        libc::ENETDOWN
    );
    world.network.restart(2);
    world.network.send(client, b"are you there?").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(errno(world.drain(client)), libc::ECONNRESET);
    let trace = world.network.take_trace();
    for happened in [Happened::Crashed, Happened::Restarted, Happened::ResetSent] {
        assert_eq!(World::count(&trace, happened), 1, "{happened:?}");
    }
    let listener = world.listener(2, "10.0.0.2:80");
    world.start_connect(1, "10.0.0.2:80");
    world.run_for(MILLISECOND);
    world.accept(listener);
}

#[test]
fn a_sender_to_a_crashed_host_gives_up_after_a_quarter_of_an_hour() {
    let mut world = World::new(2);
    let (client, _, _) = world.connection();
    world.network.send(client, b"ping").unwrap();
    world.network.crash_host(2);
    let took = world.run_until(|network| network.level(client).unwrap().error);
    assert!(took > 15 * MINUTE && took < 16 * MINUTE, "{took:?}");
    assert_eq!(errno(world.drain(client)), libc::ETIMEDOUT);
}

#[test]
fn a_restarted_client_can_use_its_old_port() {
    let mut world = World::new(3);
    let listener = world.listener(2, "10.0.0.2:80");
    let connect = |world: &mut World| {
        let client = world.tcp(1);
        world.network.bind(client, &inet("10.0.0.1:5000")).unwrap();
        let begun = world.network.connect(client, &inet("10.0.0.2:80"));
        assert_eq!(errno(begun), libc::EINPROGRESS);
        world.run_for(MILLISECOND);
        client
    };
    connect(&mut world);
    let old = world.accept(listener);
    world.network.crash_host(1);
    world.network.restart(1);
    let client = connect(&mut world);
    assert_eq!(errno(world.drain(old)), libc::ECONNRESET);
    let server = world.accept(listener);
    world.network.send(server, b"hello again").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(world.read(client), b"hello again");
}

#[test]
fn a_frozen_host_receives_when_it_is_thawed() {
    let mut world = World::new(4);
    let (client, server, _) = world.connection();
    world.network.send(client, b"wait").unwrap();
    world.network.freeze(2);
    world.run_for(MINUTE);
    assert!(!world.network.level(server).unwrap().readable);
    world.network.thaw(2);
    assert_eq!(world.read(server), b"wait");
    world.run_for(MILLISECOND);
    world.network.send(server, b"thanks").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(world.read(client), b"thanks");
    world.run_for(MINUTE);
    assert_eq!(world.network.event_count(), 0, "no timer is left");
}

#[test]
fn the_timers_of_a_frozen_host_wait_too() {
    let mut world = World::new(8);
    let (client, server, _) = world.connection();
    world.network.partition(1, 2);
    world.network.send(client, b"late").unwrap();
    world.run_for(MILLISECOND);
    world.network.freeze(1);
    world.network.take_trace();
    world.run_for(30 * MINUTE);
    world.network.heal(1, 2);
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::Retransmitted), 0);
    world.network.thaw(1);
    let took = world.run_until(|network| network.level(server).unwrap().readable);
    assert!(took < SECOND, "{took:?}");
    assert_eq!(world.read(server), b"late");
    world.run_for(MINUTE);
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::Retransmitted), 1);
    assert_eq!(world.network.event_count(), 0);
}

#[test]
fn the_seed_orders_packets_that_arrive_at_the_same_instant() {
    let first_sender = |seed: u64| {
        let mut world = World::new(seed);
        let third = world.host("10.0.0.3");
        let receiver = world.udp(2, "10.0.0.2:53");
        for (host, address) in [(1, "10.0.0.1:0"), (third, "10.0.0.3:0")] {
            let sender = world.udp(host, address);
            world.network.connect(sender, &inet("10.0.0.2:53")).unwrap();
            world.network.send(sender, &[host as u8]).unwrap();
        }
        world.run_for(MILLISECOND);
        let mut first = [0];
        world.network.recv(receiver, &mut first, 0).unwrap();
        first[0]
    };
    let firsts: Vec<u8> = (0..20).map(first_sender).collect();
    assert!(firsts.contains(&1) && firsts.contains(&3), "{firsts:?}");
    assert_eq!(firsts, (0..20).map(first_sender).collect::<Vec<u8>>());
}

#[test]
fn a_network_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<crate::simulated::network::Network>();
}

#[test]
fn a_frozen_host_keeps_a_limited_number_of_packets() {
    let mut world = World::new(5);
    let receiver = world.udp(2, "10.0.0.2:53");
    let sender = world.udp(1, "10.0.0.1:0");
    world.network.connect(sender, &inet("10.0.0.2:53")).unwrap();
    world.network.freeze(2);
    for _ in 0..1500 {
        world.network.send(sender, b"").unwrap();
    }
    world.run_for(SECOND);
    let trace = world.network.take_trace();
    assert_eq!(World::count(&trace, Happened::DatagramLost), 500);
    world.network.thaw(2);
    assert!(world.network.recv(receiver, &mut [0], 0).is_ok());
    world.network.freeze(2);
    world.network.crash_host(2);
    world.network.restart(2);
    assert_eq!(world.network.socket_count(), 1);
}

#[test]
fn a_crash_keeps_the_files_of_unix_sockets() {
    let mut world = World::new(6);
    let fd = world.socket(1, Domain::Unix, Type::Stream);
    world.network.bind(fd, &path("/run/service")).unwrap();
    world.network.crash_host(1);
    world.network.restart(1);
    let fd = world.socket(1, Domain::Unix, Type::Stream);
    assert_eq!(
        errno(world.network.bind(fd, &path("/run/service"))),
        libc::EADDRINUSE
    );
    assert_eq!(
        errno(world.network.connect(fd, &path("/run/service"))),
        libc::ECONNREFUSED
    );
}

#[test]
fn an_address_can_move_to_another_host() {
    let mut world = World::new(7);
    world.network.add_address(2, "10.0.0.9".parse().unwrap());
    let first = world.udp(2, "10.0.0.9:53");
    world.network.add_address(1, "10.0.0.9".parse().unwrap());
    let second = world.udp(1, "10.0.0.9:53");
    let third = world.host("10.0.0.3");
    let sender = world.udp(third, "10.0.0.3:0");
    world.network.connect(sender, &inet("10.0.0.9:53")).unwrap();
    world.network.send(sender, b"x").unwrap();
    world.run_for(MILLISECOND);
    assert!(world.network.level(second).unwrap().readable);
    assert!(!world.network.level(first).unwrap().readable);
    assert_eq!(World::at(1_000_000), world.network.now());
}
