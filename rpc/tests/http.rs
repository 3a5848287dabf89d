//! `POST /rpc/NAME`: what a listener answers to good requests, and to bad ones.
#![cfg(feature = "http")]

mod common;

use common::http::{Answer, ask, post, read_answer};
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::TcpStream;
use yue_rpc::session::{Call, CallMethod, Reply, Service, Session, peer};
use yue_rpc::transport::{HttpOptions, HttpRequest, SocketOptions, connector};
use yue_rpc::{ErrorKind, Failure, Limits, Listener, Options, Verdict};
use yue_scheduler::{sleep, spawn};

/// A listener that answers HTTP, and a client by msgpack-rpc that must be served whatever others do.
struct Server {
    listener: Listener,
    witness: Session,
}

fn granting() -> HttpOptions {
    HttpOptions::new().rpc(|_| Ok(true))
}

impl Server {
    fn new(service: Service, options: Options, http: HttpOptions) -> Server {
        let sockets = SocketOptions {
            http: Some(http),
            ..SocketOptions::default()
        };
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind_with(&address, service, options, &sockets).unwrap();
        let witness = Session::open(connector(listener.address()), methods(), Options::default());
        Server { listener, witness }
    }

    fn plain() -> Server {
        Server::new(methods(), Options::default(), granting())
    }

    fn limited(limits: Limits) -> Server {
        Server::new(methods(), limited(limits), granting())
    }

    fn connect(&self) -> TcpStream {
        let (host, port) = self.listener.address().host_and_port().unwrap();
        TcpStream::connect((host, port)).unwrap()
    }

    /// Sends a request over a connection of its own.
    fn ask(&self, request: &str) -> Answer {
        ask(&mut self.connect(), request)
    }

    fn serves(&self) {
        assert_eq!(call(&self.witness, "sum", &[20, 22]).unwrap(), [42]);
    }

    fn end(self) {
        self.serves();
        self.witness.close();
        self.listener.close();
        self.listener.close_connections();
        eventually("all connections end", || {
            self.listener.connections().is_empty()
        });
        eventually("nothing is left", || {
            let usage = self.listener.usage();
            (
                usage.connections,
                usage.requests_in_flight,
                usage.memory_bytes,
            ) == (0, 0, 0)
        });
    }
}

/// The type and the message of an error.
fn error_of(answer: &Answer) -> (String, String) {
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let text = |key: &str| json["error"][key].as_str().expect(key).to_owned();
    assert!(json["error"]["code"].is_i64() && json["error"]["retryable"].is_boolean());
    (text("type"), text("message"))
}

#[test]
fn a_call_gets_its_result_as_json() {
    run_loop(|| {
        let server = Server::plain();
        let mut client = server.connect();
        for (path, body, result) in [
            ("/rpc/sum", "[1, 2]", "3"),
            ("/rpc/math.sum", "[40,2]", "42"),
            ("/rpc/%73um?x=1", " [ 1.0 ] ", "1"),
            ("/rpc/sum", "", "0"),
            ("/rpc/echo", "[]", "null"),
            ("/rpc/echo", "[1]", "1"),
            ("/rpc/echo", "[1,2]", "[1,2]"),
            (
                "/rpc/bytes",
                r#"[{"a": [null, true, -1.5, "ä\n"], "b": {}, "a": 9007199254740993}]"#,
                r#"{"a":[null,true,-1.5,"ä\n"],"b":{},"a":9007199254740993}"#,
            ),
            (
                "/rpc/bytes",
                "[1e300, -1e2, 18446744073709551615]",
                "[1e+300,-100,18446744073709551615]",
            ),
        ] {
            // All over one connection.
            let answer = ask(&mut client, &post(path, "", body));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(
                answer.body,
                format!("{{\"result\":{result}}}"),
                "{path} {body}"
            );
            assert_eq!(answer.header("content-type").unwrap(), "application/json");
            assert!(!answer.closes());
        }
        assert_eq!(server.listener.usage().connections, 1);
        server.serves();
        assert_eq!(server.listener.usage().connections, 2);
        drop(client);
        eventually("it is gone", || server.listener.usage().connections == 1);
        server.end();
    });
}

#[test]
fn errors_have_a_status_and_no_traceback() {
    run_loop(|| {
        let server = Server::plain();
        for (path, body, status, kind, text) in [
            ("/rpc/fail", "[]", 500, "RuntimeError", "it went wrong"),
            ("/rpc/panic", "[]", 500, "RuntimeError", "panicked"),
            ("/rpc/missing", "[]", 404, "NoMethodError", "missing"),
            ("/rpc/_sum", "[]", 404, "NoMethodError", ""),
            ("/rpc/math._sum", "[]", 404, "NoMethodError", ""),
            ("/rpc/$yue/describe", "[]", 404, "NoMethodError", ""),
            ("/rpc/$yue%2Fdescribe", "[]", 404, "NoMethodError", ""),
            ("/rpc/%zz", "[]", 404, "NoMethodError", ""),
            ("/rpc/%ff", "[]", 404, "NoMethodError", ""),
            ("/rpc/", "[]", 404, "NoMethodError", ""),
            ("/", "[]", 404, "NoMethodError", ""),
            ("/metrics", "[]", 404, "NoMethodError", ""),
            ("/rpc/sum", "{}", 400, "ArgumentError", "array"),
            ("/rpc/sum", "[1] 2", 400, "ArgumentError", ""),
            ("/rpc/sum", "[1,", 400, "ArgumentError", "line 1"),
            ("/rpc/sum", "[\"\\ud800\"]", 400, "ArgumentError", ""),
            (
                "/rpc/unencodable",
                "[]",
                400,
                "ArgumentError",
                "cannot be sent",
            ),
            ("/rpc/big", "[1]", 500, "ServerError", "UTF-8"),
        ] {
            let answer = server.ask(&post(path, "", body));
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            let (type_name, message) = error_of(&answer);
            assert_eq!(type_name, kind, "{path}: {message}");
            assert!(message.contains(text), "{path}: {message}");
            assert!(!answer.body.contains("traceback"));
        }
        server.end();
    });
}

#[test]
fn each_request_is_granted() {
    run_loop(|| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        let http = HttpOptions::new().rpc(move |request: &HttpRequest| {
            log.borrow_mut().push(request.clone());
            // It may wait.
            let _ = sleep(Duration::from_millis(1));
            match request.header("authorization") {
                Some("good") => Ok(true),
                Some("broken") => Err(Failure::new("a secret of the server")),
                _ => Ok(false),
            }
        });
        let server = Server::new(methods(), Options::default(), http);
        let good = server.ask(&post("/rpc/sum?a=b", "Authorization: good\r\n", "[1]"));
        assert_eq!(good.body, "{\"result\":1}");
        let request = seen.borrow()[0].clone();
        assert_eq!(
            (request.name.as_str(), request.method.as_str()),
            ("sum", "POST")
        );
        assert_eq!(request.path, "/rpc/sum?a=b");
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert!(
            request.peer.starts_with("http://127.0.0.1:"),
            "{}",
            request.peer
        );
        assert_eq!(request.peer_name, None);
        let refused = server.ask(&post("/rpc/sum", "", "[1]"));
        assert_eq!(refused.status, 403);
        assert_eq!(error_of(&refused).0, "NotGrantedError");
        let broken = server.ask(&post("/rpc/sum", "Authorization: broken\r\n", "[1]"));
        assert_eq!(broken.status, 500);
        assert!(!broken.body.contains("secret"), "{}", broken.body);
        server.end();
        // Without such a function there is nothing.
        let server = Server::new(methods(), Options::default(), HttpOptions::new());
        assert_eq!(server.ask(&post("/rpc/sum", "", "[1]")).status, 404);
        server.end();
    });
}

#[test]
fn what_is_no_call_in_json_is_refused() {
    run_loop(|| {
        let server = Server::plain();
        let with = |headers: &str| format!("POST /rpc/sum HTTP/1.1\r\n{headers}\r\n[1]");
        let json = "Content-Length: 3\r\nContent-Type: application/json\r\n";
        for (request, status) in [
            (with(&format!("Host: a\r\nHost: a\r\n{json}")), 400),
            (with(json), 400),
            (with(&format!("Host: localhost\r\n{json}")), 200),
            (with(&format!("Host: localhost:80\r\n{json}")), 200),
            (with(&format!("Host: [::1]:80\r\n{json}")), 200),
            // A name that leads here, but is a stranger's.
            (with(&format!("Host: rebound.example\r\n{json}")), 403),
            (with("Host: localhost\r\nContent-Length: 3\r\n"), 415),
            (
                with("Host: localhost\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n"),
                415,
            ),
            (
                with(
                    "Host: localhost\r\nContent-Length: 3\r\nContent-Type: text/plain; a=application/json\r\n",
                ),
                415,
            ),
            (
                with(
                    "Host: localhost\r\nContent-Length: 3\r\nContent-Type: Application/JSON ; charset=utf-8\r\n",
                ),
                200,
            ),
            (
                "POST http://other.example/rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                400,
            ),
            (
                "GET /rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                405,
            ),
            (
                "DELETE /rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                405,
            ),
            (
                "OPTIONS /rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                204,
            ),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
            (
                "GET /rpc/sum HTTP/3.1\r\nHost: localhost\r\n\r\n".to_owned(),
                400,
            ),
            (
                "POST /rpc/sum HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(),
                400,
            ),
        ] {
            let answer = server.ask(&request);
            assert_eq!(answer.status, status, "{request}: {answer:?}");
        }
        let get = server.ask("GET /rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(get.header("allow").unwrap(), "post, options");
        // An answer to HEAD has no body.
        let mut client = server.connect();
        client
            .write_all(b"HEAD /rpc/sum HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert!(
            all.starts_with("HTTP/1.1 405 ") && all.ends_with("\r\n\r\n"),
            "{all}"
        );
        server.end();
    });
}

#[test]
fn pages_may_call_as_the_origins_say() {
    run_loop(|| {
        let with = |origin: &str, host: &str| {
            format!(
                "POST /rpc/sum HTTP/1.1\r\nHost: {host}\r\n{origin}Content-Type: application/json\r\n\
                 Content-Length: 3\r\n\r\n[1]"
            )
        };
        let server = Server::plain();
        for (origin, host, status) in [
            ("Origin: http://127.0.0.1:8000\r\n", "127.0.0.1", 200),
            ("Origin: http://evil.example\r\n", "127.0.0.1", 403),
            ("Origin: http://evil.example\r\n", "evil.example", 403),
            ("Origin: null\r\n", "127.0.0.1", 403),
        ] {
            assert_eq!(server.ask(&with(origin, host)).status, status, "{origin}");
        }
        server.end();
        let listed = granting().origins(vec!["https://game.example".to_owned()]);
        let server = Server::new(methods(), Options::default(), listed);
        for (origin, host, status) in [
            ("Origin: https://game.example\r\n", "api.example", 200),
            ("Origin: http://game.example\r\n", "game.example", 403),
            ("Origin: http://127.0.0.1\r\n", "127.0.0.1", 403),
            ("", "game.example:443", 200),
            ("", "localhost", 200),
            ("", "evil.example", 403),
        ] {
            assert_eq!(
                server.ask(&with(origin, host)).status,
                status,
                "{origin} {host}"
            );
        }
        // The page may read the answer, and ask beforehand.
        let answer = server.ask(&with("Origin: https://game.example\r\n", "game.example"));
        let allowed = |answer: &Answer| answer.header("access-control-allow-origin");
        assert_eq!(allowed(&answer).as_deref(), Some("https://game.example"));
        let ask = "OPTIONS /rpc/sum HTTP/1.1\r\nHost: game.example\r\nOrigin: https://game.example\r\n\r\n";
        let answer = server.ask(ask);
        assert_eq!(
            (answer.status, allowed(&answer).as_deref()),
            (204, Some("https://game.example"))
        );
        let headers = |answer: &Answer| answer.header("access-control-allow-headers").unwrap();
        assert_eq!(headers(&answer), "content-type, authorization");
        let more =
            "Origin: https://game.example\r\nAccess-Control-Request-Headers: x-api-key\r\n\r\n";
        let answer = server.ask(&ask.replace("Origin: https://game.example\r\n\r\n", more));
        assert_eq!(headers(&answer), "x-api-key");
        let answer = server.ask(&ask.replace("Origin: https://game", "Origin: https://evil"));
        assert_eq!((answer.status, allowed(&answer)), (403, None));
        server.end();
    });
}

#[test]
fn the_forms_of_a_body_arrive() {
    run_loop(|| {
        let server = Server::plain();
        let chunked = "POST /rpc/sum HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                       Transfer-Encoding: chunked\r\n\r\n";
        let answer = server.ask(&format!("{chunked}2\r\n[1\r\n3;a=b\r\n,2]\r\n0\r\n\r\n"));
        assert_eq!(answer.body, "{\"result\":3}");
        assert!(answer.closes(), "what follows chunks is not read");
        let answer = server.ask(&format!("{chunked}xyz\r\n[1]\r\n0\r\n\r\n"));
        assert_eq!(answer.status, 400);
        // The client waits with its body until it is asked for it.
        let mut client = server.connect();
        let expects = post("/rpc/sum", "Expect: 100-continue\r\n", "[1]");
        let (head, body) = expects.split_at(expects.len() - 3);
        let proceed = ask(&mut client, head);
        assert_eq!(proceed.status, 100);
        assert_eq!(ask(&mut client, body).body, "{\"result\":1}");
        // Nobody is asked for a body that is too large, or of the wrong kind.
        for (from, to, status) in [
            ("Length: 3", "Length: 99999999", 413),
            ("/json", "/xml", 415),
        ] {
            let answer = server.ask(&head.replace(from, to));
            assert_eq!(answer.status, status);
            assert!(answer.closes());
        }
        // Byte by byte.
        let mut client = server.connect();
        for byte in post("/rpc/sum", "", "[1,2]").bytes() {
            client.write_all(&[byte]).unwrap();
            sleep(Duration::from_micros(200)).unwrap();
        }
        assert_eq!(read_answer(&mut client).unwrap().body, "{\"result\":3}");
        // Several at once are answered in order.
        let two = post("/rpc/sum", "", "[1]") + &post("/rpc/sum", "Connection: close\r\n", "[2]");
        client.write_all(two.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut client).unwrap().body, "{\"result\":1}");
        let last = read_answer(&mut client).unwrap();
        assert_eq!(last.body, "{\"result\":2}");
        assert!(last.closes());
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the connection ends");
        // A client that sends no more gets its answer.
        let mut client = server.connect();
        client
            .write_all(post("/rpc/nap", "", "[20]").as_bytes())
            .unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_answer(&mut client).unwrap().body, "{\"result\":20}");
        server.end();
    });
}

#[test]
fn a_request_in_a_request_is_not_served() {
    run_loop(|| {
        let server = Server::plain();
        let inner = post("/rpc/fail", "", "[]");
        let both = |headers: &str| {
            format!(
                "POST /rpc/sum HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\r\n\
                 0\r\n\r\n{inner}"
            )
        };
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(),
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
            "Content-Length: +5\r\n".to_owned(),
        ] {
            let mut client = server.connect();
            client.write_all(both(&headers).as_bytes()).unwrap();
            let mut all = String::new();
            client.read_to_string(&mut all).unwrap();
            assert_eq!(all.matches("HTTP/1.1").count(), 1, "{headers}: {all}");
            assert!(!all.contains("it went wrong"), "{headers}: {all}");
        }
        server.end();
    });
}

#[test]
fn heads_and_bodies_are_bounded() {
    run_loop(|| {
        let limits = Limits {
            message_bytes_max: 10_000,
            nesting_max: 20,
            ..Limits::default()
        };
        let server = Server::limited(limits);
        let long = post("/rpc/sum", &format!("A: {}\r\n", "a".repeat(9000)), "[1]");
        assert_eq!(server.ask(&long).status, 431);
        let many = post("/rpc/sum", &"A: b\r\n".repeat(200), "[1]");
        assert_eq!(server.ask(&many).status, 431);
        let endless = format!("POST /rpc/sum HTTP/1.1\r\nA: {}", "a".repeat(100_000));
        assert_eq!(server.ask(&endless).status, 431);
        let endless = format!("POST /rpc/{}", "a".repeat(100_000));
        assert!([414, 431].contains(&server.ask(&endless).status));
        // The second request's head is bounded like the first one's.
        let mut client = server.connect();
        assert_eq!(ask(&mut client, &post("/rpc/sum", "", "[1]")).status, 200);
        assert_eq!(ask(&mut client, &long).status, 431);

        let array = |length: usize| format!("[{}1]", "1,".repeat(length - 1));
        assert_eq!(server.ask(&post("/rpc/sum", "", &array(4000))).status, 200);
        assert_eq!(server.ask(&post("/rpc/sum", "", &array(6000))).status, 413);
        let chunked = "POST /rpc/sum HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                       Transfer-Encoding: chunked\r\n\r\n";
        let body = format!("{chunked}4000\r\n{}", " ".repeat(0x4000));
        assert_eq!(server.ask(&body).status, 413);
        // Small in JSON, large in msgpack.
        let halves = format!("[{}1]", "0.5,".repeat(2000));
        let answer = server.ask(&post("/rpc/bytes", "", &halves));
        assert_eq!(
            (answer.status, error_of(&answer).0.as_str()),
            (413, "MessageTooLargeError")
        );
        // As deep as a message may be, and deeper.
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let mut client = server.connect();
        for (depth, status) in [(10, 200), (20, 200), (21, 400), (100, 400), (4000, 400)] {
            let answer = ask(&mut client, &post("/rpc/bytes", "", &deep(depth)));
            assert_eq!(answer.status, status, "{depth}: {answer:?}");
        }
        let answer = ask(&mut client, &post("/rpc/bytes", "", &deep(20)));
        assert_eq!(answer.body, format!("{{\"result\":{}}}", deep(19)));
        // A result that is small in msgpack and large in JSON.
        let service = Service::new(Rc::new(|_: &mut Call, reply: Reply| {
            reply.results(|out| {
                yue_rpc::proto::encode::str_or_bin(out, &[1; 4000]);
                Ok(1)
            })
        }));
        server.end();
        let limits = Limits {
            message_bytes_max: 10_000,
            ..Limits::default()
        };
        let server = Server::new(service, limited(limits), granting());
        let answer = server.ask(&post("/rpc/controls", "", "[]"));
        assert_eq!(
            (answer.status, error_of(&answer).0.as_str()),
            (500, "MessageTooLargeError")
        );
        server.witness.close();
        server.listener.close();
        server.listener.close_connections();
        eventually("all end", || server.listener.connections().is_empty());
    });
}

#[test]
fn slow_clients_are_given_up_and_others_served() {
    run_loop(|| {
        let limits = Limits {
            handshake: Duration::from_millis(200),
            message_time: Duration::from_millis(200),
            ..Limits::default()
        };
        let server = Server::limited(limits);
        let whole = post("/rpc/sum", "", "[1]");
        // Nothing at all; the beginning of a head; of the second head; of a body.
        let mut silent = server.connect();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        let mut half = server.connect();
        half.write_all(b"POST /rpc").unwrap();
        let mut rest = String::new();
        half.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "the protocol was not known");
        let mut second = server.connect();
        assert_eq!(ask(&mut second, &whole).status, 200);
        second.write_all(b"POST /rpc").unwrap();
        let late = read_answer(&mut second).unwrap();
        assert_eq!((late.status, late.closes()), (408, true));
        let mut idle = server.connect();
        assert_eq!(ask(&mut idle, &whole).status, 200);
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "an idle one is closed");
        let mut body = server.connect();
        body.write_all(&whole.as_bytes()[..whole.len() - 1])
            .unwrap();
        let late = read_answer(&mut body).unwrap();
        assert_eq!(
            (late.status, error_of(&late).0.as_str()),
            (408, "TimeoutError")
        );
        server.serves();
        server.end();
    });
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    run_loop(|| {
        let limits = Limits {
            stall: Duration::from_millis(200),
            ..Limits::default()
        };
        let server = Server::limited(limits);
        let mut client = server.connect();
        socket2::SockRef::from(&client)
            .set_recv_buffer_size(4096)
            .unwrap();
        let text = "a".repeat(3_000_000);
        let request = post("/rpc/bytes", "", &format!("[\"{text}\"]"));
        client.write_all(request.as_bytes()).unwrap();
        eventually("it is given up", || {
            server.listener.usage().connections == 0
        });
        server.serves();
        server.end();
    });
}

#[test]
fn calls_have_deadlines_and_a_client_that_leaves_stops_waiting() {
    run_loop(|| {
        let options = Options {
            timeout: Duration::from_millis(300),
            cancel: true,
            ..Options::default()
        };
        let stopped = Rc::new(Cell::new(0));
        let count = stopped.clone();
        let service = Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            match call.method() {
                CallMethod::Name(b"left") => {
                    let left = yue_scheduler::time_left(call.deadline());
                    reply.results(ints(&[left.as_millis() as i64]))
                }
                CallMethod::Name(b"sum") => {
                    let values = read_ints(call.params().bytes);
                    reply.results(ints(&[values.iter().sum()]))
                }
                _ => {
                    let outcome = sleep(Duration::from_secs(1000));
                    count.set(count.get() + 1);
                    reply.fail(&Failure::from(outcome.unwrap_err()))
                }
            }
        }));
        let server = Server::new(service, options, granting());
        let answer = server.ask(&post("/rpc/left", "", "[]"));
        let left: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(
            (1..=300).contains(&left["result"].as_i64().unwrap()),
            "{left}"
        );
        let answer = server.ask(&post("/rpc/nap", "", "[]"));
        assert_eq!(
            (answer.status, error_of(&answer).0.as_str()),
            (504, "TimeoutError")
        );
        eventually("the handler was stopped", || stopped.get() == 1);
        let mut client = server.connect();
        client
            .write_all(post("/rpc/nap", "", "[]").as_bytes())
            .unwrap();
        eventually("it runs", || {
            server.listener.usage().requests_in_flight == 1
        });
        drop(client);
        eventually("that one, too", || stopped.get() == 2);
        server.end();
    });
}

#[test]
fn the_limits_of_the_listener_hold() {
    run_loop(|| {
        let limits = Limits {
            connections_max: 2,
            handlers_max: 2,
            ..Limits::default()
        };
        let server = Server::limited(limits);
        server.serves();
        let mut first = server.connect();
        assert_eq!(ask(&mut first, &post("/rpc/sum", "", "[1]")).status, 200);
        // A third connection is one too many.
        let busy = server.ask(&post("/rpc/sum", "", "[1]"));
        assert_eq!(
            (busy.status, error_of(&busy).0.as_str()),
            (503, "ServerBusyError")
        );
        assert!(busy.body.contains("\"retryable\":true") && busy.closes());
        // And a third handler.
        let naps = [(); 2].map(|()| {
            let witness = server.witness.clone();
            spawn(move || call(&witness, "nap", &[300]))
        });
        eventually("they run", || {
            server.listener.usage().requests_in_flight == 2
        });
        let busy = ask(&mut first, &post("/rpc/sum", "", "[1]"));
        assert_eq!(
            (busy.status, error_of(&busy).0.as_str()),
            (503, "ServerBusyError")
        );
        for nap in naps {
            assert_eq!(nap.join().unwrap().unwrap(), [300]);
        }
        assert_eq!(ask(&mut first, &post("/rpc/sum", "", "[1]")).status, 200);
        server.end();
    });
}

#[test]
fn a_handler_has_a_peer_that_cannot_be_called() {
    run_loop(|| {
        let service = Service::new(Rc::new(|call: &mut Call, reply: Reply| {
            let Some(peer) = peer() else {
                return reply.no_method(call);
            };
            if call.method() != CallMethod::Name(b"ask") {
                return reply.results(ints(&[1]));
            }
            assert!(peer.address().starts_with("http://127.0.0.1:"));
            match self::call(&peer, "sum", &[1]) {
                Err(error) if error.kind() == ErrorKind::NoMethod => reply.results(ints(&[7])),
                other => panic!("{other:?}"),
            }
        }));
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                count.set(count.get() + 1);
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let service = service.with_hooks(Rc::new(hooks));
        let server = Server::new(service, Options::default(), granting());
        assert_eq!(
            server.ask(&post("/rpc/ask", "", "[]")).body,
            "{\"result\":7}"
        );
        assert_eq!(accepted.get(), 0, "HTTP has no handshake");
        server.witness.close();
        server.listener.close();
        server.listener.close_connections();
        eventually("all end", || server.listener.connections().is_empty());
    });
}

#[test]
fn a_request_brings_its_trace() {
    run_loop(|| {
        let service = Service::new(Rc::new(|call: &mut Call, reply: Reply| {
            if call.method() == CallMethod::Name(b"sum") {
                return reply.results(ints(&[42]));
            }
            let trace =
                yue_rpc::trace::current().map_or_else(String::new, |trace| trace.to_string());
            reply.results(|out| {
                yue_rpc::proto::encode::str_or_bin(out, trace.as_bytes());
                Ok(1)
            })
        }));
        let server = Server::new(service, Options::default(), granting());
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (sent, seen) in [(header, header), ("00-0af7-b7ad-01", ""), ("", "")] {
            let headers = format!("traceparent: {sent}\r\n");
            let answer = server.ask(&post("/rpc/trace", &headers, "[]"));
            assert_eq!(answer.body, format!("{{\"result\":\"{seen}\"}}"));
        }
        let answer = server.ask(&post("/rpc/trace", "", "[]"));
        assert_eq!(answer.body, "{\"result\":\"\"}");
        server.end();
    });
}

#[test]
fn a_closed_listener_answers_what_it_has_begun() {
    run_loop(|| {
        let server = Server::plain();
        let (mut idle, mut busy) = (server.connect(), server.connect());
        assert_eq!(ask(&mut idle, &post("/rpc/sum", "", "[1]")).status, 200);
        busy.write_all(post("/rpc/nap", "", "[100]").as_bytes())
            .unwrap();
        eventually("it runs", || {
            server.listener.usage().requests_in_flight == 1
        });
        server.listener.close();
        server.listener.close_connections();
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        let answer = read_answer(&mut busy).unwrap();
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        assert!(answer.closes());
        server.witness.close();
        eventually("all end", || server.listener.connections().is_empty());
    });
}

#[test]
fn random_bytes_end_their_connection_alone() {
    run_loop(|| {
        let server = Server::plain();
        let whole = post("/rpc/sum", "", "[1,{\"a\":[true]}]");
        let mut random = 12_345_u64;
        let mut next = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % below
        };
        for _ in 0..300 {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = next(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, next(256) as u8),
                }
            }
            let mut client = server.connect();
            client.write_all(&bytes).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer);
        }
        eventually("all are gone", || server.listener.usage().connections <= 1);
        server.end();
    });
}
