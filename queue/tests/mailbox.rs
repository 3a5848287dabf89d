//! Edge cases of the mailbox: a receiver that is gone, iterators that lie or panic, values of unusual size.
#![cfg(not(loom))]

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};
use yue_queue::{Receiver, Sender, mailbox};

static_assertions::assert_impl_all!(Sender<Cell<u8>>: Send, Sync, Clone);
static_assertions::assert_impl_all!(Receiver<Cell<u8>>: Send);
static_assertions::assert_not_impl_any!(Receiver<u8>: Sync, Clone);
static_assertions::assert_not_impl_any!(Sender<Rc<u8>>: Send);
static_assertions::assert_not_impl_any!(Receiver<Rc<u8>>: Send);

#[test]
fn dropping_the_receiver_drops_what_is_queued_at_once() {
    let alive = Arc::new(());
    let (sender, mut receiver) = mailbox();
    sender.push_batch((0..200).map(|_| alive.clone()));
    drop(receiver.pop());
    assert_eq!(Arc::strong_count(&alive), 200);
    drop(receiver);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn values_pushed_after_the_receiver_is_gone_are_dropped_at_once() {
    let alive = Arc::new(());
    let (sender, receiver) = mailbox();
    drop(receiver);
    sender.push(alive.clone());
    sender.push_batch((0..200).map(|_| alive.clone()));
    let other = sender.clone();
    other.push(alive.clone());
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn values_outlive_their_senders() {
    let (sender, mut receiver) = mailbox();
    sender.push_batch(0..100);
    drop(sender);
    let mut taken = Vec::new();
    assert_eq!(receiver.drain(30, |value| taken.push(value)), 30);
    assert_eq!(receiver.drain(usize::MAX, |value| taken.push(value)), 70);
    assert_eq!(taken, (0..100).collect::<Vec<_>>());
    assert_eq!(receiver.drain(usize::MAX, |_| unreachable!()), 0);
}

#[test]
fn a_batch_whose_iterator_panics_leaves_the_queue_usable() {
    let (sender, mut receiver) = mailbox();
    let result = catch_unwind(AssertUnwindSafe(|| {
        sender.push_batch((0..150).map(|i| if i == 70 { panic!("on purpose") } else { i }));
    }));
    assert!(result.is_err());
    sender.push(1000);
    let mut taken = Vec::new();
    receiver.drain(usize::MAX, |value| taken.push(value));
    assert_eq!(taken, (0..70).chain([1000]).collect::<Vec<_>>());
}

#[test]
fn a_receiver_whose_value_panics_in_its_drop_leaves_the_rest_to_the_last_sender() {
    struct Value(Option<Arc<()>>);
    impl Drop for Value {
        fn drop(&mut self) {
            assert!(self.0.is_some(), "on purpose");
        }
    }
    let alive = Arc::new(());
    let (sender, receiver) = mailbox();
    sender.push(Value(None));
    sender.push_batch((0..100).map(|_| Value(Some(alive.clone()))));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(receiver))).is_err());
    drop(sender);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn an_iterator_may_push_to_the_queue_that_it_feeds() {
    let (sender, mut receiver) = mailbox();
    sender.push_batch((0..70).inspect(|i| sender.push(100 + i)));
    let mut taken = Vec::new();
    receiver.drain(usize::MAX, |value| taken.push(value));
    assert_eq!(taken, (0..70).chain(100..170).collect::<Vec<_>>());
}

#[test]
fn values_without_size_and_large_values_pass() {
    let (sender, mut receiver) = mailbox();
    sender.push_batch((0..1000).map(|_| ()));
    assert_eq!(receiver.drain(usize::MAX, |()| ()), 1000);

    let (sender, mut receiver) = mailbox();
    sender.push_batch((0..200).map(|i| [i; 512]));
    let mut next = 0_usize;
    receiver.drain(usize::MAX, |value| {
        assert_eq!(value, [next; 512]);
        next += 1;
    });
    assert_eq!(next, 200);
}
