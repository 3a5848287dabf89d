//! Random programs of waits, wakes, cancellations, scopes, shields and deadlines, checked against a small model.
//!
//! Time is virtual and stands still while the loop settles, so the model must explain every order of events between two
//! settles: a wake after the cancellation, a deadline and a wake at once, a waker of an earlier wait.

use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::*;

/// One unit of virtual time: a whole number of the timer wheel's ticks.
const UNIT: u64 = 1 << 20;
const FIBERS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Park {
        limit: Option<u64>,
    },
    ParkHard,
    Sleep {
        units: u64,
    },
    Yield,
    Scope,
    Shield,
    Timeout {
        units: u64,
    },
    /// Leaves the innermost scope, shield or timeout, or ends the program.
    Leave,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Wake { which: usize, remote: bool },
    Cancel { fiber: usize, inside: bool },
    CancelScope { which: usize, inside: bool },
    ResetScope { which: usize },
    Advance { units: u64 },
    Settle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Wait(Result<Wakeup, Stopped>),
    Yielded(Result<(), Stopped>),
    Timeout(Result<(), Elapsed>),
}

type Log = Vec<(usize, Outcome, u64)>;

fn program() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::option::of(0u64..6).prop_map(|limit| Step::Park { limit }),
        1 => Just(Step::ParkHard),
        2 => (0u64..4).prop_map(|units| Step::Sleep { units }),
        1 => Just(Step::Yield),
        1 => Just(Step::Scope),
        1 => Just(Step::Shield),
        2 => (0u64..6).prop_map(|units| Step::Timeout { units }),
        2 => Just(Step::Leave),
    ];
    prop::collection::vec(step, 1..16)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, remote)| Action::Wake { which, remote }),
        1 => (0..FIBERS, any::<bool>()).prop_map(|(fiber, inside)| Action::Cancel { fiber, inside }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, inside)| Action::CancelScope { which, inside }),
        1 => any::<usize>().prop_map(|which| Action::ResetScope { which }),
        3 => (1u64..3).prop_map(|units| Action::Advance { units }),
        4 => Just(Action::Settle),
    ]
}

/// State shared between a fiber under test and the test.
struct Subject {
    steps: Vec<Step>,
    at: Cell<usize>,
    scopes: Vec<CancelScope>,
    wakers: Rc<RefCell<Vec<(usize, usize, LocalWaker)>>>,
    number: usize,
    waits: Cell<usize>,
    log: RefCell<Log>,
}

impl Subject {
    fn note(&self, at: usize, outcome: Outcome) {
        let log = (at, outcome, now().as_nanos() / UNIT);
        self.log.borrow_mut().push(log);
    }

    fn begin_wait(&self) {
        let waker = prepare_park();
        self.waits.set(self.waits.get() + 1);
        let entry = (self.number, self.waits.get(), waker);
        self.wakers.borrow_mut().push(entry);
    }

    fn run(&self) {
        while let Some(&step) = self.steps.get(self.at.get()) {
            let at = self.at.replace(self.at.get() + 1);
            match step {
                Step::Park { limit } => {
                    self.begin_wait();
                    let limit = limit.map(|units| Instant::from_nanos(units * UNIT));
                    self.note(at, Outcome::Wait(park_until("park", limit)));
                }
                Step::ParkHard => {
                    self.begin_wait();
                    park_uninterruptible("hard");
                    self.note(at, Outcome::Wait(Ok(Wakeup::Woken)));
                }
                Step::Sleep { units } => {
                    let slept = sleep(Duration::from_nanos(units * UNIT));
                    self.note(at, Outcome::Wait(slept.map(|()| Wakeup::TimedOut)));
                }
                Step::Yield => self.note(at, Outcome::Yielded(yield_now())),
                Step::Scope => self.scopes[at].enter(|| self.run()),
                Step::Shield => shield(|| self.run()),
                Step::Timeout { units } => {
                    let ended = timeout(Duration::from_nanos(units * UNIT), || self.run());
                    self.note(at, Outcome::Timeout(ended));
                }
                Step::Leave => return,
            }
        }
    }
}

enum Frame {
    Scope(usize),
    Shield,
    Timeout { step: usize, at: u64, refused: bool },
}

/// The current wait of a fiber in the model.
struct Waiting {
    limit: Option<u64>,
    /// The limit as the program gave it; it may have passed already.
    given: Option<u64>,
    interruptible: bool,
    /// Counted as the subject counts; 0 for a sleep, which has no waker.
    number: usize,
    woken: bool,
    /// Woken by a waker on its loop. A wake from another thread is under way until the next tick.
    known: bool,
}

#[derive(Default)]
struct Model {
    at: usize,
    frames: Vec<Frame>,
    waiting: Option<Waiting>,
    waits: usize,
    cancelled: bool,
    scopes: Vec<bool>,
    log: Log,
}

impl Model {
    /// Returns why the fiber is stopped, and which timeout reports it.
    fn stopped(&self, now: u64) -> Option<(Stopped, Option<usize>)> {
        let mut earliest: Option<(u64, usize)> = None;
        let mut shielded = false;
        for (index, frame) in self.frames.iter().enumerate().rev() {
            match *frame {
                Frame::Scope(step) if self.scopes[step] => return Some((Stopped::Cancelled, None)),
                Frame::Timeout { at, .. } if earliest.is_none_or(|(other, _)| at <= other) => {
                    earliest = Some((at, index));
                }
                Frame::Shield => {
                    shielded = true;
                    break;
                }
                _ => {}
            }
        }
        if self.cancelled && !shielded {
            return Some((Stopped::Cancelled, None));
        }
        let (at, index) = earliest?;
        (at <= now).then_some((Stopped::Deadline, Some(index)))
    }

    fn refuse(&mut self, now: u64) -> Option<Stopped> {
        let (reason, frame) = self.stopped(now)?;
        if let Some(Frame::Timeout { refused, .. }) = frame.map(|index| &mut self.frames[index]) {
            *refused = true;
        }
        Some(reason)
    }

    /// A cancellation has made the fiber runnable: it checks its limit when it runs, though the cancellation may be
    /// cleared by then.
    fn recheck_limit(&mut self, now: u64) {
        let stopped = self.stopped(now).is_some();
        if let Some(wait) = self.waiting.as_mut().filter(|wait| wait.interruptible)
            && stopped
        {
            wait.limit = wait.given;
        }
    }

    /// Returns how the current wait ends at `now`, if it does.
    fn end_of_wait(&mut self, now: u64) -> Option<Result<Wakeup, Stopped>> {
        let wait = self.waiting.as_ref()?;
        let (limit, interruptible) = (wait.limit, wait.interruptible);
        if wait.woken {
            return Some(Ok(Wakeup::Woken));
        }
        if interruptible && let Some(reason) = self.refuse(now) {
            return Some(Err(reason));
        }
        (limit? <= now).then_some(Ok(Wakeup::TimedOut))
    }

    fn wait(&mut self, limit: Option<u64>, interruptible: bool, has_waker: bool, now: u64) {
        self.waits += usize::from(has_waker);
        self.waiting = Some(Waiting {
            // A limit that has passed is kept until the next tick.
            limit: limit.map(|at| at.max(now + 1)),
            given: limit,
            interruptible,
            number: if has_waker { self.waits } else { 0 },
            woken: false,
            known: false,
        });
    }

    fn leave(&mut self, now: u64) -> bool {
        let Some(frame) = self.frames.pop() else {
            return false;
        };
        if let Frame::Timeout { step, refused, .. } = frame {
            let ended = if refused { Err(Elapsed) } else { Ok(()) };
            self.log.push((step, Outcome::Timeout(ended), now));
        }
        true
    }

    /// Runs the fiber as long as it can run.
    fn settle(&mut self, steps: &[Step], now: u64) {
        loop {
            if self.waiting.is_some() {
                let Some(end) = self.end_of_wait(now) else {
                    return;
                };
                self.waiting = None;
                self.log.push((self.at - 1, Outcome::Wait(end), now));
            }
            let Some(&step) = steps.get(self.at) else {
                while self.leave(now) {}
                return;
            };
            self.at += 1;
            match step {
                Step::Park { limit } => self.wait(limit, true, true, now),
                Step::ParkHard => self.wait(None, false, true, now),
                Step::Sleep { units } => self.wait(Some(now + units), true, false, now),
                Step::Yield => {
                    let end = self.refuse(now).map_or(Ok(()), Err);
                    self.log.push((self.at - 1, Outcome::Yielded(end), now));
                }
                Step::Scope => self.frames.push(Frame::Scope(self.at - 1)),
                Step::Shield => self.frames.push(Frame::Shield),
                Step::Timeout { units } => self.frames.push(Frame::Timeout {
                    step: self.at - 1,
                    at: now + units,
                    refused: false,
                }),
                Step::Leave if self.leave(now) => {}
                Step::Leave => self.at = steps.len(),
            }
        }
    }
}

/// The loop with its fibers, and the model beside it.
struct World {
    one: Loop,
    time: Rc<Cell<u64>>,
    subjects: Vec<Rc<Subject>>,
    handles: Vec<JoinHandle<()>>,
    models: Vec<Model>,
}

impl World {
    fn new(programs: Vec<Vec<Step>>) -> World {
        let time = Rc::new(Cell::new(0));
        let config = Config {
            clock: Clock::Manual(time.clone()),
            ..Config::default()
        };
        let one = Loop::new(config).unwrap();
        let wakers = Rc::default();
        let subject = |(number, steps): (usize, Vec<Step>)| {
            Rc::new(Subject {
                at: Cell::new(0),
                scopes: steps.iter().map(|_| CancelScope::new()).collect(),
                wakers: Rc::clone(&wakers),
                number,
                waits: Cell::new(0),
                log: RefCell::default(),
                steps,
            })
        };
        let subjects: Vec<_> = programs.into_iter().enumerate().map(subject).collect();
        let start = |subject: &Rc<Subject>| {
            let subject = subject.clone();
            one.enter(|| spawn(move || subject.run()))
        };
        let handles = subjects.iter().map(start).collect();
        let model = |subject: &Rc<Subject>| Model {
            scopes: vec![false; subject.steps.len()],
            ..Model::default()
        };
        let models = subjects.iter().map(model).collect();
        World {
            one,
            time,
            subjects,
            handles,
            models,
        }
    }

    fn inside(&self, inside: bool, f: impl FnOnce()) {
        if inside { self.one.enter(f) } else { f() }
    }

    fn wake(&mut self, which: usize, remote: bool) {
        let wakers = self.subjects[0].wakers.borrow();
        if wakers.is_empty() {
            return;
        }
        let (fiber, number, waker) = wakers[which % wakers.len()];
        let wait = self.models[fiber].waiting.as_mut();
        let wait = wait.filter(|wait| wait.number == number);
        if remote {
            waker.remote().wake();
            if let Some(wait) = wait {
                wait.woken = true;
            }
        } else {
            let ends = wait.filter(|wait| !wait.known);
            let expected = ends.is_some();
            if let Some(wait) = ends {
                (wait.woken, wait.known) = (true, true);
            }
            assert_eq!(self.one.enter(|| waker.wake()), expected);
        }
    }

    fn act(&mut self, action: Action) {
        let fiber = |which: usize| which % FIBERS;
        match action {
            Action::Wake { which, remote } => self.wake(which, remote),
            Action::Cancel { fiber, inside } => {
                self.models[fiber].cancelled = true;
                self.inside(inside, || self.handles[fiber].cancel());
            }
            Action::CancelScope { which, inside } => {
                let step = which / FIBERS % self.subjects[fiber(which)].steps.len();
                self.models[fiber(which)].scopes[step] = true;
                if inside {
                    let now = self.time.get() / UNIT;
                    self.models[fiber(which)].recheck_limit(now);
                }
                self.inside(inside, || self.subjects[fiber(which)].scopes[step].cancel());
            }
            Action::ResetScope { which } => {
                let step = which / FIBERS % self.subjects[fiber(which)].steps.len();
                self.models[fiber(which)].scopes[step] = false;
                self.subjects[fiber(which)].scopes[step].reset();
            }
            Action::Advance { units } => self.time.set(self.time.get() + units * UNIT),
            Action::Settle => self.settle(),
        }
    }

    fn settle(&mut self) {
        while self.one.tick().unwrap() == Tick::Runnable {}
        let now = self.time.get() / UNIT;
        for (model, subject) in self.models.iter_mut().zip(&self.subjects) {
            model.settle(&subject.steps, now);
            assert_eq!(*subject.log.borrow(), model.log, "fiber {}", subject.number);
        }
    }

    /// Ends every fiber by waking each wait, so that none has to be abandoned.
    fn end(&mut self) {
        while self.one.counters().fibers > 0 {
            let count = self.subjects[0].wakers.borrow().len();
            (0..count).for_each(|which| self.wake(which, false));
            self.act(Action::Advance { units: 1 });
            self.settle();
        }
        assert_eq!(self.one.counters().timers, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn every_wait_ends_as_the_model_says(
        programs in prop::collection::vec(program(), FIBERS),
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(programs);
        for action in actions {
            world.act(action);
        }
        world.end();
    }
}
