//! A peer that does not keep up: a tick never waits for it, its queue is bounded, and its connection is closed or its
//! messages are dropped, according to the options.

mod common;

use common::raw::Raw;
use common::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::session::Session;
use yue_rpc::transport::Transport;
use yue_rpc::{
    CloseReason, Error, ErrorKind, Limits, MemoryListener, Options, Rate, Retry, Timeout, WhenFull,
};
use yue_scheduler::{now, sleep};

const HIGH: usize = 10_000;
const MAX: usize = 40_000;

fn options(when_full: WhenFull) -> Options {
    Options {
        limits: Limits {
            output_bytes_high: HIGH,
            output_bytes_max: MAX,
            ..Limits::default()
        },
        when_full,
        ..Options::default()
    }
}

fn bin(length: usize) -> impl FnOnce(&mut Vec<u8>) -> Result<u32, Error> {
    move |out| {
        encode::str_or_bin(out, &vec![0xff; length]);
        Ok(1)
    }
}

/// Notifies until that fails. Returns the number of queued notifications, and the error.
fn notify_until_full(session: &Session, length: usize) -> (usize, Error) {
    let began = now();
    for taken in 0..1_000_000 {
        if let Err(error) = session.notify("note", bin(length)) {
            assert!(now().saturating_since(began) < Duration::from_secs(20));
            return (taken, error);
        }
    }
    panic!("it takes notifications without end");
}

/// The server's end of a link to a peer that reads nothing, and the events of its hooks.
struct Slow {
    raw: Raw,
    session: Session,
    received: Rc<RefCell<Vec<String>>>,
}

fn slow(options: Options) -> Slow {
    let received = Rc::new(RefCell::new(Vec::new()));
    let note = |text: &'static str| {
        let received = received.clone();
        Some(Box::new(move |_: &Session| received.borrow_mut().push(text.to_owned())) as _)
    };
    let closed = received.clone();
    let hooks = TestHooks {
        full: note("full"),
        room: note("room"),
        close: Some(Box::new(move |_: &Session, reason: &CloseReason| {
            closed.borrow_mut().push(reason.to_string());
            Retry::Default
        })),
        ..TestHooks::default()
    };
    let listener = MemoryListener::new(methods().with_hooks(Rc::new(hooks)), options);
    let raw = Raw::connect(&listener);
    raw.link.set_reading(false);
    let session = listener.sessions().pop().unwrap();
    Slow {
        raw,
        session,
        received,
    }
}

#[test]
fn a_notification_never_waits_and_a_peer_that_is_too_slow_is_closed() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Close));
        let (taken, error) = notify_until_full(&slow.session, 1000);
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert!(error.is_retryable());
        assert!((35..45).contains(&taken), "{taken}");
        assert!(slow.session.is_closed());
        // In the same tick, further ones are errors, and do not wait either.
        assert_eq!(
            slow.session.notify("note", bin(1)).unwrap_err().kind(),
            ErrorKind::ConnectionLost
        );
        eventually("the hook runs", || *slow.received.borrow() == ["too slow"]);
        let stats = slow.session.stats();
        assert_eq!((stats.too_slow, stats.stalls), (1, 0));
        assert_eq!(
            (stats.notifications, stats.notifications_dropped),
            (taken as u64, 1)
        );
    });
}

#[test]
fn a_slow_peer_that_reads_again_learns_the_reason_and_reconnects() {
    for kind in [Kind::Memory, Kind::Tcp, Kind::Unix] {
        run_loop(move || {
            let server = serve(kind, methods(), options(WhenFull::Close));
            let reasons = Rc::new(RefCell::new(Vec::new()));
            let log = reasons.clone();
            let hooks = TestHooks {
                close: Some(Box::new(move |_: &Session, reason: &CloseReason| {
                    log.borrow_mut().push(reason.to_string());
                    Retry::Default
                })),
                ..TestHooks::default()
            };
            let client = server.open(methods().with_hooks(Rc::new(hooks)), Options::default());
            call(&client, "sum", &[1]).unwrap();
            let to_client = server.sessions().pop().unwrap();
            // All in one tick: the client has no chance to read.
            notify_until_full(&to_client, 1000);
            eventually("the client learns the reason", || {
                !reasons.borrow().is_empty()
            });
            assert_eq!(
                *reasons.borrow(),
                ["closed by the peer: too slow"],
                "{kind:?}"
            );
            assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
            assert_eq!(client.stats().links, 2);
            client.close();
        });
    }
}

#[test]
fn drops_are_counted_and_reported_once_per_episode() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Drop));
        for _ in 0..2 {
            let (_, error) = notify_until_full(&slow.session, 1000);
            assert_eq!(error.kind(), ErrorKind::QueueFull);
            for _ in 0..10 {
                slow.session.notify("note", bin(1000)).unwrap_err();
            }
            let queued = slow.session.queued_bytes();
            assert!((MAX..MAX + 2000).contains(&queued), "{queued}");
            sleep(Duration::from_millis(5)).unwrap();
            // It reads again, and there is a new episode.
            slow.raw.link.set_reading(true);
            eventually("all is read", || slow.session.queued_bytes() == 0);
            slow.raw.link.set_reading(false);
        }
        assert_eq!(*slow.received.borrow(), ["full", "full"]);
        let stats = slow.session.stats();
        assert_eq!(stats.notifications_dropped, 22);
        assert!(!slow.session.is_closed());
        slow.session.close();
    });
}

#[test]
fn over_a_thread_link_a_full_queue_is_an_error_and_nothing_else() {
    for when_full in [WhenFull::Close, WhenFull::Drop] {
        run_loop(move || {
            let server = serve(Kind::Thread, methods(), Options::default());
            let client = server.open(methods(), options(when_full));
            call(&client, "sum", &[1]).unwrap();
            let (_, error) = notify_until_full(&client, 1000);
            assert_eq!(error.kind(), ErrorKind::QueueFull);
            assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
            assert_eq!((client.stats().links, client.stats().too_slow), (1, 0));
            client.close();
        });
    }
}

#[test]
fn an_asynchronous_call_never_waits() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Close));
        let failed = Rc::new(Cell::new(0));
        let mut made = 0;
        let error = loop {
            let failed = failed.clone();
            let done = move |outcome: Result<_, Error>| {
                failed.set(failed.get() + u32::from(outcome.is_err()));
            };
            match slow
                .session
                .call_async("sum", Timeout::Default, bin(1000), done)
            {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
            assert!(made < 1000);
        };
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert!(error.is_retryable());
        assert!((35..45).contains(&made), "{made}");
        // The caller gets an error; nothing is closed.
        assert!(!slow.session.is_closed());
        assert_eq!(failed.get(), 0);
        slow.session.close();
        eventually("all fail", || failed.get() == made);
    });
}

#[test]
fn messages_held_before_a_link_are_bounded_and_never_wait() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.refuse(true);
        let mut options = options(WhenFull::Close);
        options.retry = true;
        options.limits.held_bytes_max = 5000;
        let client = Session::open(listener.clone(), methods(), options);
        let (taken, error) = notify_until_full(&client, 1000);
        assert_eq!((taken, error.kind()), (4, ErrorKind::QueueFull));
        let error = client
            .call_async("sum", Timeout::Default, bin(1000), |_| {})
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert!(client.queued_bytes() > 4000);
        listener.refuse(false);
        assert_eq!(call(&client, "sum", &[2]).unwrap(), [2]);
        assert_eq!(client.queued_bytes(), 0);
        assert_eq!(client.stats().too_slow, 0, "nobody is slow");
        client.close();
    });
}

#[test]
fn notifications_that_expire_before_the_link_is_up_make_room() {
    run_loop(|| {
        let listener = MemoryListener::new(methods(), Options::default());
        listener.refuse(true);
        let mut options = options(WhenFull::Close);
        options.retry = true;
        options.limits.held_bytes_max = 5000;
        let client = Session::open(listener.clone(), methods(), options);
        for _ in 0..4 {
            let time = Duration::from_millis(1);
            client.notify_within(time, "note", bin(1000)).unwrap();
        }
        sleep(Duration::from_millis(50)).unwrap();
        client.notify("note", bin(1000)).unwrap();
        assert_eq!(client.stats().notifications_late, 4);
        client.close();
    });
}

#[test]
fn a_timed_notification_is_written_in_time_or_dropped() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Close));
        while slow.session.queued_bytes() <= HIGH {
            slow.session.notify("note", bin(1000)).unwrap();
        }
        let notify = |time: Duration, name: &str| {
            let name = name.as_bytes().to_vec();
            slow.session.notify_within(time, "timed", move |out| {
                encode::str_or_bin(out, &name);
                Ok(1)
            })
        };
        notify(Duration::from_millis(10), "the early one").unwrap();
        notify(Duration::from_secs(1000), "the late one").unwrap();
        assert_eq!(slow.session.stats().notifications_late, 0);
        sleep(Duration::from_millis(50)).unwrap();
        slow.raw.link.set_reading(true);
        eventually("it is written", || slow.raw.received("the late one"));
        assert!(!slow.raw.received("the early one"));
        assert_eq!(slow.session.stats().notifications_late, 1);
        // With room it goes at once.
        notify(Duration::ZERO, "at once").unwrap();
        eventually("it is written", || slow.raw.received("at once"));
        assert_eq!(slow.session.queued_bytes(), 0);
        slow.session.close();
    });
}

#[test]
fn timed_notifications_that_wait_are_bounded_and_close_nothing() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Close));
        while slow.session.queued_bytes() <= HIGH {
            slow.session.notify("note", bin(1000)).unwrap();
        }
        let time = Duration::from_secs(1000);
        let taken = (0..1000)
            .take_while(|_| slow.session.notify_within(time, "note", bin(1000)).is_ok())
            .count();
        assert!((5..15).contains(&taken), "{taken}");
        assert_eq!(slow.session.stats().notifications_dropped, 1);
        assert!(!slow.session.is_closed());
        slow.raw.link.set_reading(true);
        eventually("all are written", || slow.session.queued_bytes() == 0);
        assert_eq!(slow.session.stats().notifications_late, 0);
        slow.session.close();
    });
}

#[test]
fn room_is_reported_once_for_each_request() {
    run_loop(|| {
        let slow = slow(options(WhenFull::Close));
        assert_eq!(slow.session.room(), Some(true));
        while slow.session.queued_bytes() <= HIGH {
            slow.session.notify("note", bin(1000)).unwrap();
        }
        assert_eq!(slow.session.room(), Some(false));
        slow.session.request_room();
        slow.session.request_room();
        sleep(Duration::from_millis(5)).unwrap();
        assert!(slow.received.borrow().is_empty());
        slow.raw.link.set_reading(true);
        eventually("the hook runs", || *slow.received.borrow() == ["room"]);
        assert_eq!(slow.session.room(), Some(true));
        slow.session.close();
        assert_eq!(slow.session.room(), None);
    });
}

#[test]
fn small_messages_for_a_slow_peer_share_buffers() {
    run_loop(|| {
        let slow = slow(Options::default());
        for _ in 0..3000 {
            slow.session.notify("note", bin(100)).unwrap();
            // A tick for each.
            yue_scheduler::yield_now().unwrap();
            sleep(Duration::ZERO).unwrap();
        }
        let stats = slow.session.stats();
        assert!(slow.session.queued_bytes() > 300_000);
        assert!(
            stats.writes < 700,
            "{} buffers for 3000 ticks",
            stats.writes
        );
        slow.raw.link.set_reading(true);
        eventually("all is read", || slow.session.queued_bytes() == 0);
        slow.session.close();
    });
}

#[test]
fn a_client_that_calls_too_often_is_refused_and_one_that_does_not_stop_is_closed() {
    over_each(|kind| {
        let rate = Rate {
            calls_per_second: 50.0,
            burst: 10,
        };
        let limits = Limits {
            rate: Some(rate),
            ..Limits::default()
        };
        let server_options = limited(limits);
        let server = serve(kind, methods(), server_options);
        let reasons = Rc::new(RefCell::new(Vec::new()));
        let log = reasons.clone();
        let hooks = TestHooks {
            close: Some(Box::new(move |_: &Session, reason: &CloseReason| {
                log.borrow_mut().push(reason.to_string());
                Retry::Default
            })),
            ..TestHooks::default()
        };
        let client = server.open(methods().with_hooks(Rc::new(hooks)), Options::default());
        let witness = server.client();
        let (mut taken, mut refused) = (0, 0);
        while reasons.borrow().is_empty() {
            match call(&client, "sum", &[1]) {
                Ok(_) => taken += 1,
                Err(error) if error.kind() == ErrorKind::ServerBusy => {
                    assert!(error.is_retryable() && error.message().contains("50 calls a second"));
                    refused += 1;
                }
                Err(error) => assert!(error.message().contains("too many calls"), "{error}"),
            }
            assert!(refused < 10_000, "{kind:?}");
        }
        // The link that was made anew may have begun already.
        assert!((101..=150).contains(&refused), "{kind:?}: {refused}");
        assert!(taken >= 10, "{kind:?}: {taken}");
        assert_eq!(
            *reasons.borrow(),
            ["closed by the peer: too many calls"],
            "{kind:?}"
        );
        assert_eq!(call(&witness, "sum", &[2]).unwrap(), [2]);
        client.close();
        witness.close();
    });
}
