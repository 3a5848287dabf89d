//! Every limit that well-meaning peers meet, crossed: a clear error, while others are served.

mod common;

use common::*;
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::session::Session;
use yue_rpc::{ErrorKind, Limits, MemoryListener, Options, Timeout};
use yue_scheduler::{sleep, spawn};

#[test]
fn a_call_or_a_result_over_the_size_limit_is_an_error_and_the_connection_stays() {
    over_each(|kind| {
        let limits = Limits {
            message_bytes_max: 4096,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits.clone()));
        let client = server.open(methods(), limited(limits));
        let values = vec![i64::MAX; 1000];
        let error = call(&client, "sum", &values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge, "{kind:?}");
        let held = call(&client, "big", &[5000]).unwrap_err();
        assert_eq!(held.kind(), ErrorKind::MessageTooLarge);
        let error = call(&client, "sum", &values).unwrap_err();
        assert!(error.message().contains("4096"), "{error}");
        assert_eq!(call(&client, "sum", &[3]).unwrap(), [3]);
        assert_eq!(client.stats().refused_too_large, 2);
        client.close();
    });
}

#[test]
fn too_many_requests_in_flight_are_refused_as_busy() {
    over_each(|kind| {
        let limits = Limits {
            in_flight_max: 10,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits));
        let (client, witness) = (server.client(), server.client());
        call(&client, "sum", &[]).unwrap();
        let fibers: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                spawn(move || call(&client, "nap", &[300]).map_err(|error| error.kind()))
            })
            .collect();
        assert_eq!(call(&witness, "sum", &[1]).unwrap(), [1]);
        let outcomes: Vec<_> = fibers
            .into_iter()
            .map(|fiber| fiber.join().unwrap())
            .collect();
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| **outcome == Err(ErrorKind::ServerBusy))
                .count(),
            10,
            "{kind:?}"
        );
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            10
        );
        client.close();
        witness.close();
    });
}

#[test]
fn outgoing_calls_above_the_limit_fail_before_they_are_sent() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.open(
            methods(),
            limited(Limits {
                in_flight_max: 5,
                ..Limits::default()
            }),
        );
        call(&client, "sum", &[]).unwrap();
        let napping: Vec<_> = (0..5)
            .map(|_| {
                let client = client.clone();
                spawn(move || call(&client, "nap", &[100]).unwrap())
            })
            .collect();
        eventually("five wait", || client.calls_in_flight() == 5);
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageRefused, "{kind:?}");
        assert!(
            error.is_retryable() && error.message().contains("5 calls"),
            "{error}"
        );
        napping
            .into_iter()
            .for_each(|fiber| drop(fiber.join().unwrap()));
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(client.stats().refused_calls, 1);
        client.close();
    });
}

#[test]
fn held_calls_are_bounded_in_bytes() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.refuse(true);
        let limits = Limits {
            held_bytes_max: 1000,
            ..Limits::default()
        };
        let options = Options {
            retry: true,
            limits,
            ..Options::default()
        };
        let client = Session::open(listener.clone(), methods(), options);
        let fibers: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                spawn(move || call(&client, "sum", &[n]).map_err(|error| error.kind()))
            })
            .collect();
        sleep(Duration::from_millis(1)).unwrap();
        listener.refuse(false);
        let outcomes: Vec<_> = fibers
            .into_iter()
            .map(|fiber| fiber.join().unwrap())
            .collect();
        let refused = outcomes
            .iter()
            .filter(|outcome| **outcome == Err(ErrorKind::QueueFull))
            .count();
        assert!((1..20).contains(&refused), "{outcomes:?}");
        assert_eq!(client.stats().refused_held, refused as u64);
        assert!(outcomes[0].is_ok());
        client.close();
    });
}

#[test]
fn the_first_held_call_may_be_as_large_as_a_message() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let limits = Limits {
            held_bytes_max: 1000,
            ..Limits::default()
        };
        let client = Session::open(listener, methods(), limited(limits));
        let values = vec![1000; 100_000];
        let large = {
            let (client, values) = (client.clone(), values.clone());
            spawn(move || call(&client, "echo", &values).unwrap())
        };
        eventually("it is held", || client.stats().calls_held == 1);
        // The next one has to wait until that one has left.
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert_eq!(large.join().unwrap(), values);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        client.close();
    });
}

#[test]
fn calls_that_are_given_up_while_they_are_held_do_not_fill_the_limit() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.refuse(true);
        let limits = Limits {
            held_bytes_max: 1000,
            ..Limits::default()
        };
        let client = Session::open(
            listener.clone(),
            methods(),
            Options {
                retry: true,
                limits,
                ..Options::default()
            },
        );
        for _ in 0..200 {
            let error = client
                .call("sum", Timeout::After(Duration::from_micros(1)), ints(&[1]))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
        }
        assert_eq!(client.stats().refused_held, 0);
        client.close();
    });
}

#[test]
fn references_are_bounded() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.open(
            methods(),
            limited(Limits {
                references_max: 3,
                ..Limits::default()
            }),
        );
        call(&client, "sum", &[]).unwrap();
        let export = |tokens: std::ops::Range<u64>| {
            let session = client.clone();
            client.call("sum", Timeout::Default, move |out| {
                for token in tokens {
                    encode::uint(out, session.export_reference(token)?);
                }
                Ok(3)
            })
        };
        export(0..3).unwrap();
        export(0..3).unwrap();
        let error = export(2..5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageRefused, "{kind:?}");
        assert_eq!(
            (client.references_held(), client.stats().refused_references),
            (3, 1)
        );
        client.close();
    });
}

#[test]
fn callers_wait_for_room_instead_of_filling_memory() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let limits = Limits {
            output_bytes_high: 10_000,
            ..Limits::default()
        };
        let client = Session::open(listener.clone(), methods(), limited(limits));
        call(&client, "sum", &[]).unwrap();
        let fibers: Vec<_> = (0..1000)
            .map(|n| {
                let client = client.clone();
                spawn(move || {
                    let bytes = vec![n as i64; 100];
                    assert_eq!(call(&client, "sum", &bytes).unwrap(), [100 * n as i64]);
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert!(client.stats().dispatch_stopped > 0);
        client.close();
    });
}

#[test]
fn two_sides_that_flood_each_other_both_get_through() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            return;
        }
        let limits = Limits {
            output_bytes_high: 20_000,
            ..Limits::default()
        };
        let server = serve(kind, methods(), limited(limits.clone()));
        let client = server.open(methods(), limited(limits));
        call(&client, "sum", &[]).unwrap();
        let other = server.sessions().pop().unwrap();
        let fibers: Vec<_> = (0..400)
            .map(|n| {
                let session = if n % 2 == 0 {
                    client.clone()
                } else {
                    other.clone()
                };
                spawn(move || {
                    let response = session.call(
                        "big",
                        Timeout::After(Duration::from_secs(30)),
                        ints(&[20_000]),
                    );
                    assert!(response.unwrap().bytes().len() > 20_000);
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        client.close();
    });
}

#[test]
fn an_idle_connection_holds_no_fiber() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let clients: Vec<_> = (0..50).map(|_| server.client()).collect();
        for client in &clients {
            assert_eq!(call(client, "sum", &[1]).unwrap(), [1]);
        }
        sleep(Duration::from_millis(1)).unwrap();
        // This one, the listener's, and a few pooled workers.
        let fibers = yue_scheduler::this_loop::counters().fibers;
        assert!(
            fibers <= 6,
            "{kind:?}: {fibers} fibers for 50 idle connections"
        );
        clients.iter().for_each(Session::close);
        eventually("all have ended", || server.sessions().is_empty());
    });
}
