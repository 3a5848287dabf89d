//! Peers that do not send msgpack-rpc: the errors that callers and the program get, and how the session recovers.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use yue_rpc::session::Session;
use yue_rpc::transport::Transport;
use yue_rpc::{CloseReason, ErrorKind, MemoryListener, Options, Timeout};
use yue_scheduler::spawn;

/// Connects to a server of another protocol at first, and to a listener from then on.
struct GarbageFirst {
    listener: Rc<MemoryListener>,
    links: Cell<u32>,
    /// The number of links on which the server speaks another protocol.
    garbled: u32,
}

impl yue_rpc::transport::Connect for GarbageFirst {
    fn connect(
        &self,
        events: Rc<dyn yue_rpc::transport::Events>,
    ) -> Result<Rc<dyn Transport>, yue_rpc::Error> {
        self.links.set(self.links.get() + 1);
        if self.links.get() > self.garbled {
            return self.listener.connect(events);
        }
        let (near, far) = yue_rpc::transport::memory::MemoryTransport::pair();
        near.start(events);
        far.start(Rc::new(common::raw::Received::default()));
        // It does not react to this end either, so the link drains for the maximum time.
        far.set_reading(false);
        far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        Ok(near)
    }

    fn address(&self) -> &str {
        "memory"
    }
}

#[test]
fn a_session_whose_server_sent_nonsense_reconnects_and_holds_calls_meanwhile() {
    run_loop(|| {
        let connector = Rc::new(GarbageFirst {
            listener: MemoryListener::new(methods(), Options::default()),
            links: Cell::new(0),
            garbled: 1,
        });
        let client = Session::open(connector.clone(), methods(), Options::default());
        let first = {
            let client = client.clone();
            spawn(move || call(&client, "sum", &[1]))
        };
        eventually("the nonsense is noticed", || {
            client.stats().refused_malformed == 1
        });
        assert!(!client.is_closed());
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        assert_eq!(first.join().unwrap().unwrap(), [1]);
        assert_eq!(connector.links.get(), 2);
        client.close();
        assert!(client.is_closed());
    });
}

#[test]
fn a_server_of_another_protocol_is_an_error_that_shows_its_bytes() {
    run_loop(|| {
        let connector = Rc::new(GarbageFirst {
            listener: MemoryListener::new(methods(), Options::default()),
            links: Cell::new(0),
            garbled: 3,
        });
        let client = Session::open(connector.clone(), methods(), Options::default());
        let error = client.call("sum", Timeout::Never, ints(&[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.is_retryable(), "it was not even sent");
        let text = error.message();
        assert!(text.contains("does not speak msgpack-rpc"), "{text}");
        assert!(text.contains(r"HTTP/1.1 400 Bad Request\r\n"), "{text}");
        assert_eq!(connector.links.get(), 3);
        // It may be another one by now.
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        client.close();
    });
}

#[test]
fn nonsense_in_the_middle_fails_the_waiting_calls_and_is_shown() {
    run_loop(|| {
        let (texts, reasons) = (
            Rc::new(RefCell::new(Vec::new())),
            Rc::new(RefCell::new(None)),
        );
        struct Noting(Rc<RefCell<Vec<String>>>);
        impl yue_rpc::session::Dispatch for Noting {
            fn call(
                &self,
                call: &mut yue_rpc::session::Call,
                reply: yue_rpc::session::Reply,
            ) -> yue_rpc::session::Replied {
                reply.no_method(call)
            }

            fn malformed(&self, _: &Session, text: &str) {
                self.0.borrow_mut().push(text.to_owned());
            }
        }
        let note = reasons.clone();
        let hooks = TestHooks {
            close: Some(Box::new(move |_, reason| {
                *note.borrow_mut() = Some(reason.clone());
                Default::default()
            })),
            ..TestHooks::default()
        };
        let service = yue_rpc::session::Service::new(Rc::new(Noting(texts.clone())));
        let server = methods().with_hooks(Rc::new(TestHooks::default()));
        let listener = MemoryListener::new(server, Options::default());
        let client = Session::open(
            listener.clone(),
            service.with_hooks(Rc::new(hooks)),
            Options::default(),
        );
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let waiting = {
            let client = client.clone();
            spawn(move || call(&client, "nap", &[60_000]).unwrap_err())
        };
        let session = listener.sessions().pop().unwrap();
        eventually("it waits", || session.requests_in_flight() == 1);
        listener.send_raw_to_last(b"\x1b[2J<html>".to_vec());
        let error = waiting.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        let text = error.message();
        assert!(text.contains(r"\x1b[2J<html>"), "{text:?}");
        eventually("the link ends", || reasons.borrow().is_some());
        let reason = reasons.take();
        let expected = r"\x1b[2J<html>";
        assert!(
            matches!(&reason, Some(CloseReason::Protocol { received, .. }) if received == expected),
            "{reason:?}"
        );
        assert_eq!(texts.borrow().len(), 1, "{:?}", texts.borrow());
        assert!(texts.borrow()[0].contains(expected));
        // The address recovers.
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        client.close();
    });
}

#[test]
fn a_session_closed_while_its_link_drains_does_not_reconnect() {
    run_loop(|| {
        let connector = Rc::new(GarbageFirst {
            listener: MemoryListener::new(methods(), Options::default()),
            links: Cell::new(0),
            garbled: 1,
        });
        let client = Session::open(connector.clone(), methods(), Options::default());
        let waiting = {
            let client = client.clone();
            spawn(move || call(&client, "sum", &[1]).unwrap_err())
        };
        eventually("the nonsense is noticed", || {
            client.stats().refused_malformed == 1
        });
        client.close();
        assert!(client.is_closed());
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::ConnectionLost);
        eventually("the session has ended", || client.has_ended());
        assert_eq!(connector.links.get(), 1);
    });
}
