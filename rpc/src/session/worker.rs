//! The fibers that serve requests, pooled per loop: an idle connection holds no stack.
//!
//! ```text
//!   listed sessions:  A ─ B ─ C          (each has requests in its queue)
//!   worker 1: takes A's request ─ handler ─ takes A's next ─ handler … ─ B's …     no switch in between
//!   worker 2: the spare: made runnable before a handler starts, if more requests wait
//! ```
//!
//! While handlers do not park, one worker serves everything and the spare finds nothing left when it runs. If a handler
//! parks, the spare is in the run queue already and continues the batch, after it has queued a new spare. So the price
//! is one switch per batch, and no code has to detect that a handler parked.
//!
//! The workers of a loop may run for a limited time per tick; otherwise one client that pipelines would own the loop.
//! At the end of this time they rest until the tick's end, so that sockets, timers and other fibers run. The session
//! that was being served goes to the end of the list.
//!
//! Invariant: if a session is listed, a worker is running, or a spare is in the run queue, or the workers rest and the
//! tick's end wakes one.

use super::failure::Failure;
use super::inner::{Inner, RequestContext, Session};
use super::service::{Call, Reply};
use super::spans::RequestSpan;
use super::state::inbox::Request;
use crate::error::ErrorKind;
use crate::inspect::calls::{Recorded, are_watched};
use crate::text::quoted;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{
    Builder, FiberId, Instant, LocalWaker, StackClass, TickEnd, deadline_after, is_past, now,
    panic_text, park, prepare_park, set_context, this_loop, with_deadline, yield_now,
};

/// The number of idle workers that are kept; more would only hold stacks.
const IDLE_MAX: usize = 256;

/// The interval between reports that a loop cannot spawn workers.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The time that the workers of a loop may run in one tick.
const RUN_MAX: Duration = Duration::from_micros(200);

/// The maximum number of requests between two clock reads, and the share of the run that may pass between them.
const STARTS_PER_CLOCK_READ_MAX: u32 = 16;
const CLOCK_READS_PER_RUN: u32 = 8;

/// After this number of requests a worker yields to other fibers and to another connection.
const BATCH: u32 = 64;

/// The work of the workers in the present tick.
#[derive(Default)]
struct Run {
    /// `None`: nothing yet.
    began: Option<Instant>,
    /// Requests served.
    served: u32,
    /// Requests until the next clock read.
    starts_left: u32,
    /// The run has ended: nothing starts before the tick's end.
    ended: bool,
}

impl Run {
    /// Called before a request starts. Returns `false` if none may.
    #[inline]
    fn may_start(&mut self, class: StackClass) -> bool {
        if self.starts_left != 0 {
            self.starts_left -= 1;
            self.served += 1;
            return true;
        }
        self.read_clock(class)
    }

    #[cold]
    fn read_clock(&mut self, class: StackClass) -> bool {
        if self.ended {
            return false;
        }
        let time = now();
        let Some(began) = self.began else {
            self.began = Some(time);
            self.served = 1;
            TICK_ENDS.with(|ends| this_loop::at_tick_end(ends[class as usize % 2].clone()));
            return true;
        };
        let length = time.saturating_since(began);
        if length > RUN_MAX {
            self.ended = true;
            return false;
        }
        // As many more as take an eighth of the run, if they are like those before.
        let each = (length / self.served.max(1)).max(Duration::from_nanos(1));
        let more = (RUN_MAX / CLOCK_READS_PER_RUN).as_nanos() / each.as_nanos();
        self.starts_left = (more as u32).clamp(1, STARTS_PER_CLOCK_READ_MAX) - 1;
        self.served += 1;
        true
    }
}

/// Allows the workers of a class to run again.
struct RunEnd(StackClass);

impl TickEnd for RunEnd {
    fn tick_end(&self) {
        with_pool(self.0, |pool| {
            pool.behind = pool.run.ended;
            pool.run = Run::default();
        });
        ensure_spare(self.0);
    }
}

#[derive(Default)]
struct Pool {
    run: Run,
    /// The last run ended before its requests did.
    behind: bool,
    loop_id: u32,
    listed: VecDeque<Rc<Inner>>,
    idle: Vec<(FiberId, LocalWaker)>,
    /// Workers in the run queue that are about to look for a request.
    spares: usize,
    /// The time until which failures to spawn fibers are not reported.
    silent_until: Option<Instant>,
}

thread_local! {
    /// By stack class.
    static POOLS: [RefCell<Pool>; 2] = Default::default();
    /// By stack class, too.
    static TICK_ENDS: [Rc<RunEnd>; 2] = [StackClass::Small, StackClass::Deep].map(|class| Rc::new(RunEnd(class)));
}

#[inline(always)] // Four times a request.
fn with_pool<R>(class: StackClass, f: impl FnOnce(&mut Pool) -> R) -> R {
    POOLS.with(|pools| {
        let mut pool = pools[class as usize % 2].borrow_mut();
        let loop_id = this_loop::id();
        if pool.loop_id != loop_id {
            // The thread's previous loop has ended, and its fibers with it.
            *pool = Pool {
                loop_id,
                ..Pool::default()
            };
        }
        f(&mut pool)
    })
}

/// Lists a session so that its requests are served.
pub(super) fn list(session: Rc<Inner>) {
    let class = session.options.stack;
    with_pool(class, |pool| pool.listed.push_back(session));
    ensure_spare(class);
}

/// Whether requests arrive faster than the loop's workers serve them.
pub(crate) fn are_behind(class: StackClass) -> bool {
    // While requests wait, every tick has a run, so `behind` is up to date.
    with_pool(class, |pool| pool.behind && !pool.listed.is_empty())
}

/// Ensures that a worker will look for requests.
#[inline]
fn ensure_spare(class: StackClass) {
    let spawn = with_pool(class, |pool| {
        if pool.spares != 0 || pool.listed.is_empty() || pool.run.ended {
            return false;
        }
        while let Some((_, waker)) = pool.idle.pop() {
            if waker.wake() {
                pool.spares += 1;
                return false;
            }
        }
        pool.spares += 1;
        true
    });
    if spawn
        && let Err(error) = Builder::new()
            .name("rpc worker")
            .stack(class)
            .spawn(move || work(class))
            .map(drop)
    {
        let say = with_pool(class, |pool| {
            pool.spares -= 1;
            let say = pool.silent_until.is_none_or(is_past);
            if say {
                pool.silent_until = Some(deadline_after(REPORT_INTERVAL));
            }
            say
        });
        if say {
            yue_scheduler::log(
                yue_scheduler::LogLevel::Warn,
                format_args!(
                    "cannot spawn a fiber to serve requests: {error}; they wait for one that is free"
                ),
            );
        }
    }
}

/// The body of a worker.
fn work(class: StackClass) {
    with_pool(class, |pool| pool.spares -= 1);
    let mut context = RequestContext::new();
    set_context(Some(context.clone()));
    let mut served = 0;
    loop {
        while let Some((session, request)) = next_request(class) {
            ensure_spare(class);
            serve(&context, session, request);
            // One count is the worker's, one the fiber's: more means that another fiber inherited it.
            if Rc::strong_count(&context) > 2 {
                context = RequestContext::new();
                set_context(Some(context.clone()));
            } else {
                context.end();
            }
            if yue_scheduler::is_cancelled() {
                // Cancelled, by a handler or by the loop: another worker, if any may still run, continues.
                return ensure_spare(class);
            }
            served += 1;
            if served % BATCH == 0 && !rest(class) {
                return;
            }
        }
        if !wait(class) {
            return;
        }
    }
}

/// The next request of a listed session. Sessions alternate after a batch each.
#[inline]
fn next_request(class: StackClass) -> Option<(Rc<Inner>, Request)> {
    loop {
        let session = with_pool(class, |pool| {
            let session = pool.listed.front()?.clone();
            let ended = pool.run.ended;
            if pool.run.may_start(class) {
                return Some(session);
            }
            if !ended {
                pool.listed.rotate_left(1);
            }
            None
        })?;
        let request = if session.may_start_requests() {
            session.pop_request()
        } else {
            None
        };
        let more = request.is_some() && !session.inbox.queue.borrow().is_empty();
        if !more {
            session.inbox.listed.set(false);
            with_pool(class, |pool| pool.listed.pop_front());
        }
        if let Some(request) = request {
            return Some((session, request));
        }
    }
}

/// Yields to others. Returns `false` if the worker was cancelled.
fn rest(class: StackClass) -> bool {
    with_pool(class, |pool| {
        if let Some(session) = pool.listed.pop_front() {
            pool.listed.push_back(session);
        }
        pool.spares += 1;
    });
    let may_continue = yield_now().is_ok();
    with_pool(class, |pool| pool.spares -= 1);
    if !may_continue {
        ensure_spare(class);
    }
    may_continue
}

/// Waits until the worker is needed. Returns `false` if it is not.
fn wait(class: StackClass) -> bool {
    let waker = prepare_park();
    let stays = with_pool(class, |pool| {
        let stays = pool.idle.len() < IDLE_MAX;
        if stays {
            pool.idle.push((waker.fiber(), waker));
        }
        stays
    });
    if !stays {
        return false;
    }
    let woken = park("a request to serve").is_ok();
    with_pool(class, |pool| {
        if woken {
            pool.spares -= 1;
        } else {
            pool.idle.retain(|(fiber, _)| *fiber != waker.fiber());
        }
    });
    woken
}

/// Serves one request in the worker's fiber.
fn serve(context: &Rc<RequestContext>, session: Rc<Inner>, request: Request) {
    let epoch = session.link.epoch.get();
    let (msgid, deadline, bytes) = (request.msgid, request.deadline, request.bytes);
    let reply = || Reply {
        session: Session {
            inner: session.clone(),
        },
        context: context.clone(),
        epoch,
        msgid,
    };
    if let Some(failure) = refusal(&session, &request) {
        record(context, &session, &request).refuse(&failure.type_name);
        session.release_unread(request.slice(request.params));
        let _ = reply().fail(&failure);
        return session.request_done(bytes, 0);
    }
    let token = match request
        .reference
        .map(|id| session.references.borrow().token(id))
    {
        None => None,
        Some(Some(token)) => Some(token),
        Some(None) => {
            record(context, &session, &request).refuse(ErrorKind::NoMethod.name());
            session.release_unread(request.slice(request.params));
            let _ = reply().fail(&Failure::of_kind(
                ErrorKind::NoMethod,
                "the function is not there any more",
            ));
            return session.request_done(bytes, 0);
        }
    };
    let recorded = record(context, &session, &request);
    context.begin(session.clone(), deadline);
    context.msgid.set(msgid);
    if request.extensions.end != 0 {
        session.inherit(context, &request);
    }
    // By default the caller does not decide when a handler stops.
    let cancel = session.options.cancel;
    context.obeys_caller.set(cancel);
    let cancellable = msgid.filter(|_| cancel && session.link.peer_is_yue.get());
    if let Some(msgid) = cancellable {
        session
            .running
            .borrow_mut()
            .by_id
            .insert(msgid, context.clone());
    }
    let mut call = Call::new(session.clone(), request, token);
    let span = RequestSpan::new(&call, context);
    let mut run = || span.enter(|| session.service.dispatch.call(&mut call, reply()));
    let outcome = catch_unwind(AssertUnwindSafe(|| match (cancel, deadline) {
        (false, _) => run(),
        (true, Instant::NEVER) => context.scope.enter(run),
        (true, _) => context.scope.enter(|| with_deadline(deadline, run)),
    }));
    let decoded = call.decoded_bytes();
    drop(call);
    if let Err(payload) = outcome
        && !context.replied.get()
    {
        let text = format!("the handler panicked: {}", panic_text(&*payload));
        let _ = reply().fail(&Failure::new(text));
    }
    span.end(context);
    recorded.end(context);
    if let Some(msgid) = cancellable {
        session.forget_running(msgid, context);
    }
    session.request_done(bytes, decoded);
}

/// Begins to record a request, if anybody watches.
#[inline]
fn record(context: &RequestContext, session: &Rc<Inner>, request: &Request) -> Recorded {
    if !are_watched() {
        return Recorded::NONE;
    }
    // A request that began before the recording may have left its failure.
    context.failed.take();
    let session = Session {
        inner: session.clone(),
    };
    let name = request.reference.is_none().then(|| request.name());
    Recorded::begin(&session, name, request.msgid.is_none())
}

/// The reason why a request is not even started.
#[inline]
fn refusal(session: &Inner, request: &Request) -> Option<Failure> {
    if is_past(request.deadline) {
        return Some(Failure::of_kind(
            ErrorKind::Timeout,
            "the call timed out before it could start",
        ));
    }
    if request.reference.is_none() && is_private(request.name()) {
        let name = quoted(request.name());
        let text = format!(
            "the method '{name}' is private: a name that begins with '_' cannot be called from outside"
        );
        return Some(Failure::of_kind(ErrorKind::NoMethod, text));
    }
    if session.take_cancelled(request) {
        return Some(Failure::of_kind(
            ErrorKind::Cancelled,
            "the caller gave up the call before it started",
        ));
    }
    None
}

/// Whether a segment of a dotted name begins with `_`.
#[inline]
pub(crate) fn is_private(name: &[u8]) -> bool {
    name.first() == Some(&b'_') || name.windows(2).any(|pair| pair == b"._")
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn a_leading_underscore_of_any_segment_is_private() {
        for name in ["_x", "a._b", "a.b._", "_", "._", "a.__index"] {
            assert!(is_private(name.as_bytes()), "{name}");
        }
        for name in ["x", "a_b", "a.b_c_", "", "a..b"] {
            assert!(!is_private(name.as_bytes()), "{name}");
        }
    }
}
