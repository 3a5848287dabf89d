//! Sessions between real threads, each with its own loop.

mod common;

use common::*;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use yue_rpc::session::Session;
use yue_rpc::{ErrorKind, Listener, Options};
use yue_scheduler::{sleep, spawn, this_loop};

#[test]
fn many_calls_cross_between_threads_both_ways() {
    for address in ["thread://crossing", "tcp://127.0.0.1:0"] {
        let (thread, handle, address) = worker(address);
        run_loop(move || {
            let client = Session::open(connector(&address), methods(), Options::default());
            let fibers: Vec<_> = (0..200)
                .map(|n| {
                    let client = client.clone();
                    spawn(move || {
                        for m in 0..50 {
                            assert_eq!(call(&client, "sum", &[n, m]).unwrap(), [n + m]);
                        }
                        assert_eq!(call(&client, "ask", &[n, 1]).unwrap(), [n + 1]);
                    })
                })
                .collect();
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
            client.close();
        });
        handle.shutdown();
        thread.join().unwrap();
    }
}

#[test]
fn a_thread_that_ends_loses_its_connections_and_its_name() {
    let (thread, handle, address) = worker("thread://ending");
    run_loop(move || {
        let options = Options {
            reconnect: false,
            ..Options::default()
        };
        let client = Session::open(connector(&address), methods(), options);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let waiting = {
            let client = client.clone();
            spawn(move || call(&client, "nap", &[60_000]).unwrap_err())
        };
        sleep(Duration::from_millis(5)).unwrap();
        handle.shutdown();
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::ConnectionLost);
        thread.join().unwrap();
        assert_eq!(
            call(&client, "sum", &[1]).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_thread_that_ends_without_closing_is_noticed() {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        run_loop(move || {
            let address = "thread://abrupt".parse().unwrap();
            let listener = Listener::bind(&address, methods(), Options::default()).unwrap();
            sender.send(this_loop::handle()).unwrap();
            this_loop::wait_for_shutdown().unwrap();
            // Neither the listener nor its connections are closed.
            std::mem::forget(listener);
        });
    });
    let handle = receiver.recv().unwrap();
    run_loop(move || {
        let connector = connector(&"thread://abrupt".parse().unwrap());
        let client = Session::open(
            connector,
            methods(),
            Options {
                reconnect: false,
                ..Options::default()
            },
        );
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        handle.shutdown();
        thread.join().unwrap();
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert!(error.kind().is_a(ErrorKind::Transport), "{error}");
    });
}
