//! Functions as values: the order in which releases take effect, and the link to which a function belongs.

mod common;

use common::raw::Raw;
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use yue_rpc::proto::{Method, encode};
use yue_rpc::session::{
    Call, CallMethod, Dispatch, ImportedReference, Replied, Reply, Service, Session, Target,
};
use yue_rpc::transport::Transport;
use yue_rpc::{Error, ErrorKind, Failure, MemoryListener, Options, Timeout, Verdict};
use yue_scheduler::spawn;

const SHORT: std::time::Duration = std::time::Duration::from_millis(1);

/// A service that passes a function to its caller (`give`), and reports whether one that returns is known (`known`).
fn giving() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        let session = call.session().clone();
        match call.method() {
            CallMethod::Name(b"give") => reply.results(move |out| {
                encode::uint(out, session.export_reference(7)?);
                Ok(1)
            }),
            CallMethod::Name(b"known") => {
                let id = read_ints(call.params().bytes)[0] as u64;
                let known = session.exported_token(id).is_some();
                reply.results(ints(&[i64::from(known)]))
            }
            CallMethod::Token(token) => reply.results(ints(&[token as i64])),
            CallMethod::Name(_) => reply.no_method(call),
        }
    }))
}

fn append_release(out: &mut Vec<u8>, id: u64, crossings: u64) {
    encode::notification(out, Method::Name(b"$yue/release"), |out| {
        out.extend_from_slice(&[0x91, 0x92]);
        encode::uint(out, id);
        encode::uint(out, crossings);
        Ok(1)
    })
    .unwrap();
}

/// The result of the last answer that the raw peer has received, which must be that of `msgid`.
fn answer(raw: &Raw, msgid: u32) -> i64 {
    let head = |bytes: &[u8]| bytes.starts_with(&[0x94, 1, msgid as u8, 0xc0]);
    eventually("the answer is there", || {
        raw.received.bytes.borrow().windows(4).any(head)
    });
    let bytes = raw.received.bytes.borrow();
    let at = bytes.windows(4).rposition(head).unwrap();
    read_ints(&bytes[at + 4..])[0]
}

#[test]
fn a_release_takes_effect_after_the_requests_that_came_before_it() {
    run_loop(|| {
        let listener = MemoryListener::new(giving(), Options::default());
        let raw = Raw::connect(&listener);
        raw.hello();
        raw.request(1, "give", &[]);
        let id = answer(&raw, 1);
        // The last message that names the function and its release arrive together.
        let mut out = Vec::new();
        encode::request(&mut out, 2, Method::Name(b"known"), None, ints(&[id])).unwrap();
        append_release(&mut out, id as u64, 1);
        raw.link.send(out);
        assert_eq!(answer(&raw, 2), 1, "the release overtook the request");
        let session = listener.sessions()[0].clone();
        eventually("the function is released", || {
            session.references_held() == 0
        });
        raw.request(3, "known", &[id]);
        assert_eq!(answer(&raw, 3), 0);
        raw.link.close();
    });
}

#[test]
fn a_release_takes_effect_after_the_answers_that_came_before_it() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let raw = Raw::connect(&listener);
        raw.hello();
        eventually("the hello is answered", || {
            !raw.received.bytes.borrow().is_empty()
        });
        let session = listener.sessions()[0].clone();
        let exporting = session.clone();
        let id = Rc::new(Cell::new(0));
        let (calling, noted) = (session.clone(), id.clone());
        let caller = spawn(move || {
            let answer = calling
                .call("echo", Timeout::Default, |out| {
                    noted.set(exporting.export_reference(7)?);
                    encode::uint(out, noted.get());
                    Ok(1)
                })
                .unwrap();
            let id = read_ints(answer.bytes())[0] as u64;
            calling.exported_token(id)
        });
        eventually("the call is out", || id.get() != 0);
        // The answer sends the function home, and the release follows it in the same packet.
        let received = || raw.received("echo");
        eventually("the call is there", received);
        let msgid = {
            let bytes = raw.received.bytes.borrow();
            let at = bytes.windows(5).rposition(|w| w == b"\xa4echo").unwrap();
            u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap())
        };
        let mut out = Vec::new();
        encode::response(&mut out, msgid, true, |out| {
            encode::uint(out, id.get());
            Ok(1)
        })
        .unwrap();
        append_release(&mut out, id.get(), 1);
        raw.link.send(out);
        assert_eq!(
            caller.join().unwrap(),
            Some(7),
            "the release overtook the answer"
        );
        eventually("the function is released", || {
            session.references_held() == 0
        });
        raw.link.close();
    });
}

#[test]
fn a_peer_can_give_back_only_what_it_holds() {
    run_loop(|| {
        let listener = MemoryListener::new(giving(), Options::default());
        let raw = Raw::connect(&listener);
        raw.hello();
        raw.request(1, "give", &[]);
        let id = answer(&raw, 1);
        let mut out = Vec::new();
        for _ in 0..1000 {
            append_release(&mut out, id as u64 + 1, 5);
            append_release(&mut out, id as u64, u64::MAX);
        }
        raw.link.send(out);
        let session = listener.sessions()[0].clone();
        eventually("the function is released", || {
            session.references_held() == 0
        });
        // Given again, it has a crossing that those releases did not mean.
        raw.request(2, "give", &[]);
        let id = answer(&raw, 2);
        raw.request(3, "known", &[id]);
        assert_eq!(answer(&raw, 3), 1);
        raw.link.close();
    });
}

#[test]
fn a_queued_call_of_a_function_of_a_lost_link_fails_and_calls_nothing() {
    run_loop(|| {
        let called = Rc::new(RefCell::new(Vec::new()));
        let log = called.clone();
        let service = Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            let method = format!("{:?}", call.method());
            log.borrow_mut().push(method);
            reply.results(ints(&[1]))
        }));
        let listener = MemoryListener::new(service, Options::default());
        // The first grant is followed by a long on_accept, during which calls are queued.
        let (first, may_accept) = (Cell::new(true), Rc::new(Cell::new(false)));
        let waiting = may_accept.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |_, _| {
                if first.replace(false) {
                    while !waiting.get() && yue_scheduler::sleep(SHORT).is_ok() {}
                }
                Verdict::granted()
            })),
            ..TestHooks::default()
        };
        let client = Session::open(
            listener.clone(),
            methods().with_hooks(Rc::new(hooks)),
            Options::default(),
        );
        let plain = {
            let client = client.clone();
            spawn(move || call(&client, "plain", &[]))
        };
        eventually("the link is up", || client.peer_is_yue());
        let function = client.import_reference(1, client.link());
        let calling = |as_argument: bool| {
            let (client, function) = (client.clone(), function.clone());
            spawn(move || match as_argument {
                false => client.call(Target::Reference(&function), Timeout::Default, ints(&[])),
                true => client.call("take", Timeout::Default, |out| {
                    encode::uint(out, client.return_reference(&function)?);
                    Ok(1)
                }),
            })
        };
        let (by_reference, as_argument) = (calling(false), calling(true));
        eventually("they are queued", || client.stats().calls_held == 3);
        listener.break_last();
        for lost in [by_reference, as_argument] {
            let error = lost.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
            assert!(error.is_retryable());
        }
        assert_eq!(plain.join().unwrap().unwrap(), [1]);
        assert_eq!(called.borrow().len(), 1, "{:?}", called.borrow());
        may_accept.set(true);
        client.close();
    });
}

#[test]
fn a_function_that_on_accept_passes_may_be_called_before_the_grant() {
    over_each(|kind| {
        let served = Rc::new(RefCell::new(Vec::new()));
        let log = served.clone();
        let service = Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            log.borrow_mut().push(format!("{:?}", call.method()));
            reply.results(ints(&[21]))
        }));
        let log = served.clone();
        let hooks = TestHooks {
            accept: Some(Box::new(move |session, _| {
                let exporting = session.clone();
                let answer = session.call("twice", Timeout::Default, move |out| {
                    encode::uint(out, exporting.export_reference(7)?);
                    Ok(1)
                });
                log.borrow_mut().push("granted".to_owned());
                match answer {
                    Ok(answer) if read_ints(answer.bytes()) == [42] => Verdict::granted(),
                    other => Verdict::Refuse(Failure::new(format!("{other:?}"))),
                }
            })),
            ..TestHooks::default()
        };
        let server = serve(kind, service.with_hooks(Rc::new(hooks)), Options::default());
        // Calls the function that it is given.
        let twice = Service::new(Rc::new(|call: &mut Call, reply: Reply| {
            let session = call.session().clone();
            let id = read_ints(call.params().bytes)[0] as u64;
            let function = session.import_reference(id, call.link());
            let target = Target::Reference(&function);
            match session.call(target, Timeout::Default, ints(&[])) {
                Ok(answer) => reply.results(ints(&[2 * read_ints(answer.bytes())[0]])),
                Err(error) => reply.fail(&Failure::from(error)),
            }
        }));
        let client = server.open(twice, Options::default());
        assert_eq!(call(&client, "by_name", &[]).unwrap(), [21], "{kind:?}");
        let served = served.borrow();
        assert_eq!(served.len(), 3, "{kind:?}: {served:?}");
        assert!(served[0].starts_with("Token(7"), "{served:?}");
        assert_eq!(served[1], "granted", "{kind:?}");
        client.close();
    });
}

#[test]
fn a_function_belongs_to_the_link_that_its_message_came_over() {
    run_loop(|| {
        let listener = MemoryListener::new(giving(), Options::default());
        let client = Session::open(listener.clone(), methods(), Options::default());
        let give = || {
            let answer = client.call("give", Timeout::Default, ints(&[])).unwrap();
            (read_ints(answer.bytes())[0] as u64, answer)
        };
        let use_it = |function: &ImportedReference| {
            client.call(Target::Reference(function), Timeout::Default, ints(&[]))
        };
        let (old_id, old) = give();
        listener.break_last();
        eventually("the loss is noticed", || !client.connected());
        let (new_id, new) = give();
        assert_ne!(old_id, new_id, "ids of links begin anywhere");
        // The answer of the old link is decoded only now.
        let stale = client.import_reference(old_id, old.link());
        assert_eq!(
            use_it(&stale).unwrap_err().kind(),
            ErrorKind::ConnectionLost
        );
        let error = client.return_reference(&stale).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        let function = client.import_reference(new_id, new.link());
        assert_eq!(read_ints(use_it(&function).unwrap().bytes()), [7]);
        client.close();
    });
}

/// Records the functions that are free again.
#[derive(Default)]
struct Released(RefCell<Vec<u64>>);

impl Dispatch for Released {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        reply.no_method(call)
    }

    fn release(&self, tokens: &[u64]) {
        self.0.borrow_mut().extend(tokens);
    }
}

#[test]
fn an_encoder_that_queues_another_call_keeps_the_functions_of_both_apart() {
    run_loop(|| {
        let released = Rc::new(Released::default());
        let listener = MemoryListener::new(methods(), Options::default());
        let service = Service::new(released.clone());
        let client = Session::open(listener, service, Options::default());
        let export = |out: &mut Vec<u8>, token: u64| -> Result<u32, Error> {
            encode::uint(out, client.export_reference(token)?);
            Ok(1)
        };
        // There is no link yet, so both are queued; and the outer one is given up after the inner one.
        let outer = client.notify("outer", |out| {
            export(out, 1)?;
            client.notify("inner", |out| export(out, 2))?;
            export(out, 3)?;
            Err(Error::new(ErrorKind::Argument, "given up"))
        });
        assert_eq!(outer.unwrap_err().kind(), ErrorKind::Argument);
        released.0.borrow_mut().sort_unstable();
        assert_eq!(*released.0.borrow(), [1, 3]);
        assert_eq!(call(&client, "sum", &[1]).unwrap(), [1]);
        assert_eq!(client.references_held(), 1);
        client.close();
        eventually("the link ends", || *released.0.borrow() == [1, 3, 2]);
    });
}
