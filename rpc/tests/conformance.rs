//! Behaviours of a session that are the same over every transport.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::{Call, CallMethod, Reply, RequestContext, Service, Target, peer};
use yue_rpc::{Error, ErrorKind, Failure, Options, Timeout, Verdict};
use yue_scheduler::{sleep, spawn};

#[test]
fn a_call_gets_its_answer() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        assert_eq!(call(&client, "sum", &[1, 2, 39]).unwrap(), [42], "{kind:?}");
        assert_eq!(call(&client, "math.sum", &[-1]).unwrap(), [-1]);
        assert!(client.peer_is_yue() && client.connected());
        client.close();
    });
}

#[test]
fn every_number_of_results_arrives() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        for count in [0, 1, 2, 15, 16, 40] {
            let values: Vec<i64> = (0..count).collect();
            assert_eq!(call(&client, "echo", &values).unwrap(), values, "{kind:?}");
        }
        client.close();
    });
}

#[test]
fn many_fibers_share_a_connection() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        let fibers: Vec<_> = (0..500)
            .map(|n| {
                let client = client.clone();
                spawn(move || {
                    (0..4).for_each(|m| assert_eq!(call(&client, "sum", &[n, m]).unwrap(), [n + m]))
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(server.sessions().len(), 1);
        assert_eq!(client.stats().calls, 2000);
        client.close();
        eventually("the server's session ends", || server.sessions().is_empty());
    });
}

#[test]
fn large_values_arrive_whole() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            return;
        }
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        for length in [1_000, 70_000, 4_000_000] {
            let answer = client
                .call("big", Timeout::Default, ints(&[length]))
                .unwrap();
            assert!(answer.bytes().len() > length as usize, "{kind:?}");
            assert!(answer.bytes()[10..].iter().all(|byte| *byte == 0xff));
        }
        client.close();
    });
}

#[test]
fn errors_arrive_with_their_kind_and_message() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        let error = call(&client, "fail", &[]).unwrap_err();
        assert_eq!(
            (error.kind(), error.message().as_str()),
            (ErrorKind::Runtime, "it went wrong"),
            "{kind:?}"
        );
        for name in ["nothing", "a.b.c", "_private", "a._b", "$yue/nothing"] {
            let error = call(&client, name, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMethod);
            assert!(error.message().contains(name), "{error}");
        }
        let error = call(&client, "panic", &[]).unwrap_err();
        assert_eq!(error.message(), "the handler panicked: oh no");
        let error = call(&client, "unencodable", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        let refused =
            |_: &mut Vec<u8>| Err(Error::new(ErrorKind::Argument, "args[1]: cannot be sent"));
        let error = client.call("echo", Timeout::Default, refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        client.close();
    });
}

#[test]
fn a_handler_can_call_its_caller_during_the_call() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        let fibers: Vec<_> = (0..50)
            .map(|n| {
                let client = client.clone();
                spawn(move || assert_eq!(call(&client, "ask", &[n, 1]).unwrap(), [n + 1]))
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert!(peer().is_none());
        client.close();
    });
}

#[test]
fn requests_start_in_the_order_of_their_calls() {
    over_each(|kind| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = order.clone();
        let note = move |call: &mut Call, reply: Reply| {
            let n = read_ints(call.params().bytes)[0];
            seen.borrow_mut().push(n);
            // Every third handler parks: another worker must carry on.
            if n % 3 == 0 {
                sleep(Duration::from_millis(1)).unwrap();
            }
            reply.results(ints(&[n]))
        };
        let server = serve(kind, Service::new(Rc::new(note)), Options::default());
        let client = server.client();
        let fibers: Vec<_> = (0..300)
            .map(|n| {
                let client = client.clone();
                spawn(move || assert_eq!(call(&client, "note", &[n]).unwrap(), [n]))
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*order.borrow(), (0..300).collect::<Vec<_>>(), "{kind:?}");
        client.close();
    });
}

#[test]
fn a_slow_handler_holds_up_no_other() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        let slow = {
            let client = client.clone();
            spawn(move || {
                client
                    .call("nap", Timeout::Never, ints(&[60_000]))
                    .unwrap_err()
            })
        };
        for n in 0..200 {
            assert_eq!(call(&client, "sum", &[n]).unwrap(), [n]);
        }
        assert!(!slow.is_done());
        client.close();
        assert_eq!(slow.join().unwrap().kind(), ErrorKind::ConnectionLost);
    });
}

/// Callers may stop handlers.
fn cancel() -> Options {
    Options {
        cancel: true,
        ..Options::default()
    }
}

/// Pays first and takes after a while, as a handler does that asks a database in between.
fn shop(gold: &Rc<Cell<i64>>, items: &Rc<Cell<i64>>) -> Service {
    let (gold, items) = (gold.clone(), items.clone());
    Service::new(Rc::new(move |_: &mut Call, reply: Reply| {
        gold.set(gold.get() + 10);
        if let Err(stopped) = sleep(Duration::from_millis(60)) {
            return reply.fail(&Failure::from(stopped));
        }
        items.set(items.get() - 1);
        reply.results(ints(&[gold.get()]))
    }))
}

#[test]
fn a_handler_that_has_started_runs_to_its_end_whatever_its_caller_does() {
    over_each(|kind| {
        let (gold, items) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(3)));
        let server = serve(kind, shop(&gold, &items), Options::default());
        let client = server.client();
        // It times out,
        let soon = Timeout::After(Duration::from_millis(20));
        let mut error = client.call("sell", soon, ints(&[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{kind:?}");
        eventually("the first sale is whole", || items.get() == 2);
        // it is cancelled,
        let seller = {
            let client = client.clone();
            spawn(move || client.call("sell", Timeout::Never, ints(&[])).unwrap_err())
        };
        eventually("the second sale has begun", || gold.get() == 20);
        seller.cancel();
        error = seller.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        eventually("the second sale is whole", || items.get() == 1);
        // and its connection is lost.
        let done = |_| ();
        client
            .call_async("sell", Timeout::Never, ints(&[]), done)
            .unwrap();
        eventually("the third sale has begun", || gold.get() == 30);
        client.close();
        eventually("the third sale is whole", || items.get() == 0);
        assert_eq!(gold.get(), 30, "{kind:?}: a sale was made twice");
    });
}

#[test]
fn the_calls_of_a_handler_outlast_its_caller() {
    over_each(|kind| {
        let (gold, items) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(1)));
        let back = serve(kind, shop(&gold, &items), Options::default());
        let behind = back.client();
        let outcome = Rc::new(RefCell::new(None));
        let (log, to_back) = (outcome.clone(), behind.clone());
        let relay = move |_: &mut Call, reply: Reply| {
            let answer = call(&to_back, "sell", &[]);
            *log.borrow_mut() = Some(answer.clone());
            match answer {
                Ok(values) => reply.results(ints(&values)),
                Err(error) => reply.fail(&Failure::from(error)),
            }
        };
        let server = serve(kind, Service::new(Rc::new(relay)), Options::default());
        let client = server.client();
        call(&behind, "sell", &[]).unwrap();
        let mut limit = Duration::from_millis(20);
        // On a machine that is busy the time may be over before the handler has started.
        while outcome.borrow().is_none() {
            let soon = Timeout::After(limit);
            let error = client.call("relay", soon, ints(&[])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{kind:?}");
            let until = yue_scheduler::now().saturating_add(Duration::from_millis(300));
            while outcome.borrow().is_none() && yue_scheduler::now() < until {
                sleep(Duration::from_millis(1)).unwrap();
            }
            limit += limit / 4;
        }
        assert_eq!(outcome.take().unwrap().unwrap().len(), 1, "{kind:?}");
        client.close();
        behind.close();
    });
}

#[test]
fn a_request_whose_caller_gave_up_before_it_starts_never_starts() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            // The later requests arrive after the first has been served.
            return;
        }
        let started = Rc::new(RefCell::new(Vec::new()));
        let log = started.clone();
        // `hold` blocks the loop, so that the requests behind it wait.
        let hold = move |call: &mut Call, reply: Reply| {
            if call.method() == CallMethod::Name(b"hold") {
                std::thread::sleep(Duration::from_millis(100));
            } else {
                log.borrow_mut().extend(read_ints(call.params().bytes));
            }
            reply.results(ints(&[]))
        };
        let server = serve(kind, Service::new(Rc::new(hold)), Options::default());
        let client = server.client();
        call(&client, "hold", &[]).unwrap();
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        let call_async = |method, timeout, number: i64| {
            let outcomes = outcomes.clone();
            let done = move |outcome: Result<_, Error>| {
                let kind = outcome.err().map(|error| error.kind());
                outcomes.borrow_mut().push((number, kind));
            };
            client
                .call_async(method, timeout, ints(&[number]), done)
                .unwrap()
        };
        call_async("hold", Timeout::Never, 0);
        let soon = Timeout::After(Duration::from_millis(20));
        call_async("note", soon, 1);
        let cancelled = call_async("note", Timeout::Never, 2);
        assert!(client.cancel_call(cancelled));
        let error = client.call("note", soon, ints(&[3])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{kind:?}");
        call(&client, "note", &[4]).unwrap();
        assert_eq!(
            *started.borrow(),
            [4],
            "{kind:?}: an expired request started"
        );
        eventually("all outcomes are there", || outcomes.borrow().len() == 3);
        let mut outcomes = outcomes.take();
        outcomes.sort_by_key(|(number, _)| *number);
        assert_eq!(
            outcomes,
            [
                (0, None),
                (1, Some(ErrorKind::Timeout)),
                (2, Some(ErrorKind::Cancelled))
            ]
        );
        client.close();
    });
}

#[test]
fn a_call_that_times_out_cancels_its_handler_if_callers_may_cancel() {
    over_each(|kind| {
        let stops = Rc::new(Cell::new(0));
        let count = stops.clone();
        let wait = move |call: &mut Call, reply: Reply| {
            assert!(call.deadline() != yue_scheduler::Instant::NEVER);
            let stopped = sleep(Duration::from_secs(600)).unwrap_err();
            count.set(count.get() + 1);
            reply.fail(&Failure::from(stopped))
        };
        let server = serve(kind, Service::new(Rc::new(wait)), cancel());
        let client = server.client();
        let error = client
            .call("wait", Timeout::After(Duration::from_millis(20)), ints(&[]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{kind:?}");
        eventually("the handler is cancelled", || stops.get() == 1);
        assert_eq!(client.stats().timeouts, 1);
        client.close();
    });
}

#[test]
fn a_cancelled_call_cancels_its_handler_if_callers_may_cancel() {
    over_each(|kind| {
        let cancelled = Rc::new(Cell::new(false));
        let note = cancelled.clone();
        let wait = move |_: &mut Call, reply: Reply| {
            let stopped = sleep(Duration::from_secs(600)).unwrap_err();
            note.set(stopped == yue_scheduler::Stopped::Cancelled);
            reply.fail(&Failure::from(stopped))
        };
        let server = serve(kind, Service::new(Rc::new(wait)), cancel());
        let client = server.client();
        let caller = {
            let client = client.clone();
            spawn(move || client.call("wait", Timeout::Never, ints(&[])).unwrap_err())
        };
        eventually("the handler runs", || {
            server
                .sessions()
                .iter()
                .any(|s| s.requests_in_flight() == 1)
        });
        caller.cancel();
        assert_eq!(
            caller.join().unwrap().kind(),
            ErrorKind::Cancelled,
            "{kind:?}"
        );
        eventually("the handler is cancelled", || cancelled.get());

        let outcome = Rc::new(RefCell::new(None));
        let taken = outcome.clone();
        let done = move |result: Result<_, Error>| *taken.borrow_mut() = Some(result.map(|_| ()));
        let id = client
            .call_async("wait", Timeout::Never, ints(&[]), done)
            .unwrap();
        assert!(client.cancel_call(id) && !client.cancel_call(id));
        assert_eq!(
            outcome.take().unwrap().unwrap_err().kind(),
            ErrorKind::Cancelled
        );
        client.close();
    });
}

#[test]
fn an_asynchronous_call_reports_its_outcome_once() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        for n in 0..100 {
            let outcomes = outcomes.clone();
            let done = move |result: Result<yue_rpc::session::Response, Error>| {
                outcomes
                    .borrow_mut()
                    .push(result.map(|response| read_ints(response.bytes())[0]));
            };
            client
                .call_async("sum", Timeout::Default, ints(&[n, n]), done)
                .unwrap();
        }
        let late = outcomes.clone();
        let done = move |result: Result<yue_rpc::session::Response, Error>| {
            late.borrow_mut().push(result.map(|_| -1))
        };
        client
            .call_async(
                "nap",
                Timeout::After(Duration::from_millis(20)),
                ints(&[60_000]),
                done,
            )
            .unwrap();
        eventually("all outcomes are reported", || {
            outcomes.borrow().len() == 101
        });
        let (answers, late): (Vec<_>, Vec<_>) =
            outcomes.take().into_iter().partition(Result::is_ok);
        assert_eq!(late.len(), 1, "{kind:?}");
        assert_eq!(late[0].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
        let values: Vec<i64> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(values, (0..100).map(|n| 2 * n).collect::<Vec<_>>());
        client.close();
    });
}

#[test]
fn notifications_arrive_and_unknown_ones_are_ignored() {
    over_each(|kind| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        let dispatch = move |call: &mut Call, reply: Reply| match call.method() {
            CallMethod::Name(b"note") => {
                assert!(call.is_notification());
                log.borrow_mut().extend(read_ints(call.params().bytes));
                reply.results(ints(&[1]))
            }
            CallMethod::Name(b"sync") => reply.results(ints(&[])),
            _ => reply.no_method(call),
        };
        let server = serve(kind, Service::new(Rc::new(dispatch)), Options::default());
        let client = server.client();
        client.notify("nothing", ints(&[])).unwrap();
        client.notify("_private", ints(&[])).unwrap();
        client.notify("$yue/whatever", ints(&[])).unwrap();
        client.notify("note", ints(&[1, 2])).unwrap();
        call(&client, "sync", &[]).unwrap();
        client.notify("note", ints(&[3])).unwrap();
        call(&client, "sync", &[]).unwrap();
        assert_eq!(*seen.borrow(), [1, 2, 3], "{kind:?}");
        client.close();
    });
}

#[test]
fn a_deadline_travels_along_a_chain_of_calls_if_callers_may_cancel() {
    over_each(|kind| {
        let onward = |call: &mut Call, reply: Reply| {
            // It sets no timeout, but the caller's remaining time still applies.
            assert!(call.deadline() != yue_scheduler::Instant::NEVER);
            let left = peer()
                .unwrap()
                .call("time_left", Timeout::Never, ints(&[]))
                .unwrap();
            reply.results(ints(&read_ints(left.bytes())))
        };
        let server = serve(kind, Service::new(Rc::new(onward)), cancel());
        let client = server.client();
        let answer = client
            .call(
                "onward",
                Timeout::After(Duration::from_secs(3000)),
                ints(&[]),
            )
            .unwrap();
        let left = read_ints(answer.bytes())[0];
        // Neither side knows how long a message travels, so that time is not subtracted.
        assert!((1..=3_060_000).contains(&left), "{kind:?}: {left}");
        client.close();
    });
}

#[test]
fn functions_cross_as_references_and_are_released() {
    over_each(|kind| {
        // `call_me(ref)`: the server calls the function it was given, twice, then gives it back.
        let dispatch = |call: &mut Call, reply: Reply| {
            let id = read_ints(call.params().bytes)[0];
            let session = call.session().clone();
            let function = session.import_reference(id as u64, call.link());
            let first = session
                .call(Target::Reference(&function), Timeout::Default, ints(&[20]))
                .unwrap();
            let second = session
                .call(Target::Reference(&function), Timeout::Default, ints(&[1]))
                .unwrap();
            session.release_reference(&function, 1);
            reply.results(ints(&[
                read_ints(first.bytes())[0] + read_ints(second.bytes())[0]
            ]))
        };
        struct Functions(RefCell<Vec<u64>>);
        impl yue_rpc::session::Dispatch for Functions {
            fn call(&self, call: &mut Call, reply: Reply) -> yue_rpc::session::Replied {
                let CallMethod::Token(token) = call.method() else {
                    return reply.no_method(call);
                };
                let n = read_ints(call.params().bytes)[0];
                reply.results(ints(&[2 * n + token as i64 - 7]))
            }
            fn release(&self, tokens: &[u64]) {
                self.0.borrow_mut().extend(tokens);
            }
        }
        let server = serve(kind, Service::new(Rc::new(dispatch)), Options::default());
        let functions = Rc::new(Functions(RefCell::default()));
        let client = server.open(Service::new(functions.clone()), Options::default());
        let export = |token: u64| {
            let session = client.clone();
            move |out: &mut Vec<u8>| {
                yue_rpc::proto::encode::uint(out, session.export_reference(token)?);
                Ok(1)
            }
        };
        // The first goes out while the link is not even there, and is held.
        let answer = client.call("call_me", Timeout::Default, export(7)).unwrap();
        assert_eq!(read_ints(answer.bytes()), [42], "{kind:?}");
        // A release waits for what came before it, or with it, to be decoded.
        drop(answer);
        eventually("the function is released", || *functions.0.borrow() == [7]);
        assert_eq!(client.references_held(), 0);
        // An id that was released is nobody's.
        let gone = client.import_reference(1, client.link());
        let error = client
            .call(Target::Reference(&gone), Timeout::Default, ints(&[1]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMethod);
        client.close();
    });
}

#[test]
fn plain_peers_get_plain_messages() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.open(
            methods(),
            Options {
                legacy: true,
                ..Options::default()
            },
        );
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3], "{kind:?}");
        // Several results come as one array, none as nil; no deadline travels.
        assert_eq!(
            client
                .call("echo", Timeout::Default, ints(&[1, 2]))
                .unwrap()
                .bytes(),
            [0x92, 1, 2]
        );
        assert_eq!(
            client
                .call("echo", Timeout::Default, ints(&[]))
                .unwrap()
                .bytes(),
            [0xc0]
        );
        assert_eq!(call(&client, "time_left", &[]).unwrap(), [-1]);
        assert_eq!(call(&client, "ask", &[5]).unwrap(), [5]);
        assert!(!client.peer_is_yue() && !server.sessions()[0].peer_is_yue());
        assert_eq!(
            client.export_reference(1).unwrap_err().kind(),
            ErrorKind::Argument
        );
        client.close();
    });
}

#[test]
fn spawned_fibers_inherit_the_peer_and_nothing_leaks_to_the_next_request() {
    over_each(|kind| {
        let dispatch = |call: &mut Call, reply: Reply| {
            let deadline = call.deadline();
            let own = || RequestContext::current().map(|context| context.deadline());
            assert_eq!(own(), Some(deadline), "the previous request's context");
            if read_ints(call.params().bytes)[0] % 2 == 0 {
                // It outlives the request, and keeps its identity.
                drop(spawn(move || {
                    sleep(Duration::from_millis(1)).unwrap();
                    assert!(peer().is_some());
                    assert_eq!(own(), Some(deadline), "a later request's context");
                }));
            }
            reply.results(ints(&[]))
        };
        let server = serve(kind, Service::new(Rc::new(dispatch)), Options::default());
        let client = server.client();
        call(&client, "f", &[1]).unwrap();
        for n in 0..20 {
            // Every third request has no deadline, the others have different ones.
            let timeout = match n % 3 {
                0 => Timeout::Never,
                _ => Timeout::After(Duration::from_secs(100 + n as u64)),
            };
            client.call("f", timeout, ints(&[n])).unwrap();
        }
        sleep(Duration::from_millis(20)).unwrap();
        client.close();
        assert_eq!(yue_scheduler::this_loop::counters().panics, 0, "{kind:?}");
    });
}

#[test]
fn a_grant_carries_its_value_and_calls_go_both_ways_before_it() {
    over_each(|kind| {
        let accept = |session: &yue_rpc::session::Session, _: Option<&[u8]>| {
            let answer = call(session, "sum", &[20, 22]).unwrap();
            Verdict::Grant(answer.iter().map(|n| *n as u8).collect())
        };
        let hooks = TestHooks {
            accept: Some(Box::new(accept)),
            ..TestHooks::default()
        };
        let server = serve(
            kind,
            methods().with_hooks(Rc::new(hooks)),
            Options::default(),
        );
        let order = Rc::new(RefCell::new(Vec::new()));
        let log = order.clone();
        let accept = move |session: &yue_rpc::session::Session, granted: Option<&[u8]>| {
            assert_eq!(granted, Some(&[42][..]));
            // A call made in here goes out before those that wait.
            assert_eq!(call(session, "sum", &[1]).unwrap(), [1]);
            log.borrow_mut().push("accepted");
            Verdict::granted()
        };
        let hooks = TestHooks {
            accept: Some(Box::new(accept)),
            ..TestHooks::default()
        };
        let client = server.open(methods().with_hooks(Rc::new(hooks)), Options::default());
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2], "{kind:?}");
        order.borrow_mut().push("called");
        assert_eq!(*order.borrow(), ["accepted", "called"]);
        assert_eq!(client.stats().calls_held, 1);
        client.close();
    });
}
