//! Loom models of `sync`: all interleavings of small programs. `ci/loom` runs them; without `--cfg loom` this file is
//! empty.
//!
//! The waiters are plain threads. A fiber's wait differs only in how it suspends, which the scheduler's own tests
//! cover. In a model a timer's time is up as soon as its select waits, so `or_give_up` is a waiter that gives up at any
//! moment: before, during and after it is granted something. Loom checks every access to a slot and to the values
//! behind the locks against all others.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use yue_scheduler::sync::{
    Closed, Mutex, Notify, OnceCell, RwLock, Semaphore, TryRecvError, channel, oneshot,
};
use yue_scheduler::{Instant, select};

/// Tries all interleavings with at most `preemptions` preemptions (`LOOM_MAX_PREEMPTIONS` overrides it).
fn model(preemptions: usize, program: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(program);
}

/// An instant that is reached while a select waits, and only then.
fn soon() -> Instant {
    Instant::from_nanos(u64::MAX - 1)
}

#[test]
fn a_mutex_lets_one_in_at_a_time_and_orders_what_they_do() {
    model(3, || {
        let shared = Arc::new(Mutex::new(UnsafeCell::new(0)));
        let add = |shared: &Mutex<UnsafeCell<u32>>| {
            let guard = shared.lock().unwrap();
            // Loom would report a reader or writer that this access is not ordered after.
            guard.with_mut(|value| unsafe { *value += 1 });
        };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || add(&shared))
            })
            .collect();
        add(&shared);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(
            shared.try_lock().unwrap().with(|value| unsafe { *value }),
            3
        );
    });
}

#[test]
fn a_lock_is_not_lost_on_a_waiter_that_gives_up() {
    model(3, || {
        let mutex = Arc::new(Mutex::new(()));
        let guard = mutex.lock().unwrap();
        let (fickle, patient) = (mutex.clone(), mutex.clone());
        let fickle = thread::spawn(move || {
            select! { _guard = lock(fickle) => {}, _ = at(soon()) => {} }.unwrap();
        });
        let patient = thread::spawn(move || drop(patient.lock().unwrap()));
        drop(guard);
        fickle.join().unwrap();
        patient.join().unwrap();
        assert!(mutex.try_lock().is_some());
    });
}

#[test]
fn permits_go_to_the_waiters_behind_one_that_gives_up() {
    model(2, || {
        let permits = Arc::new(Semaphore::new(1));
        let (many, few) = (permits.clone(), permits.clone());
        let many = thread::spawn(move || {
            select! { permits = acquire(many, 2) => drop(permits), _ = at(soon()) => {} }.unwrap();
        });
        let few = thread::spawn(move || drop(few.acquire(1).unwrap()));
        many.join().unwrap();
        few.join().unwrap();
        assert_eq!(permits.available(), 1);
    });
}

#[test]
fn a_writer_and_readers_exclude_each_other() {
    model(2, || {
        let lock = Arc::new(RwLock::new(Shared(UnsafeCell::new(0))));
        let reader = lock.clone();
        let reader = thread::spawn(move || {
            reader.read().unwrap().0.with(|value| unsafe { *value });
        });
        lock.write()
            .unwrap()
            .0
            .with_mut(|value| unsafe { *value += 1 });
        lock.read()
            .unwrap()
            .0
            .with(|value| assert_eq!(unsafe { *value }, 1));
        reader.join().unwrap();
    });
}

/// Loom's cell is not `Sync`; the lock under test is what makes it so.
struct Shared(UnsafeCell<u32>);
unsafe impl Sync for Shared {}

#[test]
fn a_channel_delivers_each_value_once_and_in_order() {
    for capacity in 0..2 {
        model(2, move || {
            let (sender, receiver) = channel(capacity);
            let sending = thread::spawn(move || (1..=2).for_each(|n| sender.send(n).unwrap()));
            assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2]);
            sending.join().unwrap();
        });
    }
}

#[test]
fn a_value_goes_to_a_receiver_or_stays() {
    model(3, || {
        let (sender, receiver) = channel(1);
        let fickle = receiver.clone();
        let fickle = thread::spawn(move || {
            select! { value = recv(fickle) => value.ok(), _ = at(soon()) => None }.unwrap()
        });
        sender.send(1).unwrap();
        match fickle.join().unwrap() {
            Some(value) => assert_eq!((value, receiver.try_recv()), (1, Err(TryRecvError::Empty))),
            None => assert_eq!(receiver.try_recv(), Ok(1)),
        }
    });
}

#[test]
fn a_value_is_sent_or_stays_with_the_sender() {
    for capacity in 0..2 {
        model(3, move || {
            let (sender, receiver) = channel(capacity);
            (0..capacity as u32).for_each(|n| sender.send(n).unwrap());
            let fickle = thread::spawn(move || {
                let mut pending = Some(9);
                let sent = select! { sent = send(sender, pending) => sent.is_ok(), _ = at(soon()) => false };
                assert_eq!(sent.unwrap(), pending.is_none());
                pending
            });
            let received: Vec<_> = receiver.iter().collect();
            let pending = fickle.join().unwrap();
            assert_eq!(received.contains(&9), pending.is_none());
            assert_eq!(received.len(), capacity + usize::from(pending.is_none()));
        });
    }
}

#[test]
fn a_select_takes_from_one_of_two_and_leaves_the_other() {
    model(2, || {
        let (one, one_in) = channel(1);
        let (two, two_in) = channel(1);
        let first = thread::spawn(move || one.send(1).unwrap());
        let second = thread::spawn(move || two.send(2).unwrap());
        let taken =
            select! { value = recv(one_in) => value, value = recv(two_in) => value }.unwrap();
        first.join().unwrap();
        second.join().unwrap();
        let left = (one_in.try_recv().ok(), two_in.try_recv().ok());
        match taken {
            Ok(1) => assert_eq!(left, (None, Some(2))),
            Ok(2) => assert_eq!(left, (Some(1), None)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn two_selects_meet_on_a_channel_without_capacity() {
    model(2, || {
        let (sender, receiver) = channel(0);
        let (other_sender, other_receiver) = (sender.clone(), receiver.clone());
        let both = |sender: yue_scheduler::sync::Sender<u32>,
                    receiver: yue_scheduler::sync::Receiver<u32>,
                    own| {
            let mut pending = Some(own);
            let got = select! {
                value = recv(receiver) => value.ok(),
                sent = send(sender, pending) => sent.map(|()| None).unwrap(),
            };
            got.unwrap()
        };
        let other = thread::spawn(move || both(other_sender, other_receiver, 1));
        let mine = both(sender.clone(), receiver.clone(), 2);
        let theirs = other.join().unwrap();
        assert!((mine, theirs) == (Some(1), None) || (mine, theirs) == (None, Some(2)));
    });
}

#[test]
fn the_closing_of_a_channel_meets_a_receiver() {
    model(3, || {
        let (sender, receiver) = channel::<u32>(1);
        let waiting = thread::spawn(move || receiver.recv().is_err());
        drop(sender);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_oneshot_is_received_or_dropped_or_comes_back() {
    model(3, || {
        let (sender, receiver) = oneshot();
        let sending = thread::spawn(move || sender.send(1));
        let got =
            select! { value = recv(receiver) => Some(value), _ = at(soon()) => None }.unwrap();
        if got.is_none() {
            drop(receiver);
            let _ = sending.join().unwrap();
        } else {
            assert_eq!(got, Some(Ok::<_, Closed>(1)));
            assert_eq!(sending.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn a_notification_is_taken_by_a_waiter_that_stays() {
    model(2, || {
        let notify = Arc::new(Notify::new());
        let (fickle, patient) = (notify.clone(), notify.clone());
        let fickle = thread::spawn(move || {
            let was_notified = select! { _ = notified(fickle) => true, _ = at(soon()) => false };
            if was_notified.unwrap() {
                fickle.notify_one();
            }
        });
        let patient = thread::spawn(move || patient.notified().unwrap());
        notify.notify_one();
        fickle.join().unwrap();
        patient.join().unwrap();
        assert!(!notify.try_notified());
    });
}

#[test]
fn a_once_cell_is_made_once_and_seen_whole() {
    model(3, || {
        let cell = Arc::new(OnceCell::new());
        let other = cell.clone();
        let get =
            |cell: &OnceCell<Box<u32>>, value| **cell.get_or_init(|| Box::new(value)).unwrap();
        let thread = thread::spawn(move || get(&other, 1));
        let (mine, theirs) = (get(&cell, 2), thread.join().unwrap());
        assert_eq!(mine, theirs);
    });
}
