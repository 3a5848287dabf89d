//! Stands in for `spans.rs` where the feature `tracing` is off: nothing is stored, and nothing is done.

use super::call::Target;
use super::inherited::Inherited;
use super::inner::{Inner, RequestContext};
use super::service::Call;
use crate::error::Error;

/// The span of a call that this side makes.
#[derive(Clone)]
pub(super) struct CallSpan;

impl CallSpan {
    #[inline(always)]
    pub(super) fn new(_: &Inner, _: &Target<'_>) -> CallSpan {
        CallSpan
    }

    #[inline(always)]
    pub(super) fn enter<R>(&self, call: impl FnOnce() -> R) -> R {
        call()
    }

    #[inline(always)]
    pub(super) fn number(&self, _: u32) {}

    #[inline(always)]
    pub(super) fn join_trace(&self, _: &mut Inherited) {}

    #[inline(always)]
    pub(super) fn end(&self, _: Option<&Error>) {}
}

/// The span of a request that this side serves.
pub(super) struct RequestSpan;

impl RequestSpan {
    #[inline(always)]
    pub(super) fn new(_: &Call, _: &RequestContext) -> RequestSpan {
        RequestSpan
    }

    #[inline(always)]
    pub(super) fn enter<R>(&self, serve: impl FnOnce() -> R) -> R {
        serve()
    }

    #[inline(always)]
    pub(super) fn end(&self, _: &RequestContext) {}
}

/// The outcome of a request.
#[derive(Default)]
pub(super) struct Outcome(());

impl Outcome {
    #[inline(always)]
    pub(super) fn begin(&self) {}

    #[inline(always)]
    pub(super) fn fail(&self, _: &str) {}
}
