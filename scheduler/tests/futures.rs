//! Futures in fibers: woken from anywhere, at any time, any number of times.

mod common;

use common::run;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::{join_all, pending, poll_fn};
use std::cell::Cell;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

#[test]
fn a_future_that_is_ready_does_not_suspend() {
    run(|| {
        let before = this_loop::counters().ticks;
        assert_eq!(block_on(ready(5)), Ok(5));
        assert_eq!(this_loop::counters().ticks, before);
    });
    assert!(catch_unwind(|| block_on(ready(5))).is_err());
}

#[test]
fn channels_are_woken_by_fibers_by_callbacks_and_by_other_threads() {
    run(|| {
        let (sender, receiver) = oneshot::channel();
        drop(spawn(move || sender.send(1).unwrap()));
        assert_eq!(block_on(receiver), Ok(Ok(1)));
        let (sender, receiver) = oneshot::channel();
        let slot = Cell::new(Some(sender));
        let timer = Timer::new(move || slot.take().unwrap().send(2).unwrap());
        timer.arm(now());
        assert_eq!(block_on(receiver), Ok(Ok(2)));
        let (sender, receiver) = oneshot::channel();
        let thread = thread::spawn(move || sender.send(3).unwrap());
        assert_eq!(block_on(receiver), Ok(Ok(3)));
        thread.join().unwrap();
    });
}

#[test]
fn no_wake_from_another_thread_is_lost() {
    run(|| {
        const EACH: u32 = 20_000;
        let (sender, receiver) = mpsc::channel(0);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let mut sender = sender.clone();
                thread::spawn(move || {
                    // The sender runs in a fiber of another loop.
                    run(move || {
                        for n in 0..EACH {
                            block_on(poll_fn(|context| sender.poll_ready(context)))
                                .unwrap()
                                .unwrap();
                            sender.start_send(n).unwrap();
                        }
                    })
                })
            })
            .collect();
        drop(sender);
        let sum = block_on(receiver.fold(0_u64, async |sum, n| sum + u64::from(n)));
        assert_eq!(sum, Ok(u64::from(EACH) * u64::from(EACH - 1)));
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn many_wakes_send_one_message() {
    run(|| {
        let (slot, over) = (
            Arc::new(Mutex::new(None::<Waker>)),
            Arc::new(AtomicBool::new(false)),
        );
        let (waker_of, stop) = (slot.clone(), over.clone());
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let storm = thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let waker = waker_of.lock().unwrap().clone();
                if let Some(waker) = waker {
                    for _ in 0..1_000 {
                        waker.wake_by_ref();
                    }
                    count.fetch_add(1_000, Ordering::SeqCst);
                }
            }
        });
        let mut polls = 0_usize;
        let counted = poll_fn(|context| {
            polls += 1;
            *slot.lock().unwrap() = Some(context.waker().clone());
            if polls < 300 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        block_on(counted).unwrap();
        over.store(true, Ordering::SeqCst);
        storm.join().unwrap();
        // After the end nothing more is sent to the loop, and it can wait for other things.
        let waker = slot.lock().unwrap().take().unwrap();
        for _ in 0..1_000 {
            waker.wake_by_ref();
        }
        sleep(SHORT).unwrap();
        assert_eq!(polls, 300);
        assert!(wakes.load(Ordering::SeqCst) >= 1_000);
    });
}

#[test]
fn a_future_that_wakes_itself_blocks_no_fiber_and_can_be_cancelled() {
    run(|| {
        let busy = spawn(|| {
            block_on(poll_fn::<(), _>(|context| {
                context.waker().wake_by_ref();
                Poll::Pending
            }))
        });
        for _ in 0..100 {
            yield_now().unwrap();
        }
        sleep(SHORT).unwrap();
        busy.cancel();
        assert_eq!(busy.join().unwrap(), Err(Stopped::Cancelled));
    });
}

#[test]
fn a_stopped_fiber_drops_the_future_unless_its_result_is_ready() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(|| {
        let dropped = Rc::new(Cell::new(false));
        let held = Dropped(dropped.clone());
        let elapsed = timeout(SHORT, || {
            block_on(async move {
                let _held = held;
                pending::<()>().await
            })
        });
        assert_eq!(elapsed, Err(Elapsed));
        assert!(dropped.get());
        let (sender, receiver) = oneshot::channel();
        let waits = spawn(move || block_on(receiver));
        yield_now().unwrap();
        sender.send(5).unwrap();
        waits.cancel();
        assert_eq!(waits.join().unwrap(), Ok(Ok(5)));
    });
}

#[test]
fn wakers_outlive_the_call_the_fiber_and_the_loop() {
    let kept = Arc::new(Mutex::new(Vec::<Waker>::new()));
    let slot = kept.clone();
    run(move || {
        for _ in 0..100 {
            let slot = slot.clone();
            let fiber = spawn(move || {
                let mut first = true;
                block_on(poll_fn(|context| {
                    slot.lock().unwrap().push(context.waker().clone());
                    if std::mem::replace(&mut first, false) {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                }))
            });
            fiber.join().unwrap().unwrap();
        }
        // The same headers now serve other fibers; none of these waits belongs to the old wakers.
        let sleepers: Vec<_> = (0..50).map(|_| spawn(|| sleep(SHORT))).collect();
        slot.lock().unwrap().iter().for_each(Waker::wake_by_ref);
        sleepers
            .into_iter()
            .for_each(|s| s.join().unwrap().unwrap());
    });
    let wakers = std::mem::take(&mut *kept.lock().unwrap());
    let threads = wakers.into_iter().map(|w| thread::spawn(move || w.wake()));
    threads
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|t| t.join().unwrap());
}

#[test]
fn no_waker_is_left_when_a_call_has_ended() {
    run(|| {
        let (sender, receiver) = oneshot::channel::<()>();
        let count = Arc::new(AtomicUsize::new(0));
        struct Counts(Arc<AtomicUsize>);
        impl Drop for Counts {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        // The future's own state is dropped with it, although its sender keeps the waker.
        let held = Counts(count.clone());
        let stopped = with_deadline(now(), || {
            block_on(async move {
                let _held = held;
                receiver.await
            })
        });
        assert_eq!(stopped, Err(Stopped::Deadline));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(sender.is_canceled());
    });
}

#[test]
fn futures_may_use_fibers_and_nest() {
    run(|| {
        let inner = async {
            // A fiber's own calls, and another block_on, inside a poll.
            sleep(SHORT).unwrap();
            let (sender, receiver) = oneshot::channel();
            drop(spawn(move || sender.send(4).unwrap()));
            block_on(receiver).unwrap().unwrap()
        };
        let all = block_on(join_all([ready(1), ready(2)]));
        assert_eq!((block_on(inner), all), (Ok(4), Ok(vec![1, 2])));
        let panics = catch_unwind(AssertUnwindSafe(|| {
            block_on(async { panic!("on purpose") })
        }));
        assert!(panics.is_err());
        assert_eq!(timeout(LONG, || block_on(ready(6))), Ok(Ok(6)));
    });
}
