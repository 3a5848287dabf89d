//! Calls that wait for the link to come up and be granted. They are complete except for what depends on the link:
//! msgid, remaining time, and the references among the arguments, which are counted when the call is written. Timed
//! notifications that wait for room in the output (`backlog.rs`) wait in the same form.

use super::inherited::Inherited;
use super::inner::Inner;
use super::options::count;
use super::references::stale_reference;
use super::spans::CallSpan;
use super::state::queued_calls::{OVERHEAD_BYTES, QueuedCall, QueuedCalls};
use super::state::references::SetAside;
use crate::error::{Error, ErrorKind};
use crate::proto::Method;
use crate::proto::encode;
use std::cell::RefCell;
use yue_scheduler::{Instant, is_past};

/// Exists while an encoder runs whose message is not written yet. If the encoder panics, dropping this returns its
/// references.
struct Holding<'a> {
    session: &'a Inner,
    aside: Option<SetAside>,
}

impl<'a> Holding<'a> {
    fn begin(session: &'a Inner) -> Holding<'a> {
        let aside = Some(session.references.borrow_mut().begin_queued());
        Holding { session, aside }
    }

    /// Returns the references that the message holds.
    fn end(&mut self) -> Vec<(u64, u64)> {
        let mut references = self.session.references.borrow_mut();
        let aside = self.aside.take();
        aside.map_or_else(Vec::new, |aside| references.end_queued(aside))
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let exports = self.end();
        self.session.drop_exports(&exports);
    }
}

impl Inner {
    /// Encodes a call now, to write it when the link is up.
    #[cold]
    pub(super) fn hold(
        &self,
        call: (Option<(u32, &CallSpan)>, Instant),
        method: Method<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let limit = self.options.limits.held_bytes_max;
        let full = || {
            count(&self.counters.refused_held);
            let text = format!(
                "calls of {limit} bytes, the limit, wait for the connection to {}",
                self.address
            );
            Error::retryable(ErrorKind::QueueFull, text)
        };
        self.enqueue_call(&self.queued_calls, limit, full, call, method, params)?;
        count(&self.counters.calls_held);
        Ok(())
    }

    /// Encodes a call into one of the queues, whose bytes are limited.
    #[cold]
    pub(super) fn enqueue_call(
        &self,
        queue: &RefCell<QueuedCalls>,
        limit: usize,
        full: impl Fn() -> Error,
        (call, deadline): (Option<(u32, &CallSpan)>, Instant),
        method: Method<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        // A call that certainly finds no room need not be encoded.
        if !self.has_room_in(queue, limit, 0) {
            return Err(full());
        }
        let mut body = Vec::new();
        let mut holding = Holding::begin(self);
        let encoded = encode::method_and_params(&mut body, method, params);
        let names_imports =
            self.references.borrow().names_imports() || matches!(method, Method::Reference(_));
        let call = QueuedCall {
            id: call.map(|(id, _)| id),
            deadline,
            body,
            inherited: call.and_then(|(_, span)| inherited_by_queued(span)),
            exports: holding.end(),
            link: names_imports.then(|| self.link.epoch.get()),
        };
        let length = call.body.len();
        let admitted = encoded.and_then(|()| {
            if length > self.options.limits.message_bytes_max {
                return Err(self.too_large(length));
            }
            match self.has_room_in(queue, limit, length) {
                true => Ok(()),
                false => Err(full()),
            }
        });
        if let Err(error) = admitted {
            self.drop_exports(&call.exports);
            return Err(error);
        }
        queue.borrow_mut().push(call);
        Ok(())
    }

    /// Whether a queue has room for a call of that length, after expired notifications are removed.
    fn has_room_in(&self, queue: &RefCell<QueuedCalls>, limit: usize, length: usize) -> bool {
        // A call of the largest size always finds room in an empty queue.
        let fits = || {
            let bytes = queue.borrow().bytes;
            bytes == 0 || bytes + length + OVERHEAD_BYTES <= limit
        };
        if fits() {
            return true;
        }
        let expired = queue.borrow_mut().take_expired(is_past);
        for notification in &expired {
            self.drop_late(notification);
        }
        fits()
    }

    /// Writes the held calls, in the order in which they were made.
    pub(super) fn write_queued_calls(&self) {
        loop {
            let next = self.queued_calls.borrow_mut().pop();
            let Some(call) = next else { break };
            if call.expires() && is_past(call.deadline) {
                self.drop_late(&call);
            } else if let Err(error) = self.write_queued_call(&call)
                && let Some(id) = call.id
            {
                let completed = self.calls.borrow_mut().complete(id, Err(error));
                completed.deliver();
            }
        }
        self.forget_full();
    }

    pub(super) fn write_queued_call(&self, call: &QueuedCall) -> Result<(), Error> {
        let refusal = if call.link.is_some_and(|link| link != self.link.epoch.get()) {
            Some(stale_reference())
        } else if !call.exports.is_empty() && !self.link.peer_is_yue.get() {
            let text = self.why_no_functions();
            Some(Error::new(ErrorKind::Argument, text))
        } else {
            None
        };
        let given_up = (call.id).is_some_and(|id| !self.calls.borrow_mut().mark_written(id));
        if refusal.is_some() || given_up {
            self.drop_exports(&call.exports);
            return refusal.map_or(Ok(()), Err);
        }
        self.references.borrow_mut().export_held(&call.exports);
        self.write_body(call)
            .inspect_err(|_| self.release_exports(call.exports.iter().map(|&(id, _)| (id, 1))))
    }

    fn write_body(&self, call: &QueuedCall) -> Result<(), Error> {
        let Some(id) = call.id else {
            return self.write(|out| {
                out.extend_from_slice(&[0x93, 2]);
                out.extend_from_slice(&call.body);
                Ok(())
            });
        };
        let remaining = self.remaining_ms(call.deadline);
        let knows = self.link.peer_is_yue.get();
        let inherited = call.inherited.as_deref().filter(|_| knows);
        self.write(|out| {
            encode::request_head(out, id, remaining.is_some() || inherited.is_some());
            out.extend_from_slice(&call.body);
            match (inherited, remaining) {
                (Some(inherited), _) => inherited.encode(out, remaining),
                (None, Some(ms)) => encode::remaining_time(out, ms),
                (None, None) => {}
            }
            Ok(())
        })
    }

    /// A held call was given up. Dead calls are removed when they are half of all, so that each costs a constant share.
    pub(super) fn drop_queued(&self) {
        self.queued_calls.borrow_mut().dead += 1;
        let many = {
            let queued = self.queued_calls.borrow();
            queued.dead * 2 >= queued.calls.len()
        };
        if !many {
            return;
        }
        let calls = self.queued_calls.take().calls;
        let mut kept = QueuedCalls::default();
        for call in calls {
            if call
                .id
                .is_none_or(|id| self.calls.borrow_mut().is_waiting(id))
            {
                kept.push(call);
            } else {
                self.drop_exports(&call.exports);
            }
        }
        *self.queued_calls.borrow_mut() = kept;
    }

    /// Fails all held calls, and all other waiting calls.
    pub(super) fn fail_queued(&self, error: impl Fn() -> Error) {
        let queued = self.queued_calls.take();
        for call in &queued.calls {
            self.drop_exports(&call.exports);
        }
        self.fail_calls(false, error);
        self.drop_backlog();
    }

    /// Notifies the program that these functions were not sent after all.
    pub(super) fn drop_exports(&self, exports: &[(u64, u64)]) {
        if !exports.is_empty() {
            let unused = self.references.borrow_mut().forget_held(exports);
            if !unused.is_empty() {
                self.service.dispatch.release(&unused);
            }
        }
    }
}

/// The ids that a call which is queued now inherits.
fn inherited_by_queued(span: &CallSpan) -> Option<Box<Inherited>> {
    let mut inherited = Inherited::current();
    span.join_trace(&mut inherited);
    let any = inherited.chain.is_some() || inherited.trace.is_some();
    any.then(|| Box::new(inherited))
}
