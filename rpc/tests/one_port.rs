//! Several protocols on one port.
#![cfg(all(feature = "http", feature = "ws", feature = "tls"))]

mod common;

use common::http::{ask, post};
use common::tls::{authority, plain_client, plain_client_with};
use common::websocket::{RawClient, Received, read_head, request};
use common::*;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{TcpStream, UnixStream};
use yue_io::tls::Identity;
use yue_rpc::proto::encode;
use yue_rpc::session::{Call, Reply, Service, Session, peer};
use yue_rpc::transport::{
    HttpOptions, SocketOptions, TlsOptions, WebSocketOptions, connector, connector_with,
};
use yue_rpc::{Address, ErrorKind, Limits, Listener, Options, Verdict};
use yue_scheduler::{blocking, sleep};

fn sockets(ws: bool, http: bool) -> SocketOptions {
    SocketOptions {
        websocket: WebSocketOptions {
            shares_port: ws,
            ..WebSocketOptions::default()
        },
        http: http.then(|| HttpOptions::new().rpc(|_| Ok(true))),
        ..SocketOptions::default()
    }
}

fn listen(address: &str, sockets: &SocketOptions, limits: Limits) -> Listener {
    let address = address.parse().unwrap();
    Listener::bind_with(&address, methods(), limited(limits), sockets).unwrap()
}

/// The addresses of the connections, without ports.
fn schemes(listener: &Listener) -> Vec<String> {
    let connections = listener.connections();
    let scheme = |session: &Session| session.address().split("://").next().unwrap().to_owned();
    let mut all: Vec<String> = connections.iter().map(scheme).collect();
    all.sort();
    all
}

fn end(listener: &Listener) {
    listener.close();
    listener.close_connections();
    eventually("all connections end", || {
        listener.connections().is_empty() && listener.usage().handshakes == 0
    });
}

#[test]
fn each_protocol_is_served_on_one_port() {
    run_loop(|| {
        let listener = listen("tcp://127.0.0.1:0", &sockets(true, true), Limits::default());
        let (host, port) = listener.address().host_and_port().unwrap();
        let connect = || TcpStream::connect((host, port)).unwrap();
        let client = Session::open(connector(listener.address()), methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        let ws: Address = format!("ws://{host}:{port}/").parse().unwrap();
        let by_ws = Session::open(connector(&ws), methods(), Options::default());
        assert_eq!(call(&by_ws, "ask", &[1, 2]).unwrap(), [3]);
        let mut by_http = connect();
        assert_eq!(
            ask(&mut by_http, &post("/rpc/sum", "", "[4]")).body,
            "{\"result\":4}"
        );
        assert_eq!(schemes(&listener), ["http", "tcp", "ws"]);
        // Byte by byte, and with the messages right behind the request.
        let mut slow = connect();
        for byte in request("/", "").bytes() {
            slow.write_all(&[byte]).unwrap();
            sleep(Duration::from_micros(100)).unwrap();
        }
        assert!(read_head(&mut slow).unwrap().starts_with("HTTP/1.1 101 "));
        let mut raw = RawClient::open(connect(), "/");
        raw.call(1, "sum", &[5]);
        assert_eq!(raw.receive(), Received::Data(vec![0x94, 1, 1, 0xc0, 5]));
        // A request for another path, and one for a WebSocket on a connection that already speaks HTTP.
        let mut other = connect();
        other
            .write_all(request("/elsewhere", "").as_bytes())
            .unwrap();
        assert!(read_head(&mut other).unwrap().starts_with("HTTP/1.1 404 "));
        assert_eq!(ask(&mut by_http, &request("/", "")).status, 404);
        client.close();
        by_ws.close();
        end(&listener);
    });
}

#[test]
fn over_tls_and_over_unix_sockets_too() {
    run_loop(|| {
        let tls = SocketOptions {
            tls: authority().server(&["127.0.0.1"]),
            ..sockets(true, true)
        };
        let listener = listen("tls://127.0.0.1:0", &tls, Limits::default());
        let (host, port) = listener.address().host_and_port().unwrap();
        let trusting = common::tls::with_tls(authority().client());
        for address in [
            listener.address().to_string(),
            format!("wss://{host}:{port}/"),
        ] {
            let address = address.parse().unwrap();
            let connector = connector_with(&address, &trusting);
            let client = Session::open(connector, methods(), Options::default());
            assert_eq!(call(&client, "ask", &[1, 2]).unwrap(), [3], "{address}");
            client.close();
        }
        let host = host.to_owned();
        let answer =
            blocking(move || ask(&mut plain_client(&host, port), &post("/rpc/sum", "", "[4]")));
        assert_eq!(answer.unwrap().body, "{\"result\":4}");
        end(&listener);

        let place = yue_io::fs::TempDir::new().unwrap();
        let path = place.path().join("socket").display().to_string();
        let listener = listen(
            &format!("unix://{path}"),
            &sockets(true, true),
            Limits::default(),
        );
        let client = Session::open(connector(listener.address()), methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let mut by_http = UnixStream::connect(&path).unwrap();
        assert_eq!(
            ask(&mut by_http, &post("/rpc/sum", "", "[4]")).body,
            "{\"result\":4}"
        );
        let mut raw = RawClient::open(UnixStream::connect(&path).unwrap(), "/");
        raw.call(1, "sum", &[5]);
        assert_eq!(raw.receive(), Received::Data(vec![0x94, 1, 1, 0xc0, 5]));
        assert_eq!(schemes(&listener), ["http+unix", "unix", "unix"]);
        client.close();
        end(&listener);
    });
}

#[test]
fn a_client_certificate_names_the_client_of_a_call_by_http() {
    run_loop(|| {
        let service = Service::new(Rc::new(|_: &mut Call, reply: Reply| {
            let name = peer().and_then(|peer| peer.peer_name());
            reply.results(|out| {
                encode::str_or_bin(out, name.unwrap_or_default().as_bytes());
                Ok(1)
            })
        }));
        let http = HttpOptions::new().rpc(|request| {
            assert!(request.peer.starts_with("https://127.0.0.1:"));
            Ok(request.peer_name.as_deref() == Some("alice"))
        });
        let sockets = SocketOptions {
            tls: TlsOptions {
                client_ca: Some(authority().pem()),
                ..authority().server(&["127.0.0.1"])
            },
            http: Some(http),
            ..SocketOptions::default()
        };
        let address = "tls://127.0.0.1:0".parse().unwrap();
        let listener =
            Listener::bind_with(&address, service, Options::default(), &sockets).unwrap();
        let port = listener.address().host_and_port().unwrap().1;
        for (name, status) in [("alice", 200), ("bob", 403)] {
            let options = authority().known_client(name);
            let (cert, key) = (options.cert.unwrap(), options.key.unwrap());
            let answer = blocking(move || {
                let identity = Identity::from_pem(cert, key).unwrap();
                let mut client = plain_client_with("127.0.0.1", port, Some(identity));
                ask(&mut client, &post("/rpc/who", "", "[]"))
            });
            let answer = answer.unwrap();
            assert_eq!(answer.status, status, "{name}: {answer:?}");
            assert!(status != 200 || answer.body == "{\"result\":\"alice\"}");
        }
        end(&listener);
    });
}

#[test]
fn a_protocol_that_is_not_allowed_is_refused() {
    run_loop(|| {
        for (ws, http, upgrade, plain) in [(true, false, "101", "426"), (false, true, "404", "404")]
        {
            let listener = listen("tcp://127.0.0.1:0", &sockets(ws, http), Limits::default());
            let (host, port) = listener.address().host_and_port().unwrap();
            for (request, status) in [
                (request("/", ""), upgrade),
                (
                    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                    plain,
                ),
            ] {
                let mut stream = TcpStream::connect((host, port)).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                let head = read_head(&mut stream).unwrap();
                assert!(
                    head.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{ws} {http}: {head}"
                );
            }
            // Neither msgpack-rpc nor HTTP.
            for first in [&b"\x16\x03\x01"[..], b"\0", b"{\"a\":1}", b"\xc0"] {
                let mut stream = TcpStream::connect((host, port)).unwrap();
                stream.write_all(first).unwrap();
                let ended = stream.read(&mut [0]).map_or(true, |count| count == 0);
                assert!(ended, "{first:x?}");
            }
            assert!(listener.usage().handshakes_failed >= 4);
            end(&listener);
        }
    });
}

#[test]
fn a_silent_client_is_given_up_and_no_hook_runs_for_it() {
    run_loop(|| {
        let accepted = Rc::new(std::cell::Cell::new(0));
        let count = accepted.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                count.set(count.get() + 1);
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let limits = Limits {
            handshake: Duration::from_millis(200),
            ..Limits::default()
        };
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let service = methods().with_hooks(Rc::new(hooks));
        let listener =
            Listener::bind_with(&address, service, limited(limits), &sockets(true, true)).unwrap();
        let mut silent = TcpStream::connect(listener.address().host_and_port().unwrap()).unwrap();
        eventually("it waits", || listener.usage().handshakes == 1);
        assert_eq!(accepted.get(), 0);
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        assert_eq!((accepted.get(), listener.usage().handshakes_failed), (0, 1));
        let client = Session::open(connector(listener.address()), methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(accepted.get(), 1);
        client.close();
        end(&listener);
    });
}

#[test]
fn addresses_with_one_protocol_take_no_such_option() {
    run_loop(|| {
        for address in ["ws://127.0.0.1:0", "thread://one-port"] {
            for (ws, http, name) in [(true, false, "ws"), (false, true, "http")] {
                let address: Address = address.parse().unwrap();
                let options = Options::default();
                let bound =
                    Listener::bind_with(&address, Service::none(), options, &sockets(ws, http));
                let error = bound.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::Argument);
                let text = format!("the option {name} is for listeners at tcp://");
                assert!(error.message().contains(&text), "{error}");
            }
        }
    });
}
