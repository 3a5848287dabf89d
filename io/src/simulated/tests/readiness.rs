//! Pollers and edges.

use super::*;
use crate::simulated::readiness::{PollerId, Readiness};

fn events(world: &mut World, poller: PollerId) -> Vec<(usize, Readiness)> {
    let mut events = Vec::new();
    let count = world.network.take_events(poller, &mut events);
    assert_eq!(count, events.len());
    events
}

#[test]
fn a_registration_reports_existing_readiness_once() {
    let mut world = World::new(1);
    let (client, server, _) = world.connection();
    world.network.send(client, b"x").unwrap();
    world.run_for(MILLISECOND);
    let poller = world.network.add_poller();
    world.network.register(poller, server, 7).unwrap();
    assert!(world.network.has_events(poller));
    assert_eq!(world.network.take_woken(), [poller]);
    let level = Readiness {
        readable: true,
        writable: true,
        ..Readiness::default()
    };
    assert_eq!(events(&mut world, poller), [(7, level)]);
    assert!(!world.network.has_events(poller));
    assert_eq!(events(&mut world, poller), []);
}

#[test]
fn each_arrival_is_an_edge_and_edges_between_two_looks_are_one() {
    let mut world = World::new(2);
    let (client, server, listener) = world.connection();
    let poller = world.network.add_poller();
    for (token, fd) in [(1, client), (2, server), (3, listener)] {
        world.network.register(poller, fd, token).unwrap();
    }
    assert_eq!(
        events(&mut world, poller).len(),
        2,
        "the listener has nothing"
    );
    for _ in 0..2 {
        world.network.send(client, b"x").unwrap();
        world.network.send(client, b"y").unwrap();
        world.run_for(MILLISECOND);
        let events = events(&mut world, poller);
        assert_eq!(events.len(), 1);
        assert!(events[0].0 == 2 && events[0].1.readable);
    }
    // An edge whose readiness is gone is not reported.
    world.network.send(client, b"z").unwrap();
    world.run_for(MILLISECOND);
    world.read(server);
    let listed = events(&mut world, poller);
    assert!(
        listed.iter().all(|(_, level)| !level.readable),
        "{listed:?}"
    );
    world.start_connect(1, "10.0.0.2:80");
    world.run_for(MILLISECOND);
    assert_eq!(events(&mut world, poller)[0].0, 3);
    world.network.close(client).unwrap();
    world.run_for(MILLISECOND);
    let (token, level) = events(&mut world, poller)[0];
    assert!(token == 2 && level.readable && level.read_closed);
}

#[test]
fn room_is_an_edge_only_after_a_send_that_found_none() {
    let mut world = World::new(3);
    let (client, server, _) = world.connection();
    let poller = world.network.add_poller();
    world.network.register(poller, client, 1).unwrap();
    events(&mut world, poller);
    world.network.send(client, &[0; 1000]).unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(
        events(&mut world, poller),
        [],
        "the acknowledgment made no difference"
    );
    loop {
        while world.network.send(client, &[0; 10_000]).is_ok() {}
        world.run_for(MILLISECOND);
        if world.network.send(client, &[0; 10_000]).is_err() {
            break;
        }
    }
    events(&mut world, poller);
    world.run_for(SECOND);
    assert_eq!(events(&mut world, poller), []);
    world.read(server);
    world.run_for(MILLISECOND);
    let listed = events(&mut world, poller);
    assert!(listed.len() == 1 && listed[0].1.writable);
}

#[test]
fn the_outcome_of_a_connect_is_an_edge() {
    let mut world = World::new(4);
    let poller = world.network.add_poller();
    let refused = world.start_connect(1, "10.0.0.2:80");
    world.network.register(poller, refused, 1).unwrap();
    assert_eq!(events(&mut world, poller), [], "in progress");
    world.run_for(MILLISECOND);
    let (_, level) = events(&mut world, poller)[0];
    assert!(level.error && level.write_closed && level.read_closed && level.writable);
}

#[test]
fn a_closed_or_deregistered_descriptor_has_no_events() {
    let mut world = World::new(5);
    let (client, server, _) = world.connection();
    let poller = world.network.add_poller();
    world.network.register(poller, server, 1).unwrap();
    world.network.deregister(poller, server);
    assert_eq!(events(&mut world, poller), []);
    world.network.register(poller, server, 2).unwrap();
    world.network.register(poller, server, 3).unwrap();
    assert_eq!(
        events(&mut world, poller)[0].0,
        3,
        "the later registration counts"
    );
    world.network.send(client, b"x").unwrap();
    world.run_for(MILLISECOND);
    world.network.close(server).unwrap();
    assert_eq!(events(&mut world, poller), []);
    assert_eq!(
        errno(world.network.register(poller, server, 1)),
        libc::EBADF
    );
    world.network.register(poller, client, 1).unwrap();
    world.network.remove_poller(poller);
    assert!(!world.network.has_events(poller));
    assert_eq!(
        errno(world.network.register(poller, client, 1)),
        libc::EBADF
    );
}

#[test]
fn two_pollers_each_see_the_edges_of_a_shared_socket() {
    let mut world = World::new(6);
    let (client, server, _) = world.connection();
    let pollers = [world.network.add_poller(), world.network.add_poller()];
    for poller in pollers {
        world.network.register(poller, server, 1).unwrap();
        events(&mut world, poller);
    }
    world.network.take_woken();
    world.network.send(client, b"x").unwrap();
    world.run_for(MILLISECOND);
    assert_eq!(world.network.take_woken(), pollers);
    for poller in pollers {
        assert_eq!(events(&mut world, poller).len(), 1);
    }
}

#[test]
fn the_rest_after_a_short_read_is_a_new_edge() {
    let mut world = World::new(7);
    let (client, server, _) = world.connection();
    world.network.set_short_transfers(2, 1.0, 0.0);
    let poller = world.network.add_poller();
    world.network.register(poller, server, 1).unwrap();
    world.network.send(client, &[9; 1000]).unwrap();
    world.run_for(MILLISECOND);
    let mut total = 0;
    while total < 1000 {
        let listed = events(&mut world, poller);
        assert!(
            listed.len() == 1 && listed[0].1.readable,
            "{total} bytes were read"
        );
        let count = world.network.recv(server, &mut [0; 1000], 0).unwrap();
        assert!(count < 1000);
        total += count;
    }
    world.network.set_short_transfers(2, 0.0, 1.0);
    assert!(world.network.send(server, &[9; 1000]).unwrap() < 1000);
    assert!(events(&mut world, poller)[0].1.writable);
}
