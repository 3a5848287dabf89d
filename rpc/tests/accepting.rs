//! A listener accepts no faster than it serves: clients that come and go leave room for others.

mod common;

use common::run_loop;
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue_rpc::typed::Server;
use yue_rpc::{Limits, Options};
use yue_scheduler::sleep;

const CLIENTS: u32 = 3_000;

/// More than the listener accepts before it serves those that it has.
const CONNECTIONS_MAX: usize = 200;

/// `[2, "note", []]`
const NOTIFICATION: &[u8] = b"\x93\x02\xa4note\x90";

#[test]
fn clients_that_come_and_go_do_not_fill_a_listener() {
    run_loop(|| {
        let served = Rc::new(Cell::new(0));
        let counted = served.clone();
        let options = Options {
            limits: Limits {
                connections_max: CONNECTIONS_MAX,
                ..Limits::default()
            },
            ..Options::default()
        };
        let folder = yue_io::fs::TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let server = Server::new().handler("note", move |()| {
            // A handler that computes for a while: the clients arrive faster than they are served.
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(50) {}
            counted.set(counted.get() + 1);
            Ok(())
        });
        let address = format!("unix://{}", path.display());
        let listener = server.options(options).listen(&address).unwrap();
        let clients = std::thread::spawn(move || {
            for _ in 0..CLIENTS {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.write_all(NOTIFICATION).unwrap();
            }
        });
        let mut most = 0;
        let mut quiet = 0;
        // Until nothing has happened for a second, so that clients that were turned away are noticed.
        while served.get() < CLIENTS && quiet < 100 {
            let before = served.get();
            sleep(Duration::from_millis(10)).unwrap();
            most = most.max(listener.connections().len());
            quiet = if served.get() == before { quiet + 1 } else { 0 };
        }
        clients.join().unwrap();
        assert_eq!(served.get(), CLIENTS, "up to {most} connections at once");
        listener.close();
        listener.close_connections();
    });
}
