//! `tracing` spans that follow the fiber that entered them (feature `tracing`).
//!
//! `tracing` keeps entered spans on a stack for each thread. Without this module, fibers on one thread would see each
//! other's spans. A fiber that leaves the processor exits its spans, innermost first, and enters them again in the old
//! order when it resumes.
//!
//! The subscriber reports only the innermost span that the thread is in. That span is recorded before a fiber is
//! resumed; spans above it, when the fiber leaves, belong to the fiber. The spans below belong to the code that runs
//! the loop, and are not touched. If a fiber enters a span that the loop already runs in, that entry counts as the
//! loop's and stays in place.

use super::header::Header;
use super::hook::during_switch;
use smallvec::SmallVec;
use std::cell::Cell;
use std::num::NonZeroU64;
use tracing_core::Dispatch;
use tracing_core::dispatcher::get_default;
use tracing_core::span::Id;

thread_local! {
    /// The innermost span that the thread was in when its loop resumed the running fiber.
    static SURROUNDING: Cell<Option<NonZeroU64>> = const { Cell::new(None) };
}

/// Records the thread's own span before a fiber is resumed.
#[inline]
pub(crate) fn begin_turn() {
    SURROUNDING.set(get_default(current));
}

/// Exits spans that an ended fiber left open, such as one whose guard was leaked. Called on the loop.
pub(crate) fn exit_leftover_spans() {
    super::guarded("a tracing subscriber", || drop(exit_own_spans()));
}

/// The exited spans of a suspended fiber. Dropping it enters them again, even if the switch was refused.
pub(super) struct SuspendedSpans<'a> {
    header: &'a Header,
    exited: Option<Exited>,
}

/// Exits the spans that the running fiber has entered.
#[inline]
pub(super) fn leave(header: &Header) -> SuspendedSpans<'_> {
    let exited = during_switch(header, exit_own_spans);
    SuspendedSpans { header, exited }
}

impl Drop for SuspendedSpans<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(exited) = self.exited.take() {
            during_switch(self.header, || exited.reenter());
        }
    }
}

/// Exited spans, innermost first, and their subscriber. Holds them open.
struct Exited {
    subscriber: Dispatch,
    spans: SmallVec<[Id; 4]>,
}

impl Exited {
    fn reenter(&self) {
        for span in self.spans.iter().rev() {
            self.subscriber.enter(span);
        }
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        for span in self.spans.drain(..) {
            self.subscriber.try_close(span);
        }
    }
}

fn exit_own_spans() -> Option<Exited> {
    let surrounding = SURROUNDING.get();
    // The subscriber is cloned and called outside `get_default`; inside, it would see no subscriber in force.
    let subscriber = get_default(|subscriber| {
        let own = current(subscriber).filter(|span| Some(*span) != surrounding);
        own.map(|_| subscriber.clone())
    })?;
    let mut exited = Exited {
        subscriber,
        spans: SmallVec::new(),
    };
    while let Some(span) = current(&exited.subscriber).filter(|span| Some(*span) != surrounding) {
        let span = exited.subscriber.clone_span(&Id::from_non_zero_u64(span));
        exited.subscriber.exit(&span);
        exited.spans.push(span);
    }
    Some(exited)
}

fn current(subscriber: &Dispatch) -> Option<NonZeroU64> {
    let current = subscriber.current_span();
    current.id().map(Id::into_non_zero_u64)
}
