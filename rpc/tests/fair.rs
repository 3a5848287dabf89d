//! Fairness: a client that pipelines does not own the loop, and a slow reader is not dead.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Call, CallMethod, Reply, Service};
use yue_rpc::{Limits, Listener, Options, Timeout};
use yue_scheduler::{now, spawn, yield_now};

/// `spin` computes for a millisecond, `nothing` answers at once.
fn computing() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        if call.method() == CallMethod::Name(b"spin") {
            let end = now().saturating_add(Duration::from_millis(1));
            while now() < end {
                std::hint::spin_loop();
            }
        }
        reply.results(ints(&[]))
    }))
}

#[test]
fn a_client_that_pipelines_long_requests_does_not_starve_others() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            return;
        }
        let server = serve(kind, computing(), Options::default());
        let flood = server.client();
        let other = server.client();
        call(&flood, "nothing", &[]).unwrap();
        let flooded = server.sessions();
        call(&other, "nothing", &[]).unwrap();
        for _ in 0..400 {
            flood
                .call_async("spin", Timeout::Never, ints(&[]), |_| {})
                .unwrap();
        }
        let served = || flooded[0].stats().requests;
        while served() < 10 {
            yield_now().unwrap();
        }
        let before = served();
        call(&other, "nothing", &[]).unwrap();
        let meanwhile = served() - before;
        assert!(
            meanwhile < 50,
            "{kind:?}: {meanwhile} requests came before one"
        );
        eventually("all are served", || flood.calls_in_flight() == 0);
        flood.close();
        other.close();
    });
}

#[test]
fn a_steady_slow_reader_keeps_its_connection() {
    run_loop(|| {
        let limits = Limits {
            stall: Duration::from_secs(1),
            ..Limits::default()
        };
        let options = limited(limits);
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address, methods(), options).unwrap();
        let address = listener.address().to_string();
        let (sender, received) = yue_scheduler::sync::channel(1);
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(&address["tcp://".len()..]).unwrap();
            let mut out = Vec::new();
            for n in 0..4 {
                let length = ints(&[4_000_000]);
                encode::request(&mut out, n, Method::Name(b"big"), None, length).unwrap();
            }
            stream.write_all(&out).unwrap();
            let (mut bytes, mut all) = (vec![0; 100_000], 0);
            while all < 16_000_000 {
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => all += read,
                }
                std::thread::sleep(Duration::from_millis(30));
            }
            sender.try_send(all).ok();
        });
        let received = spawn(move || received.recv().unwrap()).join().unwrap();
        assert!(received >= 16_000_000, "cut off after {received} bytes");
        listener.close();
        listener.close_connections();
    });
}
