//! Calls to a group: every member is called at the same time, and each has an outcome of its own.
//!
//! ```text
//!   home: Asking ── a call per member here ──▶ callback ──▶ Asking.outcomes
//!      └─ one message per loop ─▶ there: a call per member ──▶ callback ─ Reply ─▶ home ──▶ Asking.outcomes
//! ```
//!
//! An outcome from another loop finds its `Asking` by number, in a table of the home loop. A `Reply` is dropped when
//! the last call there has its outcome, or the loop has ended. That reports that nothing more comes from there.
//!
//! Calls on this loop end by their own deadlines. A loop that does not answer (its program blocks it) is given up when
//! the time of its members has passed.

use super::local::{self, LocalGroup};
use super::registry::{self, Record, SharedGroup, Station};
use super::{Member, MemberId};
use crate::buffer::{Response, Segment};
use crate::error::{Error, ErrorKind, LocalError};
use crate::proto::scan::functions;
use crate::session::options::Timeout;
use crate::session::{CallId, EncodedCall, Session, WeakSession};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use yue_scheduler::simulation::{Hashing, PerHost};
use yue_scheduler::{
    Instant, LocalWaker, LoopHandle, Stopped, Wakeup, deadline_after, is_past, park_until,
    prepare_park, this_loop,
};

/// The outcome of one member's call.
#[derive(Debug)]
pub struct Answer {
    /// The member.
    pub member: Member,
    /// Its answer. Values from another loop contain no functions.
    pub result: Result<Response, Error>,
}

/// The calls to the members of a group. Dropping it gives up those that have no outcome yet.
pub struct Answers {
    asking: Rc<Asking>,
}

/// A call to a group, on the loop that made it.
struct Asking {
    number: u64,
    group: Option<Arc<SharedGroup>>,
    /// The calls over this loop's sessions.
    calls: RefCell<Vec<OpenCall>>,
    /// Calls on this loop without an outcome.
    open: Cell<usize>,
    elsewhere: RefCell<Vec<Elsewhere>>,
    outcomes: RefCell<Vec<Answer>>,
    waiter: Cell<Option<LocalWaker>>,
}

struct OpenCall {
    session: WeakSession,
    member: MemberId,
    /// `None`: it has its outcome.
    call: Option<CallId>,
}

/// The part of a call to a group that another loop makes.
struct Elsewhere {
    station: Station,
    /// The members that were called and have no outcome yet.
    expected: Vec<Arc<Record>>,
    /// The time when the loop is given up.
    deadline: Instant,
}

/// Calls that this loop makes for others, by the number of the call to the group.
type Served = HashMap<u64, Vec<(WeakSession, CallId)>, Hashing>;

thread_local! {
    /// The calls to groups that this loop has made, and waits for.
    static ASKING: RefCell<HashMap<u64, Weak<Asking>, Hashing>> = RefCell::default();
    /// The calls that this loop makes for other loops' calls to groups.
    static SERVED: RefCell<Served> = RefCell::default();
}

fn next_number() -> u64 {
    static NEXT: PerHost<AtomicU64> = PerHost::new(|| AtomicU64::new(1));
    // Relaxed: it only matters that no number is used twice.
    NEXT.get().fetch_add(1, Ordering::Relaxed)
}

/// Calls the members on all loops, or that member.
pub(super) fn ask(
    local: &LocalGroup,
    only: Option<MemberId>,
    limit: Limit,
    call: &EncodedCall,
) -> Answers {
    let asking = Asking::new(local.shared.clone());
    if let Some(shared) = &local.shared {
        let home = &local.station.home;
        for (station, _) in shared.stations_elsewhere(home.id(), only) {
            asking.ask_elsewhere(shared, station, home, only, limit, call);
        }
    }
    asking.ask_here(local, only, |session, done| {
        session.call_encoded_async(limit.of(session), call, done)
    });
    Answers { asking }
}

/// Calls the members on this loop with arguments of their own.
pub(super) fn ask_each(
    local: &LocalGroup,
    name: &[u8],
    limit: Limit,
    mut params: impl FnMut(&Session, &mut Vec<u8>) -> Result<u32, Error>,
) -> Answers {
    let asking = Asking::new(None);
    asking.ask_here(local, None, |session, done| {
        session.call_async(name, limit.of(session), |out| params(session, out), done)
    });
    Answers { asking }
}

/// The time limits of the members' calls.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// The same for each.
    Same(Timeout),
    /// The result of the function for each, on the member's loop.
    Of(fn(&Session) -> Timeout),
}

impl Limit {
    fn of(self, session: &Session) -> Timeout {
        match self {
            Limit::Same(timeout) => timeout,
            Limit::Of(limit) => limit(session),
        }
    }

    /// The time when a member of another loop is given up.
    fn deadline(self, record: &Record) -> Instant {
        match self {
            Limit::Same(Timeout::After(time)) => deadline_after(time),
            Limit::Same(Timeout::Never) => Instant::NEVER,
            Limit::Same(Timeout::Default) | Limit::Of(_) => deadline_after(record.timeout),
        }
    }
}

type Done = Box<dyn FnOnce(Result<Response, Error>)>;

impl Asking {
    fn new(group: Option<Arc<SharedGroup>>) -> Rc<Asking> {
        let asking = Rc::new(Asking {
            number: next_number(),
            group,
            calls: RefCell::default(),
            open: Cell::new(0),
            elsewhere: RefCell::default(),
            outcomes: RefCell::default(),
            waiter: Cell::new(None),
        });
        let weak = Rc::downgrade(&asking);
        ASKING.with_borrow_mut(|all| all.insert(asking.number, weak));
        asking
    }

    fn ask_here(
        self: &Rc<Self>,
        local: &LocalGroup,
        only: Option<MemberId>,
        mut call: impl FnMut(&Session, Done) -> Result<CallId, Error>,
    ) {
        local.each(only, |member, session| {
            let index = self.calls.borrow().len();
            self.calls.borrow_mut().push(OpenCall {
                session: session.downgrade(),
                member,
                call: None,
            });
            self.open.set(self.open.get() + 1);
            let asking = Rc::downgrade(self);
            let done = Box::new(move |outcome| {
                if let Some(asking) = asking.upgrade() {
                    asking.finish_here(index, outcome);
                }
            });
            match call(&session, done) {
                Ok(call) => self.calls.borrow_mut()[index].call = Some(call),
                Err(error) => self.finish_here(index, Err(error)),
            }
        });
    }

    fn finish_here(&self, index: usize, outcome: Result<Response, Error>) {
        let (session, id) = {
            let mut calls = self.calls.borrow_mut();
            let open = &mut calls[index];
            open.call = None;
            (open.session.upgrade(), open.member)
        };
        self.open.set(self.open.get() - 1);
        let result = outcome.map(|mut response| {
            // It may stay here until the slowest member has answered.
            response.detach();
            response
        });
        let member = Member {
            id,
            session,
            record: None,
        };
        self.outcomes.borrow_mut().push(Answer { member, result });
        self.wake_if_done();
    }

    fn ask_elsewhere(
        self: &Rc<Self>,
        shared: &Arc<SharedGroup>,
        station: Station,
        home: &LoopHandle,
        only: Option<MemberId>,
        limit: Limit,
        call: &EncodedCall,
    ) {
        let expected = shared.records_on(station.loop_id(), only);
        let reply = Reply {
            home: home.clone(),
            number: self.number,
            loop_id: station.loop_id(),
        };
        let (call_there, bytes) = (call.clone(), call.bytes());
        let passed = registry::send(shared, &station, bytes, move |shared| {
            serve(shared, reply, only, limit, &call_there);
        });
        if !passed {
            for record in expected {
                let text = format!(
                    "too many messages wait for the loop of {} already",
                    record.address
                );
                let error = Error::retryable(ErrorKind::QueueFull, text);
                self.push_elsewhere(record, Err(error));
            }
            return;
        }
        let deadline = expected.iter().map(|record| limit.deadline(record)).max();
        self.elsewhere.borrow_mut().push(Elsewhere {
            station,
            expected,
            deadline: deadline.unwrap_or(Instant::NEVER),
        });
    }

    fn push_elsewhere(&self, record: Arc<Record>, result: Result<Response, Error>) {
        let member = Member {
            id: record.id,
            session: None,
            record: Some(record),
        };
        self.outcomes.borrow_mut().push(Answer { member, result });
    }

    /// An outcome has come from another loop.
    fn finish_elsewhere(&self, loop_id: u32, id: MemberId, result: Result<Response, Error>) {
        let record = {
            let mut elsewhere = self.elsewhere.borrow_mut();
            let from = elsewhere
                .iter_mut()
                .find(|part| part.station.loop_id() == loop_id);
            let Some(from) = from else { return };
            let at = from.expected.iter().position(|record| record.id == id);
            at.map(|at| from.expected.swap_remove(at))
        };
        // A member that has joined since is not among those that were meant.
        if let Some(record) = record {
            self.push_elsewhere(record, result);
        }
    }

    /// Nothing more comes from that loop: members without an outcome have left before they were called.
    fn end_elsewhere(&self, loop_id: u32) {
        self.elsewhere
            .borrow_mut()
            .retain(|part| part.station.loop_id() != loop_id);
        self.wake_if_done();
    }

    /// Gives up loops whose members' time has passed.
    fn give_up_late(&self) {
        let late: Vec<_> = self
            .elsewhere
            .borrow_mut()
            .extract_if(.., |part| is_past(part.deadline))
            .collect();
        for part in late {
            self.cancel_elsewhere(&part.station);
            for record in part.expected {
                let text = format!("{} did not answer in time", record.address);
                self.push_elsewhere(record, Err(Error::new(ErrorKind::Timeout, text)));
            }
        }
    }

    fn cancel_elsewhere(&self, station: &Station) {
        let number = self.number;
        if let Some(group) = &self.group {
            // If it is not taken, the calls there end by their deadlines.
            let _ = registry::send(group, station, 0, move |_| give_up(number));
        }
    }

    fn is_done(&self) -> bool {
        self.open.get() == 0 && self.elsewhere.borrow().is_empty()
    }

    fn wake_if_done(&self) {
        if self.is_done()
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Fails at the end of the thread, whose table is gone.
        let _ = ASKING.try_with(|all| all.borrow_mut().remove(&self.number));
        if !this_loop::exists() {
            // The loop has ended, and its sessions with it: there is nothing to give up.
            return;
        }
        for open in self.calls.take() {
            if let (Some(session), Some(call)) = (open.session.upgrade(), open.call) {
                session.cancel_call(call);
            }
        }
        for part in self.elsewhere.take() {
            self.cancel_elsewhere(&part.station);
        }
        for answer in self.outcomes.take() {
            // Nobody decodes them.
            if let (Some(session), Ok(response)) = (&answer.member.session, &answer.result) {
                session.release_unread(response.bytes());
            }
        }
    }
}

impl Answers {
    /// Waits until every member's call has an outcome, and returns them in the order in which the members joined.
    ///
    /// # Errors
    /// If the calling fiber is cancelled, or its deadline passes, first. The calls are then given up.
    ///
    /// # Panics
    /// Outside a fiber, or where it may not suspend.
    pub fn wait(self) -> Result<Vec<Answer>, Stopped> {
        let asking = &self.asking;
        while !asking.is_done() {
            let next = asking
                .elsewhere
                .borrow()
                .iter()
                .map(|part| part.deadline)
                .min();
            asking.waiter.set(Some(prepare_park()));
            if park_until("the answers of a group", next)? == Wakeup::TimedOut {
                asking.give_up_late();
            }
        }
        let mut answers = asking.outcomes.take();
        answers.sort_by_key(|answer| answer.member.id);
        Ok(answers)
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("outcomes", &self.asking.outcomes.borrow().len())
            .field("is_done", &self.asking.is_done())
            .finish_non_exhaustive()
    }
}

/// The path back to the loop that has called a group. Dropping it reports that nothing more comes from this loop.
struct Reply {
    home: LoopHandle,
    number: u64,
    loop_id: u32,
}

impl Reply {
    fn post(&self, work: impl FnOnce(&Asking) + Send + 'static) {
        let number = self.number;
        self.home.run(move || {
            let asking = ASKING.with_borrow(|all| all.get(&number).and_then(Weak::upgrade));
            if let Some(asking) = asking {
                work(&asking);
            }
        });
    }

    fn report(&self, member: MemberId, outcome: Portable) {
        let loop_id = self.loop_id;
        self.post(move |asking| asking.finish_elsewhere(loop_id, member, outcome.arrive()));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let _ = SERVED.try_with(|all| all.borrow_mut().remove(&self.number));
        let loop_id = self.loop_id;
        self.post(move |asking| asking.end_elsewhere(loop_id));
    }
}

/// Calls the members on this loop for another loop.
fn serve(
    shared: &Arc<SharedGroup>,
    reply: Reply,
    only: Option<MemberId>,
    limit: Limit,
    call: &EncodedCall,
) {
    let Some(local) = local::find(shared.name()) else {
        return;
    };
    let number = reply.number;
    let reply = Rc::new(reply);
    let mut calls = Vec::new();
    local.each(only, |member, session| {
        let (answering, reporting) = (session.downgrade(), reply.clone());
        let done = move |outcome| {
            reporting.report(member, Portable::of(answering.upgrade().as_ref(), outcome));
        };
        match session.call_encoded_async(limit.of(&session), call, done) {
            Ok(call) => calls.push((session.downgrade(), call)),
            Err(error) => reply.report(member, Portable::of(None, Err(error))),
        }
    });
    if Rc::strong_count(&reply) > 1 {
        SERVED.with_borrow_mut(|all| all.insert(number, calls));
    }
}

/// Gives up the calls that this loop makes for another loop's call.
fn give_up(number: u64) {
    let calls = SERVED.with_borrow_mut(|all| all.remove(&number));
    for (session, call) in calls.into_iter().flatten() {
        if let Some(session) = session.upgrade() {
            session.cancel_call(call);
        }
    }
}

/// An outcome on its way to another loop.
enum Portable {
    Values(Vec<u8>, u32),
    Remote(Vec<u8>),
    Local(Box<LocalError>),
}

impl Portable {
    fn of(session: Option<&Session>, outcome: Result<Response, Error>) -> Portable {
        match outcome {
            Ok(response) if functions(response.bytes()).next().is_some() => {
                if let Some(session) = session {
                    session.release_unread(response.bytes());
                }
                let text = "the answer contains a function, which works only on the loop of its connection; return \
                            data instead";
                Portable::Local(Box::new(LocalError {
                    kind: ErrorKind::Argument,
                    message: text.to_owned(),
                    retryable: false,
                }))
            }
            Ok(response) => Portable::Values(response.bytes().to_vec(), response.count()),
            Err(Error::Remote(remote)) => Portable::Remote(remote.bytes().to_vec()),
            Err(Error::Local(local)) => Portable::Local(local),
        }
    }

    fn arrive(self) -> Result<Response, Error> {
        let response = |bytes: Vec<u8>, count| {
            let length = bytes.len();
            Response::new(Segment::new(bytes, None), 0..length, count)
        };
        match self {
            Portable::Values(bytes, count) => Ok(response(bytes, count)),
            Portable::Remote(bytes) => Err(Error::remote(response(bytes, 1))),
            Portable::Local(local) => Err(Error::Local(local)),
        }
    }
}
