//! Traces: the requests that have ended and that a tool wants to see, in a ring for each tool.

use super::{ServedCall, TRACE_MAX, TRACES_MAX};
use std::collections::VecDeque;
use std::time::Duration;
use yue_scheduler::Instant;

/// The requests that a trace is to have: those that fulfil all conditions.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::inspect::calls::TraceFilter;
///
/// let slow = TraceFilter { slower_than: Duration::from_millis(100), ..TraceFilter::default() };
/// assert!(slow.wants("world.join", Duration::from_secs(1), None));
/// assert!(!slow.wants("world.join", Duration::from_millis(1), None));
/// let named = TraceFilter { method: Some("world.*".into()), ..TraceFilter::default() };
/// assert!(named.wants("world.join", Duration::ZERO, None));
/// assert!(!named.wants("worlds", Duration::ZERO, None));
/// ```
#[derive(Debug, Clone, Default)]
pub struct TraceFilter {
    /// The method's name. A `*` stands for any text.
    pub method: Option<Box<str>>,
    /// Only requests that took longer.
    pub slower_than: Duration,
    /// Only requests that failed.
    pub errors_only: bool,
}

impl TraceFilter {
    /// Whether the trace is to have a request with that method, time and type of error.
    pub fn wants(&self, method: &str, duration: Duration, error: Option<&str>) -> bool {
        let is_slow = self.slower_than.is_zero() || duration > self.slower_than;
        let named = |pattern: &str| matches(pattern.as_bytes(), method.as_bytes());
        is_slow
            && (error.is_some() || !self.errors_only)
            && self.method.as_deref().is_none_or(named)
    }
}

/// Whether the pattern stands for the whole text. Only the last `*` is ever made longer: the text that the earlier ones
/// took need not change. So it takes at most the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut in_pattern, mut in_text) = (0, 0);
    // The position after the last `*`, and the end of the text that it took.
    let mut star: Option<(usize, usize)> = None;
    while in_text < text.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                in_pattern += 1;
                star = Some((in_pattern, in_text));
            }
            Some(byte) if *byte == text[in_text] => {
                in_pattern += 1;
                in_text += 1;
            }
            _ => {
                let Some((after_star, taken)) = star else {
                    return false;
                };
                star = Some((after_star, taken + 1));
                (in_pattern, in_text) = (after_star, taken + 1);
            }
        }
    }
    pattern[in_pattern..].iter().all(|byte| *byte == b'*')
}

struct Trace {
    token: u64,
    wanted: TraceFilter,
    until: Instant,
    calls: VecDeque<ServedCall>,
    dropped: u64,
}

/// The traces of a loop.
#[derive(Default)]
pub(super) struct Traces(Vec<Trace>);

impl Traces {
    pub(super) fn take(
        &mut self,
        token: u64,
        wanted: &TraceFilter,
        until: Instant,
        max: usize,
    ) -> (Vec<ServedCall>, u64) {
        let Some(trace) = self.0.iter_mut().find(|trace| trace.token == token) else {
            self.begin(token, wanted.clone(), until);
            return (Vec::new(), 0);
        };
        trace.until = until;
        let dropped = std::mem::take(&mut trace.dropped);
        let count = trace.calls.len().min(max);
        (trace.calls.drain(..count).collect(), dropped)
    }

    fn begin(&mut self, token: u64, wanted: TraceFilter, until: Instant) {
        if self.0.len() >= TRACES_MAX {
            // The one that would end next has probably been forgotten by its tool.
            let next = (0..self.0.len()).min_by_key(|index| self.0[*index].until);
            next.map(|index| self.0.swap_remove(index));
        }
        self.0.push(Trace {
            token,
            wanted,
            until,
            calls: VecDeque::new(),
            dropped: 0,
        });
    }

    /// Whether any trace wants the request.
    pub(super) fn want(&self, method: &str, duration: Duration, error: Option<&str>) -> bool {
        let mut traces = self.0.iter();
        traces.any(|trace| trace.wanted.wants(method, duration, error))
    }

    /// Adds a request to the traces that want it. The oldest one of a full trace is dropped.
    pub(super) fn add(&mut self, call: &ServedCall, now: Instant) {
        self.0.retain(|trace| trace.until >= now);
        for trace in &mut self.0 {
            let wanted = &trace.wanted;
            if !wanted.wants(&call.method, call.duration, call.error.as_deref()) {
                continue;
            }
            if trace.calls.len() >= TRACE_MAX {
                trace.calls.pop_front();
                trace.dropped += 1;
            }
            trace.calls.push_back(call.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "join"),
            ("join", "join"),
            ("world.*", "world."),
            ("world.*", "world.player.join"),
            ("*.join", "world.join.join"),
            ("*o*d*", "world"),
            ("w**d", "wd"),
            ("*ab", "aaab"),
        ] {
            assert!(
                matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "join"),
            ("join", "joined"),
            ("joined", "join"),
            ("world.*", "world"),
            ("*.join", "world.join.x"),
            ("*x*", "world"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        let (pattern, text) = ("*a".repeat(50) + "b", "a".repeat(2000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
