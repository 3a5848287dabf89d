//! `tls://`: wrong certificates and peers, slow and malformed handshakes, client certificates, renewal.

mod common;

use common::tls::{
    ANY, Authority, SUITE, authority, elsewhere, listen, open, plain_client, port_of, with_tls,
};
use common::*;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{Session, peer};
use yue_rpc::transport::{SocketOptions, TlsOptions, connector_with, try_connector};
use yue_rpc::typed;
use yue_rpc::{Address, CloseReason, Error, ErrorKind, Limits, Listener, Options, Retry, Verdict};
use yue_scheduler::{Instant, now, sleep, spawn};

/// The error of a call over a connection with these options, and the time that it took.
fn call_error(address: &Address, tls: TlsOptions, options: Options) -> (Error, Duration) {
    let client = open(address, tls, options);
    let began = now();
    let error = call(&client, "sum", &[1]).unwrap_err();
    client.close();
    (error, now().saturating_since(began))
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

#[test]
fn a_refused_certificate_fails_the_call_at_once_and_is_tried_again_by_the_next_call() {
    run_loop(|| {
        let listener = listen(authority().server(&["127.0.0.1"]), Options::default());
        let same_name = Authority::named(SUITE);
        for (retry, stranger) in [
            (false, Authority::new()),
            (true, Authority::new()),
            (true, same_name),
        ] {
            let options = Options {
                retry,
                timeout: Duration::from_secs(60),
                ..Options::default()
            };
            let failed = listener.usage().handshakes_failed;
            let (error, took) = call_error(listener.address(), stranger.client(), options);
            assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
            assert!(!error.is_retryable());
            assert!(error.message().contains("option ca"), "{error}");
            assert!(took < Duration::from_secs(20), "{took:?}");
            eventually("the server counts it", || {
                listener.usage().handshakes_failed == failed + 1
            });
            sleep(Duration::from_millis(300)).unwrap();
            assert_eq!(listener.usage().handshakes_failed, failed + 1, "it retries");
        }
        assert_eq!(listener.usage().connections, 0);
        listener.close();
    });
}

#[test]
fn a_certificate_that_turns_bad_fails_calls_until_it_is_good_again() {
    run_loop(|| {
        let options = Options {
            timeout: Duration::from_secs(60),
            ..Options::default()
        };
        let first = listen(authority().server(&["127.0.0.1"]), Options::default());
        let address = first.address().clone();
        let client = open(&address, authority().client(), options);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        first.close();
        first.close_connections();
        eventually("the link is lost", || !client.connected());
        let other = with_tls(Authority::new().server(&["127.0.0.1"]));
        let mut second = None;
        eventually("the port is free", || {
            let bound = Listener::bind_with(&address, methods(), Options::default(), &other);
            bound.is_ok_and(|listener| {
                listener.close();
                true
            })
        });
        while second.is_none() {
            sleep(Duration::from_millis(1)).unwrap();
            second = Listener::bind_with(&address, methods(), Options::default(), &other).ok();
        }
        let began = now();
        let error = call(&client, "sum", &[2]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(now().saturating_since(began) < Duration::from_secs(20));
        // It keeps trying, now and then, and is connected when the certificate is good again.
        second.unwrap().close();
        let mut third = None;
        while third.is_none() {
            sleep(Duration::from_millis(1)).unwrap();
            third = common::bind(&address, methods(), Options::default()).ok();
        }
        eventually("it is connected again", || client.connected());
        client.close();
        third.unwrap().close();
    });
}

#[test]
fn an_expired_or_misnamed_certificate_is_refused_with_the_reason() {
    run_loop(|| {
        let (cert, key) = authority().sign(&["127.0.0.1"], |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        let expired = TlsOptions {
            cert: Some(cert),
            key: Some(key),
            ..TlsOptions::default()
        };
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let itself = TlsOptions {
            cert: Some(made.cert.pem()),
            key: Some(made.signing_key.serialize_pem()),
            ..TlsOptions::default()
        };
        for (server, text) in [
            (expired, "the server's certificate expired"),
            (
                authority().server(&["a.example", "b.example"]),
                "is for a.example, b.example, not for '127.0.0.1'",
            ),
            (itself, "is not signed by an authority"),
        ] {
            let listener = listen(server, Options::default());
            let (error, _) =
                call_error(listener.address(), authority().client(), Options::default());
            assert_eq!(error.kind(), ErrorKind::Tls);
            assert!(error.message().contains(text), "{error}");
            listener.close();
        }
    });
}

#[test]
fn peers_that_do_not_both_speak_tls_get_errors_that_say_so() {
    run_loop(|| {
        let tls = listen(authority().server(&["127.0.0.1"]), Options::default());
        let plain = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: port_of(&tls),
        };
        let (error, _) = call_error(&plain, TlsOptions::default(), Options::default());
        assert!(error.message().contains("use tls://"), "{error}");
        eventually("it is counted", || tls.usage().handshakes_failed > 0);
        tls.close();

        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let tcp = Listener::bind(&address, methods(), Options::default()).unwrap();
        let secure = Address::Tls {
            host: "127.0.0.1".to_owned(),
            port: port_of(&tcp),
        };
        let (error, _) = call_error(&secure, authority().client(), Options::default());
        assert!(error.kind().is_a(ErrorKind::Transport), "{error}");
        assert!(error.message().contains("use tcp://"), "{error}");
        tcp.close();
    });
}

#[test]
fn a_server_that_answers_with_something_else_is_not_tried_again() {
    run_loop(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("tls://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        let options = Options {
            retry: true,
            ..Options::default()
        };
        let (error, _) = call_error(&address, authority().client(), options);
        assert_eq!(error.kind(), ErrorKind::Tls);
        assert!(error.message().contains("does not speak TLS"), "{error}");
        elsewhere(move || server.join().unwrap());
    });
}

#[test]
fn slow_and_silent_clients_are_closed_while_others_are_served() {
    run_loop(|| {
        let limits = Limits {
            handshake: Duration::from_millis(500),
            ..Limits::default()
        };
        let listener = listen(authority().server(&["127.0.0.1"]), limited(limits));
        let port = port_of(&listener);
        let began = Instant::system();
        // One says nothing. One sends a hello, a byte now and then.
        let slow: Vec<_> = [None, Some(0x16)]
            .into_iter()
            .map(|first: Option<u8>| {
                std::thread::spawn(move || {
                    let mut stream = connect(port);
                    stream
                        .set_read_timeout(Some(Duration::from_millis(50)))
                        .unwrap();
                    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                    for byte in hello.into_iter().chain(std::iter::repeat(0)).take(400) {
                        if first.is_some() && stream.write_all(&[byte]).is_err() {
                            return;
                        }
                        match stream.read(&mut [0; 100]) {
                            Ok(0) => return,
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Ok(_) | Err(_) => return,
                        }
                    }
                    panic!("it was not closed");
                })
            })
            .collect();
        eventually("both have begun", || listener.usage().handshakes == 2);
        let client = open(listener.address(), authority().client(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        eventually("both are closed", || {
            let usage = listener.usage();
            (usage.handshakes, usage.handshakes_failed) == (0, 2)
        });
        elsewhere(move || slow.into_iter().for_each(|client| client.join().unwrap()));
        assert!(Instant::system().saturating_since(began) >= Duration::from_millis(500));
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        client.close();
        listener.close();
    });
}

#[test]
fn handshakes_count_as_connections_for_the_limit() {
    run_loop(|| {
        let limits = Limits {
            connections_max: 1,
            ..Limits::default()
        };
        let listener = listen(authority().server(&["127.0.0.1"]), limited(limits));
        let port = port_of(&listener);
        let idle: Vec<TcpStream> = (0..100).map(|_| connect(port)).collect();
        eventually("they are accepted", || listener.usage().handshakes >= 65);
        sleep(Duration::from_millis(50)).unwrap();
        assert_eq!(listener.usage().handshakes, 65);
        drop(idle);
        eventually("they are gone", || listener.usage().handshakes == 0);
        listener.close();
    });
}

#[test]
fn malformed_handshakes_end_their_connection_alone() {
    run_loop(|| {
        let listener = listen(authority().server(&["127.0.0.1"]), Options::default());
        let port = port_of(&listener);
        let client = open(listener.address(), authority().client(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        elsewhere(move || {
            let mut seed = 7u32;
            for round in 0..60 {
                let mut bytes: Vec<u8> = (0..300 + round * 20)
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (seed >> 24) as u8
                    })
                    .collect();
                // Some begin like a record, some like a hello.
                if round % 3 > 0 {
                    bytes[..5].copy_from_slice(&[0x16, 3, 1, 1, 0]);
                }
                if round % 3 > 1 {
                    bytes[5..11].copy_from_slice(&[1, 0, 0, 0xfc, 3, 3]);
                }
                let mut stream = connect(port);
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                // A fatal alert, or nothing.
                assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
            }
        });
        eventually("all have failed", || {
            listener.usage().handshakes_failed == 60
        });
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        client.close();
        listener.close();
    });
}

#[test]
fn a_truncated_connection_is_lost_and_one_that_is_ended_is_not() {
    run_loop(|| {
        let reasons = Rc::new(std::cell::RefCell::new(Vec::new()));
        let log = reasons.clone();
        let hooks = TestHooks {
            close: Some(Box::new(move |_: &Session, reason: &CloseReason| {
                log.borrow_mut().push(reason.to_string());
                Retry::Default
            })),
            ..TestHooks::default()
        };
        let service = methods().with_hooks(Rc::new(hooks));
        let tls = with_tls(authority().server(&["127.0.0.1"]));
        let address = ANY.parse().unwrap();
        let listener = Listener::bind_with(&address, service, Options::default(), &tls).unwrap();
        let port = port_of(&listener);
        for in_order in [false, true] {
            elsewhere(move || {
                let mut client = plain_client("127.0.0.1", port);
                let mut out = Vec::new();
                encode::request(&mut out, 1, Method::Name(b"sum"), None, ints(&[1])).unwrap();
                client.write_all(&out).unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
                if in_order {
                    client.conn.send_close_notify();
                    client.flush().unwrap();
                }
                drop(client);
            });
        }
        eventually("both have ended", || reasons.borrow().len() == 2);
        let reasons = reasons.borrow();
        assert!(
            reasons[0].contains("bytes may be missing"),
            "{}",
            reasons[0]
        );
        assert_eq!(reasons[1], "closed by the peer");
        listener.close();
    });
}

#[test]
fn a_client_certificate_is_demanded_and_names_the_client() {
    run_loop(|| {
        let server = TlsOptions {
            client_ca: Some(authority().pem()),
            ..authority().server(&["127.0.0.1"])
        };
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |session: &Session, _: Option<&[u8]>| {
                count.set(count.get() + 1);
                match session.peer_name().as_deref() {
                    Some("alice") => Verdict::granted(),
                    name => Verdict::Refuse(format!("{name:?} is not welcome").into()),
                }
            })),
            ..TestHooks::default()
        };
        let address = ANY.parse().unwrap();
        let service = methods().with_hooks(Rc::new(hooks));
        let listener =
            Listener::bind_with(&address, service, Options::default(), &with_tls(server)).unwrap();
        let at = listener.address();
        let alice = open(at, authority().known_client("alice"), Options::default());
        assert_eq!(call(&alice, "sum", &[1]).unwrap(), [1]);
        assert_eq!(alice.peer_name().as_deref(), Some("127.0.0.1"));
        alice.close();
        let (error, _) = call_error(at, authority().known_client("bob"), Options::default());
        assert!(
            error.message().contains("Some(\"bob\") is not welcome"),
            "{error}"
        );
        assert_eq!(seen.get(), 2);

        // A stranger's certificate, and none: the client learns of it after its own side of the handshake.
        let mallory = |authority: Authority| TlsOptions {
            ca: Some(common::tls::authority().pem()),
            ..authority.known_client("alice")
        };
        let options = || Options {
            timeout: Duration::from_secs(60),
            ..Options::default()
        };
        for (client, text) in [
            (
                mallory(Authority::new()),
                "does not trust this client's certificate",
            ),
            (
                mallory(Authority::named(SUITE)),
                "does not trust this client's certificate",
            ),
            (authority().client(), "give the options cert and key"),
        ] {
            let (error, took) = call_error(at, client, options());
            assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
            assert!(!error.is_retryable());
            assert!(error.message().contains(text), "{error}");
            assert!(took < Duration::from_secs(20));
        }
        assert_eq!(seen.get(), 2, "a stranger reaches no hook");
        listener.close();
    });
}

#[test]
fn a_renewed_certificate_is_noticed_and_a_broken_one_is_not_used() {
    run_loop(|| {
        let folder = yue_io::fs::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |names: &[&str]| {
            let (cert, key) = authority().sign(names, |_| {});
            std::fs::write(path("cert.pem"), cert).unwrap();
            std::fs::write(path("key.pem"), key).unwrap();
        };
        write(&["old.example"]);
        let server = TlsOptions {
            cert: Some(path("cert.pem")),
            key: Some(path("key.pem")),
            ..TlsOptions::default()
        };
        let listener = listen(server, Options::default());
        let at = listener.address();
        let as_client = |name: &str| TlsOptions {
            server_name: Some(name.to_owned()),
            ..authority().client()
        };
        let works = |name: &str| {
            let client = open(at, as_client(name), Options::default());
            let outcome = call(&client, "sum", &[1]);
            client.close();
            outcome.is_ok()
        };
        let old = open(at, as_client("old.example"), Options::default());
        assert_eq!(call(&old, "sum", &[1]).unwrap(), [1]);

        std::fs::write(path("cert.pem"), "half a file").unwrap();
        let error = listener.reload().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.message().contains("cert.pem"), "{error}");
        assert!(works("old.example"), "the old certificate stays");

        write(&["new.example"]);
        eventually("it is noticed", || works("new.example"));
        assert!(!works("old.example"));
        // Connections that exist stay.
        assert_eq!(call(&old, "sum", &[2]).unwrap(), [2]);
        assert_eq!(old.stats().links, 1);

        write(&["third.example"]);
        listener.reload().unwrap();
        assert!(works("third.example"));
        old.close();
        listener.close();
    });
}

#[test]
fn options_that_do_not_fit_are_refused() {
    run_loop(|| {
        let server = authority().server(&["localhost"]);
        let bind = |address: &str, tls: TlsOptions| {
            let options = Options::default();
            Listener::bind_with(
                &address.parse().unwrap(),
                methods(),
                options,
                &with_tls(tls),
            )
            .map(drop)
        };
        let client = |address: &str, tls: TlsOptions| {
            try_connector(&address.parse().unwrap(), &with_tls(tls)).map(drop)
        };
        let none = TlsOptions::default;
        let key_of_another = TlsOptions {
            key: authority().server(&["localhost"]).key,
            ..server.clone()
        };
        let insecure = TlsOptions {
            insecure: true,
            ..server.clone()
        };
        let encrypted = TlsOptions {
            key: Some("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned()),
            ..server.clone()
        };
        for (outcome, text) in [
            (bind(ANY, none()), "needs a certificate"),
            (bind(ANY, key_of_another), "cannot be used together"),
            (bind(ANY, insecure), "the option insecure is for clients"),
            (bind(ANY, encrypted), "pass phrase"),
            (
                bind("tcp://127.0.0.1:0", server.clone()),
                "the option cert is for tls://",
            ),
            (
                client("tcp://127.0.0.1:1", authority().client()),
                "the option ca is for tls://",
            ),
            (
                client("thread://x", server),
                "the option cert is for tls://",
            ),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument, "{error}");
            assert!(error.message().contains(text), "{error}");
        }
        // Where no error can be returned, calls report it.
        let options = with_tls(TlsOptions {
            ca: Some("/nowhere/ca.pem".to_owned()),
            ..TlsOptions::default()
        });
        let connector = connector_with(&"tls://127.0.0.1:1".parse().unwrap(), &options);
        let session = Session::open(connector, methods(), Options::default());
        let error = call(&session, "sum", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.message().contains("/nowhere/ca.pem"), "{error}");
        session.close();
    });
}

#[test]
fn a_client_that_is_not_careful_is_served() {
    run_loop(|| {
        let made = Authority::new();
        let listener = listen(made.server(&["somewhere.example"]), Options::default());
        let careless = TlsOptions {
            insecure: true,
            ..TlsOptions::default()
        };
        let client = open(listener.address(), careless, Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(client.peer_name(), None);
        client.close();
        listener.close();
    });
}

#[test]
fn a_peer_that_hangs_is_noticed_by_a_ping() {
    run_loop(|| {
        let impatient = SocketOptions {
            keepalive: Some(Duration::from_millis(500)),
            tls: authority().server(&["127.0.0.1"]),
            ..SocketOptions::default()
        };
        let address = ANY.parse().unwrap();
        let listener =
            Listener::bind_with(&address, methods(), Options::default(), &impatient).unwrap();
        let port = port_of(&listener);
        let (sender, hangs) = std::sync::mpsc::channel::<()>();
        let client = std::thread::spawn(move || {
            let mut client = plain_client("127.0.0.1", port);
            let mut out = Vec::new();
            encode::request(&mut out, 0, Method::Name(b"$yue/hello"), None, |out| {
                encode::uint(out, 1);
                out.push(0x80);
                Ok(2)
            })
            .unwrap();
            client.write_all(&out).unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
            // It reads no more, and answers no ping.
            let _ = hangs.recv();
        });
        eventually("it is connected", || listener.usage().connections == 1);
        eventually("it is noticed", || listener.usage().connections == 0);
        drop(sender);
        elsewhere(move || client.join().unwrap());
        listener.close();
    });
}

#[test]
fn typed_clients_and_servers_have_socket_options() {
    run_loop(|| {
        let listener = typed::Server::new()
            .handler("whoami", |()| Ok(peer().and_then(|peer| peer.peer_name())))
            .sockets(with_tls(TlsOptions {
                client_ca: Some(authority().pem()),
                ..authority().server(&["localhost"])
            }))
            .listen("tls://localhost:0")
            .unwrap();
        let address = listener.address().to_string();
        let offers = typed::Server::new().sockets(with_tls(authority().known_client("carol")));
        let client = typed::Client::open_with(&address, offers, Options::default()).unwrap();
        let name: Option<String> = client.call("whoami", ()).unwrap();
        assert_eq!(name.as_deref(), Some("carol"));
        drop(client);
        listener.close();
    });
}

#[test]
fn a_connector_that_is_cancelled_leaves_nothing_behind() {
    run_loop(|| {
        // Nobody answers the hello.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("tls://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let client = open(&address, authority().client(), Options::default());
        let caller = {
            let client = client.clone();
            spawn(move || call(&client, "sum", &[1]))
        };
        let (mut stream, _) = elsewhere(move || listener.accept().unwrap());
        client.close();
        assert!(caller.join().unwrap().is_err());
        elsewhere(move || {
            let mut hello = Vec::new();
            let _ = stream.read_to_end(&mut hello);
        });
    });
}

#[test]
fn a_server_that_does_not_answer_the_hello_is_given_up() {
    run_loop(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("tls://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let sockets = SocketOptions {
            handshake: Duration::from_millis(200),
            tls: authority().client(),
            ..SocketOptions::default()
        };
        let connector = try_connector(&address, &sockets).unwrap();
        let client = Session::open(connector, methods(), Options::default());
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionTimeout, "{error}");
        assert!(error.is_retryable());
        client.close();
        drop(listener);
    });
}
