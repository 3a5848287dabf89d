//! The `tracing` spans that a fiber has entered follow it (feature `tracing`).
//!
//! `tracing` keeps entered spans on a stack for each thread. Without this, fibers that take turns on a thread would see
//! each other's spans. So a fiber that leaves the processor exits its spans, the innermost first, and enters them again
//! in the old order when it comes back.
//!
//! The subscriber tells only the innermost span that the thread is in. That is noted before a fiber is resumed; what
//! lies above it, when the fiber leaves, is the fiber's. The spans below belong to whoever runs the loop, and see none
//! of this. So a fiber's entry into a span that the loop runs in already counts as the loop's, and is left in place.

use super::header::Header;
use super::hook::during_switch;
use smallvec::SmallVec;
use std::cell::Cell;
use std::num::NonZeroU64;
use tracing_core::Dispatch;
use tracing_core::dispatcher::get_default;
use tracing_core::span::Id;

thread_local! {
    /// The innermost span that the thread was in when its loop resumed the fiber that runs.
    static SURROUNDING: Cell<Option<NonZeroU64>> = const { Cell::new(None) };
}

/// Notes the thread's own span before a fiber is resumed.
#[inline]
pub(crate) fn begin_turn() {
    SURROUNDING.set(get_default(current));
}

/// Exits what a fiber that is over has left open, such as a guard that it forgot. Called on the loop.
pub(crate) fn clean_up() {
    super::guarded("a tracing subscriber", || drop(exit_own_spans()));
}

/// The spans of a fiber that is away; they are entered again when this is dropped, also if the switch was refused.
pub(super) struct Away<'a> {
    header: &'a Header,
    exited: Option<Exited>,
}

/// Exits the spans that the running fiber has entered.
#[inline]
pub(super) fn leave(header: &Header) -> Away<'_> {
    let exited = during_switch(header, exit_own_spans);
    Away { header, exited }
}

impl Drop for Away<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(exited) = self.exited.take() {
            during_switch(self.header, || exited.enter_again());
        }
    }
}

/// Spans, the innermost first, and the subscriber whose they are. Holds them open.
struct Exited {
    subscriber: Dispatch,
    spans: SmallVec<[Id; 4]>,
}

impl Exited {
    fn enter_again(&self) {
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
    // The subscriber is cloned, and called outside `get_default`: in there, it would itself find none in force.
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
