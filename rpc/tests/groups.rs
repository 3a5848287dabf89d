//! Groups: who is a member, what members receive, and what loops share of it.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use yue_rpc::group::{Group, names};
use yue_rpc::proto::encode;
use yue_rpc::session::{Call, CallMethod, EncodedCall, Reply, Service, Session};
use yue_rpc::transport::Transport;
use yue_rpc::{Error, ErrorKind, Limits, MemoryListener, Options, Timeout, WhenFull};
use yue_scheduler::{now, spawn, this_loop, yield_now};

fn encoded(name: &str, values: &[i64]) -> EncodedCall {
    EncodedCall::new(name, ints(values)).unwrap()
}

/// A client that keeps the numbers with which it is notified.
struct Listening {
    session: Session,
    heard: Rc<RefCell<Vec<i64>>>,
}

fn listening(server: &Server) -> Listening {
    let heard: Rc<RefCell<Vec<i64>>> = Rc::default();
    let log = heard.clone();
    let service = Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
        let values = read_ints(call.params().bytes);
        match call.method() {
            CallMethod::Name(b"note") => {
                log.borrow_mut().extend(&values);
                reply.results(|_| Ok(0))
            }
            CallMethod::Name(b"sum") => reply.results(ints(&[values.iter().sum()])),
            CallMethod::Name(b"never") => {
                let _ = yue_scheduler::sleep(Duration::from_secs(3600));
                reply.results(|_| Ok(0))
            }
            _ => reply.no_method(call),
        }
    }));
    let session = server.open(service, Options::default());
    call(&session, "sum", &[]).unwrap();
    Listening { session, heard }
}

#[test]
fn members_get_every_notification_in_order_and_leave_when_they_end() {
    for kind in [Kind::Memory, Kind::Tcp, Kind::Unix, Kind::Thread] {
        run_loop(move || {
            let server = serve(kind, methods(), Options::default());
            let clients: Vec<_> = (0..3).map(|_| listening(&server)).collect();
            let group = Group::new();
            for session in server.sessions() {
                assert!(group.join(&session));
                assert!(group.join(&session)); // A second time changes nothing.
            }
            assert_eq!(group.len(), 3);
            for n in 0..100 {
                assert_eq!(group.notify(&encoded("note", &[n])).unwrap(), 3);
            }
            let all: Vec<i64> = (0..100).collect();
            for client in &clients {
                eventually("all arrive", || client.heard.borrow().len() == 100);
                assert_eq!(*client.heard.borrow(), all);
            }
            clients[0].session.close();
            eventually("it leaves", || group.len() == 2);
            let left = server.sessions()[0].clone();
            assert!(group.leave(&left));
            assert!(!group.leave(&left));
            assert_eq!(group.notify(&encoded("note", &[7])).unwrap(), 1);
            // This side closes: the member leaves at once.
            let last = group.members()[0].session().unwrap().clone();
            last.close();
            assert!(group.is_empty());
            assert!(!group.join(&last), "it has ended");
            assert_eq!(group.notify(&encoded("note", &[8])).unwrap(), 0);
            clients.iter().for_each(|client| client.session.close());
        });
    }
}

#[test]
fn a_notification_before_the_link_is_up_is_held_in_order() {
    run_loop(|| {
        let heard: Rc<RefCell<Vec<i64>>> = Rc::default();
        let log = heard.clone();
        let service = Service::new(Rc::new(move |call: &mut Call, reply: Reply| {
            log.borrow_mut().extend(read_ints(call.params().bytes));
            reply.results(|_| Ok(0))
        }));
        let server = serve(Kind::Tcp, service, Options::default());
        let client = server.open(Service::none(), Options::default());
        let group = Group::new();
        group.join(&client);
        for n in 0..3 {
            assert_eq!(group.notify(&encoded("note", &[2 * n])).unwrap(), 1);
            client.notify("note", ints(&[2 * n + 1])).unwrap();
        }
        eventually("they arrive", || heard.borrow().len() == 6);
        assert_eq!(*heard.borrow(), [0, 1, 2, 3, 4, 5]);
        client.close();
        assert!(group.is_empty());
    });
}

#[test]
fn a_member_that_reads_nothing_is_treated_as_its_options_say() {
    for when_full in [WhenFull::Close, WhenFull::Drop] {
        run_loop(move || {
            let limits = Limits {
                output_bytes_high: 10_000,
                output_bytes_max: 40_000,
                ..Limits::default()
            };
            let options = Options {
                limits,
                when_full,
                ..Options::default()
            };
            let listener = MemoryListener::new(methods(), options);
            let slow = common::raw::Raw::connect(&listener);
            slow.link.set_reading(false);
            let server = Server::MemoryListener(listener);
            let good = listening(&server);
            let group = Group::new();
            server.sessions().iter().for_each(|session| {
                group.join(session);
            });
            let big = EncodedCall::new("note", |out| {
                encode::int(out, 1);
                encode::str_or_bin(out, &[0xff; 1000]);
                Ok(2)
            })
            .unwrap();
            let mut taken = Vec::new();
            for n in 0..60 {
                taken.push(group.notify(&big).unwrap());
                eventually("the good one reads", || good.heard.borrow().len() == n + 1);
            }
            assert_eq!((taken[0], taken[59]), (2, 1));
            let expected = if when_full == WhenFull::Close { 1 } else { 2 };
            assert_eq!(group.len(), expected);
            good.session.close();
        });
    }
}

#[test]
fn a_timed_notification_that_is_late_is_dropped() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        let slow = common::raw::Raw::connect(&listener);
        slow.link.set_reading(false);
        let session = listener.sessions().pop().unwrap();
        let group = Group::new();
        group.join(&session);
        let full = EncodedCall::new("note", |out| {
            encode::str_or_bin(out, &[0xff; 100_000]);
            Ok(1)
        })
        .unwrap();
        assert_eq!(group.notify(&full).unwrap(), 1);
        let soon = Duration::from_millis(1);
        assert_eq!(
            group.notify_within(soon, &encoded("note", &[1])).unwrap(),
            1
        );
        yue_scheduler::sleep(Duration::from_millis(20)).unwrap();
        slow.link.set_reading(true);
        eventually("it is dropped", || session.stats().notifications_late == 1);
        session.close();
    });
}

#[test]
fn a_message_that_is_too_large_for_every_member_is_an_error() {
    run_loop(|| {
        let limits = Limits {
            message_bytes_max: 1000,
            ..Limits::default()
        };
        let small = serve(Kind::Memory, methods(), limited(limits));
        let large = serve(Kind::Memory, methods(), Options::default());
        let clients = [listening(&small), listening(&large)];
        let group = Group::new();
        group.join(&small.sessions()[0]);
        let big = EncodedCall::new("note", |out| {
            encode::str_or_bin(out, &[0xff; 2000]);
            Ok(1)
        })
        .unwrap();
        let error = group.notify(&big).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
        // One member's limit is not the others' problem.
        group.join(&large.sessions()[0]);
        assert_eq!(group.notify(&big).unwrap(), 1);
        clients.iter().for_each(|client| client.session.close());
    });
}

#[test]
fn every_member_is_asked_at_once_and_a_slow_one_costs_only_its_own_answer() {
    run_loop(|| {
        let server = serve(Kind::Tcp, methods(), Options::default());
        let clients: Vec<_> = (0..4).map(|_| listening(&server)).collect();
        let group = Group::new();
        server.sessions().iter().for_each(|session| {
            group.join(session);
        });
        let answers = group
            .ask(Timeout::Default, &encoded("sum", &[1, 2]))
            .wait()
            .unwrap();
        assert_eq!(answers.len(), 4);
        for (answer, member) in answers.iter().zip(group.members()) {
            assert_eq!(answer.member.id(), member.id());
            assert_eq!(answer.member.session(), member.session());
            assert_eq!(read_ints(answer.result.as_ref().unwrap().bytes()), [3]);
        }
        let began = now();
        let soon = Timeout::After(Duration::from_millis(30));
        let answers = group.ask(soon, &encoded("never", &[])).wait().unwrap();
        assert!(now().saturating_since(began) < Duration::from_secs(10));
        for answer in &answers {
            assert_eq!(
                answer.result.as_ref().unwrap_err().kind(),
                ErrorKind::Timeout
            );
        }
        // One of them closes while it is asked.
        let leaving = clients[0].session.clone();
        let asked = group.ask(Timeout::Default, &encoded("never", &[]));
        drop(spawn(move || leaving.close()));
        let (one, asked_again) = (group.ask(soon, &encoded("sum", &[5])), asked);
        assert_eq!(one.wait().unwrap().len(), 4);
        // The fiber that asks is cancelled: every call is given up.
        let waiting = spawn(move || asked_again.wait().map(drop));
        yield_now().unwrap();
        waiting.cancel();
        assert!(waiting.join().unwrap().is_err());
        eventually("nothing waits", || {
            server
                .sessions()
                .iter()
                .all(|session| session.calls_in_flight() == 0)
        });
        // Nobody is asked.
        assert!(
            Group::new()
                .ask(soon, &encoded("sum", &[]))
                .wait()
                .unwrap()
                .is_empty()
        );
        clients.iter().for_each(|client| client.session.close());
    });
}

#[test]
fn members_without_a_group_that_can_be_found_are_no_members() {
    run_loop(|| {
        let server = serve(Kind::Memory, methods(), Options::default());
        let client = listening(&server);
        let session = server.sessions()[0].clone();
        for _ in 0..3 {
            let group = Group::new();
            let same = group.clone();
            group.join(&session);
            drop(group);
            assert_eq!(same.len(), 1);
        }
        client.session.close();
        eventually("it has ended", || session.has_ended());
    });
}

#[test]
fn a_name_is_forgotten_with_its_last_member_and_handle() {
    run_loop(|| {
        let server = serve(Kind::Memory, methods(), Options::default());
        let client = listening(&server);
        let session = server.sessions()[0].clone();
        for n in 0..1000 {
            let group = Group::named(&format!("player/{n}"));
            assert!(group.join(&session));
        }
        assert_eq!(names("player/"), 1000);
        assert_eq!(Group::named("player/7").len(), 1);
        assert!(Group::named("player/7").leave(&session));
        assert_eq!(names("player/"), 999);
        let empty = Group::named("player/nobody");
        assert_eq!(names("player/"), 1000);
        drop(empty);
        client.session.close();
        eventually("it has left all", || names("player/") == 0);
    });
}

#[test]
fn a_group_that_was_large_keeps_its_members_when_it_shrinks() {
    run_loop(|| {
        let server = serve(Kind::Memory, methods(), Options::default());
        let clients: Vec<_> = (0..500).map(|_| listening(&server)).collect();
        let group = Group::named("shrinking");
        let sessions = server.sessions();
        sessions.iter().for_each(|session| {
            group.join(session);
        });
        for (n, session) in sessions.iter().enumerate() {
            if n % 10 != 0 {
                assert!(group.leave(session));
            }
        }
        assert_eq!(group.len(), 50);
        assert_eq!(group.notify(&encoded("note", &[1])).unwrap(), 50);
        let heard = || {
            clients
                .iter()
                .map(|client| client.heard.borrow().len())
                .sum::<usize>()
        };
        eventually("each member gets it once", || heard() == 50);
        for session in &sessions {
            group.join(session);
        }
        assert_eq!(group.notify(&encoded("note", &[2])).unwrap(), 500);
        eventually("each member gets it once", || heard() == 550);
        for session in &sessions {
            assert!(group.leave(session));
        }
        assert!(group.is_empty());
        clients.iter().for_each(|client| client.session.close());
    });
}

/// A thread with a loop that has `count` clients in the group `name`: they send their numbers to `heard`.
fn other_loop(
    name: &'static str,
    count: usize,
    heard: mpsc::Sender<(usize, i64)>,
) -> (thread::JoinHandle<()>, yue_scheduler::LoopHandle) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        run_loop(move || {
            let server = serve(Kind::Memory, methods(), Options::default());
            let service = |number| {
                let heard = heard.clone();
                let serve = move |call: &mut Call, reply: Reply| {
                    let values = read_ints(call.params().bytes);
                    match call.method() {
                        CallMethod::Name(b"note") => {
                            let _ = heard.send((number, values[0]));
                            reply.results(|_| Ok(0))
                        }
                        CallMethod::Name(b"sum") => reply.results(ints(&[values.iter().sum()])),
                        CallMethod::Name(b"fail") => {
                            reply.fail(&yue_rpc::Failure::new("it went wrong"))
                        }
                        CallMethod::Name(b"never") => {
                            let _ = yue_scheduler::sleep(Duration::from_secs(3600));
                            reply.results(|_| Ok(0))
                        }
                        _ => reply.no_method(call),
                    }
                };
                Service::new(Rc::new(serve))
            };
            let clients: Vec<_> = (0..count)
                .map(|number| {
                    let client = server.open(service(number), Options::default());
                    call(&client, "sum", &[]).unwrap();
                    client
                })
                .collect();
            for (n, session) in server.sessions().iter().enumerate() {
                let data: Arc<[u8]> = [n as u8].into();
                Group::named(name).join_with(session, Some(data), Duration::from_secs(5));
            }
            sender.send(this_loop::handle()).unwrap();
            this_loop::wait_for_shutdown().unwrap();
            clients.iter().for_each(Session::close);
            eventually("the members have left", || server.sessions().is_empty());
        });
    });
    (thread, receiver.recv().unwrap())
}

#[test]
fn members_on_another_loop_get_everything_once_and_in_order() {
    let (sender, heard) = mpsc::channel();
    let (thread, handle) = other_loop("order", 3, sender);
    run_loop(move || {
        let group = Group::named("order");
        assert_eq!(group.len(), 3);
        assert!(group.has_members_elsewhere());
        let members = group.members();
        assert!(members.iter().all(|member| member.session().is_none()));
        assert_eq!(members[2].data(), Some(&[2u8][..]));
        for n in 0..1000 {
            assert_eq!(group.notify(&encoded("note", &[n])).unwrap(), 3);
        }
        let one = members[0].id();
        assert!(
            group
                .notify_member(one, None, &encoded("note", &[-1]))
                .unwrap()
        );
        let answers = group
            .ask(Timeout::Default, &encoded("sum", &[20, 22]))
            .wait()
            .unwrap();
        let values: Vec<_> = answers
            .iter()
            .map(|answer| read_ints(answer.result.as_ref().unwrap().bytes()))
            .collect();
        assert_eq!(values, [[42], [42], [42]]);
        assert_eq!(answers[1].member.id(), members[1].id());
        // The calls came behind the notifications.
        let heard: Vec<(usize, i64)> = heard.try_iter().collect();
        for client in 0..3 {
            let numbers = heard.iter().filter(|(number, _)| *number == client);
            let expected = (0..1000).chain((client == 0).then_some(-1));
            assert!(numbers.map(|(_, n)| *n).eq(expected), "client {client}");
        }
        // Errors cross, with their kind and their text.
        for answer in group
            .ask(Timeout::Default, &encoded("fail", &[]))
            .wait()
            .unwrap()
        {
            let error = answer.result.unwrap_err();
            assert_eq!(
                (error.kind(), &*error.message()),
                (ErrorKind::Runtime, "it went wrong")
            );
        }
        let soon = Timeout::After(Duration::from_millis(20));
        for answer in group.ask(soon, &encoded("never", &[])).wait().unwrap() {
            assert_eq!(answer.result.unwrap_err().kind(), ErrorKind::Timeout);
        }
        // Arguments for each member cannot be encoded here.
        let error = group.notify_each(b"note", None, |_, _| Ok(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        // A fiber that gives up leaves nothing behind there.
        let asked = group.ask(Timeout::Never, &encoded("never", &[]));
        let waiting = spawn(move || asked.wait().map(drop));
        yield_now().unwrap();
        waiting.cancel();
        assert!(waiting.join().unwrap().is_err());
        assert!(group.close_member(one, "enough"));
        eventually("the member was closed", || group.len() == 2);
        handle.shutdown();
        eventually("its members have left", || group.is_empty());
        assert_eq!(group.notify(&encoded("note", &[1])).unwrap(), 0);
        assert!(
            !group
                .notify_member(one, None, &encoded("note", &[1]))
                .unwrap()
        );
    });
    thread.join().unwrap();
}

#[test]
fn a_loop_that_does_not_answer_costs_only_its_own_answers() {
    let (sender, _heard) = mpsc::channel();
    let (thread, handle) = other_loop("blocked", 2, sender);
    let release = Arc::new(AtomicBool::new(false));
    run_loop(move || {
        let server = serve(Kind::Memory, methods(), Options::default());
        let client = listening(&server);
        let group = Group::named("blocked");
        group.join(&server.sessions()[0]);
        let released = release.clone();
        handle.run(move || {
            while !released.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let soon = Timeout::After(Duration::from_millis(20));
        let answers = group.ask(soon, &encoded("sum", &[1])).wait().unwrap();
        let ok: Vec<_> = answers.iter().map(|answer| answer.result.is_ok()).collect();
        assert_eq!(ok, [false, false, true]);
        // Its memory is bounded: above a limit it takes nothing more.
        let big = EncodedCall::new("note", |out| {
            encode::int(out, 1);
            encode::str_or_bin(out, &[0xff; 1 << 20]);
            Ok(2)
        })
        .unwrap();
        let mut taken = Vec::new();
        for n in 0..12 {
            taken.push(group.notify(&big).unwrap());
            eventually("its own member reads", || {
                client.heard.borrow().len() == n + 1
            });
        }
        assert_eq!((taken[0], taken[11]), (3, 1), "{taken:?}");
        let answers = group.ask(soon, &big).wait().unwrap();
        assert_eq!(
            answers[0].result.as_ref().unwrap_err().kind(),
            ErrorKind::QueueFull
        );
        release.store(true, Ordering::Release);
        eventually("it takes again", || {
            group.notify(&encoded("note", &[1])).unwrap() == 3
        });
        client.session.close();
        handle.shutdown();
    });
    thread.join().unwrap();
}

#[test]
fn the_members_of_a_loop_that_has_died_vanish() {
    // Its session outlives the loop, as one does whose owner forgets it.
    let thread = thread::spawn(|| {
        run_loop(|| {
            let server = serve(Kind::Memory, methods(), Options::default());
            let client = server.client();
            Group::named("dead").join(&client);
            std::mem::forget(client);
        });
        // The thread lives on for a while: the first message finds that the loop has ended.
        run_loop(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    run_loop(|| {
                        let group = Group::named("dead");
                        let asked = group.ask(Timeout::Default, &encoded("sum", &[]));
                        assert!(asked.wait().unwrap().is_empty());
                        assert_eq!(group.len(), 0);
                    });
                });
            });
            // Here, too, it is another loop's.
            assert!(Group::named("dead").is_empty());
        });
    });
    thread.join().unwrap();
    // And when the thread ends, nobody has to send.
    let thread = thread::spawn(|| {
        run_loop(|| {
            let server = serve(Kind::Memory, methods(), Options::default());
            let client = server.client();
            Group::named("gone").join(&client);
            std::mem::forget(client);
        });
    });
    thread.join().unwrap();
    run_loop(|| assert_eq!(Group::named("gone").len(), 0));
}

/// Loops join and leave at random while others send. Each message carries a number, and each member knows what was sent
/// before it joined: it must get everything that its own loop sends from then on, once and in order.
#[test]
fn joins_and_leaves_that_race_with_messages_lose_nothing() {
    const LOOPS: usize = 3;
    const ROUNDS: usize = 60;
    let sent = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..LOOPS)
        .map(|index| {
            let sent = sent.clone();
            thread::spawn(move || run_loop(move || race(index, ROUNDS, &sent)))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(sent.load(Ordering::Relaxed) > 0);
    assert_eq!(names("race/"), 0);
}

fn race(index: usize, rounds: usize, sent: &AtomicU64) {
    let server = serve(Kind::Memory, methods(), Options::default());
    let mut seed = index as u64 + 1;
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let group_names = ["race/a", "race/b"];
    let mut next = 0i64;
    for _ in 0..rounds {
        let name = group_names[random(2) as usize];
        let client = listening(&server);
        let sessions = server.sessions();
        let session = sessions.last().unwrap();
        let group = Group::named(name);
        assert!(group.join(session));
        // From now on it gets all that this loop sends to the group, and some of what others send.
        let mut own = Vec::new();
        for _ in 0..random(20) {
            let number = next * 10 + index as i64;
            next += 1;
            sent.fetch_add(1, Ordering::Relaxed);
            group.notify(&encoded("note", &[number])).unwrap();
            own.push(number);
            if random(4) == 0 {
                yield_now().unwrap();
            }
        }
        let asked = Cell::new(false);
        if random(8) == 0 {
            let soon = Timeout::After(Duration::from_secs(20));
            let answers = group.ask(soon, &encoded("sum", &[1])).wait().unwrap();
            asked.set(
                answers
                    .iter()
                    .any(|answer| answer.member.session() == Some(session)),
            );
            assert!(asked.get(), "its own member was asked");
        }
        eventually("everything arrives", || {
            let heard = client.heard.borrow();
            let mine: Vec<i64> = heard
                .iter()
                .copied()
                .filter(|n| n % 10 == index as i64)
                .collect();
            mine == own
        });
        match random(3) {
            0 => assert!(group.leave(session)),
            1 => session.close(),
            _ => {}
        }
        client.session.close();
    }
    eventually("all have left", || server.sessions().is_empty());
}

#[test]
fn an_encoded_call_obeys_the_limits_of_each_session() {
    run_loop(|| {
        let server = serve(Kind::Tcp, methods(), Options::default());
        let client = server.client();
        let call_sum = encoded("sum", &[1, 2, 3]);
        let (sender, answer) = yue_scheduler::sync::local::channel(1);
        client
            .call_encoded_async(Timeout::Default, &call_sum, move |outcome| {
                drop(sender.try_send(outcome.map(|response| read_ints(response.bytes()))));
            })
            .unwrap();
        assert_eq!(answer.recv().unwrap().unwrap(), [6]);
        let refused: Error =
            EncodedCall::new("f", |_| Err(Error::new(ErrorKind::Argument, "no"))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Argument);
        client.close();
        assert_eq!(
            client.notify_encoded(&call_sum).unwrap_err().kind(),
            ErrorKind::ConnectionLost
        );
    });
}
