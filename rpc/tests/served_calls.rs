//! The statistics and traces of served calls.

use std::rc::Rc;
use std::time::Duration;
use yue_rpc::inspect::calls::{self, MethodStats, TraceFilter};
use yue_rpc::session::{Call, Dispatch, Replied, Reply, Service};
use yue_rpc::typed::{Client, Server, peer};
use yue_rpc::{Error, ErrorKind, Listener, Options};
use yue_scheduler::sync::Notify;
use yue_scheduler::{Instant, sleep, spawn};

/// Longer than any test here takes.
const LONG: Duration = Duration::from_secs(300);

fn server() -> Server {
    Server::new()
        .handler("ping", |()| Ok("pong"))
        .handler("fail", |()| -> Result<(), _> { Err("as it should".into()) })
        .handler("panic", |()| -> Result<(), _> { panic!("as it should") })
        .handler("wait", |ms: u64| {
            sleep(Duration::from_millis(ms)).map_err(|_| "stopped")?;
            Ok(())
        })
}

fn open(listener: &Listener) -> Client {
    Client::open(&listener.address().to_string()).unwrap()
}

#[track_caller]
fn method(name: &str) -> MethodStats {
    let all = calls::methods(0, usize::MAX);
    let found = all.iter().find(|one| one.name == name).cloned();
    found.unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

#[test]
fn calls_are_counted_by_method_and_those_of_missing_ones_together() {
    yue_io::run(|| -> Result<(), Error> {
        let listener = server().listen("tcp://127.0.0.1:0")?;
        let client = open(&listener);
        calls::watch(LONG);
        for _ in 0..10 {
            client.call::<_, String>("ping", ())?;
        }
        client.call::<_, ()>("wait", 20)?;
        for name in ["fail", "panic"] {
            client.call::<_, ()>(name, ()).unwrap_err();
        }
        for n in 0..100 {
            let error = client
                .call::<_, ()>(&format!("invented{n}"), ())
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMethod);
        }
        client.call::<_, ()>("_private", ()).unwrap_err();
        let counts = |name| {
            let stats = method(name);
            (stats.calls, stats.errors)
        };
        assert_eq!(counts("ping"), (10, 0));
        assert_eq!((counts("fail"), counts("panic")), ((1, 1), (1, 1)));
        assert_eq!(counts(calls::OTHERS), (101, 101));
        assert_eq!(calls::methods(0, usize::MAX).len(), 5);
        assert_eq!(calls::methods(4, 10).len(), 1, "pages begin at positions");
        let wait = method("wait");
        assert_eq!(wait.listener, Some(listener.address().to_string()));
        let least = Duration::from_millis(20);
        assert!(wait.max >= least && wait.total == wait.max, "{wait:?}");
        assert!(wait.percentile(50.0) >= least && wait.percentile(99.0) <= wait.max);
        let slowest = calls::slowest();
        let of = |name| slowest.iter().find(|call| &*call.method == name).unwrap();
        assert!(of("wait").peer.starts_with("tcp://127.0.0.1:"));
        assert!(of("wait").duration >= least && of("wait").error.is_none());
        assert_eq!(of("panic").error.as_deref(), Some("RuntimeError"));
        assert!(slowest.is_sorted_by_key(|call| std::cmp::Reverse(call.duration)));
        assert_eq!(slowest.len(), calls::SLOWEST_MAX);
        Ok(())
    })
    .unwrap()
    .unwrap();
}

/// Every name exists.
struct Everything;

impl Dispatch for Everything {
    fn call(&self, _: &mut Call, reply: Reply) -> Replied {
        reply.results(|_| Ok(0))
    }
}

#[test]
fn the_number_of_methods_is_limited() {
    yue_io::run(|| -> Result<(), Error> {
        calls::watch(LONG);
        let service = Service::new(Rc::new(Everything));
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let client = open(&Listener::bind(&address, service, Options::default())?);
        let beyond = 20;
        for n in 0..calls::METHODS_MAX + beyond {
            client.call::<_, ()>(&format!("{n}"), ())?;
        }
        assert_eq!(calls::methods(0, usize::MAX).len(), calls::METHODS_MAX + 1);
        assert_eq!(method(calls::OTHERS).calls, beyond as u64);
        Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn requests_that_run_are_listed() {
    yue_io::run(|| -> Result<(), Error> {
        calls::watch(LONG);
        let (begun, end) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (handler_begun, handler_end) = (begun.clone(), end.clone());
        let listener = server()
            .handler("hang", move |()| {
                handler_begun.notify_one();
                handler_end.notified().map_err(|_| "stopped")?;
                Ok(())
            })
            .listen("tcp://127.0.0.1:0")?;
        let client = open(&listener);
        let caller = {
            let client = client.clone();
            spawn(move || client.call::<_, ()>("hang", ()))
        };
        begun.notified().unwrap();
        let running = calls::running(10);
        assert_eq!((running.count, running.oldest.len()), (1, 1));
        assert_eq!(&*running.oldest[0].method, "hang");
        end.notify_one();
        caller.join().unwrap()?;
        assert_eq!(calls::running(10).count, 0);
        // From its first end on a method knows how many of its requests run.
        let caller = {
            let client = client.clone();
            spawn(move || client.call::<_, ()>("hang", ()))
        };
        begun.notified().unwrap();
        assert_eq!((method("hang").calls, method("hang").in_flight), (1, 1));
        end.notify_one();
        caller.join().unwrap()?;
        assert_eq!((method("hang").calls, method("hang").in_flight), (2, 0));
        Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn functions_of_the_client_are_counted_without_a_listener() {
    yue_io::run(|| -> Result<(), Error> {
        calls::watch(LONG);
        let listener = server()
            .handler("ask", |()| {
                Ok(peer().ok_or("no peer")?.call::<_, u32>("answer", ())?)
            })
            .listen("tcp://127.0.0.1:0")?;
        let own = Server::new().handler("answer", |()| Ok(42));
        let client = Client::open_with(&listener.address().to_string(), own, Options::default())?;
        assert_eq!(client.call::<_, u32>("ask", ())?, 42);
        assert_eq!(method("answer").listener, None);
        assert_eq!(method("ask").listener, Some(listener.address().to_string()));
        Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_trace_keeps_what_it_wants_and_tells_what_it_dropped() {
    yue_io::run(|| -> Result<(), Error> {
        calls::watch(LONG);
        let client = open(&server().listen("tcp://127.0.0.1:0")?);
        let failures = TraceFilter {
            errors_only: true,
            ..TraceFilter::default()
        };
        let slow = TraceFilter {
            slower_than: Duration::from_millis(15),
            method: Some("w*".into()),
            ..TraceFilter::default()
        };
        let all = TraceFilter::default();
        let take = |token, wanted: &TraceFilter, max| {
            let (list, dropped) = calls::trace(token, wanted, Instant::NEVER, max);
            let names: Vec<_> = list.iter().map(|call| call.method.to_string()).collect();
            (names, dropped)
        };
        for (token, wanted) in [(1, &all), (2, &failures), (3, &slow)] {
            assert_eq!(take(token, wanted, 10), (vec![], 0));
        }
        client.call::<_, String>("ping", ())?;
        client.call::<_, ()>("fail", ()).unwrap_err();
        client.call::<_, ()>("wait", 20)?;
        client.call::<_, ()>("missing", ()).unwrap_err();
        let names = |list: &[&str]| {
            list.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        // At most as many as were requested; the rest comes next.
        assert_eq!(take(1, &all, 3), (names(&["ping", "fail", "wait"]), 0));
        assert_eq!(take(1, &all, 3), (names(&["missing"]), 0));
        assert_eq!(take(2, &failures, 9), (names(&["fail", "missing"]), 0));
        assert_eq!(take(3, &slow, 9), (names(&["wait"]), 0));
        for _ in 0..calls::TRACE_MAX + 7 {
            client.call::<_, String>("ping", ())?;
        }
        let (list, dropped) = take(1, &all, usize::MAX);
        assert_eq!((list.len(), dropped), (calls::TRACE_MAX, 7));
        assert_eq!(take(1, &all, usize::MAX), (vec![], 0));
        assert_eq!(take(2, &failures, usize::MAX), (vec![], 0));
        Ok(())
    })
    .unwrap()
    .unwrap();
}
