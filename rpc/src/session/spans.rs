//! Spans of the crate `tracing` (feature `tracing`): one for each call that this side makes, one for each request that
//! it serves.
//!
//! Both have the target `yue_rpc` and the fields `method`, `peer`, `msgid`, `outcome` (`ok`, or the error's type) and
//! `traceparent`. A fiber that waits for its call is in the call's span, and a handler runs in its request's; the
//! scheduler makes spans follow their fibers. In a trace, a call whose span is recorded gets a parent id of its own, so
//! that `traceparent` has one value in the call's span, in the span of the request over there, and in no other.
//!
//! `no_spans.rs` has the same items for builds without the feature.

use super::call::Target;
use super::inherited::Inherited;
use super::inner::{Inner, RequestContext};
use super::request::CallMethod;
use super::service::Call;
use crate::error::Error;
use crate::text::quoted;
use std::cell::RefCell;
use tracing::field::{Empty, display};
use tracing::subscriber::NoSubscriber;
use tracing::{Span, dispatcher, info_span};

/// The name of what is called if it is a function that was passed as a value.
const FUNCTION: &str = "a passed function";

const OK: &str = "ok";

/// The span of a call that this side makes.
#[derive(Clone)]
pub(super) struct CallSpan(Span);

impl CallSpan {
    pub(super) fn new(session: &Inner, target: &Target<'_>) -> CallSpan {
        let span = info_span!(
            target: "yue_rpc",
            "call",
            method = Empty,
            peer = %session.address,
            msgid = Empty,
            outcome = Empty,
            traceparent = Empty,
        );
        if !span.is_disabled() {
            match target {
                Target::Name(name) => span.record("method", display(quoted(name))),
                Target::Reference(_) => span.record("method", FUNCTION),
            };
        }
        CallSpan(span)
    }

    /// Makes the call in the span.
    pub(super) fn enter<R>(&self, call: impl FnOnce() -> R) -> R {
        self.0.in_scope(call)
    }

    /// The call has its msgid.
    pub(super) fn number(&self, msgid: u32) {
        self.0.record("msgid", msgid);
    }

    /// Makes the call the parent of what follows from it, if it is in a trace and is recorded.
    pub(super) fn join_trace(&self, inherited: &mut Inherited) {
        // A span is not disabled, although this thread has no subscriber, if the subscribers of all other threads want
        // all spans of this place: their interest is remembered for the process.
        let has_subscriber = !dispatcher::get_default(|this| this.is::<NoSubscriber>());
        if self.0.is_disabled() || !has_subscriber {
            return;
        }
        inherited.trace = inherited.trace.map(|trace| trace.child());
        if let Some(trace) = inherited.trace {
            self.0.record("traceparent", display(trace));
        }
    }

    /// The call has its outcome.
    pub(super) fn end(&self, error: Option<&Error>) {
        let outcome = error.map_or(OK, |error| error.kind().name());
        self.0.record("outcome", outcome);
    }
}

/// The span of a request that this side serves.
pub(super) struct RequestSpan(Span);

impl RequestSpan {
    pub(super) fn new(call: &Call, context: &RequestContext) -> RequestSpan {
        let span = info_span!(
            target: "yue_rpc",
            "request",
            method = Empty,
            peer = %call.session().address(),
            msgid = Empty,
            outcome = Empty,
            traceparent = Empty,
        );
        if !span.is_disabled() {
            match call.method() {
                CallMethod::Name(name) => span.record("method", display(quoted(name))),
                CallMethod::Token(_) => span.record("method", FUNCTION),
            };
            if let Some(msgid) = call.request.msgid {
                span.record("msgid", msgid);
            }
            if let Some(trace) = context.trace.get() {
                span.record("traceparent", display(trace));
            }
        }
        RequestSpan(span)
    }

    /// Serves the request in the span.
    pub(super) fn enter<R>(&self, serve: impl FnOnce() -> R) -> R {
        self.0.in_scope(serve)
    }

    /// The handler has ended.
    pub(super) fn end(&self, context: &RequestContext) {
        if !self.0.is_disabled() {
            let failed = context.outcome.0.borrow();
            self.0.record("outcome", failed.as_deref().unwrap_or(OK));
        }
    }
}

/// The outcome of a request: the type of its error, if it failed.
#[derive(Default)]
pub(super) struct Outcome(RefCell<Option<String>>);

impl Outcome {
    /// The next request begins.
    pub(super) fn begin(&self) {
        self.0.take();
    }

    pub(super) fn fail(&self, type_name: &str) {
        *self.0.borrow_mut() = Some(type_name.to_owned());
    }
}
