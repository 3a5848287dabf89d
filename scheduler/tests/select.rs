//! Select: the first ready branch is taken, and the other branches are unchanged.

mod common;

use common::run;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::sync::select::{self, AnyBranch, Branch, Readiness, Signal};
use yue_scheduler::sync::{Closed, local};
use yue_scheduler::*;

fn settle() {
    (0..20).for_each(|_| yield_now().unwrap());
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_first_ready_branch_of_each_kind_is_taken_and_the_others_are_unchanged() {
    run(|| {
        for which in 0..7 {
            let (values, values_in) = local::channel(1);
            let (full, full_in) = local::channel(1);
            full.send(0).unwrap();
            let (answer, question) = local::oneshot();
            let answer = Rc::new(Cell::new(Some(answer)));
            let (notify, permits) = (
                Rc::new(local::Notify::new()),
                Rc::new(local::Semaphore::new(0)),
            );
            let mutex = Rc::new(local::Mutex::new(5));
            let unlock = Rc::new(local::Notify::new());
            let (held, unlock_here) = (mutex.clone(), unlock.clone());
            let holder = spawn(move || {
                let _guard = held.lock().unwrap();
                unlock_here.notified().unwrap();
            });
            settle();
            let gate = Rc::new(local::Notify::new());
            let through = gate.clone();
            let mut handle = spawn(move || through.notified().map(|()| 6));
            let mut pending = Some(1);
            // The event of each round, and the state of the other branches afterwards.
            let (notify_there, permits_there, gate_there) =
                (notify.clone(), permits.clone(), gate.clone());
            let (full_there, sender_there) = (full_in.clone(), values.clone());
            let (unlock_there, answer_there) = (unlock.clone(), answer.clone());
            let come = spawn(move || match which {
                0 => sender_there.send(10).unwrap(),
                1 => drop(full_there.recv()),
                2 => answer_there.take().unwrap().send(12).unwrap(),
                3 => notify_there.notify_one(),
                4 => permits_there.add(2),
                5 => gate_there.notify_one(),
                _ => unlock_there.notify_one(),
            });
            let taken = select! {
                value = recv(values_in) => (value == Ok(10)).then_some(0),
                sent = send(full, pending) => sent.ok().map(|()| 1),
                value = recv(question) => (value == Ok(12)).then_some(2),
                _ = notified(notify) => Some(3),
                permit = acquire(permits, 2) => (permit.count() == 2).then_some(4),
                result = join(handle) => (result.unwrap() == Ok(6)).then_some(5),
                guard = lock(mutex) => (*guard == 5).then_some(6),
                _ = after(LONG) => None,
            };
            assert_eq!(taken, Ok(Some(which)));
            come.join().unwrap();
            assert_eq!(pending, (which != 1).then_some(1));
            settle();
            // The select has left every queue: a later event stays for the next call.
            values.try_send(20).unwrap();
            assert_eq!(values_in.try_recv(), Ok(20));
            notify.notify_one();
            assert!(notify.try_notified());
            permits.add(1);
            assert!(permits.try_acquire(1).is_some());
            assert_eq!(full_in.try_recv(), Ok(u32::from(which == 1)));
            assert!(full_in.try_recv().is_err());
            if which != 6 {
                assert!(mutex.try_lock().is_none());
                unlock.notify_one();
            }
            holder.join().unwrap();
            assert!(mutex.try_lock().is_some());
            if which != 5 {
                gate.notify_one();
                assert_eq!(handle.join().unwrap(), Ok(6));
            }
        }
    });
}

#[test]
fn a_ready_branch_is_taken_without_waiting_and_default_if_none_is_ready() {
    run(|| {
        let (sender, receiver) = local::channel(1);
        let ask = || select! { value = recv(receiver) => value.unwrap(), default => 0 };
        assert_eq!(ask(), Ok(0));
        sender.send(1).unwrap();
        assert_eq!(ask(), Ok(1));
        assert_eq!(ask(), Ok(0));
    });
}

#[test]
fn each_of_several_ready_branches_is_taken_now_and_then() {
    run(|| {
        let channels: Vec<_> = (0..4).map(|_| local::channel(1)).collect();
        let mut taken = [0; 4];
        for _ in 0..400 {
            for (sender, _) in &channels {
                let _ = sender.try_send(());
            }
            let which = select! {
                _ = recv(channels[0].1) => 0,
                _ = recv(channels[1].1) => 1,
                _ = recv(channels[2].1) => 2,
                _ = recv(channels[3].1) => 3,
            };
            taken[which.unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| *count > 40), "{taken:?}");
    });
}

#[test]
fn a_repeated_run_takes_the_same_branches() {
    let run = || {
        run(|| {
            let (first, second) = (local::Semaphore::new(100), local::Semaphore::new(100));
            let which = |_| {
                select! {
                    permit = acquire(first, 1) => { permit.forget(); 'a' }
                    permit = acquire(second, 1) => { permit.forget(); 'b' }
                }
                .unwrap()
            };
            (0..100).map(which).collect::<String>()
        })
    };
    assert_eq!(run(), run());
}

#[test]
fn a_cancelled_select_takes_nothing() {
    run(|| {
        let (sender, receiver) = local::channel(1);
        let notify = Rc::new(local::Notify::new());
        let (other, notified) = (receiver.clone(), notify.clone());
        let fiber = spawn(move || {
            select! {
                value = recv(other) => value.unwrap(),
                _ = notified(notified) => 0,
            }
        });
        settle();
        fiber.cancel();
        settle();
        sender.send(1).unwrap();
        notify.notify_one();
        assert_eq!(fiber.join().unwrap(), Err(Stopped::Cancelled));
        assert_eq!(receiver.try_recv(), Ok(1));
        assert!(notify.try_notified());
    });
}

#[test]
fn a_timer_ends_a_select_and_a_deadline_does_so_as_an_error() {
    run(|| {
        let notify = local::Notify::new();
        let timed = select! {
            _ = notified(notify) => false,
            _ = after(Duration::from_millis(1)) => true,
            _ = after(LONG) => false,
        };
        assert_eq!(timed, Ok(true));
        let elapsed = timeout(
            Duration::from_millis(1),
            || select! { _ = notified(notify) => {} },
        );
        assert_eq!(elapsed, Err(Elapsed));
    });
}

#[test]
fn a_select_does_not_serve_itself() {
    run(|| {
        let (sender, receiver) = local::channel(0);
        let (other_end, other_sender) = (receiver.clone(), sender.clone());
        let both = spawn(move || {
            let mut pending = Some(1);
            select! {
                sent = send(other_sender, pending) => sent.map(|()| 0).unwrap(),
                value = recv(other_end) => value.unwrap(),
            }
        });
        settle();
        assert!(!both.is_done());
        // Another select is at both ends: the two meet, one way or the other.
        let mut pending = Some(2);
        let mine = select! {
            sent = send(sender, pending) => sent.map(|()| 0).unwrap(),
            value = recv(receiver) => value.unwrap(),
        }
        .unwrap();
        let theirs = both.join().unwrap().unwrap();
        assert!(
            (mine, theirs) == (0, 2) || (mine, theirs) == (1, 0),
            "{mine} {theirs}"
        );
    });
}

#[test]
fn a_closed_channel_is_ready() {
    run(|| {
        let (sender, receiver) = local::channel::<u8>(1);
        let waiting = spawn(move || select! { value = recv(receiver) => value });
        settle();
        drop(sender);
        assert_eq!(waiting.join().unwrap(), Ok(Err(Closed)));
        let (sender, receiver) = local::channel(1);
        drop(receiver);
        let mut pending = Some(5);
        let sent = select! { sent = send(sender, pending) => sent }.unwrap();
        assert_eq!(sent.unwrap_err().into_value(), 5);
    });
}

#[test]
fn an_empty_send_and_a_false_condition_never_become_ready() {
    run(|| {
        let (sender, receiver) = local::channel(1);
        let mut nothing: Option<u8> = None;
        sender.send(1).unwrap();
        let taken = select! {
            _ = recv(receiver) if nothing.is_some() => 1,
            _ = send(sender, nothing) => 2,
            _ = after(Duration::ZERO) => 3,
        };
        assert_eq!(taken, Ok(3));
        assert_eq!(receiver.len(), 1);
    });
}

#[test]
fn a_body_can_leave_the_surrounding_code() {
    fn find(receiver: &local::Receiver<u32>) -> Result<u32, Stopped> {
        loop {
            select! {
                value = recv(receiver) => match value {
                    Ok(value) if value > 2 => return Ok(value),
                    Ok(_) => continue,
                    Err(Closed) => break,
                },
                _ = after(LONG) => break,
            }?
        }
        Ok(0)
    }
    run(|| {
        let (sender, receiver) = local::unbounded();
        (0..5).for_each(|n| sender.send(n).unwrap());
        assert_eq!(find(&receiver), Ok(3));
        drop(sender);
        assert_eq!(find(&receiver), Ok(4));
        assert_eq!(find(&receiver), Ok(0));
    });
}

/// Becomes ready when it was raised `after` times; before that its signals wake for nothing.
struct Shy {
    state: Rc<(Cell<u32>, Cell<Option<Signal>>)>,
    after: u32,
}

impl Readiness for Shy {
    type Output = u32;

    fn poll(&mut self) -> Option<u32> {
        let raised = self.state.0.get();
        (raised >= self.after).then_some(raised)
    }

    fn watch(&mut self, signal: Signal) {
        self.state.1.set(Some(signal));
    }

    fn unwatch(&mut self) {
        self.state.1.set(None);
    }
}

#[test]
fn a_foreign_readiness_may_wake_for_nothing() {
    run(|| {
        let state: Rc<(Cell<u32>, Cell<Option<Signal>>)> = Rc::default();
        let (shy, notify) = (state.clone(), local::Notify::new());
        let waiting = spawn(move || {
            select! {
                raised = select::ready(Shy { state: shy, after: 3 }) => raised,
                _ = notified(notify) => 0,
            }
        });
        for raised in 1..=3 {
            settle();
            assert!(!waiting.is_done());
            state.0.set(raised);
            state
                .1
                .take()
                .expect("the select did not watch again")
                .raise();
        }
        assert_eq!(waiting.join().unwrap(), Ok(3));
        assert!(state.1.take().is_none(), "the signal is dropped");
    });
}

#[test]
fn an_unused_outcome_is_handed_on() {
    run(|| {
        let (sender, receiver) = local::channel(1);
        sender.send(1).unwrap();
        let branch = receiver.recv_branch();
        assert_eq!(select::wait(&[&branch]), Ok(0));
        assert_eq!(receiver.len(), 0);
        drop(branch);
        assert_eq!(receiver.try_recv(), Ok(1));

        let branch = receiver.recv_branch();
        let any: [&dyn AnyBranch; 1] = [&branch];
        assert_eq!(select::poll(&any), Ok(None));
        sender.send(2).unwrap();
        assert_eq!(select::wait(&any), Ok(0));
        assert_eq!(select::wait(&any), Ok(0), "the value must still be there");
        assert_eq!((branch.take(), branch.take()), (Some(Ok(2)), None));
        assert_eq!(select::poll(&any), Ok(None), "spent");
    });
}

#[test]
fn a_join_in_a_select_takes_the_result_or_leaves_the_handle() {
    run(|| {
        let notify = Rc::new(local::Notify::new());
        let gate = notify.clone();
        let mut fiber = spawn(move || gate.notified().map(|()| 1));
        for _ in 0..3 {
            let early =
                select! { _ = join(fiber) => true, _ = after(Duration::from_millis(1)) => false };
            assert_eq!(early, Ok(false));
        }
        notify.notify_one();
        let result = select! { result = join(fiber) => result.unwrap().unwrap() };
        assert_eq!(result, Ok(1));
        assert!(fiber.is_done());
        let mut failing = spawn(|| panic!("in the fiber"));
        let failed = select! { result = join(failing) => result.is_err() };
        assert_eq!(failed, Ok(true));
    });
}

#[test]
fn a_plain_thread_can_select_except_on_local_primitives() {
    let (sender, receiver) = sync::channel(1);
    let (timed_out, has_timed_out) = sync::oneshot();
    let thread = std::thread::spawn(move || {
        let got = select! {
            value = recv(receiver) => value.ok(),
            _ = after(Duration::from_millis(1)) => None,
        };
        timed_out.send(got).unwrap();
        select! { value = recv(receiver) => value, _ = after(LONG) => Err(Closed) }
    });
    assert_eq!(has_timed_out.recv(), Ok(Ok(None)));
    sender.send(5).unwrap();
    assert_eq!(thread.join().unwrap(), Ok(Ok(5)));
    let notify = local::Notify::new();
    let wait = std::panic::AssertUnwindSafe(|| select! { _ = notified(notify) => {} });
    assert!(std::panic::catch_unwind(wait).is_err());
}
