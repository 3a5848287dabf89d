//! Row 4: messages between threads through an unbounded queue, with one or four producers and one consumer.
//!
//! Every contestant does the same. Producers push numbers as fast as they can. The consumer takes them without
//! blocking, and backs off in the same way for all (it spins, then yields its processor) when there are none. So the
//! row measures the queue and not a way of sleeping. The sum of the received messages is checked. In the batch cases
//! producers push [`BATCH`] numbers at a time and the consumer drains; a queue without such a call gets a loop of
//! single calls, as its user would write. In the cases with ticks producers push single numbers, and the consumer
//! behaves like a loop: it takes all available messages and then has other work for [`TICK`].

use std::ops::Range;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;

use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// Messages at full effort.
const MESSAGES: usize = 4_000_000;
/// Messages per push in the batch cases.
const BATCH: u64 = 64;
/// The duration of the consumer's other work in the cases with ticks.
const TICK: Duration = Duration::from_micros(1);

/// The way in which messages are pushed and taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Singles,
    Batches,
    /// Single messages, taken once per tick.
    Ticks,
}

/// Returns the row.
pub fn row() -> Row {
    let cases = vec![
        case("1 -> 1, single", 1, Manner::Singles),
        case("1 -> 1, batches of 64", 1, Manner::Batches),
        case("4 -> 1, single", 4, Manner::Singles),
        case("4 -> 1, batches of 64", 4, Manner::Batches),
        case("1 -> 1, single, taken each microsecond", 1, Manner::Ticks),
        case("4 -> 1, single, taken each microsecond", 4, Manner::Ticks),
    ];
    Row {
        number: 4,
        title: "mailbox between threads",
        method: "One unit: an 8-byte message from a producer's push to the consumer.",
        cases,
        notes: Vec::new(),
    }
}

fn case(name: &str, producers: u64, manner: Manner) -> Case {
    let mut case = Case::new(name, Unit::time("ns/message"))
        .ours("yue", move |effort| {
            measure::<Yue>(producers, manner, effort)
        })
        .peer("std mpsc", move |effort| {
            measure::<Std>(producers, manner, effort)
        });
    #[cfg(feature = "peers")]
    {
        case = case
            .peer("crossbeam-channel", move |effort| {
                measure::<peers::Crossbeam>(producers, manner, effort)
            })
            .peer("kanal", move |effort| {
                measure::<peers::Kanal>(producers, manner, effort)
            })
            .peer("flume", move |effort| {
                measure::<peers::Flume>(producers, manner, effort)
            });
    }
    let step = match manner {
        Manner::Batches => BATCH as usize,
        Manner::Singles | Manner::Ticks => 1,
    };
    case = case
        .ceiling("bare ring per producer", move |effort| {
            let each = effort.count(MESSAGES) as u64 / producers;
            crate::ceilings::ring::messages(producers, each, step)
        })
        .ceiling("cache line transfer", |effort| {
            Ok(crate::ceilings::ping_pong::cache_line(effort))
        })
        .goal("yue", Against::Absolute, 10.0)
        .goal("yue", Against::EveryPeer, 1.0);
    case
}

/// The operations that the row needs from a queue.
trait Queue {
    type Sender: Clone + Send + 'static;
    type Receiver: Send;
    fn open() -> (Self::Sender, Self::Receiver);
    fn push(sender: &Self::Sender, value: u64);
    fn pop(receiver: &mut Self::Receiver) -> Option<u64>;

    fn push_batch(sender: &Self::Sender, values: Range<u64>) {
        values.for_each(|value| Self::push(sender, value));
    }

    /// Takes all available messages, up to a batch. Returns their number and sum.
    fn drain(receiver: &mut Self::Receiver) -> (u64, u64) {
        let (mut count, mut sum) = (0, 0);
        while count < BATCH
            && let Some(value) = Self::pop(receiver)
        {
            count += 1;
            sum += value;
        }
        (count, sum)
    }
}

fn measure<Q: Queue>(producers: u64, manner: Manner, effort: Effort) -> Result<Sample, Problem> {
    let each = effort.count(MESSAGES) as u64 / producers / BATCH * BATCH;
    let (sender, mut receiver) = Q::open();
    // The same queue is warmed up first, so that its first blocks are allocated.
    run::<Q>(
        &sender,
        &mut receiver,
        producers,
        each / 10 / BATCH * BATCH + BATCH,
        manner,
    )?;
    run::<Q>(&sender, &mut receiver, producers, each, manner)
}

fn run<Q: Queue>(
    sender: &Q::Sender,
    receiver: &mut Q::Receiver,
    producers: u64,
    each: u64,
    manner: Manner,
) -> Result<Sample, Problem> {
    let barrier = Barrier::new(producers as usize + 1);
    let all = producers * each;
    let (elapsed, sum) = std::thread::scope(|scope| {
        for _ in 0..producers {
            let sender = sender.clone();
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                produce::<Q>(&sender, each, manner);
            });
        }
        barrier.wait();
        let start = Instant::now();
        let sum = match manner {
            Manner::Singles => consume::<Q>(receiver, all),
            Manner::Batches => consume_batches::<Q>(receiver, all),
            Manner::Ticks => consume_in_ticks::<Q>(receiver, all),
        };
        (start.elapsed(), sum)
    });
    let expected = producers * (each * (each - 1) / 2);
    if sum != expected {
        return Err(Problem::failed(format!(
            "messages were lost or invented: sum {sum}, not {expected}"
        )));
    }
    Ok(Sample::of(elapsed.as_nanos() as f64 / all as f64))
}

fn produce<Q: Queue>(sender: &Q::Sender, each: u64, manner: Manner) {
    if manner == Manner::Batches {
        for first in (0..each).step_by(BATCH as usize) {
            Q::push_batch(sender, first..first + BATCH);
        }
    } else {
        (0..each).for_each(|value| Q::push(sender, value));
    }
}

fn consume<Q: Queue>(receiver: &mut Q::Receiver, all: u64) -> u64 {
    let backoff = Backoff::new();
    let (mut count, mut sum) = (0, 0);
    while count < all {
        match Q::pop(receiver) {
            Some(value) => {
                count += 1;
                sum += value;
                backoff.reset();
            }
            None => backoff.snooze(),
        }
    }
    sum
}

fn consume_batches<Q: Queue>(receiver: &mut Q::Receiver, all: u64) -> u64 {
    let backoff = Backoff::new();
    let (mut count, mut sum) = (0, 0);
    while count < all {
        match Q::drain(receiver) {
            (0, _) => backoff.snooze(),
            (some, part) => {
                count += some;
                sum += part;
                backoff.reset();
            }
        }
    }
    sum
}

fn consume_in_ticks<Q: Queue>(receiver: &mut Q::Receiver, all: u64) -> u64 {
    let (mut count, mut sum) = (0, 0);
    while count < all {
        let tick = Instant::now();
        loop {
            let (some, part) = Q::drain(receiver);
            count += some;
            sum += part;
            if some < BATCH {
                break;
            }
        }
        while tick.elapsed() < TICK {
            std::hint::spin_loop();
        }
    }
    sum
}

struct Yue;

impl Queue for Yue {
    type Sender = yue_queue::Sender<u64>;
    type Receiver = yue_queue::Receiver<u64>;

    fn open() -> (Self::Sender, Self::Receiver) {
        yue_queue::mailbox()
    }

    fn push(sender: &Self::Sender, value: u64) {
        sender.push(value);
    }

    fn pop(receiver: &mut Self::Receiver) -> Option<u64> {
        receiver.pop()
    }

    fn push_batch(sender: &Self::Sender, values: Range<u64>) {
        sender.push_batch(ExactRange(values));
    }

    fn drain(receiver: &mut Self::Receiver) -> (u64, u64) {
        let mut sum = 0;
        let count = receiver.drain(BATCH as usize, |value| sum += value);
        (count as u64, sum)
    }
}

/// A range of at most [`BATCH`] numbers. `Range<u64>` does not implement `ExactSizeIterator`, since it may exceed
/// `usize`.
struct ExactRange(Range<u64>);

impl Iterator for ExactRange {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for ExactRange {}

struct Std;

impl Queue for Std {
    type Sender = std::sync::mpsc::Sender<u64>;
    type Receiver = std::sync::mpsc::Receiver<u64>;

    fn open() -> (Self::Sender, Self::Receiver) {
        std::sync::mpsc::channel()
    }

    fn push(sender: &Self::Sender, value: u64) {
        sender.send(value).expect("the receiver is alive");
    }

    fn pop(receiver: &mut Self::Receiver) -> Option<u64> {
        receiver.try_recv().ok()
    }
}

#[cfg(feature = "peers")]
mod peers {
    use super::Queue;

    pub struct Crossbeam;

    impl Queue for Crossbeam {
        type Sender = crossbeam_channel::Sender<u64>;
        type Receiver = crossbeam_channel::Receiver<u64>;

        fn open() -> (Self::Sender, Self::Receiver) {
            crossbeam_channel::unbounded()
        }

        fn push(sender: &Self::Sender, value: u64) {
            sender.send(value).expect("the receiver is alive");
        }

        fn pop(receiver: &mut Self::Receiver) -> Option<u64> {
            receiver.try_recv().ok()
        }
    }

    pub struct Kanal;

    /// kanal can drain only into a vector. The vector is reused, as a user would do.
    pub struct KanalReceiver {
        receiver: kanal::Receiver<u64>,
        drained: Vec<u64>,
    }

    impl Queue for Kanal {
        type Sender = kanal::Sender<u64>;
        type Receiver = KanalReceiver;

        fn open() -> (Self::Sender, Self::Receiver) {
            let (sender, receiver) = kanal::unbounded();
            (
                sender,
                KanalReceiver {
                    receiver,
                    drained: Vec::new(),
                },
            )
        }

        fn push(sender: &Self::Sender, value: u64) {
            sender.send(value).expect("the receiver is alive");
        }

        fn pop(receiver: &mut Self::Receiver) -> Option<u64> {
            receiver.receiver.try_recv().ok().flatten()
        }

        fn drain(receiver: &mut Self::Receiver) -> (u64, u64) {
            receiver.drained.clear();
            let count = receiver
                .receiver
                .drain_into(&mut receiver.drained)
                .unwrap_or(0);
            (count as u64, receiver.drained.iter().sum())
        }
    }

    pub struct Flume;

    impl Queue for Flume {
        type Sender = flume::Sender<u64>;
        type Receiver = flume::Receiver<u64>;

        fn open() -> (Self::Sender, Self::Receiver) {
            flume::unbounded()
        }

        fn push(sender: &Self::Sender, value: u64) {
            sender.send(value).expect("the receiver is alive");
        }

        fn pop(receiver: &mut Self::Receiver) -> Option<u64> {
            receiver.try_recv().ok()
        }

        fn drain(receiver: &mut Self::Receiver) -> (u64, u64) {
            receiver
                .drain()
                .fold((0, 0), |(count, sum), value| (count + 1, sum + value))
        }
    }
}
