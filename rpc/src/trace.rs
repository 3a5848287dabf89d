//! Traces and call chains: what a call inherits from the request whose handler makes it.
//!
//! A *trace* begins where a program says so ([`with`]): for example, at an HTTP request that came with a
//! [`traceparent` header](https://www.w3.org/TR/trace-context/). All calls that are made for it carry it, handlers
//! inherit it, and so do their calls: log lines of all processes can be found by one id. A trace that nobody began is
//! not sent.
//!
//! A *call chain* is the calls that are made by handlers, by the handlers of those calls, and so on. It has a number
//! from the first of these calls on. Two handlers of one chain that wait in one process mean that a call has come back:
//! if one of them waits for something that the other has, it waits for itself.
//!
//! ```
//! use yue_rpc::Error;
//! use yue_rpc::trace::{self, TraceParent};
//! use yue_rpc::typed::{Client, Server};
//!
//! yue_io::run(|| -> Result<(), Error> {
//!     let trace = |()| Ok(trace::current().map(|trace| trace.to_string()));
//!     let listener = Server::new().handler("trace", trace).listen("tcp://127.0.0.1:0")?;
//!     let client = Client::open(&listener.address().to_string())?;
//!     assert_eq!(client.call::<_, Option<String>>("trace", ())?, None);
//!
//!     let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//!     let begun = header.parse().unwrap_or_else(|_| TraceParent::begin());
//!     let seen: Option<String> = trace::with(begun, || client.call("trace", ()))?;
//!     assert_eq!(seen.as_deref(), Some(header));
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::session::{RequestContext, inherited};
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::str::FromStr;
use yue_scheduler::{context, in_fiber, set_context, simulation};

/// The length of a trace's text: version, trace id, parent id and flags, in hexadecimal, and three hyphens.
const TEXT_BYTES: usize = 55;

/// The length of its form on the wire: trace id, parent id and flags.
pub(crate) const WIRE_BYTES: usize = 25;

/// The flags that version 00 defines (`sampled`), and `random` of its successor. Others must not be passed on.
const FLAGS: u8 = 0x03;

const SAMPLED: u8 = 0x01;

/// A trace, and the operation in it that calls: the `traceparent` of the
/// [W3C recommendation](https://www.w3.org/TR/trace-context/#traceparent-header). Its text is the value of that header.
///
/// ```
/// use yue_rpc::trace::TraceParent;
///
/// let trace: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".parse()?;
/// assert!(!trace.is_sampled() && TraceParent::begin().is_sampled());
/// assert!("00-00000000000000000000000000000000-b7ad6b7169203331-01".parse::<TraceParent>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// A text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct NotATrace;

impl TraceParent {
    /// Begins a trace, with random ids, which is sampled: whoever records traces should record it.
    pub fn begin() -> TraceParent {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&random().to_be_bytes());
        trace_id[8..].copy_from_slice(&random().to_be_bytes());
        TraceParent {
            trace_id,
            parent_id: random().to_be_bytes(),
            flags: SAMPLED,
        }
    }

    /// The same trace, with a new operation as the parent of what follows.
    #[cfg(feature = "tracing")]
    pub(crate) fn child(self) -> TraceParent {
        TraceParent {
            parent_id: random().to_be_bytes(),
            ..self
        }
    }

    /// The id of the whole trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the operation that calls.
    pub fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// Whether the trace should be recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(crate) fn to_wire(self) -> [u8; WIRE_BYTES] {
        let mut bytes = [0; WIRE_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent_id);
        bytes[24] = self.flags;
        bytes
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Option<TraceParent> {
        let (trace_id, rest) = bytes.split_first_chunk::<16>()?;
        let (parent_id, &[flags]) = rest.split_first_chunk::<8>()? else {
            return None;
        };
        let valid = *trace_id != [0; 16] && *parent_id != [0; 8];
        valid.then_some(TraceParent {
            trace_id: *trace_id,
            parent_id: *parent_id,
            flags: flags & FLAGS,
        })
    }
}

impl FromStr for TraceParent {
    type Err = NotATrace;

    /// Reads the header's value. A later version's is read as far as version 00 goes, as the recommendation says.
    fn from_str(text: &str) -> Result<TraceParent, NotATrace> {
        let text = text.as_bytes();
        let (known, more) = text.split_at_checked(TEXT_BYTES).ok_or(NotATrace)?;
        let hyphens = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let version = &known[..2];
        let ends = more.is_empty() || version != b"00" && more[0] == b'-';
        if !hyphens || !ends || version == b"ff" || hex::<1>(version).is_none() {
            return Err(NotATrace);
        }
        let mut bytes = [0; WIRE_BYTES];
        let parts = (
            hex::<16>(&known[3..35]),
            hex::<8>(&known[36..52]),
            hex::<1>(&known[53..]),
        );
        let (Some(trace_id), Some(parent_id), Some(flags)) = parts else {
            return Err(NotATrace);
        };
        bytes[..16].copy_from_slice(&trace_id);
        bytes[16..24].copy_from_slice(&parent_id);
        bytes[24] = flags[0];
        TraceParent::from_wire(&bytes).ok_or(NotATrace)
    }
}

/// Reads lower-case hexadecimal digits, two a byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let parent_id = u64::from_be_bytes(self.parent_id);
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

/// The number of a call chain, 48 random bits. Its text is hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallChain(NonZeroU64);

impl CallChain {
    const BITS: u32 = 48;

    pub(crate) fn begin() -> CallChain {
        // An odd number is not zero.
        let number = random() >> (u64::BITS - CallChain::BITS) | 1;
        CallChain(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    pub(crate) fn to_wire(self) -> u64 {
        self.0.get()
    }

    /// A number of the wire, if it is one.
    pub(crate) fn from_wire(number: u64) -> Option<CallChain> {
        let number = NonZeroU64::new(number)?;
        (number.get() >> CallChain::BITS == 0).then_some(CallChain(number))
    }
}

impl fmt::Display for CallChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// A number that is not zero, and random enough to tell things apart, by
/// [SplitMix64](https://prng.di.unimi.it/splitmix64.c).
pub(crate) fn random() -> u64 {
    thread_local!(static STATE: Cell<u64> = Cell::new(simulation::random_number()));
    loop {
        let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(state);
        let number = simulation::mix(state);
        if number != 0 {
            return number;
        }
    }
}

/// The context of a fiber inside [`with`].
pub(crate) struct Traced {
    pub(crate) trace: TraceParent,
    /// The request that the fiber works for, if it does for one.
    pub(crate) request: Option<Rc<RequestContext>>,
}

/// The trace of the calling fiber: that of the request whose handler it runs, or of [`with`]. Fibers that it spawns
/// inherit it. `None` outside fibers, and if nobody began a trace.
pub fn current() -> Option<TraceParent> {
    inherited::of_context(&*context()?).and_then(|inherited| inherited.trace)
}

/// Runs `f`: the calls in it, and those of fibers that it spawns, belong to `trace`.
///
/// # Panics
/// Outside a fiber.
pub fn with<R>(trace: TraceParent, f: impl FnOnce() -> R) -> R {
    /// Restores the fiber's context, also if `f` panics.
    struct Restore(Option<Rc<dyn Any>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_context(self.0.take());
        }
    }
    assert!(in_fiber(), "a trace belongs to a fiber; there is none here");
    let request = RequestContext::current();
    let _restore = Restore(set_context(Some(Rc::new(Traced { trace, request }))));
    f()
}

/// The call chain that the running handler belongs to. `None` outside handlers, and before the first call of a chain.
pub fn call_chain() -> Option<CallChain> {
    call_chain_of(&*context()?)
}

/// The call chain of another fiber, by its context.
pub fn call_chain_of(context: &dyn Any) -> Option<CallChain> {
    inherited::of_context(context).and_then(|inherited| inherited.chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written() {
        let trace: TraceParent = TEXT.parse().unwrap();
        assert_eq!(trace.to_string(), TEXT);
        assert!(trace.is_sampled());
        assert_eq!(TraceParent::from_wire(&trace.to_wire()), Some(trace));
        let later = TEXT.replace("00-0af", "cc-0af") + "-and-more";
        assert_eq!(later.parse(), Ok(trace));
        let flags: TraceParent = TEXT.replace("-01", "-fe").parse().unwrap();
        assert!(flags.to_string().ends_with("-02"), "{flags}");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let zeros = TEXT.replace("b7ad6b7169203331", "0000000000000000");
        let upper = TEXT.to_uppercase();
        let longer = format!("{TEXT}-x");
        let wrong = TEXT.replace("00-0af", "ff-0af");
        let odd = TEXT.replace("-b7", "_b7");
        for text in ["", "00", &TEXT[1..], &zeros, &upper, &longer, &wrong, &odd] {
            assert_eq!(text.parse::<TraceParent>(), Err(NotATrace), "{text}");
        }
        // A hyphen's place may lie inside a character.
        assert!("\u{20ac}".repeat(20).parse::<TraceParent>().is_err());
        assert_eq!(TraceParent::from_wire(&[0; WIRE_BYTES]), None);
        assert_eq!(TraceParent::from_wire(&[1; WIRE_BYTES - 1]), None);
        assert_eq!(TraceParent::from_wire(&[1; WIRE_BYTES + 1]), None);
    }

    #[test]
    fn ids_are_not_zero_and_differ() {
        let (a, b) = (TraceParent::begin(), TraceParent::begin());
        assert_ne!(a.trace_id(), b.trace_id());
        assert_eq!(a.to_string().parse(), Ok(a));
        let chain = CallChain::begin();
        assert_eq!(CallChain::from_wire(chain.to_wire()), Some(chain));
        assert_eq!(chain.to_string().len(), 12);
        assert_eq!(CallChain::from_wire(0), None);
        assert_eq!(CallChain::from_wire(1 << 48), None);
    }
}
