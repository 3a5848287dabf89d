//! Runs random programs on both queues and on a `VecDeque`, on one thread. They must agree at every step.
#![cfg(not(loom))]

use proptest::prelude::*;
use std::collections::VecDeque;
use yue_queue::{Injector, Receiver, Sender, mailbox};

#[derive(Clone, Debug)]
enum Step {
    Push,
    /// A batch that promises `promised` values and has `real`.
    Batch {
        promised: usize,
        real: usize,
    },
    Pop,
    Drain(usize),
}

/// Steps whose batches are long enough to span a block boundary of 128 slots.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Push),
        2 => (0..200usize).prop_map(|n| Step::Batch { promised: n, real: n }),
        1 => (0..200usize, 0..200usize).prop_map(|(promised, real)| Step::Batch { promised, real }),
        4 => Just(Step::Pop),
        2 => (0..300usize).prop_map(Step::Drain),
    ];
    proptest::collection::vec(step, 0..if cfg!(miri) { 20 } else { 200 })
}

/// An iterator that may lie about its length.
struct Values {
    promised: usize,
    values: std::ops::Range<u64>,
}

impl Iterator for Values {
    type Item = Box<u64>;
    fn next(&mut self) -> Option<Self::Item> {
        self.values.next().map(Box::new)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.promised, Some(self.promised))
    }
}

impl ExactSizeIterator for Values {}

/// The interface that the two queues share. The values are boxes, so that Miri sees a leak or a double drop.
trait Queue {
    fn push(&mut self, value: Box<u64>);
    fn push_batch(&mut self, values: Values);
    fn pop(&mut self) -> Option<Box<u64>>;
    fn is_empty(&self) -> bool;
    fn drain(&mut self, max: usize, taken: &mut Vec<u64>) {
        for _ in 0..max {
            let Some(value) = self.pop() else { break };
            taken.push(*value);
        }
    }
}

impl Queue for (Sender<Box<u64>>, Receiver<Box<u64>>) {
    fn push(&mut self, value: Box<u64>) {
        self.0.push(value);
    }
    fn push_batch(&mut self, values: Values) {
        self.0.push_batch(values);
    }
    fn pop(&mut self) -> Option<Box<u64>> {
        self.1.pop()
    }
    fn is_empty(&self) -> bool {
        self.1.is_empty()
    }
    fn drain(&mut self, max: usize, taken: &mut Vec<u64>) {
        let before = taken.len();
        let count = self.1.drain(max, |value| taken.push(*value));
        assert_eq!(count, taken.len() - before);
    }
}

impl Queue for Injector<Box<u64>> {
    fn push(&mut self, value: Box<u64>) {
        Injector::push(self, value);
    }
    fn push_batch(&mut self, values: Values) {
        Injector::push_batch(self, values);
    }
    fn pop(&mut self) -> Option<Box<u64>> {
        Injector::pop(self)
    }
    fn is_empty(&self) -> bool {
        Injector::is_empty(self)
    }
}

/// Runs the steps on the queue and the model. Values still queued at the end are dropped with the queue.
fn agree(mut queue: impl Queue, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = VecDeque::new();
    let mut next = 0;
    for step in steps {
        match step {
            Step::Push => {
                queue.push(Box::new(next));
                model.push_back(next);
                next += 1;
            }
            Step::Batch { promised, real } => {
                let values = next..next + real as u64;
                next = values.end;
                model.extend(values.clone());
                queue.push_batch(Values { promised, values });
            }
            Step::Pop => prop_assert_eq!(queue.pop().map(|v| *v), model.pop_front()),
            Step::Drain(max) => {
                let mut taken = Vec::new();
                queue.drain(max, &mut taken);
                let expected: Vec<u64> = model.drain(..max.min(model.len())).collect();
                prop_assert_eq!(taken, expected);
            }
        }
        prop_assert_eq!(queue.is_empty(), model.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mailbox_behaves_as_a_deque(steps in steps()) {
        agree(mailbox(), steps)?;
    }

    #[test]
    fn an_injector_behaves_as_a_deque(steps in steps()) {
        agree(Injector::new(), steps)?;
    }
}
