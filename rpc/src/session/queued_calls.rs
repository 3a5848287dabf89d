//! Calls that wait for the link to come up and be granted, whole but for what only the link decides: msgid, remaining
//! time, and the references among the arguments, which are counted when they go on the wire.

use super::Inner;
use super::options::count;
use super::references::stale_reference;
use crate::error::{Error, ErrorKind};
use crate::proto::Method;
use crate::proto::encode;
use std::collections::VecDeque;
use yue_scheduler::Instant;

pub(super) struct QueuedCall {
    /// `None`: a notification.
    pub(super) id: Option<u32>,
    pub(super) deadline: Instant,
    /// Method and arguments.
    pub(super) body: Vec<u8>,
    /// References among the arguments: (id, token).
    pub(super) exports: Vec<(u64, u64)>,
    /// The link to which the functions of the peer belong that the call names, if it names any.
    link: Option<u32>,
}

#[derive(Default)]
pub(super) struct QueuedCalls {
    calls: VecDeque<QueuedCall>,
    bytes: usize,
    /// Calls among them that were given up.
    dead: usize,
    /// Calls among them that name functions of the peer.
    naming_imports: usize,
}

/// What a held call costs beside its bytes.
const OVERHEAD_BYTES: usize = 64;

impl Inner {
    /// Encodes a call now, to be written later.
    #[cold]
    pub(super) fn hold(
        &self,
        id: Option<u32>,
        deadline: Instant,
        method: Method<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let mut body = Vec::new();
        self.references.borrow_mut().hold_exports(true);
        let encoded = encode::method_and_params(&mut body, method, params);
        let call = {
            let mut references = self.references.borrow_mut();
            let names_imports =
                references.names_imports() || matches!(method, Method::Reference(_));
            references.hold_exports(false);
            QueuedCall {
                id,
                deadline,
                body,
                exports: references.take_held_exports(),
                link: names_imports.then(|| self.link.epoch.get()),
            }
        };
        if let Err(error) = encoded.and_then(|()| self.admit_queued(call.body.len())) {
            self.drop_exports(&call.exports);
            return Err(error);
        }
        count(&self.counters.calls_held);
        self.queued_calls.borrow_mut().push(call);
        Ok(())
    }

    fn admit_queued(&self, length: usize) -> Result<(), Error> {
        if length > self.options.limits.message_bytes_max {
            return Err(self.too_large(length));
        }
        let limit = self.options.limits.held_bytes_max;
        if self.queued_calls.borrow().bytes + length + OVERHEAD_BYTES > limit {
            count(&self.counters.refused_held);
            let text = format!(
                "calls of {limit} bytes, the limit, wait for the connection to {}",
                self.address
            );
            return Err(Error::retryable(ErrorKind::MessageRefused, text));
        }
        Ok(())
    }

    /// Writes what was held, in the order in which it was called.
    pub(super) fn write_queued_calls(&self) {
        loop {
            let next = self.queued_calls.borrow_mut().pop();
            let Some(call) = next else { break };
            if let Err(error) = self.write_queued_call(&call)
                && let Some(id) = call.id
            {
                let completed = self.calls.borrow_mut().complete(id, Err(error));
                completed.deliver();
            }
        }
    }

    fn write_queued_call(&self, call: &QueuedCall) -> Result<(), Error> {
        let refusal = if call.link.is_some_and(|link| link != self.link.epoch.get()) {
            Some(stale_reference())
        } else if !call.exports.is_empty() && !self.link.peer_is_yue.get() {
            let text = "the other side is no yue: it cannot be given functions";
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
        self.write(|out| {
            encode::request_head(out, id, remaining.is_some());
            out.extend_from_slice(&call.body);
            if let Some(ms) = remaining {
                encode::remaining_time(out, ms);
            }
            Ok(())
        })
    }

    /// A held call was given up. It is taken out when half of them are dead, so that each costs a constant share.
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

    /// Fails all that is held, and all other calls that wait.
    pub(super) fn fail_queued(&self, error: impl Fn() -> Error) {
        let queued = self.queued_calls.take();
        for call in &queued.calls {
            self.drop_exports(&call.exports);
        }
        self.fail_calls(false, error);
    }

    /// Tells the program that these functions did not go out after all.
    fn drop_exports(&self, exports: &[(u64, u64)]) {
        if !exports.is_empty() {
            let unused = self.references.borrow_mut().forget_held(exports);
            if !unused.is_empty() {
                self.service.dispatch.release(&unused);
            }
        }
    }
}

impl QueuedCalls {
    fn push(&mut self, call: QueuedCall) {
        self.bytes += call.body.len() + OVERHEAD_BYTES;
        self.naming_imports += usize::from(call.link.is_some());
        self.calls.push_back(call);
    }

    fn pop(&mut self) -> Option<QueuedCall> {
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

    /// Whether a call among them names functions of the peer.
    #[inline]
    pub(super) fn name_imports(&self) -> bool {
        self.naming_imports != 0
    }
}
