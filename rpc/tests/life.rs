//! A connection's life: granted or refused, lost and made again, closed.

mod common;

use common::raw::Raw;
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::Session;
use yue_rpc::transport::Transport;
use yue_rpc::{
    CloseReason, ErrorKind, Failure, Limits, MemoryListener, Options, Retry, Timeout, Verdict,
};
use yue_scheduler::{sleep, spawn};

fn with_accept(accept: Accept) -> yue_rpc::session::Service {
    methods().with_hooks(Rc::new(TestHooks {
        accept: Some(accept),
        ..TestHooks::default()
    }))
}

fn with_close(close: Close) -> yue_rpc::session::Service {
    methods().with_hooks(Rc::new(TestHooks {
        close: Some(close),
        ..TestHooks::default()
    }))
}

#[test]
fn a_refused_client_learns_the_reason() {
    over_each(|kind| {
        let refuse =
            |_: &Session, _: Option<&[u8]>| Verdict::Refuse(Failure::new("wrong password"));
        let server = serve(kind, with_accept(Box::new(refuse)), Options::default());
        let client = server.client();
        let error = call(&client, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotGranted, "{kind:?}: {error}");
        assert!(error.message().contains("wrong password"), "{error}");
        eventually("the server's session ends", || server.sessions().is_empty());
        client.close();
    });
}

#[test]
fn a_refused_client_that_retries_is_granted_and_its_call_succeeds() {
    over_each(|kind| {
        // The server asks for the password in the middle of the handshake; the client's second answer is right.
        let accept = |session: &Session, _: Option<&[u8]>| match call(session, "echo", &[]) {
            Ok(answer) if answer == [2] => Verdict::granted(),
            _ => Verdict::Refuse(Failure::new("wrong password")),
        };
        let server = serve(kind, with_accept(Box::new(accept)), Options::default());
        let tries = Rc::new(Cell::new(0));
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let (asked, log) = (tries.clone(), reasons.clone());
        let password = move |_: &mut yue_rpc::session::Call, reply: yue_rpc::session::Reply| {
            asked.set(asked.get() + 1);
            reply.results(ints(&[asked.get()]))
        };
        let close = move |_: &Session, reason: &CloseReason| {
            log.borrow_mut().push(reason.to_string());
            Retry::Yes
        };
        let hooks = TestHooks {
            close: Some(Box::new(close)),
            ..TestHooks::default()
        };
        let service = yue_rpc::session::Service::new(Rc::new(password)).with_hooks(Rc::new(hooks));
        let client = server.open(service, Options::default());
        assert_eq!(call(&client, "sum", &[40, 2]).unwrap(), [42], "{kind:?}");
        assert_eq!(tries.get(), 2);
        assert_eq!(reasons.borrow().len(), 1);
        assert!(reasons.borrow()[0].contains("wrong password"));
        client.close();
    });
}

#[test]
fn a_plain_client_that_is_refused_gets_errors_for_its_requests() {
    over_each(|kind| {
        let refuse = |_: &Session, _: Option<&[u8]>| {
            sleep(Duration::from_millis(5)).unwrap();
            Verdict::Refuse(Failure::new("members only"))
        };
        let server = serve(kind, with_accept(Box::new(refuse)), Options::default());
        let client = server.open(
            methods(),
            Options {
                legacy: true,
                reconnect: false,
                ..Options::default()
            },
        );
        let error = call(&client, "sum", &[1]).unwrap_err();
        // Whichever is first: the answer, or, if the request came too late for one, the end of the link.
        assert!(
            matches!(
                error.kind(),
                ErrorKind::NotGranted | ErrorKind::ConnectionLost
            ),
            "{kind:?}: {error}"
        );
        client.close();
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_refused_while_others_are_served() {
    over_each(|kind| {
        let turn = Cell::new(0);
        let accept = move |_: &Session, _: Option<&[u8]>| {
            turn.set(turn.get() + 1);
            if turn.get() == 1 {
                let _ = sleep(Duration::from_secs(600));
            }
            Verdict::granted()
        };
        let limits = Limits {
            handshake: Duration::from_millis(50),
            ..Limits::default()
        };
        let server = serve(kind, with_accept(Box::new(accept)), limited(limits));
        let slow = server.open(
            methods(),
            Options {
                reconnect: false,
                ..Options::default()
            },
        );
        let waiting = {
            let slow = slow.clone();
            spawn(move || call(&slow, "sum", &[1]).unwrap_err())
        };
        eventually("the slow one is being accepted", || {
            server.sessions().len() == 1
        });
        let session = server.sessions()[0].clone();
        sleep(Duration::from_millis(5)).unwrap();
        let quick = server.client();
        assert_eq!(call(&quick, "sum", &[1, 1]).unwrap(), [2], "{kind:?}");
        let error = waiting.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
        assert_eq!(session.stats().handshake_timeouts, 1);
        assert_eq!(call(&quick, "sum", &[1, 2]).unwrap(), [3]);
        slow.close();
        quick.close();
    });
}

#[test]
fn a_first_connect_that_is_refused_is_an_error_unless_retry_is_set() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.refuse(true);
        let client = Session::open(listener.clone(), methods(), Options::default());
        assert_eq!(
            call(&client, "sum", &[1]).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        let waits = Session::open(
            listener.clone(),
            methods(),
            Options {
                retry: true,
                ..Options::default()
            },
        );
        let waiting = {
            let waits = waits.clone();
            spawn(move || call(&waits, "sum", &[1]))
        };
        sleep(Duration::from_millis(5)).unwrap();
        assert!(!waiting.is_done());
        listener.refuse(false);
        assert_eq!(waiting.join().unwrap().unwrap(), [1]);
        // The other one's next call connects anew.
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        client.close();
        waits.close();
    });
}

#[test]
fn a_lost_link_fails_written_calls_and_keeps_held_ones() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let client = Session::open(listener.clone(), methods(), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        let written = {
            let client = client.clone();
            spawn(move || {
                client
                    .call("nap", Timeout::Never, ints(&[60_000]))
                    .unwrap_err()
            })
        };
        eventually("the peer has the call", || {
            listener.sessions()[0].requests_in_flight() == 1
        });
        listener.refuse(true);
        listener.break_last();
        let error = written.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(!error.is_retryable(), "it may have run");
        let held: Vec<_> = (0..10)
            .map(|n| {
                let client = client.clone();
                spawn(move || call(&client, "sum", &[n, n]))
            })
            .collect();
        let hopeless = {
            let client = client.clone();
            spawn(move || {
                client
                    .call("sum", Timeout::After(Duration::from_millis(1)), ints(&[1]))
                    .unwrap_err()
            })
        };
        let hopeless = hopeless.join().unwrap();
        assert_eq!(hopeless.kind(), ErrorKind::Timeout);
        // The error gives the reason why there is no connection.
        let text = hopeless.message();
        assert!(text.contains("was not ready in time: "), "{text}");
        assert!(!client.connected());
        listener.refuse(false);
        for (n, fiber) in held.into_iter().enumerate() {
            assert_eq!(fiber.join().unwrap().unwrap(), [2 * n as i64]);
        }
        assert_eq!(client.stats().links, 2);
        client.close();
    });
}

#[test]
fn references_and_replies_of_an_earlier_link_are_recognized() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let client = Session::open(listener.clone(), methods(), Options::default());
        call(&client, "sum", &[]).unwrap();
        let old = client.import_reference(1, client.link());
        let server_side = listener.sessions()[0].clone();
        client.notify("nap", ints(&[30])).unwrap();
        let waiting = {
            let client = client.clone();
            spawn(move || call(&client, "nap", &[30]).unwrap_err())
        };
        eventually("both are there", || server_side.requests_in_flight() == 2);
        listener.break_last();
        waiting.join().unwrap();
        assert_eq!(call(&client, "sum", &[3]).unwrap(), [3]);
        let error = client
            .call(
                yue_rpc::session::Target::Reference(&old),
                Timeout::Default,
                ints(&[]),
            )
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        // The handlers of the lost link finish now; their replies go nowhere.
        sleep(Duration::from_millis(60)).unwrap();
        assert_eq!(client.stats().answers_ignored, 0);
        assert_eq!(listener.sessions()[1].requests_in_flight(), 0);
        assert_eq!(server_side.requests_in_flight(), 0);
        client.close();
    });
}

#[test]
fn both_sides_learn_why_a_connection_ended() {
    over_each(|kind| {
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let (ours, theirs) = (reasons.clone(), reasons.clone());
        let close = move |_: &Session, reason: &CloseReason| {
            theirs.borrow_mut().push(format!("server: {reason}"));
            Retry::Default
        };
        let server = serve(kind, with_close(Box::new(close)), Options::default());
        let close = move |_: &Session, reason: &CloseReason| {
            ours.borrow_mut().push(format!("client: {reason}"));
            Retry::Default
        };
        let client = server.open(with_close(Box::new(close)), Options::default());
        call(&client, "sum", &[]).unwrap();
        client.close();
        eventually("both learn the reason", || reasons.borrow().len() == 2);
        let mut reasons = reasons.take();
        reasons.sort();
        assert_eq!(
            reasons,
            ["client: closed by this side", "server: closed by the peer"],
            "{kind:?}"
        );
        assert_eq!(
            call(&client, "sum", &[]).unwrap_err().kind(),
            ErrorKind::ConnectionLost
        );
    });
}

#[test]
fn hooks_may_call_and_a_hook_that_fails_closes_only_its_connection() {
    over_each(|kind| {
        let opened = Rc::new(RefCell::new(Vec::new()));
        let log = opened.clone();
        let open = move |session: &Session| {
            log.borrow_mut()
                .push(call(session, "sum", &[7]).unwrap()[0]);
            if log.borrow().len() == 1 {
                Err(Failure::new("not this one"))
            } else {
                Ok(())
            }
        };
        let hooks = TestHooks {
            open: Some(Box::new(open)),
            ..TestHooks::default()
        };
        let server = serve(
            kind,
            methods().with_hooks(Rc::new(hooks)),
            Options::default(),
        );
        let first = server.open(
            methods(),
            Options {
                reconnect: false,
                ..Options::default()
            },
        );
        let _ = call(&first, "nap", &[1000]).unwrap_err();
        let second = server.client();
        assert_eq!(call(&second, "sum", &[1]).unwrap(), [1], "{kind:?}");
        assert_eq!(*opened.borrow(), [7, 7]);
        first.close();
        second.close();
    });
}

#[test]
fn a_call_that_times_out_runs_the_hook() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let calls = Rc::new(Cell::new(0));
        let note = calls.clone();
        let hooks = TestHooks {
            timeout: Some(Box::new(move |_| note.set(note.get() + 1))),
            ..TestHooks::default()
        };
        let client = server.open(methods().with_hooks(Rc::new(hooks)), Options::default());
        call(&client, "sum", &[]).unwrap();
        client
            .call(
                "nap",
                Timeout::After(Duration::from_millis(5)),
                ints(&[60_000]),
            )
            .unwrap_err();
        eventually("the hook runs", || calls.get() == 1);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1], "{kind:?}");
        client.close();
    });
}

#[test]
fn a_server_does_not_speak_first_and_grants_after_hello() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let raw = Raw::connect(&listener);
        let bytes = &raw.received.bytes;
        sleep(Duration::from_millis(10)).unwrap();
        assert!(bytes.borrow().is_empty());
        raw.hello();
        let mut expected = vec![0x94, 1, 0, 0xc0, 0x92, 1, 0x81];
        // It takes chunks of answers, 8 MiB at once.
        expected.extend_from_slice(b"\xa5chunk\xce\x00\x80\x00\x00");
        expected.extend_from_slice(b"\x93\x02\xac$yue/granted");
        expected.extend_from_slice(&[0x91, 0xc3]);
        eventually("hello is answered", || {
            bytes.borrow().len() >= expected.len()
        });
        assert_eq!(*bytes.borrow(), expected);
        raw.link.close();
    });
}

#[test]
fn a_timeout_is_reported_once_whichever_side_notices_it_first() {
    over_each(|kind| {
        // The handler blocks the loop until the deadline, and then answers with a timeout itself: between threads this
        // answer arrives before the caller's timer fires.
        let late = |call: &mut yue_rpc::session::Call, reply: yue_rpc::session::Reply| {
            while !yue_scheduler::is_past(call.deadline()) {
                std::hint::spin_loop();
            }
            reply.fail(&Failure::of_kind(
                ErrorKind::Timeout,
                "the handler timed out",
            ))
        };
        let service = yue_rpc::session::Service::new(Rc::new(late));
        let server = serve(kind, service, Options::default());
        let calls = Rc::new(Cell::new(0));
        let counting = calls.clone();
        let hooks = TestHooks {
            timeout: Some(Box::new(move |_| counting.set(counting.get() + 1))),
            ..TestHooks::default()
        };
        let client = server.open(methods().with_hooks(Rc::new(hooks)), Options::default());
        let soon = Timeout::After(Duration::from_millis(5));
        // The handshake takes its time, too.
        while client.call("late", soon, ints(&[])).is_err() && !client.connected() {
            sleep(Duration::from_millis(1)).unwrap();
        }
        let before = client.stats().timeouts;
        eventually("the hooks have run", || calls.get() == before);
        for n in 0..20 {
            let failure = if n % 2 == 0 {
                client.call("late", soon, ints(&[])).unwrap_err()
            } else {
                let (done, outcome) = yue_scheduler::sync::local::channel(1);
                let done = move |outcome| drop(done.try_send(outcome));
                client.call_async("late", soon, ints(&[]), done).unwrap();
                outcome.recv().unwrap().unwrap_err()
            };
            assert_eq!(failure.kind(), ErrorKind::Timeout);
            assert!(
                failure.message().contains("did not answer in time"),
                "{failure}"
            );
        }
        assert_eq!(client.stats().timeouts - before, 20, "{kind:?}");
        eventually("each hook has run", || calls.get() == before + 20);
        client.close();
    });
}

#[test]
fn pauses_grow_between_reconnects_to_a_server_that_grants_and_drops() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let client = Session::open(listener.clone(), methods(), Options::default());
        let began = yue_scheduler::now();
        for links in 1..=6 {
            call(&client, "sum", &[1]).unwrap();
            assert_eq!(client.stats().links, links);
            listener.break_last();
            eventually("the loss is noticed", || !client.connected());
        }
        // Half of 50 + 100 + 200 + 400 + 800 ms at least.
        let length = yue_scheduler::now().saturating_since(began);
        assert!(
            length > Duration::from_millis(700),
            "six links in {length:?}"
        );
        client.close();
    });
}

#[test]
fn a_reason_to_close_reaches_the_peer() {
    over_each(|kind| {
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let log = reasons.clone();
        let close = move |_: &Session, reason: &CloseReason| {
            log.borrow_mut().push(reason.to_string());
            Retry::No
        };
        let server = serve(kind, methods(), Options::default());
        let client = server.open(with_close(Box::new(close)), Options::default());
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        server.sessions()[0].close_because(&"you cheated ".repeat(100_000));
        eventually("the hook runs", || reasons.borrow().len() == 1);
        let reason = reasons.borrow()[0].clone();
        assert!(
            reason.starts_with("closed by the peer: you cheated you"),
            "{reason}"
        );
        assert!(reason.len() < 2000, "{kind:?}: {} bytes", reason.len());
        client.close();
    });
}

#[test]
fn on_close_waits_for_a_running_on_accept_which_is_cancelled() {
    run_loop(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (accepting, closing) = (log.clone(), log.clone());
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                accepting.borrow_mut().push("accept");
                let slept = sleep(Duration::from_secs(600));
                assert!(slept.is_err(), "it is cancelled");
                // Even a hook that takes its time to end is waited for.
                yue_scheduler::shield(|| sleep(Duration::from_millis(20))).unwrap();
                accepting.borrow_mut().push("accepted");
                Verdict::granted()
            })),
            close: Some(Box::new(move |_, _| {
                closing.borrow_mut().push("close");
                Retry::Default
            })),
            ..TestHooks::default()
        };
        let listener =
            MemoryListener::new(methods().with_hooks(Rc::new(hooks)), Options::default());
        let raw = Raw::connect(&listener);
        raw.request(1, "sum", &[1]);
        eventually("on_accept runs", || log.borrow().len() == 1);
        raw.link.close();
        eventually("the session has ended", || {
            listener.sessions()[0].has_ended()
        });
        assert_eq!(*log.borrow(), ["accept", "accepted", "close"]);
    });
}

#[test]
fn calls_to_a_half_closed_client_fail_at_once() {
    use std::io::{Read, Write};
    run_loop(|| {
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        // Far longer than the test waits.
        let options = Options {
            timeout: Duration::from_secs(600),
            ..Options::default()
        };
        let listener = yue_rpc::Listener::bind(&address, methods(), options).unwrap();
        let address = listener.address().to_string();
        let (sender, received) = yue_scheduler::sync::channel(1);
        std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(&address["tcp://".len()..]).unwrap();
            let mut out = Vec::new();
            // The first calls the client before it hears of the end, the second after that.
            for (id, method) in [(0, "ask"), (1, "nap_and_ask")] {
                let method = yue_rpc::proto::Method::Name(method.as_bytes());
                yue_rpc::proto::encode::request(&mut out, id, method, None, ints(&[50])).unwrap();
            }
            stream.write_all(&out).unwrap();
            // The server has called: then it has begun to serve, too.
            stream.read_exact(&mut [0; 1]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).unwrap();
            sender
                .try_send(String::from_utf8_lossy(&answers).into_owned())
                .ok();
        });
        let answers = spawn(move || received.recv().unwrap()).join().unwrap();
        assert_eq!(answers.matches("sends no more").count(), 2, "{answers:?}");
        listener.close();
    });
}

#[test]
fn a_server_that_closes_in_on_accept_sends_the_reason() {
    for (close, words) in [
        ("", "closed the connection before it was granted"),
        ("the server goes down", "the server goes down"),
    ] {
        run_loop(move || {
            let listener = MemoryListener::new(
                with_accept(Box::new(move |session, _| {
                    session.close_because(close);
                    Verdict::granted()
                })),
                Options::default(),
            );
            let raw = Raw::connect(&listener);
            raw.hello();
            raw.request(7, "sum", &[1]);
            eventually("the link is closed", || raw.received.closed.get());
            assert!(
                raw.received("$yue/refused") && raw.received(words),
                "{words}"
            );
            assert!(raw.received("NotGrantedError"), "its request is answered");
            // A real client's call fails with the reason.
            let client = Session::open(listener, methods(), Options::default());
            let error = call(&client, "sum", &[1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotGranted);
            assert!(error.message().contains(words), "{error}");
            client.close();
        });
    }
}

#[test]
fn a_grant_that_is_too_large_refuses_and_answers() {
    run_loop(|| {
        let limits = Limits {
            message_bytes_max: 10_000,
            ..Limits::default()
        };
        let options = limited(limits);
        let listener = MemoryListener::new(
            with_accept(Box::new(|_, _| {
                let mut value = vec![0xc5, 0x40, 0];
                value.resize(3 + 0x4000, 0);
                Verdict::Grant(value)
            })),
            options,
        );
        let raw = Raw::connect(&listener);
        raw.hello();
        raw.request(7, "sum", &[1]);
        eventually("the link is closed", || raw.received.closed.get());
        assert!(raw.received("$yue/refused") && raw.received("cannot be sent"));
        assert!(raw.received("the connection was not granted"));
    });
}
