//! Several fibers at one receiver, and values that return to a channel that has filled up again.

mod common;

use common::run;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use yue_scheduler::sync::select::{self, Branch};
use yue_scheduler::sync::{self, RecvError, TryRecvError, local};
use yue_scheduler::*;

#[test]
fn one_of_several_oneshot_waiters_gets_the_value_and_the_others_closed() {
    run(|| {
        let (sender, receiver) = local::oneshot();
        let receiver = Rc::new(receiver);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let receiver = receiver.clone();
                spawn(move || receiver.recv())
            })
            .collect();
        yield_now().unwrap();
        sender.send(7).unwrap();
        let got: Vec<_> = waiting
            .into_iter()
            .map(|fiber| fiber.join().unwrap())
            .collect();
        let closed = Err(RecvError::Closed);
        assert_eq!(got, [Ok(7), closed, closed]);
    });
}

#[test]
fn one_of_several_oneshot_waiters_gets_the_value_in_selects_and_threads_too() {
    let (sender, receiver) = sync::oneshot();
    let waiting = run(move || {
        let receiver = Arc::new(receiver);
        let first = receiver.clone();
        let first = spawn(move || first.recv());
        let second = spawn(move || {
            let branch = receiver.recv_branch();
            select::wait(&[&branch]).unwrap();
            branch.take().unwrap().map_err(RecvError::from)
        });
        yield_now().unwrap();
        thread::spawn(move || sender.send(7).unwrap());
        [first.join().unwrap(), second.join().unwrap()]
    });
    assert_eq!(waiting, [Ok(7), Err(RecvError::Closed)]);
}

#[test]
fn a_value_returned_to_a_full_channel_makes_no_room_for_another() {
    run(|| {
        for capacity in [0, 1] {
            let (sender, receiver) = local::channel(capacity);
            let branch = receiver.recv_branch();
            scope(|s| {
                let chosen = s.spawn(|| select::wait(&[&branch]).unwrap());
                yield_now().unwrap();
                sender.send(0).unwrap();
                assert_eq!(chosen.join().unwrap(), 0);
            });
            for value in 0..capacity {
                sender.send(value + 1).unwrap();
            }
            let waits = sender.clone();
            let late = spawn(move || waits.send(9));
            yield_now().unwrap();
            drop(branch);
            assert_eq!(receiver.recv(), Ok(0));
            yield_now().unwrap();
            assert!(
                !late.is_done(),
                "with room for {capacity}, the send ended before its value was received"
            );
            for value in 0..capacity {
                assert_eq!(receiver.recv(), Ok(value + 1));
            }
            assert_eq!(receiver.recv(), Ok(9));
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
            assert!(late.join().unwrap().is_ok());
        }
    });
}
