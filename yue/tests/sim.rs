//! Simulated systems: hosts that talk, links that break, hosts that crash, and runs that repeat.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue::net::{TcpListener, TcpStream, UdpSocket};
use yue::rpc::typed::{Client, Server};
use yue::sim::{Cause, Failure, Link, Report, Sim};
use yue::{sleep, spawn, timeout};

fn echo() {
    let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
    for stream in listener.incoming() {
        drop(spawn(move || -> std::io::Result<()> {
            let mut stream = stream?;
            let mut bytes = [0; 4096];
            loop {
                let count = stream.read(&mut bytes)?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&bytes[..count])?;
            }
        }));
    }
}

#[test]
fn hosts_talk_over_tcp() {
    let report = Sim::new(1).host("server", echo).run(|_| {
        let mut stream = TcpStream::connect("server:7000").unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), "10.0.0.2:7000");
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let mut reader = stream.try_clone().unwrap();
        let received = spawn(move || {
            let mut all = vec![0; 1_000_000];
            reader.read_exact(&mut all).unwrap();
            all
        });
        stream.write_all(&sent).unwrap();
        assert!(received.join().unwrap() == sent);
    });
    let report = report.unwrap();
    assert!(report.elapsed > Duration::from_micros(400), "{report:?}");
    assert!(!report.trace.is_empty());
}

#[test]
fn a_refused_connection_is_an_error_and_so_is_a_host_that_is_down() {
    Sim::new(1)
        .host("server", echo)
        .run(|sim| {
            let refused = TcpStream::connect("server:1").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            let unknown = TcpStream::connect("nobody:1").unwrap_err();
            assert!(unknown.to_string().contains("nobody"), "{unknown}");
            sim.crash("server");
            let hangs = timeout(Duration::from_secs(60), || {
                TcpStream::connect("server:7000")
            });
            assert!(!matches!(hangs, Ok(Ok(_))));
            assert!(!sim.is_running("server"));
            sim.restart("server");
            sleep(Duration::from_millis(10)).unwrap();
            TcpStream::connect("server:7000").unwrap();
        })
        .unwrap();
}

#[test]
fn a_link_that_is_cut_breaks_connections_after_their_limit() {
    Sim::new(5)
        .host("server", echo)
        .run(|sim| {
            let mut stream = TcpStream::connect("server:7000").unwrap();
            stream
                .set_user_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            sim.partition("scenario", "server");
            let before = yue::scheduler::now();
            stream.write_all(b"lost").unwrap();
            let error = stream.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
            let waited = yue::scheduler::now().saturating_since(before).as_secs();
            assert!((10..60).contains(&waited), "{waited}");
        })
        .unwrap();
}

#[test]
fn datagrams_are_lost_as_often_as_the_link_says() {
    Sim::new(7)
        .link(Link {
            loss: 0.5,
            ..Link::default()
        })
        .host("server", || {
            let socket = UdpSocket::bind("0.0.0.0:9").unwrap();
            let mut bytes = [0; 100];
            while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..count], from);
            }
        })
        .run(|_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("server:9").unwrap();
            let mut answers = 0;
            for _ in 0..1000 {
                socket.send(b"ping").unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_millis(10)))
                    .unwrap();
                answers += u32::from(socket.recv(&mut [0; 10]).is_ok());
            }
            assert!((180..320).contains(&answers), "{answers}");
        })
        .unwrap();
}

/// A counter that clients increment by remote calls.
fn counter(count: Arc<AtomicU64>) -> impl Fn() + Send + Sync {
    move || {
        let count = count.clone();
        let add = move |(n,): (u64,)| Ok(count.fetch_add(n, Ordering::Relaxed) + n);
        let server = Server::new().handler("add", add);
        let listener = server.listen("tcp://0.0.0.0:7000").unwrap();
        yue::wait_for_shutdown().unwrap();
        drop(listener);
    }
}

fn calls_through_a_partition(seed: u64) -> Result<Report, Failure> {
    let count = Arc::new(AtomicU64::new(0));
    let seen = count.clone();
    let answered = Arc::new(AtomicU64::new(0));
    let there = answered.clone();
    Sim::new(seed)
        .host("server", counter(count))
        .hosts("client", 2, move |_| {
            let server = Client::open("tcp://server:7000").unwrap();
            for _ in 0..20 {
                let called: Result<u64, _> = server.call("add", (1u64,));
                if called.is_ok() {
                    there.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(20)).unwrap();
            }
        })
        .run(move |sim| {
            sleep(Duration::from_millis(100)).unwrap();
            sim.partition("server", "client1");
            sleep(Duration::from_secs(2)).unwrap();
            sim.heal("server", "client1");
            let (added, answered) = (seen.clone(), answered.clone());
            sim.always("no call is answered that has not run", move || {
                answered.load(Ordering::Relaxed) <= added.load(Ordering::Relaxed)
            });
            sleep(Duration::from_secs(120)).unwrap();
            let total = seen.load(Ordering::Relaxed);
            assert!((20..=40).contains(&total), "{total}");
        })
}

#[test]
fn remote_calls_survive_a_partition_and_a_seed_repeats_the_run() {
    let one = calls_through_a_partition(3).unwrap();
    let again = calls_through_a_partition(3).unwrap();
    assert_eq!(one.digest, again.digest);
    assert!(one == again);
    assert_ne!(calls_through_a_partition(4).unwrap().digest, one.digest);
}

#[test]
fn an_invariant_that_breaks_ends_the_run_with_its_name_and_time() {
    let failure = Sim::new(1)
        .run(|sim| {
            let broken = Arc::new(AtomicU64::new(0));
            let seen = broken.clone();
            sim.always("it is zero", move || seen.load(Ordering::Relaxed) == 0);
            sleep(Duration::from_secs(5)).unwrap();
            broken.store(1, Ordering::Relaxed);
            sleep(Duration::from_secs(5)).unwrap();
            panic!("the run has not ended");
        })
        .unwrap_err();
    let Cause::Invariant { name, at } = failure.cause else {
        panic!("{failure:?}");
    };
    assert_eq!(name, "it is zero");
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(6)).contains(&at),
        "{at:?}"
    );
}

#[test]
fn what_must_happen_eventually_is_checked_at_its_time_and_at_the_end() {
    let late = Sim::new(1).run(|sim| {
        sim.eventually("never", Duration::from_secs(1), || false);
        sleep(Duration::from_secs(9)).unwrap();
    });
    let is_broken = |failure: &Failure| matches!(failure.cause, Cause::Invariant { .. });
    assert!(late.as_ref().is_err_and(is_broken), "{late:?}");
    let early = Sim::new(1).run(|sim| sim.eventually("never", Duration::from_secs(1), || false));
    assert!(early.as_ref().is_err_and(is_broken), "{early:?}");
    let well = Sim::new(1).run(|sim| sim.eventually("at once", Duration::from_secs(1), || true));
    assert!(well.is_ok());
}

#[test]
fn a_panic_of_a_host_names_it() {
    let failure = Sim::new(1)
        .host("bank", || panic!("no money"))
        .run(|_| sleep(Duration::from_secs(1)).unwrap())
        .unwrap_err();
    assert_eq!(failure.to_string(), "the host bank panicked: no money");
    let failure = Sim::new(1).run(|_| panic!("the scenario")).unwrap_err();
    assert!(failure.to_string().contains("the scenario"), "{failure}");
}

#[test]
fn a_crash_forgets_what_the_host_knew_and_keeps_nothing_alive() {
    let starts = Arc::new(AtomicU64::new(0));
    let count = starts.clone();
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    Sim::new(11)
        .loops(2)
        .host("server", move || {
            let start = count.fetch_add(1, Ordering::Relaxed);
            seen.lock().unwrap().push(start);
            echo();
        })
        .run(move |sim| {
            for round in 1..=20 {
                sleep(Duration::from_millis(5)).unwrap();
                let mut stream = TcpStream::connect("server:7000").unwrap();
                stream.write_all(b"x").unwrap();
                sim.crash("server");
                assert!(!sim.is_running("server"));
                assert_eq!(starts.load(Ordering::Relaxed), round);
                sim.restart("server");
                // The new process does not know the connection.
                let _ = stream.write_all(b"y");
                let gone = stream.read(&mut [0; 8]);
                assert!(!matches!(gone, Ok(1..)), "{gone:?}");
            }
            assert_eq!(*order.lock().unwrap(), (0..=20).collect::<Vec<_>>());
        })
        .unwrap();
}

#[test]
fn a_search_runs_each_seed() {
    yue::sim::search(0..40, calls_through_a_partition);
}
