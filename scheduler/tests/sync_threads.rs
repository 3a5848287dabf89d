//! Plain threads and fibers of several loops on the same primitives. The parts without fibers run under Miri too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
#[cfg(not(miri))]
use std::{cell::Cell, rc::Rc, sync::Arc, sync::atomic::AtomicU32};
use yue_scheduler::select;
use yue_scheduler::sync::*;
#[cfg(not(miri))]
use yue_scheduler::{Clock, Config, JoinHandle, Loop, Stopped, now, spawn, timeout, yield_now};

const ROUNDS: u64 = if cfg!(miri) { 20 } else { 20_000 };

/// Runs `work` on `count` plain threads.
fn threads<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn threads_share_a_mutex() {
    let total = Mutex::new(0);
    threads(3, |_| (0..ROUNDS).for_each(|_| *total.lock().unwrap() += 1));
    assert_eq!(total.into_inner(), 3 * ROUNDS);
}

#[test]
fn threads_read_and_write() {
    let pair = RwLock::new((0, 0));
    threads(3, |number| {
        for round in 0..ROUNDS {
            if (round + number) % 3 == 0 {
                let mut pair = pair.write().unwrap();
                pair.0 += 1;
                pair.1 += 1;
            } else {
                let pair = pair.read().unwrap();
                assert_eq!(pair.0, pair.1);
            }
        }
    });
}

#[test]
fn threads_take_permits_of_all_sizes() {
    let (permits, taken) = (Semaphore::new(4), AtomicU64::new(0));
    threads(4, |number| {
        for round in 0..ROUNDS / 4 {
            let count = (number + round) % 4 + 1;
            let permit = permits.acquire(count as usize).unwrap();
            assert!(taken.fetch_add(count, Ordering::Relaxed) + count <= 4);
            taken.fetch_sub(count, Ordering::Relaxed);
            drop(permit);
        }
    });
    assert_eq!(permits.available(), 4);
}

#[test]
fn threads_pass_values_through_channels_of_all_sizes() {
    for capacity in [Some(0), Some(1), Some(64), None] {
        let (sender, receiver) = match capacity {
            Some(capacity) => channel(capacity),
            None => unbounded(),
        };
        let sums = thread::scope(|scope| {
            for _ in 0..2 {
                let sender = sender.clone();
                scope.spawn(move || (1..=ROUNDS / 4).for_each(|n| sender.send(n).unwrap()));
            }
            drop(sender);
            let receive = |_| {
                let receiver = receiver.clone();
                scope.spawn(move || receiver.iter().sum::<u64>())
            };
            let receivers: Vec<_> = (0..2).map(receive).collect();
            receivers
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u64>()
        });
        assert_eq!(sums, (1..=ROUNDS / 4).sum::<u64>() * 2);
    }
}

#[test]
fn threads_select_and_give_up_at_any_moment_without_a_loss() {
    let (one, one_in) = channel(1);
    let (two, two_in) = channel(0);
    let received = AtomicU64::new(0);
    thread::scope(|scope| {
        for sender in [one, two] {
            scope.spawn(move || (1..=ROUNDS / 4).for_each(|n| sender.send(n).unwrap()));
        }
        for _ in 0..2 {
            let (one_in, two_in, received) = (one_in.clone(), two_in.clone(), &received);
            scope.spawn(move || {
                let (mut one_open, mut two_open) = (true, true);
                while one_open || two_open {
                    select! {
                        value = recv(one_in) if one_open => match value {
                            Ok(value) => drop(received.fetch_add(value, Ordering::Relaxed)),
                            Err(Closed) => one_open = false,
                        },
                        value = recv(two_in) if two_open => match value {
                            Ok(value) => drop(received.fetch_add(value, Ordering::Relaxed)),
                            Err(Closed) => two_open = false,
                        },
                        _ = after(Duration::from_micros(1)) => {}
                    }
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(received.into_inner(), (1..=ROUNDS / 4).sum::<u64>() * 2);
}

#[test]
fn threads_meet_at_a_barrier_round_after_round() {
    let (barrier, arrived) = (Barrier::new(3), AtomicU64::new(0));
    let led = threads(3, |_| {
        (1..=ROUNDS / 20)
            .map(|round| {
                arrived.fetch_add(1, Ordering::Relaxed);
                let last = barrier.wait().unwrap();
                assert!(arrived.load(Ordering::Relaxed) >= 3 * round);
                u64::from(last)
            })
            .sum::<u64>()
    });
    assert_eq!(led.into_iter().sum::<u64>(), ROUNDS / 20);
}

#[test]
fn threads_wait_for_a_condition() {
    let (turn, changed) = (Mutex::new(0), Condvar::new());
    threads(3, |number| {
        for round in 0..ROUNDS / 20 {
            let mut turn = changed
                .wait_while(turn.lock().unwrap(), |turn| *turn != round * 3 + number)
                .unwrap();
            *turn += 1;
            changed.notify_all();
        }
    });
    assert_eq!(turn.into_inner(), ROUNDS / 20 * 3);
}

#[test]
fn threads_reply_to_each_other_through_oneshots() {
    let (questions, questions_in) = channel::<(u64, OneshotSender<u64>)>(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            for (n, answer) in &questions_in {
                answer.send(n * n).unwrap();
            }
        });
        for n in 0..ROUNDS / 10 {
            let (answer, answered) = oneshot();
            questions.send((n, answer)).unwrap();
            assert_eq!(answered.recv(), Ok(n * n));
        }
        drop(questions);
    });
}

/// Runs `main` as the main fiber of loops on new threads.
#[cfg(not(miri))]
fn loops<T: Send + 'static>(count: u32, main: impl Fn(u32) -> T + Send + Sync + 'static) -> Vec<T> {
    let main = Arc::new(main);
    let start = |number| {
        let main = main.clone();
        thread::spawn(move || {
            Loop::new(Config::default())
                .unwrap()
                .run(move || main(number))
        })
    };
    let threads: Vec<_> = (0..count).map(start).collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

#[test]
#[cfg(not(miri))]
fn fibers_of_two_loops_and_a_thread_share_everything() {
    const FIBERS: u64 = 8;
    static TOTAL: Mutex<u64> = Mutex::new(0);
    static PERMITS: Semaphore = Semaphore::new(3);
    let (sender, receiver) = channel(4);
    let thread = {
        let receiver = receiver.clone();
        thread::spawn(move || receiver.iter().count() as u64)
    };
    let received = loops(2, move |_| {
        let fibers: Vec<_> = (0..FIBERS)
            .map(|_| {
                let sender = sender.clone();
                spawn(move || {
                    for n in 0..ROUNDS / 20 {
                        let _permit = PERMITS.acquire(1).unwrap();
                        *TOTAL.lock().unwrap() += 1;
                        sender.send(n).unwrap();
                    }
                })
            })
            .collect();
        let mut received = 0;
        let mut done = 0;
        // This loop has both ends of the channel: the main fiber receives some of the values that all send.
        for mut fiber in fibers {
            loop {
                select! {
                    _ = join(fiber) => break,
                    value = recv(receiver) => received += u64::from(value.is_ok()),
                }
                .unwrap();
            }
            done += 1;
        }
        assert_eq!(done, FIBERS);
        received
    });
    // The loops have ended, and their senders with them.
    let received = received.into_iter().sum::<u64>() + thread.join().unwrap();
    assert_eq!(received, 2 * FIBERS * (ROUNDS / 20));
    assert_eq!(*TOTAL.lock().unwrap(), 2 * FIBERS * (ROUNDS / 20));
    assert_eq!(PERMITS.available(), 3);
}

#[test]
#[cfg(not(miri))]
fn cancels_and_deadlines_between_loops_lose_nothing() {
    let (sender, receiver) = channel::<u64>(2);
    let (given, notify) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let notifier = notify.clone();
    let took = loops(2, {
        let given = given.clone();
        move |number| {
            if number == 0 {
                for n in 1..=ROUNDS / 10 {
                    sender.send(n).unwrap();
                    yield_now().unwrap();
                }
                sender.close();
                notifier.notify_one();
                return 0;
            }
            // Receives with almost no patience, and cancels its own receivers now and then.
            let mut sum = 0;
            let mut round = 0;
            while !(receiver.is_closed() && receiver.is_empty()) {
                round += 1;
                let other = receiver.clone();
                let fiber =
                    spawn(move || timeout(Duration::from_micros(round % 7), || other.recv()));
                if round % 3 == 0 {
                    yield_now().unwrap();
                    fiber.cancel();
                }
                match fiber.join().unwrap() {
                    Ok(Ok(value)) => {
                        given.fetch_add(1, Ordering::Relaxed);
                        sum += value;
                    }
                    Ok(Err(RecvError::Closed | RecvError::Stopped(Stopped::Cancelled)))
                    | Err(_) => {}
                    Ok(Err(other)) => panic!("{other}"),
                }
            }
            notify.notified().unwrap();
            sum
        }
    });
    assert_eq!(u64::from(given.load(Ordering::Relaxed)), ROUNDS / 10);
    assert_eq!(took[1], (1..=ROUNDS / 10).sum::<u64>());
}

/// A fiber of one loop waits. Then, in one tick and before the fiber runs, it is stopped, and granted a value by
/// another thread, whose wake-up is still in the loop's inbox. `stop` gets the loop's clock.
#[cfg(not(miri))]
fn stop_and_grant_in_one_tick<T: 'static>(
    wait: impl FnOnce(Receiver<u32>) -> T + 'static,
    stop: impl FnOnce(&JoinHandle<T>, &Cell<u64>) + 'static,
) -> T {
    let time = Rc::new(Cell::new(0));
    let config = Config {
        clock: Clock::Manual(time.clone()),
        ..Config::default()
    };
    Loop::new(config).unwrap().run(move || {
        let (sender, receiver) = channel(1);
        let fiber = spawn(move || wait(receiver));
        (0..20).for_each(|_| yield_now().unwrap());
        stop(&fiber, &time);
        let given = thread::spawn(move || sender.send(1));
        given.join().unwrap().unwrap();
        fiber.join().unwrap()
    })
}

#[test]
#[cfg(not(miri))]
fn a_value_from_another_thread_is_taken_although_a_cancellation_is_seen_first() {
    let wait = |receiver: Receiver<u32>| {
        let received = receiver.recv();
        (received, receiver.recv())
    };
    let (first, second) = stop_and_grant_in_one_tick(wait, |fiber, _| fiber.cancel());
    assert_eq!(first, Ok(1));
    assert_eq!(second, Err(RecvError::Stopped(Stopped::Cancelled)));
}

#[test]
#[cfg(not(miri))]
fn a_timeout_does_not_drop_a_value_from_another_thread() {
    let limit = Duration::from_secs(1);
    let wait = move |receiver: Receiver<u32>| timeout(limit, || receiver.recv());
    // The tick that notices the time makes the fiber runnable, behind the main fiber, which already was.
    let expire = move |_: &JoinHandle<_>, time: &Cell<u64>| {
        time.set(2 * limit.as_nanos() as u64);
        while now().as_nanos() == 0 {
            yield_now().unwrap();
        }
    };
    assert_eq!(stop_and_grant_in_one_tick(wait, expire), Ok(Ok(1)));
}
