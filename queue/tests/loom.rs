//! Loom models: all interleavings of small programs. `ci/loom` runs them; without `--cfg loom` this file is empty.
//!
//! Under loom a block has two slots, so three values cross a block boundary. The models check that every use of a block
//! under a ticket comes before the block's retirement (`Block::assert_alive`), and every use under a pin before its
//! freeing (`reclaim_model.rs`). Each model bounds the number of preemptions: bugs of this kind show with two or three.
#![cfg(loom)]

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use yue_queue::{IdleSet, Injector, Receiver, SleepFlag, mailbox};

/// Tries all interleavings with at most `preemptions` preemptions (`LOOM_MAX_PREEMPTIONS` overrides it).
fn model(preemptions: usize, program: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(program);
}

/// Takes `count` values, and lets the producers run while there are none.
fn take<T: Send>(receiver: &mut Receiver<T>, count: usize) -> Vec<T> {
    let mut taken = Vec::new();
    while taken.len() < count {
        match receiver.pop() {
            Some(value) => taken.push(value),
            None => thread::yield_now(),
        }
    }
    taken
}

/// The values of the producer that counts from `first`, in the order of arrival.
fn values_of(first: u32, values: &[u32]) -> Vec<u32> {
    let own = first..first + 10;
    values.iter().copied().filter(|v| own.contains(v)).collect()
}

#[test]
fn a_mailbox_delivers_each_producers_values_in_order() {
    model(2, || {
        let (sender, mut receiver) = mailbox();
        let other = sender.clone();
        let one = thread::spawn(move || (10..13).for_each(|v| sender.push(v)));
        let two = thread::spawn(move || (20..22).for_each(|v| other.push(v)));
        let taken = take(&mut receiver, 5);
        assert_eq!(values_of(10, &taken), [10, 11, 12]);
        assert_eq!(values_of(20, &taken), [20, 21]);
        assert!(receiver.is_empty());
        one.join().unwrap();
        two.join().unwrap();
    });
}

#[test]
fn a_batch_is_not_torn_by_another_producer() {
    model(2, || {
        let (sender, mut receiver) = mailbox();
        let other = sender.clone();
        let one = thread::spawn(move || sender.push_batch(10..15));
        let two = thread::spawn(move || other.push(20));
        let taken = take(&mut receiver, 6);
        assert_eq!(values_of(10, &taken), [10, 11, 12, 13, 14]);
        assert!(taken[0] == 20 || taken[5] == 20);
        one.join().unwrap();
        two.join().unwrap();
    });
}

#[test]
fn a_dropped_receiver_leaves_no_value_behind() {
    /// Counts the values that exist. A std atomic, not loom's: it is read only after the threads ended.
    struct Counted(std::sync::Arc<AtomicUsize>);
    impl Counted {
        fn new(alive: &std::sync::Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::Relaxed);
            Self(alive.clone())
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    model(3, || {
        let alive = std::sync::Arc::new(AtomicUsize::new(0));
        let (sender, mut receiver) = mailbox();
        let producers = [2, 1].map(|count| {
            let (sender, alive) = (sender.clone(), alive.clone());
            thread::spawn(move || {
                sender.push(Counted::new(&alive));
                sender.push_batch((0..count).map(|_| Counted::new(&alive)));
            })
        });
        drop(receiver.pop());
        drop(receiver);
        for producer in producers {
            producer.join().unwrap();
        }
        drop(sender);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn an_injector_gives_each_value_to_one_consumer() {
    model(2, || {
        let injector = Arc::new(Injector::new());
        let producers = [10, 20].map(|first| {
            let injector = injector.clone();
            thread::spawn(move || {
                injector.push(first);
                injector.push(first + 1);
            })
        });
        let consumer = {
            let injector = injector.clone();
            thread::spawn(move || [injector.pop(), injector.pop()])
        };
        let mut taken: Vec<u32> = [injector.pop(), injector.pop()]
            .into_iter()
            .flatten()
            .collect();
        taken.extend(consumer.join().unwrap().into_iter().flatten());
        for producer in producers {
            producer.join().unwrap();
        }
        while let Some(value) = injector.pop() {
            taken.push(value);
        }
        assert!(injector.is_empty());
        taken.sort_unstable();
        assert_eq!(taken, [10, 11, 20, 21]);
    });
}

#[test]
fn consumers_of_an_injector_cross_a_block_boundary_together() {
    model(4, || {
        let injector = Arc::new(Injector::new());
        injector.push_batch(10..14);
        let other = {
            let injector = injector.clone();
            thread::spawn(move || {
                injector.push(14);
                [injector.pop(), injector.pop(), injector.pop()]
            })
        };
        let mut taken = vec![injector.pop(), injector.pop()];
        taken.extend(other.join().unwrap());
        let mut taken: Vec<u32> = taken.into_iter().flatten().collect();
        taken.sort_unstable();
        assert_eq!(taken, [10, 11, 12, 13, 14]);
        assert_eq!(injector.pop(), None);
    });
}

/// The batch fills three blocks while `newest` stays at the first. One consumer may be about to leave the first block
/// when the other has left the second. Neither may leave `newest` behind, because the next producer would follow it.
#[test]
fn a_slow_consumer_at_a_boundary_does_not_move_newest_back() {
    model(3, || {
        let injector = Arc::new(Injector::new());
        injector.push_batch(10..15);
        assert_eq!([injector.pop(), injector.pop()], [Some(10), Some(11)]);
        let other = {
            let injector = injector.clone();
            thread::spawn(move || injector.pop())
        };
        let mut taken: Vec<u32> = (0..3).filter_map(|_| injector.pop()).collect();
        taken.extend(other.join().unwrap());
        taken.sort_unstable();
        assert_eq!(taken, [12, 13, 14]);
        injector.push(15);
        assert_eq!(injector.pop(), Some(15));
    });
}

/// A stand-in for an eventfd: it remembers a ring that comes before the wait.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Blocks until the bell is rung, then resets it.
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Runs producers that push, and a consumer that sleeps whenever it finds nothing. Loom reports a deadlock if a wake-up
/// is lost.
fn sleeping_consumer(producers: u32, values_each: u32) {
    let (sender, mut receiver) = mailbox();
    let shared = Arc::new((SleepFlag::new(), Bell::default()));
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let (sender, shared) = (sender.clone(), shared.clone());
            thread::spawn(move || {
                for value in 0..values_each {
                    sender.push(10 * producer + value);
                    if shared.0.notify() {
                        shared.1.ring();
                    }
                }
            })
        })
        .collect();
    let mut taken = Vec::new();
    while taken.len() < (producers * values_each) as usize {
        receiver.drain(usize::MAX, |value| taken.push(value));
        if taken.len() == (producers * values_each) as usize {
            break;
        }
        shared.0.prepare_sleep();
        if receiver.is_empty() {
            shared.1.wait();
        }
        shared.0.wake_up();
    }
    for producer in 0..producers {
        let expected: Vec<u32> = (0..values_each).map(|v| 10 * producer + v).collect();
        assert_eq!(values_of(10 * producer, &taken), expected);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_wake_is_lost_with_one_producer() {
    model(5, || sleeping_consumer(1, 3));
}

/// One producer may hold an unpublished ticket while the other publishes behind it and rings. The consumer then wakes,
/// finds nothing and sleeps again; the late producer must wake it.
#[test]
fn no_wake_is_lost_when_a_producer_publishes_late() {
    model(3, || sleeping_consumer(2, 1));
}

/// Returns whether a consumer that goes to sleep once, with or without the recheck, can sleep forever beside a value.
///
/// The consumer does not block (loom's deadlock report would abort the test) but waits for the producer to end. A
/// producer that has not rung the bell by then never will.
fn consumer_can_miss_a_value(recheck: bool) -> bool {
    let missed = std::sync::Arc::new(AtomicUsize::new(0));
    let count = missed.clone();
    model(3, move || {
        let (sender, mut receiver) = mailbox();
        let shared = Arc::new((SleepFlag::new(), Bell::default()));
        let producer = {
            let shared = shared.clone();
            thread::spawn(move || {
                sender.push(1);
                if shared.0.notify() {
                    shared.1.ring();
                }
            })
        };
        let found = receiver.pop().is_some();
        shared.0.prepare_sleep();
        let sleeps = !recheck || receiver.is_empty();
        producer.join().unwrap();
        let rung = *shared.1.rung.lock().unwrap();
        if !found && sleeps && !rung {
            assert_eq!(receiver.pop(), Some(1));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    missed.load(Ordering::Relaxed) > 0
}

/// Shows that these models can fail: without the recheck between `prepare_sleep` and the wait, the consumer sleeps
/// although a value was pushed before its announcement.
#[test]
fn without_the_recheck_a_consumer_sleeps_beside_a_value() {
    assert!(!consumer_can_miss_a_value(true));
    assert!(consumer_can_miss_a_value(false));
}

/// Several consumers of one injector, each with its own flag and bell.
struct Crew {
    work: Injector<u32>,
    idle: IdleSet,
    flags: Vec<(SleepFlag, Bell)>,
}

impl Crew {
    fn wake_one(&self) {
        if let Some(consumer) = self.idle.take_one() {
            let (flag, bell) = &self.flags[consumer];
            if flag.notify() {
                bell.ring();
            }
        }
    }

    /// Sleeps until there is work, takes one value, and leaves for good.
    fn take_one(&self, consumer: usize) -> u32 {
        let (flag, bell) = &self.flags[consumer];
        let value = loop {
            if let Some(value) = self.work.pop() {
                break value;
            }
            flag.prepare_sleep();
            self.idle.announce(consumer);
            if self.work.is_empty() {
                bell.wait();
            }
            flag.wake_up();
            self.idle.withdraw(consumer);
        };
        self.idle.withdraw(consumer);
        // A producer may have relied on this consumer for the remaining work.
        if !self.work.is_empty() {
            self.wake_one();
        }
        value
    }
}

/// Loom reports a deadlock if work stays while its consumer sleeps. That happens without the second look, or if a
/// consumer that leaves does not pass its wake-up on.
fn crew() {
    let crew = Arc::new(Crew {
        work: Injector::new(),
        idle: IdleSet::new(2),
        flags: (0..2)
            .map(|_| (SleepFlag::new(), Bell::default()))
            .collect(),
    });
    let consumers: Vec<_> = (0..2)
        .map(|consumer| {
            let crew = crew.clone();
            thread::spawn(move || crew.take_one(consumer))
        })
        .collect();
    for value in [1, 2] {
        crew.work.push(value);
        crew.wake_one();
    }
    let sum: u32 = consumers.into_iter().map(|c| c.join().unwrap()).sum();
    assert_eq!(sum, 3);
}

#[test]
fn each_piece_of_work_wakes_a_consumer_that_sleeps() {
    model(2, crew);
}
