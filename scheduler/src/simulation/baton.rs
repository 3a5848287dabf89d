//! The baton: who holds it, who can get it, and the choice of the next holder.

use super::hosts::Host;
use super::per_host::{self, Process};
use super::random::Random;
use super::{ME, Running, with_me};
use crate::driver::Wait;
use crate::lock::lock;
use crate::panics::panic_text;
use crate::time::Instant;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// The virtual time that a choice of the next thread takes, and a random part of the same size. Time must not stand
/// still while loops have something to do: a fiber that yields until a timer has fired would run forever.
const CHOICE_NS: u64 = 250;

/// The virtual time at which a simulation begins. Not zero, so that times before the begin can be expressed.
const BEGIN_NS: u64 = 1_000_000_000;

/// The reason why a simulation did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The main function panicked, with this message.
    #[error("the simulation's main function panicked: {0}")]
    Panicked(String),
    /// The system refused a thread.
    #[error("cannot start a thread of the simulation: {0}")]
    NoThread(String),
}

/// A bell that ends a loop's wait in [`turn`]. Loops ring it through [`Driver::bell`](crate::Driver::bell).
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<AtomicBool>);

impl Bell {
    /// A bell that has not been rung.
    pub fn new() -> Self {
        Bell::default()
    }

    /// Whether it has been rung since the last wait.
    fn is_rung(&self) -> bool {
        // Relaxed, like every access here: ringer and waiter run one after the other, and the baton's lock orders them.
        self.0.load(Ordering::Relaxed)
    }
}

impl crate::driver::Bell for Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The condition on which a thread gets the baton.
#[derive(Clone)]
pub(super) enum Condition {
    /// None: it can run.
    Ready,
    /// The bell, or the time.
    Bell(Bell, Option<u64>),
    /// A condition that the holder checks.
    Until(&'static str, Arc<dyn Fn() -> bool + Send + Sync>),
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) host: u32,
    condition: Condition,
    pub(super) thread: Option<thread::Thread>,
    granted: Arc<AtomicBool>,
    /// The real thread, once its starter has it.
    pub(super) handle: Option<thread::JoinHandle<()>>,
}

pub(super) type Event = Box<dyn FnOnce() + Send>;

/// The state that the threads of a simulation share.
pub(super) struct Room {
    pub(super) now_ns: AtomicU64,
    /// See [`hash_seed`].
    hash_seed: AtomicU64,
    /// A hash of all choices: equal for equal runs.
    digest: AtomicU64,
    /// The number of choices.
    choices: AtomicU64,
    pub(super) state: Mutex<State>,
    pub(super) layers: Mutex<HashMap<TypeId, Arc<Mutex<dyn Any + Send>>>>,
}

pub(super) struct State {
    pub(super) random: Random,
    pub(super) members: BTreeMap<u32, Member>,
    pub(super) last_member: u32,
    /// By time, then by a random number, then in order.
    pub(super) events: BTreeMap<(u64, u64, u64), Event>,
    pub(super) last_event: u64,
    pub(super) hosts: BTreeMap<u32, Host>,
    /// The host whose threads alone run until they have ended, and the thread that waits for that.
    pub(super) draining: Option<(u32, u32)>,
    /// Called before each choice.
    pub(super) observers: Vec<Arc<dyn Fn() + Send + Sync>>,
    /// Threads that have given the baton away for the last time, with their processes, which outlive them.
    ended: Vec<(thread::JoinHandle<()>, Arc<Process>)>,
    /// The reason for the simulation's end, once it has ended.
    pub(super) over: Option<String>,
}

/// A thread's part in its simulation.
#[derive(Clone)]
pub(super) struct Me {
    pub(super) room: Arc<Room>,
    pub(super) number: u32,
    pub(super) host: u32,
    pub(super) clock: Arc<super::clock::HostClock>,
    /// The incarnation of the host to which the thread belongs.
    process: Arc<Process>,
    granted: Arc<AtomicBool>,
}

/// Runs `main` as the first thread of a new simulation, on host 0, and returns its result and a hash of all choices,
/// which is equal for equal runs. When `main` returns, the waits of threads that still run fail until they have ended.
///
/// # Errors
/// When `main` panics, or no thread can be started.
///
/// ```
/// use std::time::{Duration, Instant as Real};
/// use yue_scheduler::{Config, Driver, Loop, Wait, simulation, sleep};
///
/// let began = Real::now();
/// let slept = simulation::run(7, || {
///     let before = simulation::now();
///     Loop::new(Config::default()).unwrap().run(|| sleep(Duration::from_secs(3600)).unwrap());
///     simulation::now().saturating_since(before)
/// });
/// assert!(slept.unwrap().0 >= Duration::from_secs(3600));
/// assert!(began.elapsed() < Duration::from_secs(60));
/// ```
pub fn run<T: Send + 'static>(
    seed: u64,
    main: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, u64), Failure> {
    let _running = Running::begin();
    let room = Arc::new(Room::new(seed));
    let result = Arc::new(Mutex::new(None));
    let store = result.clone();
    let in_room = room.clone();
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(main));
        *lock(&store) = Some(outcome.map_err(|payload| panic_text(&*payload).to_owned()));
        in_room.end();
    };
    // It has the baton from the start, and ends when all others have ended.
    let (_, first) = room
        .start("main".to_owned(), 0, true, Box::new(body))
        .map_err(|error| Failure::NoThread(error.to_string()))?;
    // A panic was caught and stored.
    let _ = first.join();
    let ended = std::mem::take(&mut lock(&room.state).ended);
    for (ended, process) in ended {
        let _ = ended.join();
        drop(process);
    }
    let digest = room.digest.load(Ordering::Relaxed);
    let outcome = lock(&result).take();
    match outcome {
        Some(Ok(value)) => Ok((value, digest)),
        Some(Err(text)) => Err(Failure::Panicked(text)),
        None => Err(Failure::Panicked("the main thread ended early".to_owned())),
    }
}

/// The virtual time of the simulation, without the drift of any host's clock.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn now() -> Instant {
    with_me(|me| Instant::from_nanos(me.room.now_ns.load(Ordering::Relaxed)))
}

/// Returns the next number of the seed's sequence.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn random() -> u64 {
    with_me(|me| lock(&me.room.state).random.number())
}

/// The number of times that a thread of the simulation has given the baton away. While it stays the same, the calling
/// thread computes, and no other runs.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn choices() -> u64 {
    with_me(|me| me.room.choices.load(Ordering::Relaxed))
}

/// The hash of all choices so far, which [`run`] returns at the end.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn digest() -> u64 {
    with_me(|me| me.room.digest.load(Ordering::Relaxed))
}

/// The number on which orders depend that a program must not rely on, such as those of a Lua table's keys. It is the
/// simulation's seed, unless it was [set](set_hash_seed).
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn hash_seed() -> u64 {
    with_me(|me| me.room.hash_seed.load(Ordering::Relaxed))
}

/// Sets the [hash seed](hash_seed), at the beginning of a simulation: all else stays as the seed determines it.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn set_hash_seed(hash_seed: u64) {
    with_me(|me| me.room.hash_seed.store(hash_seed, Ordering::Relaxed));
}

/// The wait of a simulated driver's [`turn`](crate::Driver::turn): gives the baton away. With [`Wait::Block`] the
/// thread gets it back when the bell has been rung, or at the instant by its host's clock.
///
/// # Errors
/// When the simulation has ended, or nothing can happen any more in it.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn turn(bell: &Bell, wait: Wait) -> io::Result<()> {
    with_me(|me| {
        let condition = match wait {
            Wait::Poll => Condition::Ready,
            Wait::Block(at) => {
                let at = at.filter(|at| *at != Instant::NEVER);
                Condition::Bell(
                    bell.clone(),
                    at.map(|at| me.clock.to_simulation(at.as_nanos())),
                )
            }
        };
        let result = me.give_away(condition);
        bell.0.store(false, Ordering::Relaxed);
        result
    })
}

/// Blocks the calling thread until `condition` is true. The holder of the baton checks it; it must not call functions
/// of this module. `what` says what the thread waits for.
///
/// # Errors
/// When the simulation has ended, or nothing can happen any more in it.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn wait_until(
    what: &'static str,
    condition: impl Fn() -> bool + Send + Sync + 'static,
) -> io::Result<()> {
    if condition() {
        return Ok(());
    }
    with_me(|me| me.give_away(Condition::Until(what, Arc::new(condition))))
}

impl Room {
    fn new(seed: u64) -> Room {
        Room {
            now_ns: AtomicU64::new(BEGIN_NS),
            hash_seed: AtomicU64::new(seed),
            digest: AtomicU64::new(seed),
            choices: AtomicU64::new(0),
            state: Mutex::new(State {
                random: Random::new(seed),
                members: BTreeMap::new(),
                last_member: 0,
                events: BTreeMap::new(),
                last_event: 0,
                hosts: BTreeMap::new(),
                draining: None,
                observers: Vec::new(),
                ended: Vec::new(),
                over: None,
            }),
            layers: Mutex::new(HashMap::new()),
        }
    }

    /// Starts a thread. It runs `body` when it first gets the baton; `granted` says whether it has it from the start.
    /// Returns its number and the real thread.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(super) fn start(
        self: &Arc<Self>,
        name: String,
        host: u32,
        granted: bool,
        body: Box<dyn FnOnce() + Send>,
    ) -> io::Result<(u32, thread::JoinHandle<()>)> {
        let has_baton = granted;
        let granted = Arc::new(AtomicBool::new(granted));
        let mut state = lock(&self.state);
        let number = state.last_member;
        state.last_member += 1;
        let of_host = state.hosts.entry(host).or_default();
        let (clock, process) = (of_host.clock.clone(), of_host.process.clone());
        state.members.insert(
            number,
            Member {
                name: name.clone(),
                host,
                condition: Condition::Ready,
                thread: None,
                granted: granted.clone(),
                handle: None,
            },
        );
        drop(state);
        let me = Me {
            room: self.clone(),
            number,
            host,
            clock,
            process,
            granted,
        };
        let in_thread = move || {
            if has_baton {
                me.set_thread(thread::current());
            }
            me.await_grant();
            me.join_ended();
            ME.set(Some(me.clone()));
            // The pointer stays when `ME` does not: `leave`, or the room for the first thread, keeps the process.
            per_host::enter(&me.process);
            // A panic is reported by the hook; whoever waits for the thread sees that it has ended.
            let _ = catch_unwind(AssertUnwindSafe(body));
            // Events and observers may run during this choice, too, so the thread belongs to the simulation until then.
            me.leave();
            ME.set(None);
        };
        let spawned = thread::Builder::new().name(name).spawn(in_thread);
        match spawned {
            Ok(handle) => Ok((number, handle)),
            Err(error) => {
                lock(&self.state).members.remove(&number);
                Err(error)
            }
        }
    }

    /// Ends the simulation from its main thread: lets the other threads run until they have ended. Their waits fail.
    fn end(self: &Arc<Self>) {
        lock(&self.state).over = Some("the simulation has ended".to_owned());
        loop {
            let alone = lock(&self.state).members.len() <= 1;
            // Its wait fails, too, but the others run in between.
            if alone || with_me(|me| me.give_away(Condition::Ready)).is_ok() {
                return;
            }
        }
    }

    fn mix(&self, number: u64) {
        let before = self.digest.load(Ordering::Relaxed);
        let after = (before ^ number)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
        self.digest.store(after, Ordering::Relaxed);
    }

    /// Chooses the thread that runs next, and advances the time if none can run yet.
    fn choose<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, Option<u32>) {
        self.choices.fetch_add(1, Ordering::Relaxed);
        let pause = CHOICE_NS + state.random.below(CHOICE_NS);
        self.now_ns.fetch_add(pause, Ordering::Relaxed);
        if !state.observers.is_empty() && state.over.is_none() && state.draining.is_none() {
            let observers = state.observers.clone();
            drop(state);
            observers.iter().for_each(|observe| observe());
            state = lock(&self.state);
        }
        loop {
            state = self.run_due_events(state);
            let (after, runnable) = self.runnable(state);
            state = after;
            if !runnable.is_empty() {
                let index = state.random.below(runnable.len() as u64);
                let chosen = runnable[index as usize];
                self.mix(u64::from(chosen));
                self.mix(self.now_ns.load(Ordering::Relaxed));
                return (state, Some(chosen));
            }
            match state.next_time() {
                Some(at) => {
                    self.now_ns.fetch_max(at, Ordering::Relaxed);
                }
                None => {
                    if state.over.is_none() {
                        state.over = Some(state.stuck());
                    } else {
                        return (state, None);
                    }
                }
            }
        }
    }

    /// Runs the events whose time has come, in order.
    fn run_due_events<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.draining.is_none()
            && let Some(first) = state.events.first_entry()
            && first.key().0 <= self.now_ns.load(Ordering::Relaxed)
        {
            let event = first.remove();
            drop(state);
            crate::fiber::guarded("an event of the simulation", event);
            state = lock(&self.state);
        }
        state
    }

    /// Returns the threads that can run now.
    fn runnable<'a>(&'a self, state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Vec<u32>) {
        let now = self.now_ns.load(Ordering::Relaxed);
        let over = state.over.is_some();
        let members = state
            .members
            .iter()
            .filter(|(number, member)| state.may_run(**number, member));
        let conditions: Vec<(u32, Condition)> = members
            .map(|(number, member)| (*number, member.condition.clone()))
            .collect();
        // Conditions of the program are checked without the lock.
        drop(state);
        let runnable = conditions
            .into_iter()
            .filter(|(_, condition)| match condition {
                _ if over => true,
                Condition::Ready => true,
                Condition::Bell(bell, at) => bell.is_rung() || at.is_some_and(|at| at <= now),
                Condition::Until(_, holds) => holds(),
            });
        let runnable = runnable.map(|(number, _)| number).collect();
        (lock(&self.state), runnable)
    }
}

impl State {
    /// Whether the thread's host runs.
    fn may_run(&self, number: u32, member: &Member) -> bool {
        if let Some((host, waiting)) = self.draining {
            return member.host == host || number == waiting;
        }
        self.over.is_some() || self.hosts.get(&member.host).is_none_or(|host| !host.frozen)
    }

    /// Returns the next time at which something happens.
    fn next_time(&self) -> Option<u64> {
        let members = self
            .members
            .iter()
            .filter(|(number, member)| self.may_run(**number, member));
        let wakes = members.filter_map(|(_, member)| match &member.condition {
            Condition::Bell(_, at) => *at,
            Condition::Ready | Condition::Until(..) => None,
        });
        let event = self.events.keys().next().map(|key| key.0);
        wakes.chain(event.filter(|_| self.draining.is_none())).min()
    }

    fn stuck(&self) -> String {
        let mut text = "nothing can happen any more in the simulation:".to_owned();
        for member in self.members.values() {
            let waits = match &member.condition {
                Condition::Ready => "can run, but its host is frozen",
                Condition::Bell(..) => "waits for a message or an event",
                Condition::Until(what, _) => what,
            };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n  thread '{}' of host {}: {waits}",
                member.name, member.host
            );
        }
        text
    }
}

impl Me {
    fn set_thread(&self, thread: thread::Thread) {
        if let Some(me) = lock(&self.room.state).members.get_mut(&self.number) {
            me.thread = Some(thread);
        }
    }

    fn await_grant(&self) {
        // Acquire, with the Release of `grant`: the next holder sees all that the last one did.
        while !self.granted.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// Waits for the real end of threads that have given the baton away for the last time.
    fn join_ended(&self) {
        let ended = std::mem::take(&mut lock(&self.room.state).ended);
        for (handle, process) in ended {
            // A panic of its body was caught; one of a thread-local's destructor aborts.
            let _ = handle.join();
            drop(process);
        }
    }

    /// Gives the baton away, and waits until the condition holds and this thread is chosen.
    ///
    /// # Errors
    /// When the simulation has ended.
    pub(super) fn give_away(&self, condition: Condition) -> io::Result<()> {
        let room = &self.room;
        let mut state = lock(&room.state);
        if let Some(me) = state.members.get_mut(&self.number) {
            me.condition = condition;
        }
        let (mut state, chosen) = room.choose(state);
        if let Some(me) = state.members.get_mut(&self.number)
            && chosen == Some(self.number)
        {
            me.condition = Condition::Ready;
        }
        if chosen != Some(self.number) {
            state.grant(chosen);
            drop(state);
            self.await_grant();
            self.join_ended();
            state = lock(&room.state);
            if let Some(me) = state.members.get_mut(&self.number) {
                me.condition = Condition::Ready;
            }
        }
        match &state.over {
            Some(text) => Err(io::Error::other(text.clone())),
            None => Ok(()),
        }
    }

    /// Gives the baton away for the last time.
    fn leave(&self) {
        let mut state = lock(&self.room.state);
        let left = state.members.remove(&self.number);
        if self.number != 0
            && let Some(handle) = left.and_then(|left| left.handle)
        {
            state.ended.push((handle, self.process.clone()));
        }
        if state.members.is_empty() {
            return;
        }
        let (mut state, chosen) = self.room.choose(state);
        state.grant(chosen);
    }
}

impl State {
    fn grant(&mut self, chosen: Option<u32>) {
        let Some(member) = chosen.and_then(|number| self.members.get_mut(&number)) else {
            return;
        };
        // Release, with the Acquire of `await_grant`.
        member.granted.store(true, Ordering::Release);
        if let Some(thread) = &member.thread {
            thread.unpark();
        }
    }
}
