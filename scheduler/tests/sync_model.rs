//! Random programs of receivers, senders and selects on two channels, against a model.
//!
//! For each channel the model knows its values, and the order in which its fibers came; it settles after each action.
//! When several branches of a select are ready, the model accepts whichever of them was taken, and continues from
//! there.

use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::sync::{Policy, generic, local};
use yue_scheduler::*;

const CHANNELS: usize = 2;

/// One branch: a receive on a channel, or a send of the fiber's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    Receive(usize),
    Send(usize),
}

#[derive(Debug, Clone)]
enum Action {
    /// A fiber that waits for the first of these, with or without a time limit.
    Start {
        offers: Vec<Offer>,
        limited: bool,
    },
    TrySend(usize),
    TryReceive(usize),
    Cancel(usize),
    /// Cancels a fiber and sends a value before the fiber runs.
    CancelAndSend(usize, usize),
    /// Lets the time limits pass.
    Expire,
    Close(usize),
}

/// The outcome of a fiber, or of a `try_` call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    Received(usize, u32),
    Sent(usize),
    Closed(usize),
    Stopped,
}

fn offers() -> impl Strategy<Value = Vec<Offer>> {
    let offer = (any::<bool>(), 0..CHANNELS);
    let offer = offer.prop_map(|(send, channel)| match send {
        true => Offer::Send(channel),
        false => Offer::Receive(channel),
    });
    prop::collection::vec(offer, 1..4)
}

fn action() -> impl Strategy<Value = Action> {
    let channel = 0..CHANNELS;
    prop_oneof![
        8 => (offers(), any::<bool>()).prop_map(|(offers, limited)| Action::Start { offers, limited }),
        3 => channel.clone().prop_map(Action::TrySend),
        3 => channel.clone().prop_map(Action::TryReceive),
        2 => any::<usize>().prop_map(Action::Cancel),
        2 => (any::<usize>(), channel.clone()).prop_map(|(fiber, channel)| Action::CancelAndSend(fiber, channel)),
        1 => Just(Action::Expire),
        1 => channel.prop_map(Action::Close),
    ]
}

#[derive(Debug)]
struct Waiter {
    fiber: usize,
    offers: Vec<Offer>,
    limited: bool,
}

/// The expected state.
#[derive(Debug, Default)]
struct Model {
    buffers: [VecDeque<u32>; CHANNELS],
    capacities: [usize; CHANNELS],
    closed: [bool; CHANNELS],
    waiting: Vec<Waiter>,
    ended: Vec<Option<Ended>>,
}

impl Model {
    /// Removes the first fiber that waits with this offer.
    fn first(&mut self, offer: Offer) -> Option<usize> {
        let index = self
            .waiting
            .iter()
            .position(|waiter| waiter.offers.contains(&offer))?;
        Some(self.waiting.remove(index).fiber)
    }

    fn is_waiting(&self, offer: Offer) -> bool {
        self.waiting
            .iter()
            .any(|waiter| waiter.offers.contains(&offer))
    }

    fn is_ready(&self, offer: Offer) -> bool {
        match offer {
            Offer::Receive(at) => {
                self.closed[at] || !self.buffers[at].is_empty() || self.is_waiting(Offer::Send(at))
            }
            Offer::Send(at) => {
                self.closed[at]
                    || self.buffers[at].len() < self.capacities[at]
                    || self.is_waiting(Offer::Receive(at))
            }
        }
    }

    /// Performs the operation now; `None` if it must wait. `value` is sent.
    fn attempt(&mut self, offer: Offer, value: u32) -> Option<Ended> {
        if !self.is_ready(offer) {
            return None;
        }
        Some(match offer {
            Offer::Receive(at) => {
                let mut value = self.buffers[at].pop_front();
                if let Some(sender) = self.first(Offer::Send(at)) {
                    self.ended[sender] = Some(Ended::Sent(at));
                    self.buffers[at].push_back(sender as u32);
                    value = value.or_else(|| self.buffers[at].pop_front());
                }
                value.map_or(Ended::Closed(at), |value| Ended::Received(at, value))
            }
            Offer::Send(at) if self.closed[at] => Ended::Closed(at),
            Offer::Send(at) => {
                match self.first(Offer::Receive(at)) {
                    Some(receiver) => self.ended[receiver] = Some(Ended::Received(at, value)),
                    None => self.buffers[at].push_back(value),
                }
                Ended::Sent(at)
            }
        })
    }

    fn close(&mut self, at: usize) {
        self.closed[at] = true;
        for offer in [Offer::Receive(at), Offer::Send(at)] {
            while let Some(fiber) = self.first(offer) {
                self.ended[fiber] = Some(Ended::Closed(at));
            }
        }
    }

    fn stop(&mut self, stops: impl Fn(&Waiter) -> bool) {
        for waiter in self.waiting.extract_if(.., |waiter| stops(waiter)) {
            self.ended[waiter.fiber] = Some(Ended::Stopped);
        }
    }
}

type Ends<P> = Rc<Vec<(generic::Sender<P, u32>, generic::Receiver<P, u32>)>>;

/// Runs one fiber of the program: waits for the first of the offers.
fn offer_all<P: Policy>(ends: &Ends<P>, offers: &[Offer], number: u32) -> Ended {
    use yue_scheduler::sync::select::{AnyBranch, Branch, wait};
    let mut pending: Vec<_> = offers.iter().map(|_| Some(number)).collect();
    let (mut receives, mut sends, mut order) = (Vec::new(), Vec::new(), Vec::new());
    for (offer, pending) in offers.iter().zip(&mut pending) {
        match *offer {
            Offer::Receive(at) => {
                order.push((at, Some(receives.len())));
                receives.push(ends[at].1.recv_branch());
            }
            Offer::Send(at) => {
                order.push((at, None));
                sends.push(ends[at].0.send_branch(pending));
            }
        }
    }
    let (mut receiving, mut sending) = (receives.iter(), sends.iter());
    let any: Vec<&dyn AnyBranch> = order
        .iter()
        .map(|(_, receive)| match receive {
            Some(_) => receiving.next().unwrap() as &dyn AnyBranch,
            None => sending.next().unwrap() as &dyn AnyBranch,
        })
        .collect();
    let ended = match wait(&any) {
        Err(_) => Ended::Stopped,
        Ok(taken) => {
            let at = order[taken].0;
            let received = receives.iter().find_map(Branch::take);
            let sent = sends.iter().find_map(Branch::take);
            match (received, sent) {
                (Some(Ok(value)), None) => Ended::Received(at, value),
                (None, Some(Ok(()))) => Ended::Sent(at),
                (Some(Err(_)), None) | (None, Some(Err(_))) => Ended::Closed(at),
                other => panic!("{other:?}"),
            }
        }
    };
    drop(any);
    drop((receives, sends));
    // A value that was not sent is back in its variable; if a send failed because of closing, the error had the value.
    let gone = pending.iter().filter(|value| value.is_none()).count();
    match ended {
        Ended::Stopped | Ended::Received(..) => assert_eq!(gone, 0),
        Ended::Sent(_) => assert_eq!(gone, 1),
        Ended::Closed(_) => assert!(gone <= 1),
    }
    ended
}

/// The loop with its fibers, and the model beside it.
struct World<P: Policy> {
    one: Loop,
    time: Rc<std::cell::Cell<u64>>,
    ends: Ends<P>,
    ended: Rc<RefCell<Vec<Option<Ended>>>>,
    handles: Vec<JoinHandle<()>>,
    model: Model,
    /// The next value that the test itself sends.
    next: u32,
}

const LIMIT: Duration = Duration::from_millis(100);

impl<P: Policy> World<P> {
    fn new(ends: Ends<P>, capacities: [usize; CHANNELS]) -> Self {
        let time = Rc::new(std::cell::Cell::new(0));
        let config = Config {
            clock: Clock::Manual(time.clone()),
            ..Config::default()
        };
        World {
            one: Loop::new(config).unwrap(),
            time,
            ends,
            ended: Rc::default(),
            handles: Vec::new(),
            model: Model {
                capacities,
                ..Model::default()
            },
            next: 1_000_000,
        }
    }

    fn settle(&self) {
        while self.one.tick().unwrap() == Tick::Runnable {}
    }

    fn start(&mut self, offers: Vec<Offer>, limited: bool) {
        let fiber = self.handles.len();
        self.ended.borrow_mut().push(None);
        self.model.ended.push(None);
        let (ends, ended, own) = (self.ends.clone(), self.ended.clone(), offers.clone());
        let body = move || {
            let limit = if limited {
                now().saturating_add(LIMIT)
            } else {
                Instant::NEVER
            };
            let end = with_deadline(limit, || offer_all(&ends, &own, fiber as u32));
            ended.borrow_mut()[fiber] = Some(end);
        };
        self.handles.push(self.one.enter(|| spawn(body)));
        self.settle();
        let real = self.ended.borrow()[fiber].clone();
        // The taken offer, among those that are ready; if none is ready, the fiber waits.
        let taken = offers.iter().find(|offer| match (offer, &real) {
            _ if !self.model.is_ready(**offer) => false,
            (Offer::Receive(at), Some(Ended::Received(took, _))) => at == took,
            (Offer::Send(at), Some(Ended::Sent(took))) => at == took,
            (Offer::Receive(at), Some(Ended::Closed(took))) => {
                at == took && self.model.buffers[*at].is_empty()
            }
            (Offer::Send(at), Some(Ended::Closed(took))) => at == took && self.model.closed[*at],
            _ => false,
        });
        match taken {
            Some(offer) => self.model.ended[fiber] = self.model.attempt(*offer, fiber as u32),
            None => {
                let ready = offers.iter().any(|offer| self.model.is_ready(*offer));
                assert!(!ready, "{offers:?} ended with {real:?} in {:?}", self.model);
                self.model.waiting.push(Waiter {
                    fiber,
                    offers,
                    limited,
                });
            }
        }
    }

    fn try_send(&mut self, at: usize) {
        self.next += 1;
        let value = self.next;
        let sent = self.one.enter(|| self.ends[at].0.try_send(value));
        let real = match sent {
            Ok(()) => Some(Ended::Sent(at)),
            Err(sync::TrySendError::Full(_)) => None,
            Err(sync::TrySendError::Closed(_)) => Some(Ended::Closed(at)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(real, self.model.attempt(Offer::Send(at), value));
    }

    fn try_receive(&mut self, at: usize) {
        let received = self.one.enter(|| self.ends[at].1.try_recv());
        let real = match received {
            Ok(value) => Some(Ended::Received(at, value)),
            Err(sync::TryRecvError::Empty) => None,
            Err(sync::TryRecvError::Closed) => Some(Ended::Closed(at)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(real, self.model.attempt(Offer::Receive(at), 0));
    }

    fn cancel(&mut self, fiber: usize) -> Option<usize> {
        let fiber = fiber.checked_rem(self.handles.len())?;
        self.one.enter(|| self.handles[fiber].cancel());
        Some(fiber)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { offers, limited } => self.start(offers, limited),
            Action::TrySend(at) => self.try_send(at),
            Action::TryReceive(at) => self.try_receive(at),
            Action::Cancel(fiber) => {
                let fiber = self.cancel(fiber);
                self.model.stop(|waiter| Some(waiter.fiber) == fiber);
            }
            Action::CancelAndSend(fiber, at) => {
                let fiber = self.cancel(fiber);
                // The fiber has not noticed yet: it may still be granted the value.
                self.try_send(at);
                self.model.stop(|waiter| Some(waiter.fiber) == fiber);
            }
            Action::Expire => {
                self.time.set(self.time.get() + 2 * LIMIT.as_nanos() as u64);
                self.model.stop(|waiter| waiter.limited);
            }
            Action::Close(at) => {
                self.one.enter(|| self.ends[at].0.close());
                self.model.close(at);
            }
        }
        self.settle();
        assert_eq!(*self.ended.borrow(), self.model.ended);
        for (at, (sender, _)) in self.ends.iter().enumerate() {
            assert_eq!(sender.len(), self.model.buffers[at].len());
        }
    }

    fn run(mut self, actions: Vec<Action>) {
        for action in actions {
            self.act(action);
        }
        // At the end every fiber is cancelled, and only the values in the channels are left, in order.
        self.one
            .enter(|| self.handles.iter().for_each(JoinHandle::cancel));
        self.settle();
        assert_eq!(self.one.counters().fibers, 0);
        for (at, (_, receiver)) in self.ends.iter().enumerate() {
            let left: Vec<_> =
                std::iter::from_fn(|| self.one.enter(|| receiver.try_recv().ok())).collect();
            assert_eq!(VecDeque::from(left), self.model.buffers[at]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn every_wait_on_a_channel_ends_as_the_model_says(
        capacities in prop::array::uniform2(0usize..3),
        actions in prop::collection::vec(action(), 1..40),
        between_loops in any::<bool>(),
    ) {
        if between_loops {
            let ends = capacities.map(sync::channel);
            World::new(Rc::new(ends.into()), capacities).run(actions);
        } else {
            let ends = capacities.map(local::channel);
            World::new(Rc::new(ends.into()), capacities).run(actions);
        }
    }
}
