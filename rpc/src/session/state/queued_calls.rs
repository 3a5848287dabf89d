//! Queues of encoded calls that wait for a link, or for room in the output.

use crate::session::inherited::Inherited;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use yue_scheduler::Instant;

/// An encoded call or notification, without what only the link decides.
pub(crate) struct QueuedCall {
    /// `None`: a notification.
    pub(crate) id: Option<u32>,
    pub(crate) deadline: Instant,
    /// Method and arguments.
    pub(crate) body: Vec<u8>,
    /// The ids that the call inherits, if there are any.
    pub(crate) inherited: Option<Box<Inherited>>,
    /// References among the arguments: (id, token).
    pub(crate) exports: Vec<(u64, u64)>,
    /// The link of the peer's functions that the call names, if it names any.
    pub(crate) link: Option<u32>,
}

impl QueuedCall {
    /// Whether it is a notification that is dropped when it expires.
    pub(crate) fn expires(&self) -> bool {
        self.id.is_none() && self.deadline != Instant::NEVER
    }
}

/// Queued calls in the order in which they were made.
pub(crate) struct QueuedCalls {
    pub(crate) calls: VecDeque<QueuedCall>,
    pub(crate) bytes: usize,
    /// A lower bound of the first expiry among its notifications.
    next_expiry: Instant,
    /// The number of its calls that were given up.
    pub(crate) dead: usize,
    /// The number of its calls that name functions of the peer.
    naming_imports: usize,
}

impl Default for QueuedCalls {
    fn default() -> Self {
        QueuedCalls {
            calls: VecDeque::new(),
            bytes: 0,
            next_expiry: Instant::NEVER,
            dead: 0,
            naming_imports: 0,
        }
    }
}

/// The cost of a queued call beside its bytes.
pub(crate) const OVERHEAD_BYTES: usize = 64;

impl QueuedCalls {
    pub(crate) fn push(&mut self, call: QueuedCall) {
        self.bytes += call.body.len() + OVERHEAD_BYTES;
        self.naming_imports += usize::from(call.link.is_some());
        if call.expires() {
            self.next_expiry = self.next_expiry.min(call.deadline);
        }
        self.calls.push_back(call);
    }

    /// Removes expired notifications. Scans the queue only if there is one.
    pub(crate) fn take_expired(&mut self, is_past: impl Fn(Instant) -> bool) -> Vec<QueuedCall> {
        let mut expired = Vec::new();
        if !is_past(self.next_expiry) {
            return expired;
        }
        let all = std::mem::take(self);
        self.dead = all.dead;
        for call in all.calls {
            if call.expires() && is_past(call.deadline) {
                expired.push(call);
            } else {
                self.push(call);
            }
        }
        expired
    }

    /// The cost of the queued calls.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueuedCall> {
        self.calls.iter()
    }

    pub(crate) fn pop(&mut self) -> Option<QueuedCall> {
        let call = self.calls.pop_front();
        match &call {
            Some(call) => {
                self.bytes -= call.body.len() + OVERHEAD_BYTES;
                self.naming_imports -= usize::from(call.link.is_some());
            }
            None => *self = QueuedCalls::default(),
        }
        call
    }

    /// Whether a queued call names functions of the peer.
    #[inline]
    pub(crate) fn name_imports(&self) -> bool {
        self.naming_imports != 0
    }
}

/// Messages that wait for room in the output, and the notices that are due.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Timed notifications that wait for room.
    pub(crate) timed: RefCell<QueuedCalls>,
    /// The program wants to be notified when there is room.
    pub(crate) room_wanted: Cell<bool>,
    /// The program has been notified that a notification was dropped, and there has been no room since.
    pub(crate) full_notified: Cell<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn notification(deadline: Instant, length: usize) -> QueuedCall {
        QueuedCall {
            id: None,
            deadline,
            body: vec![0; length],
            inherited: None,
            exports: Vec::new(),
            link: None,
        }
    }

    proptest! {
        #[test]
        fn expired_notifications_are_removed_and_the_rest_keeps_its_order(
            deadlines in prop::collection::vec(prop::option::of(1u64..100), 0..50),
            looks in prop::collection::vec(0u64..110, 1..5),
        ) {
            let deadline = |ms: &Option<u64>| ms.map_or(Instant::NEVER, Instant::from_nanos);
            let mut queue = QueuedCalls::default();
            for (index, ms) in deadlines.iter().enumerate() {
                queue.push(notification(deadline(ms), index));
            }
            let mut latest = 0;
            for look in looks {
                let time = Instant::from_nanos(look);
                let expired = queue.take_expired(|deadline| deadline <= time);
                prop_assert!(expired.iter().all(|call| call.deadline <= time));
                latest = latest.max(look);
            }
            let kept: Vec<usize> = queue.iter().map(|call| call.body.len()).collect();
            let lives = |ms: &&(usize, &Option<u64>)| ms.1.is_none_or(|ms| ms > latest);
            let all: Vec<_> = deadlines.iter().enumerate().collect();
            let expected: Vec<usize> = all.iter().filter(lives).map(|(index, _)| *index).collect();
            let bytes: usize = expected.iter().map(|length| length + OVERHEAD_BYTES).sum();
            prop_assert_eq!(kept, expected);
            prop_assert_eq!(queue.bytes(), bytes);
        }
    }
}
