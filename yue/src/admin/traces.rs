//! The method `trace`: the requests that have ended since a tool's previous question.
//!
//! A trace is named by a token. The loops keep its requests; this side keeps what it wants, and when it ends.

use super::ask::ask;
use super::calls::{CallLine, WATCH};
use super::fibers::{Offset, loops_from};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::time::Duration;
use yue_rpc::inspect::calls::{self, TraceFilter};
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::Instant;

/// Requests in an answer, unless the question says otherwise, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 10_000;

/// Requests that a loop lists at once: about 50 us.
const AT_ONCE: usize = 200;

/// Bytes of a pattern.
const PATTERN_MAX: usize = 200;

/// The arguments of `trace`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// The `token` of the previous answer. Without one a trace begins, of the requests that the next three describe.
    token: Option<u64>,
    method: Option<String>,
    slower_than_seconds: Option<f64>,
    errors: bool,
    limit: Option<usize>,
}

/// The answer of `trace`.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    token: u64,
    requests: Vec<CallLine>,
    /// Requests that were left out, for lack of room, since the previous answer.
    dropped: u64,
    /// The loops that do not answer, whose requests are missing.
    blocked: Vec<u32>,
}

struct Trace {
    token: u64,
    wanted: TraceFilter,
    until: Instant,
}

#[derive(Default)]
struct Traces {
    open: Vec<Trace>,
    last: u64,
}

thread_local! {
    static TRACES: RefCell<Traces> = RefCell::default();
}

fn refuse(kind: ErrorKind, text: String) -> Failure {
    Failure::of_kind(kind, text)
}

impl Query {
    fn filter(&self) -> Result<TraceFilter, Failure> {
        let argument = |text: String| refuse(ErrorKind::Argument, text);
        let seconds = self.slower_than_seconds.unwrap_or(0.0);
        let slower_than = Duration::try_from_secs_f64(seconds)
            .map_err(|_| argument(format!("slower_than_seconds is {seconds}: not a time")))?;
        if self
            .method
            .as_ref()
            .is_some_and(|text| text.len() > PATTERN_MAX)
        {
            let text = format!("the method is longer than {PATTERN_MAX} bytes");
            return Err(argument(text));
        }
        Ok(TraceFilter {
            method: self.method.as_deref().map(Box::from),
            slower_than,
            errors_only: self.errors,
        })
    }
}

impl Traces {
    /// Finds the trace of the question, or begins one.
    fn of(&mut self, query: &Query, now: Instant) -> Result<(u64, TraceFilter), Failure> {
        self.open.retain(|trace| trace.until >= now);
        let until = now.saturating_add(WATCH);
        if let Some(token) = query.token {
            let trace = self.open.iter_mut().find(|trace| trace.token == token);
            let trace = trace.ok_or_else(|| {
                let seconds = WATCH.as_secs();
                let text = format!("trace {token} has ended: ask at least every {seconds} s");
                refuse(ErrorKind::Argument, text)
            })?;
            trace.until = until;
            return Ok((token, trace.wanted.clone()));
        }
        if self.open.len() >= calls::TRACES_MAX {
            let text = format!("{} traces run already: end one", calls::TRACES_MAX);
            return Err(refuse(ErrorKind::ServerBusy, text));
        }
        let wanted = query.filter()?;
        self.last += 1;
        self.open.push(Trace {
            token: self.last,
            wanted: wanted.clone(),
            until,
        });
        Ok((self.last, wanted))
    }
}

pub(super) fn trace(query: &Query) -> Result<Answer, Failure> {
    let now = Instant::system();
    let (token, wanted) = TRACES.with_borrow_mut(|traces| traces.of(query, now))?;
    calls::watch(WATCH);
    let until = now.saturating_add(WATCH);
    let (answering, silent) = loops_from(Offset::default(), None);
    let mut answer = Answer {
        token,
        requests: Vec::new(),
        dropped: 0,
        blocked: silent.iter().map(|one| one.handle.id()).collect(),
    };
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    // Each loop gets its share: the others' requests would wait for a loop that always has more.
    let share = (limit / answering.len().max(1)).max(1);
    for one in &answering {
        let id = one.handle.id();
        let mut left = share;
        while left != 0 {
            let (wanted, max) = (wanted.clone(), left.min(AT_ONCE));
            let asked = ask(&one.handle, move || {
                calls::trace(token, &wanted, until, max)
            });
            let Ok((some, dropped)) = asked else {
                answer.blocked.push(id);
                break;
            };
            answer.dropped += dropped;
            let lines = some.iter().map(|call| CallLine::ended(id, call));
            answer.requests.extend(lines);
            if some.len() < max {
                break;
            }
            left -= some.len();
        }
    }
    let key = |line: &CallLine| line.at_seconds.unwrap_or_default();
    let requests = &mut answer.requests;
    requests.sort_by(|a, b| key(a).total_cmp(&key(b)));
    Ok(answer)
}
