//! Answers that no caller waits for any more: repeated by the peer, or given by a handler whose link was replaced. None
//! of them may reach another call, though numbers of calls are used again and again.

mod common;

use common::raw::{Raw, Received};
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::proto::value::Reader;
use yue_rpc::session::{Call, Reply, Service, Session};
use yue_rpc::transport::memory::MemoryTransport;
use yue_rpc::transport::{Connect, Events, Transport};
use yue_rpc::{Error, ErrorKind, MemoryListener, Options, Timeout};
use yue_scheduler::spawn;

/// A plain server whose answers the test writes.
#[derive(Default)]
struct HandWritten {
    peer: RefCell<Option<Raw>>,
}

impl Connect for HandWritten {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let (near, link) = MemoryTransport::pair();
        near.start(events);
        let received = Rc::new(Received::default());
        link.start(received.clone());
        *self.peer.borrow_mut() = Some(Raw { link, received });
        Ok(near)
    }

    fn address(&self) -> &str {
        "memory"
    }
}

impl HandWritten {
    fn client(self: &Rc<Self>) -> Session {
        let options = Options {
            legacy: true,
            ..Options::default()
        };
        Session::open(self.clone(), methods(), options)
    }

    /// Waits for the next request, and returns its msgid.
    fn next_request(&self) -> u32 {
        let bytes = || match &*self.peer.borrow() {
            Some(peer) => peer.received.bytes.take(),
            None => Vec::new(),
        };
        let request = RefCell::new(Vec::new());
        eventually("a request arrives", || {
            request.borrow_mut().extend(bytes());
            !request.borrow().is_empty()
        });
        let request = request.take();
        assert_eq!(request[0] & 0xf0, 0x90, "not an array: {request:x?}");
        let mut reader = Reader::new(&request[1..]);
        assert_eq!(reader.read_int(), Some(0), "not a request: {request:x?}");
        reader.read_int().unwrap() as u32
    }

    fn answer(&self, msgid: u32, value: i64) {
        let mut out = Vec::new();
        encode::response(&mut out, msgid, false, ints(&[value])).unwrap();
        self.peer.borrow().as_ref().unwrap().link.send(out);
    }
}

/// The slot of a call among those in flight; the rest of the msgid counts the slot's uses.
fn slot(msgid: u32) -> u32 {
    msgid & 0xf_ffff
}

#[test]
fn an_answer_that_the_peer_repeats_reaches_no_other_call() {
    run_loop(|| {
        let server = Rc::new(HandWritten::default());
        let client = server.client();
        let caller = |n: i64| {
            let client = client.clone();
            spawn(move || call(&client, "sum", &[n]).unwrap())
        };
        let first = caller(1);
        let answered = server.next_request();
        server.answer(answered, 1);
        assert_eq!(first.join().unwrap(), [1]);
        let second = caller(2);
        let waiting = server.next_request();
        assert_eq!(slot(waiting), slot(answered), "the slot is not reused");
        server.answer(answered, 1);
        server.answer(waiting, 2);
        assert_eq!(second.join().unwrap(), [2]);
        assert_eq!(client.stats().answers_ignored, 1);
        client.close();
    });
}

#[test]
fn a_late_answer_that_the_peer_repeats_reaches_no_other_call() {
    run_loop(|| {
        let server = Rc::new(HandWritten::default());
        let client = server.client();
        let soon = Timeout::After(Duration::from_millis(1));
        let error = client.call("sum", soon, ints(&[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let given_up = server.next_request();
        // The late answer frees the slot.
        server.answer(given_up, 1);
        eventually("it is read", || client.stats().answers_ignored == 1);
        let outcome = Rc::new(RefCell::new(None));
        let taken = outcome.clone();
        let done = move |answer: Result<yue_rpc::session::Response, Error>| {
            *taken.borrow_mut() = Some(read_ints(answer.unwrap().bytes()));
        };
        client
            .call_async("sum", Timeout::Default, ints(&[2]), done)
            .unwrap();
        let waiting = server.next_request();
        assert_eq!(slot(waiting), slot(given_up), "the slot is not reused");
        server.answer(given_up, 1);
        server.answer(waiting, 2);
        eventually("the call ends", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(vec![2]));
        assert_eq!(client.stats().answers_ignored, 2);
        client.close();
    });
}

/// A service whose handlers answer with their argument when the number of `opened` is as large.
fn gated(opened: Rc<Cell<i64>>, fails: bool) -> Service {
    Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
        let number = read_ints(call.params().bytes)[0];
        call.release_params();
        eventually("the gate opens", || opened.get() >= number);
        match fails {
            false => reply.results(ints(&[number])),
            true => reply.fail(&yue_rpc::Failure::new(format!("failure {number}"))),
        }
    }))
}

/// The server calls its client, whose link is replaced while the handler runs. The handler's answer must not go out
/// over the new link: there the server's first call has the same number.
fn an_answer_to_an_earlier_link(fails: bool) {
    let opened = Rc::new(Cell::new(0));
    let listener = MemoryListener::new(methods(), Options::default());
    let service = gated(opened.clone(), fails);
    let client = Session::open(listener.clone(), service, Options::default());
    let ask = |number: i64| {
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let server_side = listener.sessions().pop().unwrap();
        let running = client.requests_in_flight();
        let caller = spawn(move || call(&server_side, "ask", &[number]));
        eventually("the handler runs", || client.requests_in_flight() > running);
        caller
    };
    let first = ask(1);
    listener.break_last();
    assert_eq!(
        first.join().unwrap().unwrap_err().kind(),
        ErrorKind::ConnectionLost
    );
    let second = ask(2);
    assert_eq!(listener.sessions().len(), 2);
    opened.set(1);
    eventually("the first handler ends", || {
        client.requests_in_flight() == 1
    });
    // Whatever it wrote has arrived when a later message of the same link has.
    assert_eq!(call(&client, "sum", &[3]).unwrap(), [3]);
    opened.set(2);
    match second.join().unwrap() {
        Ok(answer) => assert_eq!((answer, fails), (vec![2], false)),
        Err(error) => assert_eq!((&*error.message(), fails), ("failure 2", true)),
    }
    let server_side = listener.sessions().pop().unwrap();
    assert_eq!(server_side.stats().answers_ignored, 0);
    client.close();
}

#[test]
fn a_handler_whose_link_was_replaced_answers_no_call_of_the_next_link() {
    run_loop(|| an_answer_to_an_earlier_link(false));
}

#[test]
fn a_handler_whose_link_was_replaced_fails_no_call_of_the_next_link() {
    run_loop(|| an_answer_to_an_earlier_link(true));
}
