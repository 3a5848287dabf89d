//! A program that answers all HTTP requests of a listener: bodies and answers in pieces, the ends of connections.
#![cfg(feature = "http")]

mod common;

use common::http::{Answer, ask, read_answer};
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::TcpStream;
use yue_rpc::session::Service;
use yue_rpc::transport::{
    AnswerFault, HttpAnswer, HttpConnection, HttpFault, HttpHead, HttpLimits, HttpOptions, Serve,
    SocketOptions,
};
use yue_rpc::{Listener, Options};
use yue_scheduler::{sleep, spawn};

/// Answers by the path of a request, and notes how the answers ended.
#[derive(Default)]
struct Paths {
    outcomes: RefCell<Vec<Result<(), HttpFault>>>,
    pieces: Cell<usize>,
    served: Cell<usize>,
}

impl Serve for Paths {
    fn serve(&self, connection: &Rc<HttpConnection>) {
        while let Ok(Some(head)) = connection.next_request() {
            match head.check() {
                Ok(()) => self.respond(connection, &head),
                Err((status, text)) => answer(connection, status, text),
            }
        }
    }
}

fn answer(connection: &HttpConnection, status: u16, body: &str) {
    let mut answer = HttpAnswer::new(status).unwrap();
    answer.whole(body.to_owned().into(), false).unwrap();
    connection.answer(answer);
}

impl Paths {
    fn respond(&self, connection: &Rc<HttpConnection>, head: &HttpHead) {
        self.served.set(self.served.get() + 1);
        match head.path() {
            "/body" => {
                let mut count = 0;
                let outcome = loop {
                    match connection.read_body() {
                        Ok(Some(piece)) => count += piece.len(),
                        Ok(None) => break Ok(()),
                        Err(fault) => break Err(fault),
                    }
                };
                self.outcomes.borrow_mut().push(outcome);
                answer(connection, 200, &format!("{count} bytes"));
            }
            "/endless" => {
                let mut answer = HttpAnswer::new(200).unwrap();
                answer.streamed().unwrap();
                connection.answer(answer);
                let outcome = loop {
                    if let Err(fault) = connection.send(vec![b'x'; 16384].into()) {
                        break Err(fault);
                    }
                    self.pieces.set(self.pieces.get() + 1);
                };
                self.outcomes.borrow_mut().push(outcome);
                connection.end(false);
            }
            "/two" => {
                // Another fiber cannot read or write while this one waits.
                let other = connection.clone();
                let fiber = spawn(move || other.read_body());
                let read = connection.read_body();
                assert_eq!(read.unwrap().unwrap().len(), 3);
                assert_eq!(fiber.join().unwrap(), Err(HttpFault::Busy));
                answer(connection, 200, "one");
            }
            "/abandoned" => {}
            _ => answer(connection, 200, head.path()),
        }
    }
}

struct Server {
    listener: Listener,
    paths: Rc<Paths>,
}

impl Server {
    fn new(limits: HttpLimits) -> Server {
        let paths = Rc::<Paths>::default();
        let sockets = SocketOptions {
            http: Some(HttpOptions::new().serve(paths.clone(), limits)),
            ..SocketOptions::default()
        };
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let listener =
            Listener::bind_with(&address, Service::none(), Options::default(), &sockets).unwrap();
        Server { listener, paths }
    }

    fn connect(&self) -> TcpStream {
        let (host, port) = self.listener.address().host_and_port().unwrap();
        TcpStream::connect((host, port)).unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        ask(
            &mut self.connect(),
            &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
        )
    }

    fn end(self) {
        self.listener.close();
        self.listener.close_connections();
        eventually("nothing is left", || self.listener.usage().connections == 0);
    }
}

#[test]
fn requests_of_a_connection_are_answered_in_order() {
    run_loop(|| {
        let server = Server::new(HttpLimits::default());
        let mut client = server.connect();
        let requests: String = (0..50)
            .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .collect();
        client.write_all(requests.as_bytes()).unwrap();
        for number in 0..50 {
            let answer = read_answer(&mut client).unwrap();
            assert_eq!((answer.status, answer.body), (200, format!("/{number}")));
        }
        drop(client);
        assert_eq!(server.get("/x").body, "/x");
        assert_eq!(server.get("/abandoned").status, 500);
        server.end();
    });
}

#[test]
fn other_fibers_run_beside_a_client_that_pipelines() {
    run_loop(|| {
        let server = Server::new(HttpLimits::default());
        let (paths, longest) = (server.paths.clone(), Rc::new(Cell::new(0)));
        let found = longest.clone();
        // Counts the requests that are served between two of its turns.
        let ticker = spawn(move || {
            let mut last = 0;
            while yue_scheduler::yield_now().is_ok() {
                let now = paths.served.get();
                found.set((now - last).max(found.get()));
                last = now;
            }
        });
        let mut client = server.connect();
        let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request.repeat(1000).as_bytes()).unwrap();
        for _ in 0..1000 {
            assert_eq!(read_answer(&mut client).unwrap().status, 200);
        }
        yue_scheduler::cancel(ticker.id());
        let longest = longest.get();
        assert!(
            (1..=130).contains(&longest),
            "{longest} requests in one turn"
        );
        server.end();
    });
}

#[test]
fn a_body_is_read_as_it_arrives() {
    run_loop(|| {
        let server = Server::new(HttpLimits::default());
        let mut client = server.connect();
        client
            .write_all(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            .unwrap();
        for _ in 0..10 {
            client.write_all(&[b'x'; 10_000]).unwrap();
            sleep(Duration::from_millis(1)).unwrap();
        }
        assert_eq!(read_answer(&mut client).unwrap().body, "100000 bytes");
        assert_eq!(*server.paths.outcomes.borrow(), [Ok(())]);
        server.end();
    });
}

#[test]
fn a_reader_and_a_writer_learn_of_the_clients_end() {
    run_loop(|| {
        let server = Server::new(HttpLimits::default());
        let mut client = server.connect();
        client
            .write_all(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
            .unwrap();
        eventually("it is served", || server.listener.usage().connections == 1);
        sleep(Duration::from_millis(10)).unwrap();
        drop(client);
        eventually("the reader stops", || {
            !server.paths.outcomes.borrow().is_empty()
        });
        assert!(server.paths.outcomes.take()[0].is_err());

        let mut client = server.connect();
        client
            .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        client.read_exact(&mut [0; 100_000]).unwrap();
        drop(client);
        eventually("the writer stops", || {
            !server.paths.outcomes.borrow().is_empty()
        });
        assert_eq!(server.paths.outcomes.take(), [Err(HttpFault::Lost)]);
        server.end();
    });
}

#[test]
fn a_writer_waits_for_a_slow_client() {
    run_loop(|| {
        let limits = HttpLimits {
            write: Duration::from_millis(200),
            ..HttpLimits::default()
        };
        let server = Server::new(limits);
        let mut client = server.connect();
        client
            .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        eventually("the writer is given up", || {
            !server.paths.outcomes.borrow().is_empty()
        });
        // As much as the buffers of both systems hold, a few megabytes.
        assert!(
            server.paths.pieces.get() < 2000,
            "{}",
            server.paths.pieces.get()
        );
        server.end();
    });
}

#[test]
fn one_fiber_at_a_time_waits_for_a_connection() {
    run_loop(|| {
        let server = Server::new(HttpLimits::default());
        let mut client = server.connect();
        client
            .write_all(b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
            .unwrap();
        sleep(Duration::from_millis(20)).unwrap();
        client.write_all(b"abc").unwrap();
        assert_eq!(read_answer(&mut client).unwrap().body, "one");
        server.end();
    });
}

#[test]
fn answers_that_cannot_be_sent_are_refused() {
    assert_eq!(HttpAnswer::new(101).err(), Some(AnswerFault::Status));
    assert_eq!(HttpAnswer::new(1000).err(), Some(AnswerFault::Status));
    let mut answer = HttpAnswer::new(200).unwrap();
    for (name, value, fault) in [
        ("a b", "x", AnswerFault::Name),
        ("", "x", AnswerFault::Name),
        ("a", "x\r\ny", AnswerFault::Value),
        ("a", "x\0", AnswerFault::Value),
        ("transfer-encoding", "chunked", AnswerFault::Own),
        ("connection", "keep-alive", AnswerFault::Own),
    ] {
        let added = answer.header(name.as_bytes(), value.as_bytes());
        assert_eq!(added, Err(fault), "{name}: {value}");
    }
    answer.header(b"content-length", b"5").unwrap();
    assert_eq!(answer.whole("abc".into(), false), Err(AnswerFault::Length));
    assert_eq!(answer.whole("abcde".into(), false), Ok(()));
    assert_eq!(answer.whole("".into(), true), Ok(()));
    answer.header(b"content-length", b"5").unwrap();
    assert_eq!(answer.streamed(), Err(AnswerFault::Length));
    let mut answer = HttpAnswer::new(200).unwrap();
    answer.header(b"content-length", b"+5").unwrap();
    assert_eq!(answer.streamed(), Err(AnswerFault::Length));
}
