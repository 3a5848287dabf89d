//! The trace and the call chain of [`crate::trace`], on their way between the context of a fiber and the calls that it
//! makes.
//!
//! ```text
//!   handler's context ── Inherited::current ──▶ fifth element of its calls ── Inner::inherit ──▶ context over there
//! ```
//!
//! A call that no handler makes, outside `trace::with`, inherits nothing, and pays for nothing.

use super::inner::{Inner, RequestContext};
use super::options::count;
use super::state::inbox::Request;
use crate::proto::encode;
use crate::proto::value::Reader;
use crate::trace::{CallChain, TraceParent, Traced};
use std::any::Any;
use std::rc::Rc;
use yue_scheduler::context;

/// The ids that the calls of a fiber inherit.
#[derive(Clone, Copy, Default)]
pub(crate) struct Inherited {
    pub(crate) trace: Option<TraceParent>,
    pub(crate) chain: Option<CallChain>,
}

/// The ids that the calls of a fiber with that context inherit.
pub(crate) fn of_context(context: &dyn Any) -> Option<Inherited> {
    let (trace, request) = match context.downcast_ref::<Traced>() {
        Some(traced) => (Some(traced.trace), traced.request.as_deref()),
        None => (None, Some(context.downcast_ref::<RequestContext>()?)),
    };
    Some(Inherited {
        trace: trace.or_else(|| request?.trace.get()),
        chain: request.and_then(|request| request.chain.get()),
    })
}

/// The request that a fiber works for, if its context is not the request itself.
#[cold]
pub(crate) fn request_of(context: &dyn Any) -> Option<Rc<RequestContext>> {
    context.downcast_ref::<Traced>()?.request.clone()
}

impl Inherited {
    /// The ids that a call of the calling fiber inherits. The first call of a handler that was not itself called by a
    /// handler begins a chain.
    pub(super) fn current() -> Inherited {
        let Some(context) = context() else {
            return Inherited::default();
        };
        if let Some(request) = RequestContext::current()
            && request.chain.get().is_none()
            && !request.handshake.get()
        {
            request.chain.set(Some(CallChain::begin()));
        }
        of_context(&*context).unwrap_or_default()
    }

    /// Appends the map of extensions of a call that inherits.
    pub(super) fn encode(&self, out: &mut Vec<u8>, remaining_ms: Option<u64>) {
        let pairs = u8::from(remaining_ms.is_some())
            + u8::from(self.chain.is_some())
            + u8::from(self.trace.is_some());
        out.push(0x80 | pairs);
        if let Some(ms) = remaining_ms {
            encode::str(out, "t");
            encode::uint(out, ms);
        }
        if let Some(chain) = self.chain {
            encode::str(out, "c");
            encode::uint(out, chain.to_wire());
        }
        if let Some(trace) = self.trace {
            encode::str(out, "tp");
            encode::bin(out, &trace.to_wire());
        }
    }
}

impl Inner {
    /// Puts what a request inherits into its context. Values that make no sense are ignored: a call does
    /// not fail because of them.
    #[cold]
    pub(super) fn inherit(&self, context: &RequestContext, request: &Request) {
        let mut reader = Reader::new(request.slice(request.extensions));
        for _ in 0..reader.read_map().unwrap_or(0) {
            let sense = match reader.read_bytes() {
                Some(b"c") => reader.read_uint().map(|number| {
                    context.chain.set(CallChain::from_wire(number));
                    context.chain.get().is_some()
                }),
                Some(b"tp") => reader.read_bytes().map(|bytes| {
                    context.trace.set(TraceParent::from_wire(bytes));
                    context.trace.get().is_some()
                }),
                // The remaining time, which was read when the request arrived.
                Some(b"t") if reader.read_uint().is_some() => Some(true),
                Some(_) => reader.skip().map(|()| true),
                None => reader.skip().and_then(|()| reader.skip()).map(|()| true),
            };
            if sense == Some(true) {
                continue;
            }
            count(&self.counters.traces_ignored);
            // A value of another type is still there.
            if sense.is_none() && reader.skip().is_none() {
                return;
            }
        }
    }
}
