//! Locks, permits, notifications and channels among the fibers of one loop.

mod common;

use common::run;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::sync::local::*;
use yue_scheduler::*;

/// Lets every other fiber run until it waits.
fn settle() {
    (0..20).for_each(|_| yield_now().unwrap());
}

type Log = Rc<RefCell<Vec<u32>>>;

/// Starts fibers 0, 1, …, each of which runs `wait` and logs its number.
fn queue_up(log: &Log, count: u32, wait: impl Fn(u32) + Clone + 'static) -> Vec<JoinHandle<()>> {
    let start = |number| {
        let (log, wait) = (log.clone(), wait.clone());
        let fiber = spawn(move || {
            wait(number);
            log.borrow_mut().push(number);
        });
        settle();
        fiber
    };
    (0..count).map(start).collect()
}

#[test]
fn a_mutex_is_handed_over_in_the_order_of_the_waiters() {
    run(|| {
        let (log, mutex) = (Log::default(), Rc::new(Mutex::new(())));
        let guard = mutex.lock().unwrap();
        let other = mutex.clone();
        let fibers = queue_up(&log, 5, move |_| drop(other.lock().unwrap()));
        drop(guard);
        // It has been handed over, so nobody can grab it before the waiters.
        assert!(mutex.try_lock().is_none());
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [0, 1, 2, 3, 4]);
        assert!(mutex.try_lock().is_some());
    });
}

#[test]
fn a_cancelled_waiter_leaves_the_queue_and_the_others_move_up() {
    run(|| {
        let (log, mutex) = (Log::default(), Rc::new(Mutex::new(())));
        let guard = mutex.lock().unwrap();
        let other = mutex.clone();
        let fibers = queue_up(&log, 4, move |number| {
            let locked = other.lock();
            assert_eq!(locked.is_err(), number == 1);
        });
        fibers[1].cancel();
        settle();
        assert_eq!(*log.borrow(), [1]);
        drop(guard);
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [1, 0, 2, 3]);
    });
}

#[test]
fn a_lock_that_was_handed_over_is_taken_although_a_cancellation_follows() {
    run(|| {
        let mutex = Rc::new(Mutex::new(0));
        let guard = mutex.lock().unwrap();
        let other = mutex.clone();
        let fiber = spawn(move || {
            *other.lock().unwrap() += 1;
            assert_eq!(other.lock().err(), Some(Stopped::Cancelled));
        });
        settle();
        drop(guard);
        fiber.cancel();
        fiber.join().unwrap();
        assert_eq!(*mutex.lock().unwrap(), 1);
    });
}

#[test]
fn every_waiting_call_fails_in_a_stopped_fiber() {
    run(|| {
        let fiber = spawn(|| {
            let (sender, receiver) = channel(2);
            sender.try_send(1).unwrap();
            let (_answer, question) = oneshot::<u8>();
            let (free, late) = (Mutex::new(()), Instant::from_nanos(1));
            with_deadline(late, || {
                assert_eq!(free.lock().err(), Some(Stopped::Deadline));
                assert!(RwLock::new(()).read().is_err());
                assert!(RwLock::new(()).write().is_err());
                assert!(Semaphore::new(1).acquire(1).is_err());
                let notify = Notify::new();
                notify.notify_one();
                assert!(notify.notified().is_err());
                assert!(Barrier::new(1).wait().is_err());
                assert!(OnceCell::<u8>::new().get_or_init(|| 1).is_err());
                let stopped = Stopped::Deadline;
                assert_eq!(receiver.recv(), Err(RecvError::Stopped(stopped)));
                assert_eq!(sender.send(2), Err(SendError::Stopped(2, stopped)));
                assert_eq!(question.recv(), Err(RecvError::Stopped(stopped)));
                let refused: Result<u8, _> = select! {
                    value = recv(receiver) => value.unwrap(),
                    default => 0,
                };
                assert_eq!(refused, Err(stopped));
                // Operations that never wait still work.
                assert!(free.try_lock().is_some());
                let (never_full, _rest) = unbounded();
                assert_eq!(never_full.send(1), Ok(()));
                assert_eq!(shield(|| receiver.recv()), Ok(1));
            });
            drop(free.lock().unwrap());
        });
        fiber.join().unwrap();
    });
}

#[test]
fn a_fiber_that_ignores_the_error_does_not_block_the_others() {
    run(|| {
        let over = Rc::new(Cell::new(false));
        let seen = over.clone();
        let stubborn = spawn(move || {
            let mutex = Mutex::new(());
            while !seen.get() {
                let _ = mutex.lock();
            }
        });
        stubborn.cancel();
        settle();
        over.set(true);
        stubborn.join().unwrap();
    });
}

#[test]
fn a_small_request_does_not_overtake_a_large_one() {
    run(|| {
        let (log, permits) = (Log::default(), Rc::new(Semaphore::new(3)));
        let held = permits.acquire(2).unwrap();
        let other = permits.clone();
        // Fiber 0 wants three permits, of which one is free; 1 and 2 want one each.
        let fibers = queue_up(&log, 3, move |number| {
            let wanted = if number == 0 { 3 } else { 1 };
            drop(other.acquire(wanted).unwrap());
        });
        assert!(permits.try_acquire(1).is_none());
        assert!(log.borrow().is_empty());
        drop(held);
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [0, 1, 2]);
        assert_eq!(permits.available(), 3);
    });
}

#[test]
fn waiters_behind_one_that_gives_up_get_the_available_permits() {
    run(|| {
        let (log, permits) = (Log::default(), Rc::new(Semaphore::new(2)));
        let other = permits.clone();
        let fibers = queue_up(&log, 3, move |number| {
            let wanted = if number == 0 { 3 } else { 1 };
            assert_eq!(
                other.acquire(wanted).map(Permit::forget).is_err(),
                number == 0
            );
        });
        assert!(log.borrow().is_empty());
        fibers[0].cancel();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [0, 1, 2]);
        assert_eq!(permits.available(), 0);
    });
}

#[test]
fn a_writer_waits_for_the_readers_and_later_readers_for_it() {
    run(|| {
        let (log, lock) = (Log::default(), Rc::new(RwLock::new(0)));
        let (one, two) = (lock.read().unwrap(), lock.read().unwrap());
        let other = lock.clone();
        let fibers = queue_up(&log, 4, move |number| {
            if number == 0 {
                *other.write().unwrap() = 7;
            } else {
                assert_eq!(*other.read().unwrap(), 7);
            }
        });
        assert!(lock.try_read().is_none(), "the writer is served first");
        drop(one);
        settle();
        assert!(log.borrow().is_empty());
        drop(two);
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [0, 1, 2, 3]);
    });
}

#[test]
fn a_condvar_releases_the_lock_while_it_waits_and_holds_it_when_stopped() {
    run(|| {
        let shared = Rc::new((Mutex::new(0), Condvar::new()));
        let other = shared.clone();
        let waiter = spawn(move || {
            let guard = other.0.lock().unwrap();
            let error = other.1.wait(guard).unwrap_err();
            assert_eq!(error.stopped, Stopped::Cancelled);
            assert!(other.0.try_lock().is_none());
            *error.guard
        });
        settle();
        let mut guard = shared.0.try_lock().expect("the waiter has released it");
        waiter.cancel();
        settle();
        assert!(
            !waiter.is_done(),
            "it waits for the lock, although it was cancelled"
        );
        *guard = 5;
        drop(guard);
        assert_eq!(waiter.join().unwrap(), 5);
        assert!(shared.0.try_lock().is_some());
    });
}

#[test]
fn a_condvar_wakes_one_or_all() {
    run(|| {
        let (log, shared) = (Log::default(), Rc::new((Mutex::new(()), Condvar::new())));
        let other = shared.clone();
        let fibers = queue_up(&log, 4, move |_| {
            drop(other.1.wait(other.0.lock().unwrap()).unwrap());
        });
        shared.1.notify_one();
        settle();
        assert_eq!(*log.borrow(), [0]);
        shared.1.notify_all();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*log.borrow(), [0, 1, 2, 3]);
    });
}

#[test]
fn one_notification_is_stored_and_goes_to_the_longest_waiter() {
    run(|| {
        let (log, notify) = (Log::default(), Rc::new(Notify::new()));
        notify.notify_all();
        assert!(!notify.try_notified());
        notify.notify_one();
        notify.notify_one();
        notify.notified().unwrap();
        assert!(!notify.try_notified());
        let other = notify.clone();
        let fibers = queue_up(&log, 3, move |_| other.notified().unwrap());
        notify.notify_one();
        settle();
        assert_eq!(*log.borrow(), [0]);
        notify.notify_all();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert!(!notify.try_notified());
    });
}

#[test]
fn a_barrier_does_not_count_a_cancelled_waiter() {
    run(|| {
        let barrier = Rc::new(Barrier::new(3));
        let wait = || {
            let barrier = barrier.clone();
            let fiber = spawn(move || barrier.wait());
            settle();
            fiber
        };
        let (first, second) = (wait(), wait());
        second.cancel();
        assert_eq!(second.join().unwrap(), Err(Stopped::Cancelled));
        let third = wait();
        assert!(!first.is_done() && !third.is_done());
        let fourth = wait();
        let results = [first, third, fourth].map(|fiber| fiber.join().unwrap().unwrap());
        assert_eq!(results, [false, false, true]);
        // The next round starts with no arrivals.
        let next = wait();
        assert!(!next.is_done());
        next.cancel();
        let _ = next.join();
    });
}

#[test]
fn the_next_waiter_fills_a_once_cell_when_the_first_one_failed() {
    run(|| {
        let (cell, calls) = (Rc::new(OnceCell::new()), Rc::new(Cell::new(0)));
        let get = |number: u32| {
            let (cell, calls) = (cell.clone(), calls.clone());
            spawn(move || {
                let made = cell.get_or_try_init(|| {
                    calls.set(calls.get() + 1);
                    yield_now()?;
                    match number {
                        0 => Err(Stopped::Deadline),
                        1 => panic!("the second one panics"),
                        _ => Ok(number),
                    }
                });
                made.copied()
            })
        };
        let fibers = [get(0), get(1), get(2), get(3)];
        let [first, second, third, fourth] = fibers.map(JoinHandle::join);
        assert_eq!(first.unwrap(), Err(Stopped::Deadline));
        assert!(matches!(second, Err(JoinError::Panicked(_))));
        assert_eq!((third.unwrap(), fourth.unwrap()), (Ok(2), Ok(2)));
        assert_eq!(calls.get(), 3);
    });
}

#[test]
fn a_panic_unlocks_and_does_not_poison() {
    run(|| {
        let mutex = Rc::new(Mutex::new(1));
        let other = mutex.clone();
        let fiber = spawn(move || {
            *other.lock().unwrap() = 2;
            let _guard = other.lock().unwrap();
            panic!("with the lock");
        });
        assert!(fiber.join().is_err());
        assert_eq!(*mutex.lock().unwrap(), 2);
    });
}

#[test]
fn a_bounded_channel_makes_senders_wait_and_keeps_their_order() {
    run(|| {
        let (log, (sender, receiver)) = (Log::default(), channel(2));
        let fibers = queue_up(&log, 5, move |number| sender.send(number).unwrap());
        assert_eq!(*log.borrow(), [0, 1]);
        assert_eq!(receiver.recv(), Ok(0));
        settle();
        assert_eq!((log.borrow().len(), receiver.len()), (3, 2));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
    });
}

#[test]
fn a_channel_without_capacity_hands_values_over_directly() {
    run(|| {
        let (sender, receiver) = channel(0);
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        let other = sender.clone();
        let fiber = spawn(move || other.send(2));
        settle();
        assert!(!fiber.is_done());
        assert_eq!(receiver.recv(), Ok(2));
        assert_eq!(fiber.join().unwrap(), Ok(()));
        let fiber = spawn(move || receiver.recv());
        settle();
        assert_eq!(sender.try_send(3), Ok(()));
        assert_eq!(fiber.join().unwrap(), Ok(3));
    });
}

#[test]
fn the_closing_of_a_channel_reaches_the_waiters() {
    run(|| {
        let (sender, receiver) = channel(1);
        sender.send(1).unwrap();
        let other = sender.clone();
        let blocked = spawn(move || other.send(2));
        settle();
        receiver.close();
        assert_eq!(blocked.join().unwrap(), Err(SendError::Closed(2)));
        assert_eq!(
            receiver.recv(),
            Ok(1),
            "a value in the channel can be received"
        );
        assert_eq!(receiver.recv(), Err(RecvError::Closed));

        let (sender, receiver) = channel::<u8>(1);
        let waiting = spawn(move || receiver.recv());
        settle();
        drop(sender);
        assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn values_are_dropped_with_the_last_receiver_and_may_use_the_channel() {
    struct Back(Option<Sender<Back>>, Rc<Cell<u32>>);
    impl Drop for Back {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            if let Some(sender) = self.0.take() {
                // The send fails while the channel is being closed.
                let error = sender.send(Back(None, self.1.clone())).unwrap_err();
                assert!(matches!(error, SendError::Closed(_)));
            }
        }
    }
    run(|| {
        let dropped = Rc::new(Cell::new(0));
        let (sender, receiver) = unbounded();
        sender
            .send(Back(Some(sender.clone()), dropped.clone()))
            .unwrap();
        drop(receiver);
        assert_eq!(dropped.get(), 2);
    });
}

#[test]
fn a_cancelled_send_returns_the_value_and_a_cancelled_receive_takes_none() {
    run(|| {
        let (sender, receiver) = channel(1);
        sender.send(1).unwrap();
        let other = sender.clone();
        let blocked = spawn(move || other.send(2));
        settle();
        blocked.cancel();
        let stopped = Stopped::Cancelled;
        assert_eq!(blocked.join().unwrap(), Err(SendError::Stopped(2, stopped)));
        assert_eq!(receiver.recv(), Ok(1));
        let other = receiver.clone();
        let waiting = spawn(move || other.recv());
        settle();
        waiting.cancel();
        settle();
        sender.send(3).unwrap();
        assert_eq!(waiting.join().unwrap(), Err(RecvError::Stopped(stopped)));
        assert_eq!(receiver.try_recv(), Ok(3));
    });
}

#[test]
fn a_timeout_that_meets_a_message_does_not_lose_it() {
    run(|| {
        let (sender, receiver) = channel(1);
        let fiber = spawn(move || {
            let got = timeout(Duration::from_millis(1), || receiver.recv());
            (got, receiver)
        });
        settle();
        // Sends within the tick in which the timeout is due: in either order, the value is not lost.
        let start = now();
        while now().saturating_since(start) < Duration::from_millis(2) {
            std::hint::spin_loop();
            yield_now().unwrap();
            if fiber.is_done() {
                break;
            }
        }
        sender.send(1).unwrap();
        let (got, receiver) = fiber.join().unwrap();
        match got {
            Ok(received) => assert_eq!(received, Ok(1)),
            Err(Elapsed) => assert_eq!(receiver.recv(), Ok(1)),
        }
    });
}

#[test]
fn a_oneshot_delivers_one_value_or_reports_that_there_is_none() {
    run(|| {
        let (sender, receiver) = oneshot();
        let fiber = spawn(move || (receiver.recv(), receiver.recv()));
        settle();
        sender.send(1).unwrap();
        assert_eq!(fiber.join().unwrap(), (Ok(1), Err(RecvError::Closed)));
        let (sender, receiver) = oneshot::<u8>();
        let fiber = spawn(move || receiver.recv());
        settle();
        assert!(!sender.is_closed());
        drop(sender);
        assert_eq!(fiber.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn outside_fibers_a_call_panics_only_if_it_must_wait() {
    let (sender, receiver) = unbounded();
    sender.send(1).unwrap();
    assert_eq!(receiver.recv(), Ok(1));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| receiver.recv()));
    assert!(refused.is_err());
    // The panic has left nothing behind.
    sender.send(2).unwrap();
    assert_eq!(receiver.try_recv(), Ok(2));
}

#[test]
fn a_timers_callback_can_send_and_notify() {
    run(|| {
        let (sender, receiver) = unbounded();
        let timer = Timer::new(move || sender.send("tick").unwrap());
        timer.arm(now());
        assert_eq!(receiver.recv(), Ok("tick"));
    });
}

#[test]
fn a_wait_where_suspension_is_forbidden_panics_and_leaves_its_queue() {
    run(|| {
        let mutex = Rc::new(Mutex::new(()));
        let guard = mutex.lock().unwrap();
        let other = mutex.clone();
        let fiber = spawn(move || no_suspend(|| drop(other.lock())));
        assert!(fiber.join().is_err());
        drop(guard);
        assert!(mutex.try_lock().is_some());
    });
}

#[test]
fn a_refusing_switch_hook_removes_the_waiter_from_the_queue() {
    struct Refuse;
    impl SwitchHook for Refuse {
        fn leave(&self) -> Result<(), &'static str> {
            Err("not now")
        }
        fn enter(&self) {}
    }
    run(|| {
        let (sender, receiver) = channel(1);
        let other = receiver.clone();
        let refused = spawn(move || with_switch_hook(&Refuse, |_| other.recv().is_ok()));
        assert!(refused.join().is_err());
        let selecting = receiver.clone();
        let refused = spawn(move || {
            with_switch_hook(&Refuse, |_| {
                select! { value = recv(selecting) => value.is_ok() }
            })
        });
        assert!(refused.join().is_err());
        sender.send(1).unwrap();
        assert_eq!(receiver.recv(), Ok(1));
    });
}
