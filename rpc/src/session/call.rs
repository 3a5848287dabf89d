//! Outgoing calls: made, awaited, given up.
//!
//! A call that can be written is encoded directly into the output. A call that cannot be written yet (no link, not
//! granted) is encoded too, and held; see `queued_calls.rs`. In both cases the caller waits at its slot in the
//! in-flight slab.

use super::inherited::{self, Inherited};
use super::inner::{Inner, RequestContext, Session};
use super::options::{Timeout, count};
use super::references::{ImportedReference, stale_reference};
use super::service::Moment;
use super::spans::CallSpan;
use super::state::in_flight::{Callback, Waiter};
use super::state::phase::{Phase, Role};
use super::state::write_buffer::Writes;
use super::write_buffer::cannot_wait;
use crate::buffer::Response;
use crate::error::{Error, ErrorKind};
use crate::inspect::WaitingCall;
use crate::proto::Method;
use crate::proto::encode;
use crate::trace::Traced;
use std::any::Any;
use std::thread;
use std::time::Duration;
use yue_scheduler::{
    Instant, LocalWaker, Stopped, Timer, Wakeup, context, current_deadline, deadline_after,
    in_fiber, is_past, may_suspend, now, park_until, prepare_park, time_left,
};

/// The target of a call on the peer.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A name, perhaps dotted.
    Name(&'a [u8]),
    /// A function that the peer passed as a value.
    Reference(&'a ImportedReference),
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(name: &'a str) -> Target<'a> {
        Target::Name(name.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Target<'a> {
    fn from(name: &'a [u8]) -> Target<'a> {
        Target::Name(name)
    }
}

/// Identifies one call of one session while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(u32);

/// The route that a message can take now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Write,
    Hold,
}

impl Session {
    /// Calls and waits: parks the calling fiber. `params` appends the arguments and returns their number.
    ///
    /// A call made before the link is up and granted waits for that, within its timeout.
    ///
    /// # Errors
    /// [`Error::Remote`] if the peer answers with an error, otherwise the failure on this side, such as `TimeoutError`
    /// or `ConnectionLostError`.
    ///
    /// # Panics
    /// Outside a fiber, or where it may not suspend. Exception: in a destructor that runs during a panic, where a
    /// second panic would end the process, the call returns an error.
    pub fn call<'a>(
        &self,
        target: impl Into<Target<'a>>,
        timeout: Timeout,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<Response, Error> {
        if let Err(reason) = may_suspend() {
            if thread::panicking() {
                return Err(cannot_wait());
            }
            panic!("a call cannot wait here: {reason}");
        }
        let inner = &*self.inner;
        let target = target.into();
        let span = CallSpan::new(inner, &target);
        let outcome = span.enter(|| {
            let mut time = inner.call_time(timeout);
            let deadline = time.deadline;
            // The caller may be under a deadline of its own. The wait notices that by itself; the peer must learn of
            // it.
            let limit = current_deadline();
            let id = inner
                .route(&target, &mut time)
                .and_then(|route| {
                    let waiter = Waiter::Fiber(None);
                    inner.start_call(route, target, time.until(limit), params, waiter, &span)
                })
                .map_err(|error| inner.note_early_timeout(error))?;
            inner
                .wait_for_answer(id, deadline)
                .map_err(|error| inner.note_late_answer(error, deadline.min(limit)))
        });
        span.end(outcome.as_ref().err());
        outcome
    }

    /// Calls, and has the loop call `done` once with the outcome, outside fibers, so `done` cannot park. Never waits.
    ///
    /// # Errors
    /// The reason why the call could not be made; `done` is not called then. `QueueFullError`, retryable, if
    /// [`Limits::output_bytes_max`](crate::Limits::output_bytes_max) wait to be sent already, or
    /// [`Limits::held_bytes_max`](crate::Limits::held_bytes_max) are held until the link is up.
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn call_async<'a>(
        &self,
        target: impl Into<Target<'a>>,
        timeout: Timeout,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
        done: impl FnOnce(Result<Response, Error>) + 'static,
    ) -> Result<CallId, Error> {
        let inner = &*self.inner;
        let time = inner.call_time(timeout);
        let deadline = time.deadline;
        let this = inner.this.clone();
        let target = target.into();
        let span = CallSpan::new(inner, &target);
        let ended = span.clone();
        let callback: Callback = Box::new(move |outcome| {
            let outcome = outcome.map_err(|error| match this.upgrade() {
                Some(inner) => inner.note_late_answer(error, deadline),
                None => error,
            });
            ended.end(outcome.as_ref().err());
            done(outcome);
        });
        let waiter = Waiter::Callback(callback);
        self.start_at_once(target, time, params, waiter, &span)
    }

    /// Makes a call whose outcome the waiter takes, with the time that `timeout` says.
    pub(super) fn start_async(
        &self,
        target: Target<'_>,
        timeout: Timeout,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
        waiter: Waiter,
    ) -> Result<CallId, Error> {
        let span = CallSpan::new(&self.inner, &target);
        let time = self.inner.call_time(timeout);
        self.start_at_once(target, time, params, waiter, &span)
    }

    fn start_at_once(
        &self,
        target: Target<'_>,
        time: CallTime,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
        waiter: Waiter,
        span: &CallSpan,
    ) -> Result<CallId, Error> {
        let inner = &*self.inner;
        let route = inner.route_at_once(&target)?;
        let id = inner.start_call(route, target, time, params, waiter, span)?;
        if time.deadline != Instant::NEVER {
            inner.arm_call_timer(id, time.deadline);
        }
        Ok(CallId(id))
    }

    /// Gives a call up: its outcome is `CancelledError`, and the peer is notified. Returns `false` if it had finished
    /// already.
    pub fn cancel_call(&self, call: CallId) -> bool {
        let error = |_| Error::new(ErrorKind::Cancelled, "the call was cancelled");
        self.inner.give_up(call.0, error)
    }
}

impl Session {
    /// Appends the calls that wait for their answers.
    pub(crate) fn add_waiting_calls(&self, list: &mut Vec<WaitingCall>) {
        let inner = &*self.inner;
        inner.calls.borrow().each_waiting(|msgid, waiter, until| {
            let fiber = match waiter {
                Waiter::Fiber(waker) => waker.map(LocalWaker::fiber),
                Waiter::Callback(_) | Waiter::Each(_) => None,
            };
            list.push(WaitingCall {
                address: inner.address.clone(),
                link: inner.link.number.get(),
                is_opened: self.is_opened(),
                msgid,
                fiber,
                until,
            });
        });
    }

    /// A number by which tools recognize the two ends of the present link: the client chooses it at random and sends it
    /// in its greeting. 0 if there is no link, or the peer is not a yue peer.
    pub fn link_id(&self) -> u64 {
        self.inner.link.number.get()
    }
}

impl CallId {
    /// The call's number on its link.
    pub fn msgid(self) -> u32 {
        self.0
    }
}

/// The time of one call.
#[derive(Clone, Copy)]
struct CallTime {
    deadline: Instant,
    /// The time until then, if nothing has happened since the clock was read: one more read per call would cost more
    /// than its encoding.
    left: Option<Duration>,
    /// Whether the calling fiber has something that its calls inherit.
    inherits: bool,
}

impl CallTime {
    /// The time of a call that nobody waits for after `limit`.
    #[inline]
    fn until(self, limit: Instant) -> CallTime {
        if limit < self.deadline {
            CallTime {
                deadline: limit,
                left: None,
                ..self
            }
        } else {
            self
        }
    }
}

impl Inner {
    /// The time of a call with that timeout: it ends not later than the request which the caller serves, if that
    /// request ends with its own caller's time.
    #[inline]
    fn call_time(&self, timeout: Timeout) -> CallTime {
        let left = match timeout {
            Timeout::Default => Some(self.options.timeout),
            Timeout::After(duration) => Some(duration),
            Timeout::Never => None,
        };
        let own = left.map_or(Instant::NEVER, deadline_after);
        let left = left.filter(|_| own != Instant::NEVER);
        let Some(context) = context() else {
            return CallTime {
                deadline: own,
                left,
                inherits: false,
            };
        };
        let (limit, inherits) = match context.downcast_ref::<RequestContext>() {
            Some(request) => (request.limit_of_calls(), !request.handshake.get()),
            None => limit_in_trace(&*context),
        };
        CallTime {
            deadline: own.min(limit),
            left: left.filter(|_| own <= limit),
            inherits,
        }
    }

    #[inline]
    fn start_call(
        &self,
        route: Route,
        target: Target<'_>,
        time: CallTime,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
        waiter: Waiter,
        span: &CallSpan,
    ) -> Result<u32, Error> {
        if self.inbox.input_ended.get() {
            return Err(self.sends_no_more());
        }
        let method = self.method_of(target)?;
        let limit = self.options.limits.in_flight_max;
        let inserted = self
            .calls
            .borrow_mut()
            .insert(waiter, route == Route::Write, limit);
        let id = inserted.inspect_err(|_| count(&self.counters.refused_calls))?;
        count(&self.counters.calls);
        span.number(id);
        if !self.inbox.reading.get() {
            // The answer comes behind bytes that are not read.
            self.watch_input();
        }
        let outcome = match route {
            Route::Write => {
                let remaining = match time.left {
                    Some(left) if self.link.peer_is_yue.get() => Some(whole_ms(left)),
                    _ => self.remaining_ms(time.deadline),
                };
                let inherits = time.inherits && self.link.peer_is_yue.get();
                let extend = |out: &mut Vec<u8>| match remaining {
                    Some(ms) if !inherits => encode::remaining_time(out, ms),
                    _ => extend_inherited(out, remaining, span),
                };
                let extended = inherits || remaining.is_some();
                let extend = extended.then_some(extend);
                self.write(|out| encode::request_with(out, id, method, params, extend))
            }
            Route::Hold => {
                let call = (Some((id, span)), time.deadline);
                self.hold(call, method, params)
            }
        };
        outcome.inspect_err(|_| self.calls.borrow_mut().take_back(id))?;
        Ok(id)
    }

    /// The remaining time, as it travels to a peer that understands it.
    #[inline]
    pub(super) fn remaining_ms(&self, deadline: Instant) -> Option<u64> {
        if deadline == Instant::NEVER || !self.link.peer_is_yue.get() {
            return None;
        }
        Some(whole_ms(time_left(deadline)))
    }

    pub(super) fn method_of<'a>(&self, target: Target<'a>) -> Result<Method<'a>, Error> {
        match target {
            Target::Name(name) => Ok(Method::Name(name)),
            Target::Reference(reference) if reference.is_of(self) => {
                Ok(Method::Reference(reference.id()))
            }
            Target::Reference(_) => Err(stale_reference()),
        }
    }

    /// The route of a message to `target`. Starts connecting, and waits for room in the output, where necessary.
    #[inline]
    fn route(&self, target: &Target<'_>, time: &mut CallTime) -> Result<Route, Error> {
        if self.phase.get() == Phase::Up {
            if self.calls_must_wait() {
                time.left = None;
                self.wait_for_room(Writes::Call, time.deadline)?;
                return self.route_otherwise(target);
            }
            return Ok(Route::Write);
        }
        self.route_otherwise(target)
    }

    #[cold]
    pub(super) fn route_otherwise(&self, target: &Target<'_>) -> Result<Route, Error> {
        let early = || matches!(target, Target::Reference(function) if function.is_of(self));
        match (self.phase.get(), self.role) {
            (Phase::Up, _) | (Phase::Accepting, Role::Accepted) => Ok(Route::Write),
            (Phase::Accepting, Role::Opened) if self.in_own_handshake() => Ok(Route::Write),
            // The server passed it in one of its own calls, and waits for the outcome of that.
            (Phase::Greeting, Role::Opened) if early() => Ok(Route::Write),
            (Phase::Idle, Role::Opened) => {
                self.start_connecting();
                Ok(Route::Hold)
            }
            (
                Phase::Connecting | Phase::Greeting | Phase::Accepting | Phase::Ending,
                Role::Opened,
            ) => Ok(Route::Hold),
            // A link that ends because of the peer's behaviour; the next one may be better.
            (Phase::Draining, Role::Opened) if !self.ends_for_good() => Ok(Route::Hold),
            _ => Err(self.closed_error()),
        }
    }

    /// Whether the calling fiber runs this session's `on_accept`, or was spawned by that fiber.
    fn in_own_handshake(&self) -> bool {
        in_fiber()
            && RequestContext::current().is_some_and(|context| {
                let session = context.session.borrow();
                context.handshake.get()
                    && session
                        .as_ref()
                        .is_some_and(|other| std::ptr::eq(&raw const **other, self))
            })
    }

    /// Waits for the outcome of a call and frees its slot. The session outlives the wait, because the caller holds it.
    fn wait_for_answer(&self, id: u32, deadline: Instant) -> Result<Response, Error> {
        loop {
            let waker = prepare_park();
            if !self.calls.borrow_mut().set_waker(id, waker) {
                let outcome = self.calls.borrow_mut().take_outcome(id);
                return outcome.unwrap_or_else(|| Err(self.closed_error()));
            }
            let ended = park_until("the answer of a remote call", Some(deadline));
            let outcome = self.calls.borrow_mut().take_outcome(id);
            if let Some(outcome) = outcome {
                return outcome;
            }
            match ended {
                Ok(Wakeup::Woken) => {}
                Ok(Wakeup::TimedOut) | Err(Stopped::Deadline) => {
                    let given_up = self.give_up_quietly(id);
                    let written = given_up.is_none_or(|(written, _)| written);
                    return Err(self.timed_out(deadline, written));
                }
                Err(stopped) => {
                    self.give_up_quietly(id);
                    return Err(stopped.into());
                }
            }
        }
    }

    /// The call's time ended before it could be made: it counts as an ordinary timeout, and the call has not run.
    #[cold]
    fn note_early_timeout(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Timeout {
            return error;
        }
        self.note_timeout();
        Error::retryable(ErrorKind::Timeout, error.message())
    }

    /// The peer's own `TimeoutError` may arrive first, since it counts from the same remaining time. If the local
    /// deadline has passed too, the call itself timed out, and this side reports it as its own timeout.
    #[cold]
    fn note_late_answer(&self, error: Error, deadline: Instant) -> Error {
        match &error {
            Error::Remote(remote) if remote.kind() == ErrorKind::Timeout && is_past(deadline) => {
                self.timed_out(deadline, true)
            }
            _ => error,
        }
    }

    /// Counts a call that timed out, and schedules the hook.
    fn note_timeout(&self) {
        count(&self.counters.timeouts);
        if self.service.hooks.wants(Moment::Timeout)
            && let Some(session) = self.session()
        {
            let _ = self.spawn_hook("rpc on_timeout", move || {
                session.inner.service.hooks.on_timeout(&session)
            });
        }
    }

    /// A call that was still held when its time ended has not run.
    fn timed_out(&self, deadline: Instant, written: bool) -> Error {
        self.note_timeout();
        let text = match self.phase.get() {
            Phase::Up if self.link.is_datagram.get() => format!(
                "{} did not answer in time; the call or its answer may have been lost",
                self.address
            ),
            Phase::Up => format!("{} did not answer in time", self.address),
            _ => self.not_ready(),
        };
        let ran_out_by = now().saturating_since(deadline);
        debug_assert!(ran_out_by.as_secs() < 3600, "a call's deadline is watched");
        if written {
            Error::new(ErrorKind::Timeout, text)
        } else {
            Error::retryable(ErrorKind::Timeout, text)
        }
    }

    /// Describes that the connection did not come up in time, and why the last attempt failed.
    fn not_ready(&self) -> String {
        let text = format!("the connection to {} was not ready in time", self.address);
        match self.connector.last_trouble() {
            Some(trouble) => format!("{text}: {trouble}"),
            // The link is up, and the greeting was sent.
            None if self.phase.get() == Phase::Greeting => format!(
                "{text}: it was accepted, and nothing answers yue's greeting; is it a msgpack-rpc server?"
            ),
            None => text,
        }
    }

    /// No caller waits for the call any more: notifies the peer, or removes the call if it was held. Returns whether it
    /// had been written, and who waited.
    fn give_up_quietly(&self, id: u32) -> Option<(bool, Waiter)> {
        let (written, waiter) = self.calls.borrow_mut().abandon(id)?;
        if written {
            self.send_cancel(id);
        } else {
            self.drop_queued();
        }
        Some((written, waiter))
    }

    fn give_up(&self, id: u32, error: impl FnOnce(bool) -> Error) -> bool {
        if !self.calls.borrow_mut().is_waiting(id) {
            return false;
        }
        match self.give_up_quietly(id) {
            Some((written, Waiter::Callback(callback))) => callback(Err(error(written))),
            Some((written, Waiter::Each(each))) => each(None, Err(error(written))),
            Some((_, Waiter::Fiber(Some(waker)))) => drop(waker.wake()),
            _ => {}
        }
        true
    }

    fn arm_call_timer(&self, id: u32, deadline: Instant) {
        let mut calls = self.calls.borrow_mut();
        let timer = calls.timer(id, |index| {
            let this = self.this.clone();
            Timer::new(move || {
                if let Some(inner) = this.upgrade() {
                    inner.on_call_timer(index);
                }
            })
        });
        if let Some(timer) = timer {
            timer.arm(deadline);
        }
    }

    /// The slot's present call is the one that timed out: a slot's timer is cancelled with its call.
    fn on_call_timer(&self, index: u32) {
        let id = self.calls.borrow().id_at(index);
        let takes_many = |id| self.calls.borrow_mut().takes_many(id);
        if let Some(id) = id.filter(|id| takes_many(*id)) {
            // No failure: nobody knows how many would answer.
            let text = "the time for answers has passed";
            self.give_up(id, |_| Error::new(ErrorKind::Timeout, text));
        } else if let Some(id) = id {
            self.give_up(id, |written| self.timed_out(now(), written));
        }
    }

    /// Fails waiting calls: only those that were written, or all.
    pub(super) fn fail_calls(&self, only_written: bool, error: impl Fn() -> Error) {
        let ids = self.calls.borrow_mut().drain_ids(only_written);
        for id in ids {
            let completed = self.calls.borrow_mut().complete(id, Err(error()));
            completed.deliver();
        }
    }
}

/// The deadline of the calls of a fiber whose context is not a request, and whether they inherit.
#[cold]
fn limit_in_trace(context: &dyn Any) -> (Instant, bool) {
    let request = inherited::request_of(context);
    let limit = request.map_or(Instant::NEVER, |request| request.limit_of_calls());
    (limit, context.is::<Traced>())
}

/// Appends the map of extensions of a call that inherits.
#[inline(never)]
fn extend_inherited(out: &mut Vec<u8>, remaining_ms: Option<u64>, span: &CallSpan) {
    let mut inherited = Inherited::current();
    span.join_trace(&mut inherited);
    inherited.encode(out, remaining_ms);
}

/// Milliseconds, rounded up, in 64 bits: a division of 128 bits would be a function call.
fn whole_ms(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1000);
    whole.saturating_add(u64::from(duration.subsec_nanos().div_ceil(1_000_000)))
}
