//! Races of a grant, a cancellation and a deadline: all orders of a few such events, for each primitive and both
//! policies.
//!
//! Three fibers wait. Then any six events follow: something is granted, one of the three is cancelled, their deadline
//! passes, the loop runs. The outcome of each fiber, and what is left over, must match a model of ten lines: the
//! longest waiter that has not yet *noticed* that it is stopped is granted what there is, and keeps it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use yue_scheduler::sync::{Local, Policy, Shared, generic, local};
use yue_scheduler::*;

const WAITERS: usize = 3;
const EVENTS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Give,
    Cancel(usize),
    Deadline,
    Settle,
}

const ALPHABET: [Event; 6] = [
    Event::Give,
    Event::Cancel(0),
    Event::Cancel(1),
    Event::Cancel(2),
    Event::Deadline,
    Event::Settle,
];

/// One primitive: how to wait, how to grant, and how much is left over.
struct Subject {
    wait: Box<dyn Fn() -> Result<(), Stopped>>,
    give: Box<dyn Fn()>,
    left: Box<dyn Fn() -> usize>,
    keeps_at_most: usize,
}

type Ended = Option<Result<(), Stopped>>;

/// Returns the expected outcome of each waiter, and what is left over.
fn model(events: &[Event], keeps_at_most: usize) -> ([Ended; WAITERS], usize) {
    let (mut ended, mut cancelled) = ([None; WAITERS], [false; WAITERS]);
    let (mut late, mut left) = (false, 0);
    for event in events {
        match *event {
            Event::Give => match ended.iter_mut().find(|ended| ended.is_none()) {
                Some(first) => *first = Some(Ok(())),
                None => left = keeps_at_most.min(left + 1),
            },
            Event::Cancel(waiter) => cancelled[waiter] = true,
            Event::Deadline => late = true,
            Event::Settle => {
                for (ended, cancelled) in ended.iter_mut().zip(cancelled) {
                    let stopped = match (cancelled, late) {
                        (true, _) => Some(Err(Stopped::Cancelled)),
                        (false, true) => Some(Err(Stopped::Deadline)),
                        (false, false) => None,
                    };
                    *ended = ended.or(stopped);
                }
            }
        }
    }
    (ended, left)
}

fn settle(one: &Loop) {
    while one.tick().unwrap() == Tick::Runnable {}
}

/// Tries every sequence of events, each on a fresh primitive.
fn try_all(make: impl Fn() -> Subject) {
    let time = Rc::new(Cell::new(0));
    let clock = Clock::Manual(time.clone());
    let one = Loop::new(Config {
        clock,
        ..Config::default()
    })
    .unwrap();
    for code in 0..ALPHABET.len().pow(EVENTS) {
        let digit = |position| ALPHABET[code / ALPHABET.len().pow(position) % ALPHABET.len()];
        let events: Vec<_> = (0..EVENTS).map(digit).chain([Event::Settle]).collect();
        let subject = Rc::new(one.enter(&make));
        let deadline = Instant::from_nanos(time.get() + (1 << 20));
        let ended = Rc::new(RefCell::new([None; WAITERS]));
        let start = |waiter| {
            let (subject, ended) = (subject.clone(), ended.clone());
            one.enter(|| {
                spawn(move || {
                    let end = with_deadline(deadline, || (subject.wait)());
                    ended.borrow_mut()[waiter] = Some(end);
                })
            })
        };
        let fibers: Vec<_> = (0..WAITERS).map(start).collect();
        settle(&one);
        for event in &events {
            match *event {
                Event::Give => one.enter(|| (subject.give)()),
                Event::Cancel(waiter) => one.enter(|| fibers[waiter].cancel()),
                Event::Deadline => time.set(deadline.as_nanos()),
                Event::Settle => settle(&one),
            }
        }
        let (expected, left) = model(&events, subject.keeps_at_most);
        assert_eq!(*ended.borrow(), expected, "{events:?}");
        assert_eq!(one.enter(|| (subject.left)()), left, "{events:?}");
        fibers.iter().for_each(JoinHandle::cancel);
        settle(&one);
        assert_eq!(one.counters().fibers, 0);
    }
    assert_eq!(one.counters().panics, 0);
}

fn semaphore<P: Policy>(new: fn(usize) -> generic::Semaphore<P>) -> Subject {
    let permits = Rc::new(new(0));
    let (giver, keeper) = (permits.clone(), permits.clone());
    Subject {
        wait: Box::new(move || permits.acquire(1).map(|permit| permit.forget())),
        give: Box::new(move || giver.add(1)),
        left: Box::new(move || keeper.available()),
        keeps_at_most: usize::MAX,
    }
}

fn notify<P: Policy>() -> Subject {
    let notify = Rc::new(generic::Notify::<P>::default());
    let (giver, keeper) = (notify.clone(), notify.clone());
    Subject {
        wait: Box::new(move || notify.notified()),
        give: Box::new(move || giver.notify_one()),
        left: Box::new(move || usize::from(keeper.try_notified())),
        keeps_at_most: 1,
    }
}

fn condvar<P: Policy>(mutex: fn(()) -> generic::Mutex<P, ()>) -> Subject {
    let (mutex, condvar) = (mutex(()), Rc::new(generic::Condvar::<P>::default()));
    let giver = condvar.clone();
    Subject {
        wait: Box::new(move || {
            let _guard = condvar.wait(mutex.lock()?)?;
            Ok(())
        }),
        give: Box::new(move || giver.notify_one()),
        left: Box::new(|| 0),
        keeps_at_most: 0,
    }
}

type Ends<P> = (generic::Sender<P, u8>, generic::Receiver<P, u8>);

fn receivers<P: Policy>((sender, receiver): Ends<P>, room: usize) -> Subject {
    let keeper = receiver.clone();
    Subject {
        wait: Box::new(move || match receiver.recv() {
            Err(sync::RecvError::Stopped(stopped)) => Err(stopped),
            other => {
                assert_eq!(other, Ok(1));
                Ok(())
            }
        }),
        give: Box::new(move || {
            let _no_room = sender.try_send(1);
        }),
        left: Box::new(move || keeper.len()),
        keeps_at_most: room,
    }
}

fn senders<P: Policy>((sender, receiver): Ends<P>) -> Subject {
    Subject {
        wait: Box::new(move || match sender.send(1) {
            Err(sync::SendError::Stopped(1, stopped)) => Err(stopped),
            Err(other) => panic!("{other}"),
            Ok(()) => Ok(()),
        }),
        give: Box::new(move || {
            let _nobody_sends = receiver.try_recv();
        }),
        left: Box::new(|| 0),
        keeps_at_most: 0,
    }
}

/// Waits for either of two things, which are granted alternately.
fn select<P: Policy>(
    new: fn(usize) -> generic::Semaphore<P>,
    (sender, receiver): Ends<P>,
) -> Subject {
    let permits = Rc::new(new(0));
    let (giver, keeper, left) = (permits.clone(), permits.clone(), receiver.clone());
    let turn = Cell::new(false);
    Subject {
        wait: Box::new(move || {
            select! {
                permit = acquire(permits, 1) => permit.forget(),
                value = recv(receiver) => assert_eq!(value, Ok(1)),
            }
        }),
        give: Box::new(move || {
            if turn.replace(!turn.get()) {
                giver.add(1);
            } else {
                sender.try_send(1).unwrap();
            }
        }),
        left: Box::new(move || keeper.available() + left.len()),
        keeps_at_most: usize::MAX,
    }
}

#[test]
fn permits_are_taken_or_stay() {
    try_all(|| semaphore(local::Semaphore::new));
    try_all(|| semaphore(sync::Semaphore::new));
}

#[test]
fn notifications_are_taken_or_stay() {
    try_all(notify::<Local>);
    try_all(notify::<Shared>);
}

#[test]
fn a_condvar_wakes_one_that_stays() {
    try_all(|| condvar(local::Mutex::new));
    try_all(|| condvar(sync::Mutex::new));
}

#[test]
fn messages_are_received_or_stay() {
    for room in [0, 1, 8] {
        try_all(|| receivers(local::channel(room), room));
        try_all(|| receivers(sync::channel(room), room));
    }
}

#[test]
fn messages_are_sent_or_come_back() {
    try_all(|| senders(local::channel(0)));
    try_all(|| senders(sync::channel(0)));
}

#[test]
fn a_select_takes_one_thing_or_none() {
    try_all(|| select(local::Semaphore::new, local::unbounded()));
    try_all(|| select(sync::Semaphore::new, sync::unbounded()));
}
