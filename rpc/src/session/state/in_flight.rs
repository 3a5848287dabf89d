//! Calls that wait for their answers: a slab whose slots are the msgids.
//!
//! ```text
//!   msgid   31 ......... 20 19 ................. 0
//!           generation      index into the slots
//! ```
//!
//! An answer finds its caller without hashing. A slot's generation counts its uses, so a late answer meets a slot that
//! belongs to another call by now, and is ignored. Twelve bits of generation wrap soon in a slot that is reused at
//! once. So the slot of a call that was given up after it was written stays reserved (*abandoned*) until its answer
//! arrives, the link is lost, or too many slots are abandoned and the oldest is reused.
//!
//! Invariant: no callback runs while the slab is borrowed; [`InFlight::complete`] returns the callback instead.

use crate::buffer::Response;
use crate::error::{Error, ErrorKind};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use yue_scheduler::{Instant, LocalWaker, Timer};

const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// The maximum number of waiting calls, whatever the limits say.
pub(crate) const SLOTS_MAX: usize = 1 << INDEX_BITS;

/// The number of abandoned slots that are kept: a late answer is mistaken only after this many more abandoned calls.
const ABANDONED_MAX: usize = 16 * 1024;

/// Receives the outcome of a call that no fiber waits for.
pub(crate) type Callback = Box<dyn FnOnce(Result<Response, Error>)>;

/// Receives the answers of a call to many peers, each with its sender; without one, the error with which it ends.
pub(crate) type Each = Rc<dyn Fn(Option<SocketAddr>, Result<Response, Error>)>;

/// The receiver of the outcome.
pub(crate) enum Waiter {
    /// A fiber that is about to park, or has.
    Fiber(Option<LocalWaker>),
    /// A closure, called on the loop.
    Callback(Callback),
    /// A closure, called on the loop for each answer.
    Each(Each),
}

enum State {
    Free,
    Waiting(Waiter),
    Done(Result<Response, Error>),
    Abandoned,
}

struct Slot {
    generation: u32,
    state: State,
    /// Whether the request was sent; if not, it is held and can still be removed.
    written: bool,
    /// For calls with a callback: created once for the slot, armed for each call.
    timer: Option<Timer>,
}

impl Slot {
    fn is_free(&self) -> bool {
        let idle = |timer: &Timer| !timer.is_armed();
        matches!(self.state, State::Free) && self.timer.as_ref().is_none_or(idle)
    }
}

/// The action for a call that has its outcome, to be done once the slab is no longer borrowed.
pub(crate) enum Completed {
    /// No caller waits by that msgid: the outcome is returned.
    Ignored(Result<Response, Error>),
    /// The outcome is in the slab.
    Wake(Option<LocalWaker>),
    /// The closure takes the outcome.
    Run(Callback, Result<Response, Error>),
    /// The closure takes one of the answers, or the end.
    RunEach(Each, Result<Response, Error>),
}

impl Completed {
    /// Notifies the waiter. Returns the outcome if there is none. Not while the slab is borrowed.
    #[inline]
    pub(crate) fn deliver(self) -> Option<Result<Response, Error>> {
        self.deliver_from(None)
    }

    /// Like [`Completed::deliver`], for the answer of that sender.
    #[inline]
    pub(crate) fn deliver_from(
        self,
        sender: Option<SocketAddr>,
    ) -> Option<Result<Response, Error>> {
        match self {
            Completed::Ignored(outcome) => return Some(outcome),
            Completed::Wake(waker) => drop(waker.map(LocalWaker::wake)),
            Completed::Run(callback, outcome) => callback(outcome),
            Completed::RunEach(each, outcome) => each(sender, outcome),
        }
        None
    }
}

/// The calls of one session.
#[derive(Default)]
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u32>,
    abandoned: VecDeque<u32>,
    waiting: usize,
}

impl InFlight {
    /// Calls without an outcome.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Reserves a slot for a call and returns its msgid.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        waiter: Waiter,
        written: bool,
        limit: usize,
    ) -> Result<u32, Error> {
        if self.waiting >= limit.min(SLOTS_MAX - ABANDONED_MAX) {
            let text = format!(
                "{} calls wait for answers on this connection already, the limit; wait for some",
                limit
            );
            return Err(Error::retryable(ErrorKind::MessageRefused, text));
        }
        if self.abandoned.len() > ABANDONED_MAX {
            self.free_oldest_abandoned();
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    state: State::Free,
                    written: false,
                    timer: None,
                });
                self.slots.len() as u32 - 1
            }
        };
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.is_free(), "a call is given a slot that is in use");
        slot.state = State::Waiting(waiter);
        slot.written = written;
        let id = msgid(slot.generation, index);
        self.waiting += 1;
        debug_assert!(self.waiting + self.free.len() <= self.slots.len());
        Ok(id)
    }

    #[cold]
    fn free_oldest_abandoned(&mut self) {
        while let Some(id) = self.abandoned.pop_front() {
            if matches!(
                self.find(id),
                Some(Slot {
                    state: State::Abandoned,
                    ..
                })
            ) {
                self.release(id);
                return;
            }
        }
    }

    #[inline]
    fn find(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots
            .get_mut((id & INDEX_MASK) as usize)
            .filter(|slot| {
                slot.generation == id >> INDEX_BITS
                    || yue_scheduler::planted!("generation not checked")
            })
    }

    fn release(&mut self, id: u32) {
        let index = id & INDEX_MASK;
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.generation, id >> INDEX_BITS, "freed for another call");
        slot.state = State::Free;
        debug_assert!(slot.is_free(), "a free slot's timer is armed");
        // From now on the msgid of the finished call finds nothing.
        slot.generation = (slot.generation + 1) & (u32::MAX >> INDEX_BITS);
        self.free.push(index);
        debug_assert!(
            self.free.len() <= self.slots.len(),
            "a slot was freed twice"
        );
    }

    /// Sets the fiber to wake; `false` if the call has its outcome already, or does not exist.
    #[inline]
    pub(crate) fn set_waker(&mut self, id: u32, waker: LocalWaker) -> bool {
        match self.find(id) {
            Some(Slot {
                state: State::Waiting(Waiter::Fiber(waiting)),
                ..
            }) => {
                *waiting = Some(waker);
                true
            }
            _ => false,
        }
    }

    /// Takes the outcome for a woken fiber, and frees the slot.
    #[inline]
    pub(crate) fn take_outcome(&mut self, id: u32) -> Option<Result<Response, Error>> {
        let slot = self.find(id)?;
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Done(outcome) => {
                self.release(id);
                Some(outcome)
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// Records the outcome of a call.
    #[inline]
    pub(crate) fn complete(&mut self, id: u32, outcome: Result<Response, Error>) -> Completed {
        let Some(slot) = self.find(id) else {
            return Completed::Ignored(outcome);
        };
        // The peer cannot have seen a call that is held back.
        if !slot.written && !matches!(outcome, Err(Error::Local(_))) {
            return Completed::Ignored(outcome);
        }
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Waiting(Waiter::Fiber(waker)) => {
                // The slot stays until the fiber has run and taken the outcome; a second answer is ignored then.
                slot.state = State::Done(outcome);
                debug_assert!(self.waiting != 0);
                self.waiting -= 1;
                Completed::Wake(waker)
            }
            State::Waiting(Waiter::Callback(callback)) => {
                if let Some(timer) = &slot.timer {
                    timer.cancel();
                }
                debug_assert!(self.waiting != 0);
                self.waiting -= 1;
                self.release(id);
                Completed::Run(callback, outcome)
            }
            State::Waiting(Waiter::Each(each)) => {
                if !matches!(outcome, Err(Error::Local(_))) {
                    // An answer; others may follow.
                    slot.state = State::Waiting(Waiter::Each(each.clone()));
                    return Completed::RunEach(each, outcome);
                }
                if let Some(timer) = &slot.timer {
                    timer.cancel();
                }
                debug_assert!(self.waiting != 0);
                self.waiting -= 1;
                self.release(id);
                Completed::RunEach(each, outcome)
            }
            // Its id stays in `abandoned`, where it finds nothing any more: the generation has changed.
            State::Abandoned => {
                self.release(id);
                Completed::Ignored(outcome)
            }
            other => {
                slot.state = other;
                Completed::Ignored(outcome)
            }
        }
    }

    /// Gives a waiting call up: its answer will be ignored. Returns whether it had been written, or `None` if it was no
    /// longer waiting.
    pub(crate) fn abandon(&mut self, id: u32) -> Option<(bool, Waiter)> {
        let slot = self.find(id)?;
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Waiting(waiter) => {
                let written = slot.written;
                if let Some(timer) = &slot.timer {
                    timer.cancel();
                }
                if written {
                    slot.state = State::Abandoned;
                    self.abandoned.push_back(id);
                } else {
                    // The peer has never seen this msgid, so no answer to it can arrive.
                    self.release(id);
                }
                debug_assert!(self.waiting != 0);
                self.waiting -= 1;
                Some((written, waiter))
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// Removes a call that was never sent, as if it had not been made.
    pub(crate) fn take_back(&mut self, id: u32) {
        if self
            .find(id)
            .is_some_and(|slot| matches!(slot.state, State::Waiting(_)))
        {
            self.waiting -= 1;
            self.release(id);
        }
    }

    /// Marks a held call as written; `false` if no caller waits for it any more.
    pub(crate) fn mark_written(&mut self, id: u32) -> bool {
        match self.find(id) {
            Some(slot) if matches!(slot.state, State::Waiting(_)) => {
                debug_assert!(!slot.written, "a held call is written twice");
                slot.written = true;
                true
            }
            _ => false,
        }
    }

    /// Whether the call takes the answers of many peers.
    pub(crate) fn takes_many(&mut self, id: u32) -> bool {
        self.find(id)
            .is_some_and(|slot| matches!(slot.state, State::Waiting(Waiter::Each(_))))
    }

    /// Whether a caller waits for that call.
    pub(crate) fn is_waiting(&mut self, id: u32) -> bool {
        self.find(id)
            .is_some_and(|slot| matches!(slot.state, State::Waiting(_)))
    }

    /// The timer of a call's slot, created by `make` (which receives the index) at the slot's first use with a
    /// callback.
    pub(crate) fn timer(&mut self, id: u32, make: impl FnOnce(u32) -> Timer) -> Option<&Timer> {
        let slot = self.find(id)?;
        Some(slot.timer.get_or_insert_with(|| make(id & INDEX_MASK)))
    }

    /// The call that occupies slot `index` now.
    pub(crate) fn id_at(&self, index: u32) -> Option<u32> {
        self.slots
            .get(index as usize)
            .map(|slot| msgid(slot.generation, index))
    }

    /// Passes each call that waits, with its receiver and the time of its timer, to `f`.
    pub(crate) fn each_waiting(&self, mut f: impl FnMut(u32, &Waiter, Option<Instant>)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let State::Waiting(waiter) = &slot.state {
                let until = slot.timer.as_ref().and_then(Timer::deadline);
                f(msgid(slot.generation, index as u32), waiter, until);
            }
        }
    }

    /// The ids of the calls that were written and wait, or of all that wait; abandoned slots are freed.
    pub(crate) fn drain_ids(&mut self, only_written: bool) -> Vec<u32> {
        while !self.abandoned.is_empty() {
            self.free_oldest_abandoned();
        }
        let waits = |slot: &Slot| {
            matches!(slot.state, State::Waiting(_)) && (slot.written || !only_written)
        };
        let waiting = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| waits(slot));
        waiting
            .map(|(index, slot)| msgid(slot.generation, index as u32))
            .collect()
    }
}

#[inline]
fn msgid(generation: u32, index: u32) -> u32 {
    generation << INDEX_BITS | index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Segment;

    fn answer() -> Result<Response, Error> {
        Ok(Response::new(Segment::new(vec![1], None), 0..1, 1))
    }

    fn call(calls: &mut InFlight) -> u32 {
        calls.insert(Waiter::Fiber(None), true, 100).unwrap()
    }

    #[test]
    fn a_late_answer_never_meets_another_call() {
        let mut calls = InFlight::default();
        let given_up = call(&mut calls);
        assert!(calls.abandon(given_up).unwrap().0);
        for _ in 0..10_000 {
            let id = call(&mut calls);
            assert_ne!(id, given_up);
            let _ = calls.complete(id, answer()).deliver();
            assert!(calls.take_outcome(id).is_some());
        }
        assert!(matches!(
            calls.complete(given_up, answer()),
            Completed::Ignored(_)
        ));
    }

    #[test]
    fn a_repeated_answer_never_meets_the_next_call_in_its_slot() {
        let mut calls = InFlight::default();
        let answered = call(&mut calls);
        let _ = calls.complete(answered, answer()).deliver();
        assert!(calls.take_outcome(answered).is_some());
        let waiting = call(&mut calls);
        assert_eq!(waiting & INDEX_MASK, answered & INDEX_MASK);
        assert!(matches!(
            calls.complete(answered, answer()),
            Completed::Ignored(_)
        ));
        assert!(calls.take_outcome(answered).is_none() && calls.is_waiting(waiting));
    }

    #[test]
    fn an_answer_to_a_call_that_was_not_written_is_ignored() {
        let mut calls = InFlight::default();
        let id = calls.insert(Waiter::Fiber(None), false, 100).unwrap();
        assert!(matches!(
            calls.complete(id, answer()),
            Completed::Ignored(_)
        ));
        assert!(calls.take_outcome(id).is_none());
        assert!(calls.mark_written(id));
        let _ = calls.complete(id, answer()).deliver();
        assert!(calls.take_outcome(id).is_some());
        // It may fail on this side, though.
        let id = calls.insert(Waiter::Fiber(None), false, 100).unwrap();
        let lost = Error::new(ErrorKind::ConnectionLost, "lost");
        let _ = calls.complete(id, Err(lost)).deliver();
        assert!(calls.take_outcome(id).is_some());
    }

    #[test]
    fn the_oldest_abandoned_slot_is_freed_when_there_are_too_many() {
        let mut calls = InFlight::default();
        for _ in 0..3 * ABANDONED_MAX {
            let id = call(&mut calls);
            calls.abandon(id);
        }
        assert!(calls.slots.len() <= ABANDONED_MAX + 2);
        assert_eq!(calls.waiting(), 0);
    }

    #[test]
    fn the_limit_refuses_the_next_call_until_one_ends() {
        let mut calls = InFlight::default();
        let first = call(&mut calls);
        (1..100).for_each(|_| assert_ne!(call(&mut calls), first));
        let refused = calls.insert(Waiter::Fiber(None), true, 100).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MessageRefused);
        let _ = calls.complete(first, answer()).deliver();
        call(&mut calls);
    }

    #[test]
    fn unknown_msgids_are_ignored() {
        let mut calls = InFlight::default();
        for id in [0, 1, u32::MAX] {
            assert!(matches!(
                calls.complete(id, answer()),
                Completed::Ignored(_)
            ));
            assert!(calls.take_outcome(id).is_none() && calls.abandon(id).is_none());
        }
    }
}
