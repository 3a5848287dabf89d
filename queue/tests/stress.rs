//! Real threads against the queues: no value is lost, duplicated, leaked, or delivered out of its producer's order.
#![cfg(not(loom))]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use yue_queue::{Injector, SleepFlag, mailbox};

const PRODUCERS: u32 = 4;

/// Enough to cross thousands of blocks. Fewer under Miri, which checks every access.
const PER_PRODUCER: u32 = if cfg!(miri) { 200 } else { 100_000 };

/// A value that knows its producer and counts the values alive.
struct Counted {
    producer: u32,
    sequence: u32,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn new(producer: u32, sequence: u32, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self {
            producer,
            sequence,
            alive: alive.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls `push` with runs of 1 to 9 sequence numbers until all are used.
fn in_runs(mut push: impl FnMut(std::ops::Range<u32>)) {
    let mut next = 0;
    let mut length = 1;
    while next < PER_PRODUCER {
        let end = (next + length).min(PER_PRODUCER);
        push(next..end);
        next = end;
        length = length % 9 + 1;
    }
}

#[test]
fn a_mailbox_keeps_each_producers_order_and_loses_nothing() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (sender, mut receiver) = mailbox();
    let mut expected = [0; PRODUCERS as usize];
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let sender = sender.clone();
            let alive = &alive;
            scope.spawn(move || {
                in_runs(|run| match run.len() {
                    1 => sender.push(Counted::new(producer, run.start, alive)),
                    _ => sender.push_batch(run.map(|i| Counted::new(producer, i, alive))),
                });
            });
        }
        let mut received = 0;
        while received < PRODUCERS * PER_PRODUCER {
            let count = receiver.drain(100, |value| {
                let expected = &mut expected[value.producer as usize];
                assert_eq!(value.sequence, *expected);
                *expected += 1;
            });
            received += count as u32;
            if count == 0 {
                thread::yield_now();
            }
        }
    });
    assert!(receiver.pop().is_none());
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn an_injector_gives_every_value_to_exactly_one_consumer_in_order() {
    const CONSUMERS: u32 = 3;
    let alive = Arc::new(AtomicUsize::new(0));
    let injector = Injector::new();
    let left = AtomicUsize::new((PRODUCERS * PER_PRODUCER) as usize);
    let seen: Vec<_> = (0..PRODUCERS * PER_PRODUCER)
        .map(|_| AtomicBool::new(false))
        .collect();
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (injector, alive) = (&injector, &alive);
            scope.spawn(move || {
                in_runs(|run| match run.len() {
                    1 => injector.push(Counted::new(producer, run.start, alive)),
                    _ => injector.push_batch(run.map(|i| Counted::new(producer, i, alive))),
                });
            });
        }
        for _ in 0..CONSUMERS {
            scope.spawn(|| {
                let mut last = [None; PRODUCERS as usize];
                while left.load(Ordering::Relaxed) > 0 {
                    let Some(value) = injector.pop() else {
                        thread::yield_now();
                        continue;
                    };
                    left.fetch_sub(1, Ordering::Relaxed);
                    let index = value.producer * PER_PRODUCER + value.sequence;
                    assert!(!seen[index as usize].swap(true, Ordering::Relaxed));
                    let last = &mut last[value.producer as usize];
                    assert!(last.is_none_or(|last| last < value.sequence));
                    *last = Some(value.sequence);
                }
            });
        }
    });
    assert!(injector.pop().is_none());
    assert!(injector.is_empty());
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn a_receiver_that_leaves_amid_pushes_leaks_nothing() {
    for round in 0..if cfg!(miri) { 3 } else { 300 } {
        let alive = Arc::new(AtomicUsize::new(0));
        let (sender, mut receiver) = mailbox();
        thread::scope(|scope| {
            for producer in 0..PRODUCERS {
                let sender = sender.clone();
                let alive = &alive;
                scope.spawn(move || {
                    for i in 0..200 {
                        sender.push(Counted::new(producer, i, alive));
                        sender.push_batch((0..i % 70).map(|i| Counted::new(producer, i, alive)));
                    }
                });
            }
            while receiver.drain(round, drop) == 0 && round > 0 {
                thread::yield_now();
            }
            drop(receiver);
        });
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        sender.push(Counted::new(0, 0, &alive));
        sender.push_batch((0..100).map(|i| Counted::new(0, i, &alive)));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_sleeping_consumer_is_woken_for_every_value() {
    let (sender, mut receiver) = mailbox();
    let flag = SleepFlag::new();
    let consumer = thread::current();
    let total = PRODUCERS * PER_PRODUCER / 10;
    thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            let (sender, flag, consumer) = (sender.clone(), &flag, consumer.clone());
            scope.spawn(move || {
                for i in 0..PER_PRODUCER / 10 {
                    sender.push(i);
                    if flag.notify() {
                        consumer.unpark(); // remembers a ring that comes before the wait, as an eventfd does
                    }
                }
            });
        }
        let mut received = 0;
        while received < total {
            received += receiver.drain(usize::MAX, drop) as u32;
            flag.prepare_sleep();
            if receiver.is_empty() && received < total {
                thread::park();
            }
            flag.wake_up();
        }
    });
    assert!(receiver.is_empty());
}
