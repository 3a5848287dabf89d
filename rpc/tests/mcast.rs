//! Calls to all members of a multicast group, over the loopback interface alone.

mod common;

use common::*;
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::UdpSocket;
use yue_rpc::session::{MemberAnswer, Service, Session};
use yue_rpc::transport::{DatagramOptions, SocketOptions, try_connector};
use yue_rpc::{Address, ErrorKind, Limits, Listener, Options, Timeout};
use yue_scheduler::spawn;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 2);

fn local() -> SocketOptions {
    let datagram = DatagramOptions {
        interface: Some("127.0.0.1".to_owned()),
        ..DatagramOptions::default()
    };
    SocketOptions {
        datagram,
        ..SocketOptions::default()
    }
}

/// The group, at a port that nobody else uses now.
fn group() -> Address {
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = probe.local_addr().unwrap().port();
    format!("mcast://{GROUP}:{port}").parse().unwrap()
}

fn open(address: &Address, options: Options) -> Session {
    let connector = try_connector(address, &local()).unwrap();
    Session::open(connector, Service::none(), options)
}

fn join(address: &Address) -> Listener {
    Listener::bind_with(address, methods(), Options::default(), &local()).unwrap()
}

#[derive(Default)]
struct Answers {
    values: RefCell<Vec<Vec<i64>>>,
    errors: RefCell<Vec<ErrorKind>>,
    end: RefCell<Option<ErrorKind>>,
}

/// Calls `sum` of all members for that time, and returns what they answer.
fn ask(session: &Session, ms: u64, values: &[i64]) -> Rc<Answers> {
    let answers = Rc::new(Answers::default());
    let taken = answers.clone();
    let time = Timeout::After(Duration::from_millis(ms));
    let each = move |answer| match answer {
        MemberAnswer::From(_, Ok(response)) => {
            let values = read_ints(response.bytes());
            taken.values.borrow_mut().push(values);
        }
        MemberAnswer::From(_, Err(error)) => taken.errors.borrow_mut().push(error.kind()),
        MemberAnswer::End(error) => {
            let before = taken.end.borrow_mut().replace(error.kind());
            assert_eq!(before, None, "it ends twice");
        }
    };
    let params = ints(values);
    session.call_members("sum", time, params, each).unwrap();
    answers
}

fn wait_for_end(answers: &Answers) -> ErrorKind {
    eventually("the call ends", || answers.end.borrow().is_some());
    answers.end.borrow().unwrap()
}

#[test]
fn all_members_answer_until_the_time_is_over() {
    run_loop(|| {
        let address = group();
        let members = [join(&address), join(&address)];
        let session = open(&address, Options::default());
        let answers = ask(&session, 200, &[20, 22]);
        assert_eq!(wait_for_end(&answers), ErrorKind::Timeout);
        assert_eq!(*answers.values.borrow(), [[42], [42]]);
        // That is expected, so no timeout is counted.
        assert_eq!(session.stats().timeouts, 0);
        assert_eq!(session.calls_in_flight(), 0);
        // A plain call has the first answer; the other one is ignored.
        assert_eq!(call(&session, "sum", &[1]).unwrap(), [1]);
        eventually("it is counted", || session.stats().answers_ignored == 1);
        session.close();
        for member in members {
            member.close();
            member.close_connections();
        }
    });
}

/// A member that answers each request from each of `sockets` in turn, `times` times.
fn impostor(address: &Address, sockets: usize, times: usize) {
    let Address::Mcast { port, .. } = address else {
        unreachable!()
    };
    let receiver = UdpSocket::bind_with((GROUP, *port), true).unwrap();
    receiver
        .join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)
        .unwrap();
    let senders: Vec<_> = (0..sockets)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let answering = move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = receiver.recv_from(&mut buffer) {
            // `[0, msgid, "sum", [1]]`
            let msgid = &buffer[2..length - 6];
            let answer = [&[0x94, 1], msgid, &[0xc0, 7]].concat();
            for sender in &senders {
                for _ in 0..times {
                    sender.send_to(&answer, from).unwrap();
                }
            }
        }
    };
    drop(spawn(answering));
}

#[test]
fn a_member_answers_once() {
    run_loop(|| {
        let address = group();
        impostor(&address, 2, 5);
        let session = open(&address, Options::default());
        let answers = ask(&session, 200, &[1]);
        wait_for_end(&answers);
        assert_eq!(*answers.values.borrow(), [[7], [7]]);
        assert_eq!(session.stats().answers_ignored, 8);
        session.close();
    });
}

#[test]
fn the_answers_of_a_call_are_limited() {
    run_loop(|| {
        let address = group();
        impostor(&address, 10, 1);
        let limits = Limits {
            in_flight_max: 3,
            ..Limits::default()
        };
        let session = open(&address, limited(limits));
        let answers = ask(&session, 200, &[1]);
        wait_for_end(&answers);
        assert_eq!(answers.values.borrow().len(), 3);
        assert_eq!(session.stats().answers_ignored, 7);
        session.close();
    });
}

#[test]
fn a_call_to_members_ends_when_it_is_cancelled_or_the_session_is_closed() {
    run_loop(|| {
        let address = group();
        let session = open(&address, Options::default());
        let ended = Rc::new(RefCell::new(Vec::new()));
        let start = || {
            let ended = ended.clone();
            let each = move |answer| match answer {
                MemberAnswer::End(error) => ended.borrow_mut().push(error.kind()),
                MemberAnswer::From(..) => panic!("there is no member"),
            };
            let call = session.call_members("f", Timeout::Never, ints(&[]), each);
            call.unwrap()
        };
        let first = start();
        assert!(session.cancel_call(first));
        assert!(!session.cancel_call(first));
        start();
        eventually("the link is up", || session.connected());
        session.close();
        eventually("the second ends", || ended.borrow().len() == 2);
        let expected = [ErrorKind::Cancelled, ErrorKind::ConnectionLost];
        assert_eq!(*ended.borrow(), expected);
    });
}

#[test]
fn only_a_group_has_members() {
    run_loop(|| {
        let address = "udp://127.0.0.1:9".parse().unwrap();
        let session = open(&address, Options::default());
        let outcome = session.call_members("f", Timeout::Default, ints(&[]), |_| {});
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.message().contains("mcast://"), "{error}");
        session.close();
    });
}
